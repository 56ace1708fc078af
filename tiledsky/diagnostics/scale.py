"""Rms of the residual against scale, beside what noise alone would have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.blocks import block_sums
from tiledsky.diagnostics.curve import SCALE, Curve, Points, Reference, errors, floats
from tiledsky.diagnostics.fields import Fields, Numbers
from tiledsky.diagnostics.moments import MOMENTS, mean_square, noise
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import FEWEST, Estimate, Floats, jackknife, plain, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.diagnostics.text import measured_text
from tiledsky.kernels.residual.cell_sums import LAGS, MOMENT_LIMIT, REACH, WIDTHS, block_columns, pair_columns

_BLOCKS = len(WIDTHS) * 3
BLOCKS = slice(0, _BLOCKS)
#: Blocks of the residual, pairs, blocks of the residual over the expected noise, blocks of image minus truth.
COLUMNS = 3 * _BLOCKS + 2 * len(LAGS)
PAIRS = slice(_BLOCKS, _BLOCKS + 2 * len(LAGS))
_EXPECTED = slice(PAIRS.stop, PAIRS.stop + _BLOCKS)
_TRUTH = slice(_EXPECTED.stop, _EXPECTED.stop + _BLOCKS)

DEFINITION = (
    "rms of the means of w x w blocks (grid from pixel 0, at least half of the pixels unmasked, each mean weighted by "
    "its pixels) of the residual over the local noise, divided by that of white noise of the same rms in the same "
    "pixels; expected: the same for noise with the measured correlation of pixels at most 2 px apart above that of "
    "pixels 3 px apart, where that makes it larger; score: |ratio / expected - 1|"
)


class NoiseRatio(Fields):
    """Noise against scale by another reckoning."""

    ratio: Numbers = []
    ratio_error: Numbers = []


class Scale(Fields):
    """A row a width."""

    table = ("widths", "ratio", "expected", "ratio_error")
    widths: Numbers = []
    ratio: Numbers = []
    expected: Numbers = []
    ratio_error: Numbers = []
    against_weights: NoiseRatio | None = None
    truth: NoiseRatio | None = None


def update(band: Band) -> Floats:
    """Sums of the cells of a band."""
    # within the limit of the mean square too: light that is not masked is no noise
    pairs = pair_columns(band.values, band.good, limit=MOMENT_LIMIT, origin=band.origin, cells=band.cells)
    parts = [band.of(block_sums)[0], pairs, *_others(band)]
    return np.concatenate([part.reshape(*band.cells, -1) for part in parts], axis=2)


SUMS = Cells("scale", COLUMNS, update)


def _others(band: Band) -> list[Floats]:
    """Blocks of the residual over the expected noise, and of image minus truth; zeros where not given."""
    made = []
    for given in ("expected", "truth"):
        if getattr(band.pixels, given) is None:
            made.append(np.zeros((*band.cells, _BLOCKS)))
            continue
        plane = band.plane(given)
        over, under = (band.residual, plane) if given == "expected" else (band.science - plane, band.rms)
        with np.errstate(all="ignore"):
            scaled = np.where(band.good != 0, over / under, 0).astype(np.float32)
        usable = np.isfinite(scaled)
        values, good = np.where(usable, scaled, np.float32(0)), band.good * usable
        made.append(block_columns(values, good, origin=band.origin, cells=band.cells)[0])
    return made


def ratios(table: Floats) -> Estimate:
    """Ratio to white noise at each width; NaN where fewer than `FEWEST` patches have a block."""
    found = jackknife(table, white_ratios)
    few = np.count_nonzero(table[:, ::3], axis=0) < FEWEST
    return Estimate(np.where(few, np.nan, found.value), np.where(few, np.nan, found.error), found.n)


def white_ratios(sums: Floats) -> Floats:
    """Ratio to white noise at each width, from sums of blocks."""
    blocks = sums.reshape(*sums.shape[:-1], len(WIDTHS), 3)
    return np.sqrt(ratio(blocks[..., 1], blocks[..., 2]))


def correlations(sums: Floats, variance: Floats) -> Floats:
    """Correlation of pixels at each of the `LAGS`, from sums of pairs and the mean square of a pixel."""
    pairs = sums.reshape(*sums.shape[:-1], len(LAGS), 2)
    return ratio(ratio(pairs[..., 1], pairs[..., 0]), variance[..., None])


def expected_ratios(correlation: Floats) -> Floats:
    """Ratio that noise with these correlations has at each width; not below 1."""
    rho = np.where(np.isfinite(correlation), correlation, 0.0)
    reach = np.array([max(abs(dy), abs(dx)) for dy, dx in LAGS])
    # what is left at the largest lags is structure of the sky that is longer than that, not noise
    rho = rho - np.maximum(rho[..., reach == REACH].mean(axis=-1, keepdims=True), 0.0)
    squares = []
    for width in WIDTHS:
        share = [max(1 - abs(dy) / width, 0) * max(1 - abs(dx) / width, 0) for dy, dx in LAGS]
        squares.append(1 + 2 * (rho * np.array(share))[..., reach < REACH].sum(axis=-1))
    return np.sqrt(np.maximum(np.stack(squares, axis=-1), 1.0))


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    sums, moments, source = image.sums(SUMS), image.sums(MOMENTS), image.facts.source
    found = ratios(sums.table(BLOCKS))
    counts = sums.sums[..., :_BLOCKS].sum(axis=(0, 1)).reshape(len(WIDTHS), 3)[:, 0]
    rho = correlations(sums.sums[..., PAIRS].sum(axis=(0, 1)), mean_square(moments))
    expected = expected_ratios(rho)
    white = noise(moments) / np.array(WIDTHS)
    power = (found.value**2 - expected**2) * white**2
    excess = np.sign(power) * np.sqrt(np.abs(power))
    with np.errstate(all="ignore"):
        # near zero the error of the root is not the root's slope times that of the square
        square_error = 2 * found.value * found.error * white**2
        error = np.minimum(square_error / (2 * np.abs(excess)), np.sqrt(square_error))
    measure: dict[str, Any] = {
        "unit": "1",
        "widths": list(WIDTHS),
        "n_blocks": [int(n) for n in counts],
        "rms": plain(found.value * white),
        "white": plain(white),
        "ratio": plain(found.value),
        "ratio_error": plain(found.error),
        "expected": plain(expected),
        "score": plain(np.abs(found.value / expected - 1)),
        "excess": plain(excess),
        "excess_error": plain(error),
        "against_weights": None,
        "truth": None,
    }
    for key, columns in (("against_weights", _EXPECTED), ("truth", _TRUTH)):
        table = sums.table(columns)
        if len(table):
            other = jackknife(table, _absolute if key == "against_weights" and source == "error" else white_ratios)
            measure[key] = {"ratio": plain(other.value), "ratio_error": plain(other.error)}
    if measure["against_weights"] is not None:
        measure["against_weights"]["source"] = source
    return measure


def _absolute(sums: Floats) -> Floats:
    """Ratio to noise of unit variance."""
    blocks = sums.reshape(*sums.shape[:-1], len(WIDTHS), 3)
    return np.sqrt(ratio(blocks[..., 1], blocks[..., 0]))


def _excess(found: Scale, _: float) -> CheckValue:
    """Most significant of the largest: by the lower end of each."""
    rows = zip(found.ratio, found.expected, found.ratio_error, strict=False)
    return _largest([(r / e - 1, s / e) for r, e, s in rows if r is not None and e and s is not None])


def _overfit(found: Scale, _: float) -> CheckValue:
    rows = zip(found.widths, found.ratio, found.ratio_error, strict=False)
    return _largest([(max(1 - r, 0.0), s) for w, r, s in rows if w and w <= 16 and r is not None and s is not None])


def _largest(found: Sequence[tuple[float, float]]) -> CheckValue:
    return max(found, key=lambda f: f[0] - 3 * f[1], default=None)


def _curve(
    points: Sequence[Points], widths: Floats, *, caption: str, alt: str, expected: tuple[Reference, ...] = ()
) -> Curve:
    return Curve(
        name="scale",
        section=SCALE,
        title="Noise against scale",
        x_label="side of the blocks (px)",
        y_label="rms / rms of white noise",
        caption=caption,
        alt=alt,
        rank=0,
        points=tuple(points),
        expected=expected,
        level=1,
        x_scale="log2",
        ticks=widths.tolist(),
    )


def _figure(found: Scale) -> Curve | None:
    if not found.widths:
        return None
    widths, ratio = floats(found.widths), floats(found.ratio)
    points = [Points("this background", widths, ratio, errors(found.ratio_error))]
    others = ((found.against_weights, "against the weights"), (found.truth, "with the true sky"))
    for k, (other, label) in enumerate(others, 1):
        if other is not None and other.ratio:
            points.append(Points(label, widths, floats(other.ratio), errors(other.ratio_error), k))
    expected = Reference("noise of this image alone", widths, floats(found.expected), faint=True)
    last = measured_text(ratio[-1]) if ratio.size else "–"
    return _curve(
        points,
        widths,
        expected=(expected,) if found.expected else (),
        caption=(
            "Means of blocks of unmasked pixels should scatter as white noise would (1). Above: structure that the "
            "sky left behind; below: the background follows the noise."
        ),
        alt=f"Ratio to white noise, by block size; {last} at {widths[-1]:g} px.",
    )


def _comparison(runs: Sequence[tuple[str, Scale]]) -> Curve | None:
    points, drawn, widths = [], [], floats([])
    for k, (label, found) in enumerate(runs):
        if found.widths:
            widths, ratio = floats(found.widths), floats(found.ratio)
            points.append(Points(label, widths * 1.03**k, ratio, errors(found.ratio_error), k))
            drawn.append(f"{label} {measured_text(ratio[-1])}")
    if not drawn:
        return None
    return _curve(
        points,
        widths,
        caption=(
            "Each on its own unmasked pixels. Above 1: structure that the sky left behind; below: the background "
            "follows the noise."
        ),
        alt=f"Ratio to white noise at {widths[-1]:g} px: {', '.join(drawn)}.",
    )


MEASURE = Measure(
    name="scale",
    definition=DEFINITION,
    fields=Scale,
    finalize=finalize,
    parts=(SUMS, MOMENTS),
    checks=(
        Check(
            "scale_excess",
            "1",
            _excess,
            next_step="use a smaller box_size or a fitted recipe (deep-sky); `tiledsky advise` tries several",
        ),
        Check(
            "scale_overfit",
            "1",
            _overfit,
            next_step="use a larger box_size or a fitted recipe (deep-sky); `tiledsky advise` tries several",
        ),
    ),
    figures=(_figure,),
    comparison=_comparison,
)
