"""Places where objects may be: peaks of smoothed light, and cores of sources with light about them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.kernels.filters.smooth import convolve_separable, gaussian_taps
from tiledsky.kernels.objects.profiles import Floats, Maps

#: Standard deviations of the Gaussians that light is smoothed with, in boxes.
SCALES = (2.0, 4.0, 8.0, 16.0)
#: Least light of a peak, in the noise of a pixel, and in its own errors.
LEAST, _ERRORS = 0.08, 5.0
#: A core stands out by so much of the noise of a pixel, and is the brightest box of those within so many; light is
#: looked for within so many boxes.
_CORE, _CORE_REACH, _HALO_REACH = 2.0, 3, 4
#: Light of a core that may be flat, as where it is saturated, and boxes beside its brightest that it may have.
SATURATED, _CORE_SIDE = 50.0, 6
#: Boxes within which a dip of the sky is the deepest.
_DIP_REACH = 6
#: Least share of a Gaussian that has boxes with values.
_SHARE = 0.02

#: Boxes beside a part that peaks in it are compared with.
_NEAR = 32

Slices = tuple[slice, slice]
Smoothed = tuple[Floats, Floats]


def _radius(scale: float) -> int:
    return int(3.0 * scale + 0.5)


def _peak_reach(scale: float) -> int:
    return int(1.5 * scale) + 1


def _gaussian(cells: Floats, scale: float, radius: int) -> Floats:
    return convolve_separable(np.pad(cells, radius), gaussian_taps(scale, radius=radius))


def smoothed(maps: Maps, scale: float) -> Smoothed:
    """Light smoothed by a Gaussian of so many boxes, and its error; 0 and infinity where hardly any box counts."""
    radius, weight = _radius(scale), maps.weight
    share = _gaussian(weight, scale, radius)
    total = _gaussian(maps.rest * weight, scale, radius)
    squares = _gaussian(np.square(weight * maps.noise), scale / 2.0**0.5, radius)
    few = ~(share > _SHARE)
    share[few] = 1.0
    error = np.sqrt(squares / (4.0 * np.pi * scale * scale)) / share
    total /= share
    total[few], error[few] = 0.0, np.inf
    return total, error


def smoothings(maps: Maps, inner: Slices) -> dict[float, Smoothed]:
    """Light and error smoothed at all scales: at the first everywhere, at others about a part (0, infinity beyond)."""
    found = {SCALES[0]: smoothed(maps, SCALES[0])}
    for scale in SCALES[1:]:
        within = [[max(side.start - more, 0) for side in inner] for more in (_NEAR, _NEAR + _radius(scale))]
        ends = [[side.stop + more for side in inner] for more in (_NEAR, _NEAR + _radius(scale))]
        near, read = (tuple(map(slice, *corners)) for corners in zip(within, ends, strict=True))
        place = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(near, read, strict=True))
        part = maps._replace(rest=maps.rest[read], weight=maps.weight[read], noise=maps.noise[read])
        value, error = np.zeros(maps.shape), np.full(maps.shape, np.inf)
        made = smoothed(part, scale)
        value[near], error[near] = made[0][place], made[1][place]
        found[scale] = value, error
    return found


def filled(maps: Maps, first: Smoothed | None = None) -> Floats:
    """Light smoothed at the first scale (or that given); where no box counts, that without a mask."""
    value, error = first or smoothed(maps, SCALES[0])
    return np.where(np.isfinite(error), value, np.where(np.isfinite(maps.bare), maps.bare, 0.0))


@njit(nogil=True, cache=True)
def _peaks(value, error, top, bottom, left, right, reach, least, errors, found):  # type: ignore[no-untyped-def]
    height, width = value.shape
    n = 0
    for i in range(top, bottom):
        for j in range(left, right):
            v = value[i, j]
            if not v > max(errors * error[i, j], least):
                continue
            best = True
            for k in range(max(i - reach, 0), min(i + reach + 1, height)):
                for m in range(max(j - reach, 0), min(j + reach + 1, width)):
                    if value[k, m] > v or (value[k, m] == v and (k < i or (k == i and m < j))):
                        best = False
                        break
                if not best:
                    break
            if best:
                found[n, 0], found[n, 1] = i, j
                n += 1
    return n


def _places(value: Floats, error: Floats, inner: Slices, reach: int, least: float, errors: float) -> list[list[int]]:
    """Places, in row order, of the largest values of a square that stand out; of equal ones the first."""
    rows, columns = inner
    found = np.empty((max((rows.stop - rows.start) * (columns.stop - columns.start), 1), 2), np.int64)
    n = _peaks(value, error, rows.start, rows.stop, columns.start, columns.stop, reach, least, errors, found)
    places: list[list[int]] = found[:n].tolist()
    return places


def _brightest(value: Floats, i: int, j: int, reach: int) -> tuple[int, int]:
    """Place of the largest finite value in a square about a place; of equal ones the first."""
    y0, x0 = max(i - reach, 0), max(j - reach, 0)
    part = value[y0 : i + reach + 1, x0 : j + reach + 1]
    at = int(np.argmax(np.where(np.isfinite(part), part, -np.inf)))
    return y0 + at // part.shape[1], x0 + at % part.shape[1]


def _middle(bare: Floats, i: int, j: int) -> tuple[int, int]:
    """Middle of a core that is flat, as where it is saturated: of the boxes about its brightest that are nearly so."""
    peak = float(bare[i, j]) if np.isfinite(bare[i, j]) else 0.0
    if not peak > SATURATED:
        return i, j
    y0, x0 = max(i - _CORE_SIDE, 0), max(j - _CORE_SIDE, 0)
    part = bare[y0 : i + _CORE_SIDE + 1, x0 : j + _CORE_SIDE + 1]
    y, x = np.nonzero(part >= 0.7 * peak)
    return y0 + int((2 * y.sum() + y.size) // (2 * y.size)), x0 + int((2 * x.sum() + x.size) // (2 * x.size))


def candidates(
    maps: Maps, inner: Slices, value: dict[float, Smoothed], smooth: Floats, *, level: bool
) -> list[tuple[int, int]]:
    """Places that are to be examined.

    Parameters
    ----------
    maps : Maps
    inner : (slice, slice)
        Part of the window where peaks are looked for; what is brightest about them may lie outside.
    value : dict
        `smoothings` of the maps about that part.
    smooth : ndarray
        `filled` maps.
    level : bool
        No sky is known: what counts is how far light is above that about it, by the two widest scales.

    Returns
    -------
    list of (int, int)
        In row order, each once: the brightest boxes about peaks, with and without the mask; and cores that have light
        about them.
    """
    about = value[SCALES[2]][0]
    places: set[tuple[int, int]] = set()
    core = np.where(np.isfinite(maps.bare), maps.bare - about, -np.inf)
    halo: NDArray[np.float64] = np.where(maps.weight > 0.0, smooth - about, 0.0)
    for i, j in _places(core, np.zeros_like(core), inner, _CORE_REACH, _CORE, 0.0):
        y, x = max(i - _HALO_REACH, 0), max(j - _HALO_REACH, 0)
        if halo[y : i + _HALO_REACH + 1, x : j + _HALO_REACH + 1].max() > LEAST:
            places.add(_middle(maps.bare, i, j))
    for scale in SCALES[:-1] if level else SCALES:
        there, error = value[scale]
        reach = _peak_reach(scale)
        if level:
            there = there - value[SCALES[-1]][0]
        for i, j in _places(there, error, inner, reach, LEAST, _ERRORS):
            places |= {_middle(maps.bare, *_brightest(maps.bare, i, j, reach)), _brightest(smooth, i, j, reach)}
    return sorted(places)


def from_below(value: dict[float, Smoothed], inner: Slices) -> list[tuple[int, int]]:
    """Places where the sky lies lowest below its fit, of `smoothings` about that part; in row order, each once."""
    places: set[tuple[int, int]] = set()
    for scale in SCALES[:-1]:
        light, error = value[scale]
        for i, j in _places(-light, error, inner, _DIP_REACH, LEAST, _ERRORS):
            places.add((i, j))
    return sorted(places)
