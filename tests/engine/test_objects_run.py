"""Objects steps in runs: the bits of arrays for any tiles, the catalogue in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import tiledsky
from tests.engine.scenes import RESULTS
from tests.objects_scene import galaxy_scene, with_objects
from tiledsky import Sky, estimate_background
from tiledsky.errors import RunError
from tiledsky.kernels.objects.catalogue import to_rows

RECIPE = with_objects(objects_plane=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects") / "image.fits"
    fits.writeto(path, galaxy_scene(420).image)
    return path


@pytest.fixture(scope="module")
def sky(image: Path) -> Sky:
    return estimate_background(fits.getdata(image), RECIPE)


@pytest.mark.parametrize("tile", [180, 420])
def test_runs_have_the_bits_of_arrays(tile: int, image: Path, sky: Sky, tmp_path: Path) -> None:
    run = tiledsky.run(image, RECIPE, tmp_path / "run.zarr", tile_size=tile)
    for plane in (*RESULTS, "object_light"):
        np.testing.assert_array_equal(run.plane(plane)[:], getattr(sky, plane), err_msg=plane)
    assert sky.objects.size == 1
    assert run.objects.tobytes() == sky.objects.tobytes()
    assert not list((tmp_path / "run.zarr/meshes").glob("objects-*/working/*/c")), "maps of the rounds are left"


def test_a_damaged_catalogue_is_refused_and_made_again(image: Path, sky: Sky, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    run = tiledsky.run(image, RECIPE, out)
    document = out / "run/objects/objects.json"
    rows: list[dict[str, Any]] = json.loads(document.read_text())
    assert rows == to_rows(sky.objects)
    whole = document.read_bytes()
    for change in ({"axis_ratio": 0.0}, {"n_knots": 3}, {"light": [-1.0]}, {"y": "far"}):
        document.write_text(json.dumps([{**rows[0], **change}]))
        with pytest.raises(
            RunError,
            match=r"objects\.json is no catalogue of objects, so .* cannot be trusted|objects\.json is no catalogue",
        ):
            _ = tiledsky.open_run(out).objects
    document.unlink()
    again = tiledsky.run(image, RECIPE, out)
    assert document.read_bytes() == whole
    assert again.objects.tobytes() == run.objects.tobytes()


def test_a_run_without_the_step_has_no_objects(image: Path, tmp_path: Path) -> None:
    assert tiledsky.run(image, "sextractor", tmp_path / "run.zarr").objects is None
