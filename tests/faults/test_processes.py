"""Drivers, schedulers and workers that are killed, stopped and refused, as processes of the command line."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client

from tests.engine import planted
from tests.engine.scenes import KEEPING, command
from tests.faults.conftest import TILE
from tests.faults.ledger import Tally
from tiledsky import open_run
from tiledsky.engine.verify import verify

#: Seconds that anything may take on a machine that is busy.
LONG = 300.0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until the condition holds; False if the process ends first."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        if process.poll() is not None:
            return condition()
        time.sleep(0.005)
    return True


def markers(out: Path) -> dict[str, tuple[int, bytes]]:
    """Markers of a store, with their times and contents."""
    return {
        str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("run/markers/*/[0-9]*.json")
    }


@pytest.fixture
def words(image: Path, tmp_path: Path) -> list[str]:
    """Arguments of a run into run.zarr."""
    recipe = tmp_path / "keeping.toml"
    recipe.write_text(KEEPING.to_toml())
    out = tmp_path / "run.zarr"
    return ["run", str(image), "--recipe", str(recipe), "--out", str(out), "--tile-size", str(TILE)]


@contextmanager
def faulty(folder: Path, kind: str, index: list[int] | None, what: str) -> Iterator[dict[str, str]]:
    """Environment of a command whose workers fail."""
    plan = folder / "plan.json"
    planted.plant(plan, kind, index, what)
    yield {planted.PLAN: str(plan), "DASK_DISTRIBUTED__WORKER__PRELOAD": str([planted.__name__])}
    plan.unlink()


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of a command; return its exit code and what it printed."""
    stdout, stderr = process.communicate(timeout=LONG)
    return process.returncode, stdout, stderr


def finishes(words: list[str], out: Path, whole: dict[str, str], tally: Tally) -> None:
    """The same command finishes, and writes no marker again."""
    before = markers(out)
    with command(*words) as process:
        code, _, stderr = ends(process)
    assert code == 0, stderr
    after = markers(out)
    assert {name: after.get(name) for name in before} == before
    facts = open_run(out).provenance
    assert facts["tasks_computed_last"] == facts["tasks"] - len(before)
    tally.compare(out, whole)
    assert verify(out, level="decode") == []


def no_process_of(out: Path) -> None:
    """No process is left that has the store among its arguments or its open files."""
    deadline = time.monotonic() + 60
    while True:
        left = [p.pid for p in psutil.process_iter(["pid", "cmdline"]) if _uses(p, str(out))]
        if not left:
            return
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.2)


def _uses(process: psutil.Process, out: str) -> bool:
    try:
        if process.pid == os.getpid():
            return False
        return any(out in word for word in process.info["cmdline"] or ()) or any(
            file.path.startswith(out) for file in process.open_files()
        )
    except psutil.Error:
        return False


@pytest.mark.faults
@pytest.mark.row("driver")
def test_driver_killed_ten_times(words: list[str], tmp_path: Path, whole: Any, tally: Tally) -> None:
    """Every kill at a random moment; what was committed before a call is not written by it."""
    out, rng, total = tmp_path / "run.zarr", np.random.default_rng(1), 66
    goals = sorted(rng.choice(total - 2, 8, replace=False).tolist())
    moments: list[float | int] = [float(rng.uniform(1, 5)), float(rng.uniform(1, 5)), *goals]
    for moment in moments:
        before = markers(out)
        with command(*words) as driver:
            if isinstance(moment, float):
                time.sleep(moment)  # before the first task, in the midst of starting
            else:
                assert wait_for(lambda goal=moment: len(markers(out)) > goal, driver), driver.communicate()
                time.sleep(float(rng.uniform(0, 0.05)))
            driver.kill()
            driver.communicate(timeout=LONG)
        no_process_of(out)
        after = markers(out)
        assert {name: after.get(name) for name in before} == before, "what was done is done again"
        assert not (out / "run/_SUCCESS").exists()
        if (out / "run/identity.json").exists():
            assert verify(out, level="decode", discard=False) == []
    tally.tried += len(moments)
    finishes(words, out, whole, tally)
    tally.survived += len(moments)


