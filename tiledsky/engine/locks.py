"""Locks on files of a run store, which the system releases however their holder ends; and a fence for what outlives it.

A lock tells whether a task works, but one that its machine forgot, or that a system without locks between machines
never kept, cannot stop it. So each call that works on a store has a folder, in which its tasks begin their files
(`tiledsky.io.files.begun_in`); the next call, and the end of the run, take it away.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from tiledsky.engine.leases import Warrant
from tiledsky.errors import RunError
from tiledsky.io.address import is_address, may_put
from tiledsky.io.files import begun_in, stands, writing
from tiledsky.io.inside import inside, lock_inside
from tiledsky.io.store import RUN_FOLDER

#: The lock of the driver.
DRIVER = "lock"
#: Held shared by every task while it works, so that a new driver can tell when those of an earlier one have ended.
TASKS = "tasks.lock"
#: Where the calls that work on a store have their folders.
CALLS = "calls"
_POLL = 0.02


def lock(file: IO[Any], kind: int, root: Path) -> bool:
    """Lock an open file of the store ``root``; False if ``kind`` says not to wait (`fcntl.flock`) and it is held.

    Raises
    ------
    RunError
        The file system has no locks.
    """
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise RunError(
            f"{root} is on a file system without locks ({error.strerror or error}), so that a second driver could not "
            "be kept out; change --out"
        ) from error
    return True


@contextmanager
def working(root: Path, call: str) -> Iterator[None]:
    """Hold the lock of the tasks while one works, which writes as long as its ``call`` lasts (`begin`)."""
    if is_address(root):
        with may_put(Warrant(root / RUN_FOLDER / DRIVER, call)):
            yield
        return
    with lock_inside(root, f"{RUN_FOLDER}/{TASKS}") as file:
        lock(file, fcntl.LOCK_SH, root)
        with begun_in(root / RUN_FOLDER / CALLS / call) if call else nullcontext():
            yield


def begin(root: Path) -> str:
    """Begin a call that works on a store; return its name."""
    call = uuid.uuid4().hex
    with writing(root / RUN_FOLDER / CALLS):
        inside(root, f"{RUN_FOLDER}/{CALLS}/{call}").mkdir(parents=True)
    return call


def end(root: Path, call: str) -> None:
    """End a call: what its tasks have not written by now is never written.

    Raises
    ------
    RunError
        It has ended: another one took over while this process was held up.
    """
    if is_address(root):
        return
    calls = root / RUN_FOLDER / CALLS
    with writing(calls / call):
        try:
            (calls / call).rename(calls / f".{call}")  # at once, in the midst of whatever is done there
        except FileNotFoundError:
            ended = True
        else:
            ended = False
    if ended:
        raise RunError(f"{root}: another process has taken over the run while this one was held up; leave it to that")
    shutil.rmtree(calls / f".{call}", ignore_errors=True)


def end_all(root: Path) -> None:
    """End the calls of drivers and slices that were killed, and of those that lost their lock."""
    calls = root / RUN_FOLDER / CALLS
    for folder in [] if is_address(root) or not calls.is_dir() else list(calls.iterdir()):
        if folder.name.startswith("."):  # one that was killed while it ended it
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(RunError):
                end(root, folder.name)
    if not is_address(root):
        shutil.rmtree(calls, ignore_errors=True)


def wait_for_tasks(root: Path, *, seconds: float) -> bool:
    """Wait until no task works in the store, in any process; return False if some still do after ``seconds``.

    A task outlives its driver for a moment if the driver is killed, and longer on workers that somebody else runs. What
    it still removes and writes must not meet the tasks of the next driver. (In a bucket it may:
    `tiledsky.engine.leases`.)
    """
    if is_address(root):
        return True
    until = time.monotonic() + seconds
    if not stands(root / RUN_FOLDER / TASKS):
        return True
    with lock_inside(root, f"{RUN_FOLDER}/{TASKS}") as file:
        while True:
            if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, root):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_POLL)
