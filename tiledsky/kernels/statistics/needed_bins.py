"""Which bins of a `KeyHistogram` must be refined for exact percentiles, MAD or sigma-clipped statistics.

The histogram knows each value only to its bin. The functions here carry intervals that hold whatever the exact
calculation can give, and note every bin in which a wanted value or a clipping bound may lie. Every operation is
monotone, rounding included, so the ends of an interval are rounded as the exact calculation rounds; one refinement
always is enough. Usual size of the answer: one bin for a median, two to four for the MAD, five to thirty for clipping.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, inf, isfinite
from typing import Literal

import numpy as np
import numpy.typing as npt

from tiledsky.errors import ParameterError
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.sums import DoubtfulGroup, Moments, mean_interval, std_interval, to_units

_Interval = tuple[float, float]
_Bins = npt.NDArray[np.uint16]
_Float = npt.NDArray[np.float64]


def check_clip(sigma_lower: float, sigma_upper: float, maxiters: int | None, center: str) -> None:
    """Refuse clipping parameters that cannot work."""
    for name, sigma in (("sigma_lower", sigma_lower), ("sigma_upper", sigma_upper)):
        if not (isfinite(sigma) and sigma > 0):
            raise ParameterError(f"{name}={sigma} leaves no range of values to keep; pass a finite {name} above 0")
    if maxiters is not None and maxiters < 1:
        raise ParameterError(
            f"maxiters={maxiters} clips nothing; pass maxiters >= 1, or None to go on until it settles"
        )
    if center not in ("median", "mean"):
        raise ParameterError(f"center={center!r} is not a known middle of the values; pass center='median' or 'mean'")


def percentile_ranks(n: int, percentile: float) -> tuple[int, int, float]:
    """The two ranks and the weight of the second, by numpy's linear rule (its float64 arithmetic included)."""
    if not 0 <= percentile <= 100:
        raise ParameterError(f"percentile={percentile} is outside the values; pass a percentile within 0 to 100")
    if percentile == 50:
        return (n - 1) // 2, n // 2, 0.5
    position = (n - 1) * (percentile / 100)
    rank = min(floor(position), n - 1)
    return rank, min(rank + 1, n - 1), position - rank


@dataclass(frozen=True)
class _KeptBins:
    """Bins of the kept values when each bound is known to an interval; bins by position in the histogram.

    Bins before `out_below` and from `out_above` on are certainly out, ``in_from <= bin < in_to`` certainly in.
    """

    out_below: int
    in_from: int
    in_to: int
    out_above: int


class _Outline:
    """Intervals that hold the statistics of values known only to their bin; notes the bins that matter."""

    def __init__(self, histogram: KeyHistogram) -> None:
        self.histogram = histogram
        self.needed = np.zeros(histogram.bins.size, dtype=np.bool_)

    def bins(self) -> _Bins:
        """The bins noted so far."""
        return self.histogram.bins[self.needed]

    def kept(self, lower: _Interval, upper: _Interval) -> _KeptBins:
        """What is certainly kept and certainly not, for bounds in these intervals."""
        lowest, highest = self.histogram.lowest, self.histogram.highest
        return _KeptBins(
            int(np.searchsorted(highest, lower[0], "left")),
            int(np.searchsorted(lowest, lower[1], "left")),
            int(np.searchsorted(highest, upper[0], "right")),
            int(np.searchsorted(lowest, upper[1], "right")),
        )

    def need_edges(self, kept: _KeptBins) -> None:
        """Note the bins that a bound may cut."""
        self.needed[kept.out_below : kept.in_from] = True
        self.needed[kept.in_to : kept.out_above] = True

    def need_ranks(self, first: int, last: int) -> _Interval:
        """Note the bins of the values of these ranks; returns the interval that holds the values."""
        prefix = self.histogram.prefix_counts
        low = int(np.searchsorted(prefix, first, "right")) - 1
        high = int(np.searchsorted(prefix, last, "right")) - 1
        self.needed[low : high + 1] = True
        return float(self.histogram.lowest[low]), float(self.histogram.highest[high])

    def need_median(self, kept: _KeptBins) -> _Interval:
        """Note the bins of the middle values of what is kept (not certainly nothing)."""
        prefix = self.histogram.prefix_counts
        start, end = int(prefix[kept.out_below]), int(prefix[kept.out_above])
        first = (start + int(prefix[kept.in_to]) - 1) // 2
        last = (int(prefix[kept.in_from]) + end) // 2
        return self.need_ranks(max(first, start), max(start, min(last, end - 1)))

    def mean_and_std(self, kept: _KeptBins) -> tuple[_Interval, _Interval]:
        """Intervals of mean and std of what is kept (not certainly nothing)."""
        prefix = self.histogram.prefix_moments
        if kept.in_from < kept.in_to:
            certain = prefix[kept.in_to] - prefix[kept.in_from]
            ranges = [(kept.out_below, kept.in_from), (kept.in_to, kept.out_above)]
        else:
            certain = Moments()
            ranges = [(kept.out_below, kept.out_above)]
        doubtful = [
            DoubtfulGroup(
                prefix[stop].n - prefix[start].n,
                to_units(self.histogram.lowest[start]),
                to_units(self.histogram.highest[stop - 1]),
            )
            for start, stop in ranges
            if start < stop
        ]
        return mean_interval(certain, doubtful), std_interval(certain, doubtful)


