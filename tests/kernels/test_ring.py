"""The ring percentile filter against scipy, against a plain sort, and against itself on tiles."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from astropy.convolution import Ring2DKernel
from astropy.io import fits
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import median_filter, percentile_filter

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.filters import ring_search
from tiledsky.kernels.filters.ring import footprint_percentile, ring_footprint


def same_bits(a, b):
    """Equal shape, dtype and bits; a NaN equals a NaN."""
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))


def scene(shape, dtype=np.float32, seed=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0.3, 0.1, shape) + y / 700 - x / 1900
    bright = rng.random(shape) < 0.01
    return (image + bright * rng.pareto(1.0, shape)).astype(dtype)


def by_sorting(padded, footprint, percentile=50.0, mask=None):
    """Plain oracle: sort the valid members of every window."""
    values = padded + padded.dtype.type(0)
    if mask is not None:
        values = np.where(mask, np.nan, values)
    members = np.sort(sliding_window_view(values, footprint.shape)[:, :, footprint], axis=-1)
    n = np.isfinite(members).sum(-1) + np.isinf(members).sum(-1)
    index = n - 1 if percentile == 100 else (n * percentile / 100).astype(int)
    return np.take_along_axis(members, np.clip(index, 0, members.shape[-1] - 1)[..., None], -1)[..., 0].astype(
        padded.dtype
    )


@pytest.mark.parametrize(
    ("radius_in", "width"),
    [(15, 5), (40, 3), (80, 4), (3, 1), (0, 2), (0, 0.1), (2.5, 1.2), (4.3, 0.3), (7, 0.5), (20.4, 3.3)],
)
def test_ring_has_the_pixels_of_astropys_kernel(radius_in, width):
    np.testing.assert_array_equal(ring_footprint(radius_in, width), Ring2DKernel(radius_in, width).array > 0)


@pytest.mark.parametrize(
    ("radius_in", "width", "message"),
    [
        (-1, 3, "is not an inner radius"),
        (np.nan, 3, "is not an inner radius"),
        (5, 0, "leaves no ring"),
        (5, np.inf, "leaves no ring"),
        (0.2, 0.1, "the ring is empty"),
    ],
)
def test_rings_without_pixels_are_refused(radius_in, width, message):
    with pytest.raises(ParameterError, match=message):
        ring_footprint(radius_in, width)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("ring", "shape"), [((15, 5), (130, 101)), ((6, 2), (300, 180)), ((40, 3), (40, 30))])
def test_median_equals_scipy(ring, shape, dtype):
    footprint = ring_footprint(*ring)
    r = footprint.shape[0] // 2
    padded = scene((shape[0] + 2 * r, shape[1] + 2 * r), dtype)
    before = padded.copy()
    expected = median_filter(padded, footprint=footprint)[r:-r, r:-r]
    assert same_bits(footprint_percentile(padded, footprint), expected)
    assert same_bits(padded, before)


@pytest.mark.parametrize("percentile", [0, 10, 33.3, 50, 90, 99.9, 100])
def test_percentile_equals_scipy(percentile):
    footprint = ring_footprint(4, 2)
    padded = scene((90, 75))
    expected = percentile_filter(padded, percentile, footprint=footprint)[6:-6, 6:-6]
    assert same_bits(footprint_percentile(padded, footprint, percentile=percentile), expected)


def test_lopsided_footprint_equals_scipy():
    footprint = np.random.default_rng(5).random((7, 11)) < 0.3
    padded = scene((60, 90))
    expected = median_filter(padded, footprint=footprint)[3:-3, 5:-5]
    assert same_bits(footprint_percentile(padded, footprint), expected)


def test_one_pixel_image_and_one_pixel_footprint():
    one = np.array([[2.5]], np.float32)
    assert same_bits(footprint_percentile(one, np.ones((1, 1), bool)), one)
    padded = scene((40, 70))
    assert same_bits(footprint_percentile(padded, np.ones((1, 1), bool)), padded)
    footprint = ring_footprint(3, 1)
    expected = median_filter(padded[:9, :9], footprint=footprint)[4:5, 4:5]
    assert same_bits(footprint_percentile(padded[:9, :9], footprint), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((70, 80), np.float32),
        np.full((70, 80), -3e38, np.float32),
        np.random.default_rng(0).integers(0, 3, (90, 80)).astype(np.float64),
        np.random.default_rng(1).integers(-40, 40, (260, 250)).astype(np.float32),
        np.where(np.random.default_rng(2).random((70, 80)) < 0.5, np.inf, -np.inf).astype(np.float32),
        10.0 ** np.random.default_rng(3).uniform(-300, 300, (70, 80)),
        np.sign(np.arange(70)[:, None] - 35.0) * np.finfo(np.float32).max * np.ones((1, 80)),
        np.ldexp(1.0, -1074) * np.random.default_rng(4).integers(-3, 3, (70, 80)),
    ],
    ids=["zero", "constant", "ties3", "ties80", "infinities", "600 decades", "step", "subnormal"],
)
def test_awkward_values_equal_scipy(image):
    footprint = ring_footprint(8, 3)
    expected = median_filter(image, footprint=footprint)[11:-11, 11:-11] + image.dtype.type(0)
    assert same_bits(footprint_percentile(image, footprint), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("percentile", [0, 25, 50, 100])
def test_nan_and_masked_pixels_are_left_out(dtype, percentile):
    rng = np.random.default_rng(7)
    padded = scene((120, 110), dtype)
    padded[rng.random(padded.shape) < 0.1] = np.nan
    padded[rng.random(padded.shape) < 0.05] = np.inf
    padded[rng.random(padded.shape) < 0.05] = -np.inf
    mask = rng.random(padded.shape) < 0.2
    mask[30:70, 20:80] = True
    footprint = ring_footprint(5, 3)
    result = footprint_percentile(padded, footprint, percentile=percentile, mask=mask)
    expected = by_sorting(padded, footprint, percentile, mask)
    assert np.isnan(expected).any()
    assert same_bits(result, expected)


def test_what_lies_under_the_mask_does_not_matter():
    padded, footprint = scene((80, 90)), ring_footprint(5, 3)
    mask = np.random.default_rng(8).random(padded.shape) < 0.3
    other = np.where(mask, np.float32(-7e37), padded)
    nans = np.where(mask, np.float32(np.nan), padded)
    expected = footprint_percentile(padded, footprint, mask=mask)
    assert same_bits(footprint_percentile(other, footprint, mask=mask), expected)
    assert same_bits(footprint_percentile(nans, footprint), expected)
    assert same_bits(
        footprint_percentile(padded, footprint, mask=np.zeros_like(mask)), footprint_percentile(padded, footprint)
    )


def test_all_invalid_gives_nan():
    nothing = np.full((50, 60), np.nan)
    assert np.isnan(footprint_percentile(nothing, ring_footprint(5, 3))).all()
    assert np.isnan(footprint_percentile(np.ones((50, 60)), ring_footprint(5, 3), mask=np.ones((50, 60), bool))).all()


def test_zero_is_positive_whatever_the_signs():
    padded = np.where(np.random.default_rng(9).random((60, 60)) < 0.5, 0.0, -0.0).astype(np.float32)
    result = footprint_percentile(padded, ring_footprint(5, 3))
    assert (result == 0).all()
    assert not np.signbit(result).any()
    assert not np.signbit(footprint_percentile(np.full((1, 1), -0.0), np.ones((1, 1), bool))).any()


def test_any_tiling_gives_the_same_bits_and_a_short_halo_does_not():
    rng = np.random.default_rng(11)
    footprint = ring_footprint(9, 3)
    r = footprint.shape[0] // 2
    padded = scene((330 + 2 * r, 290 + 2 * r))
    padded[rng.random(padded.shape) < 0.02] = np.nan
    padded[100:200, 100:220] = np.round(padded[100:200, 100:220], 1) - 0.2  # ties, zeros of both signs
    mask = rng.random(padded.shape) < 0.2
    whole = footprint_percentile(padded, footprint, mask=mask)
    rows = [0, *sorted(rng.choice(np.arange(1, 330), 3, replace=False)), 330]
    columns = [0, *sorted(rng.choice(np.arange(1, 290), 4, replace=False)), 290]
    tiled, short = np.empty_like(whole), np.empty_like(whole)
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(columns):
            tile = np.s_[y0 : y1 + 2 * r, x0 : x1 + 2 * r]
            tiled[y0:y1, x0:x1] = footprint_percentile(padded[tile], footprint, mask=mask[tile])
            edge = np.pad(padded[tile][1:-1, 1:-1], 1, mode="edge")  # what a halo of r - 1 would know
            short[y0:y1, x0:x1] = footprint_percentile(edge, footprint, mask=mask[tile])
    assert same_bits(tiled, whole)
    assert not same_bits(short, whole)


@pytest.mark.parametrize("steep", [0.0, 1.0, 300.0])
def test_more_distinct_values_than_codes(steep):
    """Results spread over several windows of codes, and far from where the probes are."""
    rng = np.random.default_rng(12)
    footprint = np.zeros((61, 61), bool)
    footprint[[0, 0, 30, 60, 60], [0, 60, 30, 0, 60]] = True
    padded = rng.normal(0, 1, (260, 280)) + steep * np.mgrid[:260, :280][0] / 260
    padded[100:130, 100:135] += 1e4
    assert np.unique(padded).size > 2 * ring_search.CODES
    expected = median_filter(padded, footprint=footprint)[30:-30, 30:-30]
    assert same_bits(footprint_percentile(padded, footprint), expected)


@pytest.mark.parametrize("percentile", [0, 50, 99])
def test_footprint_with_more_members_than_a_counter_takes(percentile):
    side = 189
    footprint = np.ones((side, side), bool)
    assert footprint.sum() > 32767
    padded = scene((side + 3, side + 4), seed=3)
    assert same_bits(
        footprint_percentile(padded, footprint, percentile=percentile), by_sorting(padded, footprint, percentile)
    )
    mask = np.random.default_rng(1).random(padded.shape) < 0.05
    result = footprint_percentile(padded, footprint, percentile=percentile, mask=mask)
    assert same_bits(result, by_sorting(padded, footprint, percentile, mask))


def test_non_contiguous_and_fortran_inputs():
    padded, footprint = scene((90, 160)), ring_footprint(4, 2)
    mask = np.random.default_rng(2).random(padded.shape) < 0.2
    expected = footprint_percentile(padded[:, ::2].copy(), footprint, mask=mask[:, ::2].copy())
    assert same_bits(footprint_percentile(padded[:, ::2], footprint, mask=mask[:, ::2]), expected)
    result = footprint_percentile(np.asfortranarray(padded[:, ::2]), footprint, mask=np.asfortranarray(mask[:, ::2]))
    assert same_bits(result, expected)


@pytest.mark.parametrize(
    ("name", "hdu"),
    [("dss_horsehead.fits", 0), ("m51_kpno.fits", 0), ("hst_wfpc2_a478_drz.fits", 1), ("spitzer_glimpse_irac.fits", 0)],
)
def test_real_images_equal_scipy(name, hdu):
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None or not (Path(folder) / name).exists():
        pytest.skip(f"{name} not found: set TILEDSKY_TEST_DATA to the folder with the test images")
    with fits.open(Path(folder) / name, memmap=False) as hdus:
        data = hdus[hdu].data
    image = np.ascontiguousarray(data[:220, :260], dtype=np.float32)
    footprint = ring_footprint(15, 5)
    result = footprint_percentile(image, footprint)
    if np.isfinite(image).all():
        expected = median_filter(image, footprint=footprint)[20:-20, 20:-20]
    else:
        expected = by_sorting(image, footprint)
    assert same_bits(result, expected + np.float32(0))


@pytest.mark.parametrize(
    ("image", "footprint", "options", "error", "message"),
    [
        (np.ones((20, 20)), np.ones((4, 5), bool), {}, ParameterError, "no centre pixel"),
        (np.ones((20, 20)), np.ones(5, bool), {}, ParameterError, "no centre pixel"),
        (np.ones((20, 20)), np.zeros((5, 5), bool), {}, ParameterError, "no True pixel"),
        (np.ones((20, 4)), np.ones((5, 5), bool), {}, ParameterError, "smaller than the footprint"),
        (np.ones((20, 20)), np.ones((5, 5), bool), {"percentile": 101}, ParameterError, "not a share of the values"),
        (
            np.ones((20, 20)),
            np.ones((5, 5), bool),
            {"percentile": np.nan},
            ParameterError,
            "not a share of the values",
        ),
        (np.ones((20, 20), int), np.ones((5, 5), bool), {}, InputError, "native floats"),
        (np.ones((20, 20), ">f4"), np.ones((5, 5), bool), {}, InputError, "native floats"),
        (np.ones((2, 20, 20)), np.ones((5, 5), bool), {}, InputError, "3 dimensions"),
        (
            np.ones((20, 20)),
            np.ones((5, 5), bool),
            {"mask": np.zeros((20, 19), bool)},
            InputError,
            "bool mask of shape",
        ),
        (np.ones((20, 20)), np.ones((5, 5), bool), {"mask": np.zeros((20, 20), int)}, InputError, "bool mask of shape"),
    ],
)
def test_unusable_arguments_are_refused(image, footprint, options, error, message):
    with pytest.raises(error, match=message):
        footprint_percentile(image, footprint, **options)


def test_a_second_process_does_not_compile_again():
    """The vector code is in the cache: a process that finds it there loads instead of compiling."""
    program = textwrap.dedent("""
        import numpy as np
        from tiledsky.kernels.filters import ring, ring_search
        ring.footprint_percentile(np.ones((40, 40), np.float32), np.ones((3, 3), bool))
        kernels = (ring._rank_keys, ring._write_values, ring_search.search_codes)
        for counts in ("cache_hits", "cache_misses"):
            print(sum(sum(getattr(k.stats, counts).values()) for k in kernels))
    """)
    footprint_percentile(np.ones((40, 40), np.float32), np.ones((3, 3), bool))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3", "0"]


def test_memory_beyond_the_output_is_that_of_one_block():
    padded, footprint = scene((700, 500)), ring_footprint(15, 5)
    footprint_percentile(padded[:60, :60], footprint)
    tracemalloc.start()
    footprint_percentile(padded, footprint)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    small = 400_000  # the probes, the list of members, their offsets
    assert peak <= 660 * 460 * 4 + 32 * 200 * 200 + small
