"""Light of models and what they cover, against numpy; the same bits in any region."""

import numpy as np
import pytest

from tiledsky.kernels.objects.catalogue import OBJECT, REACH, faint_light, inside, light, no_objects, ordered

SHAPE = 211, 167


def catalogue(n=7, seed=1):
    """Objects of random places, some off the image, with convex profiles."""
    rng = np.random.default_rng(seed)
    objects = np.zeros(n, OBJECT)
    for one in objects:
        one["y"], one["x"] = rng.uniform(-40, 250, 2)
        one["axis_ratio"], one["angle"] = rng.uniform(0.4, 1.0), rng.uniform(-np.pi / 2, np.pi / 2)
        one["extent"], one["slope"], one["flux"] = rng.uniform(20, 90), rng.uniform(-6, -1.5), rng.uniform(1, 9)
        k = one["n_knots"] = rng.integers(1, 20)
        one["radius"][:k] = np.geomspace(2, one["extent"], k) * rng.uniform(0.95, 1.05, k)
        slopes = rng.uniform(0.5, 5.0, k)
        one["light"][:k] = rng.uniform(1, 30) * np.exp(
            -np.cumsum(slopes * np.diff(np.log(one["radius"][:k]), prepend=0))
        )
    return ordered(objects)


def radii(one, y, x):
    dy, dx = y[:, None] - one["y"], x[None, :] - one["x"]
    c, s = np.cos(one["angle"]), np.sin(one["angle"])
    return np.hypot(c * dx + s * dy, (c * dy - s * dx) / one["axis_ratio"])


def plain_light(one, r):
    k = one["n_knots"]
    knots, values = one["radius"][:k], one["light"][:k]
    made = np.exp(np.interp(np.log(np.maximum(r, 1e-9)), np.log(knots), np.log(values)))
    made = np.where(r > knots[-1], values[-1] * (np.maximum(r, 1e-9) / knots[-1]) ** one["slope"], made)
    return np.where(r > REACH * one["extent"], 0.0, made)


@pytest.mark.parametrize("box", [(1, 1), (6, 4)])
def test_against_numpy(box):
    objects = catalogue()
    ny, nx = (-(-n // b) for n, b in zip(SHAPE, box, strict=True))
    y, x = (np.arange(n) * b + (b - 1) / 2 for n, b in zip((ny, nx), box, strict=True))
    expected, covered = np.zeros((ny, nx)), np.zeros((ny, nx), bool)
    for one in objects:
        r = radii(one, y, x)
        expected += plain_light(one, r)
        covered |= r <= one["extent"]
    assert 0.2 < covered.mean() < 0.95
    made = light(objects, 0, 0, (ny, nx), box)
    np.testing.assert_allclose(made, expected, rtol=3e-3)  # where profiles bend
    some = expected > 0.0
    assert np.median(np.abs(made[some] / expected[some] - 1.0)) < 2e-5
    np.testing.assert_array_equal(made == 0.0, expected == 0.0)
    np.testing.assert_array_equal(inside(objects, 0, 0, (ny, nx), box), covered)


def test_tabulated_radii_are_exact():
    """Of a circle about a pixel: its squares of radii up to 512 are whole numbers, which the tables hold."""
    one = catalogue(1, seed=3)
    one["y"], one["x"], one["axis_ratio"], one["angle"] = 20.0, 25.0, 1.0, 0.0
    one["n_knots"], one["extent"] = 3, 40.0
    one["radius"][0, :3], one["light"][0, :3] = (2.5, 6.1, 13.7), (9.0, 4.0, 0.3)
    y, x = np.arange(50.0), np.arange(45.0)
    square = (y[:, None] - 20.0) ** 2 + (x[None, :] - 25.0) ** 2
    expected = plain_light(one[0], np.sqrt(square))
    near = square < 512
    assert near.sum() > 1500
    np.testing.assert_allclose(light(one, 0, 0, square.shape)[near], expected[near], rtol=1e-11)


@pytest.mark.parametrize("box", [(1, 1), (6, 4)])
def test_faint_light_against_numpy(box):
    """Within the extent it is what the model has there, whether knots end before it or not."""
    objects = catalogue()
    objects[2]["extent"] = 0.5 * (objects[2]["radius"][0] + objects[2]["radius"][1])
    ny, nx = (-(-n // b) for n, b in zip(SHAPE, box, strict=True))
    y, x = (np.arange(n) * b + (b - 1) / 2 for n, b in zip((ny, nx), box, strict=True))
    expected = np.zeros((ny, nx))
    for one in objects:
        r, extent = radii(one, y, x), float(one["extent"])
        at_extent = plain_light(one, np.array(extent))
        beyond = np.where(r > REACH * extent, 0.0, at_extent * (np.maximum(r, 1e-9) / extent) ** one["slope"])
        expected = np.maximum(expected, np.where(r <= extent, at_extent, beyond))
    np.testing.assert_allclose(faint_light(objects, 0, 0, (ny, nx), box), expected, rtol=3e-3)  # as `light`
    assert not faint_light(no_objects(), 0, 0, (ny, nx), box).any()


def test_same_bits_in_any_region():
    objects = catalogue(12, seed=2)
    faint = faint_light(objects, 0, 0, SHAPE)
    whole, covered = light(objects, 0, 0, SHAPE), inside(objects, 0, 0, SHAPE)
    for y0, x0, shape in ((0, 0, (50, 60)), (37, 101, (40, 66)), (200, 5, (11, 7)), (113, 83, (1, 1))):
        part = slice(y0, y0 + shape[0]), slice(x0, x0 + shape[1])
        np.testing.assert_array_equal(light(objects, y0, x0, shape), whole[part])
        np.testing.assert_array_equal(faint_light(objects, y0, x0, shape), faint[part])
        np.testing.assert_array_equal(inside(objects, y0, x0, shape), covered[part])


def test_no_object_has_no_light():
    assert not light(no_objects(), 3, 4, (5, 6)).any()
    assert not inside(no_objects(), 3, 4, (5, 6)).any()


def test_order_does_not_depend_on_the_order_given():
    objects = catalogue(9, seed=3)
    objects["flux"][2:5] = 4.0
    mixed = objects[np.random.default_rng(0).permutation(9)]
    np.testing.assert_array_equal(ordered(mixed), ordered(objects))
    assert (np.diff(ordered(mixed)["flux"]) <= 0).all()
