"""Tasks that fail, kill their worker or hang: tried again, set aside, and the run goes on where it ended."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from astropy.io import fits

from tests.engine import planted
from tests.engine.scenes import make_planes, stored_bytes
from tiledsky import Recipe, open_run, run
from tiledsky.cluster.local import local_client
from tiledsky.engine import executors, locks, tasks
from tiledsky.engine.attempt import StageTasks, attempt
from tiledsky.engine.leases import process_name
from tiledsky.engine.runner import Progress
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.folders import LocalFolder

TILE = 100
RINGS = 6
#: Tiles and a mesh, in as few tasks as can be: 25.
SMALL = Recipe.from_dict(
    {
        "name": "small",
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2, "keep": True},
            {"kind": "background", "name": "bare", "box_size": 10, "mask": "none"},
        ],
    }
)
faults = pytest.mark.faults


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(path)
    return path


@pytest.fixture(scope="module")
def whole(image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """Number of tasks and bytes of an undisturbed run."""
    result = run(image, SMALL, tmp_path_factory.mktemp("whole") / "run.zarr", tile_size=TILE)
    return result.plan.n_tasks, stored_bytes(result.path)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """Client of a cluster whose tasks fail as the file beside it says."""
    plan = tmp_path_factory.mktemp("planted") / "plan.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(planted.PLAN, str(plan))
        with dask.config.set(planted.PRELOAD), local_client(workers=2, threads=1, memory_limit="2GB") as client:
            client.wait_for_workers(2)
            yield client, plan


def count(notes: Path) -> int:
    """How often a planted fault struck."""
    return len(notes.read_text().splitlines())


def records(out: Path) -> dict[str, Any]:
    return {p.relative_to(out / "run/failed").as_posix(): json.loads(p.read_text())
            for p in (out / "run").glob("failed/*/*.json")}  # fmt: skip


def assert_repaired(client: Any, plan: Path, image: Path, out: Path, whole: Any, *, computed: int) -> None:
    """Without the fault the same call does what is left, and nothing is left of the failure."""
    plan.unlink()
    states: list[Progress] = []
    result = run(image, SMALL, out, tile_size=TILE, client=client, progress=states.append)
    assert result.provenance["tasks_computed_last"] == len(states) == computed
    assert [s.done for s in states] == list(range(whole[0] - computed + 1, whole[0] + 1))
    assert {(s.total, s.resumed) for s in states} == {(whole[0], whole[0] - computed)}
    assert stored_bytes(out) == whole[1]
    assert not (out / "run/failed").exists()


@pytest.mark.parametrize(
    ("what", "late", "times"),
    [
        ("transient", False, 2),
        ("kill", True, 1),
        pytest.param("transient", True, 1, marks=faults),
        pytest.param("kill", False, 1, marks=faults),
        pytest.param("kill", True, 3, marks=faults),
        pytest.param("segv", False, 2, marks=faults),
    ],
)
def test_what_passes(faulty: Any, image: Path, tmp_path: Path, whole: Any, what: str, late: bool, times: int) -> None:
    client, plan = faulty
    notes = planted.plant(plan, "ring", [0, 2], what, times=times, late=late)
    result = run(image, SMALL, tmp_path / "run.zarr", tile_size=TILE, client=client)
    assert count(notes) == times
    assert result.complete
    assert stored_bytes(result.path) == whole[1]
    assert not (result.path / "run/failed").exists()


@pytest.mark.parametrize(
    ("what", "exception", "attempts"),
    [
        ("error", "ValueError", 1),
        ("segv", "KilledWorker", 4),
        pytest.param("transient", "ConnectionResetError", 3, marks=faults),
        pytest.param("kill", "KilledWorker", 4, marks=faults),
    ],
)
def test_what_does_not_pass(
    faulty: Any, image: Path, tmp_path: Path, whole: Any, what: str, exception: str, attempts: int
) -> None:
    (client, plan), out = faulty, tmp_path / "run.zarr"
    notes = planted.plant(plan, "ring", [0, 2], what)
    message = (
        rf"1 of 6 tasks of stage ring failed; tile \(0, 2\) \(rows 0:100, columns 200:210\): {exception}: .*; "
        r"finished tasks are kept, the same command goes on; details in .*run.zarr/run/failed/ring"
    )
    with pytest.raises(RunError, match=message):
        run(image, SMALL, out, tile_size=TILE, client=client)
    assert count(notes) == attempts
    assert not (out / "run/_SUCCESS").exists()
    with pytest.raises(RunError, match="is not finished"):
        open_run(out)
    assert len(list((out / "run/markers/ring").iterdir())) == RINGS - 1
    (record,) = records(out).values()
    assert list(records(out)) == ["ring/0.2.json"]
    found = record["stage"], record["tile"], record["rows"], record["columns"], record["exception"], record["attempts"]
    assert found == ("ring", [0, 2], [0, 100], [200, 210], exception, attempts)
    assert record["worker"]
    assert ("planted" in record["traceback"]) == (exception != "KilledWorker")
    assert_repaired(client, plan, image, out, whole, computed=whole[0] - RINGS - (RINGS - 1))


def test_tasks_in_groups(faulty: Any, image: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get four tasks at once: one that fails is tried alone, one that kills takes no other with it."""
    (client, plan), out = faulty, tmp_path / "run.zarr"
    monkeypatch.setattr(executors, "FIRST", 2)
    monkeypatch.setattr(executors, "tasks_together", lambda count, **options: 4)
    for what, times in (("transient", 2), ("kill", 1)):
        notes = planted.plant(plan, "ring", [0, 2], what, times=times)
        result = run(image, SMALL, tmp_path / f"{what}.zarr", tile_size=TILE, client=client)
        assert count(notes) == times
        assert stored_bytes(result.path) == whole[1]
    planted.plant(plan, "ring", [0, 2], "error")
    with pytest.raises(RunError, match=r"1 of 6 tasks of stage ring failed; tile \(0, 2\) .*: ValueError: "):
        run(image, SMALL, out, tile_size=TILE, client=client)
    assert list(records(out)) == ["ring/0.2.json"]
    assert_repaired(client, plan, image, out, whole, computed=whole[0] - RINGS - (RINGS - 1))


