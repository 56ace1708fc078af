"""What each tool leaves of the sky of a scene."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import sep
from astropy.stats import sigma_clip
from photutils.background import Background2D, SExtractorBackground

from tests import reference_chain
from tests.accuracy.peers import PEERS, Failed
from tests.accuracy.scene import Image, LargeObject, Scene
from tests.objects_scene import with_objects
from tiledsky import Recipe, estimate_background
from tiledsky.errors import InputError


class Estimate(NamedTuple):
    """A sky, and what the tool says of it."""

    background: Image
    error: Image | None = None
    mask: Image | None = None


def _recipe(recipe: str | Recipe, scene: Scene) -> Estimate:
    sky = estimate_background(scene.image, recipe, **scene.planes)
    return Estimate(sky.background, sky.background_error, sky.mask)


def _sep(box: int, scene: Scene) -> Estimate:
    image = np.ascontiguousarray(scene.image, np.float32)
    return Estimate(sep.Background(image, mask=~np.isfinite(image), bw=box, bh=box, fw=3, fh=3).back())


def _photutils(box: int, scene: Scene) -> Estimate:
    invalid = ~np.isfinite(scene.image)
    image = np.where(invalid, 0.0, scene.image)
    made = Background2D(
        image, box, mask=invalid, filter_size=3, exclude_percentile=90, bkg_estimator=SExtractorBackground()
    )
    return Estimate(made.background)


def _peer(name: str, scene: Scene) -> Estimate:
    return Estimate(PEERS[name](scene))


def _single_mean(scene: Scene) -> Estimate:
    """One value for the whole image: the mean of what the last mask of deep-sky leaves."""
    left = (estimate_background(scene.image, "deep-sky", **scene.planes).mask == 0) & np.isfinite(scene.image)
    return Estimate(np.full(scene.image.shape, sigma_clip(scene.image[left], sigma=3).mean()))


PRESETS = ("deep-sky", "extended-light", "complex-sky")
#: All light that is not in a mask is sky.
KEEP_NOTHING = "deep-sky keep 0"
#: Tools that are for some of the notebook's scenes alone: extended light that is no sky; no sky at all.
EXTENDED, SINGLE = "extended-light", "single mean"
PLAIN = tuple(f"{name} box {box}" for name in ("photutils", "sep") for box in (15, 30))
TOOLS: dict[str, Callable[[Scene], Estimate]] = {
    "deep-sky": partial(_recipe, "deep-sky"),
    KEEP_NOTHING: partial(_recipe, with_objects(0.0)),
    **{name: partial(_recipe, name) for name in PRESETS[1:]},
    **{f"photutils box {box}": partial(_photutils, box) for box in (15, 30)},
    **{f"sep box {box}": partial(_sep, box) for box in (15, 30)},
    SINGLE: _single_mean,
    **{name: partial(_peer, name) for name in PEERS},
}
#: Both of one chain. Above this many pixels photutils' inverse distances take gigabytes.
CHAIN, CHAIN_PIXELS = ("photutils bkg3", "photutils bkg5"), 1_000_000
#: What a group of families is measured with.
USUAL = {
    "notebooks": (*PRESETS, KEEP_NOTHING, *PLAIN, SINGLE, *CHAIN),
    "survey": (*PRESETS, KEEP_NOTHING, *PEERS),
    "kelvin": (*PRESETS, KEEP_NOTHING, *PEERS),
    "real": (*PRESETS, KEEP_NOTHING, *PEERS),
}


def _cpu() -> float:
    """Seconds of this process and of the programs that it ran."""
    return sum(os.times()[:4])


def estimates(
    scene: Scene, tools: tuple[str, ...], group: str
) -> Iterator[tuple[str, Estimate, Estimate | None, float]]:
    """Name of each tool, its sky, that which it finds without the large objects where their absence is known, CPU s."""
    narrow = {EXTENDED: bool(scene.objects), SINGLE: not scene.sky.any()} if group == "notebooks" else {}
    for name in tools:
        if name in TOOLS and narrow.get(name, True):
            start, without = _cpu(), None
            try:
                found = TOOLS[name](scene)
                taken = _cpu() - start
                if scene.without is not None:
                    without = TOOLS[name](replace(scene, image=scene.without, objects=()))
            except (InputError, Failed) as error:  # a preset for smooth skies takes all of this one for objects
                print(f"{name}: {error}", flush=True)
                continue
            yield name, found, without, taken
    if any(name in CHAIN for name in tools) and scene.image.size <= CHAIN_PIXELS:
        invalid = ~np.isfinite(scene.image)
        start = _cpu()
        chain = reference_chain.run_chain(np.where(invalid, 0.0, scene.image), invalid)
        taken = _cpu() - start
        yield CHAIN[0], Estimate(chain.bkg3), None, taken
        yield CHAIN[1], Estimate(chain.bkg5), None, taken


#: Share of the light whose loss is 0.1 mag.
TENTH = 1.0 - 10**-0.04
#: Widths of the ellipses in which it is looked for, and how far out, in half-light radii.
STEP, FARTHEST = 0.25, 8.0


def object_figures(large: LargeObject, loss: Image, noise: float, zero: float | None = None) -> dict[str, Any]:
    """What of an object's light went into the sky.

    Shares kept within two and four half-light radii; sky too high by, in the noise of a pixel, between 1 and 2, 2 and
    3, 3 and 4 radii; the light, in the same unit, of the innermost ellipse that loses 0.1 mag, and its brightness.
    """
    radius = large.radii()
    made: dict[str, Any] = {"name": large.name}
    for most in (2, 4):
        inside = radius < most
        made[f"kept_{most}"] = float(1.0 - loss[inside].sum() / large.light[inside].sum())
    ring = [(radius >= k) & (radius < k + 1) for k in (1, 2, 3)]
    made["over"] = [float(loss[r].mean() / noise) if r.any() else None for r in ring]
    place = np.minimum(radius / STEP, FARTHEST / STEP).astype(int).ravel()
    lost, light = (np.bincount(place, part.ravel(), minlength=place.max() + 1)[:-1] for part in (loss, large.light))
    bad = np.flatnonzero(lost > TENTH * light)
    if bad.size:
        at = float(light[bad[0]] / np.count_nonzero(place == bad[0]))
        made["tenth_lost"] = at / noise
        if zero is not None:
            made["tenth_lost_mag"] = float(zero - 2.5 * np.log10(at))
    return made


def figures(scene: Scene, found: Estimate, without: Estimate | None = None) -> dict[str, Any]:
    """Deviation and mean of the error of a background; pull of its own error; what it took of large objects.

    Where the image has no data nothing is compared. `without` is the sky that the tool found in the scene without the
    objects: then the difference of the two is what the objects did to it, free of all other errors. Where the true sky
    is not known, this difference is all that there is.
    """
    good = np.isfinite(scene.image)
    truth = scene.sky if scene.sky is not None else without.background
    error = (found.background - truth)[good]
    made: dict[str, Any] = {"noise": scene.noise, "std": float(error.std()), "mean": float(error.mean())}
    made["rms"] = float(np.hypot(error.std(), error.mean()))
    if found.error is not None and (known := np.isfinite(found.error[good])).any():
        pull = error[known] / found.error[good][known]
        made |= {"pull": float(np.sqrt(np.mean(pull**2))), "pull_std": float(pull.std())}
    if found.mask is not None and scene.light is not None and (free := good & (found.mask == 0)).any():
        made |= {"masked": float(1.0 - free.mean()), "light_left": float(scene.light[free].mean())}
    if scene.objects:
        loss = found.background - (truth if without is None else without.background)
        made["objects"] = [object_figures(o, loss, scene.noise, scene.zero) for o in scene.objects]
        for key in ("kept_2", "kept_4"):
            made[key] = float(np.mean([o[key] for o in made["objects"]]))
    return made
