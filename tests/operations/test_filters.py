"""Builders of filters against scipy and astropy on whole images; the same bits in any chunks; what they refuse."""

import warnings
from functools import partial

import dask.array as da
import numpy as np
import pytest
from astropy.convolution import Gaussian2DKernel, Ring2DKernel, convolve
from astropy.utils.exceptions import AstropyUserWarning
from dask import delayed
from scipy import ndimage

from tests import reference_chain
from tiledsky.containers import float_dtype
from tiledsky.errors import ParameterError, PlanError
from tiledsky.geometry import Region
from tiledsky.operations import filters
from tiledsky.operations.filters import FWHM_PER_SIGMA, ring_median, smooth, taps_of
from tiledsky.overlap import Patch, map_patches
from tiledsky.recipe import RingStep
from tiledsky.testing import assert_tile_invariant


def _image(shape=(70, 83), dtype=np.float32):
    rng = np.random.default_rng(3)
    image = rng.normal(100, 10, shape)
    image[10:20, 30:50] += 500
    return image.astype(dtype)


def _holes(shape=(70, 83)):
    holes = np.random.default_rng(4).random(shape) < 0.1
    holes[25:45, :22] = True  # larger than the rings below
    return holes


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2", "u1", "bool"])
@pytest.mark.parametrize(("mode", "scipy_mode"), [("reflect", "reflect"), ("extend", "nearest")])
def test_ring_median_equals_scipy(dtype, mode, scipy_mode):
    image = _image(dtype=dtype)
    footprint = Ring2DKernel(4, 3).array > 0
    expected = ndimage.median_filter(image.astype("f8"), footprint=footprint, mode=scipy_mode)
    result = ring_median(image, radius_in=4, width=3, mode=mode)
    assert result.dtype == np.float32 if dtype != "f8" else np.float64
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("percentile", [0, 20, 75, 100])
def test_percentiles_equal_scipy(percentile):
    footprint = Ring2DKernel(3, 2).array > 0
    expected = ndimage.percentile_filter(_image(), percentile, footprint=footprint)
    assert np.array_equal(ring_median(_image(), radius_in=3, width=2, percentile=percentile), expected)


def test_a_ring_larger_than_the_image_is_mirrored_as_scipy_does():
    image = _image((20, 13))
    expected = ndimage.median_filter(image, footprint=Ring2DKernel(15, 5).array > 0)
    assert np.array_equal(ring_median(image, radius_in=15, width=5), expected)


def test_masked_and_nan_pixels_are_left_out():
    image, holes = _image(), _holes()
    expected = reference_chain.ring_median(image, holes, Ring2DKernel(4, 3).array > 0)
    assert np.isnan(expected).any()
    result = ring_median(image, radius_in=4, width=3, mask=holes)
    assert np.array_equal(result, expected, equal_nan=True)
    with_nan = np.where(holes, np.float32(np.nan), image)
    assert np.array_equal(ring_median(with_nan, radius_in=4, width=3), expected, equal_nan=True)


def test_omit_leaves_out_what_lies_beyond_the_border():
    image, holes = _image(), _holes()
    footprint = Ring2DKernel(4, 3).array > 0
    padded, beyond = np.pad(image, 7), np.pad(holes, 7, constant_values=True)
    for mask, left_out in ((None, np.pad(np.zeros_like(holes), 7, constant_values=True)), (holes, beyond)):
        expected = reference_chain.ring_median(padded, left_out, footprint)[7:-7, 7:-7]
        result = ring_median(image, radius_in=4, width=3, mode="omit", mask=mask)
        assert np.array_equal(result, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2"])
@pytest.mark.parametrize("percentile", [30, 50])
@pytest.mark.parametrize("masked", [False, True])
def test_filled_pixels_count_as_in_scipy(dtype, percentile, masked):
    image, mask = _image(dtype=dtype), _holes() if masked else None
    if image.dtype.kind == "f":
        image[40, 50:60] = np.nan
        image[41:43, 60] = np.inf, -np.inf
    fill = 101.7  # no float32: it is rounded
    pixels = image.astype(float_dtype(dtype))
    left_out = ~np.isfinite(pixels) if mask is None else mask | ~np.isfinite(pixels)
    filled = np.where(left_out, pixels.dtype.type(fill), pixels)
    expected = ndimage.percentile_filter(filled, percentile, footprint=Ring2DKernel(4, 3).array > 0, mode="reflect")
    result = ring_median(image, radius_in=4, width=3, percentile=percentile, mask=mask, fill=fill)
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)
    if masked:
        assert (result[:, :22] == pixels.dtype.type(fill)).any()
        assert not np.array_equal(result, ring_median(image, radius_in=4, width=3, percentile=percentile, mask=mask))


