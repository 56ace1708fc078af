"""The table of verdicts beside the truth."""

from __future__ import annotations

import numpy as np
import pytest

from tests.accuracy import verdicts
from tests.accuracy.scene import LargeObject, Scene
from tiledsky.recipe import Checks


def _row(rms: float | None, taken: float | None, **checks: tuple[float, float]) -> dict[str, object]:
    return {"scene": "deep", "seed": 1, "size": 9, "recipe": "plane", "rms": rms, "taken": taken, "checks": checks}


def test_what_is_good_and_bad():
    assert verdicts.kind(_row(0.029, None)) == "good"
    assert verdicts.kind(_row(0.031, 0.0)) == "between"
    assert verdicts.kind(_row(None, 0.11)) == verdicts.kind(_row(0.11, -1.0)) == "bad"


def test_truth_is_of_the_pixels_outside_objects_and_of_the_light_within_two_radii():
    shape = (64, 64)
    light = np.zeros(shape)
    large = LargeObject("disc", 20.0, 30.0, 5.0, 1.0, 0.0, light)
    light[large.radii() < 3.0] = 2.0
    scene = Scene(light.astype(np.float32), np.zeros(shape), noise=0.5, light=light, objects=(large,))
    background = np.where(large.radii() < 3.0, 0.4, -0.1)
    found = verdicts.truth(scene, background)
    assert found["rms"] == pytest.approx(0.2)
    assert found["taken"] == pytest.approx(0.2)


def test_the_table_counts_what_is_called_wrongly():
    fails, passes = (30.0, 0.0), (0.0, 0.0)
    rows = [
        _row(0.2, None, worst_block=passes),
        _row(0.2, None, worst_block=fails),
        _row(0.01, None, worst_block=fails),
    ]
    lines = list(verdicts.table(rows, Checks()))
    assert "- bad called pass: 1 of 2 (50.0%)" in lines
    assert "- good called fail: 1 of 1 (100.0%)" in lines
    assert "| worst_block | 0 | 1 | 0 | 0 | 0 | 1 | 1 |" in lines
