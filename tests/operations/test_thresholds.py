"""Thresholds of tiers: which statistics they take, and that chunks do not matter."""

import numpy as np
import pytest
from astropy.stats import biweight_location, biweight_scale

from tests.test_statistics import SHAPE, holes
from tiledsky.errors import InputError
from tiledsky.operations.thresholds import fill_value, noise_image, noise_images, threshold, tier_thresholds
from tiledsky.recipe import MaskStep, RingStep, SigmaClip, Tier
from tiledsky.statistics import Statistics
from tiledsky.testing import assert_tile_invariant

STATISTICS = Statistics(9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, mad=8.0, biweight_location=9.0, biweight_scale=10.0)


@pytest.mark.parametrize(
    ("center", "noise", "expected"),
    [
        ("zero", "std", 20.0),
        ("zero", "clipped_std", 70.0),
        ("zero", "mad_std", 40.0),
        ("mean", "std", 21.0),
        ("mean", "clipped_std", 75.0),
        ("mean", "mad_std", 41.0),
        ("median", "std", 23.0),
        ("median", "clipped_std", 76.0),
        ("median", "mad_std", 43.0),
        ("biweight", "biweight", 109.0),
        ("biweight", "clipped_std", 79.0),
        ("zero", "biweight", 100.0),
        ("zero", "local", 0.0),
        ("mean", "local", 5.0),
        ("median", "local", 6.0),
    ],
)
def test_the_center_goes_with_the_noise(center, noise, expected):
    assert threshold(Tier(n_sigma=10, center=center, noise=noise), STATISTICS) == expected


def test_no_pixel_no_threshold():
    with pytest.raises(InputError, match="no pixel is left to measure the noise on"):
        threshold(Tier(n_sigma=1), Statistics(0, np.nan, np.nan))
    with pytest.raises(InputError, match="no pixel is left"):
        fill_value(Statistics(0, np.nan, np.nan))


def test_only_plain_moments_need_one_pass():
    one_pass = Tier(n_sigma=1, noise="std", center="mean")
    assert not noise_image(one_pass).refine
    for tier in (Tier(n_sigma=1), Tier(n_sigma=1, noise="std", center="median"), Tier(n_sigma=1, noise="mad_std")):
        assert noise_image(tier).refine
    assert noise_image(Tier(n_sigma=1, fwhm=2)).halo == (0, 0)
    assert noise_image(Tier(n_sigma=1, fwhm=9, kernel_radius=4, noise_of="smoothed")).halo == (4, 4)


def test_thresholds_of_tiers_do_not_depend_on_chunks():
    tiers = [
        Tier(n_sigma=1.5),
        Tier(n_sigma=2, sigma=1.5, noise_of="smoothed", noise="mad_std", center="median"),
        Tier(n_sigma=1, sigma=2, noise_of="smoothed", noise="std", center="zero"),
    ]

    def thresholds(image, mask):
        return tier_thresholds(image, tiers, mask=mask, clip=SigmaClip())

    image = holes()
    assert_tile_invariant(thresholds, image, mask=~np.isfinite(image))
    found = thresholds(image, ~np.isfinite(image))
    assert len(found.values) == 3
    assert found.fill is None


def test_thresholds_and_fill_from_the_biweights():
    image, mask = holes(), np.random.default_rng(10).random(SHAPE) < 0.3

    def thresholds(image, mask):
        tiers = [Tier(n_sigma=3, center="biweight", noise="biweight")]
        return tier_thresholds(image, tiers, mask=mask, clip=SigmaClip(), masked="fill")

    assert_tile_invariant(thresholds, image, mask=mask)
    found = thresholds(image, mask)
    data = image[~mask & np.isfinite(image)].astype(float)
    assert found.values[0] == pytest.approx(biweight_location(data) + 3 * biweight_scale(data), rel=1e-12)
    assert found.fill == np.float32(biweight_location(data))


def test_each_image_is_measured_once():
    tiers = (Tier(n_sigma=1, fwhm=2), Tier(n_sigma=2, fwhm=3), Tier(n_sigma=3, fwhm=3, noise_of="smoothed"))
    step = MaskStep(name="a", tiers=tiers)
    assert len(noise_images(step)) == 2
    assert not any(i.biweight for i in noise_images(step))
    (filled,) = noise_images(MaskStep(name="a", tiers=tiers[:2], masked="fill"))
    assert filled.biweight
    assert noise_images(RingStep(radius_in=5, width=2)) == []
    (ring,) = noise_images(RingStep(radius_in=5, width=2, masked="fill"))
    assert ring.refine
    assert ring.biweight
