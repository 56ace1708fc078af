"""The mesh of a background step, from the statistics of its boxes to the sky at any pixel.

Everything that couples the whole image (holes filled from their neighbours, median filter, spline coefficients, the
mesh's range) happens once on the whole mesh, in `finish` and `surfaces`; a `tiledsky.operations.surface.Surface` then
gives the pixels of any region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, row_bands
from tiledsky.kernels.boxes import boxes
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.fill import fill
from tiledsky.kernels.mesh.guards import from_levels, outlying_boxes
from tiledsky.operations.boxes import MeshParameters, box_levels
from tiledsky.operations.fitted import fitted_maps
from tiledsky.operations.surface import Surface, error_interpolator, surface, surface_reach
from tiledsky.recipe import AnyInterpolator, BackgroundStep, IDWInterpolator, LocalPolynomialInterpolator


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
    bandwidth, degree : ndarray (nby, nbx), or None
        Of a fitted mesh: mean bandwidth in pixels and mean degree of the polynomials, see
        `tiledsky.kernels.fit.local_polynomial.LocalFit`.
    """

    background: NDArray[Any]
    rms: NDArray[Any]
    error: NDArray[Any]
    n_good: NDArray[Any]
    excluded: NDArray[np.bool_]
    noise_factor: float
    box_size: Pair
    bandwidth: NDArray[Any] | None = None
    degree: NDArray[Any] | None = None


def filled_map(values: NDArray[Any], excluded: NDArray[np.bool_]) -> NDArray[Any]:
    """Return one statistic of the boxes, the excluded ones filled from their neighbours."""
    values = np.where(excluded, np.asarray(np.nan, values.dtype), values)  # the caller may hold no other
    return fill(values, overwrite=True)


def filtered_map(
    filled: NDArray[Any], step: BackgroundStep | MeshParameters, *, reference: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return a filled map after the median filter; a threshold looks at ``reference``, the filled background."""
    return kernel.median_filter(filled, size=step.filter_size, threshold=step.filter_threshold, reference=reference)


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
        Name and value of the attributes of `Mesh`: excluded, n_good, noise_factor, background, rms, error; and of a
        fitted mesh bandwidth, degree.

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
        excluded |= outlying_boxes(blank, sigma=step.reject_sigma)
        del blank
    yield "excluded", excluded
    n_good = from_levels(measured("n_good"), level)
    yield "n_good", n_good
    del n_good
    variance, background, factor, shared = _noise(measured, level, excluded, step)
    yield "noise_factor", factor
    if isinstance(step.interpolator, LocalPolynomialInterpolator):
        del variance, background
        yield from _fitted(measured, level, excluded, step, limit=limit, shared=shared)
        return
    background = np.where(excluded, np.asarray(np.nan, background.dtype), background)
    background = fill(background, overwrite=True)
    reference = None if step.filter_threshold is None else background
    background = filtered_map(background, step)
    dtype = background.dtype
    if limit is not None:
        background = np.minimum(background, limit.astype(dtype))
        del limit
    yield "background", background
    del background
    yield "rms", filtered_map(filled_map(from_levels(measured("rms"), level), excluded), step, reference=reference)
    yield "error", _error(variance, step, factor=factor, reference=reference, dtype=dtype)


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
    factor = mesh_error.noise_factor(background, variance, own, box_size=step.box_size, excess=excess)
    return variance, background, factor, mesh_error.shared_noise(factor, step.box_size, excess=excess)


def _fitted(
    measured: Callable[[str], Sequence[NDArray[Any]]],
    level: NDArray[np.int8],
    excluded: NDArray[np.bool_],
    step: BackgroundStep | MeshParameters,
    *,
    limit: NDArray[Any] | None,
    shared: float,
) -> Iterator[tuple[str, Any]]:
    """Maps of a fitted mesh; boxes whose values are of a larger one would count that many times, so they do not."""
    background, rms, n_good = (measured(part)[0] for part in ("background", "rms", "n_good"))
    options: dict[str, Any] = {"law": step.interpolator, "box_size": step.box_size, "name": step.name}
    options["shared"] = shared
    made = fitted_maps(background, rms, n_good, ~excluded & (level == 0), **options)
    del background, rms, n_good
    if limit is not None:
        made["background"] = np.minimum(made["background"], limit.astype(made["background"].dtype))
    while made:
        yield made.popitem()
    yield "rms", filtered_map(filled_map(from_levels(measured("rms"), level), excluded), step)


def _excess(estimator: Any, n_good: NDArray[Any]) -> float:
    """Median of the estimator's inefficiency in the boxes; made for each number of pixels once."""
    found, times = np.unique(n_good, return_counts=True)
    spread = np.repeat(mesh_error.inefficiency(estimator, found), times)
    return float(np.median(spread, overwrite_input=True))


def _box_variance(
    rms: NDArray[Any], n_good: NDArray[Any], step: BackgroundStep | MeshParameters
) -> NDArray[np.float64]:
    """Variance of the boxes for white noise."""
    population = step.rms_estimator == "std"
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


def _error(
    variance: NDArray[np.float64],
    step: BackgroundStep | MeshParameters,
    *,
    factor: float,
    reference: NDArray[Any] | None,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Error of the pixels after filter and interpolation; only cells above the filter's threshold are filtered."""
    shape = (variance.shape[0], variance.shape[1])
    filtered, plain = (_factors(shape, step, size) for size in (step.filter_size, (1, 1)))
    error = np.empty(shape, dtype)
    for rows in row_bands(shape):
        found = mesh_error.filtered_variance(variance, filtered, step.filter_size, rows=rows)
        if reference is not None and step.filter_threshold is not None:
            alone = mesh_error.filtered_variance(variance, plain, (1, 1), rows=rows)
            found = np.where(reference[rows] > step.filter_threshold, found, alone)
        error[rows] = np.sqrt(factor * found)
    return error


def _factors(shape: Pair, step: BackgroundStep | MeshParameters, size: Pair) -> mesh_error.Factors:
    if isinstance(step.interpolator, IDWInterpolator):
        law = step.interpolator.model_dump(exclude={"kind"})
        return mesh_error.idw_factors(shape, step.box_size, size, **law)
    return mesh_error.spline_factors(shape, step.box_size, size)


def finish(
    measured: Sequence[boxes.BoxStatistics],
    step: BackgroundStep | MeshParameters,
    *,
    limit: NDArray[Any] | None = None,
) -> Mesh:
    """Make the mesh from the statistics of its boxes, level by level (`array_box_statistics`); see `maps`."""
    parts = maps(lambda part: [getattr(statistics, part) for statistics in measured], step, limit=limit)
    return Mesh(**dict(parts), box_size=step.box_size)


def surfaces(mesh: Mesh, interpolator: AnyInterpolator) -> tuple[Surface, Surface, Surface]:
    """Surfaces of background, rms and error."""
    reach = surface_reach(mesh.excluded, interpolator)
    options: dict[str, Any] = {"excluded": mesh.excluded, "box_size": mesh.box_size, "reach": reach}
    return (
        surface(mesh.background, interpolator, **options),
        surface(mesh.rms, interpolator, **options),
        surface(mesh.error, error_interpolator(interpolator), **options),
    )
