"""Inverse distances: each pixel from the nearest boxes that are not excluded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh import idw as kernel
from tiledsky.operations.interpolators.base import Interpolator, Term
from tiledsky.recipe import IDWInterpolator

#: Boxes from the middle of a hole to its border that inverse distances may have to look across; a deeper hole takes
#: more: `_HOLE_CELL` bytes for each box of the square about it.
HOLE, _HOLE_CELL = 64, 160
_CANDIDATES = 20_000_000


class IDW(Interpolator[IDWInterpolator]):
    """The values of a surface are the map, NaN at the boxes that are excluded.

    ``reach``: how many boxes away the neighbours of a box's pixels can be.
    """

    lookup_maps: ClassVar[Mapping[str, str | None]] = {"reach": "int32"}

    def error_factors(self, shape: Pair, box_size: Pair, size: Pair) -> mesh_error.Factors:
        """See `tiledsky.kernels.mesh.error.idw_factors`."""
        return mesh_error.idw_factors(
            shape,
            box_size,
            size,
            n_neighbors=self.parameters.n_neighbors,
            power=self.parameters.power,
            regularization=self.parameters.regularization,
        )

    def lookups(self, excluded: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """See `tiledsky.kernels.mesh.idw.idw_reach`."""
        return {"reach": kernel.idw_reach(~excluded, self.parameters.n_neighbors)}

    def values(self, cells: NDArray[Any], excluded: NDArray[np.bool_]) -> NDArray[Any]:
        """The boxes that count."""
        return np.where(excluded, np.asarray(np.nan, cells.dtype), cells)

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
        i0, i1, j0, j1 = kernel.idw_window(region, box_size, lookups["reach"])
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
