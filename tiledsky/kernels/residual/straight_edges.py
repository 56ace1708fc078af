"""Steps along straight lines of any direction in a map of means: where the sky differs on both sides of an edge.

Sums along all lines come from the fast approximate discrete Radon transform (W. A. Goetz and H. J. Druckmueller,
"A fast digital Radon transform", Pattern Recognition 29, 1996; used for faint streaks by G. Nir, B. Zackay and E. O.
Ofek, AJ 156, 229, 2018): a line across 2n columns is one across the first n and one across the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Rows on each side of an edge; steps so many rows away, of a sky that bends, are taken off.
SIDE, _AWAY = 2, 4
#: Length of the shortest and the longest edges, in columns; parts of an edge, and those which may have another sign.
SHORTEST, _LONGEST, _PARTS, _OTHERS = 32, 512, 8, 1
#: An edge is so many times the scatter of all lines, one of the shortest, which lie beside objects, more; single
#: differences count up to so many times theirs.
DEVIATION, _SHORT, _CLIP = 7.0, 8.0, 4.0
#: Share of the median weight of a line that it needs; of the step that its parts' median has; of the step by which the
#: opposite one on one side of it exceeds that on the other, as at the side of a ridge (what a mesh has followed leaves
#: both); of its boxes that may belong to other edges.
_SEEN, _EVEN, _RIDGE, _SHARED = 0.5, 0.6, 0.6, 0.3
#: Errors that a step is away from 0, by the scatter of its parts.
_CERTAIN = 4.0
#: Edges at most; lines that are looked at.
MOST, _TRIED = 50, 2000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
V = TypeVar("V", np.float64, np.bool_)
#: A step along a line, in rows and columns of the map: ends, height (seen from the first row or column: after minus
#: before) and error.
EDGE = np.dtype([(name, "<f8") for name in ("y0", "x0", "y1", "x1", "step", "error", "deviation")])


class _Map(NamedTuple):
    """Differences across rows, seen in one of four directions, with their weights, and those of curvature taken off."""

    plain: Floats
    bent: Floats
    weight: Floats
    weight_bent: Floats


class _Line(NamedTuple):
    """A line of a map: its direction, deviation, first column, columns, rows."""

    direction: int
    deviation: float
    scatter: float
    first: int
    rows: Integers


def straight_edges(values: Floats, weight: Floats) -> NDArray[np.void]:
    """Find steps along straight lines.

    Parameters
    ----------
    values : ndarray of float64, shape (R, C)
        Means of boxes.
    weight : ndarray of float64, shape (R, C)
        Inverse squares of their errors; 0: no value.

    Returns
    -------
    ndarray of EDGE
        The most certain first, up to `MOST`.
    """
    maps = [_differences(_turned(values, k), _turned(weight, k)) for k in range(4)]
    lines = [line for k, each in enumerate(maps) for line in _lines(each, k)]
    # by their own errors: of an edge and its half, the edge
    lines.sort(key=lambda line: -abs(line.deviation) * line.scatter)
    taken = np.zeros(values.shape, np.bool_)
    rows: list[tuple[float, ...]] = []
    for line in lines[:_TRIED]:
        seen = maps[line.direction]
        claimed = _turned(taken, line.direction)
        columns = line.first + np.arange(line.rows.size)
        inside = (line.rows >= 0) & (line.rows <= claimed.shape[0]) & (columns < claimed.shape[1])
        at, columns = line.rows[inside], columns[inside]
        near = claimed[np.minimum(at, claimed.shape[0] - 1), columns]
        parts = _parts(seen, at, columns)
        if near.mean() > _SHARED or not _is_even(parts):
            continue
        at, columns = at[kept := _between(parts, at.size)], columns[kept]
        beside = [_mean_step(seen, at + away, columns) for away in range(-_AWAY, _AWAY + 1)]
        step, error = beside[_AWAY]
        error = max(error * line.scatter, _error(_parts(seen, at, columns)))
        if abs(step) < _CERTAIN * error:
            continue
        # what else lies here is of the same edge, or of the same ridge
        for away in range(-_AWAY, _AWAY):
            claimed[np.clip(at + away, 0, claimed.shape[0] - 1), columns] = True
        lobes = [max(-np.sign(step) * each for each, _ in side) for side in (beside[:_AWAY], beside[_AWAY + 1 :])]
        if max(lobes) > abs(step) or max(lobes) - max(min(lobes), 0.0) > _RIDGE * abs(step):
            continue
        ends = np.flatnonzero(seen.weight_bent[at, columns])[[0, -1]]
        where = _ends(at[ends], columns[ends], line.direction, values.shape)
        rows.append((*where, -step if line.direction % 2 else step, error, abs(line.deviation)))
        if len(rows) == MOST:
            break
    return np.array(rows, EDGE)


def _turned(plane: NDArray[V], direction: int) -> NDArray[V]:
    """Return a view whose lines rise by up to a row a column: 0 as it is, 1 upside down, 2 and 3 of columns."""
    view = plane if direction < 2 else plane.T
    return view[::-1] if direction % 2 else view


def _ends(at: Integers, columns: Integers, direction: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Ends of a line in the map itself: y, x, y, x."""
    along = columns + np.array([0, 1])
    height = shape[0] if direction < 2 else shape[1]
    rows = height - at if direction % 2 else at
    y, x = (rows, along) if direction < 2 else (along, rows)
    return int(y[0]), int(x[0]), int(y[1]), int(x[1])


