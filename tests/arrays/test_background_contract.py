"""Background2D beside photutils' class of this name: errors, warnings, attributes, text, plots."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import photutils
import pytest
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyDeprecationWarning, AstropyUserWarning
from photutils import background as reference

import tiledsky
from tests.arrays.background_cases import ours, planes, scene, theirs
from tiledsky.arrays.background2d import Background2D
from tiledsky.arrays.photutils_objects import INCLUSIVE
from tiledsky.errors import ParameterError
from tiledsky.recipe import ZoomInterpolator

BOTH = pytest.mark.parametrize("cls", [Background2D, reference.Background2D], ids=["ours", "photutils"])
NON_FINITE = r"Input data contains non-?finite \(NaN or infinity\) values"


@BOTH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": np.ones(5)}, r"2-?D|axes"),
        ({"data": np.ones((3, 4, 5))}, r"2-?D|axes"),
        ({"data": np.ones((0, 5))}, "non-?finite|no pixels"),
        ({"data": np.full((30, 30), np.nan)}, "all non-?finite"),
        ({"data": np.full((30, 30), np.inf)}, "all non-?finite"),
        ({"box_size": (5, 5, 3)}, "box_size must have 1 or 2 elements"),
        ({"box_size": ((5, 5), (5, 5))}, "box_size must"),
        ({"box_size": 0}, "box_size must"),
        ({"box_size": (5, -1)}, "box_size must"),
        ({"box_size": 5.5}, "box_size must have integer values"),
        ({"box_size": 10.0}, "box_size must have integer values"),
        ({"box_size": np.nan}, "box_size must"),
        ({"filter_size": (3, 3, 3)}, "filter_size must have 1 or 2 elements"),
        ({"filter_size": 4}, "filter_size must have an odd value"),
        ({"filter_size": (3, 2)}, "filter_size must have an odd value"),
        ({"filter_size": -1}, "filter_size must"),
        ({"filter_size": 3.0}, "filter_size must have integer values"),
        ({"exclude_percentile": -1}, "exclude_percentile must be between 0 and 100"),
        ({"exclude_percentile": 101}, "exclude_percentile must be between 0 and 100"),
        ({"mask": np.zeros((2, 2), bool)}, "data and mask must have the same shape"),
        ({"mask": np.zeros((2, 2, 2), bool)}, "mask must be a 2D array"),
        ({"coverage_mask": np.zeros((30, 29), bool)}, "data and coverage_mask must have the same shape"),
        ({"coverage_mask": np.zeros(30, bool)}, "coverage_mask must be a 2D array"),
        ({"mask": np.ones((30, 30), bool)}, "All input pixels are masked. Cannot compute a background"),
        ({"coverage_mask": np.ones((30, 30), bool)}, "All input pixels are masked. Cannot compute a background"),
        (
            {"mask": np.indices((30, 30))[0] < 15, "coverage_mask": np.indices((30, 30))[0] >= 15},
            "All input pixels are masked. Cannot compute a background",
        ),
        ({"mask": np.indices((30, 30))[1] % 5 < 2}, "boxes"),
    ],
)
def test_errors(cls, options, words):
    arguments = {"data": np.ones((30, 30)), "box_size": 10, **options}
    with pytest.raises(ValueError, match=words) as error:
        cls(arguments.pop("data"), arguments.pop("box_size"), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("n_masked", [9, 10, 11])
@pytest.mark.parametrize("exclude_percentile", [0.0, 10.0, 100.0])
def test_boxes_at_the_limit_of_exclude_percentile(n_masked, exclude_percentile):
    """photutils 3.0 leaves a box with just this share of masked pixels out, 3.1 does not: as the one that is there."""
    image = scene((10, 20))
    mask = np.zeros(image.shape, bool)
    mask[np.arange(n_masked) // 10, np.arange(n_masked) % 10] = True
    mask[:, 10:] = exclude_percentile == 10.0  # then the first box is the only one that can be there
    options = {"sigma_clip": None, "filter_size": 1, "bkg_estimator": reference.MedianBackground()}
    meshes = []
    for cls in (ours, theirs):
        try:
            bkg = cls(image, 10, mask=mask, exclude_percentile=exclude_percentile, **options)
        except ValueError as error:
            meshes.append(str(error).partition("All boxes contain ")[1])
        else:
            meshes.append(bkg.background_mesh.tolist())
    assert meshes[0] == meshes[1]
    assert (meshes[0] == "All boxes contain ") == (
        (exclude_percentile == 0 and not INCLUSIVE) or (exclude_percentile == 10 and n_masked > 10 - (not INCLUSIVE))
    )


@pytest.mark.parametrize("n_threads", [2, 8])
@pytest.mark.parametrize("shape", [(123, 141), (20, 60)], ids=str)
def test_threads_change_no_bit(n_threads, shape):
    image, mask, coverage = planes(shape)
    options = {"mask": mask & (image < 11), "coverage_mask": coverage, "exclude_percentile": 90}
    one, many = (ours(image, (10, 13), n_threads=n, **options) for n in (1, n_threads))
    assert many.n_threads == n_threads
    for name in ("background", "background_rms", "background_mesh", "background_rms_mesh", "n_pixels_map"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


@BOTH
def test_masks_that_are_not_of_bool(cls):
    if not INCLUSIVE and cls is not Background2D:
        pytest.skip("photutils 3.0 takes any mask")
    for name in ("mask", "coverage_mask"):
        with pytest.raises(TypeError, match=f"{name} must be a boolean array"):
            cls(scene(), 20, **{name: np.zeros(scene().shape, np.uint8)})


def test_names_that_photutils_drops():
    with pytest.warns(AstropyDeprecationWarning, match="'bkgrms_estimator' was deprecated"):
        bkg = Background2D(scene(), 20, bkgrms_estimator=reference.MADStdBackgroundRMS())
    assert isinstance(bkg.bkg_rms_estimator, reference.MADStdBackgroundRMS)
    for name, new in (("npixels_mesh", "n_pixels_mesh"), ("npixels_map", "n_pixels_map")):
        with pytest.warns(AstropyDeprecationWarning, match=f"{name} was deprecated; use {new}"):
            np.testing.assert_array_equal(getattr(bkg, name), getattr(bkg, new))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyDeprecationWarning)
        zoom = reference.BkgZoomInterpolator()
    with pytest.warns(AstropyDeprecationWarning, match="'interpolator' was deprecated"):
        Background2D(scene(), 20, interpolator=zoom)
    Background2D(scene(), 20, interpolator=ZoomInterpolator())  # ours stays: a warning would be an error here


def test_the_tests_of_photutils(tmp_path):
    """photutils' own tests of its class, as installed, on ours; those of its private paths left out."""
    version = tuple(int(n) for n in photutils.__version__.split(".")[:2])
    if version not in ((3, 0), (3, 1)) and not os.environ.get("TILEDSKY_TEST_NEWEST"):
        pytest.skip(f"the tests of photutils {photutils.__version__} are not known yet; make test-newest runs them")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "ours_instead.py").write_text(
        "from tiledsky.arrays.background2d import Background2D\n\n\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for module in {item.module for item in items}:\n"
        "        module.Background2D = Background2D\n"
    )
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-c", "pytest.ini", "-p", "ours_instead", "-p", "no:cacheprovider"),
            *("-k", "not TestFastBoxStatistics", "--pyargs", "photutils.background.tests.test_background_2d"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(tiledsky.__file__).parents[1])])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) >= 50


