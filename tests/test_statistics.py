"""Global statistics: numpy = dask, bit for bit, and = astropy.stats."""

from dataclasses import astuple

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.stats import SigmaClip as AstropyClip
from astropy.stats import biweight_location, biweight_scale, mad_std, median_absolute_deviation

from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.operations.masking import tier_mask
from tiledsky.recipe import SigmaClip, Tier
from tiledsky.statistics import (
    Statistics,
    bins_to_refine,
    finish,
    finish_in_parts,
    global_statistics,
    image_statistics,
    with_biweights,
)
from tiledsky.testing import assert_tile_invariant, irregular_chunkings

SHAPE = (83, 97)


def _normal():
    return np.random.default_rng(6).normal(3, 2, SHAPE).astype(np.float32)


def _sources():
    rng = np.random.default_rng(7)
    return (rng.normal(1000, 3, SHAPE) + np.where(rng.random(SHAPE) < 0.2, rng.exponential(200, SHAPE), 0)).astype("f4")


def holes():
    image = _sources()
    image[20:50, 30:90] = np.nan
    image[0, :3] = np.inf, -np.inf, np.nan
    return image


def _ties():
    return np.random.default_rng(8).integers(-3, 4, SHAPE).astype(np.int16)


def _wide():
    rng = np.random.default_rng(9)
    return (rng.choice([-1, 1], SHAPE) * 10.0 ** rng.uniform(-30, 30, SHAPE)).astype(np.float32)


IMAGES = {"normal": _normal, "sources": _sources, "holes": holes, "ties": _ties, "wide": _wide}
CLIPS = [
    SigmaClip(),
    SigmaClip(sigma_lower=2, sigma_upper=1.5, maxiters=-1),
    SigmaClip(sigma_lower=1, maxiters=1),
    SigmaClip(center="mean", maxiters=3),
]


