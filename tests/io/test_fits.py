from __future__ import annotations

import bz2
import csv
import gzip
import os
import pickle
import shutil
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS, FITSFixedWarning

from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.geometry import Region
from tiledsky.io.fits import scan as fitsscan
from tiledsky.io.fits.header import valid_keywords
from tiledsky.io.fits.image import FitsImage, Plane, Role, open_image, split_hdu, write_fits
from tiledsky.io.fits.scan import scan_file

DATA = Path(os.environ.get("TILEDSKY_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not (DATA / "PROVENANCE.tsv").is_file(), reason="TILEDSKY_TEST_DATA does not name the directory of test images"
)
DES = "des_241238_01.fits.fz"


def _real_images() -> Iterator[tuple[str, int, tuple[int, int], str]]:
    if not (DATA / "PROVENANCE.tsv").is_file():
        return
    with open(DATA / "PROVENANCE.tsv", newline="") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            for image in row["images (hdu:name:shape:dtype:nan:zero)"].split("; "):
                index, _, shape, dtype = image.split(":")[:4]
                ny, nx = map(int, shape.split("x"))
                yield row["file"], int(index), (ny, nx), dtype


REAL = list(_real_images())
FLOAT_OF = {"uint8": "f4", "int16": "f4", "uint16": "f4", "float32": "f4", "int32": "f8", "float64": "f8"}


def _astropy(path: Path, hdu: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return astropy_fits.getdata(path, hdu)


def _all(image: FitsImage) -> np.ndarray:
    ny, nx = image.shape
    return image.read(Region(0, ny, 0, nx))


def _wcs(header: astropy_fits.Header) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def _save(path: Path, *hdus: astropy_fits.PrimaryHDU | astropy_fits.ImageHDU | astropy_fits.CompImageHDU) -> Path:
    astropy_fits.HDUList(list(hdus)).writeto(path)
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(7).normal(10.0, 3.0, (61, 47)).astype(np.float32)


@pytest.fixture
def three(tmp_path: Path, pixels: np.ndarray) -> Path:
    """Primary without data, SCI, WHT, and a table called SCI too."""
    primary = astropy_fits.PrimaryHDU()
    primary.header["INSTRUME"] = "NIRCAM"
    primary.header["CRVAL1"] = 1.0
    sci, wht = astropy_fits.ImageHDU(pixels, name="SCI"), astropy_fits.ImageHDU(pixels + 1, name="WHT")
    for key, value in {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}.items():
        sci.header[key] = value
    sci.header["BUNIT"] = "MJy/sr"
    table = astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("a", "J", array=[1])], name="SCI")
    return _save(tmp_path / "three.fits", primary, sci, wht, table)


# ---------------------------------------------------------------- real images


@needs_data
@pytest.mark.parametrize(("file", "hdu", "shape", "stored"), REAL, ids=[f"{r[0]}-{r[1]}" for r in REAL])
def test_real_images_equal_astropy(file: str, hdu: int, shape: tuple[int, int], stored: str) -> None:
    path = DATA / file
    with open_image(path, hdu=hdu) as image:
        whole = _all(image)
        assert image.shape == shape
        assert image.dtype == FLOAT_OF[stored]
        assert whole.dtype == image.dtype
        assert whole.dtype.isnative
        assert whole.flags.c_contiguous
        ny, nx = shape
        rng = np.random.default_rng(hdu)
        for _ in range(3):
            y0, (x0, x1) = rng.integers(0, ny), np.sort(rng.integers(0, nx + 1, 2))
            y1 = min(ny, y0 + rng.integers(0, 300))
            np.testing.assert_array_equal(image.read(Region(y0, y1, x0, x1)), whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(image.read(Region(ny - 1, ny, 0, 1)), whole[-1:, :1])
        _wcs(valid_keywords(image.header))
    if (file, hdu) != (DES, 2):  # astropy is wrong there, see below
        np.testing.assert_array_equal(whole, _astropy(path, hdu).astype(image.dtype))


@needs_data
def test_plio_unsigned_mask_as_funpack_gives_it() -> None:
    with open_image(DATA / DES, hdu="MASK", role="dq") as image:
        assert image.name == "MASK"
        assert image.dtype == np.uint16
        mask = _all(image)
    with open_image(DATA / DES, role="weight") as image:
        weight = _all(image)
    values, counts = np.unique(mask, return_counts=True)
    assert values[:5].tolist() == [0, 5, 20, 21, 32]
    assert values[-1] == 33379 - 32768
    assert counts[0] == 7860143
    assert np.all(mask[weight == 0] != 0)  # the survey's rule, and false for values 32768 too high: 0 would be set
    # When this fails, astropy reads the file as CFITSIO does and our correction can go.
    np.testing.assert_array_equal(_astropy(DATA / DES, 2), mask + np.uint16(32768))


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("error", ["ERR", "ERROR", "RMS", "SIGMA"]),
        ("coverage", ["COV", "COVERAGE", "CTX", "CON", "EXP", "EXPOSURE", "NEXP"]),
    ],
)
def test_names_of_planes(tmp_path: Path, role: Role, names: list[str]) -> None:
    for name in names:
        hdus = [astropy_fits.ImageHDU(np.zeros((3, 4), np.float32), name=n) for n in ("SCI", "WHT", name, "DQ")]
        path = _save(tmp_path / f"{name}.fits", astropy_fits.PrimaryHDU(), *hdus)
        with open_image(path, role=role) as image:
            assert image.name == name


