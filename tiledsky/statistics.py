"""Global statistics of an image, exact and the same for any tiling, on numpy or dask arrays.

Two passes: a histogram of the pixels' keys, then the values in the few bins that a median or a clipping bound can fall
in (`tiledsky.kernels.statistics.histogram`, `tiledsky.kernels.statistics.refinement`). The biweights take a third
pass, about the median of the first two (`tiledsky.kernels.statistics.biweight`). What a pass makes of a tile is small
and merges by integer addition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.containers import float_dtype
from tiledsky.errors import RunError
from tiledsky.images import same_kind, taken_apart
from tiledsky.kernels.statistics import needed_bins, selection
from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import N_BINS, KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.kernels.statistics.sorted_values import SortedValues, mean_and_std
from tiledsky.overlap import call, is_dask_array
from tiledsky.recipe import SigmaClip

#: Summaries merged at a time are the square of this: bounds what a merge holds.
_MERGE = 4
#: Distinct values whose counts are held at once; else the bins with most values, and those beside one that is missing.
_DISTINCT, _FIRST, _BESIDE = 1 << 18, 8, 8


@dataclass(frozen=True)
class Statistics:
    """Statistics of all unmasked finite pixels of an image; NaN where there is none, or where not asked for.

    Attributes
    ----------
    n : int
        Pixels that count.
    mean, std : float
        Of all of them; std is the population's.
    median, mad_std : float
        mad_std = 1.4826 x the median absolute deviation.
    clipped_mean, clipped_median, clipped_std : float
        Of the pixels left by the clip, by the rule of `astropy.stats.SigmaClip`.
    mad : float
        Median absolute deviation from the median, as it is.
    biweight_location, biweight_scale : float
        Of all pixels; tuning constants 6 and 9 MAD, as `astropy.stats.biweight_location` and `biweight_scale`.
    """

    n: int
    mean: float
    std: float
    median: float = float("nan")
    mad_std: float = float("nan")
    clipped_mean: float = float("nan")
    clipped_median: float = float("nan")
    clipped_std: float = float("nan")
    mad: float = float("nan")
    biweight_location: float = float("nan")
    biweight_scale: float = float("nan")


def clip_options(clip: SigmaClip) -> dict[str, Any]:
    """Return the clip as the kernels' keyword arguments."""
    maxiters = None if clip.maxiters < 0 else clip.maxiters
    return {
        "sigma_lower": clip.sigma_lower,
        "sigma_upper": clip.sigma_upper,
        "maxiters": maxiters,
        "center": clip.center,
    }


def bins_to_refine(histogram: KeyHistogram, clip: SigmaClip) -> NDArray[np.uint16]:
    """Bins whose values the second pass must count, for all of `Statistics`."""
    parts = [
        needed_bins.percentile_bins(histogram, [50]),
        needed_bins.mad_bins(histogram),
        needed_bins.clipping_bins(histogram, **clip_options(clip)),
    ]
    return np.unique(np.concatenate(parts))


def finish(histogram: KeyHistogram, refinement: Refinement | None, clip: SigmaClip) -> Statistics:
    """Statistics from the merged summaries of the first two passes; without the second only n, mean and std."""
    n, mean, std = histogram.n, histogram.mean(), histogram.std()
    if refinement is None:
        return Statistics(n, mean, std)
    clipped = selection.clipped_statistics(histogram, refinement, **clip_options(clip))
    mad = selection.median_absolute_deviation(histogram, refinement)
    return Statistics(
        n,
        mean,
        std,
        median=selection.percentile(histogram, refinement, 50),
        mad_std=mad * selection.MAD_TO_STD,
        clipped_mean=clipped.mean,
        clipped_median=clipped.median,
        clipped_std=clipped.std,
        mad=mad,
    )


def finish_in_parts(
    histogram: KeyHistogram,
    bins: NDArray[np.uint16],
    refined: Callable[[NDArray[np.uint16]], Refinement],
    clip: SigmaClip,
) -> Statistics:
    """Statistics as of `finish`, exact as they are, in memory that does not grow with the image.

    Where all values near the median of a sky around 0 are too many, the bins with most values come first; the few bins
    that the medians then turn out to fall in are added, with their neighbours.

    Parameters
    ----------
    histogram : KeyHistogram
    bins : ndarray of uint16
        Those of `bins_to_refine`, ascending.
    refined : callable
        Of some of the bins, ascending: their merged refinement. Called again for those that are missing.
    clip : SigmaClip
    """
    at = np.searchsorted(histogram.bins, bins)
    values = np.minimum(histogram.counts[at], N_BINS).astype(np.int64)  # distinct ones there can be
    chosen = np.ones(bins.size, np.bool_)
    if values.sum() > _DISTINCT:
        chosen[np.argsort(-values, kind="stable")[_FIRST:]] = False
    held = refined(bins[chosen])
    while True:
        try:
            return finish(histogram, held, clip)
        except selection.NotRefinedError as error:
            missing = int(np.searchsorted(bins, error.bin))
            if missing == bins.size or bins[missing] != error.bin or chosen[missing]:
                raise
            before = chosen.copy()
            chosen[max(missing - _BESIDE, 0) : missing + _BESIDE + 1] = True
            held = held.beside(refined(bins[chosen & ~before]))


def with_biweights(statistics: Statistics, sums: BiweightSums) -> Statistics:
    """Statistics of the first two passes, with the sums of the third, which are about their median and MAD."""
    same_center = not sums.n or (sums.median, sums.mad) == (statistics.median, statistics.mad)
    if sums.n != statistics.n or not same_center:
        raise RunError(
            f"biweight sums of {sums.n} pixels about {sums.median} in units of {sums.mad} do not belong to "
            f"{statistics.n} pixels with median {statistics.median} and MAD {statistics.mad}; make both from the same "
            "tiles"
        )
    return replace(statistics, biweight_location=sums.location(), biweight_scale=sums.scale())


