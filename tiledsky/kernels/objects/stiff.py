"""Large objects in small boxes of an image that is at hand: rounds of a stiff sky, and of objects in what it leaves."""

from __future__ import annotations

import math

import numpy as np

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.fit.coarse import at_boxes, averaged
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.objects.catalogue import Objects, inside, no_objects
from tiledsky.kernels.objects.profiles import Floats
from tiledsky.kernels.objects.search import ROUNDS, Boxes, accepted, find
from tiledsky.kernels.residual.local_sky import local_quadratic

#: Boxes along each axis of a block that the sky has one value of.
_COARSE = 4
#: Standard deviations of the Gaussians that parabolas are fitted with, px: the first that knows the sky well enough.
_WIDTHS = (200.0, 400.0, 800.0)
#: Reach of a Gaussian, in its deviations; variance that the sky at a place may have, that of a block being 1.
_REACH, _WORST = 2.5, 0.03
#: Blocks that stand out by so many deviations above their sky do not count while no object is known.
_OUTLIER, _DEVIATION = 3.0, 1.4826022185056018


def large_objects(values: Floats, weight: Floats, noise: Floats, unmasked: Floats, *, box: int, unit: float) -> Objects:
    """Find the large objects of an image.

    Parameters
    ----------
    values, weight, noise, unmasked : ndarray (rows, columns), float64
        Boxes of the image as in `tiledsky.kernels.objects.search.Boxes`, with the sky.
    box : int
        Side of a box, px.
    unit : float
        Noise of a pixel.

    Returns
    -------
    ndarray of OBJECT
        The brightest first; none where no box counts.

    Notes
    -----
    The rounds of an objects step, with a sky that is made in one piece: a parabola about each place, weighted by a
    Gaussian of 200 px, or of 400 or 800 px where objects leave too little within it. Memory: 400 bytes a box.
    """
    size, whole = (box, box), Region(0, values.shape[0], 0, values.shape[1])
    image = values.shape[0] * box, values.shape[1] * box
    objects = earlier = no_objects()
    if not unit > 0.0 or not (weight > 0.0).any():
        return objects
    for k in range(ROUNDS + 1):
        sky: Floats = np.zeros(values.shape)
        if k:
            sky = stiff_sky(values, weight, objects, box=box, outliers=k == 1)
        boxes = Boxes(values - sky, weight, noise, unmasked - sky, (0, 0), size, unit, level=not k)
        made = accepted([find(boxes, objects, whole)], objects, image=image)
        if k > 1 and (made.tobytes() == objects.tobytes() or made.tobytes() == earlier.tobytes()):
            return made
        earlier, objects = objects, made
    return objects


def stiff_sky(values: Floats, weight: Floats, objects: Objects, *, box: int, outliers: bool = False) -> Floats:
    """Sky at all boxes, of those that no object covers; parameters as of `large_objects`.

    ``outliers``: boxes that stand out do not count.
    """
    free = np.where(inside(objects, 0, 0, (values.shape[0], values.shape[1]), (box, box)), 0.0, weight)
    weight = free if (free > 0.0).any() else weight
    mean, total = averaged(values, weight.astype(np.float32), _COARSE)
    counts: Floats = total.astype(np.float64)
    blocks = _fitted(mean, counts, box)
    for _ in range(3 if outliers else 0):
        rest = np.where(counts > 0.0, mean - blocks, np.nan)
        middle = float(np.nanmedian(rest))
        limit = middle + _OUTLIER * _DEVIATION * float(np.nanmedian(np.abs(rest - middle)))
        blocks = _fitted(mean, np.where(rest > limit, 0.0, counts), box)
    window = Window(blocks, Region(0, blocks.shape[0], 0, blocks.shape[1]))
    shape: Pair = (blocks.shape[0], blocks.shape[1])
    return at_boxes(window, Region(0, values.shape[0], 0, values.shape[1]), shape, _COARSE)


def _fitted(mean: Floats, counts: Floats, box: int) -> Floats:
    """Sky at all blocks."""
    known = counts > 0.0
    if not known.any():
        return np.zeros(mean.shape)
    sums = np.where(known, mean, 0.0)
    middle = math.fsum((sums * counts).ravel().tolist()) / math.fsum(counts.ravel().tolist())
    sums = np.where(known, (sums - middle) * counts, 0.0)
    made = np.full(mean.shape, np.nan)
    typical = float(np.median(counts[known]))
    for width in _WIDTHS:
        sigma = width / (box * _COARSE)
        radius = max(math.ceil(_REACH * sigma), 1)
        fit = local_quadratic(counts / typical, sums / typical, sigma=sigma, radius=radius, worst=_WORST)[..., 0]
        made = np.where(np.isnan(made), fit, made)
        if np.isfinite(made).all():
            break
    return np.nan_to_num(made, nan=0.0) + middle