@needs_data
@pytest.mark.parametrize(
    ("file", "role", "expected"),
    [
        (DES, "science", (1, "IMAGE")),
        (DES, "weight", (3, "WEIGHT")),
        (DES, "mask", (2, "MASK")),
        ("des_241238_01_bkg.fits.fz", "science", (1, "SCI")),
        ("hst_acs_hrc_47tuc_flt.fits", "science", (1, "SCI")),
        ("hst_acs_hrc_47tuc_flt.fits", "error", (2, "ERR")),
        ("hst_acs_hrc_47tuc_flt.fits", "dq", (3, "DQ")),
        ("hst_wfpc2_a478_drz.fits", "weight", (2, "WHT")),
        ("herschel_spire_plw.fits.gz", "science", (1, "IMAGE")),
        ("dss_horsehead.fits", "science", (0, "")),
    ],
)
def test_role_chooses_the_hdu(file: str, role: str, expected: tuple[int, str]) -> None:
    with open_image(DATA / file, role=role) as image:
        assert (image.hdu, image.name) == expected


@needs_data
@pytest.mark.parametrize(
    "file", ["hst_acs_hrc_47tuc_flt.fits", DES, "sep_ntt_image.fits", "sdss_g_reprojected.fits.bz2"]
)
def test_written_copy_keeps_pixels_wcs_and_instrument(file: str, tmp_path: Path) -> None:
    out = tmp_path / "out.fits"
    with open_image(DATA / file) as image:
        ny, nx = min(400, image.shape[0]), image.shape[1]
        plane = Plane("SCI", (ny, nx), image.dtype, lambda a, b: image.read(Region(a, b, 0, nx)), block_rows=150)
        write_fits(out, [plane], header=image.header, history=["one line"])
        expected, header = image.read(Region(0, ny, 0, nx)), valid_keywords(image.header)
        if file.startswith("sdss"):
            assert image.header["TELESCOP"] == "2.5m"
    with astropy_fits.open(out) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["PRIMARY", "SCI"]
        np.testing.assert_array_equal(hdus[1].data, expected)
        written = hdus[1].header.copy()
        assert hdus[0].header["HISTORY"][-1].startswith(("one line", "left out", "ESO-LOG"))
        for key in ("TELESCOP", "INSTRUME", "EXPTIME", "FILTER", "DATE-OBS", "GAIN"):
            assert written.get(key) == header.get(key) == hdus[0].header.get(key)
        assert not [k for k in written if k.startswith(("ZBITPIX", "ZCMPTYPE", "FZ", "CHECKSUM", "DATASUM", "DES_EXT"))]
    assert os.path.getsize(out) % 2880 == 0
    assert _wcs(written).wcs.compare(_wcs(header).wcs)
    assert bool(_wcs(written).sip) == bool(_wcs(header).sip)


# ---------------------------------------------------------------- which HDU


@pytest.mark.parametrize("hdu", [1, "1", "SCI", "sci", "SCI,1", " sci , 1 "])
def test_hdu_by_number_and_name(three: Path, pixels: np.ndarray, hdu: int | str) -> None:
    with open_image(three, hdu=hdu) as image:
        assert image.hdu == 1
        np.testing.assert_array_equal(_all(image), pixels)


