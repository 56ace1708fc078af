"""FITS files that lie: a typed error that names the file, or the right pixels; no crash, no hang, little memory."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from tests.faults.fits_fuzz import ATTEMPTS, ATTEMPTS_TILES, KINDS, LIMIT_SECONDS, pixels
from tests.faults.ledger import Tally
from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.fits import scan as fitsscan
from tiledsky.io.fits.image import image_hdus, open_image
from tiledsky.io.fits.scan import scan_file

SEED = 20
MAIN = ("plain", "several", "gz", "rice")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `fits_fuzz` found, by kind of file; an assertion if it crashed, ran out of memory or did not end."""
    folder = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.faults.fits_fuzz", str(folder), str(SEED), *KINDS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    except subprocess.TimeoutExpired:
        kind = (folder / "kind").read_text()
        pytest.fail(f"{kind}: no end, at {(folder / kind / 'last').read_text()}")
    if done.returncode:
        kind = (folder / "kind").read_text() if (folder / "kind").exists() else "start"
        last = folder / kind / "last"
        pytest.fail(f"{kind}: died at {last.read_text() if last.exists() else 'the start'}: {done.stderr[-3000:]}")
    return {run["kind"]: run for run in map(json.loads, done.stdout.splitlines())}


@pytest.mark.row("fits")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(outcomes: dict[str, Any], tally: Tally, kind: str) -> None:
    run = outcomes[kind]
    assert run["failures"] == []
    totals: Counter[str] = Counter()
    for name, count in run["counts"].items():
        totals[name.split(":")[0]] += count
    attempts = ATTEMPTS if kind in MAIN else ATTEMPTS_TILES
    assert totals["header"] == attempts
    assert totals["cut"] == (ATTEMPTS if kind in MAIN else 0)
    assert totals["data"] == (attempts if kind not in ("plain", "several", "gz") else 0)
    assert 0.4 * attempts < run["counts"]["header: refused"] < 0.99 * attempts  # neither blind nor afraid of everything
    tally.add(totals.total())
    print(f"faults: FITS {kind}: {sum(totals.values())} damaged files, 0 failures: {run['counts']}")


# ---------------------------------------------------------------- paths that are no files


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "loop.fits").symlink_to(tmp_path / "loop.fits")
    (tmp_path / "nowhere.fits").symlink_to(tmp_path / "gone")
    (tmp_path / "zero.fits").symlink_to("/dev/zero")
    (tmp_path / "folder.fits").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.fits"))
    cases = {
        tmp_path / "pipe.fits": "is a pipe or a device",
        tmp_path / "zero.fits": "is a pipe or a device",
        Path("/dev/null"): "is a pipe or a device",
        tmp_path / "s.fits": "is a pipe or a device",
        tmp_path / "loop.fits": "cannot be read",
        tmp_path / "nowhere.fits": "no such file",
        tmp_path / "folder.fits": "is a directory",
        tmp_path / ("x" * 300): "cannot be read",
        Path("a\0b.fits"): "is not a path",
    }
    began = time.monotonic()
    for path, message in cases.items():
        for function in (open_image, image_hdus):
            with pytest.raises(InputError, match=message):
                function(path)
    assert time.monotonic() - began < LIMIT_SECONDS
    server.close()


# ---------------------------------------------------------------- lies, one by one


