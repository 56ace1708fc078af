"""Statistics of small boxes: sixteen at a time, sorted.

On a sorted run a clip only moves two ends, the median is read off, and the sums run in ascending order of the values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from tiledsky.kernels._simd.lanes import (
    BASE_ROWS,
    LANES,
    biweight_location_sums,
    biweight_scale_sums,
    gather_columns,
    moments,
    sort_lanes,
)
from tiledsky.kernels.boxes.estimators import BIWEIGHT, BIWEIGHT_SCALE, MAD_STD, location
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
    tied_limits,
)


class _Work(NamedTuple):
    """Scratch of one batch of boxes: the sorted buffer, and per lane the run, the limits and the sums; two boxes."""

    buffer: np.ndarray
    counts: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    median: np.ndarray
    factor: np.ndarray
    sum0: np.ndarray
    sum1: np.ndarray
    scratch0: np.ndarray
    scratch1: np.ndarray


@njit(nogil=True, cache=True)
def _gather(data: np.ndarray, mask: np.ndarray, grid: BoxGrid, first: int, n_lanes: int, work: _Work) -> None:
    """Put boxes first .. first + n_lanes of a grid in the lanes; left-out pixels become +inf. Fill `count`."""
    by, bx = grid.by, grid.bx
    buffer, count, offsets = work.buffer, work.counts, work.start
    width = data.shape[1]
    for lane in range(LANES):
        box = first + (lane if lane < n_lanes else 0)
        y0, x0 = box_corner(grid, box)
        offsets[lane] = y0 * width + x0
        count[lane] = 0
    for r in range(by):
        gather_columns(data, offsets, bx, buffer, r * bx, count)
        if mask.size > 0:
            for lane in range(n_lanes):
                y, x = offsets[lane] // width, offsets[lane] % width
                for c in range(bx):
                    place = (r * bx + c) * LANES + lane
                    if mask[y, x + c] and buffer[place] < np.inf:
                        buffer[place] = np.inf
                        count[lane] -= 1
        for lane in range(LANES):
            offsets[lane] += width
    for lane in range(n_lanes, LANES):
        count[lane] = 0


@njit(nogil=True, cache=True)
def _median(buffer: np.ndarray, lane: int, start: int, stop: int) -> float:
    """Return the median of the sorted rows start .. stop of a lane (mean of the middle two for an even number)."""
    upper = (start + stop) // 2
    value = np.float64(buffer[upper * LANES + lane])
    if (stop - start) % 2 == 0:
        value = 0.5 * (np.float64(buffer[(upper - 1) * LANES + lane]) + value)
    return value


@njit(nogil=True, cache=True)
def _deviation(buffer: np.ndarray, lane: int, start: int, stop: int, split: int, median: float, k: int) -> float:
    """Return the k-th smallest (from 0) distance from the median: the rows below and above are two sorted sequences."""
    # Take i values from below (rows split-1, split-2, ...) and k+1-i from above (rows split, split+1, ...).
    n_below, n_above = split - start, stop - split
    low, high = max(0, k + 1 - n_above), min(k + 1, n_below)
    while low < high:
        i = (low + high) // 2
        below = median - np.float64(buffer[(split - 1 - i) * LANES + lane])
        above = np.float64(buffer[(split + k - i) * LANES + lane]) - median
        if below < above:
            low = i + 1
        else:
            high = i
    result = 0.0
    if low > 0:
        result = median - np.float64(buffer[(split - low) * LANES + lane])
    if k + 1 - low > 0:
        result = max(result, np.float64(buffer[(split + k - low) * LANES + lane]) - median)
    return result


@njit(nogil=True, cache=True)
def _median_deviation(buffer: np.ndarray, lane: int, start: int, stop: int, median: float) -> float:
    """Return the median absolute deviation from the median of rows start .. stop of a lane."""
    split = (start + stop) // 2
    n = stop - start
    value = _deviation(buffer, lane, start, stop, split, median, n // 2)
    if n % 2 == 0:
        value = 0.5 * (_deviation(buffer, lane, start, stop, split, median, n // 2 - 1) + value)
    return value


@njit(nogil=True, cache=True)
def _position(buffer: np.ndarray, lane: int, count: int, row: int, limit: float, inclusive: bool) -> int:
    """Return how many values of a lane are < limit (<= limit if inclusive), starting the search at `row`."""
    while row > 0:
        value = buffer[(row - 1) * LANES + lane]
        if value < limit or (inclusive and value == limit):
            break
        row -= 1
    while row < count:
        value = buffer[row * LANES + lane]
        if not (value < limit or (inclusive and value == limit)):
            break
        row += 1
    return row


@njit(nogil=True, cache=True)
def _touches(buffer: np.ndarray, lane: int, count: int, row: int, limit: float, tolerance: float) -> bool:
    """Tell whether a value next to the cut before `row` is as near to the limit as the limit is uncertain."""
    return (row > 0 and abs(buffer[(row - 1) * LANES + lane] - limit) <= tolerance) or (
        row < count and abs(buffer[row * LANES + lane] - limit) <= tolerance
    )


@njit(nogil=True, cache=True)
def _settled(
    buffer: np.ndarray,
    lane: int,
    count: int,
    start: int,
    stop: int,
    lower: float,
    upper: float,
    outer_lower: float,
    outer_upper: float,
) -> bool:
    """Tell whether limits keep rows start .. stop and no other, none of the values next to them being in doubt."""
    inside = (buffer[start * LANES + lane] > lower) & (buffer[(stop - 1) * LANES + lane] < upper)
    before = (start == 0) | (buffer[max(start - 1, 0) * LANES + lane] < outer_lower)
    after = (stop == count) | (buffer[min(stop, count - 1) * LANES + lane] > outer_upper)
    return inside & before & after


@njit(nogil=True, cache=True)
def _limits(
    buffer: np.ndarray, lane: int, start: int, stop: int, median: float, sum0: float, sum1: float, rules: Rules
) -> tuple[float, float, float]:
    """Return the clipping limits of a lane's run from its median and sums, and how uncertain they are by rounding."""
    offset, spread = deviation_from_sums(stop - start, sum0, sum1)
    if rules.spread_mad:
        spread = _median_deviation(buffer, lane, start, stop, median) * MAD_TO_STD
    first, last = np.float64(buffer[start * LANES + lane]), np.float64(buffer[(stop - 1) * LANES + lane])
    return clip_limits(stop - start, median, offset, spread, max(abs(first), abs(last)), rules)


