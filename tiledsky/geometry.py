"""Regions, tiles, boxes, chunks: integers only.

Axis order is (y, x) everywhere; regions are half open.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import NamedTuple

from tiledsky.errors import ParameterError

Pair = tuple[int, int]


class Region(NamedTuple):
    """The pixels ``[y0, y1) x [x0, x1)`` of an image."""

    y0: int
    y1: int
    x0: int
    x1: int

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Region:
        """Return the region that covers an image of ``shape`` (ny, nx)."""
        return cls(0, int(shape[0]), 0, int(shape[1]))

    @property
    def shape(self) -> Pair:
        """Number of rows and columns."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this region in the whole image."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, halo: Pair, shape: Sequence[int]) -> Region:
        """Return the region with ``halo`` pixels more on every side, cut at the borders of the image."""
        return Region(
            max(self.y0 - halo[0], 0),
            min(self.y1 + halo[0], int(shape[0])),
            max(self.x0 - halo[1], 0),
            min(self.x1 + halo[1], int(shape[1])),
        )

    def inner(self, radius: Pair, shape: Sequence[int]) -> Region:
        """Return what a kernel of ``radius`` can make of this region: less on every side that is no image border."""
        return Region(
            self.y0 + (radius[0] if self.y0 > 0 else 0),
            self.y1 - (radius[0] if self.y1 < shape[0] else 0),
            self.x0 + (radius[1] if self.x0 > 0 else 0),
            self.x1 - (radius[1] if self.x1 < shape[1] else 0),
        )

    def within(self, outer: Region) -> tuple[slice, slice]:
        """Index of this region in an array that holds ``outer``."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def contains(self, other: Region) -> bool:
        """Whether ``other`` lies inside this region."""
        return self.y0 <= other.y0 and other.y1 <= self.y1 and self.x0 <= other.x0 and other.x1 <= self.x1


@dataclass(frozen=True)
class TileGrid:
    """An image cut into tiles of one size; those at the bottom and right edges are cut short."""

    shape: Pair
    tile: Pair

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.tile) < 1:
            raise ParameterError(f"image {self.shape} in tiles of {self.tile}: every size must be at least 1 pixel")

    @property
    def counts(self) -> Pair:
        """Number of tiles along y and x."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    def __len__(self) -> int:
        return self.counts[0] * self.counts[1]

    def __iter__(self) -> Iterator[Pair]:
        """Indices (iy, ix) of all tiles, row by row."""
        ny, nx = self.counts
        return ((iy, ix) for iy in range(ny) for ix in range(nx))

    def within(self, region: Region) -> Iterator[Pair]:
        """Indices of the tiles that begin in a region, row by row."""
        (ty, tx), (y0, y1, x0, x1) = self.tile, region
        return product(range(-(-y0 // ty), -(-y1 // ty)), range(-(-x0 // tx), -(-x1 // tx)))

    def region(self, index: Pair) -> Region:
        """Return the pixels of the tile ``index``."""
        y0, x0 = index[0] * self.tile[0], index[1] * self.tile[1]
        return Region(y0, min(y0 + self.tile[0], self.shape[0]), x0, min(x0 + self.tile[1], self.shape[1]))


def mesh_shape(shape: Sequence[int], box: Pair) -> Pair:
    """Shape of the mesh of an image: boxes that are cut by the image edge count."""
    return -(-int(shape[0]) // box[0]), -(-int(shape[1]) // box[1])


def boxes_of(region: Region, box: Pair) -> Region:
    """Return the cells of the mesh whose first pixel lies in ``region``, whose corner is a corner of a box."""
    return Region(region.y0 // box[0], -(-region.y1 // box[0]), region.x0 // box[1], -(-region.x1 // box[1]))


def row_bands(shape: Sequence[int], *, cells: int = 1 << 18) -> Iterator[slice]:
    """Cut a map into bands of whole rows of about ``cells`` cells, so that what is done in bands holds no other map."""
    height = max(cells // int(shape[1]), 1)
    return (slice(y, min(y + height, int(shape[0]))) for y in range(0, int(shape[0]), height))


def aligned_tile(tile_size: int, boxes: Sequence[Pair]) -> Pair:
    """Largest tile of at most ``tile_size`` that is a whole number of every box, so that no box straddles two tiles.

    Where the boxes' common multiple is larger than ``tile_size`` the tile is that multiple.
    """
    step = [math.lcm(*(box[axis] for box in boxes)) if boxes else 1 for axis in (0, 1)]
    return tuple(max(tile_size // s, 1) * s for s in step)  # type: ignore[return-value]


def inner_chunk(tile: int, *, target: int = 256, largest: int = 512) -> int:
    """Divisor of ``tile`` near ``target``: the unit of reading inside a shard of one tile.

    A tile with no divisor from ``target / 2`` to ``largest`` is one chunk: a halo then decodes whole tiles.
    """
    if tile <= largest:
        return tile
    divisors = [d for d in range(target // 2, largest + 1) if tile % d == 0]
    return min(divisors, key=lambda d: abs(math.log(d / target))) if divisors else tile


def places(shape: Pair, size: Pair) -> Iterator[Region]:
    """Yield all squares of a grid of ``size`` in an image, so that the first ones are spread evenly over it.

    The order is that of Roberts' sequence, multiples of the plastic number's powers modulo 1 (M. Roberts, "The
    Unreasonable Effectiveness of Quasirandom Sequences", 2018): by place alone, the same each time.
    """
    counts = shape[0] // size[0], shape[1] // size[1]
    first = [(n - count * s) // 2 for n, count, s in zip(shape, counts, size, strict=True)]
    total = counts[0] * counts[1]
    sequence = (
        (int((0.5 + k * 0.7548776662466927) % 1 * counts[0]), int((0.5 + k * 0.5698402909980532) % 1 * counts[1]))
        for k in range(4 * total)
    )
    rest = ((iy, ix) for iy in range(counts[0]) for ix in range(counts[1]))
    seen = set()
    for iy, ix in chain(sequence, rest):
        if (iy, ix) not in seen:
            seen.add((iy, ix))
            y, x = first[0] + iy * size[0], first[1] + ix * size[1]
            yield Region(y, y + size[0], x, x + size[1])
