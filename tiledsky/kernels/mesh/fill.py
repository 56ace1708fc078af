"""Holes of a mesh, filled from the good boxes around them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.kernels.mesh.idw import idw_evaluate, idw_reach, idw_window

FILL_NEIGHBOURS = 10  # boxes that fill a hole, and leaf size of the tree: both as in photutils, ties depend on them
TREE_BOXES = 1_000_000  # good boxes up to which photutils' choice among ties is reproduced
_FILL_BLOCK = 1 << 16  # cells looked at for holes at a time: bounds the memory of the distance and index arrays
_BAND = 256  # rows of the mesh at a time
_COLUMNS = 1024
_TREE_BYTES = 110  # a good box, of the tree

Floats = NDArray[Any]


def fill(mesh: Floats, *, overwrite: bool = False) -> Floats:
    """Fill NaN boxes from the 10 nearest good ones, weighted by 1 / distance in boxes.

    Parameters
    ----------
    mesh : ndarray (nby, nbx), float32 or float64
        NaN = hole; not changed, unless `overwrite`.
    overwrite : bool
        Fill `mesh` itself and return it: no copy is made.

    Returns
    -------
    ndarray (nby, nbx)
        Same dtype, without NaN. With fewer than 10 good boxes all of them are used.

    Raises
    ------
    ParameterError
        Every box is NaN.

    Notes
    -----
    Of several boxes at the same distance, on a grid the rule and not the exception, photutils takes those that its k-d
    tree meets first. A mesh of up to `TREE_BOXES` good boxes is filled through the same tree, bit for bit like
    `photutils.background.Background2D`, with about 100 bytes a good box. Larger ones (photutils needs gigabytes there)
    are filled by `tiledsky.kernels.mesh.idw`, where boxes that tie for the last places share them; about 12 bytes a
    box. Both beside the mesh, its copy, and up to 30 MB.
    """
    hole = np.isnan(mesh)
    filled = mesh if overwrite else mesh.copy()
    if not hole.any():
        return filled
    if hole.all():
        raise ParameterError(
            f"all {mesh.size} boxes of the mesh are NaN, so there is no sky to fill them from; raise "
            "exclude_percentile, or mask less"
        )
    if mesh.size - np.count_nonzero(hole) > TREE_BOXES:
        _fill_in_blocks(hole, filled)
        return filled
    good = ~hole
    from scipy.spatial import cKDTree  # a fifth of a second, and many meshes have no hole

    tree = cKDTree(np.column_stack(np.nonzero(good)), leafsize=FILL_NEIGHBOURS)
    values = mesh[good]
    height = max(_FILL_BLOCK // mesh.shape[1], 1)
    for start in range(0, mesh.shape[0], height):
        rows, columns = np.nonzero(hole[start : start + height])
        rows += start
        distance, neighbour = tree.query(np.column_stack((rows, columns)), k=FILL_NEIGHBOURS)
        found = np.isfinite(distance)  # fewer good boxes than neighbours asked for: the rest is at infinity
        weight = np.where(found, 1.0 / np.where(found, distance, 1.0), 0.0)
        nearby = values[np.where(found, neighbour, 0)]
        filled[rows, columns] = np.sum(weight * nearby, axis=1) / np.sum(weight, axis=1)
    return filled


def fill_bytes(cells: int) -> float:
    """Memory of `fill` beside the mesh, in bytes a cell: the reach of holes and a count of it, or the tree."""
    return max(9.0, _TREE_BYTES * min(cells, TREE_BOXES) / cells + 1)


def _fill_in_blocks(hole: NDArray[np.bool_], filled: Floats) -> None:
    """Fill by Shepard's rule on the mesh as an image of 1 x 1 boxes, one block at a time.

    Holes that are filled already are still holes to the blocks after them: ``hole`` decides, not the values.
    """
    reach = idw_reach(~hole, FILL_NEIGHBOURS)
    ny, nx = shape = (filled.shape[0], filled.shape[1])
    for y, x in itertools.product(range(0, ny, _BAND), range(0, nx, _COLUMNS)):
        block = (y, min(y + _BAND, ny), x, min(x + _COLUMNS, nx))
        here = slice(*block[:2]), slice(*block[2:])
        if not hole[here].any():
            continue
        i0, i1, j0, j1 = idw_window(block, (1, 1), reach)
        window = np.where(hole[i0:i1, j0:j1], np.asarray(np.nan, filled.dtype), filled[i0:i1, j0:j1])
        sky = idw_evaluate(
            window,
            (1, 1),
            block,
            n_neighbors=FILL_NEIGHBOURS,
            power=1.0,
            regularization=0.0,
            origin=(i0, j0),
            mesh_shape=shape,
            dtype=filled.dtype,
        )
        filled[here][hole[here]] = sky[hole[here]]
