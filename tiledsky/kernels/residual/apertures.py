"""Sums of the pixels around given places of an image: boxes of a background, apertures of a residual.

Every sum is made row by row, from the pixels of its place alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]


def box_excess(background: NDArray[np.floating], around: _F64, y: _I64, x: _I64, *, box: int) -> _F64:
    """Mean background of the box at each place minus the sky around it.

    Parameters
    ----------
    background : ndarray, shape (H, W)
        Starts at the corner of a block of 8 pixels.
    around : ndarray of float64, shape (ceil(H / 8), ceil(W / 8), 3)
        What the sky around each block says (`tiledsky.kernels.residual.local_sky.local_quadratic`).
    y, x : ndarray of int64, any shape
        Rows and columns.
    box : int
        Side in pixels, odd.

    Returns
    -------
    ndarray of float64, shape of `y`
        NaN where the box leaves the array or the sky is not known.
    """
    out = np.empty(y.shape)
    _boxes(background, around, y.ravel(), x.ravel(), box // 2, out.reshape(-1))
    return out


@njit(nogil=True, cache=True)
def _boxes(background, around, ys, xs, half, out):  # type: ignore[no-untyped-def]
    height, width = background.shape
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        if y < half or x < half or y >= height - half or x >= width - half:
            out[i] = np.nan
            continue
        total = 0.0
        for v in range(y - half, y + half + 1):
            for u in range(x - half, x + half + 1):
                total += background[v, u]
        sky = around[y >> 3, x >> 3]
        there = sky[0] + ((y & 7) - 3.5) / 8.0 * sky[1] + ((x & 7) - 3.5) / 8.0 * sky[2]
        out[i] = total / np.float64((2 * half + 1) * (2 * half + 1)) - there


def box_is_good(state: NDArray[np.uint8], y: _I64, x: _I64, *, box: int) -> NDArray[np.bool_]:
    """Whether the box at each place holds good pixels alone (state 0), as far as it lies in the array.

    False where the box leaves the array below or to the right.
    """
    out = np.empty(y.shape, np.bool_)
    _good(state, y.ravel(), x.ravel(), box // 2, out.reshape(-1))
    return out


@njit(nogil=True, cache=True)
def _good(state, ys, xs, half, out):  # type: ignore[no-untyped-def]
    height, width = state.shape
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        good = y < height - half and x < width - half
        if good:
            for v in range(max(y - half, 0), y + half + 1):
                for u in range(max(x - half, 0), x + half + 1):
                    good &= state[v, u] == 0
        out[i] = good


def aperture_sums(
    residual: NDArray[np.floating],
    rms: NDArray[np.floating],
    state: NDArray[np.uint8],
    y: _I64,
    x: _I64,
    *,
    radius: int,
) -> tuple[NDArray[np.bool_], _F64, _F64]:
    """Sums over discs: of the residual, and of the square of the noise.

    Parameters
    ----------
    residual, rms : ndarray, shape (H, W)
    state : ndarray of uint8, shape (H, W)
        0 where a pixel is good.
    y, x : ndarray of int64, any shape
        Rows and columns of the centres.
    radius : int
        Pixels whose centres are no farther belong to a disc.

    Returns
    -------
    whole : ndarray of bool
        Whether the disc and its square lie in the array, and all its pixels are good.
    total, variance : ndarray of float64
        Of such discs.
    """
    whole = np.zeros(y.shape, np.bool_)
    total, variance = np.zeros(y.shape), np.zeros(y.shape)
    sums = whole.reshape(-1), total.reshape(-1), variance.reshape(-1)
    _apertures(residual, rms, state, y.ravel(), x.ravel(), radius, *sums)
    return whole, total, variance


@njit(nogil=True, cache=True)
def _apertures(residual, rms, state, ys, xs, radius, whole, total, variance):  # type: ignore[no-untyped-def]
    height, width = state.shape
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        if y < radius or x < radius or y >= height - radius or x >= width - radius:
            continue
        good, light, noise = True, 0.0, 0.0
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if good and dy * dy + dx * dx <= radius * radius:
                    good = state[y + dy, x + dx] == 0
                    sigma = np.float64(rms[y + dy, x + dx])
                    light += residual[y + dy, x + dx]
                    noise += sigma * sigma
        if good:
            whole[i], total[i], variance[i] = True, light, noise
