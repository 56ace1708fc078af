"""Exact biweight location and scale of an image: the third pass, after those that give its median and MAD.

Each pixel's terms, in units of the MAD (median absolute deviation), are rounded to integer multiples of 2**-46; the
integers are summed. Integer addition is associative: the sums of an image are the same for any tiling and any order of
merging. Float64 arithmetic is left to the terms of one pixel and to the last step.

Error of the rounding, at worst (all terms rounded the same way): 1e-13 MAD in the location, 1e-12 relative in the scale
(if the mean of its squares, about 0.5 MAD**2 for normal values, is above 0.01 MAD**2); usually below that of float64.

Source: Beers, Flynn & Gebhardt (1990, AJ 100, 32); definitions as in `astropy.stats.biweight_location` (c = 6) and
`astropy.stats.biweight_scale` (c = 9, all pixels as sample size).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, isnan, nan

import numpy as np
import numpy.typing as npt
from numba import njit

from tiledsky.errors import ParameterError, RunError
from tiledsky.kernels.statistics.histogram import check_length, check_magic, flat_bits_and_mask
from tiledsky.kernels.statistics.sums import sqrt_of_ratio

FRACTION_BITS = 46
"""A term is rounded to a multiple of ``2**-FRACTION_BITS``."""

# A term is below 8. Added to this float64, whose last bit is worth 2**-46, it is rounded to that bit (to nearest, ties
# to even), and the bits of the sum count up from those of the constant: float to integer with what every CPU has as a
# vector instruction.
_ROUNDER = 1.5 * 2.0 ** (52 - FRACTION_BITS)
_ROUNDER_BITS = int(np.array(_ROUNDER).view(np.int64))
_BLOCK = 2048  # pixels whose terms are summed in one int64: 2048 x 8 x 2**46 = 2**60; the block stays in cache
_LOW_BITS = 32  # block sums are added as two int64: by their lower 32 bits and the rest
_FAR = 16.0  # where pixels that do not count are put, in MAD: all their terms are 0
_MAX_PIXELS = 1 << 47
_LEAST_MAD = 2.0**-151  # half of half of the smallest float32: no smaller MAD of float32 values is above 0

_HEADER = struct.Struct("<8sQdd")
_MAGIC = b"tskybiw1"
_SUM_BYTES = 16  # of each sum: 47 bits of pixels, 46 of fraction, 3 of the term, a sign


@njit(nogil=True, cache=True)
def _place(values, mask, median, inverse_mad, places):  # type: ignore[no-untyped-def]
    """Put the pixels of a block at ``(value - median) / MAD``, to `_FAR` what does not count; returns how many do.

    `mask` is empty when no pixel is masked.
    """
    n = 0
    if mask.size > 0:
        for i in range(values.size):
            value = np.float64(values[i])
            counts = (not mask[i]) & (abs(value) < np.inf)
            n += 1 if counts else 0
            place = (value - median) * inverse_mad
            places[i] = place if counts & (abs(place) < _FAR) else _FAR
    else:
        for i in range(values.size):
            value = np.float64(values[i])
            n += 1 if abs(value) < np.inf else 0
            place = (value - median) * inverse_mad
            places[i] = place if abs(place) < _FAR else _FAR
    return n


@njit(nogil=True, cache=True)
def _sum_terms(places):  # type: ignore[no-untyped-def]
    """Sums over a block of r (1-u^2)^2, (1-u^2)^2 (u = r/6), r^2 (1-u^2)^4, (1-u^2)(1-5u^2) (u = r/9), rounded."""
    moment = weight = squares = slope = np.int64(0)
    for i in range(places.size):
        r = places[i]
        q = r * r
        inner = 1.0 - q * (1.0 / 36.0)
        inner = inner if inner > 0.0 else 0.0  # abs(u) >= 1: no part in the sum
        inner = inner * inner
        outer = 1.0 - q * (1.0 / 81.0)
        outer = outer if outer > 0.0 else 0.0
        fourth = outer * outer
        fourth = fourth * fourth
        moment += np.float64(r * inner + _ROUNDER).view(np.int64) - _ROUNDER_BITS
        weight += np.float64(inner + _ROUNDER).view(np.int64) - _ROUNDER_BITS
        squares += np.float64(q * fourth + _ROUNDER).view(np.int64) - _ROUNDER_BITS
        slope += np.float64(outer * (1.0 - q * (5.0 / 81.0)) + _ROUNDER).view(np.int64) - _ROUNDER_BITS
    return moment, weight, squares, slope


@njit(nogil=True, cache=True)
def _sum_all(values, mask, median, inverse_mad, high, low):  # type: ignore[no-untyped-def]
    """Add the four sums of all pixels to `high` (in units of 2**32) and `low`; returns how many pixels count."""
    places = np.empty(_BLOCK, np.float64)
    n = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        n += _place(block, mask[start : start + _BLOCK], median, inverse_mad, places)
        sums = _sum_terms(places[: block.size])
        for k in range(4):
            high[k] += sums[k] >> _LOW_BITS
            low[k] += sums[k] & ((1 << _LOW_BITS) - 1)
    return n


def _check_center(median: float, mad: float) -> None:
    """Refuse what cannot be the median and the MAD of float32 values."""
    if isnan(median) and isnan(mad):
        return  # those of no values
    if not isfinite(median):
        raise ParameterError(
            f"median={median} is not a place to measure distances from; pass the median of all pixels that count"
        )
    if not (mad == 0 or (isfinite(mad) and mad >= _LEAST_MAD)):
        raise ParameterError(
            f"mad={mad} cannot be the median absolute deviation of float32 values; pass that of all pixels that count"
        )


@dataclass(frozen=True)
class BiweightSums:
    """Sums of the biweight location and scale of float32 values about a given median, in units of a given MAD.

    Masked, NaN and infinite pixels are left out. Make it with `from_values`, `merged` or `from_bytes`.

    Attributes
    ----------
    median, mad : float
        Those of the whole image; NaN for an image without values.
    n : int
        Number of values, near the median or not.
    moment, weight : int
        Sums of ``r (1 - u**2)**2`` and ``(1 - u**2)**2`` over the values with ``abs(u) < 1``, in units of 2**-46;
        ``r = (value - median) / mad``, ``u = r / 6``. 0 where the MAD is 0.
    squares, slope : int
        Sums of ``r**2 (1 - u**2)**4`` and ``(1 - u**2) (1 - 5 u**2)``, with ``u = r / 9``.
    """

    median: float
    mad: float
    n: int = 0
    moment: int = 0
    weight: int = 0
    squares: int = 0
    slope: int = 0

    @classmethod
    def from_values(
        cls,
        values: npt.NDArray[np.float32],
        *,
        median: float,
        mad: float,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> BiweightSums:
        """Sums of an array, for the same pixels as `KeyHistogram.from_values`.

        Parameters
        ----------
        values : ndarray of float32
            Any shape.
        median, mad : float
            Of the whole image, not of this part (unit of the values): `selection.percentile` and
            `selection.median_absolute_deviation`. Both NaN for an image without values.
        mask : ndarray of bool, optional
            Same shape; True leaves the pixel out.

        Returns
        -------
        BiweightSums

        Raises
        ------
        ParameterError
            Another dtype or byte order, a mask of another shape or dtype, an impossible median or MAD, values where
            the median says that there are none.
        """
        median, mad = float(median), float(mad)
        _check_center(median, mad)
        bits, flat_mask = flat_bits_and_mask(values, mask)
        high, low = np.zeros(4, np.int64), np.zeros(4, np.int64)
        inverse = 1.0 / mad if mad > 0 else 0.0
        n = int(_sum_all(bits.view(np.float32), flat_mask, median, inverse, high, low))
        if n and isnan(median):
            raise ParameterError(
                f"median=nan is that of an image without values, but there are {n}; pass the median of all pixels"
            )
        if not mad > 0:
            return cls(median, mad, n)
        return cls(median, mad, n, *((int(h) << _LOW_BITS) + int(w) for h, w in zip(high, low, strict=True)))

    @classmethod
    def merged(cls, sums: Iterable[BiweightSums]) -> BiweightSums:
        """Sums of all pixels of several. Any order gives the same bits.

        Raises
        ------
        ParameterError
            None given, or about different medians or MADs.
        RunError
            More than 2**47 pixels together.
        """
        parts = list(sums)
        if not parts:
            raise ParameterError("no sums to merge, so the median is unknown; pass at least one in sums")
        first = parts[0]
        if any(part._center != first._center for part in parts):
            raise ParameterError(
                "the sums are about different medians or in different MADs, so they do not add up; "
                "make them all with the median and mad of the whole image"
            )
        n = sum(part.n for part in parts)
        if n > _MAX_PIXELS:
            raise RunError(f"{n} pixels in one sum, more than the {_MAX_PIXELS} that its bytes hold; split the image")
        totals = (sum(column) for column in zip(*(part._sums for part in parts), strict=True))
        return cls(first.median, first.mad, n, *totals)

    def merge(self, other: BiweightSums) -> BiweightSums:
        """Sums of the pixels of both; median and MAD must be the same."""
        return BiweightSums.merged((self, other))

    @property
    def _center(self) -> bytes:
        return struct.pack("<dd", self.median, self.mad)

    @property
    def _sums(self) -> tuple[int, int, int, int]:
        return self.moment, self.weight, self.squares, self.slope

    def location(self) -> float:
        """Biweight location, unit of the values; the median where the MAD is 0, NaN without values."""
        if not self.n:
            return nan
        if self.mad == 0:
            return self.median
        if not self.weight:
            return nan  # no value within 6 MAD of the median: not the median of these values
        return self.median + self.mad * (self.moment / self.weight)

    def scale(self) -> float:
        """Biweight scale, unit of the values; 0 where the MAD is 0, NaN without values."""
        if not self.n:
            return nan
        if self.mad == 0:
            return 0.0
        if not self.slope:
            return nan  # cannot be: half of the values lie within the MAD, their terms outweigh all others
        return self.mad * sqrt_of_ratio(self.n * self.squares << FRACTION_BITS, self.slope**2)

    def to_bytes(self) -> bytes:
        """Portable bytes; equal sums have equal bytes (96 bytes)."""
        header = _HEADER.pack(_MAGIC, self.n, self.median, self.mad)
        return header + b"".join(total.to_bytes(_SUM_BYTES, "little", signed=True) for total in self._sums)

    @classmethod
    def from_bytes(cls, data: bytes) -> BiweightSums:
        """Inverse of `to_bytes`.

        Raises
        ------
        InputError
            Not such sums, or of the wrong length.
        """
        check_magic(data, _HEADER, _MAGIC, "BiweightSums")
        check_length(data, _HEADER.size + 4 * _SUM_BYTES, "BiweightSums")
        _, n, median, mad = _HEADER.unpack_from(data)
        starts = range(_HEADER.size, len(data), _SUM_BYTES)
        totals = (int.from_bytes(data[start : start + _SUM_BYTES], "little", signed=True) for start in starts)
        return cls(median, mad, n, *totals)
