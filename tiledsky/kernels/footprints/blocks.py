"""What the blocks of an image tell of the differences between sets of footprints.

A pixel lies in a *set* of footprints, those of the exposures that it is the mean of. Within a block the image is taken
for a smooth polynomial (the sky) and one level for each set. The polynomial is fitted and taken out; what is left says
how the levels differ: ``W`` (pixels; how well two sets are told apart) and ``q`` (values; by how much), with
``W levels = q`` the normal equations of the block. A block within one set says nothing. Blocks lie on a grid that
begins at pixel 0 of the image, so that no number depends on tiles.

Numbers of blocks are added as integers, ``W`` in units of 2**-20 px and the others in the smallest unit of float64: any
order of blocks and tiles gives the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
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

#: Footprints of a pixel, by their numbers, in rising order.
Members = tuple[int, ...]


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
    m = np.empty(p)
    for y in range(sets.shape[0]):
        v = 2.0 * y / size - 1.0
        for x in range(sets.shape[1]):
            if sets[y, x] < 0:
                continue
            if count == 0:
                first = values[y, x]
            u, value, k = 2.0 * x / size - 1.0, values[y, x] - first, place[sets[y, x]]
            for i in range(p):
                m[i] = v ** powers[i, 0] * u ** powers[i, 1]
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
def _block(
    values: NDArray[np.float64],
    sets: NDArray[np.int32],
    place: NDArray[np.int64],
    count: int,
    size: int,
    powers: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], float, int]:
    """``W`` and ``q`` of a block with `count` sets, the squares that the polynomial leaves, degrees of freedom."""
    p = powers.shape[0]
    gram, by_set, sums = np.zeros((p, p)), np.zeros((count, p)), np.zeros(p + count)
    squares, pixels = _moments(values, sets, place, size, powers, gram, by_set, sums)
    along, of_values, rank = _without_polynomial(gram, by_set, sums[:p])
    weights, right = np.zeros((count, count), np.int64), np.zeros(count)
    for i in range(count):
        right[i] = sums[p + i]
        for k in range(p):
            right[i] -= along[i, k] * of_values[k]
        for j in range(i + 1):
            left = by_set[i, 0] if i == j else 0.0
            for k in range(p):
                left -= along[i, k] * along[j, k]
            weights[i, j] = weights[j, i] = int(np.rint(left * UNIT))
    for k in range(p):
        squares -= of_values[k] * of_values[k]
    return weights, right, squares, pixels - rank


@njit(nogil=True, cache=True)
def _blocks(
    values: NDArray[np.float64],
    sets: NDArray[np.int32],
    n_sets: int,
    size: int,
    powers: NDArray[np.int64],
    first: tuple[int, int],
    parts: int,
) -> tuple[list[Any], list[Any], list[Any]]:
    """All blocks of a tile: pairs of sets with ``W``, sets with ``q``, and what the polynomial leaves, by part."""
    place, found = np.full(n_sets, -1, np.int64), np.empty(n_sets, np.int64)
    pairs, rights, rests = (
        [(0, 0, 0, np.int64(0)) for _ in range(0)],
        [(0, 0, 0.0) for _ in range(0)],
        [(0, 0.0, 0) for _ in range(0)],
    )
    for y in range(0, sets.shape[0], size):
        for x in range(0, sets.shape[1], size):
            inner = sets[y : y + size, x : x + size]
            count = _sets_within(inner, place, found)
            if count > 1:
                part = ((first[0] + y) // size * 3 + (first[1] + x) // size) % parts
                weights, right, rest, free = _block(
                    values[y : y + size, x : x + size], inner, place, count, size, powers
                )
                if free > count:
                    for i in range(count):
                        rights.append((part, found[i], right[i]))
                        for j in range(count):
                            pairs.append((part, found[i], found[j], weights[i, j]))
                    rests.append((part, rest, free))
            for i in range(count):
                place[found[i]] = -1
    return pairs, rights, rests


def in_units(value: float) -> int:
    """Whole number of units 2**-1074 of a float64: exact."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator << (_BITS + 1 - denominator.bit_length())


def from_units(value: int) -> float:
    """Nearest float64 of a number of units."""
    return value / (1 << _BITS)


