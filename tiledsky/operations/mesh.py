"""The mesh of a background step, from the statistics of its boxes to the sky at any pixel.

Everything that couples the whole image (holes filled from their neighbours, median filter, spline coefficients, the
mesh's range) happens once on the whole mesh, in `finish` and `surfaces`; a `tiledsky.operations.surface.Surface` then
gives the pixels of any region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, row_bands
from tiledsky.kernels.boxes import boxes
from tiledsky.kernels.boxes.estimators import inefficiency, rms_estimator_of
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh.fill import fill
from tiledsky.kernels.mesh.guards import from_levels, outlying_boxes, outlying_distances
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.boxes import MeshParameters, box_levels
from tiledsky.operations.interpolators import Interpolator, MeshBoxes, interpolator_of
from tiledsky.operations.surface import Surface, make_surface
from tiledsky.recipe import BackgroundStep, InterpolatorParameters


@dataclass(frozen=True)
class Mesh:
    """The low-resolution maps of a background step.

    Attributes
    ----------
    background, rms : ndarray (nby, nbx)
        Filled and filtered; the background fitted, where the interpolator is a local polynomial.
    error : ndarray (nby, nbx)
        Standard error of the background at the pixels of each cell, by noise alone (`tiledsky.kernels.mesh.error`);
        NaN everywhere if no box tells its noise, as boxes of one pixel.
    n_good : ndarray of integers (nby, nbx)
        Pixels a box that were left after masks and clipping; of the larger box where it took the place of a box.
    excluded : ndarray of bool (nby, nbx)
        Boxes with too few of them, or that stand out: their values come from their neighbours.
    noise_factor : float
        How many times more boxes vary than for independent pixels (`tiledsky.kernels.mesh.error.noise_factor`); its
        root is the length, in pixels, over which noise is shared.
    box_size : (int, int)
    fit : dict of str to ndarray (nby, nbx)
        The `tiledsky.operations.interpolators.Interpolator.fit_maps` of a mesh that is fitted.
    """

    background: NDArray[Any]
    rms: NDArray[Any]
    error: NDArray[Any]
    n_good: NDArray[Any]
    excluded: NDArray[np.bool_]
    noise_factor: float
    box_size: Pair
    fit: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def bandwidth(self) -> NDArray[Any] | None:
        """Mean bandwidth of a fit in pixels, see `tiledsky.kernels.fit.local_polynomial.LocalFit`; None without one."""
        return self.fit.get("bandwidth")

    @property
    def degree(self) -> NDArray[Any] | None:
        """Mean degree of the polynomials of a fit; None without one."""
        return self.fit.get("degree")


def maps(
    measured: Callable[[str], Sequence[NDArray[Any]]],
    step: BackgroundStep | MeshParameters,
    *,
    limit: NDArray[Any] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Make the maps of a mesh one after the other, so that few are in memory at a time.

    Parameters
    ----------
    measured : callable
        ``measured(part)``: that part of `tiledsky.kernels.boxes.boxes.BoxStatistics`, level by level.
    step
        What makes the mesh.
    limit : ndarray (nby, nbx), optional
        Largest value of each cell of the background (`tiledsky.operations.surface.ceiling`).

    Yields
    ------
    str, object
        Name and value of the attributes of `Mesh`: excluded, n_good, noise_factor, then background, rms and error in
        any order, and the maps of `Mesh.fit`.

    Raises
    ------
    InputError
        No box with enough pixels.
    """
    # every map is asked for, and given up, as late and as early as can be: what is held at once is the memory of a run
    level = box_levels(measured("background"), measured("n_good"), step)
    excluded = level < 0
    if step.reject_sigma is not None:
        blank = np.where(excluded, np.nan, from_levels(measured("background"), level))
        whole = Region.whole(blank.shape)
        distances = outlying_distances(blank, whole, whole, whole.shape)
        excluded |= outlying_boxes(distances, sigma=step.reject_sigma, middle=CountedValues.of(distances).median())
        del blank, distances
    yield "excluded", excluded
    n_good = from_levels(measured("n_good"), level)
    yield "n_good", n_good
    del n_good
    variance, values, factor, shared = _noise(measured, level, excluded, step)
    boxes = MeshBoxes(step, measured, level, excluded, factor, shared, values, variance, limit)
    del variance, values, limit
    yield "noise_factor", factor
    yield from interpolator_of(step.interpolator).maps(boxes)


