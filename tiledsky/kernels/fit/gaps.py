"""What the sky of a mesh does where there are no boxes, from what it does across boxes that are there.

Fits are judged by boxes, and say little of what lies between these: under sources, in gaps. So the sky is interpolated
across d boxes from those on both sides, by the cubic through the boxes at -2 d, -d, d and 2 d along a row or a column,
and compared with the box in the middle. What the differences scatter by beyond the noise of the five boxes, in a
Gaussian window, is how far the sky strays in a gap of that reach (its structure function, with polynomials up to the
third degree taken out).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.kernels.fit.averages import BLOCK, Floats, between, windowed

#: Largest d. What lies farther from boxes is taken to stray as far as this.
_FAREST = 5
#: Rows beside the window that the sums in it reach.
REACH = 2 * _FAREST
#: Weights of the boxes at d and 2 d, of a cubic.
_NEAR, _FAR = 4.0 / 6.0, -1.0 / 6.0
#: A fit in a gap strays as the cubic does across so many times the distance to the nearest box.
_TIMES = 1.5
#: Noise of the boxes is known to a few percent; what scatters by less than this more is noise.
_MARGIN = 1.1
#: A box of less than this share of the weights about it is a gap itself.
_SHARE = 0.5


@numba.njit(nogil=True, cache=True)
def _across(values: Floats, weight: Floats, d: int, sums: Floats) -> None:
    """Squared differences across d boxes, what noise of weight 1 adds to them, and their number, summed in blocks."""
    sums[:] = 0.0
    ny, nx = values.shape
    for y in range(ny):
        for x in range(nx):
            if not weight[y, x] > 0.0:
                continue
            for along_x in (False, True):
                place, end = (x, nx) if along_x else (y, ny)
                if place < 2 * d or place + 2 * d >= end:
                    continue
                difference, noise, complete = values[y, x], 1.0 / weight[y, x], True
                for k in (-2, -1, 1, 2):
                    v, u = (y, x + k * d) if along_x else (y + k * d, x)
                    if not weight[v, u] > 0.0:
                        complete = False
                        break
                    share = _NEAR if abs(k) == 1 else _FAR
                    difference -= share * values[v, u]
                    noise += share**2 / weight[v, u]
                if complete:
                    sums[0, y // BLOCK, x // BLOCK] += difference**2
                    sums[1, y // BLOCK, x // BLOCK] += noise
                    sums[2, y // BLOCK, x // BLOCK] += 1.0


@numba.njit(nogil=True, cache=True)
def _find(weight: Floats, mean_weight: Floats, there: NDArray[np.bool_]) -> None:
    """Boxes that are no gaps, beside the mean weight of the boxes about each block."""
    for y in range(there.shape[0]):
        for x in range(there.shape[1]):
            there[y, x] = weight[y, x] > _SHARE * between(mean_weight, y, x)


@numba.njit(nogil=True, cache=True)
def _spread(by_distance: Floats, reach: Floats, y0: int, out: Floats) -> None:
    """Variance at cells from the maps of blocks of each d, between which it is interpolated."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            d = reach[y, x]
            if d > 0.0:
                k = min(int(d), by_distance.shape[0] - 2)
                low, high = between(by_distance[k], y + y0, x), between(by_distance[k + 1], y + y0, x)
                out[y, x] = low + (d - k) * (high - low)


def gap_variance(
    values: Floats, weight: Floats, noise: Floats, mean_weight: Floats, inner: slice
) -> NDArray[np.float64]:
    """How far the sky strays from fits in gaps, as a variance.

    Parameters
    ----------
    values, weight : ndarray (rows, nbx), float64
        Of boxes; row 0 is a corner of a block. What has no weight is a gap.
    noise, mean_weight : ndarray, float64
        Variance of boxes of weight 1, and the mean weight of boxes, of the window about each block.
    inner : slice
        Rows wanted.

    Returns
    -------
    ndarray (rows wanted, nbx), float64
        0 at boxes.

    Notes
    -----
    Where nothing is known across d boxes, it is what is known across fewer. Halo: that of the window and `REACH` rows.
    """
    there = np.zeros(values.shape, np.bool_)
    _find(weight, mean_weight, there)
    counted = np.where(there, weight, 0.0)
    by_distance = np.zeros((_FAREST + 1, *noise.shape))
    found = np.zeros((3, *noise.shape))
    for d in range(1, _FAREST + 1):
        _across(values, counted, d, found)
        squares, expected, number = (windowed(part) for part in found)
        with np.errstate(divide="ignore", invalid="ignore"):
            strays = (squares - _MARGIN * noise * expected) / number
        by_distance[d] = np.fmax(by_distance[d - 1], np.where(number > 0.0, strays, 0.0))
    reach = np.full(values.shape, float(_FAREST))
    if there.any():
        reach = np.minimum(_TIMES * ndimage.distance_transform_edt(~there), _FAREST)
    out = np.zeros(values[inner].shape)
    _spread(by_distance, reach[inner], inner.start, out)
    return out
