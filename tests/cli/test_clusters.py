"""The commands about clusters, job arrays and buckets as a user meets them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from astropy.io import fits

from tests.engine.scenes import make_planes, stored_bytes
from tiledsky import run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(make_planes((130, 140))["science"]).writeto(path)
    return path


def test_job_array_by_hand(call: Call, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "sky.zarr"
    words = (image, "--recipe", "sextractor", "--out", out, "--tile-size", 64)
    code, said, err = call("submit", *words, "--array", 2, "--dry-run")
    assert (code, err) == (0, "")
    scripts = sorted(out.with_name("sky.zarr.jobs").glob("*.sh"))
    assert said == f"{len(scripts)} scripts in {out}.jobs\n"
    for script in scripts:
        start = next(line for line in script.read_text().splitlines() if "--worker-slice" in line)
        for number in ("1", "2") if "SLURM_ARRAY_TASK_ID" in start else ("1",):
            text = start.replace("$SLURM_ARRAY_TASK_ID", number).removesuffix(" &")
            code, said, err = call(*shlex.split(text)[3:])
            assert code == 0, err
            assert "done" in said
    whole = run(image, "sextractor", tmp_path / "whole.zarr", tile_size=64)
    assert stored_bytes(out) == stored_bytes(whole.path)
    code, _, err = call("submit", *words, "--array", 2, "--dry-run")
    assert code == 4
    assert "is finished; `tiledsky verify` looks for damage, and `tiledsky run` repairs it" in err


def test_script_of_a_job(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("cluster", "script", "slurm")
    assert code == 0
    assert out.startswith("#!/usr/bin/env bash")
    assert "#SBATCH -t 01:00:00" in out
    code, _, err = call("cluster", "script", "local")
    assert code == 2
    assert "cluster of kind local has no job script; kinds with one: slurm, pbs, lsf, sge" in err


def test_check_of_this_machine(call: Call, tmp_path: Path) -> None:
    (tmp_path / "local.toml").write_text("kind = 'local'\nworkers = 1\n")
    code, out, err = call("cluster", "check", tmp_path / "local.toml", "--folder", tmp_path)
    assert code == 0
    versions, workers, rate = out.splitlines()
    assert re.match(r"python 3\.\d+\.\d+, tiledsky \S+, numpy \S+, scipy \S+, numba \S+, llvmlite \S+, ", versions)
    assert re.search(r", zarr \S+, dask \S+, distributed \S+$", versions)
    assert workers == "1 worker, 1 thread, the same versions and bits as here"
    assert re.match(r"\d+\.\d\d Mpix/s with complex-sky, all together$", rate)
    assert "waiting for the first of 1 worker (local)" in err


def test_report_for_reading_offline(call: Call, image: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    words = ("run", image, "--recipe", "sextractor", "--out", tmp_path / "sky.zarr", "--workers", 1)
    code, _, err = call(*words, "--performance-report", tmp_path / "none/report.html")
    assert code == 2
    assert "does not exist; make it or change the path" in err
    code, _, err = call(*words, "--performance-report", page)
    assert code == 0, err
    text = page.read_text()
    assert "Bokeh" in text
    assert not re.search(r"""<(script|link|img)[^>]*(src|href)=["']?https?:""", text)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--cluster", "cloud"], 2, "no cluster 'cloud': neither a file nor one of"),
        (
            ["--cluster", "slurm", "--scheduler", "tcp://127.0.0.1:1"],
            2,
            "--scheduler conflicts with a cluster of kind slurm",
        ),
        (["--workers", "0"], 2, "0 workers with 1 threads do no work"),
        (["--worker-slice", "3/2", "--stage", "output"], 2, "worker slice '3/2' is not a slice"),
        (["--worker-slice", "1/2"], 2, "a worker slice needs --stage; the stages of this run are ingest,"),
        (["--worker-slice", "1/2", "--stage", "output"], 4, "is not prepared for slices; run `tiledsky submit` first"),
    ],
)
def test_refused(call: Call, image: Path, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    found, out, err = call("run", image, "--recipe", "sextractor", "--out", tmp_path / "sky.zarr", *words)
    assert (found, out) == (code, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "sky.zarr").exists()


def test_queue_that_is_not_there_or_takes_no_job(
    refused: Callable[..., None], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    code, out, err = call("cluster", "check", "slurm")
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [
        "tiledsky: no sbatch on this machine, so no job can be submitted to slurm; start this on a machine of the "
        "cluster, or use a cluster of kind local"
    ]
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!{shutil.which('sh', path=os.defpath)}\necho 'sbatch: error: Invalid partition' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    code, out, err = call("cluster", "check", "slurm")
    assert (code, out) == (4, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        "tiledsky: the queue takes no job (sbatch: error: Invalid partition); correct the cluster file, or ask who "
        "runs the queue"
    )


class Silent(socketserver.BaseRequestHandler):
    """A server that takes what is said and says nothing."""

    def handle(self) -> None:
        while self.request.recv(1 << 16):
            pass


class Other(socketserver.BaseRequestHandler):
    """A server of something else: it greets like a mail server, and waits."""

    def handle(self) -> None:
        with suppress(OSError):
            self.request.sendall(b"220 mail ready\r\n" * 20)
            self.request.recv(1 << 16)


@pytest.mark.parametrize("answers", [True, False])
def test_address_where_somebody_else_answers_or_nobody(
    refused: Callable[..., None], image: Path, tmp_path: Path, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever listens and says nothing is not waited for for ever."""
    monkeypatch.setattr("tiledsky.cluster.local._PATIENCE", 120.0 if answers else 2.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other if answers else Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        words = ["run", image, "--recipe", "sextractor", "--out", tmp_path / "sky.zarr", "--scheduler", address]
        said = (
            f"what answers at {address} is no Dask scheduler; correct the address$"
            if answers
            else rf"no Dask scheduler answers at {address} \(no answer within 2 s\); start it, or leave out --sch"
        )
        refused(4, said, *words)
        server.shutdown()


def test_publish_wants_a_bucket_and_a_whole_run(call: Call, image: Path, tmp_path: Path) -> None:
    code, _, err = call("publish", tmp_path, "s3://bucket/a.zarr")
    assert code == 3
    assert "not a Zarr group" in err
    made = run(image, "sextractor", tmp_path / "sky.zarr")
    code, _, err = call("publish", made.path, "https://host/a.zarr")
    assert code == 3
    assert "https:// stores no files; give an address of a bucket" in err
