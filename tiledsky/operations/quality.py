"""The measures of a result: what the output tells of each tile, and the operation that puts all tiles together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics import blocks, negative
from tiledsky.diagnostics.arrays import expected_noise
from tiledsky.diagnostics.band import Pixels
from tiledsky.diagnostics.blocks import BLOCK
from tiledsky.diagnostics.negative import APERTURE, APERTURES
from tiledsky.diagnostics.object_boxes import BOX, box_side
from tiledsky.diagnostics.patches import patch_size
from tiledsky.diagnostics.protocol import ImageFacts
from tiledsky.diagnostics.seams import DEEP, LINE, LINES, MOST_ROWS
from tiledsky.diagnostics.summary import N_COLUMNS, Collector, TileSummary, summarise
from tiledsky.diagnostics.verdict import judge
from tiledsky.diagnostics.windows import Taken
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.box_columns import COLUMNS
from tiledsky.kernels.residual.cell_sums import CELL, KEPT
from tiledsky.operations.base import Operation, Read, Task, TaskOutput, catalogue_of
from tiledsky.operations.injection import LEFT_OUT, Injection
from tiledsky.operations.memory import Phase, Sizes
from tiledsky.operations.passes import HISTOGRAM
from tiledsky.overlap import Patch
from tiledsky.recipe import ObjectsStep, Recipe

#: File of the run folder with all measures and the verdict.
DIAGNOSTICS = "diagnostics.json"
#: Rows of pixels that are measured at a time with their halo, and bytes of each pixel beside the planes.
_BAND, _BAND_PIXEL = 4 * CELL + 128, 48
#: Lists of blocks and apertures while they are cut, sorted or looked through: so many times as much again.
_SORTED = 3
#: Of boxes that objects are looked for in: bytes that tiles say of a cell, at most; bytes of a box added up, and while
#: objects are looked for; and what that takes beside.
_BOX_CELL, _BOX_SUM, _BOX_SEARCH, _SEARCH = 2 * 64 * BOX.itemsize, 8 * COLUMNS, 330, 4_000_000


def summarise_tile(task: Task, bits: Patch, planes: dict[str, NDArray[Any]], outside: Any) -> list[str]:
    """Measure a tile of the output and write its summary.

    ``bits``: mask plane of the result; ``planes``: science, background and background_rms of the same region;
    ``outside``: pixels of the tile without sky, or None.
    """
    noise = {name: task.patch(name, bits.region) for name in ("weight", "error")}
    pixels = Pixels(
        science=planes["science"],
        background=planes["background"],
        rms=planes["background_rms"],
        bits=bits.data,
        region=bits.region,
        shape=task.shape,
        expected=expected_noise(**{name: None if p is None else p.data for name, p in noise.items()}),
    )
    written = planes["background"][task.region.within(bits.region)]
    if outside is not None:
        written = np.where(outside, np.nan, written)
    return task.write_parts(summarise(pixels, task.region, written).to_parts())


def measuring(phase: Phase, sizes: Sizes) -> Phase:
    """Add the memory of measuring a tile, beside the planes."""
    phase.add("mask", 1, "px read", sizes.read)
    noise = max((plane.itemsize for name, plane in sizes.planes.items() if name in ("weight", "error")), default=0)
    phase.add("noise planes", 3 * noise, "px read", sizes.read)
    band = min(_BAND, sizes.read_shape[0]) * sizes.read_shape[1]
    phase.add("band", _BAND_PIXEL + 4 * sizes.size, "px of a band", band)
    cells = math.prod(-(-t // CELL) + 1 for t in sizes.stage_tile)
    return _sums(phase.add("boxes", _BOX_CELL, "cells", cells), 3, "cells", cells)


def _sums(phase: Phase, times: int, unit: str, count: int) -> Phase:
    return phase.add("sums", 8 * N_COLUMNS * times, unit, count)


class Diagnostics(Operation):
    """All tiles together: measures and verdict."""

    kind = name = "diagnostics"
    whole = True

    def __init__(self, recipe: Recipe, injection: Injection | None = None) -> None:
        self.recipe, self.injection = recipe, injection
        self.objects = next((step.name for step in recipe.steps if isinstance(step, ObjectsStep)), None)

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read("output", None)
        if self.injection is not None:
            yield Read(self.injection.name, None)
        if self.objects is not None:
            yield Read(catalogue_of(self.objects), None)

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [DIAGNOSTICS]

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        collector = Collector(task.shape)
        for tile, parts in task.tiles("output"):
            collector.add(tile, TileSummary.from_parts(parts))
        source = next((name for name in ("error", "weight") if task.has(name)), None)
        found = collector.finalize(
            ImageFacts(
                task.tile_of("output"),
                source=source,
                to_sky=task.to_sky(),
                unit=task.unit(),
                taken=Taken(reason=LEFT_OUT) if self.injection is None else self.injection.taken(task),
                objects=None if self.objects is None else task.objects_of(self.objects),
            )
        )
        return TaskOutput(task.write_facts(DIAGNOSTICS, {**found, "verdict": judge(found, self.recipe.checks)}))

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: sums and lists have a size that is fixed; of the tiles one is held, and rims."""
        shape, side = sizes.shape, patch_size(sizes.shape)
        patches = math.prod(-(-n // side) for n in shape)
        lines = min(MOST_ROWS, LINES * sizes.tasks("output"))
        listed = (
            (BLOCK.itemsize, "blocks", min(blocks.MOST, math.prod(-(-n // KEPT) for n in shape))),
            (APERTURE.itemsize, "apertures", min(negative.MOST, APERTURES * math.prod(-(-n // CELL) for n in shape))),
            (8 * LINE, "lines", 2 * lines),
        )
        held = _sums(Phase("adding up"), 1, "patches", patches).add("histograms", 1, "B", 2 * HISTOGRAM)
        held.add("rims", 2 * DEEP * 8, "px of a row", shape[1])
        boxes = math.prod(-(-n // box_side(shape)) for n in shape)
        held.add("boxes", _BOX_SUM, "boxes", boxes)
        for size, what, count in listed:
            held.add(what, size, what, count)
        adding, errors, objects = (held.again(name) for name in ("adding up", "errors", "objects"))
        rows, columns = (min(t, n) // CELL + 2 for t, n in zip(sizes.tiles["output"], shape, strict=True))
        _sums(adding, 3, "cells of a tile", rows * (columns + side // CELL))
        for size, what, count in listed[:2]:
            adding.add(f"{what} sorted", _SORTED * size, what, count)
        _sums(errors, 2, "patches", patches).add("lines left out", 4 * 8 * LINE, "lines", lines)
        objects.add("search", _BOX_SEARCH, "boxes", boxes).add("search", 1, "B", _SEARCH)
        return [adding, errors, objects]
