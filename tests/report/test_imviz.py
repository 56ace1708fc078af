"""Cutouts for Imviz: the pixels, the place on the sky, and what is handed to the viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import NDData
from astropy.wcs import WCS

import tiledsky
from tests.engine.stores import make_run
from tiledsky.errors import ParameterError

from .conftest import planes

HEADER = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "BUNIT": "MJy/sr"})
for key, value in {"CRPIX1": 90.0, "CRPIX2": 75.0, "CDELT1": -1e-4, "CDELT2": 1e-4}.items():
    HEADER[key] = value


class Viewer:
    """What is used of Imviz in jdaviz 5: ``load(data, data_label=)``."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def load(self, data: Any, *, data_label: str) -> None:
        assert isinstance(data, NDData)
        self.loaded[data_label] = data


class OldViewer:
    """The same in jdaviz 4: ``load_data(data, data_label=)``."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    load_data = Viewer.load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tiledsky.Run:
    return tiledsky.open_run(make_run(tmp_path_factory.mktemp("imviz") / "field.zarr", planes(), header=HEADER))


@pytest.mark.parametrize("viewer", [Viewer(), OldViewer()])
def test_cutouts(run: tiledsky.Run, viewer: Any) -> None:
    found = tiledsky.to_imviz(run, (10, 70, 20, 100), imviz=viewer)
    assert list(viewer.loaded) == [f"field {name} [10:70, 20:100]" for name in found]
    assert list(viewer.loaded.values()) == list(found.values())
    for name in ("science", "background", "subtracted"):
        expected = planes()[name][10:70, 20:100]
        np.testing.assert_array_equal(found[name].data, expected)
        np.testing.assert_array_equal(found[name].mask, np.isnan(expected))
        assert str(found[name].unit) == "MJy / sr"
        there = found[name].wcs.pixel_to_world(5, 7)
        assert there.separation(WCS(HEADER).pixel_to_world(25, 17)).arcsec < 1e-6
    np.testing.assert_array_equal(found["mask"].data, planes()["mask"][10:70, 20:100] != 0)
    assert found["mask"].unit is None


def test_refused(run: tiledsky.Run) -> None:
    with pytest.raises(ParameterError, match="no plane 'ring' to cut out; it has science, background"):
        tiledsky.to_imviz(run, (0, 9, 0, 9), planes=["ring"])
    with pytest.raises(ParameterError, match="a cutout of 150 x 180 px has a side longer than 100 px"):
        tiledsky.to_imviz(run, (0, 150, 0, 180), largest=100)
    with pytest.raises(ParameterError, match="is not inside an image of 150 x 180 px"):
        tiledsky.to_imviz(run, (0, 151, 0, 9))
