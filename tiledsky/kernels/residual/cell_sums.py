"""Sums over cells of 64 x 64 pixels, for tests of a residual: means of blocks, moments, pairs of pixels.

A cell is added up by itself, in an order that does not depend on what else is in the array.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

CELL = 64
#: Sides of the blocks, each twice the one before.
WIDTHS = (2, 4, 8, 16, 32, 64)
#: Block sums are kept at this side.
KEPT = 16
#: Pairs of pixels up to this far apart along each axis, each pair once: (dy, dx).
REACH = 3
LAGS = tuple((dy, dx) for dy in range(REACH + 1) for dx in range(-REACH, REACH + 1) if (dy, dx) > (0, 0))
#: Moments leave out what is farther from zero than this.
MOMENT_LIMIT = 5.0

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]


def block_columns(
    values: _F32, good: NDArray[np.uint8], *, origin: tuple[int, int], cells: tuple[int, int]
) -> tuple[_F64, _F64]:
    """Count, sum of n mean^2 and sum of the mean squares of the blocks of each width; sums of the blocks of `KEPT`.

    Parameters
    ----------
    values : ndarray of float32, shape (H, W)
        0 where not good.
    good : ndarray of uint8, shape (H, W)
        1 where a pixel counts.
    origin : (int, int)
        First pixel of the first cell; cells that the end of the array cuts have the pixels that are there.
    cells : (int, int)
        Rows and columns of cells.

    Returns
    -------
    columns : ndarray of float64, shape (rows, columns, 6, 3)
        Of blocks at least half of whose pixels count: how many; sum of ``n mean**2``; sum of the means of the squares.
        For white noise, whatever its strength from block to block, both sums are expected to be the same.
    kept : ndarray of float64, shape (4 rows, 4 columns, 2)
        Count and sum of every block of `KEPT` x `KEPT` pixels.
    """
    columns = np.zeros((*cells, len(WIDTHS), 3))
    kept = np.zeros((cells[0] * CELL // KEPT, cells[1] * CELL // KEPT, 2))
    _pyramid(values, good, origin[0], origin[1], columns, kept)
    return columns, kept


@njit(nogil=True, cache=True)
def _pyramid(values, good, y0, x0, columns, kept):  # type: ignore[no-untyped-def]
    height, width = values.shape
    sums = np.empty((32, 32, 3))
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            top, left = y0 + cy * 64, x0 + cx * 64
            bottom, right = min(top + 64, height), min(left + 64, width)
            sums[:] = 0.0
            for i in range((bottom - top + 1) >> 1):
                y = top + 2 * i
                for j in range((right - left + 1) >> 1):
                    count, first, second = 0, 0.0, 0.0
                    for k in range(4):
                        u, x = y + (k >> 1), left + 2 * j + (k & 1)
                        if u < bottom and x < right:
                            v = np.float64(values[u, x])
                            count += good[u, x]
                            first += v
                            second += v * v
                    sums[i, j, 0], sums[i, j, 1], sums[i, j, 2] = count, first, second
            side, n = 2, 32
            for level in range(6):
                if level:
                    side, n = 2 * side, n // 2
                    for i in range(n):
                        for j in range(n):
                            for k in range(3):
                                upper = sums[2 * i, 2 * j, k] + sums[2 * i, 2 * j + 1, k]
                                sums[i, j, k] = upper + (sums[2 * i + 1, 2 * j, k] + sums[2 * i + 1, 2 * j + 1, k])
                for i in range(n):
                    for j in range(n):
                        count = sums[i, j, 0]
                        if side == 16:
                            kept[cy * 4 + i, cx * 4 + j, 0] = count
                            kept[cy * 4 + i, cx * 4 + j, 1] = sums[i, j, 1]
                        if 2 * count >= side * side:
                            columns[cy, cx, level, 0] += 1.0
                            columns[cy, cx, level, 1] += sums[i, j, 1] * sums[i, j, 1] / count
                            columns[cy, cx, level, 2] += sums[i, j, 2] / count


def pair_columns(
    values: _F32, good: NDArray[np.uint8], *, origin: tuple[int, int], cells: tuple[int, int], limit: float = np.inf
) -> _F64:
    """Number of pairs and sum of products of pixels of each lag, shape (rows, columns, lags, 2).

    Arguments as of `block_columns`; pixels farther than ``limit`` from zero are left out. A pair belongs to the cell of
    its first pixel; the second may lie up to `REACH` pixels outside. Products are added in float32 along columns of a
    cell, then in float64.
    """
    columns = np.zeros((*cells, len(LAGS), 2))
    _pairs(values, good, limit, origin[0], origin[1], np.array(LAGS), columns)
    return columns


@njit(nogil=True, cache=True)
def _pairs(values, good, limit, y0, x0, lags, columns):  # type: ignore[no-untyped-def]
    height, width = values.shape
    products, counts = np.empty(64, np.float32), np.empty(64, np.uint8)
    # a cell with what is around it, 0 beyond the array
    near, used = np.zeros((67, 70), np.float32), np.zeros((67, 70), np.uint8)
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            top, left = y0 + cy * 64, x0 + cx * 64
            near[:] = 0.0
            used[:] = 0
            begin, end = max(left - 3, 0), min(left + 67, width)
            for y in range(top, min(top + 67, height)):
                v, g = values[y, begin:end], good[y, begin:end]
                row, flags = near[y - top, begin - left + 3 :], used[y - top, begin - left + 3 :]
                for x in range(v.size):
                    counted = abs(v[x]) <= limit
                    row[x] = v[x] if counted else np.float32(0)
                    flags[x] = g[x] if counted else 0
            rows = min(64, height - top)
            for k in range(lags.shape[0]):
                dy, dx = lags[k]
                products[:] = 0.0
                counts[:] = 0
                for y in range(min(rows, height - top - dy)):
                    a, b = near[y, 3:67], near[y + dy, 3 + dx : 67 + dx]
                    g, h = used[y, 3:67], used[y + dy, 3 + dx : 67 + dx]
                    for x in range(64):
                        products[x] += a[x] * b[x]
                    for x in range(64):
                        counts[x] = np.uint8(counts[x] + (g[x] & h[x]))
                total, number = 0.0, 0
                for x in range(64):
                    total += products[x]
                    number += counts[x]
                columns[cy, cx, k, 0] = number
                columns[cy, cx, k, 1] = total


def moment_columns(
    values: _F32,
    residual: NDArray[np.floating],
    good: NDArray[np.uint8],
    *,
    origin: tuple[int, int],
    cells: tuple[int, int],
) -> _F64:
    """Sums of a cell, shape (rows, columns, 8): pixels, residual, its square; pixels, powers 1 to 4 of near values.

    ``values`` within `MOMENT_LIMIT` of zero are near. Other arguments as of `block_columns`.
    """
    columns = np.zeros((*cells, 8))
    _moments(values, residual, good, origin[0], origin[1], columns)
    return columns


#: Side of the blocks whose skewness tells light from noise; those farther from zero than this are left out.
SMALL, SMALL_LIMIT = 4, 5.0


def small_block_columns(
    values: _F32, good: NDArray[np.uint8], *, origin: tuple[int, int], cells: tuple[int, int]
) -> _F64:
    """Sums of a cell, shape (rows, columns, 4): blocks of `SMALL` px, powers 1 to 3 of their sums over sqrt(pixels).

    Of blocks with three quarters of their pixels, within `SMALL_LIMIT` of zero. Arguments as of `block_columns`.
    """
    columns = np.zeros((*cells, 4))
    _small(values, good, origin[0], origin[1], columns)
    return columns


@njit(nogil=True, cache=True)
def _small(values, good, y0, x0, columns):  # type: ignore[no-untyped-def]
    height, width = values.shape
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            number = first = second = third = 0.0
            for i in range(y0 + cy * 64, min(y0 + cy * 64 + 64, height - 3), 4):
                for j in range(x0 + cx * 64, min(x0 + cx * 64 + 64, width - 3), 4):
                    count, total = 0, 0.0
                    for y in range(i, i + 4):
                        for x in range(j, j + 4):
                            count += good[y, x]
                            total += np.float64(values[y, x])
                    if count >= 12:
                        v = total / np.sqrt(np.float64(count))
                        if abs(v) <= 5.0:
                            number += 1.0
                            first += v
                            second += v * v
                            third += v * v * v
            for k, sum_of in enumerate((number, first, second, third)):
                columns[cy, cx, k] = sum_of


@njit(nogil=True, cache=True)
def _moments(values, residual, good, y0, x0, columns):  # type: ignore[no-untyped-def]
    height, width = values.shape
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            top, left = y0 + cy * 64, x0 + cx * 64
            n = s = q = near = first = second = third = fourth = 0.0
            for y in range(top, min(top + 64, height)):
                for x in range(left, min(left + 64, width)):
                    if not good[y, x]:
                        continue
                    r, v = np.float64(residual[y, x]), np.float64(values[y, x])
                    n += 1.0
                    s += r
                    q += r * r
                    if abs(v) <= 5.0:
                        square = v * v
                        near += 1.0
                        first += v
                        second += square
                        third += square * v
                        fourth += square * square
            for k, total in enumerate((n, s, q, near, first, second, third, fourth)):
                columns[cy, cx, k] = total
