"""One attempt at a task, on a worker or in the driver's process: its outcome is a value, whatever happens.

A task that does not end in time kills the process it runs in: a thread cannot be stopped, and a worker that hangs in a
library is of no use. It leaves a report behind, so that the driver knows who was to blame.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tiledsky import errors
from tiledsky.engine.leases import process_name
from tiledsky.engine.locks import guard_at
from tiledsky.engine.tasks import execute
from tiledsky.geometry import Pair
from tiledsky.io.folders import folder_at
from tiledsky.io.store import RUN_FOLDER
from tiledsky.plain import without_secrets

#: Folder of what is known about tasks that failed.
FAILED = "failed"
#: Attempts that may end by the clock.
TIMEOUTS = 2
#: What such a failure is called.
TIMED_OUT = "TaskTimeout"
#: Errors of the system that will not go away by trying again, neither here nor for another tile.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
#: Errors of the system that trying again does not change.
_LASTING = (errno.EACCES, errno.EPERM, *_HOPELESS)


@dataclass(frozen=True)
class Failure:
    """Why a task failed.

    Attributes
    ----------
    exception, message, traceback : str
        Class, text and stack of the error.
    worker : str
        Host and process.
    transient : bool
        Whether trying again may help.
    hopeless : bool
        Whether no other task can work either: no room, nothing can be written, a worker that can do none.
    attempts : int
    """

    exception: str
    message: str
    traceback: str
    worker: str
    transient: bool = False
    hopeless: bool = False
    attempts: int = 1

    @classmethod
    def of(cls, error: BaseException, *, worker: str | None = None) -> Failure:
        """Describe an exception."""
        system = [e for e in _chain(error) if isinstance(e, OSError)]
        numbers = {e.errno for e in system}
        may_pass = bool(system) and isinstance(error, OSError | errors.RunError)
        return cls(
            type(error).__name__,
            without_secrets(str(error)),
            without_secrets("".join(traceback.format_exception(error))),
            worker or process_name(),
            transient=may_pass and numbers.isdisjoint(_LASTING),
            hopeless=isinstance(error, errors.WorkerError) or not numbers.isdisjoint(_HOPELESS),
        )

    @property
    def kind(self) -> type[errors.TiledSkyError] | None:
        """Class of an error that tiledsky raised on purpose."""
        found = getattr(errors, self.exception, None)
        return found if isinstance(found, type) and issubclass(found, errors.TiledSkyError) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@dataclass(frozen=True)
class StageTasks:
    """What the tasks of a stage have in common.

    Its tasks write as long as ``call`` lasts (`tiledsky.engine.locks.FolderLocks.begin`; "": always). ``timeout``:
    seconds after which the process of a task is killed, unless it is the one named ``driver`` (`process_name`).
    """

    root: str
    run_id: str
    call: str
    stage: str
    timeout: float | None = None
    driver: str = ""


def attempt(common: StageTasks, index: Pair) -> dict[str, Any] | Failure:
    """Do one task; return its marker without the list of objects, or why it failed."""
    hung = read_timeout(common, index)
    if hung is not None and hung["attempts"] >= TIMEOUTS:
        return timeout_failure(hung)
    try:
        with guard_at(folder_at(common.root)).working(common.call), _in_time(common, index):
            marker = execute(common.root, common.run_id, common.stage, index)
    except Exception as error:
        return Failure.of(error)
    return {key: value for key, value in marker.items() if key != "objects"}


@contextmanager
def _in_time(common: StageTasks, index: Pair) -> Iterator[None]:
    if common.timeout is None or common.driver == process_name():
        yield
        return
    timer = threading.Timer(common.timeout, _give_up, (common, index, threading.get_ident()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(common: StageTasks, index: Pair, thread: int) -> None:
    """Report where the task hangs and end this process."""
    before = read_timeout(common, index)
    report = {
        "attempts": 1 + (before["attempts"] if before else 0),
        "seconds": common.timeout,
        "worker": process_name(),
        "traceback": "".join(traceback.format_stack(sys._current_frames().get(thread))),
    }
    with suppress(OSError, errors.RunError):
        folder_at(common.root).write(_timeout_name(common, index), json.dumps(report).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _timeout_name(common: StageTasks, index: Pair) -> str:
    # named as a temporary file: a run that ends well removes it
    return f"{RUN_FOLDER}/{FAILED}/{common.stage}/.{index[0]}.{index[1]}.timeout"


def read_timeout(common: StageTasks, index: Pair) -> dict[str, Any] | None:
    """Return the report of the last attempt that ended by the clock, if there is one."""
    try:
        report = json.loads(folder_at(common.root).read(_timeout_name(common, index)))
    except (OSError, ValueError, RecursionError):
        return None
    kinds: dict[str, Any] = {"attempts": int, "seconds": (int, float), "worker": str, "traceback": str}
    known = isinstance(report, dict) and all(isinstance(report.get(key), kind) for key, kind in kinds.items())
    return report if known else None


def timeout_failure(report: dict[str, Any]) -> Failure:
    """Failure of a task that did not end in time."""
    times = f"no end after {report['seconds']:g} s, {report['attempts']} times"
    message = f"{times}; raise --task-timeout if it is only slow"
    return Failure(TIMED_OUT, message, report["traceback"], report["worker"], attempts=report["attempts"])
