"""Memory of the measures of a run, as terms of `tiledsky.engine.memory`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tiledsky.diagnostics.patches import patch_size
from tiledsky.diagnostics.summary import N_COLUMNS
from tiledsky.engine.phases import Phase
from tiledsky.engine.plan import Plan
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.cell_sums import CELL

#: Rows of pixels that are measured at a time with their halo, and bytes of each pixel beside the planes.
_BAND, _BAND_PIXEL = 4 * CELL + 128, 24
#: Bytes of the lists of blocks and apertures, for each block of 256 pixels: one in three hundred stands out.
_LISTS = 8


def measuring(phase: Phase, tile: Pair, read: Pair, planes: Mapping[str, Any], size: int) -> Phase:
    """Add what measuring a tile takes, beside the planes that are held.

    ``read``: pixels of the tile and its halo; ``planes``: those of the input, with their ``itemsize``; ``size``: bytes
    of a pixel of the background.
    """
    pixels = math.prod(read)
    phase.add("mask", 1, "px read", pixels)
    noise = max((plane.itemsize for name, plane in planes.items() if name in ("weight", "error")), default=0)
    phase.add("noise planes", 3 * noise, "px read", pixels)
    phase.add("band", _BAND_PIXEL + 4 * size, "px of a band", min(_BAND, read[0]) * read[1])
    return _sums(phase, 3, "cells", math.prod(-(-t // CELL) + 1 for t in tile))


def merging(phase: Phase, plan: Plan) -> Phase:
    """Add what the gather task takes: sums of the patches, and again for each left out; cells of a row of tiles."""
    shape, tile = plan.shape, plan.stage("output").tile
    side = patch_size(shape)
    _sums(phase, 5, "patches", math.prod(-(-n // side) for n in shape))
    rows = -(-min(tile[0], shape[0]) // CELL) + 1
    _sums(phase, 2, "cells of a row of tiles", rows * (-(-shape[1] // CELL)))
    phase.add("blocks, apertures", _LISTS, "blocks", math.prod(shape) // 256)
    return phase


def _sums(phase: Phase, times: int, unit: str, count: int) -> Phase:
    phase.add("sums", 8 * N_COLUMNS * times, unit, count)
    return phase
