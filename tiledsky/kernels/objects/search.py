"""Search for large objects on a mesh: galaxies, halos of stars, light between the galaxies of a cluster.

What tells them from a sky: their light falls from a peak convexly, with a cusp, where a maximum of a smooth sky is
concave (`tiledsky.kernels.objects.examine`); or it falls steeply from a core that is far brighter, as no sky does; and
the sky about them has nothing like it, neither above nor below.

The search goes in rounds. The first has no sky: it looks for what is certain, bright cores in much light. Each of the
others has a stiff sky of the boxes that no object of the round before covers. `find` looks again at the objects that
are known, each without the light of the others, and for new ones in what is left; `accepted` chooses. Two new objects
that shine on each other's centres do not come in one round: the brighter comes first. So the brightest are taken off
before the fainter are looked for, and no order of places matters: `find` depends on the boxes within `REACH` of a
place and on the objects, `accepted` on all rows, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd.elementary import sine_cosine
from tiledsky.kernels.objects.candidates import LEAST, SCALES, candidates, filled, from_below, smoothings
from tiledsky.kernels.objects.catalogue import KNOTS, OBJECT, Objects, inside, light, no_objects, ordered
from tiledsky.kernels.objects.examine import FAINTEST, Seen, Shape, depth, refined
from tiledsky.kernels.objects.profiles import EDGES, Floats, Maps

#: Boxes beside a tile that `find` needs: rings of profiles end at 192 boxes of a centre, which may lie 25 boxes from a
#: peak in the tile.
REACH = 256
#: Rounds with a sky, after the first.
ROUNDS = 4
#: What a row is, its first score: a known object again, a new one; light that sky may have as well, above or below it.
_KNOWN, _NEW, _LIKE_SKY, _BELOW = range(4)
#: An object has so many times the light, 20 px from its centre, that sky has within so many pixels.
_ABOVE, _NEIGHBOURHOOD = 1.5, 1536.0
#: Without a core it has so many times the light that sky lacks within so many times its extent: a sky that bends as
#: much as that about a place has a maximum there as well.
_ABOVE_DIPS, _AROUND = 5.0, 3.0
#: Of new objects so near each other, px, there is one: that with the brightest boxes about its centre; and their least.
_SAME, _FAINT = 40.0, 1e-6
#: Share of its own light at 20 px that others may have at the centre of one that is alone.
_ALONE = 0.05
#: In the light of a known object: how much brighter a new one is, with and without a core.
_CORED, _PLAIN = 1.0, 3.0
#: An extent grows by so much in a round; that of an object in the light of a brighter one does not, and its light falls
#: by this power beyond its profile: the others' light is known to a few percent only.
_GROWTH, _STEEP = 3.0, -4.0
#: Share of the light of objects so many times brighter, at its centre, that an object may hold by mistake.
_THEIRS, _GREAT = 0.5, 5.0
#: Share of the image that one object may cover, of the way to the farthest corner, and all of them, of the area: a sky
#: is made of the rest. All extents shrink by this till that is so.
_FARTHEST, _COVERED, _SHRINK = 0.9, 0.95, 0.85
#: Places along each axis that are looked at for that.
_GRID = 64


@dataclass(frozen=True)
class Boxes:
    """A window of the mesh, from the box ``corner`` on; maps of float64, in units of the image.

    Attributes
    ----------
    residual : ndarray (rows, columns)
        Boxes under the mask, minus the stiff sky (if ``level``: no sky); any number where the weight is 0.
    weight : ndarray (rows, columns)
        0 where a box does not count; none knows of objects.
    noise : ndarray (rows, columns)
        Standard deviation of the value of a box; any number where the weight is 0.
    unmasked : ndarray (rows, columns)
        Boxes without a mask of sources, minus the same; NaN where there is no valid pixel.
    corner : (int, int)
        First box of the window on the mesh.
    size : (int, int)
        Of a box, pixels.
    unit : float
        Noise of a pixel.
    level : bool
        No sky is known: only light above what is about it counts.
    """

    residual: Floats
    weight: Floats
    noise: Floats
    unmasked: Floats
    corner: Pair
    size: Pair
    unit: float
    level: bool = False

    def minus(self, known: Floats) -> Maps:
        """Maps without some light, in units of the noise of a pixel."""
        rest, bare = ((of - known) / self.unit for of in (self.residual, self.unmasked))
        rest = np.where(self.weight > 0.0, rest, 0.0)
        noise = np.where(self.weight > 0.0, self.noise / self.unit, 0.0)
        return Maps(
            rest, np.ascontiguousarray(bare), np.ascontiguousarray(self.weight), noise, *self.corner, *self.size
        )

    def light(self, objects: Objects) -> Floats:
        """Light of objects in the boxes."""
        return light(objects, *self.corner, (self.weight.shape[0], self.weight.shape[1]), self.size)


def find(boxes: Boxes, objects: Objects, interior: Region) -> Objects:
    """Find what may be an object with its peak in a tile, and what is like one but is not; look again at known ones.

    Parameters
    ----------
    boxes : Boxes
        The tile and `REACH` boxes more, as far as there are any.
    objects : ndarray of OBJECT
        Those that are accepted so far.
    interior : Region
        Tile, on the mesh.

    Returns
    -------
    ndarray of OBJECT
        In any order, with what `accepted` goes by in ``scores``: what the row is, light 20 px from the centre, the
        first extent, and light of the boxes about the centre, above 0 for a core.

    Notes
    -----
    What is found depends on boxes within `REACH` of it alone. Memory: 250 bytes a box.
    """
    edges = EDGES * (max(boxes.size) / 6.0)
    known = boxes.light(objects)
    maps = boxes.minus(known)
    inner = interior.within(Region(maps.y0, maps.y0 + maps.rest.shape[0], maps.x0, maps.x0 + maps.rest.shape[1]))
    rows = [] if boxes.level else list(_again(boxes, maps, objects, edges, interior))
    value = smoothings(maps, inner)
    smooth = filled(maps, value[SCALES[0]])
    taken = {(int(o["y"] // maps.by), int(o["x"] // maps.bx)) for o in objects}
    for i, j in candidates(maps, inner, value, smooth, level=boxes.level):
        if any((maps.y0 + i + a, maps.x0 + j + b) in taken for a in range(-4, 5) for b in range(-4, 5)):
            continue
        seen = refined(maps, smooth, Shape(*maps.centre(i, j)), edges, level=boxes.level)
        if seen is None or seen.near < _outshone(seen) * known[i, j] / boxes.unit or (boxes.level and not seen.cored):
            continue
        row = _row(seen, _NEW if seen.is_object else _LIKE_SKY, boxes.unit, edges)
        row["scores"][0, 3] = (1.0 if seen.cored else -1.0) * max(_core(maps.bare, i, j), _FAINT) * boxes.unit
        rows.append(row)
    if not boxes.level:
        under = maps._replace(rest=-maps.rest)
        for i, j in from_below(value, inner):
            dip = depth(under, *maps.centre(i, j), edges)
            if dip > LEAST:
                rows.append(_dip(*maps.centre(i, j), dip * boxes.unit))
    return np.concatenate([no_objects(), *rows])


def accepted(rows: Sequence[Objects], objects: Objects, *, image: Pair, keep: float | None = None) -> Objects:
    """Choose the objects of a round.

    Parameters
    ----------
    rows : sequence of ndarray of OBJECT
        What `find` has found in each tile, in any order.
    objects : ndarray of OBJECT
        Those that were accepted before, which this round replaces.
    image : (int, int)
        Shape of the image.
    keep : float, optional
        Largest half-light radius, px; None: any.

    Returns
    -------
    ndarray of OBJECT
        The brightest first.
    """
    found = ordered(np.concatenate([no_objects(), *rows]))
    kind = found["scores"][:, 0]
    if keep is not None:
        found = found[(kind >= _LIKE_SKY) | (found["half_light_radius"] <= keep)]
        kind = found["scores"][:, 0]
    far = np.square(np.maximum(found["y"], image[0] - found["y"]))
    far = np.sqrt(far + np.square(np.maximum(found["x"], image[1] - found["x"])))
    found["extent"] = np.minimum(found["extent"], _FARTHEST * far)
    good = np.concatenate([found[kind == _KNOWN], _apart(found[kind == _NEW])])
    sky = found[kind >= _LIKE_SKY]
    sky = sky[[not _covered(one, good) for one in sky]]
    kept = ordered(good[[_stands_out(one, sky) for one in good]])
    grid = (-(-image[0] // _GRID), -(-image[1] // _GRID))
    cells = (-(-image[0] // grid[0]), -(-image[1] // grid[1]))
    while float(np.mean(inside(kept, 0, 0, cells, grid))) > _COVERED:
        kept["extent"] *= _SHRINK
    return kept


def _apart(new: Objects) -> Objects:
    """New objects that may come in one round, the brightest at 20 px first."""
    core = np.abs(new["scores"][:, 3])
    new = new[[not (core[_distances(new, one) < _SAME] > abs(one["scores"][3])).any() for one in new]]
    taken = no_objects()
    for k in np.lexsort((new["x"], new["y"], -new["scores"][:, 1])):
        one = new[k : k + 1]
        near = taken[_distances(taken, new[k]) < 2.0 * np.maximum(taken["extent"], one["extent"])]
        if _at(near, new[k]) <= _ALONE * new[k]["scores"][1] and all(
            _at(one, other) <= _ALONE * other["scores"][1] for other in near
        ):
            taken = np.append(taken, one)
    return taken


def _stands_out(one: np.void, sky: Objects) -> bool:
    """Whether an object has more light than what is like it but sky, about it."""
    far, (_, own, _, cored) = _distances(sky, one), one["scores"]
    near = sky["scores"][far < _NEIGHBOURHOOD, 1]
    if not own > _ABOVE * near.max(initial=0.0):
        return False
    dips = sky["scores"][(far < _AROUND * one["extent"]) & (sky["scores"][:, 0] == _BELOW), 1]
    return bool(cored > 0.0 or own > _ABOVE_DIPS * dips.max(initial=0.0))


def _again(boxes: Boxes, maps: Maps, objects: Objects, edges: Floats, interior: Region) -> Iterator[Objects]:
    """Known objects with their centres in the tile, each without the light of the others."""
    for k in range(len(objects)):
        one = objects[k]
        i, j = int(one["y"] // maps.by), int(one["x"] // maps.bx)
        if not (interior.y0 <= i < interior.y1 and interior.x0 <= j < interior.x1):
            continue
        reach = min(int(4.0 * one["extent"]) // max(boxes.size) + 16, REACH)
        mine = maps.about(i, j, reach)
        own = light(objects[k : k + 1], mine.y0, mine.x0, mine.shape, boxes.size) / boxes.unit
        mine = mine._replace(rest=np.where(mine.weight > 0.0, mine.rest + own, 0.0), bare=mine.bare + own)
        shape = Shape(*(float(one[name]) for name in ("y", "x", "axis_ratio", "angle")))
        seen = refined(mine, filled(mine), shape, edges, level=False)
        core, first = float(one["scores"][3]), float(one["scores"][2])
        if core > 0.0 and seen is None:
            row = objects[k : k + 1].copy()  # too much of it is in others' models for now
            row["scores"][0, 0], row["slope"] = _KNOWN, min(float(one["slope"]), _STEEP)
            yield row
            continue
        if seen is None or seen.near < _outshone(seen) * _at(np.delete(objects, k), one) / boxes.unit:
            continue
        within = _at(objects[:k], one) > _ALONE * float(one["scores"][1])
        if within:
            seen = seen._replace(extent=min(seen.extent, first), slope=min(seen.slope, _STEEP))
            great = objects[:k][objects["flux"][:k] > _GREAT * one["flux"]]
            seen = _above(seen, _THEIRS * _at(great, one) / boxes.unit)
        row = _row(seen, _KNOWN if seen.is_object or core > 0.0 else _LIKE_SKY, boxes.unit, edges)
        row["scores"][0, 2:] = first, abs(core) if seen.cored or core > 0.0 else -abs(core)
        if not within:
            row["extent"] = min(max(float(one["extent"]), seen.extent), _GROWTH * float(one["extent"]))
        yield row


def _above(seen: Seen, others: float) -> Seen:
    """Object without the light at its end, as far as that may be of far brighter ones; its profile ends there."""
    end = float(np.interp(seen.extent, seen.radius, seen.light))
    light = seen.light - min(max(end - FAINTEST, 0.0), others)
    n = max(int(np.count_nonzero((light > FAINTEST) & (seen.radius <= seen.extent))), 1)
    return seen._replace(radius=seen.radius[:n], light=np.maximum(light[:n], FAINTEST))


def _outshone(seen: Seen) -> float:
    return _CORED if seen.cored else _PLAIN


def _row(seen: Seen, kind: int, unit: float, edges: Floats) -> Objects:
    """Row of the catalogue: the flux is that of the rings of the profile."""
    row, n = np.zeros(1, OBJECT), min(seen.radius.size, KNOTS)
    ring = np.searchsorted(edges, seen.radius, side="right")
    area = math.pi * seen.place.ratio * (np.square(edges[ring]) - np.square(edges[ring - 1]))
    grown = np.cumsum(area * seen.light)
    half = min(int(np.searchsorted(grown, 0.5 * grown[-1])), n - 1)
    row["y"], row["x"], row["axis_ratio"], row["angle"] = seen.place.y, seen.place.x, seen.place.ratio, seen.place.angle
    row["extent"], row["slope"], row["n_knots"] = seen.extent, seen.slope, n
    row["radius"][0, :n], row["light"][0, :n] = seen.radius[:n], seen.light[:n] * unit
    row["flux"], row["half_light_radius"] = grown[-1] * unit, seen.radius[half]
    row["scores"][0] = kind, seen.near * unit, seen.extent, float(seen.cored)
    return row


def _dip(y: float, x: float, light_below: float) -> Objects:
    row = np.zeros(1, OBJECT)
    row["y"], row["x"], row["scores"][0] = y, x, (_BELOW, light_below, 0.0, 0.0)
    return row


def _core(bare: Floats, i: int, j: int) -> float:
    """Mean light of the 3 x 3 boxes about a place."""
    part = bare[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
    there = part[np.isfinite(part)]
    return math.fsum(there.tolist()) / there.size if there.size else 0.0


def _at(objects: Objects, place: np.void) -> float:
    """Light of objects at the centre of another one."""
    return float(light(objects, round(float(place["y"])), round(float(place["x"])), (1, 1))[0, 0])


def _distances(objects: Objects, place: np.void) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(objects["y"] - place["y"]) + np.square(objects["x"] - place["x"])))


def _covered(one: np.void, objects: Objects) -> bool:
    """Whether the centre of one lies within the extent of others."""
    for other in objects[_distances(objects, one) < objects["extent"]]:
        sine, cosine = sine_cosine(float(other["angle"]))
        dy, dx = float(one["y"] - other["y"]), float(one["x"] - other["x"])
        along, across = cosine * dx + sine * dy, (cosine * dy - sine * dx) / float(other["axis_ratio"])
        if along * along + across * across < float(other["extent"]) ** 2:
            return True
    return False
