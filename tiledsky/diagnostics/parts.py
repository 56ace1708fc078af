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
        """Return what rows of tiles are added to."""
        return []

    @abstractmethod
    def add_row(self, total: Any, row: Sequence[tuple[Region, V]]) -> Any:
        """Add the tiles of the next row, from left to right; return the new total."""

    @abstractmethod
    def finish(self, total: Any) -> T:
        """Return what the image says."""


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
    """

    def __init__(
        self, name: str, dtype: np.dtype[np.void], order: tuple[str, ...], update: Callable[[Band], NDArray[np.void]]
    ) -> None:
        super().__init__(name)
        self.dtype, self.order, self.update = dtype, order, update

    def add_band(self, tally: list[NDArray[np.void]], band: Band) -> None:
        """Add the rows of a band."""
        tally.append(self.update(band))

    def end(self, tally: list[NDArray[np.void]], written: NDArray[Any]) -> NDArray[np.void]:
        """Return the rows of a tile."""
        return self.finish(tally)

    def to_bytes(self, value: NDArray[np.void]) -> bytes:
        """Bytes of the rows."""
        return value.tobytes()

    def from_bytes(self, data: bytes) -> NDArray[np.void]:
        """Inverse of `to_bytes`."""
        return np.frombuffer(data, self.dtype)

    def add_row(
        self, total: list[NDArray[np.void]], row: Sequence[tuple[Region, NDArray[np.void]]]
    ) -> list[NDArray[np.void]]:
        """Add the rows of some tiles."""
        return [*total, *(rows for _, rows in row)]

    def finish(self, total: list[NDArray[np.void]]) -> NDArray[np.void]:
        """All rows in their order, whatever tiles they came from."""
        rows = np.concatenate([np.empty(0, self.dtype), *total])
        return rows[np.lexsort([rows[name] for name in reversed(self.order)])]


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

    def start(self) -> KeyHistogram:
        """Return an empty histogram."""
        return KeyHistogram.merged(())

    def add_row(self, total: KeyHistogram, row: Sequence[tuple[Region, KeyHistogram]]) -> KeyHistogram:
        """Merge the histograms of some tiles."""
        return KeyHistogram.merged((total, *(histogram for _, histogram in row)))

    def finish(self, total: KeyHistogram) -> KeyHistogram:
        """Histogram of the image."""
        return total
