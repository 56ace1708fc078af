"""Compact light of an image minus a background: a mask for judging the sky, the same whoever made the background.

Bits of a pixel: `COMPACT`, light stands out of the sky there on the scale of a point source; `WINGS`, that, what
reaches around it, and defects: what lies below the sky on that scale.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.kernels.residual.cell_sums import CELL

COMPACT, WINGS = np.uint8(1), np.uint8(2)
#: Pixels of the running means that light is looked for in, beside each; side of the blocks that tell what is about it.
_REACH, _BLOCK = 2, 8
#: Deviations from the median of a cell from which light (or a defect) counts, and pixels that it is grown by.
_SIGMAS, _GROW = 4.0, 3
#: Wings reach so far where light is 1, 5, 25, ... times that, px.
_WINGS = (3, 6, 12, 20, 32)
_LEVELS, _FIVES = len(_WINGS), tuple(np.float32(5**k) for k in range(len(_WINGS)))
#: Seed of a defect.
_DEFECT = 100
#: Every so many pixels and rows tell the median and the deviation of a cell; least number of them.
_STEP, _FEW = 2, 32
#: Deviation over the median of the absolute deviations, of normal noise.
_DEVIATION = 1.4826022185056018


def compact_light(
    scaled: NDArray[np.float32], state: NDArray[np.uint8], *, origin: tuple[int, int], cells: tuple[int, int]
) -> NDArray[np.uint8]:
    """Mask what stands out of its cell on the scale of a point source.

    Parameters
    ----------
    scaled : ndarray of float32, shape (H, W)
        Image minus background in units of the noise, 0 where lost.
    state : ndarray of uint8, shape (H, W)
        2 where a pixel is lost (`tiledsky.kernels.residual.sky_sums.LOST`).
    origin : (int, int)
        First pixel of the first cell.
    cells : (int, int)
        Rows and columns of cells.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        `COMPACT` where the mean of 5 x 5 px, weighted to their centre, less that of the 3 x 3 blocks of 8 px about it
        lies 4 deviations above its median in the cell of 64 px (deviations by the median, too), and within 3 px of it.
        `WINGS` there, within 6, 12, 20, 32 px of light of 20, 100, 500, 2500 deviations, and within 3 px of what lies 4
        deviations below both the median and zero. Right in the cells, and 3 px beyond.

    Notes
    -----
    Deviations are those of the cell, and what is smooth on 24 px does not count: neither correlated noise nor a sky
    that is wrong, nor large objects, are masked. A cell depends on its own pixels and on those near it: the same bits
    for any tiling. Halo: one cell.
    Memory: 10 bytes a pixel.
    """
    smooth = np.zeros(scaled.shape, np.float32)
    _smoothed(scaled, smooth)
    shape = tuple(-(-n // _BLOCK) for n in scaled.shape)
    about = np.zeros(shape, np.float32)
    _minus_about(scaled, state, np.zeros((*shape, 2)), about, smooth)
    seeds, made = np.zeros(scaled.shape, np.uint8), np.zeros(scaled.shape, np.uint8)
    _seeds(smooth, about, state, origin[0], origin[1], seeds)
    _grown(seeds, np.array(_WINGS), made)
    return made


@njit(nogil=True, cache=True)
def _smoothed(values, smooth):  # type: ignore[no-untyped-def]
    """Weighted by 1 2 3 2 1 along both axes; 0 within 2 px of the ends."""
    height, width = values.shape
    along = np.zeros((height, width), np.float32)
    two, three = np.float32(2), np.float32(3)
    for y in range(2, height - 2):
        for x in range(width):
            inner = two * (values[y - 1, x] + values[y + 1, x]) + three * values[y, x]
            along[y, x] = (values[y - 2, x] + values[y + 2, x]) + inner
    for y in range(2, height - 2):
        for x in range(2, width - 2):
            inner = two * (along[y, x - 1] + along[y, x + 1]) + three * along[y, x]
            smooth[y, x] = (along[y, x - 2] + along[y, x + 2]) + inner


@njit(nogil=True, cache=True)
def _minus_about(values, state, sums, about, smooth):  # type: ignore[no-untyped-def]
    """Take off the mean of the blocks about each pixel, times the weights of `_smoothed`; ``sums`` are zeros."""
    height, width = values.shape
    rows, columns = sums.shape[:2]
    for i in range(rows):
        for j in range(columns):
            n, total = 0.0, 0.0
            for y in range(_BLOCK * i, min(_BLOCK * (i + 1), height)):
                for x in range(_BLOCK * j, min(_BLOCK * (j + 1), width)):
                    if state[y, x] != 2:
                        n += 1.0
                        total += np.float64(values[y, x])
            sums[i, j, 0], sums[i, j, 1] = n, total
    for i in range(rows):
        for j in range(columns):
            n, total = 0.0, 0.0
            for k in range(max(i - 1, 0), min(i + 2, rows)):
                for m in range(max(j - 1, 0), min(j + 2, columns)):
                    n += sums[k, m, 0]
                    total += sums[k, m, 1]
            if n > 0.0:
                mean = np.float32(81.0 * total / n)
                about[i, j] = mean
                for y in range(_BLOCK * i, min(_BLOCK * (i + 1), height)):
                    for x in range(_BLOCK * j, min(_BLOCK * (j + 1), width)):
                        smooth[y, x] -= mean


@njit(nogil=True, cache=True)
def _seeds(smooth, about, state, y0, x0, seeds):  # type: ignore[no-untyped-def]
    height, width = smooth.shape
    held = np.empty((CELL // _STEP) ** 2, np.float32)
    for top in range(y0 - CELL if y0 else 0, height, CELL):
        for left in range(x0 - CELL if x0 else 0, width, CELL):
            # what is about the outermost blocks of a cell is not known of cells of the halo; of a cut cell all is there
            bottom = top + CELL - _BLOCK if top + CELL <= height else height - _REACH
            right = left + CELL - _BLOCK if left + CELL <= width else width - _REACH
            n = 0
            for y in range(top + _BLOCK, bottom, _STEP):
                for x in range(left + _BLOCK, right, _STEP):
                    if state[y, x] != 2:
                        held[n] = smooth[y, x]
                        n += 1
            if n < _FEW:
                continue
            middle = np.median(held[:n])
            spread = np.float32(_DEVIATION) * np.median(np.abs(held[:n] - middle))
            limit = np.float32(_SIGMAS) * spread
            for y in range(top, min(top + CELL, height)):
                for x in range(left, min(left + CELL, width)):
                    high, level = smooth[y, x] - middle, 0
                    # beside a bright source all lies below what is about it, but not below the sky
                    if high < -limit and smooth[y, x] + about[y // _BLOCK, x // _BLOCK] < -limit:
                        level = _DEFECT
                    while level < _LEVELS and high > limit * _FIVES[level]:
                        level += 1
                    seeds[y, x] = level


@njit(nogil=True, cache=True)
def _grown(seeds, wings, made):  # type: ignore[no-untyped-def]
    """Squares about the seeds, without their corners, and discs about bright ones."""
    height, width = seeds.shape
    for y in range(height):
        for x in range(width):
            if seeds[y, x]:
                bits = 2 if seeds[y, x] == _DEFECT else 3
                for k in range(-_GROW, _GROW + 1):
                    if 0 <= y + k < height:
                        reach = _GROW if abs(k) < _GROW else _GROW - 1
                        for m in range(max(x - reach, 0), min(x + reach + 1, width)):
                            made[y + k, m] |= bits
            if 1 < seeds[y, x] < _DEFECT:
                radius = wings[seeds[y, x] - 1]
                for k in range(max(-radius, -y), min(radius, height - 1 - y) + 1):
                    reach = int(np.sqrt(np.float64(radius * radius - k * k)))
                    for m in range(max(x - reach, 0), min(x + reach + 1, width)):
                        made[y + k, m] |= 2
