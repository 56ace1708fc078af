"""Skies of surveys and of low surface brightness, in units of the noise of a pixel of blank sky.

The sky is smooth, but where a scene is about its structure. On it lies a field of faint galaxies and stars whose
counts go on below what any search finds, and in some scenes one large thing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.polynomial import legendre

from tests.accuracy.profiles import add_points, add_sersic, convolved, moffat, sersic_light
from tests.accuracy.scene import Image, LargeObject, Scene

#: Level of the sky; light of so many units adds the photon noise that the sky has.
LEVEL = 100.0
#: Counts of galaxies: N(> flux) ~ flux**-COUNTS, that is log N ~ 0.35 mag (Metcalfe et al. 2001, MNRAS 323, 795),
#: with DENSITY galaxies above BRIGHT units a million pixels, down to FAINT: a fifth of what a search finds.
COUNTS, DENSITY, BRIGHT, FAINT, MOST = 0.875, 150.0, 30.0, 6.0, 2e4
#: Counts of field stars, N(> flux) ~ flux**-STARS.
STARS = 0.6


def smooth_sky(rng: Any, shape: tuple[int, int], *, slope: float = 1.2, curve: float = 0.8) -> Image:
    """Return LEVEL, a plane and Legendre polynomials of degree 2 to 5, so far from lowest to highest."""
    y, x = (np.linspace(-1.0, 1.0, n) for n in shape)
    degree = np.add.outer(np.arange(6), np.arange(6))
    bent = legendre.leggrid2d(y, x, np.where((degree >= 2) & (degree <= 5), rng.normal(size=(6, 6)) / 2.0**degree, 0.0))
    down, across = rng.uniform(-0.5, 0.5, 2) * slope
    return LEVEL + down * y[:, np.newaxis] + across * x + curve * bent / np.ptp(bent)


def power_law(rng: Any, number: int, slope: float, least: float, most: float) -> Image:
    """Fluxes whose number above a flux falls with the power `slope`."""
    return np.minimum(least * rng.random(number) ** (-1.0 / slope), most)


def field_galaxies(rng: Any, shape: tuple[int, int]) -> Image:
    """Galaxies of the field: effective radii about 3 px at flux 100, indices 0.5 to 4, most of them near 1."""
    image = np.zeros(shape)
    number = rng.poisson(DENSITY * (BRIGHT / FAINT) ** COUNTS * image.size / 1e6)
    flux = power_law(rng, number, COUNTS, FAINT, MOST)
    radius = np.clip(3.0 * (flux / 100.0) ** 0.25 * rng.lognormal(0.0, 0.3, number), 1.5, 16.0)
    index = np.clip(np.round(rng.lognormal(0.2, 0.5, number), 1), 0.5, 4.0)
    y, x = (rng.uniform(-30.0, n + 30.0, number) for n in shape)
    table = np.stack([y, x, flux, radius, rng.uniform(0.3, 1.0, number), rng.uniform(0.0, np.pi, number)], axis=1)
    for value in np.unique(index):
        add_sersic(image, table[index == value], value)
    return image


def field_light(rng: Any, shape: tuple[int, int], *, stars: float = 12.0) -> Image:
    """Field galaxies and `stars` stars a million pixels, through a Moffat function of 3 to 4 px."""
    image = field_galaxies(rng, shape)
    number = rng.poisson(stars * image.size / 1e6)
    add_points(image, *(rng.uniform(0.0, n, number) for n in shape), power_law(rng, number, STARS, 200.0, 5e4))
    return convolved(image, moffat(rng.uniform(3.0, 4.0), rng.uniform(2.6, 3.2)))


def observed(rng: Any, sky: Image, light: Image, **others: Any) -> Scene:
    """Noise of 1 and the photon noise of the light."""
    noise = rng.normal(size=sky.shape) * np.sqrt(1.0 + light / LEVEL)
    return Scene((sky + light + noise).astype(np.float32), sky, noise=1.0, light=light, **others)


def deep(seed: int, size: int = 1500) -> Scene:
    """Return a deep field."""
    rng, shape = np.random.default_rng([301, seed]), (size, size)
    return observed(rng, smooth_sky(rng, shape), field_light(rng, shape))


def large_galaxy(
    shape: tuple[int, int], name: str, place: Any, index: float, radius: float, end: float, rng: Any
) -> Any:
    """Return a galaxy of random shape whose brightness at four effective radii is `end`."""
    axis_ratio, angle, image = rng.uniform(0.5, 0.95), rng.uniform(0.0, np.pi), np.zeros(shape)
    step = 1e-4  # flux between two ellipses about four effective radii, over their area
    share = float(np.diff(sersic_light(index, [4.0 - step, 4.0 + step]))[0]) / (16 * np.pi * step)
    flux = end * axis_ratio * radius**2 / share
    add_sersic(image, [*place, flux, radius, axis_ratio, angle], index, share=0.998)
    return LargeObject(name, *place, radius, axis_ratio, angle, image)


def galaxies(seed: int, size: int = 2000) -> Scene:
    """Three large galaxies on a deep field: n 4, n 1, and a wide disc, of 0.02 to 0.04 at four effective radii."""
    rng, shape = np.random.default_rng([302, seed]), (size, size)
    sky, light, objects = smooth_sky(rng, shape), field_light(rng, shape), []
    kinds = (("n 4", 4.0, (60.0, 90.0)), ("n 1", 1.0, (60.0, 100.0)), ("wide disc", 1.0, (120.0, 200.0)))
    for (name, index, radii), place in zip(kinds, ((0.3, 0.28), (0.73, 0.4), (0.4, 0.74)), strict=True):
        where = (np.array(place) + rng.uniform(-0.05, 0.05, 2)) * size
        objects.append(large_galaxy(shape, name, where, index, rng.uniform(*radii), rng.uniform(0.02, 0.04), rng))
        light = light + objects[-1].light
    return observed(rng, sky, light, objects=tuple(objects))


def cluster(seed: int, size: int = 2000) -> Scene:
    """Sixty ellipticals and the light between them, exponential (Montes & Trujillo 2018, MNRAS 474, 917).

    The light between is 1.5 in its middle and falls by e in 150 to 250 px; members and it are one large object, on the
    ellipse of the light between.
    """
    rng, shape = np.random.default_rng([303, seed]), (size, size)
    sky, light = smooth_sky(rng, shape), field_light(rng, shape)
    y, x = size / 2 + rng.uniform(-80.0, 80.0, 2)
    distance = np.minimum(220.0 * np.sqrt(rng.random(60) ** -0.9 - 1.0), 0.45 * size)
    around = rng.uniform(0.0, 2 * np.pi, 60)
    radius = np.clip(rng.lognormal(np.log(8.0), 0.5, 60), 4.0, 25.0)
    distance[0], radius[0] = 0.0, 40.0
    axis_ratio, index = rng.uniform(0.6, 1.0, 60), np.round(rng.uniform(2.0, 4.0, 60), 1)
    index[0] = 4.0
    flux = 22.0 * rng.uniform(3.0, 10.0, 60) * axis_ratio * radius**2  # 3 to 10 at the effective radius, n 4
    members = np.zeros(shape)
    place = (y + distance * np.sin(around), x + distance * np.cos(around))
    table = np.stack([*place, flux, radius, axis_ratio, rng.uniform(0.0, np.pi, 60)], axis=1)
    for value in np.unique(index):
        add_sersic(members, table[index == value], value)
    scale, flattening, angle = rng.uniform(150.0, 250.0), rng.uniform(0.6, 0.9), rng.uniform(0.0, np.pi)
    made = LargeObject("cluster", y, x, 1.678 * scale, flattening, angle, np.zeros(shape))
    made.light[:] = 1.5 * np.exp(-1.678 * made.radii()) + convolved(members, moffat(3.5, 2.8))
    return observed(rng, sky, light + made.light, objects=(made,))


def stars(seed: int, size: int = 2000) -> Scene:
    """Saturated stars: wings as r**-2.5 to r**-3 out to 600 px (Sandin 2014, A&A 567, A97), a ring as ghost each."""
    rng, shape = np.random.default_rng([304, seed]), (size, size)
    sky, light, objects = smooth_sky(rng, shape), field_light(rng, shape), []
    slope, rows, columns = rng.uniform(2.5, 3.0), *np.ogrid[:size, :size]
    for number in range(max(round(6 * (size / 2000) ** 2), 1)):
        y, x = rng.uniform(0.08, 0.92, 2) * size
        ghost_y, ghost_x = y + rng.uniform(-40.0, 40.0), x + rng.uniform(-40.0, 40.0)
        r, ghost = np.hypot(rows - y, columns - x), np.hypot(rows - ghost_y, columns - ghost_x)
        wing = np.exp(rng.uniform(np.log(0.2), np.log(2.0))) * (np.maximum(r, 3.0) / 100.0) ** -slope
        own = wing * np.clip((600.0 - r) / 60.0, 0.0, 1.0) + 0.05 * ((ghost > 60.0) & (ghost < 140.0))
        objects.append(LargeObject(f"star {number + 1}", y, x, 100.0, 1.0, 0.0, own))
        light = light + own
    made = observed(rng, sky, light, objects=tuple(objects))
    np.minimum(made.image, np.float32(LEVEL + 3000.0), out=made.image)
    return made


def cirrus(seed: int, size: int = 1500) -> Scene:
    """Cirrus of power k**-3 (Miville-Deschenes et al. 2007, A&A 469, 595), 0.3 to 1 rms, cut from a wider field."""
    rng, shape = np.random.default_rng([305, seed]), (size, size)
    sky, light, wide = smooth_sky(rng, shape), field_light(rng, shape), 2 * size
    k = np.hypot(np.fft.fftfreq(wide)[:, np.newaxis], np.fft.rfftfreq(wide))
    k[0, 0] = np.inf
    clouds = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(wide, wide))) * k**-1.5, s=(wide, wide))[:size, :size]
    clouds *= rng.uniform(0.3, 1.0) / clouds.std()
    return observed(rng, sky + clouds - clouds.min(), light)


def steps(seed: int, size: int = 1500) -> Scene:
    """Panels of a mosaic whose skies differ by steps of a few tenths."""
    rng, shape = np.random.default_rng([306, seed]), (size, size)
    sky, light = smooth_sky(rng, shape), field_light(rng, shape)
    edges = [np.sort(rng.uniform(0.2, 0.8, 2)) * size for _ in range(2)]
    y, x = (np.searchsorted(edge, np.arange(size)) for edge in edges)
    return observed(rng, sky + rng.normal(0.0, 0.25, (3, 3))[y[:, np.newaxis], x], light)


def _crowded(key: int, density: float, seed: int, size: int) -> Scene:
    rng, shape = np.random.default_rng([key, seed]), (size, size)
    sky, light, points = smooth_sky(rng, shape), field_light(rng, shape), np.zeros(shape)
    number = rng.poisson(density * points.size / 1e6)
    flux = power_law(rng, number, STARS, 20.0, 5e4)
    add_points(points, *(rng.uniform(0.0, n, number) for n in shape), flux)
    return observed(rng, sky, light + convolved(points, moffat(3.5, 3.0)))


def crowded_10(seed: int, size: int = 1200) -> Scene:
    """Stars that leave light above the noise on about a tenth of the pixels."""
    return _crowded(307, 2.2e3, seed, size)


def crowded_40(seed: int, size: int = 1200) -> Scene:
    """Stars that leave light above the noise on about four tenths of the pixels."""
    return _crowded(308, 9.6e3, seed, size)


def _counts(key: int, mean: float, seed: int, size: int) -> Scene:
    rng, shape = np.random.default_rng([key, seed]), (size, size)
    sky = mean * (1.0 + 0.1 * (smooth_sky(rng, shape) - LEVEL))
    light = field_light(rng, shape) * np.sqrt(mean)
    return Scene(rng.poisson(sky + light).astype(np.float32), sky, noise=float(np.sqrt(mean)), light=light)


def counts_half(seed: int, size: int = 1200) -> Scene:
    """Photons, half a count a pixel."""
    return _counts(309, 0.5, seed, size)


def counts_4(seed: int, size: int = 1200) -> Scene:
    """Photons, four counts a pixel."""
    return _counts(310, 4.0, seed, size)


def skewed(seed: int, size: int = 1200) -> Scene:
    """Noise of a gamma law of shape 2, whose skewness is 1.4."""
    rng, shape = np.random.default_rng([311, seed]), (size, size)
    sky, light = smooth_sky(rng, shape), field_light(rng, shape)
    noise = (rng.gamma(2.0, size=shape) - 2.0) / np.sqrt(2.0) * np.sqrt(1.0 + light / LEVEL)
    return Scene((sky + light + noise).astype(np.float32), sky, noise=1.0, light=light)
