"""Meshes that are fitted, not filtered: from the statistics of boxes to the maps of a local polynomial regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.fit.local_polynomial import FitModel, fit_model
from tiledsky.kernels.fit.weights import NOISE_HALO, box_noise
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, MeshSource
from tiledsky.operations.filtered_maps import FilledRms
from tiledsky.operations.fitted_maps import fit_operations
from tiledsky.operations.interpolators.zoom import Spline
from tiledsky.overlap import Patch
from tiledsky.recipe import LocalPolynomialInterpolator


class LocalPolynomial(Spline[LocalPolynomialInterpolator]):
    """Local polynomials through the boxes that have values of their own (`tiledsky.kernels.fit.local_polynomial`).

    Boxes whose values are of a larger one would count that many times, so they do not count.
    """

    fit_maps: ClassVar[Mapping[str, str | None]] = {"bandwidth": None, "degree": None}
    working: ClassVar[tuple[str, ...]] = ("values", "scatter", "own")
    filled: ClassVar[tuple[str, ...]] = ("scatter",)
    box_halo: ClassVar[Pair] = (NOISE_HALO, NOISE_HALO)

    @property
    def chooses_bandwidths(self) -> bool:
        """Whether no bandwidth is given."""
        return self.parameters.bandwidth == "auto"

    def bandwidths(self, shape: Pair, box_size: Pair) -> tuple[float, ...]:
        """Those that are tried."""
        return self.model(shape, box_size).bandwidths

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

    def box_parts(self, scatter: Patch, own: NDArray[np.bool_], region: Region) -> list[bytes]:
        """Noise of the boxes of a tile."""
        noise = box_noise(region, Window(scatter.data, scatter.region), Window(own, scatter.region))
        return [CountedValues.of(noise).to_bytes()]

    def merge_box_parts(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """Typical noise of all boxes."""
        typical = CountedValues.merged(CountedValues.from_bytes(own[0]) for own in parts).median()
        return [np.array(typical, "<f8").tobytes()]
