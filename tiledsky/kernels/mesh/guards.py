"""Guards of a mesh: larger boxes where a box has too few pixels, and cells that stand out from their neighbours.

Boxes of level k are ``2**k`` times as large along each axis as those of the mesh (level 0), on a grid that begins at
the first pixel of the image: box ``(i, j)`` lies in box ``(i >> k, j >> k)`` of level k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh.mesh import median_filter
from tiledsky.kernels.mesh.rim import check_window

#: From the median absolute distance to the standard deviation of a normal distribution.
MAD_TO_STD = 1.482602218505602
#: Boxes beyond a tile from which outlying ones are told.
OUTLYING_HALO = 2
_BAND = 256  # rows of the mesh at a time: bounds the memory of indices

Array = NDArray[Any]


def grown_boxes(bad: Sequence[NDArray[np.bool_]]) -> NDArray[np.int8]:
    """For each box the level of the smallest box that holds it and is good.

    Parameters
    ----------
    bad : sequence of ndarray of bool
        Boxes that cannot be used, level by level; level k has shape (ceil(nby / 2**k), ceil(nbx / 2**k)).

    Returns
    -------
    ndarray (nby, nbx), int8
        0 where the box itself is good; -1 where no box is.

    Raises
    ------
    ParameterError
        Shapes that are not those of halved meshes.
    """
    ny, nx = bad[0].shape
    for k, other in enumerate(bad[1:], start=1):
        if other.shape != (-(-ny >> k), -(-nx >> k)):
            raise ParameterError(
                f"boxes 2**{k} times as large make a mesh of {(-(-ny >> k), -(-nx >> k))} over one of {(ny, nx)}, not "
                f"{other.shape}, so parents cannot be found; measure all levels on one image"
            )
    level = np.negative(bad[0], dtype=np.int8)
    for start in range(0, ny if len(bad) > 1 else 0, _BAND):
        rows, columns = np.nonzero(bad[0][start : start + _BAND])
        rows += start
        for k, other in enumerate(bad[1:], start=1):
            good = ~other[rows >> k, columns >> k]
            level[rows[good], columns[good]] = k
            rows, columns = rows[~good], columns[~good]
    return level


def from_levels(parts: Sequence[Array], level: NDArray[np.int8]) -> Array:
    """One statistic of the boxes, each from the level that `grown_boxes` chose for it.

    Parameters
    ----------
    parts : sequence of ndarray
        The statistic, level by level; not changed.
    level : ndarray (nby, nbx), int8
        Boxes without a level keep their own value.

    Returns
    -------
    ndarray (nby, nbx)
        Dtype of ``parts[0]``; that array itself where there is one level.
    """
    if len(parts) == 1:
        return parts[0]
    chosen = parts[0].copy()
    for start in range(0, level.shape[0], _BAND):
        for k, part in enumerate(parts[1:], start=1):
            rows, columns = np.nonzero(level[start : start + _BAND] == k)
            rows += start
            chosen[rows, columns] = part[rows >> k, columns >> k]
    return chosen


def outlying_distances(background: Array, inner: Region, window_region: Region, shape: Pair) -> Array:
    """How far the background of each box of a tile is from that of its neighbourhood.

    Parameters
    ----------
    background : ndarray (wy, wx), float32 or float64
        Of the boxes of `window_region`; NaN = excluded already: not counted.
    inner, window_region : Region
        The tile, and the boxes given: at least ``inner.grown((OUTLYING_HALO, OUTLYING_HALO), shape)``.
    shape : (int, int)
        Boxes of the whole mesh.

    Returns
    -------
    ndarray
        Of `inner`, same dtype: distance from the median of the 5 x 5 boxes about the box (itself among them, fewer at
        the edges of the mesh); NaN where excluded. The same bits for any tiling. Memory: three of the window.
    """
    check_window("the distance of boxes", OUTLYING_HALO, inner, window_region, shape)
    middle = median_filter(background, size=(2 * OUTLYING_HALO + 1, 2 * OUTLYING_HALO + 1))
    part = inner.within(window_region)
    return np.asarray(np.abs(background[part] - middle[part]))


def outlying_boxes(distances: Array, *, sigma: float, middle: float) -> NDArray[np.bool_]:
    """Boxes whose background stands out from its neighbourhood.

    Parameters
    ----------
    distances : ndarray
        Of `outlying_distances`.
    sigma : float
        A box is outlying if its distance is above ``sigma * 1.4826 * middle``.
    middle : float
        Median of all distances of the mesh (`tiledsky.kernels.statistics.counted.CountedValues.median`). 0, where most
        distances are, and NaN are no scale to judge by: none is outlying.

    Returns
    -------
    ndarray of bool
        Shape of `distances`.
    """
    if not middle > 0.0:
        return np.zeros(distances.shape, np.bool_)
    return np.asarray(distances > sigma * (MAD_TO_STD * middle))


def central_pixels(n_pixels: int, box: int) -> NDArray[np.int64]:
    """Central pixel of each box along an axis: of an even number the lower of the two in the middle.

    Of a box that the image's border cuts, the centre of what is there.
    """
    first = np.arange(0, n_pixels, box)
    return (first + np.minimum(first + box, n_pixels) - 1) // 2
