"""What commands do of which they are told nothing but the image."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.engine.scenes import make_planes
from tiledsky import Recipe, estimate_background, open_run
from tiledsky.cli.options import name_beside
from tiledsky.cluster.local import fitting
from tiledsky.recipe import RECOMMENDED

Call = Callable[..., tuple[int, str, str]]


def test_the_image_is_enough(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # in place of the recommended one, whose kernels take half a minute to compile; tests/cli/options.txt has its name
    text = (Path(__file__).parents[2] / "tiledsky/recipe/presets/sextractor.toml").read_text()
    monkeypatch.setattr("tiledsky.recipe.reading.recipe_text", lambda name: (text, f"recipe {name}"))
    pixels = make_planes((130, 140))["science"]
    fits.PrimaryHDU(pixels).writeto("mosaic.fits")
    code, out, err = call("run", "mosaic.fits")
    assert code == 0, err
    assert "1 worker (local)\n" in err  # no more than there are tasks
    lines = out.splitlines()
    assert lines[0].startswith("mosaic.sky.zarr: 130 x 140 px, ")
    verdict = open_run("mosaic.sky.zarr").diagnostics["verdict"]
    wrong = [row["name"].replace("_", " ") for row in verdict["checks"] if row["result"] in ("fail", "warn")]
    at = lines.index(f"verdict: {verdict['result']}")
    assert wrong
    assert all(any(line.startswith(f"  {name} ") for line in lines[at:]) for name in wrong)
    assert lines[-1] == "FITS: tiledsky export mosaic.sky.zarr mosaic.sky.fits"
    assert call(*lines[-1].split()[2:])[0] == 0
    exported = fits.getdata("mosaic.sky.fits", "BACKGROUND")
    code, out, err = call("estimate", "mosaic.fits", "--overwrite")
    assert code == 0, err
    assert out.splitlines()[0].startswith("mosaic.sky.fits: 130 x 140 px, ")
    np.testing.assert_array_equal(fits.getdata("mosaic.sky.fits", "BACKGROUND"), exported)
    np.testing.assert_array_equal(estimate_background(pixels, "sextractor").background, exported)


def test_the_recommended_recipe_is_a_preset() -> None:
    assert Recipe.load(RECOMMENDED).name == RECOMMENDED


@pytest.mark.parametrize(
    ("source", "name"),
    [("mosaic.fits", "mosaic.sky.fits"), ("/data/m.v2.fits.gz", "m.v2.sky.fits"), ("m.FITS:SCI,2", "m.sky.fits"),
     ("s3://bucket/run/m.zarr", "m.sky.fits"), ("in.zarr/", "in.sky.fits"), ("m_i2d.fits.fz:1", "m_i2d.sky.fits"),
     ("image", "image.sky.fits")],
)  # fmt: skip
def test_names_of_outputs(source: str, name: str) -> None:
    assert name_beside(source, ".fits") == name


@pytest.mark.parametrize(
    ("cores", "memory", "given", "expected"),
    [
        (2, 24e9, (None, 1, None), (2, "2000MB")),
        (64, 256e9, (None, 1, None), (64, "2000MB")),
        (64, 256e9, (None, 8, None), (8, "2000MB")),
        (16, 4e9, (None, 1, None), (3, "1066MB")),  # a container
        (1, 0.5e9, (None, 1, None), (1, "400MB")),
        (8, 24e9, (None, 1, "6GB"), (3, "6GB")),
        (8, 24e9, (5, 1, None), (5, "2000MB")),
        (8, 24e9, (12, 2, "300MB"), (12, "300MB")),
    ],
)
def test_workers_follow_the_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory: float, given: tuple[int | None, int, str | None],
    expected: tuple[int, str],
) -> None:  # fmt: skip
    monkeypatch.setattr("dask.system.CPU_COUNT", cores)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", int(memory))
    monkeypatch.setattr("resource.getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    workers, threads, limit = given
    assert fitting(workers=workers, threads=threads, memory_limit=limit) == expected


def test_no_more_workers_than_open_files_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 128)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10**12)
    monkeypatch.setattr("resource.getrlimit", lambda which: (1024, 1024))
    assert fitting(workers=None, threads=1, memory_limit=None) == (82, "2000MB")
