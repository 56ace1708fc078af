"""Growing a mask: by a disc, by a square, and by the smooth-and-cut rule of a tophat. All in valid mode.

Everything here is decided by integers, so equality with the reference means equal pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]

# Columns worked on at a time: their rows of distances or sums stay in the L2 cache.
_STRIP = 1024
# Distances are kept in 8 or 16 bits, the cap radius + 1 included.
_MAX_RADIUS = 32766


def disc_footprint(radius: float) -> _Mask:
    """Pixels whose centre is within a radius of the central pixel's.

    Parameters
    ----------
    radius : float
        In pixels, >= 0; need not be whole.

    Returns
    -------
    ndarray of bool, shape (2 * floor(radius) + 1,) * 2
        ``x * x + y * y <= radius * radius``. For whole radii it is ``photutils.utils.circular_footprint``, for any
        radius the support of ``astropy.convolution.Tophat2DKernel``.

    Raises
    ------
    ParameterError
        If the radius is negative, not finite, or above 32766.
    """
    _require_radius(radius)
    offset = np.arange(-math.floor(radius), math.floor(radius) + 1)
    footprint: _Mask = offset[:, np.newaxis] ** 2 + offset**2 <= float(radius) * float(radius)
    return footprint


def grow_disc(mask_padded: _Mask, radius: float) -> _Mask:
    """Grow a mask by a disc, in valid mode.

    Parameters
    ----------
    mask_padded : ndarray of bool, shape (H + 2r, W + 2r)
        The mask with ``r = floor(radius)`` extra pixels on every side.
    radius : float
        In pixels, >= 0; need not be whole. 0 copies the mask.

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where a set pixel lies within the radius, as ``scipy.ndimage.binary_dilation`` with `disc_footprint`.

    Raises
    ------
    InputError
        If mask_padded is not 2-D bool, or smaller than the disc.
    ParameterError
        If the radius is negative, not finite, or above 32766.

    Notes
    -----
    For each pixel the distance along its row to the nearest set pixel; the disc holds a set pixel if in one of its
    rows that distance is no more than the disc's half width there. 2r + 1 comparisons, of 8-bit numbers up to radius
    126, whatever the mask.

    Memory: the output and ``(H + 2r) * 1024`` bytes, twice that above radius 126.
    """
    _require_radius(radius)
    r = math.floor(radius)
    shape = _valid_shape(mask_padded, r)
    if r == 0:
        return mask_padded.copy()
    out = np.empty(shape, dtype=np.bool_)
    kinds = (np.uint8, np.int8) if r <= 126 else (np.uint16, np.int16)
    unsigned, signed = (np.zeros(0, dtype=kind) for kind in kinds)
    _grow_disc(_frozen(mask_padded), _half_widths(radius), unsigned, signed, out.view(np.uint8))
    return out


def grow_square(mask_padded: _Mask, size: int) -> _Mask:
    """Grow a mask by a square, in valid mode.

    Parameters
    ----------
    mask_padded : ndarray of bool, shape (H + 2r, W + 2r)
        The mask with ``r = size // 2`` extra pixels on every side.
    size : int
        Side of the square in pixels, odd. 1 copies the mask.

    Returns
    -------
    ndarray of bool, shape (H, W)
        As ``scipy.ndimage.binary_dilation`` with a full square of that size.

    Raises
    ------
    InputError
        If mask_padded is not 2-D bool, or smaller than the square.
    ParameterError
        If size is not odd and positive.

    Notes
    -----
    Memory: the output and O(W) bytes. The cost hardly depends on size.
    """
    if not float(size).is_integer() or size < 1 or size % 2 == 0:
        raise ParameterError(f"size {size!r} px has no central pixel, the mask would be shifted; give an odd size >= 1")
    shape = _valid_shape(mask_padded, int(size) // 2)
    out = np.empty(shape, dtype=np.bool_)
    _grow_square(_frozen(mask_padded), int(size), out.view(np.uint8))
    return out


def grow_tophat(mask_padded: _Mask, radius: float) -> _Mask:
    """Smooth a mask with a tophat and cut it at one pixel per area of the circle, in valid mode.

    This is ``convolve(mask, Tophat2DKernel(radius)) >= 1 / (pi * radius**2)`` of astropy, as a count: at least
    ``N / (pi * radius**2)`` set pixels among the N of the disc. It is no dilation: wherever the disc of N pixels is
    larger than the circle (radius 1, 2, 3, 5, ...) two pixels are needed, and a single one is erased.

    Parameters
    ----------
    mask_padded : ndarray of bool, shape (H + 2r, W + 2r)
        The mask with ``r = floor(radius)`` extra pixels on every side.
    radius : float
        In pixels, > 0; need not be whole.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    InputError
        If mask_padded is not 2-D bool, or smaller than the disc.
    ParameterError
        If the radius is not positive and finite, or above 32766.

    Notes
    -----
    Memory: the output and ``(H + 2r) * (1024 + 2r)`` numbers of 16 bits, of 32 bits above radius 144.
    """
    _require_radius(radius)
    if radius == 0:
        raise ParameterError("radius 0 px has no area, so the rule 1 / area has no meaning; give radius > 0")
    r = math.floor(radius)
    shape = _valid_shape(mask_padded, r)
    half_widths = _half_widths(radius)
    n_disc = 2 * int((2 * half_widths + 1).sum()) - int(2 * half_widths[0] + 1)
    # Never a tie: N / (pi r^2) is no whole number for any N and float r, as pi is irrational.
    needed = n_disc / (math.pi * float(radius) * float(radius))
    if needed > n_disc:
        return np.zeros(shape, dtype=np.bool_)
    if needed <= 1:
        return grow_disc(mask_padded, radius)
    out = np.empty(shape, dtype=np.bool_)
    dtype: type[np.unsignedinteger[Any]] = np.uint16 if n_disc < 2**16 else np.uint32
    kind = np.zeros(0, dtype=dtype)
    _grow_count(_frozen(mask_padded), half_widths, math.ceil(needed), kind, out.view(np.uint8))
    return out


def _require_radius(radius: float) -> None:
    if not 0 <= radius <= _MAX_RADIUS:
        raise ParameterError(f"radius {radius!r} px is not a radius of a disc; give 0 <= radius <= {_MAX_RADIUS}")


def _valid_shape(mask_padded: _Mask, r: int) -> tuple[int, int]:
    """Shape of the output in valid mode; refuses an array without any full window."""
    if mask_padded.ndim != 2 or mask_padded.dtype != np.bool_:
        raise InputError(
            f"mask_padded of dtype {mask_padded.dtype} and {mask_padded.ndim} dimensions is not a mask: which values "
            "count as set would be a guess; give a 2-D bool array as mask_padded"
        )
    height, width = mask_padded.shape[0] - 2 * r, mask_padded.shape[1] - 2 * r
    if min(height, width) < 1:
        raise InputError(
            f"mask_padded of shape {mask_padded.shape} has no pixel with a full window of {2 * r + 1} pixels; "
            f"pad by {r} pixels on every side or grow by less"
        )
    return height, width


def _half_widths(radius: float) -> NDArray[np.int64]:
    """Half widths of the disc's rows 0, 1, ..., floor(radius) from the centre."""
    limit = math.floor(float(radius) * float(radius))  # x * x + y * y is whole: the fraction decides nothing
    rows = range(math.floor(radius) + 1)
    return np.array([math.isqrt(limit - y * y) for y in rows], dtype=np.int64)


