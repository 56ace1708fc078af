"""Whole recipes: stage by stage against scipy, astropy and photutils, on made and real images."""

import os
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits

from tests import reference_chain as reference
from tests.arrays.background_cases import maps_of
from tests.notebook_scene import notebook_scene
from tests.operations.surfaces import surfaces
from tiledsky.arrays.estimate import Sky, estimate_background
from tiledsky.containers import float_dtype
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region
from tiledsky.operations.filters import ring_median
from tiledsky.planes import INVALID, USER, base_mask, tier_bit
from tiledsky.recipe import Recipe

COMPLEX = Recipe.load("complex-sky")
BRIGHT_ONLY = Recipe(name="bright-only", steps=COMPLEX.steps[:3])


def _real(name):
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None or not (Path(folder) / name).exists():
        pytest.skip(f"{name} not found: set TILEDSKY_TEST_DATA to the folder with the test images")
    return fits.getdata(Path(folder) / name, memmap=False)


@lru_cache
def _scene(seed):
    return notebook_scene(seed)


def _pixels(sky, name, which=0):
    """Pixels of a background step from the mesh that the result keeps."""
    surface = surfaces(sky.meshes[name], COMPLEX.step(name).interpolator)[which]
    return surface.evaluate(Region.whole(sky.mask.shape))


@dataclass
class Case:
    """An image with its planes."""

    image: np.ndarray
    weight: np.ndarray | None = None
    dq: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def planes(self):
        return {"weight": self.weight, "dq": self.dq, "mask": self.mask}

    @property
    def ignored(self):
        """Pixels that no statistic may use."""
        ignored = ~np.isfinite(self.image.astype(float))
        if self.weight is not None:
            ignored |= ~(self.weight > 0)
        for plane in (self.dq, self.mask):
            if plane is not None:
                ignored |= plane != 0
        return ignored


def _plain(seed=5, dtype=np.float32):
    return Case(_scene(seed).scene[:310, :333].astype(dtype))


def _holes():
    """NaN (a band, a large hole, single pixels), infinity, no weight, flags and a user's mask."""
    rng = np.random.default_rng(11)
    image = _scene(4).scene[500:800, 300:647].astype(np.float32)
    image[:, :9] = np.nan
    image[120:190, 200:260] = np.nan
    image[rng.random(image.shape) < 0.003] = np.nan
    image[40, 50], image[41, 50] = np.inf, -np.inf
    weight = np.ones(image.shape)
    weight[260:, 100:180] = 0
    weight[30, 30:33] = -1, np.nan, 0
    dq = np.zeros(image.shape, np.uint16)
    dq[200:203] = 4
    mask = np.zeros(image.shape, bool)
    mask[60:90, 300:330] = True
    return Case(image, weight, dq, mask)


CASES = {
    "scene": _plain,
    "scene of float64": partial(_plain, 8, np.float64),
    "holes": _holes,
    "2mass": lambda: Case(_real("2mass_gc_k.fits")[:300, 200:510]),
    "bolocam": lambda: Case(_real("bolocam_gc.fits")[-300:, 240:560]),
    "m51": lambda: Case(_real("m51_kpno.fits")[100:420, 90:400]),
    "spitzer": lambda: Case(_real("spitzer_glimpse_irac.fits")[:300, :320]),
    "ztf": lambda: Case(_real("ztf_000655_zr_c13_q3_sci.fits")[1000:1600, 1200:1800]),
}


@dataclass
class Stages:
    """A case and everything that tiledsky makes of it."""

    case: Case
    image: np.ndarray
    ignored: np.ndarray
    ring: np.ndarray
    bright: np.ndarray
    sky: Sky


@lru_cache
def _stages(name):
    case = CASES[name]()
    image = np.ascontiguousarray(case.image, float_dtype(case.image.dtype))
    ring = ring_median(image, radius_in=15, width=5, mask=case.ignored)
    sky = estimate_background(case.image, "complex-sky", **case.planes)
    first = estimate_background(case.image, BRIGHT_ONLY, **case.planes)
    return Stages(case, image, case.ignored, ring, (first.mask & tier_bit(0)) != 0, sky)


@pytest.fixture(params=CASES)
def stages(request):
    return _stages(request.param)