@dataclass
class LevelSums:
    """Sums over blocks of one size, by part and by sets of footprints; all integers."""

    weights: dict[tuple[int, Members, Members], int] = field(default_factory=dict)
    right: dict[tuple[int, Members], int] = field(default_factory=dict)
    #: Squares that polynomials leave, and degrees of freedom.
    rest: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: LevelSums) -> None:
        """Add those of other blocks."""
        for key, value in other.weights.items():
            self.weights[key] = self.weights.get(key, 0) + value
        for of, right in other.right.items():
            self.right[of] = self.right.get(of, 0) + right
        for part, (squares, free) in other.rest.items():
            known = self.rest.get(part, (0, 0))
            self.rest[part] = known[0] + squares, known[1] + free


@dataclass
class FootprintSums:
    """Sums over all blocks of tiles, level by level, and the unmasked pixels of each set of footprints."""

    levels: tuple[LevelSums, ...] = field(default_factory=lambda: tuple(LevelSums() for _ in LEVELS))
    pixels: dict[Members, int] = field(default_factory=dict)

    @classmethod
    def of_tile(
        cls, values: NDArray[Any], ignore: NDArray[np.bool_], sets: NDArray[np.int32], members: list[Members], at: Any
    ) -> FootprintSums:
        """Return the sums of a tile.

        Parameters
        ----------
        values : ndarray, (ny, nx)
        ignore : ndarray of bool, (ny, nx)
            Pixels to be left out.
        sets : ndarray of int32, (ny, nx)
            Index in `members` of the set of each pixel; one without members is left out.
        members : list of tuple of int
        at : (int, int)
            First row and column of the tile: multiples of `LARGEST`.
        """
        result = cls()
        if not members:
            return result
        none = np.array([not m for m in members])
        chosen = np.where(ignore | none[sets], np.int32(-1), sets)
        counts = np.bincount(chosen[chosen >= 0], minlength=len(members))
        result.pixels = {m: int(n) for m, n in zip(members, counts, strict=True) if m}
        known = np.where(chosen < 0, 0.0, values).astype(np.float64)
        for level, sums in zip(LEVELS, result.levels, strict=True):
            powers = np.array([(d - j, j) for d in range(level.degree + 1) for j in range(d + 1)], np.int64)
            place = int(at[0]), int(at[1])
            pairs, rights, rests = _blocks(known, chosen, len(members), level.size, powers, place, PARTS)
            for part, i, j, weight in pairs:
                pair = part, members[i], members[j]
                sums.weights[pair] = sums.weights.get(pair, 0) + int(weight)
            for part, i, value in rights:
                of = part, members[i]
                sums.right[of] = sums.right.get(of, 0) + in_units(value)
            for part, rest, free in rests:
                sums.add(LevelSums(rest={part: (in_units(rest), free)}))
        return result

    @classmethod
    def merged(cls, all_sums: Iterable[FootprintSums]) -> FootprintSums:
        """Return the sums of all tiles; the same bits in any order."""
        result = cls()
        for sums in all_sums:
            for own, other in zip(result.levels, sums.levels, strict=True):
                own.add(other)
            for members, count in sums.pixels.items():
                result.pixels[members] = result.pixels.get(members, 0) + count
        return result

    def to_bytes(self) -> bytes:
        """Encode as text."""
        sets = sorted(self.pixels)
        at = {members: k for k, members in enumerate(sets)}
        levels = [
            {
                "weights": sorted([part, at[i], at[j], w] for (part, i, j), w in sums.weights.items()),
                "right": sorted([part, at[i], hex(q)] for (part, i), q in sums.right.items()),
                "rest": sorted([part, hex(squares), free] for part, (squares, free) in sums.rest.items()),
            }
            for sums in self.levels
        ]
        return json.dumps({"sets": [[list(s), self.pixels[s]] for s in sets], "levels": levels}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> FootprintSums:
        """Inverse of `to_bytes`."""
        known = json.loads(data)
        sets = [tuple(members) for members, _ in known["sets"]]
        levels = tuple(
            LevelSums(
                {(part, sets[i], sets[j]): w for part, i, j, w in level["weights"]},
                {(part, sets[i]): int(q, 16) for part, i, q in level["right"]},
                {part: (int(squares, 16), free) for part, squares, free in level["rest"]},
            )
            for level in known["levels"]
        )
        return cls(levels, {tuple(members): count for members, count in known["sets"]})
