"""Skies of few photons and of other skewed noise: which tiers count, and which clip boxes have."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

import tiledsky
from tiledsky import Recipe, Tier
from tiledsky.operations.compile import compiled
from tiledsky.operations.mask import Mask

SHAPE = (420, 390)


def sky_of(level):
    return level * (1.0 + 0.1 * np.linspace(-1, 1, SHAPE[0])[:, np.newaxis] * np.ones(SHAPE[1]))


def photons(level, seed=1):
    return np.random.default_rng(seed).poisson(sky_of(level)).astype(np.float32)


def test_half_a_count_a_pixel_by_numpy_dask_and_runs(tmp_path):
    image = photons(0.5)
    made = tiledsky.estimate_background(image, "deep-sky")
    lazy = tiledsky.estimate_background(da.from_array(image, chunks=(150, 170)), "deep-sky")
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    run = tiledsky.run(tmp_path / "image.zarr", "deep-sky", tmp_path / "run.zarr", tile_size=240)
    for name in ("background", "background_error", "mask"):
        np.testing.assert_array_equal(getattr(made, name), getattr(lazy, name).compute())
        np.testing.assert_array_equal(getattr(made, name), run.plane(name)[...])
    error = made.background - sky_of(0.5)
    assert (made.mask != 0).mean() < 0.1
    assert abs(error.mean()) < 0.015 * 0.5**0.5
    assert error.std() < 0.025 * 0.5**0.5
    assert (made.background_error > 0.0).all()
    for tiers in (run.thresholds["deep"], run.thresholds["wings"]):
        np.testing.assert_allclose([tier["skewness"] for tier in tiers], 0.5**-0.5, rtol=0.15)
    # of the noise of pixels the negative image says nothing, of wide means it does
    assert run.thresholds["deep"][0]["threshold"] is None
    assert run.thresholds["deep"][1]["threshold"] is not None


@pytest.mark.parametrize("noise", ["gamma", "photons"])
def test_skewed_noise_has_no_bias(noise):
    if noise == "gamma":
        image, level = np.random.default_rng(2).gamma(2.0, size=SHAPE).astype(np.float32), 2.0
    else:
        image, level = photons(4.0), 4.0
    data = Recipe.load("deep-sky").model_dump(mode="json", exclude_none=True)
    for step in data["steps"]:
        step.pop("skewed_clip", None)
    clipped, made = (tiledsky.estimate_background(image, r) for r in (Recipe.from_dict(data), "deep-sky"))
    bias = [abs((sky.background.mean() - level) / np.sqrt(level)) for sky in (clipped, made)]
    assert bias[1] < 0.012
    assert bias[1] < 0.6 * bias[0]


def test_a_sky_that_a_median_does_not_see_is_not_masked():
    """The median of half a count a pixel is 0: all pixels lie above it on average."""
    tier = Tier(n_sigma=1.0, sigma=3.0, center="sky", noise="std", noise_of="smoothed")
    image = photons(0.5)
    image[100:110, 200:210] += 3.0
    smoothed = tiledsky.smooth(image, sigma=3.0, boundary="fill").astype(np.float64)
    expected = smoothed > smoothed.mean() + smoothed.std()
    found = tiledsky.tier_mask(image, [tier]) != 0
    assert (found != expected).mean() < 1e-3
    assert found[100:110, 200:210].all()
    image -= np.float32(0.5)
    smoothed = tiledsky.smooth(image, sigma=3.0, boundary="fill").astype(np.float64)
    assert ((tiledsky.tier_mask(image, [tier]) != 0) != (smoothed > smoothed.std())).mean() < 1e-3


def test_normal_noise_is_not_skewed(tmp_path):
    image = (sky_of(100.0) + np.random.default_rng(3).normal(size=SHAPE)).astype(np.float32)
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    run = tiledsky.run(tmp_path / "image.zarr", "deep-sky", tmp_path / "run.zarr")
    assert not any("skewness" in tier for tiers in run.thresholds.values() for tier in tiers)


def test_boxes_know_the_noise_of_the_last_mask_that_has_a_reliability():
    """The statistics that they read: none if no mask has one, or no step asks; objects pass those of their mask on."""
    recipe = Recipe.load("deep-sky")
    operations = compiled(recipe).all.values()
    found = {b.parameters.name: b.noise for o in operations for b in o.measured}
    under_objects = dict.fromkeys(("objects", "objects-unmasked", "wide"), "deep-statistics")
    assert found == {"first": None, "sky": "wings-statistics", **under_objects}
    for operation in operations:
        if isinstance(operation, Mask):
            read = [r.node for r in operation.reads()]
            assert len(read) == len(set(read))
    steps = tuple(step for step in recipe.steps if step.kind != "objects")
    found = {b.parameters.name: b.noise for o in compiled(plain_of(steps)).all.values() for b in o.measured}
    assert found == {"first": None, "wide": "deep-statistics", "sky": "wings-statistics"}


def plain_of(steps):
    """A recipe of the steps, which do not name an objects step."""
    changed = [{**step.model_dump(exclude_none=True), "mask": None} for step in steps]
    for step in changed:
        step.update({"mask": "deep"} if step["name"] == "wings" else {})
    return Recipe.from_dict(
        {"name": "plain", "steps": [{k: v for k, v in s.items() if v is not None} for s in changed]}
    )
