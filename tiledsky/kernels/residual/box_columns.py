"""Sums over small boxes of an image and its background, with and without a mask."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Numbers of a box: pixels that are sky, their image; valid pixels, their image, background and noise.
COLUMNS = 6


def box_columns(
    science: NDArray[np.floating],
    background: NDArray[np.floating],
    rms: NDArray[np.floating],
    state: NDArray[np.uint8],
    masked: NDArray[np.uint8],
    *,
    box: int,
    limit: float,
) -> NDArray[np.float64]:
    """Add up boxes.

    Parameters
    ----------
    science, background, rms : ndarray, shape (H, W)
        Start at the corner of a box.
    state : ndarray of uint8, shape (H, W)
        Of `tiledsky.kernels.residual.sky_sums`.
    masked : ndarray of uint8, shape (H, W)
        Not 0: no sky.
    box : int
        Side of a box, px.
    limit : float
        Sky lies within so many times the noise of the mean of the sky of its box; once.

    Returns
    -------
    ndarray of float64, shape (ceil(H / box), ceil(W / box), COLUMNS)
        As `COLUMNS` says. A box is added up in rows: the same bits wherever the arrays begin.
    """
    shape = tuple(-(-n // box) for n in state.shape)
    columns = np.zeros((*shape, COLUMNS))
    _boxes(science, background, rms, state, masked, box, limit, columns)
    return columns


@njit(nogil=True, cache=True)
def _boxes(science, background, rms, state, masked, box, limit, columns):  # type: ignore[no-untyped-def]
    height, width = state.shape
    for i in range(columns.shape[0]):
        for j in range(columns.shape[1]):
            bottom, right = min(box * (i + 1), height), min(box * (j + 1), width)
            n, first = 0.0, 0.0
            valid, image, sky, noise = 0.0, 0.0, 0.0, 0.0
            for y in range(box * i, bottom):
                for x in range(box * j, right):
                    if state[y, x] == 2:
                        continue
                    value = np.float64(science[y, x])
                    valid += 1.0
                    image += value
                    sky += np.float64(background[y, x])
                    noise += np.float64(rms[y, x])
                    if state[y, x] == 0 and masked[y, x] == 0:
                        n += 1.0
                        first += value
            if n > 0.0:
                middle, most = first / n, limit * noise / valid
                n, first = 0.0, 0.0
                for y in range(box * i, bottom):
                    for x in range(box * j, right):
                        value = np.float64(science[y, x])
                        if state[y, x] == 0 and masked[y, x] == 0 and abs(value - middle) <= most:
                            n += 1.0
                            first += value
                columns[i, j, 0], columns[i, j, 1] = n, first
            columns[i, j, 2], columns[i, j, 3], columns[i, j, 4], columns[i, j, 5] = valid, image, sky, noise
