"""Sums of the biweights: against astropy and exact fractions; any split gives the same bits; bytes."""

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import biweight_location, biweight_scale, median_absolute_deviation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.kernels.statistics import biweight
from tiledsky.kernels.statistics.biweight import FRACTION_BITS, BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.needed_bins import mad_bins, percentile_bins
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.kernels.statistics.selection import MAD_TO_STD, mad_std, percentile
from tiledsky.kernels.statistics.selection import median_absolute_deviation as selected_mad

DATA = os.environ.get("TILEDSKY_TEST_DATA")
SHAPE = (70, 133)  # more than a block of the kernel, and no multiple of it


def _rng():
    return np.random.default_rng(11)


def _holes():
    image = _rng().normal(3, 2, SHAPE)
    image[_rng().random(SHAPE) < 0.2] = np.nan
    image[:2, ::3] = np.inf
    image[:2, 1::3] = -np.inf
    return image


def _denormal():
    """Multiples of the smallest float32; the MAD is a few of them."""
    return _rng().integers(-9, 14, SHAPE) * 2.0**-149


def _half_denormal():
    """Median and MAD fall between two float32: one half, one quarter of the smallest."""
    return np.array([0, 0, 1, 1]) * 2.0**-149


IMAGES = {
    "normal": lambda: _rng().normal(3, 2, SHAPE),
    "sources": lambda: _rng().normal(10, 1, SHAPE) + np.where(_rng().random(SHAPE) < 0.3, 50 * _rng().random(SHAPE), 0),
    "skewed": lambda: _rng().lognormal(0, 1.5, SHAPE),
    "cauchy": lambda: _rng().standard_cauchy(SHAPE),
    "ties": lambda: _rng().integers(-2, 3, SHAPE),
    "pedestal": lambda: 1e6 + _rng().normal(0, 5, SHAPE),
    "negative": lambda: -1e6 + _rng().normal(0, 5, SHAPE),
    "tiny": lambda: 1e-30 * _rng().normal(1, 1, SHAPE),
    "huge": lambda: 3e37 * _rng().normal(0, 1, SHAPE),
    "wide": lambda: _rng().choice([-1, 1], SHAPE) * 10.0 ** _rng().uniform(-30, 30, SHAPE),
    "denormal": _denormal,
    "half denormal": _half_denormal,
    "holes": _holes,
    "two": lambda: np.array([1.0, 4.0]),
    "three": lambda: np.array([1.0, 4.0, 1e30]),
}


def counted(image, mask=None):
    """The values that count, float64."""
    counts = np.isfinite(image) if mask is None else np.isfinite(image) & ~mask
    return image[counts].astype(float)


def sums_of(image, mask=None):
    data = counted(image, mask)
    return BiweightSums.from_values(image, median=np.median(data), mad=median_absolute_deviation(data), mask=mask)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_astropy(name, masked):
    image = IMAGES[name]().astype(np.float32)
    mask = _rng().random(image.shape) < 0.3 if masked and image.size > 9 else None
    data = counted(image, mask)
    sums = sums_of(image, mask)
    assert sums.n == data.size
    assert sums.mad > 0
    # A location near zero is a difference of larger numbers: its error is a fraction of the spread.
    assert sums.location() == pytest.approx(biweight_location(data), rel=1e-12, abs=1e-12 * sums.mad)
    assert sums.scale() == pytest.approx(biweight_scale(data), rel=1e-12, abs=0)


@pytest.mark.skipif(DATA is None, reason="TILEDSKY_TEST_DATA is not set: real images are not there")
@pytest.mark.parametrize(
    "name", ["gama_kidsviking_r_2600.fits", "m51_kpno.fits", "dss_horsehead.fits", "bolocam_gc.fits"]
)
def test_real_images(name):
    image = np.ascontiguousarray(fits.getdata(Path(DATA) / name, memmap=False), dtype=np.float32).squeeze()
    data = counted(image)
    sums = sums_of(image)
    assert sums.location() == pytest.approx(biweight_location(data), rel=1e-12, abs=1e-12 * sums.mad)
    assert sums.scale() == pytest.approx(biweight_scale(data), rel=1e-12, abs=0)


