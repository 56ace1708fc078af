"""Statistics of large boxes: one at a time, by counting passes.

The values stay where they are. A clip is a pair of limits; a median is found by counting how many values are at or
below a guess and looking at its neighbours; few passes a round, as clipping hardly moves it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from tiledsky.kernels._simd.lanes import LANES
from tiledsky.kernels._simd.passes import (
    drop_infinite,
    location_sums_between,
    moments_between,
    outside,
    probe,
    scale_sums_between,
)
from tiledsky.kernels.boxes.estimators import BIWEIGHT, BIWEIGHT_SCALE, MAD_STD, STD, location
from tiledsky.kernels.boxes.rules import (
    LOCATION_TUNING,
    MAD_TO_STD,
    SCALE_TUNING,
    BoxGrid,
    FlatStatistics,
    Rules,
    box_corner,
    clip_limits,
    deviation_from_sums,
    select,
    tied_limits,
)

_GUESS_VALUES = 48  # that the first guess of a median is made from
_BISECT_EVERY = 5  # probes; bounds the search on values that no density describes


@njit(nogil=True, cache=True)
def _gather(data: np.ndarray, mask: np.ndarray, grid: BoxGrid, box: int, values: np.ndarray) -> int:
    """Copy a box row by row, NaN for what is left out; return the number of good pixels."""
    by, bx = grid.by, grid.bx
    y0, x0 = box_corner(grid, box)
    for r in range(by):
        row, source = values[r * bx : (r + 1) * bx], data[y0 + r, x0 : x0 + bx]
        for c in range(bx):
            row[c] = source[c]
    if mask.size > 0:
        for r in range(by):
            row, hidden = values[r * bx : (r + 1) * bx], mask[y0 + r, x0 : x0 + bx]
            for c in range(bx):
                row[c] = np.nan if hidden[c] else row[c]
    return drop_infinite(values, values.size)


@njit(nogil=True, cache=True)
def _rank_pair(
    values: np.ndarray, m: int, k: int, guess: float, step: float, smallest: float, largest: float
) -> tuple[float, float]:
    """Return the numbers of rank k and k + 1 (from 0) in values[:m]; the second has no meaning where k is the last.

    `smallest` and `largest` are those of the numbers. `guess` is where to start, `step` how far one rank is there; both
    only decide how long it takes.
    """
    number = values.dtype.type
    low, high = smallest, largest  # rank k lies in low .. high; only ranks below it lie below low
    place, last_place, last_count = np.float64(guess), 0.0, -1
    tries = 0
    while low < high:
        if tries % _BISECT_EVERY == _BISECT_EVERY - 1:
            place = 0.5 * np.float64(low) + 0.5 * np.float64(high)
        # The pivot lies in low .. high without high itself, or nothing would be learnt.
        pivot = number(place)
        if pivot >= high:
            pivot = number(0.5 * np.float64(low) + 0.5 * np.float64(high))
        if not low <= pivot < high:
            pivot = low
        count, below, above = probe(values, m, pivot)
        tries += 1
        if count == k + 1:
            return below, above
        if count == k:
            count, below, after = probe(values, m, above)
            return above, above if count > k + 1 else after
        if count > k:
            high = below
        else:
            low = above
        place = np.float64(pivot)
        if last_count >= 0 and last_count != count and last_place != place:
            step = (place - last_place) / (count - last_count)
        last_place, last_count = place, count
        place += (k + 1 - count) * step
    return low, low


@njit(nogil=True, cache=True)
def _median(
    values: np.ndarray, m: int, skipped: int, kept: int, guess: float, step: float, smallest: float, largest: float
) -> float:
    """Return the median of the `kept` numbers that come after `skipped` smaller ones (even: mean of two)."""
    first, second = _rank_pair(values, m, skipped + (kept - 1) // 2, guess, step, smallest, largest)
    return np.float64(first) if kept % 2 == 1 else 0.5 * (np.float64(first) + np.float64(second))


@njit(nogil=True, cache=True)
def _median_deviation(
    values: np.ndarray, m: int, low: float, high: float, kept: int, median: float, std: float, deviations: np.ndarray
) -> float:
    """Return the median absolute deviation from the median of the `kept` values in low .. high."""
    for i in range(m):
        value = values[i]
        deviations[i] = abs(np.float64(value) - median) if low <= value <= high else np.nan
    largest = max(abs(np.float64(low) - median), abs(np.float64(high) - median))
    return _median(deviations, m, 0, kept, 0.67 * std, 0.8 * std / kept, 0.0, largest)


@njit(nogil=True, cache=True)
def _guess(values: np.ndarray, m: int, n: int, sample: np.ndarray) -> tuple[float, float]:
    """Return a value near the median and the distance of two ranks there, from a few values all over the box."""
    stride = max(1, m // sample.size)
    taken = 0
    for i in range(0, m, stride):
        if taken < sample.size and not math.isnan(values[i]):
            sample[taken] = values[i]
            taken += 1
    if taken < 4:
        return 0.0, 1.0
    middle = select(sample, taken, taken // 2)
    quarter = select(sample, taken, taken // 4)
    return middle, 3.7 * (middle - quarter) / n  # that of a normal distribution


@njit(nogil=True, cache=True)
def _ceil_to(kind: Any, value: float) -> Any:
    """Return the smallest number of the data's kind that is >= value, so that values compare alike with either."""
    number = kind(value)
    return number if np.float64(number) >= value else np.nextafter(number, kind(np.inf))


