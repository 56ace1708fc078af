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

from tiledsky.geometry import Region
from tiledsky.kernels.fit.averages import BLOCK, between
from tiledsky.kernels.fit.windows import Floats, Window, blocks_of

#: Largest d. What lies farther from boxes is taken to stray as far as this.
_FAREST = 5
#: Sums of a block for each d.
SUMS = 3 * _FAREST
#: Cells beside a tile that its sums depend on.
REACH = 2 * _FAREST
#: Weights of the boxes at d and 2 d, of a cubic.
_NEAR, _FAR = 4.0 / 6.0, -1.0 / 6.0
#: A fit in a gap strays as the cubic does across so many times the distance to the nearest box.
_TIMES = 1.5
#: Noise of the boxes is known to a few percent; what scatters by less than this more is noise.
_MARGIN = 1.1
#: Cells beside a tile in which the nearest box counts.
NEAREST = int(_FAREST / _TIMES)
#: A box of less than this share of the weights about it is a gap itself.
_SHARE = 0.5


@numba.njit(nogil=True, cache=True)
def _across(values: Floats, weight: Floats, inner: tuple[int, int, int, int], d: int, sums: Floats) -> None:
    """Squared differences across d boxes, what noise of weight 1 adds to them, and their number, summed in blocks.

    `inner`: first and last rows and columns that count, from the corner of a block on; what is beyond the arrays is no
    box. `sums`: (block rows, block columns, 3).
    """
    sums[:] = 0.0
    ny, nx = values.shape
    y0, y1, x0, x1 = inner
    for y in range(y0, y1):
        for x in range(x0, x1):
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
                    block = sums[(y - y0) // BLOCK, (x - x0) // BLOCK]
                    block[0] += difference**2
                    block[1] += noise
                    block[2] += 1.0


@numba.njit(nogil=True, cache=True)
def _find(weight: Floats, mean_weight: Floats, corner: tuple[int, int], there: NDArray[np.bool_]) -> None:
    """Boxes that are no gaps, beside the mean weight of the boxes about each block; of blocks, `corner` is a cell."""
    for y in range(there.shape[0]):
        for x in range(there.shape[1]):
            there[y, x] = weight[y, x] > _SHARE * between(mean_weight, y + corner[0], x + corner[1])


@numba.njit(nogil=True, cache=True)
def _spread(by_distance: Floats, reach: Floats, corner: tuple[int, int], out: Floats) -> None:
    """Variance at cells from the maps of blocks of each d, between which it is interpolated."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            d = reach[y, x]
            if d > 0.0:
                k = min(int(d), by_distance.shape[0] - 2)
                low = between(by_distance[k], y + corner[0], x + corner[1])
                high = between(by_distance[k + 1], y + corner[0], x + corner[1])
                out[y, x] = low + (d - k) * (high - low)


@numba.njit(nogil=True, cache=True)
def _reach(there: NDArray[np.bool_], place: tuple[int, int], steps: NDArray[np.int64], reach: Floats) -> None:
    """d for the distance of cells to the nearest box: `steps` to the cells about one, nearest first."""
    ny, nx = there.shape
    for y in range(reach.shape[0]):
        for x in range(reach.shape[1]):
            reach[y, x] = _FAREST
            for k in range(steps.shape[0]):
                v, u = y + place[0] + steps[k, 0], x + place[1] + steps[k, 1]
                if 0 <= v < ny and 0 <= u < nx and there[v, u]:
                    reach[y, x] = min(_TIMES * np.sqrt(float(steps[k, 0] ** 2 + steps[k, 1] ** 2)), _FAREST)
                    break


def _steps() -> NDArray[np.int64]:
    """Steps to the cells that lie so near that their distance counts, nearest first."""
    y, x = np.indices((2 * NEAREST + 1, 2 * NEAREST + 1)).reshape(2, -1) - NEAREST
    near = np.argsort(y**2 + x**2, kind="stable")
    return np.stack([y, x], axis=1)[near[_TIMES**2 * (y**2 + x**2)[near] < _FAREST**2]]


def _present(weight: Floats, region: Region, mean_weight: Window) -> NDArray[np.bool_]:
    """Boxes of a region that are no gaps."""
    there = np.zeros(region.shape, np.bool_)
    corner = region.y0 - BLOCK * mean_weight.region.y0, region.x0 - BLOCK * mean_weight.region.x0
    _find(weight, mean_weight.data, corner, there)
    return there


def across_blocks(tile: Region, values: Floats, weight: Floats, region: Region, mean_weight: Window) -> Floats:
    """Sums over differences across boxes, for `gap_variance`, in blocks: (block rows, block columns, `SUMS`).

    Parameters
    ----------
    tile : Region
    values, weight : ndarray, float64
        Of boxes, in `region`: the tile grown by `REACH` cells. What has no weight is a gap.
    mean_weight : Window of float64
        Mean weight of boxes in the window about blocks, those that the cells of the region lie between.
    """
    counted = np.where(_present(weight, region, mean_weight), weight, 0.0)
    blocks = blocks_of(tile, BLOCK)
    inner = (tile.y0 - region.y0, tile.y1 - region.y0, tile.x0 - region.x0, tile.x1 - region.x0)
    sums = np.zeros((_FAREST, *blocks.shape, 3))
    for d in range(1, _FAREST + 1):
        _across(values, counted, inner, d, sums[d - 1])
    return np.moveaxis(sums, 0, 2).reshape(*blocks.shape, SUMS)


def gap_variance(
    tile: Region, weight: Floats, region: Region, mean_weight: Window, sums: Floats, noise: Window
) -> Floats:
    """How far the sky strays from fits in gaps, as a variance.

    Parameters
    ----------
    tile : Region
    weight : ndarray, float64
        Of boxes, in `region`: the tile grown by `NEAREST` cells.
    mean_weight : Window
        See `across_blocks`.
    sums : ndarray (`SUMS`, rows, columns)
        Of `across_blocks`, in the windows about the blocks of `noise`.
    noise : Window
        Variance of boxes of weight 1, in the windows about the blocks that the cells of the tile lie between.

    Returns
    -------
    ndarray (rows, columns), float64
        Of the tile; 0 at boxes.

    Notes
    -----
    Where nothing is known across d boxes, it is what is known across fewer.
    """
    by_distance = np.zeros((_FAREST + 1, *noise.region.shape))
    for d in range(1, _FAREST + 1):
        squares, expected, number = sums[3 * (d - 1) : 3 * d]
        with np.errstate(divide="ignore", invalid="ignore"):
            strays = (squares - _MARGIN * noise.data * expected) / number
        by_distance[d] = np.fmax(by_distance[d - 1], np.where(number > 0.0, strays, 0.0))
    there, reach = _present(weight, region, mean_weight), np.empty(tile.shape)
    _reach(there, (tile.y0 - region.y0, tile.x0 - region.x0), _steps(), reach)
    out = np.zeros(tile.shape)
    corner = tile.y0 - BLOCK * noise.region.y0, tile.x0 - BLOCK * noise.region.x0
    _spread(by_distance, reach, corner, out)
    return out
