"""Source masks: pixels above a threshold in connected groups that are large enough; growing them is in grow.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.detection.grow import disc_footprint, grow_disc, grow_square, grow_tophat

__all__ = ["detect", "disc_footprint", "grow_disc", "grow_square", "grow_tophat"]

_Array = NDArray[Any]
_Mask = NDArray[np.bool_]


def detect(
    smoothed: NDArray[np.floating[Any]],
    threshold: float | NDArray[np.floating[Any]],
    *,
    n_pixels: int,
    mask: _Mask | None = None,
    connectivity: int = 8,
) -> _Mask:
    """Find the pixels above a threshold that lie in connected groups of at least n_pixels.

    Parameters
    ----------
    smoothed : ndarray of float, shape (H, W)
        The detection image, usually smoothed.
    threshold : float or ndarray of float, shape (H, W)
        In the unit of smoothed. Compared as numpy compares: a Python float takes the precision of smoothed.
    n_pixels : int
        Smallest number of connected pixels that counts as a source, >= 1.
    mask : ndarray of bool, shape (H, W), optional
        True = the pixel belongs to no source.
    connectivity : {8, 4}
        Whether pixels that touch at a corner are connected (8) or only those that share an edge (4).

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where ``smoothed > threshold``, not masked, in a large enough group.

    Raises
    ------
    InputError
        If threshold or mask does not fit smoothed.
    ParameterError
        If n_pixels or connectivity cannot be used.

    Notes
    -----
    NaN rule: a NaN in smoothed or threshold is never above.

    Edge rule: pixels outside the array count as not above. In a window of a larger image the answer is that of the
    larger image at least n_pixels - 1 pixels from the window's edge: a group that has n_pixels has as many within
    n_pixels - 1 steps of any of its pixels.

    Memory: the output and 16 bytes for each run of pixels along a row; runs are at most half the pixels, so never more
    than 9 bytes a pixel.

    Reference: ``photutils.segmentation.detect_sources(...).make_source_mask()``.
    """
    if smoothed.ndim != 2:
        raise InputError(f"smoothed has {smoothed.ndim} dimensions, sources are sought in planes; give a 2-D array")
    if np.ndim(threshold) != 0 and np.shape(threshold) != smoothed.shape:
        raise InputError(
            f"threshold of shape {np.shape(threshold)} does not cover the image of shape {smoothed.shape} pixel by "
            "pixel; give a number or an array of that shape as threshold"
        )
    if mask is not None and (mask.shape != smoothed.shape or mask.dtype != np.bool_):
        raise InputError(
            f"mask of shape {mask.shape} and dtype {mask.dtype} does not tell for each pixel of the image of shape "
            f"{smoothed.shape} whether to leave it out; give a bool mask of that shape"
        )
    if not float(n_pixels).is_integer() or n_pixels < 1:
        raise ParameterError(f"n_pixels {n_pixels!r} is not a size of a source; give an integer >= 1")
    if connectivity not in (4, 8):
        raise ParameterError(f"connectivity {connectivity!r} is not known, pixels have 4 or 8 neighbours; give 4 or 8")
    with np.errstate(invalid="ignore"):
        above: _Mask = np.greater(smoothed, threshold, out=np.empty(smoothed.shape, dtype=np.bool_))
    if mask is not None:
        np.greater(above, mask, out=above)
    if n_pixels > 1 and above.size:
        _drop_small_groups(above.view(np.uint8), int(n_pixels), 1 if connectivity == 8 else 0)
    return above


@njit(nogil=True, cache=True)
def _drop_small_groups(above: _Array, n_pixels: int, reach: int) -> None:
    """Clear the groups of fewer than n_pixels in place. reach: 1 if corners connect, otherwise 0.

    Union-find over runs, the stretches of set pixels along a row: far fewer than pixels. parent holds the index of
    another run of the group, or minus the group's number of pixels in the group's root.
    """
    height = above.shape[0]
    n_runs = _count_runs(above)
    start = np.empty(n_runs, dtype=np.int32)
    stop = np.empty(n_runs, dtype=np.int32)
    parent = np.empty(n_runs, dtype=np.int64)
    first = np.zeros(height + 1, dtype=np.int64)  # of the runs of each row
    for y in range(height):
        n = _find_runs(above[y], start, stop, first[y])
        first[y + 1] = n
        j = first[y - 1] if y > 0 else 0
        for i in range(first[y], n):
            parent[i] = start[i] - stop[i]
            while j < first[y] and stop[j] + reach <= start[i]:
                j += 1
            k = j  # not j: the last run above may touch the next run of this row, too
            while k < first[y] and start[k] < stop[i] + reach:
                _unite(parent, i, k)
                k += 1
    for y in range(height):
        for i in range(first[y], first[y + 1]):
            if -parent[_root(parent, i)] < n_pixels:
                above[y, start[i] : stop[i]] = 0


@njit(nogil=True, cache=True)
def _count_runs(above: _Array) -> int:
    total = 0
    for y in range(above.shape[0]):
        row = above[y]
        before, here = row[:-1], row[1:]
        n: Any = np.int32(row[0])
        for x in range(here.size):
            n += np.int32(here[x] > before[x])
        total += n
    return total


@njit(nogil=True, cache=True)
def _find_runs(row: _Array, start: _Array, stop: _Array, n: int) -> int:
    """Append the runs of a row from index n on; the new number of runs. Most rows are mostly empty: skip in blocks."""
    x = 0
    while x < row.size:
        if x + 32 <= row.size:
            block = row[x : x + 32]
            some = np.uint8(0)
            for k in range(32):
                some |= block[k]
            if some == 0:
                x += 32
                continue
        end = min(x + 32, row.size)
        while x < end:
            if row[x] == 0:
                x += 1
                continue
            start[n] = x
            while x < row.size and row[x] != 0:
                x += 1
            stop[n] = x
            n += 1
    return n


@njit(nogil=True, cache=True)
def _root(parent: _Array, i: int) -> int:
    while parent[i] >= 0:
        above = parent[i]
        if parent[above] >= 0:  # halve the path for those who come later
            parent[i] = parent[above]
        i = above
    return i


@njit(nogil=True, cache=True)
def _unite(parent: _Array, i: int, j: int) -> None:
    i, j = _root(parent, i), _root(parent, j)
    if i == j:
        return
    if parent[i] > parent[j]:  # sizes are negative: i is the larger group from here on
        i, j = j, i
    parent[i] += parent[j]
    parent[j] = i
