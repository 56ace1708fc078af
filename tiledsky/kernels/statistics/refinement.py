"""Level 2 of exact global statistics: how often every distinct value occurs in a few chosen bins, mergeable.

`tiledsky.kernels.statistics.needed_bins` chooses the bins from the merged `KeyHistogram`, so that one such pass is
enough; `tiledsky.kernels.statistics.selection` reads the results.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from tiledsky.errors import ParameterError
from tiledsky.kernels.statistics.histogram import N_BINS, check_length, check_magic, flat_bits_and_mask, pack, unpack

# Counters (256 KiB a bin) beat sorting where many values fall in few bins; their cost is clearing and reading them.
_DENSE_BINS = 64
_PIXELS_A_DENSE_BIN = 1 << 14
_SORT_BLOCK = 1 << 20  # values sorted at once
_COMPACT_AT = 1 << 18  # entries collected before a merge of refinements sorts and adds them up
_MERGED_BINS = 128  # a merge has a counter for every key of at most so many bins
_REFINEMENT_HEADER = struct.Struct("<8sQIB")
_REFINEMENT_MAGIC = b"tskyref1"

_U16 = npt.NDArray[np.uint16]
_U32 = npt.NDArray[np.uint32]
_U64 = npt.NDArray[np.uint64]


@njit(nogil=True, cache=True)
def _count_lows(bits, mask, slots, counts):  # type: ignore[no-untyped-def]
    """Count the low 16 key bits of the values whose bin has a slot (`slots[bin] >= 0`) in ``counts[slot, low]``."""
    masked = mask.size > 0
    for i in range(bits.size):
        if masked and mask[i]:
            continue
        b = np.int64(bits[i])
        if b & 0x7FFFFFFF == 0:
            b = np.int64(0)
        key = np.uint64((b ^ ((b >> 31) & 0x7FFFFFFF)) + 0x80000000)
        slot = slots[key >> np.uint64(16)]
        if slot >= 0:
            counts[np.uint64(slot), key & np.uint64(0xFFFF)] += np.uint32(1)


@njit(nogil=True, cache=True)
def _gather(bits, mask, wanted, keys):  # type: ignore[no-untyped-def]
    """Copy the ordered keys whose bin is wanted to the start of `keys`; returns how many."""
    n = 0
    masked = mask.size > 0
    for i in range(bits.size):
        if masked and mask[i]:
            continue
        b = np.int64(bits[i])
        if b & 0x7FFFFFFF == 0:
            b = np.int64(0)
        key = np.uint64((b ^ ((b >> 31) & 0x7FFFFFFF)) + 0x80000000)
        if wanted[key >> np.uint64(16)]:
            keys[n] = key
            n += 1
    return n


def _refine_by_counting(
    bits: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_], bins: npt.NDArray[np.int64]
) -> tuple[_U32, _U64]:
    """Distinct keys of the bins and their counts, with a counter for every possible key."""
    slots = np.full(N_BINS, -1, dtype=np.int16)
    slots[bins] = np.arange(bins.size)
    dense = np.zeros((bins.size, N_BINS), dtype=np.uint32)
    _count_lows(bits, mask, slots, dense)
    slot, low = np.nonzero(dense)
    return (bins[slot] << 16 | low).astype(np.uint32), dense[slot, low].astype(np.uint64)


def _refine_by_sorting(
    bits: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_], bins: npt.NDArray[np.int64]
) -> tuple[_U32, _U64]:
    """The same as `_refine_by_counting`, with a sort of the keys that fall in the bins."""
    wanted = np.zeros(N_BINS, dtype=np.bool_)
    wanted[bins] = True
    buffer = np.empty(min(bits.size, _SORT_BLOCK), dtype=np.uint32)
    keys, counts = [np.empty(0, np.uint32)], [np.empty(0, np.uint64)]
    for start in range(0, bits.size, _SORT_BLOCK):
        stop = start + _SORT_BLOCK
        n = _gather(bits[start:stop], mask[start:stop], wanted, buffer)
        found, times = np.unique(buffer[:n], return_counts=True)
        keys.append(found)
        counts.append(times.astype(np.uint64))
    return _add_up(np.concatenate(keys), np.concatenate(counts))


def _add_up(keys: _U32, counts: _U64) -> tuple[_U32, _U64]:
    """Sort the keys and add the counts of equal ones."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if keys.size else np.empty(0, np.intp)
    return keys[starts], (np.add.reduceat(counts, starts) if keys.size else counts)


