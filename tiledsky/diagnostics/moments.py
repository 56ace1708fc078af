"""Moments of the residual: what several measures take for the noise."""

from __future__ import annotations

import numpy as np

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import Floats, PatchSums, ratio
from tiledsky.kernels.residual.cell_sums import moment_columns, small_block_columns


def update(band: Band) -> Floats:
    """Sums of the cells of a band."""
    return moment_columns(band.values, band.residual, band.good, origin=band.origin, cells=band.cells)


def _update_small(band: Band) -> Floats:
    """Sums of the small blocks of a band."""
    return small_block_columns(band.values, band.good, origin=band.origin, cells=band.cells)


MOMENTS = Cells("moments", 8, update)
SMALL_BLOCKS = Cells("small blocks", 4, _update_small)


def mean_square(sums: PatchSums) -> Floats:
    """Mean square of a pixel in units of the local noise, within the limit of the moments."""
    total = sums.sums.sum(axis=(0, 1))
    return ratio(total[5], total[3])


def noise(sums: PatchSums) -> float:
    """Rms of a pixel about zero, in the unit of the image."""
    total = sums.sums.sum(axis=(0, 1))
    return float(np.sqrt(ratio(total[2], total[0])))
