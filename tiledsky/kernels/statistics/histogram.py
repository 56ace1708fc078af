"""Level 1 of exact global statistics: ordered keys of float32 values and the mergeable `KeyHistogram`.

The bits of a float32, read as an integer and with negative values turned round, sort as the values do: the *ordered
key*, 32 bits. `KeyHistogram` counts the upper 16 bits (the *bin*) and sums the lower 16 exactly: enough for the exact
mean and standard deviation of any set of whole bins. `tiledsky.kernels.statistics.refinement` counts single values in
a few bins.

Both are made per tile and merged; merging is integer addition, so the result has the same bits for any tiling and any
order. Limit: 2**47 (1.4e14) pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numba import njit

from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.kernels.statistics.sums import Moments, moments_of_bin

N_BINS = 1 << 16
_MAX_PIXELS = 1 << 47
# A block's count and sum of low bits share one uint64: 24 bits of count, 40 bits of sum (2**23 pixels use 23 and 39).
_BLOCK = 1 << 23
_COUNT_SHIFT = 40

_HISTOGRAM_HEADER = struct.Struct("<8sQQIBBBB")
_HISTOGRAM_MAGIC = b"tskyhis1"

_U16 = npt.NDArray[np.uint16]
_U64 = npt.NDArray[np.uint64]


def values_of_keys(keys: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Values of ordered keys, as float64 (exact); key ``(bin << 16) | low``, any shape."""
    signed = (np.asarray(keys, dtype=np.uint32) ^ np.uint32(0x80000000)).view(np.int32)
    bits = signed ^ ((signed >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32).astype(np.float64)


@njit(nogil=True, cache=True)
def _scan(bits, mask, table):  # type: ignore[no-untyped-def]
    """Add one block to `table` (65536 x 2: packed count and sum of low bits, sum of squares); count NaN and infinity.

    `mask` is empty when no pixel is masked.
    """
    n_nan = 0
    n_infinite = 0
    masked = mask.size > 0
    one = np.uint64(1) << np.uint64(40)
    for i in range(bits.size):
        if masked and mask[i]:
            continue
        b = np.int64(bits[i])
        magnitude = b & 0x7FFFFFFF
        if magnitude >= 0x7F800000:
            if magnitude == 0x7F800000:
                n_infinite += 1
            else:
                n_nan += 1
            continue
        if magnitude == 0:
            b = np.int64(0)  # -0.0 counts as 0.0
        key = np.uint64((b ^ ((b >> 31) & 0x7FFFFFFF)) + 0x80000000)
        j = key >> np.uint64(16)
        low = key & np.uint64(0xFFFF)
        table[j, 0] += one + low
        table[j, 1] += low * low
    return n_nan, n_infinite


def flat_bits_and_mask(
    values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Bits of the values and the mask (empty for none), both one-dimensional and contiguous."""
    if values.dtype != np.float32 or not values.dtype.isnative:
        raise ParameterError(
            f"values have dtype {values.dtype.str}, but the ordered keys are those of native float32; "
            "pass values.astype(numpy.float32)"
        )
    bits = np.ascontiguousarray(values).reshape(-1).view(np.int32)
    if mask is None:
        return bits, np.empty(0, dtype=np.bool_)
    if mask.dtype != np.bool_ or mask.shape != values.shape:
        raise ParameterError(
            f"mask has dtype {mask.dtype} and shape {mask.shape}, but must say for each pixel of the values "
            f"{values.shape} whether it is left out; pass a bool mask of that shape"
        )
    return bits, np.ascontiguousarray(mask).reshape(-1)


def pack(column: _U64) -> tuple[int, bytes]:
    """Width in bytes of the largest entry, and the column as little-endian integers of that width."""
    width = max(1, (int(column.max(initial=0)).bit_length() + 7) // 8)
    return width, column.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def unpack(data: bytes, offset: int, size: int, width: int) -> _U64:
    """Inverse of `pack`: `size` integers of `width` bytes that start at `offset`."""
    padded = np.zeros((size, 8), dtype=np.uint8)
    padded[:, :width] = np.frombuffer(data, np.uint8, size * width, offset).reshape(size, width)
    return padded.view("<u8").reshape(-1).astype(np.uint64)


def check_magic(data: bytes, header: struct.Struct, magic: bytes, what: str) -> None:
    """Refuse bytes that cannot be a summary of this kind."""
    if len(data) < header.size or data[:8] != magic:
        raise InputError(
            f"{len(data)} bytes that start with {data[:8]!r} are not a {what}, so nothing can be read from them; "
            f"pass the bytes of {what}.to_bytes()"
        )


def check_length(data: bytes, expected: int, what: str) -> None:
    """Refuse bytes that were cut short or grew."""
    if len(data) != expected:
        raise InputError(
            f"a {what} of {len(data)} bytes should have {expected} by its header, so it is damaged; make it again"
        )


class KeyTable:
    """Counts and sums of all bins, to which arrays are added one after the other. Memory: 3 MB."""

    def __init__(self) -> None:
        self._columns = np.zeros((N_BINS, 4), dtype=np.uint64)
        self._table = np.zeros((N_BINS, 2), dtype=np.uint64)
        self._held = self._n_nan = self._n_infinite = 0

    def add(self, values: npt.NDArray[np.float32], *, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Add an array; arguments and errors as of `KeyHistogram.from_values`."""
        bits, flat_mask = flat_bits_and_mask(values, mask)
        start = 0
        while start < bits.size:
            end = min(start + _BLOCK - self._held, bits.size)
            n_nan, n_infinite = _scan(bits[start:end], flat_mask[start:end], self._table)
            self._n_nan += n_nan
            self._n_infinite += n_infinite
            self._held += end - start
            start = end
            if self._held == _BLOCK:
                self._carry()

    def _carry(self) -> None:
        columns, table = self._columns, self._table
        columns[:, 0] += table[:, 0] >> np.uint64(_COUNT_SHIFT)
        columns[:, 1] += table[:, 0] & np.uint64((1 << _COUNT_SHIFT) - 1)
        columns[:, 2] += table[:, 1] >> np.uint64(32)
        columns[:, 3] += table[:, 1] & np.uint64(0xFFFFFFFF)
        table[:] = 0
        self._held = 0

    def histogram(self) -> KeyHistogram:
        """Histogram of all that was added."""
        self._carry()
        return KeyHistogram._from_columns(self._columns, self._n_nan, self._n_infinite)


@dataclass(frozen=True, eq=False)
class KeyHistogram:
    """Level 1: exact counts and sums of an image's float32 values by bin of 1/128 octave; sparse, mergeable.

    Masked pixels and NaN are left out. Infinities are left out too (they have no mean); NaN and infinities are counted.
    -0.0 counts as 0.0. Make it with `from_values`, `merged` or `from_bytes`.

    Attributes
    ----------
    bins : ndarray of uint16, shape (k,)
        The bins that hold a value, ascending: upper 16 bits of the ordered key.
    counts, low_sums : ndarray of uint64, shape (k,)
        Number of values of each bin, and sum of the lower 16 bits of their keys.
    squares_high, squares_low : ndarray of uint64, shape (k,)
        Sum of the squares of these lower bits: ``squares_high * 2**32 + squares_low``, with ``squares_low < 2**32``
        (one uint64 would overflow beyond 2**32 pixels in a bin).
    n_nan, n_infinite : int
        Unmasked pixels that are NaN, or plus or minus infinity.
    """

    bins: _U16
    counts: _U64
    low_sums: _U64
    squares_high: _U64
    squares_low: _U64
    n_nan: int = 0
    n_infinite: int = 0

    @classmethod
    def _from_columns(cls, columns: _U64, n_nan: int, n_infinite: int) -> KeyHistogram:
        """From dense columns (65536, 4): count, sum, squares high and low (not yet carried)."""
        bins = np.flatnonzero(columns[:, 0])
        count, low_sum, high, low = np.ascontiguousarray(columns[bins].T)
        high = high + (low >> np.uint64(32))
        low = low & np.uint64(0xFFFFFFFF)
        return cls(bins.astype(np.uint16), count, low_sum, high, low, n_nan, n_infinite)

    @classmethod
    def from_values(cls, values: npt.NDArray[np.float32], *, mask: npt.NDArray[np.bool_] | None = None) -> KeyHistogram:
        """Histogram of an array.

        Parameters
        ----------
        values : ndarray of float32
            Any shape.
        mask : ndarray of bool, optional
            Same shape; True leaves the pixel out.

        Returns
        -------
        KeyHistogram

        Raises
        ------
        ParameterError
            Another dtype or byte order, or a mask of another shape or dtype.
        """
        table = KeyTable()
        table.add(values, mask=mask)
        return table.histogram()

    @classmethod
    def merged(cls, histograms: Iterable[KeyHistogram]) -> KeyHistogram:
        """Histogram of all pixels of several histograms; of none, the empty one. Any order gives the same bits.

        Raises
        ------
        RunError
            More than 2**47 pixels together: the sums could overflow.
        """
        columns = np.zeros((N_BINS, 4), dtype=np.uint64)
        n = n_nan = n_infinite = 0
        for histogram in histograms:
            n += histogram.n
            if n > _MAX_PIXELS:
                raise RunError(
                    f"{n} pixels in one histogram, more than the {_MAX_PIXELS} its sums hold; split the image"
                )
            for i, column in enumerate(
                (histogram.counts, histogram.low_sums, histogram.squares_high, histogram.squares_low)
            ):
                columns[histogram.bins, i] += column
            n_nan += histogram.n_nan
            n_infinite += histogram.n_infinite
        return cls._from_columns(columns, n_nan, n_infinite)

    def merge(self, other: KeyHistogram) -> KeyHistogram:
        """Histogram of the pixels of both."""
        return KeyHistogram.merged((self, other))

    @cached_property
    def prefix_counts(self) -> npt.NDArray[np.int64]:
        """Number of values in the first 0, 1, ... k bins, shape (k + 1,)."""
        return np.concatenate(([0], np.cumsum(self.counts.astype(np.int64)))).astype(np.int64)

    @cached_property
    def prefix_moments(self) -> list[Moments]:
        """Exact moments of the first 0, 1, ... k bins."""
        prefix = [Moments()]
        squares = [(h << 32) + s for h, s in zip(self.squares_high.tolist(), self.squares_low.tolist(), strict=True)]
        columns = zip(self.bins.tolist(), self.counts.tolist(), self.low_sums.tolist(), squares, strict=True)
        for bin_index, n, low_sum, low_squares in columns:
            prefix.append(prefix[-1] + moments_of_bin(bin_index, n, low_sum, low_squares))
        return prefix

    @cached_property
    def lowest(self) -> npt.NDArray[np.float64]:
        """Lowest value that each bin can hold, shape (k,), ascending."""
        return values_of_keys(self.bins.astype(np.uint32) << np.uint32(16))

    @cached_property
    def highest(self) -> npt.NDArray[np.float64]:
        """Highest value that each bin can hold, shape (k,), ascending."""
        return values_of_keys(self.bins.astype(np.uint32) << np.uint32(16) | np.uint32(0xFFFF))

    @property
    def n(self) -> int:
        """Number of values counted: neither masked, nor NaN, nor infinite."""
        return int(self.counts.sum(dtype=np.uint64))

    def mean(self) -> float:
        """Mean of all values: the exact one, rounded once to float64; NaN without values."""
        return self.prefix_moments[-1].mean()

    def std(self) -> float:
        """Population standard deviation of all values: the exact one, rounded once to float64; NaN without values."""
        return self.prefix_moments[-1].std()

    def to_bytes(self) -> bytes:
        """Portable bytes; equal histograms have equal bytes (about 17 bytes a bin for a tile)."""
        packed = [pack(c) for c in (self.counts, self.low_sums, self.squares_high, self.squares_low)]
        header = _HISTOGRAM_HEADER.pack(
            _HISTOGRAM_MAGIC, self.n_nan, self.n_infinite, self.bins.size, *(width for width, _ in packed)
        )
        return b"".join([header, self.bins.astype("<u2").tobytes(), *(data for _, data in packed)])

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyHistogram:
        """Inverse of `to_bytes`.

        Raises
        ------
        InputError
            Not a histogram, or of the wrong length.
        """
        check_magic(data, _HISTOGRAM_HEADER, _HISTOGRAM_MAGIC, "KeyHistogram")
        _, n_nan, n_infinite, size, *widths = _HISTOGRAM_HEADER.unpack_from(data)
        check_length(data, _HISTOGRAM_HEADER.size + size * (2 + sum(widths)), "KeyHistogram")
        offset = _HISTOGRAM_HEADER.size
        bins = np.frombuffer(data, "<u2", size, offset).astype(np.uint16)
        offset += 2 * size
        columns = []
        for width in widths:
            columns.append(unpack(data, offset, size, width))
            offset += size * width
        return cls(bins, columns[0], columns[1], columns[2], columns[3], n_nan, n_infinite)
