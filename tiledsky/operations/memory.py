"""Memory of a task as phases, each a sum of terms: how many bytes for each pixel, cell or row.

An operation lists its phases next to the code that allocates (planes are read, a sky is subtracted, a tier is
searched, a plane is written). The peak of a worker is its process and the largest phase, once for each thread. A test
compares it with what the system measures, for every preset. Where the data decide how much there is (runs of pixels in
a detection, values in the bins that a median falls in), a term is the most that there can be, or the most that is
likely, as said there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tiledsky.geometry import Pair, TileGrid

MEGABYTE = 1_000_000
#: Memory of a worker between stages: 345 MB measured at most, and room. A first use of kernels compiles: 430 MB more.
BASE = 370 * MEGABYTE
#: Freed memory that a worker keeps for its next arrays, and size up to which arrays come from it: the most of glibc.
FREED = 32 << 20
#: Beside the pixels that Zarr reads: the compressed chunks (noise hardly shrinks), and the unpacked part of each shard.
READ = 2
#: Beside the pixels that are written: compressed chunks; Zarr itself joins them in a shard, too.
WRITE = 2


@dataclass(frozen=True)
class Plane:
    """Size of a plane of the input.

    Attributes
    ----------
    itemsize : int
        Bytes a pixel.
    chunk : int
        Pixels of a chunk, which is unpacked whole, of an array of the input; 0 for files.
    tiled : bool
        A tile-compressed FITS image.
    """

    itemsize: int
    chunk: int = 0
    tiled: bool = False


Planes = Mapping[str, Plane]


@dataclass(frozen=True)
class Memory:
    """Projected peak of a worker.

    Attributes
    ----------
    bytes : int
    terms : dict of str to int
        Bytes of each term: of one task, but for "process".
    formula : str
        How they follow from tile, halo and mesh.
    """

    bytes: int
    terms: dict[str, int]
    formula: str


@dataclass
class Phase:
    """Terms that are in memory at the same time."""

    name: str
    terms: list[tuple[str, float, str, int]] = field(default_factory=lambda: [("freed and kept", 1, "B", FREED)])

    def add(self, what: str, per: float, unit: str, count: int) -> Phase:
        """Add ``per`` bytes for each of ``count`` units."""
        if per and count:
            self.terms.append((what, per, unit, count))
        return self

    def again(self, name: str) -> Phase:
        """Return another phase that begins with these terms."""
        return Phase(name, [*self.terms])

    @property
    def bytes(self) -> int:
        """Of all terms."""
        return sum(math.ceil(per * count) for _, per, _, count in self.terms)

    def memory(self, threads: int) -> Memory:
        """Peak of a worker that is in this phase with every thread."""
        terms = {"process": BASE}
        for what, per, _, count in self.terms:
            terms[what] = terms.get(what, 0) + math.ceil(per * count)
        units: dict[tuple[str, int], list[str]] = {}
        for what, per, unit, count in self.terms:
            units.setdefault((unit, count), []).append(f"{per:g} {what}")
        sums = [f"{count} {unit} x ({' + '.join(parts)}) B" for (unit, count), parts in units.items() if unit != "B"]
        fixed = sum(math.ceil(per * count) for _, per, unit, count in self.terms if unit == "B")
        times = f"{threads} threads x " if threads > 1 else ""
        inner = " + ".join([*sums, f"{fixed / MEGABYTE:.0f} MB fixed"])
        formula = f"{BASE // MEGABYTE} MB process + {times}[{self.name}: {inner}]"
        return Memory(BASE + threads * self.bytes, terms, formula)


class Sizes:
    """Pixels that a task of an operation reads and writes.

    Parameters
    ----------
    shape : (int, int)
        Of the image.
    dtype : str
        float32 or float64, of image and sky.
    tile, halo : (int, int)
        Of the task.
    planes : mapping of str to Plane
        That the task reads: of the input, or the run's copies.
    tiles : mapping of str to (int, int)
        Size of the tiles of each operation of the run.

    Attributes
    ----------
    size : int
        Bytes of a pixel of image and sky.
    tile_shape, read_shape : (int, int)
        Of the tile, and with its halo, cut at the image.
    tile, read, padded : int
        Pixels of both, and of a kernel's input, which is padded at the borders of the image to the size that it has
        elsewhere.
    """

    def __init__(
        self, shape: Pair, dtype: str, *, tile: Pair, halo: Pair, planes: Planes, tiles: Mapping[str, Pair]
    ) -> None:
        self.shape, self.planes, self.tiles, self.stage_tile = shape, planes, tiles, tile
        self.size = np.dtype(dtype).itemsize
        self.tile_shape: Pair = (min(tile[0], shape[0]), min(tile[1], shape[1]))
        self.read_shape: Pair = tuple(  # type: ignore[assignment]
            min(t + 2 * h, n) for t, h, n in zip(self.tile_shape, halo, shape, strict=True)
        )
        self.tile, self.read = math.prod(self.tile_shape), math.prod(self.read_shape)
        self.padded = math.prod(t + 2 * h for t, h in zip(self.tile_shape, halo, strict=True))

    def tasks(self, operation: str) -> int:
        """Number of tasks of another operation of the run."""
        return len(TileGrid(self.shape, self.tiles[operation]))

    def reading(self, phase: Phase, what: str, itemsize: int, *, chunk: int = 0) -> Phase:
        """Add the memory of reading a plane."""
        phase.add(f"{what} while read", (1 + READ) * itemsize, "px read", self.read)
        return phase.add(f"chunks of {what}", 2 * 2 * itemsize, "px a chunk", chunk)

    def inputs(self) -> list[Phase]:
        """Read the image and the planes beside it, and make the bits that are known before any step."""
        science = self.planes["science"]
        first = self.reading(Phase("reading the image"), "science", science.itemsize, chunk=science.chunk)
        if science.itemsize != self.size:
            first.add("science as float", self.size, "px read", self.read)
        others = {name: plane for name, plane in self.planes.items() if name != "science"}
        bits = Phase("reading the planes").add("science", self.size, "px read", self.read)
        for name, plane in others.items():
            bits.add(name, plane.itemsize, "px read", self.read)
        if others:
            largest = max(others.values(), key=lambda p: p.itemsize)
            bits.add("the last while read", READ * largest.itemsize, "px read", self.read)
            bits.add("chunks", 4 * largest.itemsize, "px a chunk", max(p.chunk for p in others.values()))
        widest = max((plane.itemsize for plane in others.values()), default=0)
        return [first, bits.add("bits and comparisons", 4 + widest, "px read", self.read)]
