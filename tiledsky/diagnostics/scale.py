"""Measure 1: rms of the residual against scale, beside what noise alone would have."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.patches import FEWEST, Estimate, Floats, PatchSums, jackknife, plain, ratio
from tiledsky.kernels.residual.cell_sums import LAGS, MOMENT_LIMIT, REACH, WIDTHS, block_columns, pair_columns

NAME = "scale"
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


def update(band: Band) -> tuple[Floats, Floats]:
    """Sums of the cells of a band; and count and sum of each block of 16 pixels, in units of the noise."""
    where: Any = {"origin": band.origin, "cells": band.cells}
    blocks, kept = block_columns(band.values, band.good, **where)
    # within the limit of the mean square too: light that is not masked is no noise
    pairs = pair_columns(band.values, band.good, limit=MOMENT_LIMIT, **where)
    parts = [blocks, pairs, *_others(band, where)]
    return np.concatenate([part.reshape(*band.cells, -1) for part in parts], axis=2), kept


def _others(band: Band, where: Any) -> list[Floats]:
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
        made.append(block_columns(np.where(usable, scaled, np.float32(0)), band.good * usable, **where)[0])
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


def finalize(sums: PatchSums, *, noise: float, mean_square: Floats, source: str | None) -> dict[str, Any]:
    """Return the measure.

    Parameters
    ----------
    sums : PatchSums
    noise : float
        Of a pixel, in units of the image.
    mean_square : ndarray
        Mean square of a pixel in units of the local noise.
    source : str, optional
        The plane that tells the expected noise.
    """
    found = ratios(sums.table(BLOCKS))
    counts = sums.sums[..., :_BLOCKS].sum(axis=(0, 1)).reshape(len(WIDTHS), 3)[:, 0]
    rho = correlations(sums.sums[..., PAIRS].sum(axis=(0, 1)), mean_square)
    expected = expected_ratios(rho)
    white = noise / np.array(WIDTHS)
    power = (found.value**2 - expected**2) * white**2
    excess = np.sign(power) * np.sqrt(np.abs(power))
    with np.errstate(all="ignore"):
        # near zero the error of the root is not the root's slope times that of the square
        square_error = 2 * found.value * found.error * white**2
        error = np.minimum(square_error / (2 * np.abs(excess)), np.sqrt(square_error))
    measure: dict[str, Any] = {
        "definition": DEFINITION,
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
