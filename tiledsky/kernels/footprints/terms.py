"""The terms of footprints from the sums over all blocks: least squares of minimum norm, with their errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.kernels.footprints.blocks import PARTS, UNIT, from_units
from tiledsky.kernels.footprints.sums import FootprintSums, LevelSums, PairSums

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
#: Footprints whose terms are solved together: of three matrices of this size 400 MB.
MOST = 4096

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True)
def _factored(matrix: Floats, least: float) -> NDArray[np.bool_]:
    """Put the Cholesky factor of a matrix into its lower half, without rows that leave less; which these are."""
    n = matrix.shape[0]
    without, column = np.zeros(n, np.bool_), np.zeros(n)
    for k in range(n):
        if not matrix[k, k] > least:
            without[k] = True
            matrix[k:, k] = 0.0
            matrix[k, :k] = 0.0
            continue
        root = matrix[k, k] ** 0.5
        matrix[k, k] = root
        for i in range(k + 1, n):
            matrix[i, k] /= root
            column[i] = matrix[i, k]
        for i in range(k + 1, n):
            if column[i] != 0.0:
                for j in range(k + 1, i + 1):
                    matrix[i, j] -= column[i] * column[j]
    return without


@njit(nogil=True, cache=True)
def _inverse_of_factor(lower: Floats, without: NDArray[np.bool_]) -> Floats:
    """Inverse of the product of a lower factor with its transpose; zero where rows are left out."""
    n = lower.shape[0]
    inverse, result = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        if without[i]:
            continue
        for k in range(i):
            if lower[i, k] != 0.0:
                for j in range(k + 1):
                    inverse[i, j] -= lower[i, k] * inverse[k, j]
        inverse[i, i] = 1.0
        for j in range(i + 1):
            inverse[i, j] /= lower[i, i]
    for k in range(n):
        for i in range(k + 1):
            if inverse[k, i] != 0.0:
                for j in range(i + 1):
                    result[i, j] += inverse[k, i] * inverse[k, j]
    for i in range(n):
        for j in range(i):
            result[j, i] = result[i, j]
    return result


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


@njit(nogil=True, cache=True)
def _orthonormal(rows: Floats) -> None:
    """Make rows that do not depend on each other orthonormal, one after the other (Gram and Schmidt, twice)."""
    for i in range(rows.shape[0]):
        for _ in range(2):
            for k in range(i):
                along = 0.0
                for j in range(rows.shape[1]):
                    along += rows[i, j] * rows[k, j]
                if along != 0.0:
                    for j in range(rows.shape[1]):
                        rows[i, j] -= along * rows[k, j]
        squares = 0.0
        for j in range(rows.shape[1]):
            squares += rows[i, j] * rows[i, j]
        for j in range(rows.shape[1]):
            rows[i, j] /= squares**0.5


@njit(nogil=True, cache=True)
def _projected(inverse: Floats, rows: Floats, along: Floats, both: Floats) -> None:
    """Take out of an inverse what lies along orthonormal rows, on both sides."""
    n = inverse.shape[0]
    for k in range(rows.shape[0]):
        half = np.zeros(n)
        for other in range(rows.shape[0]):
            if both[k, other] != 0.0:
                for j in range(n):
                    half[j] += 0.5 * both[k, other] * rows[other, j]
        for j in range(n):
            half[j] = along[k, j] - half[j]
        for i in range(n):
            for j in range(n):
                inverse[i, j] -= rows[k, i] * half[j] + half[i] * rows[k, j]


def pseudo_inverse(matrix: Floats) -> tuple[Floats, int]:
    """Moore-Penrose inverse of a positive semidefinite matrix (in pixels), and its rank; the matrix is overwritten.

    Any inverse of the part that is not singular, and without what lies along the null space on either side.
    """
    least = max(_LEAST, _RELATIVE * float(matrix.diagonal().max(initial=0.0)))
    diagonal = matrix.diagonal().copy()
    without = _factored(matrix, least)
    inverse = _inverse_of_factor(matrix, without)
    chosen = np.flatnonzero(without)
    rows = np.zeros((chosen.size, len(matrix)))
    for row, k in zip(rows, chosen.tolist(), strict=True):
        row[:k], row[k], row[k + 1 :] = matrix[:k, k], diagonal[k], matrix[k, k + 1 :]  # the factor lies below
    rows = -_product(rows, inverse)
    rows[np.arange(chosen.size), chosen] += 1.0
    _orthonormal(rows)
    along = _product(rows, inverse)
    _projected(inverse, rows, along, _product(along, np.ascontiguousarray(rows.T)))
    return inverse, len(matrix) - chosen.size


class _Fit(NamedTuple):
    terms: Floats
    errors: Floats
    rank: int


@njit(nogil=True, cache=True)
def _times(index: NDArray[np.int32], value: NDArray[np.int64], unit: float, vectors: Floats, terms: Floats) -> None:
    """Take from the vector of each part its matrix times terms; pairs of different footprints stand for both orders."""
    for row in range(index.shape[0]):
        part, i, j = index[row]
        weight = value[row] / unit
        vectors[part, i] -= weight * terms[j]
        if i != j:
            vectors[part, j] -= weight * terms[i]


def _of_pairs(weights: PairSums, n: int) -> Floats:
    """Matrix of all parts together."""
    index = weights.index.copy()
    index[:, 0] = 0
    total = PairSums.joined([PairSums(index, weights.value)])
    _, i, j = total.index.T
    matrix = np.zeros((n, n))
    matrix[i, j] = matrix[j, i] = total.value / UNIT
    return matrix


def _fitted(sums: LevelSums, numbers: NDArray[np.int64]) -> _Fit:
    """Terms from blocks of one size; errors follow from what is left, or from how parts differ if that is more."""
    n, place = numbers.size, {number: k for k, number in enumerate(numbers.tolist())}
    totals, vectors = [0] * n, np.zeros((PARTS, n))
    for (part, number), value in sums.right.items():
        totals[place[number]] += value
        vectors[part, place[number]] = from_units(value)
    vector = np.array([from_units(value) for value in totals])
    inverse, rank = pseudo_inverse(_of_pairs(sums.weights, n))
    terms = _product(inverse, vector[:, np.newaxis])[:, 0]
    squares = from_units(sum(s for s, _ in sums.rest.values())) - sum((terms * vector).tolist())
    free = sum(count for _, count in sums.rest.values()) - rank
    variances = inverse.diagonal() * (max(squares, 0.0) / max(free, 1))
    _times(sums.weights.index, sums.weights.value, UNIT, vectors, terms)
    scatter = (_product(vectors, inverse) ** 2).sum(axis=0)
    there = len(sums.rest)
    if there > 1 and (formal := sum(variances.tolist())) > 0.0:
        variances = variances * max(sum(scatter.tolist()) * there / (there - 1) / formal, 1.0)
    return _Fit(terms, np.sqrt(np.maximum(variances, 0.0)), rank)


def footprint_terms(sums: FootprintSums) -> NDArray[np.void]:
    """Return the footprints with their terms, an array of `FOOTPRINT`, by number.

    Of all sizes of blocks that tell as many terms apart as any, those whose terms have the least error are taken. Terms
    have the mean 0 in each group of footprints that edges connect.

    Raises
    ------
    InputError
        More footprints than `MOST`.
    """
    n = sums.numbers.size
    if n > MOST:
        raise InputError(
            f"the image has {n} footprints, and the constants of {MOST} can be solved together; give "
            "those of visits or of detectors instead of exposures, or the mosaic in parts"
        )
    table = np.zeros(n, FOOTPRINT)
    table["number"], table["error"] = sums.numbers, np.nan
    if not n:
        return table
    fits = [_fitted(level, sums.numbers) for level in sums.levels]
    most = max(fit.rank for fit in fits)
    best = min((fit for fit in fits if fit.rank == most), key=lambda fit: sum((fit.errors**2).tolist()))
    table["group"] = _groups(sums)
    known = best.errors > 0.0
    table["term"] = np.where(known, best.terms, 0.0)
    table["error"] = np.where(known, best.errors, np.nan)
    table["pixels"], table["shared"] = sums.pixels, sums.shared
    table["overlaps"] = np.bincount(sums.overlaps.index[:, 1:].reshape(-1), minlength=n)
    return table


def _groups(sums: FootprintSums) -> list[int]:
    """Groups of footprints that a block connects, numbered from 1 in the order of footprints."""
    above = list(range(sums.numbers.size))

    def root(k: int) -> int:
        while above[k] != k:
            above[k] = above[above[k]]
            k = above[k]
        return k

    for pairs in (sums.overlaps, *(level.weights for level in sums.levels)):
        for i, j in np.unique(pairs.index[:, 1:], axis=0).tolist():
            one, other = sorted((root(i), root(j)))
            above[other] = one
    roots = [root(k) for k in range(len(above))]
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
