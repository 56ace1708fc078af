"""Means of square blocks of pixels, and bilinear interpolation back to pixels.

Both are anchored: blocks start at the first pixel of the array, and the caller hands in arrays that start at the corner
of a block. A block's mean adds its pixels row by row; a pixel's value comes from four cells at most. Neither depends on
what else is in the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError

_Array = NDArray[Any]


def block_means(pixels: _Array, size: int, *, mask: NDArray[np.bool_] | None = None) -> _Array:
    """Return the mean of every block of ``size`` x ``size`` pixels.

    Parameters
    ----------
    pixels : ndarray of float32 or float64, shape (H, W)
        Starts at the corner of a block. Blocks that the end of the array cuts are means of what they have.
    size : int
        Side of a block in pixels, >= 1.
    mask : ndarray of bool, shape (H, W), optional
        True where a pixel is left out.

    Returns
    -------
    ndarray, shape (ceil(H / size), ceil(W / size)), dtype of `pixels`
        In the unit of `pixels`; added in float64, row by row. NaN where a block has no pixel that counts.

    Raises
    ------
    ParameterError
        For a size that is no whole number of pixels.
    InputError
        For an image that is not two-dimensional float32 or float64, or a mask of another shape or type.

    Notes
    -----
    NaN, infinite and masked pixels are left out. Halo: none. Memory: the output and 16 bytes a block of one row.
    Reference: `numpy.nanmean` of the blocks.
    """
    size = _checked_size(size)
    pixels = _checked_image(pixels)
    if mask is not None and (mask.shape != pixels.shape or mask.dtype != np.bool_):
        raise InputError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} does not say which pixel to leave out; "
            f"pass a bool mask of shape {pixels.shape}"
        )
    out = np.empty((-(-pixels.shape[0] // size), -(-pixels.shape[1] // size)), pixels.dtype)
    left_out = np.zeros((0, 0), np.bool_) if mask is None else mask
    _means(_frozen(pixels), _frozen(left_out).view(np.uint8), size, out)
    return out


def expand_bilinear(cells: _Array, size: int, *, first: tuple[int, int], shape: tuple[int, int]) -> _Array:
    """Interpolate between the centres of blocks of ``size`` x ``size`` pixels.

    Parameters
    ----------
    cells : ndarray of float32 or float64, shape (h, w)
        One value a block.
    size : int
        Side of a block in pixels, >= 1.
    first : (int, int)
        The first pixel wanted, counted from the corner of block (0, 0).
    shape : (int, int)
        Number of rows and columns of pixels wanted.

    Returns
    -------
    ndarray of `shape`, dtype of `cells`
        Computed in float64. Beyond the outermost centres the outermost values go on.

    Raises
    ------
    ParameterError
        For a size that is no whole number of pixels, or pixels outside the blocks.
    InputError
        For cells that are not two-dimensional float32 or float64.

    Notes
    -----
    NaN cells are left out, and the weights of the others among the four scaled up; NaN where all of them are. A pixel
    at the centre of a block (odd sizes) takes nothing from the next block along that axis. The weights are whole
    numbers, so a constant float32 image comes back as it is (sizes up to 4096).
    Memory: the output, 16 bytes a cell of one row and 32 bytes a pixel of one row.
    Reference: `scipy.interpolate.RegularGridInterpolator` with ``method="linear"`` where no cell is NaN.
    """
    size = _checked_size(size)
    cells = _checked_image(cells)
    if any(f < 0 or n < 1 or f + n > c * size for f, n, c in zip(first, shape, cells.shape, strict=True)):
        raise ParameterError(
            f"pixels from {first} on, {shape} of them, are not all in {cells.shape} blocks of {size} px, so they have "
            "no value; change first or shape"
        )
    out = np.empty(shape, cells.dtype)
    _expand(_frozen(cells), size, int(first[0]), int(first[1]), out)
    return out


def _checked_size(size: int) -> int:
    if int(size) != size or size < 1:
        raise ParameterError(f"size {size} is not a side of a block in whole pixels; use an integer of 1 or more")
    return int(size)


def _checked_image(pixels: _Array) -> _Array:
    if pixels.ndim != 2 or pixels.dtype not in (np.dtype(np.float32), np.dtype(np.float64)) or not pixels.size:
        raise InputError(
            f"an array of shape {pixels.shape} and dtype {pixels.dtype} is not an image of blocks or pixels; pass a "
            "two-dimensional array of native float32 or float64"
        )
    return pixels


def _frozen(array: _Array) -> _Array:
    """Contiguous, read-only view: numba compiles apart for writable and read-only arrays, so hand it one kind only."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def _means(pixels, mask, size, out):  # type: ignore[no-untyped-def]
    """Fill `out`; all blocks of a row side by side, so that pixels are read in the order they lie in memory."""
    height, width = pixels.shape
    total = np.empty(out.shape[1])
    count = np.empty(out.shape[1], np.int64)
    values, counts = np.empty(width), np.empty(width, np.uint8)
    for i in range(out.shape[0]):
        total[:] = 0.0
        count[:] = 0
        for y in range(i * size, min((i + 1) * size, height)):
            row = pixels[y]
            for x in range(width):
                value = np.float64(row[x])
                finite = value - value == 0
                values[x], counts[x] = value if finite else 0.0, finite
            if mask.size:
                left_out = mask[y]
                for x in range(width):
                    counts[x] &= left_out[x] ^ 1
                    values[x] = values[x] if counts[x] else 0.0
            for k in range(size):  # one pixel of every block after the other: none waits for the last one's sum
                for j in range((width - k + size - 1) // size):
                    total[j] += values[j * size + k]
                    count[j] += counts[j * size + k]
        for j in range(out.shape[1]):
            out[i, j] = total[j] / count[j] if count[j] else np.nan


@njit(nogil=True, cache=True)
def _neighbors(pixel, size, n_cells):  # type: ignore[no-untyped-def]
    """Two cells that a pixel lies between, and their weights, whole numbers with the sum 2 size; never zero."""
    offset = 2 * pixel + 1 - size  # from the centre of cell 0, in units of 1 / (2 size) cells
    lower = offset // (2 * size)
    weight = offset - 2 * size * lower
    first = min(max(lower, 0), n_cells - 1)
    second = min(max(lower + 1, 0), n_cells - 1)
    if weight == 0 or first == second:  # one cell alone: twice the same, so that no neighbour's NaN or inf counts
        return first, first, size, size
    return first, second, 2 * size - weight, weight


@njit(nogil=True, cache=True, error_model="numpy")
def _expand(cells, size, y0, x0, out):  # type: ignore[no-untyped-def]
    """Fill `out` row by row: weighted sums and weights of two rows of cells, then of two columns."""
    height, width = out.shape
    sums, weights = np.empty(cells.shape[1]), np.empty(cells.shape[1])
    left, right = np.empty(width, np.int64), np.empty(width, np.int64)
    left_weight, right_weight = np.empty(width), np.empty(width)
    for x in range(width):
        left[x], right[x], left_weight[x], right_weight[x] = _neighbors(x0 + x, size, cells.shape[1])
    for y in range(height):
        upper, lower, upper_weight, lower_weight = _neighbors(y0 + y, size, cells.shape[0])
        for j in range(cells.shape[1]):
            a, b = np.float64(cells[upper, j]), np.float64(cells[lower, j])
            wa = np.float64(upper_weight) if a == a else 0.0
            wb = np.float64(lower_weight) if b == b else 0.0
            sums[j] = (wa * a if a == a else 0.0) + (wb * b if b == b else 0.0)
            weights[j] = wa + wb
        for x in range(width):
            wa, wb = left_weight[x], right_weight[x]
            total = wa * sums[left[x]] + wb * sums[right[x]]
            out[y, x] = total / (wa * weights[left[x]] + wb * weights[right[x]])  # 0 / 0 is NaN: none of them counts