def test_scheduler_that_is_lost_before_the_first_task(tmp_path: Path) -> None:
    with local_client(workers=1, threads=1) as client:
        pass
    with pytest.raises(RunError, match="the connection to the Dask scheduler was lost; finished tasks are kept"):
        executors.DaskExecutor(client, LocalFolder(tmp_path), "0123456789abcdef", "", executors.Options())


@faults
def test_tasks_that_all_kill_their_worker(faulty: Any, image: Path, tmp_path: Path, whole: Any) -> None:
    (client, plan), out = faulty, tmp_path / "run.zarr"
    planted.plant(plan, "ring", None, "kill", times=5)
    result = run(image, SMALL, out, tile_size=TILE, client=client)
    assert stored_bytes(result.path) == whole[1]


@faults
def test_gather_task_that_kills_its_worker(faulty: Any, image: Path, tmp_path: Path, whole: Any) -> None:
    (client, plan), out = faulty, tmp_path / "run.zarr"
    planted.plant(plan, "mesh", None, "kill")
    with pytest.raises(RunError, match=r"1 of 1 tasks of stage bare-mesh failed; .* also with nothing else on the clu"):
        run(image, SMALL, out, tile_size=TILE, client=client)
    assert list(records(out)) == ["bare-mesh/0.0.json"]
    done = len(list((out / "run/markers").glob("*/*.json")))
    assert_repaired(client, plan, image, out, whole, computed=whole[0] - done)


