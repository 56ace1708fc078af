"""The mesh of a background step, from the statistics of its boxes to the sky at any pixel.

Everything that couples the whole image (holes filled from their neighbours, median filter, spline coefficients, the
mesh's range) happens once on the whole mesh, in `finish` and `surfaces`; a `tiledsky.surface.Surface` then gives the
pixels of any region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.fitted import fitted_maps
from tiledsky.geometry import Pair, mesh_shape, row_bands
from tiledsky.kernels import boxes, mesh_error
from tiledsky.kernels import mesh as kernel
from tiledsky.kernels.fill import fill
from tiledsky.kernels.mesh_guards import from_levels, grown_boxes, outlying_boxes
from tiledsky.overlap import align, call, is_dask_array
from tiledsky.steps import AnyInterpolator, BackgroundStep, IDWInterpolator, LocalPolynomialInterpolator, SigmaClip
from tiledsky.surface import Surface, error_interpolator, surface, surface_reach


@dataclass(frozen=True)
class Mesh:
    """The low-resolution maps of a background step.

    Attributes
    ----------
    background, rms : ndarray (nby, nbx)
        Filled and filtered; the background fitted, where the interpolator is a local polynomial.
    error : ndarray (nby, nbx)
        Standard error of the background at the pixels of each cell, by noise alone (`tiledsky.kernels.mesh_error`);
        NaN everywhere if no box tells its noise, as boxes of one pixel.
    n_good : ndarray of integers (nby, nbx)
        Pixels a box that were left after masks and clipping; of the larger box where it took the place of a box.
    excluded : ndarray of bool (nby, nbx)
        Boxes with too few of them, or that stand out: their values come from their neighbours.
    noise_factor : float
        How many times more boxes vary than for independent pixels (`tiledsky.kernels.mesh_error.noise_factor`); its
        root is the length, in pixels, over which noise is shared.
    box_size : (int, int)
    bandwidth, degree : ndarray (nby, nbx), or None
        Of a fitted mesh: mean bandwidth in pixels and mean degree of the polynomials, see
        `tiledsky.kernels.local_polynomial.LocalFit`.
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


@dataclass(frozen=True)
class MeshParameters:
    """What makes a mesh, as in `tiledsky.steps.BackgroundStep`, but with Python objects where a recipe has names.

    Attributes
    ----------
    name : str
        For messages.
    box_size, filter_size, filter_threshold, exclude_percentile, interpolator, min_pixels, grow_boxes, reject_sigma
        As there.
    clip : `tiledsky.kernels.boxes.Clip` or callable or None
        A callable gets (pixels, ignore, box_size) and returns a copy of the pixels, NaN where ignored or clipped.
    estimator, rms_estimator : str or callable
        As `tiledsky.kernels.boxes.box_statistics` takes them.
    inclusive : bool
        Whether a box with just the share of bad pixels that `exclude_percentile` allows takes part; never in recipes.
    """

    name: str
    box_size: Pair
    filter_size: Pair
    filter_threshold: float | None
    exclude_percentile: float
    clip: boxes.Clip | Callable[[NDArray[Any], NDArray[np.bool_] | None, Pair], NDArray[Any]] | None
    estimator: str | Callable[..., Any]
    rms_estimator: str | Callable[..., Any]
    interpolator: AnyInterpolator
    min_pixels: int = 1
    grow_boxes: int = 0
    reject_sigma: float | None = None
    inclusive: bool = False


def kernel_clip(clip: SigmaClip | None) -> boxes.Clip | None:
    """Return the clip as the box kernel takes it."""
    return None if clip is None else boxes.Clip(**clip.model_dump())


def level_box(step: BackgroundStep | MeshParameters, level: int) -> Pair:
    """Box size of a level of a step: ``2**level`` times that of its mesh."""
    return step.box_size[0] << level, step.box_size[1] << level


def largest_box(step: BackgroundStep | MeshParameters) -> Pair:
    """Largest box that a step measures; tiles are whole numbers of it."""
    return level_box(step, step.grow_boxes)


def box_statistics(
    science: NDArray[Any], ignore: NDArray[np.bool_] | None, step: BackgroundStep | MeshParameters, *, level: int = 0
) -> boxes.BoxStatistics:
    """Statistics of the boxes of a level of a piece of an image whose origin is a corner of such a box."""
    size = level_box(step, level)
    clip = kernel_clip(step.clip) if isinstance(step.clip, SigmaClip) else step.clip
    if clip is not None and not isinstance(clip, boxes.Clip):
        science, ignore, clip = clip(science, ignore, size), None, None
    return boxes.box_statistics(
        science, size, mask=ignore, clip=clip, estimator=step.estimator, rms_estimator=step.rms_estimator
    )


