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

_F64 = NDArray[np.float64]


def quad_sums(
    science: NDArray[np.floating], state: NDArray[np.uint8], squared: NDArray[np.uint16], *, nearest: int
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
    height, width = state.shape
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            count, total = 0, 0.0
            for y in range(8 * i, min(8 * i + 8, height)):
                for x in range(8 * j, min(8 * j + 8, width)):
                    if state[y, x] == 0 and squared[y, x] >= nearest:
                        count += 1
                        total += science[y, x]
            counts[i, j], sums[i, j] = count, total


def pixel_planes(
    science: NDArray[np.floating], background: NDArray[np.floating], rms: NDArray[np.floating], bits: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.floating], NDArray[np.float32]]:
    """State of each pixel and its residual, in the image's unit and in units of its noise; arrays of shape (H, W).

    Returns
    -------
    state : ndarray of uint8
        `LOST` where bit 0 is set, the residual is not finite or the noise not above 0; else `MASKED` where another bit
        is.
    residual : ndarray, dtype of image and background together
        Image minus background.
    scaled : ndarray of float32
        The residual over the noise, 0 where lost.
    """
    state = np.empty(science.shape, np.uint8)
    residual = np.empty(science.shape, np.result_type(science, background))
    scaled = np.empty(science.shape, np.float32)
    _planes(science, background, rms, bits, state, residual, scaled)
    return state, residual, scaled


@njit(nogil=True, cache=True, error_model="numpy")
def _planes(science, background, rms, bits, state, residual, scaled):  # type: ignore[no-untyped-def]
    zero = np.float32(0)
    for y in range(state.shape[0]):
        for x in range(state.shape[1]):
            r, noise, b = science[y, x] - background[y, x], rms[y, x], bits[y, x]
            # infinity minus itself is NaN, so this is zero for finite values alone
            lost = (b & 1 != 0) | (r - r != 0) | (not noise > 0)
            masked = b & 254 != 0
            state[y, x] = 2 if lost else (1 if masked else 0)
            residual[y, x] = r
            scaled[y, x] = zero if lost else np.float32(r / noise)


def sky_columns(
    background: NDArray[np.floating],
    residual: NDArray[np.floating],
    values: NDArray[np.float32],
    state: NDArray[np.uint8],
    bits: NDArray[np.uint8],
    outside: NDArray[np.uint16],
    inside: NDArray[np.uint16],
    around: _F64,
    *,
    tables: tuple[NDArray[np.int8], NDArray[np.int8]],
    nearest: int,
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
    outside, inside : ndarray of uint16, shape (H, W)
        Squared distance from the nearest masked pixel, and from the nearest one that is not.
    around : ndarray of float64, shape (ceil(H / 8), ceil(W / 8), 3)
        What the sky around says (`tiledsky.kernels.residual.local_sky.local_quadratic`).
    tables : two ndarrays of int8
        Bin of each squared distance of sky pixels (outside) and of masked ones (inside), -1: none; none beyond the end.
    nearest : int
        Squared distance from masks from which a sky pixel counts for what the background minus the sky around is there.
    n_bins : int
        Number of the bins.
    origin, cells
        As of `tiledsky.kernels.residual.cell_sums.block_columns`.

    Returns
    -------
    ndarray of float64, shape (rows, columns, 5 + 4 x 10 + 4 n_bins)
        Outside: pixels, background, residual; far pixels with a sky around, background minus that sky. Each group:
        pixels, background; the same two. Each bin: the two, then pixels and residual.
    """
    columns = np.zeros((*cells, OUTSIDE + GROUP * N_GROUPS + DISTANCE * n_bins))
    planes = background, residual, values, state, bits
    _sky(*planes, outside, inside, around, *tables, nearest, origin[0], origin[1], columns)
    return columns


@njit(nogil=True, cache=True)
def _add_group(row, start, b, known, difference):  # type: ignore[no-untyped-def]
    row[start] += 1.0
    row[start + 1] += b
    if known:
        row[start + 2] += 1.0
        row[start + 3] += difference


@njit(nogil=True, cache=True)
def _sky(  # type: ignore[no-untyped-def]
    background, residual, values, state, bits, outside, inside, around, of_outside, of_inside, nearest, y0, x0, columns
):
    height, width = state.shape
    row = np.empty(columns.shape[2])
    for cy in range(columns.shape[0]):
        for cx in range(columns.shape[1]):
            row[:] = 0.0
            n_sky = n_far = n_masked = n_known = 0
            sum_b = sum_r = sum_far = masked_b = masked_difference = 0.0
            right = min(x0 + cx * 64 + 64, width)
            for y in range(y0 + cy * 64, min(y0 + cy * 64 + 64, height)):
                dy = ((y & 7) - 3.5) / 8.0
                for block in range((x0 >> 3) + cx * 8, (right + 7) >> 3):
                    middle, slope = around[y >> 3, block, 0] + dy * around[y >> 3, block, 1], around[y >> 3, block, 2]
                    known = middle == middle and slope == slope
                    for x in range(8 * block, min(8 * block + 8, right)):
                        kind = state[y, x]
                        if kind == 2:
                            continue
                        b, r = np.float64(background[y, x]), np.float64(residual[y, x])
                        difference = b - (middle + ((x & 7) - 3.5) / 8.0 * slope)
                        if kind == 0:
                            d = outside[y, x]
                            k = of_outside[d] if d < of_outside.size else -1
                            n_sky += 1
                            sum_b += b
                            sum_r += r
                            if known and d >= nearest:
                                n_far += 1
                                sum_far += difference
                        else:
                            d = inside[y, x]
                            k = of_inside[d] if d < of_inside.size else -1
                            n_masked += 1
                            masked_b += b
                            if known:
                                n_known += 1
                                masked_difference += difference
                            _add_group(row, 9 if values[y, x] > 3.0 else 13, b, known, difference)
                            left, start = bits[y, x] >> 1, 17
                            while left:
                                if left & 1:
                                    _add_group(row, start, b, known, difference)
                                left, start = left >> 1, start + 4
                        if k >= 0:
                            start = 45 + 4 * k
                            if known:
                                row[start] += 1.0
                                row[start + 1] += difference
                            row[start + 2] += 1.0
                            row[start + 3] += r
            row[0], row[1], row[2], row[3], row[4] = n_sky, sum_b, sum_r, n_far, sum_far
            row[5], row[6], row[7], row[8] = n_masked, masked_b, n_known, masked_difference
            columns[cy, cx] = row