def test_mesh_that_workers_share(faulty: Any, tmp_path: Path) -> None:
    """Two workers do tiles of one mesh at the same time, and one is killed on the way: the bytes are the same."""
    (client, plan), image = faulty, tmp_path / "image.fits"
    fits.PrimaryHDU(make_planes((330, 490))["science"]).writeto(image)
    recipe = Recipe.from_dict(
        {
            "name": "fitted",
            "steps": [
                {
                    "kind": "background",
                    "name": "sky",
                    "box_size": 5,
                    "interpolator": {"kind": "local-polynomial", "robust_bandwidth": 20},
                }
            ],
        }
    )
    expected = stored_bytes(run(image, recipe, tmp_path / "whole.zarr", tile_size=TILE).path)
    for kind in ("scores", "fit"):
        notes = planted.plant(plan, kind, None, "slow")
        shared = run(image, recipe, tmp_path / f"{kind}.zarr", tile_size=TILE, client=client)
        assert len(set(notes.read_text().split())) == 2
        assert count(notes) == len(shared.plan.grid(shared.plan.stage(f"sky-{kind}"))) == 3 * 4
        assert stored_bytes(shared.path) == expected
    notes = planted.plant(plan, "fit", [1, 2], "kill", times=1, late=True)
    killed = run(image, recipe, tmp_path / "killed.zarr", tile_size=TILE, client=client)
    assert count(notes) == 1
    assert stored_bytes(killed.path) == expected
    plan.unlink()


def test_merge_of_a_block_that_ends_its_worker(faulty: Any, image: Path, tmp_path: Path) -> None:
    """Statistics of 36 tiles, merged in blocks, are those of one tile; also if a worker ends on the way."""
    client, plan = faulty
    tier = {"n_sigma": 2.0, "fwhm": 2.0, "center": "median", "noise": "mad_std", "reliability": 0.5}
    steps = [
        {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2},
        {"kind": "mask", "name": "found", "tiers": [tier], "keep": True},
        {"kind": "background", "name": "sky", "box_size": 6, "mask": "found"},
    ]
    recipe = Recipe.from_dict({"name": "merging", "steps": steps})
    one = run(image, recipe, tmp_path / "one.zarr", tile_size=300)
    assert not one.plan.merged
    notes = planted.plant(plan, "merge", [1, 1], "kill", times=1, late=True)
    many = run(image, recipe, tmp_path / "many.zarr", tile_size=36, client=client)
    plan.unlink()
    assert count(notes) == 1
    assert set(many.plan.merged) == {"found-histogram", "found-refine", "found-detections"}
    whole, tiled = ((r.path / "run/thresholds/found.json").read_bytes() for r in (one, many))
    assert tiled == whole


def test_hung_task(faulty: Any, image: Path, tmp_path: Path, whole: Any) -> None:
    """The last task of a run, so that no other runs against the clock."""
    (client, plan), out = faulty, tmp_path / "run.zarr"
    planted.plant(plan, "output", [1, 1], "error")
    with pytest.raises(RunError, match="1 of 6 tasks of stage output failed"):
        run(image, SMALL, out, tile_size=TILE, client=client)
    notes = planted.plant(plan, "output", [1, 1], "hang")
    message = r"tile \(1, 1\) .*: TaskTimeout: no end after 8 s, 2 times; raise --task-timeout if it is only slow"
    with pytest.raises(RunError, match=message):
        run(image, SMALL, out, tile_size=TILE, client=client, task_timeout=8)
    assert count(notes) == 2
    assert len(list((out / "run/markers/output").iterdir())) == 5
    (record,) = records(out).values()
    assert (record["exception"], record["attempts"]) == ("TaskTimeout", 2)
    assert "time.sleep(600)" in record["traceback"]
    planted.plant(plan, "output", [1, 1], "hang", times=1)
    result = run(image, SMALL, out, tile_size=TILE, client=client, task_timeout=20)
    assert stored_bytes(result.path) == whole[1]
    assert not [p.name for p in (out / "run").rglob("*timeout*")]


def test_disk_full_ends_the_stage(faulty: Any, image: Path, tmp_path: Path, whole: Any) -> None:
    (client, plan), out = faulty, tmp_path / "run.zarr"
    notes = planted.plant(plan, "ingest", None, "full")
    with pytest.raises(RunError, match=r"No space left on device; tile .*; make room, then the same command goes on"):
        run(image, SMALL, out, tile_size=30, client=client)
    assert count(notes) < 56
    assert not records(out)
    plan.unlink()
    run(image, SMALL, out, tile_size=30, client=client)


