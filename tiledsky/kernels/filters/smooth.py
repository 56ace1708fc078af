"""Separable Gaussian smoothing in valid mode, with missing pixels left out.

A direct convolution, not an FFT: every output pixel is the same chain of additions and multiplications wherever it
lies in whatever array, so tiles with a halo give the bits of the whole image.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels._simd import elementary

_Float = TypeVar("_Float", bound=np.floating[Any])
_Array = NDArray[Any]

# Columns and rows of one block. The block's half-smoothed rows, 8 * (2r + 64) * 256 bytes, stay in the L2 cache.
_STRIP = 256
_ROWS = 64


def gaussian_taps(sigma: float, *, radius: int | None = None) -> NDArray[np.float64]:
    """Weights of a 1-D Gaussian at whole pixels, with sum 1.

    ``outer(t, t)`` is the normalised ``astropy.convolution.Gaussian2DKernel(sigma, x_size=2 * radius + 1)``, which
    samples the Gaussian at the pixel centres.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixels, > 0.
    radius : int, optional
        Taps on each side of the centre. By default as in astropy: the odd number of taps next above ``8 * sigma``.

    Returns
    -------
    ndarray of float64, shape (2 * radius + 1,)
        The taps; exactly symmetric.

    Raises
    ------
    ParameterError
        If sigma is not positive and finite, or radius is not a whole number >= 0.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ParameterError(f"sigma {sigma!r} px is not a width of a Gaussian; give a finite sigma > 0")
    if radius is None:
        radius = math.ceil(8 * sigma) // 2
    if not float(radius).is_integer() or radius < 0:
        raise ParameterError(f"radius {radius!r} px cannot be a number of taps beside the centre; give an integer >= 0")
    # Not x*x / (2 sigma^2): for a very small sigma that is 0/0 at the centre.
    with np.errstate(over="ignore"):
        distance = np.abs(np.arange(-int(radius), int(radius) + 1)) / sigma
        taps = elementary.exps(-0.5 * distance * distance)
    normalised: NDArray[np.float64] = taps / math.fsum(taps)
    return normalised


def convolve_separable(
    padded: NDArray[_Float], taps: NDArray[np.float64], *, mask: NDArray[np.bool_] | None = None
) -> NDArray[_Float]:
    """Convolve with ``outer(taps, taps)`` in valid mode.

    Parameters
    ----------
    padded : ndarray of float32 or float64, shape (H + 2r, W + 2r)
        The image with ``r = len(taps) // 2`` extra pixels on every side. What those pixels hold is the caller's
        boundary rule: zeros are astropy's ``boundary='fill'``, copies of the edge its ``'extend'``.
    taps : ndarray of float64, shape (2r + 1,)
        Symmetric weights, such as `gaussian_taps`. The result is a weighted mean if their sum is 1.
    mask : ndarray of bool, shape of padded, optional
        True = leave the pixel out, exactly as if it were NaN.

    Returns
    -------
    ndarray, shape (H, W), dtype of padded
        In the unit of padded; accumulated in float64.

    Raises
    ------
    InputError
        If padded or mask has the wrong dtype or shape.
    ParameterError
        If taps are not 1-D, finite, symmetric and odd in number.

    Notes
    -----
    NaN rule: NaN and masked pixels are left out, and the weights of the others scaled up to make the same sum
    (astropy's ``nan_treatment='interpolate'``); a window that has none with a weight gives NaN. The divisor is the
    weight found over the weight of a full window, both summed in the same order, hence exactly 1.0 where no pixel is
    missing: those windows have the same bits whether or not there is a NaN elsewhere. Infinities are ordinary values.

    Memory: the output, and ``16 * (2r + 64) * 256 + O(r)`` bytes, whatever the size of the image.

    Reference: `astropy.convolution.convolve`.
    """
    taps = np.array(taps, dtype=np.float64)
    if taps.ndim != 1 or taps.size % 2 == 0 or not np.isfinite(taps).all() or not np.array_equal(taps, taps[::-1]):
        raise ParameterError(
            f"taps of shape {taps.shape} are not an odd number of finite values, symmetric about the centre, so that "
            "the result would be shifted; use gaussian_taps or make the taps symmetric"
        )
    if padded.ndim != 2 or padded.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(
            f"an image of dtype {padded.dtype} and {padded.ndim} dimensions cannot be smoothed; "
            "convert padded to a 2-D array of native float32 or float64"
        )
    height, width = padded.shape[0] - taps.size + 1, padded.shape[1] - taps.size + 1
    if min(height, width) < 1:
        raise InputError(
            f"padded of shape {padded.shape} has no pixel with a full window of {taps.size} taps; "
            f"pad by {taps.size // 2} pixels on every side or use a smaller radius"
        )
    if mask is not None and (mask.shape != padded.shape or mask.dtype != np.bool_):
        raise InputError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} does not fit the image of shape {padded.shape}; "
            "give a bool mask with the halo of padded"
        )
    out = np.empty((height, width), dtype=padded.dtype)
    _convolve(_frozen(padded), _frozen(np.zeros((0, 0), dtype=np.bool_) if mask is None else mask), taps, out)
    return out


