"""Recipes and box sizes tried on samples of an image: which of them to run on all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from tiledsky.arrays.estimate import Sky, estimated
from tiledsky.diagnostics import measure
from tiledsky.diagnostics.advice import DEFINITION, Trial, advice, box_advice, box_range, rank
from tiledsky.engine.inputs import open_input, warn_of_constants
from tiledsky.errors import InputError, ParameterError, TiledSkyError
from tiledsky.geometry import Region, places
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.options import InputOptions
from tiledsky.io.source import Source
from tiledsky.nodata import without
from tiledsky.planes import INVALID, SOURCES, base_mask
from tiledsky.recipe import Recipe
from tiledsky.recipe.dq import dq_bits
from tiledsky.scratch import drop, scratch_folder
from tiledsky.workflows.advice import BOXES, RECIPES, SMALLEST

#: Pixels around a sample that recipes see and measures do not: at the border of an image a sky is worse.
MARGIN = 64
#: Share of a sample that has to be valid.
_VALID = 0.5
#: Places looked at for each sample that is wanted.
_LOOKS = 32

Planes = dict[str, NDArray[Any]]
Progress = Callable[[str, int, int], None]


@dataclass
class _Sample:
    """Pixels of a sample and its margin.

    Attributes
    ----------
    region, cut : Region
        The sample; what was read.
    planes : dict of str to ndarray
        By name; the image is NaN where it has no data.
    masks : dict of str to ndarray of uint8
        What each recipe masked.
    mask, rms : ndarray, optional
        Mask and noise that all are measured with.
    """

    region: Region
    cut: Region
    planes: Planes
    masks: dict[str, NDArray[np.uint8]]
    mask: Any = None
    rms: Any = None

    def trial(self, sky: Sky) -> Trial:
        """Measure a background."""
        inner = self.region.within(self.cut)
        found = measure(self.planes["science"][inner], sky.background[inner], self.mask[inner], rms=self.rms[inner])
        valid = self.mask[inner] & INVALID == 0
        squares = np.asarray(sky.background_error[inner], np.float64)[valid] ** 2
        return Trial(found, float(np.sqrt(squares.mean())))


def advise(
    science: str | os.PathLike[str],
    *,
    recipes: Sequence[str] | None = None,
    samples: int = 6,
    sample_size: int = 512,
    boxes: Sequence[int] = BOXES,
    progress: Progress | None = None,
    **inputs: Unpack[InputOptions],
) -> dict[str, Any]:
    """Try recipes on samples of an image, rank them, and try other boxes with the best.

    Parameters
    ----------
    science : path
        FITS or Zarr, see `tiledsky.io.source.open_source`.
    recipes : sequence of str, optional
        Presets or TOML files. Default: `RECIPES`, of which those that cannot work with the input are left out.
    samples, sample_size : int
        How many cutouts, and their side in pixels, at least 256; smaller images are taken whole. They are
        spread evenly, by place alone, over what is valid by at least half; there may be fewer.
    boxes : sequence of int
        Boxes [px] of the last background step that are tried, beside its own; none above a quarter of a sample.
    progress : callable, optional
        ``f(what, done, total)``.
    **inputs
        See `tiledsky.io.source.InputOptions`.

    Returns
    -------
    dict
        Plain data: definition, unit, samples (y0, y1, x0, x1), recipes (rows of `tiledsky.diagnostics.advice.rank`),
        left_out (reasons by name), boxes (step, rows, range), advice (two lines).

    Raises
    ------
    InputError, ParameterError
        No sample that is valid; a recipe that does not exist or cannot work.

    Notes
    -----
    All backgrounds of a sample are measured with one mask, of what at least half of the recipes that mask anything have
    masked, and one noise, the median of theirs: otherwise different pixels would be compared.
    Memory: all samples with their margins of 64 px, and a byte a pixel for each recipe; never the image.
    """
    names = list(dict.fromkeys(RECIPES if recipes is None else recipes))
    if not names or samples < 1 or sample_size < SMALLEST or min(boxes, default=0) < 1:
        raise ParameterError(
            f"{len(names)} recipes, boxes {list(boxes)}, {samples} samples of {sample_size} px: advise needs "
            f"at least one of each, and samples of at least {SMALLEST} px"
        )
    loaded = {name: Recipe.load(name).expanded() for name in names}
    scratch = scratch_folder()
    try:
        source = open_input(science, scratch=scratch, **inputs)
        header = parse_header(source.header)
        bits = dq_bits(next(iter(loaded.values())).dq_flags, header=header) if "dq" in source.planes else None
        warn_of_constants(source, bits)
        chosen = _samples(source, samples, sample_size, bits)
    finally:
        drop(scratch)
    said = progress or (lambda what, done, total: None)
    trials: dict[str, list[Trial]] = {name: [] for name in names}
    left_out: dict[str, str] = {}
    for k, sample in enumerate(chosen):
        skies = {}
        for name in names:
            if name not in left_out:
                try:
                    skies[name] = _estimated(loaded[name], sample.planes, header)
                except TiledSkyError as error:
                    if recipes is not None or len(left_out) == len(names) - 1:
                        raise type(error)(f"recipe {name}: {error}") from None
                    left_out[name] = str(error)
        _compared(sample, skies)
        for name, sky in skies.items():
            trials[name].append(sample.trial(sky))
        said("recipes", k + 1, len(chosen))
    rows = rank({name: found for name, found in trials.items() if name not in left_out})
    best = rows[0]["name"]
    others = _boxes(loaded[best], best, boxes, chosen, header, said)
    step = loaded[best].result.name
    within = box_range(others)
    return {
        "definition": DEFINITION,
        "unit": "noise of a pixel",
        "samples": [list(sample.region) for sample in chosen],
        "recipes": rows,
        "left_out": left_out,
        "boxes": {"recipe": best, "step": step, "rows": others, **within},
        "advice": [advice(rows), box_advice(within, step)],
    }


def _estimated(recipe: Recipe, planes: Planes, header: Any) -> Sky:
    others = {name: plane for name, plane in planes.items() if name != "science"}
    return estimated(planes["science"], recipe, others, header=header)[0]


def _compared(sample: _Sample, skies: dict[str, Sky]) -> None:
    """Keep the masks of all recipes, and what all are measured with."""
    sample.masks = {name: sky.mask for name, sky in skies.items()}
    masks = list(sample.masks.values())
    tiers = [mask & SOURCES != 0 for mask in masks]
    tiers = [tier for tier in tiers if tier.any()]
    both = np.bitwise_or.reduce(masks) & ~SOURCES  # invalid by the flags of any recipe; the user's mask
    found = np.mean(tiers, axis=0) >= 0.5 if tiers else np.zeros(both.shape, bool)
    sample.mask = both | found.astype(np.uint8) << 1
    sample.rms = np.median([sky.background_rms for sky in skies.values()], axis=0)


def _boxes(
    recipe: Recipe, name: str, boxes: Sequence[int], chosen: list[_Sample], header: Any, said: Progress
) -> list[dict[str, Any]]:
    """Rank boxes of the last background step of a recipe; masks stay what they are."""
    most = min(min(sample.region.shape) for sample in chosen) // 4
    own = max(recipe.result.box_size)
    sizes = sorted({own, *(box for box in boxes if box <= most)})
    trials: dict[str, list[Trial]] = {str(size): [] for size in sizes}
    for k, sample in enumerate(chosen):
        for size in sizes:
            changed, planes = _with_box(recipe, size), dict(sample.planes)
            if len(changed.steps) == 1:
                planes["source_mask"] = sample.masks[name]
            sky = _estimated(changed, planes, header)
            trials[str(size)].append(sample.trial(sky))
        said("boxes", k + 1, len(chosen))
    return rank(trials)


def _with_box(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe with another last box; that step alone where its mask is all that it needs of the others."""
    last = recipe.result.model_copy(update={"box_size": (size, size)})
    if last.ceiling is None:
        return recipe.model_copy(update={"steps": (last.model_copy(update={"mask": None}),)})
    return recipe.model_copy(update={"steps": tuple(last if s is recipe.result else s for s in recipe.steps)})


def _samples(source: Source, count: int, size: int, bits: int | None) -> list[_Sample]:
    """Read samples of an image."""
    opened = {name: plane.open() for name, plane in source.planes.items()}
    shape = source.shape
    sizes = min(size, shape[0]), min(size, shape[1])
    found: list[_Sample] = []
    looked = 0
    for region in islice(places(shape, sizes), _LOOKS * count):
        looked += 1
        cut = region.grown((MARGIN, MARGIN), shape)
        planes = {name: plane.read(cut) for name, plane in opened.items()}
        planes["science"] = without(planes["science"], source.planes["science"].nodata)
        names = ("weight", "error", "dq", "coverage")
        known: Any = {name: planes[name][region.within(cut)] for name in names if name in planes}
        invalid = base_mask(planes["science"][region.within(cut)], dq_bits=bits, **known)
        if np.mean(invalid & INVALID == 0) >= _VALID:
            found.append(_Sample(region, cut, planes, {}))
        if len(found) == count:
            break
    if not found:
        raise InputError(
            f"none of {looked} places of {sizes[0]} x {sizes[1]} px has half of its pixels valid, so there is "
            "no sample for the recipes; use a smaller --sample-size, or check weight and DQ planes"
        )
    return found
