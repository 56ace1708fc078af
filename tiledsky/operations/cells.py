"""Operations on the cells of a mesh, which is an image of boxes: tiles with halos, and numbers of all tiles.

A `CellOperation` makes maps of a tile of the mesh from windows of maps that are there, and summaries that a
`CellNumbers` combines to what the next operations need to know of the whole mesh. Neither holds more than a tile and
its halo; summaries are merged exactly, in any order. On a store each is a stage of tasks; on arrays
`tiledsky.operations.cells_on_arrays` does them. Both give the same bits, for any tiles.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, boxes_of, mesh_shape
from tiledsky.operations.base import ArraySpec, Image, Operation, Read, SummaryOperation, Task, TaskOutput, summary_file
from tiledsky.operations.boxes import MeshParameters
from tiledsky.operations.memory import MEGABYTE, READ, WRITE, Phase, Sizes
from tiledsky.overlap import Patch
from tiledsky.recipe import BackgroundStep

#: Tiles of a mesh begin at multiples of this many cells, so that sums over blocks are the same for any tiles.
UNIT = 32
#: Side of the tiles of a mesh, in cells: so many tiles along the longer side, but no smaller and no larger than this.
_TILES, SMALLEST, LARGEST = 8, 256, 512


class MapRead(NamedTuple):
    """A map of a mesh that an operation reads, with the operation that makes it and the halo, in cells.

    ``level``: the map has boxes 2**level times as large. ``align``: the halo goes on to whole boxes 2**align times as
    large. ``itemsize``: bytes of a value; 0: as the image. ``kept``: a run keeps it.
    """

    path: str
    maker: str
    halo: Pair = (0, 0)
    level: int = 0
    align: int = 0
    itemsize: int = 0
    kept: bool = False

    def region(self, cells: Region, shape: Pair, columns: int) -> Region:
        """Part of the map, on its own grid, that holds some cells of a mesh of this shape and their halo.

        ``columns``: of the map, which may have several numbers for each of its boxes, side by side.
        """
        level, align = self.level, self.align
        y0, y1, x0, x1 = cells.grown(self.halo, shape)
        y0, x0 = y0 >> align << align, x0 >> align << align
        y1, x1 = min(-(-y1 >> align) << align, shape[0]), min(-(-x1 >> align) << align, shape[1])
        each = columns // -(-shape[1] >> level)
        return Region(y0 >> level, -(-y1 >> level), (x0 >> level) * each, -(-x1 >> level) * each)


class CellOutput(NamedTuple):
    """What an operation makes of a tile of a mesh: maps by their paths, and the summary of the tile."""

    maps: Mapping[str, NDArray[Any]]
    parts: Sequence[bytes] = ()


class Cells(Protocol):
    """A tile of a mesh that an operation works on."""

    @property
    def region(self) -> Region:
        """Cells of the tile."""

    @property
    def shape(self) -> Pair:
        """Shape of the mesh."""

    @property
    def image(self) -> Pair:
        """Shape of the image."""

    def window(self, read: MapRead) -> Patch:
        """Part of a map that holds the tile and its halo, on the grid of the map."""

    def number(self, operation: str) -> Any:
        """What an operation on the whole mesh has made: `CellNumbers`, or a finished mesh."""


class Above(NamedTuple):
    """A mesh that limits another: names of the operation that ends it, and of that which makes its surfaces."""

    mesh: str
    surfaces: str


@dataclass(frozen=True)
class MeshSource:
    """A mesh that is to be finished: its step, and where the statistics of its boxes are.

    ``measured``: folders of the statistics, level by level; ``maker``: the operation that writes them; ``objects``: the
    operation whose catalogue has the objects whose light was taken off, if any was.
    """

    step: BackgroundStep | MeshParameters
    measured: tuple[str, ...]
    maker: str
    objects: str | None = None

    @property
    def name(self) -> str:
        """Name of the step."""
        return self.step.name

    @property
    def chosen(self) -> str:
        """Name of the operation that chooses the boxes that count."""
        return f"{self.name}-chosen"

    def path(self, part: str) -> str:
        """Path of a map of the mesh."""
        return f"meshes/{self.name}/{part}"

    def working(self, part: str) -> str:
        """Path of a map that is thrown away when the run ends."""
        return self.path(f"working/{part}")


class CellOperation(Operation):
    """Maps of a tile of a mesh from windows of other maps.

    Attributes
    ----------
    mesh : MeshSource
    summary : bool
        Whether its tasks have summaries.
    cell_bytes, fixed_bytes : float
        Memory of `work`: for each cell of its largest window (`work_bytes`), and beside.
    """

    #: Mesh that limits its values (its name, and that of what its surfaces are evaluated from), if one does.
    above: Above | None = None
    summary: ClassVar[bool] = False
    cell_bytes: ClassVar[float] = 16
    fixed_bytes: ClassVar[int] = 1 << 20

    def __init__(self, mesh: MeshSource) -> None:
        self.mesh, self.step, self.box_size = mesh, mesh.name, mesh.step.box_size
        self.name = f"{mesh.name}-{self.kind}"

    @abstractmethod
    def map_reads(self) -> list[MapRead]:
        """Maps that it reads."""

    def numbers(self) -> list[str]:
        """Operations whose numbers it needs."""
        return []

    @abstractmethod
    def makes(self) -> Mapping[str, str | None]:
        """Paths of the maps that it makes, and their dtypes; None: that of the image."""

    @abstractmethod
    def work(self, cells: Cells) -> CellOutput:
        """Make the maps of a tile."""

    def work_bytes(self, tile: Pair, shape: Pair, window: int) -> float:
        """Bytes that `work` takes for a tile of a mesh of this shape; ``window``: cells of its largest window."""
        return self.cell_bytes * window

    def on_grid(self, path: str, corner: Pair, shape: Pair) -> Pair:
        """Position, on the grid of a map that it makes, of a corner of a tile of a mesh of this shape."""
        return corner

    # --- on stores

    @property
    def smallest(self) -> int:
        """Side of its tiles on small meshes, in cells: larger where they would be all halo."""
        return LARGEST if max(max(read.halo) for read in self.map_reads()) >= SMALLEST else SMALLEST

    def tile(self, shape: Pair, tile_size: int) -> Pair:
        """Size of its tiles in pixels, for an image of ``shape`` whose tiles are near ``tile_size``."""
        longer = max(mesh_shape(shape, self.box_size))
        side = min(max(longer // _TILES // UNIT * UNIT, self.smallest), LARGEST)
        sides = (min(side, max(2 * tile_size // box // UNIT * UNIT, UNIT)) for box in self.box_size)
        return tuple(s * b for s, b in zip(sides, self.box_size, strict=True))  # type: ignore[return-value]

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        for read in self.map_reads():
            more = (1 << read.align) - 1
            halo = (read.halo[0] + more) * self.box_size[0], (read.halo[1] + more) * self.box_size[1]
            yield Read(read.maker, halo, kept=read.kept)
        yield from (Read(name, None) for name in self.numbers())
        if self.above is not None:
            yield Read(self.above.mesh, None)
            yield Read(self.above.surfaces, None, kept=True)

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        cells = mesh_shape(image.shape, self.box_size)
        cut: Pair = (tile[0] // self.box_size[0], tile[1] // self.box_size[1])
        return {
            path: ArraySpec(self.on_grid(path, cells, cells), dtype or image.dtype, self.on_grid(path, cut, cells))
            for path, dtype in self.makes().items()
        }

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [summary_file(self.name, index)] if self.summary else []

    @property
    def scratch(self) -> tuple[str, ...]:
        """See `Operation.scratch`."""
        return tuple(path for path in self.makes() if path.startswith(self.mesh.working("")))

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return len(self.scratch) < len(self.makes())

    def map_arrays(self) -> list[str]:
        """See `Operation.map_arrays`."""
        return [read.path for read in self.map_reads()]

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        cells = _StoredCells(task, self.box_size)
        made, (y0, y1, x0, x1) = self.work(cells), cells.region
        written = []
        for path, values in made.maps.items():
            (top, left), (bottom, right) = (self.on_grid(path, at, cells.shape) for at in ((y0, x0), (y1, x1)))
            written.append(task.write(path, Region(top, bottom, left, right), values))
        return TaskOutput([*written, *(task.write_parts(made.parts) if self.summary else [])])

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: windows are read one after the other, then worked on, then maps are written."""
        shape, tile = mesh_shape(sizes.shape, self.box_size), mesh_shape(sizes.tile_shape, self.box_size)
        halos = [(0, 0), *(read.halo for read in self.map_reads())]
        grown = [math.prod(min(t + 2 * h, n) for t, h, n in zip(tile, halo, shape, strict=True)) for halo in halos]
        phase = Phase(self.kind)
        for read, cells in zip(self.map_reads(), grown[1:], strict=True):
            phase.add(read.path.rpartition("/")[2], read.itemsize or sizes.size, "cells read", cells >> 2 * read.level)
        reading = phase.again("reading").add("while read", READ * 8, "cells read", max(grown))
        work = math.ceil(self.work_bytes(tile, shape, max(grown)))
        working = phase.again(self.kind).add("working", 1, "B", work)
        made = sum(sizes.size if dtype is None else np.dtype(dtype).itemsize for dtype in self.makes().values())
        working.add("maps", made + WRITE * 8, "cells", tile[0] * tile[1]).add("blocks", 1, "B", self.fixed_bytes)
        return [reading, working]