def test_filled_pixels_count_beside_what_is_omitted():
    image, holes = _image(), _holes()
    filled = np.where(holes, np.float32(95), image)
    for mode in ("omit", "extend"):
        expected = ring_median(filled, radius_in=4, width=3, mode=mode)
        assert np.array_equal(ring_median(image, radius_in=4, width=3, mode=mode, mask=holes, fill=95), expected)


def test_the_value_that_fills_may_be_lazy():
    image = _image()
    expected = ring_median(image, radius_in=4, width=3, mask=_holes(), fill=np.median(image), downsample=2)
    for given in (image, da.from_array(image, chunks=33)):
        result = ring_median(given, radius_in=4, width=3, mask=_holes(), fill=delayed(np.median)(image), downsample=2)
        assert isinstance(result, da.Array)
        assert np.array_equal(result.compute(), expected)


def _downsampled_ring(image, left_out, radius_in, width, n, *, percentile=50, fill=None):
    """The approximation on a whole image: means by numpy, the ring and the interpolation by scipy."""
    counted = np.where(left_out | ~np.isfinite(image), np.nan, image.astype("f8"))
    edges = [(0, -size % n) for size in image.shape]
    blocks = np.pad(counted, edges, constant_values=np.nan)
    blocks = blocks.reshape(blocks.shape[0] // n, n, -1, n).swapaxes(1, 2).reshape(blocks.shape[0] // n, -1, n * n)
    count = np.isfinite(blocks).sum(axis=2)
    total = np.nancumsum(blocks, axis=2)[:, :, -1]  # one after the other
    means = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0).astype(image.dtype)
    footprint = Ring2DKernel(radius_in / n, width / n).array > 0
    if fill is not None:
        means = np.where(np.isnan(means), means.dtype.type(fill), means)
    if np.isnan(means).any():
        assert percentile == 50
        ring = reference_chain.ring_median(means, np.isnan(means), footprint)
    else:
        ring = ndimage.percentile_filter(means, percentile, footprint=footprint, mode="reflect")
    places = np.meshgrid(*((np.arange(size) + 0.5) / n - 0.5 for size in image.shape), indexing="ij")
    there = np.isfinite(ring)
    total = ndimage.map_coordinates(np.where(there, ring, 0).astype("f8"), places, order=1, mode="nearest")
    weight = ndimage.map_coordinates(there.astype("f8"), places, order=1, mode="nearest")
    return np.divide(total, weight, out=np.full(image.shape, np.nan), where=weight > 1e-12)