class _Merger:
    """Adds up counts of keys in some bins: in lists, which are sorted; in a counter for every key once many came."""

    def __init__(self, bins: _U16) -> None:
        self.bins = bins
        self._keys: list[_U32] = []
        self._counts: list[_U64] = []
        self._size = 0
        self._least = _COMPACT_AT
        self._dense: _U64 | None = None

    def add(self, keys: _U32, counts: _U64) -> None:
        """Add counts; no key twice."""
        if self._dense is not None:
            self._count(keys, counts)
            return
        self._keys.append(keys)
        self._counts.append(counts)
        self._size += keys.size
        if self._size > self._least:
            keys, counts = self._listed()
            self._keys, self._counts, self._size = [], [], 0
            if self.bins.size <= _MERGED_BINS:
                self._slots = np.zeros(N_BINS, np.int64)
                self._slots[self.bins] = np.arange(self.bins.size)
                self._dense = np.zeros(self.bins.size * N_BINS, np.uint64)
                self._count(keys, counts)
            else:
                self._keys, self._counts, self._size = [keys], [counts], keys.size
                self._least = _COMPACT_AT + 2 * keys.size  # keeps memory near the size of the result

    def _count(self, keys: _U32, counts: _U64) -> None:
        assert self._dense is not None
        self._dense[self._slots[keys >> np.uint32(16)] << 16 | keys & np.uint32(0xFFFF)] += counts

    def _listed(self) -> tuple[_U32, _U64]:
        return _add_up(np.concatenate(self._keys), np.concatenate(self._counts))

    def result(self) -> tuple[_U32, _U64]:
        """Distinct keys and their counts."""
        if self._dense is None:
            return self._listed()
        at = np.flatnonzero(self._dense)
        keys = self.bins[at >> 16].astype(np.uint32) << np.uint32(16) | (at & 0xFFFF).astype(np.uint32)
        return keys, self._dense[at]