def _frozen(array: _Array) -> _Array:
    """Contiguous, read-only bytes: numba compiles apart for writable and read-only arrays, so hand it one kind only."""
    view = np.ascontiguousarray(array).view(np.uint8)
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def _grow_disc(mask: _Array, half_widths: _Array, unsigned: _Array, signed: _Array, out: _Array) -> None:
    """Strip by strip, the distances of all rows, then the discs; unsigned and signed only carry the two dtypes."""
    height, width = out.shape
    r = half_widths.size - 1
    cap = r + 1
    distance = np.empty((height + 2 * r, _STRIP), dtype=unsigned.dtype)
    signed_distance = distance.view(signed.dtype)
    empty = np.empty(height + 2 * r, dtype=np.bool_)
    one = np.empty(_STRIP + 2 * r + 2 * cap, dtype=unsigned.dtype)
    two = np.empty(_STRIP + 2 * r + 2 * cap, dtype=unsigned.dtype)
    best = np.empty(_STRIP, dtype=signed.dtype)
    rows = np.empty(r, dtype=np.int64)
    for x0 in range(0, width, _STRIP):
        n = min(_STRIP, width - x0)
        one[:] = cap
        two[:] = cap
        for y in range(height + 2 * r):
            source = mask[y, x0 : x0 + n + 2 * r]
            empty[y] = _is_empty(source)
            if empty[y]:
                distance[y] = cap
            else:
                _row_distance(source, cap, one, two, distance[y, :n])
        for y in range(height):
            _disc_row(signed_distance, empty, y, half_widths, rows, best, out[y, x0 : x0 + n])


