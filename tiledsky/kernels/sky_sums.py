"""Sums over cells of 64 x 64 pixels of a background: at masked and unmasked places, by distance from the mask's edge.

States of a pixel: `GOOD` it is sky, `MASKED` a source or the user's mask hides it, `LOST` it has no valid datum.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

GOOD, MASKED, LOST = np.uint8(0), np.uint8(1), np.uint8(2)
#: Side of the blocks that the sky around a place is fitted to.
QUAD = 8
#: Sums of the pixels outside masks, of each group of masked pixels, of each distance.
OUTSIDE, GROUP, DISTANCE = 5, 4, 4
#: All masked pixels, bright ones, faint ones, and those of mask bits 1 to 7.
N_GROUPS = 10
#: Residual in units of the noise above which a masked pixel is bright.
BRIGHT = 3.0

_F64 = NDArray[np.float64]


def quad_sums(
    science: NDArray[np.floating], state: NDArray[np.uint8], squared: NDArray[np.int32], *, nearest: int
) -> tuple[_F64, _F64]:
    """Count and sum of the sky pixels of each block of `QUAD` pixels at least ``nearest`` px from the mask.

    ``squared`` are the squared distances from the mask; arrays of shape (H, W) that start at the corner of a block.
    Returns two arrays of shape (ceil(H / 8), ceil(W / 8)).
    """
    shape = tuple(-(-n // QUAD) for n in state.shape)
    counts, sums = np.zeros(shape), np.zeros(shape)
    _quads(science, state, squared, nearest * nearest, counts, sums)
    return counts, sums


@njit(nogil=True, cache=True)
def _quads(science, state, squared, nearest, counts, sums):  # type: ignore[no-untyped-def]
    for y in range(state.shape[0]):
        for x in range(state.shape[1]):
            if state[y, x] == 0 and squared[y, x] >= nearest:
                counts[y >> 3, x >> 3] += 1.0
                sums[y >> 3, x >> 3] += science[y, x]


def sky_columns(
    background: NDArray[np.floating],
    residual: NDArray[np.floating],
    values: NDArray[np.float32],
    state: NDArray[np.uint8],
    bits: NDArray[np.uint8],
    bins: NDArray[np.int8],
    far: NDArray[np.bool_],
    around: _F64,
    *,
    n_bins: int,
    origin: tuple[int, int],
    cells: tuple[int, int],
) -> _F64:
    """Sums of each cell.

    Parameters
    ----------
    background, residual, values : ndarray, shape (H, W)
        The background, image minus background, and that in units of the noise. Start at the corner of a block.
    state, bits : ndarray of uint8, shape (H, W)
    bins : ndarray of int8, shape (H, W)
        Bin of the distance from the mask's edge; -1: none.
    far : ndarray of bool, shape (H, W)
        Where a sky pixel counts for what the background minus the sky around is outside masks.
    around : ndarray of float64, shape (ceil(H / 8), ceil(W / 8), 3)
        What the sky around says (`tiledsky.kernels.local_sky.local_quadratic`).
    n_bins : int
    origin, cells
        As of `tiledsky.kernels.cell_sums.block_columns`.

    Returns
    -------
    ndarray of float64, shape (rows, columns, 5 + 4 x 10 + 4 n_bins)
        Outside: pixels, background, residual; far pixels with a sky around, background minus that sky. Each group:
        pixels, background; the same two. Each bin: the two, then pixels and residual.
    """
    columns = np.zeros((*cells, OUTSIDE + GROUP * N_GROUPS + DISTANCE * n_bins))
    _sky(background, residual, values, state, bits, bins, far, around, origin[0], origin[1], columns)
    return columns


@njit(nogil=True, cache=True)
def _add_group(row, group, b, known, difference):  # type: ignore[no-untyped-def]
    start = 5 + 4 * group
    row[start] += 1.0
    row[start + 1] += b
    if known:
        row[start + 2] += 1.0
        row[start + 3] += difference


@njit(nogil=True, cache=True)
def _sky(background, residual, values, state, bits, bins, far, around, y0, x0, columns):  # type: ignore[no-untyped-def]
    height, width = state.shape
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            row = columns[cy, cx]
            for y in range(y0 + cy * 64, min(y0 + cy * 64 + 64, height)):
                dy = ((y & 7) - 3.5) / 8.0
                for x in range(x0 + cx * 64, min(x0 + cx * 64 + 64, width)):
                    if state[y, x] == 2:
                        continue
                    b, r = np.float64(background[y, x]), np.float64(residual[y, x])
                    sky = around[y >> 3, x >> 3]
                    difference = b - (sky[0] + dy * sky[1] + ((x & 7) - 3.5) / 8.0 * sky[2])
                    known = difference == difference
                    if state[y, x] == 0:
                        row[0] += 1.0
                        row[1] += b
                        row[2] += r
                        if known and far[y, x]:
                            row[3] += 1.0
                            row[4] += difference
                    else:
                        _add_group(row, 0, b, known, difference)
                        _add_group(row, 1 if values[y, x] > 3.0 else 2, b, known, difference)
                        for k in range(1, 8):
                            if bits[y, x] >> k & 1:
                                _add_group(row, 2 + k, b, known, difference)
                    k = bins[y, x]
                    if k >= 0:
                        start = 45 + 4 * k
                        if known:
                            row[start] += 1.0
                            row[start + 1] += difference
                        row[start + 2] += 1.0
                        row[start + 3] += r


def distance_bins(
    state: NDArray[np.uint8],
    outside: NDArray[np.int32],
    inside: NDArray[np.int32],
    of_outside: NDArray[np.int8],
    of_inside: NDArray[np.int8],
) -> NDArray[np.int8]:
    """Bin of each pixel from its squared distances, by a table for sky pixels and one for masked ones; -1 for others.

    Squared distances beyond the end of a table have no bin.
    """
    bins = np.full(state.shape, -1, np.int8)
    for kind, squared, table in ((GOOD, outside, of_outside), (MASKED, inside, of_inside)):
        chosen = (state == kind) & (squared < table.size)
        bins[chosen] = table[squared[chosen]]
    return bins
