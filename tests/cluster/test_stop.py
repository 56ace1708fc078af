"""Signals to the command line: it ends in order, says how to go on, leaves no process behind, and goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from astropy.io import fits

from tests.engine import planted
from tests.engine.scenes import KEEPING, command, make_planes, stored_bytes
from tiledsky import open_run, run

TILE = 60
faults = pytest.mark.faults


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a run, without its output."""
    folder = tmp_path_factory.mktemp("input")
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(folder / "image.fits")
    (folder / "a recipe.toml").write_text(KEEPING.to_toml())
    return ["run", str(folder / "image.fits"), "--recipe", str(folder / "a recipe.toml"), "--tile-size", str(TILE)]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """Number of tasks and bytes of an undisturbed run."""
    result = run(words[1], KEEPING, tmp_path_factory.mktemp("whole") / "run.zarr", tile_size=TILE)
    return result.plan.n_tasks, stored_bytes(result.path)


def started(words: list[str], out: Path, **environment: str) -> subprocess.Popen[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return command(*words, "--out", str(out))


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def markers(out: Path) -> int:
    return len(list(out.glob("run/markers/*/*.json")))


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not alive, "workers outlive their driver"


def assert_goes_on(stderr: str, out: Path, whole: Any) -> None:
    """The command that was printed ends with the bytes of an undisturbed run."""
    said = stderr.splitlines()[-1]
    before = markers(out)
    assert said.startswith("tiledsky: stopped; what is done is kept, go on with: ")
    line = said.partition("go on with: ")[2]
    assert "--restart" not in shlex.split(line)
    again = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert stored_bytes(out) == whole[1]
    if before:
        assert open_run(out).provenance["tasks_computed_last"] == whole[0] - before


@pytest.mark.parametrize(
    ("number", "to_all", "moment"),
    [
        pytest.param(signal.SIGINT, True, "cluster", marks=faults),
        (signal.SIGTERM, False, "cluster"),
        (signal.SIGINT, True, 20),
        pytest.param(signal.SIGTERM, True, 70, marks=faults),
        pytest.param(signal.SIGHUP, False, 3, marks=faults),
    ],
)
def test_stopped_by_a_signal(
    words: list[str], tmp_path: Path, whole: Any, number: signal.Signals, to_all: bool, moment: str | int
) -> None:
    out = tmp_path / "run.zarr"
    with started([*words, "--restart"], out) as process:
        if isinstance(moment, int):
            wait_for(process, lambda: markers(out) >= moment)
        else:
            wait_for(process, lambda: len(family(process)) >= 2)
        children = family(process)
        if to_all:  # as a terminal does, and a batch system
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert children
    assert_gone(children, 60)
    assert_goes_on(stderr, out, whole)


def test_second_interrupt_does_not_wait(words: list[str], tmp_path: Path, whole: Any) -> None:
    out, plan = tmp_path / "run.zarr", tmp_path / "plan.json"
    notes = planted.plant(plan, "ring", [1, 1], "hang")
    preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": planted.__name__, planted.PLAN: str(plan)}
    with started(words, out, **preload) as process:
        wait_for(process, notes.exists)
        children = family(process)
        process.send_signal(signal.SIGINT)
        time.sleep(2)
        assert process.poll() is None, "did not wait for the task that runs"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    assert process.returncode == 130
    assert_gone(children, 5)
    result = run(words[1], KEEPING, out, tile_size=TILE)
    assert result.provenance["tasks_computed_last"] < whole[0]
    assert stored_bytes(out) == whole[1]


@faults
def test_running_tasks_get_time_to_end(words: list[str], tmp_path: Path) -> None:
    out, plan = tmp_path / "run.zarr", tmp_path / "plan.json"
    planted.plant(plan, "ring", None, "slow", late=True)
    preload = {"DASK_DISTRIBUTED__WORKER__PRELOAD": planted.__name__, planted.PLAN: str(plan)}
    with started(words, out, **preload) as process:
        wait_for(process, lambda: len(list(out.glob("run/markers/ring/*.json"))) >= 2)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    rings = {p.name for p in (out / "run/markers/ring").iterdir()}
    assert 2 <= len(rings) < 16
    written = {".".join(p.relative_to(out / "ring/c").parts) + ".json" for p in (out / "ring/c").glob("*/*")}
    assert written == rings, "a task was cut off"


@pytest.mark.parametrize("count", [pytest.param(1, marks=faults), 30])
def test_killed_driver_leaves_no_process(words: list[str], tmp_path: Path, whole: Any, count: int) -> None:
    out = tmp_path / "run.zarr"
    with started(words, out) as process:
        wait_for(process, lambda: markers(out) >= count)
        children = family(process)
        process.kill()
        began = time.monotonic()
        process.wait(timeout=10)
        assert_gone(children, 10)
        print(f"{len(children)} processes gone {time.monotonic() - began:.2f} s after their driver")
    assert len(children) >= 2
    result = run(words[1], KEEPING, out, tile_size=TILE)
    assert stored_bytes(result.path) == whole[1]


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom tiledsky.cluster.stop import stoppable\n"
        "with stoppable():\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
