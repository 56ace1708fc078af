"""Blocks of 4 x 4 pixels by what is in them: one value, nearly one value, noise, or neither."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Side of the blocks: small enough for narrow gaps, large enough that noise in whole numbers seldom fills one.
BLOCK = 4
#: What a block is: not counted (a pixel of it is not used), smooth, with a dip, one pixel short of solid, solid.
UNUSED, SMOOTH, DIP, NEAR, SOLID = (np.uint8(k) for k in range(5))


def block_kinds(values: NDArray[np.floating], used: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Kind of each block of `BLOCK` x `BLOCK` pixels.

    Parameters
    ----------
    values : ndarray of float, shape (H, W)
        Finite where they are used.
    used : ndarray of bool, shape (H, W)
        Blocks count if all of their pixels are used.

    Returns
    -------
    ndarray of uint8, shape (H // 4, W // 4)
        `SOLID`: all pixels have one value. `NEAR`: all but one. `DIP`: some pixel lies below both of its neighbours in
        its row or column, by more than rounding; of white noise 99 blocks in 100, of a smooth image hardly any. Else
        `SMOOTH`.
    """
    kinds = np.empty((values.shape[0] // BLOCK, values.shape[1] // BLOCK), np.uint8)
    _kinds(values, used, 2 * float(np.finfo(values.dtype).eps), kinds)
    return kinds


@njit(nogil=True, cache=True)
def _kinds(values, used, rounding, kinds):  # type: ignore[no-untyped-def]
    for i in range(kinds.shape[0]):
        for j in range(kinds.shape[1]):
            y, x = 4 * i, 4 * j
            every = True
            for k in range(4):
                u = used[y + k]
                every &= u[x] & u[x + 1] & u[x + 2] & u[x + 3]
            kinds[i, j] = _kind(values[y : y + 4, x : x + 4], rounding) if every else 0


@njit(nogil=True, cache=True)
def _kind(block, rounding):  # type: ignore[no-untyped-def]
    first, second = block[0, 0], block[0, 1]
    # of a block that is one pixel short of solid at least three in the first row are one value
    if first == second or (first == block[0, 2]) & (first == block[0, 3]) or second == block[0, 2]:
        same, other = 0, 0
        for y in range(4):
            for x in range(4):
                same += block[y, x] == first
                other += block[y, x] == second
        if same == 16:
            return 4
        if same == 15 or other == 15:
            return 3
    for k in range(8):
        a, b = k >> 1, 1 + (k & 1)
        low = block[a, b]
        limit = low + rounding * abs(low)
        if (block[a, b - 1] > limit) & (block[a, b + 1] > limit):
            return 2
        low = block[b, a]
        limit = low + rounding * abs(low)
        if (block[b - 1, a] > limit) & (block[b + 1, a] > limit):
            return 2
    return 1
