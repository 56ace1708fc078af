"""The driver of a run: which tasks it needs, stage by stage; what became of those that failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from tiledsky.engine.attempt import FAILED, Failure
from tiledsky.engine.dependencies import needed
from tiledsky.engine.executors import DaskExecutor, Executor, Options, SerialExecutor
from tiledsky.engine.plan import Plan, Stage
from tiledsky.engine.verify import Checker
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.geometry import Pair, Region
from tiledsky.io.folders import Folder
from tiledsky.io.store import RUN_FOLDER
from tiledsky.recipe import Recipe


@dataclass(frozen=True)
class Progress:
    """How far a run is; handed to the callback after every task.

    Attributes
    ----------
    stage : str
        What is being done.
    done, total : int
        Tasks of all stages; ``resumed`` of the done ones were not needed: done before.
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


@dataclass
class TaskTotals:
    """What the tasks of a run took, from their markers."""

    count: int = 0
    computed: int = 0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    task_peaks: dict[str, int] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)

    def add(self, marker: dict[str, Any] | None, *, computed: bool) -> None:
        """Count a task; ``marker`` is None for one that was not needed and left nothing."""
        self.count += 1
        self.computed += computed
        if marker is not None:
            self.cpu_seconds += marker["cpu_seconds"]
            stage = marker["stage"]
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + marker["cpu_seconds"]
            self.peak_memory = max(self.peak_memory, marker["peak_memory"])
            if marker["task_peak"] is not None:
                self.task_peaks[stage] = max(self.task_peaks.get(stage, 0), marker["task_peak"])


def drive(
    root: Folder,
    recipe: Recipe,
    plan: Plan,
    run_id: str,
    client: Any,
    *,
    call: str,
    checker: Checker,
    progress: Callable[[Progress], None] | None = None,
    options: Options | None = None,
) -> TaskTotals:
    """Do the tasks that a run needs, one stage after the other, as long as ``call`` lasts
    (`tiledsky.engine.run_store.RunStore.locked`).

    A task that fails for good leaves a report in ``run/failed``, and the driver goes on with the other tasks of its
    stage. Stopped by KeyboardInterrupt, it gives running tasks a moment to end.

    Raises
    ------
    RunError, InputError, ParameterError
        Tasks of a stage failed; the cluster was lost; nothing can be written.
    """
    todo = needed(recipe, plan, checker.done)
    checker.discard(todo)
    totals, began = TaskTotals(), time.monotonic()
    for stage in plan.stages:
        missing = set(todo[stage.name])
        for index in plan.grid(stage):
            if index not in missing:
                totals.add(checker.marker(stage, index), computed=False)
    options = options or Options()
    executor: Executor = SerialExecutor(root, run_id, call, options)
    if client is not None:
        executor = DaskExecutor(client, root, run_id, call, options)

    def report(stage: str) -> None:
        if progress is not None:
            resumed, pixels = totals.count - totals.computed, plan.shape[0] * plan.shape[1]
            seconds = time.monotonic() - began
            progress(Progress(stage, totals.count, plan.n_tasks, resumed, executor.workers, seconds, pixels))

    try:
        for stage in plan.stages:
            failed = FailedTasks(root, plan, stage, todo[stage.name])
            with closing(executor.outcomes(stage.name, todo[stage.name])) as outcomes:
                for index, outcome in outcomes:
                    if isinstance(outcome, Failure):
                        failed.add(index, outcome)
                    else:
                        failed.remove(index)
                        totals.add(outcome, computed=True)
                        report(stage.name)
            failed.raise_first()
    except KeyboardInterrupt:
        executor.settle()
        raise
    return totals


class FailedTasks:
    """The tasks of a stage that failed for good: a file for each, until a later call does the task.

    Parameters
    ----------
    root : Folder
    plan : Plan
    stage : Stage
    tasks : sequence of pairs
        What is to be done; files of other tasks are of the past.
    """

    def __init__(self, root: Folder, plan: Plan, stage: Stage, tasks: Sequence[Pair]) -> None:
        self.root, self.plan, self.stage = root, plan, stage
        self.within = f"{RUN_FOLDER}/{FAILED}/{stage.name}"
        self.folder = root / self.within
        self.failures: dict[Pair, Failure] = {}
        there = root.names(f"{self.within}/")
        # by the plan, not by what is found: nothing else in the folder is ours
        names = {index: (self._name(index), f".{index[0]}.{index[1]}.timeout") for index in plan.grid(stage)}
        kept = set(tasks)
        for index, ours in names.items() if there else ():
            root.remove(*(f"{self.within}/{name}" for name in there.intersection(ours[index in kept :])))
        self.files = {name for index in kept for name in names[index][:1]} & there
        self._tidy()

    def add(self, index: Pair, failure: Failure) -> None:
        """Write down what is known of a task that failed.

        Raises
        ------
        RunError
            Nothing can be written any more.
        """
        if failure.hopeless:
            of_the_run = failure.kind is not None and issubclass(failure.kind, RunError)
            text = failure.message if of_the_run else f"{failure.message}; {self._where(index)}"
            raise RunError(text if "same command" in text else f"{text}; make room, then the same command goes on")
        self.failures[index] = failure
        region = self._region(index)
        record = {
            "stage": self.stage.name,
            "tile": list(index),
            "rows": [region.y0, region.y1],
            "columns": [region.x0, region.x1],
            "exception": failure.exception,
            "message": failure.message,
            "attempts": failure.attempts,
            "worker": failure.worker,
            "traceback": failure.traceback,
        }
        self.root.write(f"{self.within}/{self._name(index)}", json.dumps(record, indent=1).encode())

    def remove(self, index: Pair) -> None:
        """Forget an earlier failure of a task that is done."""
        if self.files and (name := self._name(index)) in self.files:
            self.root.remove(f"{self.within}/{name}")
            self._tidy()

    def raise_first(self) -> None:
        """Raise if tasks failed: the kind of the first, if all were errors of input or parameters."""
        if not self.failures:
            return
        index, failure = min(self.failures.items())
        said = f"{failure.exception}: {failure.message}"
        kinds = {f.kind for f in self.failures.values()}
        if all(kind is not None and issubclass(kind, InputError | ParameterError) for kind in kinds):
            assert failure.kind is not None
            whole = self._region(index) == Region.whole(self.plan.shape)
            text = failure.message if whole else f"{failure.message}; stage {self.stage.name}, {self._where(index)}"
            raise failure.kind(text)
        count, total = len(self.failures), len(self.plan.grid(self.stage))
        raise RunError(
            f"{self.root}: {count} of {total} tasks of stage {self.stage.name} failed; {self._where(index)}: "
            f"{said}; finished tasks are kept, the same command goes on; details in {self.folder}"
        )

    def _region(self, index: Pair) -> Region:
        return self.plan.grid(self.stage).region(index)

    def _where(self, index: Pair) -> str:
        region = self._region(index)
        return f"tile {index} (rows {region.y0}:{region.y1}, columns {region.x0}:{region.x1})"

    def _name(self, index: Pair) -> str:
        return f"{index[0]}.{index[1]}.json"

    def _tidy(self) -> None:
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()
