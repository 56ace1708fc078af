"""Footprints steps: the constants of the exposures that a mosaic is made of, and the image without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, TileGrid
from tiledsky.kernels.footprints.blocks import LARGEST
from tiledsky.kernels.footprints.sets import offsets, sets_of
from tiledsky.kernels.footprints.sums import FootprintSums
from tiledsky.kernels.footprints.terms import MOST, footprint_terms, to_rows
from tiledsky.operations.base import (
    Arrays,
    Operation,
    PixelBytes,
    PixelOperation,
    Read,
    SummaryOperation,
    Task,
    TaskOutput,
    bits_of,
    footprint_offsets,
    without_footprints,
)
from tiledsky.operations.memory import MEGABYTE, Phase, Sizes
from tiledsky.operations.merging import MergedSummaries, Summarised
from tiledsky.overlap import Patch, align, call, is_dask_array
from tiledsky.recipe import FOOTPRINTS, FootprintsStep, Recipe

#: Tiles of arrays in memory, pixels a side; rows of pixels whose constants are looked up at once.
_TILE, _ROWS = 8 * LARGEST, 64
#: Bytes a pixel while the sets of a tile are found and added up; of the sums of a tile, at most likely.
_WORK, _SUMS = 52, 8 * MEGABYTE
#: Bytes for each pair of footprints while the terms are solved: three matrices.
_MATRICES = 24


class FootprintBlocks(SummaryOperation, Summarised):
    """Sums over the blocks of a tile that edges of footprints cross."""

    kind = "footprint-blocks"

    def __init__(self, recipe: Recipe, step: FootprintsStep) -> None:
        self.step, self.name, self.bits = step.name, f"{step.name}-blocks", bits_of(recipe, step)

    def boxes(self) -> list[Pair]:
        """See `Operation.boxes`."""
        return [(LARGEST, LARGEST)]

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from (Read("science"), Read(self.bits), *map(Read, FOOTPRINTS))

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        image, bits = task.patch("science", task.region), task.patch(self.bits, task.region)
        assert image is not None
        assert bits is not None
        patches = (task.patch(name, task.region) for name in FOOTPRINTS)
        planes = [None if patch is None else patch.data for patch in patches]
        corner = task.region.y0, task.region.x0
        return TaskOutput(task.write_parts([tile_sums(image.data, bits.data, planes, corner=corner).to_bytes()]))

    def merge(self, parts: Callable[[int], Iterator[bytes]]) -> list[bytes]:
        """See `Summarised.merge`."""
        return [FootprintSums.merged(map(FootprintSums.from_bytes, parts(0))).to_bytes()]

    def merging(self, phase: Phase, sizes: Sizes, count: int) -> Phase:
        """See `Summarised.merging`: sums of one tile after the other are added to those that are there."""
        return phase.add("sums", 4, "B", _SUMS)

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        image, bits = arrays.plane("science"), arrays.plane(self.bits)
        planes = [arrays.plane(name) for name in FOOTPRINTS]
        found: list[Any] = []
        if is_dask_array(image):
            image = align(image, (LARGEST, LARGEST))
            chunks = image.chunks
            bits = bits.rechunk(chunks)
            planes = [None if plane is None else plane.rechunk(chunks) for plane in planes]
            starts = [np.cumsum((0, *sizes)).tolist() for sizes in chunks]
            for iy in range(len(chunks[0])):
                for ix in range(len(chunks[1])):
                    own = [None if plane is None else plane.blocks[iy, ix] for plane in planes]
                    corner = starts[0][iy], starts[1][ix]
                    found.append(call(tile_sums, image.blocks[iy, ix], bits.blocks[iy, ix], own, corner=corner))
        else:
            grid = TileGrid(image.shape, (_TILE, _TILE))
            for region in map(grid.region, grid):
                own = [None if plane is None else plane[region.slices] for plane in planes]
                corner = region.y0, region.x0
                found.append(tile_sums(image[region.slices], bits[region.slices], own, corner=corner))
        arrays.values[self.name] = found

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        return PixelBytes(_WORK * min(_TILE**2 / math.prod(shape), 1.0), 0)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        summed = Phase("blocks").add("image, bits", sizes.size + 1, "px", sizes.tile)
        summed.add("footprints", _of_planes(sizes), "px", sizes.tile).add("sets and values", _WORK, "px", sizes.tile)
        return [*sizes.inputs(), summed.add("sums", 4, "B", _SUMS)]


class FootprintTerms(Operation):
    """The constants of all footprints, kept."""

    kind, whole, shared = "footprints", True, True

    def __init__(self, blocks: FootprintBlocks) -> None:
        self.step, self.name, self.source = blocks.step, f"{blocks.step}-terms", blocks.name

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read(self.source, None)

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [f"footprints/{self.step}.json"]

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        table = _terms(map(FootprintSums.from_bytes, task.part(self.source, 0)))
        return TaskOutput(task.write_facts(f"footprints/{self.step}.json", to_rows(table)))

    def load(self, task: Task) -> NDArray[np.void]:
        """See `Operation.load`."""
        return task.footprints_of(str(self.step))

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        arrays.values[self.name] = call(_terms, arrays.values[self.source])

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        bits = [8 * plane.itemsize for name, plane in sizes.planes.items() if name in FOOTPRINTS[1:]]
        solved = Phase("terms").add("sums", 8, "B", _SUMS)
        return [solved.add("matrices", _MATRICES, "B", min(sum(bits) or MOST, MOST) ** 2)]


class FootprintOffsets(PixelOperation):
    """The mean of the constants of a pixel's footprints, made where it is read."""

    kind, stored = "footprint-offsets", False

    def __init__(self, terms: FootprintTerms) -> None:
        self.step, self.terms = terms.step, terms.name
        self.output, self.name = footprint_offsets(str(self.step)), f"{self.step}-offsets"

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return [Read("science"), *map(Read, FOOTPRINTS)]

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"table": self.terms}

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_looked_up, subtract=False)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return image

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        looked = Phase("offsets").add("footprints", _of_planes(sizes), "px read", sizes.read)
        return [*sizes.inputs(), looked.add("image, offsets", 2 * sizes.size, "px read", sizes.read)]


