"""Objects steps in recipes: what they go on from, what goes on from them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.objects_scene import with_objects
from tiledsky import Recipe
from tiledsky.errors import ParameterError
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
        (({**OBJECTS, "keep": -1}, SKY), {}, "keep: .*greater than or equal to 0"),
        (({**OBJECTS, "keep": 1e9}, SKY), {}, "keep: .*beyond what memory and time are made for; use 20000 or less"),
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


def test_the_recipe_of_the_tests_is_written_and_read():
    made = with_objects(40.0)
    assert "objects" in made.to_toml()
    assert made.objects.keep == 40.0
    assert "half-light radius up to 40 px" in made.objects.words
