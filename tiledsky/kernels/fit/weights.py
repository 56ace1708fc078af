"""Weights of the boxes of a mesh in a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Region
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.mesh.mesh import median_filter

#: Boxes about each whose median rms is the noise there.
_NOISE = (5, 5)
#: Cells beside a tile that its noise depends on.
NOISE_HALO = _NOISE[0] // 2
#: Noise below this share of the median is taken as this: a few boxes of constant pixels would outweigh all others.
_QUIETEST = 1e-2
#: Standard errors above the noise there from which the rms of a box is no chance.
_CHANCE = 10.0
#: A box that counts has this weight at least, so that one box of a mesh does.
_LEAST = np.float32(1e-30)


def box_noise(tile: Region, rms: Window, usable: Window) -> NDArray[Any]:
    """Noise of the boxes of a tile: the median rms of the usable ones of 5 x 5 boxes, NaN where there are none.

    `rms` and `usable` (bool) in the tile grown by `NOISE_HALO`.

    Notes
    -----
    Memory: three times the bytes of `rms`, a cell of the window.
    """
    noise = median_filter(np.where(usable.data, rms.data, np.asarray(np.nan, rms.data.dtype)), size=_NOISE)
    return Window(noise, rms.region).cut(tile)


def box_weights(
    tile: Region, n_good: Window, rms: Window, usable: Window, *, pixels: int, typical: float
) -> NDArray[np.float32]:
    """Weights of the boxes of a tile: ``(n_good / pixels)**2 / noise**2``, noise in units of its median.

    Parameters
    ----------
    tile : Region
    n_good, rms : Window
        Of the boxes, in the tile grown by `NOISE_HALO` (`n_good`: in the tile).
    usable : Window of bool
        Boxes with values of their own, like `rms`.
    pixels : int
        Of a whole box.
    typical : float
        Median of all finite `box_noise` of the mesh; NaN or 0: weights do not ask for the noise.

    Returns
    -------
    ndarray (rows, columns), float32
        0 where a box is not usable. Not 0 somewhere on a mesh that has a usable box: the least rms is below the noise.

    Notes
    -----
    White noise alone would make it ``n_good / noise**2``. But the pixels that are left between sources hold what the
    mask did not find of them: the more of a box is masked, the more light is in the rest. With the square the bias by
    such light is a quarter less, and the scatter no larger. The noise is the median rms of 5 x 5 boxes, for that of one
    box varies with its own pixels. A box whose own rms is far above it (by more than chance can make it) holds more
    than sky, such as bad columns, and its mean says nothing: its weight is 0.

    Memory: as for `box_noise`, and 50 bytes a cell of the tile.
    """
    noise, own, number, known = box_noise(tile, rms, usable), rms.cut(tile), n_good.cut(tile), usable.cut(tile)
    relative = np.ones(own.shape)
    if typical > 0.0:
        relative = np.maximum(np.nan_to_num(noise.astype(np.float64) / typical, nan=1.0), _QUIETEST)
    weight = np.maximum(np.square(number / pixels / relative).astype(np.float32), _LEAST)
    return np.where(~known | _uneven(own, noise, number), np.float32(0), weight)


def _uneven(rms: NDArray[Any], noise: NDArray[Any], n_good: NDArray[Any]) -> NDArray[np.bool_]:
    """Boxes whose pixels scatter more than noise can: an rms of n pixels varies by ``1 / sqrt(2 n)`` of itself."""
    with np.errstate(invalid="ignore"):
        limit = noise.astype(np.float64) * (1.0 + _CHANCE / np.sqrt(2.0 * np.maximum(n_good, 1.0)))
        return (noise > 0.0) & (rms > limit)
