"""Skewness of the noise of pixels against scipy and known laws, and that sources do not look like it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from tiledsky.kernels.filters.smooth import gaussian_taps
from tiledsky.kernels.statistics.skewness import (
    BINS,
    HALO,
    counts,
    dark_places,
    noise_law,
    smoothed_skewness,
)

SHAPE = (500, 480)


def law(image, *, unit=1.0):
    return noise_law(counts(dark_places(image.astype(np.float32), 0, unit=unit)))


def standard(values, mean, std):
    return (values - mean) / std


def photons(mean, seed=1):
    return standard(np.random.default_rng(seed).poisson(mean, SHAPE), mean, np.sqrt(mean))


@pytest.mark.parametrize("mean", [0.5, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("unit", [0.5, 1.0])
def test_photons(mean, unit):
    found = law(photons(mean), unit=unit)
    np.testing.assert_allclose(found.skewness, mean**-0.5, rtol=0.15)
    assert found.skewed


def test_a_gamma_law():
    found = law(standard(np.random.default_rng(2).gamma(2.0, size=SHAPE), 2.0, np.sqrt(2.0)))
    np.testing.assert_allclose(found.skewness, stats.gamma(2.0).stats("s"), rtol=0.15)
    assert found.skewed


@pytest.mark.parametrize("law_of", ["normal", "t", "uniform", "two depths", "correlated", "many photons"])
def test_noise_that_is_not_skewed(law_of):
    rng = np.random.default_rng(3)
    normal = rng.normal(size=SHAPE)
    images = {
        "normal": normal,
        "t": rng.standard_t(5, SHAPE),
        "uniform": rng.uniform(-1.7, 1.7, SHAPE),
        "two depths": normal * np.where(np.arange(SHAPE[1]) < 200, 1.0, 2.0),
        "correlated": ndimage.gaussian_filter(normal, 0.8),
        "many photons": photons(60.0),
    }
    found = law(images[law_of])
    assert found.skewness < 0.2
    assert not found.skewed


@pytest.mark.parametrize(("width", "number"), [(0.0, 5000), (1.5, 3000), (4.0, 500)])
def test_sources_are_no_noise(width, number):
    """Points, stars and galaxies, on a sky that they are part of: their light shows in the whole image."""
    rng = np.random.default_rng(4)
    light = np.zeros(SHAPE)
    np.add.at(light, tuple(rng.integers(0, n, number) for n in SHAPE), 10.0 * rng.random(number) ** -1.0)
    light = ndimage.gaussian_filter(light, width) if width else light
    image = rng.normal(size=SHAPE) + light - np.median(light)
    assert stats.skew(image, axis=None) > 0.5
    assert not law(image).skewed


def test_rays_are_left_out():
    image = photons(60.0)
    image[::7, ::9] += 200.0
    assert not law(image).skewed


def test_moments_are_those_of_scipy():
    image = photons(4.0).astype(np.float32)
    places = dark_places(image, 0, unit=1.0)
    used = image[places >= 0]
    assert counts(places).sum() == used.size
    found = law(image)
    np.testing.assert_allclose(found.skewness, stats.skew(used), rtol=0.03)
    below = used[used < used.mean()] - used.mean()
    np.testing.assert_allclose(found.dark_kurtosis, np.mean(below**4) / np.mean(below**2) ** 2, rtol=0.03)


def test_tiles_have_the_pixels_of_the_image():
    image = photons(1.0).astype(np.float32)
    image[100:120, 40:90] = np.nan
    whole = dark_places(image, 0, unit=1.0)
    for y0, y1, x0, x1 in ((0, 90, 0, 480), (77, 240, 100, 333), (301, 500, 7, 200)):
        window = dark_places(image[y0:y1, x0:x1], y0, unit=1.0)
        inner = np.s_[HALO : y1 - y0 - HALO, HALO : x1 - x0 - HALO]
        np.testing.assert_array_equal(window[inner], whole[y0:y1, x0:x1][inner])
    assert (whole[95:125, 38:92] == -1).sum() > (whole[125:155, 38:92] == -1).sum()
    parts = counts(whole[:200]) + counts(whole[200:])
    np.testing.assert_array_equal(parts, counts(whole))
    np.testing.assert_array_equal(counts(whole, mask=np.isnan(image)), counts(whole))


def test_neighbours_are_dark():
    image = photons(4.0).astype(np.float32)
    around = ndimage.uniform_filter(image.astype(float), 5, mode="constant") * 25 - image
    places = dark_places(image, 0, unit=1.0)
    rows, inside = np.arange(SHAPE[0]) % 4 == 0, np.zeros(SHAPE, bool)
    inside[HALO:-HALO, HALO:-HALO] = True
    sure = np.abs(around) > 1e-6
    np.testing.assert_array_equal((places >= 0)[sure], (inside & rows[:, np.newaxis] & (around < 0))[sure])


def test_nothing_to_look_at():
    for image, unit in ((np.zeros(SHAPE), 0.0), (np.full(SHAPE, np.nan), 1.0), (np.zeros((3, 40)), 1.0)):
        found = law(image, unit=unit)
        assert found.n == 0
        assert not found.skewed
    one = np.zeros(BINS, np.int64)
    one[BINS // 2] = 5000
    assert not noise_law(one).skewed


@pytest.mark.parametrize(("sigma", "radius"), [(0.42, 1), (1.5, 6)])
def test_smoothing_makes_noise_normal(sigma, radius):
    taps = gaussian_taps(sigma, radius=radius)
    noise = np.random.default_rng(5).gamma(2.0, size=(1500, 1500))
    kernel = np.outer(taps, taps)
    smoothed = ndimage.convolve(noise, kernel)
    expected = stats.skew(smoothed, axis=None)
    np.testing.assert_allclose(smoothed_skewness(np.sqrt(2.0), taps), expected, rtol=0.1)
    assert smoothed_skewness(1.0, None) == 1.0
