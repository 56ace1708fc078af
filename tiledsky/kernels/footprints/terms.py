"""The terms of footprints from the sums over all blocks: least squares of minimum norm, with their errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.kernels.footprints.blocks import PARTS, UNIT, FootprintSums, LevelSums, from_units

#: One footprint: its number, its term and the standard error (in the image's unit; NaN where nothing tells it), pixels
#: outside masks, pixels that it shares with others, how many others, and the group within which terms are known.
FOOTPRINT = np.dtype(
    [
        ("number", "i8"),
        ("term", "f8"),
        ("error", "f8"),
        ("pixels", "i8"),
        ("shared", "i8"),
        ("overlaps", "i8"),
        ("group", "i8"),
    ]
)
#: A combination of terms that less than this tells (px) is not known.
_LEAST = 0.5
_RELATIVE = 1e-9

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True)
def _pivoted(matrix: Floats, least: float) -> Floats:
    """Factor with as many columns as the rank: its product with its transpose is the matrix (positive, symmetric)."""
    n = matrix.shape[0]
    left, factor, used, rank = matrix.copy(), np.zeros((n, n)), np.zeros(n, np.bool_), 0
    for _ in range(n):
        best, most = -1, least
        for i in range(n):
            if not used[i] and left[i, i] > most:
                best, most = i, left[i, i]
        if best < 0:
            break
        root = most**0.5
        used[best] = True
        for i in range(n):
            factor[i, rank] = 0.0 if used[i] and i != best else left[i, best] / root
        for i in range(n):
            for j in range(n):
                left[i, j] -= factor[i, rank] * factor[j, rank]
        rank += 1
    return factor[:, :rank].copy()


@njit(nogil=True, cache=True)
def _inverse(matrix: Floats) -> Floats:
    """Inverse of a small positive matrix, by Cholesky; additions in a fixed order."""
    n = matrix.shape[0]
    lower, inverse = np.zeros((n, n)), np.zeros((n, n))
    for j in range(n):
        for i in range(j, n):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            lower[i, j] = total**0.5 if i == j else total / lower[j, j]
    for column in range(n):
        for i in range(n):
            total = 1.0 if i == column else 0.0
            for k in range(i):
                total -= lower[i, k] * inverse[k, column]
            inverse[i, column] = total / lower[i, i]
        for i in range(n - 1, -1, -1):
            total = inverse[i, column]
            for k in range(i + 1, n):
                total -= lower[k, i] * inverse[k, column]
            inverse[i, column] = total / lower[i, i]
    return inverse


@njit(nogil=True, cache=True)
def _product(one: Floats, other: Floats) -> Floats:
    """Product of two matrices; additions in a fixed order, whatever library there is."""
    result = np.zeros((one.shape[0], other.shape[1]))
    for i in range(one.shape[0]):
        for k in range(one.shape[1]):
            value = one[i, k]
            if value != 0.0:
                for j in range(other.shape[1]):
                    result[i, j] += value * other[k, j]
    return result


def pseudo_inverse(matrix: Floats) -> tuple[Floats, int]:
    """Moore-Penrose inverse of a positive semidefinite matrix (in pixels), and its rank."""
    least = max(_LEAST, _RELATIVE * float(matrix.diagonal().max(initial=0.0)))
    factor = _pivoted(matrix, least)
    if not factor.shape[1]:
        return np.zeros_like(matrix), 0
    across = np.ascontiguousarray(factor.T)
    inverse = _inverse(_product(across, factor))
    half = _product(factor, inverse)
    return _product(half, np.ascontiguousarray(half.T)), factor.shape[1]


class _Fit(NamedTuple):
    terms: Floats
    errors: Floats
    rank: int


@njit(nogil=True, cache=True)
def _matrix(
    pairs: NDArray[np.int64], weights: Floats, starts: NDArray[np.int64], members: NDArray[np.int64], n: int
) -> Floats:
    """Sum over pairs of sets: their weight, shared by their footprints."""
    matrix = np.zeros((n, n))
    for row in range(pairs.shape[0]):
        i, j = pairs[row]
        share = weights[row] / ((starts[i + 1] - starts[i]) * (starts[j + 1] - starts[j]))
        for one in range(starts[i], starts[i + 1]):
            for other in range(starts[j], starts[j + 1]):
                matrix[members[one], members[other]] += share
    return matrix


class _Equations:
    """Normal equations of the terms: a set has the mean of the terms of its footprints."""

    def __init__(self, sums: LevelSums, order: dict[int, int]) -> None:
        sets = sorted({i for _, i in sums.right})
        at, self.n = {members: k for k, members in enumerate(sets)}, len(order)
        self.starts = np.cumsum([0, *map(len, sets)], dtype=np.int64)
        self.members = np.array([order[k] for members in sets for k in members], np.int64)
        rows = sorted((part, at[i], at[j], weight) for (part, i, j), weight in sums.weights.items())
        self.pairs = np.array(rows, np.int64).reshape(-1, 4)
        self.right = sorted((part, at[i], from_units(value)) for (part, i), value in sums.right.items())

    def of(self, part: int | None) -> tuple[Floats, Floats]:
        """Matrix and right side of a part; None: of all."""
        pairs = self.pairs if part is None else self.pairs[self.pairs[:, 0] == part]
        vector = np.zeros(self.n)
        for own, i, value in self.right:
            if part in (None, own):
                of = slice(self.starts[i], self.starts[i + 1])
                vector[self.members[of]] += value / (of.stop - of.start)
        weights = pairs[:, 3] / UNIT
        chosen = np.ascontiguousarray(pairs[:, 1:3])
        return _matrix(chosen, weights, self.starts, self.members, self.n), vector


def _fitted(sums: LevelSums, order: dict[int, int]) -> _Fit:
    """Terms from blocks of one size; errors follow from what is left, or from how parts differ if that is more."""
    equations = _Equations(sums, order)
    matrix, vector = equations.of(None)
    inverse, rank = pseudo_inverse(matrix)
    terms = _product(inverse, vector[:, np.newaxis])[:, 0]
    squares = from_units(sum(s for s, _ in sums.rest.values())) - sum((terms * vector).tolist())
    free = sum(n for _, n in sums.rest.values()) - rank
    variances = inverse.diagonal() * (max(squares, 0.0) / max(free, 1))
    scatter, there = np.zeros(len(order)), 0
    for part in range(PARTS):
        own, values = equations.of(part)
        moved = _product(inverse, (values - _product(own, terms[:, np.newaxis])[:, 0])[:, np.newaxis])[:, 0]
        scatter, there = scatter + moved * moved, there + bool(own.any())
    if there > 1 and (formal := sum(variances.tolist())) > 0.0:
        variances = variances * max(sum(scatter.tolist()) * there / (there - 1) / formal, 1.0)
    return _Fit(terms, np.sqrt(variances), rank)


def footprint_terms(sums: FootprintSums) -> NDArray[np.void]:
    """Return the footprints with their terms, an array of `FOOTPRINT`, by number.

    Of all sizes of blocks that tell as many terms apart as any, those whose terms have the least error are taken. Terms
    have the mean 0 in each group of footprints that edges connect.
    """
    order = {number: k for k, number in enumerate(sorted({k for members in sums.pixels for k in members}))}
    table = np.zeros(len(order), FOOTPRINT)
    table["number"], table["error"] = list(order), np.nan
    if not order:
        return table
    fits = [_fitted(level, order) for level in sums.levels]
    most = max(fit.rank for fit in fits)
    best = min((fit for fit in fits if fit.rank == most), key=lambda fit: sum((fit.errors**2).tolist()))
    table["group"] = _groups(sums, order)
    known = best.errors > 0.0
    table["term"] = np.where(known, best.terms, 0.0)
    table["error"] = np.where(known, best.errors, np.nan)
    others: list[set[int]] = [set() for _ in order]
    for members, count in sums.pixels.items():
        at = [order[k] for k in members]
        table["pixels"][at] += count
        if len(at) > 1:
            table["shared"][at] += count
            for k in at:
                others[k].update(at)
    table["overlaps"] = [max(len(of) - 1, 0) for of in others]
    return table


def _groups(sums: FootprintSums, order: dict[int, int]) -> list[int]:
    """Groups of footprints that a block connects, numbered from 1 in the order of footprints."""
    above = list(range(len(order)))

    def root(k: int) -> int:
        while above[k] != k:
            above[k] = above[above[k]]
            k = above[k]
        return k

    linked: list[Any] = [*sums.pixels, *((*i, *j) for level in sums.levels for _, i, j in level.weights)]
    for members in linked:
        for k in members[1:]:
            one, other = sorted((root(order[members[0]]), root(order[k])))
            above[other] = one
    roots = [root(k) for k in range(len(order))]
    numbers = {r: n for n, r in enumerate(dict.fromkeys(roots), start=1)}
    return [numbers[r] for r in roots]


def to_rows(table: NDArray[np.void]) -> list[dict[str, Any]]:
    """Return footprints as plain data; an error that is not known is None."""
    rows = [dict(zip(FOOTPRINT.names or (), row.item(), strict=True)) for row in table]
    return [{**row, "error": None if np.isnan(row["error"]) else row["error"]} for row in rows]


def from_rows(rows: list[dict[str, Any]]) -> NDArray[np.void]:
    """Inverse of `to_rows`."""
    table = np.zeros(len(rows), FOOTPRINT)
    for one, row in zip(table, rows, strict=True):
        for name, value in row.items():
            one[name] = np.nan if value is None else value
    return table
