"""Scenes with known truth, planted faults, and what is expected of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from tiledsky import Recipe, estimate_background, simulate_scene

SIZE = 512
TILE = (192, 192)
BARE = {"name": "bare", "steps": [{"kind": "background", "name": "b", "box_size": 16, "mask": "none"}]}


def mesh(box: int, *, filter_size: int = 3) -> dict[str, Any]:
    """Return the step of a mesh of medians."""
    return {
        "kind": "background",
        "name": "b",
        "box_size": box,
        "filter_size": filter_size,
        "estimator": "median",
        "exclude_percentile": 90,
    }


@dataclass
class Case:
    """Arguments of `tiledsky.diagnostics.measure`, and the true sky."""

    image: np.ndarray[Any, Any]
    background: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    rms: np.ndarray[Any, Any]
    truth: np.ndarray[Any, Any]

    def changed(self, **planes: Any) -> Case:
        """Return the case with other planes."""
        return Case(**{**vars(self), **planes})


def solved(image: Any, truth: Any, recipe: Recipe | str, mask: Any = None) -> Case:
    """Run a recipe on arrays."""
    sky = estimate_background(image, recipe, mask=mask)
    return Case(image, sky.background, sky.mask, sky.background_rms, truth)


def scene(seed: int) -> Any:
    """Simulate the scene of the notebook at its density of sources and slope of the sky, in a smaller image."""
    return simulate_scene((SIZE, SIZE), seed=seed, n_sources=330, gradient=(0.5, 0.125))


def galaxies() -> np.ndarray[Any, Any]:
    """Nine exponential discs with scale lengths of 10 to 16 px."""
    y, x = np.mgrid[:SIZE, :SIZE]
    table = [(1.5, 60, 70, 14), (1.0, 90, 250, 12), (2.0, 100, 430, 10), (1.0, 220, 90, 16), (1.3, 260, 280, 12)]
    table += [(0.8, 240, 450, 14), (1.7, 400, 60, 10), (1.2, 420, 260, 15), (1.0, 390, 420, 12)]
    return sum(a * np.exp(-np.hypot(y - p, 1.3 * (x - q)) / h) for a, p, q, h in table)  # type: ignore[return-value]


def good(seed: int) -> Case:
    """Return what the recipe complex-sky makes of the scene."""
    simulated = scene(seed)
    return solved(simulated.image, simulated.sky, "complex-sky")


def planted(seed: int, base: Case) -> dict[str, tuple[Case, str]]:
    """Return faults by name, each with the check that is made for it; ``base`` is `good` of the seed."""
    simulated = scene(seed)
    sources = ndimage.binary_dilation(simulated.source_image > 0.03, iterations=2).astype(np.uint8)
    wide = Recipe.from_dict({"name": "wide", "steps": [mesh(50)]})
    search = {"kind": "mask", "name": "m", "tiers": [{"n_sigma": 2, "fwhm": 3, "n_pixels": 5, "grow": 3}]}
    fine = Recipe.from_dict(
        {"name": "fine", "steps": [{**mesh(5, filter_size=1), "name": "a"}, search, mesh(5, filter_size=1)]}
    )
    crowded = (simulated.image + galaxies()).astype(np.float32)
    return {
        "sources unmasked": (solved(simulated.image, simulated.sky, Recipe.from_dict(BARE)), "scale_excess"),
        "box too small over extended galaxies": (solved(crowded, simulated.sky, fine), "bright_bias"),
        "box too large for the blemishes": (solved(simulated.image, simulated.sky, wide, sources), "scale_excess"),
        **altered(base),
    }


def altered(base: Case) -> dict[str, tuple[Case, str]]:
    """Return those of the faults that are made to the planes of ``base``, without another estimate."""
    step, region = base.background.copy(), base.background.copy()
    step[:, TILE[1] : 2 * TILE[1]] += 0.05
    region[100:200, 250:400] += 0.03
    return {
        "a step at a tile edge": (base.changed(background=step), "seam"),
        "a constant offset in one region": (base.changed(background=region), "negative_significance"),
    }


def unbiased(seed: int, kind: str, size: int = 400) -> Case:
    """Return a scene whose background is the truth: its bias is zero, under every mask.

    ``kind`` of mask: "found" above the true sky, "known" of the sources' light; "smooth": as known, and the background
    has a smooth error that knows nothing of the masks.
    """
    simulated = simulate_scene((size, size), seed=1000 + seed, n_sources=round(1250 * size * size / 1e6))
    sky = simulated.sky.astype(np.float64)
    if kind == "found":
        smooth = ndimage.gaussian_filter(simulated.image - simulated.sky, 1.3)
        mask = ndimage.binary_dilation(smooth > 2 * 1.4826 * np.median(np.abs(smooth)), iterations=3)
    else:
        mask = ndimage.binary_dilation(simulated.source_image > 0.03, iterations=2)
    background = sky
    if kind == "smooth":
        error = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=sky.shape), 12)
        background = sky + 0.01 * error / error.std()
    return Case(simulated.image, background, mask, np.full(sky.shape, 0.1, np.float32), sky)
