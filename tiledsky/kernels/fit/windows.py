"""Windows of a mesh: what a task holds of it, and where that lies.

Whatever is made of a tile of a mesh is a function of a window about it, and has the same bits for any tiling. Tiles
begin at multiples of `ALIGNED` cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region

#: Tiles of a mesh begin at multiples of so many cells: blocks of sums, and cells that wide fits are made at, divide it.
ALIGNED = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A part of a map.

    Attributes
    ----------
    data : ndarray (rows, columns, ..)
    region : Region
        Where it lies in the map, in cells of it.
    """

    data: NDArray[Any]
    region: Region

    @classmethod
    def about(cls, data: NDArray[Any], region: Region, halo: Pair) -> Window:
        """Return the window of a whole map about a region, with a halo."""
        grown = region.grown(halo, data.shape)
        return cls(data[grown.slices], grown)

    def cut(self, region: Region) -> NDArray[Any]:
        """Return a smaller part, which lies within, as a view."""
        if not self.region.contains(region):
            raise ValueError(f"{region} is not within the window {self.region}: its halo is too small")
        return self.data[region.within(self.region)]


def blocks_of(region: Region, size: int) -> Region:
    """Blocks of `size` cells, from the corner of the mesh, that a region touches."""
    return Region(region.y0 // size, -(-region.y1 // size), region.x0 // size, -(-region.x1 // size))


def weighted_cells(values: Window, weight: Window, region: Region, center: float) -> tuple[Floats, Floats]:
    """Values less `center`, 0 where the weight is 0, and weights, of a region."""
    weights = weight.cut(region).astype(np.float64)
    return np.where(weights > 0.0, values.cut(region).astype(np.float64) - center, 0.0), weights
