"""Footprints steps: arrays, dask and runs give one result; what is written; what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from typer.testing import CliRunner

import tiledsky
from tests.kernels.test_footprints import SHAPE, TRUE, bits_of, mean_of, mosaic
from tiledsky.cli import app
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.recipe import Recipe
from tiledsky.workflows import estimate_file
from tiledsky.workflows.export import export
from tiledsky.workflows.restore import restore

PLANES = ("background", "background_rms", "background_error", "subtracted", "footprint_offsets")
STEPS = [
    {"kind": "background", "name": "first", "box_size": 30, "exclude_percentile": 60},
    {"kind": "mask", "name": "sources", "tiers": [{"n_sigma": 8.0, "n_pixels": 5}]},
    {"kind": "footprints"},
    {"kind": "background", "name": "sky", "box_size": 25, "exclude_percentile": 60},
]
RECIPE = Recipe.from_dict({"name": "steps", "injection": False, "steps": STEPS})


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image with a hole and a source across an edge, bits, and the steps."""
    bits, true = bits_of(), TRUE
    image, ignore = mosaic(8, bits, true)
    image[ignore] = np.nan
    image[165:180, 100:120] += 50.0
    image = np.where(bits == 0, np.nan, image).astype(np.float32)
    image[400:430, 150:170] = np.nan
    return image, bits, mean_of(bits, true)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, (image, bits, _) = tmp_path_factory.mktemp("footprints"), scene()
    header = fits.Header({"BUNIT": "MJy/sr"})
    fits.PrimaryHDU(image, header).writeto(folder / "image.fits")
    # two images one upon the other, with two exposures each
    cube = np.stack([bits & 3, bits >> 2])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(cube, name="CTX")]).writeto(folder / "cube.fits")
    fits.writeto(folder / "bits.fits", bits)
    tiledsky.run(folder / "image.fits", RECIPE, folder / "run.zarr", footprints=folder / "bits.fits")
    return folder


def test_arrays_dask_and_runs_give_the_same_bits(files: Path, tmp_path: Path) -> None:
    image, bits, steps = scene()
    sky = tiledsky.estimate_background(image, RECIPE, footprints=bits)
    lazy = tiledsky.estimate_background(da.from_array(image, chunks=(190, 300)), RECIPE, footprints=bits)
    small = tiledsky.run(
        files / "image.fits", RECIPE, tmp_path / "small.zarr", footprints=files / "bits.fits", tile_size=256
    )
    for run in (tiledsky.open_run(files / "run.zarr"), small):
        assert run.footprints is not None
        assert run.footprints.tobytes() == sky.footprints.tobytes() == lazy.footprints.compute().tobytes()
        for name in PLANES:
            np.testing.assert_array_equal(run.plane(name)[...], getattr(sky, name), err_msg=name)
            np.testing.assert_array_equal(getattr(lazy, name).compute(), getattr(sky, name), err_msg=name)
    there = bits != 0
    error = (sky.footprint_offsets - steps)[there]
    assert np.ptp(error) < 0.2  # of steps of 2.7
    np.testing.assert_array_equal(sky.footprint_offsets[~there], 0)
    edges = np.abs(np.diff(steps, axis=1)) > 0.5
    known = np.isfinite(np.diff(sky.subtracted, axis=1)) & edges
    assert abs(np.diff(sky.subtracted, axis=1)[known].mean()) < 0.3


def test_bits_of_several_images_and_labels(files: Path, tmp_path: Path) -> None:
    """Exposures of the second image have numbers from 33; labels are one exposure a pixel."""
    image, bits, _ = scene()
    run = tiledsky.run(files / "image.fits", RECIPE, tmp_path / "cube.zarr", footprints=files / "cube.fits:CTX")
    assert run.footprints is not None
    assert run.footprints["number"].tolist() == [1, 2, 33, 34]
    one = tiledsky.open_run(files / "run.zarr")
    assert one.footprints is not None
    np.testing.assert_allclose(run.footprints["term"], one.footprints["term"], rtol=1e-9)
    cube = np.stack([bits & 3, bits >> 2])
    sky = tiledsky.estimate_background(image, RECIPE, footprints=cube)
    assert sky.footprints.tobytes() == run.footprints.tobytes()
    labels = np.where(bits == 0, 0, 5 + bits).astype(np.int16)
    fits.writeto(tmp_path / "labels.fits", labels)
    run = tiledsky.run(files / "image.fits", RECIPE, tmp_path / "l.zarr", footprint_labels=tmp_path / "labels.fits")
    sky = tiledsky.estimate_background(image, RECIPE, footprint_labels=labels)
    assert run.footprints is not None
    assert run.footprints.tobytes() == sky.footprints.tobytes()
    assert run.footprints["number"].tolist() == (5 + np.unique(bits[bits > 0])).tolist()
    assert (run.footprints["shared"] == 0).all()


