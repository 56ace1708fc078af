"""A scene with a large galaxy, and deep-sky with and without the step that keeps its light out of the sky."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from tiledsky import Recipe


class Scene(NamedTuple):
    """Image of unit noise, and what it is made of."""

    image: NDArray[np.float32]
    sky: NDArray[np.float64]
    light: NDArray[np.float64]


def sersic(radius: NDArray[Any], *, half: float, n: float, total: float) -> NDArray[np.float64]:
    """Sersic profile: ``half`` of the total light lies within this radius."""
    b = float(gammaincinv(2 * n, 0.5))
    shape = np.exp(-b * (radius / half) ** (1 / n))
    return np.asarray(total * shape / shape.sum())


def galaxy_scene(size: int = 480, *, seed: int = 1, n: float = 1.0, half: float = 35.0, total: float = 4e4) -> Scene:
    """A galaxy, away from the middle, on a sky that bends; the noise is 1."""
    y, x = np.mgrid[:size, :size]
    sky = 10.0 + 0.5 * np.sin(x / 400.0) + 0.3 * y / size
    # the core, which no box shows, is spread over the pixels of a seeing disc
    radius = np.hypot(np.hypot(y - 0.45 * size, x - 0.55 * size), 1.5)
    light = sersic(radius, half=half, n=n, total=total) if total else np.zeros(sky.shape)
    noise = np.random.default_rng(seed).normal(0.0, 1.0, sky.shape)
    return Scene((sky + light + noise).astype(np.float32), sky, light)


def with_objects(keep: float | str | None = None, **changes: Any) -> Recipe:
    """deep-sky, whose objects step keeps what it is told; ``changes`` of the recipe."""
    recipe = Recipe.load("deep-sky") if keep is None else Recipe.load("deep-sky").keeping(keep)
    return Recipe.from_dict({**recipe.model_dump(exclude_none=True), **changes})


def without_objects(*, widest: float = 0.0) -> Recipe:
    """deep-sky without its objects step; ``widest`` fits in pixels."""
    data = with_objects(0.0).expanded().model_dump(exclude_none=True)
    for step in data["steps"]:
        if step["kind"] == "background" and step["name"] in ("wide", "sky"):
            step["interpolator"] = {**step["interpolator"], "bandwidth_max": widest}
    return Recipe.from_dict(data)
