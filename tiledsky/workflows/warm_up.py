"""Kernels compiled ahead of the first image, for containers, nodes of clusters and installations of many users."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tiledsky.arrays.estimate import estimate_background
from tiledsky.engine.runner import run
from tiledsky.io.fits.image import Plane, write_fits
from tiledsky.recipe import Recipe
from tiledsky.scratch import drop, scratch_folder
from tiledsky.simulate import simulate_scene
from tiledsky.workflows.estimate_file import estimate

#: Side of the scene in pixels: a few boxes, samples and patches of the measures in each direction.
_SIDE = 610
#: Side of the noise that single steps work on.
_ALONE = 300
#: Rows and columns without data: whole boxes of it, too.
_HOLE = slice(200, 400)


def warm_up(recipes: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> None:
    """Compile the kernels of recipes by a run and an estimate of a small scene, of float32 as most images are.

    Parameters
    ----------
    recipes : sequence of str
        Presets or TOML files.
    progress : callable, optional
        Called with the recipes done and all.

    Raises
    ------
    ParameterError
        A recipe that is none.
    InputError
        One that needs more than an image: a plane of errors or weights.
    """
    chosen = [Recipe.load(name) for name in recipes]
    folder = scratch_folder()
    try:
        scene = folder / "scene.fits"
        image = simulate_scene((_SIDE, _SIDE), seed=1).image
        image[_HOLE, _HOLE] = np.nan
        rows = lambda y0, y1: image[y0:y1]  # noqa: E731
        write_fits(scene, [Plane("SCI", image.shape, image.dtype, rows)], single=True)
        for k, recipe in enumerate(chosen):
            run(scene, recipe, folder / f"{k}.zarr")
            estimate(scene, folder / f"{k}.fits", recipe)
            if progress is not None:
                progress(k + 1, len(chosen))
    finally:
        drop(folder)


def backwards(recipe: str) -> None:
    """Compile the kernels of the background steps of a recipe, the last first.

    For a process beside one that begins with the first step: each finds what the other has compiled, and one process
    compiles one kernel at a time. Masks and objects are left to the other process. Each step works on noise.

    Raises
    ------
    ParameterError
        A recipe that is none.
    """
    image = np.random.default_rng(1).normal(10.0, 1.0, (_ALONE, _ALONE)).astype(np.float32)
    image[_ALONE // 3 : _ALONE // 2, _ALONE // 3 : _ALONE // 2] = np.nan
    for alone in reversed(Recipe.load(recipe).backgrounds_alone()):
        estimate_background(image, alone)
