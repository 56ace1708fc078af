"""Measure 4: bias of the background under sources, against their flux and size, and at random positions beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.patches import Floats, PatchSums, jackknife, number, plain, ratio
from tiledsky.kernels.residual.apertures import box_excess, box_is_good
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.kernels.residual.peaks import find_peaks
from tiledsky.kernels.residual.sky_sums import GOOD, MASKED

NAME = "positions"
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

_U64 = NDArray[np.uint64]


def random_words(first: NDArray[np.int64], second: NDArray[np.int64], stream: int) -> _U64:
    """64 random bits for each pair of integers: the same wherever they are asked for (the mixer of splitmix64)."""
    words = first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)
    with np.errstate(over="ignore"):
        for constant in (np.uint64(0x9E3779B97F4A7C15), np.uint64(stream)):
            words = words + constant * np.uint64(0x9E3779B97F4A7C15)
            words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
            words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
            words ^= words >> np.uint64(31)
    return words


def random_positions(band: Band, count: int, stream: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``count`` pixels of each cell of a band, rows and columns in its arrays, shape (cells, count)."""
    rows, columns = np.mgrid[band.where.y0 : band.where.y1, band.where.x0 : band.where.x1].reshape(2, -1, 1)
    words = random_words(rows * count + np.arange(count), columns + 0 * np.arange(count), stream)
    y = (words & np.uint64(CELL - 1)).astype(np.int64) + (rows - band.where.y0) * CELL + band.origin[0]
    x = (words >> np.uint64(32) & np.uint64(CELL - 1)).astype(np.int64) + (columns - band.where.x0) * CELL
    return y, x + band.origin[1]


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


def update(band: Band, *, catalogue: Floats | None = None, box: int = 3) -> Floats:
    """Sums of the cells of a band."""
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


def finalize(sums: PatchSums, sky: PatchSums, *, box: int, source: str) -> dict[str, Any]:
    """Return the measure; ``sky``: the sums of `tiledsky.diagnostics.bias`, with the offset outside masks."""
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
    return {"definition": DEFINITION, "unit": "image", "box": box, "source": source, "groups": groups}


def _offset(sums: Floats) -> Floats:
    return -ratio(sums[..., -1], sums[..., -2])


def _value(found: Any) -> dict[str, Any]:
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
