"""Smoothing against astropy.convolution, and the bits of a tile against the bits of the whole image."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.convolution import Gaussian2DKernel, convolve
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.filters.smooth import convolve_separable, gaussian_taps

PAD_MODE = {"fill": "constant", "extend": "edge"}


def scene(shape, dtype=np.float32, seed=0):
    """Noise of rms 1 on a slope, with a few bright sources."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(size=shape) + 0.02 * x - 0.01 * y + 5
    for _ in range(10):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        image += 200 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8)
    return image.astype(dtype)


def smooth(image, taps, boundary, mask=None):
    r = len(taps) // 2
    padded_mask = None if mask is None else np.pad(mask, r, mode=PAD_MODE[boundary])
    return convolve_separable(np.pad(image, r, mode=PAD_MODE[boundary]), taps, mask=padded_mask)


def assert_close_to_astropy(image, sigma, boundary, mask=None):
    expected = convolve(image, Gaussian2DKernel(sigma), boundary=boundary, mask=mask)
    result = smooth(image, gaussian_taps(sigma), boundary, mask)
    assert result.dtype == image.dtype
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * np.nanstd(image))


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1, 1.27, 3, 7.3, 25])
def test_taps_are_those_of_astropy(sigma):
    taps = gaussian_taps(sigma)
    kernel = Gaussian2DKernel(sigma)
    kernel.normalize()
    assert np.array_equal(taps, taps[::-1])
    np.testing.assert_allclose(np.outer(taps, taps), kernel.array, rtol=0, atol=1e-15)


def test_taps_with_a_radius_are_those_of_astropy_cut_to_that_size():
    kernel = Gaussian2DKernel(2.0, x_size=7, y_size=7)
    kernel.normalize()
    np.testing.assert_allclose(np.outer(*2 * [gaussian_taps(2.0, radius=3)]), kernel.array, rtol=0, atol=1e-15)