@pytest.mark.parametrize(
    ("hdu", "message"),
    [
        (9, r"three\.fits: has no HDU 9; there are 0 PRIMARY \(no image\); 1 SCI \(61 x 47\); 2 WHT"),
        (-1, "has no HDU -1"),
        ("ERR", "has no HDU 'ERR'"),
        ("SCI,2", "has no HDU 'SCI,2'"),
        (3, r"HDU 3 SCI \(no image\) is not a 2-D image; there are 1 SCI .*; write \S*three\.fits:SCI or \S*:WHT$"),
        ("PRIMARY", "HDU 0 PRIMARY .* is not a 2-D image"),
    ],
)
def test_hdu_not_there(three: Path, hdu: int | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(three, hdu=hdu)


def test_several_images_are_not_guessed_between(tmp_path: Path, pixels: np.ndarray) -> None:
    chips = [astropy_fits.ImageHDU(pixels, name="SCI", ver=v) for v in (1, 2)]
    path = _save(tmp_path / "a.fits", astropy_fits.PrimaryHDU(), *chips)
    with pytest.raises(InputError, match=r"2 of 2 images could be the science image .*: \S*:SCI,1 or \S*:SCI,2$"):
        open_image(path)
    with pytest.raises(InputError, match=r"HDU 'SCI' is not unique"):
        open_image(path, hdu="SCI")
    with pytest.raises(InputError, match=r"none of 2 images could be the weight image"):
        open_image(path, role="weight")
    with open_image(path, hdu="SCI,2") as image:
        assert image.hdu == 2


def test_degenerate_axes_are_dropped_and_cubes_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = _save(tmp_path / "radio.fits", astropy_fits.PrimaryHDU(pixels[None, None]))
    with open_image(path) as image:
        assert image.shape == pixels.shape
        np.testing.assert_array_equal(image.read(Region(5, 9, 3, 40)), pixels[5:9, 3:40])
    tiled = astropy_fits.CompImageHDU(pixels[None].astype(np.int16), compression_type="GZIP_1", tile_shape=(1, 7, 20))
    path = _save(tmp_path / "tiled.fits", astropy_fits.PrimaryHDU(), tiled)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(Region(5, 39, 3, 40)), pixels[5:39, 3:40].astype(np.int16))
    cube = _save(tmp_path / "cube.fits", astropy_fits.PrimaryHDU(np.stack([pixels, pixels])))
    with pytest.raises(InputError, match=r"has no 2-D image \(0 PRIMARY \(2 x 61 x 47\)\)"):
        open_image(cube)


def test_split_hdu(tmp_path: Path) -> None:
    assert split_hdu("a.fits") == ("a.fits", None)
    assert split_hdu("a.fits:SCI") == ("a.fits", "SCI")
    assert split_hdu("a.fits.gz:SCI,2") == ("a.fits.gz", "SCI,2")
    assert split_hdu("a.fits:2") == ("a.fits", 2)
    assert split_hdu("s3://bucket/a.fits") == ("s3://bucket/a.fits", None)
    assert split_hdu("s3://bucket/a.fits:1") == ("s3://bucket/a.fits", 1)
    assert split_hdu("odd:name.fits") == ("odd:name.fits", None)
    existing = tmp_path / "b.fits:1"
    existing.touch()
    assert split_hdu(existing) == (str(existing), None)
    with pytest.raises(InputError, match="no HDU follows the colon"):
        split_hdu("a.fits:")


def test_header_is_completed_by_the_primary_but_never_with_half_a_wcs(three: Path) -> None:
    with open_image(three) as image:
        assert image.bunit == "MJy/sr"
        assert image.header["INSTRUME"] == "NIRCAM"
        assert image.header["CRVAL1"] == 150.0
        assert image.header["XTENSION"] == "IMAGE"
        assert "SIMPLE" not in image.header
    with open_image(three, role="weight") as image:
        assert image.bunit is None
        assert image.header["CRVAL1"] == 1.0  # the extension has no WCS of its own


# ---------------------------------------------------------------- pixel types


