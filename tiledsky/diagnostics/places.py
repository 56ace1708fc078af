"""Random places, the same wherever they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.kernels.residual.cell_sums import CELL

_U64 = NDArray[np.uint64]


def random_words(first: NDArray[np.int64], second: NDArray[np.int64], stream: int) -> _U64:
    """64 random bits for each pair of integers: the same wherever they are asked for (the mixer of splitmix64)."""
    words = first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)
    with np.errstate(over="ignore"):
        for constant in (np.uint64(0x9E3779B97F4A7C15), np.uint64(stream)):
            words = words + constant * np.uint64(0x9E3779B97F4A7C15)
            words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
            words ^= words >> np.uint64(31)
    return words


def random_positions(band: Band, count: int, stream: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``count`` pixels of each cell of a band, rows and columns in its arrays, shape (cells, count)."""
    rows, columns = np.mgrid[band.where.y0 : band.where.y1, band.where.x0 : band.where.x1].reshape(2, -1, 1)
    words = random_words(rows * count + np.arange(count), columns + 0 * np.arange(count), stream)
    y = (words & np.uint64(CELL - 1)).astype(np.int64) + (rows - band.where.y0) * CELL + band.origin[0]
    x = (words >> np.uint64(32) & np.uint64(CELL - 1)).astype(np.int64) + (columns - band.where.x0) * CELL
    return y, x + band.origin[1]
