"""The pixels that the measures look at: a band of cells with its halo, and what several measures need of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.kernels.residual.local_sky import local_quadratic
from tiledsky.kernels.residual.mask_distance import squared_distance
from tiledsky.kernels.residual.own_mask import compact_light
from tiledsky.kernels.residual.sky_sums import GOOD, QUAD, pixel_planes, quad_sums

T = TypeVar("T")

#: Distances from the edge of a mask are known up to this, px; also the halo of a cell.
LIMIT = 64
#: Most pixels around a tile that a measure of its cells reads: a cell that begins in the tile, and the cell's halo.
HALO: Pair = (CELL - 1 + LIMIT, CELL - 1 + LIMIT)
#: The sky around a place: pixels at least this far from masks, weighted by a Gaussian of this sigma, within this reach.
SKY_DISTANCE, SKY_SIGMA, SKY_REACH = 4, 20.0, 56
#: Variance that what the sky around says may have, in units of a pixel's.
SKY_VARIANCE = 0.02
#: Rows of cells that are worked on at a time: bounds memory.
_ROWS = 4


@dataclass(frozen=True)
class Pixels:
    """Planes of a region of an image of ``shape``.

    Attributes
    ----------
    science, background : ndarray of float, (ny, nx)
    rms : ndarray of float, (ny, nx)
        Noise of a pixel, in the unit of the image.
    bits : ndarray of uint8, (ny, nx)
        Mask plane: bit 0 invalid, the others sources and the user's mask.
    region : Region
    shape : (int, int)
    expected : ndarray of float, optional
        Noise of a pixel as an error or weight plane says, up to a factor.
    truth : ndarray of float, optional
        The sky as it is.
    catalogue : ndarray of float64, shape (n, 4), optional
        Sources (y, x of the image, flux in units of the noise, size in px) instead of those found in the residual.
    box : int
        Side of the box at a source, odd.
    """

    science: NDArray[Any]
    background: NDArray[Any]
    rms: NDArray[Any]
    bits: NDArray[np.uint8]
    region: Region
    shape: Pair
    expected: NDArray[Any] | None = None
    truth: NDArray[Any] | None = None
    catalogue: NDArray[np.float64] | None = None
    box: int = 3


def owned_cells(tile: Region) -> Region:
    """Cells of a tile: those whose first pixel lies in it."""
    return Region(*(-(-edge // CELL) for edge in tile))


def needed_region(tile: Region, shape: Pair) -> Region:
    """Return the tile with what its cells and their halo need."""
    cells = owned_cells(tile)
    if 0 in cells.shape:
        return tile
    read = Region(*(edge * CELL for edge in cells)).grown((LIMIT, LIMIT), shape)
    return Region(min(read.y0, tile.y0), max(read.y1, tile.y1), min(read.x0, tile.x0), max(read.x1, tile.x1))


def bands(pixels: Pixels, tile: Region) -> Iterator[Band]:
    """Cut the cells of a tile into bands; ``pixels`` cover `needed_region`."""
    cells = owned_cells(tile)
    if 0 in cells.shape:
        return
    for top in range(cells.y0, cells.y1, _ROWS):
        yield Band(pixels, Region(top, min(top + _ROWS, cells.y1), cells.x0, cells.x1))


class Band:
    """Some rows of cells of a tile, with their halo.

    Parameters
    ----------
    pixels : Pixels
    where : Region
        The cells, counted from the first of the image.

    Attributes
    ----------
    region : Region
        Pixels of the arrays: cells and halo.
    origin, cells : (int, int)
        First pixel of the first cell in the arrays; rows and columns of cells.
    """

    def __init__(self, pixels: Pixels, where: Region) -> None:
        self.pixels, self.where = pixels, where
        inner = Region(*(edge * CELL for edge in where))
        self.region = inner.grown((LIMIT, LIMIT), pixels.shape)
        self.origin: Pair = (inner.y0 - self.region.y0, inner.x0 - self.region.x0)
        self.cells: Pair = where.shape
        self._slices = self.region.within(pixels.region)
        self._made: dict[Callable[[Band], Any], Any] = {}

    def of(self, function: Callable[[Band], T]) -> T:
        """Result of a function of the band that several measures need; called once."""
        if function not in self._made:
            self._made[function] = function(self)
        found: T = self._made[function]
        return found

    def plane(self, name: str) -> NDArray[Any]:
        """Pixels of a plane."""
        return np.ascontiguousarray(getattr(self.pixels, name)[self._slices])

    @property
    def inner(self) -> tuple[slice, slice]:
        """Pixels of the cells in the arrays, as far as the image reaches."""
        rows, columns = (slice(start, start + CELL * n) for start, n in zip(self.origin, self.cells, strict=True))
        return rows, columns

    def cell_sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sum of the pixels of each cell, shape (rows, columns of cells), of an array with the shape of the planes."""
        inner = np.asarray(values[self.inner], np.float64)
        rows, columns = (np.arange(0, size, CELL) for size in inner.shape)
        sums: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(inner, rows, axis=0), columns, axis=1)
        return sums

    @cached_property
    def background(self) -> NDArray[Any]:
        """Pixels of the background."""
        return self.plane("background")

    @cached_property
    def science(self) -> NDArray[Any]:
        """Pixels of the image."""
        return self.plane("science")

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """Mask plane."""
        return self.plane("bits")

    @cached_property
    def rms(self) -> NDArray[Any]:
        """Noise of a pixel."""
        return self.plane("rms")

    @cached_property
    def _planes(self) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.float32]]:
        return pixel_planes(self.science, self.background, self.rms, self.bits)

    @property
    def state(self) -> NDArray[np.uint8]:
        """What each pixel is (`tiledsky.kernels.residual.sky_sums`)."""
        return self._planes[0]

    @property
    def residual(self) -> NDArray[Any]:
        """Image minus background."""
        return self._planes[1]

    @property
    def scaled(self) -> NDArray[np.float32]:
        """Residual in units of the noise of a pixel, 0 where lost; of masked pixels too."""
        return self._planes[2]

    @cached_property
    def light(self) -> NDArray[np.uint8]:
        """What stands out of the residual (`tiledsky.kernels.residual.own_mask`); right in the cells and near them."""
        return compact_light(self.scaled, self.state, origin=self.origin, cells=self.cells)

    @cached_property
    def good(self) -> NDArray[np.uint8]:
        """1 where a pixel is sky: neither masked nor compact light, which the recipe may have left without a mask."""
        return ((self.state == GOOD) & (self.light == 0)).view(np.uint8)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """Residual in units of the noise of a pixel, 0 where it is not sky."""
        return self.scaled * self.good

    @cached_property
    def masked(self) -> NDArray[np.bool_]:
        """Whether a source or the user's mask hides a pixel."""
        return self.bits > 1

    @cached_property
    def outside(self) -> NDArray[np.uint16]:
        """Squared distance from the nearest masked pixel; beside the cells just what counts for the sky around."""
        return squared_distance(self.masked, LIMIT, rows=self.inner[0], elsewhere=SKY_DISTANCE)

    @cached_property
    def around(self) -> NDArray[np.float64]:
        """What the sky around each block of `QUAD` pixels says of the sky there: value, slopes a block."""
        counts, sums = quad_sums(self.science, self.state, self.outside, nearest=SKY_DISTANCE)
        first = [start // QUAD for start in self.origin]
        where = [
            slice(a, min(a + n * CELL // QUAD, m)) for a, n, m in zip(first, self.cells, counts.shape, strict=True)
        ]
        return local_quadratic(
            counts,
            sums,
            sigma=SKY_SIGMA / QUAD,
            radius=SKY_REACH // QUAD,
            worst=SKY_VARIANCE,
            where=(where[0], where[1]),
        )
