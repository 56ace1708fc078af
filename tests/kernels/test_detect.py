"""Source masks against photutils, scipy and astropy; halos that are just large enough, and one pixel too small."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.convolution import Tophat2DKernel, convolve
from astropy.io import fits
from photutils.segmentation import detect_sources
from photutils.utils import circular_footprint
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure, label
from scipy.signal import fftconvolve

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.detection.detect import detect, disc_footprint, grow_disc, grow_square, grow_tophat

GROWERS = {"disc": grow_disc, "square": lambda mask, r: grow_square(mask, 2 * r + 1), "tophat": grow_tophat}


def noise(shape, dtype=np.float32, seed=0):
    """Correlated noise of rms about 1: groups of many shapes and sizes."""
    image = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1)
    return (image / image.std()).astype(dtype)


def specks(shape, seed=0, density=0.004):
    """A mask of single pixels, a few rectangles, and pixels at the corners."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    for _ in range(4):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 30)] = True
    mask[0, 0] = mask[-1, -1] = True
    return mask


# --- detect


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("threshold", "n_pixels"), [(0.0, 1), (0.0, 30), (0.3, 12), (1.0, 5), (2.5, 2)])
def test_detect_equals_photutils(threshold, n_pixels, dtype, connectivity):
    image = noise((120, 157), dtype)
    expected = detect_sources(image, threshold, n_pixels, connectivity=connectivity).make_source_mask()
    result = detect(image, threshold, n_pixels=n_pixels, connectivity=connectivity)
    assert result.dtype == np.bool_
    np.testing.assert_array_equal(result, expected)


def test_detect_equals_photutils_with_mask_nan_and_a_threshold_image():
    image = noise((90, 140))
    rng = np.random.default_rng(1)
    image[rng.random(image.shape) < 0.03] = np.nan
    image[40, 40] = np.inf
    mask = rng.random(image.shape) < 0.1
    threshold = 0.5 + 0.01 * np.arange(140) + np.zeros((90, 1))
    threshold[10:20, 10:20] = np.nan
    expected = detect_sources(image, threshold, 6, mask=mask).make_source_mask()
    result = detect(image, threshold, n_pixels=6, mask=mask)
    np.testing.assert_array_equal(result, expected)
    assert result.any()
    assert not result[mask | np.isnan(image) | np.isnan(threshold)].any()


def test_detect_and_grow_equal_photutils_on_a_real_image():
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None:
        pytest.skip("TILEDSKY_TEST_DATA is not set: no real images")
    image = fits.getdata(Path(folder) / "spitzer_glimpse_irac.fits").astype(np.float32)
    threshold = float(np.nanpercentile(image, 95))
    segments = detect_sources(image, threshold, 9)
    sources = detect(image, threshold, n_pixels=9)
    np.testing.assert_array_equal(sources, segments.make_source_mask())
    for radius in (2, 7, 21):
        expected = segments.make_source_mask(footprint=circular_footprint(radius))
        np.testing.assert_array_equal(grow_disc(np.pad(sources, radius), radius), expected)
    np.testing.assert_array_equal(grow_square(np.pad(sources, 3), 7), segments.make_source_mask(size=7))


def test_detect_is_strict_and_finds_nothing_without_complaint():
    image = np.ones((20, 50))
    assert not detect(image, 1.0, n_pixels=1).any()
    assert not detect(image, 0.0, n_pixels=1001).any()
    assert detect(image, 0.0, n_pixels=1000).all()
    assert detect(np.zeros((0, 5)), 0.0, n_pixels=3).shape == (0, 5)


@pytest.mark.parametrize("threshold", [0.1, np.float64(0.1)])
def test_detect_compares_as_numpy_does(threshold):
    image = np.full((4, 4), 0.1, np.float32)  # larger than 0.1 in float64
    np.testing.assert_array_equal(detect(image, threshold, n_pixels=2), image > threshold)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.2, 0.41, 0.59, 0.8])
def test_groups_equal_those_of_scipy(density, connectivity):
    """At 0.41 (8 neighbours) and 0.59 (4) groups of pure noise become infinite: the most tangled there are."""
    image = (np.random.default_rng(5).random((131, 203)) < density).astype(np.float64)
    labels, _ = label(image, structure=generate_binary_structure(2, 1 if connectivity == 4 else 2))
    size = np.bincount(labels.ravel())
    size[0] = 0
    for n_pixels in (2, 3, 10, 200):
        result = detect(image, 0.5, n_pixels=n_pixels, connectivity=connectivity)
        np.testing.assert_array_equal(result, size[labels] >= n_pixels)


def windows(shape, tiles):
    ys, xs = (np.linspace(0, n, tiles + 1).astype(int) for n in shape)
    return [(slice(a, b), slice(c, d)) for a, b in pairwise(ys) for c, d in pairwise(xs)]


