"""Clients and workers that cannot do a run: the cause is said at once, and nothing is written."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from astropy.io import fits
from distributed import Client, LocalCluster

from tests.engine.scenes import make_planes, stored_bytes
from tiledsky import run
from tiledsky.cluster.local import local_client
from tiledsky.cluster.versions import versions
from tiledsky.cluster.workers import check_client, check_versions
from tiledsky.engine import executors
from tiledsky.errors import ClockError, ParameterError, RunError

LONG = 120


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(make_planes((90, 110))["science"]).writeto(path)
    return path


def test_what_is_no_client_that_waits(image: Path, tmp_path: Path) -> None:
    check_client(None)
    with LocalCluster(processes=False, n_workers=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            check_client(client)
        for given, what in (
            (client, "closed"),
            (cluster, "of type LocalCluster"),
            ("tcp://127.0.0.1:1", "of type str"),
        ):
            with pytest.raises(ParameterError, match=f"the client is {what}, so no task would run; give a distributed"):
                run(image, "sextractor", tmp_path / "run.zarr", client=given)

    async def cell() -> None:
        """A cell of a notebook whose client is asynchronous."""
        async with (
            LocalCluster(processes=False, n_workers=1, asynchronous=True, dashboard_address=None) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            with pytest.raises(ParameterError, match="the client is asynchronous, which this call is not, so no task"):
                run(image, "sextractor", tmp_path / "run.zarr", client=client)

    asyncio.run(cell())
    assert not (tmp_path / "run.zarr").exists()


@contextmanager
def joined(address: str, packages: Path) -> Iterator[None]:
    """A worker that somebody else started, with packages of its own."""
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [*words, "--host", "127.0.0.1", "--no-dashboard"],
        cwd=packages,
        env={**os.environ, "PYTHONPATH": str(packages)},
        **quiet,
    ) as worker:
        try:
            yield
        finally:
            worker.kill()


#: Packages of workers that are not ours, and what is said of them.
OTHERS = [
    (
        "raise ModuleNotFoundError('planted')",
        r"worker tcp://\S+ cannot load tiledsky \(.*planted.*\), so no task runs there; install the same",
    ),
    (
        "__path__ = {path!r}\n__version__ = '0.0.1'",
        r"worker \S+ has tiledsky 0\.0\.1 instead of \S+; install the same versions on all machines",
    ),
]


def other_package(tmp_path: Path, package: str) -> Path:
    import tiledsky

    folder = tmp_path / "other/tiledsky"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(package.format(path=list(tiledsky.__path__)))
    return folder.parent


@pytest.mark.parametrize(("package", "said"), OTHERS)
def test_worker_without_this_version(image: Path, tmp_path: Path, package: str, said: str) -> None:
    packages = other_package(tmp_path, package)
    with (
        LocalCluster(processes=False, n_workers=0, host="127.0.0.1", protocol="tcp", dashboard_address=None) as cluster,
        joined(cluster.scheduler_address, packages),
        Client(cluster.scheduler_address) as client,
    ):
        client.wait_for_workers(1, timeout=LONG)
        with pytest.raises(RunError, match=said):
            run(image, "sextractor", tmp_path / "run.zarr", client=client)
    assert not (tmp_path / "run.zarr").exists()


def test_worker_that_joins_a_run(image: Path, tmp_path: Path) -> None:
    """One with another version computes nothing; without it the same command goes on."""
    (package, said), out = OTHERS[1], tmp_path / "run.zarr"
    packages = other_package(tmp_path, package)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
        ExitStack() as stack,
    ):

        def join(_: Any) -> None:
            if len(client.scheduler_info()["workers"]) == 1:
                stack.enter_context(joined(cluster.scheduler_address, packages))
                client.wait_for_workers(2, timeout=LONG)

        with pytest.raises(RunError, match=f"{said}, then the same command goes on$"):
            run(image, "sextractor", out, client=client, tile_size=64, progress=join)
    assert not (out / "run/_SUCCESS").exists()
    whole = run(image, "sextractor", tmp_path / "whole.zarr", tile_size=64)
    assert run(image, "sextractor", out, tile_size=64).complete
    assert stored_bytes(out) == stored_bytes(whole.path)


def test_versions_that_are_the_same() -> None:
    check_versions("worker", versions(), versions())
    with pytest.raises(RunError, match=r"worker has numpy none instead of \d"):
        check_versions("worker", versions(), {n: v for n, v in versions().items() if n != "numpy"})


def test_worker_that_ends_while_the_cluster_starts(tmp_path: Path) -> None:
    """Killed for want of memory, or without the files that it needs."""
    (tmp_path / "ends.py").write_text("import os\nos._exit(9)\n")
    with (
        dask.config.set({"distributed.worker.preload": [str(tmp_path / "ends.py")]}),
        pytest.raises(RunError, match=r"the workers on this machine did not start \(.+\); check memory, limits"),
        local_client(workers=1),
    ):
        raise AssertionError("a cluster without workers")


def test_clock_that_is_set_back(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask would stand still for an hour; forward, and by a little, a clock may be set."""
    ahead = chain([0.0, 3600.0, 3595.0], repeat(0.0))  # by the number of looks, not by the pace of the tasks
    clock = {"time": lambda: time.time() + next(ahead), "perf_counter": time.perf_counter}
    monkeypatch.setattr(executors, "time", SimpleNamespace(monotonic=time.monotonic, sleep=time.sleep, **clock))

    with local_client(workers=1) as client:
        with pytest.raises(ClockError, match=r"clock of this machine was set back by 3600 s.*the same command goes on"):
            run(image, "sextractor", tmp_path / "run.zarr", client=client, tile_size=64)
        assert run(image, "sextractor", tmp_path / "run.zarr", client=client, tile_size=64).complete


def test_file_system_without_locks(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(
        RunError,
        match=r"on a file system without locks \(No locks "
        r"available\), so the run cannot keep a second",
    ):
        run(image, "sextractor", tmp_path / "run.zarr")
    monkeypatch.undo()
    assert run(image, "sextractor", tmp_path / "run.zarr").complete
