"""One task on a store: read tile and halo, run the operation, write whole objects, return what was written.

Functions here are called in the driver's process or on a worker; they know neither Dask nor the other tiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.cluster import process_memory
from tiledsky.engine.context import Context, Index, context
from tiledsky.engine.documents import read_footprints, read_objects, read_range, read_tiers
from tiledsky.engine.plan import Stage
from tiledsky.geometry import Pair, Region
from tiledsky.io.fits.cards import label_value
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.fits.wcs import sky_of
from tiledsky.io.store import RUN_FOLDER, summary_path, write_json, zarr_threads
from tiledsky.io.summaries import read_part, read_summary, write_summary
from tiledsky.io.zarr.reader import read_plane
from tiledsky.operations.base import Operation, TaskOutput
from tiledsky.overlap import Patch


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
    # Nothing that may be somebody's work is removed: another attempt may commit this task at any moment from here on,
    # and this one then writes the same bytes.
    ctx.root.make_way(ctx.markers.name(stage.name, index), *ctx.owned(stage, index))
    with zarr_threads(threads):
        written = perform(ctx.operations[stage.name], StoreTask(ctx, stage, index))
    return ctx.markers.write(
        stage.name,
        index,
        objects=written.paths,
        status="all-masked" if written.all_masked else "done",
        seconds=round(time.perf_counter() - started, 3),
        cpu_seconds=round(time.process_time() - cpu, 3),
        task_peak=process_memory.task_peak() if alone else None,
        peak_memory=process_memory.process_peak(),
    )


def perform(operation: Operation, task: StoreTask) -> TaskOutput:
    """Do the work of a task."""
    return operation.run(task)


class StoreTask:
    """A task of an operation on the store of a run; see `tiledsky.operations.base.Task`."""

    def __init__(self, ctx: Context, stage: Stage, index: Index) -> None:
        self.ctx, self.stage, self.index = ctx, stage, index
        self.recipe, self.shape, self.dtype = ctx.recipe, ctx.plan.shape, ctx.plan.dtype
        self.region = ctx.plan.grid(stage).region(index)
        self._science: Patch | None = None

    def has(self, plane: str) -> bool:
        """Whether the input has a plane."""
        return plane in self.ctx.input

    def patch(self, node: str, region: Region) -> Patch | None:
        """Pixels of a plane; None of a plane that the input has not."""
        if node == "science":
            return self._image(region)
        if node == "base":
            return self.ctx.base(self._image(region))
        maker = self.ctx.operations.planes.get(node)
        if maker is None:
            return self.ctx.plane(node, region)
        if not maker.stored:
            return maker.patch(self, region)
        return self.ctx.patch(read_plane(self.ctx.array(maker.plane), region), region)

    def _image(self, region: Region) -> Patch:
        """Pixels of the image, which are read once."""
        if self._science is None or not self._science.region.contains(region):
            self._science = self.ctx.science(region)
        return self._science.cropped(region)

    def value(self, node: str) -> Any:
        """A value of the whole image."""
        if node in self.ctx.values:
            return self.ctx.values[node]
        operation = self.ctx.operations[node]
        value = operation.load(self)
        if operation.shared:
            self.ctx.values[node] = value
        return value

    def array(self, path: str) -> Any:
        """An array of the store, not read yet."""
        return self.ctx.array(path)

    def inputs(self, region: Region) -> Iterator[tuple[str, NDArray[Any]]]:
        """Pixels of the planes of the input as its files have them, one plane after the other."""
        return ((name, plane.read(region)) for name, plane in self.ctx.source.items())

    def outside(self, base: Patch) -> NDArray[np.bool_] | None:
        """Where the result has the recipe's fill value; None: nowhere."""
        return self.ctx.uncovered(base)

    def header(self) -> Any:
        """FITS header of the image."""
        return parse_header(self.ctx.store.header)

    def to_sky(self) -> Callable[[Any, Any], tuple[Any, Any]] | None:
        """See `tiledsky.operations.base.Task.to_sky`."""
        return sky_of(self.header())

    def unit(self) -> str | None:
        """Unit of the image, if its header has one."""
        return label_value(self.header(), "BUNIT") or None

    def tile_of(self, operation: str) -> Pair:
        """Size of the tiles of an operation."""
        return self.ctx.stages[operation].tile

    def write(self, path: str, region: Region, data: NDArray[Any]) -> str:
        """Write one whole object of an array; return its path."""
        return self.ctx.write(path, region, data)

    def write_facts(self, name: str, facts: Any) -> list[str]:
        """Write a document of the run; return its path."""
        write_json(self.ctx.root, name, facts)
        return [f"{RUN_FOLDER}/{name}"]

    def tiers(self, step: str) -> list[dict[str, Any]]:
        """Checked document with statistics and thresholds of a step."""
        return read_tiers(self.ctx.root, step)

    def objects_of(self, step: str) -> NDArray[np.void]:
        """Checked catalogue of the objects of a step."""
        return read_objects(self.ctx.root, step)

    def footprints_of(self, step: str) -> NDArray[np.void]:
        """Checked constants of the footprints of a step."""
        return read_footprints(self.ctx.root, step)

    def range_of(self, step: str, part: str) -> tuple[float, float]:
        """Checked range of the values of a map of a mesh."""
        return read_range(self.ctx.root, step, part)

    def write_parts(self, parts: Sequence[bytes]) -> list[str]:
        """Write the summary of the task; return its path."""
        path = summary_path(self.stage.name, self.index)
        write_summary(self.ctx.root, path, parts)
        return [path]

    def parts(self, operation: str) -> Iterator[list[bytes]]:
        """Summaries of an operation, in row order."""
        return (read_summary(self.ctx.root, path) for path in self._summaries(operation))

    def part(self, operation: str, which: int, region: Region | None = None) -> Iterator[bytes]:
        """One part of the summaries: of the tiles within a region, or of all tiles, maybe merged in blocks."""
        return (read_part(self.ctx.root, path, which) for path in self._summaries(operation, region))

    def _summaries(self, operation: str, region: Region | None = None) -> Iterator[str]:
        """Files with the summaries of the tiles of an operation, or of their blocks."""
        name = operation if region is not None else self.ctx.plan.merged.get(operation, operation)
        grid = self.ctx.plan.grid(self.ctx.stages[name])
        return (summary_path(name, index) for index in (grid if region is None else grid.within(region)))

    def tiles(self, operation: str) -> Iterator[tuple[Region, list[bytes]]]:
        """Summaries of all tiles of an operation, each with its region."""
        grid = self.ctx.plan.grid(self.ctx.stages[operation])
        return ((grid.region(i), read_summary(self.ctx.root, summary_path(operation, i))) for i in grid)
