"""All measures: a new one is a module and a line here."""

from __future__ import annotations

from typing import Any

from tiledsky.diagnostics import (
    constants,
    edges,
    exposure_steps,
    image,
    light_kept,
    masked_bias,
    negative,
    objects_taken,
    positions,
    residual,
    scale,
    seams,
    worst,
)
from tiledsky.diagnostics.protocol import Measure

#: Facts of the image, beside the measures.
IMAGE = image.MEASURE
#: In the order in which they are written.
MEASURES: tuple[Measure[Any], ...] = (
    scale.MEASURE,
    masked_bias.MEASURE,
    edges.MEASURE,
    positions.MEASURE,
    negative.MEASURE,
    seams.MEASURE,
    residual.MEASURE,
    worst.MEASURE,
    constants.MEASURE,
    light_kept.MEASURE,
    objects_taken.MEASURE,
    exposure_steps.MEASURE,
)