@pytest.mark.faults
@pytest.mark.row("signal")
def test_signals_at_several_moments(words: list[str], tmp_path: Path, whole: Any, tally: Tally) -> None:
    out = tmp_path / "run.zarr"
    moments = [
        (signal.SIGTERM, "2 workers"),  # the cluster stands
        (signal.SIGINT, 1),
        (signal.SIGTERM, 9),
        (signal.SIGHUP, 20),
        (signal.SIGINT, 33),
        (signal.SIGTERM, 50),
    ]
    for number, moment in moments:
        before = markers(out)
        with tally.fault(), command(*words) as process:
            line = ""
            if isinstance(moment, str):
                assert process.stderr is not None
                line = process.stderr.readline()
                assert line.startswith(moment)
            else:
                assert wait_for(lambda goal=moment: len(markers(out)) > goal, process)
            process.send_signal(number)
            code, stdout, stderr = ends(process)
            assert (code, stdout) == (128 + number, ""), stderr
            assert "Traceback" not in line + stderr
            said = stderr.splitlines()[-1]
            assert said.startswith("tiledsky: stopped; what is done is kept, go on with: ")
            assert said.endswith(" ".join(words)), said
        no_process_of(out)
        after = markers(out)
        assert {name: after.get(name) for name in before} == before
        if after:
            assert verify(out, level="decode", discard=False) == []
    finishes(words, out, whole, tally)


