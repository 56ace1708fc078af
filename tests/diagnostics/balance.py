"""Share of the sky's pixels that lie above the background: the example of docs/architecture.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.curve import RESIDUAL, Rows, floats
from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import Floats, jackknife, number, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.kernels.residual.sky_sums import GOOD


class Balance(Fields):
    """What it writes."""

    share: Number = None
    share_error: Number = None


def update(band: Band) -> Floats:
    """Unmasked pixels of each cell, and those above the background."""
    unmasked = band.state == GOOD
    return np.stack([band.cell_sums(unmasked), band.cell_sums(unmasked & (band.residual > 0))], axis=-1)


SUMS = Cells("balance", 2, update)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    found = jackknife(image.sums(SUMS).table(), lambda sums: ratio(sums[..., 1], sums[..., 0])[..., None])
    return {"unit": "1", "share": number(found.value[0]), "share_error": number(found.error[0])}


def _excess(found: Balance, noise: float) -> CheckValue:
    return None if found.share is None else (found.share - 0.5, found.share_error)


def _figure(found: Balance) -> Rows | None:
    value, error = floats([found.share]), floats([found.share_error])
    words = {"title": "Balance", "x_label": "share above", "caption": "It should be half.", "alt": "Share above."}
    return Rows(name="balance", section=RESIDUAL, labels=("sky",), values=value - 0.5, errors=error, **words)


MEASURE = Measure(
    name="balance",
    definition="share of the unmasked pixels that lie above the background",
    fields=Balance,
    finalize=finalize,
    parts=(SUMS,),
    checks=(Check("balance", "1", _excess),),
    figures=(_figure,),
)