@pytest.mark.parametrize(
    ("dtype", "as_float"),
    [("u1", "f4"), ("i1", "f4"), ("i2", "f4"), ("u2", "f4"), ("i4", "f8"), ("u4", "f8"), ("i8", "f8"), ("u8", "f8")],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_integers(tmp_path: Path, dtype: str, as_float: str, compressed: bool) -> None:
    info = np.iinfo(dtype)
    data = np.random.default_rng(1).integers(info.min, info.max, (20, 30), dtype, endpoint=True)
    data[0, :2] = info.min, info.max
    if compressed:
        hdus = [astropy_fits.PrimaryHDU(), astropy_fits.CompImageHDU(data, compression_type="GZIP_1")]
    else:
        hdus = [astropy_fits.PrimaryHDU(data)]
    path = _save(tmp_path / "a.fits", *hdus)
    for role in ("dq", "coverage", "mask"):
        with open_image(path, role=role) as image:
            assert image.dtype == dtype
            np.testing.assert_array_equal(image.read(Region(0, 20, 0, 30)), data)
            np.testing.assert_array_equal(image.read(Region(3, 9, 11, 12)), data[3:9, 11:12])
    with open_image(path) as image:
        assert image.dtype == as_float
        np.testing.assert_array_equal(image.read(Region(0, 20, 0, 30)), data.astype(as_float))


@pytest.mark.parametrize("stored", ["i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_bscale_bzero_and_blank(tmp_path: Path, stored: str, compressed: bool) -> None:
    raw = np.random.default_rng(2).integers(-3000, 3000, (20, 30)).astype(stored)
    hdu = astropy_fits.CompImageHDU(raw, compression_type="GZIP_1") if compressed else astropy_fits.ImageHDU(raw)
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.1, 1500.5
    if stored[0] == "i":
        hdu.header["BLANK"] = int(raw[4, 5])
    path = tmp_path / "a.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        astropy_fits.HDUList([astropy_fits.PrimaryHDU(), hdu]).writeto(path)
    expected = _astropy(path, 1)
    with open_image(path, role="mask") as image:
        np.testing.assert_array_equal(_all(image), expected)
        assert image.dtype == expected.dtype.newbyteorder("=")
        assert bool(np.isnan(image.read(Region(4, 5, 5, 6))).all()) == (stored[0] == "i")
    with pytest.raises(InputError, match="role dq needs integer flags"):
        open_image(path, role="dq")


def test_blank_zero_and_blank_in_unsigned_images_are_nan(tmp_path: Path) -> None:
    # astropy leaves both as they are: it tests BLANK for truth, and keeps unsigned integers integer
    data = np.arange(12, dtype=np.uint16).reshape(3, 4)
    path = _save(tmp_path / "a.fits", astropy_fits.PrimaryHDU(data))
    text = path.read_bytes()
    path.write_bytes(text.replace(b"EXTEND  =                    T", b"BLANK   =               -32763"))  # 5 - 32768
    with open_image(path) as image:
        assert np.argwhere(np.isnan(_all(image))).tolist() == [[1, 1]]
    path = _save(tmp_path / "b.fits", astropy_fits.PrimaryHDU(data.astype(np.int16)))
    text = path.read_bytes()
    path.write_bytes(text.replace(b"EXTEND  =                    T", b"BLANK   =                   0."))
    with open_image(path) as image:
        assert np.argwhere(np.isnan(_all(image))).tolist() == [[0, 0]]


@pytest.mark.parametrize(("highest", "bzero", "correct"), [(60000, 32768, True), (30000, 0, False)])
def test_plio_shift_is_taken_from_the_header(tmp_path: Path, highest: int, bzero: int, correct: bool) -> None:
    """CFITSIO stores unsigned 16-bit pixels in PLIO as they are; only with BZERO = 32768 is there a shift to undo."""
    data = np.zeros((9, 40), np.int32)
    data[2:4, 5:9], data[7, 30] = 20, highest
    hdu = astropy_fits.CompImageHDU(data, compression_type="PLIO_1")
    hdu.header["FILLER1"] = (0, "")
    path = _save(tmp_path / "a.fits", astropy_fits.PrimaryHDU(), hdu)
    text = path.read_bytes().replace(b"ZBITPIX =                   32", b"ZBITPIX =                   16")
    path.write_bytes(text.replace(b"FILLER1 =                    0", b"BZERO   = %20d" % bzero))
    with open_image(path, role="dq") as image:
        assert image.dtype == (np.uint16 if correct else np.int16)
        np.testing.assert_array_equal(_all(image), data)
    with open_image(path) as image:
        np.testing.assert_array_equal(_all(image), data.astype(np.float32))
    assert np.array_equal(_astropy(path, 1), data) != correct


# ---------------------------------------------------------------- memory, threads, processes


def _peak(image: FitsImage, *region: int) -> int:
    tracemalloc.start()
    try:
        image.read(Region(*region))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_region_does_not_depend_on_the_image(tmp_path: Path) -> None:
    path = tmp_path / "big.fits"
    header = astropy_fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 10000), ("NAXIS2", 5000)])
    with open(path, "wb") as file:
        file.write(header.tostring().encode())
        file.truncate(2880 + -(-200_000_000 // 2880) * 2880)
    with open_image(path) as image:
        assert _peak(image, 0, 100, 0, 10000) < 4e6 + 13e6
        assert _peak(image, 0, 5000, 7000, 7100) < 2e6 + 13e6
        assert _peak(image, 4990, 5000, 0, 10000) < 30e6
        with pytest.raises(ParameterError, match=r"region \[0:5001, 0:1\] is not within the 5000 x 10000 image"):
            image.read(Region(0, 5001, 0, 1))
        assert image.read(Region(3, 3, 0, 10)).shape == (0, 10)


@needs_data
def test_memory_of_a_tile_compressed_region() -> None:
    with open_image(DATA / DES) as image:
        assert _peak(image, 2000, 2100, 0, 2048) < 5e6  # the image is 33.5 MB


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
def test_reopening_elsewhere(three: Path, tmp_path: Path, pixels: np.ndarray, ending: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = three.with_name("three.fits" + ending)
    packer = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[ending]
    path.write_bytes(packer(three.read_bytes()))
    with open_image(path, scratch=scratch) as image:
        assert len(list(scratch.iterdir())) == (1 if ending else 0)
        token = pickle.loads(pickle.dumps(image.reopen_token()))
        with token.open() as again:
            assert again.reopen_token() == token
            np.testing.assert_array_equal(again.read(Region(3, 50, 2, 40)), pixels[3:50, 2:40])
        assert len(list(scratch.iterdir())) == (1 if ending else 0)  # the copy is the first object's
    assert list(scratch.iterdir()) == []
    with token.open() as again:  # after the first is closed: unpacked again
        np.testing.assert_array_equal(_all(again), pixels)
    assert list(scratch.iterdir()) == []
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="the file has changed since it was first opened"):
        token.open()


def test_file_that_shrinks_after_opening(three: Path) -> None:
    with open_image(three) as image:
        os.truncate(three, 2880 * 2 + 400)
        with pytest.raises(InputError, match=r"1 SCI .* ended while it was read"):
            _all(image)


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>" * 200, r"not a FITS file, it starts with '<!DOCTYPE html"),
        (b"SIMPLE  =                    F".ljust(80) + b"END".ljust(2800), "SIMPLE is not T"),
        (b"SIMPLE  =                    T".ljust(80), "no END card"),
        (b"\x1f\x8bxxxxxxxxx", "compressed file is damaged"),
        (b"BZh9xxxxxxxxx", "compressed file is damaged"),
        (gzip.compress(b"<html>", mtime=0), "not a FITS file"),
    ],
)
def test_not_a_fits_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.fits.*{message}") as info:
        open_image(path, scratch=tmp_path)
    assert "\n" not in str(info.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x.fits"]


def test_missing_directory_and_role(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.fits: no such file"):
        open_image(tmp_path / "nothing.fits")
    with pytest.raises(InputError, match="is a directory"):
        open_image(tmp_path)
    with pytest.raises(ParameterError, match="role 'flat' does not decide"):
        open_image(tmp_path, role="flat")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("BITPIX  =                   17", "BITPIX = 17 is not one of"),
        ("BITPIX  =                'f'  ", "BITPIX = 'f' is not a number"),
        ("BITPIX  =                     ", "the header has no BITPIX"),
        ("NAXIS   =                 9999", "NAXIS = 9999, above"),
        ("NAXIS1  =                  -47", "NAXIS1 = -47 is not an integer of at least 0"),
        ("NAXIS1  =  9223372036854775808", "truncated and has 11520 of [0-9]+ data bytes"),
        ("NAXIS2  =                  4.5", "NAXIS2 = 4.5 is not an integer"),
        ("NAXIS2  =                   62", "truncated and has 11520 of 11656 data bytes"),
        ("NAXIS2  =                   30", "data go on after the 1 HDUs"),
        ("NAXIS2  =                    0", "data go on after the 1 HDUs"),
        ("BSCALE  =                    0", "BSCALE = 0 makes every pixel the same"),
        ("BZERO   =                 'x' ", "BZERO = 'x' is not a number"),
    ],
)
def test_damaged_structure(tmp_path: Path, pixels: np.ndarray, card: str, message: str) -> None:
    hdu = astropy_fits.PrimaryHDU(pixels)
    hdu.header["BSCALX"] = hdu.header["BZERX"] = 0
    path = _save(tmp_path / "x.fits", hdu)
    text = path.read_bytes()
    keyword = {"BSCALE": "BSCALX", "BZERO": "BZERX"}.get(card[:8].strip(), card[:8].strip())
    at = text.index(keyword.ljust(8).encode() + b"=")
    path.write_bytes(text[:at] + card.encode() + text[at + len(card) :])
    with pytest.raises(InputError, match=message):
        open_image(path)


