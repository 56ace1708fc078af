"""Pixels of a polynomial of the whole image from a few of its cells, by Lagrange's formula."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region


def _first(pixels: NDArray[np.int64], box: int, n: int, points: int) -> NDArray[np.int64]:
    """First of the cells that pixels are made from: those about it, at the ends of the mesh the outermost."""
    place = 2 * pixels + 1 - box - (points - 2) * box  # twice a box from centre to centre
    return np.clip(place // (2 * box), 0, n - points)


def lagrange_window(region: Region, box_size: Pair, shape: Pair, points: int) -> Region:
    """Cells that `lagrange_evaluate` reads for a region."""
    ends = []
    for lo, hi, box, n in zip(region[::2], region[1::2], box_size, shape, strict=True):
        held = min(points, n)
        first, last = _first(np.array([lo, hi - 1]), box, n, held).tolist()
        ends += [first, last + held]
    return Region(*ends)


def _weights(start: int, stop: int, box: int, n: int, points: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First cells of the pixels along an axis, and weights (points, pixels)."""
    pixels = np.arange(start, stop)
    first = _first(pixels, box, n, points)
    place = (2 * pixels + 1 - box) / (2.0 * box) - first
    weights = np.ones((points, pixels.size))
    for k in range(points):
        for other in range(points):
            if other != k:
                weights[k] *= (place - other) / (k - other)
    return first, weights


def lagrange_evaluate(
    values: NDArray[Any], box_size: Pair, region: Region, *, points: int, origin: Pair, shape: Pair, dtype: Any
) -> NDArray[Any]:
    """Evaluate the polynomial through the centres of ``points`` x ``points`` cells about each pixel.

    Parameters
    ----------
    values : ndarray (rows, columns)
        Cells of `lagrange_window`, or more.
    box_size : (int, int)
        Pixels of a cell.
    region : Region
        Pixels that are wanted.
    points : int
        One more than the degree of the polynomial, which is reproduced, beyond the outermost centres too.
    origin, shape : (int, int)
        First cell of `values`; shape of the mesh.
    dtype : dtype
        Of the result.

    Notes
    -----
    NaN: in all pixels that a cell of NaN is near. The same bits for any region. Memory: the result, the window as
    float64, and ``16 points`` bytes a pixel of the sides.
    """
    ends = zip(region[::2], region[1::2], box_size, shape, origin, strict=True)
    (top, down), (left, across) = (
        (first - start, weights)
        for lo, hi, box, n, start in ends
        for first, weights in [_weights(lo, hi, box, n, min(points, n))]
    )
    out = np.empty(region.shape, dtype)
    _evaluate(np.ascontiguousarray(values, np.float64), top, down, left, across, out)
    return out


@numba.njit(nogil=True, cache=True)
def _evaluate(
    values: NDArray[np.float64],
    top: NDArray[np.int64],
    down: NDArray[np.float64],
    left: NDArray[np.int64],
    across: NDArray[np.float64],
    out: NDArray[Any],
) -> None:
    row = np.empty(values.shape[1])
    for y in range(out.shape[0]):
        row[:] = 0.0
        for k in range(down.shape[0]):
            for x in range(row.size):
                row[x] += down[k, y] * values[top[y] + k, x]
        for x in range(out.shape[1]):
            total = 0.0
            for k in range(across.shape[0]):
                total += across[k, x] * row[left[x] + k]
            out[y, x] = total
