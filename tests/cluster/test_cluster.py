"""Runs on a cluster: the same bits, errors that name the tile, nothing that listens to the outside."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import dask
import psutil
import pytest
from astropy.io import fits
from distributed import LocalCluster
from distributed.security import Security

from tests.engine.scenes import KEEPING, assert_results, make_planes, reference, stored_bytes, write_arrays, write_fits
from tiledsky import Recipe, run
from tiledsky.cluster.closed import private_folder
from tiledsky.cluster.local import check_address, local_client, parse_memory, scheduler_client
from tiledsky.errors import InputError, ParameterError, RunError


@pytest.fixture(scope="module")
def planes() -> dict[str, Any]:
    return make_planes((250, 310))


@pytest.mark.parametrize(
    ("recipe", "tile_size"),
    [("complex-sky", 130), (KEEPING, 155), pytest.param("sextractor", 64, marks=pytest.mark.faults)],
)
def test_two_workers(client: Any, tmp_path: Path, planes: Any, recipe: Recipe | str, tile_size: int) -> None:
    path = write_fits(tmp_path, planes)
    others = {"weight": f"{path}:WHT", "dq": f"{path}:DQ", "mask": f"{path}:MASK"}
    here = run(f"{path}:SCI", recipe, tmp_path / "here.zarr", tile_size=tile_size, **others)
    there = run(f"{path}:SCI", recipe, tmp_path / "there.zarr", tile_size=tile_size, client=client, **others)
    assert_results(there, reference(recipe, planes))
    assert stored_bytes(there.path) == stored_bytes(here.path)


def test_two_threads(tmp_path: Path, planes: Any) -> None:
    with local_client(workers=1, threads=2) as client:
        result = run(recipe="complex-sky", out=tmp_path / "run.zarr", tile_size=130, client=client,
                     **write_arrays(tmp_path, planes))  # fmt: skip
    assert_results(result, reference("complex-sky", planes))


def test_relative_paths(client: Any, tmp_path: Path, planes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fits(tmp_path, planes)
    monkeypatch.chdir(tmp_path)
    result = run("planes.fits:SCI", "sextractor", "run.zarr", client=client)
    assert_results(result, reference("sextractor", {"science": planes["science"]}))


def test_failing_task_gives_its_tile(client: Any, tmp_path: Path, planes: Any) -> None:
    inputs, out = write_arrays(tmp_path, {"science": planes["science"]}, chunks=(64, 64)), tmp_path / "run.zarr"
    chunk = tmp_path / "science.zarr/c/1/3"
    stat, pixels = chunk.stat(), chunk.read_bytes()
    chunk.write_bytes(b"x" * len(pixels))
    os.utime(chunk, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"cannot be read .* tile \(1, 3\) \(rows 64:128, columns 192:256\)") as caught:
        run(recipe="sextractor", out=out, tile_size=64, client=client, **inputs)
    assert "\n" not in str(caught.value)
    chunk.write_bytes(pixels)
    os.utime(chunk, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = run(recipe="sextractor", out=out, tile_size=64, client=client, **inputs)
    assert result.provenance["tasks"] - result.provenance["tasks_computed_last"] == 19
    assert_results(result, reference("sextractor", {"science": planes["science"]}))


def test_input_that_shrinks_gives_its_tile(client: Any, tmp_path: Path, planes: Any) -> None:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(planes["science"]).writeto(path)

    def shrink(state: Any) -> None:
        os.truncate(path, 2880 * 10)

    with pytest.raises(InputError, match=r"image.fits.*; stage ingest, tile \(\d, \d\) \(rows \d+:\d+, columns"):
        run(path, "sextractor", tmp_path / "run.zarr", tile_size=64, client=client, progress=shrink)


# --- other users of the machine


def processes(client: Any) -> list[psutil.Process]:
    """This process, its children, the workers of a client and what watches over them."""
    pids = {os.getpid(), *client.run(os.getpid).values(), *client.run(os.getpid, nanny=True).values()}
    pids |= {child.pid for child in psutil.Process().children(recursive=True)}
    return [psutil.Process(pid) for pid in sorted(pids)]


def listening(client: Any) -> list[tuple[str, int]]:
    found = [c for process in processes(client) for c in process.net_connections(kind="inet") if c.status == "LISTEN"]
    return [tuple(c.laddr) for c in found]


def answer(port: int, context: ssl.SSLContext | None) -> bytes:
    """First bytes that a port says to somebody with these keys; without: to a request for a page."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        if context is None:
            plain.sendall(b"GET /sitemap.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return plain.recv(1)
        with context.wrap_socket(plain) as talk:
            return talk.recv(1)


def contexts(security: Security) -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    """Keys of a cluster; keys of others, who trust anyone; no keys."""
    made = [who.get_connection_args("client")["ssl_context"] for who in (security, Security.temporary())]
    made.append(ssl.create_default_context())
    for context in made:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return made[0], made[1], made[2]


def test_nothing_listens_to_the_outside(client: Any) -> None:
    found = listening(client)
    assert len(found) >= 4  # scheduler, two workers, what watches over them
    assert {host for host, _ in found} == {"127.0.0.1"}
    assert client.dashboard_link == ""


def test_every_port_asks_for_the_keys_of_the_run(client: Any) -> None:
    ours, others, none = contexts(client.security)
    for _, port in listening(client):
        assert answer(port, ours)
        for context in (others, none):
            with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)alert|reset|EOF|closed"):
                answer(port, context)
        said = b""
        with suppress(ConnectionResetError):
            said = answer(port, None)
        assert said == b""


