"""World coordinates of images whose length-1 axes are dropped: those of the two axes that are kept, and no others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS

from tiledsky.io.fits.image import Plane, open_image, write_fits
from tiledsky.io.fits.plane import parse_header, plane_header

PIXELS = np.zeros((1, 1, 80, 100), np.float32)
SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 50.0, "CRPIX2": 40.0}
SKY |= {"CDELT1": -1e-4, "CDELT2": 2e-4, "LONPOLE": 170.0, "RADESYS": "FK5", "EQUINOX": 2000.0}
RADIO = {"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CRPIX3": 3.0, "CDELT3": 1e6, "CUNIT3": "Hz", "SPECSYS": "LSRK"}
RADIO |= {"CTYPE4": "STOKES", "CRVAL4": 1.0, "CRPIX4": 1.0, "CDELT4": 1.0, "RESTFRQ": 1.42e9, "VELREF": 257}
TAB = {"CTYPE3": "WAVE-TAB", "PS3_0": "WCS-TAB", "PS3_1": "WAVELENGTH", "PV3_1": 1, "CRVAL3": 1.0, "CRPIX3": 1.0}
TAB |= {"CDELT3": 1.0, "CUNIT3": "um"}
C, S = np.cos(0.3), np.sin(0.3)
TURNED = {"PC1_1": C, "PC1_2": -S, "PC2_1": S, "PC2_2": C}
CD = {"CD1_1": -1e-4 * C, "CD1_2": 1e-4 * S, "CD2_1": 1e-4 * S, "CD2_2": 1e-4 * C, "CD3_3": 1e6, "CD4_4": 1.0}
SIN = {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "PV2_1": 0.1, "PV2_2": 0.2, "PV3_1": 7.0}


def header_of(path: Path, pixels: np.ndarray[Any, Any], *cards: dict[str, Any], without: tuple[str, ...] = ()) -> Any:
    """Write an image with cards; return its header and that of the image as read."""
    hdu = astropy_fits.PrimaryHDU(pixels)
    for key, value in {k: v for part in cards for k, v in part.items()}.items():
        if not key.startswith(without or "-"):
            hdu.header[key] = value
    hdu.writeto(path)
    with open_image(path) as image:
        assert image.shape == (80, 100)
        return hdu.header, image.header


def quiet_wcs(header: Any, **options: Any) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header, **options)


@pytest.mark.parametrize(
    ("cards", "without"),
    [
        ({}, ()),
        ({"WCSAXES": 4}, ()),
        (TURNED, ()),
        (TURNED | {f"PC{i}_{j}": float(i == j) for i in (3, 4) for j in (1, 2, 3, 4)}, ()),
        (CD, ("CDELT",)),
        ({"CROTA2": 12.0, "CROTA3": 0.0}, ()),
        (SIN, ()),
        ({"PV1_3": 160.0}, ("LONPOLE",)),
        ({"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 20.0, "CRVAL2": 10.0}, ()),
        ({"PC1_3": 0.2, "PC2_3": -0.1, "PC3_1": 0.3}, ()),  # the sky turns with the channel
        (CD | {"CD1_3": 2e-5}, ("CDELT",)),
        ({"CTYPE1A": "LINEAR", "CTYPE2A": "LINEAR", "CTYPE3A": "VELO", "CRVAL3A": 5.0}, ()),
    ],
)
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_coordinates_are_those_of_the_whole_system(
    tmp_path: Path, cards: dict[str, Any], without: tuple[str, ...], axes: int
) -> None:
    """At pixel 1 of the axes that are dropped, also where a header has more axes than its image."""
    whole, header = header_of(
        tmp_path / "a.fits", PIXELS.reshape(PIXELS.shape[4 - axes :]), SKY, RADIO, cards, without=without
    )
    wcs, full = quiet_wcs(header), quiet_wcs(whole)
    assert (wcs.naxis, full.naxis, header["NAXIS"]) == (2, 4, 2)
    places = np.array([[1.0, 1], [30, 70], [100, 80]])
    known = full.wcs_pix2world(np.c_[places, np.ones((3, 2))], 1)[:, :2]
    np.testing.assert_allclose(wcs.wcs_pix2world(places, 1), known, rtol=0, atol=1e-11)
    if not {"PC1_3", "CD1_3"} & cards.keys():  # axes that are not apart astropy does not take apart
        assert wcs.wcs.compare(full.sub([1, 2]).wcs, tolerance=1e-12)
    assert wcs.wcs.radesys == "FK5"
    assert header["RESTFRQ"] == 1.42e9
    said = "".join(line.ljust(72) for line in map(str, header["HISTORY"]))
    assert "axis 3 of world coordinates: CTYPE3 = FREQ, CRVAL3 = 1400000000.0 Hz" in said
    assert "axis 4 of world coordinates: CTYPE4 = STOKES, CRVAL4 = 1.0" in said


def test_distortions_stay(tmp_path: Path) -> None:
    sip = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "A_2_0": 1e-5, "B_ORDER": 2, "B_0_2": 2e-5}
    _, header = header_of(tmp_path / "a.fits", PIXELS, SKY, RADIO, sip)
    _, plain = header_of(tmp_path / "b.fits", PIXELS[0, 0], SKY, sip)
    places = [[1.0, 1], [30, 70], [100, 80]]
    np.testing.assert_array_equal(quiet_wcs(header).all_pix2world(places, 1), quiet_wcs(plain).all_pix2world(places, 1))


def test_tables_of_dropped_axes(tmp_path: Path) -> None:
    """The output has the sky alone, opens without the table, and says what was left out."""
    _, header = header_of(tmp_path / "a.fits", PIXELS[0], SKY, TAB)
    plane = Plane("SKY", (80, 100), "f4", lambda y0, y1: PIXELS[0, 0, y0:y1])
    write_fits(tmp_path / "out.fits", [plane], header=parse_header(header.tostring(sep="\n")))
    with astropy_fits.open(tmp_path / "out.fits") as hdus:
        written, primary = hdus[1].header, hdus[0].header
        assert not {"CTYPE3", "PS3_0", "PS3_1", "PV3_1", "CUNIT3"} & set(written)
        _, plain = header_of(tmp_path / "b.fits", PIXELS[0, 0], SKY)
        assert quiet_wcs(written).wcs.compare(quiet_wcs(plain).wcs)
        assert any("CTYPE3 = WAVE-TAB" in str(line) for line in primary["HISTORY"])


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"CTYPE1": "RA---TAB", "CTYPE2": "DEC--TAB", "PS1_0": "WCS-TAB"}, "CTYPE2 = DEC--TAB looks coordinates up"),
        ({"CTYPE2": "FREQ", "CTYPE3": "DEC--TAN", "CRVAL3": 20.0, "CUNIT3": "deg"}, "no system of two axes"),
        ({"PC1_1": 0.0, "PC1_2": 0.0, "PC1_3": 1.0}, "they do not change along the axes of the image alone"),
        ({"CRVAL1": "NaN"}, "CRVAL1 = NaN is no number"),
    ],
)
def test_a_system_that_two_axes_do_not_have_is_left_out_whole(
    tmp_path: Path, cards: dict[str, Any], reason: str
) -> None:
    other = {"CTYPE1B": "LINEAR", "CTYPE2B": "LINEAR", "CRVAL1B": 7.0}
    _, header = header_of(tmp_path / "a.fits", PIXELS, SKY, RADIO, other, cards)
    assert not {"CTYPE1", "CRVAL1", "CDELT1", "CRPIX2", "LONPOLE", "RADESYS", "PC1_1", "PS1_0"} & set(header)
    assert header["CRVAL1B"] == 7.0
    assert quiet_wcs(header).naxis == 2
    said = "".join(line.ljust(72) for line in map(str, header["HISTORY"]))
    assert f"left out on reading: world coordinates: {reason}" in said


def test_headers_of_two_axes_stay_as_they_are(tmp_path: Path) -> None:
    whole, header = header_of(tmp_path / "a.fits", PIXELS[0, 0], SKY, TURNED)
    assert list(header.items()) == list(whole.items())
    assert plane_header(header).tostring() == header.tostring()
