"""What the blocks of an image tell of the differences between footprints.

A pixel lies in a *set* of footprints, those of the exposures that it is the mean of. Within a block the image is taken
for a smooth polynomial (the sky) and the mean of the terms of each pixel's footprints. The polynomial is fitted and
taken out; what is left says how the terms differ: ``W`` (pixels; how well two footprints are told apart) and ``q``
(values; by how much), with ``W terms = q`` the normal equations of the block. A block within one set says nothing.
Blocks lie on a grid that begins at pixel 0 of the image, so that no number depends on tiles.

Numbers of blocks are added as integers, ``W`` in units of 2**-20 px and the others in the smallest unit of float64: any
order of blocks and tiles gives the same bits. Only pairs of footprints that share a block have a ``W``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Level(NamedTuple):
    """Size of blocks, and the degree of the polynomial that the sky is within each."""

    size: int
    degree: int


#: From those that follow the finest sky to those that leave the least noise; tiles are whole blocks of each.
LEVELS = (Level(32, 1), Level(64, 1), Level(128, 2), Level(256, 3))
LARGEST = max(level.size for level in LEVELS)
#: Blocks are dealt out to so many parts, by place: how the parts differ is the error of the terms.
PARTS = 8
#: Units in a pixel of ``W`` and bits after the point of all others.
UNIT, _BITS = 2.0**20, 1074
#: A monomial of which others leave less than this of its squared length is not told apart from them.
_TINY = 1e-9


@njit(nogil=True, cache=True)
def _sets_within(sets: NDArray[np.int32], place: NDArray[np.int64], found: NDArray[np.int64]) -> int:
    """Number the sets of a block in the order of their pixels: `found` gets them, `place` their numbers; how many."""
    count = 0
    for y in range(sets.shape[0]):
        last = -1
        for x in range(sets.shape[1]):
            which = sets[y, x]
            if which >= 0 and which != last:
                last = which
                if place[which] < 0:
                    place[which] = count
                    found[count] = which
                    count += 1
    return count


@njit(nogil=True, cache=True)
def _moments(
    values: NDArray[np.float64],
    sets: NDArray[np.int32],
    place: NDArray[np.int64],
    size: int,
    powers: NDArray[np.int64],
    gram: NDArray[np.float64],
    by_set: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> tuple[float, int]:
    """Sums over a block: of pairs of monomials, of monomials in each set, of values with each; squares and count.

    `sums` has the values with each monomial, and after them in each set. Values count from that of the first pixel.
    """
    p, squares, count, first = powers.shape[0], 0.0, 0, 0.0
    m, degree = np.empty(p), powers.max()
    of_u, of_v = np.ones((sets.shape[1], degree + 1)), np.ones(degree + 1)
    for x in range(sets.shape[1]):
        for k in range(degree):
            of_u[x, k + 1] = of_u[x, k] * (2.0 * x / size - 1.0)
    for y in range(sets.shape[0]):
        for k in range(degree):
            of_v[k + 1] = of_v[k] * (2.0 * y / size - 1.0)
        for x in range(sets.shape[1]):
            if sets[y, x] < 0:
                continue
            if count == 0:
                first = values[y, x]
            value, k = values[y, x] - first, place[sets[y, x]]
            for i in range(p):
                m[i] = of_v[powers[i, 0]] * of_u[x, powers[i, 1]]
            for i in range(p):
                for j in range(i + 1):
                    gram[i, j] += m[i] * m[j]
                by_set[k, i] += m[i]
                sums[i] += m[i] * value
            sums[p + k] += value
            squares += value * value
            count += 1
    return squares, count


@njit(nogil=True, cache=True)
def _without_polynomial(
    gram: NDArray[np.float64], rows: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Components of rows (count, p) and of values along monomials made orthogonal; and how many of these there are."""
    p, n = gram.shape[0], rows.shape[0]
    lower, along, of_values, rank = np.zeros((p, p)), np.zeros((n, p)), np.zeros(p), 0
    for j in range(p):
        left = gram[j, j]
        for k in range(j):
            left -= lower[j, k] * lower[j, k]
        if not left > _TINY * gram[j, j]:
            continue
        rank += 1
        root = left**0.5
        lower[j, j] = root
        for i in range(j + 1, p):
            total = gram[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            lower[i, j] = total / root
        total = values[j]
        for k in range(j):
            total -= of_values[k] * lower[j, k]
        of_values[j] = total / root
        for i in range(n):
            total = rows[i, j]
            for k in range(j):
                total -= along[i, k] * lower[j, k]
            along[i, j] = total / root
    return along, of_values, rank


@njit(nogil=True, cache=True)
def _near(
    found: NDArray[np.int64],
    count: int,
    starts: NDArray[np.int64],
    members: NDArray[np.int64],
    spot: NDArray[np.int64],
    near: NDArray[np.int64],
) -> int:
    """Number the footprints of a block's sets: `near` gets them, `spot` their numbers; how many."""
    n = 0
    for k in range(count):
        for m in members[starts[found[k]] : starts[found[k] + 1]]:
            if spot[m] < 0:
                spot[m] = n
                near[n] = m
                n += 1
    return n


@njit(nogil=True, cache=True)
def _shared_out(
    by_set: NDArray[np.float64],
    totals: NDArray[np.float64],
    found: NDArray[np.int64],
    starts: NDArray[np.int64],
    members: NDArray[np.int64],
    spot: NDArray[np.int64],
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums of sets, each footprint of a set with the same share: of monomials, of values, of pairs of footprints."""
    rows, right, pairs = np.zeros((n, by_set.shape[1])), np.zeros(n), np.zeros((n, n))
    for k in range(by_set.shape[0]):
        of = members[starts[found[k]] : starts[found[k] + 1]]
        for one in of:
            i = spot[one]
            right[i] += totals[k] / of.size
            for p in range(by_set.shape[1]):
                rows[i, p] += by_set[k, p] / of.size
            for other in of:
                pairs[i, spot[other]] += by_set[k, 0] / (of.size * of.size)
    return rows, right, pairs


@njit(nogil=True, cache=True)
def blocks_of_row(
    values: NDArray[np.float64],
    sets: NDArray[np.int32],
    starts: NDArray[np.int64],
    members: NDArray[np.int64],
    n_footprints: int,
    size: int,
    powers: NDArray[np.int64],
    first: tuple[int, int],
    parts: int,
) -> tuple[list[Any], list[Any], list[Any]]:
    """All blocks of a row of them: pairs with ``W``, footprints with ``q``, and what the polynomial leaves, by part."""
    place, found = np.full(starts.size - 1, -1, np.int64), np.empty(starts.size - 1, np.int64)
    spot, near, p = np.full(n_footprints, -1, np.int64), np.empty(n_footprints, np.int64), powers.shape[0]
    pairs, rights, rests = (
        [(0, 0, 0, np.int64(0)) for _ in range(0)],
        [(0, 0, 0.0) for _ in range(0)],
        [(0, 0.0, 0) for _ in range(0)],
    )
    for x in range(0, sets.shape[1], size):
        inner = sets[:, x : x + size]
        count = _sets_within(inner, place, found)
        if count > 1:
            gram, by_set, sums = np.zeros((p, p)), np.zeros((count, p)), np.zeros(p + count)
            squares, pixels = _moments(values[:, x : x + size], inner, place, size, powers, gram, by_set, sums)
            n = _near(found, count, starts, members, spot, near)
            rows, right, both = _shared_out(by_set, sums[p:], found, starts, members, spot, n)
            along, of_values, rank = _without_polynomial(gram, rows, sums[:p])
            if pixels - rank > n:
                part = (first[0] // size * 3 + (first[1] + x) // size) % parts
                for i in range(n):
                    for k in range(p):
                        right[i] -= along[i, k] * of_values[k]
                    rights.append((part, near[i], right[i]))
                    for j in range(n):
                        for k in range(p):
                            both[i, j] -= along[i, k] * along[j, k]
                        if near[i] <= near[j]:
                            pairs.append((part, near[i], near[j], np.int64(np.rint(both[i, j] * UNIT))))
                for k in range(p):
                    squares -= of_values[k] * of_values[k]
                rests.append((part, squares, pixels - rank))
            spot[near[:n]] = -1
        place[found[:count]] = -1
    return pairs, rights, rests


@njit(nogil=True, cache=True)
def pairs_of_sets(
    starts: NDArray[np.int64], members: NDArray[np.int64], counts: NDArray[np.int64], first: int, most: int
) -> tuple[list[Any], int]:
    """Pairs of different footprints of sets from `first` on with their pixels, about `most`; the set after these."""
    pairs = [(0, 0, 0, np.int64(0)) for _ in range(0)]
    k = first
    while k < counts.size and len(pairs) < most:
        if counts[k] > 0:
            for i in range(starts[k], starts[k + 1]):
                for j in range(i + 1, starts[k + 1]):
                    pairs.append((0, members[i], members[j], counts[k]))
        k += 1
    return pairs, k


def powers_of(level: Level) -> NDArray[np.int64]:
    """Powers of y and x of the monomials of a level, (n, 2); the constant first."""
    return np.array([(d - j, j) for d in range(level.degree + 1) for j in range(d + 1)], np.int64)


def in_units(value: float) -> int:
    """Whole number of units 2**-1074 of a float64: exact."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator << (_BITS + 1 - denominator.bit_length())


def from_units(value: int) -> float:
    """Nearest float64 of a number of units."""
    return value / (1 << _BITS)
