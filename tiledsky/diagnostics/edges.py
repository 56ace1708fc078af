"""The background by distance from the edge of the masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tiledsky.diagnostics.curve import BIAS, Curve, Points, errors, floats
from tiledsky.diagnostics.fields import Fields, Numbers
from tiledsky.diagnostics.next_steps import DEEPER, WIDER
from tiledsky.diagnostics.patches import Floats, jackknife, plain, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure, in_noise
from tiledsky.diagnostics.residual import noise_of
from tiledsky.diagnostics.sky import EDGE_BINS, N_BINS, SKY, offset
from tiledsky.kernels.residual.sky_sums import DISTANCE, GROUP, N_GROUPS, OUTSIDE

#: Light in the rim of a mask that is no more than this, in units of the noise, is none.
RIM_LIGHT = 0.1

DEFINITION = (
    "by distance from the edge of the masks (below 0: masked pixels, from the nearest unmasked one): mean background "
    "minus the sky that the pixels around predict, as in masked_bias, and mean of image minus background"
)


class Edges(Fields):
    """Bins of distance."""

    table = ("distance", "distance_end", "n_pixels", "background", "background_error", "residual", "residual_error")
    distance: Numbers = []
    distance_end: Numbers = []
    n_pixels: Numbers = []
    background: Numbers = []
    background_error: Numbers = []
    residual: Numbers = []
    residual_error: Numbers = []


def _profile(sums: Floats) -> Floats:
    bins = sums[..., OUTSIDE + GROUP * N_GROUPS :].reshape(*sums.shape[:-1], N_BINS, DISTANCE)
    background = ratio(bins[..., 1], bins[..., 0]) - offset(sums)[..., None]
    return np.concatenate([background, ratio(bins[..., 3], bins[..., 2])], axis=-1)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    table = image.sums(SKY).table()
    found = jackknife(table, _profile)
    start = OUTSIDE + GROUP * N_GROUPS
    counts = table[:, start:].sum(axis=0).reshape(N_BINS, DISTANCE)[:, 2]
    residual, error = found.value[N_BINS:], found.error[N_BINS:]
    return {
        "unit": "image",
        "distance": list(EDGE_BINS[:-1]),
        "distance_end": list(EDGE_BINS[1:]),
        "n_pixels": [int(n) for n in counts],
        "background": plain(found.value[:N_BINS]),
        "background_error": plain(found.error[:N_BINS]),
        "residual": plain(residual),
        "residual_error": plain(error),
        "idle_rim": {"value": _idle_rim(residual, error, noise_of(image)), "unit": "px"},
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


def _edge_light(found: Edges, noise: float) -> CheckValue:
    """Mean residual next to masks minus that far from them, weighted by pixels."""
    near, far = _mean(found, 0, 4), _mean(found, 16, 64) or (0.0, 0.0)
    return near and in_noise(near[0] - far[0], math.hypot(near[1], far[1]), noise)


def _mean(found: Edges, start: int, stop: int) -> tuple[float, float] | None:
    n = total = error = 0.0
    rows = zip(found.distance, found.n_pixels, found.residual, found.residual_error, strict=False)
    for distance, pixels, residual, residual_error in rows:
        if distance is None or pixels is None or residual is None or residual_error is None:
            continue
        if start <= distance < stop:
            n += pixels
            total += pixels * residual
            error += pixels * residual_error  # errors of neighbouring distances go together: added as they are
    return (total / n, error / n) if n else None


def _figure(found: Edges) -> Curve | None:
    if not found.distance:
        return None
    start = floats(found.distance)
    middle = (start + floats(found.distance_end or found.distance)) / 2
    background, residual = floats(found.background), floats(found.residual)
    points = []
    if background.size == middle.size:
        points.append(Points("background − sky around", middle, background, errors(found.background_error)))
    if residual.size == middle.size:  # under the mask it is the sources
        sky = np.where(start >= 0, residual, np.nan)
        points.append(Points("image − background", middle, sky, errors(found.residual_error), 1))
    if not any(np.isfinite(line.y).any() for line in points):  # a recipe without masks
        return None
    return Curve(
        name="edges",
        section=BIAS,
        title="Across the edge of the mask",
        x_label="distance from the edge (px), masked < 0",
        y_label="difference from 0",
        caption=(
            "Light that the mask leaves out shows as a residual near its edge; a background that eats it rises there. "
            "Arrows: values beyond the scale."
        ),
        alt="Background and residual against the distance from the mask's edge.",
        rank=3,
        points=tuple(points),
        level=0,
        edge=0,
        robust=True,
        x_scale="symlog",
        ticks=[t for t in (-64, -16, -4, 0, 4, 16, 64) if start[0] <= t <= middle[-1] + 1],
    )


MEASURE = Measure(
    name="edges",
    definition=DEFINITION,
    fields=Edges,
    finalize=finalize,
    parts=(SKY,),
    checks=(Check("edge_light", "sigma", _edge_light, next_step=f"{WIDER}, or {DEEPER}"),),
    figures=(_figure,),
)
