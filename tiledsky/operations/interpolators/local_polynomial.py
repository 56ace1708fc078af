"""Meshes that are fitted, not filtered: from the statistics of boxes to the maps of a local polynomial regression."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair
from tiledsky.kernels.fit.averages import BLOCK, COUNTS
from tiledsky.kernels.fit.gaps import SUMS
from tiledsky.kernels.fit.local_polynomial import FitModel, fit_model
from tiledsky.kernels.fit.whole import TILE, fit_of, robust_of, weights_of
from tiledsky.operations.interpolators.base import MeshBoxes, Term, a_cell, filling_memory
from tiledsky.operations.interpolators.zoom import Spline
from tiledsky.recipe import LocalPolynomialInterpolator

#: Fits of boxes whose bandwidths are chosen: most of them, and the halo of the widest, in cells of square boxes.
_MOST_FITS, _WIDEST = 13, 132


class LocalPolynomial(Spline[LocalPolynomialInterpolator]):
    """Local polynomials through the boxes that have values of their own; see `MeshFit`.

    Boxes whose values are of a larger one would count that many times, so they do not count.
    """

    fit_maps: ClassVar[Mapping[str, str | None]] = {"bandwidth": None, "degree": None}

    @property
    def chooses_bandwidths(self) -> bool:
        """Whether no bandwidth is given."""
        return self.parameters.bandwidth == "auto"

    def bandwidths(self, shape: Pair, box_size: Pair) -> tuple[float, ...]:
        """Those that are tried."""
        return self._model(shape, box_size).bandwidths

    def _model(self, shape: Pair, box_size: Pair) -> FitModel:
        """Bandwidths and degrees that are tried on a mesh of this shape."""
        given = self.parameters
        bandwidth = None if given.bandwidth == "auto" else float(given.bandwidth)
        return fit_model(shape, box_size, order=given.order, bandwidth=bandwidth, narrowest=given.bandwidth_min)

    def maps(self, boxes: MeshBoxes) -> Iterator[tuple[str, NDArray[Any]]]:
        """Fits of the background with their errors; the rms is filled and filtered.

        Raises
        ------
        InputError
            No box has values of its own.
        """
        boxes.release()  # the fit finds its own
        background, rms, n_good = (boxes.measured(part)[0] for part in ("background", "rms", "n_good"))
        fitted = self._fitted(background, rms, n_good, boxes)
        del background, rms, n_good
        fitted["background"] = boxes.limited(fitted["background"])
        while fitted:
            yield fitted.popitem()
        yield "rms", boxes.rms()

    def _fitted(
        self, values: NDArray[Any], rms: NDArray[Any], n_good: NDArray[Any], boxes: MeshBoxes
    ) -> dict[str, NDArray[Any]]:
        """Background, error, bandwidth and degree of each cell, in the dtype of the values.

        Made tile by tile, so that the memory beside these maps and the scores of the fits does not grow with the mesh.
        """
        usable, box_size = boxes.own, boxes.step.box_size
        if not usable.any():
            raise InputError(
                f"background {boxes.step.name!r}: all boxes take their values from larger ones, so there is nothing "
                f"to fit at {box_size[0]} x {box_size[1]} px; use larger boxes, or another interpolator"
            )
        weight = fitted = weights_of(n_good, rms, usable, pixels=box_size[0] * box_size[1])
        robust = self.parameters.robust_bandwidth
        if robust:
            fitted = robust_of(values, weight, box_size=box_size, bandwidth=robust)
        made = fit_of(
            values,
            weight,
            fitted=fitted,
            box_size=box_size,
            model=self._model((values.shape[0], values.shape[1]), box_size),
            shared=boxes.shared_noise,
            dtype=values.dtype,
        )
        return {part: getattr(made, part) for part in ("background", "error", *self.fit_maps)}

    def maps_memory(self, shape: Pair, *, itemsize: int, threshold: bool) -> list[tuple[str, list[Term]]]:
        """The weights of the boxes, and a tile of the mesh with its halo while it is fitted."""
        kept = {"left_out": 3, "values_rms": 2 * itemsize, "n_good": 4, "weight": 4}
        tile: Term = "tile", 1, "B", self._tile_memory(shape)
        scores = 8 * (2 * _MOST_FITS + SUMS + COUNTS) / BLOCK**2
        return [
            filling_memory(shape, itemsize=itemsize, threshold=threshold),
            ("weights", [*a_cell(shape, **kept), tile]),
            ("robust weights", [*a_cell(shape, **kept, rounds=16), tile]),
            ("fitting", [*a_cell(shape, **kept, robust=4, maps=4 * itemsize, scores=scores), tile]),
        ]

    def _tile_memory(self, shape: Pair) -> int:
        """Bytes of a tile and its halo while it is fitted, beside the maps of the whole mesh."""
        halo = _WIDEST if self.chooses_bandwidths else max(shape)
        cells = math.prod(min(n, size) for n, size in zip(shape, TILE, strict=True))
        window = math.prod(min(n, size + 2 * halo) for n, size in zip(shape, TILE, strict=True))
        kernels = 8_000_000  # loaded by the first fit of a process, and the blocks that they work on
        return kernels + window * 24 + cells * (24 * (self.parameters.order + 1) + 250)
