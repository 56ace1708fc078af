"""Objects steps on arrays: large galaxies keep their light, and nothing else changes."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from tests.objects_scene import Scene, galaxy_scene, with_objects, without_objects
from tiledsky import Recipe, Sky, estimate_background
from tiledsky.geometry import Region
from tiledsky.kernels.objects.catalogue import faint_light, from_rows, inside, light, to_rows
from tiledsky.operations.cells_on_arrays import do_on_arrays
from tiledsky.operations.compile import compiled
from tiledsky.overlap import Patch

PLANES = ("background", "background_rms", "background_error", "mask", "subtracted", "object_light")
OBJECT_BIT = 5  # after the four tiers of the mask that the step goes on from


def taken(sky: Sky, scene: Scene) -> float:
    """Share of the galaxy's light that is in the background, where there is some."""
    _, truth, galaxy = scene
    where = galaxy > 0.05
    return float(((sky.background - truth) * galaxy)[where].sum() / np.square(galaxy)[where].sum())


@pytest.mark.parametrize(("n", "half"), [(1.0, 35.0), (2.5, 30.0)])
def test_a_galaxy_keeps_its_light(n, half):
    scene = galaxy_scene(n=n, half=half)
    sky, before = (estimate_background(scene.image, r) for r in (with_objects(), with_objects(0.0)))
    assert taken(before, scene) > 0.08
    assert abs(taken(sky, scene)) < 0.02
    error = np.std(sky.background - scene.sky)
    assert error < 0.1 * np.std(before.background - scene.sky)
    assert error < 0.03
    (one,) = sky.objects
    assert np.hypot(one["y"] - 0.45 * 480, one["x"] - 0.55 * 480) < 6
    np.testing.assert_allclose(one["flux"], scene.light.sum(), rtol=0.25)
    np.testing.assert_allclose(one["half_light_radius"], half, rtol=0.3)


def test_the_error_knows_what_objects_leave():
    """About an object it is at least twice its faintest light; far from all it is that of the fits alone."""
    scene = galaxy_scene()
    sky = estimate_background(scene.image, with_objects())
    mesh = sky.meshes["sky"]
    faint = faint_light(sky.objects, 0, 0, mesh.error.shape, (6, 6))
    assert (mesh.error >= 1.999 * faint).all()
    assert faint[inside(sky.objects, 0, 0, mesh.error.shape, (6, 6))].min() > 0.01
    pull = (sky.background - scene.sky) / sky.background_error
    assert 0.3 < np.sqrt(np.mean(pull**2)) < 1.3
    far = faint == 0
    assert far.any()
    assert np.median(mesh.error[far]) < 0.03


def test_the_model_is_light_beside_the_sky():
    scene = galaxy_scene()
    sky = estimate_background(scene.image, with_objects(objects_plane=True))
    covered = inside(sky.objects, 0, 0, scene.sky.shape)
    np.testing.assert_array_equal(sky.mask & (1 << OBJECT_BIT) != 0, covered)
    assert sky.object_light.dtype == np.float32
    np.testing.assert_array_equal(sky.object_light, light(sky.objects, 0, 0, scene.sky.shape).astype(np.float32))
    np.testing.assert_array_equal(sky.subtracted, scene.image - sky.background)
    assert estimate_background(scene.image, with_objects()).object_light is None


def test_no_object_changes_nothing():
    """Of noise alone the background is that without the step and fits as wide, to the bit."""
    scene = galaxy_scene(300, total=0.0)
    sky, before = (estimate_background(scene.image, r) for r in (with_objects(), without_objects(widest=864.0)))
    assert sky.objects.size == 0
    for plane in ("background", "background_rms", "background_error", "subtracted"):
        np.testing.assert_array_equal(getattr(sky, plane), getattr(before, plane))
    np.testing.assert_array_equal(sky.mask != 0, before.mask != 0)


def test_keep_nothing_is_no_step():
    """Neither are fits wider, nor bits of later masks others."""
    recipe = with_objects(0.0, objects_plane=True).expanded()
    steps = [s for s in Recipe.load("deep-sky").model_dump(exclude_none=True)["steps"] if s["kind"] != "objects"]
    (wings,) = (s for s in steps if s["name"] == "wings")
    wings["mask"] = "deep"
    plain = Recipe.from_dict({"name": "deep-sky", "description": recipe.description, "steps": steps})
    assert recipe == plain.expanded()
    assert compiled(recipe).objects is None


