"""What is believed of the measures of a run: all that tiledsky measures, of whatever image."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.report.measured import diagnostics
from tiledsky.diagnostics import judge, measure
from tiledsky.diagnostics.document import Diagnostics

RNG = np.random.default_rng(3)
NOISE = RNG.normal(size=(300, 310)).astype(np.float32)
SPOTS = (RNG.random(NOISE.shape) < 0.02).astype(np.uint8) * 2
IMAGES: dict[str, tuple[Any, Any]] = {
    "noise": (NOISE, None),
    "mask": (NOISE + 30 * SPOTS, SPOTS),
    "constant": (np.ones_like(NOISE), None),
    "all masked": (NOISE, np.full(NOISE.shape, 2, np.uint8)),
    "no data": (np.full_like(NOISE, np.nan), np.ones(NOISE.shape, np.uint8)),
    "tiny": (NOISE[:5, :7], None),
    "one pixel": (NOISE[:1, :1], None),
    "huge": (NOISE * np.float32(1e30), None),
    "holes": (np.where(NOISE < -1, NOISE - 20, NOISE), SPOTS),
}


@pytest.mark.parametrize(("image", "mask"), IMAGES.values(), ids=IMAGES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_measures_of_any_image(image: Any, mask: Any) -> None:
    rms = np.full(image.shape, 1.0, np.float32)
    found = measure(image, np.zeros_like(image), mask, rms=rms, tile=(128, 128))
    text = json.dumps({**found, "verdict": judge(found)})
    Diagnostics.model_validate_json(text, strict=True)


def test_measures_of_a_report() -> None:
    Diagnostics.model_validate_json(json.dumps(diagnostics((150, 180))), strict=True)


def test_measures_with_all_that_is_known() -> None:
    flat = np.ones_like(NOISE)
    found = measure(NOISE, 0 * NOISE, SPOTS, rms=flat, truth=0 * NOISE, error=flat)
    Diagnostics.model_validate_json(json.dumps({**found, "verdict": judge(found)}), strict=True)