def percentile_bins(histogram: KeyHistogram, percentiles: Iterable[float]) -> _Bins:
    """Bins to refine for `percentile` (50 is the median).

    Parameters
    ----------
    histogram : KeyHistogram
        Of the whole image.
    percentiles : iterable of float
        Each within 0 to 100.

    Returns
    -------
    ndarray of uint16
        Ascending; empty for an image without values.

    Raises
    ------
    ParameterError
        A percentile out of range.
    """
    outline = _Outline(histogram)
    for value in percentiles:
        first, last, _ = percentile_ranks(histogram.n, value)
        if histogram.n:
            outline.need_ranks(first, last)
    return outline.bins()


def distances(lowest: _Float, highest: _Float, median: _Interval) -> tuple[_Float, _Float]:
    """Least and greatest distance from a median in this interval, for values from lowest to highest."""
    nearest = np.maximum(0.0, np.maximum(lowest - median[1], median[0] - highest))
    return nearest, np.maximum(highest - median[0], median[1] - lowest)


def weighted_rank(values: _Float, counts: npt.NDArray[np.int64], rank: int) -> float:
    """Value of this rank in a multiset of values that occur so many times each."""
    order = np.argsort(values, kind="stable")
    return float(values[order[np.searchsorted(np.cumsum(counts[order]), rank, "right")]])


def mad_bins(histogram: KeyHistogram) -> _Bins:
    """Bins to refine for `mad_std`.

    Returns
    -------
    ndarray of uint16
        Ascending; empty for an image without values.
    """
    outline = _Outline(histogram)
    if not histogram.n:
        return outline.bins()
    first, last, _ = percentile_ranks(histogram.n, 50)
    middle = outline.need_ranks(first, last)
    nearest, farthest = distances(histogram.lowest, histogram.highest, middle)
    counts = histogram.counts.astype(np.int64)
    # Each distance lies between its bin's nearest and farthest; so does the one of a given rank, in each sorted list.
    least = weighted_rank(nearest, counts, first)
    greatest = weighted_rank(farthest, counts, last)
    outline.needed |= (farthest >= least) & (nearest <= greatest)
    return outline.bins()


def clipping_bins(
    histogram: KeyHistogram,
    *,
    sigma_lower: float = 3.0,
    sigma_upper: float = 3.0,
    maxiters: int | None = 5,
    center: Literal["median", "mean"] = "median",
) -> _Bins:
    """Bins to refine for `clipped_statistics` with the same parameters.

    Follows the clipping with intervals for the bounds: mean and std are uncertain by the values of the bins that a
    bound may cut, the median by the bins that may hold the middle. Where it is open whether clipping has stopped,
    both outcomes are followed: the bins of a stop are noted and the clipping goes on. (Where the values span tens of
    decades evenly and nothing limits `maxiters`, the intervals may grow until most bins are needed.)

    Parameters
    ----------
    histogram : KeyHistogram
        Of the whole image.
    sigma_lower, sigma_upper, maxiters, center
        See `clipped_statistics`.

    Returns
    -------
    ndarray of uint16
        Ascending; empty for an image without values.

    Raises
    ------
    ParameterError
        As `clipped_statistics`.
    """
    check_clip(sigma_lower, sigma_upper, maxiters, center)
    outline = _Outline(histogram)
    lower: _Interval = (-inf, -inf)
    upper: _Interval = (inf, inf)
    kept = outline.kept(lower, upper)
    iteration = 0
    while kept.out_below < kept.out_above:
        mean, std = outline.mean_and_std(kept)
        middle = outline.need_median(kept) if center == "median" else mean
        lower = (
            max(lower[0], middle[0] - sigma_lower * std[1]),
            max(lower[1], middle[1] - sigma_lower * std[0]),
        )
        upper = (
            min(upper[0], middle[0] + sigma_upper * std[0]),
            min(upper[1], middle[1] + sigma_upper * std[1]),
        )
        following = outline.kept(lower, upper)
        outline.need_edges(following)
        if following.out_below < following.out_above:
            outline.need_median(following)
        iteration += 1
        if following == kept or iteration == maxiters:  # equal knowledge gives equal intervals for ever
            break
        kept = following
    return outline.bins()
