"""Background2D against photutils' class of this name, sep and SExtractor: the numbers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import astropy.units as u
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.utils.exceptions import AstropyDeprecationWarning
from photutils import background as reference

from tests.arrays.background_cases import CLIPS, assert_same, nearest, ours, planes, scene, theirs
from tiledsky import recipe
from tiledsky.arrays.background2d import Background2D
from tiledsky.arrays.photutils_objects import INCLUSIVE
from tiledsky.errors import MaskTypeError

LOCATION = [
    reference.MedianBackground,
    reference.MeanBackground,
    reference.ModeEstimatorBackground,
    reference.MMMBackground,
    reference.SExtractorBackground,
    reference.BiweightLocationBackground,
]
SCALE = [reference.StdBackgroundRMS, reference.MADStdBackgroundRMS, reference.BiweightScaleBackgroundRMS]


@pytest.mark.parametrize("filter_size", [1, 3, (1, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("box_size", [10, (7, 11), (41, 47), (20, 141), 60], ids=str)
def test_equals_photutils_with_holes_masks_and_coverage(box_size, filter_size):
    image, mask, coverage = planes()
    options = {"mask": mask, "coverage_mask": coverage, "fill_value": -3.5, "exclude_percentile": 60}
    options |= {"filter_size": filter_size, "bkg_estimator": reference.MedianBackground()}
    a, b = ours(image, box_size, **options), theirs(image, box_size, **options)
    assert_same(a, b, exact=True)
    assert (a.background[coverage] == -3.5).all()
    assert (a.background_rms[coverage] == -3.5).all()
    assert np.isfinite(a.background[mask]).all()


@pytest.mark.parametrize("shape", [(120, 140), (121, 140), (120, 141), (5, 200), (64, 3)], ids=str)
def test_any_shape_with_the_defaults(shape):
    image = scene(shape)
    assert_same(Background2D(image, (10, 20), exclude_percentile=90), theirs(image, (10, 20), exclude_percentile=90))


@pytest.mark.parametrize("scale", SCALE, ids=lambda c: c.__name__)
@pytest.mark.parametrize("location", LOCATION, ids=lambda c: c.__name__)
@pytest.mark.parametrize("box_size", [(9, 12), 30], ids=str)
def test_every_pair_of_estimators(location, scale, box_size):
    image, mask, _ = planes((100, 93))
    options = {"mask": mask, "exclude_percentile": 50, "bkg_estimator": location(), "bkg_rms_estimator": scale()}
    b = theirs(image, box_size, **options)
    assert_same(ours(image, box_size, **options), b, exact=location is reference.MedianBackground)
    single = ours(image.astype(np.float32), box_size, **options)
    rounded = theirs(image.astype(np.float32).astype(np.float64), box_size, **options)
    assert single.background_mesh.dtype == np.float32
    # of float32 images only the results are rounded: half a unit in the last place of the values near 15
    np.testing.assert_allclose(single.background_mesh, rounded.background_mesh, rtol=2.0**-24, atol=1e-6)
    np.testing.assert_allclose(single.background, rounded.background, rtol=2.0**-23, atol=1e-5)


def test_float32_images_are_measured_in_float64():
    # On a pedestal photutils 3.0 sums float32 in float32. Its own result on float64 is what ours gives on float32.
    image = scene((120, 140), pedestal=3000.0).astype(np.float32)  # whole boxes: nothing is filled
    options = {"filter_size": 1, "bkg_estimator": reference.MeanBackground(), "exclude_percentile": 90}
    exact = theirs(image.astype(np.float64), 20, **options).background_mesh.astype(np.float32)
    np.testing.assert_array_equal(Background2D(image, 20, **options).background_mesh, exact)
    assert INCLUSIVE or not np.array_equal(theirs(image, 20, **options).background_mesh, exact)


@pytest.mark.parametrize(
    "estimators",
    [
        {"bkg_estimator": reference.ModeEstimatorBackground(median_factor=2.5, mean_factor=1.5)},
        {"bkg_estimator": reference.BiweightLocationBackground(c=7.0)},
        {"bkg_rms_estimator": reference.BiweightScaleBackgroundRMS(c=8.0, M=11.0)},
        {"bkg_estimator": np.nanmax, "bkg_rms_estimator": reference.MedianBackground()},
    ],
    ids=["mode-2.5-1.5", "biweight-7", "scale-M", "functions"],
)
def test_estimators_without_a_kernel_are_called(estimators):
    image, mask, _ = planes()
    options = {"mask": mask, "exclude_percentile": 50, **estimators}
    assert_same(ours(image, (12, 17), **options), theirs(image, (12, 17), **options))


@pytest.mark.parametrize("location", [reference.MedianBackground, reference.SExtractorBackground])
@pytest.mark.parametrize("name", CLIPS)
def test_every_clip(name, location):
    image, mask, coverage = planes((85, 79))  # partial boxes on both axes: the corner box is a case of its own
    options = {"mask": mask, "coverage_mask": coverage, "exclude_percentile": 80, "sigma_clip": CLIPS[name]}
    options["bkg_estimator"] = location()
    a, b = ours(image, (10, 12), **options), theirs(image, (10, 12), **options)
    assert_same(a, b, exact=location is reference.MedianBackground)
    assert a.sigma_clip is CLIPS[name]


def test_a_clip_is_any_callable():
    def above_twelve(values, *, axis, masked, copy):
        return np.where(values > 12, np.nan, values)

    image = scene()
    options = {"sigma_clip": above_twelve, "exclude_percentile": 70}
    a = Background2D(image, (17, 20), **options)
    assert_same(a, theirs(image, (17, 20), **options))
    assert a.background_mesh.max() < 12


@pytest.mark.parametrize("threshold", [-1.0, 11.0, 12.0, 99.0])
@pytest.mark.parametrize("filter_size", [1, 3, (3, 5)], ids=str)
def test_filter_threshold(threshold, filter_size):
    image, mask, _ = planes()
    options = {"mask": mask, "filter_size": filter_size, "filter_threshold": threshold, "exclude_percentile": 50}
    options["bkg_estimator"] = reference.MedianBackground()
    a = ours(image, 10, **options)
    assert_same(a, theirs(image, 10, **options), exact=True)
    all_filtered = ours(image, 10, **{**options, "filter_threshold": None})
    assert (a.background_mesh == all_filtered.background_mesh).all() == (filter_size == 1 or threshold == -1.0)


@pytest.mark.parametrize("percentile", [1, 10, 30, 50, 90, 99, 100])
def test_boundary_of_exclude_percentile(percentile):
    # box k of the first row lacks exactly k of its 100 pixels, so the percentage is met exactly in one of them
    image = scene((20, 1010))
    mask = np.zeros(image.shape, bool)
    for k in range(101):
        mask[:10, 10 * k : 10 * (k + 1)] = (np.arange(100) < k).reshape(10, 10)
    options = {"mask": mask, "exclude_percentile": percentile, "filter_size": 1, "sigma_clip": None}
    options["bkg_estimator"] = reference.MedianBackground()
    a, b = Background2D(image, 10, **options), theirs(image, 10, **options)
    np.testing.assert_array_equal(a._mesh.excluded, b._mesh_nan_mask)
    # the box exactly at the boundary is out with 3.0 and in with 3.1, unless the percentage is rounded to a pixel and a
    # bit (as in 1 - 99 / 100.0) or to a bit less (90); one without a pixel is always out
    kept = percentile not in (99, 100) if INCLUSIVE else percentile == 90
    assert a._mesh.excluded[0].sum() == 101 - percentile - kept
    np.testing.assert_array_equal(a.background_mesh, b.background_mesh)


@pytest.mark.parametrize("box_size", [(123, 141), 500, (30, 1000), (1000, 47)], ids=str)
def test_one_box_and_boxes_larger_than_the_image(box_size):
    image = scene()
    a, b = Background2D(image, box_size), theirs(image, box_size)
    assert_same(a, b)
    np.testing.assert_array_equal(a.box_size, b.box_size)


def test_boxes_of_one_pixel():
    image = scene((9, 13))
    a = Background2D(image, 1, filter_size=1)
    np.testing.assert_array_equal(a.background_mesh, image)
    assert (a.background_rms == 0).all()
    np.testing.assert_allclose(a.background, image, rtol=1e-10)  # what the spline prefilter of scipy leaves


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u1", "i4", "i8", "f4", ">f4", "f8", ">f8"])
def test_types(dtype):
    image = scene().round().astype(dtype)
    options = {"bkg_estimator": reference.MedianBackground()}
    a, b = Background2D(image, (20, 30), **options), theirs(image, (20, 30), **options)
    wanted = np.dtype(dtype).newbyteorder("=") if dtype[-2] == "f" else np.dtype(np.float32)
    assert a.background.dtype == a.background_rms.dtype == a.background_mesh.dtype == wanted
    # float32 reference: its zoom works in float32, and rounds near 12 by 1e-6
    assert_same(a, b, exact=True, map_tolerance=1e-5 if wanted == np.float64 else 2e-5)


def test_half_and_long_floats_are_worked_in_the_next_float():
    image = scene()
    assert Background2D(image.astype(np.float16), 20).background.dtype == np.float32
    assert Background2D(image.astype(np.longdouble), 20).background.dtype == np.float64


@pytest.mark.parametrize("kind", ["quantity", "nddata", "ccddata"])
def test_units(kind):
    image = scene().astype(np.float32)
    given = {"quantity": u.Quantity, "nddata": NDData, "ccddata": CCDData}[kind](image, unit="ct")
    bare, a, b = Background2D(image, 20), Background2D(given, 20), theirs(given, 20)
    for name in ("background", "background_rms", "background_mesh", "background_rms_mesh"):
        x, y = getattr(a, name), getattr(b, name)
        assert isinstance(x, u.Quantity)
        assert (x.unit, x.dtype) == (y.unit, y.dtype)
        np.testing.assert_array_equal(x.value, getattr(bare, name))
    for name in ("background_median", "background_rms_median"):
        assert getattr(a, name) == getattr(bare, name) * u.ct
    unitless = Background2D(NDData(image), 20).background
    assert type(unitless) is np.ndarray
    np.testing.assert_array_equal(unitless, bare.background)


def test_a_masked_array_brings_its_mask():
    image, mask, coverage = planes()
    hidden = np.ma.MaskedArray(image, np.random.default_rng(0).random(image.shape) < 0.1)
    options = {"mask": mask, "coverage_mask": coverage, "exclude_percentile": 60}
    a = ours(hidden, 20, **options)
    np.testing.assert_array_equal(a.n_pixels_mesh, theirs(hidden, 20, **options).n_pixels_mesh)
    b = ours(image, 20, **{**options, "mask": mask | hidden.mask})
    np.testing.assert_array_equal(a.background, b.background)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, object])
def test_masks_of_other_types_are_refused(dtype):
    image, mask, coverage = planes()
    for name, values in (("mask", mask), ("coverage_mask", coverage)):
        with pytest.raises(MaskTypeError, match=f"{name} must be a boolean array, not of {np.dtype(dtype)}"):
            ours(image, 20, **{name: values.astype(dtype)})


@pytest.mark.parametrize("fill_value", [0.0, np.nan, -1])
def test_fill_value(fill_value):
    image, _, coverage = planes()
    options = {"coverage_mask": coverage, "fill_value": fill_value, "exclude_percentile": 60}
    a = ours(image, 20, **options)
    np.testing.assert_array_equal(a.background[coverage], fill_value)
    assert np.isfinite(a.background[~coverage]).all()
    assert a.coverage_mask is coverage
    assert_same(a, theirs(image, 20, **options))


def _old(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyDeprecationWarning)
        return getattr(reference, name)(**options)


class WeightInterpolator(reference.BkgIDWInterpolator):
    """A subclass: called, with the positions of the boxes."""

    def __init__(self):
        self.leafsize, self.n_neighbors, self.power, self.regularization = 10, 3, 2.0, 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: _old("BkgZoomInterpolator"),
        lambda: _old("BkgZoomInterpolator", clip=False),
        lambda: _old("BkgZoomInterpolator", order=1, mode="nearest"),
        lambda: WeightInterpolator(),
        lambda: nearest,
    ],
    ids=["zoom", "zoom-unclipped", "zoom-1-nearest", "subclass", "function"],
)
def test_interpolators_of_photutils(make):
    image, mask, coverage = planes()
    options = {"mask": mask, "coverage_mask": coverage, "exclude_percentile": 60, "interpolator": make()}
    assert_same(ours(image, (12, 17), **options), theirs(image, (12, 17), **options))


def test_models_of_a_recipe_are_interpolators():
    image = scene()
    for model, old in (
        (recipe.ZoomInterpolator(clip=False), _old("BkgZoomInterpolator", clip=False)),
        (recipe.IDWInterpolator(n_neighbors=5, power=2), _old("BkgIDWInterpolator", n_neighbors=5, power=2)),
    ):
        a = Background2D(image, 10, interpolator=model)
        assert a.interpolator is model
        np.testing.assert_array_equal(a.background, ours(image, 10, interpolator=old).background)
    b = Background2D(image, 10)
    assert b.interpolator == recipe.ZoomInterpolator()


def test_idw_equals_photutils_where_no_boxes_tie_for_the_last_place():
    image, mask, _ = planes((60, 70))
    n, box = 4, np.array((10, 10))
    options = {"mask": mask, "exclude_percentile": 50, "interpolator": _old("BkgIDWInterpolator", n_neighbors=n)}
    a, b = ours(image, box, **options), theirs(image, box, **options)
    centres = 2 * np.argwhere(~b._mesh_nan_mask) * box + box - 1
    pixels = np.stack(np.indices(image.shape), -1)
    squares = np.sort(((2 * pixels[:, :, None] - centres) ** 2).sum(-1), axis=-1)
    alone = squares[..., n - 1] < squares[..., n]
    assert 0.5 < alone.mean() < 1
    assert np.abs(a.background - b.background)[alone].max() <= 1e-9


def real(name, extension=0):
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None:
        pytest.skip("TILEDSKY_TEST_DATA is not set: no real images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old headers
        return fits.getdata(Path(folder) / name, extension)


@pytest.mark.parametrize("location", [reference.MedianBackground, reference.SExtractorBackground])
@pytest.mark.parametrize(
    ("name", "extension", "box_size"),
    [
        ("sep_ntt_image.fits", 0, 64),
        ("2mass_gc_k.fits", 0, (30, 40)),
        ("bolocam_gc.fits", 0, 25),
        ("spitzer_glimpse_irac.fits", 0, (19, 50)),
        ("m51_kpno.fits", 0, 33),
        ("herschel_spire_plw.fits.gz", 1, 10),
    ],
)
def test_real_images(name, extension, box_size, location):
    image = real(name, extension)
    options = {"bkg_estimator": location(), "exclude_percentile": 40}
    # in float64: photutils sums and zooms float32 in float32, on these pedestals the larger of the two errors
    a, b = (f(image.astype(np.float64), box_size, **options) for f in (ours, theirs))
    assert_same(a, b, exact=location is reference.MedianBackground)
    if location is reference.MedianBackground:
        a, b = ours(image, box_size, **options), theirs(image, box_size, **options)
        np.testing.assert_array_equal(a.background_mesh, b.background_mesh)
    lazy = Background2D(da.from_array(image, chunks=(111, 150)), box_size, **options)
    np.testing.assert_array_equal(lazy.background.compute(), ours(image, box_size, **options).background)


def test_close_to_sep_on_smooth_sky():
    # Another estimator of the same sky: clips about the mean, takes the mode of a histogram, and its spline runs on
    # beyond the outermost centres. Each box has an error of 1.3 / 64 of the rms, and the two errors are not the same.
    sep = pytest.importorskip("sep")
    y, x = np.mgrid[:512, :512]
    sky = 100 + 3 * np.sin(x / 160) * np.cos(y / 130)
    image = (np.random.default_rng(0).normal(0, 5, sky.shape) + sky).astype(np.float32)
    a, b = Background2D(image, 64, filter_size=3), sep.Background(image, bw=64, bh=64, fw=3, fh=3)
    inside = (slice(32, -32),) * 2  # within the outermost centres
    assert np.abs(a.background - b.back())[inside].max() < 0.2 * 5
    assert np.median(np.abs(a.background - b.back())) < 0.05 * 5
    assert np.abs(a.background_rms - b.rms()).max() < 0.05 * 5
    assert np.abs(a.background - sky)[inside].max() < 0.3 * 5


def test_close_to_the_check_images_of_sextractor():
    # Only 16 boxes, all with sources, which the programs clip differently: 0.1 of the rms where they are brightest.
    image, back, rms = (real(f"sep_ntt_{n}.fits") for n in ("image", "back_sextractor", "rms_sextractor"))
    noise, inside = np.median(rms), (slice(32, -32),) * 2  # within the outermost centres of boxes
    a = Background2D(image, 64, filter_size=3)
    off = a.background - back
    assert np.abs(off[inside]).max() < 0.15 * noise
    assert off[inside].std() < 0.04 * noise
    assert abs(np.median(off)) < 0.01 * noise
    assert np.abs(a.background_rms - rms)[inside].max() < 0.05 * noise
    # that is well below what there is to find, 0.08 of the rms: the same boxes in other places do not fit at all
    moved = Background2D(np.roll(image, 64, axis=1), 64, filter_size=3).background
    fits_by = [np.corrcoef(b[inside].ravel(), back[inside].ravel())[0, 1] for b in (a.background, moved)]
    assert fits_by[0] > 0.9
    assert fits_by[1] < 0.3
