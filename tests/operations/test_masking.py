"""Source masks against photutils and scipy; base mask bits; the same bits in any chunks."""

from functools import partial

import dask.array as da
import numpy as np
import pytest
from astropy.convolution import Gaussian2DKernel, convolve
from astropy.stats import SigmaClip as AstropyClip
from astropy.stats import biweight_location, biweight_scale, mad_std, sigma_clipped_stats
from photutils.segmentation import detect_sources
from photutils.utils import circular_footprint
from scipy import ndimage

from tests import reference_chain
from tiledsky.arrays.estimate import estimate_background
from tiledsky.errors import InputError, ParameterError
from tiledsky.operations.masking import detection_image, source_mask, tier_mask, tier_radius, tiers_halo
from tiledsky.planes import INVALID, USER, base_mask, tier_bit
from tiledsky.recipe import Recipe, SigmaClip, Tier
from tiledsky.testing import assert_tile_invariant

SHAPE = (110, 131)


def _detection():
    """Noise of sigma 1 with sources of many sizes, some on the border."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=SHAPE)
    y, x = np.indices(SHAPE)
    for cy, cx, flux, width in zip(
        rng.uniform(0, 110, 40), rng.uniform(0, 131, 40), rng.uniform(20, 400, 40), rng.uniform(1, 3, 40), strict=True
    ):
        image += flux / (2 * np.pi * width**2) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return image.astype(np.float32)


def _invalid():
    invalid = np.zeros(SHAPE, bool)
    invalid[40:60, 50:58] = True
    invalid[:, 100] = True
    invalid[80, ::7] = True
    return invalid


def _photutils(image, threshold, n_pixels, *, footprint=None, mask=None):
    segments = detect_sources(image, threshold, n_pixels=n_pixels, mask=mask)
    return segments.make_source_mask(footprint=footprint)


@pytest.mark.parametrize("n_pixels", [1, 3, 12])
@pytest.mark.parametrize("grow", [0, 2, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_source_masks_equal_photutils(n_pixels, grow, masked):
    image, mask = _detection(), _invalid() if masked else None
    footprint = circular_footprint(grow) if grow else None
    expected = _photutils(image, 1.5, n_pixels, footprint=footprint, mask=mask)
    result = source_mask(image, threshold=1.5, n_pixels=n_pixels, grow=grow, mask=mask)
    assert result.dtype == bool
    assert np.array_equal(result, expected)
    assert 0 < expected.mean() < 1


def test_smoothed_source_masks_equal_photutils_of_the_image_astropy_smooths():
    image = _detection()
    smoothed = convolve(image.astype(float), Gaussian2DKernel(1.5))
    near = abs(smoothed - 0.8) < 1e-6
    assert not near.any()
    expected = _photutils(smoothed, 0.8, 5, footprint=np.ones((7, 7)))
    assert np.array_equal(
        source_mask(image, threshold=0.8, sigma=1.5, n_pixels=5, grow=7, grow_shape="square"), expected
    )


@pytest.mark.parametrize("radius", [1, 2, 4, 5.5])
def test_tophat_growth_is_the_notebooks_rule(radius):
    found = source_mask(_detection(), threshold=2.5)
    expected = reference_chain.grown_tophat(found, radius)
    assert np.array_equal(source_mask(_detection(), threshold=2.5, grow=radius, grow_shape="tophat"), expected)
    # not a dilation: an isolated pixel vanishes for some radii
    pixels = np.count_nonzero(circular_footprint(int(radius))) if radius != 5.5 else 97
    assert (found & ~expected).any() == (pixels > np.pi * radius**2)


@pytest.mark.parametrize("fwhm", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("masked", [False, True])
def test_a_tier_of_the_notebook(fwhm, masked):
    invalid = _invalid() if masked else np.zeros(SHAPE, bool)
    detection = np.where(invalid, np.nan, _detection().astype(float))
    search = reference_chain.tier_search(detection, invalid, fwhm)
    assert not (abs(search.smoothed - search.threshold) < 1e-6 * search.noise).any()
    result = source_mask(_detection(), n_sigma=1.5, fwhm=fwhm, kernel_radius=1, n_pixels=3, mask=invalid)
    assert np.array_equal(result, search.found)
    assert search.found.any()


def _threshold(image, mask, center, noise, clip):
    data = np.ma.array(image.astype(float), mask=mask).compressed()
    mean, median, std = sigma_clipped_stats(
        data, sigma_lower=clip.sigma_lower, sigma_upper=clip.sigma_upper, maxiters=5
    )
    clipped = noise == "clipped_std"
    centers = {
        "zero": 0.0,
        "mean": mean if clipped else data.mean(),
        "median": median if clipped else np.median(data),
    }
    return centers[center] + 2.0 * {"std": data.std(), "clipped_std": std, "mad_std": mad_std(data)}[noise]


@pytest.mark.parametrize("center", ["zero", "mean", "median"])
@pytest.mark.parametrize("noise", ["std", "clipped_std", "mad_std"])
@pytest.mark.parametrize("noise_of", ["unsmoothed", "smoothed"])
def test_every_threshold_equals_astropys(center, noise, noise_of):
    image, mask = _detection(), _invalid()
    clip = SigmaClip(sigma_lower=2.5, sigma_upper=3.5, maxiters=5)
    data = np.where(mask, np.nan, image.astype(float))
    smoothed = reference_chain.smoothed(data, Gaussian2DKernel(1))
    of = smoothed if noise_of == "smoothed" else image
    limit = _threshold(of, mask, center, noise, clip)
    tier = Tier(n_sigma=2, sigma=1, center=center, noise=noise, noise_of=noise_of)
    result = tier_mask(image, [tier], mask=mask, clip=clip)
    expected = (smoothed > limit) & ~mask
    different = (result != 0) != expected
    assert not different[abs(smoothed - limit) > 1e-6].any()
    assert expected.any()


def test_tiers_have_bits_of_their_own_and_grow_over_the_mask():
    image, mask = _detection(), _invalid()
    tiers = [Tier(n_sigma=n, n_pixels=k, grow=g) for n, k, g in ((5, 1, 3), (3, 4, 0), (2, 9, 1))]
    bits = tier_mask(image, tiers, mask=mask)
    assert bits.dtype == np.uint8
    for index, tier in enumerate(tiers):
        alone = source_mask(image, n_sigma=tier.n_sigma, n_pixels=tier.n_pixels, grow=tier.grow, mask=mask)
        assert np.array_equal((bits & tier_bit(index)) != 0, alone)
    assert set(np.unique(bits)) <= set(range(0, 16, 2))
    assert (bits[mask] != 0).any()
    assert not (tier_mask(image, tiers[1:2], mask=mask)[mask] != 0).any()


def test_bits_are_distinct():
    bits = [INVALID, *map(tier_bit, range(6)), USER]
    assert [int(b) for b in bits] == [1, 2, 4, 8, 16, 32, 64, 128]


def test_base_mask_takes_every_plane_into_account():
    science = np.array([[1, np.nan, np.inf, -np.inf, 0, 1, 1, 1, 1]])
    weight = np.array([[1, 1, 1, 1, 1, 0, -2, np.nan, np.inf]])
    dq = np.array([[0, 0, 0, 0, 4, 0, 0, 0, 0]], np.uint16)
    user = np.array([[3, 1, 0, 0, 0, 0, 0, 0, 0]])
    assert base_mask(science).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert base_mask(science, weight=weight).tolist() == [[0, 1, 1, 1, 0, 1, 1, 1, 0]]
    assert base_mask(science, weight=weight, dq=dq).tolist() == [[0, 1, 1, 1, 1, 1, 1, 1, 0]]
    both = base_mask(science, weight=weight, dq=dq, user_mask=user)
    assert both.dtype == np.uint8
    assert both.tolist() == [[128, 129, 1, 1, 1, 1, 1, 1, 0]]
    assert base_mask(np.array([[1, 2]], np.int16), user_mask=np.array([[False, True]])).tolist() == [[0, 128]]


def test_detection_images_are_float32():
    sky = np.full((2, 2), 0.1)
    result = detection_image(np.ones((2, 2)), sky)
    assert result.dtype == np.float32
    assert np.array_equal(result, np.full((2, 2), np.float32(0.9)))


def test_halo_of_the_preset_is_the_sum_of_its_parts():
    recipe = Recipe.load("complex-sky")
    assert tiers_halo(recipe.step("tiers").tiers) == (7, 7)  # kernel 1, n_pixels - 1 = 2, growth 4
    assert tier_radius(recipe.step("bright").tiers[0]) == Gaussian2DKernel(3).shape[0] // 2
    assert tier_radius(Tier(n_sigma=1, grow=7, grow_shape="square")) == 3


MANY = [
    Tier(n_sigma=1.5, fwhm=1, kernel_radius=1, n_pixels=3, grow=4, grow_shape="tophat"),
    Tier(n_sigma=2, sigma=2, n_pixels=12, grow=5, noise="mad_std", center="median"),
    Tier(n_sigma=1, fwhm=3, noise="std", center="zero", noise_of="smoothed"),
    Tier(n_sigma=3, n_pixels=2, grow=5, grow_shape="square", noise_of="smoothed", fwhm=2),
]


def test_tiers_do_not_depend_on_chunks():
    assert_tile_invariant(partial(tier_mask, tiers=MANY), _detection())
    image = np.where(_invalid(), np.float32(np.nan), _detection())
    assert_tile_invariant(partial(tier_mask, tiers=MANY, clip=SigmaClip(maxiters=-1)), image, mask=_invalid())


@pytest.mark.parametrize("limit", [{"threshold": 1.2}, {"n_sigma": 1.5}])
@pytest.mark.parametrize("grow_shape", ["disc", "tophat", "square"])
def test_source_masks_do_not_depend_on_chunks(limit, grow_shape):
    build = partial(source_mask, fwhm=2.5, n_pixels=7, grow=5, grow_shape=grow_shape, **limit)
    assert_tile_invariant(build, _detection())
    assert_tile_invariant(build, _detection().astype(float), mask=_invalid())


def test_a_snake_through_many_chunks_is_one_source():
    image = np.zeros(SHAPE, np.float32)
    path = [(10 + k, 10 + k) for k in range(90)]
    for y, x in path:
        image[y, x] = 1
    for n_pixels, left in ((90, 90), (91, 0)):
        build = partial(source_mask, threshold=0.5, n_pixels=n_pixels)
        assert build(image).sum() == left
        assert ndimage.label(image, np.ones((3, 3)))[1] == 1
        assert_tile_invariant(build, image)


def test_a_threshold_may_be_lazy():
    image = da.from_array(_detection(), chunks=50)
    result = source_mask(image, threshold=image.max() / 2, n_pixels=2)
    assert np.array_equal(
        result.compute(), source_mask(_detection(), threshold=float(_detection().max()) / 2, n_pixels=2)
    )


def test_no_source_is_an_empty_mask():
    flat = np.zeros((20, 20), np.float32)
    assert not source_mask(flat, threshold=1.0, grow=3).any()
    assert not tier_mask(flat, [Tier(n_sigma=1, grow=3)]).any()


def test_no_valid_pixel_is_an_error_of_the_input():
    with pytest.raises(InputError, match="no pixel is left to measure the noise"):
        tier_mask(np.full((20, 20), np.nan), [Tier(n_sigma=1)])
    lazy = tier_mask(da.full((20, 20), np.nan, chunks=9), [Tier(n_sigma=1)])
    with pytest.raises(InputError, match="no pixel is left to measure the noise"):
        lazy.compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "set threshold .* or n_sigma, not both"),
        ({"threshold": 1, "n_sigma": 1}, "not both"),
        ({"threshold": 1, "n_pixels": 0}, "n_pixels"),
        ({"threshold": 1, "grow": -1}, "grow"),
        ({"threshold": 1, "grow_shape": "box"}, "grow_shape"),
        ({"threshold": 1, "fwhm": 1, "sigma": 1}, "set one of them"),
        ({"threshold": 1, "grow": 4, "grow_shape": "square"}, "odd"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        source_mask(_detection(), **options)


@pytest.mark.parametrize("count", [0, 7])
def test_as_many_tiers_as_there_are_bits(count):
    with pytest.raises(ParameterError, match=f"{count} tiers"):
        tier_mask(_detection(), [Tier(n_sigma=1)] * count)


def test_the_default_clip_is_photutils():
    image = _detection()
    clipped = AstropyClip(sigma=3, maxiters=10)(image.astype(float), masked=False)
    limit = clipped.mean() + 2 * clipped.std()
    assert np.array_equal(tier_mask(image, [Tier(n_sigma=2)]) != 0, image > limit)


CEERS_TIER = Tier(n_sigma=1.5, sigma=3.0, n_pixels=5, grow=4, center="zero", noise="biweight")


def test_masked_pixels_can_be_filled_before_smoothing():
    image, invalid = _detection(), _invalid()
    image[70, 20] = np.nan
    ignored = invalid | np.isnan(image)
    fill = np.float32(biweight_location(image[~ignored].astype(float)))
    threshold = 1.5 * biweight_scale(image[~ignored].astype(float))
    smoothed = convolve(np.where(ignored, fill, image), Gaussian2DKernel(3.0), boundary="fill")
    close = np.abs(smoothed - threshold) < 1e-6 * threshold
    assert np.count_nonzero(close) < 3
    expected = _photutils(smoothed, threshold, 5, footprint=circular_footprint(4), mask=ignored)
    found = tier_mask(image, [CEERS_TIER], mask=invalid, masked="fill") == tier_bit(0)
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, tier_mask(image, [CEERS_TIER], mask=invalid) == tier_bit(0))


def test_biweight_thresholds_are_astropys():
    image, invalid = _detection(), _invalid()
    values = image[~invalid].astype(float)
    tier = Tier(n_sigma=2.0, center="biweight", noise="biweight")
    threshold = biweight_location(values) + 2 * biweight_scale(values)
    assert np.array_equal(tier_mask(image, [tier], mask=invalid) != 0, (image > threshold) & ~invalid)


def test_a_local_noise_map_sets_the_threshold_pixel_by_pixel():
    rng = np.random.default_rng(8)
    noise = np.where(np.arange(SHAPE[1]) < 60, 1.0, 5.0) * np.ones(SHAPE)
    image = (rng.normal(size=SHAPE) * noise).astype(np.float32)
    tier = Tier(n_sigma=3.0, center="zero", noise="local")
    found = tier_mask(image, [tier], noise=noise.astype(np.float32)) != 0
    assert np.array_equal(found, image > (3 * noise.astype(np.float32)))
    centred = Tier(n_sigma=3.0, center="mean", noise="local")
    center = sigma_clipped_stats(image.astype(float), sigma=3.0, maxiters=10)[0]
    assert np.array_equal(tier_mask(image, [centred], noise=noise) != 0, image > center + 3 * noise)


def test_filled_and_local_searches_do_not_depend_on_chunks():
    tiers = [CEERS_TIER, Tier(n_sigma=2.5, fwhm=2.0, n_pixels=3, grow=2, center="zero", noise="local")]
    noise = (1 + 0.01 * np.arange(SHAPE[0])[:, None] * np.ones(SHAPE)).astype(np.float32)
    assert_tile_invariant(
        lambda image, mask, noise: tier_mask(image, tiers, mask=mask, noise=noise, masked="fill"),
        _detection(),
        mask=_invalid(),
        noise=noise,
    )


def _recipe(*masks):
    steps = [{"kind": "ring", "radius_in": 6, "width": 2}, *masks]
    steps.append({"kind": "background", "name": "sky", "box_size": 10, "exclude_percentile": 90})
    return Recipe.from_dict({"name": "test", "steps": steps})


TIERS = [
    {"n_sigma": 3.0, "n_pixels": 4, "grow": 3},
    {"n_sigma": 1.5, "sigma": 1.5, "n_pixels": 4, "grow": 1, "noise": "biweight"},
    {"n_sigma": 1.0, "sigma": 2.5, "n_pixels": 9},
]


@pytest.mark.parametrize("masked", ["omit", "fill"])
def test_cumulative_tiers_are_searches_that_go_on_from_each_other(masked):
    image = _detection() + np.linspace(0, 3, SHAPE[1], dtype=np.float32)
    tiers = {"kind": "mask", "name": "tiers", "masked": masked, "cumulative": True, "tiers": TIERS}
    sky = estimate_background(image, _recipe(tiers))
    # the same by hand: each search is told what the ones before it found
    detection = detection_image(image, ring_of(image))
    bits = np.zeros(SHAPE, np.uint8)
    for index, tier in enumerate(TIERS):
        found = tier_mask(detection, [Tier(**tier)], mask=bits != 0, masked=masked, first_bit=1 + index)
        bits = bits | found
    assert np.array_equal(sky.mask, bits)
    apart = estimate_background(image, _recipe({**tiers, "cumulative": False}))
    assert not np.array_equal(sky.mask, apart.mask)


def ring_of(image):
    from tiledsky import ring_median

    return ring_median(image, radius_in=6, width=2)


def test_a_mask_can_go_on_from_an_earlier_one_and_keeps_its_bits():
    image = _detection()
    first = {"kind": "mask", "name": "first", "tiers": TIERS[:1]}
    second = {"kind": "mask", "name": "second", "minus": "ring", "mask": "first", "tiers": TIERS[1:]}
    sky = estimate_background(image, _recipe(first, second))
    alone = estimate_background(image, _recipe(first))
    assert np.array_equal(sky.mask & tier_bit(0), alone.mask)
    assert (sky.mask & tier_bit(1)).any()
    assert (sky.mask & tier_bit(2)).any()


def test_equalized_noise_does_not_find_sources_in_shallow_edges():
    rng = np.random.default_rng(3)
    weight = np.full(SHAPE, 1.0, np.float32)
    weight[:, 100:] = 1 / 36  # six times the noise
    image = (rng.normal(size=SHAPE) / np.sqrt(weight)).astype(np.float32)
    image[50:53, 40:43] += 8.0
    tiers = {"kind": "mask", "name": "tiers", "tiers": [{"n_sigma": 3.5, "n_pixels": 3, "grow": 0}]}
    plain = estimate_background(image, _recipe(tiers), weight=weight).mask != 0
    even = estimate_background(image, _recipe({**tiers, "equalize": True}), weight=weight).mask != 0
    by_error = estimate_background(image, _recipe({**tiers, "equalize": True}), error=weight**-0.5).mask != 0
    assert even[51, 41]
    assert by_error[51, 41]
    assert plain[:, 100:].sum() > 50
    assert even[:, 100:].sum() == by_error[:, 100:].sum() == 0
    with pytest.raises(InputError, match="weight"):
        estimate_background(image, _recipe({**tiers, "equalize": True}))


def test_an_rms_map_evens_the_noise_without_a_plane():
    rng = np.random.default_rng(4)
    deviation = np.where(np.arange(SHAPE[1]) < 100, 1.0, 6.0)
    image = (rng.normal(size=SHAPE) * deviation).astype(np.float32)
    image[50:53, 40:43] += 8.0
    first = {"kind": "background", "name": "first", "box_size": 10, "filter_size": 3}
    tiers = {"kind": "mask", "name": "tiers", "tiers": [{"n_sigma": 3.5, "n_pixels": 3}], "equalize": "rms"}
    found = estimate_background(image, _recipe(first, tiers)).mask != 0
    known = estimate_background(image, _recipe(first, {**tiers, "equalize": True}), error=deviation + 0 * image).mask
    assert found[51, 41]
    assert found[:, 115:].sum() == 0  # at the step the map is between the two
    assert np.mean(found != (known != 0)) < 1e-3
    with pytest.raises(ParameterError, match='has equalize = "rms" but subtracts a ring'):
        _recipe({**tiers, "minus": "ring"})
