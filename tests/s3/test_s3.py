"""Mosaics in a bucket of a real object store, which is killed and started again, and made to answer 503.

``make test-s3`` installs SeaweedFS; TILEDSKY_WEED is its program.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.s3.conftest import URL, Proxy, Server, assert_same, killed_once
from tiledsky import Run, run
from tiledsky.errors import InputError, RunError
from tiledsky.geometry import Region
from tiledsky.io import remote
from tiledsky.io.address import Address
from tiledsky.io.source import open_source
from tiledsky.workflows.publish import upload


def test_run_from_a_bucket(local: Run, tmp_path: Path) -> None:
    assert_same(run(URL, "complex-sky", tmp_path / "run.zarr", tile_size=100), local)


def test_workers_read_the_bucket(local: Run, tmp_path: Path) -> None:
    from tiledsky.cluster.local import local_client

    with local_client(workers=2) as client:
        assert_same(run(URL, "complex-sky", tmp_path / "run.zarr", tile_size=100, client=client), local)


def test_server_killed_and_started_again(server: Server, local: Run, tmp_path: Path) -> None:
    with killed_once(server, after=5) as kill:
        result = run(URL, "complex-sky", tmp_path / "run.zarr", tile_size=100, progress=kill)
    assert_same(result, local)


def test_every_third_answer_is_503(proxy: type[Proxy], local: Run, tmp_path: Path) -> None:
    assert_same(run(URL, "complex-sky", tmp_path / "run.zarr", tile_size=100), local)
    assert len(proxy.refused) > 50


def test_only_503_is_an_error_and_no_sky(
    proxy: type[Proxy], local: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)

    def stop(state: Any) -> None:
        proxy.always = state.done >= 5

    out = tmp_path / "run.zarr"
    with pytest.raises(RunError, match="does not answer"):
        run(URL, "complex-sky", out, tile_size=100, progress=stop)
    assert not (out / "run/_SUCCESS").exists()
    proxy.always = False
    monkeypatch.setitem(remote._RETRIES, "max_retries", 100)
    remote.bucket.cache_clear()
    assert_same(run(URL, "complex-sky", out, tile_size=100), local)


# --- copies to a bucket


def test_a_run_is_copied_to_a_bucket(local: Run, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tiledsky", "publish", local.path, "s3://sky/out.zarr"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    copy = Address("s3://sky/out.zarr")
    there = {p.relative_to(copy).as_posix(): p.stat().st_size for p in copy.rglob("*")}
    here = {p.relative_to(local.path).as_posix(): p.stat().st_size for p in local.path.rglob("*") if p.is_file()}
    assert there == here
    # and its planes are an input, now that it is whole
    masks = open_source(URL, mask="s3://sky/out.zarr").planes
    found = masks["source_mask"].open().read(Region.whole(masks["source_mask"].shape))
    assert np.array_equal(found, local.plane("mask")[...])
    (copy / "run/_SUCCESS").unlink()
    with pytest.raises(InputError, match="is a run and is not finished"):
        open_source(URL, mask="s3://sky/out.zarr")


def test_a_copy_that_is_cut_off_is_not_taken_for_a_run(
    server: Server, local: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://sky/cut.zarr"
    upload(local.path, url, last="run/_SUCCESS")
    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)
    remote.bucket.cache_clear()

    def kill(done: int, total: int) -> None:
        if done == 9:
            server.kill()

    with pytest.raises(RunError, match="does not answer"):
        upload(local.path, url, last="run/_SUCCESS", told=kill)
    server.start()
    remote.bucket.cache_clear()
    assert not Address(f"{url}/run/_SUCCESS").is_file()
    upload(local.path, url, last="run/_SUCCESS")
    assert Address(f"{url}/run/_SUCCESS").is_file()
