"""Where a fitted mesh is as narrow as it can be, so that it may follow what is no sky."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import Check, ImageSums, Measure, exact

#: Bandwidths up to this many times the narrowest count as the narrowest.
_AT = 1.1

DEFINITION = (
    "cells whose mean bandwidth is within a tenth of the narrowest that the fit may have: there the mesh shows "
    "structure as small as its boxes resolve. That is sky that smaller boxes would follow better, or light of "
    "extended sources that is taken for sky, and lost to them; px"
)


class Fit(Fields):
    """Facts of the fit."""

    share_at_narrowest: Number = None


def finalize(image: ImageSums) -> dict[str, Any] | None:
    """Return the measure; None of a mesh of another kind."""
    bandwidths = image.facts.bandwidths
    if bandwidths is None:
        return None
    cells = narrow = 0
    for part in bandwidths.parts:
        cells += part.size
        narrow += int(np.count_nonzero(part <= _AT * bandwidths.narrowest))
    share = number(narrow / cells, 4)
    return {"narrowest": number(bandwidths.narrowest, 4), "cells": cells, "share_at_narrowest": share}


MEASURE = Measure(
    name="fit",
    definition=DEFINITION,
    fields=Fit,
    finalize=finalize,
    checks=(
        Check(
            "narrow_fit",
            "1",
            lambda found, _: exact(found.share_at_narrowest),
            without_noise=True,
            next_step="use a smaller box_size, or extended-light where large galaxies are to be kept",
        ),
    ),
)
