"""Averages of fits to a mesh, by how well each predicts boxes that it has not seen; `local_polynomial` says how."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.nodes import CellFits
from tiledsky.kernels.fit.windows import ALIGNED, Floats, Window, blocks_of

#: Standard deviation of the window in which fits are compared, in cells, and cells of a block that it is made of.
WINDOW, BLOCK = 32.0, 4
#: Blocks on each side that the window reaches.
WINDOW_REACH = int(3 * WINDOW / BLOCK)
#: T of the weights: above 1, for residuals of neighbouring boxes are a little alike.
_TEMPERATURE = 3.0
#: Fits are left out where their weight is less than exp of minus the first; slack of a first look.
_NEGLECTED, _SLACK = 10.0, 2.0
#: What a parameter costs a fit beyond what its residuals do.
_PENALTY = 1.0


@numba.njit(nogil=True, cache=True)
def _scored(weight: NDArray[Any], times: NDArray[np.uint8]) -> None:
    for y in range(0, weight.shape[0], 2):
        for x in range(0, weight.shape[1], 2):
            number, v, u = 0, 0, 0
            for k in (0, 3, 1, 2):
                i, j = y + k // 2, x + k % 2
                if i < weight.shape[0] and j < weight.shape[1] and weight[i, j] > 0.0:
                    if number == 0:
                        v, u = i, j
                    number += 1
            if number:
                times[v, u] = number


def scored_boxes(weight: NDArray[Any]) -> NDArray[np.uint8]:
    """How many boxes each stands for when narrow fits are scored: one of each two by two stands for all of them.

    Parameters
    ----------
    weight : ndarray (rows, columns)
        That fits are judged with, of a tile.

    Returns
    -------
    ndarray (rows, columns), uint8
        0 to 4. The sum over a mesh is the number of its boxes that have a weight.
    """
    times = np.zeros(weight.shape, np.uint8)
    _scored(weight, times)
    return times


@numba.njit(nogil=True, cache=True)
def score_blocks(
    values: Floats,
    weight: Floats,
    fitted: Floats,
    times: NDArray[np.uint8],
    fit: Floats,
    lever: Floats,
    sums: Floats,
) -> None:
    """Squares of weight times residual from fits without each box, and leverages, summed in blocks.

    The first cell is a corner of a block. `fitted`: weights that the fits are made with; `times`: how many
    boxes each stands for, 0 for those that do not count.
    `sums`: (block rows, block columns, 2), gets them.
    """
    sums[:] = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            n = times[y, x]
            if n > 0:
                own = fitted[y, x] * lever[y, x]
                r = (values[y, x] - fit[y, x]) / max(1.0 - own, 0.1)
                sums[y // BLOCK, x // BLOCK, 0] += n * (weight[y, x] * r) ** 2
                sums[y // BLOCK, x // BLOCK, 1] += n * min(own, 1.0)


@numba.njit(nogil=True, cache=True)
def _count(weight: NDArray[Any], sums: Floats) -> None:
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            if weight[y, x] > 0.0:
                sums[y // BLOCK, x // BLOCK, 0] += 1.0
                sums[y // BLOCK, x // BLOCK, 1] += weight[y, x]


#: Sums that `count_blocks` makes.
COUNTS = 2


def count_blocks(weight: NDArray[Any]) -> Floats:
    """Boxes of a tile, and their weights, summed in blocks.

    Parameters
    ----------
    weight : ndarray (rows, columns)
        That fits are judged with: of the boxes before robust rounds.

    Returns
    -------
    ndarray (block rows, block columns, `COUNTS`), float64

    Notes
    -----
    Halo: none. Memory: the result.
    """
    sums = np.zeros((-(-weight.shape[0] // BLOCK), -(-weight.shape[1] // BLOCK), COUNTS))
    _count(weight, sums)
    return sums


@numba.njit(nogil=True, cache=True)
def between(low: Floats, y: int, x: int) -> float:
    """Value of a map of blocks at a cell, bilinear; y and x count from the corner of the first block."""
    v, u = (y + 0.5) / BLOCK - 0.5, (x + 0.5) / BLOCK - 0.5
    i, j = min(max(int(np.floor(v)), 0), low.shape[0] - 1), min(max(int(np.floor(u)), 0), low.shape[1] - 1)
    i2, j2 = min(i + 1, low.shape[0] - 1), min(j + 1, low.shape[1] - 1)
    f, g = min(max(v - i, 0.0), 1.0), min(max(u - j, 0.0), 1.0)
    return (1.0 - f) * ((1.0 - g) * low[i, j] + g * low[i, j2]) + f * ((1.0 - g) * low[i2, j] + g * low[i2, j2])


@numba.njit(nogil=True, cache=True)
def _scaled(sums: Floats, top: int, last: int, y: int, x: int, exponent: float) -> float:
    """Weight of a fit under the largest exponent so far, `sums[top]`; if it is that, others are scaled down."""
    if exponent > sums[top, y, x]:
        scale = elementary.exp(sums[top, y, x] - exponent)
        for m in range(top + 1, last):
            sums[m, y, x] *= scale
        sums[top, y, x] = exponent
    return elementary.exp(exponent - sums[top, y, x])


@numba.njit(nogil=True, cache=True)
def _average(
    sums: Floats,
    fit: Floats,
    unit: Floats,
    used: Floats,
    maps: Floats,
    squares: NDArray[np.bool_],
    place: tuple[int, int],
    corner: tuple[int, int],
    log_h: float,
) -> None:
    """Add a fit of a part of a tile, from the cell `place` on, to the running sums of some squares.

    Largest exponent, and weights, fits, log bandwidths, degrees under it; then without the penalty: largest exponent,
    weights, fits, squares. `maps`: log R, exponents with the penalty and without, of blocks, of which the cell `corner`
    is the first of the tile.
    """
    for i in range(fit.shape[0]):
        for j in range(fit.shape[1]):
            value, y, x = fit[i, j], i + place[0], j + place[1]
            if not squares[y // ALIGNED, x // ALIGNED] or not (np.isfinite(value) and np.isfinite(unit[i, j])):
                continue
            v, u = y + corner[0], x + corner[1]
            share = _scaled(sums, 0, 5, y, x, between(maps[1], v, u))
            sums[1, y, x] += share
            sums[2, y, x] += share * value
            sums[3, y, x] += share * log_h
            sums[4, y, x] += share * used[i, j]
            share = _scaled(sums, 5, 9, y, x, between(maps[2], v, u))
            sums[6, y, x] += share
            sums[7, y, x] += share * value
            sums[8, y, x] += share * (elementary.exp(between(maps[0], v, u)) * unit[i, j] + value**2)


@numba.njit(nogil=True, cache=True)
def _lacking(found: Floats, best: Floats, corner: tuple[int, int], lack: Floats) -> None:
    """How much the largest exponents found fall short of the best, at most, in the squares of a tile."""
    lack[:] = -np.inf
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            less = between(best, y + corner[0], x + corner[1]) - found[y, x]
            if less > lack[y // ALIGNED, x // ALIGNED]:
                lack[y // ALIGNED, x // ALIGNED] = less


@numba.njit(nogil=True, cache=True)
def _window_sums(sums: Floats, kernel: Floats, inner: tuple[int, int, int, int], out: Floats) -> None:
    """Sums over the windows about the blocks of `inner`, first and last row and column."""
    reach, (ny, nx, n) = kernel.size // 2, sums.shape
    y0, y1, x0, x1 = inner
    row = np.empty((nx, n))
    for y in range(y0, y1):
        row[:] = 0.0
        for k in range(-reach, reach + 1):
            if 0 <= y + k < ny:
                for x in range(nx):
                    for m in range(n):
                        row[x, m] += kernel[k + reach] * sums[y + k, x, m]
        for x in range(x0, x1):
            out[y - y0, x - x0] = 0.0
            for k in range(max(-reach, -x), min(reach + 1, nx - x)):
                for m in range(n):
                    out[y - y0, x - x0, m] += kernel[k + reach] * row[x + k, m]


def windowed(sums: Window, blocks: Region) -> Floats:
    """Sums over the Gaussian windows about some blocks; beyond the mesh there is nothing.

    Parameters
    ----------
    sums : Window
        (rows, columns, n), of the blocks grown by `WINDOW_REACH` and cut at the mesh.
    blocks : Region

    Returns
    -------
    ndarray (n, rows, columns), float64
    """
    sigma = WINDOW / BLOCK
    kernel = elementary.exps(-0.5 * (np.arange(-WINDOW_REACH, WINDOW_REACH + 1) / sigma) ** 2)
    data, (y, x) = np.ascontiguousarray(sums.data), blocks.within(sums.region)
    out = np.zeros((*blocks.shape, data.shape[2]))
    _window_sums(data, kernel, (y.start, y.stop, x.start, x.stop), out)
    return np.ascontiguousarray(np.moveaxis(out, 2, 0))


class Averages:
    """Averages of fits at the cells of a tile.

    The exponents of all fits are known before any is made. A fit that has less than ``exp(-_NEGLECTED)`` of the weight
    of another at all cells of a square of the mesh (of `ALIGNED` cells, so that it is the same for any tiling) is not
    asked for there: neither by `wanted`, nor, where the best are not there for want of boxes, by `missing`.
    """

    def __init__(self, tile: Region, blocks: Region, *, counts: Floats, scores: Floats, floor: float) -> None:
        """Begin with no fit.

        Parameters
        ----------
        tile : Region
        blocks : Region
            Those that its cells lie between.
        counts, scores : ndarray (n, rows, columns)
            Of `count_blocks`, and two of each fit (`score_blocks`), in the windows about these blocks.
        floor : float
            Least mean square of residuals.
        """
        self.tile, self.squares = tile, blocks_of(tile, ALIGNED).shape
        self.corner = tile.y0 - BLOCK * blocks.y0, tile.x0 - BLOCK * blocks.x0
        with np.errstate(divide="ignore", invalid="ignore"):
            r = scores[::2] / counts[1]
        self.least = np.fmin.reduce(r, axis=0)
        level = elementary.logs(np.where(r > floor, r, floor))
        # a Gaussian window averages over twice the sum of its values
        plain = -level * (counts[0] / _TEMPERATURE)
        self.maps = np.stack([level, plain - _PENALTY * scores[1::2] / _TEMPERATURE, plain], axis=1)
        self.best = self.maps[:, 1:].max(axis=0)
        self.sums = np.zeros((9, *tile.shape))
        self.sums[[0, 5]] = -np.inf

    def wanted(self) -> NDArray[np.bool_]:
        """Fits that are wanted in the squares of the tile, (fits, rows, columns)."""
        return self._short() < _NEGLECTED + _SLACK

    def missing(self) -> NDArray[np.bool_]:
        """Fits that are wanted there beside those of `wanted`, when these have been added."""
        lack = np.empty((2, *self.squares))
        for k, found in enumerate((self.sums[0], self.sums[5])):
            _lacking(found, self.best[k], self.corner, lack[k])
        short = self._short()
        return (short >= _NEGLECTED + _SLACK) & (short < _NEGLECTED + lack.max(axis=0))

    def _short(self) -> Floats:
        """By how much the exponents of each fit fall short of the best, at least, in the squares of the tile."""
        short = (self.best - self.maps[:, 1:]).min(axis=1)
        per = ALIGNED // BLOCK
        rows, columns = (range(0, n, ALIGNED) for n in self.tile.shape)
        made = np.empty((short.shape[0], len(rows), len(columns)))
        top, left = self.corner[0] // BLOCK, self.corner[1] // BLOCK
        for i, j in np.ndindex(made.shape[1:]):
            y, x = top + i * per, left + j * per  # cells lie between the blocks of the square and one more on each side
            made[:, i, j] = short[:, max(y - 1, 0) : y + per + 1, max(x - 1, 0) : x + per + 1].min(axis=(1, 2))
        return made

    def add(self, k: int, fits: CellFits, region: Region, squares: NDArray[np.bool_], *, log_h: float) -> None:
        """Add the fits that have the place k among the scores, made in a part of the tile, to some squares."""
        place = region.y0 - self.tile.y0, region.x0 - self.tile.x0
        _average(self.sums, fits.fit, fits.unit, fits.degree, self.maps[k], squares, place, self.corner, log_h)

    def result(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Mean, variance about it, log bandwidth, degree."""
        _, share, fit, log_h, degree, _, plain, plain_fit, square = self.sums
        mean = fit / share
        variance = square / plain - 2.0 * mean * (plain_fit / plain) + mean**2
        return mean, np.maximum(variance, 0.0), log_h / share, degree / share
