"""Numbers that mean no data: what a look finds and what it leaves alone; arrays with one are as arrays with NaN."""

from __future__ import annotations

import warnings

import dask
import dask.array as da
import numpy as np
import pytest

from tiledsky import Recipe, estimate_background
from tiledsky.errors import InputError, InputWarning, ParameterError
from tiledsky.geometry import Region
from tiledsky.nodata import checked, look_at, number_text, places

PLANES = ("background", "background_rms", "background_error", "mask", "subtracted")
RECIPE = Recipe.from_dict(
    {
        "name": "steps",
        "fill_value": -7.0,
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 5, "width": 2},
            {"kind": "mask", "name": "found", "tiers": [{"n_sigma": 2.0, "fwhm": 2.0, "n_pixels": 4, "grow": 2}]},
            {"kind": "background", "name": "sky", "box_size": [12, 10], "filter_size": 3},
        ],
    }
)


def noise(shape: tuple[int, int] = (160, 180), level: float = 3.0, seed: int = 1) -> np.ndarray:
    return level + np.random.default_rng(seed).normal(0, 1, shape)


def border(image: np.ndarray, value: float) -> np.ndarray:
    filled = image.copy()
    filled[:20], filled[:, :31], filled[100:108, 60:] = value, value, value
    return filled


def found(image: np.ndarray) -> object:
    return look_at(lambda region: image[region.slices], image.shape)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("f4", 0),
        ("f4", -99),
        ("f4", np.finfo("f4").min),
        ("f4", 1e30),
        ("f8", np.finfo("f8").min),
        (">f4", 0),
        ("u2", 0),
        ("u2", 65535),
        ("i2", -32768),
        ("i8", np.iinfo("i8").min),
    ],
)
def test_numbers_at_the_border(dtype: str, value: float) -> None:
    image = border(np.rint(20 * noise(level=50)) if dtype[-2] in "iu" else noise(), value).astype(dtype)
    seen = found(image)
    assert seen.nodata == float(image.dtype.type(value))
    assert seen.share == np.mean(image == image.dtype.type(value))
    assert seen.at_border
    assert image[seen.place] == value
    assert checked(seen.text, np.float32 if seen.single else np.float64) == seen.nodata
    assert f"--nodata {seen.text}" in seen.words("m.fits")


def test_gaps_within() -> None:
    image = noise()
    image[40:52, 70:100] = 0
    seen = found(image)
    assert (seen.nodata, seen.at_border) == (0, False)
    image[40:52, 70:100] = noise()[40:52, 70:100]
    image[40:46, 70:84] = 0  # too few to count, and not at the border
    assert found(image).nodata is None


def test_what_is_left_alone() -> None:
    rng, y, x = np.random.default_rng(4), *np.mgrid[:200, :220]
    single = noise((200, 220))
    single[0, 0] = single[100, 100] = 0
    stars = sum(
        9000 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 99) for cy, cx in ((90, 100), (3, 5), (150, 60), (20, 190))
    )
    saturated = np.minimum(noise((200, 220)) + stars, 3000)
    few = rng.poisson(0.3, (200, 220))
    whole = np.rint(100 + 0.4 * rng.normal(0, 1, (200, 220)))
    for image in (single, saturated, few, whole, noise((200, 220)), np.full((200, 220), np.nan)):
        assert found(image).nodata is None
        assert found(image).words("m.fits") is None
    few[:, :50] = 0  # real zeros among noise, and a border of them
    assert found(few).nodata == 0


def test_images_without_noise() -> None:
    y, x = np.mgrid[:200, :220]
    light = sum(50 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 30) for cy, cx in ((90, 100), (30, 50), (150, 60)))
    for image in (10 + np.where(light > 1e-3, light, 0), 10 + x / 100 + light, np.full((200, 220), 5.0)):
        for dtype in (np.float32, np.float64):
            seen = found(image.astype(dtype))
            assert seen.nodata is None
            assert "shows no noise" in seen.words("m.fits")


def test_look_at_a_large_image() -> None:
    shape, read = (30000, 41000), []

    def pixels(region: Region) -> np.ndarray:
        read.append(region)
        image = noise(region.shape, seed=region.y0 * 50000 + region.x0)
        image[:, : max(4100 - region.x0, 0)] = 0
        return image

    seen = look_at(pixels, shape)
    assert (seen.nodata, seen.at_border, seen.whole) == (0, True, False)
    assert seen.share == pytest.approx(0.1, abs=0.03)
    assert sum(r.shape[0] * r.shape[1] for r in read) < 1e6
    assert read == places(shape)
    assert all(Region.whole(shape).contains(region) for region in read)
    assert len(set(read)) == len(read)


