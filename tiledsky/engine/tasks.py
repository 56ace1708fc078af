"""What one task does: read tile and halo from the store, run the kernels, write whole objects, return what was written.

Functions here are called in the driver's process or on a worker; they know neither Dask nor the other tiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.cluster import process_memory
from tiledsky.engine import mesh_tasks, quality_tasks, sky_tasks
from tiledsky.engine.context import Context, Index, context
from tiledsky.engine.names import output_planes
from tiledsky.engine.overviews import OverviewWriter
from tiledsky.engine.plan import Stage
from tiledsky.geometry import Region
from tiledsky.io.address import is_address
from tiledsky.io.files import make_way
from tiledsky.io.store import zarr_threads
from tiledsky.io.zarr.reader import read_plane
from tiledsky.recipe import BackgroundStep


def execute(root: str, run_id: str, stage_name: str, index: Index, threads: int = 1) -> dict[str, Any]:
    """Do one task, or nothing if its marker is valid; return the marker.

    Idempotent: may be called again, by anyone, at any time.

    The marker says what the task took: seconds; ``task_peak``, the most memory that the process held during the task
    (with several threads also that of the tasks beside it; None where the system does not tell); ``peak_memory``, the
    most it ever held; and ``status``: "all-masked" for an output tile whose pixels all have mask bits, else "done".
    """
    ctx = context(root, run_id)
    stage = ctx.stages[stage_name]
    if (done := ctx.markers.read(stage.name, index)) is not None:
        return done
    started, cpu, alone = time.perf_counter(), time.process_time(), process_memory.reset(stage_name)
    if not is_address(ctx.root):
        # Nothing that may be somebody's work is removed: another attempt may commit this task at any moment from here
        # on, and this one then writes the same bytes.
        ctx.markers.remove(stage.name, index)
        make_way(ctx.root, ctx.owned(stage, index))
    with zarr_threads(threads):
        region = ctx.plan.grid(stage).region(index)
        made = _TASKS[stage.kind](ctx, stage, index, region)
        objects, masked = made if isinstance(made, tuple) else (made, False)
    return ctx.markers.write(
        stage.name,
        index,
        objects=objects,
        status="all-masked" if masked else "done",
        seconds=round(time.perf_counter() - started, 3),
        cpu_seconds=round(time.process_time() - cpu, 3),
        task_peak=process_memory.task_peak() if alone else None,
        peak_memory=process_memory.process_peak(),
    )


def _ingest(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    return [ctx.write(name, tile, plane.read(tile)) for name, plane in ctx.source.items()]


def _output(ctx: Context, stage: Stage, index: Index, tile: Region) -> tuple[list[str], bool]:
    """Write the planes of a tile and measure it.

    Returns
    -------
    list of str
        Paths of what was written.
    bool
        Whether no pixel of the tile was left for the sky: all of it is interpolated, or has no data.
    """
    region = quality_tasks.region_of(ctx, tile)
    science = ctx.science(region)
    base = ctx.base(science)
    outside, fill_value = ctx.uncovered(base.cropped(tile)), float(ctx.recipe.fill_value)
    bits = base if ctx.recipe.result_mask is None else base.replaced(read_plane(ctx.array("mask"), region))
    overviews = OverviewWriter(ctx, stage, bits.cropped(tile))
    written, measured = overviews.write("science", science.crop(tile)), {"science": science.data}

    def write(name: str, pixels: NDArray[Any]) -> None:
        if outside is not None:
            pixels[outside] = fill_value
        written.extend((ctx.write(name, tile, pixels), *overviews.write(name, pixels)))

    for name, origin in output_planes(ctx.recipe).items():
        if origin is not None:
            step = ctx.recipe.step(origin[0])
            assert isinstance(step, BackgroundStep)
            pixels = ctx.pixels(step, origin[1], region if name in _MEASURED else tile)
            if name in _MEASURED:
                measured[name] = pixels
                pixels = pixels[tile.within(region)]
            if name == "background":
                write("subtracted", science.crop(tile) - pixels)
            write(name, pixels.copy() if name in _MEASURED and outside is not None else pixels)
        elif name == "mask":
            written.append(ctx.write(name, tile, base.crop(tile)))
    written += quality_tasks.summary_task(ctx, index, tile, bits, measured, outside)
    return written, bool(np.all(bits.crop(tile)))


#: Planes that the tests of the background need, with their halo.
_MEASURED = ("background", "background_rms")

#: Return the paths of what they wrote; that of the output also whether all pixels of its tile are masked.
_TASKS: dict[str, Callable[[Context, Stage, Index, Region], list[str] | tuple[list[str], bool]]] = {
    "ingest": _ingest,
    "histogram": sky_tasks.histogram_task,
    "bins": sky_tasks.bins_task,
    "refine": sky_tasks.refine_task,
    "centers": sky_tasks.centers_task,
    "biweight": sky_tasks.biweight_task,
    "detections": sky_tasks.detections_task,
    "statistics": sky_tasks.statistics_task,
    "ring": sky_tasks.ring_task,
    "mask": sky_tasks.mask_task,
    "boxes": mesh_tasks.boxes_task,
    "mesh": mesh_tasks.mesh_task,
    "output": _output,
    "diagnostics": quality_tasks.diagnostics_task,
}
