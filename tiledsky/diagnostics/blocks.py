"""Blocks of 16 x 16 pixels that stand out: what measures 6 (negative structure) and 9 (worst residuals) are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.parts import Cells, Places
from tiledsky.diagnostics.patches import Floats
from tiledsky.diagnostics.protocol import ImageSums
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.cell_sums import CELL, KEPT, WIDTHS, block_columns

#: Deviation of a block's mean, in units of its own error for white noise, from which it is kept.
THRESHOLD = 3.0
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


#: Blocks that stand out; how many were looked at.
BLOCKS = Places("blocks", BLOCK, ("y", "x"), _select)
LOOKED_AT = Cells("looked at", 1, _count)


def stretch(image: ImageSums) -> float:
    """Noise of the mean of a block, over that of white noise."""
    scale = image.of("scale")
    return (scale and scale["expected"][WIDTHS.index(KEPT)]) or 1.0


def significance(blocks: NDArray[np.void], scale: float) -> Floats:
    """Deviation of each block in units of its error; ``scale``: that of the noise at this width, over white noise."""
    return blocks["sum"] / np.sqrt(blocks["n"]) / scale


def regions(blocks: NDArray[np.void], columns: int) -> NDArray[np.intp]:
    """Number of the connected region (sides and corners touch) of each block; ``columns`` of blocks in the image.

    ``blocks`` in row order. Regions are numbered by their first blocks. Reference: `scipy.ndimage.label`.
    """
    if not blocks.size:
        return np.zeros(0, np.intp)
    key = blocks["y"].astype(np.int64) * (columns + 2) + blocks["x"] + 1  # a column of gap: no row touches the next
    edges = []
    for step in (1, columns + 1, columns + 2, columns + 3):
        at = np.searchsorted(key, key + step)
        found = np.flatnonzero((at < key.size) & (key[np.minimum(at, key.size - 1)] == key + step))
        edges.append(np.column_stack([found, at[found]]))
    pairs = np.concatenate(edges)
    graph = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(key.size, key.size))
    labels: NDArray[np.intp] = csgraph.connected_components(graph, directed=False)[1]
    return labels


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


def centre(index: Floats, size: int) -> Floats:
    """Middle of blocks in pixels of the image, from 0 at the centre of the first, cut at the image's ``size``."""
    first = np.asarray(index) * KEPT
    return (first + np.minimum(first + KEPT, size) - 1) / 2.0