def test_tables_and_the_way_back(files: Path, tmp_path: Path) -> None:
    run = tiledsky.open_run(files / "run.zarr")
    export(run, tmp_path / "sky.fits", planes=["subtracted", "background", "footprint_offsets"])
    assert CliRunner().invoke(app, ["export", str(run.path), str(tmp_path / "footprints.csv")]).exit_code == 0
    with fits.open(tmp_path / "sky.fits") as hdus:
        hdus.verify("exception")
        table = hdus["FOOTPRINTS"]
        assert run.footprints is not None
        for name in run.footprints.dtype.names:
            np.testing.assert_array_equal(table.data[name], run.footprints[name])
        assert table.columns["term"].unit == "MJy/sr"
        with (tmp_path / "footprints.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [float(row["term"]) for row in rows] == table.data["term"].tolist()
    with pytest.raises(ParameterError, match=r"no objects step, .* a name that ends in footprints\.csv"):
        export(run, tmp_path / "objects.csv")
    report = restore(files / "run.zarr", tmp_path / "back.fits")
    assert report.comparison is not None
    assert report.comparison.max_difference < 2e-5
    estimate_file.estimate(files / "image.fits", tmp_path / "own.fits", RECIPE, footprints=files / "bits.fits")
    export(run, tmp_path / "all.fits")
    with fits.open(tmp_path / "own.fits") as own, fits.open(tmp_path / "all.fits") as exported:
        assert [h.name for h in own] == [h.name for h in exported]
        assert own["FOOTPRINTS"].data.tobytes() == exported["FOOTPRINTS"].data.tobytes()
        np.testing.assert_array_equal(own["BACKGROUND"].data, exported["BACKGROUND"].data)


def test_a_unit() -> None:
    image, bits, _ = scene()
    sky = tiledsky.estimate_background(image * units.Jy, RECIPE, footprints=bits)
    assert sky.footprint_offsets.unit == units.Jy


def test_a_damaged_table_is_refused(files: Path, tmp_path: Path) -> None:
    run = tiledsky.run(files / "image.fits", RECIPE, tmp_path / "run.zarr", footprints=files / "bits.fits")
    (Path(run.path) / "run/footprints/footprints.json").write_text('[{"number": 0}]')
    with pytest.raises(RunError, match=r"footprints\.json is no table of footprints"):
        _ = tiledsky.open_run(tmp_path / "run.zarr").footprints


def test_what_does_not_fit_is_refused(files: Path, tmp_path: Path) -> None:
    image, bits, _ = scene()
    with pytest.raises(InputError, match="no plane says which exposures a pixel is of; give --footprints"):
        tiledsky.estimate_background(image, RECIPE)
    with pytest.raises(InputError, match="recipe sextractor has no footprints step, so they would not be used"):
        tiledsky.estimate_background(image, "sextractor", footprints=bits)
    with pytest.raises(InputError, match="as bits and as labels, and only one of them can be right"):
        tiledsky.estimate_background(image, RECIPE, footprints=bits, footprint_labels=bits)
    with pytest.raises(InputError, match="footprints is of type float64, which is no footprint; give integers"):
        tiledsky.estimate_background(image, RECIPE, footprints=bits.astype(float))
    with pytest.raises(InputError, match=r"footprints has 40 planes, and tiledsky takes 1 to 32"):
        tiledsky.estimate_background(image, RECIPE, footprints=np.zeros((40, *SHAPE), np.int32))
    fits.writeto(tmp_path / "f.fits", bits.astype(np.float32))
    with pytest.raises(InputError, match="role footprints needs integers, bits or labels"):
        tiledsky.run(files / "image.fits", RECIPE, tmp_path / "r.zarr", footprints=tmp_path / "f.fits")
    with pytest.raises(InputError, match="is 2 images, and labels are one"):
        tiledsky.run(files / "image.fits", RECIPE, tmp_path / "r.zarr", footprint_labels=files / "cube.fits:CTX")
    fits.writeto(tmp_path / "small.fits", bits[:100])
    with pytest.raises(InputError, match="footprint_bits is 100 x 300 px, the science image 512 x 300"):
        tiledsky.run(files / "image.fits", RECIPE, tmp_path / "r.zarr", footprints=tmp_path / "small.fits")
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([STEPS[0], STEPS[1], {"kind": "objects"}, *STEPS[2:]], "comes after an objects step"),
        ([*STEPS[:2], STEPS[3], STEPS[2]], "comes after the last background"),
        ([*STEPS[:3], {**STEPS[3], "name": "footprints-terms"}], "could be a part of footprints step 'footprints'"),
        ([STEPS[2], *STEPS[1:2], STEPS[3]], "has no sky to subtract"),
    ],
)
def test_recipes_that_cannot_be(steps: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Recipe.from_dict({"name": "wrong", "steps": steps})


def test_footprints_alone_choose_the_preset(files: Path) -> None:
    words = ["plan", str(files / "image.fits"), "--footprints", str(files / "bits.fits")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "footprints" in said.output
    said = CliRunner().invoke(app, [*words, "--recipe", "sextractor"])
    assert isinstance(said.exception, InputError)
    assert "has no footprints step" in str(said.exception)
