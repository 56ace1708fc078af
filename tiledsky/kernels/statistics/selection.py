"""Exact global statistics from merged summaries: percentiles, median, MAD, sigma-clipped mean, median and std.

Three steps, two passes over the pixels:

1. `KeyHistogram` of every tile, merged;
2. `percentile_bins`, `mad_bins`, `clipping_bins` (`tiledsky.kernels.statistics.needed_bins`) name the bins whose
single values can
   matter; their union (`numpy.union1d`) goes to `Refinement.from_values` for every tile, merged again;
3. `percentile`, `median_absolute_deviation`, `clipped_statistics` read the results, exact as if the image were one
   sorted array.

A third pass gives the biweights (`tiledsky.kernels.statistics.biweight`). Memory: a few hundred bytes a non-empty bin,
and 12 bytes a distinct value of the refined bins.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from math import inf, nan
from typing import Literal

import numpy as np
import numpy.typing as npt

from tiledsky.errors import RunError
from tiledsky.kernels.statistics.histogram import KeyHistogram, values_of_keys
from tiledsky.kernels.statistics.needed_bins import check_clip, distances, percentile_ranks, weighted_rank
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.kernels.statistics.sums import Moments, moments_of_bin, weighted_sum

MAD_TO_STD = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation, as astropy rounds it."""

_Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClippedStatistics:
    """Statistics of the values that sigma clipping keeps.

    Attributes
    ----------
    mean, median, std : float
        Mean and population standard deviation (exact, rounded once) and median; NaN when nothing is kept.
    n : int
        Number of values kept: ``lower <= value <= upper``.
    lower, upper : float
        The tightest bounds of all iterations (usually those of the last one); NaN for an image without values.
    """

    mean: float
    median: float
    std: float
    n: int
    lower: float
    upper: float


class NotRefinedError(RunError):
    """A bin whose single values are needed is not in the refinement."""

    def __init__(self, wanted: int) -> None:
        super().__init__(
            f"bin {wanted} is needed but was not refined, so the result cannot be exact; "
            "refine the bins that percentile_bins, mad_bins or clipping_bins return for the same parameters"
        )
        self.bin = wanted