def _noise(
    measured: Callable[[str], Sequence[NDArray[Any]]],
    level: NDArray[np.int8],
    excluded: NDArray[np.bool_],
    step: BackgroundStep | MeshParameters,
) -> tuple[NDArray[np.float64], NDArray[Any], float, float]:
    """Variance of the boxes for white noise, their values, the noise factor, and that of noise which boxes share."""
    n_good = from_levels(measured("n_good"), level)
    excess = _excess(step.estimator, n_good[~excluded])
    variance = _box_variance(from_levels(measured("rms"), level), n_good, step)
    del n_good
    variance = _known_variance(variance, excluded)
    background, own = from_levels(measured("background"), level), ~excluded & (level == 0)
    whole = Region.whole(own.shape)
    samples = mesh_error.noise_samples(background, variance, own, whole, whole, whole.shape)
    factor = mesh_error.noise_factor(samples, box_size=step.box_size, excess=excess)
    return variance, background, factor, mesh_error.shared_noise(factor, step.box_size, excess=excess)


def _excess(estimator: Any, n_good: NDArray[Any]) -> float:
    """Median of the estimator's inefficiency in the boxes; made for each number of pixels once."""
    found, times = np.unique(n_good, return_counts=True)
    spread = np.repeat(inefficiency(estimator, found), times)
    return float(np.median(spread, overwrite_input=True))


def _box_variance(
    rms: NDArray[Any], n_good: NDArray[Any], step: BackgroundStep | MeshParameters
) -> NDArray[np.float64]:
    """Variance of the boxes for white noise."""
    population = rms_estimator_of(step.rms_estimator).population
    variance = np.empty(rms.shape)
    for rows in row_bands(rms.shape):
        variance[rows] = mesh_error.box_variance(
            rms[rows], n_good[rows], estimator=step.estimator, population=population
        )
    return variance


def _known_variance(variance: NDArray[np.float64], excluded: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Variance, where boxes are excluded or have none, of their neighbours; what comes in is given up."""
    unknown = ~np.isfinite(variance)
    unknown |= excluded
    if unknown.all():
        return variance
    variance[unknown] = np.nan
    del unknown
    return fill(variance, overwrite=True)


def finish(
    measured: Sequence[boxes.BoxStatistics],
    step: BackgroundStep | MeshParameters,
    *,
    limit: NDArray[Any] | None = None,
) -> Mesh:
    """Make the mesh from the statistics of its boxes, level by level (`array_box_statistics`); see `maps`."""
    made = dict(maps(lambda part: [getattr(statistics, part) for statistics in measured], step, limit=limit))
    fit = {name: made.pop(name) for name in interpolator_of(step.interpolator).fit_maps}
    return Mesh(**made, box_size=step.box_size, fit=fit)


def surfaces(mesh: Mesh, interpolator: InterpolatorParameters) -> tuple[Surface, Surface, Surface]:
    """Surfaces of background, rms and error."""
    chosen = interpolator_of(interpolator)
    lookups = chosen.lookups(mesh.excluded)

    def surface(cells: NDArray[Any], used: Interpolator[Any]) -> Surface:
        return make_surface(cells, used, excluded=mesh.excluded, box_size=mesh.box_size, lookups=lookups)

    return surface(mesh.background, chosen), surface(mesh.rms, chosen), surface(mesh.error, chosen.of_error)