def _differences(values: Floats, weight: Floats) -> _Map:
    """Of the boundaries below each row: the rows after minus those before."""
    height, width = values.shape
    padded = np.zeros((2, height + 2 * SIDE, width))
    padded[0, SIDE:-SIDE], padded[1, SIDE:-SIDE] = np.where(weight > 0, values, 0.0) * weight, weight
    sums = padded[:, : height + SIDE + 1] + padded[:, 1 : height + SIDE + 2]  # of SIDE rows, from each on
    (before, after), (w0, w1) = ((part[: height + 1], part[SIDE:]) for part in sums)
    both = (w0 > 0) & (w1 > 0)
    w0, w1 = np.where(both, w0, 1.0), np.where(both, w1, 1.0)
    plain = np.where(both, after / w1 - before / w0, 0.0)
    variance = np.where(both, 1 / w0 + 1 / w1, 0.0)
    # at the border of what is seen meshes err along straight lines, too: both sides are needed
    known, away, other = both.copy(), np.zeros(plain.shape), np.zeros(plain.shape)
    for to, of, beyond in (
        (slice(_AWAY, None), slice(None, -_AWAY), slice(None, _AWAY)),
        (slice(None, -_AWAY), slice(_AWAY, None), slice(-_AWAY, None)),
    ):
        known[to] &= both[of]
        known[beyond] = False
        away[to] += 0.5 * plain[of]
        other[to] += 0.25 * variance[of]
    bent = np.where(known, plain - away, 0.0)
    weights = np.where(known, 1 / np.where(known, variance + other, 1.0), 0.0)
    scatter = _scatter(bent[known] * np.sqrt(weights[known]))
    most = _CLIP * max(scatter, 1e-300) / np.sqrt(np.where(known, weights, 1.0))
    return _Map(plain, np.clip(bent, -most, most), np.where(both, 1 / np.where(both, variance, 1.0), 0.0), weights)


def _scatter(values: Floats) -> float:
    return 1.4826 * float(np.median(np.abs(values))) if values.size else 0.0


