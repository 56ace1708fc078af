"""Numbers that stand for no data: what a user says of them, and a look at an image for those that nobody spoke of.

Outside their coverage many images hold one number, 0 or -99 or the lowest of their type, that no plane tells from sky.
Noise does not give a block of 4 x 4 pixels one value: so a number that fills blocks, and seldom all but one pixel of a
block, is no datum, or the image has no noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.images import as_float
from tiledsky.kernels.detection.constants import BLOCK, DIP, NEAR, SOLID, UNUSED, block_kinds

#: What `checked` makes of what a user gives: a number, "auto", or None.
AUTO = "auto"
#: Images of at most so many pixels are looked at whole; of larger ones as many patches of this shape.
WHOLE, PATCHES, PATCH = 1 << 22, 96, (16, 256)
#: Patches along each border, beside these.
_ALONG = 8
#: Share of the pixels from which a number in solid blocks counts wherever it is; below, at the border alone.
LARGE = 0.005
#: At the border, so many pixels of it in a row.
_RUN = 16
#: Blocks that are one pixel short of solid, as a share of the solid ones, from which a number comes by chance.
BY_CHANCE = 0.5
#: Share of the blocks that are not solid which have a dip, below which an image has no noise.
TEXTURE = 0.1
#: A largest number that fills less than this share, with others close below it, is where a detector saturates.
_SATURATED = 0.05


def checked(value: float | str | None, dtype: Any = None) -> float | str | None:
    """Return the number that means no data as a pixel of ``dtype`` has it, ``"auto"``, or None.

    Raises
    ------
    ParameterError
        Neither a number nor "auto"; NaN or infinity, which never count anyway; a number that ``dtype`` cannot hold.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() == AUTO):
        return None if value is None else AUTO
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ParameterError(f"nodata {value!r} is not a number, so no pixel has it; give a number, or auto") from None
    if not math.isfinite(number):
        raise ParameterError(
            f"nodata {value} changes nothing: pixels that are NaN or infinite never count; leave nodata out, or set "
            'uncovered = "invalid" in the recipe to have the fill value there'
        )
    with np.errstate(over="ignore"):
        same = number if dtype is None else float(np.dtype(dtype).type(number))
    if not math.isfinite(same):
        raise ParameterError(f"nodata {value} is beyond {np.dtype(dtype)}, so no pixel has it; give another number")
    return same


def empty(science: NDArray[np.floating], nodata: float) -> NDArray[np.bool_]:
    """Where pixels (float32 or float64, as they are worked on) are the number that means no data."""
    return np.asarray(science == science.dtype.type(nodata))


