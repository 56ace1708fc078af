"""Processes that end in the middle of a commit: what is left is never taken for done, and the bytes are the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from tests.faults import trap
from tests.faults.conftest import TILE
from tests.faults.ledger import Tally
from tests.run.scenes import KEEPING
from tiledsky import run
from tiledsky.run.cluster import local_client


def sweep(image: Path, folder: Path, *words: str) -> Counter[str]:
    """End tasks at every step of their commit; return how many processes were ended, by what."""
    command = [sys.executable, "-m", "tests.faults.commit_steps", str(image), str(folder), str(TILE), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    *stages, end = map(json.loads, done.stdout.splitlines())
    assert [(stage["stage"], stage["failures"]) for stage in stages if stage["failures"]] == []
    assert end == {"computed": 0, "same": True}
    total: Counter[str] = Counter()
    for stage in stages:
        total += Counter(stage["counts"])
    return total


@pytest.mark.row("commit")
def test_every_step_of_a_mask(image: Path, tmp_path: Path, tally: Tally) -> None:
    counts = sweep(image, tmp_path, "one", "found-mask")
    assert counts["kill"] == counts["power"] > 25
    assert counts["half"] >= 4
    tally.add(counts.total())


@pytest.mark.faults
@pytest.mark.row("commit")
def test_every_step_of_every_task(image: Path, tmp_path: Path, tally: Tally) -> None:
    counts = sweep(image, tmp_path, "all")
    assert counts["kill"] == counts["power"] > 1000
    assert counts["half"] > 150
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
SEVERAL = [("ingest", [0, 0]), ("ring", [1, 1]), ("found-statistics", [0, 0]), ("last-mesh", [0, 0]), ("output", [1, 0])]
SHORT = [("marker removed", "kill", ONE, 1), ("object not renamed", "half", SEVERAL, 1), ("marker not told", "segv", ONE, 1)]
LONG = [
    *((step, "kill", SEVERAL, 1) for step in trap.STEPS),
    *((step, "segv", ONE, 3) for step in trap.STEPS),
    *((step, "kill", [*ONE, ("found-mask", [0, 0]), ("found-mask", [1, 1])], 2) for step in trap.STEPS),
    ("objects deleted", "half", ONE, 3),
    ("marker not begun", "half", SEVERAL, 1),
]


def survives(
    trapped: Any, image: Path, out: Path, whole: dict[str, str], tally: Tally, step: str, strike: str, tasks: Any, times: int
) -> None:
    client, plan = trapped
    notes = trap.plant(plan, tasks, step, strike, times=times)
    result = run(KEEPING, image, out, tile_size=TILE, client=client)
    plan.unlink()
    names = [f"{stage} {y}.{x}" for stage, (y, x) in tasks]
    counts = Counter(trap.struck(notes))
    # a worker that is killed together with another may have been struck for a task that is then done by nobody
    assert counts.keys() <= set(names)
    assert all(1 <= count <= times for count in counts.values())
    assert counts.total() >= 1
    tally.tried += counts.total()
    assert result.complete
    tally.compare(out, whole)
    tally.survived += counts.total()


@pytest.mark.row("worker")
@pytest.mark.parametrize(("step", "strike", "tasks", "times"), SHORT)
def test_worker_ends(trapped: Any, image: Path, tmp_path: Path, whole: Any, tally: Tally, step: str, strike: str,
                     tasks: Any, times: int) -> None:  # fmt: skip
    survives(trapped, image, tmp_path / "run.zarr", whole, tally, step, strike, tasks, times)


@pytest.mark.faults
@pytest.mark.row("worker")
@pytest.mark.parametrize(("step", "strike", "tasks", "times"), LONG)
def test_worker_ends_at_any_step(trapped: Any, image: Path, tmp_path: Path, whole: Any, tally: Tally, step: str,
                                 strike: str, tasks: Any, times: int) -> None:  # fmt: skip
    survives(trapped, image, tmp_path / "run.zarr", whole, tally, step, strike, tasks, times)
