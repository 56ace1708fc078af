"""Weights of boxes that stand out from the boxes about them: light that no mask found, as the wings of sources.

In each of `ROUNDS` rounds `judge_boxes` says of each box of a tile how far it stands out; `scale_of` says of all boxes
of the mesh how far noise does; `robust_weights` makes the weights of the next round, and the last ones, of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.nodes import Kernel
from tiledsky.kernels.fit.sums import FitNumbers
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.mesh.guards import MAD_TO_STD
from tiledsky.kernels.statistics.counted import CountedValues

#: Rounds of fitting and weighing: more change little.
ROUNDS = 3
#: Tukey's biweight at 4.685 deviations: 95% of the efficiency of a mean of normal noise (Holland & Welsch 1977).
_TUKEY = 4.685
#: Degree of the polynomials that boxes are compared with.
_ORDER = 2
#: Share of a neighbour, along an axis, in the residual that a box is judged by: a Gaussian of 0.7 boxes.
_SIDE = elementary.exp(-0.5 / (0.7 * 0.7))


def robust_weights(weight: NDArray[Any], judged: NDArray[Any], scale: float) -> NDArray[np.float32]:
    """Weights times Tukey's biweight of how far boxes stand out from a fit.

    Parameters
    ----------
    weight, judged : ndarray, float32
        Weights before all rounds, and `judge_boxes` of a round.
    scale : float
        `scale_of` that round; 0: the weights stay.

    Returns
    -------
    ndarray, float32
        At most the weights given.
    """
    if scale == 0.0:
        return weight
    share = np.maximum(1.0 - np.square(judged / (_TUKEY * scale), dtype=np.float64), 0.0)
    return (weight * np.square(share)).astype(np.float32)


def below(weight: NDArray[Any], judged: NDArray[Any]) -> CountedValues:
    """Summary of a round for `scale_of`: how far boxes of a tile are too faint."""
    return CountedValues.of(-judged[(judged < 0.0) & (weight > 0.0)])


def scale_of(faint: CountedValues) -> float:
    """Deviation of the noise, in units of what boxes of weight 1 would scatter by, from `below` of all tiles.

    Light makes boxes too bright and never too faint, so this side has the noise (and what the fit misses of the sky)
    and little else. On noise the weights are symmetric, and add no bias.
    """
    median = faint.median()
    return MAD_TO_STD * median if median > 0.0 else 0.0


def judge_halo(*, box_size: Pair, bandwidth: float) -> Pair:
    """Cells beside a tile that `judge_boxes` depends on."""
    y, x = _kernel(box_size, bandwidth).halo
    return y + 1, x + 1


def judge_memory(tile: Pair, *, shape: Pair, box_size: Pair, bandwidth: float) -> int:
    """Bytes that `judge_boxes` takes for a tile of this shape, of a mesh of this shape, beside what is given to it.

    28 a cell of the window while the weights are made, 4 of them from then on; the fits, or 100 a cell of the tile.
    """
    kernel = _kernel(box_size, bandwidth)
    window = math.prod(min(n + 2 * (h + 1), of) for n, h, of in zip(tile, kernel.halo, shape, strict=True))
    near = (tile[0] + 2, tile[1] + 2)
    return max(28 * window, 4 * window + max(kernel.memory(near, shape), 132 * math.prod(near)))


def judge_boxes(
    tile: Region,
    values: Window,
    weight: Window,
    before: Window | None,
    scale: float,
    *,
    shape: Pair,
    box_size: Pair,
    bandwidth: float,
    numbers: FitNumbers,
) -> NDArray[np.float32]:
    """Residuals of the boxes of a tile, of 3 x 3 boxes, in units of what boxes of weight 1 would scatter by.

    Parameters
    ----------
    tile : Region
    values : Window
        Of the boxes, in the tile grown by `judge_halo`; any number, also NaN, where the weight is 0.
    weight : Window of float32
        Inverse variance of the boxes up to a factor; 0 where a box is left out.
    before : Window of float32, optional
        This function's result in the round before; None in the first.
    scale : float
        `scale_of` the round before.
    shape, box_size : (int, int)
        Of the mesh; pixels of a box.
    bandwidth : float
        Of local parabolas, in pixels.
    numbers : FitNumbers
        Of the whole mesh.

    Returns
    -------
    ndarray (rows, columns), float32

    Notes
    -----
    The residual of a box is the mean of those of the 3 x 3 boxes about it, for light that is no sky is hardly ever in
    one box alone, in units of its expected deviation.

    Memory: `judge_memory`.
    """
    found = weight if before is None else Window(_again(weight, before, scale), weight.region)
    near = tile.grown((1, 1), shape)
    fits = _kernel(box_size, bandwidth).fits(
        near, values, found, shape=shape, center=numbers.center, typical=numbers.typical, unit=False
    )
    root = np.sqrt(weight.cut(near).astype(np.float64))
    sky = np.where(np.isfinite(fits.unit), fits.fit + numbers.center, np.nan)
    residual = np.where(root > 0.0, values.cut(near).astype(np.float64) - sky, 0.0)
    counted = (root > 0.0) & np.isfinite(residual)
    # the residual of weight w has the deviation 1 / sqrt(w): a mean with the weights g sqrt(w) of w residuals
    total = _spread(np.where(counted, residual * root, 0.0), _SIDE)
    squares = _spread(counted.astype(np.float64), _SIDE**2)
    inner = tile.within(near)
    with np.errstate(divide="ignore", invalid="ignore"):
        judged = np.where(squares[inner] > 0.0, total[inner] / np.sqrt(squares[inner]), 0.0)
    return judged.astype(np.float32)


def _kernel(box_size: Pair, bandwidth: float) -> Kernel:
    return Kernel((bandwidth / box_size[0], bandwidth / box_size[1]), _ORDER)


def _again(weight: Window, before: Window, scale: float) -> NDArray[np.float32]:
    """Weights of the round before, made anew of what was found then."""
    return robust_weights(weight.data, before.cut(weight.region), scale)


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
