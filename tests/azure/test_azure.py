"""Runs from and to Azure's blob store: Azurite, its emulator, on loopback."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.scenes import command
from tests.s3.conftest import assert_same_bytes, free_ports, markers, put_mosaic, wait_for
from tiledsky import Run, open_run, run
from tiledsky.engine import leases
from tiledsky.engine.leases import BucketLease
from tiledsky.engine.verify import verify
from tiledsky.errors import RunError
from tiledsky.io import remote
from tiledsky.io.address import Address
from tiledsky.io.buckets import ObjectStore

#: Its program, ``azurite-blob``.
AZURITE = os.environ.get("TILEDSKY_AZURITE", "")
pytestmark = [
    pytest.mark.azure,
    pytest.mark.skipif(not AZURITE, reason="there is no Azurite; TILEDSKY_AZURITE names it"),
]

#: Account of every Azurite, as its documentation gives it.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
URL = "az://sky/mosaic.zarr"


def create_container(port: int, name: str) -> None:
    """Ask for a container: the one request that obstore has no call for."""
    date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signed = "\n".join(["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{version}", resource])
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {"x-ms-date": date, "x-ms-version": version}
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    address = f"http://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(address, method="PUT", headers=headers), timeout=30).close()


@contextmanager
def azurite(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    words = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*words, "--skipApiVersionCheck", "--disableTelemetry"], stdout=log, stderr=log)
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:  # it answers, and does not know us
            break
        except OSError:
            assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch, azurite(tmp_path_factory.mktemp("azurite"), port):
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        patch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        patch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{port}")
        remote.bucket.cache_clear()
        create_container(port, "sky")
        yield
        remote.bucket.cache_clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Put a mosaic into the container, and run on it to the disk."""
    folder = tmp_path_factory.mktemp("mosaic") / "mosaic.zarr"
    put_mosaic(folder, URL)
    return run(URL, "complex-sky", folder.with_name("local.zarr"), tile_size=100)


def test_from_container_to_container(local: Run) -> None:
    """A driver is killed on the way; the next one goes on."""
    out = "az://sky/sky.zarr"
    words = ("run", URL, "--recipe", "complex-sky", "--out", out, "--tile-size", "100")

    with command(*words) as driver:
        wait_for(lambda: len(markers(out)) >= 9 or driver.poll() is not None)
        driver.kill()
        driver.communicate(timeout=60)
    before = markers(out)
    with pytest.raises(RunError, match="is not finished"):
        open_run(out)
    with command(*words) as driver:
        _, said = driver.communicate(timeout=300)
        assert driver.returncode == 0, said
    assert {name: data for name, data in markers(out).items() if name in before} == before
    assert_same_bytes(out, local)
    assert verify(out, level="decode") == []


def test_second_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW", 0.2)
    guard = BucketLease(ObjectStore(Address("az://sky/other.zarr")))
    with guard.locked(), pytest.raises(RunError, match="is being run by another process"), guard.locked():
        raise AssertionError("two have the lease")
    assert not guard.lock.exists()