def without(science: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """Return pixels as float32 or float64, NaN where they mean no data; the same array where nothing changes."""
    pixels = as_float(science)
    if nodata is None:
        return pixels
    return np.where(empty(pixels, nodata), pixels.dtype.type(np.nan), pixels)


#: Of an image without noise.
NO_NOISE = "the image shows no noise"


def nodata_option(number: str = "") -> str:
    """Return the option that says which number means no data, as it is written on the command line and in Python."""
    return f"--nodata{' ' * bool(number)}{number} (Python: nodata={number})"


def share_words(share: float, number: str | None) -> str:
    """Say how many pixels have a number; None: not one and the same."""
    has = "have one value each in patches" if number is None else f"are exactly {number}"
    return f"{100 * share:.3g}% of the pixels {has}"


def sky_words(share: str, where: str, number: str | None) -> str:
    """Say that pixels count as sky that may mean no data, and what to do; ``share``: of `share_words`."""
    advice = "" if number is None else f"; if that means no data, give {nodata_option(number)}"
    return f"{share}, {where}, and count as sky{advice}"


@dataclass(frozen=True)
class Candidate:
    """The number of an image that may mean no data.

    Attributes
    ----------
    value : float or None
        The number that fills most solid blocks; None: there are none.
    share : float
        Of the valid pixels looked at that have it.
    place : (int, int)
        A pixel (y, x) in the midst of those that have it.
    at_border : bool
        Whether it stands along a border of the image.
    by_chance : bool
        Whether noise in whole numbers, or few counts, explain it.
    saturated : bool
        Whether it is the largest value, with others close below it.
    noisy : bool
        Whether the pixels beside it have noise.
    whole : bool
        Whether the whole image was looked at.
    single : bool
        Whether the pixels are float32.
    """

    value: float | None = None
    share: float = 0.0
    place: Pair = (0, 0)
    at_border: bool = False
    by_chance: bool = False
    saturated: bool = False
    noisy: bool = True
    whole: bool = True
    single: bool = False

    @property
    def nodata(self) -> float | None:
        """The number that should mean no data; None: none, or the image has no noise to tell it by."""
        told = self.noisy and not self.by_chance and not self.saturated
        return self.value if told and (self.share >= LARGE or self.at_border) else None

    def words(self, label: str, beside: Sequence[str] = ()) -> str | None:
        """One line on what is wrong; None if nothing is. ``beside``: options that give planes of the same file."""
        share = ("" if self.whole else "about ") + share_words(self.share, self.text)
        where = f"as around pixel (y, x) = ({self.place[0]}, {self.place[1]})"
        if not self.noisy:
            same = f" ({share}, {where})" if self.value is not None else ""
            return (
                f"{label}: {NO_NOISE}{same}, so thresholds in units of it mean little, and so do tests of the sky; add "
                "noise, or use a recipe without a mask step; a number that means no data is given with "
                f"{nodata_option()}"
            )
        if self.nodata is None:
            return None
        planes = f", or the plane in the same file: {' or '.join(beside)}" if beside else ""
        return f"{label}: {sky_words(share, where, self.text)}{planes}"

    @property
    def text(self) -> str:
        """The number as it is to be given: the shortest that is the same pixel value."""
        return "none" if self.value is None else number_text(self.value, single=self.single)


def number_text(value: float, *, single: bool = False) -> str:
    """Shortest decimal number that is the same as float64, or with ``single`` as float32."""
    short = f"{value:g}"
    return short if float(short) == value else str(np.float32(value)) if single else repr(value)


def places(shape: Pair) -> list[Region]:
    """Patches of an image that are looked at, by its shape alone: along its borders, and evenly over it.

    The order of those within is that of Roberts' sequence, multiples of the plastic number's powers modulo 1.
    """
    if shape[0] * shape[1] <= WHOLE:
        return [Region.whole(shape)]
    size = min(PATCH[0], shape[0]), min(PATCH[1], shape[1])
    room = shape[0] - size[0], shape[1] - size[1]
    steps = [k / (_ALONG - 1) for k in range(_ALONG)]
    corners = [(y, x) for k in steps for y, x in ((0, k), (1, k), (k, 0), (k, 1))]
    corners += [((0.5 + k * 0.7548776662466927) % 1, (0.5 + k * 0.5698402909980532) % 1) for k in range(PATCHES)]
    starts = dict.fromkeys((round(y * room[0]), round(x * room[1])) for y, x in corners)
    return [Region(y, y + size[0], x, x + size[1]) for y, x in starts]


def look_at(read: Callable[[Region], NDArray[Any]], shape: Pair, nodata: float | None = None) -> Candidate:
    """Look at an image of ``shape``, of which ``read`` gives regions; pixels that are ``nodata`` do not count."""
    regions = places(shape)
    return look([read(region) for region in regions], regions, shape, nodata)


def look(patches: Sequence[Any], regions: Sequence[Region], shape: Pair, nodata: float | None = None) -> Candidate:
    """Look at the pixels of some regions of an image."""
    pixels = [as_float(np.asarray(patch)) for patch in patches]
    used = [np.isfinite(p) if nodata is None else np.isfinite(p) & ~empty(p, nodata) for p in pixels]
    kinds = [block_kinds(np.ascontiguousarray(p), u) for p, u in zip(pixels, used, strict=True)]
    counts = np.sum([np.bincount(k.ravel(), minlength=SOLID + 1) for k in kinds], axis=0)
    if counts.sum() == counts[UNUSED]:
        return Candidate(whole=len(regions) == 1)
    solid, near = int(counts[SOLID]), int(counts[NEAR])
    others = int(counts.sum()) - int(counts[UNUSED]) - solid
    noisy = others > 0 and counts[DIP] >= TEXTURE * others
    found = Candidate(noisy=bool(noisy), whole=regions[0] == Region.whole(shape), by_chance=near > BY_CHANCE * solid)
    if not solid:
        return found
    values = np.concatenate([_corners(p)[k == SOLID] for p, k in zip(pixels, kinds, strict=True)])
    numbers, filled = np.unique(values, return_counts=True)
    value = float(numbers[np.argmax(filled)])
    # of the patches that are spread evenly: those along the borders would make too much of what stands there
    evenly = list(zip(pixels, used, strict=True))[-PATCHES:]
    share = _count(empty(p, value) for p, _ in evenly) / max(_count(u for _, u in evenly), 1)
    seen = list(zip(pixels, regions, strict=True))
    return Candidate(
        value,
        share,
        _place(pixels, kinds, regions, value),
        any(_along_border(p, r, shape, value) for p, r in seen),
        found.by_chance,
        share < _SATURATED and _is_saturated(pixels, used, value),
        found.noisy,
        found.whole,
        all(p.dtype == np.float32 for p in pixels),
    )


def _count(flags: Iterable[NDArray[np.bool_]]) -> int:
    return sum(int(np.count_nonzero(part)) for part in flags)


def _corners(pixels: NDArray[Any]) -> NDArray[Any]:
    """First pixel of each block."""
    ny, nx = (n // BLOCK * BLOCK for n in pixels.shape)
    return pixels[:ny:BLOCK, :nx:BLOCK]


def _place(
    pixels: Sequence[NDArray[Any]], kinds: Sequence[NDArray[np.uint8]], regions: Sequence[Region], value: float
) -> Pair:
    """A pixel in the midst of the solid blocks of a value, in the patch that has most of them."""
    solid = [(k == SOLID) & (_corners(p) == value) for p, k in zip(pixels, kinds, strict=True)]
    most = int(np.argmax([np.count_nonzero(s) for s in solid]))
    y, x = (int(n[n.size // 2]) for n in np.nonzero(solid[most]))
    return regions[most].y0 + BLOCK * y + BLOCK // 2, regions[most].x0 + BLOCK * x + BLOCK // 2


def _along_border(pixels: NDArray[Any], region: Region, shape: Pair, value: float) -> bool:
    """Whether some `_RUN` pixels in a row along a border of the image, `BLOCK` deep, have a value."""
    return any(_longest_run(np.all(strip == value, axis=0)) >= _RUN for strip in _borders(pixels, region, shape))


def _borders(pixels: NDArray[Any], region: Region, shape: Pair) -> Iterator[NDArray[Any]]:
    """Strips of a patch along the borders of the image, each with its length along the second axis."""
    if region.y0 == 0:
        yield pixels[:BLOCK]
    if region.y1 == shape[0]:
        yield pixels[-BLOCK:]
    if region.x0 == 0:
        yield pixels[:, :BLOCK].T
    if region.x1 == shape[1]:
        yield pixels[:, -BLOCK:].T


def _longest_run(flags: NDArray[np.bool_]) -> int:
    ends = np.flatnonzero(np.concatenate([[True], ~flags, [True]]))
    return int(np.diff(ends).max()) - 1


def _is_saturated(pixels: Sequence[NDArray[Any]], used: Sequence[NDArray[np.bool_]], value: float) -> bool:
    """Whether a value is the largest, and others lie in the upper half of the way to it from the median."""
    rest = [p[u & ~empty(p, value)] for p, u in zip(pixels, used, strict=True)]
    others = np.concatenate(rest).astype(np.float64)
    if not others.size or others.max() > value:
        return False
    return bool(others.max() > (float(np.median(others)) + value) / 2)
