"""Meshes that are fitted, not filtered: from the statistics of boxes to the maps of a local polynomial regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tiledsky.geometry import Pair
from tiledsky.kernels.fit.local_polynomial import FitModel, fit_model
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, MeshSource
from tiledsky.operations.filtered_maps import FilledRms
from tiledsky.operations.fitted_maps import fit_operations
from tiledsky.operations.interpolators.base import Interpolator
from tiledsky.operations.interpolators.fitted import Fitted
from tiledsky.recipe import LocalPolynomialInterpolator


class LocalPolynomial(Fitted[LocalPolynomialInterpolator]):
    """Local polynomials through the boxes that have values of their own (`tiledsky.kernels.fit.local_polynomial`)."""

    fit_maps: ClassVar[Mapping[str, str | None]] = {"bandwidth": None, "degree": None}

    def model(self, shape: Pair, box_size: Pair) -> FitModel:
        """Bandwidths and degrees that are tried on a mesh of this shape."""
        given = self.parameters
        bandwidth = None if given.bandwidth == "auto" else float(given.bandwidth)
        limits = {"narrowest": given.bandwidth_min, "widest": given.bandwidth_max}
        return fit_model(shape, box_size, order=given.order, bandwidth=bandwidth, **limits)

    def operations(self, mesh: MeshSource, *, noise: str, above: Above | None) -> Iterator[CellOperation | CellNumbers]:
        """Fits of the background with their errors; the rms is filled and filtered."""
        yield from fit_operations(mesh, self.model, robust=self.parameters.robust_bandwidth, noise=noise, above=above)
        yield FilledRms(mesh, noise=noise)


def background_alone(
    law: Interpolator[Any], mesh: MeshSource, *, noise: str, weights: CellOperation
) -> Iterator[CellOperation | CellNumbers]:
    """Fits of the background alone, neither errors nor rms, through boxes that ``weights`` weighs."""
    assert isinstance(law, LocalPolynomial)
    robust = law.parameters.robust_bandwidth
    parts = ("background",)
    yield from fit_operations(mesh, law.model, robust=robust, noise=noise, above=None, weights=weights, parts=parts)