def _lines(seen: _Map, direction: int) -> Iterator[_Line]:
    """Lines that deviate, of all lengths."""
    height, width = seen.bent.shape
    # rows of a line, and of what is held, are no more than those of the map, or of the shortest line
    longest = min(max(1 << (min(height, width) - 1).bit_length(), SHORTEST), _LONGEST)
    total = -(-width // longest) * longest
    # columns, displacements, sums, rows; lines begin above the first row, too
    sums = np.zeros((total, 1, 2, height + longest), np.float32)
    sums[:width, 0, 0, longest:] = (seen.bent * seen.weight_bent).T
    sums[:width, 0, 1, longest:] = seen.weight_bent.T
    normal = float(np.median(seen.weight_bent[seen.weight_bent > 0])) if seen.weight_bent.any() else 0.0
    while sums.shape[1] < longest:
        sums = _longer(sums)
        length = sums.shape[1]
        if length < SHORTEST:
            continue
        found, weights = sums[:, :, 0], sums[:, :, 1]
        known = weights > _SEEN * length * normal
        if not known.any():
            continue
        z = np.where(known, found / np.sqrt(np.where(known, weights, 1.0)), 0.0)
        scatter = max(_scatter(z[known]), 1.0)
        z = z / scatter
        high, least = np.abs(z), _SHORT if length == SHORTEST else DEVIATION
        if not (high > least).any():
            continue
        peaks = (high > least) & (high == ndimage.maximum_filter(high, (1, 5, 5)))
        for strip, move, row in np.argwhere(peaks):
            yield _Line(
                direction,
                float(z[strip, move, row]),
                scatter,
                int(strip) * length,
                int(row) - longest + _offsets(length, int(move)),
            )


def _longer(sums: Floats) -> Floats:
    """Lines twice as long."""
    strips, length, kinds, rows = sums.shape
    made = np.zeros((strips // 2, 2 * length, kinds, rows), sums.dtype)
    for move in range(2 * length):
        rise = (move + 1) // 2
        made[:, move] = sums[0::2, move // 2]
        made[:, move, :, : rows - rise] += sums[1::2, move // 2, :, rise:]
    return made


@cache
def _offsets(length: int, move: int) -> Integers:
    """Rows of a line that rises by ``move``, by columns."""
    if length == 1:
        return np.zeros(1, np.int64)
    half = _offsets(length // 2, move // 2)
    return np.concatenate([half, half + (move + 1) // 2])


def _parts(seen: _Map, at: Integers, columns: Integers) -> Floats:
    """Steps of the parts of a line; NaN where nothing is seen."""
    parts = np.full(_PARTS, np.nan)
    for k, part in enumerate(np.array_split(np.arange(at.size), _PARTS)):
        weight = seen.weight_bent[at[part], columns[part]]
        if weight.any():
            parts[k] = (seen.bent[at[part], columns[part]] * weight).sum() / weight.sum()
    return parts


def _is_even(parts: Floats) -> bool:
    """Whether all of a line has the step, and not some place of it."""
    known = parts[np.isfinite(parts)]
    if known.size < _PARTS - _OTHERS:
        return False
    same = np.sign(known.mean()) * known
    return bool((same < 0).sum() <= _OTHERS and np.median(same) >= _EVEN * same.mean())


def _between(parts: Floats, size: int) -> slice:
    """Columns of a line without the parts at its ends that have less than half of the step."""
    same = np.sign(np.nanmean(parts)) * parts
    first, last = np.flatnonzero(same >= 0.5 * np.nanmedian(same))[[0, -1]]
    ends = np.cumsum([0, *(part.size for part in np.array_split(np.arange(size), _PARTS))])
    return slice(int(ends[first]), int(ends[last + 1]))


def _error(parts: Floats) -> float:
    """Error of a mean, by the scatter of its parts."""
    known = parts[np.isfinite(parts)]
    return float(np.std(known, ddof=1)) / math.sqrt(known.size) if known.size > 1 else math.inf


def _mean_step(seen: _Map, at: Integers, columns: Integers) -> tuple[float, float]:
    """Mean step along a line and its error, of values within some deviations of their median."""
    inside = (at >= 0) & (at < seen.plain.shape[0])
    values, weight = (plane[at[inside], columns[inside]] for plane in (seen.plain, seen.weight))
    good = weight > 0
    if not good.any():
        return 0.0, math.inf
    values, weight = values[good], weight[good]
    off = (values - np.median(values)) * np.sqrt(weight)
    near = np.abs(off) <= _CLIP * max(_scatter(off), 1e-300)
    total = float(weight[near].sum())
    return float((values[near] * weight[near]).sum()) / total, 1 / math.sqrt(total)
