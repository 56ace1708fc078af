"""The input: its planes copied into a store, where they are files."""

from __future__ import annotations

from collections.abc import Iterator

from tiledsky.geometry import Pair
from tiledsky.operations.base import ArraySpec, Image, Operation, Read, Task, TaskOutput
from tiledsky.operations.memory import MEGABYTE, READ, WRITE, Phase, Sizes

#: FITS pixels are converted a block at a time; those of a tile-compressed image are unpacked, too.
_FITS, _FITS_TILES = 12 * MEGABYTE, 50 * MEGABYTE


class Ingest(Operation):
    """Copies of the planes of the input."""

    kind = name = "ingest"

    def reads(self) -> Iterator[Read]:
        """Nothing of the store."""
        yield from ()

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        items = image.planes.items()
        return {name: ArraySpec(image.shape, dtype, tile, name == "source_mask") for name, dtype in items}

    def bytes_read(self, sizes: Sizes) -> int:
        """See `Operation.bytes_read`."""
        return sum(plane.itemsize for plane in sizes.planes.values())

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        return TaskOutput([task.write(name, task.region, pixels) for name, pixels in task.inputs(task.region)])

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: the planes, one after the other."""
        phases = []
        for name, plane in sizes.planes.items():
            copied = Phase("copying").add(name, plane.itemsize, "px", sizes.tile)
            block = Phase("reading").add(name, plane.itemsize, "px", sizes.tile)
            block.add("block of the file", 1, "B", 0 if plane.chunk else _FITS_TILES if plane.tiled else _FITS)
            block.add("chunks", READ * plane.itemsize, "px", sizes.tile if plane.chunk else 0)
            block.add("chunks unpacked", 4 * plane.itemsize, "px a chunk", plane.chunk)
            phases += [block, copied.add("shard written", WRITE * plane.itemsize, "px", sizes.tile)]
        return phases
