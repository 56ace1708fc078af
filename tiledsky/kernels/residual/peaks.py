"""Sources of a residual image, by its peaks: where they are, how bright, how large; each by its surroundings alone."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: A peak is the largest value within this distance along each axis; flux and size are of the pixels within it.
RADIUS = 8


def find_peaks(values: NDArray[np.float32], *, threshold: float, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Peaks of the means of 3 x 3 pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (H, W)
        Residual in units of the noise of a pixel, 0 where there is none.
    threshold : float
        In units of the noise of such a mean, not below 0. Pixels at the border of the array are no peaks.
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
    # two peaks are more than RADIUS apart along one axis at least: one in a square of that side
    squares = [-(-(part.stop - part.start) // (RADIUS + 1)) for part in (rows, columns)]
    found = np.empty((max(squares[0] * squares[1], 1), 4))
    n = _peaks(values, threshold, rows.start, rows.stop, columns.start, columns.stop, found)
    return found[:n].copy()


@njit(nogil=True, cache=True)
def _smoothed(values, first, smooth):  # type: ignore[no-untyped-def]
    """Means of 3 x 3 pixels of the rows from `first` on; 0 at the border of the array."""
    height, width = values.shape
    lines, three = np.empty(width, np.float32), np.float32(3)
    for k in range(smooth.shape[0]):
        y = first + k
        if y < 1 or y >= height - 1:
            continue
        above, middle, below = values[y - 1], values[y], values[y + 1]
        for x in range(width):
            lines[x] = (above[x] + middle[x]) + below[x]
        left, centre, right, out = lines[: width - 2], lines[1 : width - 1], lines[2:], smooth[k, 1 : width - 1]
        for x in range(width - 2):
            out[x] = ((left[x] + centre[x]) + right[x]) / three


@njit(nogil=True, cache=True)
def _is_peak(smooth, y, x):  # type: ignore[no-untyped-def]
    """Whether no pixel around is larger, and none before it as large; the nearest ones are asked first."""
    height, width = smooth.shape
    v = smooth[y, x]
    for distance in (1, 8):
        for j in range(max(y - distance, 0), min(y + distance + 1, height)):
            for i in range(max(x - distance, 0), min(x + distance + 1, width)):
                w = smooth[j, i]
                if w > v or (w == v and (j < y or (j == y and i < x))):
                    return False
    return True


@njit(nogil=True, cache=True)
def _any_above(row, threshold):  # type: ignore[no-untyped-def]
    n = 0
    for x in range(row.size):
        n += row[x] > threshold
    return n > 0


@njit(nogil=True, cache=True, error_model="numpy")
def _peaks(values, limit, top, bottom, left, right, found):  # type: ignore[no-untyped-def]
    height, width = values.shape
    if height < 3 or width < 3:
        return 0
    threshold = np.float32(limit)
    first, end = max(top - 8, 0), min(bottom + 8, height)
    smooth = np.zeros((end - first, width), np.float32)
    _smoothed(values, first, smooth)
    n = 0
    for y in range(max(top, 1), min(bottom, height - 1)):
        for start in range(max(left, 1), min(right, width - 1), 32):
            stop = min(start + 32, right, width - 1)
            if not _any_above(smooth[y - first, start:stop], threshold):
                continue
            for x in range(start, stop):
                if not smooth[y - first, x] > threshold or not _is_peak(smooth, y - first, x):
                    continue
                flux = light = spread = 0.0
                for j in range(max(y - 8, 0), min(y + 9, height)):
                    for i in range(max(x - 8, 0), min(x + 9, width)):
                        square = (j - y) * (j - y) + (i - x) * (i - x)
                        if square <= 64:
                            v = np.float64(values[j, i])
                            flux += v
                            if v > 2.0:  # of noise alone the size would be that of the window
                                light += v
                                spread += v * square
                found[n, 0], found[n, 1], found[n, 2] = y, x, flux
                found[n, 3] = np.sqrt(0.5 * spread / light) if light > 0.0 else 0.0
                n += 1
    return n
