"""Every preset beside the chain that it is named after, in scipy, astropy and photutils, and in any tiles."""

import tomllib
from functools import lru_cache

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.stats import SigmaClip
from scipy import ndimage

from tests import reference_ceers as ceers
from tests import reference_chain as notebook
from tests.operations.surfaces import surfaces
from tests.recipe import preset_cases as cases
from tests.recipe.preset_cases import SECOND_PASS
from tiledsky import Recipe, estimate_background, run
from tiledsky.geometry import Region
from tiledsky.io.plane_reader import MASK_BITS
from tiledsky.planes import INVALID, SOURCES, tier_bit
from tiledsky.recipe import preset_names, recipe_text
from tiledsky.testing import assert_tile_invariant

PRESETS = tuple(cases.REAL)
MOSAICS = ("ceers-nircam", "ceers-hst-f606w", "ceers-hst-f814w", "ceers-hst-ir")
KINDS = ("scene", "real")

# an image cut out of the scene for what is repeated with each tiling; all of the holes are in it but for the corners
SMALL = (slice(70, 240), slice(0, 190))
TILINGS = (((61, 108, 1), (97, 93)), (170, (1, 52, 137)), (57, 71))


@lru_cache
def _sky(preset, kind):
    case = cases.case(preset, kind)
    return estimate_background(case.image, preset, **case.planes)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def _assert_same_but_on_the_threshold(ours, found):
    """Masks are one but for pixels whose smoothed value is within 1e-6 of the noise from the threshold."""
    search = found.search
    with np.errstate(invalid="ignore"):
        close = abs(search.smoothed - search.threshold) <= 1e-6 * search.noise
    assert np.count_nonzero(close) < 5
    # a pixel on the threshold decides on its group, and on what that grows over
    near = ndimage.distance_transform_edt(~close) <= found.reach + 20 if close.any() else close
    assert np.array_equal(ours[~near], found.mask[~near])


def _assert_background(preset, kind):
    """Background and rms are photutils', outside the mask that was found."""
    case, sky, step = cases.case(preset, kind), _sky(preset, kind), Recipe.load(preset).result
    mesh = sky.meshes[step.name]
    expected = cases.expected_background(preset, case, sky.mask != 0)
    assert np.array_equal(mesh.excluded, expected._mesh_nan_mask)
    assert mesh.excluded.mean() < 0.75
    atol = 1e-5 * float(np.median(mesh.rms))
    left = np.ones(case.image.shape, bool)  # where the result is to be photutils'
    if preset == SECOND_PASS:
        left = ~case.invalid(None)
        assert (sky.background[~left] == 0).all()
        assert (sky.subtracted[~left] == 0).all()
    tied = np.zeros(case.image.shape, bool)
    box = step.box_size[0]
    if step.interpolator.kind == "idw":
        tied = notebook.tied_pixels(~mesh.excluded, box, case.image.shape)
        assert tied.mean() < 0.75
    rms = None if preset == SECOND_PASS else sky.background_rms
    for ours, theirs, cells in (
        (sky.background, expected.background, mesh.background),
        (rms, expected.background_rms, mesh.rms),
    ):
        if ours is None:
            continue
        where = left & ~tied
        np.testing.assert_allclose(ours[where], theirs[where], rtol=0, atol=atol)
        if tied.any():
            power = step.interpolator.power
            ends = notebook.bounds_of_ties(cells, ~mesh.excluded, box, np.argwhere(tied), power=power)
            assert (ours[tied] >= ends[0] - atol).all()
            assert (ours[tied] <= ends[1] + atol).all()
    assert np.array_equal(sky.subtracted[left], (case.image - sky.background)[left], equal_nan=True)


def _assert_base(preset, kind):
    case, sky = cases.case(preset, kind), _sky(preset, kind)
    invalid = case.invalid(cases.flags(preset))
    assert np.array_equal((sky.mask & INVALID) != 0, invalid)
    assert (kind == "scene") == bool(invalid.any())


