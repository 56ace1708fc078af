"""DATASUM and CHECKSUM: every single flipped bit of a file that carries them is found."""

from __future__ import annotations

import bz2
import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.fits.checksum import ones_sum
from tiledsky.io.fits.image import open_image
from tiledsky.io.fits.scan import scan_file

DATA = Path(os.environ.get("TILEDSKY_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not (DATA / "PROVENANCE.tsv").is_file(), reason="TILEDSKY_TEST_DATA does not name the directory of test images"
)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(7).normal(10.0, 3.0, (61, 47)).astype(np.float32)


def _write(path: Path, pixels: np.ndarray, kind: str) -> Path:
    hdu = {
        "primary": lambda: [astropy_fits.PrimaryHDU(pixels)],
        "extension": lambda: [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(pixels, name="SCI")],
        "rice": lambda: [astropy_fits.PrimaryHDU(), astropy_fits.CompImageHDU(pixels, name="SCI")],
    }[kind]()
    astropy_fits.HDUList(hdu).writeto(path, checksum=True)
    return path


@pytest.mark.parametrize("kind", ["primary", "extension", "rice"])
def test_every_flipped_bit_is_found(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    path = _write(tmp_path / "a.fits", pixels, kind)
    with open_image(path) as image:
        expected = image.read(Region(0, 61, 0, 47))
        token = image.reopen_token()
    whole = path.read_bytes()
    info = scan_file(path)[-1]
    rng = np.random.default_rng(3)
    # The card names CHECKSUM and DATASUM themselves are left alone: without them there is nothing to check.
    spare = {
        at
        for word in (b"CHECKSUM=", b"DATASUM =", b"XTENSION", b"SIMPLE  ")
        for first in [whole.find(word, info.header_offset)]
        if first >= 0
        for at in range(first, first + 9)
    }
    data = range(info.data_offset, info.data_offset + info.data_bytes)
    header = [at for at in range(info.header_offset, info.data_offset) if at not in spare]
    found = {"pixels": 0, "header": 0, "structure": 0}
    for at in [*rng.choice(data, 50, replace=False), *rng.choice(header, 100, replace=False)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.fits") as error:
            open_image(path)
        message = str(error.value)
        assert "\n" not in message
        where = "pixels" if "pixels have changed" in message else "header"
        found["structure" if "--no-checksum" not in message else where] += 1
        if at in data:
            assert "the pixels have changed" in message
            assert f"HDU {info}" in message
    assert found["pixels"] >= 50
    assert found["header"] > 30
    # the same damage passes when it is not looked for, and when a worker opens the file again
    path.write_bytes(whole[: data[4]] + bytes([whole[data[4]] ^ 1]) + whole[data[4] + 1 :])
    os.utime(path, ns=(token.mtime_ns, token.mtime_ns))
    if kind != "rice":
        with open_image(path, checksum=False) as image, token.open() as again:
            assert (image.read(Region(0, 61, 0, 47)) != expected).sum() == 1
            assert (again.read(Region(0, 61, 0, 47)) != expected).sum() == 1
    print(f"checksums: {kind}: 150 flipped bits, all found: {found}")


def test_header_of_a_primary_without_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    path = _write(tmp_path / "a.fits", pixels, "extension")
    path.write_bytes(path.read_bytes().replace(b"conforms to FITS", b"conforms to FITZ", 1))
    with pytest.raises(InputError, match=r"HDU 0 PRIMARY .*: the header changed, CHECKSUM .*--no-checksum"):
        open_image(path)
    with open_image(path, checksum=False) as image:
        np.testing.assert_array_equal(image.read(Region(0, 61, 0, 47)), pixels)


def test_other_hdus_are_not_read(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.fits"
    hdus = [astropy_fits.PrimaryHDU(pixels), astropy_fits.ImageHDU(pixels, name="SCI")]
    astropy_fits.HDUList(hdus).writeto(path, checksum=True)
    info = scan_file(path)[0]
    damaged = bytearray(path.read_bytes())
    damaged[info.data_offset] ^= 1
    path.write_bytes(damaged)
    with open_image(path, hdu=1) as image:
        np.testing.assert_array_equal(image.read(Region(0, 61, 0, 47)), pixels)
    with pytest.raises(InputError, match="HDU 0 PRIMARY"):
        open_image(path, hdu=0)


@pytest.mark.parametrize(("ending", "packer"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_of_whole_file_compression_the_unpacked_bytes_count(
    tmp_path: Path, pixels: np.ndarray, ending: str, packer: object
) -> None:
    whole = bytearray(_write(tmp_path / "a.fits", pixels, "extension").read_bytes())
    path = tmp_path / f"a.fits{ending}"
    path.write_bytes(packer(bytes(whole)))  # type: ignore[operator]
    open_image(path, scratch=tmp_path).close()
    whole[-2000] ^= 8
    path.write_bytes(packer(bytes(whole)))  # type: ignore[operator]
    with pytest.raises(InputError, match=r"HDU 1 SCI .* the pixels have changed"):
        open_image(path, scratch=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", f"a.fits{ending}"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"DATASUM = '", b"DATASUM = 'x", "DATASUM = 'x.* is not a whole number"),
        (b"DATASUM = '", b"XATASUM = '", "the header or the pixels changed"),
        (b"CHECKSUM= '", b"CHECKSUM= 'a", "the header changed"),
    ],
)
def test_keywords_that_are_wrong_themselves(
    tmp_path: Path, pixels: np.ndarray, old: bytes, new: bytes, message: str
) -> None:
    path = _write(tmp_path / "a.fits", pixels, "primary")
    whole = path.read_bytes()
    at = whole.index(old)
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])
    with pytest.raises(InputError, match=message):
        open_image(path)


def test_absent_blank_and_unquoted_sums(tmp_path: Path, pixels: np.ndarray) -> None:
    path = _write(tmp_path / "a.fits", pixels, "primary")
    whole = path.read_bytes()
    card = whole[whole.index(b"DATASUM = '") :][:80]
    value = card.split(b"'")[1]
    path.write_bytes(whole.replace(card, (b"DATASUM = %20d" % int(value)).ljust(80)))
    with pytest.raises(InputError, match="the header changed"):  # the number is right, its form is not
        open_image(path)
    checksum = whole[whole.index(b"CHECKSUM= '") :][:80]
    blank = whole.replace(checksum, b"CHECKSUM= '                '".ljust(80))
    path.write_bytes(blank.replace(card, (b"DATASUM = %20d" % int(value)).ljust(80)))
    open_image(path).close()
    path.write_bytes(blank.replace(card, b"DATASUM = '  '".ljust(80)))
    open_image(path).close()
    path.write_bytes(blank.replace(card, (b"DATASUM = '%d'" % (int(value) + 1)).ljust(80)))
    with pytest.raises(InputError, match="the pixels have changed"):
        open_image(path)


def test_missing_padding_counts_as_zeros(tmp_path: Path, pixels: np.ndarray) -> None:
    for width in (47, 46):
        path = tmp_path / f"{width}.fits"
        astropy_fits.PrimaryHDU(pixels[:, :width].astype(np.int16)).writeto(path, checksum=True)
        info = scan_file(path)[0]
        os.truncate(path, info.data_offset + info.data_bytes)  # 61 * 47 * 2 bytes end within a word
        open_image(path).close()


def test_sum_as_astropy_computes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    rng = np.random.default_rng(11)
    data = rng.integers(0, 256, 9 << 20, np.uint8)
    data[: 1 << 20] = 255  # carries
    path.write_bytes(bytes(100) + data.tobytes())
    with open(path, "rb", buffering=0) as file:
        for size in (0, 4, 2880, 5 << 20, 9 << 20):
            expected = int(astropy_fits.ImageHDU()._compute_checksum(data[:size]))
            assert ones_sum(file, 100, size) == expected
        began = time.process_time()
        ones_sum(file, 100, 9 << 20)
        print(f"checksums: {(9 << 20) / (time.process_time() - began) / 1e9:.1f} GB/s")


@needs_data
@pytest.mark.parametrize("hdu", [1, 2, 3])
def test_sums_that_fpack_wrote(hdu: int, tmp_path: Path) -> None:
    name = "des_241238_01.fits.fz"
    open_image(DATA / name, hdu=hdu).close()
    damaged = bytearray((DATA / name).read_bytes())
    info = scan_file(DATA / name)[hdu]
    assert {"CHECKSUM", "DATASUM"} <= set(info.header)
    damaged[info.data_offset + info.data_bytes // 2] ^= 4
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(InputError, match=rf"HDU {hdu} .* the pixels have changed"):
        open_image(tmp_path / name, hdu=hdu)
