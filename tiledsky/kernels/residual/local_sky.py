"""The sky at each place as the pixels around it tell it: local quadratic regression on a grid of small blocks."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.kernels._simd import elementary


def local_quadratic(
    counts: NDArray[np.float64],
    sums: NDArray[np.float64],
    *,
    sigma: float,
    radius: int,
    worst: float,
    where: tuple[slice, slice] | None = None,
) -> NDArray[np.float64]:
    """Fit a polynomial of degree 2 around each block, weighted by a Gaussian and by the blocks' pixels.

    Parameters
    ----------
    counts, sums : ndarray of float64, shape (h, w)
        Number of pixels that count of each block, and the sum of their values.
    sigma : float
        Of the Gaussian, in blocks.
    radius : int
        Blocks farther than this along an axis have no weight.
    worst : float
        Largest variance of the value at the centre, in units of a pixel's, by the weights as if they were 1 / variance.
    where : (slice, slice), optional
        Blocks that are wanted, with given ends; default all.

    Returns
    -------
    ndarray of float64, shape (h, w, 3)
        Value at the centre of the block, slopes along y and x a block; NaN where the fit is worse, or not wanted.

    Notes
    -----
    Halo: ``radius`` blocks; nothing is beyond the array. Every block is added up in the same order wherever the array
    begins. Reference: `numpy.linalg.lstsq` with the square roots of the weights. Memory: 27 float64 a block and row.
    """
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    powers = elementary.exps(-0.5 * (offsets / sigma) ** 2) * elementary.powers(offsets, 5)
    out = np.full((*counts.shape, 3), np.nan)
    rows, columns = where or (slice(0, counts.shape[0]), slice(0, counts.shape[1]))
    limits = np.array((rows.start, rows.stop, columns.start, columns.stop))
    _fit(np.ascontiguousarray(counts), np.ascontiguousarray(sums), powers, radius, worst, limits, out)
    return out


@njit(nogil=True, cache=True)
def _along_columns(counts, sums, powers, radius, y, moments, values):  # type: ignore[no-untyped-def]
    """Weighted sums over the rows around row `y`, each column by itself: powers 0..4 of counts, 0..2 of sums."""
    height, width = counts.shape
    moments[:] = 0.0
    values[:] = 0.0
    for k in range(-radius, radius + 1):
        if y + k < 0 or y + k >= height:
            continue
        for p in range(5):
            t = powers[p, k + radius]
            for x in range(width):
                moments[p, x] += t * counts[y + k, x]
        for p in range(3):
            t = powers[p, k + radius]
            for x in range(width):
                values[p, x] += t * sums[y + k, x]


@njit(nogil=True, cache=True)
def _along_row(line, taps, first, out):  # type: ignore[no-untyped-def]
    """Weighted sums over the blocks beside each one from `first` on; `line` has the taps' reach more on both sides."""
    out[:] = 0.0
    for k in range(taps.size):
        source, t = line[first + k : first + k + out.size], taps[k]
        for x in range(out.size):
            out[x] += t * source[x]


@njit(nogil=True, cache=True)
def _fit(counts, sums, powers, radius, worst, limits, out):  # type: ignore[no-untyped-def]
    width, wanted = counts.shape[1], limits[3] - limits[2]
    # exponents of the terms: value, slopes, curvatures
    ys = np.array([0, 1, 0, 2, 1, 0])
    xs = np.array([0, 0, 1, 0, 1, 2])
    # nothing is beyond the array
    moments, values = np.zeros((5, width + 2 * radius)), np.zeros((3, width + 2 * radius))
    at, rights = np.empty((5, 5, wanted)), np.empty((6, wanted))
    matrix, right, inverse = np.empty((6, 6)), np.empty(6), np.empty(6)
    for y in range(limits[0], limits[1]):
        _along_columns(
            counts, sums, powers, radius, y, moments[:, radius : radius + width], values[:, radius : radius + width]
        )
        for p in range(5):
            for q in range(5 - p):
                _along_row(moments[p], powers[q], limits[2], at[p, q])
        for i in range(6):
            _along_row(values[ys[i]], powers[xs[i]], limits[2], rights[i])
        for x in range(wanted):
            for i in range(6):
                right[i] = rights[i, x]
                for j in range(6):
                    matrix[i, j] = at[ys[i] + ys[j], xs[i] + xs[j], x]
                inverse[i] = 1.0 if i == 0 else 0.0
            if at[0, 0, x] * worst < 1.0 or not _solve(matrix, right, inverse) or not inverse[0] < worst:
                out[y, limits[2] + x] = np.nan
            else:
                out[y, limits[2] + x] = right[:3]


@njit(nogil=True, cache=True)
def _solve(matrix, right, inverse):  # type: ignore[no-untyped-def]
    """Solve for two right-hand sides by Cholesky, in place; False where the matrix is as good as singular."""
    n = right.size
    for j in range(n):
        scale = matrix[j, j]
        for k in range(j):
            matrix[j, j] -= matrix[j, k] * matrix[j, k]
        if not matrix[j, j] > 1e-9 * scale:
            return False
        matrix[j, j] = np.sqrt(matrix[j, j])
        for i in range(j + 1, n):
            for k in range(j):
                matrix[i, j] -= matrix[i, k] * matrix[j, k]
            matrix[i, j] /= matrix[j, j]
    for i in range(n):
        for k in range(i):
            right[i] -= matrix[i, k] * right[k]
            inverse[i] -= matrix[i, k] * inverse[k]
        right[i] /= matrix[i, i]
        inverse[i] /= matrix[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            right[i] -= matrix[k, i] * right[k]
            inverse[i] -= matrix[k, i] * inverse[k]
        right[i] /= matrix[i, i]
        inverse[i] /= matrix[i, i]
    return True
