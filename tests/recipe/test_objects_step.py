"""Objects steps in recipes: what they go on from, what goes on from them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tests.objects_scene import with_objects
from tiledsky import Recipe
from tiledsky.errors import InputError, ParameterError
from tiledsky.io.fits.wcs import for_image
from tiledsky.recipe import ObjectsStep


def recipe(*steps: dict[str, Any], **keys: Any) -> Recipe:
    return Recipe.from_dict({"name": "test", "steps": list(steps), **keys})


RING = {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2}
OBJECTS = {"kind": "objects", "name": "large"}
SKY = {"kind": "background", "name": "sky", "box_size": 10}


def mask(name: str = "found", tiers: int = 1, **keys: Any) -> dict[str, Any]:
    return {"kind": "mask", "name": name, "tiers": [{"n_sigma": 3.0}] * tiers, **keys}


def test_it_is_a_mask_with_a_bit_of_its_own():
    made = recipe(RING, mask(tiers=3), OBJECTS, mask("deeper", mask="large"), SKY)
    large, deeper = made.step("large"), made.step("deeper")
    assert isinstance(large, ObjectsStep)
    assert made.mask_for(large) is made.step("found")
    assert (made.first_bit(large), made.first_bit(deeper)) == (4, 5)
    assert made.result_mask is deeper
    assert [made.objects_for(step) for step in made.steps] == [None, None, None, large, large]
    assert made.detection_sky(deeper).name == "ring"
    assert Recipe.from_dict(made.model_dump(exclude_none=True)) == made


def test_a_background_uses_it_by_default_and_may_use_none():
    made = recipe(RING, mask(), OBJECTS, {**SKY, "name": "other", "mask": "none"}, SKY)
    assert made.result_mask is made.objects
    assert made.objects_for(made.step("other")) is None


@pytest.mark.parametrize("steps", [(RING, mask(), OBJECTS, SKY), (OBJECTS, SKY)])
def test_keep_nothing_leaves_no_trace(steps):
    idle = [{**step, "keep": 0} if step is OBJECTS else step for step in steps]
    plain = recipe(*(step for step in steps if step is not OBJECTS))
    assert recipe(*idle).expanded() == plain.expanded()
    assert recipe(*idle, objects_plane=True).expanded() == plain.expanded()


def test_keep_nothing_gives_its_own_mask_to_those_that_use_it():
    idle = {**OBJECTS, "keep": 0, "mask": "first"}
    made = recipe(RING, mask("first"), mask("second"), idle, mask("third", mask="large"), {**SKY, "mask": "large"})
    assert made.expanded().step("third").mask == "first"
    assert made.expanded().result.mask == "first"
    bare = recipe(RING, mask(), {**idle, "mask": "none"}, mask("third", mask="large"), {**SKY, "mask": "large"})
    assert bare.expanded().step("third").mask is None
    assert bare.expanded().result.mask == "none"


def test_cumulative_masks_go_on_from_it():
    made = recipe(RING, mask(), OBJECTS, mask("deeper", 2, mask="large", cumulative=True), SKY).expanded()
    assert made.step("deeper-1").mask == "large"
    assert made.step("deeper").mask == "deeper-1"


@pytest.mark.parametrize(
    ("steps", "keys", "message"),
    [
        ((RING, mask(tiers=6), OBJECTS, SKY), {}, "objects step 'large' needs bit 7 for its objects, .* use fewer"),
        ((OBJECTS, {**OBJECTS, "name": "more"}, SKY), {}, r"objects steps \['large', 'more'\]: .*leave one of them"),
        ((SKY,), {"objects_plane": True}, "objects_plane needs .* objects step, and there is none; leave it out"),
        ((OBJECTS, {**SKY, "name": "large-1"}), {}, "'large-1' could be a part of objects step 'large'.*change one"),
        ((OBJECTS, mask(), SKY), {}, "mask step 'found' has no sky to subtract"),
        ((RING, OBJECTS, mask(minus="large"), SKY), {}, r"subtracts 'large'; earlier steps are \['ring'\]"),
        (({**OBJECTS, "mask": "ring"}, SKY), {}, r"objects 'large' uses mask 'ring'; earlier mask steps are \[\]"),
        (({**OBJECTS, "keep": -1}, SKY), {}, r"keep: keep is from 0 to 20000 px \(got -1"),
        (({**OBJECTS, "keep": 1e9}, SKY), {}, r"keep: keep is from 0 to 20000 px \(got 1000000000"),
        (({**OBJECTS, "keep": float("nan")}, SKY), {}, r"keep: keep is from 0 to 20000 px \(got nan\)$"),
        (({**OBJECTS, "keep": True}, SKY), {}, r"keep: keep is a number of pixels or a text .*\(got True\)$"),
        (({**OBJECTS, "keep": [3]}, SKY), {}, r'keep: keep is a number of pixels or a text such as "30 arcsec"$'),
        (({**OBJECTS, "box_size": 9}, SKY), {}, "unknown key 'box_size'; known are kind, name, mask, keep"),
        (({**OBJECTS, "name": "object_light"}, SKY), {}, "step name 'object_light' is taken"),
    ],
)
def test_refused(steps, keys, message):
    with pytest.raises(ParameterError, match=message):
        recipe(*steps, **keys)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({"bandwidth": 30, "bandwidth_max": 90}, "bandwidth_max limits an automatic bandwidth; use bandwidth"),
        (
            {"bandwidth_min": 90, "bandwidth_max": 30},
            "bandwidth_max 30 is below bandwidth_min 90, .*raise",
        ),
    ],
)
def test_widest_fits_refused(law, message):
    with pytest.raises(ParameterError, match=message):
        recipe({**SKY, "interpolator": {"kind": "local-polynomial", **law}})


@pytest.mark.parametrize("keep", ["30 px", "30", "arcsec", "-3 arcsec", "3e1 arcsec", "inf arcsec", ""])
def test_sizes_that_are_none(keep):
    with pytest.raises(ParameterError, match='keep is a number of pixels or a text such as "30 arcsec"'):
        with_objects(keep)


def test_a_recipe_without_the_step_keeps_nothing():
    with pytest.raises(ParameterError, match="keep = 60: recipe sextractor has no objects step that could keep any"):
        Recipe.load("sextractor").keeping(60)


def test_sizes_on_the_sky():
    """In pixels by the WCS of the image; without one refused."""
    recipe = with_objects("1.5 arcsec")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cd = ("RA---TAN", "DEC--TAN"), (150.0, 2.0), np.diag((-0.06, 0.05)) / 3600
    np.testing.assert_allclose(for_image(recipe, wcs.to_header()).objects.keep, 1.5 / np.sqrt(0.06 * 0.05))
    assert for_image(with_objects(20.0), None).objects.keep == 20.0
    for header in (None, fits.Header()):
        with pytest.raises(InputError, match="gives a size in arcseconds and the image has no celestial WCS"):
            for_image(recipe, header)
    with pytest.raises(ParameterError, match=r"keeps 1\.5 arcsec, which is 1500000 px of 1e-06 arcsec"):
        recipe.on_scale(1e-6)


def test_the_recipe_of_the_tests_is_written_and_read():
    made = with_objects(40.0)
    assert "objects" in made.to_toml()
    assert made.objects.keep == 40.0
    assert "half-light radius up to 40 px" in made.objects.words