def _edited(path: Path, hdus: list[Any], *edits: tuple[str, str]) -> Path:
    """Write a file and set cards of its last HDU by hand; a keyword that is not there takes the place of FILLER."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(len(edits)):
            hdus[-1].header[f"FILLER{i}"] = 0
        astropy_fits.HDUList(hdus).writeto(path)
    content = path.read_bytes()
    info = scan_file(path)[-1]
    header = content[info.header_offset : info.data_offset]
    for i, (word, value) in enumerate(edits):
        at = header.find(f"{word:<8}=".encode())
        at = header.index(f"FILLER{i} =".encode()) if at < 0 or value.startswith("+") else at
        card = f"{word:<8}= {value.lstrip('+'):>20}".ljust(80).encode()
        header = header[:at] + card + header[at + 80 :]
    path.write_bytes(content[: info.header_offset] + header + content[info.data_offset :])
    return path


@pytest.mark.parametrize(
    ("kind", "edits", "message"),
    [
        ("plain", [("NAXIS1", "+48")], "NAXIS1 occurs more than once, as 47 and 48"),
        ("plain", [("BSCALE", "+2.0")], "BSCALE occurs more than once"),
        ("plain", [("BSCALE", "NaN")], "BSCALE"),
        ("plain", [("BSCALE", "1E400")], "BSCALE = inf is not a number"),
        ("plain", [("BZERO", "'inf'")], "BZERO = 'inf' is not a number"),
        ("plain", [("BLANK", "'x'")], "BLANK = 'x' is not a number"),
        ("plain", [("NAXIS1", "9223372036854775807"), ("NAXIS2", "9223372036854775807")], "the file is truncated"),
        ("several", [("PCOUNT", "8")], "GCOUNT = 1 and PCOUNT = 8 are not an image's 1 and 0"),
        ("several", [("GCOUNT", "2")], "GCOUNT = 2 and PCOUNT = 0"),
        ("several", [("GCOUNT", "-1")], "GCOUNT = -1 is not an integer of at least 1"),
        ("rice", [("ZNAXIS1", "99999999"), ("ZTILE1", "99999999")], "tile 0 of 99999999 pixels cannot come from"),
        ("rice", [("ZNAXIS2", "62")], "needs 62 table rows, there are 61"),
        ("rice", [("ZTILE1", "0")], "ZTILE1 = 0 is not an integer of at least 1"),
        ("rice", [("ZBITPIX", "12")], "ZBITPIX = 12 is not one of"),
        ("rice", [("ZBITPIX", "16")], "ZBITPIX is for integers and ZSCALE for floats"),
        ("rice", [("ZCMPTYPE", "'RICE_9'")], "compression 'RICE_9' is not one of"),
        ("rice", [("ZVAL1", "0")], "BLOCKSIZE = 0 is not possible for RICE_1"),
        ("rice", [("ZVAL2", "8")], "BYTEPIX = 8 is not possible for RICE_1"),
        ("rice", [("ZDITHER0", "-5000"), ("ZQUANTIZ", "'SUBTRACTIVE_DITHER_1'")], "ZDITHER0 = -5000 is not an integer"),
        ("rice", [("ZQUANTIZ", "'DITHER'")], "ZQUANTIZ = 'DITHER' is not one of"),
        ("rice", [("ZBLANK", "'x'")], "ZBLANK = 'x' is not a number"),
        ("rice", [("TFORM1", "'1QB(9)'")], "take .* bytes and NAXIS1 is"),
        (
            "rice",
            [("TFORM1", "'1PZ(9)'")],
            "column 1, COMPRESSED_DATA, occurs twice or is not an array of variable length",
        ),
        ("rice", [("TTYPE2", "'COMPRESSED_DATA'")], "column 2, COMPRESSED_DATA, occurs twice"),
        ("rice", [("TFIELDS", "1")], "take .* bytes and NAXIS1 is"),
        ("rice", [("THEAP", "99999999")], "THEAP = 99999999 is beyond the end of the table"),
        ("rice", [("THEAP", "1")], "THEAP = 1 is not an integer of at least"),
        ("gzip", [("ZNAXIS1", "99999999"), ("ZTILE1", "99999999")], "cannot come from"),
        ("plio", [("ZNAXIS1", "900000000"), ("ZTILE1", "300000000")], "beyond the 2 GB that PLIO_1 can unpack"),
        ("hcompress", [("ZNAXIS1", "940"), ("ZTILE1", "940")], "declares 16 x 47 pixels and is of 16 x 940"),
    ],
)
def test_lies(tmp_path: Path, kind: str, edits: list[tuple[str, str]], message: str) -> None:
    hdus = KINDS[kind]()[: 2 if kind != "plain" else 1]
    path = _edited(tmp_path / "lie.fits", hdus, *edits)
    with pytest.raises(InputError, match=rf"lie\.fits, HDU .*{message}"), open_image(path) as image:
        image.read(Region(0, 16, 0, 47))


@pytest.mark.parametrize(
    ("value", "at", "message"),
    [
        (2**31 - 1, 0, r"places tile 0 of 2147483647 elements at byte 0 of a heap of \d+ bytes"),
        (-1, 0, "places tile 0 of -1 elements"),
        (2**31 - 1, 4, "places tile 0 of .* at byte 2147483647"),
        (-4, 4, "places tile 0 of .* at byte -4"),
        (0, 0, r"tile 0 of 47 pixels cannot come from 0 bytes"),
        (1, 0, None),
    ],
)
def test_descriptors_that_point_outside_the_heap(tmp_path: Path, value: int, at: int, message: str | None) -> None:
    path = tmp_path / "lie.fits"
    astropy_fits.HDUList(KINDS["rice"]()).writeto(path)
    content = bytearray(path.read_bytes())
    start = scan_file(path)[-1].data_offset + at
    content[start : start + 4] = np.array(value, ">i4").tobytes()
    path.write_bytes(content)
    if message is None:  # one byte holds no RICE stream; the decoder says so
        with open_image(path) as image, pytest.raises(InputError, match=r"HDU 1 SCI .* rows 0 to"):
            image.read(Region(0, 61, 0, 47))
    else:
        with pytest.raises(InputError, match=rf"lie\.fits, HDU 1 SCI .*{message}"):
            open_image(path)


def test_descriptors_of_64_bits(tmp_path: Path) -> None:
    """The same image with Q descriptors is read, and with sizes whose sum overflows it is refused."""
    path = tmp_path / "q.fits"
    astropy_fits.HDUList(KINDS["rice_whole"]()).writeto(path)
    content = path.read_bytes()
    info = scan_file(path)[-1]
    header = content[info.header_offset : info.data_offset]
    form = header.index(b"TFORM1  = '1P")
    header = header[: form + 12] + b"Q" + header[form + 13 :]
    header = header.replace(b"NAXIS1  =                    8", b"NAXIS1  =                   16", 1)
    size, at = np.frombuffer(content[info.data_offset :][:8], ">i4")
    heap = content[info.data_offset + 8 : info.data_offset + info.data_bytes]
    for size_now, at_now in ((size, at), (2**63 - 1, 2**63 - 1), (2**62, 2**62), (-(2**63), 0)):
        data = np.array([size_now, at_now], ">i8").tobytes() + heap
        path.write_bytes(content[: info.header_offset] + header + data + bytes(-len(data) % 2880))
        if size_now == size:
            with open_image(path) as image:
                np.testing.assert_array_equal(image.read(Region(0, 61, 0, 47)), pixels("i2"))
        else:
            with pytest.raises(InputError, match=r"q\.fits, HDU 1 .* places tile 0 of"):
                open_image(path)


def test_tile_that_unpacks_to_far_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "bomb.fits"
    bomb = gzip.compress(bytes(200 << 20), 9)
    astropy_fits.HDUList(KINDS["gzip"]()).writeto(path)
    content = path.read_bytes()
    info = scan_file(path)[-1]
    rows, width = int(info.header["NAXIS2"]), int(info.header["NAXIS1"])
    data = np.frombuffer(content[info.data_offset :][: rows * width], np.uint8).reshape(rows, width).copy()
    data[:, :8] = np.frombuffer(np.array([len(bomb), 0], ">i4").tobytes(), np.uint8)
    header = content[info.header_offset : info.data_offset]
    old = b"PCOUNT  = %20d" % info.header["PCOUNT"]
    header = header.replace(old, b"PCOUNT  = %20d" % len(bomb), 1)
    body = data.tobytes() + bomb
    path.write_bytes(content[: info.header_offset] + header + body + bytes(-len(body) % 2880))
    with open_image(path) as image, pytest.raises(InputError, match="tile 0 unpacks to more than the 6016 bytes"):
        image.read(Region(0, 16, 0, 47))


def test_more_headers_than_any_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitsscan, "_MAX_HDUS", 500)
    first = astropy_fits.PrimaryHDU().header.tostring().encode()
    other = astropy_fits.ImageHDU().header.tostring().encode()
    path = tmp_path / "many.fits"
    path.write_bytes(first + other * 501)
    began = time.process_time()
    with pytest.raises(InputError, match=r"many\.fits: more than 500 HDUs"):
        open_image(path)
    path.write_bytes(first[:80] + b"COMMENT".ljust(80) * 80_000)
    with pytest.raises(InputError, match=r"many\.fits, HDU 0: the header has no END card"):
        open_image(path)
    assert time.process_time() - began < 10