def detect_by_tiles(image, tiles, halo, n_pixels, connectivity):
    out = np.zeros(image.shape, bool)
    for ys, xs in windows(image.shape, tiles):
        y0, x0 = max(ys.start - halo, 0), max(xs.start - halo, 0)
        part = detect(
            image[y0 : ys.stop + halo, x0 : xs.stop + halo], 0.5, n_pixels=n_pixels, connectivity=connectivity
        )
        out[ys, xs] = part[ys.start - y0 :, xs.start - x0 :][: ys.stop - ys.start, : xs.stop - xs.start]
    return out


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("n_pixels", [2, 5, 17])
def test_detect_needs_a_halo_of_n_pixels_less_one(n_pixels, connectivity):
    for seed in range(3):
        density = 0.4 if connectivity == 8 else 0.55
        image = (np.random.default_rng(seed).random((96, 110)) < density).astype(np.float32)
        whole = detect(image, 0.5, n_pixels=n_pixels, connectivity=connectivity)
        for tiles in (2, 5, 9):
            np.testing.assert_array_equal(detect_by_tiles(image, tiles, n_pixels - 1, n_pixels, connectivity), whole)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize("n_pixels", [2, 5, 17])
def test_detect_fails_with_one_pixel_less_halo(n_pixels, turn):
    """A straight line of n_pixels with only its first pixel in the tile."""
    image = np.zeros((60, 60), np.float32)
    image[10, 30 : 30 - n_pixels : -1] = 1  # ends in the tile that begins at 30
    image = np.rot90(image, turn)
    whole = detect(image, 0.5, n_pixels=n_pixels)
    assert whole.sum() == n_pixels
    np.testing.assert_array_equal(detect_by_tiles(image, 2, n_pixels - 1, n_pixels, 8), whole)
    assert not np.array_equal(detect_by_tiles(image, 2, n_pixels - 2, n_pixels, 8), whole)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_pixels": 0}, "n_pixels 0"),
        ({"n_pixels": 2.5}, "n_pixels 2.5"),
        ({"n_pixels": np.nan}, "n_pixels nan"),
        ({"n_pixels": 3, "connectivity": 6}, "connectivity 6"),
    ],
)
def test_detect_refuses_parameters(arguments, match):
    with pytest.raises(ParameterError, match=match):
        detect(np.zeros((9, 9)), 1.0, **arguments)


def test_detect_refuses_inputs():
    image = np.zeros((9, 9))
    with pytest.raises(InputError, match="give a 2-D array"):
        detect(np.zeros(9), 1.0, n_pixels=3)
    with pytest.raises(InputError, match="number or an array of that shape as threshold"):
        detect(image, np.zeros(9), n_pixels=3)
    for mask in (np.zeros((9, 8), bool), np.zeros((9, 9), np.uint8)):
        with pytest.raises(InputError, match="bool mask of that shape"):
            detect(image, 1.0, n_pixels=3, mask=mask)


# --- growing


@pytest.mark.parametrize("radius", [1, 2, 3, 8, 21])
def test_disc_footprint_equals_photutils(radius):
    np.testing.assert_array_equal(disc_footprint(radius), circular_footprint(radius).astype(bool))


@pytest.mark.parametrize("radius", [0.4, 1.5, 2.236, 3.7, 9.99])
def test_disc_footprint_equals_the_tophat_of_astropy(radius):
    kernel = Tophat2DKernel(radius).array > 0
    margin = (len(kernel) - len(disc_footprint(radius))) // 2
    np.testing.assert_array_equal(np.pad(disc_footprint(radius), margin), kernel)


@pytest.mark.parametrize("radius", [0, 0.9, 1, 1.5, 2, 2.3, 3, 4, 5, 6, 9.99, 13.7, 21, 33])
def test_grow_disc_equals_binary_dilation(radius):
    mask = specks((70, 150))
    expected = binary_dilation(mask, disc_footprint(radius))
    np.testing.assert_array_equal(grow_disc(np.pad(mask, int(radius)), radius), expected)


