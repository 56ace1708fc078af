"""Averages of fits to a mesh, by how well each predicts boxes that it has not seen; `local_polynomial` says how."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.geometry import Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.nodes import CellFits
from tiledsky.kernels.fit.windows import Floats

#: Standard deviation of the window in which fits are compared, in cells, and cells of a block that it is made of.
WINDOW, BLOCK = 32.0, 4
#: Blocks on each side that the window reaches.
WINDOW_REACH = int(3 * WINDOW / BLOCK)
#: T of the weights: above 1, for residuals of neighbouring boxes are a little alike.
_TEMPERATURE = 3.0
#: What a parameter costs a fit beyond what its residuals do.
_PENALTY = 1.0


@numba.njit(nogil=True, cache=True)
def score_blocks(values: Floats, weight: Floats, fitted: Floats, fit: Floats, lever: Floats, sums: Floats) -> None:
    """Squares of weight times residual from fits without each box, and leverages, summed in blocks.

    The first cell is a corner of a block. `fitted`: weights that the fits are made with. `sums`: (block rows, block
    columns, 2), gets them.
    """
    sums[:] = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            w = weight[y, x]
            if w > 0.0:
                own = fitted[y, x] * lever[y, x]
                r = (values[y, x] - fit[y, x]) / max(1.0 - own, 0.1)
                sums[y // BLOCK, x // BLOCK, 0] += (w * r) ** 2
                sums[y // BLOCK, x // BLOCK, 1] += min(own, 1.0)


@numba.njit(nogil=True, cache=True)
def _count(weight: NDArray[Any], sums: Floats) -> None:
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            if weight[y, x] > 0.0:
                sums[y // BLOCK, x // BLOCK, 0] += 1.0
                sums[y // BLOCK, x // BLOCK, 1] += weight[y, x]


def count_blocks(weight: NDArray[Any]) -> Floats:
    """Boxes of a tile and their weights, summed in blocks: (block rows, block columns, 2).

    Parameters
    ----------
    weight : ndarray (rows, columns)
        That fits are judged with: of the boxes before robust rounds.
    """
    sums = np.zeros((-(-weight.shape[0] // BLOCK), -(-weight.shape[1] // BLOCK), 2))
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
    sums: Floats, fit: Floats, unit: Floats, used: Floats, maps: Floats, corner: tuple[int, int], log_h: float
) -> None:
    """Add a fit to the running sums.

    Largest exponent, and weights, fits, log bandwidths, degrees under it; then without the penalty: largest exponent,
    weights, fits, squares. `maps`: log R, half the number of boxes over T, penalty, of blocks, of which the cell
    `corner` is the first that is wanted.
    """
    for y in range(fit.shape[0]):
        for x in range(fit.shape[1]):
            value = fit[y, x]
            if not (np.isfinite(value) and np.isfinite(unit[y, x])):
                continue
            v, u = y + corner[0], x + corner[1]
            level = between(maps[0], v, u)
            plain = -level * between(maps[1], v, u)
            share = _scaled(sums, 0, 5, y, x, plain - between(maps[2], v, u))
            sums[1, y, x] += share
            sums[2, y, x] += share * value
            sums[3, y, x] += share * log_h
            sums[4, y, x] += share * used[y, x]
            share = _scaled(sums, 5, 9, y, x, plain)
            sums[6, y, x] += share
            sums[7, y, x] += share * value
            sums[8, y, x] += share * (elementary.exp(level) * unit[y, x] + value**2)


def windowed(sums: Floats) -> Floats:
    """Gaussian window over blocks, (rows, columns); beyond the mesh there is nothing."""
    sigma = WINDOW / BLOCK
    kernel = elementary.exps(-0.5 * (np.arange(-WINDOW_REACH, WINDOW_REACH + 1) / sigma) ** 2)
    along = ndimage.correlate1d(sums, kernel, axis=0, mode="constant")
    return np.asarray(ndimage.correlate1d(along, kernel, axis=1, mode="constant"))


class Averages:
    """Averages of fits at the cells of a tile."""

    def __init__(self, tile: Region, blocks: Region, *, number: Floats, weights: Floats, floor: float) -> None:
        """Begin with no fit; `number` and `weights` of boxes are of the windows about some blocks, `blocks`."""
        self.weights, self.floor = weights, floor
        self.corner = tile.y0 - BLOCK * blocks.y0, tile.x0 - BLOCK * blocks.x0
        # a Gaussian window averages over twice the sum of its values
        self.power = number / _TEMPERATURE
        self.least = np.full(blocks.shape, np.inf)
        self.sums = np.zeros((9, *tile.shape))
        self.sums[[0, 5]] = -np.inf

    def add(self, fits: CellFits, squares: Floats, levers: Floats, *, log_h: float) -> None:
        """Add fits, whose squares of weight times residual, and leverages, are of the same windows."""
        with np.errstate(divide="ignore", invalid="ignore"):
            r = squares / self.weights
        self.least = np.fmin(self.least, r)
        penalty = _PENALTY * levers / _TEMPERATURE
        maps = np.stack([elementary.logs(np.where(r > self.floor, r, self.floor)), self.power, penalty])
        _average(self.sums, fits.fit, fits.unit, fits.degree, maps, self.corner, log_h)

    def result(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Mean, variance about it, log bandwidth, degree."""
        _, share, fit, log_h, degree, _, plain, plain_fit, square = self.sums
        mean = fit / share
        variance = square / plain - 2.0 * mean * (plain_fit / plain) + mean**2
        return mean, np.maximum(variance, 0.0), log_h / share, degree / share
