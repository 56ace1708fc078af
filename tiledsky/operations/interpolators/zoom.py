"""The cubic spline through a mesh, and what all interpolators that end in this spline share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.operations.interpolators.base import Interpolator, Parameters, Term
from tiledsky.recipe import ZoomInterpolator


class Spline(Interpolator[Parameters]):
    """The values of a surface are the coefficients of a cubic spline through the map."""

    surface_dtype = "float64"

    @property
    def clip(self) -> bool:
        """Whether pixels are cut to the range of the map."""
        return False

    @property
    def of_error(self) -> Interpolator[Any]:
        """A spline that is cut to the range of the map, so that no error is negative."""
        return Zoom(ZoomInterpolator(clip=True))

    def error_factors(self, shape: Pair, box_size: Pair, size: Pair) -> mesh_error.Factors:
        """See `tiledsky.kernels.mesh.error.spline_factors`."""
        return mesh_error.spline_factors(shape, box_size, size)

    def values(self, cells: NDArray[Any], excluded: NDArray[np.bool_]) -> NDArray[Any]:
        """Coefficients of the spline."""
        return kernel.spline_coefficients(cells)

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
        """Pixels of the spline."""
        shape: Pair = tuple(values.shape)
        i0, i1, j0, j1 = kernel.spline_window(region, box_size, shape)
        return kernel.spline_evaluate(
            np.asarray(values[i0:i1, j0:j1]),
            box_size,
            region,
            origin=(i0, j0),
            mesh_shape=shape,
            dtype=dtype,
            vmin=limits[0] if self.clip else None,
            vmax=limits[1] if self.clip else None,
        )

    def cells_read(self, region: Pair, *, box_size: Pair, mesh: Pair) -> Pair:
        """Cells of the region, and three on each side."""
        return region[0] // box_size[0] + 6, region[1] // box_size[1] + 6

    def evaluate_memory(self, region: Pair, *, box_size: Pair, mesh: Pair, reading: int) -> list[Term]:
        """Coefficients of the window, and the weights along both axes."""
        cells = math.prod(self.cells_read(region, box_size=box_size, mesh=mesh))
        return [("spline", 8 * (1 + reading) + 8, "cells", cells), ("weights", 2 * 64, "px of a side", sum(region))]


class Zoom(Spline[ZoomInterpolator]):
    """A cubic spline through the mesh, filled and filtered."""

    @property
    def clip(self) -> bool:
        """As the recipe has it."""
        return self.parameters.clip
