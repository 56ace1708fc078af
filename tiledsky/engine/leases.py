"""Who drives a run whose store is in a bucket: a lease, for there are no locks that end with their holder.

The holder's name lies in an object, which is only ever put on condition: nobody's, or still the one that was read. The
holder renews it every few seconds. Another driver takes it over if it is not renewed for `STALE` seconds, or at once if
its holder was a process of this machine, and of this container, that is gone. A task asks before each object that it
puts or deletes whether its driver still has the lease. One that has asked and is then held up can still put that; of
the same run it has the same bytes, so that nothing is lost.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tiledsky.errors import RunError
from tiledsky.io.address import Address, may_put
from tiledsky.io.buckets import ObjectStore
from tiledsky.io.store import RUN_FOLDER

#: The lock of the driver, in the run folder.
DRIVER = "lock"
#: Seconds between renewals, and without one after which a lease is nobody's.
RENEW, STALE = 5.0, 30.0
#: Seconds that a task relies on what it was told.
_TRUST = 2.0


def process_name() -> str:
    """Host and process, as leases and failures name them."""
    return f"{socket.gethostname()}:{os.getpid()}"


def machine() -> str | None:
    """Return what tells the process ids of this system from those of another, and of a container; None: unknown.

    Containers may all have the name of their host, and each counts its processes from 1.
    """
    if sys.platform != "linux":
        return sys.platform
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


class _LeaseLoss(KeyboardInterrupt):
    """Raised in the thread of a driver whose lease was taken."""


class _Lease:
    """The lease of this process on an object."""

    def __init__(self, lock: Address) -> None:
        self.lock, self.id, self.count, self.driver = lock, uuid.uuid4().hex, 0, threading.get_ident()
        self.tag = self._take()
        self.lost, self._end = False, threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _content(self) -> bytes:
        self.count += 1
        facts = {"holder": process_name(), "machine": machine(), "lease": self.id, "renewed": self.count}
        return json.dumps(facts).encode()

    def _take(self) -> str:
        """Take the lease, waiting as long as it may be nobody's."""
        seen, since = None, time.monotonic()
        while True:
            found = self.lock.tagged()
            if found is None:
                tag = self.lock.put_if(self._content(), None)
            else:
                content, there = found
                if _read(content).get("lease") == self.id:  # put, but the answer was lost
                    return there
                if seen is not None and there != seen:
                    root = self.lock.parent.parent
                    raise RunError(f"{root} is being run by another process; wait for it or stop it")
                tag = None
                if _is_gone(content) or time.monotonic() - since > STALE:
                    tag = self.lock.put_if(self._content(), there)
                seen = there
            if tag is not None:
                return tag
            time.sleep(0.5)

    def _renew(self) -> None:
        while not self._end.wait(RENEW):
            try:
                tag = self.lock.put_if(content := self._content(), self.tag)
                if tag is None:
                    found = self.lock.tagged()  # it may have been put, but the answer was lost
                    tag = found[1] if found is not None and found[0] == content else None
            except RunError:
                continue  # the store does not answer: asked again
            if tag is None:
                self.lost = True
                # not by a signal, which a driver in the background may ignore
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.driver), ctypes.py_object(_LeaseLoss))
                return
            self.tag = tag

    def release(self) -> None:
        """Give the lease back."""
        self._end.set()
        self._thread.join()
        if not self.lost:
            with suppress(RunError, OSError):
                self.lock.unlink(missing_ok=True)


class BucketLease:
    """Who works on a run whose store is in a bucket: the same methods as `tiledsky.engine.locks.FolderLocks`."""

    takes_slices = False

    def __init__(self, root: ObjectStore) -> None:
        self.root, self.lock = root, root / RUN_FOLDER / DRIVER

    @contextmanager
    def locked(self) -> Iterator[str]:
        """Keep other drivers out; yield the id of the lease.

        Raises
        ------
        RunError
            Another process has it, or took it while this one was held up.
        """
        lease = _Lease(self.lock)
        try:
            yield lease.id
        except _LeaseLoss:
            raise RunError(
                f"{self.root}: this process did not renew its lease in {STALE:.0f} s, and another "
                "process now drives the run; finished tasks are kept"
            ) from None
        finally:
            lease.release()

    def shared(self, name: str, what: str, *, patience: float) -> AbstractContextManager[str]:
        """Refuse: a lease is of one process."""
        raise RunError(
            f"{self.root}: slices of a job array need a folder that all jobs see; change --out, or use a cluster"
        )

    def working(self, call: str) -> AbstractContextManager[None]:
        """Put and delete only as long as a driver has the lease ``call``; else RunError."""
        asked = -math.inf

        def check() -> None:
            nonlocal asked
            if time.monotonic() - asked < _TRUST:
                return
            found = self.lock.tagged()
            held = _read(found[0]) if found is not None else {}
            if held.get("lease") != call:
                who = f"is driven by another call now, of {held['holder']}" if "holder" in held else "has no driver"
                raise RunError(f"{self.root} {who}; this task ends")
            asked = time.monotonic()

        return may_put(check)

    def end(self, call: str) -> None:
        """Do nothing: the lease ends when it is given back."""

    def wait_for_tasks(self, *, seconds: float) -> bool:
        """Return True: tasks of an earlier driver may meet those of the next."""
        return True


def _read(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _is_gone(content: bytes) -> bool:
    """Whether a lease is of a process of this machine, and of this container, that is there no more."""
    held, here = _read(content), machine()
    host, _, process = str(held.get("holder", "")).rpartition(":")
    if here is None or held.get("machine") != here or host != socket.gethostname() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
