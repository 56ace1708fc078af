"""What one tile tells of all measures, small and mergeable; and all tiles put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Pixels, bands, owned_cells
from tiledsky.diagnostics.parts import Cells, Part
from tiledsky.diagnostics.patches import Floats, PatchSums
from tiledsky.diagnostics.protocol import ImageFacts, ImageSums
from tiledsky.diagnostics.registry import IMAGE, MEASURES
from tiledsky.geometry import Pair, Region

VERSION = 1
#: Parts in the order in which tiles of unfinished runs keep them; those of other measures follow.
_ORDER = (
    *("scale", "sky", "positions", "moments", "constants", "looked at"),
    *("residual", "blocks", "apertures", "sides", "object boxes"),
)


def _all_parts() -> list[Cells | Part[Any, Any]]:
    """Parts of all measures, each once."""
    parts = {part.name: part for measure in (IMAGE, *MEASURES) for part in measure.parts}
    return sorted(parts.values(), key=lambda part: (*_ORDER, part.name).index(part.name))


_CELLS = [part for part in _all_parts() if isinstance(part, Cells)]
_PARTS = [part for part in _all_parts() if isinstance(part, Part)]
_ENDS = np.cumsum([0, *(cells.columns for cells in _CELLS)]).tolist()
#: Numbers of a cell.
N_COLUMNS: int = _ENDS[-1]


@dataclass(frozen=True)
class TileSummary:
    """What one tile tells.

    Attributes
    ----------
    cells : Region
        Its cells, counted from the first of the image.
    columns : ndarray of float64, shape (rows, columns of cells, N_COLUMNS)
        Numbers of all `Cells`, one after the other.
    values : tuple
        One of each `Part`.
    """

    cells: Region
    columns: Floats
    values: tuple[Any, ...]

    def to_parts(self) -> list[bytes]:
        """Portable bytes, in parts."""
        where = np.array(self.cells, "<i8").tobytes()
        values = (part.to_bytes(value) for part, value in zip(_PARTS, self.values, strict=True))
        return [where, self.columns.tobytes(), *values]

    @classmethod
    def from_parts(cls, parts: Sequence[bytes]) -> TileSummary:
        """Inverse of `to_parts`."""
        cells = Region(*np.frombuffer(parts[0], "<i8").tolist())
        columns = np.frombuffer(parts[1], np.float64).reshape(*cells.shape, N_COLUMNS)
        values = (part.from_bytes(data) for part, data in zip(_PARTS, parts[2:], strict=True))
        return cls(cells, columns, tuple(values))


def summarise(pixels: Pixels, tile: Region, written: NDArray[Any]) -> TileSummary:
    """Measure one tile.

    Parameters
    ----------
    pixels : Pixels
        Of `tiledsky.diagnostics.band.needed_region` at least.
    tile : Region
    written : ndarray
        Background of the tile as it is written, NaN where there is none.
    """
    cells = owned_cells(tile)
    rows, tallies = [np.zeros((0, cells.shape[1], N_COLUMNS))], [part.begin() for part in _PARTS]
    for band in bands(pixels, tile):
        rows.append(np.concatenate([part.update(band) for part in _CELLS], axis=2))
        for part, tally in zip(_PARTS, tallies, strict=True):
            part.add_band(tally, band)
    columns = np.concatenate(rows) if 0 not in cells.shape else np.zeros((*cells.shape, N_COLUMNS))
    values = (part.end(tally, written) for part, tally in zip(_PARTS, tallies, strict=True))
    return TileSummary(cells, columns, tuple(values))


class Collector:
    """All tiles of an image, put together one after the other.

    Memory: sums of the patches, lists and histograms of the image, which are no larger for a larger one; of the tiles
    the last alone, and the rim of those above it (`tiledsky.diagnostics.seams`).

    Parameters
    ----------
    shape : (int, int)
        Of the image.
    """

    def __init__(self, shape: Pair) -> None:
        self.shape = shape
        self._sums = PatchSums(shape, N_COLUMNS)
        self._totals = [part.start() for part in _PARTS]

    def add(self, tile: Region, summary: TileSummary) -> None:
        """Add the next tile, tiles in row order."""
        self._sums.add(summary.cells, summary.columns)
        for part, total, value in zip(_PARTS, self._totals, summary.values, strict=True):
            part.add(total, tile, value)

    def finalize(self, facts: ImageFacts) -> dict[str, Any]:
        """Return facts of the image and all measures, as plain data; once."""
        columns = [slice(*ends) for ends in pairwise(_ENDS)]
        sums = {part.name: self._sums.part(k) for part, k in zip(_CELLS, columns, strict=True)}
        totals = {part.name: part.finish(self._totals.pop(0)) for part in _PARTS}  # what is finished is held once
        image = ImageSums(self.shape, facts, sums, totals, MEASURES)
        found = {measure.name: image.of(measure.name) for measure in MEASURES}
        measures = {name: data for name, data in found.items() if data is not None}
        return {"version": VERSION, "image": IMAGE.finalize(image), "measures": measures}