def _small_real(name: str, tmp_path: Path) -> Path:
    """A real header over a piece of its real pixels, small enough for hundreds of openings."""
    with open_image(DATA / name) as image:
        piece = image.read(Region(100, 180, 100, 190))
        plane = Plane("SCI", (80, 90), image.dtype, lambda a, b: piece[a:b])
        write_fits(tmp_path / "small.fits", [plane], header=image.header)
    return tmp_path / "small.fits"


@needs_data
def test_truncation_anywhere(tmp_path: Path) -> None:
    path = _small_real("bolocam_gc.fits", tmp_path)
    whole = path.read_bytes()
    with open_image(path) as image:
        expected = _all(image)
    compressed = tmp_path / "packed.fits"
    _save(compressed, astropy_fits.PrimaryHDU(), astropy_fits.CompImageHDU(expected, name="SCI"))
    packed = compressed.read_bytes()
    last = scan_file(compressed)[-1]
    for content, step, end in (
        (whole, 997, len(whole)),  # 28,800 bytes of pixels: no padding
        (packed, 611, last.data_offset + last.data_bytes),
        (gzip.compress(whole, mtime=0), 1499, 1 << 30),
    ):
        messages = []
        for size in [*range(0, len(content), step), len(content) - 1]:
            path.write_bytes(content[:size])
            try:
                with open_image(path, hdu="SCI", scratch=tmp_path) as image:
                    np.testing.assert_allclose(_all(image), expected, atol=1e-2)
                    assert size >= end  # only padding was cut
            except InputError as error:
                messages.append(str(error))
        assert len(messages) > 10
        assert not any("\n" in message for message in messages)


