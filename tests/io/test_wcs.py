"""Places of pixels on the sky, against astropy's transformations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import tiledsky
from tests.engine.scenes import make_planes
from tiledsky.cli.verdict import findings
from tiledsky.io.fits.wcs import sky_of, wcs_of
from tiledsky.kernels.objects.catalogue import OBJECT
from tiledsky.workflows.objects import object_columns


def header(first: str, second: str) -> fits.Header:
    values: dict[str, Any] = {"CTYPE1": first, "CTYPE2": second, "CRVAL1": 120.0, "CRVAL2": 30.0, "CRPIX1": 61.0}
    return fits.Header({**values, "CRPIX2": 151.0, "CDELT1": -1e-4, "CDELT2": 1e-4})


@pytest.mark.parametrize("first", ["RA---TAN", "GLON-TAN"])
def test_places_are_icrs(first: str) -> None:
    of = header(first, first.replace("RA-", "DEC").replace("LON", "LAT"))
    to_sky, x, y = sky_of(of), np.array([0.0, 100.0]), np.array([3.0, 7.0])
    assert to_sky is not None
    lon, lat = WCS(of).wcs_pix2world(x, y, 0)
    expected = SkyCoord(lon, lat, unit="deg", frame="galactic" if first.startswith("G") else "icrs").icrs
    np.testing.assert_allclose(to_sky(x, y), [expected.ra.deg, expected.dec.deg], rtol=1e-10)


@pytest.mark.parametrize("first", ["HPLN-TAN", "SELN-TAN"])
def test_a_sun_or_a_moon_has_no_right_ascension(first: str, tmp_path: Path) -> None:
    """Its pixels have a size, and its sky is measured; only positions are in pixels alone."""
    of = header(first, first.replace("LN", "LT"))
    assert wcs_of(of) is not None
    assert sky_of(of) is None
    assert "ra" not in [column.name for column in object_columns(np.empty(0, OBJECT), of)]
    pixels = make_planes((130, 140))["science"]
    pixels[30:60, 30:60] -= np.float32(9 * pixels.std())
    fits.PrimaryHDU(pixels, of).writeto(tmp_path / "image.fits")
    run = tiledsky.run(tmp_path / "image.fits", "sextractor", tmp_path / "sky.zarr")
    found = findings(run, run.diagnostics["verdict"])
    assert any(" at x " in line for line in found)
    assert not any("RA" in line for line in found)
