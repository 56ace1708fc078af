"""Profiles of the light about a place of a mesh: rings of ellipses and their mean light.

A ring depends on the boxes within it alone, and adds them in the order of the mesh: the same bits in any window.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.geometry import Pair

Floats = NDArray[np.float64]
#: Rings of a profile, px along the major axis with boxes of 6 px: each a root of 2 wider than the one before.
EDGES: Floats = np.array([0.0, *(9.0 * 2.0 ** (k // 2) * (math.sqrt(2.0) if k % 2 else 1.0) for k in range(15))])
#: Rings from so many of the first on are measured by every second box of each second row, and so on at twice that.
_COARSER = 32.0
#: Most boxes of a ring.
_MOST = 8192
#: Least number and share of the boxes of a ring with a value under the mask; else what is under it stands in.
_SEEN, _SHARE = 3, 0.25
#: Rings from this on end a profile, where two in turn have no light or do not fall.
_INNER = 6
#: Eighths of an ellipse, one of each two that lie opposite.
_EIGHTHS = (0, 1, 4, 5)
#: Median absolute deviations in a deviation, and the error of a median over that of a mean, of normal noise.
_DEVIATION, _MEDIAN = 1.4826, 1.2533


class Maps(NamedTuple):
    """Boxes of a window of a mesh, in units of the noise of a pixel.

    Attributes
    ----------
    rest : ndarray (rows, columns), float64
        Light under the mask of sources; 0 where the weight is 0.
    bare : ndarray, float64
        The same without any mask; NaN where there is no pixel.
    weight, noise : ndarray, float64
        Weights of the boxes, and standard errors of their values.
    y0, x0 : int
        First row and column of the window.
    by, bx : int
        Pixels of a box.
    """

    rest: Floats
    bare: Floats
    weight: Floats
    noise: Floats
    y0: int
    x0: int
    by: int
    bx: int

    @property
    def shape(self) -> Pair:
        """Rows and columns."""
        return self.rest.shape[0], self.rest.shape[1]

    def centre(self, i: int, j: int) -> tuple[float, float]:
        """Centre of a box of the window, px."""
        return (self.y0 + i) * self.by + 0.5 * (self.by - 1), (self.x0 + j) * self.bx + 0.5 * (self.bx - 1)

    def about(self, i: int, j: int, reach: int) -> Maps:
        """Return a smaller window about a box of the mesh."""
        y0, x0 = max(i - reach - self.y0, 0), max(j - reach - self.x0, 0)
        part = slice(y0, i + reach + 1 - self.y0), slice(x0, j + reach + 1 - self.x0)
        rest, bare, weight, noise = (np.ascontiguousarray(of[part]) for of in self[:4])
        return Maps(rest, bare, weight, noise, self.y0 + y0, self.x0 + x0, self.by, self.bx)


class Ellipse(NamedTuple):
    """A centre (px) and an ellipse about it: axis ratio, and sine and cosine of the angle of its major axis."""

    y: float
    x: float
    ratio: float
    sine: float
    cosine: float


@njit(nogil=True, cache=True)
def _boxes(maps, place, inner, outer, stride, values, weights, bare, eighths):  # type: ignore[no-untyped-def]
    """Boxes of a ring: their values, weights and eighths under the mask, and values without one; numbers and sums."""
    rest, without, weight, noise, y0, x0, by, bx = maps
    cy, cx, ratio, sine, cosine = place
    top, bottom = max(int((cy - outer) // by) - y0, 0), min(int((cy + outer) // by) + 2 - y0, rest.shape[0])
    left, right = max(int((cx - outer) // bx) - x0, 0), min(int((cx + outer) // bx) + 2 - x0, rest.shape[1])
    top += -(top + y0) % stride
    left += -(left + x0) % stride
    least, most = inner * inner, outer * outer
    count, seen, there, radii, radii_seen, noises = 0, 0, 0, 0.0, 0.0, 0.0
    for i in range(top, bottom, stride):
        dy = (y0 + i) * by + 0.5 * (by - 1) - cy
        for j in range(left, right, stride):
            dx = (x0 + j) * bx + 0.5 * (bx - 1) - cx
            along, across = cosine * dx + sine * dy, (cosine * dy - sine * dx) / ratio
            square = along * along + across * across
            if square < least or square >= most or count == _MOST:
                continue
            radius = math.sqrt(square)
            count += 1
            radii += radius
            if weight[i, j] > 0.0:
                values[seen], weights[seen] = rest[i, j], weight[i, j]
                eighths[seen] = (along > 0.0) + 2 * (across > 0.0) + 4 * (abs(along) > abs(across))
                radii_seen += radius
                noises += noise[i, j]
                seen += 1
            if not math.isnan(without[i, j]):
                bare[there] = without[i, j]
                there += 1
    return count, seen, there, radii, radii_seen, noises


@njit(nogil=True, cache=True)
def _median(values):  # type: ignore[no-untyped-def]
    """Median and its error by the scatter of the values."""
    middle = np.median(values)
    return middle, _MEDIAN * _DEVIATION * np.median(np.abs(values - middle)) / math.sqrt(values.size)


@njit(nogil=True, cache=True)
def _clipped(values, weights):  # type: ignore[no-untyped-def]
    """Weighted mean and deviation of what is within three deviations of the median, and its number."""
    n = values.size
    for _ in range(3):
        middle = np.median(values[:n])
        limit = 3.0 * _DEVIATION * np.median(np.abs(values[:n] - middle)) + 1e-9
        kept = 0
        for i in range(n):
            if abs(values[i] - middle) <= limit:
                values[kept], weights[kept] = values[i], weights[i]
                kept += 1
        if kept == n:
            break
        n = kept
    total, weight, plain = 0.0, 0.0, 0.0
    for i in range(n):
        total += weights[i] * values[i]
        weight += weights[i]
        plain += values[i]
    plain /= n
    squares = 0.0
    for i in range(n):
        squares += (values[i] - plain) * (values[i] - plain)
    return total / weight, math.sqrt(squares / n), n


@njit(nogil=True, cache=True)
def _opposite(values, eighths, buffer):  # type: ignore[no-untyped-def]
    """Light of the fainter of opposite eighths of a ring, half of what the others have more, and how pairs differ.

    Beyond chance each. Where eighths differ by chance both count. The light is NaN where no two differ. Where too few
    have boxes it is too, and half of what the others have more is infinite.
    """
    faint, uneven, pairs, differ, most, least, chance = 0.0, 0.0, 0, 0, -math.inf, math.inf, 0.0
    for eighth in _EIGHTHS:
        middle, error = np.zeros(2), np.zeros(2)
        full = True
        for side in range(2):
            n = 0
            for i in range(values.size):
                if eighths[i] == (eighth if side == 0 else eighth ^ 3):
                    buffer[n] = values[i]
                    n += 1
            if n < _SEEN:
                full = False
                break
            middle[side], error[side] = _median(buffer[:n])
        if not full:
            continue
        pairs += 1
        both = math.sqrt(error[0] * error[0] + error[1] * error[1])
        over = abs(middle[0] - middle[1]) - 3.0 * both
        light = 0.5 * (middle[0] + middle[1])
        if over > 0.0:
            uneven += 0.5 * over
            light = min(middle[0], middle[1])
            differ += 1
        faint += light
        most, least, chance = max(most, light), min(least, light), max(chance, both)
    if pairs < 2:
        return math.nan, math.inf, 0.0
    return (faint / pairs if differ else math.nan), uneven / pairs, max(most - least - 3.0 * chance, 0.0)


@njit(nogil=True, cache=True)
def rings(maps, place, edges, level):  # type: ignore[no-untyped-def]
    """Profile of the light about a place.

    Parameters
    ----------
    maps : Maps
    place : Ellipse
    edges : ndarray
        Of the rings, px along the major axis.
    level : bool
        No sky is known: rings are plain means, as the sky may have a slope. Else of eighths of a ring that lie
        opposite the fainter counts: what is brighter on one side alone is another one's light.

    Returns
    -------
    value, error, radius : ndarray
        Of the rings; radii are the means of those of the boxes.
    open : ndarray of bool
        Rings that are seen under the mask; of the others it is the median without the mask, of the innermost two
        the largest value.
    uneven : ndarray
        Half the difference of opposite eighths; infinite where less than two pairs have boxes.
    unlike : ndarray
        How far the brightest two of these are above the faintest two.
    covered : float
        Share of the area of the rings out to 72 px (with boxes of 6 px) that lies in the image.

    Notes
    -----
    The profile ends where two rings in turn have no light beyond two errors (only if there is a sky), or do not fall.
    """
    most = edges.size - 1
    value, error, radius, uneven = np.empty(most), np.empty(most), np.empty(most), np.zeros(most)
    unlike = np.zeros(most)
    seen_under = np.zeros(most, np.bool_)
    values, weights, bare, buffer = np.empty(_MOST), np.empty(_MOST), np.empty(_MOST), np.empty(_MOST)
    eighths = np.empty(_MOST, np.int64)
    n, still, boxes, area = 0, 0, 0.0, 0.0
    for k in range(most):
        stride = 1
        while edges[k] >= _COARSER * stride * edges[1]:
            stride *= 2
        count, seen, there, radii, radii_seen, noises = _boxes(
            maps, place, edges[k], edges[k + 1], stride, values, weights, bare, eighths
        )
        if k < _INNER:
            boxes += count * maps[6] * maps[7]
            area += math.pi * place[2] * (edges[k + 1] * edges[k + 1] - edges[k] * edges[k])
        if count == 0:
            break
        if seen >= _SEEN and seen >= _SHARE * count:
            faint, uneven[n], unlike[n] = _opposite(values[:seen], eighths[:seen], buffer)
            mean, spread, kept = _clipped(values[:seen], weights[:seen])
            value[n] = mean if level or math.isnan(faint) else min(faint, mean)
            error[n] = max(spread / math.sqrt(max(kept - 1, 1)), noises / seen / math.sqrt(kept))
            radius[n] = radii_seen / seen
            seen_under[n] = True
        elif there > 0:
            value[n], error[n] = _median(bare[:there])
            if k < 2:
                value[n] = np.max(bare[:there])
            radius[n] = radii / count
            uneven[n], unlike[n], seen_under[n] = 0.0, 0.0, False
        else:
            continue
        radius[n] = max(radius[n], 0.25 * min(maps[6], maps[7]))  # of one box alone it is 0, which has no logarithm
        if n > 0 and radius[n] <= radius[n - 1]:
            continue
        dark = not level and value[n] <= 2.0 * error[n]
        flat = n > 0 and value[n - 1] - value[n] <= 2.0 * error[n]
        still = still + 1 if k >= _INNER and (dark or flat) else 0
        n += 1
        if still == 2:
            break
    return value[:n], error[:n], radius[:n], seen_under[:n], uneven[:n], unlike[:n], boxes / max(area, 1e-30)


@njit(nogil=True, cache=True)
def between(at, x, y):  # type: ignore[no-untyped-def]
    """Linear interpolation, constant beyond the ends."""
    if at <= x[0]:
        return y[0]
    for i in range(1, x.size):
        if at <= x[i]:
            return y[i - 1] + (y[i] - y[i - 1]) * ((at - x[i - 1]) / (x[i] - x[i - 1]))
    return y[-1]


@njit(nogil=True, cache=True)
def hull(x, y):  # type: ignore[no-untyped-def]
    """Greatest convex function that is nowhere above the points and does not rise, at their places."""
    n, m = x.size, 0
    corner = np.empty(n, np.int64)
    for i in range(n):
        while m >= 2:
            a, b = corner[m - 2], corner[m - 1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            m -= 1
        corner[m] = i
        m += 1
    made = np.empty(n)
    for i in range(n):
        made[i] = between(x[i], x[corner[:m]], y[corner[:m]])
        if i > 0:
            made[i] = min(made[i], made[i - 1])
    return made
