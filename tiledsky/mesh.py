"""The mesh of a background step, from the statistics of its boxes to the sky at any pixel.

Everything that couples the whole image (holes filled from their neighbours, median filter, spline coefficients, the
mesh's range) happens once on the whole mesh, in `finish` and `surfaces`; a `tiledsky.surface.Surface` then gives the
pixels of any region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels import boxes, mesh_error
from tiledsky.kernels import mesh as kernel
from tiledsky.kernels.fill import fill
from tiledsky.kernels.mesh_guards import from_levels, grown_boxes, outlying_boxes
from tiledsky.overlap import align, call
from tiledsky.steps import BackgroundStep, IDWInterpolator, SigmaClip, ZoomInterpolator
from tiledsky.surface import Surface, error_interpolator, surface, surface_reach


@dataclass(frozen=True)
class Mesh:
    """The low-resolution maps of a background step.

    Attributes
    ----------
    background, rms : ndarray (nby, nbx)
        Filled and filtered.
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
    """

    background: NDArray[Any]
    rms: NDArray[Any]
    error: NDArray[Any]
    n_good: NDArray[Any]
    excluded: NDArray[np.bool_]
    noise_factor: float
    box_size: Pair


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
    """

    name: str
    box_size: Pair
    filter_size: Pair
    filter_threshold: float | None
    exclude_percentile: float
    clip: boxes.Clip | Callable[[NDArray[Any], NDArray[np.bool_] | None, Pair], NDArray[Any]] | None
    estimator: str | Callable[..., Any]
    rms_estimator: str | Callable[..., Any]
    interpolator: ZoomInterpolator | IDWInterpolator
    min_pixels: int = 1
    grow_boxes: int = 0
    reject_sigma: float | None = None


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
        science,
        size,
        mask=ignore,
        clip=clip,
        estimator=step.estimator,
        rms_estimator=step.rms_estimator,
    )


def same_boxes(one: BackgroundStep, other: BackgroundStep) -> bool:
    """Whether two steps measure the same numbers in the same boxes (given the same mask)."""
    keys = ("box_size", "clip", "estimator", "rms_estimator", "grow_boxes")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def array_box_statistics(image: Any, ignore: Any, step: BackgroundStep | MeshParameters) -> list[Any]:
    """Box statistics of each level, of a numpy array, or of a dask array (lazily, from chunks cut at box corners)."""
    cells_of(image.shape, step)
    if not isinstance(image, da.Array):
        return [box_statistics(image, ignore, step, level=k) for k in range(step.grow_boxes + 1)]
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
    science: NDArray[Any],
    ignore: NDArray[np.bool_] | None = None,
    *,
    step: BackgroundStep | MeshParameters,
    level: int,
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
    bad = []
    for k, (values, n_good) in enumerate(zip(backgrounds, counts, strict=True)):
        limit: dict[str, Any] = {"box_npixels": (by * bx) << 2 * k, "exclude_percentile": step.exclude_percentile}
        bad.append(np.isnan(kernel.exclude(values, values, n_good, **limit)[0]) | (n_good < step.min_pixels))
    level = grown_boxes(bad)
    if (level < 0).all():
        few = f" and at least {step.min_pixels}" if step.min_pixels > 1 else ""
        raise InputError(
            f"background {step.name!r}: none of the {level.size} boxes of {by} x {bx} px has more than "
            f"{100 - step.exclude_percentile:g}%{few} good pixels, so there is no sky to measure; raise "
            "exclude_percentile, use larger boxes or mask less"
        )
    return level


def filled_map(values: NDArray[Any], excluded: NDArray[np.bool_]) -> NDArray[Any]:
    """Return one statistic of the boxes, the excluded ones filled from their neighbours."""
    return fill(np.where(excluded, np.asarray(np.nan, values.dtype), values))


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
        Name and value of the attributes of `Mesh`: excluded, n_good, noise_factor, background, rms, error.

    Raises
    ------
    InputError
        No box with enough pixels.
    """
    level = box_levels(measured("background"), measured("n_good"), step)
    background, n_good = (from_levels(measured(part), level) for part in ("background", "n_good"))
    excluded = level < 0
    if step.reject_sigma is not None:
        blank = np.where(excluded, np.asarray(np.nan, background.dtype), background)
        excluded |= outlying_boxes(blank, sigma=step.reject_sigma)
    yield "excluded", excluded
    yield "n_good", n_good
    variance = _expected_variance(from_levels(measured("rms"), level), n_good, excluded, step)
    excess = float(np.median(mesh_error.inefficiency(step.estimator, n_good[~excluded])))
    own = ~excluded & (level == 0)
    factor = mesh_error.noise_factor(background, variance, own, box_size=step.box_size, excess=excess)
    yield "noise_factor", factor
    filled = filled_map(background, excluded)
    del background, n_good, own
    reference = None if step.filter_threshold is None else filled
    cells = filtered_map(filled, step)
    yield "background", cells if limit is None else np.minimum(cells, limit.astype(cells.dtype))
    dtype = cells.dtype
    del cells, filled
    yield "rms", filtered_map(filled_map(from_levels(measured("rms"), level), excluded), step, reference=reference)
    yield "error", np.sqrt(factor * _pixel_variance(variance, step, reference)).astype(dtype)


def _expected_variance(
    rms: NDArray[Any], n_good: NDArray[Any], excluded: NDArray[np.bool_], step: BackgroundStep | MeshParameters
) -> NDArray[np.float64]:
    """Variance of the boxes for white noise; where they are excluded or have no rms, that of their neighbours."""
    population = step.rms_estimator == "std"
    variance = mesh_error.box_variance(rms, n_good, estimator=step.estimator, population=population)
    unknown = excluded | ~np.isfinite(variance)
    return variance if unknown.all() else filled_map(variance, unknown)


def _pixel_variance(
    variance: NDArray[np.float64], step: BackgroundStep | MeshParameters, reference: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Variance after filter and interpolation; only cells above the filter's threshold are filtered."""
    filtered = _filtered_variance(variance, step, step.filter_size)
    if reference is None or step.filter_threshold is None:
        return filtered
    return np.where(reference > step.filter_threshold, filtered, _filtered_variance(variance, step, (1, 1)))


def _filtered_variance(
    variance: NDArray[np.float64], step: BackgroundStep | MeshParameters, size: Pair
) -> NDArray[np.float64]:
    shape = (variance.shape[0], variance.shape[1])
    if isinstance(step.interpolator, ZoomInterpolator):
        factors = mesh_error.spline_factors(shape, step.box_size, size)
    else:
        law = step.interpolator.model_dump(exclude={"kind"})
        factors = mesh_error.idw_factors(shape, step.box_size, size, **law)
    return mesh_error.filtered_variance(variance, factors, size)


def finish(
    measured: Sequence[boxes.BoxStatistics],
    step: BackgroundStep | MeshParameters,
    *,
    limit: NDArray[Any] | None = None,
) -> Mesh:
    """Make the mesh from the statistics of its boxes, level by level (`array_box_statistics`); see `maps`."""
    parts = maps(lambda part: [getattr(statistics, part) for statistics in measured], step, limit=limit)
    return Mesh(**dict(parts), box_size=step.box_size)


def surfaces(mesh: Mesh, interpolator: ZoomInterpolator | IDWInterpolator) -> tuple[Surface, Surface, Surface]:
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
