"""Bias of the background under sources, against their flux and size, and at random positions beside them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.curve import BIAS, Curve, Points, errors, floats
from tiledsky.diagnostics.fields import Bias, Fields, Number, Numbers
from tiledsky.diagnostics.masked_bias import group_bias
from tiledsky.diagnostics.next_steps import DEEPER, WIDER
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import Estimate, Floats, jackknife, number, plain, ratio
from tiledsky.diagnostics.places import random_positions
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure, in_noise
from tiledsky.diagnostics.sky import SKY
from tiledsky.diagnostics.text import measured_text
from tiledsky.kernels.residual.apertures import box_excess, box_is_good
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.kernels.residual.peaks import find_peaks
from tiledsky.kernels.residual.sky_sums import GOOD, MASKED

#: Mean of 3 x 3 pixels above which a peak is a source, in units of the noise of such a mean.
THRESHOLD = 5.0
#: Lower ends of the bins; the last has no end.
FLUX_BINS = (0.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
SIZE_BINS = (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)
#: Random positions a cell.
CONTROLS = 8
_BINS = 2 * (len(FLUX_BINS) + len(SIZE_BINS))
#: Count and sum of each bin; sums of two lines: n, x, x^2, y, x y.
_GROUP = _BINS + 10
_CONTROL = slice(2 * _GROUP, 2 * _GROUP + 2)
#: And, in their place, pixels and background minus the sky around outside masks.
COLUMNS = 2 * _GROUP + 4

DEFINITION = (
    "mean background of the box x box pixels at each source minus the sky that the unmasked pixels around predict "
    "there, relative to the same over unmasked pixels at least 4 px from masks; control: random positions with no "
    "masked pixel in the box"
)


class BiasBins(Fields):
    """Bias by flux or size."""

    table = ("lower", "bias", "error")
    lower: Numbers = []
    bias: Numbers = []
    error: Numbers = []


class Line(Fields):
    """Straight line through the bias."""

    slope: Number = None
    slope_error: Number = None


class Group(Bias):
    """Bias at a group of sources."""

    name: str
    by_flux: BiasBins | None = None
    by_size: BiasBins | None = None
    line_flux: Line | None = None
    line_size: Line | None = None


class Positions(Fields):
    """Bias by groups."""

    groups: list[Group] = []


def sources_of(band: Band) -> Floats:
    """Sources of the cells of a band by their peaks: row and column in its arrays, flux, size."""
    rows, columns = (
        slice(start, min(start + n * CELL, size))
        for start, n, size in zip(band.origin, band.cells, band.state.shape, strict=True)
    )
    return find_peaks(band.scaled, threshold=THRESHOLD, rows=rows, columns=columns)


def catalogue_of(band: Band, catalogue: Floats) -> Floats:
    """Rows (y, x, flux, size) of a catalogue that lie in the cells of a band, as `sources_of` has them."""
    y = np.rint(catalogue[:, 0]) - band.region.y0
    x = np.rint(catalogue[:, 1]) - band.region.x0
    ends = [min(o + n * CELL, s) for o, n, s in zip(band.origin, band.cells, band.state.shape, strict=True)]
    inside = (y >= band.origin[0]) & (y < ends[0]) & (x >= band.origin[1]) & (x < ends[1])
    return np.column_stack([y, x, catalogue[:, 2], catalogue[:, 3]])[inside]


def update(band: Band) -> Floats:
    """Sums of the cells of a band."""
    catalogue, box = band.pixels.catalogue, band.pixels.box
    out = np.zeros((*band.cells, COLUMNS))
    found = sources_of(band) if catalogue is None else catalogue_of(band, catalogue)
    y, x = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64)
    bias = box_excess(band.background, band.around, y, x, box=box)
    state = band.state[y, x]
    for k, kind in enumerate((MASKED, GOOD)):
        chosen = np.isfinite(bias) & (state == kind)
        cell = (y[chosen] - band.origin[0]) // CELL, (x[chosen] - band.origin[1]) // CELL
        columns = _source_columns(bias[chosen], found[chosen, 2], found[chosen, 3])
        np.add.at(out[..., k * _GROUP : (k + 1) * _GROUP], cell, columns)
    y, x = random_positions(band, CONTROLS, 1)
    out[..., _CONTROL] = _controls(band, y, x, box).reshape(*band.cells, 2)
    return out


SUMS = Cells("positions", COLUMNS, update)


def _source_columns(bias: Floats, flux: Floats, size: Floats) -> Floats:
    """One row of sums for each source."""
    rows = np.zeros((len(bias), _GROUP))
    start = 0
    for x, bins in ((flux, FLUX_BINS), (size, SIZE_BINS)):
        k = start + 2 * np.clip(np.searchsorted(bins, x, side="right") - 1, 0, None)
        rows[np.arange(len(bias)), k] = 1.0
        rows[np.arange(len(bias)), k + 1] = bias
        start += 2 * len(bins)
    for x in (np.log10(np.maximum(flux, 1.0)), size):
        rows[:, start : start + 5] = np.column_stack([np.ones_like(x), x, x * x, bias, x * bias])
        start += 5
    return rows


def _controls(band: Band, y: NDArray[np.int64], x: NDArray[np.int64], box: int) -> Floats:
    """Count and sum of the random positions of each cell that lie in unmasked sky."""
    bias = box_excess(band.background, band.around, y, x, box=box)
    inside = box_is_good(band.state, y, x, box=box) & np.isfinite(bias)
    return np.stack([inside.sum(axis=1), np.where(inside, bias, 0.0).sum(axis=1)], axis=-1)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    sums, sky = image.sums(SUMS), image.sums(SKY)  # that with the offset outside masks
    both = np.concatenate([sums.sums[..., : COLUMNS - 2], sky.sums[..., 3:5]], axis=-1)
    table = both.reshape(-1, COLUMNS)
    table = table[np.any(table != 0, axis=1)]
    groups = []
    for k, name in enumerate(("masked", "unmasked")):
        start = k * _GROUP
        n = int(table[:, start : start + 2 * len(FLUX_BINS) : 2].sum())
        if n:
            groups.append({"name": name, "n": n, **_one(table, start)})
    n = int(table[:, _CONTROL.start].sum())
    if n:
        found = jackknife(table, lambda s: (ratio(s[..., -3], s[..., -4]) + _offset(s))[..., None], holds=-4)
        groups.append({"name": "control", "n": n, **_value(found)})
    source = "catalogue" if image.facts.catalogue else "detections"
    return {"unit": "image", "box": image.facts.box, "source": source, "groups": groups}


def _offset(sums: Floats) -> Floats:
    return -ratio(sums[..., -1], sums[..., -2])


def _value(found: Estimate) -> dict[str, Any]:
    return {"bias": number(found.value[0]), "error": number(found.error[0]), "z": number(found.z[0], 4)}


def _one(table: Floats, start: int) -> dict[str, Any]:
    """Mean bias, bins and lines of one group of sources."""
    lines = start + _BINS

    def mean(sums: Floats) -> Floats:
        return (ratio(sums[..., lines + 3], sums[..., lines]) + _offset(sums))[..., None]

    def slopes(sums: Floats) -> Floats:
        made = []
        for k in (lines, lines + 5):
            n, x, xx, y, xy = (sums[..., k + i] for i in range(5))
            made.append(ratio(n * xy - x * y, n * xx - x * x))
        return np.stack(made, axis=-1)

    found, line = (jackknife(table, of, holds=lines) for of in (mean, slopes))
    out: dict[str, Any] = _value(found)
    first = start
    for key, bins, unit in (("by_flux", FLUX_BINS, "sigma"), ("by_size", SIZE_BINS, "px")):
        columns = slice(first, first + 2 * len(bins))

        def binned(sums: Floats, columns: slice = columns) -> Floats:
            pairs = sums[..., columns]
            return ratio(pairs[..., 1::2], pairs[..., ::2]) + _offset(sums)[..., None]

        each = jackknife(table, binned)
        counts = table[:, columns].sum(axis=0)[::2]
        out[key] = {
            "lower": list(bins),
            "n": [int(n) for n in counts],
            "bias": plain(each.value),
            "error": plain(each.error),
            "unit": unit,
        }
        first += 2 * len(bins)
    for i, key in enumerate(("line_flux", "line_size")):
        z = line.z[i]
        out[key] = {"slope": number(line.value[i]), "slope_error": number(line.error[i]), "z": number(z, 4)}
    return out


def _source_bias(found: Positions, noise: float) -> CheckValue:
    """Most significant of the two kinds of sources.

    Of unmasked ones a sky that is too high alone: their light is in the sky around them, too.
    """
    rows = [(g.name, group_bias(g, noise)) for g in found.groups if g.name in _GROUPS[:2]]
    known = [(max(f[0], 0.0) if name == _GROUPS[1] else f[0], f[1]) for name, f in rows if f]
    return max(known, key=lambda f: abs(f[0]) - 3 * (f[1] or 0.0), default=None)


def _flux_slope(found: Positions, noise: float) -> CheckValue:
    line = next((g.line_flux for g in found.groups if g.name == "masked"), None)
    return None if line is None else in_noise(line.slope, line.slope_error, noise)


#: In the order of their colours.
_GROUPS = ("masked", "unmasked", "control")


def _curve(
    found: Positions, by: Literal["flux", "size"], *, title: str, x_label: str, x_scale: Literal["linear", "log"]
) -> Curve | None:
    points: list[Points] = []
    said: list[str] = []
    for group in found.groups:
        binned, fit = (group.by_flux, group.line_flux) if by == "flux" else (group.by_size, group.line_size)
        if binned is None or not binned.lower:
            continue
        k = _GROUPS.index(group.name) if group.name in _GROUPS else len(points)
        x = floats(binned.lower) * 1.04**k  # beside each other, not on top
        points.append(Points(group.name, x, floats(binned.bias), errors(binned.error), k, joined=False))
        said.append(f"{group.name}: {measured_text(group.bias, group.error)}")
        if fit is not None and fit.slope is not None:
            said[-1] += f", slope {measured_text(fit.slope, fit.slope_error)}"
    if not points:
        return None
    return Curve(
        name=f"bias_{by}",
        section=BIAS,
        title=title,
        x_label=x_label,
        y_label="background − sky around",
        caption=(
            "Background in 3 × 3 px boxes on sources, less what the sky around them predicts, for masked and unmasked "
            f"sources and random places (control); it should be 0 for all. {'; '.join(said)}."
        ),
        alt=f"Bias of the background under sources. {'; '.join(said)}.",
        rank=0 if by == "flux" else 1,
        points=tuple(points),
        level=0,
        x_scale=x_scale,
    )


def _by_flux(found: Positions) -> Curve | None:
    label = "flux of the source / noise of a pixel"
    return _curve(found, "flux", title="Bias against flux", x_label=label, x_scale="log")


def _by_size(found: Positions) -> Curve | None:
    label = "rms radius of the source (px)"
    return _curve(found, "size", title="Bias against radius", x_label=label, x_scale="linear")


MEASURE = Measure(
    name="positions",
    definition=DEFINITION,
    fields=Positions,
    finalize=finalize,
    parts=(SUMS, SKY),
    checks=(
        Check(
            "source_bias",
            "sigma",
            _source_bias,
            next_step=f"use a larger box_size, or {DEEPER}; `tiledsky inject` measures what is lost",
        ),
        Check(
            "flux_slope",
            "sigma",
            _flux_slope,
            next_step=f"{WIDER}, or use a larger box_size; `tiledsky inject` measures what is lost",
        ),
    ),
    figures=(_by_flux, _by_size),
)
