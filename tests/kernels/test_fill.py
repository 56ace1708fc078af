"""Holes of a mesh: against all distances by numpy and against photutils; tilings; rims of wide holes."""

from __future__ import annotations

import numpy as np
import pytest
from photutils.utils import ShepardIDWInterpolator

from tests.kernels import oracles
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.mesh import fill as module
from tiledsky.kernels.mesh.fill import fill, fill_tile
from tiledsky.kernels.mesh.rim import FILL_HALO, Rim, rim_of

HALO = (FILL_HALO, FILL_HALO)


def _mesh(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    mesh = rng.normal(100.0, 3.0, shape)
    y, x = np.indices(shape)
    blank = {
        "scattered": rng.random(shape) < 0.4,
        "sparse": rng.random(shape) < 0.985,
        "hole": np.hypot(y - shape[0] / 2, x - shape[1] / 2) < 0.47 * min(shape),
        "corner": (y >= 12) | (x >= 9),
        "far corner": (y < shape[0] - 7) | (x < shape[1] - 33),
        "one box": (y != 3) | (x != shape[1] - 2),
        "two clusters": ((y > 1) | (x > 1)) & ((y < shape[0] - 2) | (x < shape[1] - 2)),
        "frame": (y > 0) & (x > 0) & (y < shape[0] - 1) & (x < shape[1] - 1),
        "lines": x % 75 > 0,
    }[kind]
    mesh[blank] = np.nan
    return mesh


def _tiles(shape, size):
    grid = TileGrid(shape, (size, size))
    return [grid.region(index) for index in grid]


def _in_tiles(mesh, size, halo=HALO):
    """Filled tile by tile, from windows and a rim that went through bytes."""
    shape = mesh.shape
    rims = []
    for inner in _tiles(shape, size):
        outer = inner.grown(HALO, shape)
        rims.append(Rim.from_bytes(rim_of(mesh[outer.slices], inner, outer, shape).to_bytes()))
    rim = Rim.merged(rims[::-1])
    filled = np.empty_like(mesh)
    for inner in _tiles(shape, size):
        outer = inner.grown(halo, shape)
        filled[inner.slices] = fill_tile(mesh[outer.slices].copy(), inner, outer, shape, rim)
    return filled, rim


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2), (31, 33), (64, 90)])
@pytest.mark.parametrize("kind", ["scattered", "sparse", "hole", "corner", "one box", "two clusters", "frame"])
def test_fills_as_all_distances_say(shape, kind):
    mesh = _mesh(shape, kind)
    if np.isnan(mesh).all():
        mesh[-1, -1] = 7.0
    before = mesh.copy()
    filled = fill(mesh)
    np.testing.assert_array_equal(mesh, before)
    np.testing.assert_array_equal(filled[~np.isnan(mesh)], mesh[~np.isnan(mesh)])
    np.testing.assert_allclose(filled, oracles.filled(mesh), rtol=1e-14)
    for size in (32, 64):
        np.testing.assert_array_equal(_in_tiles(mesh, size)[0], filled)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("scattered", (130, 99)),
        ("hole", (390, 364)),  # wider than ten tiles of 32
        ("corner", (330, 215)),
        ("far corner", (215, 330)),
        ("one box", (97, 300)),
        ("two clusters", (300, 200)),
        ("frame", (201, 230)),
        ("lines", (150, 240)),
        ("sparse", (210, 190)),
    ],
)
def test_a_wide_hole_has_the_same_bits_for_any_tiling(kind, shape):
    mesh = _mesh(shape, kind)
    whole = fill(mesh)
    for size in (32, 64, 96, 1000):
        filled, rim = _in_tiles(mesh, size)
        np.testing.assert_array_equal(filled, whole)
    good = ~np.isnan(mesh)
    assert good[rim.rows, rim.columns].all()
    np.testing.assert_array_equal(rim.values, mesh[rim.rows, rim.columns])
    assert (rim.rows.size == 0) == (kind == "scattered")
    # all distances, of cells of every kind: deep, near the edge of the hole, at the mesh's edge
    some = np.isnan(mesh) & (np.random.default_rng(1).random(shape) < 600 / mesh.size)
    np.testing.assert_allclose(whole[some], oracles.filled(mesh, where=some)[some], rtol=1e-13)