@pytest.mark.parametrize("name", IMAGES)
def test_sums_are_those_of_the_rounded_terms(name):
    """The same terms by numpy, rounded, added as Python integers: the compiled loop has these bits."""
    image = IMAGES[name]().astype(np.float32)
    sums = sums_of(image)
    r = (counted(image) - sums.median) * (1 / sums.mad)
    r = np.where(np.abs(r) < 16, r, 16.0)
    q = r * r
    inner = np.maximum(1 - q * (1 / 36), 0)
    outer = np.maximum(1 - q * (1 / 81), 0)
    fourth = (outer * outer) * (outer * outer)
    terms = r * (inner * inner), inner * inner, q * fourth, outer * (1 - q * (5 / 81))
    expected = [sum(map(int, np.rint(t * 2.0**FRACTION_BITS).ravel().tolist())) for t in terms]
    assert [sums.moment, sums.weight, sums.squares, sums.slope] == expected


def test_terms_of_single_pixels_against_fractions():
    """One pixel at a time, near and far from the edges at 6 and 9 MAD, within one unit and the float64 rounding."""
    edges = [0, 0.25, 1, 3.999, 5.999999, 6, 6.000001, 8.999999, 9, 9.000001, 15, 16, 17, 1e30]
    for value in [s * e for e in edges for s in (1, -1)]:
        pixel = np.array([value], np.float32)
        sums = BiweightSums.from_values(pixel, median=0.0, mad=1.0)
        r = Fraction(float(pixel[0]))
        inner, outer = max(1 - r * r / 36, 0), max(1 - r * r / 81, 0)
        exact = r * inner**2, inner**2, r * r * outer**4, outer * (1 - 5 * r * r / 81)
        for found, term in zip((sums.moment, sums.weight, sums.squares, sums.slope), exact, strict=True):
            assert abs(Fraction(found, 2**FRACTION_BITS) - term) <= Fraction(1, 2**FRACTION_BITS)
        assert sums.n == 1


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-45, 3e38])
def test_mad_zero(value):
    image = np.full((5, 7), value, np.float32)
    image[0, :6] = value / 2
    image[0, 6] = np.nan
    sums = sums_of(image)
    assert (sums.n, sums.mad) == (34, 0.0)
    assert sums.location() == biweight_location(counted(image)) == np.float32(value)
    assert sums.scale() == biweight_scale(counted(image)) == 0.0


def test_no_value():
    nothing = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    mask = np.array([[False, False, False, True]])
    for sums in (
        BiweightSums.from_values(nothing, median=math.nan, mad=math.nan, mask=mask),
        BiweightSums.from_values(np.empty((0, 4), np.float32), median=2.0, mad=1.0),
    ):
        assert sums.n == 0
        assert math.isnan(sums.location())
        assert math.isnan(sums.scale())
        assert BiweightSums.from_bytes(sums.to_bytes()).to_bytes() == sums.to_bytes()
        assert sums.merge(sums).to_bytes() == sums.to_bytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["sources", "holes", "denormal", "wide"])
