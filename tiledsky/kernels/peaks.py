"""Sources of a residual image, by its peaks: where they are, how bright, how large; each by its surroundings alone."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: A peak is the largest value within this distance along each axis; flux and size are of the pixels within it.
RADIUS = 8


def find_peaks(
    values: NDArray[np.float32], valid: NDArray[np.bool_], *, threshold: float, rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Peaks of the means of 3 x 3 pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (H, W)
        Residual in units of the noise of a pixel; what is not valid counts as 0.
    valid : ndarray of bool, shape (H, W)
    threshold : float
        In units of the noise of such a mean. Pixels at the border of the array are no peaks.
    rows, columns : slice
        Where peaks are looked for.

    Returns
    -------
    ndarray of float64, shape (n, 4)
        Row, column, flux (sum of the values within `RADIUS`) and size (rms distance from the peak of those above 2,
        px, along one axis), in row order. Of equal values the first is the peak.

    Notes
    -----
    Halo: 2 `RADIUS` + 1. Reference: `photutils.detection.find_peaks` on `scipy.ndimage.uniform_filter`.
    """
    height, width = values.shape
    smooth = np.zeros_like(values)
    filled = np.where(valid, values, np.float32(0))
    if height > 2 and width > 2:
        lines = filled[:-2] + filled[1:-1] + filled[2:]
        smooth[1:-1, 1:-1] = (lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]) / np.float32(3)
    # two peaks are more than RADIUS apart along one axis at least: one in a square of that side
    squares = [-(-(part.stop - part.start) // (RADIUS + 1)) for part in (rows, columns)]
    found = np.empty((max(squares[0] * squares[1], 1), 4))
    n = _peaks(smooth, filled, threshold, rows.start, rows.stop, columns.start, columns.stop, found)
    return found[:n].copy()


@njit(nogil=True, cache=True)
def _is_peak(smooth, y, x):  # type: ignore[no-untyped-def]
    height, width = smooth.shape
    v = smooth[y, x]
    for j in range(max(y - 8, 0), min(y + 9, height)):
        for i in range(max(x - 8, 0), min(x + 9, width)):
            w = smooth[j, i]
            if w > v or (w == v and (j < y or (j == y and i < x))):
                return False
    return True


@njit(nogil=True, cache=True)
def _peaks(smooth, filled, threshold, top, bottom, left, right, found):  # type: ignore[no-untyped-def]
    height, width = smooth.shape
    n = 0
    for y in range(max(top, 1), min(bottom, height - 1)):
        for x in range(max(left, 1), min(right, width - 1)):
            if not smooth[y, x] > threshold or not _is_peak(smooth, y, x):
                continue
            flux = light = spread = 0.0
            for j in range(max(y - 8, 0), min(y + 9, height)):
                for i in range(max(x - 8, 0), min(x + 9, width)):
                    square = (j - y) * (j - y) + (i - x) * (i - x)
                    if square <= 64:
                        v = np.float64(filled[j, i])
                        flux += v
                        if v > 2.0:  # of noise alone the size would be that of the window
                            light += v
                            spread += v * square
            found[n, 0], found[n, 1], found[n, 2] = y, x, flux
            found[n, 3] = np.sqrt(0.5 * spread / light) if light > 0.0 else 0.0
            n += 1
    return n
