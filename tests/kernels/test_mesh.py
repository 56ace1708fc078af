"""Mesh steps against photutils' Background2D and scipy.ndimage; pixels of the spline for any region."""

from __future__ import annotations

import numpy as np
import pytest
from photutils.background import MedianBackground, StdBackgroundRMS
from scipy import ndimage

from tests.arrays.background_cases import theirs
from tests.kernels import oracles
from tiledsky.arrays.photutils_objects import INCLUSIVE
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.mesh.fill import fill
from tiledsky.kernels.mesh.mesh import (
    exclude,
    median_filter,
    region_cells,
    spline_coefficients,
    spline_evaluate,
    spline_window,
)
from tiledsky.kernels.mesh.prefilter import SPLINE_HALO, cubic_coefficients

DTYPES = [np.float32, np.float64]
BOXES = [(6, 6), (10, 10), (7, 11)]


def _mesh(shape, holes=0.0, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    mesh = rng.normal(100.0, 3.0, size=shape).astype(dtype)
    mesh[rng.random(shape) < holes] = np.nan
    return mesh


def _generic(mesh, size):
    with np.errstate(all="ignore"):
        return ndimage.generic_filter(mesh, _nanmedian, size=size, mode="constant", cval=np.nan)


def _nanmedian(values):
    return np.nan if np.isnan(values).all() else np.nanmedian(values)


def _background2d(data, box, **options):
    return theirs(
        data,
        box,
        sigma_clip=None,
        bkg_estimator=MedianBackground(sigma_clip=None),
        bkg_rms_estimator=StdBackgroundRMS(sigma_clip=None),
        **options,
    )


def _raw_boxes(data, mask, box):
    """Box medians, standard deviations and numbers of good pixels, partial boxes included; numpy only."""
    data = np.where(mask, np.nan, data)
    rows, columns = range(0, data.shape[0], box[0]), range(0, data.shape[1], box[1])
    shape = (len(rows), len(columns))
    background, rms = np.full(shape, np.nan, data.dtype), np.full(shape, np.nan, data.dtype)
    n_good = np.zeros(shape, np.int64)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            part = data[y : y + box[0], x : x + box[1]]
            part = part[~np.isnan(part)]
            n_good[i, j] = part.size
            if part.size:
                background[i, j], rms[i, j] = np.median(part), np.std(part)
    return background, rms, n_good


def _masked_scene(dtype=np.float32):
    rng = np.random.default_rng(7)
    data = rng.normal(50.0, 2.0, size=(97, 123)).astype(dtype)
    mask = rng.random(data.shape) < np.linspace(0, 0.9, 123)
    mask[20:55, 30:70] = True
    return data, mask


@pytest.mark.parametrize("percentile", [10.0, 50.0, 90.0, 100.0])
@pytest.mark.parametrize("box", BOXES)
def test_exclude_and_fill_leave_the_mesh_of_photutils(box, percentile):
    """Excluded, filled and filtered meshes: bit for bit, holes of any size and partial boxes included."""
    data, mask = _masked_scene()
    options = {"exclude_percentile": percentile, "mask": mask}
    background, _, n_good = raw = _raw_boxes(data, mask, box)
    background, _rms = exclude(*raw, box_npixels=box[0] * box[1], exclude_percentile=percentile, inclusive=INCLUSIVE)
    assert np.isnan(background).any()
    plain = _background2d(data, box, filter_size=1, **options)
    np.testing.assert_array_equal(plain.n_pixels_mesh, n_good)
    np.testing.assert_array_equal(plain.background_mesh, fill(background))
    filtered = _background2d(data, box, filter_size=(3, 5), **options)
    np.testing.assert_array_equal(filtered.background_mesh, median_filter(fill(background), size=(3, 5)))


def test_exclude_boundary_is_not_good_enough():
    """At 90 percent a box of 100 pixels needs more than (1 - 0.9) * 100 pixels, which is 9.999... in float64."""
    n_good = np.array([[0, 9, 10, 11, 50]])
    background, rms = np.ones((1, 5), np.float32), np.full((1, 5), 2.0, np.float32)
    kept = exclude(background, rms, n_good, box_npixels=100, exclude_percentile=90)
    np.testing.assert_array_equal(kept[0], [[np.nan, np.nan, 1, 1, 1]])
    np.testing.assert_array_equal(kept[1], [[np.nan, np.nan, 2, 2, 2]])
    half = exclude(background, rms, n_good, box_npixels=100, exclude_percentile=50)[0]
    assert np.isnan(half).all()  # 50 <= 50
    everything = exclude(background, rms, n_good, box_npixels=100, exclude_percentile=100)[0]
    np.testing.assert_array_equal(np.isnan(everything), n_good == 0)
    assert np.isnan(exclude(background, rms, np.full((1, 5), 100), box_npixels=100, exclude_percentile=0)[0]).all()
    assert not np.isnan(background).any()
    assert kept[0].dtype == np.float32


def test_exclude_refuses():
    ones = np.ones((2, 2))
    with pytest.raises(ParameterError, match="exclude_percentile 101 is not a percentage"):
        exclude(ones, ones, ones, box_npixels=4, exclude_percentile=101)
    with pytest.raises(ParameterError, match="differ in shape"):
        exclude(ones, ones, np.ones((2, 3)), box_npixels=4, exclude_percentile=10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(3, 3), (5, 5), (1, 3), (7, 3)])
