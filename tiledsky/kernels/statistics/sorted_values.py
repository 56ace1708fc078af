"""Statistics of float64 values that are held sorted: for images that float32 would round.

Sums are taken in the order of the values, with the rounding error of each addition carried along (Dekker 1971): the
result depends on neither tiling nor CPU, and is that of exact sums to a few units of the last bit. Memory: the values,
and as much again for the median absolute deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@numba.njit(nogil=True, cache=True)
def _added(high: float, low: float, term: float) -> tuple[float, float]:
    """Add a term to a sum of two parts: the rounded sum, and what the rounding has left out."""
    total = high + term
    back = total - high
    return total, low + ((high - (total - back)) + (term - back))


@numba.njit(nogil=True, cache=True)
def _moments(values: Floats, center: float, exponent: int) -> tuple[float, float]:
    """Sums of the distances from the center and of their squares, in units of ``2**exponent``."""
    a = b = c = d = 0.0
    for i in range(values.size):
        distance = math.ldexp(values[i] - center, -exponent)
        a, b = _added(a, b, distance)
        c, d = _added(c, d, distance * distance)
    return a + b, c + d


@numba.njit(nogil=True, cache=True)
def _biweight_sums(values: Floats, median: float, mad: float) -> tuple[float, float, float, float]:
    """The sums of `tiledsky.kernels.statistics.biweight`, of distances in units of the MAD."""
    a = b = c = d = e = f = g = h = 0.0
    for i in range(values.size):
        r = (values[i] - median) / mad
        if abs(r) < 9.0:
            u = 1.0 - (r / 9.0) * (r / 9.0)
            e, f = _added(e, f, r * r * u * u * u * u)
            g, h = _added(g, h, u * (1.0 - 5.0 * (r / 9.0) * (r / 9.0)))
        if abs(r) < 6.0:
            u = 1.0 - (r / 6.0) * (r / 6.0)
            a, b = _added(a, b, r * u * u)
            c, d = _added(c, d, u * u)
    return a + b, c + d, e + f, g + h


def _middle(values: Floats) -> float:
    """Median of sorted values; NaN of none."""
    if not values.size:
        return math.nan
    low, high = float(values[(values.size - 1) // 2]), float(values[values.size // 2])
    middle = (low + high) / 2.0
    return middle if math.isfinite(middle) else low / 2.0 + high / 2.0


def mean_and_std(values: Floats) -> tuple[float, float]:
    """Mean and population standard deviation of sorted values; NaN of none."""
    if not values.size:
        return math.nan, math.nan
    center = _middle(values)
    exponent = math.frexp(max(center - float(values[0]), float(values[-1]) - center))[1]
    total, squares = _moments(values, center, exponent)
    shift = total / values.size
    variance = max(squares / values.size - shift * shift, 0.0)
    return center + math.ldexp(shift, exponent), math.ldexp(math.sqrt(variance), exponent)


@dataclass(frozen=True, eq=False)
class SortedValues:
    """All values of an image that count: neither masked, nor NaN, nor infinite; ``values`` (n,), ascending."""

    values: Floats

    @classmethod
    def from_values(cls, values: NDArray[Any], *, mask: NDArray[np.bool_] | None = None) -> SortedValues:
        """Values of a tile of any real dtype; ``mask`` True = left out."""
        counts = np.isfinite(values) if mask is None else np.isfinite(values) & ~mask
        return cls(np.sort(values[counts].astype(np.float64) + 0.0))  # -0.0 counts as 0.0

    @classmethod
    def merged(cls, parts: Iterable[SortedValues]) -> SortedValues:
        """Values of several tiles."""
        return cls(np.sort(np.concatenate([part.values for part in parts]), kind="stable"))

    @cached_property
    def median(self) -> float:
        """Middle value, or the mean of the two middle ones; NaN without values."""
        return _middle(self.values)

    @cached_property
    def mad(self) -> float:
        """Median absolute deviation from the median; NaN without values."""
        return float(np.median(np.abs(self.values - self.median))) if self.values.size else math.nan

    def clipped(
        self, *, sigma_lower: float, sigma_upper: float, maxiters: int | None, center: str
    ) -> tuple[float, float, float]:
        """Mean, median and std of what the rule of `astropy.stats.SigmaClip` leaves."""
        left = self.values
        rounds = 0
        while left.size and (maxiters is None or rounds < maxiters):
            mean, std = mean_and_std(left)
            middle = mean if center == "mean" else _middle(left)
            distance = left - middle  # on a high level bounds would lose digits that distances keep
            start = np.searchsorted(distance, -sigma_lower * std, side="left")
            stop = np.searchsorted(distance, sigma_upper * std, side="right")
            if stop - start == left.size:
                break
            left, rounds = left[start:stop], rounds + 1
        mean, std = mean_and_std(left)
        return mean, _middle(left), std

    def biweights(self) -> tuple[float, float]:
        """Biweight location and scale, as `tiledsky.kernels.statistics.biweight` defines them."""
        if not self.mad > 0:  # no spread, or no value
            return self.median, self.mad
        moment, weight, squares, slope = _biweight_sums(self.values, self.median, self.mad)
        scale = self.mad * math.sqrt(self.values.size * squares) / abs(slope)
        return self.median + self.mad * moment / weight, scale