@needs_data
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_bytes_raise_input_error_or_nothing(tmp_path: Path, packed: bool) -> None:
    path = _small_real("bolocam_gc.fits", tmp_path)
    if packed:
        with open_image(path) as image:
            hdu = astropy_fits.CompImageHDU(_all(image).astype(np.int16), name="SCI", compression_type="GZIP_1")
        path = _save(tmp_path / "packed.fits", astropy_fits.PrimaryHDU(), hdu)
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    messages = []
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(whole), 8640), 8):
            damaged[at] = rng.integers(0, 256) if rng.random() < 0.3 else rng.integers(32, 127)
        path.write_bytes(damaged)
        try:
            with open_image(path) as image:
                assert len(valid_keywords(image.header)) >= 3
                if np.prod(image.shape) < 1e7:
                    assert _all(image).shape == image.shape
        except InputError as error:
            messages.append(str(error))
    assert 10 < len(messages) < 150
    assert not any("\n" in message for message in messages)


def test_gzip_that_goes_on_beyond_its_headers(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "bomb.fits.gz"
    path.write_bytes(gzip.compress(three.read_bytes() + bytes(50_000_000) + b"1"))
    with pytest.raises(InputError, match="data go on after the 4 HDUs"):
        open_image(path, scratch=scratch)
    monkeypatch.setattr(fitsscan, "_MAX_TAIL", 40_000_000)
    path.write_bytes(gzip.compress(three.read_bytes() + bytes(50_000_000)))
    with pytest.raises(InputError, match="more than 40000000 bytes of zeros follow the last HDU; cut them off"):
        open_image(path, scratch=scratch)
    assert list(scratch.iterdir()) == []
    header = astropy_fits.Header(
        [("SIMPLE", True), ("BITPIX", -64), ("NAXIS", 2), ("NAXIS1", 10**7), ("NAXIS2", 10**7)]
    )
    path.write_bytes(gzip.compress(header.tostring().encode() + bytes(10_000)))
    with pytest.raises(InputError, match=r"unpacks to at least 800000000003520 bytes .* name another in TMPDIR"):
        open_image(path, scratch=scratch)
    with pytest.raises(InputError, match="cannot unpack to the scratch directory"):
        open_image(path, scratch=tmp_path / "none")


@pytest.mark.parametrize("extra", [1, 2880, 2881, 5_000_000])
@pytest.mark.parametrize("packed", [False, True])
def test_zeros_behind_the_last_hdu(three: Path, tmp_path: Path, pixels: np.ndarray, extra: int, packed: bool) -> None:
    """Tapes and blocked writers leave them; every pixel is there, and no more than a block of them is unpacked."""
    content = three.read_bytes() + bytes(extra)
    path = tmp_path / ("z.fits.gz" if packed else "z.fits")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with open_image(path, hdu="WHT") as image:
        np.testing.assert_array_equal(_all(image), pixels + 1)
        unpacked = image.reopen_token().unpacked
        assert unpacked is None or Path(unpacked).stat().st_size <= three.stat().st_size + 2880


def test_other_bytes_behind_zeros(three: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.fits"
    for tail in (bytes(2880) + b"1", bytes(5_000_000) + b"\0\n", bytes(2880) + three.read_bytes()):
        path.write_bytes(three.read_bytes() + tail)
        with pytest.raises(InputError, match=r"z\.fits: data go on after the 4 HDUs that the headers declare"):
            open_image(path, hdu="WHT")


def test_advice_on_hdus_works(tmp_path: Path, pixels: np.ndarray) -> None:
    """Each way to name an HDU that an error gives opens one that could be meant."""
    hdus = [astropy_fits.PrimaryHDU(pixels)]
    hdus += [astropy_fits.ImageHDU(pixels, name=name, ver=ver) for name in ("SCI", "DQ") for ver in (1, 2)]
    hdus += [astropy_fits.ImageHDU(pixels, name=name) for name in ("odd name", "TWICE", "TWICE", "7")]
    path = _save(tmp_path / "many.fits", *hdus)
    for role, wanted in (("science", None), ("mask", None), ("error", None), ("science", "TWICE"), ("mask", "none")):
        with pytest.raises(InputError, match=r"many\.fits:") as refused:
            open_image(path, hdu=wanted, role=role)  # type: ignore[arg-type]
        words = [word.rstrip(",;") for word in str(refused.value).split()[1:] if word.startswith(f"{path}:")]
        assert words
        for word in words:
            file, hdu = split_hdu(word)
            with open_image(file, hdu=hdu) as image:
                assert image.shape == pixels.shape


@pytest.mark.parametrize("kind", ["plain", "unsigned", "four axes", "rice", "gzip"])
def test_context_of_several_images(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    """The coverage has the bits of all its images, so that it is 0 where no exposure is."""
    rng = np.random.default_rng(3)
    bits = np.where(rng.random((3, 61, 47)) < 0.3, rng.integers(-(2**31), 2**31, (3, 61, 47)), 0).astype(np.int32)
    stored = {"unsigned": bits.view(np.uint32), "four axes": bits[np.newaxis]}.get(kind, bits)
    if kind in ("rice", "gzip"):
        method = {"rice": "RICE_1", "gzip": "GZIP_2"}[kind]
        con = astropy_fits.CompImageHDU(stored, name="CON", compression_type=method, tile_shape=(1, 16, 20))
    else:
        con = astropy_fits.ImageHDU(stored, name="CON")
    sci = astropy_fits.ImageHDU(pixels, name="SCI")
    path = _save(tmp_path / "i2d.fits", astropy_fits.PrimaryHDU(), sci, con)
    expected = np.bitwise_or.reduce(stored.reshape(3, 61, 47), axis=0)
    with open_image(path, role="coverage") as image:
        assert (image.name, image.shape, image.dtype) == ("CON", (61, 47), expected.dtype)
        np.testing.assert_array_equal(_all(image), expected)
        np.testing.assert_array_equal(image.read(Region(15, 40, 11, 33)), expected[15:40, 11:33])
    with open_image(path) as image:
        assert image.name == "SCI"
    with pytest.raises(InputError, match=r"CON \(.*3 x 61 x 47\) is not a 2-D image; there are 1 SCI"):
        open_image(path, hdu="CON")


def test_stacks_that_are_no_context(tmp_path: Path, pixels: np.ndarray) -> None:
    cube = np.stack([pixels, pixels])
    scaled = astropy_fits.ImageHDU(cube.astype(np.int16), name="CON")
    scaled.header["BSCALE"] = 2.0
    tiles = astropy_fits.CompImageHDU(cube.astype(np.int32), name="CON", tile_shape=(2, 16, 47))
    for con, message in (
        (astropy_fits.ImageHDU(cube, name="CON"), r"is not a 2-D image; there are none; give a file with an image"),
        (scaled, "several coverage images with BSCALE 2.0 and BZERO 0 are not bits of exposures; give one image"),
        (tiles, "its tiles hold several images at once; unpack the file with funpack"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            astropy_fits.HDUList([astropy_fits.PrimaryHDU(), con]).writeto(tmp_path / "c.fits", overwrite=True)
        with pytest.raises(InputError, match=message):
            open_image(tmp_path / "c.fits", hdu=1, role="coverage")


# ---------------------------------------------------------------- writing


def _plane(name: str, data: np.ndarray, **options: object) -> Plane:
    return Plane(name, data.shape, data.dtype, lambda a, b: data[a:b], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("single", [False, True])
def test_written_pixels_read_back(tmp_path: Path, dtype: str, single: bool) -> None:
    rng = np.random.default_rng(3)
    data = rng.integers(0, 256, (37, 29 * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    data = data & 1 == 1 if dtype == "?" else data
    path = tmp_path / "a.fits"
    write_fits(path, [_plane("DATA", data, block_rows=5)], single=single)
    with astropy_fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == (1 if single else 2)
        np.testing.assert_array_equal(hdus[-1].data, data)
    if data.dtype.kind != "f":
        with open_image(path, hdu="DATA", role="dq") as image:
            np.testing.assert_array_equal(_all(image), data)
            assert image.dtype == (np.uint8 if dtype == "?" else dtype)


EVERYTHING = (
    "SIMPLE  =                    T",
    "BITPIX  =                   16",
    "NAXIS   =                    2",
    "NAXIS1  =                    9",
    "NAXIS2  =                    9",
    "BSCALE  =                  2.0",
    "BLANK   =                    7",
    "CTYPE1  = 'RA---TAN'",
    "CRVAL1  =              1.5e+02 / written against the rules",
    "CPDIS1  = 'LOOKUP  '",
    "DP1     = 'EXTVER: 1.0'",
    "BUNIT   = 'MJy/sr  '",
    "ZTILE1  =                   10",
    "ZEROPT  =                 25.5",
    "CHECKSUM= 'abcdefghijklmnop'",
    "ESO-LOG 00:00> DATE = 'x'",
    "COMMENT   and Astrophysics', volume 376, page 359; bibcode",
    "COMMENT kept",
    "HISTORY kept too",
    "HIERARCH ESO DET NAME = 'EMMI'",
    "END",
)


def test_written_headers(tmp_path: Path, pixels: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ESO-LOG
        header = astropy_fits.Header.fromstring("".join(line.ljust(80) for line in EVERYTHING))
    own = astropy_fits.Header([("BUNIT", "count"), ("NEW", 5), ("ZEROPT", 1.0)])
    planes = [
        _plane("SKY", pixels),
        _plane("RMS", pixels, bunit="Jy"),
        _plane("MASK", pixels > 10),
        _plane("N", pixels, header=own),
    ]
    path = tmp_path / "a.fits"
    write_fits(path, planes, header=header, history=["first", "an A\u030angstr\u00f6m\nand a line"])
    with astropy_fits.open(path) as hdus:
        hdus.verify("exception")
        primary, sky, rms, mask, n = (h.header for h in hdus)
    assert [h.get("BUNIT") for h in (primary, sky, rms, mask, n)] == ["MJy/sr", "MJy/sr", "Jy", None, "count"]
    for head in (primary, sky, rms, mask, n):
        assert head["CRVAL1"] == 150.0
        assert head["ESO DET NAME"] == "EMMI"
        assert head["ZEROPT"] == (1.0 if head is n else 25.5)
        assert {"BSCALE", "BLANK", "ZTILE1", "CHECKSUM", "CPDIS1", "DP1", "ESO-LOG"}.isdisjoint(head)
    assert n["NEW"] == 5
    assert list(primary["COMMENT"]) == ["kept"]
    assert "HISTORY" not in sky
    assert list(primary["HISTORY"])[:4] == ["kept too", "first", "an A?ngstr?m", "and a line"]
    dropped = " ".join(primary["HISTORY"][4:])
    assert "1 cards that are not valid FITS: ESO-LOG" in dropped
    assert "lookup-table distortion keywords" in dropped
    assert header["BSCALE"] == 2.0  # the input is as it was


def test_nothing_half_written_or_overwritten(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.fits"

    def failing(y0: int, y1: int) -> np.ndarray:
        if y0 > 20:
            raise ZeroDivisionError("the source")
        return pixels[y0:y1]

    with pytest.raises(ZeroDivisionError, match="the source"):
        write_fits(path, [Plane("SKY", pixels.shape, "f4", failing, block_rows=10)])
    assert list(tmp_path.iterdir()) == []
    write_fits(path, [_plane("SKY", pixels)])
    before = path.read_bytes()
    with pytest.raises(ParameterError, match=r"a\.fits: exists and would be lost"):
        write_fits(path, [_plane("SKY", pixels + 1)])
    with pytest.raises(RunError, match=r"rows\(0, 61\) returned float64"):
        write_fits(path, [Plane("SKY", pixels.shape, "f4", lambda a, b: pixels[a:b].astype("f8"))], overwrite=True)
    assert path.read_bytes() == before
    write_fits(path, [_plane("SKY", pixels + 1)], overwrite=True)
    assert path.read_bytes() != before
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


@pytest.mark.parametrize(
    ("name", "planes", "single", "message"),
    [
        ("a.fits.gz", ["SKY"], False, "does not compress FITS files as this name says"),
        ("no/a.fits", ["SKY"], False, "its directory does not exist"),
        ("a.fits", [], False, "0 planes"),
        ("a.fits", ["SKY", "RMS"], True, "2 planes with single=True"),
        ("a.fits", ["SKY", "sky"], False, "repeat"),
        ("a.fits", ["\u00b5"], False, "cannot be an EXTNAME"),
    ],
)
def test_writer_refuses(
    tmp_path: Path, pixels: np.ndarray, name: str, planes: list[str], single: bool, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        write_fits(tmp_path / name, [_plane(p, pixels) for p in planes], single=single)
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_types_and_full_disks(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParameterError, match="FITS has no type for complex64"):
        write_fits(tmp_path / "a.fits", [_plane("SKY", pixels.astype(np.complex64))])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"needs 17280 bytes and its disk has 0 free"):
        write_fits(tmp_path / "a.fits", [_plane("SKY", pixels)])
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_a_block_of_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        rows = Plane("SKY", (4000, 8000), "f4", lambda a, b: np.zeros((b - a, 8000), "f4"))
        write_fits(tmp_path / "a.fits", [rows])
        assert tracemalloc.get_traced_memory()[1] < 2 * (16 << 20) + 4e6
    finally:
        tracemalloc.stop()


def test_a_disk_that_fails_names_the_file(tmp_path: Path) -> None:
    astropy_fits.writeto(tmp_path / "a.fits", np.zeros((20, 30), np.float32))
    with open_image(tmp_path / "a.fits") as image:
        folder = os.open(tmp_path, os.O_RDONLY)  # whose reading fails, as that of a disk may
        os.dup2(folder, image._file.fileno())
        os.close(folder)
        with pytest.raises(InputError, match=r"a\.fits, HDU .*cannot be read \(Is a directory\); fetch it again"):
            image.read(Region(0, 20, 0, 30))