class _Sample:
    """All values of an image in order: single ones where refined, whole bins elsewhere."""

    def __init__(self, histogram: KeyHistogram, refinement: Refinement) -> None:
        self.histogram = histogram
        self.refinement = refinement
        wanted = np.isin(histogram.bins, refinement.bins)
        edges = np.searchsorted(refinement.keys, histogram.bins.astype(np.int64) << 16)
        stops = np.searchsorted(refinement.keys, (histogram.bins.astype(np.int64) + 1) << 16)
        self.entries = [(int(a), int(b)) if w else None for a, b, w in zip(edges, stops, wanted, strict=True)]
        for position in np.flatnonzero(wanted):
            found = int(self.cumulative[stops[position]] - self.cumulative[edges[position]])
            if found != int(histogram.counts[position]):
                raise RunError(
                    f"bin {histogram.bins[position]} has {histogram.counts[position]} values in the histogram but "
                    f"{found} in the refinement, so they are not of the same pixels; make both from the same tiles"
                )

    @cached_property
    def values(self) -> _Float:
        """The distinct values of the refined bins, ascending."""
        return values_of_keys(self.refinement.keys)

    @cached_property
    def cumulative(self) -> npt.NDArray[np.int64]:
        """Number of refined values before each entry."""
        return np.concatenate(([0], np.cumsum(self.refinement.counts.astype(np.int64)))).astype(np.int64)

    def entries_of(self, position: int) -> tuple[int, int]:
        """First and last + 1 entry of a bin in the refinement."""
        entries = self.entries[position]
        if entries is None:
            raise NotRefinedError(int(self.histogram.bins[position]))
        return entries

    def up_to(self, bound: float, *, inclusive: bool) -> Moments:
        """Exact moments of the values below the bound, or not above it if inclusive."""
        side: Literal["left", "right"] = "right" if inclusive else "left"
        whole = int(np.searchsorted(self.histogram.highest, bound, side))
        moments = self.histogram.prefix_moments[whole]
        if whole == int(np.searchsorted(self.histogram.lowest, bound, side)):
            return moments
        start, stop = self.entries_of(whole)
        stop = start + int(np.searchsorted(self.values[start:stop], bound, side))
        counts = self.refinement.counts[start:stop]
        lows = (self.refinement.keys[start:stop] & np.uint32(0xFFFF)).astype(np.uint64)
        return moments + moments_of_bin(
            int(self.histogram.bins[whole]),
            int(self.cumulative[stop] - self.cumulative[start]),
            weighted_sum(counts, lows),
            weighted_sum(counts, lows * lows),
        )

    def value_at(self, rank: int) -> float:
        """The value of this rank among all."""
        position = int(np.searchsorted(self.histogram.prefix_counts, rank, "right")) - 1
        start, _ = self.entries_of(position)
        target = self.cumulative[start] + (rank - self.histogram.prefix_counts[position])
        return float(self.values[int(np.searchsorted(self.cumulative, target, "right")) - 1])

    def median(self, start: int, stop: int) -> float:
        """Mean of the two middle values of the ranks from start to stop - 1; NaN without any."""
        if start >= stop:
            return nan
        return 0.5 * (self.value_at((start + stop - 1) // 2) + self.value_at((start + stop) // 2))


def percentile(histogram: KeyHistogram, refinement: Refinement, percentile: float) -> float:
    """Percentile of an image, by the linear rule of `numpy.percentile` for float64; 50 as `numpy.median`.

    Parameters
    ----------
    histogram, refinement
        Of the same pixels; the refinement holds at least `percentile_bins`.
    percentile : float
        0 to 100.

    Returns
    -------
    float
        NaN for an image without values.

    Raises
    ------
    ParameterError
        A percentile out of range.
    RunError
        The refinement misses a bin, or is of other pixels.
    """
    first, last, weight = percentile_ranks(histogram.n, percentile)
    if not histogram.n:
        return nan
    sample = _Sample(histogram, refinement)
    a, b = sample.value_at(first), sample.value_at(last)
    if percentile == 50:
        return 0.5 * (a + b)
    # As numpy interpolates: from the nearer end.
    return b - (b - a) * (1 - weight) if weight >= 0.5 else a + (b - a) * weight


def median_absolute_deviation(histogram: KeyHistogram, refinement: Refinement) -> float:
    """Median distance from the median, as `astropy.stats.median_absolute_deviation` for float64.

    Parameters
    ----------
    histogram, refinement
        Of the same pixels; the refinement holds at least `mad_bins`.

    Returns
    -------
    float
        NaN for an image without values.

    Raises
    ------
    RunError
        The refinement misses a bin, or is of other pixels.
    """
    if not histogram.n:
        return nan
    sample = _Sample(histogram, refinement)
    middle = sample.median(0, histogram.n)
    first, last, _ = percentile_ranks(histogram.n, 50)
    nearest, farthest = distances(histogram.lowest, histogram.highest, (middle, middle))
    counts = histogram.counts.astype(np.int64)
    # As in `mad_bins`: the wanted distance lies in few bins; any distance stands for all of a bin on one side of it.
    least, greatest = weighted_rank(nearest, counts, first), weighted_rank(farthest, counts, last)
    cut = (farthest >= least) & (nearest <= greatest)
    single = [slice(*sample.entries_of(int(position))) for position in np.flatnonzero(cut)]
    candidates = np.concatenate((nearest[~cut], *(np.abs(sample.values[s] - middle) for s in single)))
    times = np.concatenate((counts[~cut], *(refinement.counts[s].astype(np.int64) for s in single)))
    return 0.5 * (weighted_rank(candidates, times, first) + weighted_rank(candidates, times, last))


def mad_std(histogram: KeyHistogram, refinement: Refinement) -> float:
    """Standard deviation by the median absolute deviation, as `astropy.stats.mad_std` for float64.

    Parameters, result and errors as `median_absolute_deviation`.
    """
    return median_absolute_deviation(histogram, refinement) * MAD_TO_STD


def clipped_statistics(
    histogram: KeyHistogram,
    refinement: Refinement,
    *,
    sigma_lower: float = 3.0,
    sigma_upper: float = 3.0,
    maxiters: int | None = 5,
    center: Literal["median", "mean"] = "median",
) -> ClippedStatistics:
    """Sigma-clipped statistics of an image, by the rule of `astropy.stats.sigma_clipped_stats`.

    Bounds are ``center - sigma_lower * std`` and ``center + sigma_upper * std`` in float64, of the values kept so far.
    Values outside are dropped for good, until none is dropped, none is left, or `maxiters` is reached. astropy applies
    this rule to a whole array. With ``axis=`` (so do photutils' boxes) it keeps all values within the last bounds, even
    where earlier bounds were tighter: the two differ in rare cases.

    Parameters
    ----------
    histogram, refinement
        Of the same pixels; the refinement holds at least `clipping_bins` for the same parameters.
    sigma_lower, sigma_upper : float
        Finite, above 0.
    maxiters : int or None
        At least 1; None clips until nothing is dropped.
    center : {"median", "mean"}
        Middle of the bounds.

    Returns
    -------
    ClippedStatistics

    Raises
    ------
    ParameterError
        A parameter out of range.
    RunError
        The refinement misses a bin, or is of other pixels.
    """
    check_clip(sigma_lower, sigma_upper, maxiters, center)
    if not histogram.n:
        return ClippedStatistics(nan, nan, nan, 0, nan, nan)
    sample = _Sample(histogram, refinement)
    below, within = Moments(), histogram.prefix_moments[-1]
    lower, upper = -inf, inf
    for iteration in itertools.count(1):
        middle = sample.median(below.n, below.n + within.n) if center == "median" else within.mean()
        std = within.std()
        lower, upper = max(lower, middle - sigma_lower * std), min(upper, middle + sigma_upper * std)
        before, below = within.n, sample.up_to(lower, inclusive=False)
        within = sample.up_to(upper, inclusive=True) - below
        if within.n in (before, 0) or lower > upper or iteration == maxiters:
            break
    if lower > upper:  # the last bounds lie beside the earlier ones: nothing is left
        within = Moments()
    median = sample.median(below.n, below.n + within.n)
    return ClippedStatistics(within.mean(), median, within.std(), within.n, lower, upper)
