"""Distance of each pixel from the edge of a mask, exact up to a limit.

Squared distances are parted as in A. Meijster, J. Roerdink, W. Hesselink, "A general algorithm for computing distance
transforms in linear time" (2000): along columns first, then over the columns beside each pixel. Limits are small, so
the second step tries the columns one after the other, many pixels of a row at a time, until none can be nearer.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import ParameterError

#: Above it, sums of two squares would not fit in 16 bits.
MAX_LIMIT = 180
#: Pixels of a row that are worked on at a time, and columns that are tried between two looks at what is left.
_BLOCK, _TRIES = 64, 4


def squared_distance(
    mask: NDArray[np.bool_], limit: int, *, rows: slice | None = None, elsewhere: int = 0
) -> NDArray[np.uint16]:
    """Squared Euclidean distance between pixel centres, from each pixel to the nearest one that is set.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    limit : int
        In pixels, 1 to `MAX_LIMIT`. Distances above it are not looked for.
    rows : slice, optional
        Rows that the limit holds for, with given ends; default all.
    elsewhere : int
        Limit of the other rows, at most `limit`.

    Returns
    -------
    ndarray of uint16, shape (H, W)
        0 where the mask is set; ``(limit + 1)**2`` where no set pixel lies within the limit of the row.

    Raises
    ------
    ParameterError
        For another limit.

    Notes
    -----
    Halo: ``limit``; nothing is beyond the array. Reference: `scipy.ndimage.distance_transform_edt`. Memory: the output.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ParameterError(f"limit {limit} px: squares are kept in 16 bits; give 1 to {MAX_LIMIT}")
    out = np.empty(mask.shape, np.uint16)
    first, last = (0, mask.shape[0]) if rows is None else (rows.start, rows.stop)
    _columns(np.ascontiguousarray(mask).view(np.uint8), np.uint16(limit + 1), out)
    _rows(limit, elsewhere, first, last, out)
    return out


@njit(nogil=True, cache=True)
def _columns(mask, far, out):  # type: ignore[no-untyped-def]
    """Distance along the column, at most `far`."""
    one = np.uint16(1)
    row, first = out[0], mask[0]
    for x in range(row.size):
        row[x] = np.uint16(0) if first[x] else far
    for y in range(1, mask.shape[0]):
        above, row, source = out[y - 1], out[y], mask[y]
        for x in range(row.size):
            near = min(np.uint16(above[x] + one), far)
            row[x] = np.uint16(0) if source[x] else near
    for y in range(mask.shape[0] - 2, -1, -1):
        below, row = out[y + 1], out[y]
        for x in range(row.size):
            row[x] = min(row[x], np.uint16(below[x] + one))


@njit(nogil=True, cache=True)
def _rows(limit, elsewhere, first, last, out):  # type: ignore[no-untyped-def]
    """Squared distances from the distances along columns, row by row."""
    width = out.shape[1]
    far = np.uint16((limit + 1) * (limit + 1))
    squares = np.full(width + 2 * limit + _BLOCK, far, np.uint16)
    best = np.empty(_BLOCK, np.uint16)
    for y in range(out.shape[0]):
        reach = limit if first <= y < last else elsewhere
        row, inner = out[y], squares[limit : limit + width]
        for x in range(width):
            inner[x] = np.uint16(row[x] * row[x])
        for start in range(0, width, _BLOCK):
            target = row[start : start + _BLOCK]
            _nearest(squares[limit + start - reach : limit + start + _BLOCK + reach], reach, best)
            for x in range(target.size):
                target[x] = best[x] if best[x] <= reach * reach else far


@njit(nogil=True, cache=True)
def _nearest(squares, reach, best):  # type: ignore[no-untyped-def]
    """Least of the squares of a row plus those of the steps to them, for the pixels `reach` from its ends."""
    least = np.uint16(65535)
    for x in range(squares.size):
        least = min(least, squares[x])
    middle = squares[reach : reach + best.size]
    for x in range(best.size):
        best[x] = middle[x]
    if least > reach * reach:
        return
    step = 1
    while step <= reach:
        most = np.uint16(0)
        for x in range(best.size):
            most = max(most, best[x])
        if most <= least + step * step:
            return
        for _ in range(min(_TRIES, reach + 1 - step)):
            left, right = squares[reach - step :], squares[reach + step :]
            square = np.uint16(step * step)
            for x in range(best.size):
                best[x] = min(best[x], np.uint16(min(left[x], right[x]) + square))
            step += 1
