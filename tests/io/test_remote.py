"""Zarr read from a web server: the same bits, 503s asked again, an outage an error and never fill value."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from astropy.io import fits
from zarr.storage import ObjectStore

from tests.engine.certificates import write_certificate
from tests.engine.scenes import RESULTS, make_planes
from tiledsky import run
from tiledsky.errors import InputError, RunError
from tiledsky.geometry import Region
from tiledsky.io import remote
from tiledsky.io.fetch import LocalCopy
from tiledsky.io.source import open_source


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; ``ill`` says for how many requests in a row each chunk is refused with 503."""

    ill, short = 0, 0
    asked: ClassVar[Counter[str]] = Counter()

    def send_head(self) -> Any:
        name = self.path
        type(self).asked[name] += 1
        if "/c/" in name and self.asked[name] <= self.ill:
            self.send_error(503)
            return None
        if name.endswith(".fits") and self.asked[name] <= self.short:
            self.send_response(200)
            self.send_header("Content-Length", "5760")
            self.end_headers()
            self.wfile.write(b"SIMPLE  =")
            self.close_connection = True
            return None
        return super().send_head()

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Address of a web server of a folder."""
    Handler.ill, Handler.short, Handler.asked = 0, 0, Counter()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
        server.shutdown()
    remote.bucket.cache_clear()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a web server of ``tmp_path``."""
    with serving(tmp_path) as url:
        yield url


@pytest.fixture
def served_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same by https, with a certificate that SSL_CERT_FILE makes known."""
    write_certificate(tmp_path, "host", "subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "host.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "host.pem", tmp_path / "host.key")
    with serving(tmp_path, tls) as url:
        yield url


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after one more request."""
    monkeypatch.setitem(remote._RETRIES, "max_retries", 1)


@pytest.fixture(scope="module")
def planes() -> dict[str, Any]:
    return {name: plane for name, plane in make_planes((130, 140)).items() if name in ("science", "weight")}


@pytest.fixture
def group(tmp_path: Path, planes: dict[str, Any]) -> Path:
    """Group with science and weight, as `ingest` writes it."""
    made = zarr.create_group(str(tmp_path / "mosaic.zarr"))
    for name, plane in planes.items():
        made.create_array(name, data=plane, chunks=(71, 53))
    return tmp_path / "mosaic.zarr"


@pytest.fixture
def fits_file(tmp_path: Path, planes: dict[str, Any]) -> Path:
    """The same in the extensions SCI and WHT of a file, and of a compressed one."""
    file = tmp_path / "mosaic.fits"
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(planes[n], name=e) for n, e in (("science", "SCI"), ("weight", "WHT")))]
    fits.HDUList(hdus).writeto(file)
    (tmp_path / "mosaic.fits.gz").write_bytes(gzip.compress(file.read_bytes()))
    return file


@pytest.mark.parametrize("name", ["mosaic.fits", "mosaic.fits.gz"])
def test_run_from_a_fits_file_at_an_address(served: str, fits_file: Path, tmp_path: Path, name: str) -> None:
    url = f"{served}/{name}"
    here = run(fits_file, "sextractor", tmp_path / "here.zarr", weight=f"{fits_file}:WHT")
    there = run(url, "sextractor", tmp_path / "there.zarr", weight=f"{url}:WHT")
    for plane in RESULTS:
        assert np.array_equal(there.plane(plane)[...], here.plane(plane)[...], equal_nan=True), plane
    assert there.provenance["input"] == {"science": url, "weight": url}
    assert there.header == here.header
    # the same file, though it was copied once more
    again = run(url, "sextractor", tmp_path / "there.zarr", weight=f"{url}:WHT")
    assert again.provenance == there.provenance


def test_from_an_address_with_tls(
    served_over_tls: str, fits_file: Path, group: Path, planes: dict[str, Any], tmp_path: Path
) -> None:
    copy = LocalCopy(f"{served_over_tls}/mosaic.fits", tmp_path)
    assert copy.path.read_bytes() == fits_file.read_bytes()
    plane = open_source(f"{served_over_tls}/mosaic.zarr/science").planes["science"].open()
    found = plane.read(Region(0, 130, 0, 140))
    np.testing.assert_array_equal(found, planes["science"])


def test_copies_are_removed(served: str, fits_file: Path, tmp_path: Path) -> None:
    copy = LocalCopy(f"{served}/mosaic.fits", tmp_path)
    assert copy.path.read_bytes() == fits_file.read_bytes()
    assert copy.path.parent == tmp_path
    assert copy.path.stat().st_mtime_ns // 10**9 == fits_file.stat().st_mtime_ns // 10**9
    path = copy.path
    del copy
    assert not path.exists()


def test_copy_that_breaks_off_is_begun_again(served: str, fits_file: Path, tmp_path: Path) -> None:
    Handler.short = 1
    copy = LocalCopy(f"{served}/mosaic.fits", tmp_path)
    assert copy.path.read_bytes() == fits_file.read_bytes()


