"""Averages of fits to a mesh, by how well each predicts boxes that it has not seen; `local_polynomial` says how."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.kernels._simd import elementary

#: Standard deviation of the window in which fits are compared, in cells, and cells of a block that it is made of.
WINDOW, BLOCK = 32.0, 4
#: T of the weights: above 1, for residuals of neighbouring boxes are a little alike.
_TEMPERATURE = 3.0
#: What a parameter costs a fit beyond what its residuals do.
_PENALTY = 1.0

Floats = NDArray[np.float64]


@numba.njit(nogil=True, cache=True)
def _score(values: Floats, weight: Floats, fitted: Floats, fit: Floats, lever: Floats, sums: Floats) -> None:
    """Squares of weight times residual from fits without each box, and leverages, summed in blocks.

    Row 0 is a corner of a block. `fitted`: weights that the fits are made with.
    """
    sums[:] = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            w = weight[y, x]
            if w > 0.0:
                own = fitted[y, x] * lever[y, x]
                r = (values[y, x] - fit[y, x]) / max(1.0 - own, 0.1)
                sums[0, y // BLOCK, x // BLOCK] += (w * r) ** 2
                sums[1, y // BLOCK, x // BLOCK] += min(own, 1.0)


@numba.njit(nogil=True, cache=True)
def _count(weight: Floats, sums: Floats) -> None:
    """Boxes and their weights, summed in blocks."""
    sums[:] = 0.0
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            if weight[y, x] > 0.0:
                sums[0, y // BLOCK, x // BLOCK] += 1.0
                sums[1, y // BLOCK, x // BLOCK] += weight[y, x]


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
def _average(sums: Floats, fit: Floats, unit: Floats, used: Floats, maps: Floats, y0: int, log_h: float) -> None:
    """Add a fit to the running sums.

    Largest exponent, and weights, fits, log bandwidths, degrees under it; then without the penalty: largest exponent,
    weights, fits, squares. `maps`: log R, half the number of boxes over T, penalty, of blocks, of which row `y0` of
    cells is the first that is wanted.
    """
    for y in range(fit.shape[0]):
        for x in range(fit.shape[1]):
            value = fit[y, x]
            if not (np.isfinite(value) and np.isfinite(unit[y, x])):
                continue
            level = between(maps[0], y + y0, x)
            plain = -level * between(maps[1], y + y0, x)
            share = _scaled(sums, 0, 5, y, x, plain - between(maps[2], y + y0, x))
            sums[1, y, x] += share
            sums[2, y, x] += share * value
            sums[3, y, x] += share * log_h
            sums[4, y, x] += share * used[y, x]
            share = _scaled(sums, 5, 9, y, x, plain)
            sums[6, y, x] += share
            sums[7, y, x] += share * value
            sums[8, y, x] += share * (elementary.exp(level) * unit[y, x] + value**2)


def windowed(sums: Floats) -> Floats:
    """Gaussian window over blocks; beyond the mesh there is nothing."""
    sigma = WINDOW / BLOCK
    reach = int(3 * sigma)
    kernel = elementary.exps(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    along = ndimage.correlate1d(sums, kernel, axis=0, mode="constant")
    return np.asarray(ndimage.correlate1d(along, kernel, axis=1, mode="constant"))


class Averages:
    """Some rows of a mesh, with those about them that they depend on, and the averages there."""

    def __init__(self, values: Floats, weight: Floats, fitted: Floats, rows: slice, offset: int) -> None:
        """Arrays begin at row `offset` of the mesh, at the corner of a block, as far as residuals count."""
        self.nx, self.values, self.weight, self.fitted = values.shape[1], values, weight, fitted
        self.inner = slice(rows.start - offset, rows.stop - offset)
        self.blocks = tuple(-(-n // BLOCK) for n in values.shape)
        counted = np.zeros((2, *self.blocks))
        _count(weight, counted)
        # a Gaussian window averages over twice the sum of its values
        number, self.weights = windowed(counted[0]), windowed(counted[1])
        self.power = number / _TEMPERATURE
        with np.errstate(divide="ignore", invalid="ignore"):
            self.mean_weight = np.where(number > 0.0, self.weights / number, 0.0)
        self.least = np.full(self.blocks, np.inf)
        self.sums = np.zeros((9, rows.stop - rows.start, self.nx))
        self.sums[[0, 5]] = -np.inf

    def add(self, fit: Floats, lever: Floats, unit: Floats, used: Floats, *, log_h: float, floor: float) -> None:
        """Add a fit."""
        found = np.zeros((2, *self.blocks))
        _score(self.values, self.weight, self.fitted, fit, lever, found)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = windowed(found[0]) / self.weights
        self.least = np.fmin(self.least, r)
        penalty = _PENALTY * windowed(found[1]) / _TEMPERATURE
        maps = np.stack([elementary.logs(np.where(r > floor, r, floor)), self.power, penalty])
        fit, unit, used = (np.ascontiguousarray(a[self.inner]) for a in (fit, unit, used))
        _average(self.sums, fit, unit, used, maps, self.inner.start, log_h)

    def result(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Mean, variance about it, log bandwidth, degree."""
        _, share, fit, log_h, degree, _, plain, plain_fit, square = self.sums
        mean = fit / share
        variance = square / plain - 2.0 * mean * (plain_fit / plain) + mean**2
        return mean, np.maximum(variance, 0.0), log_h / share, degree / share
