"""Meshes that are fitted, not filtered: from the statistics of boxes to the maps of a local polynomial regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, row_bands
from tiledsky.kernels.fit.local_polynomial import HALO, Ladder, MeshFit, ladder
from tiledsky.kernels.fit.robust import robust_weights
from tiledsky.kernels.mesh.mesh import median_filter
from tiledsky.recipe import LocalPolynomialInterpolator

#: Maps that only a fitted mesh has.
FITTED = ("bandwidth", "degree")
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


def fit_bytes(shape: Pair, law: LocalPolynomialInterpolator) -> int:
    """Memory of a band and its halo while it is fitted, beside the maps of the whole mesh."""
    rows = min(max(_BAND_CELLS // shape[1], 1) + 2 * HALO, shape[0])
    columns = shape[1] + 2 * HALO
    kernels = 8_000_000  # loaded by the first fit of a process, and the blocks that they work on
    return kernels + rows * columns * (24 * (law.order + 1) + 230) + min(2 * HALO, shape[0]) * columns * 32


def rungs_of(law: LocalPolynomialInterpolator, shape: Pair, box_size: Pair) -> Ladder:
    """Bandwidths and degrees that an interpolator tries on a mesh."""
    bandwidth = None if law.bandwidth == "auto" else float(law.bandwidth)
    return ladder(shape, box_size, order=law.order, bandwidth=bandwidth, narrowest=law.bandwidth_min)


def fitted_maps(
    values: NDArray[Any],
    rms: NDArray[Any],
    n_good: NDArray[Any],
    usable: NDArray[np.bool_],
    *,
    law: LocalPolynomialInterpolator,
    box_size: Pair,
    name: str,
    shared: float = 1.0,
) -> dict[str, NDArray[Any]]:
    """Background, error, bandwidth and degree of each cell, in the dtype of the values.

    Made in bands of rows, so that the memory beside these maps does not grow with the mesh. ``usable``: boxes with
    values of their own; InputError (that names the step) if there is none. ``shared``: see `MeshFit`.
    """
    if not usable.any():
        raise InputError(
            f"background {name!r}: all boxes take their values from larger ones, so there is nothing to fit at "
            f"{box_size[0]} x {box_size[1]} px; use larger boxes, or another interpolator"
        )
    shape: Pair = (values.shape[0], values.shape[1])
    weight = box_weights(n_good, rms, usable, pixels=box_size[0] * box_size[1])
    judged = weight
    if law.robust_bandwidth:
        weight = robust_weights(values, weight, box_size=box_size, bandwidth=law.robust_bandwidth, cells=_BAND_CELLS)
    fit = MeshFit(values, weight, box_size=box_size, rungs=rungs_of(law, shape, box_size), judged=judged, shared=shared)
    made = {part: np.empty(shape, values.dtype) for part in ("background", "error", *FITTED)}
    for rows in row_bands(shape, cells=_BAND_CELLS):
        band = fit.rows(rows)
        for part, held in made.items():
            held[rows] = getattr(band, part)
    return made
