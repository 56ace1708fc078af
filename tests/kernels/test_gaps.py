"""What the sky does across boxes: against sums in numpy, skies whose structure is known, and errors in gaps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.kernels.whole_fits import fit_of
from tiledsky.geometry import Region
from tiledsky.kernels.fit.averages import BLOCK, between, windowed
from tiledsky.kernels.fit.gaps import _across, across_blocks, gap_variance
from tiledsky.kernels.fit.local_polynomial import fit_model
from tiledsky.kernels.fit.windows import Window

SHAPE = (120, 128)
BLOCKS = (30, 32)


def variance(values, weight, *, noise=0.0):
    whole, flat = Region.whole(SHAPE), Window(np.full(BLOCKS, 1.0), Region.whole(BLOCKS))
    sums = across_blocks(whole, values, weight, whole, flat)
    summed = windowed(Window(sums, Region.whole(BLOCKS)), Region.whole(BLOCKS))
    return gap_variance(whole, weight, whole, flat, summed, Window(np.full(BLOCKS, noise), Region.whole(BLOCKS)))


def holes(shape=SHAPE, *, size=3, seed=1):
    """Weights 1, with discs of a radius left out."""
    centers = np.zeros(shape, bool)
    y, x = (np.random.default_rng(seed).integers(0, n, 40) for n in shape)
    centers[y, x] = True
    return (ndimage.distance_transform_edt(~centers) > size).astype(np.float64)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_sums_are_those_of_numpy(d):
    rng = np.random.default_rng(2)
    values, weight = rng.normal(size=(24, 40)), rng.uniform(0.5, 1.0, (24, 40)) * (rng.random((24, 40)) > 0.1)
    found = np.zeros((6, 10, 3))
    _across(values, weight, (0, 24, 0, 40), d, found)
    expected = np.zeros((3, 24, 40))
    for v, w, out in ((values, weight, expected), (values.T, weight.T, expected.transpose(0, 2, 1))):
        for y in range(2 * d, v.shape[0] - 2 * d):
            at = [y - 2 * d, y - d, y, y + d, y + 2 * d]
            there = (w[at] > 0).all(axis=0)
            cubic = np.array([[-1, 4, 0, 4, -1]]) / 6.0
            inverse = 1 / np.where(w[at] > 0, w[at], np.nan)
            noise = inverse[2] + (cubic[0, :, None] ** 2 * inverse)[[0, 1, 3, 4]].sum(axis=0)
            difference = v[y] - (cubic @ v[at])[0]
            for part, of in zip(out, (difference**2, noise, np.ones(v.shape[1])), strict=True):
                part[y, there] += of[there]
    blocks = np.moveaxis(expected.reshape(3, 6, BLOCK, 10, BLOCK).sum(axis=(2, 4)), 0, 2)
    np.testing.assert_allclose(found, blocks, rtol=1e-12, atol=1e-12)


def test_cubics_and_noise_do_not_stray():
    y, x = (np.indices(SHAPE) - 60.0) / 40.0
    weight = holes()
    cubic = 1.0 + 2.0 * y - x**2 + 0.5 * x**2 * y + y**3
    assert variance(cubic, weight).max() < 1e-20
    white = np.random.default_rng(3).normal(size=SHAPE)
    found = variance(white, weight, noise=1.0)
    assert found.max() < 0.05  # of a box; in the widest gaps the scatter of so few differences shows
    assert np.mean(found) < 0.005


def test_waves_stray_as_far_as_a_cubic_misses_them():
    length, weight = 22.0, holes(size=2)
    x = np.indices(SHAPE)[1]
    waves = np.sin(2 * np.pi * x / length + 0.3) * np.sqrt(2.0)
    k = 2 * np.pi / length
    misses = [(1 - 4 / 3 * np.cos(k * d) + np.cos(2 * k * d) / 3) ** 2 for d in range(6)]
    found = variance(waves, weight)
    away = ndimage.distance_transform_edt(weight == 0)
    assert (found[weight > 0] == 0).all()
    inner = np.zeros(SHAPE, bool)
    inner[30:90, 30:98] = True
    for distance, d in ((1.0, 1.5), (2.0, 3.0)):
        low, high = misses[int(d)], misses[int(np.ceil(d))]
        expected = 0.5 * (low + (high - low) * (d % 1.0 or 1.0))  # half: along y there is nothing
        chosen = inner & (away == distance)
        assert np.mean(found[chosen]) == pytest.approx(expected, rel=0.2)


def test_errors_in_gaps_are_right():
    """A sky with structure on the scale of the gaps: pulls there, which noise alone leaves at several."""
    pulls, filled = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2.5, mode="wrap")
        truth /= truth.std()
        weight = holes(size=2.5, seed=seed + 10)
        values = np.where(weight > 0, truth + 0.1 * rng.normal(size=SHAPE), np.nan)
        model = fit_model(SHAPE, (6, 6), order=4, bandwidth=None)
        found = fit_of(values, weight, box_size=(6, 6), model=model)
        pulls.append(((found.background - truth) / found.error)[weight == 0])
        filled.append(((found.background - truth) / found.error)[weight > 0])
    # one sky scatters by 0.13 in its gaps, so four of them by 0.07 about 1
    assert 0.87 < np.sqrt(np.mean(np.square(np.concatenate(pulls)))) < 1.13
    assert 0.85 < np.sqrt(np.mean(np.square(np.concatenate(filled)))) < 1.0


def test_maps_of_blocks():
    """Bilinear between the middles of blocks; windows sum what a Gaussian of them does."""
    low = np.arange(12.0).reshape(3, 4)
    expected = ndimage.map_coordinates(low, (np.indices((12, 16)) + 0.5) / BLOCK - 0.5, order=1, mode="nearest")
    found = [[between(low, y, x) for x in range(16)] for y in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    one = np.zeros((61, 61, 2))
    one[30, 30] = 1.0, 2.0
    found = windowed(Window(one, Region.whole((61, 61))), Region(20, 50, 28, 40))
    kernel = np.exp(-0.5 * (np.arange(-24, 25) / 8.0) ** 2)
    expected = ndimage.correlate(one[:, :, 0], np.outer(kernel, kernel), mode="constant")[20:50, 28:40]
    np.testing.assert_allclose(found, [expected, 2 * expected], rtol=1e-12)
