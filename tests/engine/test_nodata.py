"""Runs on images with a number that means no data: told, as NaN, part of the run, judged; and variance planes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits

from tests.engine.scenes import RESULTS
from tiledsky import Recipe, run
from tiledsky.engine.runner import planned
from tiledsky.errors import InputError, InputWarning, RunError
from tiledsky.workflows.estimate_file import estimate
from tiledsky.workflows.export import ingest
from tiledsky.workflows.inject import Injection, inject
from tiledsky.workflows.restore import restore

SHAPE = (230, 260)
RECIPE = Recipe.from_dict(
    {
        "name": "steps",
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 5, "width": 2},
            {"kind": "mask", "name": "found", "tiers": [{"n_sigma": 2.0, "fwhm": 2.0, "n_pixels": 4, "grow": 2}]},
            {"kind": "background", "name": "sky", "box_size": [12, 10], "filter_size": 3},
        ],
    }
)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """Whole numbers about 300, as unsigned 16-bit integers, that the empty parts have 0 in place of."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.rint(300 + x / 10 + 20 * np.random.default_rng(8).normal(0, 1, SHAPE))
    image[(y < 40) | (x >= 200)] = 0
    return image.astype(np.uint16)


@pytest.fixture
def image(counts: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    planes = {"SCI": counts, "WHT": (counts > 0).astype(np.float32), "OTHER": counts[:5]}
    hdus = [fits.ImageHDU(pixels, name=name) for name, pixels in planes.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def packed(image: Path, counts: np.ndarray, kind: str) -> Path:
    """Write the image in another way."""
    path = image.with_name(f"{kind}.zarr" if kind == "zarr" else f"{kind}.fits")
    if kind == "zarr":
        array = zarr.create_array(str(path), shape=SHAPE, chunks=(40, 50), dtype=np.uint16, fill_value=0)
        array[40:, :200] = counts[40:, :200]  # the other chunks were never written
    else:
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(counts, name="SCI", tile_shape=(16, 64))]).writeto(path)
    return path


def test_a_run_is_as_with_nan(image: Path, counts: np.ndarray, tmp_path: Path) -> None:
    fits.PrimaryHDU(np.where(counts == 0, np.nan, counts).astype(np.float32)).writeto(tmp_path / "nan.fits")
    expected, empty = run(tmp_path / "nan.fits", RECIPE, tmp_path / "nan.zarr", tile_size=120), counts == 0
    sources = {"fits": image, "zarr": packed(image, counts, "zarr"), "fz": packed(image, counts, "fz")}
    for k, (kind, source) in enumerate(sources.items()):
        done = run(
            source, RECIPE, tmp_path / f"{kind}-run.zarr", tile_size=(60, 120, 240)[k], nodata=("auto", 0, "0")[k]
        )
        assert done.provenance["nodata"] == 0
        for name in RESULTS:
            pixels = done.plane(name)[...]
            np.testing.assert_array_equal(pixels[~empty], expected.plane(name)[...][~empty])
            np.testing.assert_array_equal(pixels[empty], 1 if name == "mask" else 0)
        rows = {row["name"]: row for row in done.diagnostics["verdict"]["checks"]}
        assert rows["constant_pixels"]["value"] == 0
        np.testing.assert_equal(done.diagnostics["image"], expected.diagnostics["image"])
    estimate(image, tmp_path / "sky.fits", RECIPE, nodata=0)
    assert fits.getval(tmp_path / "sky.fits", "TSKYFILL") == 0
    np.testing.assert_array_equal(fits.getdata(tmp_path / "sky.fits", "SUBTRACTED"), done.plane("subtracted")[...])
    restored = restore(tmp_path / "fits-run.zarr", tmp_path / "back.fits")
    assert (restored.uncovered, restored.nan) == (np.count_nonzero(empty), 0)
    np.testing.assert_allclose(fits.getdata(tmp_path / "back.fits"), counts, rtol=1e-6)


def test_a_run_that_counts_it_as_sky(image: Path, counts: np.ndarray, tmp_path: Path) -> None:
    share = 100 * np.mean(counts == 0)
    message = rf"{share:.3g}% of the pixels are exactly 0, .* --nodata 0 .* --weight {image}:WHT"
    with pytest.warns(InputWarning, match=message):
        planned(RECIPE, image, hdu="SCI")
    with pytest.warns(InputWarning, match=message):
        estimate(image, tmp_path / "sky.fits", RECIPE)
    found = []
    for tile_size in (60, 120):
        out = tmp_path / f"run{tile_size}.zarr"
        with pytest.warns(InputWarning, match=message):
            done = run(image, RECIPE, out, tile_size=tile_size)
        found.append(done.diagnostics["measures"]["constants"])
        rows = {row["name"]: row["result"] for row in done.diagnostics["verdict"]["checks"]}
        assert (rows["constant_pixels"], done.diagnostics["verdict"]["result"]) == ("fail", "fail")
    assert found[0] == found[1]
    whole = counts == 0
    solid = sum(whole[y : y + 4, x : x + 4].all() for y in range(0, 228, 4) for x in range(0, 260, 4))
    assert found[0]["solid_fraction"] == pytest.approx(solid / (57 * 65), abs=1e-4)
    assert found[0]["largest"]["value"] == "0"
    with pytest.raises(RunError, match=r"another input \(nodata none -> 0\)"):
        run(image, RECIPE, out, tile_size=120, nodata=0)
    # nothing is said where a plane tells the same pixels
    planned(RECIPE, image, weight=f"{image}:WHT")


