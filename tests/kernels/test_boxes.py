"""Box statistics against photutils' Background2D, astropy's SigmaClip, and themselves in parts."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyUserWarning
from photutils import background as reference

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.boxes import boxes
from tiledsky.kernels.boxes.boxes import BoxStatistics, Clip, box_statistics
from tiledsky.kernels.boxes.estimators import ESTIMATORS, RMS_ESTIMATORS

BOXES = [64, 50, 10, 6, (7, 11), 1]
LOCATION = {
    "median": reference.MedianBackground,
    "mean": reference.MeanBackground,
    "mode": reference.ModeEstimatorBackground,
    "mmm": reference.MMMBackground,
    "sextractor": reference.SExtractorBackground,
    "biweight": reference.BiweightLocationBackground,
}
SCALE = {
    "std": reference.StdBackgroundRMS,
    "mad_std": reference.MADStdBackgroundRMS,
    "biweight": reference.BiweightScaleBackgroundRMS,
}


def scene(shape: tuple[int, int], *, pedestal: float = 10.0, seed: int = 3) -> np.ndarray:
    """Return float32 noise of rms 1 on a gradient with sources bright and faint."""
    rng = np.random.default_rng(seed)
    image = rng.normal(pedestal, 1.0, shape) + np.linspace(0.0, 2.0, shape[1])
    y, x = np.indices(shape)
    for _ in range(max(3, image.size // 2000)):
        y0, x0, flux = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.exponential(30.0)
        image += flux * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / 8.0)
    return image.astype(np.float32)


def holes(image: np.ndarray, *, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with values that are not finite, and a mask; one 70 x 70 corner is wholly masked."""
    rng = np.random.default_rng(seed)
    image = image.copy()
    for value in (np.nan, np.inf, -np.inf):
        image[rng.random(image.shape) < 0.01] = value
    mask = rng.random(image.shape) < 0.15
    mask[:70, :70] = True
    return image, mask


