"""Exact percentiles, MAD and clipped statistics against numpy, astropy and an oracle on exact rationals."""

import math
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import SigmaClip, sigma_clipped_stats
from astropy.stats import mad_std as astropy_mad_std
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledsky.errors import ParameterError, RunError
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.needed_bins import clipping_bins, mad_bins, percentile_bins
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.kernels.statistics.selection import ClippedStatistics, clipped_statistics, mad_std, percentile

DATA = os.environ.get("TILEDSKY_TEST_DATA")


def clipped(values, mask=None, **clip):
    histogram = KeyHistogram.from_values(values, mask=mask)
    refinement = Refinement.from_values(values, clipping_bins(histogram, **clip), mask=mask)
    return clipped_statistics(histogram, refinement, **clip)


def oracle(values, *, sigma_lower=3.0, sigma_upper=3.0, maxiters=5, center="median"):
    """The rule in plain Python; mean and pstdev of `statistics` are exact and rounded once."""
    kept = np.sort(values[np.isfinite(values)].astype(float)) + 0.0
    lower, upper = -math.inf, math.inf
    iteration, dropped = 0, 1
    while dropped and kept.size and iteration != maxiters:
        middle = np.median(kept) if center == "median" else statistics.mean(kept.tolist())
        std = statistics.pstdev(kept.tolist())
        lower, upper = max(lower, float(middle - sigma_lower * std)), min(upper, float(middle + sigma_upper * std))
        remaining = kept[(kept >= lower) & (kept <= upper)]
        dropped = kept.size - remaining.size
        kept = remaining
        iteration += 1
    if not kept.size:
        return ClippedStatistics(math.nan, math.nan, math.nan, 0, lower, upper)
    floats = kept.tolist()
    return ClippedStatistics(
        statistics.mean(floats), float(np.median(kept)), statistics.pstdev(floats), kept.size, lower, upper
    )


def same(a, b):
    return repr(a) == repr(b)


def distributions(rng, n):
    """Sky and its troubles, as float32."""
    sky = rng.normal(0, 1, n)
    sources = np.where(rng.random(n) < 0.1, rng.pareto(0.8, n) * 5, 0)
    return {
        "sky": sky,
        "sources": sky + sources,
        "pedestal": 1e3 + sky + sources,
        "huge pedestal": 1e6 + 3 * sky + sources,
        "faint": 1e-30 * (sky + sources),
        "bimodal": np.where(rng.random(n) < 0.45, sky, 50 + 2 * sky),
        "counts": rng.poisson(7, n) + np.floor(sources),
        "cauchy": rng.standard_cauchy(n),
        "decades": rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-30, 30, n),
        "two values": rng.choice([-1e-3, 1e7], n, p=[0.97, 0.03]),
        "constant": np.full(n, 0.1),
    }


NAMES = list(distributions(np.random.default_rng(0), 2))


@pytest.fixture(scope="module")
def samples():
    return {k: v.astype(np.float32) for k, v in distributions(np.random.default_rng(1), 60_001).items()}


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("maxiters", [1, 5, None])
@pytest.mark.parametrize("name", NAMES)
def test_clipping_equals_astropy(samples, name, maxiters, center):
    values = samples[name][: 60_000 + (maxiters == 5)]
    result = clipped(values, maxiters=maxiters, center=center)
    doubles = values.astype(np.float64)
    mean, median, std = sigma_clipped_stats(doubles, maxiters=maxiters, cenfunc=center)
    survivors = SigmaClip(sigma=3, maxiters=np.inf if maxiters is None else maxiters, cenfunc=center)(
        doubles, masked=False
    )
    assert np.array_equal(doubles[(doubles >= result.lower) & (doubles <= result.upper)], survivors)
    assert result.n == survivors.size > 0
    assert result.median == median
    tolerance = 1e-12 * max(std, abs(median))  # the reference rounds each sum in float64
    assert abs(result.mean - mean) <= tolerance
    assert abs(result.std - std) <= tolerance


@pytest.mark.parametrize("name", NAMES)
def test_clipping_equals_exact_oracle(samples, name):
    values = samples[name][:4001]
    for clip in ({}, {"sigma_lower": 1.5, "sigma_upper": 4.0, "maxiters": None}, {"center": "mean", "maxiters": 2}):
        assert same(clipped(values, **clip), oracle(values, **clip))


