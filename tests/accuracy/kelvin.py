"""The simulated fields of Kelvin, Hasan & Tyson 2023, MNRAS 520, 2484: galaxies and noise on no sky at all.

Counts rise by 10**(0.4 mag), so that each magnitude has the same light, also those that no search finds. Units are
electrons. Into such a field one large object can be put; the same field without it says what the object did to the sky.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.accuracy.profiles import add_sersic, convolved, moffat
from tests.accuracy.scene import LargeObject, Scene

SHAPE = (4100, 4200)
#: Arcseconds a pixel; magnitude of one count; electrons a count; noise of a pixel (the photons of a sky taken off).
PIXEL, ZERO, GAIN, NOISE = 0.168, 27.0, 557.93, 30.3
BRIGHTEST, FAINTEST = 15.0, 30.25  # the last bin of half a magnitude is that about 30
#: Sources on SHAPE: fields of low and high density.
NUMBER = {"low": 428257, "high": 636180}
SEEING, BETA = 0.72, 3.0
#: Large objects: magnitude, effective radius in arcseconds, index, axis ratio.
OBJECTS = {
    "disc": (15.5, 10.0, 1.0, 0.7),
    "n 4": (16.0, 5.0, 4.0, 0.8),
    "dwarf": (19.0, 6.0, 1.0, 0.8),
    "cluster light": (17.5, 25.0, 1.0, 0.75),
}


def electrons(magnitude: Any) -> Any:
    """Electrons of a source."""
    return GAIN * 10 ** (-0.4 * (np.asarray(magnitude) - ZERO))


def magnitudes(rng: Any, number: int) -> NDArray[np.float64]:
    """Draw magnitudes of the counts 10**(0.4 mag) from BRIGHTEST to FAINTEST."""
    bright, faint = 10 ** (0.4 * BRIGHTEST), 10 ** (0.4 * FAINTEST)
    return np.log10(bright + rng.random(number) * (faint - bright)) / 0.4


def catalogue(rng: Any, shape: tuple[int, int], density: str) -> NDArray[np.float64]:
    """Sources for `add_sersic`; the radius of their size is that of a circle of their area, as in the simulations."""
    number = rng.poisson(NUMBER[density] * shape[0] * shape[1] / (SHAPE[0] * SHAPE[1]))
    magnitude = magnitudes(rng, number)
    size = np.maximum(4.25 - 0.15 * magnitude, PIXEL) * rng.uniform(0.75, 1.25, number) / PIXEL
    axis_ratio = 1.0 - rng.uniform(0.2, 0.6, number)
    place = (rng.uniform(-0.5, n - 0.5, number) for n in shape)
    angle = rng.uniform(0.0, np.pi, number)
    return np.stack([*place, electrons(magnitude), size / np.sqrt(axis_ratio), axis_ratio, angle], axis=1)


@lru_cache(maxsize=8)
def sharpness(index: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sizes in pixels, and for each the root of the sum of squares of a source of flux 1 as it is seen."""
    sizes, psf = np.geomspace(0.7, 20.0, 12), moffat(SEEING / PIXEL, BETA, half=60)
    roots = []
    for size in sizes:
        image = np.zeros((241, 241))
        add_sersic(image, [120.0, 120.0, 1.0, size / np.sqrt(0.6), 0.6, 0.0], index)
        roots.append(np.sqrt(np.sum(convolved(image, psf) ** 2)))
    return sizes, np.array(roots)


def undetected(sources: NDArray[np.float64], index: float, area: int, threshold: float) -> float:
    """Mean light a pixel, in electrons, of sources below a signal to noise.

    It is that of the best filter, the source itself as it is seen: no search on this image alone does better. What
    detected sources have beyond their masks comes on top.
    """
    size = sources[:, 3] * np.sqrt(sources[:, 4])
    found = sources[:, 2] * np.interp(size, *sharpness(index)) > threshold * NOISE
    return float(sources[~found, 2].sum() / area)


def field(seed: int, density: str, index: float, size: int | None, inject: str = "") -> Scene:
    """Return a field, with one large object near its middle where its name is given."""
    shape = SHAPE if size is None else (size, size)
    rng = np.random.default_rng([320, seed, int(density == "high"), int(index)])
    light, psf = np.zeros(shape), moffat(SEEING / PIXEL, BETA, half=60)
    add_sersic(light, catalogue(rng, shape, density), index)
    light, noise, sky = convolved(light, psf), rng.normal(size=shape), np.zeros(shape)
    zero = float(ZERO + 2.5 * np.log10(GAIN * PIXEL**2))

    def image(seen: Any) -> Any:
        return (seen + noise * np.sqrt(NOISE**2 + seen)).astype(np.float32)

    if not inject:
        return Scene(image(light), sky, noise=NOISE, light=light, zero=zero)
    magnitude, radius, index, axis_ratio = OBJECTS[inject]
    y, x = (n / 2 + rng.uniform(-20.0, 20.0) for n in shape)
    made, angle = np.zeros(shape), rng.uniform(0.0, np.pi)
    add_sersic(made, [y, x, electrons(magnitude), radius / PIXEL, axis_ratio, angle], index, share=0.998)
    large = LargeObject(inject, y, x, radius / PIXEL, axis_ratio, angle, convolved(made, psf))
    scene = Scene(image(light + large.light), sky, noise=NOISE, light=light + large.light, objects=(large,), zero=zero)
    return Scene(**{**vars(scene), "without": image(light)})
