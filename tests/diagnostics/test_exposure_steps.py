"""Steps between exposures that a background does not follow: those that were put in, wherever tiles end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

import tiledsky
from tests.objects_scene import galaxy_scene
from tiledsky.diagnostics import exposure_steps, measure, object_boxes
from tiledsky.diagnostics.verdict import next_step, places, remarks

SHAPE = (560, 640)
Image = NDArray[np.float32]


def panel(height: float, angle: float = 0.0) -> NDArray[np.float64]:
    """Half of an image, beyond a line through (304, 320), where boxes meet."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.asarray(height * ((y - 303.5) * c - (x - 319.5) * s > 0))


def scene(steps: NDArray[np.float64], seed: int = 0) -> tuple[Image, Image]:
    """An image of unit noise with steps, and a background that follows them as fine meshes do."""
    noise = np.random.default_rng(seed).normal(0, 1, SHAPE)
    return (10 + steps + noise).astype(np.float32), (10 + ndimage.gaussian_filter(steps, 20)).astype(np.float32)


def judged(image: Any, background: Any, mask: Any = None, **others: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    found = measure(image, background, mask, rms=np.ones_like(image), **others)
    (check,) = (row for row in found["verdict"]["checks"] if row["name"] == "exposure_steps")
    return found["measures"]["exposure_steps"], check


@pytest.mark.parametrize("angle", [0.0, 2.0, 90.0, 93.5, 30.0])
def test_a_step_is_found(angle: float) -> None:
    steps = panel(-0.6, angle)
    image, background = scene(steps)
    found, check = judged(image, background)
    assert found["n"] == len(found["edges"])
    assert 1 <= found["n"] <= 2
    one = found["edges"][0]
    # what is left of it within 16 px on each side
    before, after = (ndimage.distance_transform_edt(on) for on in (steps == 0, steps != 0))
    left = [float((steps + 10 - background)[np.abs(distance - 8.5) < 8].mean()) for distance in (before, after)]
    full = (left[1] - left[0]) * (1 if angle < 50 else -1)
    # boxes that an edge cuts have less
    assert one["step"] == pytest.approx(full, abs=4 * one["step_error"]) or 0.6 < one["step"] / full < 1
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    for y, x in (("y0", "x0"), ("y1", "x1"), ("y", "x")):
        assert abs((one[y] - 303.5) * c - (one[x] - 319.5) * s) < 12
    assert check["result"] == "fail"
    assert check["value"] == pytest.approx(abs(one["step"]), abs=0.1)


def test_its_place_is_said() -> None:
    image, background = scene(panel(0.7))
    found = measure(image, background, rms=np.ones_like(image), to_sky=lambda x, y: (x / 10, -y / 10))
    x, y = places(found)["exposure_steps"]
    assert (x, y) == pytest.approx((319.5, 303.5), abs=9)
    one = found["measures"]["exposure_steps"]["edges"][0]
    assert (one["ra"], one["dec"]) == (x / 10, -y / 10)
    assert "--footprints FILE --recipe mosaic-steps" in next_step("exposure_steps", "deep-sky")
    assert "mosaic-steps" not in next_step("exposure_steps", "mosaic-steps")
    (line,) = (line for line in remarks(found) if "straight edge" in line)
    assert f"from x {one['x0']:.0f}, y {one['y0']:.0f} to x {one['x1']:.0f}, y {one['y1']:.0f}" in line


@pytest.mark.parametrize(("fine", "most", "box"), [(100_000, 300_000, 8), (10, 1500, 16)])
def test_any_tiling_gives_the_same_bits(fine: int, most: int, box: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_boxes, "_FINE", fine)
    monkeypatch.setattr(object_boxes, "MOST", most)
    image, background = scene(panel(0.9, 1.5) + panel(0.9, 90.0), 3)
    image[250:340, 60:190] = np.nan
    texts = set()
    for tile in (SHAPE, (64, 128), (97, 203), (200, 40)):
        texts.add(json.dumps(judged(image, background, tile=tile)[0]))
    assert len(texts) == 1
    found = json.loads(texts.pop())
    assert found["box"] == box
    assert found["n"] == (2 if box == 8 else 1)


def test_noise_passes() -> None:
    for seed in range(5):
        image, background = scene(np.zeros(SHAPE), seed)
        found, check = judged(image, background)
        assert (found["n"], check["value"], check["result"]) == (0, 0.0, "pass")


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_a_large_galaxy_has_no_edges(share: float) -> None:
    made = galaxy_scene(560, half=40.0, total=1e5)
    found, check = judged(made.image, (made.sky + share * made.light).astype(np.float32))
    assert (found["n"], check["result"]) == (0, "pass")
    assert found["seen"] < 0.9


def test_what_was_not_measured_does_not_pass() -> None:
    for image, reason in (
        (np.full((300, 290), np.nan, np.float32), "the image has no "),
        (np.zeros((300, 290), np.float32), "the image has no "),
        (np.zeros((200, 255), np.float32), "the image is smaller than the shortest edge"),
    ):
        found = measure(image, np.zeros_like(image), rms=np.zeros_like(image))
        (check,) = (row for row in found["verdict"]["checks"] if row["name"] == "exposure_steps")
        assert str(found["measures"]["exposure_steps"]["not_measured"]).startswith(reason)
        assert check["result"] == "not measured"


def test_an_image_that_is_all_objects_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    made = galaxy_scene(560, half=40.0, total=1e5)
    seen = judged(made.image, made.sky.astype(np.float32))[0]["seen"]
    monkeypatch.setattr(exposure_steps, "_SEEN", 1.01 * seen)
    found, check = judged(made.image, made.sky.astype(np.float32))
    assert "leave less than" in found["not_measured"]
    assert check["result"] == "not measured"


def test_a_run_says_the_same_as_arrays(tmp_path: Path) -> None:
    image, _ = scene(panel(1.0))
    fits.PrimaryHDU(image).writeto(tmp_path / "image.fits")
    run = tiledsky.run(tmp_path / "image.fits", "deep-sky", tmp_path / "sky.zarr", tile_size=192)
    sky = tiledsky.estimate_background(image, "deep-sky")
    found = measure(image, sky.background, sky.mask, rms=sky.background_rms, objects=sky.objects)
    of_run = run.diagnostics["measures"]["exposure_steps"]
    assert of_run == found["measures"]["exposure_steps"]
    assert of_run["n"] >= 1
    assert abs(of_run["edges"][0]["y"] - 303.5) < 9


def test_footprints_take_the_steps_away() -> None:
    steps = panel(0.8) + panel(-0.6, 90.0)
    image, _ = scene(steps, 5)
    bits = np.ones(SHAPE, np.uint8) | np.where(panel(1.0) > 0, 2, 0) | np.where(panel(1.0, 90.0) > 0, 4, 0)
    results = []
    for recipe, given in (("deep-sky", {}), ("mosaic-steps", {"footprints": bits.astype(np.uint8)})):
        sky = tiledsky.estimate_background(image, recipe, **given)
        found = measure(image, sky.background, sky.mask, rms=sky.background_rms, objects=sky.objects)
        (check,) = (row for row in found["verdict"]["checks"] if row["name"] == "exposure_steps")
        results.append((check["result"], found["measures"]["exposure_steps"]["n"]))
    assert results[0][0] == "fail"
    assert results[1] == ("pass", 0)