@njit(nogil=True, cache=True)
def _is_empty(row: _Array) -> bool:
    some = np.uint8(0)
    for x in range(row.size):
        some |= row[x]
    return some == 0


@njit(nogil=True, cache=True)
def _row_distance(row: _Array, cap: int, one: _Array, two: _Array, distance: _Array) -> None:
    """Distance along the row to the nearest set pixel, or cap, for the pixels of row that are cap - 1 from its ends.

    The least over 2^k - 1 pixels to both sides follows from that over 2^(k-1) - 1 pixels, here and a step to the left
    and right: log2(cap) loops that vectorise, where a scan of the row would wait for each pixel's predecessor. The
    margins of one and two hold cap on entry and are not written.
    """
    inner = one[cap : cap + row.size]
    for x in range(row.size):
        inner[x] = 0 if row[x] else cap
    step = 1
    source, target = one, two
    while step < cap:
        _least_within_step(source, target, cap, row.size, step)
        source, target = target, source
        step *= 2
    result = source[2 * cap - 1 : 2 * cap - 1 + distance.size]
    for x in range(distance.size):
        distance[x] = result[x]


@njit(nogil=True, cache=True)
def _least_within_step(source: _Array, target: _Array, margin: int, n: int, step: int) -> None:
    left = source[margin - step : margin - step + n]
    right = source[margin + step : margin + step + n]
    middle = source[margin : margin + n]
    goal = target[margin : margin + n]
    cost = source.dtype.type(step)
    for x in range(n):
        near = min(left[x], right[x])
        goal[x] = min(source.dtype.type(near + cost), middle[x])


@njit(nogil=True, cache=True)
def _disc_row(
    distance: _Array, empty: _Array, y: int, half_widths: _Array, rows: _Array, best: _Array, out: _Array
) -> None:
    """Row y of the output. best is the largest half width minus distance so far; nothing is near if negative.

    The rows k above and below share a half width, so the smaller distance of the two decides. Four such pairs at a
    time: that saves loads and stores of best.
    """
    kind = distance.dtype.type
    centre = y + half_widths.size - 1
    n_rows = 0
    for k in range(1, half_widths.size):
        if not (empty[centre - k] and empty[centre + k]):
            rows[n_rows] = k
            n_rows += 1
    middle, half = distance[centre], kind(half_widths[0])
    for x in range(out.size):
        best[x] = kind(half - middle[x])
    i = 0
    while i + 3 < n_rows:
        k0, k1, k2, k3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        a0, b0, h0 = distance[centre - k0], distance[centre + k0], kind(half_widths[k0])
        a1, b1, h1 = distance[centre - k1], distance[centre + k1], kind(half_widths[k1])
        a2, b2, h2 = distance[centre - k2], distance[centre + k2], kind(half_widths[k2])
        a3, b3, h3 = distance[centre - k3], distance[centre + k3], kind(half_widths[k3])
        for x in range(out.size):
            c0, c1 = kind(h0 - min(a0[x], b0[x])), kind(h1 - min(a1[x], b1[x]))
            c2, c3 = kind(h2 - min(a2[x], b2[x])), kind(h3 - min(a3[x], b3[x]))
            best[x] = max(best[x], max(max(c0, c1), max(c2, c3)))
        i += 4
    while i < n_rows:
        k0 = rows[i]
        a0, b0, h0 = distance[centre - k0], distance[centre + k0], kind(half_widths[k0])
        for x in range(out.size):
            best[x] = max(best[x], kind(h0 - min(a0[x], b0[x])))
        i += 1
    for x in range(out.size):
        out[x] = best[x] >= 0


