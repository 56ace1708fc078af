"""Runs: check and plan, do what is not done, say what it took."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack, cast

from tiledsky.cluster.local import worker_limits
from tiledsky.cluster.versions import versions
from tiledsky.cluster.workers import check_client, check_workers
from tiledsky.containers import float_dtype
from tiledsky.engine.driver import Progress, TaskTotals, drive
from tiledsky.engine.executors import Options
from tiledsky.engine.forecast import check_fits, describe, fitted_plan, planes_of
from tiledsky.engine.inputs import check_planes, open_input, warn_of_constants
from tiledsky.engine.limits import TASK_TIMEOUT
from tiledsky.engine.plan import Plan, identity, make_plan
from tiledsky.engine.result import Run, open_run
from tiledsky.engine.run_store import RunStore, stored_plan
from tiledsky.engine.verify import Checker, is_whole
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.fits.wcs import for_image
from tiledsky.io.folders import folder_at
from tiledsky.io.options import InputOptions
from tiledsky.io.regions import RegionPlane
from tiledsky.io.source import Source
from tiledsky.io.store import write_json
from tiledsky.io.targets import check_store_name
from tiledsky.nodata import number_text
from tiledsky.recipe import Recipe, preset_names

__all__ = ["PreparedRun", "Progress", "prepare", "run"]


def run(
    source: str | os.PathLike[str],
    recipe: Recipe | str,
    out: str | os.PathLike[str],
    *,
    client: Any = None,
    tile_size: int | None = None,
    restart: bool = False,
    task_timeout: float | None = TASK_TIMEOUT,
    progress: Callable[[Progress], None] | None = None,
    **inputs: Unpack[InputOptions],
) -> Run:
    """Run a recipe on a FITS file or Zarr store of any size; called again, go on where it ended.

    Parameters
    ----------
    source : path
        FITS file or Zarr store; see `tiledsky.io.source.open_source`.
    recipe : Recipe or str
        A recipe, the name of a preset, or the path of a TOML file.
    out : path
        Folder of the run store.
    client : distributed.Client, optional
        Runs the tasks on its workers, which must see the same paths. Default: one after the other in this process.
    tile_size : int, optional
        See `tiledsky.engine.plan.make_plan`. The result does not depend on it. Default: smaller where the workers of
        ``client`` have a memory limit that needs it.
    restart : bool
        Throw away what an earlier run left in ``out``.
    task_timeout : float, optional
        Seconds after which the worker of a task is killed, to be done once more; None: never. A task in this process is
        not timed.
    progress : callable, optional
        Called with a `Progress` after every task.
    **inputs
        ``hdu``, ``checksum`` and the planes beside the image: `tiledsky.io.source.InputOptions`.

    Returns
    -------
    Run

    Warns
    -----
    DeprecationWarning
        Recipe and source in the order of old: recipe first.

    Raises
    ------
    ParameterError, InputError
        Before anything is written; also of a client that is closed, asynchronous or none.
    PlanError
        The workers do not have the memory (`tiledsky.engine.forecast.check_fits`); also before anything is written.
    RunError
        Workers or scheduler do not have this version of tiledsky; ``out`` holds a run of another recipe, input, plan or
        code; or tasks failed: the others are done and kept, and
        what is known of those that failed is in ``out/run/failed``.
    """
    if _names_recipe(source) and not _names_recipe(recipe):
        warnings.warn(
            "tiledsky.run takes the image first, as estimate_background does: run(source, recipe, out)",
            DeprecationWarning,
            stacklevel=2,
        )
        source, recipe = cast(Any, recipe), cast(Any, source)
    check_client(client)
    limit, threads = worker_limits(client)
    prepared = prepare(recipe, source, out, tile_size=tile_size, memory_limit=limit, threads=threads, **inputs)
    return prepared.execute(client=client, restart=restart, task_timeout=task_timeout, progress=progress)


def _names_recipe(value: Any) -> bool:
    """Whether a value is a recipe, the name of a preset, or the path of a recipe file."""
    if isinstance(value, str | os.PathLike):
        return str(value) in preset_names() or str(value).endswith(".toml")
    return isinstance(value, Recipe)


class PreparedRun(RunStore):
    """A run that was checked and planned; nothing is written yet."""

    def execute(
        self,
        *,
        client: Any = None,
        restart: bool = False,
        verify: str = "sizes",
        task_timeout: float | None = TASK_TIMEOUT,
        patience: float | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Do what is not done yet; see `run`.

        ``verify``: how closely to look whether what was done is there; at least "crc" where recipe, plan or identity of
        the store are damaged. ``patience``: seconds to go on without any worker.
        """
        check_client(client)
        self.check(restart=restart)
        began = time.time()
        if restart or not is_whole(self, level=verify):
            limit, threads = worker_limits(client)
            if limit is not None:
                check_fits(self.recipe, self.plan, planes_of(self.source), memory_limit=limit, threads=threads)
            check_workers(client)
            with self.locked(restart=restart) as call:
                if not self.described and verify in ("markers", "sizes"):
                    verify = "crc"  # nobody could look at the tiles until now
                self.create()
                write_json(self.root, "forecast.json", describe(self.recipe, self.plan, self.source).to_json())
                checker = Checker(self.root, self.run_id, self.layout, level=verify)
                parts = self.root, self.recipe, self.plan, self.run_id
                options = Options(task_timeout=task_timeout, patience=patience)
                tasks = drive(*parts, client, call=call, checker=checker, progress=progress, options=options)
                self.check_input()
                told = tasks.computed or not self.has_provenance
                self.finish(call, _provenance(self, tasks, time.time() - began, threads) if told else None)
        return open_run(self.root.path)