def photutils_mesh(
    image: np.ndarray,
    box: int | tuple[int, int],
    *,
    mask: np.ndarray | None = None,
    sigma_clip: SigmaClip | None = None,
    estimator: str = "median",
    rms_estimator: str = "std",
) -> BoxStatistics:
    """Return the meshes of Background2D before it fills and filters them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # about values that are not finite
        result = reference.Background2D(
            image,
            box,
            mask=mask,
            exclude_percentile=100,
            filter_size=1,
            sigma_clip=sigma_clip,
            # of another class: then photutils 3.1 clips with astropy, whose limits are the reference, not with its
            # compiled path, which rounds them otherwise
            bkg_estimator=type("Other", (LOCATION[estimator],), {})(sigma_clip=None),
            bkg_rms_estimator=type("Other", (SCALE[rms_estimator],), {})(sigma_clip=None),
        )
    empty = result.n_pixels_mesh == 0  # these it has filled from their neighbours
    background, rms = (np.where(empty, np.nan, m) for m in (result.background_mesh, result.background_rms_mesh))
    return BoxStatistics(background, rms, result.n_pixels_mesh)


CLIP_10 = SigmaClip(sigma=3.0, maxiters=10)


def slow_statistics(values: np.ndarray) -> tuple[float, float, int]:
    """Return the clipped median, std and count of one box in the order that astropy's axis path works in."""
    values = values[np.isfinite(values)]
    kept = CLIP_10(values[np.newaxis], axis=1, masked=False)[0]
    kept = kept[np.isfinite(kept)]
    return float(np.median(kept)), float(np.std(kept.astype(np.float64))), len(kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_median_and_counts_are_photutils_bit_for_bit(box: int | tuple[int, int], dtype: type) -> None:
    image = scene((320, 330) if box == 64 else (130, 143)).astype(dtype)
    image, mask = holes(image)
    ours = box_statistics(image, box, mask=mask, estimator="median")
    theirs = photutils_mesh(image, box, mask=mask, sigma_clip=CLIP_10)
    assert ours.background.dtype == ours.rms.dtype == dtype
    np.testing.assert_array_equal(ours.background, theirs.background)
    np.testing.assert_array_equal(ours.n_good, theirs.n_good)
    np.testing.assert_allclose(ours.rms, theirs.rms, rtol=2e-6, atol=1e-7)
    assert (ours.n_good == 0).any()
    np.testing.assert_array_equal(np.isnan(ours.background), ours.n_good == 0)
    np.testing.assert_array_equal(np.isnan(ours.rms), ours.n_good == 0)


@pytest.mark.parametrize("box", [50, 10, 6, (7, 11)], ids=str)
@pytest.mark.parametrize(
    ("estimator", "rms_estimator"),
    [*((e, "std") for e in ESTIMATORS), *(("median", r) for r in RMS_ESTIMATORS if r != "std")],
)
@pytest.mark.parametrize("pedestal", [10.0, 1e4, -3e5])
def test_every_estimator_is_photutils_within_1e_6_of_the_rms(
    pedestal: float, estimator: str, rms_estimator: str, box: int | tuple[int, int]
) -> None:
    # The reference gets a float64 copy: in float32 its own sums are off by more than 1e-6 of the rms on a pedestal.
    image, mask = holes(scene((111, 123), pedestal=pedestal))
    options = {"mask": mask, "estimator": estimator, "rms_estimator": rms_estimator}
    theirs = photutils_mesh(image.astype(np.float64), box, sigma_clip=CLIP_10, **options)
    double = box_statistics(image.astype(np.float64), box, **options)
    single = box_statistics(image, box, **options)
    for ours, rounding in ((double, 0.0), (single, 2.0**-24)):
        scale = np.where(np.isnan(theirs.rms), 1.0, theirs.rms)
        off = np.abs(ours.background - theirs.background) - rounding * np.abs(theirs.background)
        np.testing.assert_array_equal(np.isnan(ours.background), np.isnan(theirs.background))
        assert np.nanmax(off / np.maximum(scale, 1e-30)) <= 1e-6
        assert np.nanmax(np.abs(ours.rms - theirs.rms) / np.maximum(scale, 1e-30)) <= 1e-6
        np.testing.assert_array_equal(ours.n_good, theirs.n_good)


@pytest.mark.parametrize("spread", ["std", "mad_std"])
@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("maxiters", [1, 2, 5, -1])
@pytest.mark.parametrize(("lower", "upper"), [(3.0, 3.0), (1.0, 4.0), (0.8, 0.7), (math.inf, 2.0)])
def test_clip_is_sigma_clip(lower: float, upper: float, maxiters: int, center: str, spread: str) -> None:
    image, mask = holes(scene((120, 132)))
    theirs_clip = SigmaClip(
        sigma_lower=lower,
        sigma_upper=upper,
        maxiters=np.inf if maxiters == -1 else maxiters,
        cenfunc=center,
        stdfunc=spread,
    )
    clip = Clip(sigma_lower=lower, sigma_upper=upper, maxiters=maxiters, center=center, spread=spread)
    for box in (12, 40):
        ours = box_statistics(image, box, mask=mask, clip=clip, estimator="median")
        theirs = photutils_mesh(image[:120, :120], box, mask=mask[:120, :120], sigma_clip=theirs_clip)
        whole = slice(0, 120 // box)
        np.testing.assert_array_equal(ours.n_good[whole, whole], theirs.n_good)
        np.testing.assert_array_equal(ours.background[whole, whole], theirs.background)


def test_without_clip() -> None:
    image, mask = holes(scene((90, 95)))
    ours = box_statistics(image, 12, mask=mask, clip=None, estimator="median")
    theirs = photutils_mesh(image, 12, mask=mask, sigma_clip=None)
    np.testing.assert_array_equal(ours.background, theirs.background)
    np.testing.assert_array_equal(ours.n_good, theirs.n_good)
    inside = ~mask & np.isfinite(image)
    assert ours.n_good.sum() == inside.sum()


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("box", [6, 10, (6, 12)], ids=str)
@pytest.mark.parametrize("sorted_npixels", [400, 0], ids=["sorted", "counted"])
def test_values_that_lie_on_a_limit_fall_as_in_the_reference(
    monkeypatch: pytest.MonkeyPatch, sorted_npixels: int, box: int | tuple[int, int], center: str
) -> None:
    monkeypatch.setattr(boxes, "_LANES_NPIXELS", sorted_npixels)
    # Whole numbers: three standard deviations are a whole number in some of these boxes, and rounding decides.
    image = np.random.default_rng(8).poisson(2.0, (603, 1205)).astype(np.float32)
    ours = box_statistics(image, box, clip=Clip(center=center), estimator="median")
    theirs = photutils_mesh(image, box, sigma_clip=SigmaClip(sigma=3.0, maxiters=10, cenfunc=center))
    np.testing.assert_array_equal(ours.n_good[:-1], theirs.n_good[:-1])
    np.testing.assert_array_equal(ours.n_good[:, :-1], theirs.n_good[:, :-1])
    np.testing.assert_array_equal(ours.background[:-1], theirs.background[:-1])


def test_the_tie_image_has_ties() -> None:
    # Guards the test above: with sums in another order the reference itself gives other counts there.
    image = np.random.default_rng(8).poisson(2.0, (603, 1205)).astype(np.float32)[:600, :1200]
    rows = image.reshape(100, 6, 200, 6).swapaxes(1, 2).reshape(-1, 36).astype(np.float64)
    total, squares = rows.sum(axis=1), (rows**2).sum(axis=1)
    sigma_36 = np.sqrt(36 * squares - total**2)  # 36 times the standard deviation, exact where it is whole
    whole = sigma_36 == np.round(sigma_36)
    limit = np.median(rows, axis=1) + 3.0 * np.round(sigma_36) / 36.0
    assert (whole & (rows == limit[:, np.newaxis]).any(axis=1)).sum() >= 3


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 7e8])
@pytest.mark.parametrize(
    "clip", [Clip(), Clip(center="mean"), Clip(spread="mad_std"), Clip(sigma_upper=math.inf), None]
)
def test_constant_boxes_have_that_value_and_no_rms(clip: Clip | None, value: float) -> None:
    image = np.full((25, 33), value)
    for estimator in ESTIMATORS:
        for rms_estimator in RMS_ESTIMATORS:
            got = box_statistics(image, 10, clip=clip, estimator=estimator, rms_estimator=rms_estimator)
            if estimator in ("median", "mean", "biweight"):
                np.testing.assert_array_equal(got.background, value)
            else:
                np.testing.assert_allclose(got.background, value, rtol=1e-15)
            np.testing.assert_array_equal(got.rms, 0.0)
            np.testing.assert_array_equal(got.n_good, [[100, 100, 100, 30], [100, 100, 100, 30], [50, 50, 50, 15]])