def _assert_same_but_on_the_threshold(found, search):
    """Masks are one but for pixels whose smoothed value is within 1e-6 of the noise from the threshold."""
    with np.errstate(invalid="ignore"):
        beside = abs(search.smoothed - search.threshold) > 1e-6 * search.noise
    assert not ((found != search.found) & beside).any()
    assert np.count_nonzero(~beside & np.isfinite(search.smoothed)) < 5
    assert 0 < search.found.mean() < 0.9


def test_the_ring_median_is_scipys(stages):
    expected = reference.ring_median(stages.image, stages.ignored)
    assert np.array_equal(stages.ring, expected, equal_nan=True)


def test_the_base_mask_holds_what_is_invalid(stages):
    case = stages.case
    bits = base_mask(stages.image, weight=case.weight, dq=case.dq, user_mask=case.mask)
    assert np.array_equal(stages.sky.mask & (INVALID | USER), bits)
    assert np.array_equal(bits != 0, stages.ignored)


def test_the_first_mask_is_astropys(stages):
    detection = reference.detection_image(stages.image, stages.ring, stages.ignored)
    _assert_same_but_on_the_threshold(stages.bright, reference.bright_search(detection, stages.ignored))


def _reference_background(stages, name):
    """Background2D given the mask that tiledsky found."""
    found = stages.bright if name != "bkg5" else (stages.sky.mask & ~(INVALID | USER)) != 0
    options = {
        "bkg3": {"box_size": 10, "filter_size": 5},
        "bkg4": {"box_size": 10, "filter_size": 5, "power": 1},
        "bkg5": {"box_size": 6, "filter_size": 3, "power": 0},
    }[name]
    image = np.where(stages.ignored, 0, stages.image).astype(stages.image.dtype)
    return reference.background(image, found | stages.ignored, **options)


