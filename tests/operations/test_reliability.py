"""Reliability of detections against photutils on the image and its negative, and against known sources."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from photutils.segmentation import detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

from tiledsky import tier_mask
from tiledsky.errors import ParameterError
from tiledsky.operations.reliability import (
    RUNGS,
    counts,
    from_bytes,
    merged,
    n_sigmas,
    ranks,
    reliable_n_sigma,
    to_bytes,
)
from tiledsky.operations.thresholds import center_and_noise, ranks_halo, tier_thresholds
from tiledsky.recipe import Recipe, SigmaClip, Tier
from tiledsky.statistics import global_statistics
from tiledsky.testing import assert_tile_invariant

SHAPE = (260, 300)
TIER = Tier(
    n_sigma=1.2, fwhm=3.0, n_pixels=6, grow=2, center="median", noise="mad_std", noise_of="smoothed", reliability=0.9
)


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sources(amplitude, seed=1, number=40):
    """Gaussian sources of sigma 2, and where they are above 1/20 of their peak."""
    image = np.zeros(SHAPE)
    y, x = (np.random.default_rng(seed).uniform(10, n - 10, number).astype(int) for n in SHAPE)
    image[y, x] = 1.0
    image = ndimage.gaussian_filter(image, 2.0)
    image *= amplitude / image.max()
    return image.astype(np.float32), image > 0.05 * amplitude


@pytest.mark.parametrize("center", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_counts_are_photutils_on_both_signs(center, masked):
    image = ndimage.gaussian_filter(noise() + sources(8.0)[0], 1.0).astype(np.float32)
    mask = np.random.default_rng(3).random(SHAPE) < 0.1 if masked else None
    found = ranks(image, TIER, center=center, noise=0.3, mask=mask)
    counted = counts(found)
    for k, n_sigma in enumerate(n_sigmas(TIER)):
        for sign, number in ((1, counted[0, k]), (-1, counted[1, k])):
            limit = sign * center + n_sigma * 0.3
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoDetectionsWarning)
                segments = detect_sources(sign * image, limit, n_pixels=TIER.n_pixels, mask=mask)
            expected = np.zeros(SHAPE, bool) if segments is None else segments.data > 0
            assert np.array_equal(expected, sign * found > k)
            assert number == np.count_nonzero(expected)
    assert (counted[:, 0] > 0).all()


def test_counts_of_tiles_add_up():
    image = noise(4)
    found = ranks(image, TIER, center=0.0, noise=1.0)
    mask = image > 0.5
    parts = [from_bytes(to_bytes(counts(found[rows], mask=mask[rows]))) for rows in (slice(0, 100), slice(100, None))]
    np.testing.assert_array_equal(merged(parts), counts(found, mask=mask))
    np.testing.assert_array_equal(counts(found, mask=mask), counts(np.where(mask, 0, found).astype(np.int8)))
    assert merged([]).shape == (2, RUNGS)
    assert not merged([]).any()


def test_the_lowest_threshold_that_is_reliable():
    found = np.array([[1000, 500, 200, 100, 50, 20, 10, 5, 0], [900, 60, 20, 10, 5, 1, 0, 0, 0]])
    assert reliable_n_sigma(TIER, found) == n_sigmas(TIER)[2]
    assert reliable_n_sigma(TIER.model_copy(update={"reliability": 0.0}), found) == TIER.n_sigma
    assert reliable_n_sigma(TIER.model_copy(update={"reliability": 1.0}), found) == n_sigmas(TIER)[6]
    assert reliable_n_sigma(TIER, found[::-1]) == np.inf
    assert reliable_n_sigma(TIER, np.zeros((2, RUNGS), int)) == np.inf
    assert n_sigmas(TIER)[0] == TIER.n_sigma
    assert 3.0 < n_sigmas(TIER)[-1] / TIER.n_sigma < 3.1


def test_noise_and_what_is_on_both_sides_is_not_found():
    y, x = np.indices(SHAPE)
    waves = (0.8 * np.sin(y / 11.0) * np.cos(x / 17.0)).astype(np.float32)
    unasked = TIER.model_copy(update={"reliability": None})
    for image in (noise(5), noise(6) + waves):
        assert (tier_mask(image, [unasked]) != 0).mean() > 0.1
        assert not tier_mask(image, [TIER.model_copy(update={"grow": 0.0})]).any()


@pytest.mark.parametrize(("sigma", "complete"), [(0.0, 0.3), (0.8, 0.08)])
def test_most_of_what_is_found_is_a_source(sigma, complete):
    """On white and on correlated noise; without a reliability most is noise."""
    image, truth = noise(7), sources(4.0, number=60)
    if sigma:
        image = ndimage.gaussian_filter(image, sigma)
        image /= image.std()
    tier = TIER.model_copy(update={"grow": 0.0, "n_pixels": 3})
    found = tier_mask(image + truth[0], [tier]) != 0
    assert truth[1][found].mean() > 0.85
    assert found[truth[1]].mean() > complete
    plain = tier_mask(image + truth[0], [tier.model_copy(update={"reliability": None})]) != 0
    assert truth[1][plain].mean() < 0.6


def test_thresholds_and_masks_do_not_depend_on_chunks():
    image, mask = noise(8) + sources(5.0)[0], np.random.default_rng(9).random(SHAPE) < 0.1
    image[40:60, 30:90] = np.nan
    tiers = [TIER, Tier(n_sigma=4), TIER.model_copy(update={"fwhm": 5.0, "reliability": 0.7})]

    def limits(image, mask):
        return tier_thresholds(image, tiers, mask=mask | ~np.isfinite(image), clip=SigmaClip())

    assert_tile_invariant(limits, image, mask=mask)
    assert_tile_invariant(lambda image, mask: tier_mask(image, tiers, mask=mask), image, mask=mask)
    assert ranks_halo(tiers) == (tiers[2].n_pixels - 1 + 8,) * 2
    assert ranks_halo(tiers[1:2]) == (0, 0)


def test_the_threshold_is_center_and_n_sigma_of_the_smoothed_noise():
    image = noise(10) + sources(6.0)[0]
    (limit,) = tier_thresholds(image, [TIER], mask=None, clip=SigmaClip()).values
    from tiledsky import smooth

    smoothed = smooth(image, fwhm=TIER.fwhm, boundary="fill")
    center, sigma = center_and_noise(TIER, global_statistics(smoothed))
    tried = [center + n * sigma for n in n_sigmas(TIER)]
    assert limit in tried
    assert limit > tried[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": "biweight"}, 'neither "local" nor "biweight"'),
        ({"n_sigma": 0.0}, "n_sigma above 0"),
        ({"reliability": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be(change, message):
    tier = {"n_sigma": 2.0, "reliability": 0.9, **change}
    steps = [{"kind": "ring", "radius_in": 4, "width": 2}, {"kind": "mask", "name": "found", "tiers": [tier]}]
    steps.append({"kind": "background", "name": "sky", "box_size": 8})
    with pytest.raises(ParameterError, match=message):
        Recipe.from_dict({"name": "wrong", "steps": steps})


def test_filled_images_have_no_reliability():
    tier = {"n_sigma": 2.0, "reliability": 0.9}
    steps = [{"kind": "ring", "radius_in": 4, "width": 2}]
    steps += [{"kind": "mask", "name": "found", "masked": "fill", "tiers": [tier]}]
    steps += [{"kind": "background", "name": "sky", "box_size": 8}]
    with pytest.raises(ParameterError, match='use masked = "omit" with it'):
        Recipe.from_dict({"name": "wrong", "steps": steps})