@pytest.mark.parametrize("shape", [(17, 23), (1, 9), (6, 1), (2, 2)])
@pytest.mark.parametrize("holes", [0.0, 0.6])
def test_median_filter_equals_generic_filter(shape, size, dtype, holes):
    mesh = _mesh(shape, holes, dtype)
    filtered = median_filter(mesh, size=size)
    assert filtered.dtype == dtype
    np.testing.assert_array_equal(filtered, _generic(mesh, size))


@pytest.mark.parametrize("threshold", [40.0, 49.9, 50.2, 99.0])
def test_filter_threshold_of_photutils(threshold):
    """Below every box, between, above every box; the background decides for the rms as well."""
    data, mask = _masked_scene()
    box = (10, 10)
    background, rms = exclude(*_raw_boxes(data, mask, box), box_npixels=100, exclude_percentile=60, inclusive=INCLUSIVE)
    reference = _background2d(data, box, mask=mask, exclude_percentile=60, filter_threshold=threshold)
    background = fill(background)
    ours = median_filter(background, threshold=threshold)
    np.testing.assert_array_equal(ours, reference.background_mesh)
    theirs_rms = _background2d(data, box, mask=mask, exclude_percentile=60, filter_size=1).background_rms_mesh
    np.testing.assert_allclose(fill(rms), theirs_rms, rtol=1e-6)
    np.testing.assert_array_equal(
        median_filter(theirs_rms, threshold=threshold, reference=background), reference.background_rms_mesh
    )
    assert (ours != background).any() == (threshold < 99)


def test_median_filter_of_one_box_copies():
    mesh = _mesh((4, 5), 0.3)
    filtered = median_filter(mesh, size=(1, 1), threshold=0.0)
    np.testing.assert_array_equal(filtered, mesh)
    assert filtered is not mesh


def test_median_filter_refuses():
    with pytest.raises(ParameterError, match=r"size \(3, 4\) has no centre box"):
        median_filter(np.ones((5, 5)), size=(3, 4))
    with pytest.raises(ParameterError, match=r"reference .* differ in shape"):
        median_filter(np.ones((5, 5)), threshold=0.0, reference=np.ones((5, 4)))


def _zoom(mesh, box):
    """SciPy's zoom of the mesh drawn out by its mirror images, and cut: before 1.18 it is wrong for a few boxes."""
    larger, (y, x) = oracles.drawn_out(mesh)
    pixels = ndimage.zoom(larger, box, order=3, mode="reflect", grid_mode=True)
    return pixels[y * box[0] :, x * box[1] :][: mesh.shape[0] * box[0], : mesh.shape[1] * box[1]]


