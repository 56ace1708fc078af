"""Real galaxies in other real fields: the sky found with them minus the sky found without them is what they lost.

Images: the folder TILEDSKY_TEST_DATA. A cut-out keeps its noise and neighbours; it is taken to zero at its edge, and
scaled to half the noise of the field that it is put into.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from tests.accuracy.scene import Image, LargeObject, Scene

#: File, extension, centre (y, x) and half size of each cut-out.
CUTOUTS = {
    "face-on spiral": ("m51_kpno.fits", 0, 256, 256, 255),
    "central cluster galaxy": ("hst_wfpc2_a478_drz.fits", 1, 318, 310, 200),
    "edge-on disc": ("sdss_g_reprojected.fits.bz2", 0, 190, 276, 100),
    "inclined spiral": ("sdss_g_reprojected.fits.bz2", 0, 133, 161, 60),
    "spiral": ("sdss_g_reprojected.fits.bz2", 0, 97, 76, 60),
}
#: File, extension and a part without faults.
FIELDS = (
    ("gama_kidsviking_r_2600.fits", 1, np.s_[1000:2400, 1100:2500]),
    ("des_241238_01.fits.fz", 1, np.s_[2200:3600, 300:1700]),
)


class NoData(Exception):
    """A scene cannot be made of the real images."""


@lru_cache(maxsize=4)
def read_image(name: str, extension: int) -> Image:
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None or not (Path(folder) / name).exists():
        raise NoData(f"{name} is not there: set TILEDSKY_TEST_DATA to the folder of the real images")
    return np.asarray(fits.getdata(Path(folder) / name, extension), np.float64)


def noise_of(image: Image) -> float:
    """Noise of a pixel, from differences of neighbours."""
    return float(1.4826 * np.nanmedian(np.abs(np.diff(image, axis=1))) / np.sqrt(2))


def cutout(name: str) -> Image:
    """A galaxy with its surroundings in units of the noise, less the level at its edge, to which it fades.

    The level is that of the darkest of 24 sectors of the ring there, so that no galaxy has a dark rim.
    """
    file, extension, y, x, half = CUTOUTS[name]
    cut = read_image(file, extension)[y - half : y + half + 1, x - half : x + half + 1]
    cut = cut / noise_of(cut)
    dy, dx = np.ogrid[-half : half + 1, -half : half + 1]
    r, sector = np.hypot(dy, dx) / half, (12.0 * (1.0 + np.arctan2(dy, dx) / np.pi)).astype(int)
    level = min(np.median(cut[(r > 0.85) & (r < 1.0) & (sector == k)]) for k in range(24))
    return (cut - level) * np.clip((1.0 - r) / 0.15, 0.0, 1.0)


def half_light(light: Image, y: float, x: float) -> float:
    """Radius of the circle that holds half of the light of an image."""
    rows, columns = light.shape
    r = np.hypot(np.arange(rows)[:, np.newaxis] - y, np.arange(columns) - x).ravel()
    order = np.argsort(r)
    grown = np.cumsum(light.ravel()[order])
    return float(r[order][np.searchsorted(np.maximum.accumulate(grown), grown[-1] / 2)])


def _turned(image: Image, way: int) -> Image:
    """One of the eight ways to lay a square."""
    return np.rot90(image[::-1] if way > 3 else image, way)


def galaxy(name: str, seed: int, size: int = 1400) -> Scene:
    """Return a field, turned and mirrored by the seed, with one real galaxy near its middle."""
    rng = np.random.default_rng([330, seed, sorted(CUTOUTS).index(name)])
    file, extension, part = FIELDS[seed % len(FIELDS)]
    field = _turned(read_image(file, extension)[part], rng.integers(8))[:size, :size]
    field = field / noise_of(field)
    stamp = _turned(cutout(name), rng.integers(8)) / 2.0
    half, light = stamp.shape[0] // 2, np.zeros(field.shape)
    room = min(50, (min(field.shape) - stamp.shape[0]) // 2)
    if room < 0:
        raise NoData(f"{name} has {stamp.shape[0]} px and does not fit into {size} px: use a larger --size")
    y, x = (int(n // 2 + rng.integers(-room, room + 1)) for n in field.shape)
    light[y - half : y + half + 1, x - half : x + half + 1] = stamp
    large = LargeObject(name, y, x, half_light(light, y, x), 1.0, 0.0, light)
    seen, without = (np.ascontiguousarray(part, np.float32) for part in (field + light, field))
    return Scene(seen, None, noise=1.0, objects=(large,), without=without)
