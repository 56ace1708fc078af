"""Exact sums of float32 values: integers all the way, one rounding at the end.

Every finite float32 is an integer multiple of 2**-149, so a sum of values is an integer in that *unit* and a sum of
squares an integer in units of 2**-298. Python integers hold both without loss; mean and population standard deviation
are then rounded once, to the nearest float64. Integer addition is associative: any merge order gives the same bits.

A *bin* is the set of float32 values that share the upper 16 bits of their ordered key
(`tiledsky.kernels.statistics.histogram`): one sign, one exponent, seven bits of mantissa. Inside a bin a value is
``(base + low) * 2**shift`` units, where ``low`` is the lower 16 bits of the key; count, sum and sum of squares of
``low`` therefore give the exact sums of the values.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, nan

import numpy as np
import numpy.typing as npt

UNIT_BITS = 149
"""A unit is ``2**-UNIT_BITS``, the smallest positive float32."""

_ROOT_BITS = 64  # bits of the integer root; more than 53 + 2, so that rounding to odd makes the last rounding right


def bin_base_and_shift(bin_index: int) -> tuple[int, int]:
    """Constants ``base`` and ``shift`` of a bin: a value of the bin is ``(base + low) * 2**shift`` units.

    Parameters
    ----------
    bin_index : int
        Upper 16 bits of the ordered key, 0 (most negative) to 65535; exponent 255 (infinity, NaN) has no value.

    Returns
    -------
    base, shift : int
        ``low`` (0 to 65535) grows with the value in negative bins too.
    """
    signed = bin_index - 0x8000
    magnitude = signed if signed >= 0 else -signed - 1  # exponent and upper seven mantissa bits of |value|
    exponent = magnitude >> 7
    mantissa = (magnitude & 0x7F) << 16
    if exponent:
        mantissa |= 1 << 23
    shift = max(exponent, 1) - 1
    return (mantissa if signed >= 0 else -(mantissa + 0xFFFF)), shift


def to_units(value: float) -> int:
    """Integer number of units of a finite value that a float32 can hold (exact)."""
    numerator, denominator = float(value).as_integer_ratio()
    return (numerator << UNIT_BITS) // denominator


def weighted_sum(counts: npt.NDArray[np.uint64], weights: npt.NDArray[np.uint64]) -> int:
    """Exact ``sum(counts * weights)`` for at most 65536 weights below 2**32; the counts may be any uint64.

    The counts are taken 16 bits at a time: 16 + 32 + 16 bits fit a uint64 sum.
    """
    total = 0
    for shift in (0, 16, 32, 48):
        limb = (counts >> np.uint64(shift)) & np.uint64(0xFFFF)
        total += int((limb * weights).sum(dtype=np.uint64)) << shift
    return total


def sqrt_of_ratio(numerator: int, denominator: int) -> float:
    """Square root of a non-negative rational, correctly rounded to float64 (to nearest, ties to even).

    Parameters
    ----------
    numerator, denominator : int
        ``numerator >= 0``, ``denominator > 0``. The root must be within the normal range of float64.

    Returns
    -------
    float
    """
    if numerator == 0:
        return 0.0
    # Scale by 4**k so that the integer root has _ROOT_BITS bits or one more; k may be negative.
    k = _ROOT_BITS - (numerator.bit_length() - denominator.bit_length()) // 2
    scaled_numerator = numerator << (2 * k) if k > 0 else numerator
    scaled_denominator = denominator << (-2 * k) if k < 0 else denominator
    root = isqrt(scaled_numerator // scaled_denominator)
    if root * root * scaled_denominator != scaled_numerator:
        root |= 1  # round to odd: keeps the information "inexact" for the single rounding below
    return root / (1 << k) if k >= 0 else float(root << -k)  # integer division and conversion round correctly


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares of a set of float32 values, exact.

    Attributes
    ----------
    n : int
        Number of values.
    total : int
        Sum, in units of 2**-149.
    squares : int
        Sum of the squares, in units of 2**-298.
    """

    n: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.squares - other.squares)

    def mean(self) -> float:
        """Arithmetic mean, correctly rounded to float64; NaN without values."""
        return self.total / (self.n << UNIT_BITS) if self.n else nan

    def std(self) -> float:
        """Population standard deviation (about the exact mean), correctly rounded to float64; NaN without values."""
        if not self.n:
            return nan
        return sqrt_of_ratio(self.n * self.squares - self.total**2, self.n**2 << 2 * UNIT_BITS)