@pytest.mark.parametrize("box", [*BOXES, (50, 1), (1, 5)])
@pytest.mark.parametrize("shape", [(9, 12), (1, 9), (8, 1), (1, 1), (2, 3), (3, 2), (4, 4)])
def test_spline_equals_zoom(shape, box):
    mesh = _mesh(shape)
    region = (0, shape[0] * box[0], 0, shape[1] * box[1])
    expected = _zoom(mesh, box)
    got = spline_evaluate(spline_coefficients(mesh), box, region, dtype=np.float64)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)  # of values near 100, rms 3


@pytest.mark.parametrize("box", [(6, 6), (7, 11), (50, 50)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_spline_equals_the_background_of_photutils(box, dtype):
    """Cut to an image with partial boxes, and clipped to the range of the mesh."""
    data = np.random.default_rng(4).normal(1000.0, 5.0, size=(333, 401)).astype(dtype)
    reference = _background2d(data, box, filter_size=3)
    mesh = reference.background_mesh
    got = spline_evaluate(
        spline_coefficients(mesh), box, (0, 333, 0, 401), vmin=mesh.min(), vmax=mesh.max(), dtype=dtype
    )
    assert got.dtype == mesh.dtype == dtype
    step = np.spacing(np.float32(1000)) if dtype == np.float32 else 1e-10  # float32: the last bit may round apart
    assert np.abs(got - reference.background).max() <= step
    assert step < 1e-5 * reference.background_rms_median * (1 if dtype == np.float64 else 2)
    assert np.mean(got != reference.background) < 1e-5 or dtype == np.float64
    assert got.min() == mesh.min()
    assert got.max() == mesh.max()


def _tiles(shape, size):
    return [Region(*TileGrid(shape, (size, size)).region(index)) for index in TileGrid(shape, (size, size))]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (33, 31), (65, 130), (32, 97), (700, 3), (3, 700)])
def test_coefficients_have_the_same_bits_for_any_tiling(shape):
    mesh = _mesh(shape) + 2e4
    whole = spline_coefficients(mesh)
    larger, (y, x) = oracles.drawn_out(mesh - 2e4)
    expected = ndimage.spline_filter(larger, order=3, mode="reflect")[y:, x:][: shape[0], : shape[1]]
    np.testing.assert_allclose(spline_coefficients(mesh - 2e4), expected, rtol=1e-14)
    for size in (32, 64, 96):
        for inner in _tiles(shape, size):
            outer = inner.grown((SPLINE_HALO, SPLINE_HALO), shape)
            part = cubic_coefficients(mesh[outer.slices], inner, outer, shape)
            np.testing.assert_array_equal(part, whole[inner.slices])


def test_coefficients_reach_as_far_as_the_halo_and_no_farther():
    mesh = np.zeros((100, 1))
    mesh[50] = 1.0
    reached = np.flatnonzero(spline_coefficients(mesh)[:, 0])
    assert (reached[0], reached[-1]) == (50 - SPLINE_HALO, 50 + SPLINE_HALO)
    with pytest.raises(ParameterError, match="are not the 31 x 31 around"):
        cubic_coefficients(mesh[20:], Region(50, 60, 0, 1), Region(20, 100, 0, 1), (100, 1))


def test_a_constant_is_its_own_spline_to_the_last_bit():
    for shape in [(1, 1), (1, 2), (3, 3), (70, 40)]:
        np.testing.assert_array_equal(spline_coefficients(np.full(shape, 20000.1)), 20000.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 7), (5, 4), (300, 3)])
def test_a_level_comes_out_of_the_spline_and_nothing_else(shape):
    mesh = _mesh(shape) - 100.0
    change = spline_coefficients(mesh + 2.0**20) - 2.0**20 - spline_coefficients(mesh)
    np.testing.assert_allclose(change, 0.0, rtol=0, atol=8 * np.spacing(2.0**20))
    np.testing.assert_allclose(spline_coefficients(np.full(shape, 1e6)), 1e6, rtol=1e-15)


