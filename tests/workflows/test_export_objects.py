"""Large objects of a run as tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from typer.testing import CliRunner

import tiledsky
from tests.objects_scene import galaxy_scene, with_objects
from tests.workflows.test_export import wcs
from tiledsky import Run
from tiledsky.cli import app
from tiledsky.errors import ParameterError
from tiledsky.workflows import estimate_file
from tiledsky.workflows.export import export
from tiledsky.workflows.outputs import EXPORTED
from tiledsky.workflows.restore import restore


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("objects")
    header = wcs().to_header()
    header["BUNIT"] = "MJy/sr"
    fits.PrimaryHDU(galaxy_scene(360).image, header).writeto(folder / "image.fits")
    return tiledsky.run(folder / "image.fits", with_objects(), folder / "run.zarr")


def test_a_table_of_the_objects_follows_the_planes(finished: Run, tmp_path: Path) -> None:
    export(finished, tmp_path / "sky.fits")
    assert finished.objects is not None
    (one,) = finished.objects
    with fits.open(tmp_path / "sky.fits") as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus[1:]] == [*(name.upper() for name in EXPORTED), "OBJECTS"]
        table = hdus["OBJECTS"]
        for name in ("y", "x", "half_light_radius", "axis_ratio", "flux", "extent"):
            assert table.data[name].tolist() == [one[name]]
        assert table.columns["flux"].unit == "MJy/sr"
        assert table.data["angle"] == pytest.approx(np.degrees([one["angle"]]))
        place = WCS(hdus[1].header).pixel_to_world(one["x"], one["y"])
        assert (table.data["ra"][0], table.data["dec"][0]) == pytest.approx((place.ra.deg, place.dec.deg), rel=1e-12)
    restored = restore(tmp_path / "sky.fits", tmp_path / "image.fits")
    assert restored.shape == (360, 360)


def test_the_same_as_csv(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "objects.csv"
    said = CliRunner().invoke(app, ["export", str(finished.path), str(out)])
    assert said.exit_code == 0, said.output
    export(finished, tmp_path / "sky.fits", planes=["mask"])
    table = fits.getdata(tmp_path / "sky.fits", "OBJECTS")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table.names)
    for name in table.names:
        assert [float(row[name]) for row in rows] == table[name].tolist()
    with pytest.raises(ParameterError, match=r"objects\.csv: exists and would be lost; .*give --overwrite"):
        export(finished, out)
    export(finished, out, overwrite=True)


@pytest.mark.parametrize("rows", [None, 120])
def test_an_estimate_has_the_same_table(
    rows: int | None, finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one band, and of several, whose objects are known when all is written."""
    if rows is not None:
        monkeypatch.setattr(estimate_file, "band_rows", lambda *_: rows)
    source = finished.path.parent / "image.fits"
    estimate_file.estimate(source, tmp_path / "sky.fits", with_objects(), threads=1)
    export(finished, tmp_path / "run.fits")
    with fits.open(tmp_path / "sky.fits") as own, fits.open(tmp_path / "run.fits") as exported:
        own.verify("exception")
        assert [h.name for h in own] == [h.name for h in exported]
        assert own["OBJECTS"].data.tobytes() == exported["OBJECTS"].data.tobytes()
        assert own["OBJECTS"].header.tostring() == exported["OBJECTS"].header.tostring()
        for one, other in zip(own[1:-1], exported[1:-1], strict=True):
            np.testing.assert_array_equal(one.data, other.data)


def test_a_run_without_objects(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "image.fits", galaxy_scene(200, total=0.0).image)
    without = tiledsky.run(tmp_path / "image.fits", "sextractor", tmp_path / "run.zarr")
    with pytest.raises(ParameterError, match="recipe sextractor has no objects step, so there is no table; run one"):
        export(without, tmp_path / "objects.csv")
    assert not (tmp_path / "objects.csv").exists()
    export(without, tmp_path / "sky.fits", planes=["mask"])
    assert len(fits.info(tmp_path / "sky.fits", output=False)) == 2


def test_no_object_is_an_empty_table(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "image.fits", galaxy_scene(200, total=0.0).image)
    run = tiledsky.run(tmp_path / "image.fits", with_objects(), tmp_path / "run.zarr")
    export(run, tmp_path / "sky.fits", planes=["mask"])
    table = fits.getdata(tmp_path / "sky.fits", "OBJECTS")
    assert len(table) == 0
    assert "ra" not in table.names
    export(run, tmp_path / "objects.csv")
    assert (tmp_path / "objects.csv").read_text().startswith("number,y,x,half_light_radius,")