class WithoutFootprints(FootprintOffsets):
    """The image minus these, made where it is read."""

    kind = "footprint-science"

    def __init__(self, terms: FootprintTerms) -> None:
        super().__init__(terms)
        self.output, self.name = without_footprints(str(self.step)), f"{self.step}-science"

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_looked_up, subtract=True)


def _of_planes(sizes: Sizes) -> int:
    return sum(plane.itemsize for name, plane in sizes.planes.items() if name in FOOTPRINTS)


def _given(planes: Sequence[Any]) -> tuple[list[NDArray[Any]], bool]:
    """Planes of footprints, and whether they are labels (the first of the names)."""
    return [plane for plane in planes if plane is not None], planes[0] is not None


def tile_sums(
    image: NDArray[Any], bits: NDArray[np.uint8], planes: Sequence[NDArray[Any] | None], *, corner: Pair
) -> FootprintSums:
    """Return the sums of the blocks of a tile that begins at ``corner``; ``planes`` in the order of `FOOTPRINTS`."""
    given, labels = _given(planes)
    return FootprintSums.of_tile(image, bits != 0, *sets_of(given, labels=labels), corner)


def _terms(sums: Any) -> NDArray[np.void]:
    return footprint_terms(FootprintSums.merged(sums))


def _looked_up(image: Patch, *planes: Patch | None, table: NDArray[np.void], subtract: bool) -> Patch:
    """Constants of the pixels of a patch, or the image without them: some rows at a time, which takes less memory."""
    given, labels = _given([None if patch is None else patch.data for patch in planes])
    terms = dict(zip(table["number"].tolist(), table["term"].tolist(), strict=True))
    result = np.empty_like(image.data)
    for y in range(0, result.shape[0], _ROWS):
        rows = slice(y, y + _ROWS)
        found = offsets(*sets_of([plane[rows] for plane in given], labels=labels), terms)
        result[rows] = image.data[rows] - found if subtract else found
    return image.replaced(result)


def footprints_operations(recipe: Recipe, step: FootprintsStep, before: Sequence[Operation]) -> list[Operation]:
    """Operations of a footprints step."""
    blocks = FootprintBlocks(recipe, step)
    terms = FootprintTerms(blocks)
    return [blocks, MergedSummaries(blocks), terms, FootprintOffsets(terms), WithoutFootprints(terms)]
