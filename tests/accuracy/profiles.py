"""Galaxies and stars drawn into an image.

Sersic profiles: Graham & Driver 2005, PASA 22, 118. Point spread function: Moffat 1969, A&A 3, 455, with the wings of
King 1971, PASP 83, 199.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from tests.accuracy.scene import Image

#: Points of a table of a profile, which is smooth in the fourth root of the radius for all indices up to 4.
POINTS = 4096
#: Pixels this near to the centre are means of FINE x FINE points.
CORE, FINE = 3.0, 5


def sersic_b(index: float) -> float:
    """Return the b of a Sersic profile: half of the light is within the effective radius."""
    return float(special.gammaincinv(2 * index, 0.5))


def sersic_light(index: float, radius: Any) -> Any:
    """Share of the light within so many effective radii."""
    return special.gammainc(2 * index, sersic_b(index) * np.asarray(radius) ** (1 / index))


def sersic_end(index: float, share: float) -> float:
    """Effective radii that hold a share of the light."""
    return float((special.gammaincinv(2 * index, share) / sersic_b(index)) ** index)


@lru_cache(maxsize=256)
def sersic_table(index: float, end: float) -> NDArray[np.float64]:
    """Brightness of a round profile of flux 1 and effective radius 1, at POINTS equal steps of r**(1/4) up to `end`."""
    b = sersic_b(index)
    total = 2 * np.pi * index * special.gamma(2 * index) * b ** (-2 * index)
    radii = np.linspace(0.0, end**0.25, POINTS) ** 4
    return np.exp(-b * radii ** (1 / index)) / total


@numba.njit(cache=True)
def _value(y: float, x: float, shape: tuple[float, ...], table: NDArray[Any], last: float) -> float:
    cosine, sine, major, minor = shape
    u, v = (cosine * x + sine * y) / major, (cosine * y - sine * x) / minor
    step = np.sqrt(np.sqrt(np.sqrt(u * u + v * v))) / last * (table.size - 1)
    k = int(step)
    if k >= table.size - 1:
        return 0.0
    return table[k] + (step - k) * (table[k + 1] - table[k])


@numba.njit(cache=True)
def _stamp(y: float, x: float, half: int, shape: tuple[float, ...], table: NDArray[Any], last: float) -> Any:
    """Profile of one object on the square of pixels about that of its centre; sums within the core and outside."""
    row, column, inner, outer = round(y), round(x), 0.0, 0.0
    stamp = np.empty((2 * half + 1, 2 * half + 1))
    for i in range(2 * half + 1):
        for j in range(2 * half + 1):
            dy, dx = row + i - half - y, column + j - half - x
            if dy * dy + dx * dx > CORE * CORE:
                stamp[i, j] = _value(dy, dx, shape, table, last)
                outer += stamp[i, j]
                continue
            total = 0.0
            for k in range(FINE * FINE):
                sub_y, sub_x = (k // FINE + 0.5) / FINE - 0.5, (k % FINE + 0.5) / FINE - 0.5
                total += _value(dy + sub_y, dx + sub_x, shape, table, last)
            stamp[i, j] = total / (FINE * FINE)
            inner += stamp[i, j]
    return stamp, inner, outer


@numba.njit(cache=True)
def _draw(image: Image, catalogue: Image, table: NDArray[Any], end: float, share: float) -> None:
    for n in range(catalogue.shape[0]):
        y, x, flux, radius, axis_ratio, angle = catalogue[n]
        shape = (np.cos(angle), np.sin(angle), radius, radius * axis_ratio)
        half = int(np.ceil(radius * end)) + 1
        row, column = round(y), round(x)
        if not (-half <= row < image.shape[0] + half and -half <= column < image.shape[1] + half):
            continue
        stamp, inner, outer = _stamp(y, x, half, shape, table, end**0.25)
        area = axis_ratio * radius * radius
        core = (share * area - outer) / inner  # no grid resolves a cusp: the core has what the rest leaves of the flux
        for i in range(max(half - row, 0), min(2 * half + 1, image.shape[0] - row + half)):
            for j in range(max(half - column, 0), min(2 * half + 1, image.shape[1] - column + half)):
                dy, dx = row + i - half - y, column + j - half - x
                scale = core if dy * dy + dx * dx <= CORE * CORE else 1.0
                image[row + i - half, column + j - half] += scale * flux / area * stamp[i, j]


def add_sersic(image: Image, catalogue: Image, index: float, *, share: float = 0.995) -> None:
    """Add Sersic profiles of one index out to the radius that holds `share` of the light.

    Columns of the catalogue: y, x, flux, effective radius along the major axis, axis ratio, angle from +x to +y. The
    cut-out of an object holds `share` times its flux whatever its size, also where it is smaller than a pixel.
    """
    end = sersic_end(index, share)
    _draw(image, np.atleast_2d(np.asarray(catalogue, float)), sersic_table(index, end), end, share)


def add_points(image: Image, y: Any, x: Any, flux: Any) -> None:
    """Add points, shared out among the four nearest pixels; those outside are left out."""
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    up, right = y - row, x - column
    for i, j in np.ndindex(2, 2):
        share = flux * np.where(i, up, 1 - up) * np.where(j, right, 1 - right)
        there = (row + i >= 0) & (row + i < image.shape[0]) & (column + j >= 0) & (column + j < image.shape[1])
        np.add.at(image, (row[there] + i, column[there] + j), share[there])


def moffat(fwhm: float, beta: float, half: int = 150) -> Image:
    """Return a point spread function of sum 1."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    made = (1 + (y**2 + x**2) / alpha**2) ** -beta
    return made / made.sum()


def convolved(image: Image, psf: Image) -> Image:
    """Smear an image with a point spread function; nothing comes from beyond its edges."""
    return np.maximum(signal.oaconvolve(image, psf, mode="same"), 0.0)
