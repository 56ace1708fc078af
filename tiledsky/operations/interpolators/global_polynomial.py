"""One polynomial for the whole image, fitted to the boxes of its mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh.lagrange import lagrange_evaluate, lagrange_window
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, MeshSource
from tiledsky.operations.filtered_maps import FilledRms
from tiledsky.operations.interpolators.base import Interpolator
from tiledsky.operations.interpolators.fitted import Fitted
from tiledsky.operations.whole_fit import whole_operations
from tiledsky.overlap import Patch
from tiledsky.recipe import GlobalPolynomialInterpolator


class GlobalPolynomial(Fitted[GlobalPolynomialInterpolator]):
    """One polynomial through the boxes that have values of their own (`tiledsky.kernels.fit.whole`).

    The values of its surface are the cells: pixels are made from few of them, exactly. Rms and error go through a
    spline.
    """

    fit_maps: ClassVar[Mapping[str, str | None]] = {"degree": None}
    of_whole_image: ClassVar[bool] = True

    @property
    def points(self) -> int:
        """Cells along an axis that the polynomial goes through at each pixel."""
        return self.parameters.order + 1

    def operations(self, mesh: MeshSource, *, noise: str, above: Above | None) -> Iterator[CellOperation | CellNumbers]:
        """Fit of the background with its error; the rms is filled and filtered."""
        yield from whole_operations(mesh, self.parameters.order, noise=noise, above=above)
        yield FilledRms(mesh, noise=noise)

    def of_map(self, part: str) -> Interpolator[Any]:
        """Of the background this, of the others the spline of the error."""
        return self if part == "background" else self.of_error

    def values(self, cells: Patch, excluded: Patch, region: Region) -> NDArray[Any]:
        """The map."""
        return np.asarray(cells.crop(region), np.float64)

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
        """Pixels of the polynomial."""
        shape: Pair = tuple(values.shape)
        window = lagrange_window(region, box_size, shape, self.points)
        return lagrange_evaluate(
            np.asarray(values[window.slices]),
            box_size,
            region,
            points=self.points,
            origin=(window.y0, window.x0),
            shape=shape,
            dtype=dtype,
        )

    def window(self, region: Region, *, box_size: Pair, mesh: Pair) -> Region:
        """Cells about the region, and at the edges of the mesh as many as the polynomial goes through."""
        return lagrange_window(region, box_size, mesh, self.points)
