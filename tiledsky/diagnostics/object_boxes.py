"""Small boxes of the image and its background, which large objects are looked for in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.parts import Part
from tiledsky.diagnostics.patches import Floats, PatchSums
from tiledsky.diagnostics.protocol import ImageSums
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.objects.catalogue import Objects, ordered
from tiledsky.kernels.objects.stiff import large_objects
from tiledsky.kernels.residual.box_columns import COLUMNS, box_columns
from tiledsky.kernels.residual.cell_sums import CELL, WIDTHS
from tiledsky.kernels.residual.own_mask import COMPACT
from tiledsky.kernels.residual.sky_sums import LOST
from tiledsky.planes import USER

#: Side of the smallest boxes, px, and most such boxes; of larger images boxes are 2, 4, 8 ... times as large, and there
#: are so many at most.
_SMALLEST, _FINE, MOST = 8, 100_000, 300_000
#: Share of the pixels of a box that are sky, from which it counts.
_ENOUGH = 0.25
#: An object of a given catalogue is the same as one within so many px, or half its extent.
_SAME = 40.0
#: Sky of a box lies within so many times the noise of a pixel of its mean.
_CLIP = 4.0
#: A box as tiles keep it: pixels that are sky, valid ones; means of the former, and of image, background and noise.
BOX = np.dtype([("n", "<u2"), ("valid", "<u2"), *((name, "<f4") for name in ("sky", "image", "background", "noise"))])


def box_side(shape: Pair) -> int:
    """Side of the boxes of an image of ``shape``, px."""
    side, most = _SMALLEST, _FINE
    while -(-shape[0] // side) * -(-shape[1] // side) > most:
        side, most = 2 * side, MOST
    return side


@dataclass(frozen=True)
class TileBoxes:
    """Boxes of a tile, or of one cell each where boxes are larger.

    Attributes
    ----------
    image : (int, int)
        Shape of the image; (0, 0) of a tile without cells.
    where : Region
        Boxes, counted from the first of the image.
    boxes : ndarray of BOX
    """

    image: Pair
    where: Region
    boxes: NDArray[np.void]


class ObjectBoxes(Part[TileBoxes, "Floats | None"]):
    """Sums of all boxes, (rows, columns, `COLUMNS`), in one array; None without any."""

    def add_band(self, tally: list[TileBoxes], band: Band) -> None:
        """Add up the boxes of a band."""
        side = min(box_side(band.pixels.shape), CELL)
        lost = (band.state == LOST) | ((band.bits & USER) != 0)
        planes = (band.science, band.background, band.rms, np.where(lost, LOST, np.uint8(0)), band.light & COMPACT)
        inner = (np.ascontiguousarray(plane[band.inner]) for plane in planes)
        columns = box_columns(*inner, box=side, limit=_CLIP)
        rows, across = columns.shape[0], columns.shape[1]
        made = np.zeros((rows, across), BOX)
        made["n"], made["valid"] = columns[..., 0], columns[..., 2]
        for name, k, count in (("sky", 1, 0), ("image", 3, 2), ("background", 4, 2), ("noise", 5, 2)):
            made[name] = columns[..., k] / np.maximum(columns[..., count], 1.0)
        top, left = band.where.y0 * CELL // side, band.where.x0 * CELL // side
        where = Region(top, top + rows, left, left + across)
        tally.append(TileBoxes(band.pixels.shape, where, made))

    def end(self, tally: list[TileBoxes], written: NDArray[np.floating]) -> TileBoxes:
        """Join the bands of a tile."""
        if not tally:
            return TileBoxes((0, 0), Region(0, 0, 0, 0), np.zeros((0, 0), BOX))
        first, last = tally[0].where, tally[-1].where
        where = Region(first.y0, last.y1, first.x0, first.x1)
        return TileBoxes(tally[0].image, where, np.concatenate([each.boxes for each in tally]))

    def to_bytes(self, value: TileBoxes) -> bytes:
        """Shape of the image, place, boxes."""
        return np.array([*value.image, *value.where], "<i8").tobytes() + value.boxes.tobytes()

    def from_bytes(self, data: bytes) -> TileBoxes:
        """Inverse of `to_bytes`."""
        ny, nx, *edges = np.frombuffer(data, "<i8", 6).tolist()
        where = Region(*edges)
        return TileBoxes((ny, nx), where, np.frombuffer(data, BOX, offset=48).reshape(where.shape))

    def add(self, total: list[PatchSums], tile: Region, value: TileBoxes) -> None:
        """Add the boxes of a tile, tiles in row order."""
        if value.image == (0, 0):
            return
        side = box_side(value.image)
        if not total:
            total.append(PatchSums(value.image, COLUMNS, side=side, unit=min(side, CELL)))
        total[0].add(value.where, _sums(value.boxes))

    def finish(self, total: list[PatchSums]) -> Floats | None:
        """Return the boxes of the image."""
        return total[0].sums if total else None


def _sums(boxes: NDArray[np.void]) -> Floats:
    """Sums from means."""
    n, valid = boxes["n"].astype(np.float64), boxes["valid"].astype(np.float64)
    others = (boxes[name] * valid for name in ("image", "background", "noise"))
    return np.stack([n, boxes["sky"] * n, valid, *others], axis=-1)


BOXES = ObjectBoxes("object boxes")


class BoxMeans(NamedTuple):
    """Means of boxes.

    Attributes
    ----------
    side : int
        Of a box, px.
    unit : float
        Noise of a pixel; of the mean of a box it is ``stretch`` times that of white noise.
    good : ndarray of bool
        Boxes with enough sky.
    n, valid : ndarray
        Pixels that are sky, valid pixels.
    sky, error : ndarray
        Mean of the sky and its error for white noise; 0 where not good.
    image, background : ndarray
        Means of the valid pixels; NaN without any.
    weight : ndarray
        Of the sky, 1 for a box that is all sky and has the usual noise; 0 where not good.
    """

    side: int
    unit: float
    stretch: float
    good: NDArray[np.bool_]
    n: Floats
    valid: Floats
    sky: Floats
    error: Floats
    image: Floats
    background: Floats
    weight: Floats


def large_objects_of(image: ImageSums) -> Objects | None:
    """Large objects: those found in the boxes, and those of the recipe that are none of these; None without boxes."""
    boxes = image.once(box_means)
    if isinstance(boxes, str):
        return None
    noise = boxes.error * boxes.stretch
    objects = large_objects(boxes.sky, boxes.weight, noise, boxes.image, box=boxes.side, unit=boxes.unit)
    return _with(objects, image.facts.objects)


def _with(objects: Objects, given: Objects | None) -> Objects:
    """Objects found, and those of a catalogue that are none of these."""
    if given is None:
        return objects
    more = []
    for one in given:
        far = np.hypot(objects["y"] - one["y"], objects["x"] - one["x"])
        if not (far < np.maximum(_SAME, 0.5 * objects["extent"])).any():
            more.append(one)
    return ordered(np.concatenate([objects, np.array(more, objects.dtype)])) if more else objects


def box_means(image: ImageSums) -> BoxMeans | str:
    """Return the means of the boxes of an image, or why it has none."""
    side, sums = box_side(image.shape), image.total(BOXES)
    if sums is None or not (sums[..., 2] > 0).any():
        return "the image has no valid pixel"
    n, sky, valid, light, background, noise = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        own, bare, level = noise / valid, light / valid, background / valid
    unit = float(np.nanmedian(own))
    if not (unit > 0.0 and np.isfinite(unit)):
        return "the image has no noise"
    good = n >= _ENOUGH * side * side
    if not good.any():
        return f"no box of {side} px has {_ENOUGH:.0%} of its pixels free of sources"
    weight = np.where(good, np.square(n / side**2 / (np.where(good, own, unit) / unit)), 0.0)
    values, errors = np.where(good, sky / np.maximum(n, 1.0), 0.0), np.where(good, own / np.sqrt(np.maximum(n, 1)), 0.0)
    scale = image.of("scale")
    stretch = (scale and scale["expected"][WIDTHS.index(min(side, WIDTHS[-1]))]) or 1.0
    return BoxMeans(side, unit, stretch, good, n, valid, values, errors, bare, level, weight)
