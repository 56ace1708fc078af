"""Runs: check and plan, submit the tasks of each stage, resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiledsky
from tiledsky.dq import dq_bits
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.filters import float_dtype
from tiledsky.geometry import Pair, Region
from tiledsky.io.source import Source, open_source, parse_header
from tiledsky.planes import check_noise
from tiledsky.recipe import Recipe
from tiledsky.run.context import forget
from tiledsky.run.needs import needed
from tiledsky.run.plan import Plan, Stage, identity, make_plan
from tiledsky.run.result import Run, open_run
from tiledsky.run.stages import execute
from tiledsky.run.storage import RunStore, stored_plan
from tiledsky.run.verify import Checker, is_whole


@dataclass(frozen=True)
class Progress:
    """How far a run is; handed to the callback after every task.

    Attributes
    ----------
    stage : str
        What is being done.
    done, total : int
        Tasks of all stages; ``resumed`` of the done ones were done before.
    resumed : int
    workers : int
    seconds : float
        Since this call began.
    pixels : int
        Of the image.
    """

    stage: str
    done: int
    total: int
    resumed: int
    workers: int
    seconds: float
    pixels: int


def run(
    recipe: Recipe | str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    hdu: str | int | None = None,
    weight: str | os.PathLike[str] | None = None,
    error: str | os.PathLike[str] | None = None,
    dq: str | os.PathLike[str] | None = None,
    coverage: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
    user_mask: str | os.PathLike[str] | None = None,
    client: Any = None,
    tile_size: int | None = None,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Run:
    """Run a recipe on a FITS file or Zarr store of any size; called again, go on where it ended.

    Parameters
    ----------
    recipe : Recipe or str
        A recipe, the name of a preset, or the path of a TOML file.
    source : path
        FITS file or Zarr store; see `tiledsky.io.source.open_source`, also for ``hdu`` and the planes beside it.
    out : path
        Folder of the run store.
    client : distributed.Client, optional
        Runs the tasks on its workers, which must see the same paths. Default: one after the other in this process.
    tile_size : int, optional
        See `tiledsky.run.plan.make_plan`. The result does not depend on it.
    restart : bool
        Throw away what an earlier run left in ``out``.
    progress : callable, optional
        Called with a `Progress` after every task.

    Returns
    -------
    Run

    Raises
    ------
    ParameterError, InputError
        Before anything is written.
    RunError
        ``out`` holds a run of another recipe, input, plan or code; or tasks failed: the others are done and kept.
    """
    planes = {"weight": weight, "error": error, "dq": dq, "coverage": coverage, "mask": mask, "user_mask": user_mask}
    prepared = prepare(recipe, source, out, hdu=hdu, tile_size=tile_size, **planes)
    return prepared.execute(client=client, restart=restart, progress=progress)


class PreparedRun(RunStore):
    """A run that was checked and planned; nothing is written yet."""

    def execute(
        self,
        *,
        client: Any = None,
        restart: bool = False,
        verify: str = "sizes",
        progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Do what is not done yet; see `run`. ``verify``: how closely to look whether what was done is there."""
        self.check(restart=restart)
        began = time.time()
        if restart or not is_whole(self, level=verify):
            with self.locked(restart=restart):
                self.create()
                checker = Checker(self.root, self.run_id, self.recipe, self.plan, level=verify)
                tasks = _run_stages(self.root, self.recipe, self.plan, self.run_id, checker, client, progress)
                self.check_input()
                told = tasks.computed or not self.has_provenance
                self.finish(_provenance(self, tasks, time.time() - began) if told else None)
        return open_run(self.root)


def prepare(
    recipe: Recipe | str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    hdu: str | int | None = None,
    weight: str | os.PathLike[str] | None = None,
    error: str | os.PathLike[str] | None = None,
    dq: str | os.PathLike[str] | None = None,
    coverage: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
    user_mask: str | os.PathLike[str] | None = None,
    tile_size: int | None = None,
) -> PreparedRun:
    """Check recipe, input and their fit, and plan the run; arguments and errors as of `run`."""
    recipe = Recipe.load(recipe).expanded()
    others: dict[str, Any] = {"weight": weight, "error": error, "dq": dq, "coverage": coverage}
    planes = open_source(source, hdu=hdu, mask=mask, user_mask=user_mask, **others)
    bits = _check(recipe, planes)
    dtype = float_dtype(planes.planes["science"].dtype)
    # planes from FITS files are copied; if all are Zarr arrays they are read in place
    ingest = any(p.fits is not None for p in planes.planes.values())
    plan = make_plan(recipe, planes.shape, dtype.name, tile_size=tile_size, ingest=ingest)
    inputs = {name: p.identity for name, p in planes.planes.items()}
    if bits is not None:
        inputs["dq_bits"] = str(bits)  # they can follow from the header
    parts = identity(recipe, plan, inputs)
    if tile_size is None and (known := stored_plan(Path(out), parts)) is not None:
        plan, parts = known, identity(recipe, known, inputs)  # goes on with the tiles that the run began with
    return PreparedRun(Path(out), recipe, planes, plan, parts, inputs)


