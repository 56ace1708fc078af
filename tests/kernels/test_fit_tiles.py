"""A mesh that is fitted in tiles: the same bits for any tiling, with the halos that are stated and none more."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.fit.local_polynomial import fit_model
from tiledsky.kernels.fit.nodes import Kernel
from tiledsky.kernels.fit.sums import BoxSums, ExactSums, normal_sums
from tiledsky.kernels.fit.whole import fit_of, robust_of, weights_of
from tiledsky.kernels.fit.windows import Window

TILES = ((32, 32), (64, 32), (96, 160))


def boxes_of(shape, *, seed=1, share=0.3):
    """Statistics of boxes: values that bend on two scales, noise that differs, boxes that are left out."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    rms = (0.1 * (1.0 + 0.5 * np.sin(x / 40.0)) * rng.uniform(0.9, 1.1, shape)).astype(np.float32)
    usable = rng.random(shape) > share
    usable[shape[0] // 3 : shape[0] // 2, : shape[1] // 3] = False
    usable[0, 0] = True
    n_good = np.where(usable, rng.integers(18, 37, shape), 0)
    values = np.sin(y / 30.0) + 0.3 * np.sin(x / 4.0) * (x < 50) + rms / 6 * rng.normal(size=shape)
    return np.where(usable, values, np.nan).astype(np.float32), rms, n_good, usable


def made_of(boxes, *, order=4, robust=20.0, bandwidth=None, box=(6, 6), **options):
    """All maps of a fit, and its weights."""
    values, rms, n_good, usable = boxes
    weight = weights_of(n_good, rms, usable, pixels=36, **options)
    fitted = robust_of(values, weight, box_size=box, bandwidth=robust, **options) if robust else weight
    model = fit_model(values.shape, box, order=order, bandwidth=bandwidth)
    made = fit_of(values, weight, fitted=fitted, box_size=box, model=model, shared=1.2, **options)
    return {"weight": weight, "fitted": fitted, **{f.name: getattr(made, f.name) for f in fields(made)}}


def same(boxes, tiles=TILES, **options):
    """What a mesh in one tile has, which tiles have too."""
    whole = made_of(boxes, tile=(4096, 4096), **options)
    for tile in tiles:
        for name, cells in made_of(boxes, tile=tile, **options).items():
            np.testing.assert_array_equal(cells, whole[name], err_msg=f"{name}, {tile}")
    return whole


@pytest.mark.parametrize("shape", [(181, 230), (33, 260)])
def test_tiles_have_the_bits_of_the_whole(shape):
    whole = same(boxes_of(shape))
    assert np.unique(whole["bandwidth"]).size > 10
    assert (whole["fitted"] < whole["weight"]).any()
    assert all(np.isfinite(cells).all() for cells in whole.values())


@pytest.mark.parametrize(
    "options",
    [
        {"order": 2, "robust": 0.0},
        {"order": 1, "bandwidth": 35.0, "robust": 40.0},
        {"order": 0, "box": (4, 9)},
        {"order": 3, "bandwidth": 4000.0},
    ],
)
def test_other_models(options):
    same(boxes_of((100, 97), seed=2), **options)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (2, 2), (3, 40), (5, 3), (65, 2), (33, 33)])
def test_small_meshes(shape):
    whole = same(boxes_of(shape, seed=3, share=0.1), tiles=TILES[:1])
    assert np.isfinite(whole["background"]).all()


@pytest.mark.parametrize("bandwidth", [None, 12.0])
def test_one_box_alone_is_the_sky_of_all(bandwidth):
    values, rms, n_good, usable = boxes_of((70, 40), seed=4)
    usable = np.zeros(usable.shape, bool)
    usable[66, 33] = True
    values[66, 33], n_good[66, 33] = 3.7, 30
    whole = same((values, rms, n_good, usable), tiles=TILES[:1], bandwidth=bandwidth)
    assert (whole["background"] == np.float32(3.7)).all()
    assert np.isnan(whole["error"]).all()


def test_a_constant_is_found_without_error():
    values, rms, n_good, usable = boxes_of((70, 40), seed=5)
    whole = same((np.full_like(values, 3.7), rms, n_good, usable), tiles=TILES[:1])
    assert (whole["background"] == np.float32(3.7)).all()
    assert (whole["error"] == 0).all()


