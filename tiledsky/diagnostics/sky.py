"""Sums of background and residual under masks, outside them, and by distance from their edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.band import LIMIT, SKY_DISTANCE, Band
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import Floats, ratio
from tiledsky.kernels.residual.mask_distance import squared_distance
from tiledsky.kernels.residual.sky_sums import DISTANCE, GROUP, N_GROUPS, OUTSIDE, sky_columns

#: Distances at which bins begin, px: below 0 inside masks.
EDGE_BINS = (
    *(-16, -12, -8, -6, -4, -3, -2, -1),
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56),
    LIMIT,
)
_INSIDE = 16
N_BINS = len(EDGE_BINS) - 1


def _tables() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bin of each squared distance, of sky pixels and of masked ones; the next pixel is 1 px away."""
    edges = np.array(EDGE_BINS)
    zero = EDGE_BINS.index(0)
    out = np.sqrt(np.arange((LIMIT + 1) ** 2)) - 1  # pixels side by side are 1 px apart, and at distance 0 of the edge
    outside = np.searchsorted(edges[zero:], np.maximum(out, 0), side="right") - 1 + zero
    outside[out >= LIMIT - 1] = -1
    inner = np.sqrt(np.arange(_INSIDE**2 + 1))
    inside = np.searchsorted(edges, -inner, side="right") - 1
    inside[inner == 0] = -1
    return outside.astype(np.int8), inside.astype(np.int8)


_OUTSIDE_BINS, _INSIDE_BINS = _tables()


def update(band: Band) -> Floats:
    """Sums of the cells of a band."""
    return sky_columns(
        band.background,
        band.residual,
        band.scaled,
        band.state,
        band.bits,
        band.outside,
        squared_distance(~band.masked, _INSIDE, rows=band.inner[0]),
        band.around,
        tables=(_OUTSIDE_BINS, _INSIDE_BINS),
        nearest=SKY_DISTANCE**2,
        n_bins=N_BINS,
        origin=band.origin,
        cells=band.cells,
    )


SKY = Cells("sky", OUTSIDE + GROUP * N_GROUPS + DISTANCE * N_BINS, update)


def offset(sums: Floats) -> Floats:
    """Background minus what the sky around predicts where there is no mask: what all places have in common."""
    return ratio(sums[..., 4], sums[..., 3])
