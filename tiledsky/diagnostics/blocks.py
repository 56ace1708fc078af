"""Blocks of 16 x 16 pixels that stand out: what measures 6 (negative structure) and 9 (worst residuals) are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.parts import Cells, Limit, Places
from tiledsky.diagnostics.patches import Floats
from tiledsky.diagnostics.protocol import ImageSums
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.cell_sums import CELL, KEPT, WIDTHS, block_columns

#: Deviation of a block's mean, in units of its own error for white noise, from which it is kept.
THRESHOLD = 3.0
#: Blocks that are kept, those that deviate most, half of them for each sign: more than 20000 x 20000 px have, and on
#: 1e11 px half as many again as noise alone.
MOST = 1_600_000
#: Pixels of a block that must be unmasked.
ENOUGH = KEPT * KEPT // 4
#: A block: its row and column, pixels, sum of the residual in units of the noise.
BLOCK = np.dtype([("y", "<i4"), ("x", "<i4"), ("n", "<f8"), ("sum", "<f8")])


def block_sums(band: Band) -> tuple[Floats, Floats]:
    """Blocks of all widths by cells, and count and sum of each block of 16 pixels, in units of the noise."""
    return block_columns(band.values, band.good, origin=band.origin, cells=band.cells)


def _usable(band: Band) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = band.of(block_sums)[1][..., 0] >= ENOUGH
    return usable


def _select(band: Band) -> NDArray[np.void]:
    """Blocks of a band that stand out."""
    kept = band.of(block_sums)[1]
    n, total = kept[..., 0], kept[..., 1]
    chosen = _usable(band) & (total * total >= THRESHOLD**2 * n)
    y, x = np.nonzero(chosen)
    blocks = np.empty(y.size, BLOCK)
    per = CELL // KEPT
    blocks["y"], blocks["x"] = y + band.where.y0 * per, x + band.where.x0 * per
    blocks["n"], blocks["sum"] = n[chosen], total[chosen]
    return blocks


def _count(band: Band) -> Floats:
    """How many blocks were looked at in each cell."""
    per = CELL // KEPT
    counts = _usable(band).reshape(band.cells[0], per, band.cells[1], per).sum(axis=(1, 3))
    return counts[..., None].astype(np.float64)


def _rank(blocks: NDArray[np.void]) -> Floats:
    """Lowest for the block that deviates most."""
    return -(blocks["sum"] ** 2) / blocks["n"]


def _is_high(blocks: NDArray[np.void]) -> NDArray[np.bool_]:
    high: NDArray[np.bool_] = blocks["sum"] > 0
    return high


#: Blocks that stand out; how many were looked at. Sources that are not masked do not drive out holes.
BLOCKS = Places("blocks", BLOCK, ("y", "x"), _select, Limit(MOST, _rank, kinds=2, kind=_is_high))
LOOKED_AT = Cells("looked at", 1, _count)


def stretch(image: ImageSums) -> float:
    """Noise of the mean of a block, over that of white noise."""
    scale = image.of("scale")
    return (scale and scale["expected"][WIDTHS.index(KEPT)]) or 1.0


def significance(blocks: NDArray[np.void], scale: float) -> Floats:
    """Deviation of each block in units of its error; ``scale``: that of the noise at this width, over white noise."""
    return blocks["sum"] / np.sqrt(blocks["n"]) / scale


def least(side: NDArray[np.void], scale: float, *, listed: int) -> float:
    """Deviation from which all blocks of one sign are listed, in units of the error (`significance`).

    ``listed``: blocks of both signs.
    """
    if listed < MOST or not side.size:
        return THRESHOLD
    return max(THRESHOLD, float(np.sqrt(-_rank(side).max())) / scale)


def area(blocks: NDArray[np.void], shape: Pair) -> NDArray[np.int64]:
    """Pixels of each block, less at the ends of an image of ``shape``."""
    sides = [
        np.minimum(blocks[k].astype(np.int64) * KEPT + KEPT, n) - blocks[k].astype(np.int64) * KEPT
        for k, n in zip(("y", "x"), shape, strict=True)
    ]
    return sides[0] * sides[1]


def away_from_edges(blocks: NDArray[np.void], shape: Pair) -> NDArray[np.bool_]:
    """Whether each block keeps off the outermost `KEPT` pixels of an image of ``shape``."""
    inner = np.ones(blocks.size, bool)
    for k, n in zip(("y", "x"), shape, strict=True):
        first = blocks[k].astype(np.int64) * KEPT
        inner &= (first >= KEPT) & (first + KEPT <= n - KEPT)
    return inner


def not_of_objects(blocks: NDArray[np.void], image: ImageSums) -> NDArray[np.bool_]:
    """Whether what a block shows is sky: light above it within the extent of a large object is the object's."""
    sky = np.ones(blocks.size, bool)
    y, x = (centre(blocks[k], n) for k, n in zip(("y", "x"), image.shape, strict=True))
    for one in (image.of("objects_taken") or {}).get("objects", ()):
        sky &= np.hypot(y - one["y"], x - one["x"]) > one["extent"]
    return sky | ~_is_high(blocks)


def centre(index: Floats, size: int) -> Floats:
    """Middle of blocks in pixels of the image, from 0 at the centre of the first, cut at the image's ``size``."""
    first = np.asarray(index) * KEPT
    return (first + np.minimum(first + KEPT, size) - 1) / 2.0
