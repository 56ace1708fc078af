"""What a run will take, before it does anything: tasks, bytes, memory of a worker, room on the disk.

Integers that follow from recipe, shape, dtypes and tile; no pixel is read. A plan whose workers would not have the
memory is refused here, with what would fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tiledsky.engine.dependencies import halo_of
from tiledsky.engine.layout import Layout
from tiledsky.engine.memory import peak, sizes_of
from tiledsky.engine.plan import GATHER, INGEST, TILE, Plan, Stage, make_plan
from tiledsky.errors import PlanError
from tiledsky.geometry import Pair, inner_chunk
from tiledsky.io.source import Source
from tiledsky.nodata import number_text
from tiledsky.operations.base import INPUTS, ArraySpec, Operation
from tiledsky.operations.memory import MEGABYTE, Memory, Plane, Planes
from tiledsky.operations.stages import compiled_run
from tiledsky.plain import counted
from tiledsky.recipe import Recipe

#: Share of a worker's limit that a plan may fill: Dask ends a worker at 0.98 of it.
USABLE = 0.95
#: Tiles that are tried below the default are multiples of this, which boxes of 6, 10, 15, 20, 24, 30 and 40 divide.
_STEP = 240
#: A tile is not chosen smaller than this many times the largest halo: reading would be most of the work.
_HALOS = 2


@dataclass(frozen=True)
class StageReport:
    """What one stage takes. Bytes are those of the pixels, uncompressed; those read include the halos."""

    name: str
    kind: str
    tile: Pair
    counts: Pair
    tasks: int
    halo: Pair
    boxes: dict[str, Pair]
    chunk: Pair
    bytes_read: int
    bytes_written: int
    peak_memory: int
    terms: dict[str, int]
    formula: str


@dataclass(frozen=True)
class PlanReport:
    """What a run takes; sizes in bytes, uncompressed. Tiles are the shards of what they write, ``chunk`` its chunks."""

    recipe: str
    shape: Pair
    dtype: str
    tile_size: int
    workers: int
    threads: int
    memory_limit: int | None
    stages: tuple[StageReport, ...]
    tasks: int
    bytes_read: int
    bytes_written: int
    scratch_bytes: int
    output_bytes: int
    peak_memory: int
    peak_stage: str
    nodata: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def text(self) -> Iterator[str]:
        """Lines for a person."""
        ny, nx = self.shape
        yield f"{self.recipe} on {ny} x {nx} px (y, x), {self.dtype}; tiles near {self.tile_size} px"
        yield f"{'stage':22} {'tasks':>6} {'tile':>11} {'chunk':>9} {'halo':>5} {'read':>9} {'written':>9} {'peak':>8}"
        for s in self.stages:
            tile, chunk = (f"{a}x{b}" for a, b in (s.tile, s.chunk))
            tile, chunk = ("whole", "") if s.kind in GATHER else (tile, chunk)
            boxes = "".join(f"  {name} {by}x{bx}" for name, (by, bx) in s.boxes.items())
            sizes = f"{_size(s.bytes_read):>9} {_size(s.bytes_written):>9} {_size(s.peak_memory):>8}"
            yield f"{s.name:22} {s.tasks:6} {tile:>11} {chunk:>9} {max(s.halo):5} {sizes}{boxes}"
        worst = next(s for s in self.stages if s.name == self.peak_stage)
        if self.nodata is not None:
            yield f"no data        {number_text(self.nodata)}"
        yield f"tasks          {self.tasks}"
        yield f"read, written  {_size(self.bytes_read)}, {_size(self.bytes_written)} (uncompressed, halos included)"
        yield f"scratch        {_size(self.scratch_bytes)} (uncompressed), removed at the end"
        yield f"output         {_size(self.output_bytes)} (uncompressed)"
        yield f"peak           {_size(self.peak_memory)} a worker, in {worst.name}: {worst.formula}"
        if self.memory_limit is not None:
            limit = _size(self.memory_limit)
            workers, threads = counted(self.workers, "worker"), counted(self.threads, "thread")
            yield f"limit          {limit} a worker, {workers} of {threads}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def planes_of(source: Source) -> dict[str, Plane]:
    """What it takes to read the planes of an input; looks at headers alone."""
    planes = {}
    for name, plane in source.planes.items():
        planes[name] = Plane(np.dtype(plane.dtype).itemsize, plane.chunk_pixels, plane.is_tiled)
    return planes


def describe(
    recipe: Recipe,
    plan: Plan,
    source: Source,
    *,
    workers: int = 1,
    threads: int = 1,
    memory_limit: int | None = None,
) -> PlanReport:
    """What a run takes.

    Parameters
    ----------
    recipe : Recipe
        Expanded, as the plan's.
    plan : Plan
    source : Source
    workers, threads : int
        Processes, and tasks that each does at the same time.
    memory_limit : int, optional
        Bytes of a worker; only kept.

    Returns
    -------
    PlanReport
        Summaries that tiles hand to gather tasks are not counted: their size depends on the pixels.
    """
    planes = planes_of(source)
    layout = Layout(recipe, plan, {name: p.dtype for name, p in source.planes.items()})
    stages = tuple(_stage(recipe, plan, stage, planes, layout, threads) for stage in plan.stages)
    sizes = {path: math.prod(a.shape) * np.dtype(a.dtype).itemsize for path, a in layout.arrays.items()}
    scratch = sum(size for path, size in sizes.items() if path in layout.scratch)
    worst = max(stages, key=lambda s: s.peak_memory)
    return PlanReport(
        recipe=recipe.name,
        shape=plan.shape,
        dtype=plan.dtype,
        tile_size=plan.tile_size,
        workers=workers,
        threads=threads,
        memory_limit=memory_limit,
        stages=stages,
        tasks=sum(s.tasks for s in stages),
        bytes_read=sum(s.bytes_read for s in stages),
        bytes_written=sum(s.bytes_written for s in stages),
        scratch_bytes=scratch,
        output_bytes=sum(sizes.values()) - scratch,
        peak_memory=worst.peak_memory,
        peak_stage=worst.name,
        nodata=source.planes["science"].nodata,
    )


def _stage(recipe: Recipe, plan: Plan, stage: Stage, planes: Planes, layout: Layout, threads: int) -> StageReport:
    grid, operation = plan.grid(stage), layout.operations[stage.name]
    regions = [grid.region(index).grown(operation.halo, plan.shape) for index in grid]
    pixels = sum(math.prod(region.shape) for region in regions)
    memory = peak(recipe, plan, stage, planes, threads=threads)
    return StageReport(
        name=stage.name,
        kind=stage.kind,
        tile=stage.tile,
        counts=grid.counts,
        tasks=len(grid),
        halo=operation.halo,
        boxes=operation.box_sizes(),
        chunk=(inner_chunk(stage.tile[0]), inner_chunk(stage.tile[1])),
        bytes_read=pixels * _bytes_a_pixel(operation, plan, stage, planes, layout) + _whole_bytes(operation, layout),
        bytes_written=sum(map(_bytes, layout.of_stage(stage).values())),
        peak_memory=memory.bytes,
        terms=memory.terms,
        formula=memory.formula,
    )


def _bytes(spec: ArraySpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _bytes_a_pixel(operation: Operation, plan: Plan, stage: Stage, planes: Planes, layout: Layout) -> int:
    """Bytes of all planes that a task of a stage reads."""
    sizes = sizes_of(operation, plan, stage, planes)
    if operation.whole:
        return 0
    if (known := operation.bytes_read(sizes)) is not None:
        return known
    total = 0
    for node in layout.operations.pixel_nodes(operation):
        if node == "base":
            total += sum(plane.itemsize for name, plane in planes.items() if name != "science")
        elif node in INPUTS:
            total += planes[node].itemsize if node in planes else 0
        else:
            total += layout.operations.planes[node].dtype(np.dtype(plan.dtype)).itemsize
    return total


def _whole_bytes(operation: Operation, layout: Layout) -> int:
    """Bytes of the maps of meshes that a stage reads, each map once (tiles read a little of their neighbours' too)."""
    return sum(_bytes(layout.arrays[path]) for path in layout.operations.map_reads(operation))


def fits(memory: Memory, memory_limit: int) -> bool:
    """Whether a worker with this limit has the memory."""
    return memory.bytes <= USABLE * memory_limit


def fitting_tile(
    recipe: Recipe, plan: Plan, planes: Planes, *, memory_limit: int, threads: int = 1, largest: int = TILE
) -> int | None:
    """Largest tile size with which every tile stage of a plan fits a worker; None if there is none.

    Parameters
    ----------
    recipe : Recipe
        Expanded, as the plan's.
    plan : Plan
        Any of the image: its tile size does not matter.
    planes : mapping of str to Plane
    memory_limit : int
        Bytes of a worker.
    threads : int
    largest : int
        Where to begin. Default: the tile of plans that are not short of memory; larger ones save less than a tenth of
        the work on halos, and cost memory in proportion.

    Returns
    -------
    int or None
        A multiple of 240 px, at least twice the largest halo of the recipe: with less, halos are most of what is read.
    """
    ingest = any(stage.name == INGEST for stage in plan.stages)
    operations = compiled_run(recipe)
    of_pixels = [s for s in plan.stages if operations[s.name].tile(plan.shape, plan.tile_size) is None]
    smallest = max(_HALOS * max(max(halo_of(recipe, stage)) for stage in of_pixels), 1)
    for tile in range(largest // _STEP * _STEP, smallest - 1, -_STEP):
        tried = make_plan(recipe, plan.shape, plan.dtype, tile_size=tile, ingest=ingest)
        if all(fits(peak(recipe, tried, s, planes, threads=threads), memory_limit) for s in _tile_stages(tried)):
            return tile
    return None


def _tile_stages(plan: Plan) -> list[Stage]:
    return [stage for stage in plan.stages if stage.kind not in GATHER]


def fitted_plan(recipe: Recipe, plan: Plan, planes: Planes, *, memory_limit: int, threads: int = 1) -> Plan:
    """Return the plan, or one with smaller tiles if its own would not fit; for plans whose tile nobody asked for."""
    if all(fits(peak(recipe, plan, s, planes, threads=threads), memory_limit) for s in _tile_stages(plan)):
        return plan
    tile = fitting_tile(recipe, plan, planes, memory_limit=memory_limit, threads=threads)
    if tile is None:
        return plan  # refused by `check_fits`, which says what would fit
    ingest = any(stage.name == INGEST for stage in plan.stages)
    return make_plan(recipe, plan.shape, plan.dtype, tile_size=tile, ingest=ingest)


def check_fits(recipe: Recipe, plan: Plan, planes: Planes, *, memory_limit: int, threads: int = 1) -> None:
    """Refuse a plan whose workers would not have the memory.

    Raises
    ------
    PlanError
        Names the stage that needs most, and what would fit: the largest tile, or for a mesh the smallest box; the
        memory limit in any case.
    """
    peaks = {stage: peak(recipe, plan, stage, planes, threads=threads) for stage in plan.stages}
    over = [stage for stage, memory in peaks.items() if not fits(memory, memory_limit)]
    if not over:
        return
    stage = max(over, key=lambda s: peaks[s].bytes)
    needs = (
        f"stage {stage.name} needs {peaks[stage].bytes // MEGABYTE} MB a worker ({peaks[stage].formula}), and "
        f"{USABLE:.0%} of a memory limit of {memory_limit // MEGABYTE} MB is less"
    )
    # with what is named everything is to fit, not this stage alone
    wanted = -(-max(memory.bytes for memory in peaks.values()) // int(USABLE * MEGABYTE))
    limit = f"--memory-limit {wanted}MB"
    tile = fitting_tile(recipe, plan, planes, memory_limit=memory_limit, threads=threads)
    if tile is not None and all(s.kind not in GATHER for s in over):
        raise PlanError(f"{needs}; use --tile-size {tile}, or {limit}")
    fewer = " or fewer threads" if threads > 1 else ""
    raise PlanError(f"{needs}, and smaller tiles are not enough; use {limit}{fewer}")
