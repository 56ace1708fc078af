"""Ends or suspends the process of a task at every step of its commit; run in a process of its own, which forks them.

``python -m tests.faults.commit_steps IMAGE FOLDER TILE one|all STAGE...`` prints one line of JSON for each stage: how
many processes were ended or suspended, by what, and what went wrong. One tile or all tiles of the stages are tried; no
stage: all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.scenes import KEEPING, stored_bytes
from tests.faults import trap
from tiledsky import run
from tiledsky.engine.locks import FolderLocks
from tiledsky.engine.plan import Stage
from tiledsky.engine.runner import prepare
from tiledsky.engine.tasks import execute
from tiledsky.engine.verify import Checker
from tiledsky.io.folders import LocalFolder
from tiledsky.io.store import size_and_crc

#: Chooses a change of a file by its number and kind.
When = Callable[[int, str], bool]


class Sweep:
    """The tasks of a run, each ended at each of its steps."""

    def __init__(self, image: Path, folder: Path, tile: int) -> None:
        run(image, KEEPING, folder / "whole.zarr", tile_size=tile)  # what forked processes find in memory: the kernels
        self.whole = stored_bytes(folder / "whole.zarr")
        self.out = folder / "run.zarr"
        self.image, self.tile = image, tile
        self.prepared = prepare(KEEPING, image, self.out, tile_size=tile)
        with self.prepared.locked(restart=False):
            self.prepared.create()
        self.folder = LocalFolder(self.out)
        self.locks = FolderLocks(self.folder)
        self.call = self.locks.begin()
        self.checker = Checker(self.folder, self.prepared.run_id, self.prepared.layout)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def start(self, stage: Stage, index: tuple[int, int], set_trap: Callable[[], None] | None = None) -> int:
        """Begin a task in a forked process; return its id."""
        pid = os.fork()
        if pid == 0:
            try:
                if set_trap is not None:
                    set_trap()
                with self.locks.working(self.call):
                    execute(str(self.out), self.prepared.run_id, stage.name, index)
                os._exit(0)
            except BaseException as error:
                print(f"{stage.name} {index}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        return pid

    def child(self, stage: Stage, index: tuple[int, int], set_trap: Callable[[], None] | None = None) -> int:
        """Do a task in a forked process; return how that ended, as `os.waitstatus_to_exitcode` says."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(stage, index, set_trap), 0)[1])

    def stage(self, stage: Stage, tasks: int) -> dict[str, Any]:
        """End the first tasks of a stage at every step."""
        self.counts.clear()
        self.failures.clear()
        for number, index in enumerate(self.prepared.plan.grid(stage)):
            if self.child(stage, index) != 0:
                self.failures.append(f"{index}: not done")
            elif number < tasks:
                self.task(stage, index, ("kill", "half") if number else ("kill", "power", "half"))
        return {"stage": stage.name, "counts": dict(self.counts), "failures": list(self.failures)}

    def task(self, stage: Stage, index: tuple[int, int], strikes: tuple[str, ...]) -> None:
        """End a task at every step, from a damaged state in which there is most to do."""
        marker = self.checker.marker(stage, index)
        assert marker is not None
        objects = {o["path"]: (o["size"], o["crc32"]) for o in marker["objects"]}
        for strike, suspend in (("late", self._late), ("ended", self._ended)) if "power" in strikes else ():
            number = 0
            while suspend(stage, index, objects, number):
                number += 1
            self.counts[strike] += number
        for strike in strikes:
            number, chosen = 0, _opened if strike == "half" else _numbered
            while self._strike(stage, index, objects, strike, chosen(number)):
                number += 1

    def _strike(
        self,
        stage: Stage,
        index: tuple[int, int],
        objects: dict[str, Any],
        strike: str,
        when: Callable[[int, str], bool],
    ) -> bool:
        """Damage what is there, end the task that repairs it, look at what is left, repair; False: not ended."""
        victim = self.out / next(iter(objects))
        victim.write_bytes(victim.read_bytes()[:-1])
        sizes = [size for size, _ in objects.values()]

        def set_trap() -> None:
            planted = trap.Trap(str(self.out), lambda n, kind, path: when(n, kind), trap.kill)
            if strike == "power":
                planted.strike = planted.cut_power
            elif strike == "half":
                planted.strike = lambda path: trap.half(path, min(min(sizes) // 2, 300))
            trap.arm(planted)

        code = self.child(stage, index, set_trap)
        expected = -signal.SIGXFSZ if strike == "half" else -signal.SIGKILL
        if code not in (0, expected):
            self.failures.append(f"{index} {strike}: ended with {code}")
        if self.checker.markers.read(stage.name, index) is not None and not self._right(objects):
            self.failures.append(f"{index} {strike}: taken for done")
        if self.child(stage, index) != 0 or not self._right(objects):
            self.failures.append(f"{index} {strike}: not repaired")
        if code == expected:
            self.counts[strike] += 1
        return code == expected

    def _suspended(self, stage: Stage, index: tuple[int, int], objects: dict[str, Any], when: When) -> tuple[int, bool]:
        """Begin a task that has something to do; return its process, and whether that is suspended at a step."""
        (self.out / self.checker.markers.name(stage.name, index)).unlink()
        for path in objects:
            (self.out / path).unlink()
        pid = self.start(
            stage, index, lambda: trap.arm(trap.Trap(str(self.out), lambda n, kind, path: when(n, kind), trap.stop))
        )
        return pid, os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])

    def _late(self, stage: Stage, index: tuple[int, int], objects: dict[str, Any], number: int) -> bool:
        """Suspend a task at a step until another process has done it: from then on all is there, at any moment."""
        pid, stopped = self._suspended(stage, index, objects, lambda n, kind: n >= number)
        if stopped and self.child(stage, index) != 0:
            self.failures.append(f"{index} late: not done by another process")
        status = 0
        for _ in range(1000 if stopped else 0):
            if self.checker.markers.read(stage.name, index) is None or not self._right(objects):
                self.failures.append(f"{index} late: damage done after step {number}")
            os.kill(pid, signal.SIGCONT)
            status = os.waitpid(pid, os.WUNTRACED)[1]
            if not os.WIFSTOPPED(status):
                break
        if os.waitstatus_to_exitcode(status) != 0 or not self._right(objects):
            self.failures.append(f"{index} late: not done in the end")
        return stopped

    def _ended(self, stage: Stage, index: tuple[int, int], objects: dict[str, Any], number: int) -> bool:
        """Suspend a task at a step until its call has ended: from then on it writes nothing."""
        pid, stopped = self._suspended(stage, index, objects, lambda n, kind: n == number)
        if stopped:
            self.locks.end(self.call)
            before = self._files()
            os.kill(pid, signal.SIGCONT)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if self._files() != before or (code == 0 and self.checker.markers.read(stage.name, index) is None):
                self.failures.append(f"{index} ended: written after the end, at step {number}")
            self.call = self.locks.begin()
        if self.child(stage, index) != 0 or not self._right(objects):
            self.failures.append(f"{index} ended: not repaired")
        return stopped

    def _files(self) -> dict[str, int]:
        """Files of the store, and when each was made; folders too."""
        return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in self.out.rglob("*")}

    def _right(self, objects: dict[str, tuple[int, int]]) -> bool:
        return all((self.out / path).is_file() and size_and_crc(self.folder, path) == o for path, o in objects.items())

    def finish(self) -> dict[str, Any]:
        """Finish the run: what was done is whole, and no task is left."""
        computed: list[Any] = []
        prepare(KEEPING, self.image, self.out, tile_size=self.tile).execute(progress=computed.append, verify="decode")
        return {"computed": len(computed), "same": stored_bytes(self.out) == self.whole}


def _numbered(number: int) -> Callable[[int, str], bool]:
    """Choose a change of a file by its number."""
    return lambda n, kind: n == number


def _opened(number: int) -> Callable[[int, str], bool]:
    """Choose the file that a task opens for writing after so many others."""
    seen = 0

    def when(_: int, kind: str) -> bool:
        nonlocal seen
        seen += kind == "open"
        return kind == "open" and seen == number + 1

    return when


def main() -> None:
    """Try one stage after the other, then finish the run."""
    sweep = Sweep(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    tasks, names = {"one": 1, "all": 1 << 30}[sys.argv[4]], sys.argv[5:]
    for stage in sweep.prepared.plan.stages:
        print(json.dumps(sweep.stage(stage, tasks if stage.name in names or not names else 0)), flush=True)
    print(json.dumps(sweep.finish()), flush=True)


if __name__ == "__main__":
    main()