def test_box_that_mad_says_is_constant() -> None:
    # More than half of the values equal: the median deviation is 0, and the biweights are defined by that.
    image = np.full((10, 10), 5.0, np.float32)
    image[::3] += np.arange(10, dtype=np.float32)
    got = box_statistics(image, 10, clip=None, estimator="biweight", rms_estimator="biweight")
    theirs = photutils_mesh(image, 10, estimator="biweight", rms_estimator="biweight")
    assert (got.background[0, 0], got.rms[0, 0]) == (theirs.background[0, 0], theirs.rms[0, 0]) == (5.0, 0.0)


def pathological(name: str, shape: tuple[int, int]) -> np.ndarray:
    """Return float64 values that no density describes."""
    rng = np.random.default_rng(11)
    normal = rng.normal(size=shape)
    return {
        "heavy tails": rng.standard_cauchy(shape) ** 3,
        "eighty decades": np.exp(80.0 * normal.clip(-1, 1)) * np.sign(rng.normal(size=shape)),
        "two values": np.where(rng.random(shape) < 0.5, 1.0, 2.0),
        "three quarters zero": np.where(rng.random(shape) < 0.75, 0.0, normal),
        "one outlier": np.where(np.arange(shape[0] * shape[1]).reshape(shape) % 397 == 0, 1e30, 3.25),
        "whole numbers": np.round(3.0 * normal),
        "sorted": np.sort(normal, axis=None).reshape(shape),
        "denormal": normal * 1e-42,
    }[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name",
    [
        "heavy tails",
        "eighty decades",
        "two values",
        "three quarters zero",
        "one outlier",
        "whole numbers",
        "sorted",
        "denormal",
    ],
)
@pytest.mark.parametrize("spread", ["std", "mad_std"])
def test_sorted_and_counted_boxes_agree(monkeypatch: pytest.MonkeyPatch, spread: str, name: str, dtype: type) -> None:
    image = pathological(name, (61, 83)).astype(dtype)
    mask = np.random.default_rng(2).random(image.shape) < 0.2
    tolerance, tiny = (1e-9 if dtype is np.float64 else 1e-6), np.finfo(dtype).tiny
    for box in (7, 20, 30):
        std = np.zeros(1)
        for estimator, rms_estimator in (("median", "std"), ("mean", "mad_std"), ("biweight", "biweight")):
            options = {"mask": mask, "estimator": estimator, "rms_estimator": rms_estimator}
            results = []
            for limit in (10**9, 0):
                monkeypatch.setattr(boxes, "_LANES_NPIXELS", limit)
                results.append(box_statistics(image, box, clip=Clip(spread=spread), **options))
            by_sorting, by_counting = results
            some = by_sorting.n_good > 0
            assert some.sum() > 3
            np.testing.assert_array_equal(by_sorting.n_good, by_counting.n_good)
            np.testing.assert_allclose(by_sorting.rms, by_counting.rms, rtol=tolerance, atol=tiny)
            if estimator == "median":
                np.testing.assert_array_equal(by_sorting.background, by_counting.background)
                std = np.maximum(by_sorting.rms, tiny)
            off = np.abs(by_sorting.background - by_counting.background)
            assert (off <= np.spacing(np.abs(by_sorting.background)) + tolerance * std)[some].all()


