"""How far away the boxes are that inverse-distance weighting uses: the window of the mesh that it has to read."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.rim import check_window

#: Boxes beyond a tile that its reach is counted from; also the side of the blocks that tell it where these are too few.
REACH_HALO = 64


@numba.njit(nogil=True, cache=True)
def _radius(total: NDArray[np.int64], n: int, rows: Pair, columns: Pair, most: int) -> NDArray[np.int32]:
    """For each cell of a part the smallest square about it that holds n; ``most + 1`` where none up to `most` does.

    `total` is the integral image of the counts. The radius changes by at most 1 from a cell to the next.
    """
    height, width = total.shape[0] - 1, total.shape[1] - 1
    radius = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.int32)
    for i in range(rows[0], rows[1]):
        k = most if i == rows[0] else min(radius[i - rows[0] - 1, 0] + 1, most)
        for j in range(columns[0], columns[1]):
            while k >= 0:
                top, bottom = max(i - k, 0), min(i + k + 1, height)
                left, right = max(j - k, 0), min(j + k + 1, width)
                if total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left] < n:
                    break
                k -= 1
            radius[i - rows[0], j - columns[0]] = k + 1
            k = min(k + 2, most)
    return radius


def _integral(counts: NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of all counts above and to the left."""
    small = counts.size < 2**31 and counts.dtype == np.bool_
    total = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1), np.int32 if small else np.int64)
    np.cumsum(counts, axis=0, out=total[1:, 1:])
    np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])
    return total


