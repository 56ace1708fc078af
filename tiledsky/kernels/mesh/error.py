"""Standard error of a mesh background: from the noise of the boxes to that of the pixels interpolated between them.

For normal noise of variance ``s**2`` a pixel, independent from box to box, the value of a box of n good pixels has the
variance::

    v = f * E(n) * s**2 / n

E is the estimator's variance over that of the mean (`tiledsky.kernels.boxes.estimators.inefficiency`), f that of a
mean of many pixels over what it would be if they were independent (`noise_factor`): drizzled and resampled pixels share
their noise.

A median of K boxes of one sky has E_median(K) times the variance of their mean. Filter and interpolation are hence
taken as linear: pixel p is ``sum over boxes c of r_c(p) b_c``, where r_c is the response of interpolator and mean
filter to a 1 in box c, and has the variance ``E_median(K) * sum r_c(p)**2 v_c``. The weights ``r_c(p)**2`` reach little
farther than the window of the filter. So v is replaced by its mean over this window, and the sum of the weights by its
mean over the pixels of a box, G; in the interior, by translation, G is also the mean over a box of the sum of all
``r(p)**2`` of one response r. What is left varies as slowly as the sky, and is interpolated like it::

    error**2 = E_median(K) * G * (mean of v over the K boxes of the window)

It is the error by noise alone: light of sources in the boxes, and structure that the mesh is too coarse to follow, come
on top. So does what a filter makes of a sloping sky: where neighbouring boxes differ by more than their noise, a median
no longer averages (with 5 x 5 boxes the error can then be 2.5 times too small) and, at the edges, is biased. Filters
are for skies that are flat over their window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.geometry import Region, row_bands
from tiledsky.kernels.boxes.estimators import Function, inefficiency, median_inefficiency
from tiledsky.kernels.mesh.guards import MAD_TO_STD
from tiledsky.kernels.mesh.rim import check_window

#: Fewer third differences than this do not tell the noise factor.
_MIN_DIFFERENCES = 20
#: Cells beyond a tile from which its third differences are made.
NOISE_HALO = 3
SAMPLED_CELLS = 1 << 21  # of a larger mesh, about so many are looked at along each axis
_MAX_SHARE = 0.2

Pair = tuple[int, int]
Floats = NDArray[Any]
Factors = tuple[NDArray[np.float64], NDArray[np.float64]]


def box_variance(
    rms: Floats, n_good: NDArray[Any], *, estimator: str | Function, population: bool
) -> NDArray[np.float64]:
    """Variance of the values of boxes for white noise: ``inefficiency * rms**2 / n_good``.

    Parameters
    ----------
    rms, n_good : ndarray (nby, nbx)
        Of the boxes; a box without a pixel, or (with `population`) with one, has no rms: the result is NaN.
    estimator : str or callable
        As `inefficiency` takes it.
    population : bool
        `rms` is a population standard deviation, so that one pixel less counts.

    Returns
    -------
    ndarray (nby, nbx), float64
    """
    n = n_good.astype(np.float64)
    free = n - 1.0 if population else n
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.square(rms, dtype=np.float64) * inefficiency(estimator, n) / free
    return np.where(free > 0.0, variance, np.nan)


def _third_differences(values: Floats, variance: Floats, usable: NDArray[np.bool_]) -> Floats:
    """Absolute third differences along axis 1 in units of their expected deviation, where all four boxes are usable."""
    n = values.shape[1] - 3
    if n < 1:
        return np.zeros(0)
    b = [values[:, k : n + k].astype(np.float64) for k in range(4)]
    v = [variance[:, k : n + k] for k in range(4)]
    good = np.logical_and.reduce([usable[:, k : n + k] for k in range(4)])
    expected = np.sqrt(v[0] + 9.0 * v[1] + 9.0 * v[2] + v[3])
    good &= expected > 0.0
    return np.asarray(np.abs(b[3] - 3.0 * b[2] + 3.0 * b[1] - b[0])[good] / expected[good])


def noise_samples(
    background: Floats,
    variance: Floats,
    usable: NDArray[np.bool_],
    inner: Region,
    window_region: Region,
    shape: Pair,
) -> NDArray[np.float64]:
    """Third differences of a tile of a mesh, for `noise_factor`.

    Parameters
    ----------
    background : ndarray (wy, wx)
        Values of the boxes of `window_region`, neither filled nor filtered.
    variance : ndarray (wy, wx), float64
        What `box_variance` expects.
    usable : ndarray (wy, wx), bool
        Boxes with values of their own.
    inner, window_region : Region
        The tile, and the boxes given: at least ``inner.grown((NOISE_HALO, NOISE_HALO), shape)``.
    shape : (int, int)
        Boxes of the whole mesh: of large ones every so manieth row and column is looked at, counted from the first.

    Returns
    -------
    ndarray (k,), float64
        Those that begin in `inner`. All tiles together have the same, in another order for another tiling; at most
        about 4 million. Memory: 16 bytes a value of these, and 30 MB.
    """
    check_window("the noise", NOISE_HALO, inner, window_region, shape)
    step = max(-(-shape[0] * shape[1] // SAMPLED_CELLS), 1)
    outer = Region(inner.y0, min(inner.y1 + NOISE_HALO, shape[0]), inner.x0, min(inner.x1 + NOISE_HALO, shape[1]))
    arrays = [a[outer.within(window_region)] for a in (background, variance, usable)]
    rows, columns = inner.shape
    along = [a[-inner.y0 % step : rows : step] for a in arrays]
    across = [a[:, -inner.x0 % step : columns : step].T for a in arrays]
    found = [
        _third_differences(*(a[band] for a in some)) for some in (along, across) for band in row_bands(some[0].shape)
    ]
    return np.concatenate([np.zeros(0), *found])


def noise_factor(samples: NDArray[np.float64], *, box_size: Pair, excess: float = 1.0) -> float:
    """How many times more the values of a mesh vary than those of white noise would.

    Parameters
    ----------
    samples : ndarray (k,), float64
        `noise_samples` of all tiles, in any order.
    box_size : (int, int)
        Pixels of a box.
    excess : float
        `inefficiency` of the boxes.

    Returns
    -------
    float
        f >= 1; 1 where fewer than 20 sets of four adjacent boxes are usable. The noise is that of blocks of
        ``sqrt(f)`` x ``sqrt(f)`` pixels with one value each, as far as means of many pixels are concerned.

    Notes
    -----
    Third differences ``b3 - 3 b2 + 3 b1 - b0`` of four adjacent boxes, along rows and columns, are blind to a sky that
    is a parabola over four boxes. Divided by the root of ``v0 + 9 v1 + 9 v2 + v3`` their deviation, as 1.4826 times the
    median of their absolute values, is the root of the factor. Where the sky is not that smooth, or unmasked sources
    make more than the odd box stand out, this counts as noise and the factor comes out too large.

    Values below 1 are not used: noise whose pixels compensate each other is rare, while a mesh of a hundred boxes
    scatters by 0.2 about 1. The error is so at most a few percent too large for small meshes of white noise.

    The factor is that over the rms of pixels within their boxes. Clipping at 3 sigma, and what a box of n pixels misses
    of correlated noise, f / n of its variance, make this rms smaller, and f a little larger than that of all noise.

    Pixels that share noise across the border of two boxes make these alike, and the differences small: with a share s =
    <|u|> / b, the mean distance of two pixels that share noise in units of the box, a box varies (1 - s)**2 times as
    much as f says, and third differences (1 - s) (1 - 1.75 s) times. For a Gaussian correlation whose sum over all
    distances is F, <|u|> is sqrt(F - 1) / pi; and F - 1 is `excess` times f - 1, as what an estimator is worse than the
    mean is hardly correlated. f is the solution of this, with s up to 0.2: for larger ones the box is too small.
    """
    if samples.size < _MIN_DIFFERENCES:
        return 1.0
    measured = (MAD_TO_STD * float(np.median(samples))) ** 2
    factor = max(measured, 1.0)
    for _ in range(50):
        share = _share(factor, box_size, excess)
        factor = max(measured / ((1.0 - share) * (1.0 - 1.75 * share)), 1.0)
    return float(factor)


def _share(factor: float, box_size: Pair, excess: float) -> float:
    """Mean distance of two pixels that share noise, in units of the box."""
    return float(min(np.sqrt(excess * (factor - 1.0)) / (np.pi * np.sqrt(box_size[0] * box_size[1])), _MAX_SHARE))


def shared_noise(factor: float, box_size: Pair, *, excess: float = 1.0) -> float:
    """Variance of a mean of many boxes, over that of as many boxes of the same variance that share no noise.

    ``1 / (1 - s)**2``, with the share s that belongs to a `noise_factor`: what a box varies less than the whole noise
    would make it, boxes together do not.
    """
    return 1.0 / (1.0 - _share(factor, box_size, excess)) ** 2


def window_counts(n: int, size: int) -> NDArray[np.float64]:
    """Boxes that a window of `size` about each of n boxes holds, along one axis: fewer at the edges."""
    i, half = np.arange(n), size // 2
    return np.asarray(np.minimum(i + half, n - 1) - np.maximum(i - half, 0) + 1, np.float64)


def window_means(
    values: NDArray[np.float64], size: Pair, inner: Region, window_region: Region, shape: Pair
) -> NDArray[np.float64]:
    """Mean of the boxes of a window about each box of a tile; those beyond the mesh are not counted.

    `values` are those of `window_region`, at least `inner` grown by half of `size`.
    """
    halo = (size[0] // 2, size[1] // 2)
    outer = inner.grown(halo, shape)
    check_window("the mean", halo, inner, window_region, shape)
    rows, columns = inner.within(outer)
    along, across = (window_counts(n, s) for n, s in zip(shape, size, strict=True))
    sums = ndimage.correlate1d(values[outer.within(window_region)], np.ones(size[0]), axis=0, mode="constant", cval=0.0)
    means = sums[rows] / along[inner.y0 : inner.y1, np.newaxis]
    sums = ndimage.correlate1d(means, np.ones(size[1]), axis=1, mode="constant", cval=0.0)
    return np.asarray(sums[:, columns] / across[inner.x0 : inner.x1])


def filtered_variance(
    variance: NDArray[np.float64], factors: Factors, size: Pair, inner: Region, window_region: Region, shape: Pair
) -> NDArray[np.float64]:
    """Variance of pixels after a median filter of `size` and the interpolation that `factors` are of, for a tile.

    Parameters
    ----------
    variance : ndarray (wy, wx), float64
        Of the boxes of `window_region`, filled.
    factors : two arrays, (nby,) and (nbx,)
        Of `tiledsky.operations.interpolators.Interpolator.error_factors`, made for this size and the whole mesh.
    size : (int, int)
        Window of the filter, in boxes, odd; (1, 1) does not filter.
    inner, window_region : Region
        The tile, and the boxes given: at least `inner` grown by half of `size`.
    shape : (int, int)
        Boxes of the whole mesh.

    Returns
    -------
    ndarray, float64
        Of `inner`: the same bits for any tiling. Memory: about 50 bytes a box of the window.
    """
    along, across = (window_counts(n, s) for n, s in zip(shape, size, strict=True))
    rows, columns = inner.slices
    held = median_inefficiency(along[rows, np.newaxis] * across[columns])
    factor = held * factors[0][rows, np.newaxis] * factors[1][columns]
    return np.asarray(factor * window_means(variance, size, inner, window_region, shape))
