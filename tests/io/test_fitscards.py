"""Cards that break the standard and say nothing of the pixels: the image is read, as astropy reads it where it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.fits.image import Plane, open_image, write_fits
from tiledsky.io.fits.plane import parse_header

PIXELS = np.random.default_rng(5).normal(10.0, 1.0, (31, 47)).astype(np.float32)
#: Cards, the keyword by which each is asked for, and what it says.
HARMLESS = [
    (b"BUNIT   = 'counts / no end quote", "BUNIT", "counts"),
    (b"BUNIT   = counts", "BUNIT", "counts"),
    (b"BUNIT   = 'a' b", "BUNIT", None),
    (b"EXTNAME = 'SCI", "EXTNAME", "SCI"),
    (b"EXTNAME = SCI", "EXTNAME", "SCI"),
    (b"DES_EXT = IMAGE", "DES_EXT", "IMAGE"),
    (b"EXTVER  = one", "EXTVER", "one"),
    (b"INSTRUME= ACS", "INSTRUME", "ACS"),
    (b"OBJECT  = 'M31 / no end quote", "OBJECT", "M31"),
    (b"OBJECT  = 'caf\xe9'", "OBJECT", "caf?"),
    (b"EXPTIME = 1.0E+", "EXPTIME", "1.0E+"),
    (b"EXPTIME = NaN", "EXPTIME", "NaN"),
    (b"DATE-OBS= 2020-01-01T00:00:00", "DATE-OBS", "2020-01-01T00:00:00"),
    (b"GAIN    =", "GAIN", None),
    (b"FOO     = (1,2", "FOO", None),
    (b"HIERARCH ESO A B = junk here", "ESO A B", "junk here"),
    (b"COMMENT caf\xe9 \xff\x00\x07", "COMMENT", None),
    (b"CONTINUE  'rest of a text'", "COMMENT", None),
    (b"CONTINUE to next observation", "COMMENT", None),
]


def with_card(path: Path, card: bytes, *hdus: object, before: bytes = b"EXPTIMX = 30.0") -> Path:
    """Write HDUs, with a card in place of the first DUMMY, and one before it."""
    astropy_fits.HDUList(list(hdus)).writeto(path)
    content = path.read_bytes()
    at = content.index(b"DUMMY   =")
    lines = before.ljust(80) + card.ljust(80)
    path.write_bytes(content[: at - 80] + lines + content[at + 80 :])
    return path


def spare(hdu: object) -> object:
    hdu.header["BEFORE"] = 1  # type: ignore[attr-defined]
    hdu.header["DUMMY"] = "spare"  # type: ignore[attr-defined]
    return hdu


@pytest.mark.parametrize(("card", "keyword", "text"), HARMLESS, ids=[c[0][:20].decode("latin1") for c in HARMLESS])
def test_the_image_is_read(tmp_path: Path, card: bytes, keyword: str, text: str | None) -> None:
    table = astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("a", "J", array=[1])])
    for name, hdus in {
        "primary": [spare(astropy_fits.PrimaryHDU(PIXELS))],
        "extension": [astropy_fits.PrimaryHDU(), spare(astropy_fits.ImageHDU(PIXELS))],
        "above": [spare(astropy_fits.PrimaryHDU()), astropy_fits.ImageHDU(PIXELS)],
        "before": [astropy_fits.PrimaryHDU(), spare(table), astropy_fits.ImageHDU(PIXELS)],
    }.items():
        path = with_card(tmp_path / f"{name}.fits", card, *hdus)
        with open_image(path) as image:
            np.testing.assert_array_equal(image.read(Region(0, 31, 0, 47)), PIXELS)
            assert all(isinstance(str(c.value) + str(c.comment), str) for c in image.header.cards)
            again = parse_header(image.header.tostring(sep="\n", endcard=False, padding=False))
            if text is not None and name == "primary":
                assert image.header[keyword] == again[keyword] == text
            if keyword == "BUNIT" and name == "primary":
                assert image.bunit == text or text is None
            plane = Plane("SKY", PIXELS.shape, "f4", lambda y0, y1: PIXELS[y0:y1])
            write_fits(path.with_suffix(".out.fits"), [plane], header=again)
        with astropy_fits.open(path.with_suffix(".out.fits")) as written:
            written.verify("exception")


def test_names_that_cannot_be_parsed_choose_an_hdu(tmp_path: Path) -> None:
    hdus = [astropy_fits.PrimaryHDU(), spare(astropy_fits.ImageHDU(PIXELS)), astropy_fits.ImageHDU(PIXELS + 1)]
    path = with_card(tmp_path / "a.fits", b"EXTNAME = 'SCI", *hdus)
    for hdu in ("SCI", None):
        with open_image(path, hdu=hdu) as image:
            assert (image.hdu, image.name) == (1, "SCI")


def test_text_that_goes_on_is_one(tmp_path: Path) -> None:
    """A CONTINUE in its place stays what it is; one after the last part of a text, or in words, is a comment."""
    long = "a long text of more than eighty characters, " * 4
    hdu = spare(astropy_fits.PrimaryHDU(PIXELS))
    hdu.header["LONG"] = long.strip()  # type: ignore[attr-defined]
    path = with_card(tmp_path / "a.fits", b"CONTINUE  'not of it'", hdu, before=b"OBJECT  = 'M31'")
    with open_image(path) as image:
        assert image.header["LONG"] == long.strip()
        assert image.header["OBJECT"] == "M31"
        assert str(image.header["COMMENT"]).strip() == "'not of it'"
    path = with_card(tmp_path / "b.fits", b"CONTINUE  '31'", spare(astropy_fits.PrimaryHDU(PIXELS)), before=b"O = 'M&'")
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read(Region(0, 31, 0, 47)), PIXELS)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"BSCALE  = abc", "the card BSCALE cannot be read"),
        (b"BZERO   = '12", "the card BZERO cannot be read"),
        (b"BLANK   = x", "the card BLANK cannot be read"),
        (b"DATASUM = 12x", "DATASUM"),
        (b"CHECKSUM= abc", "CHECKSUM"),
    ],
)
def test_cards_that_matter_are_refused(tmp_path: Path, card: bytes, message: str) -> None:
    path = with_card(tmp_path / "a.fits", card, spare(astropy_fits.PrimaryHDU(PIXELS.astype(np.int16))))
    with pytest.raises(InputError, match=rf"a\.fits, HDU 0 .*{message}"):
        open_image(path)
