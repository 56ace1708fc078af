"""Distance of each pixel from the edge of a mask, exact up to a limit.

Source of the method: A. Meijster, J. Roerdink, W. Hesselink, "A general algorithm for computing distance transforms in
linear time" (2000): columns first, then the lower envelope of one parabola a column along each row.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def squared_distance(mask: NDArray[np.bool_], limit: int) -> NDArray[np.int32]:
    """Squared Euclidean distance between pixel centres, from each pixel to the nearest one that is set.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    limit : int
        In pixels, 1 to 1000. Distances above it are not looked for.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 where the mask is set; ``(limit + 1)**2`` where no set pixel lies within ``limit``.

    Notes
    -----
    Halo: ``limit``; nothing is beyond the array. Reference: `scipy.ndimage.distance_transform_edt`. Memory: 4 bytes a
    pixel and the output.
    """
    out = np.empty(mask.shape, np.int32)
    _columns(np.ascontiguousarray(mask), limit + 1, out)
    _rows(limit, out)
    return out


@njit(nogil=True, cache=True)
def _columns(mask, far, out):  # type: ignore[no-untyped-def]
    """Distance along the column, at most `far`."""
    height, width = mask.shape
    for x in range(width):
        out[0, x] = 0 if mask[0, x] else far
    for y in range(1, height):
        for x in range(width):
            out[y, x] = 0 if mask[y, x] else min(out[y - 1, x] + 1, far)
    for y in range(height - 2, -1, -1):
        for x in range(width):
            out[y, x] = min(out[y, x], out[y + 1, x] + 1)


@njit(nogil=True, cache=True)
def _rows(limit, out):  # type: ignore[no-untyped-def]
    """Squared distances from the distances along columns, row by row."""
    height, width = out.shape
    far = (limit + 1) * (limit + 1)
    apex = np.empty(width, np.int64)  # columns whose parabola is lowest somewhere
    begins = np.empty(width + 1, np.int64)  # first pixel where it is
    squares = np.empty(width, np.int64)
    for y in range(height):
        n = 0
        for x in range(width):
            g = int(out[y, x])
            if g > limit:
                continue
            squares[x] = g * g
            begin = 0
            while n:
                a = apex[n - 1]
                # first pixel where the new parabola is lower than the last one
                rise = squares[x] - squares[a] + x * x - a * a
                begin = rise // (2 * (x - a)) + 1
                if begin <= begins[n - 1]:
                    n -= 1
                else:
                    break
            if not n:
                begin = 0
            if begin < width:
                apex[n] = x
                begins[n] = begin
                n += 1
        begins[n] = width
        for k in range(n):
            a = apex[k]
            for x in range(begins[k], begins[k + 1]):
                d = (x - a) * (x - a) + squares[a]
                out[y, x] = d if d <= limit * limit else far
        if not n:
            for x in range(width):
                out[y, x] = far
