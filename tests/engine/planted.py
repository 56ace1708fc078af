"""Faults for the tasks of worker processes, which load this module by Dask's setting ``distributed.worker.preload``.

The file named by the environment variable ``PLANTED`` says what goes wrong, where, and how often; every time is noted
beside it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tiledsky.engine import tasks

PLAN = "PLANTED"
PRELOAD = {"distributed.worker.preload": [__name__]}


def fault(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "segv":
        ctypes.string_at(0)
    elif what == "hang":
        time.sleep(600)
    elif what == "slow":
        time.sleep(0.3)
    elif what == "transient":
        raise ConnectionResetError(errno.ECONNRESET, "planted")
    elif what == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    else:
        raise ValueError("planted")


def plant(
    plan: Path, kind: str, index: list[int] | None, what: str, *, times: int = 1 << 30, late: bool = False
) -> Path:
    """Say what goes wrong in tasks of a kind; ``late``: after they wrote their objects. Return the file of notes."""
    notes = plan.with_suffix(".notes")
    notes.unlink(missing_ok=True)
    text = json.dumps({"kind": kind, "index": index, "what": what, "times": times, "late": late})
    plan.with_suffix(".new").write_text(text)
    plan.with_suffix(".new").replace(plan)
    return notes


def _strike(kind: str, index: tuple[int, int], *, late: bool) -> None:
    try:
        plan = json.loads(Path(os.environ[PLAN]).read_text())
    except FileNotFoundError:
        return
    if (plan["kind"], plan["late"]) != (kind, late) or plan["index"] not in (None, list(index)):
        return
    notes = Path(os.environ[PLAN]).with_suffix(".notes")
    if notes.exists() and len(notes.read_text().splitlines()) >= plan["times"]:
        return
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    fault(plan["what"])


def _planted(works: Any) -> Any:
    def perform(operation: Any, task: Any) -> Any:
        _strike(operation.kind, task.index, late=False)
        written = works(operation, task)
        _strike(operation.kind, task.index, late=True)
        return written

    return perform


if PLAN in os.environ:
    tasks.perform = _planted(tasks.perform)
