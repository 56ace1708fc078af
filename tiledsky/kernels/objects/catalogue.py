"""A catalogue of large objects, the light of its models, and what they cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.geometry import Pair
from tiledsky.kernels._simd.elementary import exp, log, sine_cosine

#: Knots of the profile of an object.
KNOTS = 24
#: Light of a model ends at so many times its extent, where it is far below the noise.
REACH = 2.0
#: One object. ``y, x``: centre, px, of whole pixels at whole numbers. ``axis_ratio``: of its ellipses, 0 to 1.
#: ``angle``: of the major axis, rad, from +x to +y. ``extent``: px along the major axis; its light is below .02 of the
#: noise of a pixel beyond. ``slope``: of the power law beyond the last knot, below 0. ``flux``, ``half_light_radius``
#: (px along the major axis): of the model. ``n_knots`` of ``radius`` (px along the major axis, above 0, rising) and
#: ``light`` (above 0, in units of the image) are the profile, the others 0. ``scores``: what the search goes by.
OBJECT = np.dtype(
    [
        *((name, "<f8") for name in ("y", "x", "axis_ratio", "angle", "extent", "slope", "flux", "half_light_radius")),
        *(("n_knots", "<i8"), ("radius", "<f8", (KNOTS,)), ("light", "<f8", (KNOTS,)), ("scores", "<f8", (4,))),
    ]
)
Objects = NDArray[np.void]


def no_objects() -> Objects:
    """Return a catalogue of none."""
    return np.zeros(0, OBJECT)


def ordered(objects: Objects) -> Objects:
    """Objects by flux, the brightest first; of the same flux by y, then x."""
    return objects[np.lexsort((objects["x"], objects["y"], -objects["flux"]))]


def to_rows(objects: Objects) -> list[dict[str, Any]]:
    """Objects as plain data: knots that there are, all else as in `OBJECT`."""
    rows = []
    for one in objects:
        row = {name: one[name].tolist() for name in OBJECT.names or ()}
        rows.append({**row, **{name: row[name][: row["n_knots"]] for name in ("radius", "light")}})
    return rows


def from_rows(rows: Sequence[Mapping[str, Any]]) -> Objects:
    """Inverse of `to_rows`, to the bit."""
    objects = np.zeros(len(rows), OBJECT)
    for one, row in zip(objects, rows, strict=True):
        for name, value in row.items():
            if name in ("radius", "light"):
                one[name][: len(value)] = value
            else:
                one[name] = value
    return objects


def light(objects: Objects, y0: int, x0: int, shape: Pair, box: Pair = (1, 1)) -> NDArray[np.float64]:
    """Light of the models, in pixels or at the centres of boxes.

    Parameters
    ----------
    objects : ndarray of OBJECT, shape (n,)
    y0, x0 : int
        First pixel, or first box.
    shape : (int, int)
        Number of rows and columns, of pixels or boxes.
    box : (int, int)
        Size of the boxes in pixels.

    Returns
    -------
    ndarray of float64
        Sum of the profiles, in units of the image: between knots the logarithm of the light is linear in that of the
        elliptical radius, within the first knot it is constant, beyond the last a power law, and 0 beyond `REACH` times
        the extent. Objects are added in their order, so that a pixel has the same bits in any region.
    """
    total = np.zeros(shape)
    for one in objects:
        near = _near(one, y0, x0, shape, box, REACH)
        if near is not None:
            n = int(one["n_knots"])
            tables = one["radius"][:n].copy(), one["light"][:n].copy()
            _add(total, *near, *_ellipse(one, REACH), *tables, one["slope"], y0, x0, *box)
    return total


def inside(objects: Objects, y0: int, x0: int, shape: Pair, box: Pair = (1, 1)) -> NDArray[np.bool_]:
    """Pixels, or boxes by their centres, that lie within the extent of an object; parameters as for `light`."""
    covered = np.zeros(shape, np.bool_)
    for one in objects:
        near = _near(one, y0, x0, shape, box, 1.0)
        if near is not None:
            _cover(covered, *near, *_ellipse(one, 1.0), y0, x0, *box)
    return covered


def _near(one: Any, y0: int, x0: int, shape: Pair, box: Pair, times: float) -> tuple[int, int, int, int] | None:
    """Rows and columns of a region that an object may reach, or None."""
    reach, found = times * float(one["extent"]), []
    for centre, first, count, size in ((one["y"], y0, shape[0], box[0]), (one["x"], x0, shape[1], box[1])):
        low = max(int((float(centre) - reach) // size) - 1 - first, 0)
        high = min(int((float(centre) + reach) // size) + 2 - first, count)
        if low >= high:
            return None
        found += [low, high]
    return found[0], found[1], found[2], found[3]


def _ellipse(one: Any, times: float) -> tuple[float, float, float, float, float, float]:
    sine, cosine = sine_cosine(float(one["angle"]))
    most = times * float(one["extent"])
    return float(one["y"]), float(one["x"]), sine, cosine, float(one["axis_ratio"]), most * most


@njit(nogil=True, cache=True)
def _square(y, x, cy, cx, sine, cosine, ratio):  # type: ignore[no-untyped-def]
    """Square of the elliptical radius of a place."""
    dy, dx = y - cy, x - cx
    along, across = cosine * dx + sine * dy, (cosine * dy - sine * dx) / ratio
    return along * along + across * across


@njit(nogil=True, cache=True)
def _cover(covered, top, bottom, left, right, cy, cx, sine, cosine, ratio, most, y0, x0, by, bx):  # type: ignore[no-untyped-def]
    for i in range(top, bottom):
        y = (y0 + i) * by + 0.5 * (by - 1)
        for j in range(left, right):
            x = (x0 + j) * bx + 0.5 * (bx - 1)
            if _square(y, x, cy, cx, sine, cosine, ratio) <= most:
                covered[i, j] = True


@njit(nogil=True, cache=True)
def _add(  # type: ignore[no-untyped-def]
    total, top, bottom, left, right, cy, cx, sine, cosine, ratio, most, radius, light, slope, y0, x0, by, bx
):
    n = radius.size
    squares, logs, lights = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        squares[k], logs[k], lights[k] = radius[k] * radius[k], log(radius[k]), log(light[k])
    for i in range(top, bottom):
        y = (y0 + i) * by + 0.5 * (by - 1)
        k = 0
        for j in range(left, right):
            x = (x0 + j) * bx + 0.5 * (bx - 1)
            square = _square(y, x, cy, cx, sine, cosine, ratio)
            if square > most:
                continue
            if square <= squares[0]:
                total[i, j] += light[0]
                continue
            while k < n - 1 and square > squares[k + 1]:
                k += 1
            while square <= squares[k]:  # ends at the first knot, which lies within
                k -= 1
            place = 0.5 * log(square) - logs[k]
            rise = slope if k == n - 1 else (lights[k + 1] - lights[k]) / (logs[k + 1] - logs[k])
            total[i, j] += exp(lights[k] + place * rise)
