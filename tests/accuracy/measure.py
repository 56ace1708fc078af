"""What each tool leaves of the sky of a scene."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sep
from astropy.stats import sigma_clip
from photutils.background import Background2D, SExtractorBackground

from tests import reference_chain
from tests.accuracy.families import Image, Scene
from tiledsky import estimate_background
from tiledsky.errors import InputError

Estimate = tuple[Image, Image | None]


def _preset(name: str) -> Callable[[Scene], Estimate]:
    def estimate(scene: Scene) -> Estimate:
        sky = estimate_background(scene.image, name, **scene.planes)
        return sky.background, sky.background_error

    return estimate


def _sep(box: int) -> Callable[[Scene], Estimate]:
    def estimate(scene: Scene) -> Estimate:
        image = np.ascontiguousarray(scene.image, np.float32)
        return sep.Background(image, mask=~np.isfinite(image), bw=box, bh=box, fw=3, fh=3).back(), None

    return estimate


def _photutils(box: int) -> Callable[[Scene], Estimate]:
    def estimate(scene: Scene) -> Estimate:
        invalid = ~np.isfinite(scene.image)
        image = np.where(invalid, 0.0, scene.image)
        made = Background2D(
            image, box, mask=invalid, filter_size=3, exclude_percentile=90, bkg_estimator=SExtractorBackground()
        )
        return made.background, None

    return estimate


def _single_mean(scene: Scene) -> Estimate:
    """One value for the whole image: the mean of what the last mask of deep-sky leaves."""
    left = (estimate_background(scene.image, "deep-sky", **scene.planes).mask == 0) & np.isfinite(scene.image)
    return np.full(scene.image.shape, sigma_clip(scene.image[left], sigma=3).mean()), None


PRESETS = ("deep-sky", "extended-light", "complex-sky")
#: Tools that are for some scenes alone: extended light that is no sky; no sky at all.
EXTENDED, SINGLE = "extended-light", "single mean"
TOOLS: dict[str, Callable[[Scene], Estimate]] = {
    **{name: _preset(name) for name in PRESETS},
    **{f"photutils box {box}": _photutils(box) for box in (15, 30)},
    **{f"sep box {box}": _sep(box) for box in (15, 30)},
    SINGLE: _single_mean,
}
#: Both of one chain. Above this many pixels photutils' inverse distances take gigabytes.
CHAIN, CHAIN_PIXELS = ("photutils bkg3", "photutils bkg5"), 1_000_000


def estimates(scene: Scene, tools: tuple[str, ...]) -> Iterator[tuple[str, Estimate, float]]:
    """Name of each tool, its background and error, CPU seconds."""
    for name in tools:
        apt = {EXTENDED: scene.galaxy is not None, SINGLE: not scene.sky.any()}.get(name, True)
        if name in TOOLS and apt:
            start = time.process_time()
            try:
                found = TOOLS[name](scene)
            except InputError as error:  # a preset for smooth skies takes all of this one for objects
                print(f"{name}: {error}")
                continue
            yield name, found, time.process_time() - start
    if any(name in CHAIN for name in tools) and scene.image.size <= CHAIN_PIXELS:
        invalid = ~np.isfinite(scene.image)
        start = time.process_time()
        chain = reference_chain.run_chain(np.where(invalid, 0.0, scene.image), invalid)
        taken = time.process_time() - start
        yield CHAIN[0], (chain.bkg3, None), taken
        yield CHAIN[1], (chain.bkg5, None), taken


def figures(scene: Scene, found: Estimate) -> dict[str, Any]:
    """Deviation and mean of the error of a background; pull of its own error; share of the galaxy's flux that is kept.

    Where the image has no data nothing is compared.
    """
    good = np.isfinite(scene.image)
    error = (found[0] - scene.sky)[good]
    made: dict[str, Any] = {"std": float(error.std()), "mean": float(error.mean())}
    made["rms"] = float(np.hypot(error.std(), error.mean()))
    if found[1] is not None:
        pull = error / found[1][good]
        made |= {"pull": float(np.sqrt(np.mean(pull**2))), "pull_std": float(pull.std())}
    if scene.galaxy is not None and scene.aperture is not None:
        lost = np.sum((found[0] - scene.sky)[scene.aperture]) / np.sum(scene.galaxy[scene.aperture])
        made["flux_kept"] = float(1.0 - lost)
    return made