@pytest.mark.parametrize(("radius_in", "width", "n"), [(4, 3, 2), (4, 3, 3), (9, 5, 4), (7.5, 5.5, 5), (0, 8, 8)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_downsampled_rings_equal_numpy_and_scipy(radius_in, width, n, dtype):
    image = _image(dtype=dtype)  # 70 x 83: no multiple of most n
    tolerance = {"rtol": 1e-7 if dtype == "f4" else 1e-13}
    nothing = np.zeros(image.shape, bool)
    for percentile in (50, 20):
        expected = _downsampled_ring(image, nothing, radius_in, width, n, percentile=percentile)
        result = ring_median(image, radius_in=radius_in, width=width, downsample=n, percentile=percentile)
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, **tolerance)
    holes = _holes()
    holes[20:60, :45] = True  # larger than the rings
    image[5, 5:12] = np.nan
    image[16:32, 48:80] = np.inf
    for fill in (None, 96.3):
        expected = _downsampled_ring(image, holes, radius_in, width, n, fill=fill)
        result = ring_median(image, radius_in=radius_in, width=width, downsample=n, mask=holes, fill=fill)
        assert np.isnan(expected).any() == (fill is None)
        np.testing.assert_allclose(result, expected, **tolerance)


@pytest.mark.parametrize("mode", ["extend", "omit"])
def test_edge_rules_hold_on_the_grid_of_blocks(mode):
    image = _image((72, 84))
    means = image.reshape(18, 4, 21, 4).mean(axis=(1, 3), dtype="f8").astype("f4")
    ring = ring_median(means, radius_in=3, width=1.5, mode=mode)
    centres = np.ix_(np.arange(18) * 4 + 1, np.arange(21) * 4 + 1)
    result = ring_median(image, radius_in=12, width=6, mode=mode, downsample=4)
    np.testing.assert_allclose(result[::71, ::83], ring[::17, ::20], rtol=1e-7)
    assert np.all(np.abs(result[centres] - ring) <= np.ptp(ring) / 4)
    others = ring_median(image, radius_in=12, width=6, downsample=4)
    assert not np.array_equal(result, others)
    assert np.array_equal(result[30:42, 30:54], others[30:42, 30:54])


def test_a_downsampled_ring_of_a_tiny_image():
    image = _image((3, 5))
    expected = _downsampled_ring(image, np.zeros(image.shape, bool), 15, 5, 4)
    np.testing.assert_allclose(ring_median(image, radius_in=15, width=5, downsample=4), expected, rtol=1e-7)
    constant = ring_median(np.full((11, 17), np.float32(0.1)), radius_in=15, width=5, downsample=4)
    assert np.all(constant == np.float32(0.1))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["reflect", "extend", "omit"])
def test_downsampled_rings_do_not_depend_on_chunks(n, mode):
    build = partial(ring_median, radius_in=6, width=5, mode=mode, downsample=n)
    image = _image()
    assert_tile_invariant(build, image)
    image[_holes()] = np.nan
    assert_tile_invariant(build, image, mask=_holes() ^ (image > 110))
    assert_tile_invariant(partial(build, fill=99.9), image, mask=_holes() ^ (image > 110))


def test_rings_in_chunks_of_one_pixel():
    image, holes = _image((25, 31)), _holes((25, 31))
    image[3:9, 20:29] = np.nan
    cuts = [(1, 1), (1, 31), (25, 1), ((1, 1, 22, 1), (7, 1, 23))]
    for parameters in ({}, {"downsample": 2}, {"downsample": 3, "fill": 99.9}):
        build = partial(ring_median, radius_in=1, width=3, **parameters)
        assert_tile_invariant(build, image, chunks=cuts, mask=holes)


@pytest.mark.parametrize("dtype", ["f8", ">f4", "i2"])
def test_filled_and_downsampled_rings_of_other_types_do_not_depend_on_chunks(dtype):
    image = _image(dtype=dtype)
    assert_tile_invariant(partial(ring_median, radius_in=3, width=2, fill=99.9), image, mask=_holes())
    assert_tile_invariant(partial(ring_median, radius_in=3, width=4, downsample=3), image, mask=_holes())


def _tile_of_step(image, mask, tile, halo, **parameters):
    """What a task does: read the tile with its halo, filter, keep the tile."""
    read = tile.grown(halo, image.shape)
    patches = (Patch(plane[read.slices].copy(), read, image.shape) for plane in (image, mask))
    return filters.ring_step_patch(*patches, **parameters).crop(tile)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("fill", [None, 97.25])