@njit(nogil=True, cache=True)
def _sum_moments(
    buffer: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    median: np.ndarray,
    factor: np.ndarray,
    sum0: np.ndarray,
    sum1: np.ndarray,
) -> None:
    """Fill `median`, `sum0` = sum of (value - median) and `sum1` = sum of its square for every lane's run."""
    first, last = buffer.size // LANES, 0
    for lane in range(LANES):
        if start[lane] < stop[lane]:
            median[lane] = _median(buffer, lane, start[lane], stop[lane])
            first, last = min(first, start[lane]), max(last, stop[lane])
    moments(buffer, first, last, start, stop, median, factor, sum0, sum1)


@njit(nogil=True, cache=True)
def _clip(
    data: np.ndarray, mask: np.ndarray, grid: BoxGrid, first_box: int, n_lanes: int, work: _Work, rules: Rules
) -> None:
    """Clip every lane: fill `start` and `stop` (the rows that are left), `lower` and `upper` (the last limits)."""
    # Taken out of the tuple once: an array in a tuple costs reference counting at each access.
    buffer, count, start, stop, lowers, uppers, median, factor, sum0, sum1, scratch0, scratch1 = work
    open_lanes, settled = 0, 0
    for lane in range(LANES):
        start[lane], stop[lane] = 0, count[lane]
        lowers[lane], uppers[lane] = -np.inf, np.inf
        if rules.clip and count[lane] > 0:
            open_lanes |= 1 << lane
    rounds = 0
    while open_lanes != 0:
        _sum_moments(buffer, start, stop, median, factor, sum0, sum1)
        rounds += 1
        for lane in range(n_lanes):
            if (open_lanes >> lane) & 1 == 0:
                continue
            n, low, high = count[lane], start[lane], stop[lane]
            lower, upper, error = _limits(buffer, lane, low, high, median[lane], sum0[lane], sum1[lane], rules)
            doubt = max(error, 0.0)
            if _settled(buffer, lane, n, low, high, lower + doubt, upper - doubt, lower - doubt, upper + doubt):
                lowers[lane], uppers[lane] = lower, upper
                open_lanes &= ~(1 << lane)
                settled |= 1 << lane
                continue
            low = _position(buffer, lane, n, low, lower, False)
            high = _position(buffer, lane, n, high, upper, True)
            tied = _touches(buffer, lane, n, low, lower, error) or _touches(buffer, lane, n, high, upper, error)
            if tied:
                lower, upper = tied_limits(data, mask, grid, first_box + lane, rules, scratch0, scratch1)
            lowers[lane], uppers[lane] = lower, upper
            low, high = max(low, start[lane]), min(high, stop[lane])
            unchanged = low == start[lane] and high == stop[lane]
            if tied or unchanged or low >= high or rounds == rules.maxiters:
                open_lanes &= ~(1 << lane)
            if low < high:
                start[lane], stop[lane] = low, high
    # The last limits are applied to all values, so one that an earlier round clipped may come back.
    for lane in range(n_lanes):
        if (settled >> lane) & 1 != 0:
            continue
        n = count[lane]
        low = _position(buffer, lane, n, start[lane], lowers[lane], False)
        high = _position(buffer, lane, n, stop[lane], uppers[lane], True)
        start[lane], stop[lane] = low, max(low, high)