@pytest.mark.parametrize("name", ["dss_m67_M6707HH.fits", "sep_ntt_image.fits", "spitzer_glimpse_irac.fits"])
def test_median_mesh_of_real_images_is_photutils_bit_for_bit(name: str) -> None:
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if not folder:
        pytest.skip("TILEDSKY_TEST_DATA is not set, so there are no real images to read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # about headers
        image = np.squeeze(fits.getdata(Path(folder) / name)).astype(np.float32)[:600, :600]
    for box in (64, 10):
        ours = box_statistics(image, box, estimator="median")
        theirs = photutils_mesh(image, box, sigma_clip=CLIP_10)
        # The corner box has a test of its own.
        for part in (np.s_[:-1, :], np.s_[:, :-1]):
            np.testing.assert_array_equal(ours.background[part], theirs.background[part])
            np.testing.assert_array_equal(ours.n_good[part], theirs.n_good[part])


def test_huge_outliers_do_not_spoil_the_sums() -> None:
    image = scene((100, 100)).astype(np.float64)
    image[::10, ::10] = 1e15
    ours = box_statistics(image, 50, estimator="mean")
    theirs = photutils_mesh(image, 50, sigma_clip=CLIP_10, estimator="mean")
    np.testing.assert_array_equal(ours.n_good, theirs.n_good)
    np.testing.assert_allclose(ours.background, theirs.background, rtol=1e-13)
    np.testing.assert_allclose(ours.rms, theirs.rms, rtol=1e-12)


def test_corner_box_is_clipped_like_the_others() -> None:
    image, mask = holes(scene((113, 127)))
    ours = box_statistics(image, 50, mask=mask, estimator="median")
    for iy, ix in np.ndindex(ours.background.shape):
        part = (slice(iy * 50, iy * 50 + 50), slice(ix * 50, ix * 50 + 50))
        if ours.n_good[iy, ix] == 0:
            assert (mask | ~np.isfinite(image))[part].all()
            continue
        median, std, n = slow_statistics(image[part][~mask[part]])
        assert (float(ours.background[iy, ix]), int(ours.n_good[iy, ix])) == (np.float32(median), n)
        assert ours.rms[iy, ix] == pytest.approx(std, rel=1e-6)


@pytest.mark.parametrize("box", [64, 10, (7, 11)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_region_has_the_statistics_of_the_whole(dtype: type, box: int | tuple[int, int]) -> None:
    image, mask = holes(scene((331, 345), pedestal=1e3).astype(dtype))
    by, bx = (box, box) if isinstance(box, int) else box
    rng = np.random.default_rng(1)
    for estimator, rms_estimator in (("sextractor", "std"), ("biweight", "mad_std"), ("mean", "biweight")):
        options = {"estimator": estimator, "rms_estimator": rms_estimator}
        whole = box_statistics(image, box, mask=mask, **options)
        for _ in range(4):
            y0, x0 = (int(rng.integers(0, size)) for size in whole.background.shape)
            y1, x1 = (
                int(rng.integers(lo + 1, size + 1)) for lo, size in zip((y0, x0), whole.background.shape, strict=True)
            )
            pixels = slice(y0 * by, y1 * by), slice(x0 * bx, x1 * bx)
            part = box_statistics(image[pixels], box, mask=mask[pixels], **options)
            for mine, full in zip(part, whole, strict=True):
                assert mine.tobytes() == full[y0:y1, x0:x1].tobytes()


def test_a_box_does_not_feel_its_neighbours() -> None:
    image = scene((40, 200))
    before = box_statistics(image, 10)
    image[:, 50:60] = np.nan
    image[:, 70:80] *= 1e20
    after = box_statistics(image, 10)
    others = np.ones(20, dtype=bool)
    others[[5, 7]] = False
    for mine, full in zip(after, before, strict=True):
        assert mine[:, others].tobytes() == full[:, others].tobytes()


@pytest.mark.parametrize("box", [10, (7, 11)], ids=str)
def test_photutils_estimators_as_callables(box: int | tuple[int, int]) -> None:
    image, mask = holes(scene((111, 123)))
    location, scale = reference.MMMBackground(), reference.MADStdBackgroundRMS()
    ours = box_statistics(image, box, mask=mask, estimator=location, rms_estimator=scale)
    theirs = photutils_mesh(image, box, mask=mask, sigma_clip=CLIP_10, estimator="mmm", rms_estimator="mad_std")
    np.testing.assert_allclose(ours.background, theirs.background, rtol=1e-6)
    np.testing.assert_array_equal(ours.rms, theirs.rms)
    np.testing.assert_array_equal(ours.n_good, theirs.n_good)
    assert location.sigma_clip is not None  # the caller's object is as it was


def test_function_as_estimator_sees_nan_where_clipped() -> None:
    image = scene((50, 70))
    seen = []

    def smallest(values: np.ndarray, axis: int) -> np.ndarray:
        seen.append(values)
        return np.nanmin(values, axis=axis)

    mask = np.zeros(image.shape, dtype=bool)
    mask[:20, 20:40] = True
    got = box_statistics(image, 20, mask=mask, estimator=smallest)
    assert got.background.dtype == np.float32
    assert np.isnan(got.background[0, 1])
    assert sum(np.isfinite(values).sum() for values in seen) == got.n_good.sum()
    assert {values.shape[1] for values in seen} == {400, 200, 100}
    kept = CLIP_10(image[20:40, 20:40].reshape(1, -1), axis=1, masked=False)
    assert got.background[1, 1] == np.nanmin(kept)


def test_input_is_left_alone_and_layout_does_not_matter() -> None:
    image, mask = holes(scene((60, 64)))
    image.flags.writeable = mask.flags.writeable = False
    plain = box_statistics(image, 10, mask=mask)
    for other in (np.asfortranarray(image), image.astype(">f4"), np.repeat(image, 2, axis=1)[:, ::2]):
        for mine, full in zip(box_statistics(other, 10, mask=mask), plain, strict=True):
            assert mine.tobytes() == full.tobytes()


def test_image_smaller_than_a_box_and_all_masked() -> None:
    image = scene((9, 12))
    got = box_statistics(image, 50, estimator="mean", clip=None)
    assert got.background.shape == (1, 1)
    assert got.background[0, 0] == pytest.approx(image.astype(np.float64).mean(), rel=1e-7)
    nothing = box_statistics(image, 5, mask=np.ones(image.shape, dtype=bool), estimator=reference.MedianBackground())
    assert np.isnan(nothing.background).all()
    assert np.isnan(nothing.rms).all()
    assert not nothing.n_good.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_lower": 0.0}, "sigma_lower=0.0 would clip every"),
        ({"sigma_upper": math.nan}, "sigma_upper=nan would clip"),
        ({"maxiters": 0}, "maxiters=0 is not a number"),
        ({"maxiters": 2.5}, "maxiters=2.5 is not a number"),
        ({"center": "mode"}, "center='mode' is unknown"),
        ({"spread": "mad"}, "spread='mad' is unknown"),
    ],
)
def test_clip_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Clip(**options)


def test_refuses_parameters_and_inputs() -> None:
    image = np.zeros((8, 8), np.float32)
    for box in (0, -3, 2.5, (4,), (4, 0)):
        with pytest.raises(ParameterError, match="is not a box of whole pixels"):
            box_statistics(image, box)
    with pytest.raises(ParameterError, match="estimator='sigma' is unknown"):
        box_statistics(image, 4, estimator="sigma")
    with pytest.raises(ParameterError, match="rms_estimator='mean' is unknown"):
        box_statistics(image, 4, rms_estimator="mean")
    with pytest.raises(ParameterError, match="returned shape"):
        box_statistics(image, 4, estimator=lambda values, axis: values)
    with pytest.raises(InputError, match="data has 1 axes"):
        box_statistics(image[0], 4)
    with pytest.raises(InputError, match="dtype int16"):
        box_statistics(image.astype(np.int16), 4)
    with pytest.raises(InputError, match="dtype float16"):
        box_statistics(image.astype(np.float16), 4)
    with pytest.raises(InputError, match="mask has shape"):
        box_statistics(image, 4, mask=np.zeros((8, 7), bool))
    with pytest.raises(InputError, match="mask has dtype"):
        box_statistics(image, 4, mask=np.zeros((8, 8), np.uint8))