@BOTH
def test_almost_nothing_finite_warns_and_fails(cls):
    image = np.full((30, 30), np.nan)
    image[0, 0] = 1
    with pytest.warns(AstropyUserWarning, match=NON_FINITE), pytest.raises(ValueError, match="boxes"):
        cls(image, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma_clip": 3.0}, "sigma_clip=3.0 cannot clip"),
        ({"bkg_estimator": "median"}, "bkg_estimator='median' cannot be called"),
        ({"bkg_rms_estimator": 1}, "bkg_rms_estimator=1 cannot be called"),
        ({"interpolator": "zoom"}, "interpolator='zoom' cannot be called"),
        ({"bkg_estimator": lambda values, axis: values}, "returned shape"),
    ],
)
def test_errors_that_photutils_leaves_to_python(options, words):
    with pytest.raises(ParameterError, match=words):
        Background2D(scene(), 20, **options)


def test_complex_data_are_refused():
    with pytest.raises(ParameterError, match="complex128"):
        Background2D(np.ones((30, 30), complex), 10)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_warns_of_bad_pixels_outside_the_masks_only(cls, bad):
    image = scene((50, 60))
    image[20, 10:30] = bad
    spot = ~np.isfinite(image)
    half = np.indices(image.shape)[1] < 20
    with pytest.warns(AstropyUserWarning, match=NON_FINITE) as caught:
        cls(image, 25)
    assert len(caught) == 1
    with pytest.warns(AstropyUserWarning, match=NON_FINITE):
        cls(image, 25, mask=spot & half)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(image, 25, mask=spot)
        cls(image, 25, coverage_mask=spot)
        cls(image, 25, mask=spot & half, coverage_mask=spot & ~half)


