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
from typing import IO, Any, TypeAlias

from tiledsky.engine.leases import DRIVER, BucketLease
from tiledsky.errors import RunError
from tiledsky.io.files import begun_in, writing
from tiledsky.io.folders import Folder, LocalFolder
from tiledsky.io.inside import inside
from tiledsky.io.store import RUN_FOLDER

#: Held shared by every task while it works, so that a new driver can tell when those of an earlier one have ended.
TASKS = "tasks.lock"
#: Where the calls that work on a store have their folders.
CALLS = "calls"
#: Seconds that tasks which outlived their driver get to end.
_PATIENCE = 60.0
_POLL = 0.02


class FolderLocks:
    """Who works on a run whose store is in a folder."""

    #: Whether jobs of an array can do a part of the run each.
    takes_slices = True

    def __init__(self, root: LocalFolder) -> None:
        self.root, self.calls = root, root / RUN_FOLDER / CALLS

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Keep other drivers out, by a lock that the system releases however the driver ends; yield the name of this
        call, as long as which its tasks may write (`working`).

        Raises
        ------
        RunError
            Another process holds it, or it cannot be made.
        """
        self.root.check()
        with writing(self.root / RUN_FOLDER / DRIVER):
            (self.root / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
        with self._held(fcntl.LOCK_EX):
            if not self.wait_for_tasks(seconds=_PATIENCE):
                raise RunError(
                    f"{self.root}: tasks of an earlier call still run on workers, and two tasks must not write one "
                    "tile; wait for them or stop the workers"
                )
            self._end_all()
            yield self.begin()
            self._end_all()  # of a call that is stopped, tasks may still end

    @contextmanager
    def shared(self, name: str, what: str, *, patience: float) -> Iterator[str]:
        """Keep drivers out, but not others that each do a part of it (`tiledsky.engine.slices`); yield as `locked`.

        A second process with the same part, called ``name``, and ``what`` in errors, is kept out too: that of a job
        that is started again while its first self still ends, which gets ``patience`` seconds.

        Raises
        ------
        RunError
            A driver has the store, or there is none; another process has the part.
        """
        with self._held(fcntl.LOCK_SH):
            call = self.begin()
            try:
                # named as a temporary file: a run that ends well removes it
                path = f"{RUN_FOLDER}/.{name}"
                with writing(self.root / path), self.root.open_lock(path) as file:
                    if not self._locks_in(file, patience):
                        raise RunError(f"{self.root}: {what} is being done by another process; wait for it or stop it")
                    yield call
            finally:
                with suppress(RunError):  # a driver took the store, whose lock this process had lost
                    self.end(call)

    @contextmanager
    def _held(self, kind: int) -> Iterator[None]:
        """Hold the lock of a store, alone or with others (``LOCK_EX``, ``LOCK_SH``); refuse where that cannot be."""
        with writing(self.root / RUN_FOLDER / DRIVER):
            file = self.root.open_lock(f"{RUN_FOLDER}/{DRIVER}")
        with file:
            if not self._lock(file, kind | fcntl.LOCK_NB):
                raise RunError(f"{self.root} is being run by another process; wait for it or stop it")
            yield

    @contextmanager
    def working(self, call: str) -> Iterator[None]:
        """Hold the lock of the tasks while one works, which writes as long as its ``call`` lasts."""
        with self.root.open_lock(f"{RUN_FOLDER}/{TASKS}") as file:
            self._lock(file, fcntl.LOCK_SH)
            with begun_in(self.calls / call) if call else nullcontext():
                yield

    def begin(self) -> str:
        """Begin a call that works on a store; return its name."""
        call = uuid.uuid4().hex
        with writing(self.calls):
            inside(self.root.path, f"{RUN_FOLDER}/{CALLS}/{call}").mkdir(parents=True)
        return call

    def end(self, call: str) -> None:
        """End a call: what its tasks have not written by now is never written.

        Raises
        ------
        RunError
            It has ended: another one took over while this process was held up.
        """
        with writing(self.calls / call):
            try:
                (self.calls / call).rename(self.calls / f".{call}")  # at once, in the midst of whatever is done there
            except FileNotFoundError:
                raise RunError(
                    f"{self.root}: another process took over the run while "
                    "this one was suspended; let that process finish"
                ) from None
        shutil.rmtree(self.calls / f".{call}", ignore_errors=True)

    def _end_all(self) -> None:
        """End the calls of drivers and slices that were killed, and of those that lost their lock."""
        for folder in list(self.calls.iterdir()) if self.calls.is_dir() else []:
            if folder.name.startswith("."):  # one that was killed while it ended it
                shutil.rmtree(folder, ignore_errors=True)
            else:
                with suppress(RunError):
                    self.end(folder.name)
        shutil.rmtree(self.calls, ignore_errors=True)

    def wait_for_tasks(self, *, seconds: float) -> bool:
        """Wait until no task works in the store, in any process; return False if some still do after ``seconds``.

        A task outlives its driver for a moment if the driver is killed, and longer on workers that somebody else runs.
        What it still removes and writes must not meet the tasks of the next driver.
        """
        if not self.root.stands(f"{RUN_FOLDER}/{TASKS}"):
            return True
        with self.root.open_lock(f"{RUN_FOLDER}/{TASKS}") as file:
            return self._locks_in(file, seconds)

    def _locks_in(self, file: IO[Any], seconds: float) -> bool:
        """Lock an open file, for this process alone; False if another one still has it after ``seconds``."""
        until = time.monotonic() + seconds
        while not self._lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > until:
                return False
            time.sleep(_POLL)
        return True

    def _lock(self, file: IO[Any], kind: int) -> bool:
        """Lock an open file; False if ``kind`` says not to wait (`fcntl.flock`) and it is held.

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
                f"{self.root} is on a file system without locks ({error.strerror or error}), so the run cannot keep a "
                "second driver out; change --out"
            ) from error
        return True


#: Who keeps others out of a run: `FolderLocks`, or in a bucket a `BucketLease`, by the same methods.
Guard: TypeAlias = FolderLocks | BucketLease


def guard_at(root: Folder) -> Guard:
    """Return what keeps others out of a run in this folder or bucket."""
    return FolderLocks(root) if isinstance(root, LocalFolder) else BucketLease(root)