@pytest.mark.parametrize("radius", [126, 127, 140.5])
def test_grow_disc_by_more_than_eight_bits(radius):
    r = int(radius)
    mask = np.zeros((300, 320), bool)
    mask[7, 9] = mask[290, 50] = mask[120, 319] = True
    expected = fftconvolve(mask, disc_footprint(radius), mode="same") > 0.5
    np.testing.assert_array_equal(grow_disc(np.pad(mask, r), radius), expected)
    np.testing.assert_array_equal(grow_disc(mask, radius), expected[r:-r, r:-r])


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 15, 33])
def test_grow_square_equals_binary_dilation(size):
    mask = specks((60, 150))
    expected = binary_dilation(mask, np.ones((size, size)))
    np.testing.assert_array_equal(grow_square(np.pad(mask, size // 2), size), expected)


@pytest.mark.parametrize("radius", [0.3, 0.5, 0.6, 1, 1.2, 1.5, 2, 2.6, 3, 4, 4.47, 5, 6])
def test_grow_tophat_equals_the_rule_in_astropy(radius):
    mask = specks((60, 110), density=0.03)
    rule = convolve(mask, Tophat2DKernel(radius)) >= 1.0 / (np.pi * radius**2.0)  # zero beyond the border
    r = int(radius)
    np.testing.assert_array_equal(grow_tophat(np.pad(mask, r), radius), rule)
    np.testing.assert_array_equal(grow_tophat(mask, radius), rule[r : 60 - r, r : 110 - r])


@pytest.mark.parametrize(("radius", "survives"), [(1, False), (2, False), (3, False), (4, True), (5, False), (6, True)])
def test_grow_tophat_erases_a_single_pixel_where_the_disc_is_larger_than_the_circle(radius, survives):
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    assert grow_tophat(mask, radius).any() == survives


def test_grow_tophat_counts_beyond_sixteen_bits():
    mask = np.zeros((320, 1200), bool)
    mask[:, :310] = mask[160, 800] = mask[150, 900] = True
    radius = next(r for r in np.arange(145, 155, 0.5) if disc_footprint(r).sum() > np.pi * r * r)
    r = int(radius)
    footprint = disc_footprint(radius)
    count = np.rint(fftconvolve(mask, footprint, mode="valid")).astype(int)
    assert count.max() == footprint.sum() > 2**16
    assert {0, 1, 2} <= set(count.ravel())
    np.testing.assert_array_equal(grow_tophat(mask, radius), count >= 2)
    assert count.shape == (320 - 2 * r, 1200 - 2 * r)


@pytest.mark.parametrize("grow", GROWERS)
@pytest.mark.parametrize("radius", [1, 3, 9])
def test_growing_a_tile_with_its_halo_gives_the_pixels_of_the_whole(grow, radius):
    mask = specks((64, 2300), density=0.01)  # wider than two strips
    padded = np.pad(mask, radius, mode="symmetric")
    whole = GROWERS[grow](padded, radius)
    for y0, y1, x0, x1 in [(0, 64, 0, 1), (3, 30, 1000, 2100), (63, 64, 5, 2300), (0, 64, 1024, 2048)]:
        tile = GROWERS[grow](padded[y0 : y1 + 2 * radius, x0 : x1 + 2 * radius], radius)
        np.testing.assert_array_equal(tile, whole[y0:y1, x0:x1])


@pytest.mark.parametrize("grow", GROWERS)
@pytest.mark.parametrize("radius", [1, 3, 9])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_growing_with_one_pixel_less_halo_fails(grow, radius, turn):
    """A row of set pixels just in reach of the tile's first row."""
    mask = np.zeros((60, 60), bool)
    mask[20 - radius] = True
    if grow == "tophat" and radius < 4:  # one pixel more is needed
        mask[20, 30] = True
    mask = np.rot90(mask, turn)
    tile = (slice(20, 40), slice(20, 40))
    whole = GROWERS[grow](np.pad(mask, radius), radius)[tile]
    for halo in (radius, radius - 1):
        read = mask[20 - halo : 40 + halo, 20 - halo : 40 + halo]
        part = GROWERS[grow](np.pad(read, radius - halo), radius)
        assert np.array_equal(part, whole) == (halo == radius)


def test_inputs_are_not_touched_and_may_be_any_view():
    image, mask = noise((60, 80)), specks((60, 80))
    for array in (image, mask):
        array.setflags(write=False)
    expected = detect(image, 0.5, n_pixels=4, mask=mask)
    turned = np.asfortranarray(image), np.asfortranarray(mask)
    np.testing.assert_array_equal(detect(turned[0], 0.5, n_pixels=4, mask=turned[1]), expected)
    for grow in GROWERS.values():
        np.testing.assert_array_equal(grow(turned[1], 2), grow(mask, 2))


def test_growing_by_nothing_copies():
    mask = specks((20, 30))
    for copy in (grow_disc(mask, 0), grow_disc(mask, 0.99), grow_square(mask, 1)):
        np.testing.assert_array_equal(copy, mask)
        assert not np.shares_memory(copy, mask)


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf, 40000])
def test_radius_must_be_a_radius(radius):
    for function in (grow_disc, grow_tophat, lambda _, r: disc_footprint(r)):
        with pytest.raises(ParameterError, match="is not a radius of a disc"):
            function(np.zeros((9, 9), bool), radius)


def test_tophat_needs_an_area():
    with pytest.raises(ParameterError, match="has no area"):
        grow_tophat(np.zeros((9, 9), bool), 0)


@pytest.mark.parametrize("size", [0, 2, -3, 3.5, np.nan])
def test_size_must_be_odd(size):
    with pytest.raises(ParameterError, match="odd size >= 1"):
        grow_square(np.zeros((9, 9), bool), size)


@pytest.mark.parametrize("grow", GROWERS)
def test_growers_refuse_what_is_no_mask_or_too_small(grow):
    assert GROWERS[grow](np.zeros((5, 5), bool), 2).shape == (1, 1)
    with pytest.raises(InputError, match="pad by 2 pixels"):
        GROWERS[grow](np.zeros((4, 5), bool), 2)
    for mask in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 9), bool)):
        with pytest.raises(InputError, match="2-D bool array as mask_padded"):
            GROWERS[grow](mask, 2)
