"""Skewness of the noise of pixels, told from the light of sources.

A source lifts its neighbours too, noise does not. So the law of the noise is seen in pixels whose neighbours, the other
24 of 5 x 5, lie below the sky on average: these pixels are no darker than others, for noise is their own, but they have
hardly any light. (The noise of neighbouring pixels may be correlated: if it is normal, these pixels are not skewed to
the bright side.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Pixels on each side that are the neighbours of one; every so manieth row is looked at, counted from the first.
HALO, _ROWS = 2, 4
#: Bins of a unit of noise, and units on each side of the sky; what is beyond counts as the last.
_PER_UNIT, _UNITS = 8, 32
BINS = 2 * _PER_UNIT * _UNITS
#: Pixels farther than this from the mean, in standard deviations, are left out: rays, hot pixels, sources.
_CLIP, _ROUNDS = 5.0, 30
#: Least skewness that counts, by as many pixels.
LEAST, _PIXELS = 0.3, 2000
#: Kurtosis of the dark side of normal noise, and how much less it is than that for a skewness of 1, at least.
_NORMAL, _STEEPER = 3.0, 0.6

Counts = NDArray[np.int64]


class NoiseLaw(NamedTuple):
    """Moments of the noise of pixels.

    Attributes
    ----------
    n : int
        Pixels that they are of.
    skewness : float
    dark_kurtosis : float
        Mean fourth power of the pixels below the mean over the square of their mean square, from the mean: 3 for normal
        noise, 1 if all have one value.
    """

    n: int
    skewness: float
    dark_kurtosis: float

    @property
    def skewed(self) -> bool:
        """Whether the noise is skewed to the bright side, as that of few photons.

        Noise that is skewed ends on the dark side: light that is left among the pixels does not make it do so.
        """
        ends = self.dark_kurtosis < _NORMAL - _STEEPER * self.skewness
        return self.n >= _PIXELS and self.skewness >= LEAST and ends


def dark_places(image: NDArray[np.float32], first_row: int, *, unit: float) -> NDArray[np.int16]:
    """Bin of each pixel with dark neighbours, -1 of all others.

    Parameters
    ----------
    image : ndarray (ny, nx), float32
        Minus its sky; NaN where no pixel counts.
    first_row : int
        Its first row in the whole image.
    unit : float
        Rough noise of a pixel; 0: none is looked at.

    Returns
    -------
    ndarray (ny, nx), int16
        Edge rule: pixels without all of their neighbours are not looked at. NaN rule: nor are those beside a NaN.
    """
    places = np.full(image.shape, -1, np.int16)
    ny, nx = image.shape
    rows = np.arange(-first_row % _ROWS, ny, _ROWS)
    rows = rows[(rows >= HALO) & (rows < ny - HALO)]
    if not rows.size or nx <= 2 * HALO or not unit > 0.0:
        return places
    inner = slice(HALO, nx - HALO)
    around = np.zeros((rows.size, nx - 2 * HALO))
    for dy in range(-HALO, HALO + 1):
        for dx in range(-HALO, HALO + 1):
            if dy or dx:
                around += image[rows + dy, HALO + dx : nx - HALO + dx]
    own = image[rows, inner].astype(np.float64)
    dark = (around < 0.0) & np.isfinite(around) & np.isfinite(own)
    bins = np.clip(np.floor(np.where(dark, own, 0.0) * (_PER_UNIT / unit)) + BINS // 2, 0, BINS - 1)
    places[rows, inner] = np.where(dark, bins, -1)
    return places


def counts(places: NDArray[np.int16], *, mask: NDArray[np.bool_] | None = None) -> Counts:
    """Pixels in each bin, (`BINS`,), of their `dark_places`; merge by adding. ``mask``: True = not counted."""
    pixels = places if mask is None else places[~mask]
    return np.bincount(pixels[pixels >= 0].astype(np.int64), minlength=BINS).astype(np.int64)


def noise_law(found: Counts) -> NoiseLaw:
    """Moments of the pixels of `counts`, those left out that lie too far from the mean."""
    x = (np.arange(BINS) - (BINS - 1) / 2) / _PER_UNIT
    used, n, distance, variance = found.astype(np.float64), 0.0, x, 0.0
    for _ in range(_ROUNDS):
        n = _sum(used)
        if n < 2.0:
            return NoiseLaw(0, 0.0, _NORMAL)
        distance = x - _sum(used, x) / n
        variance = _sum(used, distance, distance) / n
        inside = np.abs(distance) <= _CLIP * math.sqrt(max(variance, 1.0 / _PER_UNIT**2))
        if not used[~inside].any():
            break
        used = np.where(inside, used, 0.0)
    below = np.where(distance < 0.0, used, 0.0)
    square = _sum(below, distance, distance)
    if not (variance > 0.0 and square > 0.0):
        return NoiseLaw(int(n), 0.0, _NORMAL)
    skewness = _sum(used, distance, distance, distance) / n / (variance * math.sqrt(variance))
    fourth = _sum(below, distance, distance, distance, distance)
    return NoiseLaw(int(n), skewness, fourth * _sum(below) / (square * square))


def smoothed_skewness(skewness: float, taps: NDArray[np.float64] | None) -> float:
    """Skewness of white noise after smoothing with the taps along both axes."""
    if taps is None:
        return skewness
    return skewness * _sum(taps, taps, taps) ** 2 / _sum(taps, taps) ** 3


def _sum(*factors: NDArray[np.float64]) -> float:
    """Sum of products, rounded once: the same on all machines."""
    return math.fsum(np.multiply.reduce(factors).tolist())