@pytest.mark.usefixtures("few")
def test_copy_that_always_breaks_off_is_an_error(served: str, fits_file: Path, tmp_path: Path) -> None:
    Handler.short = 10**6
    with pytest.raises(RunError, match=rf"{served}/mosaic.fits .*the same command"):
        LocalCopy(f"{served}/mosaic.fits", tmp_path)
    assert list(tmp_path.glob("tiledsky-*")) == []


def test_no_file_at_an_address(served: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{served}/nothing\.fits: no such file; check the address"):
        open_source(f"{served}/nothing.fits", scratch=tmp_path)
    with pytest.raises(InputError, match="cannot write to the scratch directory"):
        open_source(f"{served}/nothing.fits", scratch=tmp_path / "missing")


def test_run_from_an_address(served: str, group: Path, tmp_path: Path) -> None:
    here = run(group, "sextractor", tmp_path / "here.zarr")
    there = run(f"{served}/mosaic.zarr/", "sextractor", tmp_path / "there.zarr")
    for name in RESULTS:
        assert np.array_equal(there.plane(name)[...], here.plane(name)[...], equal_nan=True), name
    assert there.provenance["input"]["science"] == f"{served}/mosaic.zarr/science"
    assert set(there.provenance["input"]) == {"science", "weight"}


def test_a_server_that_is_busy_is_asked_again(served: str, group: Path, planes: dict[str, Any]) -> None:
    Handler.ill = 2
    array = open_source(f"{served}/mosaic.zarr").planes["science"].open()
    found = array.read(Region(0, 130, 0, 140))
    assert np.array_equal(found, planes["science"], equal_nan=True)
    assert {count for name, count in Handler.asked.items() if "/c/" in name} == {3}


@pytest.mark.usefixtures("few")
def test_an_outage_is_an_error_that_may_pass(served: str, group: Path, tmp_path: Path) -> None:
    source = f"{served}/mosaic.zarr"
    array = open_source(source).planes["science"].open()
    Handler.ill = 1000
    with pytest.raises(RunError, match=r"does not answer .*503.*; check network and credentials, the same") as caught:
        array.read(Region(0, 71, 0, 53))
    assert isinstance(caught.value.__cause__, OSError)  # so that the task is tried again
    with pytest.raises(RunError, match=r"\d+ of \d+ tasks of stage .* failed.*503"):
        run(source, "sextractor", tmp_path / "run.zarr")
    Handler.ill = 0
    result = run(source, "sextractor", tmp_path / "run.zarr")
    here = run(group, "sextractor", tmp_path / "here.zarr")
    assert np.array_equal(result.plane("background")[...], here.plane("background")[...])


@pytest.mark.usefixtures("few")
def test_a_server_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/m\.zarr does not answer"):
        open_source("http://127.0.0.1:9/m.zarr")


def test_nothing_there(served: str, group: Path) -> None:
    with pytest.raises(InputError, match=r"none\.zarr: no Zarr array or group .*; give the address of a Zarr store"):
        open_source(f"{served}/none.zarr")
    with pytest.raises(InputError, match=r"mosaic\.zarr: no array 'dq' in this group; it has others, if any; name one"):
        open_source(f"{served}/mosaic.zarr", hdu="dq")


def test_changed_input_is_noticed(served: str, group: Path) -> None:
    plane = open_source(f"{served}/mosaic.zarr").planes["science"]
    assert plane.again().identity == plane.identity
    zarr.open_group(str(group))["science"].attrs["new"] = 1
    remote.bucket.cache_clear()
    assert plane.again().identity != plane.identity


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "s3://key:secret@bucket/m.zarr",
            r"^s3://\.\.\.: an address must not contain a password, '\?' or '#', .*; put keys in the env",
        ),
        ("https://h/m.zarr?token=secret", "an address must not contain a password"),
        ("s3:///m.zarr", "names no bucket or host; give one like s3://bucket"),
        ("s3://bucket/a/../b", r"has '\.\.' in it"),
        ("http://192.0.2.7/m.zarr", "is not encrypted, so anyone on the way can change the pixels; use https://"),
        ("http://[x/m.zarr", "is not an address"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_source(url)
    assert "secret" not in str(caught.value)


def test_what_is_an_address() -> None:
    assert all(
        map(remote.is_url, ("s3://b/k", "gs://b/k", "az://b/k", "https://h/k", "S3://b/k", "tcp://h:1", "s3:/b/k"))
    )
    assert not any(map(remote.is_url, ("a/b.zarr", "/a/b", "file.fits:SCI", "C:/x", Path("a"))))


@pytest.mark.parametrize(
    ("name", "value", "account"),
    [
        ("AZURE_STORAGE_ACCOUNT_NAME", "sky", "sky"),
        ("AZURE_STORAGE_USE_EMULATOR", "true", "devstoreaccount1"),
    ],
)
def test_account_of_azure_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, account: str
) -> None:
    """Zarr writes the name of its store when it opens one, at which obstore must not end."""
    for given in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.delenv(given, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    remote.bucket.cache_clear()
    assert f'account_name="{account}"' in str(ObjectStore(remote.bucket("az://container/mosaic.zarr")))
    remote.bucket.cache_clear()
