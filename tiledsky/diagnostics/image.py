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

#: Share of the valid pixels from which an image is mostly object.
_MOSTLY_OBJECT = 0.9


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


def advice(found: Image) -> str | None:
    """One line where next to nothing of the image is sky; None where there is enough."""
    if found.masked_fraction is None or found.masked_fraction < _MOSTLY_OBJECT:
        return None
    return (
        f"{found.masked_fraction:.0%} of the image is masked, so there is next to no sky to measure at this scale; one "
        "object that fills it: --recipe constant or plane follow nothing of it; a crowd: a sky from beside it"
    )


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
            next_step="a galaxy that fills the image: try --recipe constant or plane; else lower grow of the tiers",
        ),
    ),
    advice=advice,
)