def test_the_rim_follows_the_edge_of_a_hole_and_not_the_mesh():
    mesh = np.random.default_rng(0).normal(size=(400, 500))
    mesh[100:300, 150:350] = np.nan
    _, rim = _in_tiles(mesh, 64)
    far = np.maximum(np.maximum(100 - rim.rows, rim.rows - 299), np.maximum(150 - rim.columns, rim.columns - 349))
    assert far.max() <= 3
    assert 400 < rim.rows.size < 3 * 800
    mesh[np.random.default_rng(1).random(mesh.shape) < 0.03] = 1.0
    assert _in_tiles(mesh, 64)[1].rows.size == 0


def test_shallow_and_deep_holes_go_two_ways_to_the_same_bits(monkeypatch):
    mesh = _mesh((70, 90), "scattered").astype(np.float32)
    mesh[20:50, 30:70] = np.nan
    both = fill(mesh)
    monkeypatch.setattr(module, "_OFFSETS", np.zeros((3, 0), np.int64))
    np.testing.assert_array_equal(fill(mesh), both)


def test_in_place_what_is_filled_stays_a_hole():
    mesh = _mesh((150, 140), "scattered")
    mesh[10:120, 20:100] = np.nan
    before = mesh.copy()
    filled = fill(mesh)
    np.testing.assert_array_equal(mesh, before)
    assert fill(mesh, overwrite=True) is mesh
    np.testing.assert_array_equal(mesh, filled)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_photutils_where_nothing_ties(dtype):
    mesh = _mesh((40, 50), "scattered").astype(dtype)
    mesh[5:30, 10:40] = np.nan
    hole, tied = np.isnan(mesh), oracles.tied(mesh)
    tree = ShepardIDWInterpolator(np.argwhere(~hole), mesh[~hole])
    theirs = tree(np.argwhere(hole), n_neighbors=10, power=1.0, regularization=0.0)
    filled = fill(mesh)
    assert filled.dtype == dtype
    sure = ~tied[hole]
    assert np.count_nonzero(sure) > 200
    np.testing.assert_allclose(filled[hole][sure], theirs[sure], rtol=1e-14 if dtype == np.float64 else 2e-7)
    assert np.abs(filled[hole] - theirs)[~sure].max() > 1e-3


def test_boxes_that_tie_share_the_last_places():
    mesh = np.full((5, 5), np.nan)
    mesh[1:4, 1:4] = 1.0
    mesh[2, 2] = np.nan
    mesh[::4, ::4] = [[2.0, 3.0], [4.0, 9.0]]  # four at sqrt(8), for two places
    near = 4 + 4 / np.sqrt(2)
    assert fill(mesh)[2, 2] == pytest.approx((near + 2 / np.sqrt(8) * 4.5) / (near + 2 / np.sqrt(8)), rel=1e-15)


def test_refuses():
    with pytest.raises(ParameterError, match="all 6 boxes of the mesh are NaN"):
        fill(np.full((2, 3), np.nan))
    mesh = _mesh((200, 300), "corner")
    inner, outer = Region(199, 200, 299, 300), Region(135, 200, 235, 300)
    with pytest.raises(ParameterError, match="all 60000 boxes of the mesh are NaN"):
        fill_tile(mesh[outer.slices], inner, outer, mesh.shape, Rim.merged([]))
    inner, outer = Region(64, 96, 0, 32), Region(0, 160, 0, 96)
    with pytest.raises(ParameterError, match="pass the merged rim of all tiles"):
        fill_tile(mesh[outer.slices], inner, outer, mesh.shape, Rim.merged([]))
    with pytest.raises(ParameterError, match="are not the 64 x 64 around"):
        rim_of(mesh[1:160, :96], inner, Region(1, 160, 0, 96), mesh.shape)
    with pytest.raises(ParameterError, match="are not the 64 x 64 around"):
        fill_tile(mesh[:160, :95], inner, Region(0, 160, 0, 95), mesh.shape, Rim.merged([]))


def test_bytes_of_a_rim_are_checked():
    data = Rim(np.int32([1, 2]), np.int32([5, 6]), np.array([0.5, -2.0])).to_bytes()
    with pytest.raises(InputError, match="are not a Rim"):
        Rim.from_bytes(b"x" + data)
    with pytest.raises(InputError, match="should have 48 by its header"):
        Rim.from_bytes(data[:-1])
    with pytest.raises(InputError, match="without a place or a value"):
        Rim.from_bytes(data[:16] + b"\xff" * 4 + data[20:])