class CellNumbers(SummaryOperation):
    """Numbers of a whole mesh, from the summaries of the tiles of a `CellOperation`."""

    whole, shared = True, True
    #: Bytes that it takes at most, whatever the mesh.
    most_bytes: ClassVar[int] = 20 * MEGABYTE

    def __init__(self, mesh: MeshSource, source: str) -> None:
        self.mesh, self.step, self.source = mesh, mesh.name, source
        self.name = f"{mesh.name}-{self.kind}"

    @abstractmethod
    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """Merge the summaries of the tiles, exactly, in any order."""

    @abstractmethod
    def number(self, parts: Sequence[bytes]) -> Any:
        """Return the numbers that `combine` has put into bytes."""

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read(self.source, None)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        return TaskOutput(task.write_parts(self.combine(task.parts(self.source))))

    def load(self, task: Task) -> Any:
        """See `Operation.load`."""
        (parts,) = task.parts(self.name)
        return self.number(parts)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [Phase("merging").add("summaries", 1, "B", self.most_bytes)]


class _StoredCells:
    """A tile of a mesh in the store of a run."""

    def __init__(self, task: Task, box_size: Pair) -> None:
        self._task, self.image = task, task.shape
        self.region, self.shape = boxes_of(task.region, box_size), mesh_shape(task.shape, box_size)

    def window(self, read: MapRead) -> Patch:
        array = self._task.array(read.path)
        region = read.region(self.region, self.shape, array.shape[1])
        return Patch(np.asarray(array[region.slices]), region, array.shape)

    def number(self, operation: str) -> Any:
        return self._task.value(operation)