@dataclass(frozen=True, eq=False)
class Refinement:
    """Level 2: how often every distinct value occurs in some chosen bins; sparse, mergeable.

    Attributes
    ----------
    bins : ndarray of uint16, shape (b,)
        The bins that were looked at, ascending, with or without values.
    keys : ndarray of uint32, shape (m,)
        Ordered keys of the values found, ascending.
    counts : ndarray of uint64, shape (m,)
        How often each occurs.
    """

    bins: _U16
    keys: _U32
    counts: _U64

    @classmethod
    def from_values(
        cls, values: npt.NDArray[np.float32], bins: npt.ArrayLike, *, mask: npt.NDArray[np.bool_] | None = None
    ) -> Refinement:
        """Refinement of an array, for the same pixels as `KeyHistogram.from_values`.

        Memory: at most 16 MiB of counters (up to 64 bins in a large array), else about 40 MiB to sort 2**20 values at a
        time and 24 bytes a distinct value.

        Parameters
        ----------
        values : ndarray of float32
            Any shape.
        bins : array_like of int
            The bins wanted, 0 to 65535, as `tiledsky.kernels.statistics.needed_bins` returns them.
        mask : ndarray of bool, optional
            Same shape as values; True leaves the pixel out.

        Returns
        -------
        Refinement

        Raises
        ------
        ParameterError
            As for `KeyHistogram.from_values`; a bin that cannot hold a finite value; 2**32 values or more.
        """
        if values.size >= 1 << 32:
            raise ParameterError(
                f"{values.size} values at once could overflow counters of 32 bits; pass values in tiles and merge"
            )
        bits, flat_mask = flat_bits_and_mask(values, mask)
        wanted = np.unique(np.asarray(bins, dtype=np.int64))
        if wanted.size and (wanted[0] < 0x80 or wanted[-1] >= N_BINS - 0x80):
            raise ParameterError(
                f"bins reach from {wanted[0]} to {wanted[-1]}, but finite values lie in 128 to 65407; "
                "pass bins of a KeyHistogram"
            )
        few_bins = wanted.size <= min(_DENSE_BINS, bits.size // _PIXELS_A_DENSE_BIN)
        refine = _refine_by_counting if few_bins else _refine_by_sorting
        return cls(wanted.astype(np.uint16), *refine(bits, flat_mask, wanted))

    @classmethod
    def merged(cls, refinements: Iterable[Refinement]) -> Refinement:
        """Refinement of all pixels of several refinements of the same bins. Any order gives the same bits.

        Memory: that of the result, and of 2**18 values; where more arrive, 0.5 MiB of counters a bin up to 128 bins, so
        that it does not grow with their number; with more bins about 40 bytes a distinct value of the result.

        Raises
        ------
        ParameterError
            None given, or of different bins.
        """
        merger: _Merger | None = None
        for refinement in refinements:
            if merger is None:
                merger = _Merger(refinement.bins)
            elif not np.array_equal(merger.bins, refinement.bins):
                raise ParameterError(
                    "the refinements look at different bins, so their sum would miss pixels; "
                    "make them all with the same bins"
                )
            merger.add(refinement.keys, refinement.counts)
        if merger is None:
            raise ParameterError("no refinement to merge, so the bins are unknown; pass at least one in refinements")
        return cls(merger.bins, *merger.result())

    def part(self, bins: _U16) -> Refinement:
        """Refinement of some of its bins, ascending."""
        wanted = np.zeros(N_BINS, np.bool_)
        wanted[bins] = True
        kept = wanted[self.keys >> np.uint32(16)]
        return Refinement(bins, self.keys[kept], self.counts[kept])

    def beside(self, other: Refinement) -> Refinement:
        """Refinement of the same pixels in the bins of both, which have none in common."""
        bins, keys = np.concatenate((self.bins, other.bins)), np.concatenate((self.keys, other.keys))
        order = np.argsort(keys, kind="stable")  # merges two sorted runs
        return Refinement(np.sort(bins), keys[order], np.concatenate((self.counts, other.counts))[order])

    def merge(self, other: Refinement) -> Refinement:
        """Refinement of the pixels of both; the bins must be the same."""
        return Refinement.merged((self, other))

    def to_bytes(self) -> bytes:
        """Portable bytes; equal refinements have equal bytes (4 to 6 bytes a distinct value)."""
        width, packed_counts = pack(self.counts)
        edges = np.searchsorted(self.keys, np.append(self.bins.astype(np.int64), N_BINS) << 16)
        header = _REFINEMENT_HEADER.pack(_REFINEMENT_MAGIC, self.keys.size, self.bins.size, width)
        parts = [self.bins.astype("<u2"), np.diff(edges).astype("<u4"), (self.keys & np.uint32(0xFFFF)).astype("<u2")]
        return b"".join([header, *(part.tobytes() for part in parts), packed_counts])

    @classmethod
    def from_bytes(cls, data: bytes, some: _U16 | None = None) -> Refinement:
        """Inverse of `to_bytes`; of ``some`` of its bins alone, ascending, the others are not unpacked.

        Raises
        ------
        InputError
            Not a refinement, or of the wrong length.
        ParameterError
            It did not look at all of ``some``.
        """
        check_magic(data, _REFINEMENT_HEADER, _REFINEMENT_MAGIC, "Refinement")
        _, size, n_bins, width = _REFINEMENT_HEADER.unpack_from(data)
        offset = _REFINEMENT_HEADER.size
        check_length(data, offset + 6 * n_bins + (2 + width) * size, "Refinement")
        bins = np.frombuffer(data, "<u2", n_bins, offset).astype(np.uint16)
        sizes = np.frombuffer(data, "<u4", n_bins, offset + 2 * n_bins).astype(np.int64)
        lows, times = offset + 6 * n_bins, offset + 6 * n_bins + 2 * size
        first, last = 0, size
        if some is not None and not np.isin(some, bins).all():
            raise ParameterError("the refinement looked at other bins, so pixels would be missed; make it with these")
        if some is not None and some.size:
            # what lies between the first and the last of them: they are neighbours, but for a few
            a, b = np.searchsorted(bins, some[[0, -1]])
            first, last = int(sizes[:a].sum()), int(sizes[: b + 1].sum())
            bins, sizes = bins[a : b + 1], sizes[a : b + 1]
        low = np.frombuffer(data, "<u2", last - first, lows + 2 * first).astype(np.uint32)
        keys = np.repeat(bins.astype(np.uint32) << np.uint32(16), sizes) | low
        found = cls(bins, keys, unpack(data, times + width * first, last - first, width))
        return found if some is None else found.part(some)


def merged_bytes(parts: Sequence[bytes]) -> bytes:
    """Bytes of the merged refinement of several, from theirs, in any order.

    Memory: that of the bytes, and of the counters of 128 bins (64 MiB) or 2**18 values; not of all values at once.

    Raises
    ------
    ParameterError, InputError
        As `Refinement.merged` and `Refinement.from_bytes`.
    """
    bins = Refinement.from_bytes(parts[0]).bins
    some = [
        Refinement.merged(Refinement.from_bytes(part, bins[k : k + _MERGED_BINS]) for part in parts)
        for k in range(0, max(bins.size, 1), _MERGED_BINS)
    ]
    return Refinement(bins, np.concatenate([r.keys for r in some]), np.concatenate([r.counts for r in some])).to_bytes()
