"""Large objects in boxes: what is there is found, what sky may be is not, and tiles change nothing."""

import numpy as np
import pytest

from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.objects.catalogue import inside, no_objects
from tiledsky.kernels.objects.examine import Shape, examined, refined
from tiledsky.kernels.objects.profiles import EDGES, Ellipse, Maps, rings
from tiledsky.kernels.objects.search import REACH, Boxes, accepted, find

SHAPE, BOX = (150, 190), (6, 6)


def window(values, noise, region=None, masked=None, level=False):
    """Boxes of a region, or of the whole mesh; a mask of sources leaves out those above a value."""
    region = Region.whole(values.shape) if region is None else region
    part, flat = values[region.slices], np.full(region.shape, noise)
    weight = np.ones(region.shape) if masked is None else np.where(part > masked, 0.0, 1.0)
    return Boxes(part, weight, flat, part, (region.y0, region.x0), BOX, 6.0 * noise, level)


def galaxies(places, scale=40.0, peak=2.0, shape=SHAPE):
    """Exponential discs in units of the noise of a pixel, at the centres of boxes."""
    y, x = (np.arange(n) * 6.0 + 2.5 for n in shape)
    return sum(peak * np.exp(-np.hypot(y[:, None] - cy, x[None, :] - cx) / scale) for cy, cx in places)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, 1 / 6, shape)


def radius(cy, cx, shape=SHAPE):
    y, x = (np.arange(n) * 6.0 + 2.5 for n in shape)
    return np.hypot(y[:, None] - cy, x[None, :] - cx)


def found_in_tiles(values, side, masked=None, level=False, **keep):
    rows = []
    for index in (grid := TileGrid(values.shape, (side, side))):
        tile = grid.region(index)
        boxes = window(values, 1 / 6, tile.grown((REACH, REACH), values.shape), masked, level)
        rows.append(find(boxes, no_objects(), tile))
    return accepted(rows[::-1], no_objects(), image=(values.shape[0] * 6, values.shape[1] * 6), **keep)


def test_discs_are_found_where_they_are():
    places = [(300.0, 350.0), (700.0, 800.0)]
    objects = found_in_tiles(galaxies(places) + noise(1), 190)
    assert len(objects) == 2
    for cy, cx in places:
        near = objects[np.hypot(objects["y"] - cy, objects["x"] - cx) < 15]
        assert near.size == 1
        np.testing.assert_allclose(near["half_light_radius"], 1.678 * 40, rtol=0.2)
        np.testing.assert_allclose(near["flux"], 2 * np.pi * 2.0 * 40**2, rtol=0.15)
        assert inside(objects, round(cy), round(cx), (1, 1)).all()


def test_tiles_change_no_bit():
    shape = 100, 640  # far longer than a window
    values = galaxies([(300.0, 350.0), (170.0, 1900.0), (400.0, 3000.0)], shape=shape) + noise(2, shape)
    whole = found_in_tiles(values, 640)
    assert len(whole) == 3
    for side in (64, 100):
        np.testing.assert_array_equal(found_in_tiles(values, side), whole)


def test_neither_noise_nor_a_hole_is_an_object():
    assert len(found_in_tiles(noise(3), 190)) == 0
    assert len(found_in_tiles(noise(4) - galaxies([(300.0, 350.0)]), 190)) == 0


def test_what_is_larger_than_what_is_kept_is_sky():
    values = galaxies([(300.0, 350.0)]) + noise(5)
    assert len(found_in_tiles(values, 190, keep=100.0)) == 1
    assert len(found_in_tiles(values, 190, keep=40.0)) == 0


def test_a_known_shape_helps_where_none_is_seen():
    y, x = np.meshgrid(*(np.arange(n) * 6.0 - 450.0 for n in SHAPE), indexing="ij")
    along, across = x * np.cos(0.5) + y * np.sin(0.5), y * np.cos(0.5) - x * np.sin(0.5)
    flat = 10.0 * np.exp(-np.hypot(across / 0.4, along) / 120.0) + noise(9)
    maps, nothing = window(flat, 1 / 6).minus(np.zeros(SHAPE)), np.zeros(SHAPE)
    centre = maps.centre(75, 75)
    by_circles = refined(maps, nothing, Shape(*centre), EDGES, level=False)
    known = refined(maps, nothing, Shape(*centre, 0.4, 0.5), EDGES, level=False)
    assert (by_circles.is_object, known.is_object) == (False, True)
    np.testing.assert_allclose(np.interp([60.0, 240.0], known.radius, known.light), [6.1, 1.35], rtol=0.1)


def test_without_a_sky_a_corner_has_no_wide_light():
    y, x = (np.arange(n) * 6.0 + 2.5 for n in SHAPE)
    sky = 3.0 * np.exp(-np.hypot(y[:, None], x[None, :]) / 600.0)  # brightest in the corner
    values = sky + 50.0 + halo(60.5, 60.5) * 0.1 + noise(10)
    for one in found_in_tiles(values, 190, 53.0, level=True):
        assert one["extent"] < 200.0