def same_boxes(one: BackgroundStep, other: BackgroundStep) -> bool:
    """Whether two steps measure the same numbers in the same boxes (given the same mask)."""
    keys = ("box_size", "clip", "estimator", "rms_estimator", "grow_boxes")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def array_box_statistics(image: Any, ignore: Any, step: BackgroundStep | MeshParameters) -> list[Any]:
    """Box statistics of each level, of a numpy array, or of a dask array (lazily, from chunks cut at box corners)."""
    cells_of(image.shape, step)
    if not is_dask_array(image):
        return [box_statistics(image, ignore, step, level=k) for k in range(step.grow_boxes + 1)]
    import dask.array as da

    aligned = align(image, largest_box(step))
    blocks = [aligned] if ignore is None else [aligned, da.asarray(ignore).rechunk(aligned.chunks)]
    levels = []
    for level in range(step.grow_boxes + 1):
        size = level_box(step, level)
        chunks = tuple(tuple(-(-n // b) for n in c) for c, b in zip(aligned.chunks, size, strict=True))
        kind: dict[str, Any] = {"dtype": float, "meta": np.empty((0, 0, 0)), "new_axis": 0, "chunks": ((3,), *chunks)}
        stacked = da.map_blocks(_stacked, *blocks, step=step, level=level, **kind)
        levels.append(call(_unstacked, stacked, image.dtype, mesh_shape(image.shape, size)))
    return levels


def _stacked(
    science: NDArray[Any], ignore: NDArray[np.bool_] | None = None, *, step: BackgroundStep | MeshParameters, level: int
) -> NDArray[Any]:
    return np.stack([np.asarray(a, float) for a in box_statistics(science, ignore, step, level=level)])


def _unstacked(stack: NDArray[Any], dtype: np.dtype[Any], shape: Pair) -> boxes.BoxStatistics:
    background, rms, n_good = stack.reshape((3, *shape))
    return boxes.BoxStatistics(background.astype(dtype), rms.astype(dtype), n_good.astype(np.int64))


def box_levels(
    backgrounds: Sequence[NDArray[Any]], counts: Sequence[NDArray[Any]], step: BackgroundStep | MeshParameters
) -> NDArray[np.int8]:
    """Level that each box takes its statistics from (0: its own), -1 where there are too few good pixels at all levels.

    Raises
    ------
    InputError
        All of them.
    """
    by, bx = step.box_size
    inclusive = isinstance(step, MeshParameters) and step.inclusive
    bad = []
    for k, (background, counted) in enumerate(zip(backgrounds, counts, strict=True)):
        limit: dict[str, Any] = {"box_npixels": (by * bx) << 2 * k, "exclude_percentile": step.exclude_percentile}
        limit["inclusive"] = inclusive
        unusable = np.empty(background.shape, bool)
        for rows in row_bands(background.shape):
            values, n_good = background[rows], counted[rows]
            left_out = np.isnan(kernel.exclude(values, values, n_good, **limit)[0])
            unusable[rows] = left_out | (n_good < step.min_pixels)
        bad.append(unusable)
    level = grown_boxes(bad)
    if (level < 0).all():
        few = f" and of {step.min_pixels - 1}" if step.min_pixels > 1 else ""
        share = f"{100 - step.exclude_percentile:g}% of {by * bx}{few}"
        raise InputError(
            f"background {step.name!r}: All boxes contain {'fewer' if inclusive else 'no more'} than {share} unmasked "
            f"or finite pixels ({level.size} boxes of {by} x {bx} px), so there is no sky to measure; raise "
            "exclude_percentile, use larger boxes or mask less"
        )
    return level


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
        ``measured(part)``: that part of `tiledsky.kernels.boxes.BoxStatistics`, level by level.
    step
        What makes the mesh.
    limit : ndarray (nby, nbx), optional
        Largest value of each cell of the background (`tiledsky.surface.ceiling`).

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


def cells_of(shape: Pair, step: BackgroundStep | MeshParameters) -> Pair:
    """Shape of the mesh of a step on an image of ``shape``.

    Raises
    ------
    InputError
        A box larger than the image.
    """
    if any(b > n for b, n in zip(step.box_size, shape, strict=True)):
        raise InputError(
            f"background {step.name!r}: a box of {step.box_size[0]} x {step.box_size[1]} px is larger than the "
            f"{shape[0]} x {shape[1]} px image, so there is no mesh; use a smaller box_size"
        )
    return mesh_shape(shape, step.box_size)
