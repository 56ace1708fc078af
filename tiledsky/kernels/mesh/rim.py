"""Good boxes at the rim of wide holes: the only far ones that a hole can be filled from.

A good box g among the 10 nearest of a hole h has at most 9 good boxes nearer to h than itself. So the open disc about h
through g holds at most 9, and so does any disc inside it that touches g. Where g is farther from h than `FILL_HALO`,
there is one of radius 31.72 about a point on the way from g to h. The cell p nearest to this point lies in the mesh, at
most 0.7072 from it: the cells within 31 of p all lie inside the disc (31 + 0.7072 < 31.72), and g is within 31.72 +
0.7072 of p, so its squared distance is at most 1051. The *rim* is all good boxes with such a p: at most
9 good boxes within 31 of it, and itself within 32.4. Boxes that tie with g are not nearer than it: the rim holds
them too. To find it takes the boxes within 32 + 31 of a tile.

It follows the edges of wide holes, a box or two deep, and all boxes of a mesh that has fewer than 10; it is empty where
holes are small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.statistics.histogram import check_length, check_magic

FILL_NEIGHBOURS = 10  # boxes that fill a hole, as in photutils
#: Boxes beyond a tile that decide on its rim, and from which its holes are filled without one.
FILL_HALO = 64
_RADIUS = 31  # of the disc about p
_INSIDE = 21  # half of a square inside that disc
_REACH = 32  # rows and columns between a box and its p
_NEAR = 1051  # largest squared distance of a box from its p


_HEADER = struct.Struct("<8sQ")
_MAGIC = b"tskyrim1"


def _half_widths(square: int) -> NDArray[np.int64]:
    """Half the number of cells of each row of a disc, from its middle row outwards."""
    rows = np.arange(int(square**0.5) + 1)
    return np.array([int((square - row * row) ** 0.5 + 1e-9) for row in rows], np.int64)


_DISC = _half_widths(_RADIUS * _RADIUS)
_NEIGHBOURS = _half_widths(_NEAR)


@dataclass(frozen=True, eq=False)
class Rim:
    """Good boxes at the rims of wide holes of a mesh, row by row; mergeable.

    Attributes
    ----------
    rows, columns : ndarray of int32, shape (k,)
        Place in the mesh.
    values : ndarray of float64, shape (k,)
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[np.float64]

    @classmethod
    def merged(cls, rims: Iterable[Rim]) -> Rim:
        """Rim of all tiles; of none, the empty one. Any order gives the same. Memory: 50 bytes a box of it."""
        parts = [part for part in rims if part.rows.size]
        rows = np.concatenate([np.zeros(0, np.int32), *(part.rows for part in parts)])
        columns = np.concatenate([np.zeros(0, np.int32), *(part.columns for part in parts)])
        order = np.lexsort((columns, rows))
        values = np.concatenate([np.zeros(0), *(part.values for part in parts)])[order]
        return cls(rows[order], columns[order], values)

    def to_bytes(self) -> bytes:
        """Portable bytes, 16 a box; equal rims have equal bytes."""
        parts = [self.rows.astype("<i4"), self.columns.astype("<i4"), self.values.astype("<f8")]
        return b"".join([_HEADER.pack(_MAGIC, self.rows.size), *(part.tobytes() for part in parts)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Rim:
        """Inverse of `to_bytes`.

        Raises
        ------
        InputError
            No rim, of the wrong length, or with a box that is not finite or before the first of the mesh.
        """
        check_magic(data, _HEADER, _MAGIC, "Rim")
        _, size = _HEADER.unpack_from(data)
        check_length(data, _HEADER.size + 16 * size, "Rim")
        rows = np.frombuffer(data, "<i4", size, _HEADER.size).astype(np.int32)
        columns = np.frombuffer(data, "<i4", size, _HEADER.size + 4 * size).astype(np.int32)
        values = np.frombuffer(data, "<f8", size, _HEADER.size + 8 * size).astype(np.float64)
        if (rows < 0).any() or (columns < 0).any() or np.isnan(values).any():
            raise InputError("a Rim has boxes without a place or a value, so it is damaged; make it again")
        return cls(rows, columns, values)


@numba.njit(nogil=True, cache=True)
def _sums(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of cells set before each along its row."""
    rows, columns = cells.shape
    before = np.zeros((rows, columns + 1), np.int32)
    for y in range(rows):
        for x in range(columns):
            before[y, x + 1] = before[y, x] + cells[y, x]
    return before


@numba.njit(nogil=True, cache=True)
def _in_rows(before: NDArray[np.int32], y: int, x: int, half: NDArray[np.int64], enough: int) -> int:
    """Cells set in a disc about (y, x), given half its width by row; counting stops at `enough`."""
    rows, columns = before.shape[0], before.shape[1] - 1
    n = 0
    for step in range(half.size):
        left, right = max(x - half[step], 0), min(x + half[step] + 1, columns)
        if y + step < rows:
            n += before[y + step, right] - before[y + step, left]
        if step > 0 and y - step >= 0:
            n += before[y - step, right] - before[y - step, left]
        if n >= enough:
            break
    return n


@numba.njit(nogil=True, cache=True)
def _poor(good: NDArray[np.bool_], before: NDArray[np.int32], y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    """Cells of a part with fewer than 10 good boxes within `_RADIUS`; the same shape as `good`, not set elsewhere."""
    rows, columns = good.shape
    poor = np.zeros((rows, columns), np.bool_)
    column = np.zeros(columns, np.int32)  # good boxes in the rows of the square inside, by column
    for y in range(y0, y1):
        column[:] = 0
        for i in range(max(y - _INSIDE, 0), min(y + _INSIDE + 1, rows)):
            for x in range(columns):
                column[x] += good[i, x]
        n = 0
        for x in range(max(x0 - _INSIDE, 0), min(x0 + _INSIDE, columns)):
            n += column[x]
        for x in range(x0, x1):
            if x + _INSIDE < columns:
                n += column[x + _INSIDE]
            if x - _INSIDE - 1 >= max(x0 - _INSIDE, 0):
                n -= column[x - _INSIDE - 1]
            if n < FILL_NEIGHBOURS:
                poor[y, x] = _in_rows(before, y, x, _DISC, FILL_NEIGHBOURS) < FILL_NEIGHBOURS
    return poor


@numba.njit(nogil=True, cache=True)
def _rim(good: NDArray[np.bool_], y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    """Which boxes of the part (y0, y1, x0, x1) of a window belong to the rim."""
    rim = np.zeros((y1 - y0, x1 - x0), np.bool_)
    top, bottom = max(y0 - _REACH, 0), min(y1 + _REACH, good.shape[0])
    left, right = max(x0 - _REACH, 0), min(x1 + _REACH, good.shape[1])
    poor = _poor(good, _sums(good), top, bottom, left, right)
    if poor.any():
        before = _sums(poor)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if good[y, x]:
                    rim[y - y0, x - x0] = _in_rows(before, y, x, _NEIGHBOURS, 1) > 0
    return rim


def check_window(what: str, halo: int | Pair, inner: Region, window_region: Region, shape: Pair) -> None:
    """ParameterError unless a window holds a tile and `halo` boxes around it."""
    rows, columns = (halo, halo) if isinstance(halo, int) else halo
    if not window_region.contains(inner.grown((rows, columns), shape)):
        raise ParameterError(
            f"boxes {tuple(window_region)} of the mesh are not the {rows} x {columns} around {tuple(inner)} that "
            f"{what} is made of there; pass a larger window"
        )


def rim_of(window: NDArray[Any], inner: Region, window_region: Region, shape: Pair) -> Rim:
    """Good boxes of a tile that lie at the rim of a wide hole, for `tiledsky.kernels.mesh.fill.fill_tile`.

    Parameters
    ----------
    window : ndarray (wy, wx), float32 or float64
        Boxes of `window_region`, NaN = hole.
    inner, window_region : Region
        The tile, and the boxes given: at least ``inner.grown((FILL_HALO, FILL_HALO), shape)``.
    shape : (int, int)
        Boxes of the whole mesh.

    Returns
    -------
    Rim
        The same boxes for any tiling. Memory: 20 bytes a box of the window, and 16 a box of the rim.

    Raises
    ------
    ParameterError
        A window that is too small.
    """
    check_window("the rim of its holes", FILL_HALO, inner, window_region, shape)
    outer = inner.grown((FILL_HALO, FILL_HALO), shape)
    cells = window[outer.within(window_region)]
    good = ~np.isnan(cells)
    rows, columns = inner.within(outer)
    if not good[rows, columns].any():
        return Rim.merged([])
    chosen = np.argwhere(_rim(good, rows.start, rows.stop, columns.start, columns.stop))
    values = cells[rows, columns][tuple(chosen.T)].astype(np.float64)
    return Rim((chosen[:, 0] + inner.y0).astype(np.int32), (chosen[:, 1] + inner.x0).astype(np.int32), values)
