"""Runs that are stopped, damaged or killed go on with the same command and end with the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from astropy.io import fits

import tiledsky
from tests.engine.scenes import KEEPING, command, make_planes, stored_bytes, write_fits
from tiledsky import Recipe, open_run, run
from tiledsky.cluster import versions
from tiledsky.engine import tasks
from tiledsky.engine.changes import recipe_change
from tiledsky.engine.runner import Progress
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.files import is_temporary

TILE = 100


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(path)
    return path


@pytest.fixture(scope="module")
def whole(image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """Number of tasks and bytes of an undisturbed run."""
    result = run(image, KEEPING, tmp_path_factory.mktemp("whole") / "run.zarr", tile_size=TILE)
    return result.plan.n_tasks, stored_bytes(result.path)


def stop_after(count: int) -> Callable[[Progress], None]:
    def stop(state: Progress) -> None:
        if state.done == count:
            raise KeyboardInterrupt

    return stop


def stopped(image: Path, out: Path, count: int) -> None:
    """Leave a run that was interrupted after so many tasks."""
    with pytest.raises(KeyboardInterrupt):
        run(image, KEEPING, out, tile_size=TILE, progress=stop_after(count))


def goes_on(image: Path, out: Path, whole: tuple[int, dict[str, str]], *, computed: int) -> None:
    """The same call computes so many tasks and ends with the bytes of an undisturbed run."""
    states: list[Progress] = []
    result = run(image, KEEPING, out, tile_size=TILE, progress=states.append)
    assert len(states) == computed
    assert stored_bytes(out) == whole[1]
    assert result.complete
    if computed:
        assert result.provenance["tasks_computed_last"] == computed
        assert (states[-1].done, states[-1].total, states[-1].resumed) == (whole[0], whole[0], whole[0] - computed)


@pytest.mark.parametrize("count", [9, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 26))])
def test_interrupted(image: Path, tmp_path: Path, whole: Any, count: int) -> None:
    out = tmp_path / "run.zarr"
    stopped(image, out, count)
    with pytest.raises(
        RunError, match="is not finished, and parts of its planes are empty; finish it with the command"
    ):
        open_run(out)
    partial = open_run(out, allow_partial=True)
    assert not partial.complete
    assert "subtracted" in partial.planes
    goes_on(image, out, whole, computed=whole[0] - count)


def test_interrupted_before_anything_is_tidied(image: Path, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "run.zarr"
    stopped(image, out, whole[0])
    goes_on(image, out, whole, computed=0)


def test_interrupted_run_leaves_no_open_file(image: Path, tmp_path: Path) -> None:
    stopped(image, tmp_path / "run.zarr", 2)
    opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if
              os.path.exists(f"/proc/self/fd/{fd}")]  # fmt: skip
    assert not [name for name in opened if name.startswith(str(image)) or "run.zarr" in name]


def test_failing_tile_leaves_the_others_done(
    image: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, works = tmp_path / "run.zarr", tasks.perform

    def fails(operation: Any, task: Any) -> Any:
        if operation.kind == "ring" and task.index == (0, 2):
            raise MemoryError("no room for the ring")
        return works(operation, task)

    monkeypatch.setattr(tasks, "perform", fails)
    message = (
        r"1 of 6 tasks of stage ring failed; tile \(0, 2\) \(rows 0:100, columns 200:210\): "
        r"MemoryError: no room for the ring; finished tasks are kept, the same command goes on"
    )
    with pytest.raises(RunError, match=message):
        run(image, KEEPING, out, tile_size=TILE)
    assert len(list((out / "run/markers/ring").iterdir())) == 5
    monkeypatch.undo()
    goes_on(image, out, whole, computed=whole[0] - 6 - 5)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_run(path: Path) -> None:
    path.write_text(path.read_text().replace('"run_id": "', '"run_id": "f'))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (truncate, "science/c/1/1"),
        (empty, "run/markers/found-mask/1.1.json"),
        (other_run, "run/markers/found-mask/0.0.json"),
        (Path.unlink, "run/thresholds/found.json"),
        pytest.param(Path.unlink, "ring/c/0/1", marks=pytest.mark.faults),
        pytest.param(empty, "meshes/last/measured/rms/c/0/0", marks=pytest.mark.faults),
        pytest.param(truncate, "run/markers/ring/0.0.json", marks=pytest.mark.faults),
        pytest.param(Path.unlink, "run/markers/ingest/1.2.json", marks=pytest.mark.faults),
    ],
)
def test_damaged_task_is_computed_again(image: Path, tmp_path: Path, whole: Any, damage: Any, name: str) -> None:
    out, count = tmp_path / "run.zarr", 34
    stopped(image, out, count)
    assert (out / name).is_file()
    damage(out / name)
    goes_on(image, out, whole, computed=whole[0] - count + 1)


@pytest.mark.parametrize(("count", "again"), [(18, 1), (30, 0)])
def test_summary_that_is_damaged(image: Path, tmp_path: Path, whole: Any, count: int, again: int) -> None:
    """It is made anew if it is still to be read: after 18 tasks, but not after 30."""
    out = tmp_path / "run.zarr"
    stopped(image, out, count)
    truncate(out / "run/summaries/found-histogram/1.0.bin")
    goes_on(image, out, whole, computed=whole[0] - count + again)


def test_killed_before_the_last_file(image: Path, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "run.zarr"
    run(image, KEEPING, out, tile_size=TILE)
    (out / "run" / "_SUCCESS").unlink()
    for name in ("background/c/0/0.0123456789abcdef.partial", "run/markers/ring/.0.0.json.77"):
        (out / name).write_bytes(b"half")
    goes_on(image, out, whole, computed=0)
    assert not [p for p in out.rglob("*") if p.is_file() and is_temporary(p.name)]


def test_killed_before_the_last_file_with_scratch_removed(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    before = stored_bytes(run(image, "complex-sky", out, tile_size=TILE).path)
    (out / "run" / "_SUCCESS").unlink()
    assert not (out / "ring").exists()
    run(image, "complex-sky", out, tile_size=TILE)
    assert stored_bytes(out) == before


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "preparing"], ["lock", "preparing", "recipe.json"]])
def test_killed_while_preparing(image: Path, tmp_path: Path, whole: Any, left: list[str]) -> None:
    out = tmp_path / "run.zarr"
    (out / "run").mkdir(parents=True)
    for name in left:
        (out / "run" / name).touch()
    if "preparing" in left:  # arrays of what was to be another run
        zarr.create_array(str(out / "mesh64_kept"), shape=(3, 3), chunks=(3, 3), dtype="f4")
    goes_on(image, out, whole, computed=whole[0])
    assert "mesh64_kept" not in open_run(out).planes


def test_other_runs_are_refused(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, copy = tmp_path / "run.zarr", tmp_path / "image.fits"
    shutil.copy2(image, copy)
    stopped(copy, out, 5)
    before = stored_bytes(out)
    refused = r"holds a run with another {}; results must not be mixed: change --out, or start over with --restart"
    with pytest.raises(RunError, match=refused.format(r"recipe \(.*without step ring 'ring', .* more\)")):
        run(copy, "sextractor", out, tile_size=TILE)
    for change, words in CHANGES:
        with pytest.raises(RunError, match=refused.format(rf"recipe \({words}\)")):
            run(copy, changed(*change), out, tile_size=TILE)
    with pytest.raises(RunError, match=refused.format(r"plan \(tile size 100 -> 101\)")):
        run(copy, KEEPING, out, tile_size=TILE + 1)
    with pytest.raises(RunError, match=refused.format(r"recipe \(.*\) and plan \(tile size 100 -> 120\)")):
        run(copy, changed(0, "width", 3.0), out, tile_size=120)
    version = tiledsky.__version__
    with monkeypatch.context() as patch:
        patch.setattr(tiledsky, "__version__", "99.0")
        with pytest.raises(RunError, match=refused.format(rf"code version \({re.escape(version)} -> 99.0\)")):
            run(copy, KEEPING, out, tile_size=TILE)
    for name in ("numpy", "scipy", "numba", "llvmlite", "zarr"):
        with monkeypatch.context() as patch:
            patch.setattr(versions, "version", lambda n, name=name: "99.0" if n == name else version_of(n))
            with pytest.raises(
                RunError, match=refused.format(rf"version of {name} \({re.escape(version_of(name))} -> 99.0\)")
            ):
                run(copy, KEEPING, out, tile_size=TILE)
    weight = tmp_path / "weight.fits"
    fits.PrimaryHDU(np.ones((190, 210), np.float32)).writeto(weight)
    with pytest.raises(RunError, match=refused.format(r"input \(weight: not there before\)")):
        run(copy, KEEPING, out, tile_size=TILE, weight=weight)
    stat = copy.stat()
    data = bytearray(copy.read_bytes())
    data[-3000] ^= 1
    copy.write_bytes(data)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(RunError, match=refused.format(r"input \(science: content of image.fits changed\)")):
        run(copy, KEEPING, out, tile_size=TILE)
    os.utime(copy, ns=(1, 1))
    with pytest.raises(RunError, match=refused.format(r"input \(science: size or time of image.fits changed\)")):
        run(copy, KEEPING, out, tile_size=TILE)
    assert stored_bytes(out) == before


def test_recipes_differ_by_their_steps_names() -> None:
    def plain(recipe: Recipe) -> dict[str, Any]:
        return recipe.expanded().model_dump(mode="json")

    deep = Recipe.load("deep-sky")
    for recipe, words in (
        (deep.keeping(60), r"step 'objects'\.keep none -> 60\.0"),
        (deep.keeping(0), r"without step objects 'objects', step .*"),  # what follows from it comes after
        (deep, ""),
    ):
        assert re.fullmatch(rf"recipe( \({words}\))?", recipe_change(plain(deep), plain(recipe)))
    moved = {**plain(deep), "steps": plain(deep)["steps"][::-1]}
    assert recipe_change(plain(deep), moved) == "recipe (another order of the steps)"


#: Step, parameter and value of a changed recipe, and what is said.
CHANGES = [
    ((0, "width", 3.0), r"step 'ring'\.width 2.0 -> 3.0"),
    ((2, "box_size", [9, 8]), r"step '\w+'\.box_size \[9, 7\] -> \[9, 8\]"),
    ((4, "clip", None), r"step '\w+'\.clip .* -> none"),
]


def changed(step: int, name: str, value: Any) -> Recipe:
    """Return the recipe with one parameter changed."""
    data = KEEPING.model_dump(mode="json")
    data["steps"][step][name] = "none" if value is None else value
    return Recipe.from_dict(data)


def test_other_dq_flags_are_another_run(tmp_path: Path) -> None:
    path, out = write_fits(tmp_path, make_planes((130, 140))), tmp_path / "run.zarr"
    recipe = Recipe.load("sextractor")
    inputs: dict[str, Any] = {"source": f"{path}:SCI", "dq": f"{path}:DQ"}
    run(recipe=recipe.model_copy(update={"dq_flags": (1,)}), out=out, **inputs)
    with pytest.raises(RunError, match=r"recipe \(dq_flags \[1\] -> \[4\]\) and input \(dq flags 1 -> 4\)"):
        run(recipe=recipe.model_copy(update={"dq_flags": (4,)}), out=out, **inputs)
    with pytest.raises(RunError, match=r"another input \(dq: no longer given, dq flags 1 -> all\)"):
        run(recipe=recipe.model_copy(update={"dq_flags": (1,)}), out=out, source=inputs["source"])


def test_tile_size_of_the_store_is_taken(image: Path, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "run.zarr"
    stopped(image, out, 9)
    states: list[Progress] = []
    assert run(image, KEEPING, out, progress=states.append).plan.tile_size == TILE
    assert len(states) == whole[0] - 9
    assert stored_bytes(out) == whole[1]


def test_chunk_of_the_input_written_anew_is_another_input(tmp_path: Path) -> None:
    path, out = tmp_path / "image.zarr", tmp_path / "run.zarr"
    array = zarr.create_array(str(path), data=make_planes((130, 140))["science"], chunks=(50, 50))
    run(path, "sextractor", out)
    array[60:70, 60:70] += 3
    with pytest.raises(RunError, match=r"another input \(science: size or time of files of image.zarr changed\)"):
        run(path, "sextractor", out)


def test_restart(image: Path, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "run.zarr"
    run(image, "sextractor", out)
    result = run(image, KEEPING, out, tile_size=TILE, restart=True)
    assert result.provenance["tasks_computed_last"] == whole[0]
    assert stored_bytes(out) == whole[1]
    run(image, KEEPING, out, tile_size=TILE, restart=True)  # of a finished run of the same identity
    assert stored_bytes(out) == whole[1]


@pytest.mark.parametrize("name", ["thesis.tex", "thesis/chapter.tex"])
def test_restart_throws_away_nothing_that_no_run_made(image: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run.zarr"
    run(image, "sextractor", out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = stored_bytes(out)
    with pytest.raises(
        RunError, match=f"holds {name.partition('/')[0]}, which no run wrote and --restart would delete; move it"
    ):
        run(image, KEEPING, out, tile_size=TILE, restart=True)
    assert stored_bytes(out) == before
    run(image, "sextractor", out)  # and it is in nobody's way
    assert stored_bytes(out) == before


def test_restart_heals_damaged_metadata(image: Path, tmp_path: Path, whole: Any) -> None:
    out = tmp_path / "run.zarr"
    stopped(image, out, 5)
    shutil.rmtree(out / "run/markers")  # else they would say whose the store is
    (out / "run/identity.json").write_text("{")
    with pytest.raises(RunError, match=r"identity.json is damaged; run again with --restart"):
        run(image, KEEPING, out, tile_size=TILE)
    run(image, KEEPING, out, tile_size=TILE, restart=True)
    assert stored_bytes(out) == whole[1]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "zarr", "run folder"])
def test_what_is_no_run_is_not_touched(image: Path, tmp_path: Path, kind: str, restart: bool) -> None:
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("thesis")
    elif kind == "zarr":
        zarr.create_array(str(out), data=np.ones((5, 5)))
    else:
        (out / "run").mkdir(parents=True)
        (out / ("run" if kind == "run folder" else ".") / "thesis.tex").write_text("thesis")
    before = stored_bytes(out) if out.is_dir() else out.read_text()
    with pytest.raises(RunError, match="exists and is not a run store, so tiledsky does not touch it; change --out"):
        run(image, "sextractor", out, restart=restart)
    assert (stored_bytes(out) if out.is_dir() else out.read_text()) == before


@pytest.mark.parametrize("restart", [False, True])
def test_input_inside_the_output_is_refused(image: Path, tmp_path: Path, restart: bool) -> None:
    out = tmp_path / "run.zarr"
    before = stored_bytes(run(image, "sextractor", out).path)
    with pytest.raises(ParameterError, match=r"the input lies in .*run.zarr, which would be overwritten; change --out"):
        run(out, "sextractor", out, restart=restart)
    assert stored_bytes(out) == before


def test_second_driver_is_refused(image: Path, tmp_path: Path, whole: Any) -> None:
    out, refused = tmp_path / "run.zarr", []

    def second(state: Progress) -> None:
        if state.done == 8:
            for restart in (False, True):
                with pytest.raises(RunError, match="is being run by another process; wait for it or stop it"):
                    run(image, KEEPING, out, tile_size=TILE, restart=restart)
                refused.append(restart)

    run(image, KEEPING, out, tile_size=TILE, progress=second)
    assert refused == [False, True]
    assert stored_bytes(out) == whole[1]


def wait_for(condition: Callable[[], bool], *, seconds: float = 90) -> None:
    """Wait until the condition holds, and fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.mark.faults
