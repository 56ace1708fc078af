"""The cubic spline through a mesh, and what all interpolators that end in this spline share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.error import Factors, window_counts
from tiledsky.kernels.mesh.prefilter import SPLINE_HALO, cubic_coefficients
from tiledsky.operations.interpolators.base import Interpolator, Parameters, Term
from tiledsky.overlap import Patch
from tiledsky.recipe import ZoomInterpolator

#: The cubic spline's response falls by 0.268 a box.
_SPLINE_REACH = 12


@lru_cache(maxsize=32)
def _spline_factors(n: int, box: int, size: int) -> NDArray[np.float64]:
    half = size // 2
    counts, total = window_counts(n, size), np.zeros(n * box)
    for c in range(n):
        mesh = np.where(np.abs(np.arange(n) - c) <= half, 1.0 / counts, 0.0)[:, np.newaxis]
        response = kernel.spline_evaluate(
            kernel.spline_coefficients(mesh), (box, 1), (0, n * box, 0, 1), dtype=np.float64
        )
        total += response[:, 0] ** 2
    return np.asarray(total.reshape(n, box).mean(axis=1))


def spline_factors(shape: Pair, box_size: Pair, size: Pair) -> Factors:
    """Factors G of mean filter and spline: those of a box are the product of its row's and its column's.

    Made by evaluating the spline through the filtered response to each box of an axis; meshes of more boxes than the
    spline and the filter reach repeat their interior.
    """
    factors = []
    for n, box, width in zip(shape, box_size, size, strict=True):
        half = width // 2 + _SPLINE_REACH
        own = _spline_factors(min(n, 2 * half + 1), int(box), int(width))
        middle = np.full(max(n - own.size, 0), own[own.size // 2])
        factors.append(np.concatenate([own[: own.size // 2], middle, own[own.size // 2 :]]))
    return factors[0], factors[1]


class Spline(Interpolator[Parameters]):
    """The values of a surface are the coefficients of a cubic spline through the map."""

    surface_dtype = "float64"
    surface_halo = (SPLINE_HALO, SPLINE_HALO)

    @property
    def clip(self) -> bool:
        """Whether pixels are cut to the range of the map."""
        return False

    @property
    def of_error(self) -> Interpolator[Any]:
        """A spline that is cut to the range of the map, so that no error is negative."""
        return Zoom(ZoomInterpolator(clip=True))

    def error_factors(self, shape: Pair, box_size: Pair, size: Pair) -> Factors:
        """See `spline_factors`."""
        return spline_factors(shape, box_size, size)

    def values(self, cells: Patch, excluded: Patch, region: Region) -> NDArray[Any]:
        """Coefficients of the spline."""
        return cubic_coefficients(cells.data, region, cells.region, cells.shape)

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

    def window(self, region: Region, *, box_size: Pair, mesh: Pair) -> Region:
        """Cells about the region, two on each side."""
        return Region(*kernel.spline_window(region, box_size, mesh))

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
