"""Windows of an image with profiles of known light, and what a recipe takes of them: by place alone, no clock, no dice.

A window is estimated without profiles and with them; the difference of the two backgrounds is what was taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tiledsky.diagnostics.injection import REACH, sersic
from tiledsky.errors import TiledSkyError
from tiledsky.geometry import Pair, Region, TileGrid, places

Floats = NDArray[np.float64]

#: Surface brightness at the half-light radius in units of the noise of a pixel (in large windows by turns); indices.
LEVELS, FAINT, SERSIC = (0.3, 3.0), (0.3, 0.03), (1.0, 4.0)
#: Within so many half-light radii the taken light is added up.
WITHIN = (1, 2, 4)
#: Profiles whose light within the half-light radius is fainter than this many times its noise are left out.
_FAINTEST = 5.0
#: Sides of windows: of small profiles, in images that are smaller, and of large profiles.
SIDE, SMALL_SIDE, LARGE_SIDE = 640, 320, 1280
#: Smallest profile, half-light radius.
_SMALLEST = 5
#: A window has this many half-light radii of its largest profile.
_WIDTHS = 8
#: Pixels that windows may have in all, each counted as often as it is estimated: at least, as a share of the image's
#: (a pixel of a run takes two to three times as long), and at most.
_PIXELS, _SHARE, _MOST = 8_000_000, 0.3, 48_000_000
#: Share of valid pixels that is enough for a window, the least, and how many places are looked at.
_ENOUGH, _LEAST, _LOOKS = 0.75, 0.5, 16
#: Share of the light of a profile that must lie on valid pixels.
_LIT = 0.5

#: What was taken of one profile; ``error`` from its four quarters.
ROW = np.dtype(
    [("size", "<f8"), ("level", "<f8"), ("sersic", "<f8"), ("signal", "<f8"), ("taken", "<f8", 3), ("error", "<f8", 3)]
)


@dataclass(frozen=True)
class Taken:
    """What was taken of all profiles, rows of `ROW`; ``reason``: why there are none, or not of all windows."""

    rows: NDArray[np.void] = field(default_factory=lambda: np.empty(0, ROW))
    reason: str = ""

    @classmethod
    def of(cls, cells: Sequence[tuple[NDArray[np.void], str]]) -> Taken:
        """Put cells together, in their order."""
        reasons = dict.fromkeys(reason for _, reason in cells if reason)
        return cls(np.concatenate([np.empty(0, ROW), *(rows for rows, _ in cells)]), "; ".join(reasons))


class Skies(NamedTuple):
    """Background and rms of a window."""

    background: NDArray[np.floating]
    rms: NDArray[np.floating]


class Pixels(NamedTuple):
    """A window: its image, which pixels are valid, and the sky that the recipe finds in such an image."""

    image: NDArray[np.floating]
    valid: NDArray[np.bool_]
    sky: Callable[[NDArray[np.floating]], Skies]


@dataclass(frozen=True)
class Profile:
    """A round profile: place within its window, half-light radius (px), level, Sersic index."""

    y: float
    x: float
    size: float
    level: float
    sersic: float

    @property
    def signal(self) -> float:
        """Light within the half-light radius over the noise there."""
        n, b = self.sersic, float(special.gammaincinv(2 * self.sersic, 0.5))
        half = math.pi * n * self.level * math.exp(b) * b ** (-2 * n) * float(special.gamma(2 * n))
        return half * self.size / math.sqrt(math.pi)

    def quarters(self, side: int) -> list[Region]:
        """Parts of a window that have its light, on the four sides of its centre: a quarter takes little memory."""
        reach, y, x = math.ceil(REACH * self.size), math.ceil(self.y), math.ceil(self.x)
        rows = (max(y - reach, 0), y), (y, min(y + reach, side))
        columns = (max(x - reach, 0), x), (x, min(x + reach, side))
        return [Region(*of_rows, *of_columns) for of_rows in rows for of_columns in columns]

    def distance(self, region: Region) -> Floats:
        """Of the pixels of a part of its window from its centre, px."""
        return np.hypot((np.arange(region.y0, region.y1) - self.y)[:, None], np.arange(region.x0, region.x1) - self.x)

    def drawn(self, region: Region, noise: float) -> Floats:
        """Its light in a part of its window."""
        return self.level * noise * sersic(self.distance(region) / self.size, self.sersic)


class Part(NamedTuple):
    """What one task does at a place: a window, and which of its arrangements."""

    side: int
    times: slice


@dataclass(frozen=True)
class Design:
    """Windows of an image.

    Attributes
    ----------
    cell : (int, int)
        The image is cut into cells of this size, each with one window of each side.
    parts : tuple of Part
        Of each cell; none for an image without room for any.
    """

    cell: Pair
    parts: tuple[Part, ...]

    @property
    def tile(self) -> Pair:
        """The image is cut into so many tasks: each cell into columns, one a part."""
        return self.cell[0], -(-self.cell[1] // max(len(self.parts), 1))

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the windows of a cell."""
        return tuple(dict.fromkeys(part.side for part in self.parts))

    def profiles(self, part: Part, place: int) -> list[list[Profile]]:
        """Profiles of a part at a place, those that are put in at one time."""
        return arrangements(part.side, place, alone=part.side == max(self.sides))[part.times]

    @property
    def pixels(self) -> int:
        """Pixels that are estimated at one place: a window without profiles, and as often as there are some."""
        return sum((1 + len(self.profiles(part, 0))) * part.side**2 for part in self.parts)


