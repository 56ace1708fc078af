"""Background2D on dask arrays: the bits of numpy for any chunks, and nothing computed before it is asked for."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.nddata import NDData
from photutils import background as reference

from tests.arrays.background_cases import CLIPS, nearest, ours, planes, scene
from tiledsky import recipe
from tiledsky.arrays.background2d import Background2D
from tiledsky.errors import InputError

CHUNKINGS = [(83, 95), (40, 50), (17, 95), (83, 13), ((1, 81, 1), (50, 45)), ((40, 3, 40), (2, 93)), (9, 40)]
NAMES = ("background", "background_rms", "background_mesh", "background_rms_mesh", "n_pixels_mesh", "n_pixels_map")
NAMES += ("background_median", "background_rms_median")
CASES = {
    "default": {},
    "median": {"bkg_estimator": reference.MedianBackground(), "filter_threshold": 11.5, "filter_size": (1, 3)},
    "called": {"bkg_estimator": reference.BiweightLocationBackground(c=7), "bkg_rms_estimator": np.nanstd},
    "grow": {"sigma_clip": CLIPS["grow"]},
    "callables": {"sigma_clip": CLIPS["callables"], "bkg_rms_estimator": reference.MADStdBackgroundRMS()},
    "idw": {"interpolator": recipe.IDWInterpolator(n_neighbors=6)},
}


def values(bkg):
    return dict(zip(NAMES, dask.compute(*(getattr(bkg, name) for name in NAMES), scheduler="threads"), strict=True))


def no_scheduler(*args, **kwargs):
    raise AssertionError("a lazy image was computed")


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_for_any_chunks(case):
    image, mask, coverage = planes((83, 95))
    options = {"exclude_percentile": 60, "fill_value": np.nan, **CASES[case]}
    wanted = values(ours(image.astype(np.float32), (10, 12), mask=mask, coverage_mask=coverage, **options))
    for k, chunks in enumerate(CHUNKINGS):
        masks = {"mask": mask, "coverage_mask": coverage}
        if k % 2:
            masks = {name: da.from_array(plane, chunks=(30 + k, 40)) for name, plane in masks.items()}
        lazy = Background2D(da.from_array(image.astype(np.float32), chunks=chunks), (10, 12), **masks, **options)
        for name, value in values(lazy).items():
            assert (value.dtype, value.shape) == (wanted[name].dtype, wanted[name].shape), (chunks, name)
            np.testing.assert_array_equal(value, wanted[name], err_msg=f"{chunks} {name}")


@pytest.mark.parametrize("dtype", ["i2", ">f4", "f8"])
def test_lazy_types_without_masks(dtype):
    image = scene().astype(dtype)
    wanted = values(Background2D(image, 20))
    lazy = Background2D(da.from_array(image, chunks=(33, 50)), 20)
    for name, value in values(lazy).items():
        assert getattr(lazy, name).dtype == value.dtype == wanted[name].dtype
        np.testing.assert_array_equal(value, wanted[name])


def test_nothing_is_computed_before_it_is_asked_for():
    with dask.config.set(scheduler=no_scheduler):
        image = da.random.default_rng(1).normal(size=(123, 141), chunks=(50, 60))
        bkg = Background2D(image, 10, mask=image > 2, coverage_mask=image < -3, bkg_rms_estimator=np.nanstd)
        for name in NAMES:
            assert isinstance(getattr(bkg, name), da.Array)
        assert isinstance(bkg.coverage_mask, da.Array)
        for name in ("background", "background_rms", "n_pixels_map"):
            assert getattr(bkg, name).chunks == image.chunks
        for name in ("background_mesh", "background_rms_mesh", "n_pixels_mesh"):
            assert getattr(bkg, name).chunks == ((13,), (15,))
        assert bkg.background_median.shape == ()
        assert "shape=(123, 141)" in repr(bkg)
        with pytest.raises(AssertionError, match="was computed"):
            bkg.background.compute()


@pytest.mark.parametrize("case", CASES)
def test_the_same_work_has_the_same_key(case):
    def names(**more):
        image, mask, _ = planes()
        bkg = Background2D(da.from_array(image, chunks=40), 10, mask=mask, **{**CASES[case], **more})
        return bkg.background.name, bkg.background_mesh.name, bkg.background_median.name, bkg.n_pixels_map.name

    assert names() == names()
    assert not set(names()) & set(names(exclude_percentile=20))


def test_a_lazy_masked_array_brings_its_mask():
    image, mask, _ = planes()
    hidden = np.ma.MaskedArray(image, mask)
    wanted = ours(hidden, 20, exclude_percentile=60)
    lazy = Background2D(da.from_array(hidden, chunks=50, asarray=False), 20, exclude_percentile=60)
    np.testing.assert_array_equal(lazy.n_pixels_mesh.compute(), wanted.n_pixels_mesh)
    np.testing.assert_array_equal(lazy.background.compute(), wanted.background)


def test_a_lazy_image_of_any_box_size_and_one_chunk_larger_boxes():
    image = scene()
    for box in (1, 5, (50, 3), 400):
        lazy = Background2D(da.from_array(image, chunks=(20, 30)), box, filter_size=1)
        np.testing.assert_array_equal(lazy.background.compute(), Background2D(image, box, filter_size=1).background)


def test_lazy_values_are_checked_when_computed():
    nan = Background2D(da.full((60, 60), np.nan, chunks=20), 10)
    masked = Background2D(da.ones((60, 60), chunks=20), 10, mask=np.ones((60, 60), bool))
    for bkg in (nan, masked):
        for name in NAMES:
            with pytest.raises(InputError, match=r"All boxes contain .*36 boxes"):
                getattr(bkg, name).compute()


def test_lazy_errors_that_need_no_values_come_at_once():
    image = da.ones((60, 60), chunks=20)
    for options, words in (
        ({"interpolator": nearest}, "dask image is lazy"),
        ({"mask": np.zeros((3, 3))}, "same shape"),
        ({"filter_size": 2}, "odd"),
    ):
        with pytest.raises(ValueError, match=words):
            Background2D(image, 10, **options)
    with pytest.raises(InputError, match="cannot hold"):
        Background2D(NDData(image, unit="ct"), 10)
    with pytest.raises(InputError, match=r"unknown size.*compute_chunk_sizes"):
        Background2D(image[image.sum(axis=1) > 0], 10)


def test_bad_lazy_pixels_do_not_warn():
    image, mask, _ = planes()
    lazy = Background2D(da.from_array(image, chunks=50), 20, mask=mask, exclude_percentile=60)
    assert np.isfinite(lazy.background.compute()).all()