def test_keys_are_seen_by_nobody(client: Any) -> None:
    key = client.security.get_tls_config_for_role("worker")["key"]
    assert "PRIVATE KEY" in key
    secret = key.splitlines()[1]
    for process in processes(client):
        assert secret not in " ".join(process.cmdline())
        assert secret not in " ".join(process.environ().values())
        for file in process.open_files():
            assert secret.encode() not in Path(file.path).read_bytes()


def test_dashboard_at_an_address_that_nobody_can_guess() -> None:
    with local_client(workers=1, dashboard=True) as client:
        link = client.dashboard_link
        host, secret = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/([\w-]{32})/status", link).groups()  # type: ignore[union-attr]
        for known in ("status", "info/main/workers.html", "json/counts.json", "individual-progress"):
            with urlopen(f"{host}/{secret}/{known}", timeout=60) as page:
                assert page.status == 200
        others = ["", "status", "sitemap.json", "json/counts.json", "statics/css/base.css", "static/js/bokeh.min.js"]
        others += [f"{secret[:-1]}/status", f"{secret}x/status", f"/{secret}/status", "x/status", "%00/status"]
        for other in others:
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"{host}/{other}", timeout=60)
        assert listening(client).count(("127.0.0.1", int(host.rpartition(":")[2]))) == 1
    with pytest.raises(URLError, match="refused"):
        urlopen(link, timeout=60)


def test_folder_of_workers_is_not_one_that_others_made(tmp_path: Path) -> None:
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        own = private_folder()
        assert (own.parent, own.stat().st_mode & 0o777) == (tmp_path, 0o700)
        assert private_folder() == own
        own.chmod(0o777)
        assert private_folder() != own
        own.rmdir()
        (tmp_path / "theirs").mkdir(mode=0o700)
        own.symlink_to(tmp_path / "theirs")
        other = private_folder()
        assert (other.resolve().parent, other.stat().st_mode & 0o777) == (tmp_path, 0o700)
        assert list((tmp_path / "theirs").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "1"), ("MALLOC_TRIM_THRESHOLD_", "33554432"), ("MALLOC_ARENA_MAX", "1")],
)
def test_environment_of_workers(client: Any, name: str, value: str) -> None:
    found = client.run(lambda: os.environ.get(name))
    assert set(found.values()) == {value}


@pytest.mark.parametrize("text", ["", "2XB", "-1GB", "0", "much"])
def test_memory_that_is_no_size(text: str) -> None:
    with pytest.raises(ParameterError, match=f"memory limit '{text}' is not a size; write it like 2GB or 512MiB"):
        parse_memory(text)


@pytest.mark.parametrize("text", ["2", "200kB", "64MiB"])
def test_memory_too_small_to_start(text: str) -> None:
    with pytest.raises(ParameterError, match=f"memory limit '{text}' is less than the 256 MB .* write it like 2GB"):
        parse_memory(text)


def test_memory() -> None:
    assert [parse_memory(t) for t in ("2GB", "1.5GiB", "512MiB")] == [2 * 10**9, 3 * 2**29, 2**29]


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0), (-2, 1)])
def test_cluster_without_workers_is_refused(workers: int, threads: int) -> None:
    message = f"{workers} workers with {threads} threads do no work; use at least one of each"
    with pytest.raises(ParameterError, match=message), local_client(workers=workers, threads=threads):
        pass


