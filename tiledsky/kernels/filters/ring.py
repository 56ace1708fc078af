"""Percentile filter over any footprint, made for the ring median.

The image is worked through in blocks. The values of a block are replaced by 16-bit codes: the rank of the value among
the distinct values near the wanted percentile, so that equal values share a code and a code stands for one value. Then
:data:`LANES` neighbouring pixels are searched at once: each has a pivot code, one pass over the footprint counts the
members above the pivots in vector lanes, and the pivots move until the code of the wanted rank is found. The search of
a row starts from the row above it: its counts are carried over by the pixels that enter and leave the footprint.

All decisions are integer comparisons of exact ranks. How the image was cut into blocks, and where the search started,
changes only how long it takes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.filters.ring_search import CODES, DONE, EMPTY, LANES, TOP, UNKNOWN, search_codes

_BEYOND = 2**31 - 1 - TOP  # rank of what lies above all that was ranked; no sum of codes overflows
_SIDE = 160  # pixels: larger blocks rank fewer values twice, smaller ones hold fewer values per window of codes
_MARGIN = 0.12  # share of the values added on both sides of the likely results

Bits = npt.NDArray[np.unsignedinteger[Any]]


def ring_footprint(radius_in: float, width: float) -> npt.NDArray[np.bool_]:
    """Return the pixels whose centres lie on a ring.

    Parameters
    ----------
    radius_in : float
        Inner radius in pixels, >= 0. A pixel at exactly this distance belongs to the ring.
    width : float
        Width of the ring in pixels, > 0; pixels at exactly ``radius_in + width`` belong to the ring.

    Returns
    -------
    ndarray of bool, shape (2 r + 1, 2 r + 1)
        ``2 r + 1`` is the smallest odd integer not below ``2 (radius_in + width)``.

    Raises
    ------
    ParameterError
        If a size is not finite or out of range, or if no pixel centre lies on the ring.

    Notes
    -----
    The same pixels and size as ``astropy.convolution.Ring2DKernel(radius_in, width).array > 0``.
    """
    if not (math.isfinite(radius_in) and radius_in >= 0):
        raise ParameterError(f"radius_in {radius_in} px is not an inner radius of a ring; use a finite radius_in >= 0")
    if not (math.isfinite(width) and width > 0):
        raise ParameterError(f"width {width} px leaves no ring; use a finite width > 0")
    size = math.ceil(2 * (radius_in + width))
    radius = size // 2
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    distance2 = (x**2 + y**2).astype(np.float64)
    ring = (distance2 >= radius_in**2) & (distance2 <= (radius_in + width) ** 2)
    if not ring.any():
        raise ParameterError(
            f"no pixel centre lies between {radius_in} and {radius_in + width} px, so the ring is empty; "
            "use a larger width"
        )
    return np.asarray(ring, dtype=np.bool_)


def footprint_percentile(
    padded: npt.NDArray[np.floating[Any]],
    footprint: npt.NDArray[np.bool_],
    *,
    percentile: float = 50.0,
    mask: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[Any]:
    """Return the percentile of the values under a footprint, at every pixel.

    Parameters
    ----------
    padded : ndarray of float32 or float64, shape (H + 2 ry, W + 2 rx)
        The image with as many extra pixels on every side as the footprint reaches.
    footprint : ndarray of bool, shape (2 ry + 1, 2 rx + 1)
        True where a pixel takes part.
    percentile : float
        0 to 100. Of n values the one with index ``int(n * percentile / 100)`` in ascending order, the last at 100.
    mask : ndarray of bool, shape of `padded`, optional
        True where a pixel is left out.

    Returns
    -------
    ndarray, shape (H, W), dtype of `padded`
        One of the values under the footprint, a zero always as +0.0. NaN where no value is valid.

    Raises
    ------
    ParameterError
        For an unusable footprint or percentile, or an image smaller than the footprint.
    InputError
        For an image that is not two-dimensional float32 or float64, or a mask of another shape or type.

    Notes
    -----
    NaN and masked pixels are left out and the index follows the number of values that remain; infinities are ordinary
    values. Where all are valid the result equals ``scipy.ndimage.percentile_filter`` (``median_filter`` at 50) bit for
    bit, except that scipy may return -0.0.
    Edge rule: none, the caller pads ("valid" mode). Halo: ry, rx.
    Memory: the output plus 32 (float32) or 44 (float64) bytes a pixel of one block with its halo, which is at most
    ``(160 + 2 ry) (160 + 2 rx)`` pixels (3.5 MB for float32 and a radius of 84). Only the output grows with the image.
    """
    footprint = _checked_footprint(footprint, padded, percentile)
    _check_image(padded, mask)
    image = np.ascontiguousarray(padded)
    bits: Bits = image.view(np.uint32 if image.dtype == np.float32 else np.uint64)
    invalid = np.zeros((0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask)
    search = _Search.prepare(footprint, percentile, (bits.shape[0], bits.shape[1]), bits.dtype)
    height, width = (n - m + 1 for n, m in zip(bits.shape, footprint.shape, strict=True))
    out: Bits = np.empty((height, width), bits.dtype)
    rows, columns = search.block
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            _filter_block(search, bits, invalid, (y, x), out)
    return out.view(image.dtype)


def _checked_footprint(
    footprint: npt.NDArray[np.bool_], padded: npt.NDArray[np.floating[Any]], percentile: float
) -> npt.NDArray[np.bool_]:
    """Return the footprint as bool after checking it, the percentile, and that the image is large enough."""
    checked = np.asarray(footprint, dtype=np.bool_)
    if checked.ndim != 2 or any(n % 2 == 0 for n in checked.shape):
        raise ParameterError(f"footprint of shape {checked.shape} has no centre pixel; use two odd sizes for footprint")
    if not checked.any():
        raise ParameterError("footprint has no True pixel, so there is nothing to rank; set some of footprint to True")
    if not 0 <= percentile <= 100:
        raise ParameterError(f"percentile {percentile} is not a share of the values; use a percentile from 0 to 100")
    if padded.ndim == 2 and any(n < m for n, m in zip(padded.shape, checked.shape, strict=True)):
        raise ParameterError(
            f"image of shape {padded.shape} is smaller than the footprint {checked.shape}, so no pixel has its whole "
            "neighbourhood; pad the image by the footprint's radius or use a smaller footprint"
        )
    return checked


def _check_image(padded: npt.NDArray[np.floating[Any]], mask: npt.NDArray[np.bool_] | None) -> None:
    """Refuse images and masks that the kernel would misread."""
    if padded.ndim != 2 or padded.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(
            f"image has {padded.ndim} dimensions and dtype {padded.dtype}, but codes are made from the bits of native "
            "floats; pass a two-dimensional float32 or float64 array as padded"
        )
    if mask is not None and (mask.shape != padded.shape or mask.dtype != np.bool_):
        raise InputError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} does not say which pixel to leave out; "
            f"pass a bool mask of shape {padded.shape}"
        )


class _Search(NamedTuple):
    """What is the same for all blocks of an image: the footprint as offsets, the wanted ranks, and work space."""

    block: tuple[int, int]  # largest output block
    radius: tuple[int, int]
    stride: int  # of the code buffer
    percentile: float
    members: npt.NDArray[np.int64]  # offsets into the code buffer, relative to the footprint's upper left corner
    entering: npt.NDArray[np.int64]  # members that the footprint did not have one row higher up
    leaving: npt.NDArray[np.int64]  # what it had there and has no more, relative to the old corner
    probe: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # some members (dy, dx)
    probe_grid: npt.NDArray[np.intp]  # the pixels of a block, in thirds of its sides, where results are guessed
    targets: npt.NDArray[np.int32]  # for m valid members: how many lie above the wanted one
    codes: npt.NDArray[np.int16]
    keys: Bits
    ranks: npt.NDArray[np.int32]
    sorting: tuple[Bits, Bits, npt.NDArray[np.int32], npt.NDArray[np.int32]]

    @classmethod
    def prepare(
        cls, footprint: npt.NDArray[np.bool_], percentile: float, shape: tuple[int, int], dtype: npt.DTypeLike
    ) -> _Search:
        ry, rx = (n // 2 for n in footprint.shape)
        rows, columns = min(_SIDE, shape[0] - 2 * ry), min(_SIDE, shape[1] - 2 * rx)
        stride = -(-columns // LANES) * LANES + 2 * rx
        dy, dx = np.nonzero(footprint)
        n = dy.size
        taller = np.pad(footprint, ((1, 1), (0, 0)))
        ey, ex = np.nonzero(footprint & ~taller[2:])
        ly, lx = np.nonzero(footprint & ~taller[:-2])
        pick = np.unique(np.linspace(0, n - 1, 128).astype(np.intp))
        counts = np.arange(n + 1)
        index = counts - 1 if percentile == 100 else (counts.astype(np.float64) * percentile / 100.0).astype(np.int64)
        region = (rows + 2 * ry) * (columns + 2 * rx)
        return cls(
            block=(rows, columns),
            radius=(ry, rx),
            stride=stride,
            percentile=percentile,
            members=(dy * stride + dx).astype(np.int64),
            entering=(ey * stride + ex).astype(np.int64),
            leaving=(ly * stride + lx).astype(np.int64),
            probe=(dy[pick], dx[pick]),
            probe_grid=np.arange(4),
            targets=np.where(counts > 0, np.maximum(counts - 1 - index, 0), -1).astype(np.int32),
            codes=np.empty((rows + 2 * ry) * stride, np.int16),
            keys=np.empty(region, dtype),
            ranks=np.empty(region, np.int32),
            sorting=(
                np.empty(region, dtype),
                np.empty(region, dtype),
                np.empty(region, np.int32),
                np.empty(region, np.int32),
            ),
        )


def _filter_block(
    search: _Search, bits: Bits, invalid: npt.NDArray[np.bool_], corner: tuple[int, int], out: Bits
) -> None:
    """Fill the output block at `corner`: from codes of the likely results, and for what is left of all values."""
    rows, columns = (min(n, m - i) for n, m, i in zip(search.block, out.shape, corner, strict=True))
    ry, rx = search.radius
    keys = search.keys[: (rows + 2 * ry) * (columns + 2 * rx)].reshape(rows + 2 * ry, columns + 2 * rx)
    n_valid = _region_keys(bits, invalid, *corner, keys)
    found = np.full((rows, -(-columns // LANES) * LANES), DONE, np.int32)
    found[:, :columns] = UNKNOWN
    ranks = search.ranks[: keys.size].reshape(keys.shape)
    all_keys = (1, int(np.iinfo(keys.dtype).max))
    for lowest, highest in (_likely_keys(search, keys, n_valid) if n_valid > CODES else all_keys, all_keys):
        key_range = (keys.dtype.type(lowest), keys.dtype.type(highest))
        n_distinct, n_ranked = _rank_keys(keys.ravel(), *key_range, ranks.ravel(), *search.sorting)
        codes_per_member = n_distinct * keys.size / (max(n_ranked, 1) * search.members.size)
        for start in _windows(n_distinct):
            _encode(ranks, start, search.stride, search.codes)
            n_unknown = search_codes(
                search.codes, search.stride, search.members, search.entering, search.leaving, search.targets,
                n_valid == keys.size, np.float32(codes_per_member), start, found,
            )  # fmt: skip
            if n_unknown == 0:
                break
        _write_values(found, search.sorting[0], *corner, out)
        if n_unknown == 0:
            return


def _windows(n_ranks: int) -> list[int]:
    """Return the first ranks of the windows of codes that cover all ranks, the middle one first."""
    middle = max((n_ranks - CODES) // 2, 0)
    lower = [max(start, 0) for start in range(middle - CODES, -CODES, -CODES)]
    return [middle, *lower, *range(middle + CODES, n_ranks, CODES)]


def _likely_keys(search: _Search, keys: Bits, n_valid: int) -> tuple[int, int]:
    """Return a range of keys that probably holds every result of a block, from a few pixels and members of theirs."""
    lowest, highest = 1, int(np.iinfo(keys.dtype).max)
    sample = np.sort(keys.ravel()[:: max(keys.size // 2048, 1)])
    sample = sample[np.searchsorted(sample, 1) :]
    rows, columns = (n - 2 * r for n, r in zip(keys.shape, search.radius, strict=True))
    y, x = search.probe_grid * (rows - 1) // 3, search.probe_grid * (columns - 1) // 3
    corners = (y[:, None] * keys.shape[1] + x).reshape(-1, 1)
    members = np.sort(keys.ravel()[corners + (search.probe[0] * keys.shape[1] + search.probe[1])], axis=1)
    n_invalid = (members == 0).sum(axis=1)
    n_left = members.shape[1] - n_invalid
    index = np.minimum((n_left * (search.percentile / 100)).astype(np.intp), n_left - 1)
    results = members[np.arange(len(members)), n_invalid + index][n_left > 0]
    if results.size == 0 or sample.size == 0:
        return lowest, highest
    first, last = np.searchsorted(sample, [results.min(), results.max()]) / sample.size
    low, high = int((first - _MARGIN) * sample.size), int((last + _MARGIN) * sample.size)
    return int(sample[low]) if low > 0 else lowest, int(sample[high]) if high < sample.size else highest


@njit(nogil=True, cache=True)
def _region_keys(bits, invalid, y0, x0, keys):  # type: ignore[no-untyped-def]
    """Write a region as unsigned integers in the order of the values, 0 where invalid; return how many are valid."""
    size = keys.itemsize * 8
    sign = keys.dtype.type(1 << (size - 1))
    infinity = keys.dtype.type(0x7F800000 if size == 32 else 0x7FF0000000000000)
    n_valid = 0
    for y in range(keys.shape[0]):
        row, out = bits[y0 + y], keys[y]
        for x in range(keys.shape[1]):
            b = row[x0 + x]
            key = (b ^ sign) if b <= sign else ~b  # -0.0 has the bits of `sign`: it gets the key 0 here
            key = sign if b == sign else key  # and that of +0.0 here
            key = key if (b & ~sign) <= infinity else sign ^ sign
            out[x] = key
        if invalid.size:
            for x in range(keys.shape[1]):
                if invalid[y0 + y, x0 + x]:
                    out[x] = 0
        for x in range(keys.shape[1]):
            n_valid += out[x] != 0
    return n_valid


@njit(nogil=True, cache=True)
def _rank_keys(keys, lowest, highest, ranks, table, other, places, other_places):  # type: ignore[no-untyped-def]
    """Rank the distinct keys from `lowest` to `highest`: key of each rank in `table`, rank of each pixel in `ranks`.

    Pixels below the range get -1, above it a rank beyond any code, invalid ones -2. Returns the number of ranks and of
    pixels in the range.
    """
    n = np.int64(0)
    for i in range(keys.size):
        k = keys[i]
        ranks[i] = -2 if k == 0 else (-1 if k < lowest else _BEYOND)
        table[n] = k
        places[n] = i
        n += np.int64((k >= lowest) & (k <= highest))
    _sort_keys(table, other, places, other_places, n)
    distinct = -1
    last = keys.dtype.type(0)  # no valid key
    for i in range(n):
        k = table[i]
        distinct += k != last
        last = k
        table[distinct] = k
        ranks[places[i]] = distinct
    return distinct + 1, n


@njit(nogil=True, cache=True)
def _sort_keys(keys, other, places, other_places, n):  # type: ignore[no-untyped-def]
    """Sort the first n keys with their places, in place, by eleven bits at a time; `other` is work space."""
    counts = np.empty(2048, np.int64)
    done_in_place = True
    for shift in range(0, keys.itemsize * 8, 11):
        source, target = (keys, other) if done_in_place else (other, keys)
        source_places, target_places = (places, other_places) if done_in_place else (other_places, places)
        for digit in range(2048):
            counts[digit] = 0
        for i in range(n):
            counts[(source[i] >> shift) & 2047] += 1
        if n and counts[(source[0] >> shift) & 2047] == n:
            continue  # all share these bits
        total = 0
        for digit in range(2048):
            c = counts[digit]
            counts[digit] = total
            total += c
        for i in range(n):
            k = source[i]
            digit = (k >> shift) & 2047
            j = counts[digit]
            counts[digit] = j + 1
            target[j] = k
            target_places[j] = source_places[i]
        done_in_place = not done_in_place
    if not done_in_place:
        for i in range(n):
            keys[i] = other[i]
            places[i] = other_places[i]


@njit(nogil=True, cache=True)
def _encode(ranks, start, stride, codes):  # type: ignore[no-untyped-def]
    """Write the ranks of a region as codes 1.. from rank `start` on, with uncounted columns up to the stride."""
    for y in range(ranks.shape[0]):
        row = ranks[y]
        out = codes[y * stride : (y + 1) * stride]
        for x in range(row.size):
            r = row[x]
            out[x] = -1 if r == -2 else min(max(r - start + 1, 0), TOP)
        for x in range(row.size, stride):
            out[x] = -1


@njit(nogil=True, cache=True)
def _write_values(found, table, y0, x0, out):  # type: ignore[no-untyped-def]
    """Turn the ranks found into the bits of their values, NaN for pixels without members, and tick them off."""
    size = table.itemsize * 8
    sign = table.dtype.type(1 << (size - 1))
    nan = table.dtype.type(0x7FC00000 if size == 32 else 0x7FF8000000000000)
    for y in range(found.shape[0]):
        for x in range(min(found.shape[1], out.shape[1] - x0)):
            rank = found[y, x]
            if rank >= 0:
                k = table[rank]
                out[y0 + y, x0 + x] = k ^ sign if k >= sign else ~k
                found[y, x] = DONE
            elif rank == EMPTY:
                out[y0 + y, x0 + x] = nan
                found[y, x] = DONE
