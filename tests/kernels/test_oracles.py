"""Kernels against their definitions in plain numpy (`oracles`); ring, order and sums have theirs in their own tests."""

import math

import numpy as np
import pytest

from tests.kernels import oracles
from tiledsky.kernels.boxes.boxes import Clip, box_statistics
from tiledsky.kernels.boxes.estimators import ESTIMATORS, RMS_ESTIMATORS
from tiledsky.kernels.detection.detect import detect, disc_footprint, grow_disc, grow_square, grow_tophat
from tiledsky.kernels.filters.smooth import convolve_separable, gaussian_taps
from tiledsky.kernels.mesh.fill import fill
from tiledsky.kernels.mesh.idw import idw_evaluate
from tiledsky.kernels.mesh.mesh import exclude, median_filter, spline_coefficients, spline_evaluate


def noise(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(10, 1, shape).astype(dtype)


def with_holes(mesh, fraction, seed=1):
    mesh = mesh.copy()
    mesh[np.random.default_rng(seed).random(mesh.shape) < fraction] = np.nan
    return mesh


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.97])
def test_smoothing(missing):
    taps = gaussian_taps(1.2)
    image = with_holes(noise((31, 37)), missing)
    mask = np.random.default_rng(2).random(image.shape) < missing / 2
    np.testing.assert_allclose(convolve_separable(image, taps, mask=mask), oracles.smoothed(image, taps, mask), 1e-13)


def test_smoothing_with_taps_of_another_sum_keeps_it():
    taps = np.array([0.5, 1.0, 0.5])
    image = with_holes(noise((9, 8)), 0.2)
    np.testing.assert_allclose(convolve_separable(image, taps), oracles.smoothed(image, taps), 1e-13)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("n_pixels", [1, 2, 5, 12])
def test_detection(n_pixels, connectivity):
    image = with_holes(noise((40, 43)), 0.05)
    found = detect(image, 10.3, n_pixels=n_pixels, connectivity=connectivity)
    assert np.array_equal(found, oracles.detected(image, 10.3, n_pixels, connectivity))
    assert 0 < found.sum() < found.size


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.5, 3.0, math.sqrt(13), 6.0])
def test_growing(radius):
    mask = np.random.default_rng(3).random((40, 41)) < 0.02
    disc = oracles.disc(radius)
    assert np.array_equal(disc_footprint(radius), disc)
    count = oracles.count_under(mask, disc)
    assert np.array_equal(grow_disc(mask, radius), count > 0)
    assert np.array_equal(grow_tophat(mask, radius), count >= disc.sum() / (np.pi * radius**2))
    size = 2 * int(radius) + 1
    assert np.array_equal(grow_square(mask, size), oracles.count_under(mask, np.ones((size, size), bool)) > 0)


@pytest.mark.parametrize("box", [(5, 6), (24, 25)], ids=str)  # sorted, counted
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_box_statistics(estimator, box):
    image = noise((52, 60))
    image[::7, ::5] += 30  # to be clipped
    image = with_holes(image, 0.1)
    for rms_estimator in RMS_ESTIMATORS:
        found = box_statistics(image, box, clip=Clip(), estimator=estimator, rms_estimator=rms_estimator)
        for i, j, values in oracles.box_values(image, box):
            assert found.n_good[i, j] == values.size
            assert found.background[i, j] == pytest.approx(oracles.LOCATIONS[estimator](values), rel=1e-12)
            assert found.rms[i, j] == pytest.approx(oracles.SCALES[rms_estimator](values), rel=1e-11, abs=1e-12)


def test_excluded_boxes():
    n_good = np.arange(26).reshape(2, 13)
    background, rms = exclude(noise((2, 13)), noise((2, 13)), n_good, box_npixels=25, exclude_percentile=60)
    assert np.array_equal(np.isnan(background), n_good <= 10)
    assert np.array_equal(np.isnan(rms), n_good <= 10)


def test_filling_from_few_boxes():
    mesh = np.full((9, 11), np.nan)
    mesh[[0, 2, 3, 7, 8], [10, 4, 0, 6, 1]] = [1.0, 2.0, 4.0, 8.0, 16.0]
    np.testing.assert_allclose(fill(mesh), oracles.filled(mesh), 1e-14)


def test_filling_takes_the_ten_nearest():
    mesh = with_holes(noise((1, 60)), 0.0)
    mesh[0, 0] = np.nan  # at the end of a row no two boxes are equally far
    np.testing.assert_allclose(fill(mesh), oracles.filled(mesh), 1e-14)
    assert abs(fill(mesh) - oracles.filled(mesh, neighbours=9)).max() > 1e-3


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (1, 7)], ids=str)
def test_filtering_a_mesh(size):
    mesh = with_holes(noise((17, 14)), 0.1)
    assert np.array_equal(median_filter(mesh, size=size), oracles.filtered(mesh, size))


@pytest.mark.parametrize(("shape", "box"), [((20, 23), (5, 4)), ((19, 18), (1, 7)), ((18, 18), (10, 10))], ids=str)
def test_spline(shape, box):
    mesh = noise(shape)
    pixels = (0, shape[0] * box[0], 0, shape[1] * box[1])
    found = spline_evaluate(spline_coefficients(mesh), box, pixels, dtype=np.float64)
    np.testing.assert_allclose(found, oracles.spline_surface(mesh, box), 1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (2, 2), (2, 3), (3, 3), (4, 2), (5, 6), (9, 8)], ids=str)
def test_spline_of_a_few_boxes(shape):
    mesh = noise(shape) + 1e6
    region = (0, shape[0] * 4, 0, shape[1] * 5)
    found = spline_evaluate(spline_coefficients(mesh), (4, 5), region, dtype=np.float64)
    np.testing.assert_allclose(found, oracles.spline_surface(mesh, (4, 5)), rtol=1e-14)


@pytest.mark.parametrize(
    ("n", "power", "regularization"), [(4, 1.0, 0.0), (10, 0.0, 1.0), (20, 1.0, 30.0), (99, 2.0, 3.0)]
)
def test_idw(n, power, regularization):
    mesh = with_holes(noise((8, 9)), 0.3)
    law = {"n_neighbors": n, "power": power, "regularization": regularization}
    found = idw_evaluate(mesh, (5, 6), (0, 40, 0, 54), dtype=np.float64, **law)
    np.testing.assert_allclose(found, oracles.idw_surface(mesh, (5, 6), **law), 1e-12)
