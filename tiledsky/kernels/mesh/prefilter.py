"""From the values of a mesh to the coefficients of its cubic B-spline, tile by tile.

The spline's values at the centres of the boxes are ``(c[i - 1] + 4 c[i] + c[i + 1]) / 6``; the mesh is mirrored about
its outer edges: ... 1 0 | 0 1 ... n-1 | n-1 .... Turned round, each value enters the coefficients around with ``sqrt(3)
* z**distance``, z = sqrt(3) - 2 (Unser, Aldroubi & Eden 1993, IEEE TSP 41, 834): 1e-18 at 31 boxes, below the rounding
of float64. The usual recursion runs over the whole mesh; this finite filter gives a coefficient the same bits in any
tile.

It is a product of five short ones. ``1 / (1 - z w) = (1 + z w) (1 + z**2 w**2) (1 + z**4 w**4) ...``, and the same for
1 / w; the two factors of a step m = 1, 2, 4, 8, 16, each divided by its sum, are together::

    c[i] -> c[i] + s_m ((c[i - m] - c[i]) + (c[i + m] - c[i])),    1 / s_m = z**m + 2 + z**-m

``z + 1 / z`` is -4, and each ``z**2m + z**-2m`` is the square of the one before it less 2: whole numbers. The step of
32 would add less than 1e-18. Differences only: a constant comes out as itself, and the rounding is that of what the
mesh varies, not of its level.

Reference: `scipy.ndimage.spline_filter`, order 3, mode "reflect", from scipy 1.18 on; before, its first coefficient was
wrong along axes of two to some twenty boxes, by a share of the mesh's level (scipy gh-24550).
"""

from __future__ import annotations

import itertools
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh.rim import check_window

#: Boxes beyond a tile that its coefficients are made of.
SPLINE_HALO = 31
_STEPS = np.array([1, 2, 4, 8, 16])  # the first magnifies what is rounded before it
_SHARES = 1.0 / np.array([-2.0, 4.0**2, 14.0**2, 194.0**2, 37634.0**2])
_BLOCK = (256, 512)  # boxes that are filtered at a time: they stay in the cache


@numba.njit(nogil=True, cache=True)
def _step(low: NDArray[np.float64], middle: NDArray[np.float64], high: NDArray[np.float64], share: float) -> None:
    """One factor for a run of boxes; the result replaces `low`, which no later run needs."""
    for x in range(low.size):
        here = middle[x]
        low[x] = here + share * ((low[x] - here) + (high[x] - here))


@numba.njit(nogil=True, cache=True)
def _filter(cells: NDArray[np.float64], steps: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    """All factors along both axes, in place: what comes out begins at ``cells[0, 0]``, `SPLINE_HALO` shorter a side."""
    rows, columns = cells.shape
    for k in range(steps.size):
        m = steps[k]
        rows -= 2 * m
        for i in range(rows):
            _step(cells[i], cells[i + m], cells[i + 2 * m], shares[k])
    for i in range(rows):
        n = columns
        for k in range(steps.size):
            m = steps[k]
            n -= 2 * m
            _step(cells[i, :n], cells[i, m : m + n], cells[i, 2 * m : 2 * m + n], shares[k])


def cubic_coefficients(window: NDArray[Any], inner: Region, window_region: Region, shape: Pair) -> NDArray[np.float64]:
    """Coefficients of the cubic spline through a mesh, for a tile of it.

    Parameters
    ----------
    window : ndarray (wy, wx), float32 or float64
        Finite values of the boxes of `window_region`.
    inner, window_region : Region
        Boxes whose coefficients are wanted, and those given: at least ``inner.grown((SPLINE_HALO, SPLINE_HALO),
        shape)``.
    shape : (int, int)
        Boxes of the whole mesh, about whose outer edges it is mirrored.

    Returns
    -------
    ndarray, float64
        Of `inner`: the same bits for any tile and window. Memory: 8 bytes a box, and 5 MB.

    Raises
    ------
    ParameterError
        A window that is too small.
    """
    halo = (SPLINE_HALO, SPLINE_HALO)
    check_window("the spline", SPLINE_HALO, inner, window_region, shape)
    out = np.empty(inner.shape)
    for y, x in itertools.product(range(inner.y0, inner.y1, _BLOCK[0]), range(inner.x0, inner.x1, _BLOCK[1])):
        block = Region(y, min(y + _BLOCK[0], inner.y1), x, min(x + _BLOCK[1], inner.x1))
        around = block.grown(halo, shape)
        beyond = (
            (around.y0 - block.y0 + SPLINE_HALO, block.y1 + SPLINE_HALO - around.y1),
            (around.x0 - block.x0 + SPLINE_HALO, block.x1 + SPLINE_HALO - around.x1),
        )
        cells = np.pad(window[around.within(window_region)].astype(np.float64), beyond, mode="symmetric")
        _filter(cells, _STEPS, _SHARES)
        out[block.within(inner)] = cells[: block.shape[0], : block.shape[1]]
    return out