@contextmanager
def somebody_elses_cluster(workers: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a scheduler with workers, each a process of its own."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    module = [sys.executable, "-m", "distributed.cli.dask_"]
    loopback = ["--host", "127.0.0.1", "--no-dashboard"]
    start = [*module[:2], f"{module[2]}scheduler", "--port", "0", "--no-show", *loopback]
    with subprocess.Popen(start, **quiet) as scheduler:
        assert scheduler.stderr is not None
        address = next(m[1] for line in scheduler.stderr if (m := re.search(r"Scheduler at:\s+(tcp://[\d.:]+)", line)))
        join = [*module[:2], f"{module[2]}worker", address, "--no-nanny", "--nthreads", "1", *loopback]
        crew = [subprocess.Popen(join, **{**quiet, "stderr": subprocess.DEVNULL}) for _ in range(workers)]
        try:
            with Client(address, timeout=60) as client:
                client.wait_for_workers(workers, timeout=LONG)
            yield address, scheduler
        finally:
            for process in (*crew, scheduler):
                process.kill()
                process.wait()


@pytest.mark.faults
@pytest.mark.row("scheduler")
def test_scheduler_killed(words: list[str], tmp_path: Path, whole: Any, tally: Tally) -> None:
    out, before = tmp_path / "run.zarr", {}
    for goal in (2, 25, 48):
        with tally.fault(), somebody_elses_cluster(2) as (address, scheduler):
            with command(*words, "--scheduler", address) as process:
                assert wait_for(lambda goal=goal: len(markers(out)) > goal, process), process.communicate()
                scheduler.kill()
                code, stdout, stderr = ends(process)
            assert (code, stdout) == (4, ""), stderr
            assert "the connection to the Dask scheduler was lost; finished tasks are kept" in stderr.splitlines()[-1]
            assert "Traceback" not in stderr
        after = markers(out)
        assert {name: after.get(name) for name in before} == before
        before = after
    finishes(words, out, whole, tally)


@pytest.mark.faults
@pytest.mark.row("poison")
@pytest.mark.parametrize("what", ["kill", "segv"])
def test_poison_tile(words: list[str], tmp_path: Path, whole: Any, tally: Tally, what: str) -> None:
    out = tmp_path / "run.zarr"
    with faulty(tmp_path, "ring", [1, 0], what) as environment, command(*words, env=environment) as process:
        code, stdout, stderr = ends(process)
    assert (code, stdout) == (4, ""), stderr
    said = stderr.splitlines()[-1]
    assert "1 of 6 tasks of stage ring failed; tile (1, 0) (rows 100:190, columns 0:100): KilledWorker" in said
    assert "Traceback" not in stderr
    assert sorted(p.name for p in (out / "run/markers/ring").iterdir()) == [
        *("0.0.json", "0.1.json", "0.2.json", "1.1.json", "1.2.json")
    ]
    assert not (out / "run/_SUCCESS").exists()
    (record,) = (json.loads(p.read_text()) for p in out.glob("run/failed/*/*.json"))
    assert (record["stage"], record["tile"], record["attempts"]) == ("ring", [1, 0], 4)
    finishes(words, out, whole, tally)
    assert not (out / "run/failed").exists()


@pytest.mark.faults
@pytest.mark.row("second")
def test_two_drivers(words: list[str], tmp_path: Path, whole: Any, tally: Tally) -> None:
    """One after the other began, with and without --restart; the first is slow enough to be still at work."""
    out = tmp_path / "run.zarr"
    with faulty(tmp_path, "ring", None, "slow") as environment, command(*words, env=environment) as first:
        assert wait_for(lambda: (out / "run/lock").exists(), first)
        first.send_signal(signal.SIGSTOP)  # as slow as need be
        for options in ([], ["--restart"]):
            with tally.fault(), command(*words, *options) as second:
                code, stdout, stderr = ends(second)
                assert (code, stdout) == (4, ""), stderr
                assert "is being run by another process; wait for it or stop it" in stderr.splitlines()[-1]
        first.send_signal(signal.SIGCONT)
        assert ends(first)[0] == 0
    tally.compare(out, whole)


def without_privilege() -> None:
    """Let permissions hold for root too, in what is executed next: the right to pass over them is given up."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.faults
@pytest.mark.row("disk")
@pytest.mark.parametrize("place", [".", "mask", "run/markers/unused-mask"])
def test_no_permission(words: list[str], tmp_path: Path, whole: Any, tally: Tally, place: str) -> None:
    """A store that may be read but not written to, or a part of it."""
    out = tmp_path / "run.zarr"
    with command(*words) as process:
        assert wait_for(lambda: (out / place).is_dir() and len(markers(out)) > 12, process)
        process.kill()
        process.communicate()
    no_process_of(out)
    for marker in [*out.glob("run/markers/unused-mask/*.json")][:1]:
        marker.unlink()  # something is left to be written there, however far the run came
    (out / place).mkdir(parents=True, exist_ok=True)
    closed = [p for p in (out / place, *(out / place).rglob("*")) if p.is_dir() or p.name == "lock"]
    modes = {path: path.stat().st_mode for path in closed}
    for path in closed:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = markers(out)
    with command(*words, preexec_fn=without_privilege) as process:
        code, stdout, stderr = ends(process)
    for path, mode in modes.items():
        path.chmod(mode)
    assert (code, stdout) == (4, ""), stderr
    said = stderr.splitlines()[-1]
    assert re.search(r"run.zarr/.* cannot be written \(Permission denied\); allow writing there", said), said
    assert "Traceback" not in stderr
    assert {name: markers(out).get(name) for name in before} == before
    assert verify(out, level="decode", discard=False) == []
    finishes(words, out, whole, tally)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no privilege to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.faults
@pytest.mark.row("disk")
def test_disk_full_under_workers(words: list[str], small_disk: Path, whole: Any, tally: Tally) -> None:
    out = small_disk / "run.zarr"
    words[words.index("--out") + 1] = str(out)
    for room in (80, 200, 400):  # kB for the store; then the disk grows a little
        filler = small_disk / "filler"
        filler.write_bytes(bytes((600 - room) * 1000))
        with tally.fault(), command(*words) as process:
            code, stdout, stderr = ends(process)
            assert (code, stdout) == (4, ""), stderr
            assert "No space left on device); make room, then the same command goes on" in stderr.splitlines()[-1]
            assert "Traceback" not in stderr
        filler.unlink()
        assert not (out / "run/_SUCCESS").exists()
        if markers(out):
            assert verify(out, level="decode", discard=False) == []
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    finishes(words, out, whole, tally)
