"""Holes of a mesh, filled from the good boxes around them, tile by tile."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region, TileGrid
from tiledsky.kernels.mesh.rim import FILL_HALO, FILL_NEIGHBOURS, Rim, check_window, rim_of

_BLOCK = 64  # cells a side that are filled at a time
_WIDE, _NARROW = 16, 4  # cells a side for which candidates are chosen from those of the block, and from these
_LISTED = 8  # radius of the list that fills the holes which are not deep

Floats = NDArray[Any]
Doubles = NDArray[np.float64]
Boxes = tuple[Doubles, Doubles, Doubles]  # rows, columns, values: row by row; squares of twice a distance are exact


def _offsets() -> NDArray[np.int64]:
    """Squared distance, rows and columns to all cells within `_LISTED`: nearest first, row by row where they tie."""
    y, x = np.mgrid[-_LISTED : _LISTED + 1, -_LISTED : _LISTED + 1].reshape(2, -1)
    square = y * y + x * x
    order = np.lexsort((x, y, square))
    return np.stack((square, y, x))[:, order][:, (square[order] > 0) & (square[order] <= _LISTED**2)]


_OFFSETS = _offsets()


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill_shallow(
    values: Floats, hole: NDArray[np.bool_], y0: int, y1: int, x0: int, x1: int, offsets: NDArray[np.int64], out: Floats
) -> NDArray[np.bool_]:
    """Fill the holes of a part that have 10 good boxes in the list; return which are left."""
    square, dy, dx = offsets
    rows, columns = hole.shape
    near = hole[max(y0 - _LISTED, 0) : y1 + _LISTED, max(x0 - _LISTED, 0) : x1 + _LISTED]
    if near.all():
        return hole[y0:y1, x0:x1].copy()
    left = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for y in range(y0, y1):
        for x in range(x0, x1):
            if not hole[y, x]:
                continue
            total, sky, count, k = 0.0, 0.0, 0, 0
            while k < square.size and count < FILL_NEIGHBOURS:
                added, here, q = 0.0, 0, square[k]
                while k < square.size and square[k] == q:
                    i, j = y + dy[k], x + dx[k]
                    if 0 <= i < rows and 0 <= j < columns and not hole[i, j]:
                        added += values[i, j]
                        here += 1
                    k += 1
                if here > 0:
                    weight = 2.0 / np.sqrt(np.float64(4 * q)) * min(here, FILL_NEIGHBOURS - count)
                    total += weight
                    sky += weight * (added / here)
                    count += here
            if count >= FILL_NEIGHBOURS:
                out[y - y0, x - x0] = sky / total
            else:
                left[y - y0, x - x0] = True
    return left


@numba.njit(nogil=True, cache=True)
def _nearest(boxes: Boxes, n: int, y: float, x: float, near: Doubles, squares: Doubles) -> int:
    """Squares of twice the distances of n boxes from half of (y, x), and the smallest of them, ascending.

    Returns how many these are. Twice a distance has whole components, at the centre of a block of cells too.
    """
    rows, columns = boxes[0], boxes[1]
    for k in range(n):
        squares[k] = (2.0 * rows[k] - y) ** 2 + (2.0 * columns[k] - x) ** 2
    held = 0
    near[:] = np.inf
    last = np.inf
    for k in range(n):
        q = squares[k]
        if q < last:
            m = min(held, FILL_NEIGHBOURS - 1)
            while m > 0 and near[m - 1] > q:
                near[m] = near[m - 1]
                m -= 1
            near[m] = q
            held = min(held + 1, FILL_NEIGHBOURS)
            last = near[FILL_NEIGHBOURS - 1]
    return held


@numba.njit(nogil=True, cache=True)
def _diagonal(rows: Pair, columns: Pair) -> float:
    """Between the outermost cells of a block."""
    return float(np.hypot(np.float64(rows[1] - rows[0] - 1), np.float64(columns[1] - columns[0] - 1)))


@numba.njit(nogil=True, cache=True)
def _candidates(boxes: Boxes, n: int, rows: Pair, columns: Pair, near: Doubles, squares: Doubles, chosen: Boxes) -> int:
    """Copy to `chosen` what can be among the nearest of any cell of a block; return how many these are.

    A cell is within half a diagonal of the block's centre, so its nearest boxes are within the whole diagonal and the
    distance of the centre's own.
    """
    limit = np.inf
    held = _nearest(boxes, n, float(rows[0] + rows[1] - 1), float(columns[0] + columns[1] - 1), near, squares)
    if held == FILL_NEIGHBOURS:
        limit = (np.sqrt(near[FILL_NEIGHBOURS - 1]) + 2.0 * _diagonal(rows, columns) + 1e-3) ** 2
    held = 0
    for k in range(n):
        if squares[k] <= limit:
            chosen[0][held], chosen[1][held], chosen[2][held] = boxes[0][k], boxes[1][k], boxes[2][k]
            held += 1
    return held


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _shepard(boxes: Boxes, n: int, y: int, x: int, near: Doubles, squares: Doubles, chosen: NDArray[np.int64]) -> float:
    """Value of a hole from candidates."""
    held = _nearest(boxes, n, 2.0 * y, 2.0 * x, near, squares)
    farthest, found = near[held - 1], 0
    for k in range(n):
        if squares[k] <= farthest:
            m = found
            while m > 0 and squares[chosen[m - 1]] > squares[k]:
                chosen[m] = chosen[m - 1]
                m -= 1
            chosen[m] = k
            found += 1
    total, sky, start = 0.0, 0.0, 0
    while start < found:
        q, added, stop = squares[chosen[start]], 0.0, start
        while stop < found and squares[chosen[stop]] == q:
            added += boxes[2][chosen[stop]]
            stop += 1
        weight = 2.0 / np.sqrt(q) * (min(stop, held) - start)
        total += weight
        sky += weight * (added / (stop - start))
        start = stop
    return float(sky / total)


@numba.njit(nogil=True, cache=True)
def _fill_deep(boxes: Boxes, hole: NDArray[np.bool_], y0: int, x0: int, out: Floats) -> float:
    """Fill the holes of a block that begins at (y0, x0), from candidates for all of it.

    Returns the largest square of twice a distance that was used; infinity where a hole took all candidates.
    """
    n = boxes[0].size
    wide, narrow = (np.empty(n), np.empty(n), np.empty(n)), (np.empty(n), np.empty(n), np.empty(n))
    near, squares, chosen = np.empty(FILL_NEIGHBOURS), np.empty(n), np.empty(n, np.int64)
    rows, columns = hole.shape
    largest = 0.0
    for i in range(0, rows, _WIDE):
        for j in range(0, columns, _WIDE):
            i1, j1 = min(i + _WIDE, rows), min(j + _WIDE, columns)
            if not hole[i:i1, j:j1].any():
                continue
            n_wide = _candidates(boxes, n, (y0 + i, y0 + i1), (x0 + j, x0 + j1), near, squares, wide)
            for ii in range(i, i1, _NARROW):
                for jj in range(j, j1, _NARROW):
                    ii1, jj1 = min(ii + _NARROW, i1), min(jj + _NARROW, j1)
                    if not hole[ii:ii1, jj:jj1].any():
                        continue
                    block = (y0 + ii, y0 + ii1), (x0 + jj, x0 + jj1)
                    n_narrow = _candidates(wide, n_wide, block[0], block[1], near, squares, narrow)
                    for y in range(ii, ii1):
                        for x in range(jj, jj1):
                            if hole[y, x]:
                                out[y, x] = _shepard(narrow, n_narrow, y0 + y, x0 + x, near, squares, chosen)
                                largest = max(largest, near[FILL_NEIGHBOURS - 1])
    return largest


@numba.njit(nogil=True, cache=True)
def _local(boxes: Boxes, rows: Pair, columns: Pair) -> bool:
    """Whether every cell of a block has its nearest boxes within `FILL_HALO`, whatever there is farther away."""
    near = np.empty(FILL_NEIGHBOURS)
    y, x = float(rows[0] + rows[1] - 1), float(columns[0] + columns[1] - 1)
    _nearest(boxes, boxes[0].size, y, x, near, np.empty(boxes[0].size))
    return bool(np.sqrt(near[FILL_NEIGHBOURS - 1]) + _diagonal(rows, columns) < 2 * FILL_HALO)


def _narrowed(boxes: Boxes, region: Region) -> Boxes:
    """Those of some boxes that can be among the nearest of a cell of a region, row by row as they were."""
    chosen = (np.empty_like(boxes[0]), np.empty_like(boxes[0]), np.empty_like(boxes[0]))
    near, squares = np.empty(FILL_NEIGHBOURS), np.empty(boxes[0].size)
    n = _candidates(boxes, squares.size, (region.y0, region.y1), (region.x0, region.x1), near, squares, chosen)
    return chosen[0][:n].copy(), chosen[1][:n].copy(), chosen[2][:n].copy()


def _near_rim(rim: Rim, region: Region) -> Boxes:
    """Boxes of the rim that can be among the nearest of a cell of a region."""
    return _narrowed((rim.rows.astype(np.float64), rim.columns.astype(np.float64), rim.values), region)


def _joined(boxes: Boxes, rim: Boxes, block: Region, around: Region) -> Boxes:
    """Candidates for a block: of its surroundings, and of the rim beyond these."""
    beyond = (rim[0] < around.y0) | (rim[0] >= around.y1) | (rim[1] < around.x0) | (rim[1] >= around.x1)
    chosen = _narrowed(
        (np.r_[boxes[0], rim[0][beyond]], np.r_[boxes[1], rim[1][beyond]], np.r_[boxes[2], rim[2][beyond]]), block
    )
    order = np.lexsort((chosen[1], chosen[0]))
    return chosen[0][order], chosen[1][order], chosen[2][order]


def _fill_block(
    values: Floats, hole: NDArray[np.bool_], region: Region, block: Region, shape: Pair, rim: Boxes, out: Floats
) -> None:
    """Fill `out`, a view of the block; `values` and `hole` are those of `region`."""
    if not hole[block.within(region)].any():
        return
    around = block.grown((FILL_HALO, FILL_HALO), shape)
    # contiguous, so that the kernels are compiled for one layout
    values = np.ascontiguousarray(values[around.within(region)])
    hole = np.ascontiguousarray(hole[around.within(region)])
    rows, columns = block.within(around)
    filled = out.copy()
    deep = _fill_shallow(values, hole, rows.start, rows.stop, columns.start, columns.stop, _OFFSETS, filled)
    if deep.any():
        _fill_deep_block(values, hole, block, around, shape, rim, deep, filled)
    out[:] = filled


def _fill_deep_block(
    values: Floats,
    hole: NDArray[np.bool_],
    block: Region,
    around: Region,
    shape: Pair,
    rim: Boxes,
    deep: NDArray[np.bool_],
    filled: Floats,
) -> None:
    """Fill the deep holes of a block from what is around it, and from the rim."""
    good = np.argwhere(~hole)
    boxes = (
        (good[:, 0] + around.y0).astype(np.float64),
        (good[:, 1] + around.x0).astype(np.float64),
        values[good[:, 0], good[:, 1]].astype(np.float64),
    )
    if rim[0].size and not _local(boxes, (block.y0, block.y1), (block.x0, block.x1)):
        boxes = _joined(boxes, rim, block, around)
    if not boxes[0].size:
        raise ParameterError(
            f"all {shape[0] * shape[1]} boxes of the mesh are NaN, so there is no sky to fill them from; raise "
            "exclude_percentile, or mask less"
        )
    if _fill_deep(boxes, deep, block.y0, block.x0, filled) > 4 * FILL_HALO**2 and not rim[0].size:
        raise ParameterError(
            f"holes of {tuple(block)} are farther than {FILL_HALO} boxes from their neighbours, and the rim that holds "
            "these is empty; pass the merged rim of all tiles"
        )


def fill_tile(window: Floats, inner: Region, window_region: Region, shape: Pair, rim: Rim) -> Floats:
    """Fill NaN boxes of a tile from the 10 nearest good ones of the mesh, weighted by 1 / distance in boxes.

    Parameters
    ----------
    window : ndarray (wy, wx), float32 or float64
        Boxes of `window_region`, NaN = hole; not changed.
    inner, window_region : Region
        The tile, and the boxes given: at least ``inner.grown((FILL_HALO, FILL_HALO), shape)``.
    shape : (int, int)
        Boxes of the whole mesh.
    rim : Rim
        Of the whole mesh: merged from `tiledsky.kernels.mesh.rim.rim_of` of all tiles that cover it, of the same mesh.

    Returns
    -------
    ndarray
        Boxes of `inner`, same dtype, without NaN: the same bits for any tiling. With fewer than 10 good boxes in the
        mesh all of them are used, and boxes that tie for the last places share them.

    Raises
    ------
    ParameterError
        Every box of the mesh is NaN; a window that is too small; a rim that is empty although a hole is wide.

    Notes
    -----
    Candidates are chosen by distance from the centre of a block of 64 x 64 cells, of these for 16 x 16 and then 4 x 4
    cells; a cell decides by squared distances, whole numbers. It adds distance by distance, row by row within one.
    Memory: the result, 2 bytes a box of the window, 5 MB, and at most 60 bytes a box of the rim.

    photutils takes those of the boxes at the last distance that its k-d tree meets first; elsewhere it is the same to
    rounding.
    """
    check_window("the filling", FILL_HALO, inner, window_region, shape)
    filled = window[inner.within(window_region)].copy()
    if not np.isnan(filled).any():
        return filled
    hole, near = np.isnan(window), _near_rim(rim, inner)
    for block in _blocks(inner):
        _fill_block(window, hole, window_region, block, shape, near, filled[block.within(inner)])
    return filled


def _blocks(region: Region) -> list[Region]:
    grid = TileGrid(region.shape, (_BLOCK, _BLOCK))
    parts = [grid.region(index) for index in grid]
    return [Region(p.y0 + region.y0, p.y1 + region.y0, p.x0 + region.x0, p.x1 + region.x0) for p in parts]


def fill(mesh: Floats, *, overwrite: bool = False) -> Floats:
    """Fill the holes of a whole mesh: `fill_tile` with the rim of its own.

    Parameters
    ----------
    mesh : ndarray (nby, nbx), float32 or float64
        NaN = hole; not changed, unless `overwrite`.
    overwrite : bool
        Fill `mesh` itself and return it: no copy is made.

    Returns
    -------
    ndarray (nby, nbx)
        Same dtype, without NaN.

    Raises
    ------
    ParameterError
        Every box is NaN.
    """
    hole = np.isnan(mesh)
    filled = mesh if overwrite else mesh.copy()
    if not hole.any():
        return filled
    whole = Region.whole(mesh.shape)
    rim = _near_rim(Rim.merged(rim_of(mesh, block, whole, whole.shape) for block in _blocks(whole)), whole)
    for block in _blocks(whole):  # what is filled already is still a hole to the blocks after it
        _fill_block(mesh, hole, whole, block, whole.shape, rim, filled[block.slices])
    return filled