#: Parts of a place: with both windows; where there are several places a large window is two, so that no task is long.
_ALL, _FIRST, _SECOND = slice(None), slice(0, 1), slice(1, None)
_PARTS = (Part(SIDE, _ALL), Part(LARGE_SIDE, _ALL))
_MORE_PARTS = (Part(SIDE, _ALL), Part(LARGE_SIDE, _FIRST), Part(LARGE_SIDE, _SECOND))


def design(shape: Pair) -> Design:
    """Return the windows for an image of this shape."""
    shortest = min(shape)
    side = SIDE if shortest >= SIDE else SMALL_SIDE
    if shortest < side:
        return Design(shape, ())
    most = min(max(_PIXELS, int(_SHARE * math.prod(shape))), _MOST)
    if shortest < LARGE_SIDE:
        one = Design(shape, (Part(side, _ALL),))
        return replace(one, cell=_cells(shape, most // one.pixels, side))
    plan = Design(shape, _PARTS)
    more = replace(plan, parts=_MORE_PARTS)
    plan = more if most >= 2 * more.pixels else plan
    return replace(plan, cell=_cells(shape, most // plan.pixels, LARGE_SIDE))


def _cells(shape: Pair, count: int, side: int) -> Pair:
    """Size of at most ``count`` cells, as many and as square as there can be, each with room for ``side``."""
    best, tile = (0, 0.0), shape
    for ny in range(1, count + 1):
        for nx in range(1, count // ny + 1):
            cell = -(-shape[0] // ny), -(-shape[1] // nx)
            grid = TileGrid(shape, cell)
            last = grid.region((grid.counts[0] - 1, grid.counts[1] - 1))
            if min(last.shape) >= side and (rank := (len(grid), -abs(math.log(cell[0] / cell[1])))) > best:
                best, tile = rank, cell
    return tile


def arrangements(side: int, place: int, *, alone: bool = True) -> list[list[Profile]]:
    """Profiles of a window, those that are put in at one time.

    Those of one time have one level and lie far apart: what a recipe takes of a bright one must not count for a faint
    one beside it.

    Parameters
    ----------
    side : int
    place : int
        Number of the cell, by which kinds rotate.
    alone : bool
        Whether there are no larger windows, which have the largest profiles of this one, too.
    """
    largest, odd = side // _WIDTHS, place % 2
    (middle,), (a, b, c, d), cells = _middles(side, 1), _middles(side, 2), _middles(side, 4)
    if side == LARGE_SIDE:
        two = [
            Profile(*at, largest // 2, *kind) for at, kind in zip((a, d), zip(LEVELS, SERSIC, strict=True), strict=True)
        ]
        return [two, [Profile(*middle, largest, FAINT[odd], 1.0)]]
    found = []
    for level in LEVELS:
        found.append(_profiles([middle] * alone, largest, level, odd))
        found.append(_profiles([b, c] if odd else [a, d], largest // 2, level, 0))
        found.append(_profiles([a, b, d, c], largest // 4, level, odd))
        smaller = _profiles([cells[k] for k in (0, 2, 10, 8)], largest // 8, level, odd)
        found.append([*smaller, *_profiles([cells[k] for k in (5, 7, 15, 13)], largest // 16, level, odd)])
    return [profiles for profiles in found if profiles]


def _middles(side: int, n: int) -> list[tuple[float, float]]:
    """Middles of n x n parts of a window: where four pixels meet."""
    at = [(k + 0.5) * side / n - 0.5 for k in range(n)]
    return [(y, x) for y in at for x in at]


def _profiles(middles: list[tuple[float, float]], size: int, level: float, first: int) -> list[Profile]:
    """Exponential and de Vaucouleurs profiles in turn."""
    turn = [Profile(y, x, size, level, SERSIC[(first + k) % 2]) for k, (y, x) in enumerate(middles)]
    return [profile for profile in turn if size >= _SMALLEST and profile.signal >= _FAINTEST]


def window(cell: Region, side: int, valid: Callable[[Region], NDArray[np.bool_]]) -> Region | None:
    """Return the first square of a cell with enough valid pixels, else the best, else None; ``valid`` of a region."""
    best, most = None, 0.0
    for square in islice(places(cell.shape, (side, side)), _LOOKS):
        region = Region(cell.y0 + square.y0, cell.y0 + square.y1, cell.x0 + square.x0, cell.x0 + square.x1)
        share = float(np.mean(valid(region)))
        if share > most:
            best, most = region, share
        if share >= _ENOUGH:
            break
    return best if most >= _LEAST else None


def measured(
    plan: Design,
    shape: Pair,
    index: Pair,
    valid: Callable[[Region], NDArray[np.bool_]],
    pixels: Callable[[Region], Pixels],
) -> tuple[NDArray[np.void], str]:
    """Do one task: a part of the windows of a cell.

    Parameters
    ----------
    plan : Design
        Of the image.
    shape : (int, int)
        Of the image.
    index : (int, int)
        Of the task in the grid of the design's tiles.
    valid : callable
        Of a region: which pixels are.
    pixels : callable
        Of a window: `Pixels`.

    Returns
    -------
    ndarray of `ROW`, str
        What was taken of each profile, and why there is nothing ("": there is).
    """
    none = np.empty(0, ROW)
    if not plan.parts:
        return none, f"an image of {shape[0]} x {shape[1]} px has no window of {SMALL_SIDE} px"
    column, which = divmod(index[1], len(plan.parts))
    cells, part = TileGrid(shape, plan.cell), plan.parts[which]
    region = window(cells.region((index[0], column)), part.side, valid)
    if region is None:
        return none, f"no window of {part.side} px has half of its pixels valid"
    given = pixels(region)  # if these cannot be read the task fails, and is tried again
    try:
        rows = _of_window(given, plan.profiles(part, index[0] * cells.counts[1] + column))
    except TiledSkyError as error:
        return none, f"the recipe cannot work on a window of {part.side} px: {error}"
    found = np.concatenate([none, *rows])
    return found, "" if found.size else "no window has noise and profiles on valid pixels"


def _of_window(pixels: Pixels, times: list[list[Profile]]) -> list[NDArray[np.void]]:
    before, rms = pixels.sky(pixels.image)
    noise = float(np.median(rms[pixels.valid]))
    del rms
    if not (math.isfinite(noise) and noise > 0):
        return []
    rows, side = [], pixels.image.shape[0]
    for profiles in times:
        image = pixels.image.copy()
        for profile in profiles:
            for region in profile.quarters(side):
                image[region.slices] += profile.drawn(region, noise).astype(image.dtype)
        after = pixels.sky(image).background
        rows += [_taken(profile, noise, before, after, pixels.valid) for profile in profiles]
    return rows


def _taken(
    profile: Profile,
    noise: float,
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    valid: NDArray[np.bool_],
) -> NDArray[np.void]:
    """What was taken of a profile, as a share of its light on valid pixels; no row if too little of it is.

    Quarters of a round profile lose the same share: their scatter is the error.
    """
    quarters = profile.quarters(valid.shape[0])
    rises, lit, whole = np.zeros((len(quarters), len(WITHIN))), 0.0, 0.0
    for rise, region in zip(rises, quarters, strict=True):
        light, known = profile.drawn(region, noise), valid[region.slices]
        lit, whole = lit + light[known].sum(), whole + light.sum()
        distance, difference = profile.distance(region), after[region.slices].astype(np.float64)
        difference -= before[region.slices]
        rise[:] = [difference[known & (distance <= times * profile.size)].sum() for times in WITHIN]
    if not lit >= _LIT * whole:
        return np.empty(0, ROW)
    row = np.zeros(1, ROW)
    for name in ("size", "level", "sersic", "signal"):
        row[name] = getattr(profile, name)
    row["taken"], row["error"] = rises.sum(axis=0) / lit, 2 * rises.std(axis=0, ddof=1) / lit
    return row
