"""Measures 2 and 3: bias of the background under masks, and the background by distance from the edge of the masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.band import LIMIT, SKY_DISTANCE, Band
from tiledsky.diagnostics.patches import Floats, PatchSums, jackknife, number, plain, ratio
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.kernels.residual.mask_distance import squared_distance
from tiledsky.kernels.residual.sky_sums import DISTANCE, GROUP, N_GROUPS, OUTSIDE, sky_columns

NAME, EDGES = "masked_bias", "edges"
#: Distances at which bins begin, px: below 0 inside masks.
EDGE_BINS = (
    *(-16, -12, -8, -6, -4, -3, -2, -1),
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56),
    LIMIT,
)
_INSIDE = 16
N_BINS = len(EDGE_BINS) - 1
COLUMNS = OUTSIDE + GROUP * N_GROUPS + DISTANCE * N_BINS
GROUPS = ("all", "bright", "faint", "tier 1", "tier 2", "tier 3", "tier 4", "tier 5", "tier 6", "user")
#: Light in the rim of a mask that is no more than this, in units of the noise, is none.
RIM_LIGHT = 0.1

DEFINITION = (
    "mean over masked pixels of the background minus the sky that the unmasked pixels around predict there (quadratic "
    "regression, Gaussian of sigma 20 px, pixels at least 4 px from masks), relative to the same over these "
    "unmasked pixels; bright: more than 3 sigma above the background"
)
NOTEBOOK = "mean background under masks minus mean outside; no test of a bias: the sky itself differs between the two"
EDGES_DEFINITION = (
    "by distance from the edge of the masks (below 0: masked pixels, from the nearest unmasked one): mean background "
    "minus the sky that the pixels around predict, as in masked_bias, and mean of image minus background"
)


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
    rows = slice(band.origin[0], band.origin[0] + CELL * band.cells[0])
    return sky_columns(
        band.background,
        band.residual,
        band.scaled,
        band.state,
        band.bits,
        band.outside,
        squared_distance(~band.masked, _INSIDE, rows=rows),
        band.around,
        tables=(_OUTSIDE_BINS, _INSIDE_BINS),
        nearest=SKY_DISTANCE**2,
        n_bins=N_BINS,
        origin=band.origin,
        cells=band.cells,
    )


def offset(sums: Floats) -> Floats:
    """Background minus what the sky around predicts where there is no mask: what all places have in common."""
    return ratio(sums[..., 4], sums[..., 3])


def _group(start: int) -> Any:
    """Bias of a group, and the notebook's difference, of sums of a patch."""

    def of(sums: Floats) -> Floats:
        n, b, known, difference = (sums[..., start + k] for k in range(4))
        bias = ratio(difference, known) - offset(sums)
        return np.stack([bias, ratio(b, n) - ratio(sums[..., 1], sums[..., 0])], axis=-1)

    return of


def finalize(sums: PatchSums) -> dict[str, Any]:
    """Return measure 2."""
    table = sums.table(slice(0, COLUMNS))
    groups = []
    for k, name in enumerate(GROUPS):
        start = OUTSIDE + GROUP * k
        n, _, known, _ = table[:, start : start + GROUP].sum(axis=0)
        if not n:
            continue
        found = jackknife(table, _group(start), holds=start + 2)
        groups.append(
            {
                "name": name,
                "n_pixels": int(n),
                "n_predicted": int(known),
                "n_patches": found.n,
                "bias": number(found.value[0]),
                "error": number(found.error[0]),
                "z": number(found.z[0], 4),
                "notebook": {
                    "definition": NOTEBOOK,
                    "difference": number(found.value[1]),
                    "error": number(found.error[1]),
                    "z": number(found.z[1], 4),
                },
            }
        )
    return {"definition": DEFINITION, "unit": "image", "groups": groups}


def _profile(sums: Floats) -> Floats:
    bins = sums[..., OUTSIDE + GROUP * N_GROUPS :].reshape(*sums.shape[:-1], N_BINS, DISTANCE)
    background = ratio(bins[..., 1], bins[..., 0]) - offset(sums)[..., None]
    return np.concatenate([background, ratio(bins[..., 3], bins[..., 2])], axis=-1)


def finalize_edges(sums: PatchSums, *, noise: float) -> dict[str, Any]:
    """Return measure 3; ``noise`` of a pixel in units of the image."""
    table = sums.table(slice(0, COLUMNS))
    found = jackknife(table, _profile)
    start = OUTSIDE + GROUP * N_GROUPS
    counts = table[:, start:].sum(axis=0).reshape(N_BINS, DISTANCE)[:, 2]
    residual, error = found.value[N_BINS:], found.error[N_BINS:]
    return {
        "definition": EDGES_DEFINITION,
        "unit": "image",
        "distance": list(EDGE_BINS[:-1]),
        "distance_end": list(EDGE_BINS[1:]),
        "n_pixels": [int(n) for n in counts],
        "background": plain(found.value[:N_BINS]),
        "background_error": plain(found.error[:N_BINS]),
        "residual": plain(residual),
        "residual_error": plain(error),
        "idle_rim": {"value": _idle_rim(residual, error, noise), "unit": "px"},
    }


def _idle_rim(residual: Floats, error: Floats, noise: float) -> float | None:
    """Width of the rim of the masks whose mean light is below `RIM_LIGHT`, None without masks."""
    zero = EDGE_BINS.index(0)
    width: float | None = None
    for k in range(zero - 1, -1, -1):
        if not np.isfinite(residual[k]):
            break
        if residual[k] > RIM_LIGHT * noise and residual[k] > 2 * error[k]:
            return float(-EDGE_BINS[k + 1])
        width = float(-EDGE_BINS[k])
    return width
