"""Locks on files of a run store, which the system releases however their holder ends."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiledsky.io.address import is_address, may_put
from tiledsky.io.inside import lock_inside
from tiledsky.io.store import RUN_FOLDER, stands
from tiledsky.run.leases import Warrant

#: The lock of the driver.
DRIVER = "lock"
#: Held shared by every task while it works, so that a new driver can tell when those of an earlier one have ended.
TASKS = "tasks.lock"
_POLL = 0.02


@contextmanager
def working(root: Path, driver: str) -> Iterator[None]:
    """Hold the lock of the tasks while one works; in a bucket, work as long as ``driver`` has the lease."""
    if is_address(root):
        with may_put(Warrant(root / RUN_FOLDER / DRIVER, driver)):
            yield
        return
    with lock_inside(root, f"{RUN_FOLDER}/{TASKS}") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def wait_for_tasks(root: Path, *, seconds: float) -> bool:
    """Wait until no task works in the store, in any process; return False if some still do after ``seconds``.

    A task outlives its driver for a moment if the driver is killed, and longer on workers that somebody else runs. What
    it still removes and writes must not meet the tasks of the next driver. (In a bucket it may: `tiledsky.run.leases`.)
    """
    if is_address(root):
        return True
    end = time.monotonic() + seconds
    if not stands(root / RUN_FOLDER / TASKS):
        return True
    with lock_inside(root, f"{RUN_FOLDER}/{TASKS}") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > end:
                    return False
                time.sleep(_POLL)
            else:
                return True
