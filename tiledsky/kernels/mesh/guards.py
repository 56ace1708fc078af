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
from tiledsky.kernels.mesh.mesh import median_filter

#: From the median absolute distance to the standard deviation of a normal distribution.
MAD_TO_STD = 1.482602218505602
_NEIGHBOURHOOD = (5, 5)
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


def outlying_boxes(background: Array, *, sigma: float) -> NDArray[np.bool_]:
    """Boxes whose background stands out from its neighbourhood.

    Parameters
    ----------
    background : ndarray (nby, nbx), float32 or float64
        NaN = excluded already: not counted, and not outlying.
    sigma : float
        A box is outlying if its distance from the median of the 5 x 5 boxes about it (itself among them, fewer at the
        edges) is above ``sigma * 1.4826`` times the median of all these distances.

    Returns
    -------
    ndarray (nby, nbx), bool
        A mesh where most distances are 0 has no scale to judge by: none is outlying.
    """
    distance = np.abs(background - median_filter(background, size=_NEIGHBOURHOOD))
    known = distance[~np.isnan(distance)]
    scale = MAD_TO_STD * float(np.median(known)) if known.size else 0.0
    if not scale > 0.0:
        return np.zeros(background.shape, np.bool_)
    return np.asarray(distance > sigma * scale)


def central_pixels(n_pixels: int, box: int) -> NDArray[np.int64]:
    """Central pixel of each box along an axis: of an even number the lower of the two in the middle.

    Of a box that the image's border cuts, the centre of what is there.
    """
    first = np.arange(0, n_pixels, box)
    return (first + np.minimum(first + box, n_pixels) - 1) // 2
