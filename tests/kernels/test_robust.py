"""Boxes that stand out: what they weigh."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.kernels.whole_fits import fit_of, robust_of
from tiledsky.kernels.fit.local_polynomial import fit_model


def sky_of(shape, *, seed=1):
    """A smooth sky with noise of 0.1, and weights with holes."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    truth = 0.3 * np.sin(y / 25.0) * np.cos(x / 30.0)
    weight = rng.uniform(0.3, 1.0, shape).astype(np.float32)
    weight[rng.random(shape) < 0.1] = 0.0
    noise = rng.normal(scale=0.1, size=shape) / np.sqrt(np.where(weight > 0, weight, 1.0))
    return truth, truth + noise, weight


def weights(values, weight, **options):
    return robust_of(values, weight, box_size=(6, 6), bandwidth=24.0, **options)


def test_light_in_a_few_boxes_hardly_counts_and_the_fit_is_better_for_it():
    truth, values, weight = sky_of((90, 80))
    light = np.zeros(truth.shape)
    places = np.random.default_rng(2).integers(0, 80, (25, 2))
    light[tuple(places.T)] = 3.0
    light = ndimage.gaussian_filter(light, 1.0, mode="constant")
    found = weights(values + light, weight)
    lit = (light > 0.35) & (weight > 0)
    assert lit.sum() > 20
    assert np.mean(found[lit] / weight[lit]) < 0.1
    dark = (light < 1e-3) & (weight > 0)
    assert np.median(found[dark] / weight[dark]) > 0.85
    model = fit_model(truth.shape, (6, 6), order=4, bandwidth=None)
    errors = [
        np.std(fit_of(values + light, weight, fitted=w, box_size=(6, 6), model=model).background - truth)
        for w in (weight, found)
    ]
    assert errors[1] < 0.9 * errors[0]  # the average of fits does the rest: narrow ones alone follow the light
    assert errors[1] < 0.008


def test_noise_alone_stays_without_bias():
    truth, values, weight = sky_of((150, 150), seed=3)
    found = weights(values, weight)
    assert (found <= weight).all()
    assert np.sum(found) > 0.8 * np.sum(weight)
    error = np.average(values - truth, weights=found)
    assert abs(error) < 3 * 0.1 / np.sqrt(weight.sum())
    # what they cost: Tukey's biweight has 95% of the efficiency of the mean
    assert np.sum(found) ** 2 / np.sum(found**2 / np.where(weight > 0, weight, 1.0)) > 0.9 * np.sum(weight)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_values_without_scatter_keep_their_weights(value):
    weight = np.ones((20, 20), np.float32)
    found = weights(np.full((20, 20), value), weight)
    np.testing.assert_array_equal(found, weight)


def test_one_box_alone_keeps_its_weight():
    weight = np.zeros((20, 20), np.float32)
    weight[3, 4] = 0.5
    np.testing.assert_array_equal(weights(np.ones((20, 20)), weight), weight)