def test_fits_bridge_objects_where_they_are_masked():
    steps = {s.name: s for s in with_objects().expanded().steps}
    assert [steps[n].interpolator.bandwidth_max for n in ("first", "wide", "sky")] == [0.0, 864.0, 864.0]


def test_what_is_larger_than_keep_is_sky():
    scene = galaxy_scene()
    sky = estimate_background(scene.image, with_objects(10.0))
    assert sky.objects.size == 0
    np.testing.assert_array_equal(
        sky.background, estimate_background(scene.image, without_objects(widest=864.0)).background
    )


def test_lazy_arrays_have_the_same_bits():
    image, recipe = galaxy_scene(480).image, with_objects(objects_plane=True)
    sky, lazy = estimate_background(image, recipe), estimate_background(da.from_array(image, chunks=(250, 170)), recipe)
    assert lazy.objects.compute().tobytes() == sky.objects.tobytes()
    assert sky.objects.size == 1
    for plane in PLANES:
        np.testing.assert_array_equal(getattr(lazy, plane).compute(), getattr(sky, plane), err_msg=plane)


def test_any_tiles_of_the_mesh_find_the_same_objects():
    """The rounds alone, on boxes made up, in tiles of several sizes."""
    shape, rng = (80, 330), np.random.default_rng(3)
    y, x = (np.arange(n) * 6.0 + 2.5 for n in shape)
    values = 3.0 + 0.2 * np.sin(x / 500.0)[None, :] + rng.normal(0.0, 1 / 6, shape)
    for cy, cx in ((290.0, 400.0), (200.0, 1700.0)):
        values += 3.0 * np.exp(-np.hypot(y[:, None] - cy, x[None, :] - cx) / 30.0)
    catalogue = compiled(with_objects().expanded()).objects
    found = []
    for side in (96, 256):
        maps, numbers = {}, {}
        for boxes in catalogue.sources:
            folder = boxes.folder(0)
            maps |= {f"{folder}/background": values, f"{folder}/rms": np.ones(shape)}
            maps |= {f"{folder}/n_good": np.full(shape, 36)}
        image = (shape[0] * 6, shape[1] * 6)
        do_on_arrays(catalogue.rounds.all, maps, numbers, image=image, dtype=np.dtype("f8"), side=side)
        found.append(numbers[catalogue.rounds.last])
    assert found[0].size == 2
    assert found[0].tobytes() == found[1].tobytes()


def test_objects_do_not_cover_everything():
    """A galaxy as large as the image leaves boxes for a sky."""
    scene = galaxy_scene(300, half=150.0, total=4e5)
    sky = estimate_background(scene.image, with_objects())
    assert np.isfinite(sky.background).all()
    assert (sky.mask == 0).any()


def test_a_result_right_under_the_objects():
    """The mask of the objects is the plane of the result; a mask that goes on from it works without their light."""
    steps = [s.model_dump(exclude_none=True) for s in with_objects().steps]
    names = [s["name"] for s in steps]
    recipe = Recipe.from_dict({"name": "short", "steps": steps[: names.index("wide") + 1]})
    assert recipe.result_mask.name == "objects"
    scene = galaxy_scene()
    sky = estimate_background(scene.image, recipe)
    covered = inside(sky.objects, 0, 0, scene.sky.shape)
    np.testing.assert_array_equal(sky.mask & (1 << OBJECT_BIT) != 0, covered)
    assert abs(taken(sky, scene)) < 0.02


def test_catalogues_are_kept_to_the_bit():
    (one,) = estimate_background(galaxy_scene().image, with_objects()).objects
    rows = to_rows(np.array([one, one]))
    assert len(rows[0]["radius"]) == one["n_knots"]
    assert from_rows(rows).tobytes() == one.tobytes() * 2


def test_a_patch_is_the_whole_image_there():
    """Light and what objects cover, of the operations that are made where they are read."""
    recipe = with_objects().expanded()
    image = galaxy_scene().image
    objects = estimate_background(image, recipe).objects
    operations = compiled(recipe).planes
    for node, whole in (("objects/science", image), ("objects", np.zeros(image.shape, np.uint8))):
        apply = operations[node].apply()
        made = apply(Patch(whole, Region.whole(image.shape), image.shape), objects=objects).data
        part = Region(130, 290, 200, 333)
        cut = apply(Patch(whole[part.slices], part, image.shape), objects=objects).data
        np.testing.assert_array_equal(cut, made[part.slices])
        assert made.dtype == whole.dtype
