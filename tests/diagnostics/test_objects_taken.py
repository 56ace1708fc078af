"""Light of large objects in a background: the share that was put there, wherever tiles end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

import tiledsky
from tests.objects_scene import Scene, galaxy_scene, with_objects
from tiledsky.diagnostics import measure, object_boxes, objects_taken
from tiledsky.kernels.objects.catalogue import OBJECT

SIZE = 520


@pytest.fixture(scope="module")
def scene() -> Scene:
    return galaxy_scene(SIZE, half=30.0, total=4e4)


def judged(image: Any, background: Any, mask: Any = None, **others: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = measure(image, background, mask, rms=np.ones_like(image), **others)
    (check,) = (row for row in found["verdict"]["checks"] if row["name"] == "objects_taken")
    return found["measures"]["objects_taken"], check


@pytest.mark.parametrize(("share", "result"), [(0.0, "pass"), (0.05, "warn"), (0.3, "fail"), (1.0, "fail")])
def test_the_share_that_a_background_has_is_measured(scene: Scene, share: float, result: str) -> None:
    found, check = judged(scene.image, (scene.sky + share * scene.light).astype(np.float32))
    (one,) = (row for row in found["objects"] if np.hypot(row["y"] - 0.45 * SIZE, row["x"] - 0.55 * SIZE) < 16)
    assert one["taken"] == pytest.approx(share, abs=0.012 + 0.1 * share)
    assert one["size"] == pytest.approx(30, rel=0.25)
    assert one["signal"] > 100
    assert check["result"] == result
    assert check["value"] == pytest.approx(max(one["taken"], 0.0), abs=1e-4)


def test_a_mask_of_the_recipe_hides_no_object(scene: Scene) -> None:
    mask = scene.light > 0.5
    _, check = judged(scene.image, (scene.sky + 0.3 * scene.light).astype(np.float32), mask)
    assert check["result"] == "fail"
    _, user = judged(scene.image, scene.sky.astype(np.float32), np.where(mask, np.uint8(128), np.uint8(0)))
    assert user["result"] == "pass"


def test_its_place_is_said(scene: Scene) -> None:
    background = (scene.sky + 0.5 * scene.light).astype(np.float32)
    found = measure(scene.image, background, rms=np.ones_like(background), to_sky=lambda x, y: (x / 10, -y / 10))
    x, y = tiledsky.diagnostics.verdict.places(found)["objects_taken"]
    assert np.hypot(x - 0.55 * SIZE, y - 0.45 * SIZE) < 16
    first = found["measures"]["objects_taken"]["objects"][0]
    assert (first["ra"], first["dec"]) == (first["x"] / 10, -first["y"] / 10)


@pytest.mark.parametrize(("fine", "most"), [(100_000, 300_000), (10, 600), (10, 30)])
def test_any_tiling_gives_the_same_bits(scene: Scene, fine: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_boxes, "_FINE", fine)
    monkeypatch.setattr(object_boxes, "MOST", most)
    image = scene.image.copy()
    image[300:340, 60:190] = np.nan
    background = (scene.sky + 0.4 * ndimage.gaussian_filter(scene.light, 3)).astype(np.float32)
    texts = set()
    for tile in ((SIZE, SIZE), (64, 128), (97, 203), (200, 40)):
        texts.add(json.dumps(judged(image, background, tile=tile)[0]))
    assert len(texts) == 1
    found = json.loads(texts.pop())
    assert found["box"] == object_boxes.box_side((SIZE, SIZE)) == {300_000: 8, 600: 32, 30: 128}[most]
    assert most == 30 or found["objects"][0]["taken"] > 0.3


def test_noise_has_no_objects() -> None:
    for seed in range(3):
        image = np.random.default_rng(seed).normal(0, 1, (500, 640)).astype(np.float32)
        found, check = judged(image, np.zeros_like(image))
        assert (found["n"], check["value"], check["result"]) == (0, 0.0, "pass")


def test_a_smooth_maximum_of_the_sky_is_no_object() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    sky = 3 * np.exp(-((y - 250) ** 2 + (x - 260) ** 2) / (2 * 80.0**2))
    image = (sky + np.random.default_rng(3).normal(0, 1, sky.shape)).astype(np.float32)
    assert judged(image, sky.astype(np.float32))[1]["result"] == "pass"


def test_what_was_not_measured_does_not_pass() -> None:
    for image in (np.full((80, 90), np.nan, np.float32), np.zeros((80, 90), np.float32)):
        found = measure(image, np.zeros_like(image), rms=np.zeros_like(image))
        (check,) = (row for row in found["verdict"]["checks"] if row["name"] == "objects_taken")
        assert found["measures"]["objects_taken"]["not_measured"].startswith("the image has no ")
        assert check["result"] == "not measured"


def test_an_object_at_a_corner_is_not_measured(scene: Scene) -> None:
    top, left = int(0.45 * SIZE), int(0.55 * SIZE)
    part = np.ascontiguousarray(scene.image[top - 4 :, left - 4 :])
    found, _ = judged(
        part, np.ascontiguousarray((scene.sky + 0.5 * scene.light).astype(np.float32)[top - 4 :, left - 4 :])
    )
    assert all(row["taken"] is None for row in found["objects"] if row["y"] < 20 and row["x"] < 20)


def test_objects_that_a_recipe_knows_are_measured_too(scene: Scene) -> None:
    """As where boxes are too large to see them."""
    sky = tiledsky.estimate_background(scene.image, "deep-sky")
    assert sky.objects is not None
    assert sky.objects.dtype == OBJECT
    assert len(sky.objects) >= 1
    half = (scene.sky + 0.5 * scene.light).astype(np.float32)
    flat = np.random.default_rng(1).normal(0, 1, scene.image.shape).astype(np.float32) + 10
    found, _ = judged(flat, half, objects=sky.objects)
    assert found["n"] == len(sky.objects)
    assert found["objects"][0]["taken"] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("recipe", ["complex-sky", "deep-sky"])
def test_a_run_says_the_same_as_arrays(scene: Scene, recipe: str, tmp_path: Path) -> None:
    fits.PrimaryHDU(scene.image).writeto(tmp_path / "image.fits")
    run = tiledsky.run(tmp_path / "image.fits", recipe, tmp_path / "sky.zarr", tile_size=192)
    sky = tiledsky.estimate_background(scene.image, recipe)
    found = measure(scene.image, sky.background, sky.mask, rms=sky.background_rms, objects=sky.objects)
    of_run = run.diagnostics["measures"]["objects_taken"]
    assert of_run == found["measures"]["objects_taken"]
    assert of_run["n"] >= 1
    taken = of_run["objects"][0]["taken"]
    assert taken > 0.5 if recipe == "complex-sky" else taken < 0.03


def test_a_recipe_without_objects_takes_them_and_fails(scene: Scene) -> None:
    for recipe, results in ((with_objects(0.0), {"fail"}), (with_objects(), {"pass"})):
        sky = tiledsky.estimate_background(scene.image, recipe)
        found = measure(scene.image, sky.background, sky.mask, rms=sky.background_rms)
        assert {c["result"] for c in found["verdict"]["checks"] if c["name"] == "objects_taken"} == results


def test_a_list_is_cut_and_its_worst_first(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_taken, "_LISTED", 1)
    second = np.roll(scene.light, (-150, -190), axis=(0, 1))
    image = (scene.image + second).astype(np.float32)
    found, _ = judged(image, (scene.sky + 0.2 * scene.light + 0.6 * second).astype(np.float32))
    assert found["n"] >= 2
    (one,) = found["objects"]
    assert np.hypot(one["y"] - 0.45 * SIZE + 150, one["x"] - 0.55 * SIZE + 190) < 16
