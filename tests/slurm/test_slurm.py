"""Runs on a real SLURM of one node, disturbed on the way, end with the bytes of a run on this machine.

``make test-slurm`` starts it (deploy/slurm/test.sh). TILEDSKY_SLURM_SIZE: side of the scene.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.scenes import command, stored_bytes

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif("SLURM_CONF" not in os.environ or not shutil.which("sbatch"), reason="there is no SLURM here"),
]
DEPLOY = Path(__file__).parents[2] / "deploy/slurm"
SIZE = os.environ.get("TILEDSKY_SLURM_SIZE", "6000")
#: Tiles of 4 x 4, so that jobs live long enough to be disturbed in a small scene, too.
RECIPE = ("--recipe", "complex-sky", "--tile-size", str(int(SIZE) // 4))
#: Seconds for anything that ends by itself.
PATIENCE = 1500.0


def tiledsky(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tiledsky", *map(str, words)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def slurm(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def wait_for(what: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


def markers(out: Path) -> int:
    return sum(1 for _ in out.glob("run/markers/*/*.json"))


def jobs() -> list[str]:
    """Numbers of the jobs that run."""
    return slurm("squeue", "-h", "-t", "R", "-o", "%A")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.fits"
    tiledsky("simulate", path, "--size", SIZE, "--seed", 4)
    return path


@pytest.fixture(scope="module")
def local(scene: Path) -> tuple[dict[str, str], int]:
    """Bytes of an undisturbed run, and its tasks."""
    out = scene.with_name("local.zarr")
    tiledsky("run", scene, *RECIPE, "--out", out, "--memory-limit", "1GB")
    return stored_bytes(out), markers(out)


@pytest.fixture(autouse=True)
def empty() -> None:
    """A queue without jobs, before and after."""
    wait_for(lambda: not slurm("squeue", "-h"), seconds=60)


def copied(name: str, folder: Path) -> Path:
    """Copy a file of deploy/slurm: logs go beside it."""
    return Path(shutil.copy(DEPLOY / name, folder))


def test_check(tmp_path: Path) -> None:
    said = tiledsky("cluster", "check", copied("login.toml", tmp_path))
    assert "2 workers, 2 threads, the same versions and bits as here" in said
    assert "Mpix/s with complex-sky" in said


def test_driver_on_the_login_node(scene: Path, local: tuple[dict[str, str], int], tmp_path: Path) -> None:
    out, file = tmp_path / "sky.zarr", copied("login.toml", tmp_path)
    driver = command("run", str(scene), *RECIPE, "--out", str(out), "--cluster", str(file))
    try:
        wait_for(lambda: markers(out) >= local[1] // 8)
        every = jobs()
        slurm("scancel", *every)  # without any worker the run cannot end
        wait_for(lambda: set(jobs()) - set(every))
        before = markers(out)
        wait_for(lambda: markers(out) > before)
        subprocess.run(["scancel", *jobs()[:1]], check=False)
        assert driver.wait(PATIENCE) == 0
    finally:
        driver.kill()
        driver.communicate()
    assert stored_bytes(out) == local[0]


def test_all_in_one_allocation(scene: Path, local: tuple[dict[str, str], int], tmp_path: Path) -> None:
    out = tmp_path / "sky.zarr"
    copied("allocation.toml", tmp_path)
    script = copied("allocation.sh", tmp_path).read_text().replace("exec python", f"exec {sys.executable}")
    (tmp_path / "allocation.sh").write_text(script)
    words = ["sbatch", "--parsable", f"--chdir={tmp_path}", f"--output={tmp_path}/job.out", "allocation.sh"]
    done = subprocess.run(
        [*words, str(scene), *RECIPE, "--out", str(out)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    job = done.stdout.strip()

    def steps() -> list[str]:
        return [s for s in slurm("squeue", "-h", "-s", "-j", job, "-o", "%i") if s.rpartition(".")[2].isdigit()]

    wait_for(lambda: markers(out) >= local[1] // 8 and steps())
    every = steps()
    slurm("scancel", *every)  # without any worker the run cannot end
    wait_for(lambda: set(steps()) - set(every))
    before = markers(out)
    wait_for(lambda: markers(out) > before)
    slurm("scontrol", "requeue", job)  # as a job that is preempted
    begin_soon(job)
    wait_for(lambda: steps() or state(job) == ["COMPLETED"])
    subprocess.run(["scancel", *steps()[:1]], check=False)
    wait_for(lambda: state(job) in ([], ["COMPLETED"]))
    assert (tmp_path / "job.out").read_text().count("planes: background") == 1
    assert stored_bytes(out) == local[0]


def state(job: str) -> list[str]:
    return slurm("squeue", "-h", "-j", job, "-t", "all", "-o", "%T")


def warned() -> str:
    """Warn a running job that its walltime is nearly over; return one that went back into the queue for it."""
    for _ in range(20):
        while not (found := [job for job, age in running() if age >= "0:02"]):
            assert slurm("squeue", "-h"), "every job ended before one could be warned"
            time.sleep(0.2)
        job = found[0]
        subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=False)
        wait_for(lambda job=job: state(job) not in (["RUNNING"], ["COMPLETING"]))
        if state(job) == ["PENDING"]:
            return job  # and not one that was done just then
    raise AssertionError("no job goes back into the queue")


def running() -> list[tuple[str, str]]:
    """Jobs that run, and for how long: "0:07"."""
    words = slurm("squeue", "-h", "-t", "R", "-o", "%i %M")
    return list(zip(words[::2], words[1::2], strict=True))


def begin_soon(job: str) -> None:
    """Spare a requeued job the two minutes that SLURM lets it wait.

    Not in the second in which its credential was revoked, of which SLURM takes the new one to be, too.
    """
    wait_for(lambda: state(job) == ["PENDING"])
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+3seconds")


def test_job_array(scene: Path, local: tuple[dict[str, str], int], tmp_path: Path) -> None:
    out, folder = tmp_path / "sky.zarr", tmp_path / "sky.zarr.jobs"
    words = ("submit", scene, *RECIPE, "--out", out, "--array", 2, "--cluster", copied("array.toml", tmp_path))
    tiledsky(*words)
    wait_for(lambda: markers(out) >= local[1] // 8)
    slurm("scancel", "-u", subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip())
    wait_for(lambda: not slurm("squeue", "-h"))
    assert markers(out) < local[1]
    assert not (out / "run/_SUCCESS").exists()
    tiledsky(*words)
    begin_soon(warned())
    wait_for(lambda: not slurm("squeue", "-h"))
    assert (out / "run/_SUCCESS").exists(), "\n".join(f.read_text()[-300:] for f in sorted(folder.glob("*.out")))
    assert stored_bytes(out) == local[0]
