"""From the values of a mesh to the coefficients of its cubic B-spline.

The spline's values at the centres of the boxes are ``(c[i - 1] + 4 c[i] + c[i + 1]) / 6``. That is turned round by one
recursion forwards and one backwards along each axis (Unser, Aldroubi & Eden 1993, IEEE TSP 41, 834); the mesh is
mirrored about its outer edges: ... 1 0 | 0 1 ... n-1 | n-1 .... `scipy.ndimage.spline_filter` does the same from scipy
1.18 on; before, its first coefficient was wrong along axes of two to some twenty boxes, by a share of the mesh's level
(scipy gh-24550). Ours has the same bits with any scipy, and is right for any length.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_POLE = -0.26794919243112270647  # sqrt(3) - 2, to the last bit; the difference of the rounded root has lost one
_GAIN = (1.0 - _POLE) * (1.0 - 1.0 / _POLE)
_REACH = 64  # |pole|**64 is 2e-37: what comes after it in a sum is below any rounding


@numba.njit(nogil=True, cache=True)
def _along_rows(c: NDArray[np.float64]) -> None:
    """Turn the values along axis 0 into coefficients, in place; a row is a long loop over columns."""
    rows, columns = c.shape
    if rows == 1:  # mirrored for ever, one value is a constant, and a constant is its own spline
        return
    mirrored = 1.0
    for _ in range(min(rows, 4 * _REACH)):
        mirrored *= _POLE
    start = np.empty(columns)
    for i in range(rows):
        for x in range(columns):
            c[i, x] *= _GAIN
    for x in range(columns):
        start[x] = c[0, x] + mirrored * c[rows - 1, x]
    power = _POLE
    for i in range(1, min(rows, _REACH)):
        for x in range(columns):
            start[x] += power * (c[i, x] + mirrored * c[rows - 1 - i, x])
        power *= _POLE
    for x in range(columns):
        c[0, x] += start[x] * (_POLE / (1.0 - mirrored * mirrored))
    for i in range(1, rows):
        for x in range(columns):
            c[i, x] += _POLE * c[i - 1, x]
    for x in range(columns):
        c[rows - 1, x] *= _POLE / (_POLE - 1.0)
    for i in range(rows - 2, -1, -1):
        for x in range(columns):
            c[i, x] = _POLE * (c[i + 1, x] - c[i, x])


def cubic_coefficients(mesh: NDArray[Any]) -> NDArray[np.float64]:
    """Coefficients (nby, nbx) of the cubic spline through a finite mesh (nby, nbx), mirrored about its outer edges.

    float64 arithmetic in a fixed order. Reference: `scipy.ndimage.spline_filter`, order 3, mode "reflect", of scipy
    1.18. Memory: two meshes of float64.
    """
    down = np.array(mesh, dtype=np.float64, order="C")
    _along_rows(down)
    across = np.ascontiguousarray(down.T)
    _along_rows(across)
    return np.ascontiguousarray(across.T)
