"""Sums over the blocks of tiles, by part and by pairs of footprints: integers, the same in any order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels.footprints.blocks import LEVELS, PARTS, blocks_of_row, in_units, pairs_of_sets, powers_of
from tiledsky.kernels.footprints.sets import Members

#: Pairs that are held before those of the same footprints are added up.
_HELD = 1 << 18


@dataclass
class PairSums:
    """Integers by part and pair of footprints (indices, the first not the larger), only pairs that there are."""

    index: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 3), np.int32))
    value: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def joined(cls, others: Sequence[PairSums]) -> PairSums:
        """Return the sums of several, sorted."""
        index = np.concatenate([np.empty((0, 3), np.int32), *(other.index for other in others)])
        value = np.concatenate([np.empty(0, np.int64), *(other.value for other in others)])
        if not len(index):
            return cls()
        n = int(index[:, 1:].max()) + 1
        keys = (index[:, 0].astype(np.int64) * n + index[:, 1]) * n + index[:, 2]
        order = np.argsort(keys, kind="stable")
        begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
        return cls(index[order[begins]], np.add.reduceat(value[order], begins))

    def renumbered(self, at: NDArray[np.int64]) -> PairSums:
        """Return these with other indices of footprints, in the same order."""
        index = self.index.copy()
        index[:, 1:] = at[index[:, 1:]]
        return PairSums(index, self.value)


class _Gathered:
    """Pairs that come in lists, added up from time to time."""

    def __init__(self) -> None:
        self.sums, self.held = PairSums(), list[PairSums]()

    def add(self, pairs: list[Any]) -> None:
        """Add pairs: part, footprint, footprint, integer."""
        table = np.array(pairs, np.int64).reshape(-1, 4)
        self.held.append(PairSums(table[:, :3].astype(np.int32), table[:, 3].copy()))
        if sum(len(one.value) for one in self.held) > max(_HELD, len(self.sums.value)):
            self.all()

    def all(self) -> PairSums:
        """Return the sums of all so far."""
        self.sums, self.held = PairSums.joined([self.sums, *self.held]), []
        return self.sums


@dataclass
class LevelSums:
    """Sums over blocks of one size, by part."""

    weights: PairSums = field(default_factory=PairSums)
    #: By part and number of a footprint.
    right: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Squares that polynomials leave, and degrees of freedom.
    rest: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: LevelSums) -> None:
        """Add what other blocks have beside weights."""
        for of, right in other.right.items():
            self.right[of] = self.right.get(of, 0) + right
        for part, (squares, free) in other.rest.items():
            known = self.rest.get(part, (0, 0))
            self.rest[part] = known[0] + squares, known[1] + free


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass
class FootprintSums:
    """Sums over all blocks of tiles, level by level; and the unmasked pixels of footprints and of their pairs."""

    numbers: NDArray[np.int64] = field(default_factory=_none)
    pixels: NDArray[np.int64] = field(default_factory=_none)
    shared: NDArray[np.int64] = field(default_factory=_none)
    overlaps: PairSums = field(default_factory=PairSums)
    levels: tuple[LevelSums, ...] = field(default_factory=lambda: tuple(LevelSums() for _ in LEVELS))

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
        lengths = np.array([len(of) for of in members], np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        numbers, of_sets = np.unique(np.array([k for of in members for k in of], np.int64), return_inverse=True)
        if not numbers.size:
            return cls()
        of_sets = of_sets.reshape(-1).astype(np.int64)
        chosen = np.where(ignore | (lengths[sets] == 0), np.int32(-1), sets)
        counts = np.bincount(chosen[chosen >= 0], minlength=len(members)).astype(np.int64)
        pixels, shared = np.zeros((2, numbers.size), np.int64)
        np.add.at(pixels, of_sets, np.repeat(counts, lengths))
        np.add.at(shared, of_sets, np.repeat(np.where(lengths > 1, counts, 0), lengths))
        overlaps, k = _Gathered(), 0
        while k < len(members):
            pairs, k = pairs_of_sets(starts, of_sets, counts, k, _HELD)
            overlaps.add(pairs)
        result = cls(numbers, pixels, shared, overlaps.all())
        known = np.where(chosen < 0, 0.0, values).astype(np.float64)
        for level, sums in zip(LEVELS, result.levels, strict=True):
            powers, weights = powers_of(level), _Gathered()
            for y in range(0, known.shape[0], level.size):
                rows, corner = slice(y, y + level.size), (int(at[0]) + y, int(at[1]))
                pairs, rights, rests = blocks_of_row(
                    known[rows], chosen[rows], starts, of_sets, numbers.size, level.size, powers, corner, PARTS
                )
                weights.add(pairs)
                for part, i, value in rights:
                    of = part, int(numbers[i])
                    sums.right[of] = sums.right.get(of, 0) + in_units(value)
                for part, rest, free in rests:
                    sums.add(LevelSums(rest={part: (in_units(rest), free)}))
            sums.weights = weights.all()
        return result

    @property
    def _size(self) -> int:
        return len(self.overlaps.value) + sum(len(level.weights.value) for level in self.levels)

    @classmethod
    def merged(cls, all_sums: Iterable[FootprintSums]) -> FootprintSums:
        """Return the sums of all tiles; the same bits in any order."""
        result, held = cls(), list[FootprintSums]()
        for sums in all_sums:
            held.append(sums)
            if sum(one._size for one in held) > max(_HELD, result._size):
                result, held = cls._joined([result, *held]), []
        return cls._joined([result, *held])

    @classmethod
    def _joined(cls, parts: Sequence[FootprintSums]) -> FootprintSums:
        """Return the sums of several tiles: their footprints are numbered anew."""
        result = cls(np.unique(np.concatenate([_none(), *(part.numbers for part in parts)])))
        result.pixels, result.shared = np.zeros((2, result.numbers.size), np.int64)
        places = [np.searchsorted(result.numbers, part.numbers) for part in parts]
        for part, place in zip(parts, places, strict=True):
            result.pixels[place] += part.pixels
            result.shared[place] += part.shared
        whose = list(zip(parts, places, strict=True))
        result.overlaps = PairSums.joined([part.overlaps.renumbered(place) for part, place in whose])
        for k, level in enumerate(result.levels):
            level.weights = PairSums.joined([part.levels[k].weights.renumbered(place) for part, place in whose])
            for part in parts:
                level.add(part.levels[k])
        return result

    def to_bytes(self) -> bytes:
        """Encode as arrays of NumPy, and what has integers of any length as text."""
        levels = [
            {
                "right": sorted([*of, hex(q)] for of, q in level.right.items()),
                "rest": sorted([part, hex(squares), free] for part, (squares, free) in level.rest.items()),
            }
            for level in self.levels
        ]
        arrays: dict[str, NDArray[Any]] = {"numbers": self.numbers, "pixels": self.pixels, "shared": self.shared}
        for name, pairs in zip(_PAIRS, (self.overlaps, *(level.weights for level in self.levels)), strict=False):
            arrays |= {f"{name}_index": pairs.index, f"{name}_value": pairs.value}
        arrays["levels"] = np.frombuffer(json.dumps(levels).encode(), np.uint8)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> FootprintSums:
        """Inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            known = json.loads(file["levels"].tobytes())
            overlaps, *weights = (
                PairSums(file[f"{name}_index"], file[f"{name}_value"]) for name in _PAIRS[: 1 + len(known)]
            )
            levels = tuple(
                LevelSums(
                    own,
                    {(part, number): int(q, 16) for part, number, q in level["right"]},
                    {part: (int(squares, 16), free) for part, squares, free in level["rest"]},
                )
                for own, level in zip(weights, known, strict=True)
            )
            return cls(file["numbers"], file["pixels"], file["shared"], overlaps, levels)


#: Names of pairs in a file: those that overlap, and of each size of blocks.
_PAIRS = ("overlaps", *(f"weights_{k}" for k in range(len(LEVELS))))