@njit(nogil=True, cache=True)
def _floor_to(kind: Any, value: float) -> Any:
    """Return the largest number of the data's kind that is <= value."""
    number = kind(value)
    return number if np.float64(number) <= value else np.nextafter(number, kind(-np.inf))


@njit(nogil=True, cache=True)
def _clip(
    data: np.ndarray,
    mask: np.ndarray,
    grid: BoxGrid,
    box: int,
    values: np.ndarray,
    deviations: np.ndarray,
    scratch: np.ndarray,
    n: int,
    guess: float,
    step: float,
    first: float,
    last: float,
    rules: Rules,
) -> tuple[float, float, float, float, float, float, float]:
    """Clip the n values of a box; return the last limits, and median and sums with the limits these belong to."""
    kind = values.dtype.type
    m = values.size
    low, high = first, last  # smallest and largest value that is kept
    smallest, largest = first, last
    n_below, n_above, rounds = 0, 0, 0
    while True:
        kept = n - n_below - n_above
        median = _median(values, m, n_below, kept, guess, step, smallest, largest)
        sum0, sum1 = moments_between(values, m, low, high, median, 0.0)
        offset, spread = deviation_from_sums(kept, sum0, sum1)
        if not rules.clip:
            return -np.inf, np.inf, low, high, median, sum0, sum1
        if rules.spread_mad:
            spread = _median_deviation(values, m, low, high, kept, median, spread, deviations) * MAD_TO_STD
        extreme = np.float64(max(abs(low), abs(high)))
        lower, upper, error = clip_limits(kept, median, offset, spread, extreme, rules)
        found = outside(values, m, _ceil_to(kind, lower), _floor_to(kind, upper))
        tied = (
            abs(np.float64(found[2]) - lower) <= error
            or abs(np.float64(found[3]) - lower) <= error
            or abs(np.float64(found[4]) - upper) <= error
            or abs(np.float64(found[5]) - upper) <= error
        )
        if tied:
            lower, upper = tied_limits(data, mask, grid, box, rules, scratch, deviations)
            return lower, upper, low, high, median, sum0, sum1
        rounds += 1
        below, above = max(n_below, found[0]), max(n_above, found[1])
        done = below + above >= n or (below == n_below and above == n_above) or rounds == rules.maxiters
        if done:
            return lower, upper, low, high, median, sum0, sum1
        if below > n_below:
            low = found[3]
        if above > n_above:
            high = found[4]
        n_below, n_above, guess = below, above, median


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(
    values: np.ndarray,
    deviations: np.ndarray,
    low: float,
    high: float,
    kept: int,
    median: float,
    sum0: float,
    sum1: float,
    rules: Rules,
) -> tuple[float, float]:
    """Return background and rms of the `kept` values in low .. high."""
    m = values.size
    offset, std = deviation_from_sums(kept, sum0, sum1)
    background, rms = location(rules.estimator, median, median + offset, std), std
    if rules.estimator != BIWEIGHT and rules.rms == STD:
        return background, rms
    mad = _median_deviation(values, m, low, high, kept, median, std, deviations)
    if rules.rms == MAD_STD:
        rms = mad * MAD_TO_STD
    elif rules.rms == BIWEIGHT_SCALE:
        rms = 0.0
        if mad > 0.0:
            sum0, sum1 = scale_sums_between(values, m, low, high, median, 1.0 / (SCALE_TUNING * mad))
            rms = math.sqrt(kept * sum0) / abs(sum1)
    if rules.estimator == BIWEIGHT and mad > 0.0:
        sum0, sum1 = location_sums_between(values, m, low, high, median, 1.0 / (LOCATION_TUNING * mad))
        background = median + sum0 / sum1
    return background, rms


