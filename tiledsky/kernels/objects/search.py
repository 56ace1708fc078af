"""Search for large objects in what a stiff sky leaves of the boxes of a mesh.

Light that falls from a peak convexly, with a cusp, is an object: a maximum of a smooth sky is concave. `find` looks
for it in a window of the mesh, `accepted` puts the windows together: which tiles there were does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd.elementary import log, power
from tiledsky.kernels.filters.smooth import gaussian_taps
from tiledsky.kernels.objects.catalogue import KNOTS, OBJECT, Objects, inside, no_objects, ordered

#: Boxes beside a tile that `find` needs.
REACH = 256
#: Rounds with a sky, which leaves out what the round before found, after one that knows no sky.
ROUNDS = 3
#: Boxes about a centre whose light makes its profile.
_RADIUS = 128
#: Standard deviation of the Gaussian that peaks are looked for in, boxes; boxes about a peak that are all lower.
_SMOOTH, _NEAR = 4.0, 12
#: Light in units of the noise of a pixel: that a peak has at least, and that an object sinks below at its extent.
_LEAST, _FAINTEST = 0.08, 0.02
#: Share of the light above the convex hull that an object may have, and cusp that it has at least.
_CONCAVE, _CUSP = 0.15, 1.0
#: How many times more light an object has at `_PROBED` pixels than what is like it on the negative side or like sky.
_ABOVE, _PROBED = 1.5, 20.0
#: Edges of the rings of profiles, boxes.
_EDGES = np.array([0.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 11.5, 16.0, 22.5, 32.0, 45.0, 64.0, 90.0, 128.0])


@dataclass(frozen=True)
class Boxes:
    """A window of the mesh, from the box ``corner`` on; maps of float64, in units of the image.

    Attributes
    ----------
    residual : ndarray (rows, columns)
        Boxes under the mask, minus the stiff sky; any number where the weight is 0.
    weight : ndarray (rows, columns)
        0 where a box does not count; none knows of objects.
    noise : ndarray (rows, columns)
        Standard deviation of the value of a box; 0 where the weight is 0.
    unmasked : ndarray (rows, columns)
        Boxes without a mask of sources, minus the stiff sky; NaN where there is no valid pixel.
    corner : (int, int)
        First box of the window on the mesh.
    size : (int, int)
        Of a box, pixels.
    unit : float
        Noise of a pixel.
    level : bool
        No sky is known: residual and unmasked are the boxes as they are.
    """

    residual: NDArray[np.float64]
    weight: NDArray[np.float64]
    noise: NDArray[np.float64]
    unmasked: NDArray[np.float64]
    corner: Pair
    size: Pair
    unit: float
    level: bool = False


def find(boxes: Boxes, objects: Objects, interior: Region) -> Objects:
    """Find what may be an object with its centre in a tile, and what is like one but is not.

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
        In any order, with what `accepted` goes by in ``scores``: light at `_PROBED` pixels in units of the noise,
        share of the light above the convex hull, cusp, and 1 or -1 for the side.

    Notes
    -----
    What is found depends on boxes within `REACH` of it alone. Memory: 120 bytes a box.
    """
    sides = () if boxes.level else (1.0, -1.0)
    rows = [row for sign in sides for row in _side(boxes, interior, sign)]
    return np.array(rows, OBJECT) if rows else no_objects()


def accepted(rows: Sequence[Objects], objects: Objects, *, image: Pair, keep: float | None = None) -> Objects:
    """Choose the objects of a round.

    Parameters
    ----------
    rows : sequence of ndarray of OBJECT
        What `find` has found in each tile, in any order.
    objects : ndarray of OBJECT
        Those that were accepted before, which this round replaces.
    image : (int, int)
        Shape of the image: no extent is larger.
    keep : float, optional
        Largest half-light radius, px; None: any.

    Returns
    -------
    ndarray of OBJECT
        The brightest first.
    """
    found = ordered(np.concatenate([no_objects(), *rows]))
    light, concave, cusp, side = found["scores"].T
    good = (side > 0) & (concave <= _CONCAVE) & (cusp > _CUSP)
    if keep is not None:
        good &= found["half_light_radius"] <= keep
    limit = _ABOVE * max(light[~good].max(initial=0.0), 0.0)
    found["extent"] = np.minimum(found["extent"], max(image))
    chosen = no_objects()
    for one in found[good & (light > limit)]:
        centre = round(float(one["y"])), round(float(one["x"]))
        if not inside(chosen, *centre, (1, 1))[0, 0]:
            chosen = np.append(chosen, one)
    return chosen


def _side(boxes: Boxes, interior: Region, sign: float) -> list[np.void]:
    # cores are masked: there boxes without a mask show the light
    values = sign * np.where(boxes.weight > 0.0, boxes.residual, boxes.unmasked)
    used = np.isfinite(values)
    values = np.where(used, values, 0.0)
    taps = gaussian_taps(sigma=_SMOOTH)
    total = _smooth(used * 1.0, taps)
    mean = np.where(total > 0.02, _smooth(values, taps) / np.maximum(total, 0.02), 0.0)
    peaks = (mean > _LEAST * boxes.unit) & (mean == ndimage.maximum_filter(mean, 2 * _NEAR + 1, mode="constant"))
    top, left = interior.y0 - boxes.corner[0], interior.x0 - boxes.corner[1]
    ny, nx = interior.shape
    found = np.argwhere(peaks[top:, left:][:ny, :nx])
    rows = [_examined(boxes, values, used, top + y, left + x, sign) for y, x in found]
    return [row for row in rows if row is not None]


def _smooth(values: NDArray[np.float64], taps: NDArray[np.float64]) -> NDArray[np.float64]:
    once = ndimage.correlate1d(values, taps, axis=0, mode="constant")
    return np.asarray(ndimage.correlate1d(once, taps, axis=1, mode="constant"))


def _examined(
    boxes: Boxes, values: NDArray[np.float64], used: NDArray[np.bool_], y: int, x: int, sign: float
) -> np.void | None:
    """Object about a box, by the medians of rings; None if it has too little light."""
    part = slice(max(y - _RADIUS, 0), y + _RADIUS + 1), slice(max(x - _RADIUS, 0), x + _RADIUS + 1)
    dy, dx = (np.arange(*s.indices(n)) - at for s, n, at in zip(part, values.shape, (y, x), strict=True))
    radius = np.sqrt(np.square(dy[:, None] * 1.0) + np.square(dx[None, :] * 1.0))[used[part]]
    near = values[part][used[part]]
    ring = np.searchsorted(_EDGES, radius, side="right") - 1
    scale, rows = math.sqrt(boxes.size[0] * boxes.size[1]), []
    for k in range(_EDGES.size - 1):
        of_ring = near[ring == k]
        if of_ring.size >= 3:
            middle = float(np.median(of_ring))
            spread = 1.4826 * float(np.median(np.abs(of_ring - middle)))
            error = 1.2533 * max(spread, boxes.unit / scale) / math.sqrt(of_ring.size)
            rows.append((scale * float(np.median(radius[ring == k])), middle, error))
    if len(rows) < 4:
        return None
    knots, light, error = np.array(rows).T
    dark = np.nonzero(~(light > np.maximum(2.0 * error, 0.5 * _FAINTEST * boxes.unit)))[0]
    last = int(dark[0]) if dark.size else light.size
    if last < 4 or knots[last - 1] < _PROBED or not knots[0] > 0.0:
        return None
    place = [
        (boxes.corner[k] + at) * size + 0.5 * (size - 1)
        for k, (at, size) in enumerate(zip((y, x), boxes.size, strict=True))
    ]
    return _object(place, knots[:last], light[:last], error[:last], boxes.unit, sign)


def _object(
    place: Sequence[float],
    knots: NDArray[np.float64],
    light: NDArray[np.float64],
    error: NDArray[np.float64],
    unit: float,
    sign: float,
) -> np.void:
    hull = np.maximum(_hull(knots, light), 1e-4 * unit)
    above = np.maximum(light - hull - 2.0 * error, 0.0)
    concave = max(float((above * knots).sum() / (light * knots).sum()), float(np.mean(above / light)))
    one = np.zeros(1, OBJECT)[0]
    one["y"], one["x"], one["axis_ratio"], one["n_knots"] = *place, 1.0, min(knots.size, KNOTS)
    n = int(one["n_knots"])
    one["radius"][:n], one["light"][:n] = knots[:n], hull[:n]
    back = max(n - 4, 0)
    fall = log(hull[n - 1] / hull[back]) / log(knots[n - 1] / knots[back])
    one["slope"] = min(max(fall, -6.0), -1.5)
    faint = _FAINTEST * unit
    if hull[n - 1] > faint:
        one["extent"] = min(knots[n - 1] * power(faint / hull[n - 1], 1.0 / one["slope"]), 1.6 * knots[n - 1])
    else:
        one["extent"] = np.interp(-faint, -hull[:n], knots[:n])
    edges = np.concatenate([[0.0], np.sqrt(knots[1:n] * knots[: n - 1]), [knots[n - 1]]])
    grown = np.cumsum(hull[:n] * math.pi * np.diff(np.square(edges)))
    one["flux"], one["half_light_radius"] = grown[-1], np.interp(0.5 * grown[-1], grown, edges[1:])
    one["scores"] = np.interp(_PROBED, knots, light) / unit, concave, _cusp(knots, light), sign
    return one


def _hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest convex function below a profile that does not rise."""
    ends: list[int] = []
    for k in range(x.size):
        while len(ends) > 1 and (y[ends[-1]] - y[ends[-2]]) * (x[k] - x[ends[-1]]) >= (y[k] - y[ends[-1]]) * (
            x[ends[-1]] - x[ends[-2]]
        ):
            ends.pop()
        ends.append(k)
    return np.minimum.accumulate(np.interp(x, x[ends], y[ends]))


def _cusp(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Slope of a profile within half the radius where it has half its light, over that beyond: 1.3 of discs."""
    half = 0.5 * y[0]
    below = np.nonzero(y < half)[0]
    if not below.size:
        return 0.0
    k = int(below[0])
    at = float(np.interp(-half, [-y[k - 1], -y[k]], [x[k - 1], x[k]]))
    if at < 2.5 * x[0]:
        return 9.0
    inner = max(float(x[0]), at / 8.0)
    first, second = (float(v) for v in np.interp([inner, at / 2.0], x, y))
    return (first - second) / (at / 2.0 - inner) / max((second - half) / (at / 2.0), 1e-12)
