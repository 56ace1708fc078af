"""Processes that end in the middle of a commit: what is left is never taken for done, and the bytes are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from tests.engine.scenes import KEEPING
from tests.faults import trap
from tests.faults.conftest import TILE
from tests.faults.ledger import Tally
from tiledsky import open_run, run
from tiledsky.cluster.local import local_client


def sweep(image: Path, folder: Path, *parts: list[str]) -> Counter[str]:
    """End tasks at every step of their commit, in processes side by side; return how many were ended, by what."""
    total: Counter[str] = Counter()
    sweeps = []
    for number, words in enumerate(parts):
        (folder / str(number)).mkdir()
        place = [str(image), str(folder / str(number)), str(TILE)]
        command = [sys.executable, "-m", "tests.faults.commit_steps", *place, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        sweeps.append(subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes))  # type: ignore[call-overload]
    for process in sweeps:
        stdout, stderr = process.communicate(timeout=1800)
        assert process.returncode == 0, stderr[-3000:]
        *stages, end = map(json.loads, stdout.splitlines())
        assert [(stage["stage"], stage["failures"]) for stage in stages if stage["failures"]] == []
        assert end == {"computed": 0, "same": True}
        for stage in stages:
            total += Counter(stage["counts"])
    return total


@pytest.mark.row("commit")
def test_every_step_of_a_mask(image: Path, tmp_path: Path, tally: Tally) -> None:
    counts = sweep(image, tmp_path, ["one", "found-mask"])
    assert counts["kill"] == counts["power"] > 20
    assert counts["half"] >= 4
    assert counts["late"] == counts["ended"] >= counts["kill"]
    tally.add(counts.total())


@pytest.mark.faults
@pytest.mark.row("commit")
def test_every_step_of_every_task(image: Path, finished: Path, tmp_path: Path, tally: Tally) -> None:
    plan, layout = open_run(finished).plan, open_run(finished).store.layout
    stages = [stage.name for stage in plan.stages]
    counts = sweep(image, tmp_path, ["all", *stages[::2]], ["all", *stages[1::2]])
    # every file and the marker of a task: made, synced, renamed, its name synced
    steps = [[4 + 4 * len(layout.objects(stage, index)) for index in plan.grid(stage)] for stage in plan.stages]
    assert counts["kill"] >= sum(map(sum, steps)) > 900
    first = sum(tasks[0] for tasks in steps)  # one task of every stage
    assert counts["power"] >= first
    assert counts["late"] == counts["ended"] >= first
    assert counts["half"] >= sum(map(sum, steps)) / 4
    tally.add(counts.total())


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """Client of a cluster whose workers end as the file beside it says."""
    plan = tmp_path_factory.mktemp("trap") / "plan.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(trap.PLAN, str(plan))
        with dask.config.set(trap.PRELOAD), local_client(workers=2, threads=1, memory_limit="2GB") as client:
            client.wait_for_workers(2)
            yield client, plan


#: Tasks of every kind of stage that writes.
ONE = [("found-mask", [0, 1])]
SEVERAL = [
    ("ingest", [0, 0]),
    ("ring", [1, 1]),
    ("found-statistics", [0, 0]),
    ("last-maps", [0, 0]),
    ("last-noise", [0, 0]),
    ("output", [1, 0]),
]
SHORT = [("object not renamed", "half", SEVERAL[1:3], 1)]
LONG = [
    ("object not renamed", "half", SEVERAL, 1),
    *((step, "kill", SEVERAL, 1) for step in trap.STEPS),
    *((step, "segv", ONE, 3) for step in trap.STEPS),
    # once each: a task may be blamed for what its neighbours did, and then dies twice alone only if it is to blame
    *((step, "kill", [*ONE, ("found-mask", [0, 0]), ("found-mask", [1, 1])], 1) for step in trap.STEPS),
    ("nothing begun", "half", ONE, 3),
    ("marker not begun", "half", SEVERAL, 1),
]


Survives = Callable[[str, str, Any, int], None]


@pytest.fixture
def survives(trapped: Any, image: Path, tmp_path: Path, whole: dict[str, str], tally: Tally) -> Survives:
    """Run while workers end at a step of some tasks, and compare the bytes."""
    client, plan = trapped

    def check(step: str, strike: str, tasks: Any, times: int) -> None:
        notes = trap.plant(plan, tasks, step, strike, times=times)
        result = run(image, KEEPING, tmp_path / "run.zarr", tile_size=TILE, client=client)
        plan.unlink()
        counts = Counter(trap.struck(notes))
        assert counts.keys() == {f"{stage} {y}.{x}" for stage, (y, x) in tasks}
        # a task whose marker is there is done, told or not
        assert set(counts.values()) == {1 if step == "marker not told" else times}
        assert result.complete
        tally.tried += counts.total()
        tally.compare(result.path, whole)
        tally.survived += counts.total()

    return check


@pytest.mark.row("worker")
@pytest.mark.parametrize(("step", "strike", "tasks", "times"), SHORT)
def test_worker_ends(survives: Survives, step: str, strike: str, tasks: Any, times: int) -> None:
    survives(step, strike, tasks, times)


@pytest.mark.faults
@pytest.mark.row("worker")
@pytest.mark.parametrize(("step", "strike", "tasks", "times"), LONG)
def test_worker_ends_at_any_step(survives: Survives, step: str, strike: str, tasks: Any, times: int) -> None:
    survives(step, strike, tasks, times)