def prepare(
    recipe: Recipe | str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    tile_size: int | None = None,
    memory_limit: int | None = None,
    threads: int = 1,
    **inputs: Unpack[InputOptions],
) -> PreparedRun:
    """Check recipe, input and their fit, and plan the run; arguments and errors as of `run`.

    With a ``memory_limit`` (bytes of a worker that does ``threads`` tasks at the same time) tiles are made smaller,
    where no tile size is given, until they fit; a plan that does not fit is refused.
    """
    check_store_name(folder_at(out).path)
    made = planned(recipe, source, tile_size=tile_size, memory_limit=memory_limit, threads=threads, **inputs)
    parts = identity(made.recipe, made.plan, made.inputs)
    if tile_size is None and (known := stored_plan(folder_at(out), parts, made.recipe)) is not None:
        # goes on with the tiles that the run began with
        made, parts = replace(made, plan=known), identity(made.recipe, known, made.inputs)
    made.check_fits(memory_limit=memory_limit, threads=threads)
    return PreparedRun(folder_at(out), made.recipe, made.source, made.plan, parts, made.inputs)


@dataclass(frozen=True)
class PlannedRun:
    """Recipe and input of a run that fit together, its plan, and what tells its input from another."""

    recipe: Recipe
    source: Source
    plan: Plan
    inputs: dict[str, str]

    def check_fits(self, *, memory_limit: int | None, threads: int = 1) -> None:
        """Refuse the plan if workers with this limit lack the memory."""
        if memory_limit is not None:
            planes = planes_of(self.source)
            check_fits(self.recipe, self.plan, planes, memory_limit=memory_limit, threads=threads)


def planned(
    recipe: Recipe | str,
    source: str | os.PathLike[str],
    *,
    tile_size: int | None = None,
    memory_limit: int | None = None,
    threads: int = 1,
    **inputs: Unpack[InputOptions],
) -> PlannedRun:
    """Check recipe, input and their fit, and plan a run, wherever its store will be; arguments as of `prepare`."""
    recipe = Recipe.load(recipe)
    opened = open_input(source, **inputs)
    recipe = for_image(recipe, parse_header(opened.header))
    bits = check_planes(recipe, opened)
    dtype = float_dtype(opened.planes["science"].dtype)
    # planes from FITS files are copied; if all are Zarr arrays they are read in place
    ingest = any(p.is_copied for p in opened.planes.values())
    plan = make_plan(recipe, opened.shape, dtype.name, tile_size=tile_size, ingest=ingest)
    if memory_limit is not None and tile_size is None:
        plan = fitted_plan(recipe, plan, planes_of(opened), memory_limit=memory_limit, threads=threads)
    told = {name: p.identity for name, p in opened.planes.items()}
    if bits is not None:
        told["dq_bits"] = str(bits)  # they can follow from the header
    if (nodata := opened.planes["science"].nodata) is not None:
        told["nodata"] = number_text(nodata)
    warn_of_constants(opened, bits)
    return PlannedRun(recipe, opened, plan, told)


def _provenance(prepared: PreparedRun, tasks: TaskTotals, seconds: float, threads: int) -> dict[str, Any]:
    """Return what is kept about a run whose tasks are all done."""
    forecast = describe(prepared.recipe, prepared.plan, prepared.source, threads=threads)
    return {
        "identity": prepared.identity,
        "run_id": prepared.run_id,
        "recipe": prepared.recipe.name,
        "input": {name: p.path for name, p in prepared.source.planes.items()},
        "nodata": prepared.source.planes["science"].nodata,
        "versions": versions(regions=any(isinstance(p, RegionPlane) for p in prepared.source.planes.values())),
        "tasks": tasks.count,
        "tasks_computed_last": tasks.computed,
        "cpu_seconds": round(tasks.cpu_seconds, 2),
        "stage_cpu_seconds": {stage: round(spent, 2) for stage, spent in tasks.stage_seconds.items()},
        "wall_seconds_last": round(seconds, 2),
        "peak_worker_memory": tasks.peak_memory,
        "memory": {
            stage.name: {"projected": stage.peak_memory, "measured": tasks.task_peaks.get(stage.name)}
            for stage in forecast.stages
        },
    }