def _assert_tiers(preset, kind, expected):
    sky = _sky(preset, kind)
    for index, found in enumerate(expected):
        _assert_same_but_on_the_threshold((sky.mask & tier_bit(index)) != 0, found)
    assert not (sky.mask >> (len(expected) + 1)).any()
    assert 0 < ((sky.mask & SOURCES) != 0).mean() < 0.75


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.startswith("notebook")])
def test_the_notebooks_presets(preset, kind):
    _assert_base(preset, kind)
    case, searched = cases.case(preset, kind), None
    if preset == "notebook-bkg5":
        # the tiers are searched on our bkg4: neighbours that tie may be taken either way
        found = surfaces(_sky(preset, kind).meshes["bkg4"], Recipe.load(preset).step("bkg4").interpolator)
        searched = found[0].evaluate(Region.whole(case.image.shape))
    _assert_tiers(preset, kind, cases.notebook_masks(preset, case, searched))
    _assert_background(preset, kind)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.startswith("ceers") and p != SECOND_PASS])
def test_the_presets_of_ceers(preset, kind):
    _assert_base(preset, kind)
    _, expected = cases.ceers_masks(preset, kind)
    if kind == "scene":
        assert all(found.mask.any() for found in expected)
    _assert_tiers(preset, kind, expected)
    _assert_background(preset, kind)


@pytest.mark.parametrize("preset", ["ceers-nircam", "ceers-nircam-exposure"])
def test_the_ceiling_of_ceers(preset, kind):
    # the recipe up to its ceiling, and a mesh that uses it: the mask of that result
    steps = Recipe.load(preset).steps
    recipe = Recipe(name="ceiling", dq_flags=Recipe.load(preset).dq_flags, steps=(*steps[:2], steps[-1]))
    case, (masks, _) = cases.case(preset, kind), cases.ceers_masks(preset, kind)
    sky = estimate_background(case.image, recipe, **case.planes)
    found = cases.Found(masks.ceiling, masks.ceiling.found, 0)
    _assert_same_but_on_the_threshold((sky.mask & tier_bit(0)) != 0, found)
    assert 0 < masks.ceiling.found.mean() < 0.2


def test_the_second_pass_takes_the_merged_masks(kind):
    _assert_base(SECOND_PASS, kind)
    case, sky = cases.case(SECOND_PASS, kind), _sky(SECOND_PASS, kind)
    assert np.array_equal(sky.mask & SOURCES, case.source_mask & SOURCES)
    assert 0.3 < ((sky.mask & SOURCES) != 0).mean() < 0.75
    _assert_background(SECOND_PASS, kind)


def test_there_are_tests_of_all_presets():
    # those of no published chain: tests/test_accuracy.py, tests/operations/test_global_polynomial.py
    plain = {"constant", "plane", "polynomial"}
    assert {*PRESETS, *plain, "complex-sky", "sextractor", "deep-sky", "mosaic-steps", "extended-light"} == set(
        preset_names()
    )


def test_presets_that_differ_in_their_last_background_alone_have_the_masks_of_deep_sky():
    masks = Recipe.load("deep-sky").steps[:-1]
    *steps, sky = Recipe.load("extended-light").steps
    assert tuple(steps) == masks
    assert (sky.interpolator.order, sky.interpolator.bandwidth_min) == (2, 300.0)
    for order, preset in enumerate(("constant", "plane", "polynomial")):
        *steps, sky = Recipe.load(preset).steps
        assert tuple(steps) == masks
        assert sky.interpolator.order == order


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_says_what_it_is_and_comes_back_from_toml(preset):
    recipe = Recipe.load(preset)
    assert recipe.name == preset
    assert 20 < len(recipe.description) < 110
    assert recipe_text(preset)[0].startswith("# ")  # where its numbers come from
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize("preset", ceers.NUMBERS)
def test_the_numbers_that_pixels_hardly_show(preset):
    # smoothed by 15 pixels no source has less than 15; most boxes need fewer rounds than 5
    numbers, (coarse, _, ring, mask, result) = ceers.NUMBERS[preset], Recipe.load(preset).steps
    assert (ring.radius_in, ring.width) == numbers.ring
    assert tuple(tier.sigma for tier in mask.tiers) == ceers.SIGMAS
    assert tuple(tier.n_sigma for tier in mask.tiers) == numbers.n_sigma
    assert tuple(tier.n_pixels for tier in mask.tiers) == numbers.n_pixels
    assert tuple(tier.grow for tier in mask.tiers) == numbers.grow
    assert (result.box_size[0], result.filter_size[0]) == (numbers.box_size, numbers.filter_size)
    assert coarse.box_size == (100, 100)


