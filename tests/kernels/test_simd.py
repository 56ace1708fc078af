"""Vectors written in LLVM IR against their twins in plain numpy, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from tests.kernels import twins
from tiledsky.kernels._simd import lanes, passes

LANES, ROWS = lanes.LANES, 43
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
TERMS = pytest.mark.parametrize("terms", ["moments", "location", "scale"])


def noise(dtype, shape, *, seed=5):
    """Values around a level, a few of them far away."""
    rng = np.random.default_rng(seed)
    values = rng.normal(3.0, 0.2, shape)
    return np.where(rng.random(shape) < 0.05, values * 40, values).astype(dtype)


def broken(dtype, shape):
    """The same with NaN and infinities."""
    values, rng = noise(dtype, shape), np.random.default_rng(6)
    for bad in (np.nan, np.inf, -np.inf):
        values[rng.random(shape) < 0.1] = bad
    return values


def same(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@njit
def _gather(image, offsets, n, buffer, first_row, counts):
    lanes.gather_columns(image, offsets, n, buffer, first_row, counts)


@njit
def _drop(values):
    return passes.drop_infinite(values, values.size)


@njit
def _probe(values, pivot):
    return passes.probe(values, values.size, pivot)


@njit
def _outside(values, lower, upper):
    return passes.outside(values, values.size, lower, upper)


@DTYPES
def test_gathered_columns(dtype):
    image = broken(dtype, (30, 50))
    offsets = np.random.default_rng(1).integers(0, image.size - 12, LANES)
    pairs = [(np.zeros(20 * LANES, dtype), np.arange(LANES)) for _ in range(2)]
    _gather(image, offsets, 12, pairs[0][0], 3, pairs[0][1])
    twins.gather_columns(image, offsets, 12, pairs[1][0], 3, pairs[1][1])
    for found, expected in zip(*pairs, strict=True):
        same(found, expected)


@DTYPES
@pytest.mark.parametrize("n_rows", [1, 8, ROWS, 600])
def test_sorted_lanes(dtype, n_rows):
    size = -(-n_rows // lanes.BASE_ROWS) * lanes.BASE_ROWS
    found = np.full((size, LANES), np.inf, dtype)
    found[:n_rows] = noise(dtype, (n_rows, LANES))
    found[n_rows // 2 : n_rows, ::3] = np.inf
    expected = found.ravel().copy()
    found = found.ravel()
    lanes.sort_lanes(found, n_rows)
    twins.sort_lanes(expected, n_rows)
    same(found, expected)


@DTYPES
@TERMS
def test_sums_of_lanes(dtype, terms):
    function = {
        "moments": lanes.moments,
        "location": lanes.biweight_location_sums,
        "scale": lanes.biweight_scale_sums,
    }[terms]

    @njit
    def summed(buffer, first, last, start, stop, centre, factor, sum0, sum1):
        function(buffer, first, last, start, stop, centre, factor, sum0, sum1)

    buffer, rng = noise(dtype, ROWS * LANES), np.random.default_rng(2)
    buffer[-LANES:] = np.inf  # rows that fill up a buffer
    start, stop = rng.integers(0, 10, LANES), rng.integers(20, ROWS - 1, LANES)
    centre, factor = rng.normal(3.0, 0.1, LANES), rng.uniform(0.5, 3.0, LANES)
    found = np.empty((2, LANES))
    summed(buffer, 2, ROWS, start, stop, centre, factor, found[0], found[1])
    twin = {"moments": twins.moment_terms, "location": twins.location_terms, "scale": twins.scale_terms}[terms]
    same(found, np.stack(twins.lane_sums(twin, buffer, 2, ROWS, start, stop, centre, factor)))


@DTYPES
def test_counts(dtype):
    found, expected = broken(dtype, ROWS * LANES), broken(dtype, ROWS * LANES)
    assert _drop(found) == twins.drop_infinite(expected)
    np.testing.assert_array_equal(found, expected)
    for pivot in (dtype(3.0), dtype(-1e9), dtype(1e9), found[~np.isnan(found)][5]):
        assert _probe(found, pivot) == twins.probe(found, pivot)
    for lower, upper in ((2.7, 3.3), (-1e9, 1e9), (1e9, 1e9), (-np.inf, np.inf)):
        limits = dtype(lower), dtype(upper)
        assert _outside(found, *limits) == twins.outside(found, *limits)


@DTYPES
@TERMS
def test_sums_between(dtype, terms):
    function = {
        "moments": passes.moments_between,
        "location": passes.location_sums_between,
        "scale": passes.scale_sums_between,
    }[terms]

    @njit
    def summed(values, lower, upper, centre, factor):
        return function(values, values.size, lower, upper, centre, factor)

    values = broken(dtype, ROWS * LANES)
    limits = dtype(2.0), dtype(4.0)
    twin = {"moments": twins.moment_terms, "location": twins.location_terms, "scale": twins.scale_terms}[terms]
    same(summed(values, *limits, 2.96, 2.5), twins.sums_between(twin, values, *limits, 2.96, 2.5))
