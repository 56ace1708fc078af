"""Shares of tiles done by processes that do not know each other give the bytes of one run; scripts of job arrays."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from tests.engine.scenes import KEEPING, make_planes, stored_bytes
from tiledsky import open_run, run
from tiledsky.cluster.configuration import ClusterFile
from tiledsky.engine.runner import PreparedRun, prepare
from tiledsky.engine.slices import Slice, run_slice, stage_named
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.store import RUN_FOLDER
from tiledsky.workflows import submit

TILE = 70


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(path)
    return path


@pytest.fixture
def store(image: Path, tmp_path: Path) -> PreparedRun:
    made = prepare(KEEPING, image, tmp_path / "run.zarr", tile_size=TILE)
    with made.locked(restart=False):
        made.create()
    return made


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_slices_are_each_tile_once(store: PreparedRun, count: int) -> None:
    for stage in store.plan.stages:
        slices = [Slice(k, count).of(store.plan, stage) for k in range(1, count + 1)]
        assert [tile for part in slices for tile in part] == list(store.plan.grid(stage))


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/3 "])
def test_text_that_is_no_slice(text: str) -> None:
    with pytest.raises(ParameterError, match=f"worker slice '{text}' is not a slice; write it like 3/16"):
        Slice.parse(text)
    assert Slice.parse("3/16") == Slice(3, 16)


def test_slices_give_the_bytes_of_a_run(store: PreparedRun, image: Path, tmp_path: Path) -> None:
    whole = run(image, KEEPING, tmp_path / "whole.zarr", tile_size=TILE)
    seen = []
    for number, stage in enumerate(store.plan.stages):
        count = (3, 1, 2, 9)[number % 4]
        for part in reversed(range(1, count + 1)):
            again = prepare(KEEPING, image, store.root.path, checksum=False)  # as a process of its own would
            assert again.plan == store.plan
            total, done = run_slice(again, stage, Slice(part, count), progress=seen.append)
            assert total == done
            assert run_slice(again, stage, Slice(part, count)) == (total, 0)
    assert len(seen) == store.plan.n_tasks
    result = store.execute()
    assert result.provenance["tasks_computed_last"] == 0
    assert stored_bytes(store.root.path) == stored_bytes(whole.path)


def test_a_stage_waits_for_what_it_reads(store: PreparedRun) -> None:
    ingest, ring = store.plan.stages[0], store.plan.stage("ring")
    with pytest.raises(RunError, match=r"ring reads 6 tiles of stage ingest that are not done, the first \(0, 0\)"):
        run_slice(store, ring, Slice(1, 3))
    run_slice(store, ingest, Slice(1, 3))
    with pytest.raises(RunError, match=r"ring reads 3 tiles of stage ingest that are not done, the first \(1, 0\)"):
        run_slice(store, ring, Slice(1, 3))  # for its halo
    run_slice(store, ingest, Slice(2, 3))
    assert run_slice(store, ring, Slice(1, 3)) == (3, 3)
    with pytest.raises(RunError, match="is not finished"):
        open_run(store.root.path)


def test_a_driver_and_slices_keep_each_other_out(store: PreparedRun) -> None:
    stage = store.plan.stages[0]
    with store.locked(restart=False), pytest.raises(RunError, match="is being run by another process"):
        run_slice(store, stage, Slice(1, 2))
    states: list[Any] = []

    def other(progress: Any) -> None:
        states.append(run_slice(store, stage, Slice(2, 2)))  # another share goes beside it
        with pytest.raises(RunError, match="slice 1/2 of stage ingest is being done by another process"):
            run_slice(store, stage, Slice(1, 2), patience=0.3)
        with pytest.raises(RunError, match="is being run by another process"):
            store.execute()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_slice(store, stage, Slice(1, 2), progress=other)
    assert states == [(5, 5)]
    with (store.root / RUN_FOLDER / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing is held any more


def test_store_that_is_not_prepared(image: Path, tmp_path: Path) -> None:
    made = prepare(KEEPING, image, tmp_path / "run.zarr", tile_size=TILE)
    with pytest.raises(RunError, match=r"is not prepared for slices; run `tiledsky submit` first"):
        run_slice(made, made.plan.stages[0], Slice(1, 2))


def test_stage_that_is_none(store: PreparedRun) -> None:
    with pytest.raises(ParameterError, match="there is no stage 'rings'; the stages of this run are ingest, ring,"):
        stage_named(store.plan, "rings")
    with pytest.raises(ParameterError, match="a worker slice needs --stage; the stages"):
        stage_named(store.plan, None)


# --- scripts


def test_scripts(store: PreparedRun, tmp_path: Path) -> None:
    config = ClusterFile(
        kind="slurm", memory="1GB", walltime="01:00:00", queue="long", account="sky", directives=("--qos=a b",),
        setup=("module load python",), python="/opt/python",
    )  # fmt: skip
    jobs = submit.array_jobs(store, ["in; id.fits", "--out", "x"], 4, config, tmp_path)
    assert [job.name.partition("-")[2] for job in jobs] == [*(s.name for s in store.plan.stages), "finish"]
    files = submit.write_scripts(jobs, tmp_path)
    for job, file in zip(jobs, files, strict=True):
        assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
        lines = file.read_text().splitlines()
        head = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
        assert head >= {"--partition=long", "--account=sky", "--qos=a b", "--requeue", "--time=60", "--mem=1198M"}
        assert "--signal=B:USR1@600" in head
        assert ("--array=1-4" in head) == (job.slices == 4)
        assert "module load python" in lines
        start = next(line for line in lines if line.startswith("/opt/python"))
        share = '"$SLURM_ARRAY_TASK_ID/4"' if job.slices else '"1/1"'
        assert start == (
            f"/opt/python -m tiledsky run 'in; id.fits' --out x --worker-slice {share} "
            f"--stage {job.name.partition('-')[2]} &"
        )


@pytest.mark.parametrize(
    ("count", "kind", "name", "message"),
    [
        (0, "slurm", "jobs", "an array of 0 jobs is empty"),
        (4, "pbs", "jobs", "job arrays need SLURM, and the cluster file is of kind pbs"),
        (4, "slurm", "a b", "a job script cannot contain .*; use letters"),
    ],
)
def test_arrays_that_cannot_be(
    store: PreparedRun, tmp_path: Path, count: int, kind: Any, name: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        submit.array_jobs(store, [], count, ClusterFile(kind=kind), tmp_path / name)


def test_queue_that_does_not_take_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(
            RunError, match="this machine has no sbatch; give this command where SLURM is, or --dry-run"
        ):
            submit.submit_scripts([tmp_path / "a.sh"])
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n'
        'case "$*" in *b.sh) echo "no such queue" >&2; exit 1;; esac\necho 7\n'
    )
    (tools / "scancel").write_text(f'#!/bin/sh\necho cancel "$@" >> {tmp_path}/said\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(RunError, match=r"sbatch refused .*b\.sh \(no such queue\); correct the cluster file"):
        submit.submit_scripts([tmp_path / "a.sh", tmp_path / "b.sh"])
    assert (tmp_path / "said").read_text().splitlines() == [
        f"--parsable --kill-on-invalid-dep=yes {tmp_path}/a.sh",
        f"--parsable --kill-on-invalid-dep=yes --dependency=afterok:7 {tmp_path}/b.sh",
        "cancel 7",
    ]
