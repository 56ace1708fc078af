"""Exact sums against Python's exact rationals (fractions, statistics) and math.fsum."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledsky.kernels.statistics.sums import (
    UNIT_BITS,
    DoubtfulGroup,
    Moments,
    bin_base_and_shift,
    mean_bounds,
    mean_interval,
    moments_of_bin,
    sqrt_of_ratio,
    std_interval,
    to_units,
    weighted_sum,
)

FLOATS32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def moments(values):
    """Moments by plain rational arithmetic."""
    units = [to_units(v) for v in values]
    return Moments(len(units), sum(units), sum(u * u for u in units))


@given(st.lists(FLOATS32, min_size=1, max_size=40))
def test_mean_and_std_are_correctly_rounded(values):
    m = moments(values)
    assert m.mean() == statistics.mean(values)
    assert m.std() == statistics.pstdev(values)


def test_against_fsum_and_numpy():
    values = np.random.default_rng(1).normal(1e4, 3, 5000).astype(np.float32).astype(float).tolist()
    m = moments(values)
    assert m.mean() == pytest.approx(math.fsum(values) / len(values), rel=1e-15)
    exact_mean = Fraction(sum(map(Fraction, values)), 1) / len(values)
    variance = math.fsum(float((Fraction(v) - exact_mean) ** 2) for v in values) / len(values)
    assert m.std() == pytest.approx(math.sqrt(variance), rel=1e-15)


def test_empty_and_single():
    assert math.isnan(Moments().mean())
    assert math.isnan(Moments().std())
    assert moments([np.float32(-3.5)]) == Moments(1, -7 << (UNIT_BITS - 1), 49 << (2 * UNIT_BITS - 2))
    assert moments([0.1]).std() == 0.0


@given(st.integers(1, 10**60), st.integers(1, 10**60))
def test_square_root_is_the_nearest_float(p, q):
    root = sqrt_of_ratio(p, q)
    ratio = Fraction(p, q)
    below = (Fraction(root) + Fraction(math.nextafter(root, 0))) / 2
    above = (Fraction(root) + Fraction(math.nextafter(root, math.inf))) / 2
    assert below**2 <= ratio <= above**2


@pytest.mark.parametrize(
    ("p", "q", "root"), [(0, 7, 0.0), (9, 4, 1.5), (1 << 600, 1, 2.0**300), (1, 1 << 600, 2.0**-300)]
)
def test_square_root_of_squares(p, q, root):
    assert sqrt_of_ratio(p, q) == root


@given(FLOATS32.filter(lambda v: v != 0))
def test_bin_arithmetic_gives_the_value(value):
    bits = int(np.float32(value).view(np.int32))
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)) + 0x80000000
    base, shift = bin_base_and_shift(key >> 16)
    assert Fraction((base + (key & 0xFFFF)) << shift, 1 << UNIT_BITS) == Fraction(value)


@given(st.integers(0x80, 0xFF7F), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20))
def test_moments_of_a_bin(bin_index, lows):
    base, shift = bin_base_and_shift(bin_index)
    units = [(base + low) << shift for low in lows]
    expected = Moments(len(lows), sum(units), sum(u * u for u in units))
    assert moments_of_bin(bin_index, len(lows), sum(lows), sum(low * low for low in lows)) == expected


def test_weighted_sum_has_no_overflow():
    counts = np.full(65536, 2**64 - 1, dtype=np.uint64)
    weights = np.full(65536, 0xFFFF**2, dtype=np.uint64)
    assert weighted_sum(counts, weights) == 65536 * (2**64 - 1) * 0xFFFF**2


@settings(max_examples=200)
@given(
    st.lists(FLOATS32, max_size=8),
    st.lists(st.lists(FLOATS32, min_size=1, max_size=6), max_size=2),
    st.data(),
)
def test_intervals_hold_every_subset(certain, groups, data):
    """Whatever part of the doubtful values is taken, mean and std lie in the intervals."""
    doubtful = [DoubtfulGroup(len(g), to_units(min(g)), to_units(max(g))) for g in groups]
    taken = [v for g in groups for v in g if data.draw(st.booleans())]
    values = certain + taken
    if not values:
        return
    m = moments(values)
    low, high = mean_interval(moments(certain), doubtful)
    assert low <= m.mean() <= high
    low, high = std_interval(moments(certain), doubtful)
    assert low <= m.std() <= high


def test_intervals_of_certain_values_are_points():
    m = moments([1.0, 2.5, -3.25])
    assert mean_bounds(m, []) == (Fraction(m.total, 3), Fraction(m.total, 3))
    assert mean_interval(m, []) == (m.mean(), m.mean())
    assert std_interval(m, []) == (m.std(), m.std())


def test_intervals_are_narrow():
    """One doubtful value in a thousand, at three sigma, moves the std by far less than a per cent of itself."""
    values = np.random.default_rng(2).normal(0, 1, 1000).astype(np.float32).astype(float).tolist()
    m = moments(values)
    low, high = std_interval(m, [DoubtfulGroup(1, to_units(3.0), to_units(3.015625))])
    assert low <= m.std() <= high
    assert high - low < 0.01 * m.std()
