"""What tiles say for the measures, small and mergeable: numbers of cells, lists of places, distributions.

A part belongs to one measure, or is shared by several; it is made once. Sums are of whole cells of 64 x 64 pixels, made
of pixels alone and put back in their places before anything is added up; lists are put in the order of their places.
So no number depends on the tiles, but those of a part that looks at the tile itself (`Part.end`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.patches import Floats
from tiledsky.geometry import Region
from tiledsky.kernels.statistics.histogram import KeyHistogram, KeyTable

V = TypeVar("V")
T = TypeVar("T")

#: A list is cut when it is longer than its limit by one part in so many; histograms that are merged at a time.
_SPARE, _MERGED = 4, 16


@dataclass(frozen=True)
class Cells:
    """Numbers of each cell, which are added up in patches of the image (`tiledsky.diagnostics.patches`).

    Attributes
    ----------
    name : str
        One for all parts.
    columns : int
        Numbers a cell.
    update : callable
        Of a `Band`: ndarray of float64, shape (rows of cells, columns of cells, ``columns``).
    """

    name: str
    columns: int
    update: Callable[[Band], Floats]


class Part(ABC, Generic[V, T]):
    """Anything else: ``V`` of a tile, ``T`` of the image.

    Parameters
    ----------
    name : str
        One for all parts.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self) -> Any:
        """Return what bands are added to."""
        return []

    @abstractmethod
    def add_band(self, tally: Any, band: Band) -> None:
        """Add a band of the cells of a tile."""

    @abstractmethod
    def end(self, tally: Any, written: NDArray[Any]) -> V:
        """Return what the tile says; ``written``: its background as it is written, NaN where there is none."""

    @abstractmethod
    def to_bytes(self, value: V) -> bytes:
        """Portable bytes of a tile's value."""

    @abstractmethod
    def from_bytes(self, data: bytes) -> V:
        """Inverse of `to_bytes`."""

    def start(self) -> Any:
        """Return what tiles are added to."""
        return []

    @abstractmethod
    def add(self, total: Any, tile: Region, value: V) -> None:
        """Add the next tile, tiles in row order."""

    @abstractmethod
    def finish(self, total: Any) -> T:
        """Return what the image says."""


