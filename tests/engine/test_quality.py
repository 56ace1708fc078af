"""Measures and verdict of runs: as on arrays, for any tiles; `tiledsky check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from typer.testing import CliRunner

import tiledsky
from tests.diagnostics.test_measures import without_seams
from tiledsky import Recipe
from tiledsky.cli import app
from tiledsky.diagnostics import measure, remarks

SHAPE = (301, 320)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image with a WCS, NaN and an error plane."""
    science = tiledsky.simulate_scene(SHAPE, seed=11).image.copy()
    science[80:90, 5:40] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
    wcs.wcs.crpix, wcs.wcs.cdelt = (100, 90), (-1e-5, 1e-5)
    header = wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    error = np.full(SHAPE, 0.1, np.float32)
    error[:, 200:210] = 0
    path = tmp_path_factory.mktemp("quality") / "image.fits"
    hdus = [fits.ImageHDU(science, header, name="SCI"), fits.ImageHDU(error, name="ERR")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def run(image: Path, folder: Path, tile: int, recipe: Any = "sextractor") -> tiledsky.Run:
    return tiledsky.run(f"{image}:SCI", recipe, folder / f"{tile}.zarr", tile_size=tile, error=f"{image}:ERR")


def test_a_run_measures_what_is_measured_on_its_planes(image: Path, tmp_path: Path) -> None:
    done = run(image, tmp_path, 128)
    planes = {name: done.plane(name)[...] for name in ("science", "background", "mask", "background_rms", "error")}
    wcs = WCS(done.header)

    def to_sky(x: Any, y: Any) -> Any:
        sky = wcs.pixel_to_world(x, y)
        return sky.ra.deg, sky.dec.deg

    arguments = {"rms": planes["background_rms"], "error": planes["error"], "to_sky": to_sky}
    found = measure(planes["science"], planes["background"], planes["mask"], **arguments)
    found["image"]["bunit"] = "MJy/sr"
    assert without_seams(done.diagnostics) == without_seams(found)
    assert done.diagnostics["measures"]["scale"]["against_weights"]["source"] == "error"
    assert not list((done.path / "run").glob("summaries/*"))
    seams = done.diagnostics["measures"]["seams"]
    assert seams["n_edges"] == 3 * 2 + 2 * 3
    assert seams["tile"] == [128, 128]
    for tile in (64, 320):
        assert without_seams(run(image, tmp_path, tile).diagnostics) == without_seams(found)


def test_check(image: Path, tmp_path: Path) -> None:
    strict = Recipe.from_dict(
        {
            **Recipe.load("sextractor").model_dump(mode="json", exclude_none=True),
            "name": "strict",
            "checks": {"worst_block": {"warn": 0.5, "fail": 1.0}},
        }
    )
    done = run(image, tmp_path, 320, strict)
    words = ["check", str(done.path)]
    failed = CliRunner().invoke(app, words)
    assert failed.exit_code == 1
    assert failed.output.splitlines()[-1] == f"{done.path}: fail"
    checks = done.diagnostics["verdict"]["checks"]
    bad = sum(check["result"] in ("fail", "warn") for check in checks)
    assert bad
    head, verdict = 1, 1
    told = head + len(checks) + bad + len(remarks(done.diagnostics)) + verdict
    assert len(failed.output.splitlines()) == told
    told = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(told.output) == done.diagnostics["verdict"]
    # by other limits
    lenient = tmp_path / "lenient.toml"
    data = strict.model_dump(mode="json", exclude_none=True)
    never = {name: {} for name in data["checks"] if name != "significance"}
    lenient.write_text(Recipe.from_dict({**data, "checks": never}).to_toml())
    passed = CliRunner().invoke(app, [*words, "--recipe", str(lenient), "--reasons"])
    assert passed.exit_code == 0, passed.output
    assert "little sky is left to measure" in passed.output
    never["worst_block"] = {"warn": 0.5}
    lenient.write_text(Recipe.from_dict({**data, "checks": never}).to_toml())
    assert CliRunner().invoke(app, [*words, "--recipe", str(lenient)]).exit_code == 0
    assert CliRunner().invoke(app, [*words, "--recipe", str(lenient), "--strict"]).exit_code == 1
