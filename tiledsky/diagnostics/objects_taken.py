"""How much of the light of the large objects that an image has is in its background."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.fields import Fields, Number, Position
from tiledsky.diagnostics.object_boxes import BOXES, box_means, box_side, large_objects_of
from tiledsky.diagnostics.patches import Floats, number
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.kernels._simd.elementary import sine_cosine
from tiledsky.kernels.objects.catalogue import Objects, inside, light
from tiledsky.kernels.objects.stiff import stiff_sky

#: Objects are judged whose light within the aperture is so many times its noise.
OBJECT = 10.0
#: Apertures end at so many half-light radii, or at the extent; they have so many boxes at least.
_RADII, _FEW = (2.0, 4.0, math.inf), 4
#: Share of an aperture that has pixels; a rise of the sky by more than so many times the light there is not its light.
_SEEN, _MOST = 0.8, 1.5
#: The sky about an object is that from its extent on, in a ring that ends at so many times the extent and at least so
#: many boxes farther out; so many of its eighths have so many boxes.
_RING, _WIDEST, _EIGHTHS, _LEAST = 1.35, 6, 5, 3
#: Boxes of those of a ring that are listed; errors above 0 from which a share is one.
_LISTED, _ERRORS = 50, 3.0

DEFINITION = (
    "large objects that the image has (peaked light under a stiff sky, in boxes of 8 px and more), and those of the "
    "recipe's catalogue; taken: light of the background above that of the ring around the object, within 2 or 4 "
    "half-light radii or its extent, over the light of the objects there; error: from the scatter of the ring's "
    "eighths, and from the stiff sky instead of a level one"
)


class Taken(Position):
    """An object, its size (half-light radius, px) and share that the background took."""

    extent: Number = None
    flux: Number = None
    signal: Number = None
    taken: Number = None
    taken_error: Number = None


class ObjectsTaken(Fields):
    """Objects, those first of which most is taken for certain."""

    not_measured: str | None = None
    box: Number = None
    n: Number = None
    objects: list[Taken] = []


class _Maps(NamedTuple):
    """Boxes of the image: valid pixels, their background, and that above the stiff sky; 0 without any.

    Boxes that no object covers are ``free``; ``elsewhere``: mean and error of all of them, of both.
    """

    valid: Floats
    background: Floats
    above: Floats
    free: NDArray[np.bool_]
    side: int
    noise: float
    elsewhere: tuple[tuple[float, float] | None, ...]


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    found: dict[str, Any] = {"unit": "1", "not_measured": None, "box": box_side(image.shape), "n": 0, "objects": []}
    boxes, objects = image.once(box_means), image.once(large_objects_of)
    if isinstance(boxes, str) or objects is None:
        return {**found, "not_measured": boxes}
    side, valid, level = boxes.side, boxes.valid, boxes.background
    above = np.where(valid > 0, level - stiff_sky(boxes.sky, boxes.weight, objects, box=side), 0.0)
    free = (valid > 0) & ~inside(objects, 0, 0, (valid.shape[0], valid.shape[1]), (side, side))
    eighth = np.indices(valid.shape)
    eighth = 4 * (eighth[0] * 2 // valid.shape[0]) + eighth[1] * 4 // valid.shape[1]
    level = np.where(valid > 0, level, 0.0)
    elsewhere = _around(level, valid, free, eighth, least=3), _around(above, valid, free, eighth, least=3)
    maps = _Maps(valid, level, above, free, side, boxes.unit * boxes.stretch, elsewhere)
    rows = [_row(objects, k, maps) for k in range(len(objects))]
    rows.sort(key=lambda row: (-certain(row["taken"], row["taken_error"]), row["y"], row["x"]))
    to_sky = image.facts.to_sky
    for row in rows[:_LISTED]:
        ra, dec = (None, None) if to_sky is None else to_sky(np.array([row["x"]]), np.array([row["y"]]))
        row["ra"], row["dec"] = (None if c is None else number(float(c[0]), 10) for c in (ra, dec))
    return {**found, "n": len(rows), "objects": rows[:_LISTED]}


def _row(objects: Objects, k: int, maps: _Maps) -> dict[str, Any]:
    """Return what was taken of an object: of its apertures in that which says most."""
    one, box = objects[k], (maps.side, maps.side)
    size, end = float(one["half_light_radius"]), float(one["extent"])
    outer = max(_RING * end, end + _WIDEST * maps.side)
    region = _about(one, outer, maps)
    y0, x0, shape = region[0].start, region[1].start, maps.valid[region].shape
    radius, eighth = _polar(one, y0, x0, shape, maps.side)
    valid = maps.valid[region]
    ring = maps.free[region] & (radius > end) & (radius <= outer)
    skies = [_around(of[region], valid, ring, eighth) for of in (maps.background, maps.above)]
    wide = None in skies
    known = [sky for sky in (maps.elsewhere if wide else skies) if sky is not None]
    own, all_light = (light(of, y0, x0, shape, box) for of in (objects[k : k + 1], objects))
    best: tuple[float | None, float | None, float] = None, None, 0.0
    for times in _RADII:
        most = max(min(times * size, end), 2.0 * maps.side)
        aperture = (valid > 0) & (radius <= most)
        pixels = float(valid[aperture].sum())
        if np.count_nonzero(aperture) < _FEW or pixels < _SEEN * math.pi * most * most * float(one["axis_ratio"]):
            continue
        flux, total = (float((of * valid)[aperture].sum()) for of in (own, all_light))
        signal = flux / (maps.noise * math.sqrt(pixels))
        best = *best[:2], max(best[2], signal)
        if signal < OBJECT or len(known) < 2:
            continue
        high = [
            float((of[region] * valid)[aperture].sum()) / pixels - sky[0]
            for of, sky in zip((maps.background, maps.above), known, strict=True)
        ]
        # a ring's eighths are many tries at the sky beside it; all of the image says how much a sky may differ
        scatter = math.sqrt(8) * max(known[0][1], known[1][1]) if wide else min(known[0][1], known[1][1])
        error = math.hypot(scatter, 0.5 * (high[0] - high[1])) * pixels / total
        taken = 0.5 * (high[0] + high[1]) * pixels / total
        if taken <= _MOST and (best[0] is None or certain(taken, error) > certain(*best[:2])):
            best = taken, error, best[2]
    return {
        "y": round(float(one["y"]), 1),
        "x": round(float(one["x"]), 1),
        "size": number(size, 4),
        "extent": number(end, 4),
        "flux": number(float(one["flux"]), 5),
        "signal": number(best[2], 4),
        "taken": None if best[0] is None else number(best[0], 4),
        "taken_error": None if best[1] is None else number(best[1], 3),
    }


def _about(one: np.void, reach: float, maps: _Maps) -> tuple[slice, slice]:
    """Boxes about an object."""
    sides = []
    for name, count in zip(("y", "x"), maps.valid.shape, strict=True):
        at = float(one[name])
        first, last = int((at - reach) // maps.side), int((at + reach) // maps.side) + 1
        sides.append(slice(min(max(first, 0), count - 1), max(min(last, count), 1)))
    return sides[0], sides[1]


def _polar(one: np.void, y0: int, x0: int, shape: tuple[int, ...], side: int) -> tuple[Floats, NDArray[np.int64]]:
    """Elliptical radius of boxes about an object, px, and the eighth of the ellipse that they lie in."""
    y, x = ((np.arange(n) + first) * side + 0.5 * (side - 1) for n, first in zip(shape, (y0, x0), strict=True))
    sine, cosine = sine_cosine(float(one["angle"]))
    dy, dx = y[:, None] - float(one["y"]), x[None, :] - float(one["x"])
    along, across = cosine * dx + sine * dy, (cosine * dy - sine * dx) / float(one["axis_ratio"])
    eighth = (along > 0.0) + 2 * (across > 0.0) + 4 * (np.abs(along) > np.abs(across))
    return np.sqrt(along * along + across * across), eighth.astype(np.int64)


def _around(
    of: Floats, valid: Floats, ring: NDArray[np.bool_], eighth: NDArray[np.int64], *, least: int = _EIGHTHS
) -> tuple[float, float] | None:
    """Mean of a ring, and its error by the scatter of its eighths; None where too few of these are seen."""
    means = []
    for k in range(8):
        part = ring & (eighth == k)
        if np.count_nonzero(part) >= _LEAST:
            means.append(float((of[part] * valid[part]).sum() / valid[part].sum()))
    if len(means) < least:
        return None
    return sum(means) / len(means), float(np.std(means, ddof=1)) / math.sqrt(len(means))


def certain(taken: float | None, error: float | None) -> float:
    """Share that is taken for certain; below 0: none."""
    return -1.0 if taken is None or error is None else taken - _ERRORS * error


def _worst(found: ObjectsTaken) -> Taken | None:
    known = [one for one in found.objects if one.taken is not None]
    return max(known, key=lambda one: certain(one.taken, one.taken_error), default=None)


def _share(found: ObjectsTaken, _: float) -> CheckValue:
    if found.not_measured is not None:
        return None
    worst = _worst(found)
    if worst is None or worst.taken is None:
        return (0.0, 0.0) if not found.objects else None
    unknown = any(one.taken is None and (one.signal or 0.0) >= OBJECT for one in found.objects)
    if unknown and certain(worst.taken, worst.taken_error) <= 0.0:  # what is not known is no pass
        return None
    return max(worst.taken, 0.0), worst.taken_error


MEASURE = Measure(
    name="objects_taken",
    definition=DEFINITION,
    fields=ObjectsTaken,
    finalize=finalize,
    parts=(BOXES,),
    checks=(
        Check(
            "objects_taken",
            "share",
            _share,
            place=_worst,
            next_step="keep its light: --recipe deep-sky, a larger --keep where one is set, or mask its region with "
            "--user-mask",
        ),
    ),
)