def _frozen(array: _Array) -> _Array:
    """Contiguous, read-only view: numba compiles apart for writable and read-only arrays, so hand it one kind only."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True)
def _convolve(padded: _Array, mask: _Array, taps: _Array, out: _Array) -> None:
    """Strips of columns, blocks of rows; each block smooths its new rows along x, then all of them along y."""
    height, width = out.shape
    two_r = taps.size - 1
    values = np.empty((two_r + _ROWS, _STRIP))
    weights = np.empty((two_r + _ROWS, _STRIP))
    gaps = np.zeros(two_r + _ROWS, dtype=np.bool_)
    row_values = np.empty(two_r + _STRIP)
    row_weights = np.empty(two_r + _STRIP)
    total = np.empty(_STRIP)
    weight = np.empty(_STRIP)
    full_row, full = _full_weight(taps)
    for x0 in range(0, width, _STRIP):
        n = min(_STRIP, width - x0)
        for y0 in range(0, height, _ROWS):
            rows = min(_ROWS, height - y0)
            first_new = 0
            if y0 > 0:  # the last 2r rows of the block before are the first of this one
                for i in range(two_r):
                    values[i] = values[i + _ROWS]
                    weights[i] = weights[i + _ROWS]
                    gaps[i] = gaps[i + _ROWS]
                first_new = two_r
            for i in range(first_new, two_r + rows):
                gaps[i] = _read_row(padded, mask, y0 + i, x0, n + two_r, row_values, row_weights)
                _along_x(row_values, n, taps, values[i])
                if gaps[i]:
                    _along_x(row_weights, n, taps, weights[i])
                else:
                    weights[i] = full_row
            for i in range(rows):
                _along_y(values, i, n, taps, total)
                target = out[y0 + i, x0 : x0 + n]
                if gaps[i : i + two_r + 1].any():
                    _along_y(weights, i, n, taps, weight)
                    for x in range(n):
                        target[x] = total[x] / (weight[x] / full) if weight[x] != 0.0 else np.nan
                else:
                    for x in range(n):
                        target[x] = total[x]


@njit(nogil=True, cache=True)
def _full_weight(taps: _Array) -> tuple[float, float]:
    """Weight of one full row and of a full window, summed in the order of every other sum."""
    ones = np.ones(taps.size)
    one_row = np.empty(1)
    _along_x(ones, 1, taps, one_row)
    rows = np.full((taps.size, 1), one_row[0])
    window = np.empty(1)
    _along_y(rows, 0, 1, taps, window)
    return one_row[0], window[0]


@njit(nogil=True, cache=True)
def _read_row(padded: _Array, mask: _Array, y: int, x0: int, n: int, values: _Array, weights: _Array) -> bool:
    """Copy n pixels of a row as float64; if some are missing, zero them, set the weights and return True."""
    source = padded[y, x0 : x0 + n]
    missing = 0
    for x in range(n):
        values[x] = source[x]
        missing += source[x] != source[x]
    if mask.size:
        leave_out = mask[y, x0 : x0 + n]
        for x in range(n):
            missing += leave_out[x]
    if missing == 0:
        return False
    for x in range(n):
        weights[x] = 1.0
        if source[x] != source[x] or (mask.size and mask[y, x0 + x]):
            weights[x] = 0.0
            values[x] = 0.0
    return True


# The two passes: for each output the centre first, then the pairs of equal weight from the inside out. Taking four
# pairs at a time saves loads and stores of the sum; the order of the additions is that of one pair at a time.


@njit(nogil=True, cache=True)
def _along_x(row: _Array, n: int, taps: _Array, total: _Array) -> None:
    """Fill total[x] with the weighted sum of row[x : x + 2r + 1], x < n."""
    r = taps.size // 2
    for x in range(n):
        total[x] = taps[r] * row[r + x]
    k = 1
    while k + 3 <= r:
        t0, t1, t2, t3 = taps[r + k], taps[r + k + 1], taps[r + k + 2], taps[r + k + 3]
        a0, b0 = row[r - k : r - k + n], row[r + k : r + k + n]
        a1, b1 = row[r - k - 1 : r - k - 1 + n], row[r + k + 1 : r + k + 1 + n]
        a2, b2 = row[r - k - 2 : r - k - 2 + n], row[r + k + 2 : r + k + 2 + n]
        a3, b3 = row[r - k - 3 : r - k - 3 + n], row[r + k + 3 : r + k + 3 + n]
        for x in range(n):
            inner = (total[x] + t0 * (a0[x] + b0[x])) + t1 * (a1[x] + b1[x])
            total[x] = (inner + t2 * (a2[x] + b2[x])) + t3 * (a3[x] + b3[x])
        k += 4
    while k <= r:
        t0 = taps[r + k]
        a0, b0 = row[r - k : r - k + n], row[r + k : r + k + n]
        for x in range(n):
            total[x] = total[x] + t0 * (a0[x] + b0[x])
        k += 1


@njit(nogil=True, cache=True)
def _along_y(rows: _Array, first: int, n: int, taps: _Array, total: _Array) -> None:
    """Fill total[x] with the weighted sum of rows[first : first + 2r + 1, x], x < n."""
    r = taps.size // 2
    centre = first + r
    for x in range(n):
        total[x] = taps[r] * rows[centre, x]
    k = 1
    while k + 3 <= r:
        t0, t1, t2, t3 = taps[r + k], taps[r + k + 1], taps[r + k + 2], taps[r + k + 3]
        a0, b0 = rows[centre - k], rows[centre + k]
        a1, b1 = rows[centre - k - 1], rows[centre + k + 1]
        a2, b2 = rows[centre - k - 2], rows[centre + k + 2]
        a3, b3 = rows[centre - k - 3], rows[centre + k + 3]
        for x in range(n):
            inner = (total[x] + t0 * (a0[x] + b0[x])) + t1 * (a1[x] + b1[x])
            total[x] = (inner + t2 * (a2[x] + b2[x])) + t3 * (a3[x] + b3[x])
        k += 4
    while k <= r:
        t0 = taps[r + k]
        a0, b0 = rows[centre - k], rows[centre + k]
        for x in range(n):
            total[x] = total[x] + t0 * (a0[x] + b0[x])
        k += 1