def _astropy(image, mask, clip):
    data = image.astype(np.float32).astype(float)[~mask & np.isfinite(image)]
    rejection = AstropyClip(
        sigma_lower=clip.sigma_lower,
        sigma_upper=clip.sigma_upper,
        maxiters=None if clip.maxiters < 0 else clip.maxiters,
        cenfunc=clip.center,
    )
    left = rejection(data, masked=False)
    return Statistics(
        data.size,
        data.mean(),
        data.std(),
        np.median(data),
        mad_std(data),
        left.mean(),
        np.median(left),
        left.std(),
        median_absolute_deviation(data),
        biweight_location(data),
        biweight_scale(data),
    )


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("clip", CLIPS, ids=["default", "asymmetric", "one round", "mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_equal_astropys(name, clip, masked):
    image = IMAGES[name]()
    mask = np.random.default_rng(10).random(SHAPE) < 0.3 if masked else np.zeros(SHAPE, bool)
    result = global_statistics(image, mask=mask if masked else None, clip=clip)
    expected = _astropy(image, mask, clip)
    assert result.n == expected.n
    assert result.median == expected.median
    assert result.mad == expected.mad
    assert result.biweight_location == pytest.approx(expected.biweight_location, rel=1e-12, abs=1e-12 * expected.mad)
    assert result.biweight_scale == pytest.approx(expected.biweight_scale, rel=1e-12)
    scale = expected.std
    for field in ("mean", "std", "mad_std", "clipped_mean", "clipped_median", "clipped_std"):
        assert getattr(result, field) == pytest.approx(getattr(expected, field), rel=1e-12, abs=1e-13 * scale), field


@pytest.mark.parametrize("name", IMAGES)
def test_statistics_do_not_depend_on_chunks(name):
    image = IMAGES[name]()
    cuts = irregular_chunkings(SHAPE)
    assert_tile_invariant(global_statistics, image, chunks=cuts[:6])
    mask = np.random.default_rng(10).random(SHAPE) < 0.3

    def clipped(image, mask):
        return global_statistics(image, mask=mask, clip=CLIPS[1])

    assert_tile_invariant(clipped, image, mask=mask, chunks=cuts[2:])


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_a_pass_more_adds_fields_and_changes_none(passes, masked):
    """What each pass gives, the same for numpy and dask; what was not asked for is NaN."""
    image = holes()
    mask = np.random.default_rng(10).random(SHAPE) < 0.3 if masked else None
    first = ("n", "mean", "std")
    third = ("biweight_location", "biweight_scale")
    fields = tuple(vars(Statistics(0, 0.0, 0.0)))
    known = {1: first, 2: tuple(f for f in fields if f not in third), 3: fields}[passes]

    def some(image, mask):
        return image_statistics(image, mask, SigmaClip(), refine=passes == 2, biweight=passes == 3)

    everything = global_statistics(image, mask=mask)
    found = some(image, mask)
    for field in fields:
        assert (
            getattr(found, field) == getattr(everything, field) if field in known else np.isnan(getattr(found, field))
        )
    assert_tile_invariant(some, image, mask=mask)


def test_the_parts_of_a_run_give_the_same():
    """Tiles summarised one by one in three passes, through bytes, in any order."""
    image, mask, clip = holes(), np.random.default_rng(10).random(SHAPE) < 0.3, SigmaClip()
    tiles = [np.s_[y : y + 30, x : x + 41] for y in range(0, 83, 30) for x in range(0, 97, 41)]

    def passed(kind, *args, order=1, **kwargs):
        parts = [kind.from_values(np.ascontiguousarray(image[t]), *args, mask=mask[t], **kwargs) for t in tiles]
        return kind.merged([kind.from_bytes(part.to_bytes()) for part in parts[::order]])

    histogram = passed(KeyHistogram)
    refinement = passed(Refinement, bins_to_refine(histogram, clip), order=-1)
    two = finish(histogram, refinement, clip)
    sums = passed(BiweightSums, median=two.median, mad=two.mad, order=-1)
    assert with_biweights(two, sums) == global_statistics(image, mask=mask, clip=clip)
    elsewhere = BiweightSums.from_values(image, median=two.median + 1, mad=two.mad, mask=mask)
    fewer = BiweightSums.from_values(image[1:], median=two.median, mad=two.mad, mask=mask[1:])
    for wrong in (elsewhere, fewer):
        with pytest.raises(RunError, match="do not belong to"):
            with_biweights(two, wrong)


@pytest.mark.parametrize("level", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("center", ["median", "mean"])
def test_values_that_are_too_many_are_counted_in_parts(level, center, monkeypatch):
    values = (level + np.random.default_rng(21).normal(size=(6, 40_000))).astype(np.float32)
    clip = SigmaClip(center=center)
    histogram = KeyHistogram.from_values(values)
    bins = bins_to_refine(histogram, clip)
    whole = astuple(finish(histogram, Refinement.from_values(values, bins), clip))[:-2]
    tiles = [Refinement.from_values(row, bins) for row in values]
    calls = []

    def refined(some):
        calls.append(some)
        return Refinement.merged(tile.part(some) for tile in tiles)

    assert astuple(finish_in_parts(histogram, bins, refined, clip))[:-2] == whole  # without the biweights
    assert [some.size for some in calls] == [bins.size]  # not too many
    for first, beside in ((2, 0), (2, 3), (6, 8)):
        calls.clear()
        for name, value in {"_DISTINCT": 100, "_FIRST": first, "_BESIDE": beside}.items():
            monkeypatch.setattr(f"tiledsky.statistics.{name}", value)
        assert astuple(finish_in_parts(histogram, bins, refined, clip))[:-2] == whole
        assert len(calls) > 1
        looked_at = np.concatenate(calls)
        assert set(looked_at) <= set(bins)
        assert len(set(looked_at)) == looked_at.size  # none twice
        assert all(some.size <= 2 * beside + 1 for some in calls[1:])  # those that are needed, and those beside them
        if not level and not beside:  # where there are many bins near the median
            assert looked_at.size < bins.size / 2


def test_bins_that_no_tile_has_are_no_endless_search(monkeypatch):
    values = _normal()
    histogram, clip = KeyHistogram.from_values(values), SigmaClip()
    bins = bins_to_refine(histogram, clip)
    none = Refinement.from_values(values[:0], bins[:0])
    with pytest.raises(RunError, match="needed but was not refined"):
        finish_in_parts(histogram, bins, lambda some: none, clip)
    monkeypatch.setattr("tiledsky.statistics._DISTINCT", 1)
    monkeypatch.setattr("tiledsky.statistics._FIRST", 1)
    with pytest.raises(RunError, match="needed but was not refined"):
        finish_in_parts(histogram, bins, lambda some: none, clip)
    with pytest.raises(RunError, match="not of the same pixels"):
        finish_in_parts(histogram, bins, lambda some: Refinement.from_values(values[1:], some), clip)


def test_biweights_without_spread():
    image = np.full(SHAPE, 7.25, np.float32)
    image[:20] = holes()[:20]
    result = global_statistics(image)
    assert (result.mad, result.biweight_location, result.biweight_scale) == (0.0, 7.25, 0.0)
    assert_tile_invariant(global_statistics, image)


def test_sums_that_cancel_are_exact():
    image = np.array([[1e30, 1.0, -1e30, 1.0]], np.float32)
    assert global_statistics(image).mean == 0.5
    assert global_statistics(da.from_array(image, chunks=(1, 1))).compute().mean == 0.5


def test_float64_is_rounded_to_float32():
    image = np.full((3, 3), 0.1)
    assert global_statistics(image).median == np.float32(0.1)


def test_nothing_valid_gives_nan():
    empty = global_statistics(np.full((4, 4), np.nan))
    assert empty.n == 0
    assert all(np.isnan(v) for k, v in vars(empty).items() if k != "n")
    lazy = global_statistics(da.ones((4, 4), chunks=2), mask=da.ones((4, 4), chunks=3, dtype=bool)).compute()
    assert lazy.n == 0
    assert np.isnan(lazy.mean)


def test_a_mask_in_other_chunks_or_numpy_is_cut_to_the_image():
    image, mask = _sources(), holes() > 1010
    expected = global_statistics(image, mask=mask)
    cut = da.from_array(image, chunks=31)
    assert global_statistics(cut, mask=da.from_array(mask, chunks=20)).compute() == expected
    assert global_statistics(cut, mask=mask).compute() == expected


def test_it_is_lazy_and_keys_follow_from_the_work():
    def never(block):
        raise AssertionError("computed")

    unread = da.map_blocks(never, chunks=((9, 9), (9,)), dtype="f4", meta=np.empty((0, 0), "f4"))
    for lazy in (
        global_statistics(unread),
        image_statistics(unread, unread > 0, SigmaClip(), refine=True, biweight=True),
        image_statistics(unread, None, SigmaClip(), refine=False),
    ):
        assert dask.is_dask_collection(lazy)
    cut = da.from_array(_normal(), chunks=40)
    assert global_statistics(cut).key == global_statistics(cut).key
    assert global_statistics(cut).key != global_statistics(cut, clip=SigmaClip(maxiters=1)).key
    assert global_statistics(cut).key != image_statistics(cut, None, SigmaClip(), refine=True).key


def test_shapes_are_checked():
    with pytest.raises(InputError, match="differ in shape"):
        global_statistics(_normal(), mask=np.zeros((2, 2), bool))
    with pytest.raises(ParameterError, match="3 axes"):
        global_statistics(np.zeros((2, 2, 2)))


def _thousandths():
    """Noise of rms 1 in steps of 2**-10: exact in float64 on any of the levels below."""
    image = np.round(1024 * np.random.default_rng(11).normal(0, 1, SHAPE)) / 1024
    image[np.random.default_rng(12).random(SHAPE) < 0.05] += 8.0
    image[3, 5] = np.nan
    return image


@pytest.mark.parametrize("clip", CLIPS, ids=["default", "asymmetric", "one round", "mean"])
@pytest.mark.parametrize("level", [0.0, 1e3, 1e9, -(2.0**40)])
def test_float64_on_a_level(level, clip):
    image = _thousandths()
    expected, found = _astropy(image, np.isnan(image), clip), global_statistics(image + level, clip=clip)
    assert found.n == expected.n
    for field in ("mean", "median", "clipped_mean", "clipped_median", "biweight_location"):
        assert getattr(found, field) - level == pytest.approx(
            getattr(expected, field), rel=0, abs=1e-12 + np.spacing(abs(level))
        ), field
    for field in ("std", "mad", "mad_std", "clipped_std", "biweight_scale"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-12), field


@pytest.mark.parametrize("power", [-1000, -141, -126, 122, 130, 1000])
def test_float64_beyond_float32_scales(power):
    image = _thousandths()
    one, other = global_statistics(image), global_statistics(image * 2.0**power)
    for field, value in vars(one).items():
        assert getattr(other, field) == (value if field == "n" else value * 2.0**power), field


def test_float64_next_to_the_largest_and_the_smallest():
    found = global_statistics(np.array([[1.7e308, 1.7e308, 1.75e308]]))
    assert found.median == 1.7e308
    assert found.mean == pytest.approx(1.7166666666666666e308, rel=1e-12)
    assert global_statistics(np.array([[5e-324, 5e-324, 0.0]])).median == 5e-324
    assert global_statistics(np.full((2, 3), 1e300)).std == 0.0
    assert global_statistics(np.full((2, 3), np.nan)).n == 0


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_integers_that_float32_would_round(dtype):
    image = np.random.default_rng(3).integers(0, 100, SHAPE).astype(dtype) + dtype(2**30)
    found = global_statistics(image)
    assert found.median == np.median(image)
    assert found.std == pytest.approx(image.astype(np.longdouble).std(), rel=1e-12)


def test_float64_does_not_depend_on_chunks():
    image = _thousandths() * 1e-3 + 1e9
    mask = np.random.default_rng(10).random(SHAPE) < 0.3
    assert_tile_invariant(global_statistics, image, mask=mask, chunks=irregular_chunkings(SHAPE)[:4])


@pytest.mark.parametrize(
    ("power", "message"), [(-141, "power of ten"), (122, "power of ten"), (160, "beyond the 3e38")]
)
def test_noise_that_float32_does_not_resolve_is_refused(power, message):
    image = np.random.default_rng(3).normal(0, 1, SHAPE) * 2.0**power
    with pytest.raises(InputError, match=message):
        tier_mask(image, [Tier(n_sigma=3.0)])


@pytest.mark.parametrize("power", [-120, 110])
def test_masks_do_not_depend_on_the_unit(power):
    image = _thousandths()
    tiers = [Tier(n_sigma=2.0, fwhm=2.0, n_pixels=3, grow=2.0)]
    np.testing.assert_array_equal(tier_mask(image * 2.0**power, tiers), tier_mask(image, tiers))