# --- schedulers of somebody else


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tcp://127.0.0.1:8786", "localhost:1", "tcp://[::1]:8786"])
def test_loopback_is_safe(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["tcp://192.0.2.7:8786", "0.0.0.0:8786", "tcp://[2001:db8::1]:8786"])
def test_other_machines_in_the_open_are_refused(address: str) -> None:
    message = (
        "is on another machine and not encrypted: anyone who can connect .*; use tls://, or --insecure on a network"
    )
    with pytest.raises(ParameterError, match=message):
        check_address(address)
    check_address(address, insecure=True)


def test_names_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        assert host == "head-node"
        return [(0, 0, 0, "", ("127.0.0.1", port)), (0, 0, 0, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ParameterError, match="scheduler 'tcp://head-node:8786' is on another machine"):
        check_address("tcp://head-node:8786")


def test_name_of_no_machine() -> None:
    with pytest.raises(
        RunError, match=r"no Dask scheduler answers at tcp://nobody\.invalid:8786 .*; start it, or leave"
    ):
        check_address("tcp://nobody.invalid:8786")


@pytest.mark.parametrize("address", ["ws://127.0.0.1:80", "inproc://1", "ucx://127.0.0.1:1", "nonsense://1"])
def test_other_transports_are_refused(address: str) -> None:
    scheme = address.partition(":")[0]
    for insecure in (False, True):
        with pytest.raises(ParameterError, match=f"no {scheme}://; give tcp://HOST:PORT or tls://HOST:PORT"):
            check_address(address, insecure=insecure)


@pytest.mark.parametrize("address", ["tcp://", "", "somewhere", "tcp://127.0.0.1", "tcp://:80", "tcp://127.0.0.1:x"])
def test_address_of_no_scheduler(address: str) -> None:
    with (
        pytest.raises(ParameterError, match="is not an address; give tcp://HOST:PORT or tls://HOST:PORT"),
        scheduler_client(address),
    ):
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """Settings of Dask with a certificate that signs itself."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = "distributed.comm.tls"
    return {f"{tls}.ca-file": str(cert)} | {
        f"{tls}.{who}.{what}": str(path)
        for who in ("client", "scheduler", "worker")
        for what, path in (("cert", cert), ("key", key))
    }


@pytest.mark.parametrize("setting", ["ca-file", "client.cert", "client.key"])
def test_files_of_tls(certificate: dict[str, str], tmp_path: Path, setting: str) -> None:
    name = f"distributed.comm.tls.{setting}"
    address = "tls://192.0.2.7:8786"
    message = f"'{address}' needs the setting {name} of Dask; put the path"
    with dask.config.set({**certificate, name: None}), pytest.raises(ParameterError, match=message):
        check_address(address)
    absent = {**certificate, name: str(tmp_path / "none.pem")}
    message = rf"none\.pem, Dask's setting {name}, is not a file; correct the path"
    with dask.config.set(absent), pytest.raises(ParameterError, match=message):
        check_address(address)


def test_scheduler_with_tls(certificate: dict[str, str], tmp_path: Path, planes: Any) -> None:
    inputs = write_arrays(tmp_path, {"science": planes["science"]})
    with dask.config.set(certificate):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, protocol="tls://", security=Security(),
                               host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50)  # fmt: skip
        with cluster, scheduler_client(cluster.scheduler_address) as client:
            assert cluster.scheduler_address.startswith("tls://")
            result = run(recipe="sextractor", out=tmp_path / "run.zarr", client=client, **inputs)
    assert_results(result, reference("sextractor", {"science": planes["science"]}))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("ulimit -n 52 && ulimit -v 1200000", ""),
        (
            "ulimit -n 51",
            "a run with 1 workers takes up to 52 open files, and the system allows 51; raise the limit",
        ),
        (
            "ulimit -v 700000",
            "the system limits a process to 717 MB of addresses, too few for a worker; raise",
        ),
    ],
)
def test_limits_of_the_system(tmp_path: Path, planes: Any, limits: str, said: str) -> None:
    """What is asked for is enough for a worker; with less, a run waited for connections or workers."""
    image = write_fits(tmp_path, {"science": planes["science"]}).name
    words = [sys.executable, "-m", "tiledsky", "run", image, "--recipe", "sextractor", "--out", "run.zarr"]
    done = subprocess.run(
        ["sh", "-c", f'{limits} && exec "$@"', "sh", *words, "--workers", "1", "--no-report"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (4 if said else 0), done.stderr
    if said:
        assert done.stderr.startswith(f"tiledsky: {said}")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "run.zarr").exists()
