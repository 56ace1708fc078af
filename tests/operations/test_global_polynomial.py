"""Plain skies: one polynomial for a whole image, in recipes and presets, over light that fills the frame."""

import dask.array as da
import numpy as np
import pytest
import zarr
from scipy import ndimage

import tiledsky
from tiledsky import Recipe
from tiledsky.geometry import mesh_shape
from tiledsky.operations.boxes import array_box_statistics
from tiledsky.operations.mesh import finished

ORDERS = {"constant": 0, "plane": 1, "polynomial": 2}


def recipe(order, **parameters):
    step = {"kind": "background", "name": "sky", "box_size": 16, "estimator": "mean"}
    step |= {"interpolator": {"kind": "global-polynomial", "order": order}, **parameters}
    return Recipe.from_dict({"name": "plain", "steps": [step]})


def sky_of(shape, order):
    y, x = np.indices(shape) / 300.0
    return (
        20.0 + (order > 0) * (0.3 * y - 0.4 * x) + (order > 1) * (0.2 * y * y - 0.3 * x * y) + (order > 2) * 0.2 * x**3
    )


@pytest.mark.parametrize("order", [0, 1, 3])
def test_numpy_dask_and_runs_have_the_same_bits(order, tmp_path):
    sky = sky_of((303, 287), order)
    image = (sky + np.random.default_rng(1).normal(scale=0.1, size=sky.shape)).astype(np.float32)
    image[40:90, 100:170] = np.nan
    image[:, 280:] = np.nan
    made = tiledsky.estimate_background(image, recipe(order))
    lazy = tiledsky.estimate_background(da.from_array(image, chunks=(97, 101)), recipe(order))
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    run = tiledsky.run(tmp_path / "image.zarr", recipe(order), tmp_path / "run.zarr", tile_size=144)
    for name in ("background", "background_rms", "background_error"):
        assert np.isfinite(getattr(made, name)).all()
        np.testing.assert_array_equal(getattr(made, name), getattr(lazy, name).compute())
        np.testing.assert_array_equal(getattr(made, name), run.plane(name)[...])
    mesh = run.mesh("sky")
    for name in ("background", "error", "degree"):
        np.testing.assert_array_equal(mesh[name], getattr(made.meshes["sky"], name))
    assert (mesh["degree"][...] == order).all()
    assert np.sqrt(np.mean(((made.background - sky) / made.background_error) ** 2)) < 2.0
    if order == 0:
        assert np.unique(made.background).size == np.unique(made.background_error).size == 1


def test_any_tiles_of_the_mesh_have_the_same_bits():
    image = sky_of((560, 1100), 2) + np.random.default_rng(2).normal(size=(560, 1100))
    step = recipe(2, box_size=3).steps[0]
    boxes = array_box_statistics(image.astype(np.float32), np.zeros(image.shape, bool), step)
    assert np.prod(mesh_shape(image.shape, step.box_size)) > 1 << 16  # so many that some are joined
    made = {side: finished(boxes, step, image=image.shape, side=side).mesh for side in (32, 96, 512)}
    for side in (32, 96):
        for name in ("background", "error", "rms"):
            np.testing.assert_array_equal(getattr(made[side], name), getattr(made[512], name))


@pytest.mark.parametrize("correlated", [False, True])
def test_the_error_knows_noise_that_pixels_share(correlated):
    pulls = []
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(size=(250, 250))
        if correlated:
            noise = ndimage.gaussian_filter(noise, 0.8, mode="wrap")
            noise /= noise.std()
        sky = sky_of(noise.shape, 1)
        made = tiledsky.estimate_background((sky + noise).astype(np.float32), recipe(1))
        pulls.append(np.mean(((made.background - sky) / made.background_error) ** 2))
    assert 0.7 < np.sqrt(np.mean(pulls)) < 1.3


@pytest.mark.parametrize("preset", ORDERS)
def test_a_galaxy_that_fills_the_frame_stays(preset):
    shape = (500, 520)
    sky = sky_of(shape, min(ORDERS[preset], 1))
    y, x = np.indices(shape)
    galaxy = 20.0 * np.exp(-np.hypot((y - 240) / 0.8, x - 270) / 38.0)
    parabola = ORDERS[preset] > 1  # it goes up the outskirts, which the error does not know
    pulls = []
    for seed in range(4, 10):
        image = (sky + galaxy + np.random.default_rng(seed).normal(scale=0.1, size=shape)).astype(np.float32)
        made = tiledsky.estimate_background(image, preset)
        off = made.background - sky
        assert np.sqrt(np.mean(off**2)) < (0.05 if parabola else 0.02)
        kept = 1.0 - off.sum() / galaxy.sum()
        assert (0.93 if parabola else 0.97) < kept < 1.01
        pulls.append(np.mean((off / made.background_error) ** 2))
    # one image has one level that is off: the errors of several tell
    assert np.sqrt(np.mean(pulls)) < (6.0 if parabola else 1.3)
    deep = tiledsky.estimate_background(image, Recipe.load("deep-sky").keeping(0)).background - sky
    assert deep.sum() / galaxy.sum() > 0.3  # a sky that follows what is large takes it


def test_a_box_alone_and_boxes_of_one_value():
    one = tiledsky.estimate_background(np.full((16, 16), 3.0, np.float32), recipe(2))
    assert (one.background == 3.0).all()
    flat = tiledsky.estimate_background(np.full((70, 90), 3.0, np.float32), recipe(2))
    assert (flat.background == 3.0).all()
    assert (flat.background_error == 0.0).all()
