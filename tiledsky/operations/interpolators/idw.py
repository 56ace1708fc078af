"""Inverse distances: each pixel from the nearest boxes that are not excluded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.mesh import idw as kernel
from tiledsky.kernels.mesh.error import Factors, window_counts
from tiledsky.kernels.mesh.reach import REACH_HALO, good_counts, idw_reach_tile, idw_window
from tiledsky.operations.filtered_maps import BoxNumbers
from tiledsky.operations.interpolators.base import Interpolator, Term
from tiledsky.overlap import Patch
from tiledsky.recipe import IDWInterpolator

#: Boxes from the middle of a hole to its border that inverse distances may have to look across; a deeper hole takes
#: more: `_HOLE_CELL` bytes for each box of the square about it.
HOLE, _HOLE_CELL = 64, 160
_CANDIDATES = 20_000_000
_SIDE = 32  # pixels of a box that an IDW response is made with: it depends on the box's shape, hardly on its size


@lru_cache(maxsize=32)
def _idw_factor(box_size: Pair, size: Pair, n_neighbors: int, power: float, regularization: float) -> float:
    """G of one response, from boxes made smaller (distances and hence the regularization with them)."""
    longest = max(min(_SIDE, int(_SIDE * np.sqrt(10 / n_neighbors))), 2)
    scale = max(max(box_size) / longest, 1.0)
    by, bx = (max(round(b / scale), 1) for b in box_size)
    # the n-th box is within the radius of a disc of the area of n, a diagonal more for pixels beside the centre
    radius = np.sqrt(n_neighbors * by * bx / np.pi) + 1.5 * np.hypot(by, bx)
    reach = int(np.ceil(radius / by)), int(np.ceil(radius / bx))
    half = size[0] // 2, size[1] // 2
    # pixels that see the response, and beyond them boxes that are their neighbours
    seen = half[0] + reach[0], half[1] + reach[1]
    middle = seen[0] + reach[0], seen[1] + reach[1]
    mesh = np.zeros((2 * middle[0] + 1, 2 * middle[1] + 1))
    window = tuple(slice(m - h, m + h + 1) for m, h in zip(middle, half, strict=True))
    mesh[window] = 1.0 / (size[0] * size[1])
    region = (
        *((middle[0] - seen[0]) * by, (middle[0] + seen[0] + 1) * by),
        *((middle[1] - seen[1]) * bx, (middle[1] + seen[1] + 1) * bx),
    )
    smaller = regularization / elementary.power(scale, power)
    response = kernel.idw_evaluate(
        mesh, (by, bx), region, n_neighbors=n_neighbors, power=power, regularization=smaller, dtype=np.float64
    )
    return float(np.sum(response**2) / (by * bx))


def idw_factors(
    shape: Pair, box_size: Pair, size: Pair, *, n_neighbors: int, power: float, regularization: float
) -> Factors:
    """Factors G of mean filter and inverse-distance weights; see `Interpolator.error_factors`.

    That of the interior, and at the edges of the mesh more as far as windows of the filter hold fewer boxes. Boxes that
    are left out, so that neighbours are farther away, are not looked at.
    """
    box, window = (int(box_size[0]), int(box_size[1])), (int(size[0]), int(size[1]))
    interior = _idw_factor(box, window, min(n_neighbors, shape[0] * shape[1]), power, regularization)
    rows, columns = (s / window_counts(n, s) for n, s in zip(shape, size, strict=True))
    return interior * rows, columns


class IDW(Interpolator[IDWInterpolator]):
    """The values of a surface are the map, NaN at the boxes that are excluded.

    ``reach``: how many boxes away the neighbours of a box's pixels can be.
    """

    lookup_maps: ClassVar[Mapping[str, str | None]] = {"reach": "int32"}
    lookup_halo: ClassVar[Pair] = (REACH_HALO, REACH_HALO)

    def error_factors(self, shape: Pair, box_size: Pair, size: Pair) -> Factors:
        """See `idw_factors`."""
        return idw_factors(
            shape,
            box_size,
            size,
            n_neighbors=self.parameters.n_neighbors,
            power=self.parameters.power,
            regularization=self.parameters.regularization,
        )

    def box_parts(self, scatter: Patch, own: NDArray[np.bool_], region: Region) -> list[bytes]:
        """Good boxes of the blocks of a tile."""
        blocks, counts = good_counts(~np.isnan(scatter.crop(region)), region)
        return [np.array(blocks, "<i8").tobytes(), counts.astype("<i8").tobytes()]

    def merge_box_parts(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """Good boxes of all blocks, row by row, and the number of rows."""
        tiles = [(Region(*np.frombuffer(own[0], "<i8").tolist()), np.frombuffer(own[1], "<i8")) for own in parts]
        total = np.zeros((max(blocks.y1 for blocks, _ in tiles), max(blocks.x1 for blocks, _ in tiles)), "<i8")
        for blocks, counts in tiles:
            total[blocks.slices] += counts.reshape(blocks.shape)
        return [np.array(len(total), "<i8").tobytes(), total.tobytes()]

    def lookups(self, excluded: Patch, region: Region, numbers: BoxNumbers) -> dict[str, NDArray[Any]]:
        """See `tiledsky.kernels.mesh.reach.idw_reach_tile`."""
        rows, counts = (np.frombuffer(part, "<i8") for part in numbers.others)
        place = region, excluded.region, excluded.shape
        total = counts.astype(np.int64).reshape(int(rows[0]), -1)
        return {"reach": idw_reach_tile(~excluded.data, self.parameters.n_neighbors, *place, total)}

    def values(self, cells: Patch, excluded: Patch, region: Region) -> NDArray[Any]:
        """The boxes that count."""
        held = cells.crop(region)
        return np.where(excluded.crop(region), np.asarray(np.nan, held.dtype), held)

    def evaluate(
        self,
        values: Any,
        region: Region,
        *,
        box_size: Pair,
        lookups: Mapping[str, Any],
        limits: tuple[float, float],
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Weighted means of the nearest boxes."""
        i0, i1, j0, j1 = idw_window(region, box_size, lookups["reach"])
        return kernel.idw_evaluate(
            np.asarray(values[i0:i1, j0:j1]),
            box_size,
            region,
            n_neighbors=self.parameters.n_neighbors,
            power=self.parameters.power,
            regularization=self.parameters.regularization,
            origin=(i0, j0),
            mesh_shape=tuple(values.shape),
            dtype=dtype,
        )

    def cells_read(self, region: Pair, *, box_size: Pair, mesh: Pair) -> Pair:
        """Cells of the region, and those that lie across a hole on each side."""
        rows, columns = (min(n // b + 2 * HOLE, m) for n, b, m in zip(region, box_size, mesh, strict=True))
        return rows, columns

    def evaluate_memory(self, region: Pair, *, box_size: Pair, mesh: Pair, reading: int) -> list[Term]:
        """The window with what looks across holes, and the sorted lists of `tiledsky.kernels.mesh.idw`."""
        cells = math.prod(self.cells_read(region, box_size=box_size, mesh=mesh))
        lists = min(box_size[0] * box_size[1] * 20 * (6 * self.parameters.n_neighbors + 60), 32 << 20)
        return [("window", _HOLE_CELL, "cells", cells), ("lists, candidates", 1, "B", 2 * lists + _CANDIDATES)]