@BOTH
@pytest.mark.parametrize("box_size", [25, (23, 22), (100, 100)], ids=str)
def test_inputs_are_not_changed(cls, box_size):
    image, mask, coverage = planes((100, 100))
    copies = [a.copy() for a in (image, mask, coverage)]
    clipped = SigmaClip(sigma=3)
    location, scale = reference.MeanBackground(sigma_clip=clipped), reference.MADStdBackgroundRMS(sigma_clip=clipped)
    options = {"mask": mask, "coverage_mask": coverage, "exclude_percentile": 90}
    with pytest.warns(AstropyUserWarning, match=NON_FINITE):
        bkg = cls(image, box_size, bkg_estimator=location, bkg_rms_estimator=scale, **options)
    assert bkg.background.shape == image.shape
    for given, copy in zip((image, mask, coverage), copies, strict=True):
        np.testing.assert_array_equal(given, copy)
    assert location.sigma_clip is clipped
    assert scale.sigma_clip is clipped
    assert bkg.bkg_estimator.sigma_clip is None


def test_read_only_and_strided_arrays():
    image = scene((60, 80))
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(Background2D(wide, 10).background, Background2D(image, 10).background)
    np.testing.assert_array_equal(Background2D(image.tolist(), 10).background, Background2D(image, 10).background)


def test_attributes_are_those_of_photutils():
    image, mask, coverage = planes((60, 70))
    options = {"mask": mask, "coverage_mask": coverage, "exclude_percentile": 70, "filter_threshold": 2.0}
    a, b = ours(image, (20, 15), **options), theirs(image, (20, 15), **options)
    for name in ("box_size", "filter_size", "fill_value", "exclude_percentile", "filter_threshold", "coverage_mask"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("bkg_estimator", "bkg_rms_estimator"):
        assert repr(getattr(a, name)) == repr(getattr(b, name))
    assert repr(a.sigma_clip) == repr(b.sigma_clip)
    deprecated = {"npixels_mesh", "npixels_map"}
    assert {n for n in dir(reference.Background2D) if n[0] != "_"} - deprecated <= set(dir(a))
    nothing = Background2D(scene(), 20, mask=np.ma.nomask, coverage_mask=np.ma.nomask)
    assert nothing.coverage_mask is None


def test_repr_and_str():
    image = scene((60, 70))
    mask = np.zeros(image.shape, bool)
    for options, masks in (({}, (None, None)), ({"mask": mask}, (0, None)), ({"coverage_mask": mask}, (None, 0))):
        a, b = Background2D(image, 20, **options), theirs(image, 20, **options)
        cut = " bkg_estimator"  # the interpolators that follow are of different classes
        assert repr(a).split(cut)[0].startswith("Background2D(data='<array; shape=(60, 70)>', box_size=array([20, 20])")
        assert repr(a).split(cut)[0].replace(repr(a.sigma_clip), "") == repr(b).split(cut)[0].replace(
            repr(b.sigma_clip), ""
        )
        assert ("mask=None, coverage" not in repr(a)) == (masks[0] is not None)
        assert str(a).startswith("<tiledsky.arrays.background2d.Background2D>\ndata: '<array")


@pytest.mark.parametrize("lazy", [False, True])
def test_plot_meshes(lazy):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    image, mask, _ = planes((60, 70))
    options = {"mask": mask, "exclude_percentile": 50}
    axes = pyplot.figure().subplots(1, 2)
    given = da.from_array(image, chunks=17) if lazy else image
    ours(given, 10, **options).plot_meshes(ax=axes[0], outlines=True, color="red", linewidth=2)
    theirs(image, 10, **options).plot_meshes(ax=axes[1], outlines=True, color="red", linewidth=2)
    (a, b), (pa, pb) = ([ax.collections[0] for ax in axes], [ax.patches for ax in axes])
    np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())
    assert len(pa) == len(pb) == len(a.get_offsets()) < 42
    for one, other in zip(pa, pb, strict=True):
        assert (one.get_xy(), one.get_width(), one.get_height()) == (other.get_xy(), 10, 10)
        assert one.get_edgecolor() == other.get_edgecolor()
        assert one.get_linewidth() == other.get_linewidth() == 2
        assert not one.get_fill()
    Background2D(scene(), 20).plot_meshes()
    assert len(pyplot.gca().collections) >= 1
    pyplot.close("all")