@njit(nogil=True, cache=True)
def _sum_biweight(
    buffer: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    median: np.ndarray,
    factor: np.ndarray,
    sum0: np.ndarray,
    sum1: np.ndarray,
    tuning: float,
    scale: bool,
) -> None:
    """Fill `sum0` and `sum1` with the sums of the biweight location (or scale) about the median."""
    first, last = buffer.size // LANES, 0
    for lane in range(LANES):
        factor[lane] = 0.0
        if start[lane] < stop[lane]:
            first, last = min(first, start[lane]), max(last, stop[lane])
            mad = _median_deviation(buffer, lane, start[lane], stop[lane], median[lane])
            if mad > 0.0:
                factor[lane] = 1.0 / (tuning * mad)
    if scale:
        biweight_scale_sums(buffer, first, last, start, stop, median, factor, sum0, sum1)
    else:
        biweight_location_sums(buffer, first, last, start, stop, median, factor, sum0, sum1)


@njit(nogil=True, cache=True, error_model="numpy")
def _finish(work: _Work, rules: Rules, first_box: int, n_lanes: int, output: FlatStatistics) -> None:
    """Write the statistics of every lane's run into the flat outputs."""
    buffer, _, start, stop, lowers, uppers, median, factor, sum0, sum1, _, _ = work
    background, rms, n_good, lower, upper = output
    _sum_moments(buffer, start, stop, median, factor, sum0, sum1)
    for lane in range(n_lanes):
        box, n = first_box + lane, stop[lane] - start[lane]
        n_good[box], lower[box], upper[box] = n, lowers[lane], uppers[lane]
        if n == 0:
            background[box] = rms[box] = np.nan
            continue
        offset, std = deviation_from_sums(n, sum0[lane], sum1[lane])
        background[box] = location(rules.estimator, median[lane], median[lane] + offset, std)
        rms[box] = std
        if rules.rms == MAD_STD:
            rms[box] = _median_deviation(buffer, lane, start[lane], stop[lane], median[lane]) * MAD_TO_STD
    if rules.estimator == BIWEIGHT:
        _sum_biweight(buffer, start, stop, median, factor, sum0, sum1, LOCATION_TUNING, False)
        for lane in range(n_lanes):
            if start[lane] < stop[lane] and factor[lane] > 0.0:
                background[first_box + lane] = median[lane] + sum0[lane] / sum1[lane]
    if rules.rms == BIWEIGHT_SCALE:
        _sum_biweight(buffer, start, stop, median, factor, sum0, sum1, SCALE_TUNING, True)
        for lane in range(n_lanes):
            n = stop[lane] - start[lane]
            if n > 0:
                value = math.sqrt(n * sum0[lane]) / abs(sum1[lane]) if factor[lane] > 0.0 else 0.0
                rms[first_box + lane] = value


@njit(nogil=True, cache=True)
def _all_boxes(
    data: np.ndarray, mask: np.ndarray, grid: BoxGrid, rules: Rules, work: _Work, output: FlatStatistics
) -> None:
    """Fill the flat outputs, sixteen boxes at a time."""
    n_boxes = grid.n_rows * grid.n_columns
    for first in range(0, n_boxes, LANES):
        n_lanes = min(LANES, n_boxes - first)
        _gather(data, mask, grid, first, n_lanes, work)
        sort_lanes(work.buffer, grid.by * grid.bx)
        _clip(data, mask, grid, first, n_lanes, work, rules)
        _finish(work, rules, first, n_lanes, output)


def statistics_by_lanes(
    data: np.ndarray, mask: np.ndarray, grid: BoxGrid, rules: Rules, output: FlatStatistics
) -> None:
    """Fill the flat outputs for a grid of equal boxes.

    Parameters
    ----------
    data : ndarray of float32 or float64, shape (ny, nx)
        C-contiguous, native byte order.
    mask : ndarray of bool, shape (ny, nx) or (0, 0)
        True is left out; the empty mask leaves nothing out.
    grid : BoxGrid
        Where the boxes lie.
    rules : Rules
        Clipping and estimators.
    output : FlatStatistics
        Filled in row order of the boxes. Memory besides: 16 boxes in the data's dtype and two in float64.
    """
    padded = -(-grid.by * grid.bx // BASE_ROWS) * BASE_ROWS
    buffer = np.full(padded * LANES, np.inf, data.dtype)
    work = _Work(buffer, *np.zeros((3, LANES), np.int64), *np.zeros((6, LANES)), *np.empty((2, grid.by * grid.bx)))
    _all_boxes(data, mask, grid, rules, work, output)