def good_counts(good: NDArray[np.bool_], inner: Region) -> tuple[Region, NDArray[np.int64]]:
    """Good boxes of a tile by blocks of 64 x 64 cells that begin at the first cell of the mesh.

    Parameters
    ----------
    good : ndarray (ny, nx), bool
        Boxes of `inner` that are not excluded.

    Returns
    -------
    Region
        Blocks that the tile has a share in.
    ndarray of int64
        Their counts: those of all tiles, added up in a map of ``(ceil(nby / 64), ceil(nbx / 64))``, are what
        `idw_reach_tile` takes.
    """
    blocks = Region(
        inner.y0 // REACH_HALO,
        -(-inner.y1 // REACH_HALO),
        inner.x0 // REACH_HALO,
        -(-inner.x1 // REACH_HALO),
    )
    rows, columns = (
        np.maximum(np.arange(first, stop) * REACH_HALO - start, 0)
        for first, stop, start in ((blocks.y0, blocks.y1, inner.y0), (blocks.x0, blocks.x1, inner.x0))
    )
    return blocks, np.add.reduceat(np.add.reduceat(good, rows, axis=0, dtype=np.int64), columns, axis=1)


def _beyond(n: int, inner: Region, counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Upper bound of the reach of each cell: from its place in its block and how many blocks around hold enough."""
    rows, columns = (
        (inner.y0 // REACH_HALO, -(-inner.y1 // REACH_HALO)),
        (inner.x0 // REACH_HALO, -(-inner.x1 // REACH_HALO)),
    )
    around = _radius(_integral(counts), n, rows, columns, max(counts.shape))
    y, x = np.arange(inner.y0, inner.y1), np.arange(inner.x0, inner.x1)
    place = [np.maximum(p % REACH_HALO, REACH_HALO - 1 - p % REACH_HALO) for p in (y, x)]
    blocks = around[np.ix_(y // REACH_HALO - rows[0], x // REACH_HALO - columns[0])]
    return np.asarray(blocks * REACH_HALO + np.maximum(place[0][:, np.newaxis], place[1]), np.int32)


def idw_reach_tile(
    good: NDArray[np.bool_],
    n_neighbors: int,
    inner: Region,
    window_region: Region,
    shape: Pair,
    counts: NDArray[np.int64],
) -> NDArray[np.int32]:
    """For each box of a tile a k such that the (2 k + 1)-square of boxes around it holds `n_neighbors` good ones.

    Parameters
    ----------
    good : ndarray (wy, wx), bool
        Which boxes of `window_region` are not excluded.
    n_neighbors : int
        As for `tiledsky.kernels.mesh.idw.idw_evaluate`; if there are fewer good boxes, k is what holds all.
    inner, window_region : Region
        The tile, and the boxes given: at least ``inner.grown((REACH_HALO, REACH_HALO), shape)``.
    shape : (int, int)
        Boxes of the whole mesh.
    counts : ndarray (ceil(nby / 64), ceil(nbx / 64)), int64
        Good boxes of the whole mesh, from `good_counts`.

    Returns
    -------
    ndarray, int32
        The smallest k up to 64; beyond, one that is up to 127 larger, from whole blocks: it makes the window larger and
        changes no pixel. The same for any tiling. Memory: 25 bytes a box of the window, 16 a block.

    Raises
    ------
    ParameterError
        No good box in the mesh, `n_neighbors` below 1, or a window that is too small.
    """
    if n_neighbors < 1:
        raise ParameterError(f"n_neighbors {n_neighbors} leaves no box to take the sky from; give n_neighbors >= 1")
    n = min(n_neighbors, int(counts.sum()))
    if n == 0:
        raise ParameterError(
            f"all {shape[0] * shape[1]} boxes of the mesh are excluded: there is no sky; raise exclude_percentile, or "
            "mask less"
        )
    check_window("the reach", REACH_HALO, inner, window_region, shape)
    outer = inner.grown((REACH_HALO, REACH_HALO), shape)
    rows, columns = inner.within(outer)
    total = _integral(good[outer.within(window_region)])
    reach = _radius(total, n, (rows.start, rows.stop), (columns.start, columns.stop), REACH_HALO)
    far = reach > REACH_HALO
    if far.any():
        reach[far] = _beyond(n, inner, counts)[far]
    return reach


def idw_reach(good: NDArray[np.bool_], n_neighbors: int) -> NDArray[np.int32]:
    """`idw_reach_tile` of a whole mesh (nby, nbx); made once, for `idw_window`."""
    whole = Region.whole(good.shape)
    return idw_reach_tile(good, n_neighbors, whole, whole, whole.shape, good_counts(good, whole)[1])


def idw_window(region: kernel.Region, box_size: Pair, reach: NDArray[np.int32]) -> kernel.Region:
    """Boxes (i0, i1, j0, j1), ends excluded, that inverse distances need for `region` (y0, y1, x0, x1).

    Parameters
    ----------
    region, box_size
        As for `tiledsky.kernels.mesh.idw.idw_evaluate`; a region that is empty or not inside the mesh is a
        ParameterError.
    reach : array (nby, nbx), int32
        Of `idw_reach`, or tile by tile of `idw_reach_tile`, for the whole mesh; only the part of `region` is read.

    Notes
    -----
    Boxes in the square of radius k are within D, a diagonal: from a corner pixel of the box to the farthest corner of
    the square. No box beyond D is used, so the window is enough, and somewhat larger than needed.
    """
    i0, i1, j0, j1 = kernel.region_cells(region, box_size, (reach.shape[0], reach.shape[1]))
    by, bx = box_size
    k = reach[i0:i1, j0:j1].astype(np.float64)
    distance = np.hypot(k * by + (by - 1) / 2, k * bx + (bx - 1) / 2) + 1e-6
    rows, columns = np.arange(i0, i1)[:, None], np.arange(j0, j1)
    up, across = ((distance + (by - 1) / 2) // by).astype(np.int64), ((distance + (bx - 1) / 2) // bx).astype(np.int64)
    top, bottom = max(int((rows - up).min()), 0), min(int((rows + up).max()) + 1, reach.shape[0])
    left, right = max(int((columns - across).min()), 0), min(int((columns + across).max()) + 1, reach.shape[1])
    return top, bottom, left, right
