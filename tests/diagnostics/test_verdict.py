"""Verdicts: planted faults are caught by the checks made for them; limits come from the recipe."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest

from tests.quality.scenes import TILE, Case, good, planted
from tiledsky import Recipe, estimate_background
from tiledsky.diagnostics import judge, measure, next_step, remarks
from tiledsky.diagnostics.verdict import most_telling, result_of
from tiledsky.errors import ParameterError
from tiledsky.recipe import Checks, Limit

STEPS = [{"kind": "background", "name": "sky", "box_size": 8}]


def measured(case: Case) -> dict[str, Any]:
    return measure(case.image, case.background, case.mask, rms=case.rms, tile=TILE)


def test_a_good_sky_passes_and_every_planted_fault_is_caught() -> None:
    base = good(4)
    found = measured(base)
    assert found["verdict"]["result"] == "pass"
    assert [c["name"] for c in found["verdict"]["checks"]] == Checks.names()
    for fault, (case, check) in planted(4, base).items():
        verdict = measured(case)["verdict"]
        assert verdict["result"] == ("warn" if fault == "sources unmasked" else "fail"), fault
        assert check in [c["name"] for c in verdict["checks"] if c["result"] == verdict["result"]], fault


@pytest.mark.parametrize("recipe", ["sextractor", "complex-sky"])
def test_noise_alone_gives_no_alarm(recipe: str) -> None:
    for seed in range(3):
        image = np.random.default_rng(seed).normal(0, 0.1, (320, 320)).astype(np.float32)
        sky = estimate_background(image, recipe)
        found = measure(image, sky.background, sky.mask, rms=sky.background_rms, tile=(160, 160))
        assert found["verdict"]["result"] == "pass"


def test_limits_of_a_recipe() -> None:
    recipe = Recipe.from_dict({"name": "r", "steps": STEPS, "checks": {"masked_fraction": {"warn": 0.2, "fail": 0.4}}})
    assert recipe.checks.masked_fraction == Limit(warn=0.2, fail=0.4)
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe
    facts = {"image": {"masked_fraction": 0.3, "noise": 1.0}, "measures": {}}
    result = {c["name"]: c["result"] for c in judge(facts, recipe.checks)["checks"]}
    assert result.pop("masked_fraction") == "warn"
    assert set(result.values()) == {"not measured"}
    assert judge(facts)["result"] == "pass"
    with pytest.raises(ParameterError, match="checks: unknown key 'beauty'; known are significance, scale_excess"):
        Recipe.from_dict({"name": "r", "steps": STEPS, "checks": {"beauty": {"fail": 1}}})
    with pytest.raises(ParameterError, match=r"checks.seam: warn 2 is above fail 1, so it would never warn"):
        Recipe.from_dict({"name": "r", "steps": STEPS, "checks": {"seam": {"warn": 2, "fail": 1}}})


def test_what_is_not_significant_does_not_count() -> None:
    limit = Limit(warn=0.1, fail=0.2)
    assert result_of((0.3, 0.05), limit, 3) == "fail"
    assert result_of((-0.15, 0.01), limit, 3) == "warn"
    assert result_of((0.3, 0.11), limit, 3) == "pass"
    assert result_of((0.3, None), limit, 3) == "not measured"
    assert result_of((9.0, 0.0), Limit(fail=None, warn=1), 3) == "warn"


def test_advice_names_another_recipe_than_the_one_that_was_used() -> None:
    for name in Checks.names():
        for recipe in ("deep-sky", "extended-light"):
            assert recipe not in next_step(name, recipe)
    assert "deep-sky" in next_step("objects_taken", "complex-sky")
    assert "larger --keep" in next_step("objects_taken", "deep-sky")


def test_what_others_follow_from_comes_first_then_what_is_farthest_beyond_its_limit() -> None:
    rows = [
        {"name": name, "value": value, "warn": 1.0, "fail": 2.0, "result": result}
        for name, value, result in (
            ("scale_excess", 1.5, "warn"),
            ("negative_area", -3.0, "fail"),
            ("seam", 0.0, "pass"),
            ("worst_block", 9.0, "fail"),
            ("objects_taken", 2.1, "fail"),
        )
    ]
    said = [row["name"] for row in most_telling({"checks": rows})]
    assert said == ["objects_taken", "worst_block", "negative_area", "scale_excess"]


@pytest.mark.parametrize(("masked", "said"), [(0.95, "95% of the image is masked"), (0.85, None)])
def test_an_image_that_is_mostly_object_is_said_with_what_can_be_done(masked: float, said: str | None) -> None:
    found = remarks({"image": {"masked_fraction": masked, "noise": 1.0}, "measures": {}})
    if said is None:
        assert not found
    else:
        assert said in found[0]
        assert "--recipe constant or plane" in found[0]