@njit(nogil=True, cache=True)
def _all_boxes(
    data: np.ndarray,
    mask: np.ndarray,
    grid: BoxGrid,
    rules: Rules,
    values: np.ndarray,
    deviations: np.ndarray,
    scratch: np.ndarray,
    sample: np.ndarray,
    output: FlatStatistics,
) -> None:
    """Fill the flat outputs, box by box."""
    background, rms, n_good, lower, upper = output
    kind, m = data.dtype.type, values.size
    for box in range(grid.n_rows * grid.n_columns):
        n = _gather(data, mask, grid, box, values)
        lower[box], upper[box], n_good[box] = -np.inf, np.inf, 0
        background[box] = rms[box] = np.nan
        if n == 0:
            continue
        extremes = outside(values, m, kind(-np.inf), kind(np.inf))
        first, last = extremes[3], extremes[4]
        guess, step = _guess(values, m, n, sample)
        low_limit, high_limit, low, high, median, sum0, sum1 = _clip(
            data, mask, grid, box, values, deviations, scratch, n, guess, step, first, last, rules
        )
        lower[box], upper[box] = low_limit, high_limit
        # The last limits are applied to all values, so one that an earlier round clipped may come back.
        found = outside(values, m, _ceil_to(kind, low_limit), _floor_to(kind, high_limit))
        kept = n - found[0] - found[1]
        if kept <= 0:
            continue
        if found[3] != low or found[4] != high:
            low, high = found[3], found[4]
            median = _median(values, m, found[0], kept, median, step, first, last)
            sum0, sum1 = moments_between(values, m, low, high, median, 0.0)
        n_good[box] = kept
        background[box], rms[box] = _finish(values, deviations, low, high, kept, median, sum0, sum1, rules)


def statistics_by_counts(
    data: np.ndarray, mask: np.ndarray, grid: BoxGrid, rules: Rules, output: FlatStatistics
) -> None:
    """Fill the flat outputs for a grid of equal boxes.

    Parameters as in :func:`tiledsky.kernels.boxes.lanes.statistics_by_lanes`. Memory besides: one box in the data's
    dtype and two in float64.
    """
    m = -(-grid.by * grid.bx // LANES) * LANES
    values, deviations, scratch = np.full(m, np.nan, data.dtype), np.empty(m), np.empty(m)
    _all_boxes(data, mask, grid, rules, values, deviations, scratch, np.empty(_GUESS_VALUES), output)