def halo(cy, cx, shape=SHAPE):
    """A saturated star: light that falls by the power -2.7 from a flat core of 400 on."""
    return np.minimum(400.0, 2.0 * (np.maximum(radius(cy, cx, shape), 1.0) / 100.0) ** -2.7)


@pytest.mark.parametrize("level", [True, False])
def test_halos_of_stars_are_found_without_a_sky_too(level):
    slope = np.linspace(0.0, 1.0, SHAPE[1]) if level else 0.0  # of the sky
    values = halo(300.0, 350.0) + halo(500.0, 440.0) + 50.0 * level + slope + noise(6)
    objects = found_in_tiles(values, 190, 53.0 if level else 3.0, level)
    assert len(objects) == 2
    for cy, cx in ((300.0, 350.0), (500.0, 440.0)):
        assert np.hypot(objects["y"] - cy, objects["x"] - cx).min() < 13.0


def test_a_known_object_is_measured_without_the_light_of_the_others():
    values = galaxies([(300.0, 350.0), (330.0, 500.0)], peak=4.0) + noise(7)
    objects, image = no_objects(), (900, 1140)
    for _ in range(4):
        objects = accepted([find(window(values, 1 / 6), objects, Region.whole(SHAPE))], objects, image=image)
    assert len(objects) == 2
    np.testing.assert_allclose(objects["flux"], 2 * np.pi * 4.0 * 40**2, rtol=0.15)


def test_a_core_that_is_masked_but_for_its_rim_is_found():
    r = radius(302.5, 350.5)
    values = 150.0 * np.exp(-r / 10.0) + noise(11)
    objects = found_in_tiles(values, 190, 2.5)  # masked out to 41 px: two rings of light are left
    assert len(objects) == 1
    assert np.hypot(objects["y"] - 302.5, objects["x"] - 350.5).max() < 13.0
    assert 60.0 < objects["extent"][0] < 150.0


def test_an_object_in_the_light_of_another_does_not_take_that():
    wide = galaxies([(450.0, 400.0)], scale=110.0, peak=30.0)
    values = wide + 60.0 * np.exp(-radius(452.5, 700.5) / 8.0) + noise(12)
    objects = no_objects()
    for _ in range(4):
        rows = find(window(values, 1 / 6, masked=40.0), objects, Region.whole(SHAPE))
        objects = accepted([rows], objects, image=(900, 1140))
    beside = objects[np.hypot(objects["y"] - 452.5, objects["x"] - 700.5) < 13.0]
    assert beside.size == 1
    np.testing.assert_allclose(beside["flux"], 2 * np.pi * 60.0 * 8.0**2, rtol=0.3)
    np.testing.assert_allclose(objects["flux"][0], 2 * np.pi * 30.0 * 110.0**2, rtol=0.1)


BLOBS = {
    "a blemish": 3.0 * np.exp(-0.5 * (radius(450.0, 600.0) / 60.0) ** 2),
    "a blemish with rings": 3.0 * np.sinc(radius(450.0, 600.0) / (np.pi * 40.0)),
    "a blemish with a star": 3.0 * np.exp(-0.5 * (radius(450.0, 600.0) / 60.0) ** 2)
    + 80.0 * (radius(452.5, 602.5) < 4.0),
    "a step": 1.5 * (np.arange(SHAPE[1]) > 70) + np.zeros(SHAPE),
    "a flat ring": 0.5 * (np.abs(radius(450.0, 600.0) - 200.0) < 30.0),
    "a bright edge": np.exp(-np.arange(SHAPE[1]) / 8.0) + np.zeros(SHAPE),
}


@pytest.mark.parametrize("what", BLOBS)
@pytest.mark.parametrize("level", [True, False])
def test_what_sky_may_be_is_no_object(what, level):
    assert len(found_in_tiles(BLOBS[what] + noise(8), 190, 20.0, level)) == 0


def test_a_model_has_no_light_where_a_disc_has_ended():
    disc = np.where(radius(452.5, 572.5) < 200.0, 8.0 + galaxies([(452.5, 572.5)], peak=100.0), 0.0)
    maps = window(disc + noise(11), 1 / 6).minus(np.zeros(SHAPE))
    seen = examined(maps, Shape(452.5, 572.5), EDGES, level=False)
    end, faint = seen.radius[-1], seen.light[-1]
    assert 150.0 < end < 210.0
    assert faint > 6.0
    # from the next ring on there is none, but the extent is as if there were
    assert faint * (260.0 / end) ** seen.slope < 0.2
    assert seen.extent > 1.4 * end


def test_a_narrow_ellipse_with_one_box_in_its_middle_has_a_radius_there():
    y, x = np.mgrid[:41, :41] - 20.0
    light = 50.0 * np.exp(-np.hypot(x, y / 0.3) / 4.0)
    maps = Maps(light, light, np.ones_like(light), np.full_like(light, 0.1), 0, 0, 10, 10)
    radius = rings(maps, Ellipse(204.5, 204.5, 0.3, 0.0, 1.0), EDGES, False)[2]
    assert radius[0] == 2.5
    assert (np.diff(radius) > 0).all()
