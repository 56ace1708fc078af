"""Boxes in blocks, for a sky so smooth that it needs no finer ones: their averages, and maps of blocks at the boxes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.fit.windows import Floats, Window

#: Blocks along an axis that a box lies between: cubics go through them.
_NODES = 4
#: Blocks beside those of a region that its boxes are interpolated from.
BLOCK_HALO = _NODES - 1


@numba.njit(nogil=True, cache=True)
def _average(values: NDArray[Any], weight: NDArray[Any], times: int, mean: Floats, total: Floats) -> None:
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            w = np.float64(weight[y, x])
            if w > 0.0:
                mean[y // times, x // times] += w * np.float64(values[y, x])
                total[y // times, x // times] += w
    for y in range(mean.shape[0]):
        for x in range(mean.shape[1]):
            mean[y, x] = mean[y, x] / total[y, x] if total[y, x] > 0.0 else np.nan


def averaged(values: NDArray[Any], weight: NDArray[Any], times: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Average boxes in blocks of `times` x `times`.

    Parameters
    ----------
    values : ndarray (rows, columns)
        Of the boxes, the first at a corner of a block; any number, also NaN, where the weight is 0.
    weight : ndarray (rows, columns)
    times : int

    Returns
    -------
    values : ndarray (block rows, block columns)
        By weight, as the dtype given; NaN where all weights are 0.
    weight : ndarray (block rows, block columns), float32
        Sum over a block, over the number of boxes in a whole one.

    Notes
    -----
    Halo: none. Memory: 16 bytes a block, and the result.
    """
    shape = -(-values.shape[0] // times), -(-values.shape[1] // times)
    mean, total = np.zeros(shape), np.zeros(shape)
    _average(values, weight, times, mean, total)
    return mean.astype(values.dtype), (total / times**2).astype(np.float32)


def _between(first: int, last: int, n: int, times: int) -> tuple[NDArray[np.int64], list[Floats]]:
    """First of the blocks, of `n` along an axis, that boxes lie between, and the weights of each of these."""
    number = min(_NODES, n)
    place = (np.arange(first, last) + 0.5) / times - 0.5
    start = np.clip(np.floor(place).astype(np.int64) - 1, 0, n - number)
    t, weights = place - start, list[Floats]()
    for i in range(number):
        weight = np.ones(t.size)
        for j in range(number):
            if j != i:
                weight *= (t - j) / (i - j)
        weights.append(weight)
    return start, weights


def at_boxes(blocks: Window, region: Region, shape: Pair, times: int) -> Floats:
    """Map of blocks of `times` x `times` boxes at some boxes: by cubics, through the middles of the blocks.

    Parameters
    ----------
    blocks : Window
        In the blocks of the region grown by `BLOCK_HALO`, finite.
    region : Region
        Of the boxes.
    shape : (int, int)
        Of the whole map of blocks.
    times : int

    Returns
    -------
    ndarray (rows, columns), float64

    Notes
    -----
    Edge rule: beyond the middle of the last block the cubic goes on. Memory: 24 bytes a box.
    """
    data = blocks.data.astype(np.float64)
    start, weights = _between(region.y0, region.y1, shape[0], times)
    rows = np.zeros((region.shape[0], data.shape[1]))
    for i, weight in enumerate(weights):
        rows += weight[:, None] * data[start + (i - blocks.region.y0)]
    start, weights = _between(region.x0, region.x1, shape[1], times)
    made = np.zeros(region.shape)
    for i, weight in enumerate(weights):
        made += weight * rows[:, start + (i - blocks.region.x0)]
    return made