# --- in this process


def test_errors_that_may_pass_here(image: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    works, failed = tasks.perform, []

    def fails(operation: Any, task: Any) -> Any:
        if operation.kind == "ring" and task.index == (1, 0) and len(failed) < 2:
            failed.append(task.index)
            raise OSError(errno.ESTALE, "planted")
        return works(operation, task)

    monkeypatch.setattr(tasks, "perform", fails)
    result = run(image, SMALL, tmp_path / "run.zarr", tile_size=TILE)
    assert len(failed) == 2
    assert stored_bytes(result.path) == whole[1]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(PermissionError(errno.EACCES, "no"), 1), (MemoryError("no room"), 1), (TimeoutError("late"), 3)],
)
def test_attempts_by_error(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, attempts: int
) -> None:
    calls, works = [], tasks.perform

    def fails(operation: Any, task: Any) -> Any:
        if operation.kind != "mesh":
            return works(operation, task)
        calls.append(task)
        raise error

    monkeypatch.setattr(executors, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(tasks, "perform", fails)
    with pytest.raises(RunError, match=f"1 of 1 tasks of stage bare-mesh failed; .*{type(error).__name__}"):
        run(image, SMALL, tmp_path / "run.zarr", tile_size=TILE)
    assert len(calls) == attempts
    assert [r["attempts"] for r in records(tmp_path / "run.zarr").values()] == [attempts]


def test_own_process_is_not_killed(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client

    works = tasks.perform

    def slow(operation: Any, task: Any) -> Any:
        if operation.kind == "bins":
            time.sleep(0.5)
        return works(operation, task)

    monkeypatch.setattr(tasks, "perform", slow)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        result = run(image, SMALL, tmp_path / "run.zarr", tile_size=TILE, client=client, task_timeout=0.2)
    assert result.complete


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_timeout_that_leaves_no_time(image: Path, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(
        ParameterError, match=r"a task timeout of .* s leaves no time for any task; use seconds above 0"
    ):
        run(image, SMALL, tmp_path / "run.zarr", task_timeout=seconds)


# --- what is left of an earlier call

HOLD = """
import sys, time
from pathlib import Path
from tiledsky.engine.locks import FolderLocks
from tiledsky.io.folders import LocalFolder
with FolderLocks(LocalFolder(Path(sys.argv[1]))).working(""):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.time())
"""


def hold(out: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_tasks_that_outlive_their_driver(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run.zarr"
    run(image, "sextractor", out)
    monkeypatch.setattr(locks, "_PATIENCE", 0.3)
    with hold(out, 60) as holder:
        assert not locks.FolderLocks(LocalFolder(out)).wait_for_tasks(seconds=0)
        before = stored_bytes(out)
        with pytest.raises(
            RunError, match=r"tasks of an earlier call still run on workers, and two tasks must not write one"
        ):
            run(image, "sextractor", out, restart=True)
        assert stored_bytes(out) == before
        holder.kill()
    monkeypatch.undo()
    with hold(out, 1.5) as holder:
        result = run(image, "sextractor", out, restart=True)
        released = float(holder.communicate()[0])
    first = min(p.stat().st_mtime for p in (out / "run/markers").glob("*/*.json"))
    assert first > released - 0.05, "did not wait"
    assert stored_bytes(result.path) == before


def test_cluster_without_workers(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_PATIENCE_HERE", 1.0)
    with local_client(workers=1) as client:
        client.cluster.scale(0)
        while client.scheduler_info()["workers"]:
            time.sleep(0.1)
        with pytest.raises(RunError, match="the scheduler has had no worker for 1 s; finished tasks are kept"):
            run(image, SMALL, tmp_path / "run.zarr", client=client)


def test_attempt_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    outcome = attempt(StageTasks(str(tmp_path), "x", "", "ring"), (0, 0))
    assert not isinstance(outcome, dict)
    assert (outcome.worker, outcome.transient) == (process_name(), False)
    assert "Traceback" in outcome.traceback
