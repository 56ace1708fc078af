"""Fitted meshes as steps of recipes: in numpy, dask and runs, and what the fits leave out."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

import tiledsky
from tiledsky import Recipe
from tiledsky.errors import ParameterError

LAW = {"kind": "local-polynomial"}


def recipe(**parameters):
    step = {"kind": "background", "name": "sky", "box_size": 10, "estimator": "mean", "interpolator": LAW, **parameters}
    return Recipe.from_dict({"name": "fitted", "steps": [step]})


def image_of(shape, *, seed=1):
    y, x = np.indices(shape)
    sky = 3.0 + 0.2 * np.sin(y / 40) * np.cos(x / 55) + 0.001 * x
    return sky, (sky + np.random.default_rng(seed).normal(scale=0.1, size=shape)).astype(np.float32)


@pytest.mark.parametrize(
    "parameters",
    [
        {"interpolator": {**LAW, "robust_bandwidth": 40}},
        {"interpolator": {**LAW, "order": 2, "bandwidth": 30}, "grow_boxes": 1},
    ],
)
def test_numpy_dask_and_runs_have_the_same_bits(parameters, tmp_path):
    sky, image = image_of((303, 287))
    image[40:90, 100:170] = np.nan
    image[:, 280:] = np.nan
    made = tiledsky.estimate_background(image, recipe(**parameters))
    lazy = tiledsky.estimate_background(da.from_array(image, chunks=(97, 101)), recipe(**parameters))
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    run = tiledsky.run(tmp_path / "image.zarr", recipe(**parameters), tmp_path / "run.zarr", tile_size=140)
    for name in ("background", "background_rms", "background_error"):
        assert np.isfinite(getattr(made, name)).all()
        np.testing.assert_array_equal(getattr(made, name), getattr(lazy, name).compute())
        np.testing.assert_array_equal(getattr(made, name), run.plane(name)[...])
    mesh = run.mesh("sky")
    for name in ("background", "error", "bandwidth", "degree"):
        np.testing.assert_array_equal(mesh[name], getattr(made.meshes["sky"], name))
    good = np.isfinite(image)
    assert np.std((made.background - sky)[good]) < 0.012


def test_the_bandwidth_as_a_plane(tmp_path):
    y, x = np.indices((280, 300))
    rippled = 2.0 * np.sin(y / 10) * np.sin(x / 10)  # as narrow as boxes of 10 pixels can show
    image = (rippled + np.random.default_rng(5).normal(scale=0.1, size=y.shape)).astype(np.float32)
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    chosen = Recipe.from_dict({**recipe().model_dump(mode="json", exclude_none=True), "bandwidth_plane": True})
    run = tiledsky.run(tmp_path / "image.zarr", chosen, tmp_path / "run.zarr", tile_size=100)
    plane, cells = run.plane("bandwidth")[...], run.mesh("sky")["bandwidth"]
    np.testing.assert_array_equal(plane, np.kron(cells, np.ones((10, 10), cells.dtype)))
    assert np.mean(cells <= 16.5) > 0.9
    with pytest.raises(ParameterError, match="bandwidth_plane needs a fit"):
        Recipe.from_dict(
            {**Recipe.load("complex-sky").model_dump(mode="json", exclude_none=True), "bandwidth_plane": True}
        )


def test_boxes_that_are_left_out_do_not_count():
    _, image = image_of((300, 300))
    mask = np.zeros(image.shape, bool)
    mask[100:160, 100:150] = True
    one, other = (
        tiledsky.estimate_background(np.where(mask, value, image), recipe(), mask=mask) for value in (np.nan, 1e6)
    )
    np.testing.assert_array_equal(one.background, other.background)


def test_a_ceiling_cuts_fits_off():
    _, image = image_of((200, 200))
    steps = [
        {"kind": "background", "name": "coarse", "box_size": 100},
        {**recipe().steps[0].model_dump(mode="json", exclude_none=True), "ceiling": {"above": "coarse", "sigma": 0.5}},
    ]
    sky = tiledsky.estimate_background(image, Recipe.from_dict({"name": "ceiling", "steps": steps}))
    free = tiledsky.estimate_background(image, recipe())
    assert sky.background.max() < free.background.max() - 0.01


@pytest.mark.parametrize("columns", [198, 200, 202])
@pytest.mark.parametrize("side", [0, 1])
def test_two_bad_columns_at_an_edge(columns, side):
    """As at the edges of real detectors, and wherever the last boxes are cut."""
    sky, image = image_of((150, columns))
    image[:, -2:] -= np.array([1.4, 2.7], np.float32)  # 14 and 27 times the noise
    if side:
        sky, image = sky[:, ::-1], np.ascontiguousarray(image[:, ::-1])
    law = {"box_size": 6, "exclude_percentile": 90, "interpolator": {**LAW, "robust_bandwidth": 20}}
    made = tiledsky.estimate_background(image, recipe(**law))
    good = np.delete(image, [0, 1] if side else [-1, -2], axis=1)
    without = tiledsky.estimate_background(
        np.pad(good, ((0, 0), (2, 0) if side else (0, 2)), constant_values=np.nan), recipe(**law)
    )
    assert np.abs(made.background - without.background).max() < 0.03  # 0.3 of the noise


def test_there_must_be_boxes_of_their_own():
    image = np.ones((40, 40), np.float32)
    mask = np.ones(image.shape, bool)
    mask[::4, ::4] = False
    step = recipe(box_size=4, exclude_percentile=95, min_pixels=2, grow_boxes=2)
    with pytest.raises(tiledsky.errors.InputError, match="all boxes take their values from larger ones"):
        tiledsky.estimate_background(image, step, mask=mask)


def test_a_floor_is_of_bandwidths_that_are_chosen():
    with pytest.raises(ParameterError, match=r'use bandwidth = "auto" with it'):
        recipe(interpolator={**LAW, "bandwidth": 30, "bandwidth_min": 20})
    _, image = image_of((300, 300))
    sky = tiledsky.estimate_background(image, recipe(interpolator={**LAW, "bandwidth_min": 90}))
    assert sky.meshes["sky"].bandwidth.min() >= 89.99


@pytest.mark.parametrize("preset", ["deep-sky", "extended-light"])
def test_presets_have_the_same_bits_in_runs(preset, tmp_path):
    _, image = image_of((310, 290))
    y, x = np.indices(image.shape)
    for k in range(12):
        r2 = (y - 25 * k) ** 2 + (x - 170 * k % 290) ** 2
        image += np.float32(2.0) * np.exp(-r2 / 18).astype(np.float32)
    image[:30, :40] = np.nan
    made = tiledsky.estimate_background(image, preset)
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    run = tiledsky.run(tmp_path / "image.zarr", preset, tmp_path / "run.zarr", tile_size=170)
    for name in ("background", "background_error", "mask"):
        np.testing.assert_array_equal(getattr(made, name), run.plane(name)[...])
    assert 0.005 < np.mean(made.mask != 0) < 0.8
