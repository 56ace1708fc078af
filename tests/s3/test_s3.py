"""Mosaics in a bucket of a real object store, which is killed and started again, and made to answer 503.

``make test-s3`` installs SeaweedFS; TILEDSKY_WEED is its program.
"""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import obstore
import pytest
import zarr
from obstore.store import S3Store

from tests.run.scenes import RESULTS, make_planes
from tiledsky import Run, run
from tiledsky.io import remote

WEED = os.environ.get("TILEDSKY_WEED", "")
pytestmark = [pytest.mark.s3, pytest.mark.skipif(not WEED, reason="there is no object store; TILEDSKY_WEED names it")]
URL = "s3://sky/mosaic.zarr"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """SeaweedFS with its S3 gateway on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *self.others = free_ports(8)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        master, volume, filer, *grpc = self.others
        words = [WEED, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-filer"]
        words += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={self.port}"]
        words += [f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}", f"-filer.port.grpc={grpc[2]}"]
        words += [f"-s3.port.grpc={grpc[3]}", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
            except OSError:
                assert time.monotonic() < end, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.2)
            else:
                return

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("weed"))
    made.start()
    request = urllib.request.Request(f"http://127.0.0.1:{made.port}/sky", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    remote._store.cache_clear()
    yield
    remote._store.cache_clear()


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mosaic on disk, which is also in the bucket."""
    folder = tmp_path_factory.mktemp("mosaic") / "mosaic.zarr"
    group = zarr.create_group(str(folder))
    for name, plane in make_planes((300, 320)).items():
        if name != "mask":
            group.create_array(name, data=plane, chunks=(64, 64))
    store = S3Store("sky", prefix="mosaic.zarr", endpoint=f"http://127.0.0.1:{server.port}", access_key_id="any",
                    secret_access_key="any", region="us-east-1", client_options={"allow_http": True})  # fmt: skip
    for file in folder.rglob("*"):
        if file.is_file():
            obstore.put(store, file.relative_to(folder).as_posix(), file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def local(folder: Path) -> Run:
    return run("complex-sky", folder, folder.with_name("local.zarr"), tile_size=100)


def assert_same(found: Run, expected: Run) -> None:
    """All planes are equal, as stored."""
    for name in RESULTS:
        assert np.array_equal(found.plane(name)[...], expected.plane(name)[...], equal_nan=True), name
        files = sorted(p.relative_to(expected.path) for p in (expected.path / name).rglob("*") if p.is_file())
        assert all((found.path / f).read_bytes() == (expected.path / f).read_bytes() for f in files), name


def test_run_from_a_bucket(local: Run, tmp_path: Path) -> None:
    assert_same(run("complex-sky", URL, tmp_path / "run.zarr", tile_size=100), local)


def test_workers_read_the_bucket(local: Run, tmp_path: Path) -> None:
    from tiledsky.run.cluster import local_client

    with local_client(workers=2) as client:
        assert_same(run("complex-sky", URL, tmp_path / "run.zarr", tile_size=100, client=client), local)


def test_server_killed_and_started_again(server: Server, local: Run, tmp_path: Path) -> None:
    restarts: list[threading.Thread] = []

    def kill(state: Any) -> None:
        if state.done == 5:
            server.kill()
            restarts.append(threading.Thread(target=lambda: (time.sleep(3), server.start())))
            restarts[0].start()

    try:
        result = run("complex-sky", URL, tmp_path / "run.zarr", tile_size=100, progress=kill)
    finally:
        for thread in restarts:
            thread.join()
    assert restarts
    assert_same(result, local)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the server, and answers every third one 503 instead."""

    port = 0
    count = 0
    always = False
    refused: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = type(self)
        kind.count += 1
        if self.always or kind.count % 3 == 0:
            self.refused.append(self.path)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        connection.close()

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Proxy]]:
    Proxy.port, Proxy.count, Proxy.always = server.port, 0, False
    Proxy.refused.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server_port}")
        yield Proxy
        made.shutdown()


def test_every_third_answer_is_503(proxy: type[Proxy], local: Run, tmp_path: Path) -> None:
    assert_same(run("complex-sky", URL, tmp_path / "run.zarr", tile_size=100), local)
    assert len(proxy.refused) > 50


def test_only_503_is_an_error_and_no_sky(
    proxy: type[Proxy], local: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiledsky.errors import RunError

    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)

    def stop(state: Any) -> None:
        proxy.always = state.done >= 5

    out = tmp_path / "run.zarr"
    with pytest.raises(RunError, match=r"503|cannot be read"):
        run("complex-sky", URL, out, tile_size=100, progress=stop)
    assert not (out / "run/_SUCCESS").exists()
    proxy.always = False
    monkeypatch.setitem(remote._RETRIES, "max_retries", 20)
    remote._store.cache_clear()
    assert_same(run("complex-sky", URL, out, tile_size=100), local)
