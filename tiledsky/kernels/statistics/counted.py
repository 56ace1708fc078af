"""Medians of many values from counts by bin: bounded, mergeable in any order, good to 2**-13 of the value.

The bits of a float64, read as an integer and with negative values turned round, sort as the values do. A *bin* holds
all values with the same upper 25 bits: sign, exponent and 13 bits of the fraction. So it is 2**-13 of its values wide
at most, from 2.2e-308 to the largest float64: no unit of an image, nor the square of one, leaves this range. Two
million numbers that span ten powers of ten fill at most 300 000 bins, and a billion do not fill more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.statistics.histogram import check_length, check_magic, pack, unpack

_SHIFT = np.uint64(64 - 25)
_SIGN = np.uint64(1 << 63)
_BLOCK = 1 << 18  # values or bins that are sorted at a time
_SMALLEST = np.finfo(np.float64).tiny

_HEADER = struct.Struct("<8sQB")
_MAGIC = b"tskycnt1"


def _keys(values: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Bin of each finite value; what is closer to 0 than 2.2e-308, and -0.0, is 0."""
    bits = np.where(np.abs(values) < _SMALLEST, 0.0, values).view(np.uint64)
    return ((bits ^ np.where(bits & _SIGN, ~np.uint64(0), _SIGN)) >> _SHIFT).astype(np.uint32)


def _value(key: int, share: float) -> float:
    """What lies at a share of the way through a bin."""
    zero = 1 << 24
    if key == zero:
        return 0.0  # this bin holds nothing else
    if key < zero:
        return -_value(2 * zero - 1 - key, 1.0 - share)
    below, low = (np.array([key - zero - 1, key - zero], np.uint64) << _SHIFT).view(np.float64).tolist()
    high = float((np.array([key - zero + 1], np.uint64) << _SHIFT).view(np.float64)[0])
    # the last bin ends at infinity: it is as wide as the one before
    return low + share * (low - below if np.isinf(high) else high - low)


@dataclass(frozen=True, eq=False)
class CountedValues:
    """How many finite values lie in each bin of 2**-13 of the value; sparse, mergeable.

    Make it with `of`, `merged` or `from_bytes`.

    Attributes
    ----------
    keys : ndarray of uint32, shape (k,)
        The bins that hold a value, ascending.
    counts : ndarray of uint64, shape (k,)
        Number of values in each.
    """

    keys: NDArray[np.uint32]
    counts: NDArray[np.uint64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> CountedValues:
        """Count an array.

        Parameters
        ----------
        values : ndarray of float32 or float64
            Any shape; NaN and infinities are not counted.

        Returns
        -------
        CountedValues
            Memory: about 12 bytes a bin, and 20 MB.

        Raises
        ------
        ParameterError
            Another dtype.
        """
        if values.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ParameterError(
                f"values have dtype {values.dtype.str}, but the bins are those of native floats; pass "
                "values.astype(numpy.float64)"
            )
        flat = values.reshape(-1)
        return cls.merged(cls._of_block(flat[k : k + _BLOCK]) for k in range(0, flat.size, _BLOCK))

    @classmethod
    def _of_block(cls, values: NDArray[Any]) -> CountedValues:
        keys, counts = np.unique(_keys(values[np.isfinite(values)].astype(np.float64)), return_counts=True)
        return cls(keys, counts.astype(np.uint64))

    @classmethod
    def merged(cls, parts: Iterable[CountedValues]) -> CountedValues:
        """Counts of all values of several; of none, the empty one. Any order gives the same.

        The parts are taken one after the other. Memory: about 50 bytes a bin of the result, and 10 MB.
        """
        whole = cls(np.zeros(0, np.uint32), np.zeros(0, np.uint64))
        held: list[CountedValues] = []
        waiting = 0
        for part in parts:
            held.append(part)
            waiting += part.keys.size
            if waiting > max(_BLOCK, whole.keys.size):
                whole, held, waiting = cls._joined([whole, *held]), [], 0
        return cls._joined([whole, *held]) if held else whole

    @classmethod
    def _joined(cls, parts: list[CountedValues]) -> CountedValues:
        keys = np.concatenate([part.keys for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.concatenate((np.ones(min(keys.size, 1), np.bool_), keys[1:] != keys[:-1])))
        return cls(keys[first], np.add.reduceat(counts, first) if first.size else counts)

    @property
    def n(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum(dtype=np.uint64))

    def median(self) -> float:
        """Median: the middle value, or the mean of the middle two; NaN without values.

        The values of a bin are taken as spread evenly over it, so that each of the middle ones is off by less than
        2**-13 of itself, in general far less. 0 comes out as 0.
        """
        n = self.n
        if n == 0:
            return float("nan")
        before = np.concatenate((np.zeros(1, np.uint64), np.cumsum(self.counts, dtype=np.uint64)))
        low, high = self._ranked((n - 1) // 2, before), self._ranked(n // 2, before)
        return low + (high - low) / 2 if np.isfinite(high - low) else low / 2 + high / 2

    def _ranked(self, rank: int, before: NDArray[np.uint64]) -> float:
        """Value of a rank, from 0; `before` counts the values in bins before each."""
        i = int(np.searchsorted(before, np.uint64(rank), side="right")) - 1
        return _value(int(self.keys[i]), (rank - int(before[i]) + 0.5) / int(self.counts[i]))

    def to_bytes(self) -> bytes:
        """Portable bytes; equal counts have equal bytes (5 bytes a bin for a tile)."""
        width, data = pack(self.counts)
        return b"".join([_HEADER.pack(_MAGIC, self.keys.size, width), self.keys.astype("<u4").tobytes(), data])

    @classmethod
    def from_bytes(cls, data: bytes) -> CountedValues:
        """Inverse of `to_bytes`.

        Raises
        ------
        InputError
            Not counted values, of the wrong length, or bins that are not in order.
        """
        check_magic(data, _HEADER, _MAGIC, "CountedValues")
        _, size, width = _HEADER.unpack_from(data)
        check_length(data, _HEADER.size + size * (4 + width), "CountedValues")
        keys = np.frombuffer(data, "<u4", size, _HEADER.size).astype(np.uint32)
        counts = unpack(data, _HEADER.size + 4 * size, size, width)
        if (keys[1:] <= keys[:-1]).any() or not counts.all():
            raise InputError("the bins of CountedValues are not in order or empty, so it is damaged; make it again")
        return cls(keys, counts)