def test_an_image_without_noise_is_not_called_wrong(tmp_path: Path) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = sum(50 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18) for cy, cx in ((90, 100), (30, 50), (150, 160)))
    fits.PrimaryHDU((10 + np.where(light > 1e-3, light, 0)).astype(np.float32)).writeto(tmp_path / "image.fits")
    with pytest.warns(InputWarning, match="the image shows no noise .* exactly 10"):
        done = run(tmp_path / "image.fits", RECIPE, tmp_path / "run.zarr")
    verdict = done.diagnostics["verdict"]
    assert verdict["result"] == "warn"
    assert [row["name"] for row in verdict["checks"] if row["result"] == "warn"] == ["no_noise"]
    with pytest.raises(InputError, match="noise of the image is 0 by its biweight"), pytest.warns(InputWarning):
        run(tmp_path / "image.fits", "ceers-nircam", tmp_path / "other.zarr")


def test_the_command_line_says_it(
    call: Callable[..., tuple[int, str, str]], image: Path, counts: np.ndarray, tmp_path: Path
) -> None:
    code, out, err = call("plan", image, "--recipe", "sextractor")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"tiledsky: warning: {image}: ")
    code, out, err = call("plan", image, "--recipe", "sextractor", "--nodata", "auto")
    assert (code, err) == (0, "")
    assert "no data        0" in out
    assert call("plan", image, "--recipe", "sextractor", "--nodata", "x")[0] == 2
    ingest(image, tmp_path / "copy.zarr", nodata="auto")
    assert zarr.open_group(str(tmp_path / "copy.zarr"), mode="r")["science"].attrs["tiledsky_nodata"] == 0
    code, out, err = call("plan", tmp_path / "copy.zarr", "--recipe", "sextractor")
    assert (code, err) == (0, "")


def test_injected_light_leaves_it_empty(image: Path, counts: np.ndarray, tmp_path: Path) -> None:
    before = run(image, "sextractor", tmp_path / "run.zarr", nodata=0)
    inject(before, tmp_path / "new.zarr", Injection(count=4))
    pixels = zarr.open_group(str(tmp_path / "new-input.zarr"), mode="r")["science"][...]
    np.testing.assert_array_equal(pixels == 0, counts == 0)


@pytest.mark.parametrize("kind", ["fits", "zarr"])
def test_variances(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(5)
    variance = rng.uniform(0.5, 2, SHAPE).astype(np.float32)
    science = rng.normal(3, np.sqrt(variance)).astype(np.float32)
    variance[3, 4:8] = 0, -1, np.nan, np.inf
    data = RECIPE.model_dump(mode="json", exclude_none=True)
    data["steps"][1]["equalize"] = True
    with np.errstate(invalid="ignore"):
        planes = {"IMAGE": science, "VARIANCE": variance, "ERR": np.sqrt(variance)}
    path = tmp_path / "rubin.fits"
    if kind == "fits":
        hdus = [fits.ImageHDU(pixels, name=name) for name, pixels in planes.items()]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
        runs = [{"variance": str(path)}, {"error": str(path)}]
        sources = [path, path]
    else:
        sources, runs = [tmp_path / "one.zarr", tmp_path / "two.zarr"], [{}, {}]
        for source, name, plane in zip(sources, ("variance", "error"), ("VARIANCE", "ERR"), strict=True):
            group = zarr.create_group(str(source))
            group.create_array("science", data=science, chunks=(50, 50))
            group.create_array(name, data=planes[plane], chunks=(50, 50))
    done = [
        run(source, Recipe.from_dict(data), tmp_path / f"run{k}.zarr", tile_size=120, **planes)
        for k, (source, planes) in enumerate(zip(sources, runs, strict=True))
    ]
    for name in RESULTS:
        np.testing.assert_array_equal(done[0].plane(name)[...], done[1].plane(name)[...])
    assert (done[0].plane("mask")[3, 4:8] & 1 == 1).all()
    if kind == "fits":
        with pytest.raises(RunError, match=r"error: rubin\.fits: variances -> errors"):
            run(path, Recipe.from_dict(data), tmp_path / "run0.zarr", tile_size=120, error=str(path))
        with pytest.raises(InputError, match="give --error or --variance, not both"):
            run(path, Recipe.from_dict(data), tmp_path / "run3.zarr", error=str(path), variance=str(path))
