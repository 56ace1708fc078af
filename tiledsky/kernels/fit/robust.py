"""Weights of boxes that stand out from the boxes about them: light that no mask found, as the wings of sources."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, row_bands
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.local_polynomial import FitModel, MeshFit
from tiledsky.kernels.mesh.guards import MAD_TO_STD

#: Rounds of fitting and weighing: more change little.
_ROUNDS = 3
#: Tukey's biweight at 4.685 deviations: 95% of the efficiency of a mean of normal noise (Holland & Welsch 1977).
_TUKEY = 4.685
#: Degree of the polynomials that boxes are compared with.
_ORDER = 2
#: Share of a neighbour, along an axis, in the residual that a box is judged by: a Gaussian of 0.7 boxes.
_SIDE = elementary.exp(-0.5 / (0.7 * 0.7))


def robust_weights(
    values: NDArray[Any], weight: NDArray[Any], *, box_size: Pair, bandwidth: float, cells: int = 1 << 19
) -> NDArray[np.float32]:
    """Weights times Tukey's biweight of how far boxes stand out from a fit.

    Parameters
    ----------
    values : ndarray (nby, nbx)
        Of the boxes; any number, also NaN, where the weight is 0.
    weight : ndarray (nby, nbx), float32
        Inverse variance of the boxes up to a factor; 0 where a box is left out. One at least is not 0.
    box_size : (int, int)
        Pixels of a box.
    bandwidth : float
        Of local parabolas, in pixels.
    cells : int
        That are fitted at a time: any number gives the same bits.

    Returns
    -------
    ndarray (nby, nbx), float32
        At most the weights given.

    Notes
    -----
    The residual of a box is the mean of those of the 3 x 3 boxes about it, for light that is no sky is hardly ever in
    one box alone, in units of its expected deviation. The scale is that of the residuals below 0, from their median:
    light makes boxes too bright and never too faint, so this side has the noise (and what the fit misses of the sky)
    and little else. On noise the weights are symmetric, and add no bias.

    Memory: 12 bytes a cell beside a band's fit.
    """
    found = weight
    judged = np.empty(weight.shape, np.float32)
    for _ in range(_ROUNDS):
        fit = MeshFit(values, found, box_size=box_size, model=FitModel((bandwidth,), _ORDER))
        for rows in row_bands(weight.shape, cells=cells):
            judged[rows] = _judged(fit, weight, rows)
        below = -judged[(judged < 0.0) & (weight > 0.0)]
        scale = MAD_TO_STD * float(np.median(below, overwrite_input=True)) if below.size else 0.0
        del below
        if scale == 0.0:
            return weight
        found = np.empty(weight.shape, np.float32)
        for rows in row_bands(weight.shape):
            share = np.maximum(1.0 - np.square(judged[rows] / (_TUKEY * scale), dtype=np.float64), 0.0)
            found[rows] = weight[rows] * np.square(share)
        if not found.any():
            return weight
    return found


def _judged(fit: MeshFit, weight: NDArray[Any], rows: slice) -> NDArray[np.float64]:
    """Residuals of some rows, of 3 x 3 boxes, in units of what boxes of weight 1 would scatter by."""
    ny = weight.shape[0]
    near = slice(max(rows.start - 1, 0), min(rows.stop + 1, ny))
    root = np.sqrt(weight[near].astype(np.float64))
    residual = np.where(root > 0.0, fit.values[near].astype(np.float64) - fit.plain(near), 0.0)
    counted = (root > 0.0) & np.isfinite(residual)
    # the residual of weight w has the deviation 1 / sqrt(w): a mean with the weights g sqrt(w) of w residuals
    total = _spread(np.where(counted, residual * root, 0.0), _SIDE)
    squares = _spread(counted.astype(np.float64), _SIDE**2)
    inner = slice(rows.start - near.start, rows.stop - near.start)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares[inner] > 0.0, total[inner] / np.sqrt(squares[inner]), 0.0)


def _spread(cells: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Sum of cells and their neighbours, those beside it counting `side`, those at its corners the square of that."""
    for axis in (0, 1):
        ahead = np.zeros_like(cells)
        behind = np.zeros_like(cells)
        lower, upper = (slice(None, -1), slice(1, None))
        if axis == 0:
            ahead[lower], behind[upper] = cells[upper], cells[lower]
        else:
            ahead[:, lower], behind[:, upper] = cells[:, upper], cells[:, lower]
        cells = cells + side * (ahead + behind)
    return cells