@pytest.mark.parametrize("preset", PRESETS)
def test_clips_end_after_the_rounds_of_astropy(preset):
    clipped = [s for s in Recipe.load(preset).steps if s.kind == "background"]
    clipped += [s for s in Recipe.load(preset).steps if s.kind == "mask" and s.tiers[0].noise == "clipped_std"]
    assert {step.clip.maxiters for step in clipped} == {SigmaClip().maxiters}


def test_presets_do_not_differ_in_what_they_share():
    nircam = Recipe.load("ceers-nircam")
    for preset in MOSAICS:
        steps = Recipe.load(preset).steps
        assert steps[:3] == nircam.steps[:3]
        assert steps[4] == nircam.result == Recipe.load(SECOND_PASS).result
    bkg5, bkg4, bkg3 = (Recipe.load(f"notebook-bkg{n}") for n in (5, 4, 3))
    assert bkg5.steps[:3] == bkg4.steps
    assert bkg4.steps[:2] == bkg3.steps[:2]
    assert bkg4.result.model_copy(update={"name": "bkg3", "interpolator": bkg3.result.interpolator}) == bkg3.result


def _small(preset):
    return cases.case(preset, "scene").cut(*SMALL)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_do_not_depend_on_chunks(preset):
    case = _small(preset)

    def build(image, **planes):
        return estimate_background(image, preset, **planes)

    assert_tile_invariant(build, case.image, chunks=TILINGS, **case.planes)


def _write(folder, case):
    """Planes in one FITS file, mask bits in a Zarr array as runs leave them; the arguments of a run."""
    names = {"weight": "WHT", "error": "ERR", "dq": "DQ"}
    path, planes = folder / "planes.fits", dict(case.planes)
    given = {"source": f"{path}:SCI"}
    tiers = planes.pop("source_mask", None)
    if tiers is not None:
        given["mask"] = str(folder / "merged.zarr")
        zarr.create_array(given["mask"], data=tiers, attributes={MASK_BITS: 1})
    hdus = [fits.ImageHDU(plane, name=names[name]) for name, plane in planes.items()]
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(case.image, name="SCI"), *hdus]).writeto(path)
    return given | {name: f"{path}:{names[name]}" for name in planes}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_from_fits_gives_the_same_bits(preset, tmp_path):
    case = _small(preset)
    expected = estimate_background(case.image, preset, **case.planes)
    # 90: a multiple of all boxes but 100, no divisor of the image
    found = run(recipe=preset, out=tmp_path / "run", tile_size=90, **_write(tmp_path, case))
    for name in ("background", "background_rms", "mask", "subtracted"):
        assert np.array_equal(found.plane(name)[...], getattr(expected, name), equal_nan=name != "mask"), name


@pytest.mark.parametrize("preset", ["ceers-nircam", "ceers-nircam-exposure"])
def test_the_ring_of_ceers_is_scipys(preset, tmp_path):
    data = Recipe.load(preset).model_dump(mode="json", exclude_none=True)
    recipe = Recipe.from_dict(data | {"steps": [s | {"keep": s["kind"] == "ring"} for s in data["steps"]]})
    case, (masks, _) = cases.case(preset, "scene"), cases.ceers_masks(preset, "scene")
    found = run(recipe=recipe, out=tmp_path / "run", tile_size=200, **_write(tmp_path, case))
    # equal values, but for the last bit of what the hidden pixels are filled with
    np.testing.assert_allclose(found.plane("ring")[...], masks.ring, rtol=1.2e-7)
    assert np.array_equal(found.plane("mask")[...], _sky(preset, "scene").mask)