def _check(recipe: Recipe, source: Source) -> int | None:
    """Check what a recipe needs of the input's planes; return the dq flags that count (None: all, or no dq plane)."""
    check_noise(recipe, source.planes)
    dq = source.planes.get("dq")
    bits = None if dq is None else dq_bits(recipe.dq_flags, header=parse_header(source.header))
    if dq is not None and bits is not None and dq.dtype.startswith("float"):
        raise InputError(f"{dq.path}: {dq.dtype} pixels have no flags to choose from; give integers, or dq_flags 'all'")
    return bits


@dataclass
class _Tasks:
    """What the tasks of a run took, from their markers."""

    count: int = 0
    computed: int = 0
    cpu_seconds: float = 0.0
    peak_memory: int = 0

    def add(self, marker: dict[str, Any] | None, *, computed: bool) -> None:
        self.count += 1
        self.computed += computed
        if marker is None:  # of a task that was not needed
            return
        self.cpu_seconds += marker["cpu_seconds"]
        self.peak_memory = max(self.peak_memory, marker["peak_memory"])


def _run_stages(
    root: Path,
    recipe: Recipe,
    plan: Plan,
    ident: str,
    checker: Checker,
    client: Any,
    progress: Callable[[Progress], None] | None,
) -> _Tasks:
    """Run the tasks that are needed, one stage after the other."""
    tasks, began = _Tasks(), time.time()
    todo = needed(recipe, plan, checker.done)
    checker.discard()
    for stage in plan.stages:
        missing = todo[stage.name]
        for index in set(plan.grid(stage)) - set(missing):
            tasks.add(checker.marker(stage, index), computed=False)
        failed: dict[Pair, BaseException] = {}
        with closing(_outcomes(root, ident, stage, missing, client)) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, BaseException):
                    failed[index] = outcome
                    continue
                tasks.add(outcome, computed=True)
                if progress is not None:
                    workers = 1 if client is None else len(client.scheduler_info()["workers"])
                    progress(_state(stage, plan, tasks, workers, time.time() - began))
        if failed:
            _fail(root, plan, stage, failed)
    return tasks


def _state(stage: Stage, plan: Plan, tasks: _Tasks, workers: int, seconds: float) -> Progress:
    resumed, pixels = tasks.count - tasks.computed, plan.shape[0] * plan.shape[1]
    return Progress(stage.name, tasks.count, plan.n_tasks, resumed, workers, seconds, pixels)


def _fail(root: Path, plan: Plan, stage: Stage, failed: dict[Pair, BaseException]) -> None:
    index, error = min(failed.items())
    region = plan.grid(stage).region(index)
    whole = region == Region.whole(plan.shape)
    where = f"tile {index} (rows {region.y0}:{region.y1}, columns {region.x0}:{region.x1})"
    if isinstance(error, InputError | ParameterError):
        raise error if whole else type(error)(f"{error}; stage {stage.name}, {where}")
    raise RunError(
        f"{root}: {len(failed)} of {len(plan.grid(stage))} tasks of stage {stage.name} failed; {where}: "
        f"{type(error).__name__}: {error}; what is done is kept, the same command goes on"
    ) from error


def _outcomes(
    root: Path, ident: str, stage: Stage, indices: list[Pair], client: Any
) -> Generator[tuple[Pair, dict[str, Any] | BaseException], None, None]:
    """Run tasks and yield marker or exception of each as it ends."""
    if client is None:
        try:
            for index in indices:
                try:
                    outcome: dict[str, Any] | BaseException = execute(str(root), ident, stage.name, index)
                except Exception as error:
                    outcome = error
                yield index, outcome
        finally:
            forget(str(root), ident)
        return
    from distributed import as_completed

    arguments = (str(root.absolute()), ident, stage.name)
    futures = {
        client.submit(execute, *arguments, index, key=f"{stage.name}-{ident}-{index}", retries=1): index
        for index in indices
    }
    try:
        for future in as_completed(list(futures)):
            index = futures.pop(future)
            raised = future.exception()
            if isinstance(raised, CancelledError):
                raise raised
            yield index, future.result() if raised is None else raised
            future.release()
    except CancelledError:
        raise RunError(
            f"{root}: the connection to the Dask scheduler was lost; what is done is kept, the same command goes on "
            "with a scheduler that runs"
        ) from None
    finally:
        for future in futures:  # a run that is stopped leaves no task behind
            future.release()


def _provenance(prepared: PreparedRun, tasks: _Tasks, seconds: float) -> dict[str, Any]:
    """Return what is kept about a run whose tasks are all done."""
    return {
        "identity": prepared.identity,
        "run_id": prepared.run_id,
        "recipe": prepared.recipe.name,
        "input": {name: p.path for name, p in prepared.source.planes.items()},
        "versions": versions(regions=any(p.regions is not None for p in prepared.source.planes.values())),
        "tasks": tasks.count,
        "tasks_computed_last": tasks.computed,
        "cpu_seconds": round(tasks.cpu_seconds, 2),
        "wall_seconds_last": round(seconds, 2),
        "peak_worker_memory": tasks.peak_memory,
    }


def versions(*, regions: bool = False) -> dict[str, str]:
    """Versions of this package and of what decides the bits; ``regions``: a region file was drawn too."""
    import platform
    from importlib.metadata import version

    names = ["numpy", "scipy", "numba", "astropy", "photutils", "zarr", "dask", "distributed"]
    names += ["regions"] * regions
    return {"tiledsky": tiledsky.__version__, "python": platform.python_version(), **{n: version(n) for n in names}}