def test_boxes_in_one_corner_are_the_sky_of_all():
    """Nothing is in reach of most tiles but the polynomials of the whole mesh."""
    values, rms, n_good, usable = boxes_of((300, 200), seed=6)
    usable[40:] = usable[:, 40:] = False
    whole = same((values, rms, n_good, usable), tiles=TILES[1:2])
    assert np.isfinite(whole["background"]).all()
    narrow = same((values, rms, n_good, usable), tiles=TILES[1:2], bandwidth=18.0, order=2)
    far = narrow["background"][200:, 100:]
    assert (far == far[0, 0]).all()  # one value of the whole mesh
    mean = np.average(values[usable], weights=narrow["fitted"][usable])
    assert far[0, 0] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("bandwidth", "degree"), [((2.0, 3.0), 2), ((6.0, 8.0), 1), ((30.0, 25.0), 0)])
def test_fits_need_their_halo(bandwidth, degree):
    kernel, shape = Kernel(bandwidth, degree), (400, 420)
    values, weight = (np.random.default_rng(k).uniform(0.5, 1.0, shape) for k in (7, 8))
    tile, numbers = Region(384, 400, 192, 224), {"shape": shape, "center": 0.7, "typical": 0.7, "unit": True}
    whole = kernel.fits(tile, *(Window(a, Region.whole(shape)) for a in (values, weight)), **numbers)
    near = kernel.fits(tile, *(Window.about(a, tile, kernel.halo) for a in (values, weight)), **numbers)
    for field in fields(near):
        np.testing.assert_array_equal(getattr(near, field.name), getattr(whole, field.name))
    less = kernel.halo[0] - 1 if kernel.step == 1 else kernel.halo[0] - 3 * kernel.step - 1
    with pytest.raises(ValueError, match="its halo is too small"):
        kernel.fits(tile, *(Window.about(a, tile, (less, kernel.halo[1])) for a in (values, weight)), **numbers)


def test_sums_are_those_of_numpy_and_merge_in_any_order():
    values, rms, n_good, usable = boxes_of((150, 130), seed=9)
    weight = weights_of(n_good, rms, usable, pixels=36)
    regions = [TileGrid(weight.shape, (64, 32)).region(i) for i in TileGrid(weight.shape, (64, 32))]
    parts = [BoxSums.of(values[r.slices], weight[r.slices]) for r in regions]
    one = BoxSums.of(values, weight)
    packed = [BoxSums.from_bytes(part.to_bytes()) for part in parts[::-1]]
    merged = BoxSums.merged([BoxSums.merged(packed[:3]), *packed[3:]])
    assert merged.to_bytes() == one.to_bytes()
    numbers = merged.numbers()
    known, w = values[usable].astype(float), weight[usable].astype(float)
    assert merged.number == usable.sum()
    assert numbers.center == pytest.approx(np.average(known, weights=w), rel=1e-12)
    assert numbers.typical == pytest.approx(np.median(w), rel=2**-12)
    assert numbers.floor == pytest.approx((1e-12 * abs(known - numbers.center).max()) ** 2, rel=1e-9)

    def normal(region):
        boxes = (Window(part, Region.whole(weight.shape)) for part in (values, weight))
        return normal_sums(region, *boxes, shape=weight.shape, center=numbers.center)

    whole = normal(Region.whole(weight.shape))
    tiles = [ExactSums.from_list(normal(r).to_list()) for r in regions[::-1]]
    assert ExactSums.merged(tiles) == whole
    y, x = (np.linspace(-1, 1, n) for n in weight.shape)
    v, u = y[:, None], x[None, :]
    basis = [1 + 0 * v * u, v + 0 * u, u + 0 * v, v**2 + 0 * u, v * u, u**2 + 0 * v]
    expected = [np.sum(weight * basis[i] * basis[j]) for i in range(6) for j in range(i + 1)]
    filled = np.where(usable, values - numbers.center, 0.0)
    expected += [np.sum(weight * filled * one) for one in basis]
    np.testing.assert_allclose([float(t) for t in whole.totals], expected, rtol=1e-9, atol=1e-4)