def test_any_split_and_order_gives_the_same_bytes(name, seed):
    rng = np.random.default_rng(seed)
    image = IMAGES[name]().astype(np.float32)
    mask = rng.random(SHAPE) < 0.2
    whole = sums_of(image, mask)
    rows = np.sort(rng.choice(np.arange(1, SHAPE[0]), 5, replace=False))
    columns = np.sort(rng.choice(np.arange(1, SHAPE[1]), 4, replace=False))

    def cut(plane):
        return [t for band in np.split(plane, rows) for t in np.split(band, columns, axis=1)]

    parts = [
        BiweightSums.from_values(tile, median=whole.median, mad=whole.mad, mask=tile_mask)
        for tile, tile_mask in zip(cut(image), cut(mask), strict=True)
    ]
    rng.shuffle(parts)
    assert BiweightSums.merged(iter(parts)).to_bytes() == whole.to_bytes()
    while len(parts) > 1:  # a random binary tree, through bytes
        first, second = (parts.pop(rng.integers(len(parts))) for _ in range(2))
        parts.append(BiweightSums.from_bytes(first.merge(second).to_bytes()))
    assert parts[0].to_bytes() == whole.to_bytes()
    assert (parts[0].location(), parts[0].scale()) == (whole.location(), whole.scale())


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32)), st.data())
def test_anything_split_anywhere(values, data):
    finite = counted(values)
    center = (np.median(finite), median_absolute_deviation(finite)) if finite.size else (math.nan, math.nan)
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=4)))
    parts = [BiweightSums.from_values(p, median=center[0], mad=center[1]) for p in np.split(values, cuts)]
    whole = BiweightSums.from_values(values, median=center[0], mad=center[1])
    assert BiweightSums.merged(parts).to_bytes() == whole.to_bytes()
    if finite.size:
        with np.errstate(over="ignore"):  # astropy raises to a power what it then leaves out, too
            location, scale = biweight_location(finite), biweight_scale(finite)
        assert whole.location() == pytest.approx(location, rel=1e-12, abs=1e-12 * whole.mad)
        assert whole.scale() == pytest.approx(scale, rel=1e-9, abs=0)


def test_block_size_does_not_show():
    image = IMAGES["holes"]().astype(np.float32)
    whole = sums_of(image)
    rows = [BiweightSums.from_values(row, median=whole.median, mad=whole.mad) for row in image]
    assert BiweightSums.merged(rows) == whole
    pixels = [BiweightSums.from_values(p, median=whole.median, mad=whole.mad) for p in image[3, :, None]]
    assert BiweightSums.merged(pixels) == rows[3]


def test_a_block_of_the_largest_terms_does_not_overflow():
    """Every pixel at the maximum of a term: block sums and the sums over blocks stay exact."""
    n = 5 * biweight._BLOCK + 3
    for r, field in ((6 / math.sqrt(5), "moment"), (0.0, "weight"), (9 / math.sqrt(5), "squares"), (0.0, "slope")):
        pixel = np.array([r], np.float32)
        one = BiweightSums.from_values(pixel, median=0.0, mad=1.0)
        many = BiweightSums.from_values(np.repeat(pixel, n), median=0.0, mad=1.0)
        assert getattr(many, field) == n * getattr(one, field)
        assert getattr(one, field) < 8 << FRACTION_BITS
    assert biweight._BLOCK * 8 << FRACTION_BITS < 2**63


def test_1e12_pixels():
    """Merging with itself until 2**47 pixels: sums beyond 64 bits, against exact fractions."""
    values = np.array([-7, -3, -1, 0, 0.5, 1, 2, 30], np.float32)
    one = sums = sums_of(values)
    for _ in range(44):
        sums = sums.merge(sums)
    n = 2**44
    assert sums.n == 8 * n > 10**12
    assert sums.squares == one.squares * n > 2**64
    assert sums.weight == one.weight * n > 2**64
    back = BiweightSums.from_bytes(sums.to_bytes())
    assert back == sums
    location = Fraction(sums.median) + Fraction(sums.mad) * Fraction(one.moment, one.weight)
    variance = 8 * Fraction(sums.mad) ** 2 * Fraction(one.squares << FRACTION_BITS, one.slope**2)
    assert back.location() == pytest.approx(float(location), rel=1e-15, abs=1e-16)
    assert back.scale() == pytest.approx(math.sqrt(variance), rel=1e-15)
    with pytest.raises(RunError, match="split the image"):
        sums.merge(sums)


