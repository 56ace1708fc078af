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
#: Light is tabulated at 256 squares of radii from a power of 2 to the next: between knots lines are wrong by 1e-5
#: of it, where the profile bends at a knot by 1e-3 at most.
_SHIFT = 52 - 8
#: The sky about an object may be off by so many times the light that its model has at its extent: pulls of simulated
#: stars, clusters and galaxies are then about 1.
_LEFT = 2.0
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
        elliptical radius (as tables have it: to 1e-3 at knots, far better elsewhere), within the first knot it is
        constant, beyond the last a power law, and 0 beyond `REACH` times the extent. Objects are added in their order,
        so that a pixel has the same bits in any region.
    """
    total = np.zeros(shape)
    for one in objects:
        near = _near(one, y0, x0, shape, box, REACH)
        if near is not None:
            n = int(one["n_knots"])
            tables = one["radius"][:n].copy(), one["light"][:n].copy()
            _add(total, *near, *_ellipse(one, REACH), *tables, one["slope"], y0, x0, *box)
    return total


def faint_light(objects: Objects, y0: int, x0: int, shape: Pair, box: Pair = (1, 1)) -> NDArray[np.float64]:
    """Light of the models where it is faintest: within an extent that at the extent; parameters as for `light`.

    Of several objects the largest counts.
    """
    most = np.zeros(shape)
    for one in objects:
        near = _near(one, y0, x0, shape, box, REACH)
        if near is not None:
            top, bottom, left, right = near
            tables = np.array([one["extent"]]), np.array([_light_at_extent(one)])
            own = np.zeros((bottom - top, right - left))
            corner = y0 + top, x0 + left
            _add(own, 0, own.shape[0], 0, own.shape[1], *_ellipse(one, REACH), *tables, one["slope"], *corner, *box)
            part = most[top:bottom, left:right]
            np.maximum(part, own, out=part)
    return most


def error_about(
    objects: Objects, error: NDArray[np.float64], y0: int, x0: int, box: Pair = (1, 1)
) -> NDArray[np.float64]:
    """Error of a sky about objects, from that without them; other parameters as for `light`.

    Light that a model misses lifts the sky by about the light that the model has at its extent.
    """
    left = _LEFT * faint_light(objects, y0, x0, (error.shape[0], error.shape[1]), box)
    return np.sqrt(error * error + left * left)


def _light_at_extent(one: Any) -> float:
    n, extent = int(one["n_knots"]), float(one["extent"])
    radius, light = one["radius"][:n].tolist(), one["light"][:n].tolist()
    k = int(np.searchsorted(radius, extent, side="right")) - 1
    if k < 0:
        return float(light[0])
    rise = float(one["slope"])
    if k < n - 1:
        rise = (log(light[k + 1]) - log(light[k])) / (log(radius[k + 1]) - log(radius[k]))
    return float(light[k] * exp(rise * (log(extent) - log(radius[k]))))


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
    return float(one["y"]), float(one["x"]), sine, cosine, 1.0 / float(one["axis_ratio"]), most * most


@njit(nogil=True, cache=True)
def _square(y, x, cy, cx, sine, cosine, rounder):  # type: ignore[no-untyped-def]
    """Square of the elliptical radius of a place."""
    dy, dx = y - cy, x - cx
    along, across = cosine * dx + sine * dy, (cosine * dy - sine * dx) * rounder
    return along * along + across * across


@njit(nogil=True, cache=True)
def _cover(covered, top, bottom, left, right, cy, cx, sine, cosine, rounder, most, y0, x0, by, bx):  # type: ignore[no-untyped-def]
    for i in range(top, bottom):
        y = (y0 + i) * by + 0.5 * (by - 1)
        for j in range(left, right):
            x = (x0 + j) * bx + 0.5 * (bx - 1)
            if _square(y, x, cy, cx, sine, cosine, rounder) <= most:
                covered[i, j] = True


@njit(nogil=True, cache=True)
def _bits(square):  # type: ignore[no-untyped-def]
    """Place of the square of a radius in tables: its exponent and the first bits of its fraction, as one number."""
    return np.float64(square).view(np.int64) >> _SHIFT


@njit(nogil=True, cache=True)
def _at(bits):  # type: ignore[no-untyped-def]
    """Least number that has this place."""
    return np.int64(bits << _SHIFT).view(np.float64)


@njit(nogil=True, cache=True)
def _table(first, radius, light, slope, value, rise):  # type: ignore[no-untyped-def]
    """Light at the least numbers of the places from `first` on, and how it changes from one to the next."""
    n, k = radius.size, 0
    logs, lights = np.empty(n), np.empty(n)
    for m in range(n):
        logs[m], lights[m] = log(radius[m]), log(light[m])
    for i in range(value.size):
        square = _at(first + i)
        if square <= radius[0] * radius[0]:
            value[i] = light[0]
            continue
        while k < n - 1 and square > radius[k + 1] * radius[k + 1]:
            k += 1
        falls = slope if k == n - 1 else (lights[k + 1] - lights[k]) / (logs[k + 1] - logs[k])
        value[i] = exp(lights[k] + (0.5 * log(square) - logs[k]) * falls)
    for i in range(rise.size):
        rise[i] = (value[i + 1] - value[i]) / (_at(first + i + 1) - _at(first + i))


@njit(nogil=True, cache=True)
def _add(  # type: ignore[no-untyped-def]
    total, top, bottom, left, right, cy, cx, sine, cosine, rounder, most, radius, light, slope, y0, x0, by, bx
):
    core = radius[0] * radius[0]
    first, last = _bits(core), _bits(max(most, core))
    value, rise = np.empty(last - first + 2), np.empty(last - first + 1)
    _table(first, radius, light, slope, value, rise)
    for i in range(top, bottom):
        y = (y0 + i) * by + 0.5 * (by - 1)
        for j in range(left, right):
            x = (x0 + j) * bx + 0.5 * (bx - 1)
            square = _square(y, x, cy, cx, sine, cosine, rounder)
            if square > most:
                continue
            if square <= core:
                total[i, j] += light[0]
            else:
                at = _bits(square)
                total[i, j] += value[at - first] + (square - _at(at)) * rise[at - first]