@njit(nogil=True, cache=True)
def _grow_count(mask: _Array, half_widths: _Array, needed: int, kind: _Array, out: _Array) -> None:
    """Set where the disc holds at least needed set pixels, from running sums along the rows.

    kind has a dtype that holds the count of a full disc. Should a running sum be larger and wrap around, the
    difference of two is still right.
    """
    height, width = out.shape
    r = half_widths.size - 1
    sums = np.empty((height + 2 * r, _STRIP + 2 * r + 1), dtype=kind.dtype)
    empty = np.empty(height + 2 * r, dtype=np.bool_)
    count = np.empty(_STRIP, dtype=kind.dtype)
    for x0 in range(0, width, _STRIP):
        n = min(_STRIP, width - x0)
        for y in range(height + 2 * r):
            source = mask[y, x0 : x0 + n + 2 * r]
            empty[y] = _is_empty(source)
            if not empty[y]:
                running = kind.dtype.type(0)
                sums[y, 0] = running
                for x in range(source.size):
                    running = kind.dtype.type(running + source[x])
                    sums[y, x + 1] = running
        for y in range(height):
            count[:] = 0
            for row in range(y, y + 2 * r + 1):
                if not empty[row]:
                    _add_segment(sums[row], r, half_widths[abs(row - y - r)], n, count)
            target = out[y, x0 : x0 + n]
            for x in range(n):
                target[x] = count[x] >= needed


@njit(nogil=True, cache=True)
def _add_segment(sums: _Array, r: int, half_width: int, n: int, count: _Array) -> None:
    upper = sums[r + half_width + 1 : r + half_width + 1 + n]
    lower = sums[r - half_width : r - half_width + n]
    for x in range(n):
        count[x] += upper[x] - lower[x]


@njit(nogil=True, cache=True)
def _grow_square(mask: _Array, size: int, out: _Array) -> None:
    """Along x by doubling the window, along y by counting down the rows for which a set pixel stays in the window."""
    width = out.shape[1]
    one = np.empty(mask.shape[1], dtype=np.uint8)
    two = np.empty(mask.shape[1], dtype=np.uint8)
    left = np.zeros(width, dtype=np.int32)
    for y in range(mask.shape[0]):
        source, target = mask[y], one
        for x in range(source.size):
            target[x] = source[x]
        source, target = one, two
        window = 1
        while window < size:
            step = min(window, size - window)
            _join(source, step, target)
            source, target = target, source
            window += step
        for x in range(width):
            left[x] = size if source[x] else max(left[x] - 1, 0)
        if y >= size - 1:
            goal = out[y - size + 1]
            for x in range(width):
                goal[x] = left[x] > 0


@njit(nogil=True, cache=True)
def _join(row: _Array, step: int, target: _Array) -> None:
    """Each pixel or the one a step to its right. The last pixels have none, and no window of the output needs them."""
    n = row.size - step
    right = row[step:]
    for x in range(n):
        target[x] = row[x] | right[x]
