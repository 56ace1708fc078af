"""Recipes and box sizes tried on samples of an image: which of them to run on all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from tiledsky.diagnostics.advice import DEFINITION, Trial, advice, box_advice, box_range, preferred, rank
from tiledsky.engine.inputs import open_input, warn_of_constants
from tiledsky.errors import ParameterError, TiledSkyError
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.fits.wcs import for_image
from tiledsky.io.options import InputOptions
from tiledsky.recipe import Recipe
from tiledsky.recipe.dq import dq_bits
from tiledsky.scratch import drop, scratch_folder
from tiledsky.workflows.advice import ALWAYS, BOXES, LARGEST, RECIPES, SAMPLE, SMALLEST
from tiledsky.workflows.samples import Found, Sample, of_whole_image, samples_of, through_all

Progress = Callable[[str, int, int], None]
#: A sample has so many half-light radii of what is to be kept.
_WIDTHS = 8
#: Of these two the first follows everything, the second nothing.
_FINE, _STIFF = "complex-sky", "plane"


@dataclass
class _Tried:
    """What was tried: recipes by name, those left out with the reason, and what became of each sample.

    ``trials`` of a recipe are in the order of the samples; ``later`` are what those of a polynomial of the whole image
    are made of, which needs all samples.
    """

    recipes: dict[str, Recipe]
    header: Any
    keep: float | None
    left_out: dict[str, str]
    trials: dict[str, list[Trial]]
    later: dict[str, list[tuple[Found, Any, bool, Any]]]

    def skies(self, sample: Sample, *, added: Any = None, masked: Any = None) -> dict[str, Any]:
        """Skies of all recipes that work; those that do not are left out from now on."""
        skies = {}
        for name, recipe in self.recipes.items():
            if name in self.left_out:
                continue
            try:
                skies[name] = sample.sky(recipe, self.header, added=added, masked=masked)
            except TiledSkyError as error:
                self.left_out[name] = str(error)
                if len(self.left_out) == len(self.recipes):
                    raise type(error)(f"recipe {name}: {error}") from None
        return skies


def advise(
    science: str | os.PathLike[str],
    *,
    recipes: Sequence[str] | None = None,
    keep: float | str | None = None,
    samples: int = 4,
    sample_size: int | None = None,
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
        Presets or TOML files that are tried beside those of `ALWAYS`. Default: `RECIPES`.
    keep : float or str, optional
        Largest half-light radius of objects that are to be kept out of the sky, px or "30 arcsec": recipes with an
        objects step get it, and profiles of this size are added to each sample. 0: all light is sky. Default: objects
        that are found, of any size.
    samples : int
        How many cutouts. They are spread evenly, by place alone, over what is valid by at least half; there may be
        fewer.
    sample_size : int, optional
        Their side in pixels, at least 256; smaller images are taken whole. Default: 1024, or 8 times ``keep``.
    boxes : sequence of int
        Boxes [px] of the last background step that are tried, beside its own; none above a quarter of a sample.
    progress : callable, optional
        ``f(what, done, total)``.
    **inputs
        See `tiledsky.io.source.InputOptions`.

    Returns
    -------
    dict
        Plain data: definition, unit, samples (y0, y1, x0, x1), objects (half-light radii, px, of those found in the
        samples), filled (samples that are mostly object), keep (px), recipes (rows of
        `tiledsky.diagnostics.advice.rank`), left_out (reasons by name), boxes (step, rows, range; None for a polynomial
        of the whole image), advice (lines).

    Raises
    ------
    InputError, ParameterError
        No sample that is valid; a recipe that does not exist; no recipe that can work.

    Notes
    -----
    All backgrounds of a sample are measured with one mask, of what at least half of the recipes that mask anything have
    masked and of objects that any has found, and one noise, the median of theirs: otherwise different pixels would be
    compared. Memory: about 150 bytes a pixel of a sample with its margin of 64 px, and the pixels of all samples; never
    the image.
    """
    names = list(dict.fromkeys([*ALWAYS, *(RECIPES if recipes is None else recipes)]))
    if samples < 1 or (sample_size or SMALLEST) < SMALLEST or min(boxes, default=0) < 1:
        raise ParameterError(
            f"boxes {list(boxes)}, {samples} samples of {sample_size} px: advise needs at least one of each, and "
            f"samples of at least {SMALLEST} px"
        )
    loaded = {name: _with_keep(Recipe.load(name), keep) for name in names}
    said = progress or (lambda what, done, total: None)
    scratch = scratch_folder()
    try:
        source = open_input(science, scratch=scratch, **inputs)
        header = parse_header(source.header)
        loaded = {name: for_image(recipe, header) for name, recipe in loaded.items()}
        bits = dq_bits(loaded[ALWAYS[0]].dq_flags, header=header) if "dq" in source.planes else None
        warn_of_constants(source, bits)
        size = _size_kept(loaded.values(), keep)
        side = sample_size or min(max(SAMPLE, int(_WIDTHS * (size or 0))), LARGEST)
        tried = _Tried(loaded, header, size, {}, {name: [] for name in names}, {})
        chosen = list(samples_of(source, samples, side, bits))
    finally:
        drop(scratch)
    for k, sample in enumerate(chosen):
        _try(tried, sample)
        said("recipes", k + 1, len(chosen))
    _try_later(tried, chosen)
    rows = preferred(rank({name: found for name, found in tried.trials.items() if name not in tried.left_out}))
    best = rows[0]["name"]
    filled = sum(sample.filled for sample in chosen)
    box_rows = None if of_whole_image(loaded[best]) else _boxes(loaded[best], boxes, chosen, header, said)
    found: dict[str, Any] = {
        "definition": DEFINITION,
        "unit": "noise of a pixel",
        "samples": [list(sample.region) for sample in chosen],
        "objects": sorted(round(size, 1) for sample in chosen for size in sample.sizes),
        "filled": filled,
        "keep": size,
        "recipes": rows,
        "left_out": tried.left_out,
        "boxes": None,
        "advice": [advice(rows, filled=filled, samples=len(chosen))],
    }
    if box_rows is not None:
        step, within = loaded[best].result.name, box_range(box_rows)
        found["boxes"] = {"recipe": best, "step": step, "rows": box_rows, **within}
        found["advice"].append(box_advice(within, step))
    return found