def test_killed_driver(image: Path, tmp_path: Path, whole: Any) -> None:
    out, recipe = tmp_path / "run.zarr", tmp_path / "keeping.toml"
    recipe.write_text(KEEPING.to_toml())
    words = ("run", str(image), "--recipe", str(recipe), "--out", str(out), "--tile-size", str(TILE))
    with command(*words) as driver:
        wait_for(lambda: len(list(out.glob("run/markers/*/*.json"))) >= 4)
        workers = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGKILL
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert gone
    assert not alive, "workers outlive their driver"
    assert not open_run(out, allow_partial=True).complete
    with command(*words) as driver:
        stdout, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 0, stderr
    assert stored_bytes(out) == whole[1]
    assert open_run(out).provenance["tasks_computed_last"] < whole[0]
    assert stdout.startswith(str(out))


@pytest.mark.faults
def test_killed_worker(client: Any, image: Path, tmp_path: Path, whole: Any) -> None:
    out, killed = tmp_path / "run.zarr", []

    def kill(state: Progress) -> None:
        if state.done in (4, 15):
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    client.wait_for_workers(2)
    run(image, KEEPING, out, tile_size=TILE, client=client, progress=kill)
    assert len(set(killed)) == 2
    assert stored_bytes(out) == whole[1]
