"""Sums over the boxes of a mesh that have one value for any tiling.

Boxes are added in blocks of `tiledsky.kernels.fit.windows.ALIGNED` cells along each axis, in a fixed order, and the
sums of the blocks exactly, as fractions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isqrt
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.moments import terms
from tiledsky.kernels.fit.windows import ALIGNED, Floats, Window, weighted_cells
from tiledsky.kernels.statistics.counted import CountedValues

#: Degree of the largest polynomial of the whole mesh that local fits are averaged with.
_DEGREE = 2
#: Condition of normal equations above which a polynomial of the whole mesh is left out: boxes in a row, or too few.
_SINGULAR = 1e12


@dataclass(frozen=True)
class ExactSums:
    """Sums of several quantities, exact.

    Attributes
    ----------
    totals : tuple of Fraction
    """

    totals: tuple[Fraction, ...]

    @classmethod
    def of(cls, blocks: Floats) -> ExactSums:
        """Add the sums of blocks, (quantities, blocks), finite."""
        return cls(tuple(_exact(row) for row in blocks))

    @classmethod
    def merged(cls, parts: Iterable[ExactSums]) -> ExactSums:
        """Add the sums of tiles, one at least, in any order."""
        return cls(tuple(sum(each, Fraction(0)) for each in zip(*(p.totals for p in parts), strict=True)))

    def to_list(self) -> list[list[int]]:
        """Return numerators and denominators."""
        return [list(total.as_integer_ratio()) for total in self.totals]

    @classmethod
    def from_list(cls, pairs: list[list[int]]) -> ExactSums:
        """Inverse of `to_list`."""
        return cls(tuple(Fraction(*pair) for pair in pairs))


@dataclass(frozen=True)
class FitNumbers:
    """What a fit has to know of all boxes.

    Attributes
    ----------
    center : float
        Mean of the boxes, by weight: fits are made to what differs from it.
    typical : float
        Median weight of boxes.
    floor : float
        Least mean square of residuals that is told apart from 0.
    constant : bool
        Whether all boxes have the same value.
    alone : bool
        Whether there is one box alone.
    total : float
        Sum of the weights.
    """

    center: float
    typical: float
    floor: float
    constant: bool
    alone: bool
    total: float = 1.0


@dataclass(frozen=True)
class BoxSums:
    """Boxes of a tile, or of the mesh.

    Attributes
    ----------
    number : int
        Boxes whose weight is not 0.
    exact : ExactSums
        Of their weights, and of weight times value.
    smallest, largest : float
        Of their values; infinite without boxes.
    weights : CountedValues
    """

    number: int
    exact: ExactSums
    smallest: float
    largest: float
    weights: CountedValues

    @classmethod
    def of(cls, values: NDArray[Any], weight: NDArray[Any]) -> BoxSums:
        """Sum up a tile.

        Parameters
        ----------
        values : ndarray (rows, columns)
            Of the boxes; any number, also NaN, where the weight is 0.
        weight : ndarray (rows, columns)
            Of the boxes, before robust rounds; 0 where a box is left out.

        Notes
        -----
        Halo: none. Memory: 24 bytes a cell, and the counted weights.
        """
        known = weight > 0.0
        inside = values[known]
        blocks = np.zeros((2, _blocks(values.shape)))
        _sum_boxes(values, weight, blocks)
        low = float(np.min(inside, initial=inf))
        return cls(
            inside.size, ExactSums.of(blocks), low, float(np.max(inside, initial=-inf)), CountedValues.of(weight[known])
        )

    @classmethod
    def merged(cls, parts: Iterable[BoxSums]) -> BoxSums:
        """Add tiles, one at least, in any order."""
        held = list(parts)
        return cls(
            sum(p.number for p in held),
            ExactSums.merged(p.exact for p in held),
            min(p.smallest for p in held),
            max(p.largest for p in held),
            CountedValues.merged(p.weights for p in held),
        )

    def to_bytes(self) -> bytes:
        """Pack the sums; see `from_bytes`."""
        head = json.dumps([self.number, self.exact.to_list(), self.smallest.hex(), self.largest.hex()])
        return head.encode() + b"\n" + self.weights.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> BoxSums:
        """Inverse of `to_bytes`."""
        head, _, weights = data.partition(b"\n")
        number, exact, low, high = json.loads(head)
        low, high = float.fromhex(low), float.fromhex(high)
        return cls(number, ExactSums.from_list(exact), low, high, CountedValues.from_bytes(weights))

    def numbers(self) -> FitNumbers:
        """Return what fits have to know, of sums over the whole mesh with one box at least."""
        total, products = self.exact.totals
        constant = self.smallest == self.largest
        mean = self.smallest if constant else min(max(float(products / total), self.smallest), self.largest)
        spread = max(self.largest - mean, mean - self.smallest)
        floor = max((1e-12 * spread) ** 2, 1e-300)
        return FitNumbers(mean, self.weights.median(), floor, constant, self.number == 1, float(total))


@dataclass(frozen=True)
class Polynomial:
    """A polynomial of the whole mesh.

    Attributes
    ----------
    degree : int
    factors : ndarray (n,)
        Of the monomials.
    inverse : ndarray (n, n)
        Of the normal equations.
    """

    degree: int
    factors: Floats
    inverse: Floats

    def at(self, region: Region, shape: Pair) -> tuple[Floats, Floats]:
        """Value, and leverage over weight, at the cells of a region; 80 bytes a cell."""
        along_y, along_x = _powers(region, shape, self.degree)
        basis = [np.multiply.outer(along_y[i], along_x[j]) for i, j in terms(self.degree)]
        fit, lever = np.zeros(region.shape), np.zeros(region.shape)
        # term by term: the order of sums in a matrix product may depend on the number of rows
        for i, one in enumerate(basis):
            fit += self.factors[i] * one
            for j, other in enumerate(basis):
                lever += self.inverse[i, j] * one * other
        return fit, lever


def _powers(region: Region, shape: Pair, degree: int) -> tuple[Floats, Floats]:
    """Powers, (degree + 1, n), of rows and of columns in a region; see `powers_at`."""
    ends = ((region.y0, region.y1), (region.x0, region.x1))
    y, x = (powers_at(np.arange(*end), n, degree) for end, n in zip(ends, shape, strict=True))
    return y, x


def powers_at(cells: NDArray[Any], n: int, degree: int) -> Floats:
    """Powers, (degree + 1, cells), of places along an axis of n cells, which goes from -1 to 1 over the mesh."""
    return elementary.powers(cells * (2.0 / max(n - 1, 1)) - (n > 1), degree + 1)


def normal_sums(tile: Region, values: Window, weight: Window, *, shape: Pair, center: float) -> ExactSums:
    """Normal equations of parabolas fitted to the whole mesh, from a tile: moments, and products with the values.

    Parameters
    ----------
    tile : Region
    values, weight : Window
        Of the boxes; the weights that fits are made with.
    shape : (int, int)
        Of the mesh.
    center : float

    Notes
    -----
    Halo: none. Memory: 24 bytes a cell.
    """
    return normal_sums_of(*weighted_cells(values, weight, tile, center), *_powers(tile, shape, _DEGREE))


def normal_sums_of(cells: Floats, weights: Floats, along_y: Floats, along_x: Floats) -> ExactSums:
    """Normal equations of polynomials, from values and weights of cells whose places have these powers.

    The degree is that of the powers. Where the weight is 0, the value is finite.
    """
    powers = np.array(terms(len(along_y) - 1))
    n = len(powers)
    blocks = np.zeros((n * (n + 1) // 2 + n, _blocks(cells.shape)))
    _sum_normal(cells, weights, along_y, along_x, powers, blocks)
    return ExactSums.of(blocks)


def moments_of(sums: ExactSums) -> tuple[Floats, Floats]:
    """Matrix (n, n) and right side (n,) of normal equations."""
    numbers = [float(total) for total in sums.totals]
    n = (isqrt(9 + 8 * len(numbers)) - 3) // 2
    moments = np.zeros((n, n))
    moments[np.tril_indices(n)] = numbers[:-n]
    return np.where(np.tri(n, dtype=bool), moments, moments.T), np.array(numbers[-n:])


def polynomials(sums: ExactSums, *, whole: int) -> tuple[Polynomial, ...]:
    """Polynomials of the whole mesh up to a degree, as far as its boxes determine them, from `normal_sums` of all."""
    (moments, products), made = moments_of(sums), list[Polynomial]()
    for degree in range(whole + 1):
        n = (degree + 1) * (degree + 2) // 2
        matrix = np.ascontiguousarray(moments[:n, :n])
        inverse = elementary.inverse(matrix)
        if not np.abs(matrix).sum(axis=0).max() * np.abs(inverse).sum(axis=0).max() <= _SINGULAR:
            break
        factors = np.zeros(n)
        for k in range(n):
            factors += inverse[:, k] * products[k]
        made.append(Polynomial(degree, factors, inverse))
    return tuple(made)


def _exact(values: Floats) -> Fraction:
    """Sum of finite numbers: integers of 53 bits, times powers of two."""
    fractions, exponents = np.frexp(values)
    least = int(exponents.min(initial=0))
    pairs = zip((fractions * 2.0**53).astype(np.int64).tolist(), (exponents - least).tolist(), strict=True)
    return Fraction(sum(value << shift for value, shift in pairs)) * Fraction(2) ** (least - 53)


def _blocks(shape: tuple[int, ...]) -> int:
    return -(-shape[0] // ALIGNED) * -(-shape[1] // ALIGNED)


@numba.njit(nogil=True, cache=True)
def _sum_boxes(values: NDArray[Any], weight: NDArray[Any], blocks: Floats) -> None:
    """Weights, and weights times values, of the blocks of a tile, row by row."""
    across = -(-values.shape[1] // ALIGNED)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if weight[y, x] > 0.0:
                k, w = y // ALIGNED * across + x // ALIGNED, np.float64(weight[y, x])
                blocks[0, k] += w
                blocks[1, k] += w * np.float64(values[y, x])


@numba.njit(nogil=True, cache=True)
def _sum_normal(
    values: Floats, weight: Floats, along_y: Floats, along_x: Floats, powers: NDArray[np.int64], blocks: Floats
) -> None:
    """Moments (lower triangle, row by row), then products, of the blocks of a tile."""
    across = -(-values.shape[1] // ALIGNED)
    n = powers.shape[0]
    one = np.empty(n)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if not weight[y, x] > 0.0:
                continue
            k, m = y // ALIGNED * across + x // ALIGNED, 0
            for i in range(n):
                one[i] = along_y[powers[i, 0], y] * along_x[powers[i, 1], x]
                weighted = one[i] * weight[y, x]
                for j in range(i + 1):
                    blocks[m, k] += weighted * one[j]
                    m += 1
            for i in range(n):
                blocks[m + i, k] += one[i] * weight[y, x] * values[y, x]
