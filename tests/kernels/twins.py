"""What `tiledsky/kernels/_simd` writes in LLVM IR, once more in plain numpy: the same operations in the same order.

Read these first: a twin says in a few lines what its IR does to sixteen lanes at once. Lanes are the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: From d (0 for a value that does not count), d * factor and what counts: two terms to be summed.
Terms = Callable[[Array, Array, Array], tuple[Array, Array]]
LANES = 16


def gather_columns(image: Array, offsets: Array, n: int, buffer: Array, first_row: int, counts: Array) -> None:
    rows = buffer.reshape(-1, LANES)
    for k in range(LANES):
        run = image.ravel()[offsets[k] : offsets[k] + n]
        rows[first_row : first_row + n, k] = np.where(np.isfinite(run), run, np.inf)
        counts[k] += np.count_nonzero(np.isfinite(run))


def sort_lanes(buffer: Array, n_rows: int) -> None:
    rows = buffer.reshape(-1, LANES)
    rows[:n_rows] = np.sort(rows[:n_rows], axis=0)


def moment_terms(d: Array, u: Array, inside: Array) -> tuple[Array, Array]:
    return d, d * d


def _weight(u: Array, inside: Array) -> Array:
    weight = 1.0 - u * u
    return np.where(inside & (weight > 0.0), weight, 0.0)


def location_terms(d: Array, u: Array, inside: Array) -> tuple[Array, Array]:
    weight = _weight(u, inside)
    weight = weight * weight
    return d * weight, weight


def scale_terms(d: Array, u: Array, inside: Array) -> tuple[Array, Array]:
    weight = _weight(u, inside)
    squared = weight * weight
    return d * d * (squared * squared), weight * (1.0 - 5.0 * (u * u))


def lane_sums(
    terms: Terms, buffer: Array, first: int, last: int, start: Array, stop: Array, centre: Array, factor: Array
) -> tuple[Array, Array]:
    """Sum each column from row start[k] to stop[k], row after row."""
    totals = np.zeros((2, LANES))
    for row in range(first, last):
        inside = (start <= row) & (row < stop)
        with np.errstate(invalid="ignore"):
            d = np.where(inside, buffer.reshape(-1, LANES)[row].astype(np.float64) - centre, 0.0)
        for total, term in zip(totals, terms(d, d * factor, inside), strict=True):
            total += term
    return totals[0], totals[1]


def drop_infinite(values: Array) -> int:
    values[~np.isfinite(values)] = np.nan
    return int(np.count_nonzero(~np.isnan(values)))


def probe(values: Array, pivot: float) -> tuple[int, float, float]:
    inside, above = values[values <= pivot], values[values > pivot]
    return inside.size, inside.max(initial=-np.inf), above.min(initial=np.inf)


def outside(values: Array, lower: float, upper: float) -> tuple[int, int, float, float, float, float]:
    known = values[~np.isnan(values)]
    under, over = known < lower, known > upper
    return (
        np.count_nonzero(under),
        np.count_nonzero(over),
        known[under].max(initial=-np.inf),
        known[~under].min(initial=np.inf),
        known[~over].max(initial=-np.inf),
        known[over].min(initial=np.inf),
    )


def sums_between(
    terms: Terms, values: Array, lower: float, upper: float, centre: float, factor: float
) -> tuple[float, float]:
    """Sum the values in [lower, upper] in sixteen interleaved parts, then these from the first to the last."""
    totals, found = np.zeros((2, LANES)), [0.0, 0.0]
    for vector in values.reshape(-1, LANES):
        inside = (vector >= lower) & (vector <= upper)
        d = np.where(inside, vector.astype(np.float64) - centre, 0.0)
        for total, term in zip(totals, terms(d, d * factor, inside), strict=True):
            total += term
    for part, total in enumerate(totals):
        for lane in total:
            found[part] += lane
    return found[0], found[1]
