"""Meshes that are fitted, not filtered: from the statistics of boxes to the maps of a local polynomial regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, row_bands
from tiledsky.kernels.fit.local_polynomial import HALO, FitModel, MeshFit, fit_model
from tiledsky.kernels.fit.robust import robust_weights
from tiledsky.kernels.mesh.mesh import median_filter
from tiledsky.operations.interpolators.base import MeshBoxes, Term, a_cell, filling_memory
from tiledsky.operations.interpolators.zoom import Spline
from tiledsky.recipe import LocalPolynomialInterpolator

#: Boxes about each whose median rms is the noise there.
_NOISE = (5, 5)
#: Noise below this share of the median is taken as this: a few boxes of constant pixels would outweigh all others.
_QUIETEST = 1e-2
#: Standard errors above the noise there from which the rms of a box is no chance.
_CHANCE = 10.0
#: Cells that are fitted at a time, beside the halo.
_BAND_CELLS = 1 << 19


def box_weights(n_good: NDArray[Any], rms: NDArray[Any], usable: NDArray[np.bool_], *, pixels: int) -> NDArray[Any]:
    """Weights of boxes in a fit: ``(n_good / pixels)**2 / noise**2``, noise in units of its median.

    Parameters
    ----------
    n_good, rms : ndarray (nby, nbx)
        Of the boxes.
    usable : ndarray (nby, nbx), bool
        Boxes with values of their own.
    pixels : int
        Of a whole box.

    Returns
    -------
    ndarray (nby, nbx), float32
        0 where a box is not usable.

    Notes
    -----
    White noise alone would make it ``n_good / noise**2``. But the pixels that are left between sources hold what the
    mask did not find of them: the more of a box is masked, the more light is in the rest. With the square the bias by
    such light is a quarter less, and the scatter no larger. The noise is the median rms of 5 x 5 boxes, for that of one
    box varies with its own pixels. A box whose own rms is far above it (by more than chance can make it) holds more
    than sky, such as bad columns, and its mean says nothing: its weight is 0.
    """
    noise = median_filter(np.where(usable, rms, np.asarray(np.nan, rms.dtype)), size=_NOISE)
    known = noise[np.isfinite(noise)]
    typical = float(np.median(known)) if known.size else 0.0
    weight = np.zeros(rms.shape, np.float32)
    for rows in row_bands(rms.shape):
        share = np.where(usable[rows], n_good[rows] / pixels, 0.0)
        relative = np.ones(share.shape)
        if typical > 0.0:
            relative = np.maximum(np.nan_to_num(noise[rows].astype(np.float64) / typical, nan=1.0), _QUIETEST)
        weight[rows] = np.where(_uneven(rms[rows], noise[rows], n_good[rows]), 0.0, np.square(share / relative))
    return weight if weight.any() else np.where(usable, np.float32(1), np.float32(0))


def _uneven(rms: NDArray[Any], noise: NDArray[Any], n_good: NDArray[Any]) -> NDArray[np.bool_]:
    """Boxes whose pixels scatter more than noise can: an rms of n pixels varies by ``1 / sqrt(2 n)`` of itself."""
    with np.errstate(invalid="ignore"):
        limit = noise.astype(np.float64) * (1.0 + _CHANCE / np.sqrt(2.0 * np.maximum(n_good, 1.0)))
        return (noise > 0.0) & (rms > limit)


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

        Made in bands of rows, so that the memory beside these maps does not grow with the mesh.
        """
        usable, box_size = boxes.own, boxes.step.box_size
        if not usable.any():
            raise InputError(
                f"background {boxes.step.name!r}: all boxes take their values from larger ones, so there is nothing "
                f"to fit at {box_size[0]} x {box_size[1]} px; use larger boxes, or another interpolator"
            )
        shape: Pair = (values.shape[0], values.shape[1])
        weight = box_weights(n_good, rms, usable, pixels=box_size[0] * box_size[1])
        judged, robust = weight, self.parameters.robust_bandwidth
        if robust:
            weight = robust_weights(values, weight, box_size=box_size, bandwidth=robust, cells=_BAND_CELLS)
        model = self._model(shape, box_size)
        fit = MeshFit(values, weight, box_size=box_size, model=model, judged=judged, shared=boxes.shared_noise)
        made = {part: np.empty(shape, values.dtype) for part in ("background", "error", *self.fit_maps)}
        for rows in row_bands(shape, cells=_BAND_CELLS):
            band = fit.rows(rows)
            for part, cells in made.items():
                cells[rows] = getattr(band, part)
        return made

    def maps_memory(self, shape: Pair, *, itemsize: int, threshold: bool) -> list[tuple[str, list[Term]]]:
        """The weights of the boxes, and a band of the mesh with its halo while it is fitted."""
        kept = {"left_out": 3, "values_rms": 2 * itemsize, "n_good": 4, "weight": 4}
        band: Term = "band", 1, "B", self._band_memory(shape)
        return [
            filling_memory(shape, itemsize=itemsize, threshold=threshold),
            ("weights", a_cell(shape, **kept, noise=3 * itemsize)),
            ("robust weights", [*a_cell(shape, **kept, rounds=16), band]),
            ("fitting", [*a_cell(shape, **kept, robust=4, maps=4 * itemsize), band]),
        ]

    def _band_memory(self, shape: Pair) -> int:
        """Bytes of a band and its halo while it is fitted, beside the maps of the whole mesh."""
        rows = min(max(_BAND_CELLS // shape[1], 1) + 2 * HALO, shape[0])
        columns = shape[1] + 2 * HALO
        kernels = 8_000_000  # loaded by the first fit of a process, and the blocks that they work on
        fits = 24 * (self.parameters.order + 1) + 230
        return kernels + rows * columns * fits + min(2 * HALO, shape[0]) * columns * 32
