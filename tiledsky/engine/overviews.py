"""Means of blocks of the planes, for looking at a large image: written with its tiles, read a window at a time.

A run on an image larger than `tiledsky.engine.plan.WHOLE` pixels keeps, for each of its blocks of 4 x 4 and 16 x 16
pixels (blocks begin at pixel 0 of the image, and those that its border cuts are smaller), the mean of

===========  ============================================================================================
science      the finite pixels of the image
background   the pixels of the background
subtracted   the finite pixels of the subtracted image
residual     the subtracted pixels that no bit of the mask leaves out: what the sky is off by, and noise
mask         1 where any bit of the mask is set, else 0: the share of pixels that are left out
===========  ============================================================================================

as float32, added in float64 row by row, NaN where a block has no such pixel. Tiles of the output are whole blocks, so a
block's mean is that of its pixels for any tiling, and no plane is read twice for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.context import Context
from tiledsky.engine.names import OVERVIEW_PLANES, overview_path
from tiledsky.engine.plan import Stage
from tiledsky.geometry import boxes_of
from tiledsky.kernels.filters.blocks import block_means
from tiledsky.overlap import Patch


class OverviewWriter:
    """Writes the means of blocks of one tile of the output.

    Parameters
    ----------
    ctx : Context
    stage : Stage
        The output; it says of which blocks, if any.
    bits : Patch
        Mask plane of the result, for the tile's pixels.
    """

    def __init__(self, ctx: Context, stage: Stage, bits: Patch) -> None:
        self.ctx, self.sizes, self.tile = ctx, stage.levels, bits.region
        if self.sizes:
            self.masked = bits.data != 0

    def write(self, name: str, pixels: NDArray[Any]) -> list[str]:
        """Write the means of a plane, and with those of the subtracted plane what follows from it and the mask.

        Returns
        -------
        list of str
            Paths of what was written; none for a plane that is kept in full alone.
        """
        if not self.sizes or name not in OVERVIEW_PLANES:
            return []
        written = []
        for size in self.sizes:
            cells = boxes_of(self.tile, (size, size))
            means = {name: block_means(pixels, size)}
            if name == "subtracted":
                means["residual"] = block_means(pixels, size, mask=self.masked)
                means["mask"] = block_means(self.masked.astype(np.float32), size)
            for plane, values in means.items():
                written.append(self.ctx.write(overview_path(size, plane), cells, values.astype(np.float32, copy=False)))
        return written
