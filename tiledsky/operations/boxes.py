"""The boxes of a background step: their sizes, their statistics, and which of them count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels.boxes import boxes
from tiledsky.kernels.boxes.boxes import BoxStatistics
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.guards import grown_boxes
from tiledsky.operations.thresholds import Thresholds
from tiledsky.overlap import align, is_dask_array
from tiledsky.recipe import BackgroundStep, InterpolatorParameters, SigmaClip


@dataclass(frozen=True)
class MeshParameters:
    """What makes a mesh, as in `tiledsky.recipe.parameters.BackgroundStep`, but with Python objects where a recipe has
    names.

    Attributes
    ----------
    name : str
        For messages.
    box_size, filter_size, filter_threshold, exclude_percentile, interpolator, min_pixels, grow_boxes, reject_sigma
        As there.
    clip : `tiledsky.kernels.boxes.boxes.Clip` or callable or None
        A callable gets (pixels, ignore, box_size) and returns a copy of the pixels, NaN where ignored or clipped.
    estimator, rms_estimator : str or callable
        As `tiledsky.kernels.boxes.boxes.box_statistics` takes them.
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
    interpolator: InterpolatorParameters
    min_pixels: int = 1
    grow_boxes: int = 0
    reject_sigma: float | None = None
    inclusive: bool = False


Step = TypeVar("Step", "BackgroundStep", "BackgroundStep | MeshParameters")


def kernel_clip(clip: SigmaClip | None) -> boxes.Clip | None:
    """Return the clip as the box kernel takes it."""
    return None if clip is None else boxes.Clip(**clip.model_dump())


def level_box(step: BackgroundStep | MeshParameters, level: int) -> Pair:
    """Box size of a level of a step: ``2**level`` times that of its mesh."""
    return step.box_size[0] << level, step.box_size[1] << level


def largest_box(step: BackgroundStep | MeshParameters) -> Pair:
    """Largest box that a step measures; tiles are whole numbers of it."""
    return level_box(step, step.grow_boxes)


def of_noise(step: Step, limits: Thresholds | None) -> Step:
    """Return the step with the clip that it has for the noise that its mask found; None: nothing is known of it."""
    if limits is None or limits.skewness is None or isinstance(step, MeshParameters) or step.skewed_clip is None:
        return step
    return step.model_copy(update={"clip": step.skewed_clip})


def box_statistics(
    science: NDArray[Any], ignore: NDArray[np.bool_] | None, step: BackgroundStep | MeshParameters, *, level: int = 0
) -> BoxStatistics:
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
    keys = ("box_size", "clip", "skewed_clip", "estimator", "rms_estimator", "grow_boxes")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def array_box_statistics(
    image: Any, ignore: Any, step: BackgroundStep | MeshParameters, limits: Any = None
) -> list[Any]:
    """Box statistics of each level, of a numpy array, or of a dask array (lazily, from chunks cut at box corners).

    ``limits``: `tiledsky.operations.thresholds.Thresholds` of the mask that knows the noise, lazy for a dask array.
    """
    cells_of(image.shape, step)
    if not is_dask_array(image):
        step = of_noise(step, limits)
        return [box_statistics(image, ignore, step, level=k) for k in range(step.grow_boxes + 1)]
    import dask.array as da

    aligned = align(image, largest_box(step))
    blocks = [aligned] if ignore is None else [aligned, da.asarray(ignore).rechunk(aligned.chunks)]
    levels = []
    for level in range(step.grow_boxes + 1):
        size = level_box(step, level)
        chunks = tuple(tuple(-(-n // b) for n in c) for c, b in zip(aligned.chunks, size, strict=True))
        stacked = da.map_blocks(
            partial(_stacked, step=step, level=level),
            *blocks,
            limits=limits,
            dtype=float,
            meta=np.empty((0, 0, 0)),
            new_axis=0,
            chunks=((3,), *chunks),
        )
        background, rms, n_good = stacked
        levels.append(BoxStatistics(background.astype(image.dtype), rms.astype(image.dtype), n_good.astype(np.int64)))
    return levels


def _stacked(
    science: NDArray[Any],
    ignore: NDArray[np.bool_] | None = None,
    *,
    limits: Thresholds | None,
    step: BackgroundStep | MeshParameters,
    level: int,
) -> NDArray[Any]:
    step = of_noise(step, limits)
    return np.stack([np.asarray(a, float) for a in box_statistics(science, ignore, step, level=level)])


def box_levels(
    backgrounds: Sequence[NDArray[Any]], counts: Sequence[NDArray[Any]], step: BackgroundStep | MeshParameters
) -> NDArray[np.int8]:
    """Level that each box takes its statistics from (0: its own), -1 where there are too few good pixels at all levels.

    Of a window of a mesh that begins at a corner of the largest boxes.
    """
    by, bx = step.box_size
    inclusive = isinstance(step, MeshParameters) and step.inclusive
    bad = []
    for k, (background, counted) in enumerate(zip(backgrounds, counts, strict=True)):
        left_out = kernel.exclude(
            background,
            background,
            counted,
            box_npixels=(by * bx) << 2 * k,
            exclude_percentile=step.exclude_percentile,
            inclusive=inclusive,
        )[0]
        bad.append(np.isnan(left_out) | (counted < step.min_pixels))
    return grown_boxes(bad)


def no_boxes(step: BackgroundStep | MeshParameters, count: int) -> InputError:
    """Return the error of a mesh of ``count`` boxes of which none counts."""
    by, bx = step.box_size
    few = f" and of {step.min_pixels - 1}" if step.min_pixels > 1 else ""
    fewer = "fewer" if isinstance(step, MeshParameters) and step.inclusive else "no more"
    return InputError(
        f"background {step.name!r}: All boxes contain {fewer} than {100 - step.exclude_percentile:g}% of {by * bx}"
        f"{few} unmasked or finite pixels ({count} boxes of {by} x {bx} px), so there is no sky to measure; raise "
        "exclude_percentile, use larger boxes or mask less"
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
