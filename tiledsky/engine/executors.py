"""Executors do the tasks of a stage: in this process, or on the workers of a Dask cluster.

Both try a task again after an error that may pass (of a file, of a connection). When a worker dies, Dask gives its
tasks to another one, and in the end blames every task that was sent to workers that died. So the executor repeats the
tasks that Dask gave up one at a time, with nothing else on the cluster: a task that ends its worker even then is at
fault.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from typing import Any, Protocol

from tiledsky.engine.attempt import TIMED_OUT, TIMEOUTS, Failure, StageTasks, attempt, read_timeout, timeout_failure
from tiledsky.engine.context import forget
from tiledsky.engine.leases import process_name
from tiledsky.engine.limits import TASK_TIMEOUT
from tiledsky.engine.locks import guard_at
from tiledsky.engine.pace import tasks_together
from tiledsky.errors import ClockError, ParameterError, RunError
from tiledsky.geometry import Pair
from tiledsky.io.folders import Folder, folder_at

Outcome = dict[str, Any] | Failure
Outcomes = Generator[tuple[Pair, Outcome], None, None]

#: Seconds to wait before an attempt that follows a failed one.
_WAITS = (0.0, 0.5, 4.0)
#: Groups of tasks that the scheduler knows at once, at 4 to 8 kB each: they keep any cluster busy while more are sent.
_WINDOW = 1 << 15
#: Groups that are sent at once: the message takes memory as well.
_BATCH = 2000
#: Tasks of a stage that are sent one by one first.
FIRST = 64
#: Seconds between looks at the tasks; longer where a look takes longer than a tenth of it.
_POLL, _LOOKS = 0.01, 10
#: Seconds by which a clock may be set back: a run stands still so long.
_SET_BACK = 20.0
#: Seconds without any worker after which a run ends: on a cluster of this machine; where workers may be queueing.
_PATIENCE_HERE, _PATIENCE = 180.0, 600.0


@dataclass(frozen=True)
class Options:
    """How the tasks of a run are done.

    Attributes
    ----------
    task_timeout : float or None
        Seconds after which the worker of a task is killed.
    retries : int
        Attempts after the first for errors that may pass, at most 2.
    grace : float
        Seconds that running tasks get to end when a run is stopped.
    patience : float, optional
        Seconds without any worker after which a run ends.
    """

    task_timeout: float | None = TASK_TIMEOUT
    retries: int = len(_WAITS) - 1
    grace: float = 10.0
    patience: float | None = None

    def __post_init__(self) -> None:
        if self.task_timeout is not None and not self.task_timeout > 0:
            raise ParameterError(
                f"a task timeout of {self.task_timeout:g} s leaves no time for any task; use seconds above 0, or "
                "--task-timeout 0 (None in Python) for none"
            )


class Executor(Protocol):
    """Does the tasks of a stage, and knows nothing of what they compute.

    Attributes
    ----------
    workers : int
        Number of workers at this moment.
    """

    workers: int

    def outcomes(self, stage: str, indices: Iterable[Pair]) -> Outcomes:
        """Do tasks; yield the marker of each, or the reason of its failure, as they end."""

    def settle(self) -> None:
        """Wait until the tasks that still run have ended, for a limited time; called when a run is stopped."""


class SerialExecutor:
    """Does one task after the other in this process."""

    workers = 1

    def __init__(self, root: Folder, run_id: str, call: str, options: Options) -> None:
        self.root, self.run_id, self.call, self.options = str(root), run_id, call, options

    def outcomes(self, stage: str, indices: Iterable[Pair]) -> Outcomes:
        """Do tasks; see `Executor.outcomes`."""
        common = StageTasks(self.root, self.run_id, self.call, stage, driver=process_name())
        try:
            for index in indices:
                for tries in range(self.options.retries + 1):
                    time.sleep(_WAITS[tries])
                    outcome = attempt(common, index)
                    if not (isinstance(outcome, Failure) and outcome.transient):
                        break
                yield index, replace(outcome, attempts=tries + 1) if isinstance(outcome, Failure) else outcome
        finally:
            forget(self.root, self.run_id)

    def settle(self) -> None:
        """Return at once: no task runs outside `outcomes`."""


@dataclass(frozen=True)
class _Task:
    index: Pair
    tries: int = 0
    alone: bool = False

    def key(self, common: StageTasks) -> str:
        return f"{common.stage}-{common.run_id}-{self.index[0]}.{self.index[1]}-{'alone' * self.alone}{self.tries}"


class DaskExecutor:
    """Does tasks on the workers of a Dask cluster, which must see the same paths."""

    def __init__(self, client: Any, root: Folder, run_id: str, call: str, options: Options) -> None:
        from distributed import LocalCluster

        self.client, self.root = client, folder_at(root.path.absolute())
        self.run_id, self.call, self.options = run_id, call, options
        self.patience = options.patience or (_PATIENCE_HERE if isinstance(client.cluster, LocalCluster) else _PATIENCE)
        try:
            cores = client.ncores()
        except Exception as error:  # whatever a connection raises that breaks or was closed
            raise self._lost() from error
        self.workers, self._threads = len(cores), sum(cores.values())
        self._asking: Future[Any] | None = None
        self._asked = self._seen = time.monotonic()
        self._pause = _POLL
        self._ahead = time.time() - time.monotonic()

    def outcomes(self, stage: str, indices: Iterable[Pair]) -> Outcomes:
        """Do tasks; see `Executor.outcomes`."""
        common = StageTasks(str(self.root), self.run_id, self.call, stage, self.options.task_timeout, process_name())
        suspects: list[_Task] = []
        for task, outcome in self._work(common, map(_Task, indices)):
            if isinstance(outcome, Failure) and outcome.exception == "KilledWorker":
                suspects.append(replace(task, tries=task.tries + outcome.attempts, alone=True))
            else:
                yield task.index, outcome
        for task in suspects:
            for _, outcome in self._work(common, [task]):
                yield task.index, outcome

    def settle(self) -> None:
        """Wait for tasks that still run: a task that they commit need not be done again."""
        guard_at(self.root).wait_for_tasks(seconds=self.options.grace)

    def _work(self, common: StageTasks, tasks: Iterable[_Task]) -> Iterator[tuple[_Task, Outcome]]:
        todo, pending = deque(tasks), dict[Any, list[_Task]]()
        later: list[tuple[float, Pair, _Task]] = []  # a heap by the time at which a task is tried again
        done, seconds = 0, 0.0
        try:
            while todo or pending or later:
                while later and later[0][0] <= time.monotonic():
                    todo.append(heappop(later)[2])
                together, window = 1, FIRST  # until one ends, nobody knows how long they take
                if done:
                    together = tasks_together(len(todo), threads=self._threads, task_seconds=seconds / done)
                    window = _WINDOW
                groups = -(-len(todo) // together)
                room = min(groups, window - len(pending))
                count = together * room if room >= min(_BATCH, groups, window) else 0
                sent = [todo.popleft() for _ in range(min(count, len(todo)))]
                pending |= self._submit(common, [sent[k : k + together] for k in range(0, len(sent), together)])
                for future, outcome in self._ended(pending, until=later[0][0] if later else None):
                    group = pending.pop(future)
                    future.release()
                    outcomes = [outcome] * len(group) if isinstance(outcome, Failure) else outcome
                    for task, own in zip(group, outcomes, strict=True):
                        if not isinstance(own, Failure):
                            done, seconds = done + 1, seconds + own["seconds"]
                            yield task, own
                        elif own.transient and task.tries < self.options.retries:
                            again = replace(task, tries=task.tries + 1)
                            heappush(later, (time.monotonic() + _WAITS[again.tries], task.index, again))
                        else:
                            yield task, _blamed(common, task, own)
        finally:
            for future in pending:  # a run that is stopped leaves no task behind
                future.release()

    def _submit(self, common: StageTasks, groups: list[list[_Task]]) -> dict[Any, list[_Task]]:
        futures: list[Any] = []
        for some in (groups[k : k + _BATCH] for k in range(0, len(groups), _BATCH)):
            indices = [tuple(task.index for task in group) for group in some]
            futures += self.client.map(partial(_attempts, common), indices, key=[g[0].key(common) for g in some])
        return dict(zip(futures, groups, strict=True))

    def _ended(self, pending: dict[Any, list[_Task]], *, until: float | None) -> list[tuple[Any, Any]]:
        """Wait until tasks have ended and fetch their outcomes; nothing after ``until``."""
        while until is None or time.monotonic() < until:
            time.sleep(self._pause)
            self._check()
            began = time.perf_counter()
            ended = [future for future in pending if future.status not in ("pending", "lost")]
            self._pause = max(_POLL, _LOOKS * (time.perf_counter() - began))
            if ended:
                self._seen = time.monotonic()
                return list(self._fetch(ended))
        return []

    def _fetch(self, ended: list[Any]) -> Iterator[tuple[Any, Any]]:
        finished = [future for future in ended if future.status == "finished"]
        try:
            values = self._wait(self.client.gather(finished, asynchronous=True)) if finished else []
        except RunError:
            raise
        except Exception:  # of one of them, which was lost with its worker and then failed
            values = [self._one(future) for future in finished]
        yield from zip(finished, values, strict=True)
        for future in ended:
            if future.status == "error" and future not in finished:
                yield future, self._failure(future.exception())
            elif future.status == "cancelled":
                raise self._lost()

    def _one(self, future: Any) -> Any:
        try:
            return self._wait(self.client.gather([future], asynchronous=True))[0]
        except RunError:
            raise
        except Exception as error:
            return self._failure(error)

    def _failure(self, error: BaseException) -> Failure:
        """Describe what Dask says of a task that it gave up."""
        from distributed import KilledWorker

        if not isinstance(error, KilledWorker):
            return Failure.of(error, worker="unknown")
        worker = error.last_worker.address
        message = f"worker {worker} died while it did this task, for want of memory or by a crash"
        return Failure("KilledWorker", message, "", worker, attempts=error.allowed_failures + 1)

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of a call to the cluster, or raise when the cluster is lost meanwhile."""
        handle = asyncio.run_coroutine_threadsafe(call, self.client.loop.asyncio_loop)
        try:
            while True:
                try:
                    return handle.result(1.0)
                except TimeoutError:
                    if handle.done():
                        raise
                    self._check()
        finally:
            handle.cancel()

    def _check(self) -> None:
        """Raise if the scheduler is lost, or has had no worker for too long."""
        if self.client.status != "running":
            raise self._lost()
        now = time.monotonic()
        self._check_clock(time.time() - now)
        if self._asking is None and now - self._asked > 1:
            call = self.client.scheduler.ncores()
            self._asking, self._asked = asyncio.run_coroutine_threadsafe(call, self.client.loop.asyncio_loop), now
        elif self._asking is not None and self._asking.done():
            if self._asking.exception() is None:
                cores = self._asking.result()
                self.workers, self._threads = len(cores), sum(cores.values())
            self._asking = None
        if self.workers:
            self._seen = now
        elif now - self._seen > self.patience:
            raise RunError(
                f"{self.root}: the scheduler has had no worker for {self.patience:.0f} s; finished tasks are "
                "kept, the same command goes on when there are workers"
            )

    def _check_clock(self, ahead: float) -> None:
        """Raise if the clock was set back: Dask sends nothing before the time at which it wanted to.

        ``ahead``: the clock's time less one that nobody sets.
        """
        self._ahead = max(self._ahead, ahead)
        if self._ahead - ahead > _SET_BACK:
            raise ClockError(
                f"{self.root}: the clock of this machine was set back by {self._ahead - ahead:.0f} s, and Dask "
                "would wait as long; finished tasks are kept, the same command goes on"
            )

    def _lost(self) -> RunError:
        return RunError(
            f"{self.root}: the connection to the Dask scheduler was lost; finished tasks are kept, the same "
            "command goes on with a running scheduler"
        )


def _attempts(common: StageTasks, indices: Iterable[Pair]) -> list[Outcome]:
    """Do some tasks, one after the other."""
    return [attempt(common, index) for index in indices]


def _blamed(common: StageTasks, task: _Task, failure: Failure) -> Failure:
    """Complete what is known of a failure: attempts of the task, and whether it ended by the clock."""
    if failure.exception != "KilledWorker":
        return failure if failure.exception == TIMED_OUT else replace(failure, attempts=task.tries + 1)
    report = read_timeout(common, task.index)
    if report is not None and report["attempts"] >= TIMEOUTS:
        return timeout_failure(report)
    if task.alone:
        message = f"{failure.message}, also with nothing else on the cluster"
        return replace(failure, message=message, attempts=task.tries + failure.attempts)
    return failure
