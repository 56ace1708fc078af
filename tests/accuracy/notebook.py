"""The notebook's scene and harder variants of it; the noise of a pixel is 0.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from tests.accuracy.scene import Image, LargeObject, Scene
from tests.notebook_scene import gaussian_sources, notebook_scene


def _parts(seed: int, size: int = 1000) -> tuple[Image, Image, Image]:
    """Sky, noise and sources of the notebook's scene."""
    made = notebook_scene(seed, default_size=2 * size)
    sources = gaussian_sources(made.sky.shape, made.sources)
    return made.sky, made.scene - made.sky - sources, sources


def _scene(sky: Image, rest: Image, **others: Any) -> Scene:
    return Scene((sky + rest).astype(np.float32), sky, **others)


def notebook(seed: int) -> Scene:
    """Return the scene of the notebook, 1000 x 1000."""
    sky, noise, sources = _parts(seed)
    return _scene(sky, noise + sources)


def large(seed: int) -> Scene:
    """Return the scene of the notebook at its own size, 2000 x 2000."""
    sky, noise, sources = _parts(seed, 2000)
    return _scene(sky, noise + sources)


def flat(seed: int) -> Scene:
    """Noise and sources on no sky."""
    sky, noise, sources = _parts(seed)
    return _scene(0.0 * sky, noise + sources)


def _profiles(seed: int, number: int, profile: Callable[[Image, Any], Image]) -> Image:
    rng = np.random.default_rng(1000 + seed)
    image = np.zeros((1000, 1000))
    for _ in range(number):
        y, x = rng.uniform(0, 1000, 2)
        half = 150
        rows, columns = (slice(max(int(c) - half, 0), int(c) + half) for c in (y, x))
        dy, dx = np.ogrid[rows, columns][0] - y, np.ogrid[rows, columns][1] - x
        cut = image[rows, columns]
        cut += profile(np.hypot(dy[: cut.shape[0]], dx[:, : cut.shape[1]]), rng)
    return image


def _moffat(r: Image, rng: Any) -> Image:
    flux, alpha, beta = 20.0 * rng.pareto(1.2) ** 0.8 + 1.0, rng.uniform(1.5, 4.0), rng.uniform(2.5, 3.5)
    return min(flux, 2000.0) * (beta - 1) / (np.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -beta


def _sersic(r: Image, rng: Any) -> Image:
    radius, index = rng.uniform(2.0, 9.0), rng.uniform(0.8, 4.0)
    b = 2.0 * index - 1.0 / 3.0
    return rng.uniform(0.02, 0.4) * np.exp(-b * (((r + 0.3) / radius) ** (1 / index) - 1.0))


def wings(seed: int) -> Scene:
    """Moffat stars and Sersic galaxies, some bright, whose wings go on below the noise."""
    sky, noise, _ = _parts(seed)
    return _scene(sky, noise + _profiles(seed, 500, _moffat) + _profiles(seed + 500, 500, _sersic))


def correlated(seed: int) -> Scene:
    """Noise as drizzling makes it: smoothed by a Gaussian of 0.8 pixels, of the same deviation."""
    sky, noise, sources = _parts(seed)
    noise = ndimage.gaussian_filter(noise, 0.8, mode="wrap")
    return _scene(sky, sources + noise * (0.1 / noise.std()))


def depths(seed: int) -> Scene:
    """Exposures of four depths, whose noise differs by 4, with weights."""
    sky, noise, sources = _parts(seed)
    scale = np.ones(sky.shape)
    scale[300:, :450] = 2.0
    scale[:350, 600:] = 0.5
    scale[700:, 700:] = 1.5
    return _scene(sky, sources + noise * scale, planes={"weight": (100.0 / scale**2).astype(np.float32)})


def gaps(seed: int) -> Scene:
    """Gaps between detectors, a corner and bright stars cut out: NaN."""
    made = notebook(seed)
    image = made.image.copy()
    image[480:520] = np.nan
    image[:, 300:325] = np.nan
    image[:150, :120] = np.nan
    y, x = np.ogrid[:1000, :1000]
    for row, column in np.random.default_rng(seed).uniform(0, 1000, (12, 2)):
        image[np.hypot(y - row, x - column) < 30] = np.nan
    return Scene(image, made.sky)


def _with_galaxy(sky: Image, rest: Image) -> Scene:
    y, x = np.ogrid[:1000, :1000]
    r = np.hypot((y - 480.0) / 0.8, x - 530.0)
    light = 1.0 * np.exp(-1.678 * r / 100.0)
    return _scene(sky, rest + light, objects=(LargeObject("disc", 480.0, 530.0, 100.0, 0.8, 0.0, light),))


def galaxy(seed: int) -> Scene:
    """A disc of 200 pixels (two effective radii of an exponential profile) on the notebook's gradient."""
    _, noise, sources = _parts(seed)
    y, x = np.mgrid[:1000, :1000] / 1000.0
    return _with_galaxy(y + 0.25 * x, noise + sources)


def galaxy_on_blemishes(seed: int) -> Scene:
    """Return the same disc over the blemishes of the notebook, which are as bright and narrower."""
    sky, noise, sources = _parts(seed)
    return _with_galaxy(sky, noise + sources)


def nebula(seed: int) -> Scene:
    """Sky with structure from 30 to 300 pixels, as much of it on each scale."""
    _, noise, sources = _parts(seed)
    rng = np.random.default_rng(2000 + seed)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(1000), np.fft.fftfreq(1000)))
    power = np.where((k > 1 / 300) & (k < 1 / 30), 1.0 / np.maximum(k, 1e-9), 0.0)
    sky = np.fft.ifft2(np.fft.fft2(rng.normal(size=(1000, 1000))) * power).real
    return _scene(0.1 * sky / sky.std(), noise + sources)