@pytest.mark.parametrize("name", ["bkg3", "bkg5"])
def test_median_meshes_are_photutils(stages, name):
    expected, mesh = _reference_background(stages, name), stages.sky.meshes[name]
    assert np.array_equal(mesh.background, expected.background_mesh)
    assert np.array_equal(mesh.excluded, expected._mesh_nan_mask)
    assert np.array_equal(mesh.n_good, expected.n_pixels_mesh)
    scale = np.median(mesh.rms)
    np.testing.assert_allclose(mesh.rms, expected.background_rms_mesh, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("name", ["bkg3", "bkg4", "bkg5"])
def test_backgrounds_are_photutils(stages, name):
    step, mesh = COMPLEX.step(name), stages.sky.meshes[name]
    expected = _reference_background(stages, name)
    atol = 1e-5 * float(np.median(mesh.rms))
    tied = np.zeros(stages.image.shape, bool)
    box = step.box_size[0]
    if step.interpolator.kind == "idw":
        tied = reference.tied_pixels(~mesh.excluded, box, stages.image.shape)
        assert tied.mean() < 0.75
    for which, pixels in ((0, expected.background), (1, expected.background_rms)):
        ours = _pixels(stages.sky, name, which)
        assert ours.dtype == stages.image.dtype
        np.testing.assert_allclose(ours[~tied], pixels[~tied], rtol=0, atol=atol)
        if tied.any():
            cells = (mesh.background, mesh.rms)[which]
            ends = reference.bounds_of_ties(
                cells, ~mesh.excluded, box, np.argwhere(tied), power=step.interpolator.power
            )
            for result in (ours[tied], pixels[tied]):
                assert (result >= ends[0] - atol).all()
                assert (result <= ends[1] + atol).all()


def test_the_result_is_the_last_step(stages):
    sky = stages.sky
    assert np.array_equal(sky.background, _pixels(sky, "bkg5"))
    assert np.array_equal(sky.background_rms, _pixels(sky, "bkg5", 1))
    assert np.array_equal(sky.background_error, _pixels(sky, "bkg5", 2))
    assert (sky.background_error > 0).all()
    assert np.array_equal(sky.subtracted, stages.image - sky.background, equal_nan=True)
    assert np.isfinite(sky.background).all()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_tiers_are_photutils(stages, index):
    sky = _pixels(stages.sky, "bkg4")
    detection = reference.detection_image(stages.image, sky, stages.ignored)
    fwhm, radius = reference.TIERS[index]
    search = reference.tier_search(detection, stages.ignored, fwhm)
    bits = (stages.sky.mask & tier_bit(index)) != 0
    close = abs(search.smoothed - search.threshold) <= 1e-6 * search.noise
    assert np.count_nonzero(close) < 5
    expected = reference.grown_tophat(search.found, radius)
    # a pixel on the threshold decides on its component and on what that grows over: leave out all that is near it
    near = reference.ndimage.binary_dilation(close, iterations=2 * int(radius) + 6) if close.any() else close
    assert np.array_equal(bits[~near], expected[~near])
    assert 0 < expected.mean() < 0.95


def test_sextractor_is_photutils(stages):
    sky = estimate_background(stages.case.image, "sextractor", **stages.case.planes)
    expected = reference.sextractor(np.where(stages.ignored, 0, stages.image).astype(float), stages.ignored)
    mesh = sky.meshes["mesh64"]
    rms = expected.background_rms_mesh
    rounding = np.spacing(abs(expected.background_mesh).astype(stages.image.dtype))  # ours is rounded to that type
    assert (abs(mesh.background - expected.background_mesh) <= 1e-6 * rms + rounding).all()
    assert (abs(mesh.rms - rms) <= 1e-6 * rms).all()
    for ours, theirs in zip((sky.background, sky.background_rms), maps_of(expected), strict=True):
        assert (abs(ours - theirs) <= 1e-5 * np.median(rms)).all()
    assert np.array_equal(sky.mask != 0, stages.ignored)


def test_inputs_are_not_changed_and_byte_order_does_not_matter():
    case = _holes()
    before = {k: v.copy() for k, v in {"image": case.image, **case.planes}.items()}
    sky = estimate_background(case.image, "complex-sky", **case.planes)
    for name, plane in {"image": case.image, **case.planes}.items():
        assert np.array_equal(plane, before[name], equal_nan=plane.dtype.kind == "f")
    swapped = estimate_background(case.image.astype(">f4"), "complex-sky", **case.planes)
    assert np.array_equal(swapped.background, sky.background)
    assert np.array_equal(swapped.mask, sky.mask)


def test_dask_input_is_not_computed():
    def never(block):
        raise AssertionError("computed")

    image = da.map_blocks(never, chunks=((40, 40), (50, 30)), dtype="f4", meta=np.empty((0, 0), "f4"))
    sky = estimate_background(image, "complex-sky")
    assert (
        sky.background.chunks == sky.background_rms.chunks == sky.mask.chunks == sky.subtracted.chunks == image.chunks
    )
    assert (sky.background.dtype, sky.mask.dtype) == (np.float32, np.uint8)


def test_masked_values_do_not_matter():
    case = _holes()
    other = Case(np.where(case.ignored, np.float32(1e6), case.image), mask=case.ignored)
    sky = estimate_background(other.image, "complex-sky", mask=other.mask)
    assert np.array_equal(sky.background, _stages("holes").sky.background)
    assert np.array_equal(sky.mask & ~(INVALID | USER), _stages("holes").sky.mask & ~(INVALID | USER))


def test_what_cannot_work_is_refused():
    image = _plain().image[:70, :70]
    for name in ("weight", "dq", "mask"):
        with pytest.raises(InputError, match=f"{name} .* and image .* differ in shape"):
            estimate_background(image, "complex-sky", **{name: np.ones((3, 3))})
    with pytest.raises(InputError, match="there is no sky to measure"):
        estimate_background(np.full((70, 70), np.nan), "sextractor")
    with pytest.raises(InputError, match="no sky to measure"):
        estimate_background(image, "sextractor", weight=np.zeros_like(image))
    with pytest.raises(InputError, match="box of 64 x 64 px is larger than"):
        estimate_background(image[:50], "sextractor")
    with pytest.raises(ParameterError, match="3 axes"):
        estimate_background(np.ones((3, 70, 70)), "sextractor")
    with pytest.raises(ParameterError, match="no recipe 'nonsense'"):
        estimate_background(image, "nonsense")
    lazy = estimate_background(da.full((70, 70), np.nan, chunks=40), "sextractor")
    with pytest.raises(InputError, match="no sky to measure"):
        lazy.background.compute()
