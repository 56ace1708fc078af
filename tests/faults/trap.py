"""Ends a process at a chosen step of what it does to the files of a run store; planted from outside.

Python tells of every open, rename and removal before it happens (audit events); syncs are watched by wrapping
``os.fsync``. As a module that Dask preloads in its workers it does what the file named by ``TRAP`` says.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAN = "TRAP"
PRELOAD = {"distributed.worker.preload": [__name__]}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Trap:
    """Calls ``strike`` at the first change of a file under ``root`` that ``when`` chooses.

    ``when`` gets the number of the change, its kind (open, remove, rename, mkdir, rmdir, sync) and the path.
    """

    def __init__(self, root: str, when: Callable[[int, str, str], bool], strike: Callable[[str], None]) -> None:
        self.root, self.when, self.strike, self.count = root, when, strike, 0
        self.unsynced: set[str] = set()

    def change(self, kind: str, path: str, before: str = "") -> None:
        """Hear of a change that is about to happen; ``before``: the name of a file that is renamed."""
        if not path.startswith(self.root):
            return
        self.count += 1
        if self.when(self.count - 1, kind, path[len(self.root) + 1 :]):
            self.strike(path)
        if kind == "open" or before in self.unsynced:
            self.unsynced.add(path)
        self.unsynced.discard(path if kind == "sync" else before)

    def cut_power(self, path: str) -> None:
        """Empty the files that were not synced, as a system may that loses its power, and end this process."""
        files = list(map(Path, self.unsynced))
        self.root = "nothing more"
        for file in files:
            if file.is_file():
                file.write_bytes(b"")
        kill(path)


_set: Trap | None = None


def arm(trap: Trap | None) -> None:
    """Set a trap, or none."""
    global _set
    _set = trap


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _set is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | os.PathLike) and flags & _WRITES:
            _set.change("open", os.fspath(path))
    elif event in ("os.remove", "os.mkdir", "os.rmdir"):
        _set.change(event[3:], os.fspath(arguments[0]))
    elif event == "os.rename":
        _set.change("rename", os.fspath(arguments[1]), os.fspath(arguments[0]))


def _watch_syncs() -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if _set is not None:
            _set.change("sync", os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    os.fsync = fsync


def kill(path: str) -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash(path: str) -> None:
    """End this process by a bad address."""
    ctypes.string_at(0)


def half(path: str, size: int = 40) -> None:
    """Let the system end this process once a file that it writes is longer than this."""
    ctypes.CDLL(None).signal(signal.SIGXFSZ, None)  # which Python ignores; from any thread
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def stop(path: str) -> None:
    """Suspend this process, as that of a machine that sleeps, until somebody wakes it."""
    os.kill(os.getpid(), signal.SIGSTOP)


STRIKES: dict[str, Callable[[str], None]] = {"kill": kill, "segv": crash, "half": half, "stop": stop}


def _is_object(path: str) -> bool:
    """Whether a file is no marker and describes nothing; or, where names are synced, the folder of such files."""
    path = f"{path}/"
    return not path.startswith("run/") or path.startswith(("run/summaries/", "run/thresholds/"))


def _begun(path: str) -> bool:
    """Whether a file has its temporary name yet; those of markers and other JSON end in ``.json.`` and a number."""
    return path.startswith("run/calls/")


#: Steps of a commit by name.
STEPS: dict[str, Callable[[str, str], bool]] = {
    "nothing begun": lambda kind, path: kind == "open" and _begun(path),
    "object not synced": lambda kind, path: kind == "sync" and _begun(path),
    "object not renamed": lambda kind, path: kind == "rename" and _is_object(path),
    "name not synced": lambda kind, path: kind == "sync" and _is_object(path),
    "marker not begun": lambda kind, path: kind == "open" and _begun(path) and ".json." in path,
    "marker not synced": lambda kind, path: kind == "sync" and _begun(path) and ".json." in path,
    "marker not renamed": lambda kind, path: kind == "rename" and path.startswith("run/markers/"),
    "marker not told": lambda kind, path: kind == "sync" and path.startswith("run/markers/"),
}


def plant(plan: Path, tasks: list[tuple[str, list[int] | None]], step: str, strike: str, *, times: int = 1) -> Path:
    """Say at which step of which tasks (stage, tile) workers end, how, and how often; return the file of notes."""
    notes = plan.with_suffix(".notes")
    notes.unlink(missing_ok=True)
    plan.with_suffix(".new").write_text(json.dumps({"tasks": tasks, "step": step, "strike": strike, "times": times}))
    plan.with_suffix(".new").replace(plan)
    return notes


def struck(notes: Path) -> list[str]:
    """Tasks that were struck, in their order."""
    return notes.read_text().splitlines() if notes.exists() else []


def _trap_of(root: str, stage: str, index: tuple[int, int]) -> Trap | None:
    file = Path(os.environ[PLAN])
    try:
        plan = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    name = f"{stage} {index[0]}.{index[1]}"
    notes = file.with_suffix(".notes")
    if [stage, list(index)] not in plan["tasks"] or struck(notes).count(name) >= plan["times"]:
        return None
    chosen, strike = STEPS[plan["step"]], STRIKES[plan["strike"]]

    def note_and_strike(path: str) -> None:
        arm(None)
        with notes.open("a") as out:
            out.write(f"{name}\n")
        strike(path)

    return Trap(root, lambda number, kind, path: chosen(kind, path), note_and_strike)


def _plant_here() -> None:
    from tiledsky.engine import attempt

    execute = attempt.execute

    def trapped(root: str, run_id: str, stage: str, index: tuple[int, int], *others: Any) -> dict[str, Any]:
        arm(_trap_of(root, stage, index))
        try:
            return execute(root, run_id, stage, index, *others)
        finally:
            arm(None)

    attempt.execute = trapped


sys.addaudithook(_hear)
_watch_syncs()
if PLAN in os.environ:
    _plant_here()
