"""Facts of the image, which measures are in units of; written beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.patches import number, patch_size
from tiledsky.diagnostics.protocol import Check, ImageSums, Measure, exact
from tiledsky.diagnostics.residual import noise_of
from tiledsky.diagnostics.sky import SKY
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.kernels.residual.sky_sums import OUTSIDE


class Image(Fields):
    """Facts of the image."""

    noise: Number = None
    masked_fraction: Number = None
    invalid_fraction: Number = None
    bunit: str | None = None


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the facts."""
    shape, sums = image.shape, image.sums(SKY).sums
    outside, masked = sums[:, :, 0].sum(), sums[:, :, OUTSIDE].sum()
    counted = outside + masked
    return {
        "shape": list(shape),
        "noise": number(noise_of(image)),
        "noise_unit": "image",
        "bunit": image.facts.unit,
        "masked_fraction": number(float(masked / counted)) if counted else None,
        "invalid_fraction": number(1 - float(counted) / (shape[0] * shape[1])),
        "patch": patch_size(shape),
        "n_patches": int(np.prod(sums.shape[:2])),
        "cell": CELL,
    }


MEASURE = Measure(
    name="image",
    definition="",
    fields=Image,
    finalize=finalize,
    parts=(SKY,),
    checks=(
        Check(
            "masked_fraction",
            "1",
            lambda found, _: exact(found.masked_fraction),
            without_noise=True,
            next_step="raise n_sigma or lower grow of the tiers; a galaxy that fills the image: try plane or constant",
        ),
    ),
)
