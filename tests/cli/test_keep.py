"""The option --keep: the size of objects that are kept out of the sky, the one choice that is the user's."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import tiledsky
from tests.objects_scene import galaxy_scene
from tests.workflows.test_export import wcs
from tiledsky import Recipe

Call = Callable[..., tuple[int, str, str]]
IMAGE = galaxy_scene(360).image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(IMAGE, wcs().to_header()).writeto(path)
    return path


@pytest.mark.parametrize(("keep", "found"), [("2arcsec", 1), ("0.3 arcsec", 0), ("60", 1), ("0", None)])
def test_the_size_of_what_is_kept(call: Call, image: Path, tmp_path: Path, keep: str, found: int | None) -> None:
    """Pixels have 0.03 arcseconds, and the half-light radius is 35 of them."""
    code, _, err = call("estimate", image, tmp_path / "sky.fits", "--recipe", "deep-sky", "--keep", keep)
    assert code == 0, err
    with fits.open(tmp_path / "sky.fits") as hdus:
        assert (len(hdus["OBJECTS"].data) if "OBJECTS" in hdus else None) == found
        if found is None:
            plain = tiledsky.estimate_background(IMAGE, Recipe.load("deep-sky").keeping(0))
            np.testing.assert_array_equal(hdus["BACKGROUND"].data, plain.background)


def test_slices_are_told(call: Call, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "sky.zarr"
    words = ("--recipe", "deep-sky", "--out", out, "--keep", "0.3 arcsec", "--array", 2, "--dry-run")
    code, _, err = call("submit", image, *words)
    assert code == 0, err
    lines = [s for script in out.with_name("sky.zarr.jobs").glob("*.sh") for s in script.read_text().splitlines()]
    told = [shlex.split(line) for line in lines if "--worker-slice" in line]
    assert told
    assert all(line[line.index("--keep") + 1] == "0.3 arcsec" for line in told)


@pytest.mark.parametrize("command", ["plan", "run", "estimate"])
def test_refused(call: Call, image: Path, tmp_path: Path, command: str) -> None:
    fits.PrimaryHDU(IMAGE).writeto(tmp_path / "plain.fits")
    out = {"plan": [], "run": ["--out", tmp_path / "o.zarr"], "estimate": [tmp_path / "o.fits"]}[command]
    for source, recipe, keep, code, message in (
        (image, "deep-sky", "wide", 2, 'keep is a number of pixels or a text such as "30 arcsec"'),
        (image, "deep-sky", "-3", 2, "keep is from 0 to 20000 px"),
        (image, "sextractor", "30", 2, "recipe sextractor has no objects step"),
        (tmp_path / "plain.fits", "deep-sky", "2 arcsec", 3, "the image has no celestial WCS"),
    ):
        got, _, err = call(command, source, *out, "--recipe", recipe, "--keep", keep)
        assert got == code
        assert message in err
        assert err.count("\n") == 1
