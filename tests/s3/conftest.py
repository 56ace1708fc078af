"""A real object store: SeaweedFS on loopback, a mosaic in a bucket of it, and a proxy that answers 503."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr

from tests.engine.scenes import RESULTS, make_planes, stored_bytes
from tiledsky import Run, run
from tiledsky.io import remote
from tiledsky.io.address import Address

#: Its program.
WEED = os.environ.get("TILEDSKY_WEED", "")
URL = "s3://sky/mosaic.zarr"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/s3/" in item.nodeid:
            item.add_marker(pytest.mark.s3)
            if not WEED:
                item.add_marker(pytest.mark.skip(reason="there is no object store; TILEDSKY_WEED names it"))


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
        words += [
            f"-s3.port.grpc={grpc[3]}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=20",
            "-master.volumeSizeLimitMB=64",
        ]
        with (self.folder / "log").open("ab") as log:
            # it would take keys of the environment for those of its users
            own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=own)
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


def speak_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    remote.bucket.cache_clear()


@pytest.fixture(autouse=True)
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    speak_to(server, monkeypatch)
    yield
    remote.bucket.cache_clear()


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mosaic on disk, which is also in the bucket."""
    folder = tmp_path_factory.mktemp("mosaic") / "mosaic.zarr"
    with pytest.MonkeyPatch.context() as patch:
        speak_to(server, patch)
        put_mosaic(folder, URL)
    return folder


@pytest.fixture(scope="module")
def local(folder: Path) -> Run:
    return run(folder, "complex-sky", folder.with_name("local.zarr"), tile_size=100)


def put_mosaic(folder: Path, url: str) -> None:
    """Write a mosaic to a folder, and put it at an address."""
    group = zarr.create_group(str(folder))
    for name, plane in make_planes((300, 320)).items():
        if name != "mask":
            group.create_array(name, data=plane, chunks=(64, 64))
    for file in folder.rglob("*"):
        if file.is_file():
            Address(f"{url}/{file.relative_to(folder).as_posix()}").write_bytes(file.read_bytes())


def assert_same_bytes(url: str, expected: Run) -> None:
    """Every object is that of the run on the disk, but those that say when and where; a disk has locks besides."""
    there, here = stored_bytes(Address(url)), stored_bytes(expected.path)  # type: ignore[arg-type]
    assert there == {name: digest for name, digest in here.items() if not name.endswith("lock")}


def markers(url: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Address(f"{url}/run/markers").rglob("*.json")}


def wait_for(what: Callable[[], Any], *, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def assert_same(found: Run, expected: Run) -> None:
    """All planes are equal, as stored."""
    for name in RESULTS:
        assert np.array_equal(found.plane(name)[...], expected.plane(name)[...], equal_nan=True), name
        files = sorted(p.relative_to(expected.path) for p in (expected.path / name).rglob("*") if p.is_file())
        assert all((found.path / f).read_bytes() == (expected.path / f).read_bytes() for f in files), name


@contextmanager
def killed_once(server: Server, *, after: int) -> Iterator[Callable[[Any], None]]:
    """Progress callback of a run that kills the server after so many tasks; it is started again 3 s later."""
    restarts: list[threading.Thread] = []

    def kill(state: Any) -> None:
        if state.done == after:
            server.kill()
            restarts.append(threading.Thread(target=lambda: (time.sleep(3), server.start())))
            restarts[0].start()

    try:
        yield kill
    finally:
        for thread in restarts:
            thread.join()
    assert restarts


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the server, and answers one of ``every`` with 503 instead."""

    port = 0
    count, every = 0, 3
    always = False
    refused: ClassVar[list[str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = type(self)
        kind.count += 1
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.always or kind.count % self.every == 0:
            self.refused.append(f"{self.command} {self.path}")
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(self.command, self.path, body=sent or None, headers=dict(self.headers))
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

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Proxy]]:
    Proxy.port, Proxy.count, Proxy.every, Proxy.always = server.port, 0, 3, False
    Proxy.refused.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.server_port}")
        yield Proxy
        made.shutdown()