@dataclass(frozen=True)
class Limit:
    """How many rows of a list are kept of an image, and which: the same in whatever order they come.

    Attributes
    ----------
    most : int
        Rows in all. Each kind may fill its share, and what others leave of theirs: none drives out another.
    rank : callable
        Of rows: a number each. The lowest of a kind are kept, of equal ones those that are first in the list.
    kinds : int
        Kinds of rows.
    kind : callable, optional
        Of rows: the kind of each, from 0.
    """

    most: int
    rank: Callable[[NDArray[np.void]], NDArray[Any]]
    kinds: int = 1
    kind: Callable[[NDArray[np.void]], NDArray[Any]] | None = None

    def of(self, k: int, found: Sequence[int]) -> int:
        """Most rows of a kind; ``found``: rows of each kind so far."""
        return self.most - sum(min(n, self.most // self.kinds) for i, n in enumerate(found) if i != k)


class Places(Part[NDArray[np.void], NDArray[np.void]]):
    """A list of places, a row each, in an order of their own.

    Parameters
    ----------
    name : str
    dtype : dtype
        Of a row.
    order : tuple of str
        Fields by which rows are sorted, the most important first; no two rows have the same.
    update : callable
        Of a `Band`: its rows.
    limit : Limit, optional
        Without one a list grows with the image.
    """

    def __init__(
        self,
        name: str,
        dtype: np.dtype[np.void],
        order: tuple[str, ...],
        update: Callable[[Band], NDArray[np.void]],
        limit: Limit | None = None,
    ) -> None:
        super().__init__(name)
        self.dtype, self.order, self.update, self.limit = dtype, order, update, limit

    def add_band(self, tally: list[NDArray[np.void]], band: Band) -> None:
        """Add the rows of a band."""
        tally.append(self.update(band))

    def end(self, tally: list[NDArray[np.void]], written: NDArray[Any]) -> NDArray[np.void]:
        """Return the rows of a tile."""
        return self._sorted(np.concatenate([np.empty(0, self.dtype), *tally]))

    def to_bytes(self, value: NDArray[np.void]) -> bytes:
        """Bytes of the rows."""
        return value.tobytes()

    def from_bytes(self, data: bytes) -> NDArray[np.void]:
        """Inverse of `to_bytes`."""
        return np.frombuffer(data, self.dtype)

    def start(self) -> list[_Rows]:
        """Return empty lists, one of each kind."""
        return [_Rows(np.empty(0, self.dtype)) for _ in range(1 if self.limit is None else self.limit.kinds)]

    def add(self, total: list[_Rows], tile: Region, value: NDArray[np.void]) -> None:
        """Add the rows of a tile; a list that has grown too long is cut."""
        if self.limit is None or self.limit.kind is None:
            total[0].add(value)
        else:
            kinds = self.limit.kind(value)
            for k, rows in enumerate(total):
                rows.add(value[kinds == k])
        if self.limit is not None and sum(rows.size for rows in total) > self.limit.most + self.limit.most // _SPARE:
            self._cut(total, self.limit)

    def finish(self, total: list[_Rows]) -> NDArray[np.void]:
        """All rows that are kept, in their order, whatever tiles they came from."""
        if self.limit is not None:
            self._cut(total, self.limit)
        return self._sorted(np.concatenate([rows.taken() for rows in total]))

    def _sorted(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        return rows[np.lexsort([rows[name] for name in reversed(self.order)])]

    def _cut(self, total: Sequence[_Rows], limit: Limit) -> None:
        """Leave the rows that are kept."""
        found = [rows.found for rows in total]
        for k, kind in enumerate(total):
            if kind.size <= (most := limit.of(k, found)):
                continue
            rows = kind.taken()
            rank = limit.rank(rows)
            last = np.partition(rank, most - 1)[most - 1]
            kept = rank < last
            ties = np.flatnonzero(rank == last)
            order = np.lexsort([rows[name][ties] for name in reversed(self.order)])
            kept[ties[order[: most - np.count_nonzero(kept)]]] = True
            kind.put(rows[kept])


class _Rows:
    """Rows of one kind, that arrive tile by tile; ``size`` are held, ``found`` have come."""

    def __init__(self, empty: NDArray[np.void]) -> None:
        self._parts = [empty]
        self.size = self.found = 0

    def add(self, rows: NDArray[np.void]) -> None:
        """Add rows."""
        self.found += rows.size
        self.put(rows)

    def put(self, rows: NDArray[np.void]) -> None:
        """Hold rows that have come before."""
        if rows.size:
            self._parts.append(rows)
            self.size += rows.size

    def taken(self) -> NDArray[np.void]:
        """All rows in one array; none are held here any longer."""
        rows = np.concatenate(self._parts)
        self._parts, self.size = self._parts[:1], 0
        return rows


class Distribution(Part[KeyHistogram, KeyHistogram]):
    """Counts and sums of all values, by bins of 1/128 octave.

    Parameters
    ----------
    name : str
    update : callable
        Adds the values of the cells of a `Band` to a `KeyTable`.
    """

    def __init__(self, name: str, update: Callable[[Band, KeyTable], None]) -> None:
        super().__init__(name)
        self.update = update

    def begin(self) -> KeyTable:
        """Empty table."""
        return KeyTable()

    def add_band(self, tally: KeyTable, band: Band) -> None:
        """Add the values of a band."""
        self.update(band, tally)

    def end(self, tally: KeyTable, written: NDArray[Any]) -> KeyHistogram:
        """Histogram of a tile."""
        return tally.histogram()

    def to_bytes(self, value: KeyHistogram) -> bytes:
        """Bytes of a histogram."""
        return value.to_bytes()

    def from_bytes(self, data: bytes) -> KeyHistogram:
        """Inverse of `to_bytes`."""
        return KeyHistogram.from_bytes(data)

    def add(self, total: list[KeyHistogram], tile: Region, value: KeyHistogram) -> None:
        """Add the histogram of a tile; a few are merged at a time."""
        total.append(value)
        if len(total) > _MERGED:
            total[:] = [KeyHistogram.merged(total)]

    def finish(self, total: list[KeyHistogram]) -> KeyHistogram:
        """Histogram of the image."""
        return KeyHistogram.merged(total)