def test_a_step_needs_its_halo_and_not_a_pixel_less(n, fill):
    """Tiles of one pixel at each place in a block; which of them need the whole halo follows from the centres."""
    step = RingStep(radius_in=9, width=8, downsample=n)
    halo = filters.ring_halo(step)
    radius = Ring2DKernel(9 / n, 8 / n).array.shape[0] // 2
    assert halo == ((radius + 1) * n + n // 2 - 1,) * 2
    image, mask = _image((112, 121)), _holes((112, 121))
    whole = ring_median(image, radius_in=9, width=8, downsample=n, mask=mask, fill=fill)
    short = set()
    for place in range(n):
        y, x = 48 + place, 56 // n * n + place
        tile = Region(y // n * n + place, y // n * n + place + 1, x, x + 1)
        expected = whole[tile.slices]
        result = _tile_of_step(image, mask, tile, halo, step=step, fill=fill)
        assert np.array_equal(result, expected, equal_nan=True)
        for less in ((1, 0), (0, 1)):
            try:
                result = _tile_of_step(image, mask, tile, (halo[0] - less[0], halo[1] - less[1]), step=step, fill=fill)
            except PlanError as error:
                assert "halo is short" in str(error)  # noqa: PT017
                short.add((place, less))
            else:
                assert np.array_equal(result, expected, equal_nan=True)
    most = {0} if n == 1 else {n // 2 - 1, (n + 1) // 2}  # the last before the centre and the first behind it
    assert short == {(place, less) for place in most for less in ((1, 0), (0, 1))}


@pytest.mark.parametrize("n", [2, 3])
def test_steps_on_tiles_anywhere(n):
    step = RingStep(radius_in=2, width=3, percentile=40, downsample=n)
    image, mask = _image(), _holes()
    rng = np.random.default_rng(5)
    for fill in (None, 101.0):
        whole = ring_median(image, radius_in=2, width=3, percentile=40, downsample=n, mask=mask, fill=fill)
        for _ in range(50):
            (y0, y1), (x0, x1) = (np.sort(rng.choice(size + 1, 2, replace=False)).tolist() for size in image.shape)
            tile = Region(y0, y1, x0, x1)
            result = _tile_of_step(image, mask, tile, filters.ring_halo(step), step=step, fill=fill)
            assert np.array_equal(result, whole[tile.slices], equal_nan=True)


@pytest.mark.parametrize("cut", [(70, (30, 53)), ((2, 20, 48), 83), ((30, 1, 39), (41, 1, 1, 40)), (10, 12)])
def test_a_downsampled_ring_with_one_pixel_less_halo_is_refused(cut, monkeypatch):
    """With n = 2 it tells where a tile starts at an even pixel, the last before a centre."""

    def short(func, *arrays, halo, **kwargs):
        return map_patches(func, *arrays, halo=(halo[0] - 1, halo[1] - 1), **kwargs)

    build = partial(ring_median, radius_in=4, width=2, downsample=2)
    assert_tile_invariant(build, _image(), chunks=[cut])
    monkeypatch.setattr(filters, "map_patches", short)
    with pytest.raises(PlanError, match="halo is short"):
        build(da.from_array(_image(), chunks=cut)).compute(scheduler="synchronous")


def test_a_patch_without_a_whole_block_is_refused():
    patch = Patch(np.zeros((6, 30), "f4"), Region(9, 15, 0, 30), (64, 64))
    with pytest.raises(PlanError, match="too little for one pixel"):
        filters.ring_step_patch(patch, None, step=RingStep(radius_in=0, width=8, downsample=8), fill=None)


@pytest.mark.parametrize(("boundary", "fill"), [("extend", None), ("fill", 0.0)])
@pytest.mark.parametrize("masked", [False, True])
def test_smoothing_equals_astropy(boundary, fill, masked):
    image, mask = _image(), _holes() if masked else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # the hole is larger than the kernel
        expected = convolve(
            image.astype(float), Gaussian2DKernel(2), boundary=boundary, fill_value=fill or 0, mask=mask
        )
    result = smooth(image, sigma=2, boundary=boundary, mask=mask)
    assert result.dtype == np.float32
    assert np.array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * image.std())


def test_fwhm_and_sigma_are_one_gaussian():
    image = _image(dtype=float)
    assert np.array_equal(smooth(image, fwhm=3 * FWHM_PER_SIGMA), smooth(image, sigma=3))
    kernel = Gaussian2DKernel(2 / FWHM_PER_SIGMA, x_size=3, y_size=3)
    kernel.normalize()
    expected = convolve(image, kernel, boundary="extend")
    np.testing.assert_allclose(smooth(image, fwhm=2, kernel_radius=1), expected, rtol=1e-12)
    assert taps_of() is None


@pytest.mark.parametrize("mode", ["reflect", "extend", "omit"])
@pytest.mark.parametrize("percentile", [50, 10])
def test_ring_medians_do_not_depend_on_chunks(mode, percentile):
    build = partial(ring_median, radius_in=6, width=3, mode=mode, percentile=percentile)
    image = _image()
    assert_tile_invariant(build, image)
    image[_holes()] = np.nan
    assert_tile_invariant(build, image, mask=_holes() ^ (image > 110))


@pytest.mark.parametrize("dtype", ["f8", ">f4", "i2"])
def test_ring_medians_of_other_types_do_not_depend_on_chunks(dtype):
    assert_tile_invariant(partial(ring_median, radius_in=3, width=2), _image(dtype=dtype))


@pytest.mark.parametrize("boundary", ["extend", "fill"])
@pytest.mark.parametrize("width", [{"sigma": 2.5}, {"fwhm": 3, "kernel_radius": 1}])
def test_smoothing_does_not_depend_on_chunks(boundary, width):
    build = partial(smooth, boundary=boundary, **width)
    assert_tile_invariant(build, _image())
    assert_tile_invariant(build, _image(dtype=">f8"))
    image = _image()
    image[_holes()] = np.nan
    assert_tile_invariant(build, image, mask=_holes())


def test_masks_may_be_numpy_beside_a_dask_image():
    image = da.from_array(_image(), chunks=30)
    result = ring_median(image, radius_in=4, width=3, mask=_holes())
    assert result.chunks == image.chunks
    assert np.array_equal(result.compute(), ring_median(_image(), radius_in=4, width=3, mask=_holes()), equal_nan=True)


def test_lists_are_images():
    assert ring_median([[1, 2], [3, 4]], radius_in=0, width=1).shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ring_median(_image(), radius_in=1, width=1, mode="wrap"), "mode 'wrap'"),
        (lambda: ring_median(_image(), radius_in=-1, width=1), "radius_in -1"),
        (lambda: ring_median(_image(), radius_in=1, width=0), "width 0"),
        (lambda: ring_median(_image(), radius_in=1, width=1, percentile=101), "percentile"),
        (lambda: ring_median(_image(), radius_in=4, width=3, fill=np.nan), "fill nan is not a value"),
        (lambda: ring_median(_image(), radius_in=4, width=3, fill=1e39), r"fill 1e\+39 is not a value of a float32"),
        (lambda: ring_median(_image(), radius_in=4, width=3, downsample=4), "thinner than one block"),
        (lambda: ring_median(_image(), radius_in=4, width=3, downsample=0), "downsample 0 is not a number"),
        (lambda: ring_median(_image(), radius_in=4, width=3, downsample=1.5), r"downsample 1\.5 is not a number"),
        (lambda: ring_median(_image(), radius_in=-4, width=3, downsample=2), "radius_in -4 px"),
        (lambda: ring_median(_image(), radius_in=4, width=-3, downsample=2), "width -3 px"),
        (lambda: smooth(_image()), "set fwhm or sigma"),
        (lambda: smooth(_image(), sigma=1, fwhm=1), "set one of them"),
        (lambda: smooth(_image(), sigma=-1), "sigma -1"),
        (lambda: smooth(_image(), sigma=1, boundary="wrap"), "boundary 'wrap'"),
    ],
)
def test_what_cannot_work_is_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_bad_percentiles_are_refused_before_anything_is_computed():
    with pytest.raises(ParameterError, match="percentile"):
        ring_median(da.from_array(_image(), chunks=30), radius_in=1, width=1, percentile=101)