def global_statistics(image: Any, *, mask: Any = None, clip: SigmaClip | None = None) -> Any:
    """Statistics of all unmasked pixels of an image.

    Parameters
    ----------
    image : array_like or dask.array.Array, (ny, nx)
        Anything that `tiledsky.images.taken_apart` takes. NaN, infinite and masked pixels are left out. Integers of 32
        bits and more count as float64.
    mask : array_like or dask.array.Array, (ny, nx), optional
        True, or not 0 = left out.
    clip : `tiledsky.recipe.parameters.SigmaClip`, optional
        Default 3 sigma about the median, at most 10 rounds.

    Returns
    -------
    Statistics
        Quantities where the image has a unit. For a dask array a `dask.delayed.Delayed` of it: three passes over the
        pixels when computed, the third for the biweights; of float64 one.

    Raises
    ------
    ParameterError, InputError
        No image; a mask of another shape.

    Notes
    -----
    Memory: of float32 and 16 bit integers about 2 MB a chunk beside the chunk. float64 values are exact only together:
    16 bytes for each pixel of the whole image, in one task; ``image.astype("float32")`` asks for less. Sources:
    `astropy.stats.sigma_clipped_stats`, `astropy.stats.mad_std`, `astropy.stats.biweight_location`,
    `astropy.stats.biweight_scale`.
    """
    given, clip = taken_apart(image), clip or SigmaClip()
    image = given.blanked()
    mask = same_kind(given.mask(mask), image)
    if float_dtype(image.dtype) == np.float64:
        statistics = call(_of_sorted, reduced(SortedValues.from_values, SortedValues.merged, image, mask), clip)
    else:
        statistics = image_statistics(image.astype(np.float32), mask, clip, refine=True, biweight=True)
    if given.unit is None:
        return statistics
    numbers = [field.name for field in fields(statistics) if field.name != "n"]
    return replace(statistics, **{name: given.in_unit(getattr(statistics, name)) for name in numbers})


def _of_sorted(held: SortedValues, clip: SigmaClip) -> Statistics:
    clipped = held.clipped(**clip_options(clip))
    biweights = held.biweights()
    mad_std = held.mad * selection.MAD_TO_STD
    moments = mean_and_std(held.values)
    return Statistics(held.values.size, *moments, held.median, mad_std, *clipped, held.mad, *biweights)


def image_statistics(image: Any, mask: Any, clip: SigmaClip, *, refine: bool, biweight: bool = False) -> Any:
    """`Statistics` of a float32 image, lazy for dask: one pass over it, two to ``refine``, three with ``biweight``."""
    histogram = reduced(KeyHistogram.from_values, KeyHistogram.merged, image, mask)
    if not (refine or biweight):
        return call(finish, histogram, None, clip)
    bins = call(bins_to_refine, histogram, clip)
    refinement = reduced(Refinement.from_values, Refinement.merged, image, mask, bins)
    statistics = call(finish, histogram, refinement, clip)
    if not biweight:
        return statistics
    sums = reduced(_biweight_sums, BiweightSums.merged, image, mask, statistics)
    return call(with_biweights, statistics, sums)


def _biweight_sums(
    values: NDArray[np.float32], statistics: Statistics, *, mask: NDArray[np.bool_] | None = None
) -> BiweightSums:
    """Summary of a tile for the third pass; ``statistics`` is what `finish` makes of the first two."""
    return BiweightSums.from_values(values, median=statistics.median, mad=statistics.mad, mask=mask)


def reduced(summarise: Any, merge: Any, image: Any, mask: Any, *args: Any) -> Any:
    """Summaries of all chunks, merged in a tree whose levels are one layer each: dask's own work grows with layers.

    ``summarise(pixels, *args, mask=mask)`` makes that of a chunk, ``merge(summaries)`` one of many.
    """
    if not is_dask_array(image):
        return summarise(image, *args, mask=mask)
    import dask.array as da
    from dask.delayed import delayed

    blocks = [image] if mask is None else [image, da.asarray(mask).rechunk(image.chunks)]
    cells = _one_cell_a_block(_summary, *blocks, summarise=summarise, args=args)
    while cells.size > 1:
        cells = _one_cell_a_block(_merged, cells.rechunk(_MERGE), merge=merge)
    return delayed(_only, pure=True)(cells.to_delayed(optimize_graph=False)[0, 0])


def _one_cell_a_block(func: Any, *blocks: Any, **kwargs: Any) -> Any:
    import dask.array as da

    chunks = tuple((1,) * n for n in blocks[0].numblocks)
    return da.map_blocks(func, *blocks, dtype=object, meta=np.empty((0, 0), object), chunks=chunks, **kwargs)


def _summary(
    pixels: NDArray[Any], mask: NDArray[np.bool_] | None = None, *, summarise: Any, args: Any
) -> NDArray[np.object_]:
    return _cell(summarise(pixels, *args, mask=mask))


def _merged(cells: NDArray[np.object_], *, merge: Any) -> NDArray[np.object_]:
    return _cell(merge(list(cells.flat)))


def _cell(summary: Any) -> NDArray[np.object_]:
    cell = np.empty((1, 1), object)
    cell[0, 0] = summary
    return cell


def _only(cell: NDArray[np.object_]) -> Any:
    return cell[0, 0]