def test_constant_mesh_gives_its_value_exactly():
    mesh = np.full((7, 9), 0.1)
    sky = spline_evaluate(spline_coefficients(mesh), (10, 10), (0, 70, 0, 90), vmin=0.1, vmax=0.1, dtype=np.float64)
    np.testing.assert_array_equal(sky, 0.1)


@pytest.mark.parametrize("box", BOXES)
def test_same_bits_for_any_region_and_its_window(box):
    mesh = _mesh((70, 60))
    coefficients = spline_coefficients(mesh)
    y1, x1 = 70 * box[0], 60 * box[1]
    limits = {"vmin": mesh.min(), "vmax": mesh.max(), "dtype": np.float64}
    whole = spline_evaluate(coefficients, box, (0, y1, 0, x1), **limits)
    for region in [(0, 1, 0, 1), (y1 - 1, y1, 0, x1), (3, 61, 17, 250), (100, 107, x1 - 60, x1), (31, 33, 5, 6)]:
        i0, i1, j0, j1 = spline_window(region, box, mesh.shape)
        part = spline_evaluate(
            coefficients[i0:i1, j0:j1], box, region, origin=(i0, j0), mesh_shape=mesh.shape, **limits
        )
        np.testing.assert_array_equal(part, whole[region[0] : region[1], region[2] : region[3]])


@pytest.mark.parametrize("box", [(6, 6), (7, 11)])
def test_window_is_no_larger_than_needed(box):
    """Each row and column of the window carries weight: changing it changes pixels; leaving it out is refused."""
    mesh = _mesh((20, 20))
    coefficients = spline_coefficients(mesh)
    region = (40, 62, 50, 84)
    i0, i1, j0, j1 = spline_window(region, box, mesh.shape)
    pixels = spline_evaluate(coefficients, box, region, dtype=np.float64)
    for edge in (np.s_[i0], np.s_[i1 - 1], np.s_[:, j0], np.s_[:, j1 - 1]):
        changed = coefficients.copy()
        changed[edge] += 100.0
        assert (spline_evaluate(changed, box, region, dtype=np.float64) != pixels).any()
    outside = np.full_like(coefficients, np.nan)
    outside[i0:i1, j0:j1] = coefficients[i0:i1, j0:j1]
    np.testing.assert_array_equal(spline_evaluate(outside, box, region, dtype=np.float64), pixels)
    for a, b, c, d in ((i0 + 1, i1, j0, j1), (i0, i1 - 1, j0, j1), (i0, i1, j0 + 1, j1), (i0, i1, j0, j1 - 1)):
        with pytest.raises(ParameterError, match="do not hold the boxes"):
            spline_evaluate(coefficients[a:b, c:d], box, region, origin=(a, c), mesh_shape=mesh.shape)


def test_spline_refuses():
    mesh = np.ones((5, 5))
    with pytest.raises(ParameterError, match="is empty or outside the 50 x 50 pixels"):
        spline_evaluate(mesh, (10, 10), (0, 51, 0, 10))
    with pytest.raises(ParameterError, match="dtype float16 would round"):
        spline_evaluate(mesh, (10, 10), (0, 50, 0, 10), dtype=np.float16)
    with pytest.raises(ParameterError, match=r"box_size \(0, 10\) holds no pixel"):
        region_cells((0, 5, 0, 5), (0, 10), (5, 5))
    mesh[2, 2] = np.nan
    with pytest.raises(InputError, match="1 boxes of the mesh are NaN or infinite"):
        spline_coefficients(mesh)


def test_region_cells_hold_the_region():
    assert region_cells((0, 10, 0, 1), (10, 10), (5, 5)) == (0, 1, 0, 1)
    assert region_cells((9, 11, 20, 50), (10, 10), (5, 5)) == (0, 2, 2, 5)