@st.composite
def nasty_values(draw):
    """Few or many values around pedestals and over many decades, with ties, zeros and denormals."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n = draw(st.integers(1, 120))
    parts = draw(st.lists(st.sampled_from([*NAMES, "denormal", "zeros", "grid"]), min_size=1, max_size=3))
    pieces = []
    for part in parts:
        extra = {
            "denormal": rng.integers(-40, 40, n) * 1e-45,
            "zeros": np.zeros(n),
            "grid": rng.integers(-3, 4, n) * 0.25,
        }
        pieces.append(extra[part] if part in extra else distributions(rng, n)[part])
    scale = draw(st.sampled_from([1.0, -1.0, 1e-3, 1e5]))
    values = (np.concatenate(pieces) * scale).astype(np.float32)
    values = np.concatenate([values, np.array(draw(st.lists(st.floats(width=32), max_size=4)), dtype=np.float32)])
    return values[rng.permutation(values.size)]


@settings(max_examples=300, deadline=None)
@given(
    nasty_values(),
    st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 1 / 3]),
    st.sampled_from([0.5, 1.0, 2.5, 3.0, 10.0]),
    st.sampled_from([1, 2, 5, None]),
    st.sampled_from(["median", "mean"]),
)
def test_clipping_of_nasty_values(values, sigma_lower, sigma_upper, maxiters, center):
    """One refinement is always enough, and every number has the bits of the exact oracle."""
    if not np.isfinite(values).any():
        values = np.append(values, np.float32(1))
    clip = {"sigma_lower": sigma_lower, "sigma_upper": sigma_upper, "maxiters": maxiters, "center": center}
    assert same(clipped(values, **clip), oracle(values, **clip))


@settings(max_examples=150, deadline=None)
@given(nasty_values(), st.lists(st.floats(0, 100), min_size=1, max_size=3))
def test_percentiles_and_mad_of_nasty_values(values, percentiles):
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return
    histogram = KeyHistogram.from_values(values)
    refinement = Refinement.from_values(values, percentile_bins(histogram, [50, *percentiles]))
    assert percentile(histogram, refinement, 50) == np.median(finite)
    for q in percentiles:
        assert percentile(histogram, refinement, q) == np.percentile(finite, q)
    assert mad_std(histogram, Refinement.from_values(values, mad_bins(histogram))) == astropy_mad_std(finite)


@pytest.mark.parametrize("name", NAMES)
def test_percentiles_and_mad(samples, name):
    values = samples[name]
    doubles = values.astype(np.float64)
    histogram = KeyHistogram.from_values(values)
    for q in (0, 0.1, 15.865, 50, 84.135, 99.9, 100):
        bins = percentile_bins(histogram, [q])
        assert bins.size <= 2
        assert percentile(histogram, Refinement.from_values(values, bins), q) == np.percentile(doubles, q)
    bins = mad_bins(histogram)
    assert bins.size <= 6
    assert mad_std(histogram, Refinement.from_values(values, bins)) == astropy_mad_std(doubles)


def test_few_bins_are_needed(samples):
    """The second pass looks at few bins, or it would be no better than sorting."""
    sizes = {name: clipping_bins(KeyHistogram.from_values(values)).size for name, values in samples.items()}
    assert max(sizes.values()) <= 80, sizes
    assert max(sizes[name] for name in ("sky", "pedestal", "huge pedestal", "counts")) <= 12, sizes


def test_values_once_dropped_do_not_return():
    """Bounds need not shrink: a value that tighter earlier bounds dropped stays out, as in astropy."""
    rng = np.random.default_rng(26)
    groups = zip(rng.uniform(-5, 5, 3), rng.exponential(1, 3), rng.integers(5, 200, 3), strict=True)
    values = np.concatenate([rng.normal(mean, std, n) for mean, std, n in groups]).astype(np.float32)
    clip = {"sigma_lower": 0.5, "sigma_upper": 2.0, "maxiters": 3}
    doubles = values.astype(np.float64)
    _, lower, upper = SigmaClip(**clip)(doubles, return_bounds=True)
    result = clipped(values, **clip)
    assert result.n < ((doubles >= lower) & (doubles <= upper)).sum()
    mean, median, std = sigma_clipped_stats(doubles, **clip)
    assert result.median == median
    assert (result.mean, result.std) == pytest.approx((mean, std), abs=1e-12 * std)


def test_nothing_left():
    """Two groups without a value near their middle, clipped at half a sigma: nothing remains, and that is said."""
    values = np.array([0, 0, 0, 10, 10, 10], dtype=np.float32)
    result = clipped(values, sigma_lower=0.5, sigma_upper=0.5)
    assert (result.n, result.lower, result.upper) == (0, 2.5, 7.5)
    assert np.isnan([result.mean, result.median, result.std]).all()


def test_splitting_changes_no_bit(samples):
    values = samples["sources"]
    mask = np.random.default_rng(2).random(values.size) < 0.2
    whole = clipped(values, mask=mask)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        cuts = np.sort(rng.choice(np.arange(1, values.size), 9, replace=False))
        pieces = list(zip(np.split(values, cuts), np.split(mask, cuts), strict=True))
        histogram = KeyHistogram.merged(KeyHistogram.from_values(v, mask=m) for v, m in pieces)
        bins = clipping_bins(histogram)
        rng.shuffle(order := np.arange(10))
        refinement = Refinement.merged(Refinement.from_values(pieces[i][0], bins, mask=pieces[i][1]) for i in order)
        assert same(clipped_statistics(histogram, refinement), whole)


def test_1e12_pixels():
    """An image of 10**12 pixels, made by merging: mean, median, std of the single copy, clipped alike."""
    values = distributions(np.random.default_rng(3), 20_000)["sources"].astype(np.float32)
    histogram = KeyHistogram.from_values(values)
    bins = np.union1d(clipping_bins(histogram), mad_bins(histogram))
    refinement = Refinement.from_values(values, bins)
    single = clipped_statistics(histogram, refinement), mad_std(histogram, refinement)
    for _ in range(26):
        histogram, refinement = histogram.merge(histogram), refinement.merge(refinement)
    assert histogram.n == 20_000 << 26 > 10**12
    assert np.array_equal(np.union1d(clipping_bins(histogram), mad_bins(histogram)), bins)
    many = clipped_statistics(histogram, refinement)
    assert many.n == single[0].n << 26
    assert (many.mean, many.median, many.std) == (single[0].mean, single[0].median, single[0].std)
    assert mad_std(histogram, refinement) == single[1]


@pytest.mark.skipif(DATA is None, reason="TILEDSKY_TEST_DATA is not set: real images are not there")
@pytest.mark.parametrize(
    "name", ["gama_kidsviking_r_2600.fits", "m51_kpno.fits", "dss_horsehead.fits", "bolocam_gc.fits"]
)
def test_real_images(name):
    image = np.ascontiguousarray(fits.getdata(Path(DATA) / name, memmap=False), dtype=np.float32).squeeze()
    doubles = image[np.isfinite(image)].astype(np.float64)
    result = clipped(image)
    mean, median, std = sigma_clipped_stats(doubles, maxiters=5)
    assert result.median == median
    tolerance = 1e-12 * max(std, abs(median))
    assert abs(result.mean - mean) <= tolerance
    assert abs(result.std - std) <= tolerance
    histogram = KeyHistogram.from_values(image)
    assert mad_std(histogram, Refinement.from_values(image, mad_bins(histogram))) == astropy_mad_std(doubles)


def test_no_values():
    nothing = np.full((3, 3), np.nan, dtype=np.float32)
    histogram = KeyHistogram.from_values(nothing)
    refinement = Refinement.from_values(nothing, [])
    assert clipping_bins(histogram).size == mad_bins(histogram).size == percentile_bins(histogram, [50]).size == 0
    assert same(clipped_statistics(histogram, refinement), ClippedStatistics(*[math.nan] * 3, 0, math.nan, math.nan))
    assert math.isnan(mad_std(histogram, refinement))
    assert math.isnan(percentile(histogram, refinement, 50))


def outcome(histogram, refinement):
    """Text of the clipped statistics, or that a bin was missing."""
    try:
        return repr(clipped_statistics(histogram, refinement))
    except RunError as error:
        return "not refined" if "was not refined" in str(error) else str(error)


def test_a_missing_bin_is_an_error(samples):
    """Each bin left out of the refinement either does not matter or is missed loudly; some must matter."""
    values = samples["sources"]
    histogram = KeyHistogram.from_values(values)
    bins = clipping_bins(histogram)
    expected = clipped_statistics(histogram, Refinement.from_values(values, bins))
    outcomes = [outcome(histogram, Refinement.from_values(values, bins[bins != left_out])) for left_out in bins]
    assert set(outcomes) == {repr(expected), "not refined"}
    assert outcomes.count("not refined") >= 3
    with pytest.raises(RunError, match="was not refined"):
        clipped_statistics(histogram, Refinement.from_values(values, []))
    with pytest.raises(RunError, match="was not refined"):
        mad_std(histogram, Refinement.from_values(values, percentile_bins(histogram, [50])))
    with pytest.raises(RunError, match="was not refined"):
        percentile(histogram, Refinement.from_values(values, []), 50)


def test_refinement_of_other_pixels_is_an_error(samples):
    values = samples["sky"]
    histogram = KeyHistogram.from_values(values)
    refinement = Refinement.from_values(values[: values.size // 2], clipping_bins(histogram))
    with pytest.raises(RunError, match="not of the same pixels"):
        clipped_statistics(histogram, refinement)


@pytest.mark.parametrize(
    ("clip", "match"),
    [
        ({"sigma_lower": 0.0}, "sigma_lower=0.0"),
        ({"sigma_upper": math.inf}, "finite sigma_upper"),
        ({"maxiters": 0}, "maxiters >= 1"),
        ({"center": "mode"}, "center='median' or 'mean'"),
    ],
)
def test_refusals(samples, clip, match):
    histogram = KeyHistogram.from_values(samples["constant"])
    with pytest.raises(ParameterError, match=match):
        clipping_bins(histogram, **clip)
    with pytest.raises(ParameterError, match=match):
        clipped_statistics(histogram, Refinement.from_values(samples["constant"], histogram.bins), **clip)
    with pytest.raises(ParameterError, match="within 0 to 100"):
        percentile_bins(histogram, [101])
