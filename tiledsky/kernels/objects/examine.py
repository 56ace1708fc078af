"""What the light about a place says: an object, or what a sky may look like as well.

Light is an object's if its mean profile is convex with a cusp: steeper near the centre than farther out, at any
resolution. A maximum of a smooth sky is concave. Or if it falls steeply from a core that is much brighter than what is
about it: of spirals and of stars with rings the mean profile is neither convex nor smooth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from tiledsky.kernels._simd.elementary import direction, exp, log, sine_cosine
from tiledsky.kernels.objects.candidates import LEAST, SATURATED
from tiledsky.kernels.objects.profiles import Ellipse, Floats, Maps, between, hull, rings

#: Light in the noise of a pixel: an object ends where it is this faint. Without a sky that is not known so well: it
#: ends at this share of the light near its centre, or at this light, whichever is less.
FAINTEST, _SHARE, _LEVEL = 0.02, 0.05, 0.5
#: Share of its light that a convex profile has above its hull at most, and its cusp at least.
_CONCAVE, _CUSP, _BENDS = 0.15, 1.0, 2.5
#: How far its ellipses may be brighter at one pair of opposite eighths than at others, over their light: a ring of the
#: sky is, about a place on it.
_UNLIKE = 0.8
#: Light near the centre is that at this radius, px; it goes on at least to there. That of a core falls by this power of
#: the radius at least from 12 to 64 px, where the core is so many times brighter.
_NEAR, _FAR, _FALL, _CORE = 20.0, 64.0, 0.5, 8.0
#: Without a sky: least light of a ring, and how uneven the ring may be, over its light.
_BRIGHT, _UNEVEN = 1.0, 0.5
#: Faint light, in the noise of a pixel; the powers of the radius that it falls by at least, beyond light that falls so
#: steeply: else a profile ends.
_PALE, _SHALLOW, _STEEP = 2.0, 0.7, 1.5
#: Where the power law beyond a profile has more than the last light, rings there bound it: by what they show and so
#: many errors, or the second light if that is more. Fainter light the sky may have taken.
_ERRORS, _GONE, _CLAIMED = 3.0, 0.05, 0.2
#: Least number of rings with light that are seen under the mask, or, of what has a core, in all.
_OPEN = 3
#: Share of the rings about it that lie in the image, for what has no core.
_INSIDE = 0.8
#: Boxes that the shape of an object is measured by at most, each way, and at least in all.
_REACH, _FEW = 192, 12
#: Least axis ratio; how far from the centre that of its light may lie, squared, over its size.
_FLATTEST, _OFF = 0.4, 0.06


class Shape(NamedTuple):
    """A centre (px), the axis ratio of an ellipse and the angle of its major axis, from +x to +y."""

    y: float
    x: float
    ratio: float = 1.0
    angle: float = 0.0

    @property
    def ellipse(self) -> Ellipse:
        """The same as kernels take it."""
        return Ellipse(self.y, self.x, self.ratio, *sine_cosine(self.angle))


class Seen(NamedTuple):
    """An examined place.

    Attributes
    ----------
    place : Shape
    radius, light : ndarray
        The hull of the profile of its light, from the centre out.
    level : float
        Light that it stands on: 0 if there is a sky.
    extent, slope : float
        Where its light ends, and the power that it falls by beyond the profile.
    near : float
        Light 20 px from the centre.
    cored, is_object : bool
        It has a core; or is an object for another reason.
    """

    place: Shape
    radius: Floats
    light: Floats
    level: float
    extent: float
    slope: float
    near: float
    cored: bool
    is_object: bool


@njit(nogil=True, cache=True)
def _lowest(v, e):  # type: ignore[no-untyped-def]
    """Ring where the light is lowest before it rises."""
    k = 0
    for i in range(1, v.size):
        if i > 3 and v[i] > v[k] + 2.0 * e[i] + 0.02 * abs(v[0] - v[k]):
            break
        if v[i] < v[k]:
            k = i
    return k


@njit(nogil=True, cache=True)
def _cored(x, v, e):  # type: ignore[no-untyped-def]
    """Whether light falls steeply from a bright core on."""
    core = v[0] if v.size == 1 else max(v[0], v[1])
    if not core > _CORE * between(_FAR, x, v) or not between(_NEAR, x, v) > LEAST:
        return False
    last = -1
    for i in range(x.size):
        if x[i] < 12.0 or v[i] <= 3.0 * e[i] or (v[i] >= 0.7 * core > SATURATED and x[i] < 2.0 * _NEAR):
            continue
        if x[i] > _FAR or v[i] <= LEAST:
            break
        if last >= 0 and log(v[i] / v[last]) > -_FALL * log(x[i] / x[last]) + 2.0 * e[i] / v[i]:
            return False
        last = i
    return last >= 0 and x[last] > 26.0


@njit(nogil=True, cache=True)
def _cusp(x, v, e):  # type: ignore[no-untyped-def]
    """How much steeper a profile is from an eighth to half of its half-light radius than from there on, less an error.

    Exponentials have 1.3, Gaussians 0.6. Infinite where the light is halved within what is resolved.
    """
    half, i = 0.5 * v[0], 0
    while i < v.size and v[i] >= half:
        i += 1
    if i == v.size:
        return -1.0
    end = x[i - 1] + (x[i] - x[i - 1]) * ((v[i - 1] - half) / (v[i - 1] - v[i]))
    if end < 2.5 * x[0]:
        return math.inf
    first, second = max(x[0], end / 8.0), end / 2.0
    f1, f2, g1, g2 = between(first, x, v), between(second, x, v), between(first, x, e), between(second, x, e)
    outer = max((f2 - half) / (end - second), 1e-9)
    return ((f1 - f2) - math.sqrt(g1 * g1 + g2 * g2)) / (second - first) / outer


@njit(nogil=True, cache=True)
def _bends(x, v, e):  # type: ignore[no-untyped-def]
    """How much more light falls, as a logarithm, from 2 r to 4 r, where it is a tenth, than before, and an error.

    Sersic profiles of index n have ``2**(1/n)``: exponentials 2, Gaussians 4.
    """
    tenth, i = 0.1 * v[0], 1
    while i < v.size and v[i] >= tenth:
        i += 1
    end = (
        x[min(i, v.size - 1)]
        if i >= v.size
        else x[i - 1] + (x[i] - x[i - 1]) * ((v[i - 1] - tenth) / (v[i - 1] - v[i]))
    )
    r = max(0.25 * end, x[0])
    if 4.0 * r > 1.1 * x[-1]:
        return math.inf
    a, b, c = between(r, x, v), between(2.0 * r, x, v), between(4.0 * r, x, v)
    if not (c > 0.0 and a > b):
        return math.inf
    ea, eb, ec = between(r, x, e) / a, between(2.0 * r, x, e) / b, between(4.0 * r, x, e) / c
    inner, outer = log(a / b), log(b / c)
    least = inner - math.sqrt(ea * ea + eb * eb)
    return (outer + math.sqrt(eb * eb + ec * ec)) / least if least > 0.0 else math.inf


@njit(nogil=True, cache=True)
def _concave(x, v, h, e):  # type: ignore[no-untyped-def]
    """Share of the light of a profile that is above its hull, or the mean share of its rings if that is more."""
    over, total, share = 0.0, 0.0, 0.0
    for i in range(x.size):
        above = max(v[i] - h[i] - 2.0 * e[i], 0.0)
        over += above * x[i] * x[i]  # rings are as wide as far
        total += v[i] * x[i] * x[i]
        share += above / v[i]
    return max(over / total, share / x.size)


@njit(nogil=True, cache=True)
def _unlike(v, d):  # type: ignore[no-untyped-def]
    """Most that a profile differs by around its ellipses, over its light, where that is a tenth of the brightest."""
    most = 0.0
    for i in range(v.size):
        if v[i] >= 0.1 * v[0]:
            most = max(most, d[i] / v[i])
    return most


@njit(nogil=True, cache=True)
def _shoulder(x, v, e):  # type: ignore[no-untyped-def]
    """Rings within a shoulder: faint light that hardly falls, beyond light that falls steeply, is that of others."""
    steep = False
    for i in range(1, x.size):
        if not v[i] > 0.0 or not v[i - 1] > 0.0:
            continue
        step = log(x[i] / x[i - 1])
        fall, chance = -log(v[i] / v[i - 1]) / step, (e[i] / v[i] + e[i - 1] / v[i - 1]) / step
        if steep and v[i] < _PALE and fall < _SHALLOW - chance:
            return i
        steep = steep or fall - chance > _STEEP
    return x.size


@njit(nogil=True, cache=True)
def _outside(x, h, faintest, beyond, most):  # type: ignore[no-untyped-def]
    """Power that light falls by beyond a profile, and where it is as faint as that.

    ``beyond``, ``most``: rings beyond the profile, and what their light is at most. They bound the light of the model,
    not its extent: in doubt boxes are masked, and no light is taken off them.
    """
    n = x.size
    k = max(n - 4, 0)
    slope = min(max((log(h[n - 1]) - log(h[k])) / (log(x[n - 1]) - log(x[k])), -6.0), -1.5)
    if h[n - 1] > faintest:
        end = min(exp(log(x[n - 1]) + (log(faintest) - log(h[n - 1])) / slope), 1.6 * x[n - 1])
        for i in range(beyond.size):
            far = log(beyond[i] / x[n - 1])
            if far > 0.0 and h[n - 1] * exp(slope * far) > max(_CLAIMED, most[i]):
                slope = log(most[i] / h[n - 1]) / far
        return slope, end
    i = 1
    while i < n - 1 and h[i] > faintest:
        i += 1
    share = (log(h[i - 1]) - log(faintest)) / max(log(h[i - 1]) - log(h[i]), 1e-9)
    return slope, exp(log(x[i - 1]) + (log(x[i]) - log(x[i - 1])) * min(max(share, 0.0), 1.0))


def examined(maps: Maps, place: Shape, edges: Floats, *, level: bool) -> Seen | None:
    """Look at the light about a place.

    Parameters
    ----------
    maps : Maps
    place : Shape
    edges : ndarray
        Of the rings, px.
    level : bool
        No sky is known: light is that above the lowest ring.

    Returns
    -------
    Seen or None
        None if there is too little light, or it does not reach 20 px.
    """
    value, error, radius, under, uneven, unlike, covered = rings(maps, place.ellipse, edges, level)
    v, e, x, u, d = value[under], error[under], radius[under], uneven[under], unlike[under]
    if v.size < 1 or value.size < 4:
        return None
    ground = float(v[_lowest(v, e)]) if level else 0.0
    v = v - ground
    floor = _SHARE * float(v.max()) * 0.4 if level else 0.5 * FAINTEST
    lit = (v > np.maximum(2.0 * e, floor)) & ((u <= _UNEVEN * v) | (not level))
    last = v.size if lit.all() else int(np.argmin(lit))
    last = int(_shoulder(x[:last], v[:last], e[:last]))
    if last < 1 or x[last - 1] < _NEAR:
        return None
    beyond, most = x[last:], np.maximum(v[last:] + _ERRORS * e[last:], np.inf if level else _GONE)
    v, e, x, d = v[:last], e[:last], x[:last], d[:last]
    if not float(v[x >= 0.9 * _NEAR].max()) > (_BRIGHT if level else LEAST):
        return None
    whole = value - ground
    inner = (radius <= x[-1]) & (whole > 0.0)
    wx, wv = radius[inner], whole[inner]
    light = np.maximum(hull(wx, wv), 1e-4)
    near = float(between(_NEAR, wx, light))
    cored = bool(_cored(wx, wv, error[inner])) and (not level or covered > _INSIDE)
    few = last < (2 if level else _OPEN)
    if few and (level or not cored or wx.size < _OPEN):
        return None
    under_hull = np.maximum(hull(x, v), 1e-4)
    convex = not few and _concave(x, v, under_hull, e) <= _CONCAVE and covered > _INSIDE
    convex = convex and _unlike(v, d) <= _UNLIKE
    convex = convex and (_cusp(x, v, e) > _CUSP or _bends(x, v, e) < _BENDS)
    faintest = max(FAINTEST, min(_SHARE * near, _LEVEL)) if level else FAINTEST
    slope, extent = _outside(*((wx, light) if few else (x, under_hull)), faintest, beyond, most)
    if level:  # farther out it is that of others, too
        near_by = max(int(np.searchsorted(wx, extent)), 2)
        wx, light = wx[:near_by], light[:near_by]
    return Seen(place, wx, light, ground, float(extent), float(slope), near, cored, cored or convex)


@njit(nogil=True, cache=True)
def _moments(light, y, x, level, reach):  # type: ignore[no-untyped-def]
    """Second moments about a box of the boxes above a level that hang together with it, and their number.

    The number is 0 where these boxes reach an edge, or lie to one side.
    """
    height, width = light.shape
    done = np.zeros((2 * reach + 1, 2 * reach + 1), np.bool_)
    stack = np.empty((done.size, 2), np.int64)
    stack[0, 0], stack[0, 1] = y, x
    done[reach, reach] = True
    left, n = 1, 0
    yy, yx, xx, sy, sx = 0.0, 0.0, 0.0, 0.0, 0.0
    while left > 0:
        left -= 1
        i, j = stack[left, 0], stack[left, 1]
        dy, dx = float(i - y), float(j - x)
        n += 1
        sy, sx, yy, yx, xx = sy + dy, sx + dx, yy + dy * dy, yx + dy * dx, xx + dx * dx
        if min(i, j) == 0 or i == height - 1 or j == width - 1 or dy * dy + dx * dx > (reach - 1.0) ** 2:
            return 0, yy, yx, xx
        for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            k, m = i + a, j + b
            if not done[k - y + reach, m - x + reach] and light[k, m] > level:
                done[k - y + reach, m - x + reach] = True
                stack[left, 0], stack[left, 1] = k, m
                left += 1
    if (sy * sy + sx * sx) / n > _OFF * (yy + xx):
        n = 0
    return n, yy, yx, xx


def _shape(maps: Maps, smooth: Floats, seen: Seen) -> Shape | None:
    """Ellipse of the light of an object at half its extent, or where it is brighter and alone."""
    at = max(float(between(0.5 * seen.extent, seen.radius, seen.light)), LEAST)
    place, size = seen.place, max(maps.by, maps.bx)
    i, j = int(place.y // maps.by) - maps.y0, int(place.x // maps.bx) - maps.x0
    reach = max(min(int(1.5 * seen.extent / size), _REACH), 2)
    n, yy, yx, xx = 0, 0.0, 0.0, 0.0
    for _ in range(4):
        n, yy, yx, xx = _moments(smooth, i, j, at + seen.level, reach)
        if n > 0:
            break
        at *= 2.0
    if n < _FEW:
        return None
    root = math.sqrt((yy - xx) ** 2 + 4.0 * yx * yx)
    ratio = math.sqrt(max(yy + xx - root, 0.0) / (yy + xx + root))
    angle = 0.5 * float(direction(2.0 * yx, xx - yy))
    return Shape(place.y, place.x, min(max(ratio, _FLATTEST), 1.0), angle)


def refined(maps: Maps, smooth: Floats, place: Shape, edges: Floats, *, level: bool) -> Seen | None:
    """Look at a place by circles, then by ellipses of the shape of what is seen; ``smooth``: filled maps.

    Where that is no object, by the ellipses that were known.
    """
    seen = examined(maps, Shape(place.y, place.x), edges, level=level)
    shape = None if seen is None else _shape(maps, smooth, seen)
    if shape is not None:
        seen = examined(maps, shape, edges, level=level) or seen
    if place.ratio < 1.0 and not (seen is not None and seen.is_object):
        seen = examined(maps, place, edges, level=level) or seen
    return seen


def depth(maps: Maps, y: float, x: float, edges: Floats) -> float:
    """Light 20 px from a place, by circles; 0 where too little is seen."""
    value, _, radius, under, _, _, _ = rings(maps, Shape(y, x).ellipse, edges[:8], False)
    return float(between(_NEAR, radius[under], value[under])) if under.sum() >= 3 else 0.0