def test_taps_of_a_vanishing_sigma_are_one_pixel():
    assert gaussian_taps(1e-200, radius=2).tolist() == [0, 0, 1, 0, 0]
    assert gaussian_taps(1e-200).tolist() == [1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("boundary", ["fill", "extend"])
@pytest.mark.parametrize("sigma", [0.5, 1.5, 3])
def test_equals_astropy(sigma, boundary, dtype):
    assert_close_to_astropy(scene((75, 300), dtype), sigma, boundary)


def test_equals_astropy_with_a_wide_kernel():
    assert_close_to_astropy(scene((30, 40), np.float64), 10, "extend")


@pytest.mark.parametrize("boundary", ["fill", "extend"])
def test_equals_astropy_with_nan_and_mask(boundary):
    image = scene((80, 290))
    rng = np.random.default_rng(1)
    image[rng.random(image.shape) < 0.05] = np.nan
    image[20:32, 100:130] = np.nan
    image[60, :] = np.nan
    mask = rng.random(image.shape) < 0.1
    assert_close_to_astropy(image, 2, boundary)
    # the hole is larger than the kernel: astropy warns and leaves NaN there; so do we
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        image[20:45, 100:130] = np.nan
        assert_close_to_astropy(image, 2, boundary, mask)
    assert np.isnan(smooth(image, gaussian_taps(2), boundary)).any()


def test_equals_astropy_on_a_real_image():
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None:
        pytest.skip("TILEDSKY_TEST_DATA is not set: no real images")
    image = fits.getdata(Path(folder) / "spitzer_glimpse_irac.fits").astype(np.float32)[150:300]
    image[:, :40] = np.nan  # beside the NaN of the image itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        assert_close_to_astropy(image, 2, "extend")


def test_a_mask_is_the_same_as_nan():
    padded = scene((60, 70))
    mask = np.random.default_rng(2).random(padded.shape) < 0.2
    taps = gaussian_taps(1.5)
    masked = convolve_separable(padded, taps, mask=mask)
    np.testing.assert_array_equal(masked, convolve_separable(np.where(mask, np.float32(np.nan), padded), taps))
    assert not np.array_equal(masked, convolve_separable(padded, taps))


def test_an_empty_mask_changes_nothing():
    padded, taps = scene((60, 70)), gaussian_taps(1.5)
    result = convolve_separable(padded, taps, mask=np.zeros(padded.shape, bool))
    np.testing.assert_array_equal(result, convolve_separable(padded, taps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.7, 2, 9])
def test_windows_without_nan_keep_their_bits(sigma, dtype):
    padded = scene((200, 330), dtype)
    taps = gaussian_taps(sigma)
    r = len(taps) // 2
    clean = convolve_separable(padded, taps)
    holed = padded.copy()
    holed[90, 90] = holed[100, 280] = np.nan
    result = convolve_separable(holed, taps)
    near = np.zeros(padded.shape, bool)
    for y, x in [(90, 90), (100, 280)]:
        near[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = True
    near = near[r:-r, r:-r]
    assert near.any()
    assert not near.all()
    np.testing.assert_array_equal(result[~near].view(np.uint8), clean[~near].view(np.uint8))
    assert (result[near] != clean[near]).any()


@pytest.mark.parametrize("with_nan", [False, True])
def test_a_tile_with_its_halo_has_the_bits_of_the_whole(with_nan):
    image = scene((230, 600))
    if with_nan:
        image[np.random.default_rng(3).random(image.shape) < 0.002] = np.nan
    taps = gaussian_taps(2.6)
    r = len(taps) // 2
    padded = np.pad(image, r, mode="reflect")
    whole = convolve_separable(padded, taps)
    for y0, y1, x0, x1 in [(0, 1, 0, 1), (0, 63, 0, 255), (17, 82, 3, 260), (64, 230, 256, 600), (229, 230, 11, 599)]:
        tile = convolve_separable(padded[y0 : y1 + 2 * r, x0 : x1 + 2 * r], taps)
        np.testing.assert_array_equal(tile, whole[y0:y1, x0:x1])


def test_one_pixel_less_halo_does_not_have_the_bits_of_the_whole():
    taps = gaussian_taps(2.6)
    r = len(taps) // 2
    padded = scene((100, 100))
    whole = convolve_separable(padded, taps)
    short = np.pad(padded[21 : 40 + 2 * r - 1, 21 : 40 + 2 * r - 1], 1, mode="edge")
    assert not np.array_equal(convolve_separable(short, taps), whole[20:40, 20:40])


def test_nan_where_every_pixel_of_the_window_is_missing():
    padded = np.full((9, 9), np.nan)
    padded[0, 0] = 7.0
    result = convolve_separable(padded, gaussian_taps(1.0, radius=2))
    assert result[0, 0] == 7.0
    assert np.isnan(result).sum() == 24


def test_infinity_is_an_ordinary_value():
    padded = np.ones((9, 9))
    padded[4, 4] = np.inf
    assert np.isinf(convolve_separable(padded, gaussian_taps(1.0, radius=2))).all()


def test_radius_zero_copies():
    image = scene((70, 300))
    result = convolve_separable(image, gaussian_taps(1.0, radius=0))
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_inputs_are_not_touched_and_may_be_any_view():
    padded = scene((60, 140))
    mask = np.zeros(padded.shape, bool)
    mask[30, 30] = True
    padded[20, 20] = np.nan
    taps = gaussian_taps(1.0)
    expected = convolve_separable(padded, taps, mask=mask)
    for array in (padded, mask, taps):
        array.setflags(write=False)
    np.testing.assert_array_equal(convolve_separable(padded, taps, mask=mask), expected)
    views = np.asfortranarray(padded), np.asfortranarray(mask)
    np.testing.assert_array_equal(convolve_separable(views[0], taps, mask=views[1]), expected)


@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf])
def test_sigma_must_be_a_width(sigma):
    with pytest.raises(ParameterError, match="sigma > 0"):
        gaussian_taps(sigma)


@pytest.mark.parametrize("radius", [-1, 2.5])
def test_radius_must_be_a_count(radius):
    with pytest.raises(ParameterError, match="integer >= 0"):
        gaussian_taps(1.0, radius=radius)


@pytest.mark.parametrize("taps", [[0.5, 0.5], [0.2, 0.5, 0.3], [[1.0]], [np.nan], []])
def test_taps_must_be_odd_and_symmetric(taps):
    with pytest.raises(ParameterError, match="symmetric about the centre"):
        convolve_separable(np.zeros((5, 5)), np.array(taps))


@pytest.mark.parametrize("image", [np.zeros((9, 9), int), np.zeros((9, 9), ">f4"), np.zeros((9, 9, 9)), np.zeros(9)])
def test_image_must_be_a_float_plane(image):
    with pytest.raises(InputError, match=r"2-D array of native float32 or float64"):
        convolve_separable(image, gaussian_taps(1.0, radius=1))


def test_image_must_hold_a_window():
    taps = gaussian_taps(1.0, radius=2)
    assert convolve_separable(np.zeros((5, 5)), taps).shape == (1, 1)
    with pytest.raises(InputError, match="pad by 2 pixels"):
        convolve_separable(np.zeros((4, 5)), taps)


@pytest.mark.parametrize("mask", [np.zeros((5, 5), bool), np.zeros((9, 9), np.uint8)])
def test_mask_must_fit(mask):
    with pytest.raises(InputError, match="bool mask with the halo"):
        convolve_separable(np.zeros((9, 9)), gaussian_taps(1.0, radius=2), mask=mask)
