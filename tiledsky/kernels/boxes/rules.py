"""What all box kernels share: the rules of clipping and estimating, as numbers, and the limits that follow."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

MAD_TO_STD = 1.482602218505602  # 1 / (3/4 quantile of the normal distribution)
LOCATION_TUNING, SCALE_TUNING = 6.0, 9.0  # of the biweights, in median absolute deviations (Beers et al. 1990)
_EPSILON = 2.0**-52


class Rules(NamedTuple):
    """What the compiled code needs to know, as numbers."""

    clip: bool
    sigma_lower: float
    sigma_upper: float
    maxiters: int
    center_mean: bool
    spread_mad: bool
    estimator: int
    rms: int


class BoxGrid(NamedTuple):
    """Boxes of one size: the pixel where the first begins, their sides, how many there are."""

    top: int
    left: int
    by: int
    bx: int
    n_rows: int
    n_columns: int
    partial: bool  # cut off by the end of the image


class FlatStatistics(NamedTuple):
    """Outputs of a grid of boxes, flat, in row order; `lower` and `upper` are the last clipping limits."""

    background: np.ndarray
    rms: np.ndarray
    n_good: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@njit(nogil=True, cache=True)
def box_corner(grid: BoxGrid, box: int) -> tuple[int, int]:
    """Return the first pixel (y, x) of a box."""
    return grid.top + box // grid.n_columns * grid.by, grid.left + box % grid.n_columns * grid.bx


@njit(nogil=True, cache=True)
def clip_limits(
    n: int, median: float, offset: float, spread: float, largest: float, rules: Rules
) -> tuple[float, float, float]:
    """Return the clipping limits of n values, and how uncertain they are by rounding (-1: not at all).

    `offset` is mean - median, `spread` the unit of the limits, `largest` the largest absolute value.
    """
    center = median + offset if rules.center_mean else median
    if spread == 0.0:  # also keeps 0 * inf out
        return center, center, -1.0
    lower, upper = center - rules.sigma_lower * spread, center + rules.sigma_upper * spread
    if rules.spread_mad and not rules.center_mean:
        return lower, upper, -1.0  # selections only: nothing was rounded that the reference rounds otherwise
    # A plain sum of n values may be off by n eps of the largest; the std feels that in second order.
    mean_error = n * _EPSILON * largest
    sigma = 0.0
    if rules.sigma_lower < np.inf:
        sigma = rules.sigma_lower
    if rules.sigma_upper < np.inf:
        sigma = max(sigma, rules.sigma_upper)
    error = sigma * (n * _EPSILON * spread + mean_error * mean_error / spread)
    error += 4.0 * _EPSILON * (largest + abs(center))
    return lower, upper, error + (mean_error if rules.center_mean else 0.0)


@njit(nogil=True, cache=True)
def deviation_from_sums(n: int, sum0: float, sum1: float) -> tuple[float, float]:
    """Return mean - median and the standard deviation from the sums of (value - median) and of its square.

    Mean and median are never more than one standard deviation apart, so the subtraction loses a bit at most.
    """
    offset = sum0 / n
    return offset, math.sqrt(max(sum1 / n - offset * offset, 0.0))


@njit(nogil=True, cache=True)
def select(values: np.ndarray, n: int, k: int) -> float:
    """Return the k-th smallest of values[:n], reordered in place (Hoare's FIND with the k-th element as pivot)."""
    left, right = 0, n - 1
    while left < right:
        pivot = values[k]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < k:
            left = i
        if k < i:
            right = j
    return values[k]


@njit(nogil=True, cache=True)
def select_median(values: np.ndarray, n: int) -> float:
    """Return the median of values[:n], reordered in place."""
    upper = select(values, n, n // 2)
    return upper if n % 2 == 1 else 0.5 * (upper + select(values, n, n // 2 - 1))


@njit(nogil=True, cache=True)
def _plain_limits(values: np.ndarray, deviations: np.ndarray, n: int, rules: Rules) -> tuple[float, float]:
    """Return the clipping limits of values[:n] (float64, pixel order) by plain sums, as astropy rounds them."""
    rounds = 0
    while True:
        median = select_median(values, n)
        total = 0.0
        for i in range(n):
            total += values[i]
        mean = total / n
        if rules.spread_mad:
            for i in range(n):
                deviations[i] = abs(values[i] - median)
            spread = select_median(deviations, n) * MAD_TO_STD
        else:
            total = 0.0
            for i in range(n):
                total += (values[i] - mean) * (values[i] - mean)
            spread = math.sqrt(total / n)
        center = mean if rules.center_mean else median
        lower, upper = center - rules.sigma_lower * spread, center + rules.sigma_upper * spread
        kept = 0
        for i in range(n):
            if lower <= values[i] <= upper:
                values[kept] = values[i]
                kept += 1
        rounds += 1
        if kept == n or kept == 0 or rounds == rules.maxiters:
            return lower, upper
        n = kept


@njit(nogil=True, cache=True)
def tied_limits(
    data: np.ndarray,
    mask: np.ndarray,
    grid: BoxGrid,
    box: int,
    rules: Rules,
    values: np.ndarray,
    deviations: np.ndarray,
) -> tuple[float, float]:
    """Return the clipping limits of one box where a value lies on a limit, so that rounding decides.

    Images of whole numbers do that in one box in some thousands; the reference's order of pixels and of sums is
    followed then, also that it reads the partial boxes at the end of the image column by column. The last two arguments
    are scratch for the pixels of a box, float64.
    """
    by, bx = grid.by, grid.bx
    y0, x0 = box_corner(grid, box)
    n = 0
    for i in range(by * bx):
        y, x = (y0 + i % by, x0 + i // by) if grid.partial else (y0 + i // bx, x0 + i % bx)
        value = data[y, x]
        if abs(value) < np.inf and not (mask.size > 0 and mask[y, x]):
            values[n] = value
            n += 1
    return _plain_limits(values, deviations, n, rules)
