"""A scheduler and its worker with TLS, each a process: the cluster file names the keys, others are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from distributed.security import Security

from tests.engine.certificates import write_certificate
from tests.engine.scenes import command, make_planes, stored_bytes, write_arrays
from tiledsky import run
from tiledsky.cluster.configuration import ClusterFile, load_cluster
from tiledsky.cluster.job_queues import cluster_client
from tiledsky.cluster.local import scheduler_client
from tiledsky.errors import RunError


def process(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    tls = ["--tls-ca-file", "a.pem", "--tls-cert", "a.pem", "--tls-key", "a.key"]
    with (folder / f"{words[0].rpartition('.')[2]}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words, *tls, "--host", "127.0.0.1"],
            cwd=folder, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cluster file of a scheduler with one worker."""
    folder = tmp_path_factory.mktemp("tls")
    write_certificate(folder, "a")
    write_certificate(folder, "b")
    file = folder / "scheduler.json"
    started = [
        process(folder, "distributed.cli.dask_scheduler", "--protocol", "tls", "--port", "0", "--no-dashboard",
                "--scheduler-file", str(file)),
        process(folder, "distributed.cli.dask_worker", "--scheduler-file", str(file), "--protocol", "tls",
                "--nthreads", "1", "--memory-limit", "2GB", "--no-dashboard"),
    ]  # fmt: skip
    try:
        address = ""
        for _ in range(600):
            log = (folder / "dask_scheduler.log").read_text()
            if "Register worker" in log:
                address = next(word for word in log.split() if word.startswith("tls://"))
                break
            time.sleep(0.1)
        assert address, log
        text = f"kind = 'scheduler'\naddress = '{address}'\nca = 'a.pem'\ncertificate = 'a.pem'\nkey = 'a.key'\n"
        (folder / "cluster.toml").write_text(text)
        yield folder / "cluster.toml"
    finally:
        for one in reversed(started):
            one.terminate()
        for one in started:
            one.wait(30)


def test_run_with_the_keys_of_the_cluster_file(cluster: Path, tmp_path: Path) -> None:
    inputs = write_arrays(tmp_path, {"science": make_planes((130, 140))["science"]})
    here = run(recipe="sextractor", out=tmp_path / "here.zarr", **inputs)
    out = tmp_path / "there.zarr"
    words = ("run", inputs["source"], "--recipe", "sextractor", "--out", str(out), "--cluster", str(cluster))
    driver = command(*words)
    _, said = driver.communicate(timeout=900)
    assert driver.returncode == 0, said
    assert stored_bytes(out) == stored_bytes(here.path)


def test_a_plain_client_is_refused(cluster: Path) -> None:
    address = load_cluster(cluster).scheduler_address
    plain = address.replace("tls://", "tcp://")
    with pytest.raises(RunError, match=f"no Dask scheduler answers at {plain}"), scheduler_client(plain):
        pass


def test_another_certificate_is_refused(cluster: Path) -> None:
    folder = cluster.parent
    pem, key = str(folder / "b.pem"), str(folder / "b.key")
    # trusts the scheduler, but is not trusted
    security = Security(require_encryption=True, tls_ca_file=str(folder / "a.pem"), tls_client_cert=pem,
                        tls_client_key=key)  # fmt: skip
    config = load_cluster(cluster)
    with pytest.raises(OSError, match=r"Timed out|handshake|alert|certificate|EOF occurred|reset by peer"):
        Client(config.scheduler_address, security=security, timeout=3)
    # trusts another scheduler
    other = ClusterFile(kind="scheduler", address=config.scheduler_address, ca=pem, certificate=pem, key=key)
    with pytest.raises(RunError, match="no Dask scheduler answers at tls://"), cluster_client(other):
        pass