def test_repeated_images_have_the_same_biweights():
    """1e11 pixels: 25000 copies of a tile of 4 megapixels, as bytes and back."""
    image = _rng().normal(5, 2, (200, 200)).astype(np.float32)
    tile = BiweightSums.merged([sums_of(image)] * 100)
    mosaic = BiweightSums.merged([tile] * 25000)
    assert mosaic.n == 10**11
    assert mosaic.location() == sums_of(image).location()
    assert mosaic.scale() == sums_of(image).scale()


def test_input_is_untouched_and_views_equal_copies():
    image = IMAGES["holes"]().astype(np.float32)
    mask = image > 4
    before = image.tobytes(), mask.tobytes()
    view, mask_view = image[3:60:2, 7:90], mask[3:60:2, 7:90]
    assert sums_of(view, mask_view) == sums_of(view.copy(), mask_view.copy())
    assert sums_of(view, mask_view).n == counted(view, mask_view).size
    assert (image.tobytes(), mask.tobytes()) == before


@pytest.mark.parametrize("name", IMAGES)
def test_median_and_mad_come_from_the_first_two_passes(name):
    image = IMAGES[name]().astype(np.float32)
    histogram = KeyHistogram.from_values(image)
    bins = np.union1d(percentile_bins(histogram, [50]), mad_bins(histogram))
    refinement = Refinement.from_values(image, bins)
    mad = selected_mad(histogram, refinement)
    assert mad == median_absolute_deviation(counted(image))
    assert mad_std(histogram, refinement) == mad * MAD_TO_STD
    median = percentile(histogram, refinement, 50)
    assert BiweightSums.from_values(image, median=median, mad=mad) == sums_of(image)


def test_damaged_bytes_are_refused():
    data = sums_of(IMAGES["normal"]().astype(np.float32)).to_bytes()
    assert len(data) == 96
    for damaged in (data[:-1], data[:40], data + b"0"):
        with pytest.raises(InputError, match="should have 96"):
            BiweightSums.from_bytes(damaged)
    for damaged in (b"x" + data[1:], b"", data[:20]):
        with pytest.raises(InputError, match="not a BiweightSums"):
            BiweightSums.from_bytes(damaged)


def test_refusals():
    image = np.zeros((4, 5), np.float32)
    with pytest.raises(ParameterError, match="native float32"):
        BiweightSums.from_values(image.astype(float), median=0.0, mad=1.0)
    with pytest.raises(ParameterError, match="bool mask of that shape"):
        BiweightSums.from_values(image, median=0.0, mad=1.0, mask=np.zeros((5, 4), bool))
    for median in (math.inf, math.nan):
        with pytest.raises(ParameterError, match="is not a place to measure distances from"):
            BiweightSums.from_values(image, median=median, mad=1.0)
    for mad in (math.nan, math.inf, -1.0, 1e-50):
        with pytest.raises(ParameterError, match="cannot be the median absolute deviation"):
            BiweightSums.from_values(image, median=0.0, mad=mad)
    with pytest.raises(ParameterError, match="image without values, but there are 20"):
        BiweightSums.from_values(image, median=math.nan, mad=math.nan)
    sums = BiweightSums.from_values(image, median=0.0, mad=1.0)
    for median, mad in ((1.0, 1.0), (0.0, 2.0)):
        with pytest.raises(ParameterError, match="different medians or in different MADs"):
            sums.merge(BiweightSums.from_values(image, median=median, mad=mad))
    with pytest.raises(ParameterError, match="at least one"):
        BiweightSums.merged([])


def test_a_wrong_median_gives_nan_not_a_number_of_another_image():
    far = BiweightSums.from_values(np.full((3, 3), 100, np.float32), median=0.0, mad=1.0)
    assert far.n == 9
    assert math.isnan(far.location())
    assert math.isnan(far.scale())
