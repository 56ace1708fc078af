"""Large objects in boxes: what is there is found, noise is not, and tiles change nothing."""

import numpy as np

from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.objects.catalogue import inside, no_objects
from tiledsky.kernels.objects.search import REACH, Boxes, accepted, find

SHAPE, BOX = (150, 190), (6, 6)


def window(values, noise, region=None):
    """Boxes of a region, or of the whole mesh."""
    region = Region.whole(values.shape) if region is None else region
    part, flat = values[region.slices], np.full(region.shape, noise)
    weight = np.ones(region.shape)
    return Boxes(part, weight, flat, part, (region.y0, region.x0), BOX, 6.0 * noise)


def galaxies(places, scale=40.0, peak=2.0, shape=SHAPE):
    """Exponential discs in units of the noise of a pixel, at the centres of boxes."""
    y, x = (np.arange(n) * 6.0 + 2.5 for n in shape)
    return sum(peak * np.exp(-np.hypot(y[:, None] - cy, x[None, :] - cx) / scale) for cy, cx in places)


def noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, 1 / 6, shape)


def found_in_tiles(values, side, **keep):
    rows = []
    for index in (grid := TileGrid(values.shape, (side, side))):
        tile = grid.region(index)
        rows.append(find(window(values, 1 / 6, tile.grown((REACH, REACH), values.shape)), no_objects(), tile))
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