def _with_keep(recipe: Recipe, keep: float | str | None) -> Recipe:
    """Return a recipe that keeps objects up to a size, if it has a step for them, and tells their light."""
    if recipe.objects is None:
        return recipe
    kept = recipe if keep is None else recipe.keeping(keep)
    return kept.model_copy(update={"objects_plane": True})


def _size_kept(recipes: Iterable[Recipe], keep: float | str | None) -> float | None:
    """Size that is to be kept, px, as the objects steps of recipes on the image have it; None: none is named."""
    if keep is None or isinstance(keep, int | float):
        return None if keep is None else float(keep)
    steps = (recipe.objects for recipe in recipes)
    sizes = [float(step.keep) for step in steps if step is not None and step.keep is not None]
    return sizes[0] if sizes else 0.0


def _try(tried: _Tried, sample: Sample) -> None:
    """Try all recipes on a sample."""
    skies = tried.skies(sample)
    sample.compared(skies)
    without = skies if sample.light is None else tried.skies(sample, added=-sample.light, masked=sample.covered)
    counts = sample.light is not None or bool(tried.keep)
    probe = sample.probe(tried.keep) if tried.keep or (sample.light is None and tried.keep is None) else None
    probed = skies if probe is None else tried.skies(sample, added=probe)
    light = (0 if sample.light is None else sample.light) + (0 if probe is None else probe)
    light = np.broadcast_to(np.asarray(light, np.float64), sample.cut.shape)
    inner = sample.region.within(sample.cut)
    stiff = without[_STIFF].background if _STIFF in without else None
    if stiff is not None and _FINE in without and tried.keep != 0:
        sample.look(without[_FINE].background, stiff)
    for name, sky in skies.items():
        if name in tried.left_out:
            continue
        found = Found(sky, without[name].background, probed[name].background)
        background, lower = sky.background[inner], None if stiff is None else stiff[inner]
        if of_whole_image(tried.recipes[name]):
            sample.whole[name] = background
            tried.later.setdefault(name, []).append((found, light, counts, lower))
        else:
            tried.trials[name].append(sample.trial(found, background, light, counts=counts, stiff=lower))


def _try_later(tried: _Tried, chosen: Sequence[Sample]) -> None:
    """Measure recipes with one polynomial for the whole image: that which lies nearest to those of all samples."""
    for name, waiting in tried.later.items():
        if name in tried.left_out:
            continue
        backgrounds = [sample.whole[name] for sample in chosen]
        if len(chosen) > 1:
            backgrounds = through_all(tried.recipes[name], backgrounds, [sample.region for sample in chosen])
        for sample, background, (found, light, counts, lower) in zip(chosen, backgrounds, waiting, strict=True):
            tried.trials[name].append(sample.trial(found, background, light, counts=counts, stiff=lower))


def _boxes(
    recipe: Recipe, boxes: Sequence[int], chosen: Sequence[Sample], header: Any, said: Progress
) -> list[dict[str, Any]]:
    """Rank boxes of the last background step of a recipe."""
    most = min(min(sample.region.shape) for sample in chosen) // 4
    own = max(recipe.result.box_size)
    sizes = sorted({own, *(box for box in boxes if box <= most)})
    trials: dict[str, list[Trial]] = {str(size): [] for size in sizes}
    for k, sample in enumerate(chosen):
        inner = sample.region.within(sample.cut)
        for size in sizes:
            sky = sample.sky(with_box(recipe, size), header)
            found = Found(sky, sky.background, sky.background)
            none = np.zeros(sample.cut.shape)
            trials[str(size)].append(sample.trial(found, sky.background[inner], none, counts=False, stiff=None))
        said("boxes", k + 1, len(chosen))
    return rank(trials)


def with_box(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe with another last box."""
    last = recipe.result.model_copy(update={"box_size": (size, size)})
    return recipe.model_copy(update={"steps": tuple(last if s is recipe.result else s for s in recipe.steps)})