def moments_of_bin(bin_index: int, n: int, low_sum: int, low_squares: int) -> Moments:
    """Exact moments of ``n`` values of one bin, from the sums of their lower 16 key bits.

    Parameters
    ----------
    bin_index : int
        The bin, 0 to 65535.
    n, low_sum, low_squares : int
        Count, sum and sum of squares of the lower 16 bits of the keys.

    Returns
    -------
    Moments
    """
    base, shift = bin_base_and_shift(bin_index)
    total = n * base + low_sum
    squares = n * base * base + 2 * base * low_sum + low_squares
    return Moments(n, total << shift, squares << 2 * shift)


@dataclass(frozen=True)
class DoubtfulGroup:
    """Values of which any number may belong to a set: at most ``n`` of them, all in ``[low, high]`` (units)."""

    n: int
    low: int
    high: int


def mean_bounds(certain: Moments, doubtful: Sequence[DoubtfulGroup]) -> tuple[Fraction, Fraction]:
    """Least and greatest mean that a non-empty set can have: all of `certain`, any part of each group of `doubtful`.

    The mean is linear-fractional in the number taken from each group, so its extremes lie where a group is taken
    whole or not at all, with its values at one end of their interval.

    Parameters
    ----------
    certain : Moments
        Moments of the values that belong to the set in any case.
    doubtful : sequence of DoubtfulGroup
        Groups with ``n > 0``; at least one when `certain` is empty.

    Returns
    -------
    least, greatest : Fraction
        In units of 2**-149.
    """
    if not certain.n:
        return Fraction(min(g.low for g in doubtful)), Fraction(max(g.high for g in doubtful))
    least, greatest = [], []
    for taken in itertools.product((False, True), repeat=len(doubtful)):
        groups = [g for g, is_taken in zip(doubtful, taken, strict=True) if is_taken]
        n = certain.n + sum(g.n for g in groups)
        least.append(Fraction(certain.total + sum(g.n * g.low for g in groups), n))
        greatest.append(Fraction(certain.total + sum(g.n * g.high for g in groups), n))
    return min(least), max(greatest)


def _variance_bounds(certain: Moments, doubtful: Sequence[DoubtfulGroup]) -> tuple[Fraction, Fraction]:
    """Bounds of the population variance, in units of 2**-298, for the sets described at `mean_bounds`.

    About ``c``, the mean of the certain values, the mean square is linear-fractional in the numbers taken (extremes as
    above); it exceeds the variance by the square of the shift of the mean, which `mean_bounds` limits.
    """
    if not certain.n:
        spread = max(g.high for g in doubtful) - min(g.low for g in doubtful)
        return Fraction(0), Fraction(spread * spread, 4)  # Popoviciu's inequality
    c = Fraction(certain.total, certain.n)
    deviations = certain.squares - certain.total * c  # sum of (v - c)**2 of the certain values
    ends = [((g.low - c) ** 2, (g.high - c) ** 2) for g in doubtful]
    far = [max(pair) for pair in ends]
    near = [Fraction(0) if g.low <= c <= g.high else min(pair) for g, pair in zip(doubtful, ends, strict=True)]
    least, greatest = [], []
    for taken in itertools.product((0, 1), repeat=len(doubtful)):
        numbers = [is_taken * g.n for g, is_taken in zip(doubtful, taken, strict=True)]
        n = certain.n + sum(numbers)
        least.append((deviations + sum(m * d for m, d in zip(numbers, near, strict=True))) / n)
        greatest.append((deviations + sum(m * d for m, d in zip(numbers, far, strict=True))) / n)
    shift = max(abs(bound - c) for bound in mean_bounds(certain, doubtful))
    # More values never lower the sum of squared deviations from the own mean: the first bound is always positive.
    without_shift = deviations / (certain.n + sum(g.n for g in doubtful))
    return max(without_shift, min(least) - shift * shift), max(greatest)


def mean_interval(certain: Moments, doubtful: Sequence[DoubtfulGroup]) -> tuple[float, float]:
    """Float64 interval that holds `Moments.mean` of every set described at `mean_bounds`.

    Both ends are rounded as `Moments.mean` rounds; rounding is monotone, so no margin is needed.
    """
    least, greatest = mean_bounds(certain, doubtful)
    scale = 1 << UNIT_BITS
    return least.numerator / (least.denominator * scale), greatest.numerator / (greatest.denominator * scale)


def std_interval(certain: Moments, doubtful: Sequence[DoubtfulGroup]) -> tuple[float, float]:
    """Float64 interval that holds `Moments.std` of every set described at `mean_bounds`."""
    least, greatest = _variance_bounds(certain, doubtful)
    scale = 1 << 2 * UNIT_BITS
    return (
        sqrt_of_ratio(least.numerator, least.denominator * scale),
        sqrt_of_ratio(greatest.numerator, greatest.denominator * scale),
    )
