"""What one tile tells of all measures, small and mergeable; and all tiles put together.

Sums are of whole cells of 64 x 64 pixels, each made by the tile that holds its first pixel and of pixels alone; they
are put back in their places before anything is added up. So no number but those of the seams depends on the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics import bias, blocks, constants, negative, positions, residual, scale, worst
from tiledsky.diagnostics.band import Pixels, bands, owned_cells
from tiledsky.diagnostics.patches import Floats, PatchSums, number, patch_size
from tiledsky.diagnostics.seams import Seams, Strips
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.residual.cell_sums import CELL, WIDTHS
from tiledsky.kernels.residual.sky_sums import OUTSIDE
from tiledsky.kernels.statistics.histogram import KeyHistogram, KeyTable

VERSION = 1
#: Numbers of a cell, by the measure that they are of; the last is how many blocks of 16 pixels were looked at.
_COLUMNS = (scale.COLUMNS, bias.COLUMNS, positions.COLUMNS, residual.COLUMNS, constants.COLUMNS, 1)
N_COLUMNS = sum(_COLUMNS)
_ENDS = np.cumsum((0, *_COLUMNS)).tolist()


@dataclass(frozen=True)
class TileSummary:
    """What one tile tells.

    Attributes
    ----------
    cells : Region
        Its cells, counted from the first of the image.
    columns : ndarray of float64, shape (rows, columns of cells, N_COLUMNS)
    histogram : KeyHistogram
    blocks, apertures : structured ndarray
    strips : Strips
    """

    cells: Region
    columns: Floats
    histogram: KeyHistogram
    blocks: NDArray[np.void]
    apertures: NDArray[np.void]
    strips: Strips

    def to_parts(self) -> list[bytes]:
        """Portable bytes, in parts."""
        where = np.array(self.cells, "<i8").tobytes()
        lists = self.blocks.tobytes(), self.apertures.tobytes()
        return [where, self.columns.tobytes(), self.histogram.to_bytes(), *lists, self.strips.to_bytes()]

    @classmethod
    def from_parts(cls, parts: Sequence[bytes]) -> TileSummary:
        """Inverse of `to_parts`."""
        cells = Region(*np.frombuffer(parts[0], "<i8").tolist())
        return cls(
            cells,
            np.frombuffer(parts[1], np.float64).reshape(*cells.shape, N_COLUMNS),
            KeyHistogram.from_bytes(parts[2]),
            np.frombuffer(parts[3], blocks.BLOCK),
            np.frombuffer(parts[4], negative.APERTURE),
            Strips.from_bytes(parts[5]),
        )


def summarise(
    pixels: Pixels, tile: Region, written: NDArray[Any], *, catalogue: Floats | None = None, box: int = 3
) -> TileSummary:
    """Measure one tile.

    Parameters
    ----------
    pixels : Pixels
        Of `tiledsky.diagnostics.band.needed_region` at least.
    tile : Region
    written : ndarray
        Background of the tile as it is written, NaN where there is none.
    catalogue : ndarray of float64, shape (n, 4), optional
        Sources (y, x, flux in units of the noise, size in px) instead of those found in the residual.
    box : int
        Side of the box at a source, odd.
    """
    cells = owned_cells(tile)
    rows, table, found, apertures = [np.zeros((0, cells.shape[1], N_COLUMNS))], KeyTable(), [], []
    for band in bands(pixels, tile):
        scales, kept = scale.update(band)
        chosen, counts = blocks.select(band, kept)
        parts = [scales, bias.update(band), positions.update(band, catalogue=catalogue, box=box), residual.update(band)]
        parts.append(constants.update(band))
        rows.append(np.concatenate([*parts, counts[..., None]], axis=2))
        residual.add_values(band, table)
        found.append(chosen)
        apertures.append(negative.update_apertures(band))
    columns = np.concatenate(rows) if 0 not in cells.shape else np.zeros((*cells.shape, N_COLUMNS))
    return TileSummary(
        cells,
        columns,
        table.histogram(),
        blocks.ordered(found),
        negative.ordered(apertures),
        Strips.of(written),
    )


class Collector:
    """All tiles of an image, put together row by row of tiles.

    Parameters
    ----------
    shape : (int, int)
        Of the image.
    """

    def __init__(self, shape: Pair) -> None:
        self.shape = shape
        self.sums = PatchSums(shape, N_COLUMNS)
        self.histogram = KeyHistogram.merged(())
        self.seams = Seams()
        self._blocks: list[NDArray[np.void]] = []
        self._apertures: list[NDArray[np.void]] = []

    def add_row(self, row: Sequence[tuple[Region, TileSummary]]) -> None:
        """Add the tiles of the next row, from left to right."""
        cells = np.concatenate([summary.columns for _, summary in row], axis=1)
        self.sums.add(row[0][1].cells.y0, cells)
        self.histogram = KeyHistogram.merged((self.histogram, *(summary.histogram for _, summary in row)))
        self._blocks += [summary.blocks for _, summary in row]
        self._apertures += [summary.apertures for _, summary in row]
        self.seams.add_row([(tile, summary.strips) for tile, summary in row])

    def _of(self, k: int) -> PatchSums:
        part = PatchSums((1, 1), 0)
        part.sums = self.sums.sums[..., _ENDS[k] : _ENDS[k + 1]]
        return part

    def finalize(
        self,
        *,
        tile: Pair,
        source: str | None = None,
        catalogue: bool = False,
        box: int = 3,
        to_sky: worst.ToSky | None = None,
        unit: str | None = None,
    ) -> dict[str, Any]:
        """Return facts of the image and all measures, as plain data.

        ``source``: the plane that the expected noise is of; ``catalogue``: sources were given.
        """
        scales, sky, places, shape_of, solid = (self._of(k) for k in range(5))
        n_blocks = int(self.sums.sums[..., -1].sum())
        rms, square = residual.noise(shape_of), residual.mean_square(shape_of)
        measured = residual.finalize(shape_of, scales, self.histogram)
        of_scale = scale.finalize(scales, noise=rms, mean_square=square, source=source)
        noise = measured["robust_std"] or float("nan")
        stretch = of_scale["expected"][WIDTHS.index(16)] or 1.0
        found, size = blocks.ordered(self._blocks), self.shape
        apertures = negative.ordered(self._apertures)
        measures = {
            scale.NAME: of_scale,
            bias.NAME: bias.finalize(sky),
            bias.EDGES: bias.finalize_edges(sky, noise=noise),
            positions.NAME: positions.finalize(places, sky, box=box, source="catalogue" if catalogue else "detections"),
            negative.NAME: negative.finalize(found, apertures, n_blocks=n_blocks, scale=stretch, shape=size),
            "seams": self.seams.finalize(tile),
            residual.NAME: measured,
            worst.NAME: worst.finalize(found, scale=stretch, noise=noise, shape=size, to_sky=to_sky),
            constants.NAME: constants.finalize(solid, shape=size),
        }
        return {"version": VERSION, "image": self._facts(sky, noise, unit), "measures": measures}

    def _facts(self, sky: PatchSums, noise: float, unit: str | None) -> dict[str, Any]:
        outside, masked = sky.sums[:, :, 0].sum(), sky.sums[:, :, OUTSIDE].sum()
        pixels = self.shape[0] * self.shape[1]
        counted = outside + masked
        return {
            "shape": list(self.shape),
            "noise": number(noise),
            "noise_unit": "image",
            "bunit": unit,
            "masked_fraction": number(float(masked / counted)) if counted else None,
            "invalid_fraction": number(1 - float(counted) / pixels),
            "patch": patch_size(self.shape),
            "n_patches": int(np.prod(self.sums.sums.shape[:2])),
            "cell": CELL,
        }
