"""Measure 11: where a fitted mesh is as narrow as it can be, so that it may follow what is no sky."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import Check, Gathered, Measure, exact

#: Bandwidths up to this many times the narrowest count as the narrowest.
_AT = 1.1

DEFINITION = (
    "cells whose mean bandwidth is within a tenth of the narrowest that the fit may have: there the mesh shows "
    "structure as small as its boxes resolve. That is sky that smaller boxes would follow better, or light of "
    "extended sources that is taken for sky, and lost to them; px"
)


def fit_facts(bandwidths: Iterable[NDArray[Any]], *, narrowest: float) -> dict[str, Any]:
    """Share of cells at the narrowest bandwidth.

    Parameters
    ----------
    bandwidths : iterable of ndarray
        Parts of the map of a `tiledsky.operations.mesh.Mesh`, pixels, each cell in one of them.
    narrowest : float
        Of the fit, pixels.

    Returns
    -------
    dict
        ``definition``, ``narrowest``, ``cells``, ``share_at_narrowest``.
    """
    cells = narrow = 0
    for part in bandwidths:
        cells += part.size
        narrow += int(np.count_nonzero(part <= _AT * narrowest))
    share = number(narrow / cells, 4)
    return {"definition": DEFINITION, "narrowest": number(narrowest, 4), "cells": cells, "share_at_narrowest": share}


class Fit(Fields):
    """Facts of the fit."""

    share_at_narrowest: Number = None


def finalize(gathered: Gathered) -> dict[str, Any] | None:
    """Return the measure; None of a mesh of another kind."""
    given = gathered.known.bandwidths
    return None if given is None else fit_facts(given.parts, narrowest=given.narrowest)


MEASURE = Measure(
    name="fit",
    definition=DEFINITION,
    fields=Fit,
    finalize=finalize,
    checks=(Check("narrow_fit", "1", lambda found, _: exact(found.share_at_narrowest), without_noise=True),),
)