def test_numbers_that_cannot_be() -> None:
    assert checked(None) is None
    assert checked(" Auto ") == "auto"
    assert checked("-3.4028235e+38", np.float32) == float(np.finfo("f4").min)
    for value, message in (("empty", "is not a number"), ("nan", "changes nothing"), (np.inf, "changes nothing")):
        with pytest.raises(ParameterError, match=message):
            checked(value)
    with pytest.raises(ParameterError, match="beyond float32"):
        checked(1e300, np.float32)
    for value in (0.0, -99.0, 0.1, float(np.float32(0.1)), float(np.finfo("f4").min), 1e30):
        assert float(number_text(value)) == value
        assert np.float32(float(number_text(np.float32(value).item(), single=True))) == np.float32(value)


@pytest.mark.parametrize("value", [0, -99.0, float(np.finfo("f4").min), 1e30])
def test_arrays_are_as_with_nan(value: float) -> None:
    image = border(noise(), value).astype(np.float32)
    empty = image == np.float32(value)
    before = image.copy()
    expected = estimate_background(np.where(empty, np.float32(np.nan), image), RECIPE)
    lazy = da.from_array(image, chunks=(64, 51))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (value, "auto"):
            direct = estimate_background(image, RECIPE, nodata=given)
            later = estimate_background(lazy, RECIPE, nodata=given)
            computed = dask.compute(*(getattr(later, name) for name in (*PLANES, "nodata")))
            for sky in ([getattr(direct, name) for name in (*PLANES, "nodata")], computed):
                assert np.float32(sky[-1]) == np.float32(value)
                for name, pixels in zip(PLANES, sky, strict=False):
                    np.testing.assert_array_equal(pixels[~empty], getattr(expected, name)[~empty])
                    if name != "mask":
                        assert (pixels[empty] == -7).all()
                np.testing.assert_array_equal(sky[3] & 1 != 0, empty)
    np.testing.assert_array_equal(image, before)


def test_arrays_say_it() -> None:
    image = border(noise(), 0).astype(np.float32)
    message = r"the image: 30.9% of the pixels are exactly 0, .* nodata=0"
    with pytest.warns(InputWarning, match=message):
        estimate_background(image, RECIPE)
    lazy = estimate_background(da.from_array(image, chunks=64), RECIPE)
    with pytest.warns(InputWarning, match=message):
        lazy.background.compute(scheduler="synchronous")  # threads have no filters of their own
    # what planes call invalid says nothing of the number
    weight = (image != 0).astype(np.float32)
    for given in (None, "auto"):
        assert estimate_background(image, RECIPE, weight=weight, nodata=given).nodata is None


def test_integers_are_compared_as_floats() -> None:
    image = border(np.rint(20 * noise(level=50)), 0).astype(np.uint16)
    expected = estimate_background(np.where(image == 0, np.nan, image).astype(np.float32), RECIPE)
    sky = estimate_background(image, RECIPE, nodata=0)
    np.testing.assert_array_equal(sky.background[image != 0], expected.background[image != 0])


def test_variances() -> None:
    image, rng = noise(), np.random.default_rng(6)
    variance = rng.uniform(0.5, 2, image.shape)
    variance[3, 4:8] = 0, -1, np.nan, np.inf
    evened = RECIPE.model_dump(mode="json", exclude_none=True)
    evened["steps"][1]["equalize"] = True
    recipe = Recipe.from_dict(evened)
    with np.errstate(invalid="ignore"):
        expected = estimate_background(image, recipe, error=np.sqrt(variance))
    assert (expected.mask[3, 4:8] & 1 == 1).all()
    for given in (variance, da.from_array(variance, chunks=70)):
        sky = estimate_background(image, recipe, variance=given)
        for name in PLANES:
            np.testing.assert_array_equal(np.asarray(getattr(sky, name)), getattr(expected, name))
    with pytest.raises(InputError, match="give only one of them"):
        estimate_background(image, recipe, variance=variance, error=variance)


@pytest.mark.parametrize("kind", ["biweight", "mad_std"])
def test_a_noise_of_zero_is_refused(kind: str) -> None:
    y, x = np.mgrid[:160, :180]
    image = 10 + np.where(np.hypot(y - 60, x - 70) < 9, 50.0, 0)
    data = RECIPE.model_dump(mode="json", exclude_none=True)
    data["steps"][1]["tiers"][0].update(noise=kind, center="zero", sigma=4.0, fwhm=0.0)
    with pytest.raises(InputError, match=rf"is 0 by its {kind}: more than half of the pixels have one value"):
        estimate_background(image, Recipe.from_dict(data))
    flat = estimate_background(np.full((160, 180), 10.0), Recipe.from_dict(data))
    assert (flat.background == 10).all()
    assert not flat.mask.any()
