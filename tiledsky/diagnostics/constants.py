"""Pixels of one value where noise should be, which count as sky; whether there is any noise.

Of the whole image, exact: blocks of 4 x 4 pixels of one value, and blocks with noise
(`tiledsky.kernels.detection.constants`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.fields import Fields, Number, Position
from tiledsky.diagnostics.next_steps import LOOK
from tiledsky.diagnostics.parts import Cells
from tiledsky.diagnostics.patches import Floats, number, patch_size
from tiledsky.diagnostics.protocol import Check, ImageSums, Measure, exact
from tiledsky.geometry import Pair
from tiledsky.kernels.detection.constants import BLOCK, DIP, NEAR, SOLID, UNUSED, block_kinds
from tiledsky.kernels.residual.cell_sums import CELL
from tiledsky.nodata import BY_CHANCE, NO_NOISE, TEXTURE, number_text, share_words, sky_words
from tiledsky.planes import INVALID, USER

#: Of a cell: blocks, with a dip, nearly solid, solid, solid and not masked; of these the values and their squares.
COLUMNS = 7
#: Share of the pixels from which solid blocks count even where they are masked as sources: the noise is too small.
_LARGE = 0.05

DEFINITION = (
    "pixels in blocks of 4 x 4 px that have one value, as a share of the valid ones: not masked, or all if they are a "
    "twentieth; none where as many blocks are one pixel short of it, as of whole numbers, or where the image has no "
    "noise. smooth_fraction: of the other blocks those without a pixel that lies below its neighbours in its row or "
    "column; of white noise .01, without noise near 1"
)


class SolidBlock(Position):
    """Where most pixels of one value are, and the value."""

    size: int
    value: str | None = None


class Constants(Fields):
    """Pixels of one value."""

    smooth_fraction: Number = None
    fraction: Number = None
    largest: SolidBlock | None = None


def update(band: Band) -> Floats:
    """Sums of the cells of a band."""
    rows, columns = band.cells
    science, bits = band.science[band.inner], band.bits[band.inner]
    used = (bits & (INVALID | USER)) == 0
    kinds = block_kinds(np.ascontiguousarray(science), used & np.isfinite(science))
    height, width = (n * BLOCK for n in kinds.shape)
    corners = science[:height:BLOCK, :width:BLOCK].astype(np.float64)
    clear = (bits[:height, :width] == 0).reshape(*_split(kinds.shape[0]), *_split(kinds.shape[1])).all(axis=(1, 3))
    sky = (kinds == SOLID) & clear
    values = np.where(sky, corners, 0.0)
    with np.errstate(over="ignore"):
        planes = (kinds != UNUSED, kinds == DIP, kinds == NEAR, kinds == SOLID, sky, values, values * values)
    side = CELL // BLOCK
    full = np.zeros((rows * side, columns * side, COLUMNS))
    full[: kinds.shape[0], : kinds.shape[1]] = np.stack(planes, axis=-1)
    with np.errstate(over="ignore"):
        return full.reshape(rows, side, columns, side, COLUMNS).sum(axis=(1, 3))


def _split(blocks: int) -> Pair:
    return blocks, BLOCK


SUMS = Cells("constants", COLUMNS, update)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    sums = image.sums(SUMS)
    blocks, dips, near, solid, sky = sums.sums[..., :5].sum(axis=(0, 1)).tolist()
    others = blocks - solid
    smooth = (others - dips) / others if others else 1.0 if blocks else float("nan")
    wanted = solid if blocks and solid >= _LARGE * blocks else sky
    counted = blocks > 0 and smooth <= 1 - TEXTURE and near <= BY_CHANCE * solid
    fraction = wanted / blocks if counted else float("nan")
    return {
        "unit": "1",
        "n_blocks": int(blocks),
        "smooth_fraction": number(smooth, 4),
        "solid_fraction": number(solid / blocks if blocks else float("nan"), 4),
        "fraction": number(0.0 if blocks and smooth <= 1 - TEXTURE and not counted else fraction, 4),
        "largest": _largest(sums.sums, image.shape),
    }


def _largest(sums: Floats, shape: Pair) -> dict[str, Any] | None:
    """Patch of the image with most pixels of one value that count as sky, and the value; None: there are none."""
    counts = sums[..., 4]
    if not counts.any():
        return None
    iy, ix = np.unravel_index(int(np.argmax(counts)), counts.shape)
    n, total, squares = sums[iy, ix, 4:].tolist()
    value, size = total / n, patch_size(shape)
    # one value: of several the mean of the squares is above the square of the mean
    same = np.isfinite(squares) and abs(squares / n - value * value) <= 1e-9 * value * value
    place = {"y": int(iy) * size, "x": int(ix) * size, "size": size, "n_pixels": int(n) * BLOCK * BLOCK}
    return {**place, "value": number_text(value) if same else None}


def is_noisy(found: Constants | None) -> bool:
    """Whether an image has noise, as far as is known."""
    return found is None or found.smooth_fraction is None or found.smooth_fraction <= 1 - TEXTURE


def advice(found: Constants) -> str | None:
    """One line on what is wrong; None if nothing is."""
    largest = found.largest
    if not is_noisy(found):
        return f"{NO_NOISE}, so tests in units of it mean nothing"
    if not found.fraction or largest is None:
        return None
    (y0, y1), (x0, x1) = ((int(first), int(first) + largest.size - 1) for first in (largest.y, largest.x))
    where = f"most of them in rows {y0} to {y1}, columns {x0} to {x1}"
    return sky_words(share_words(found.fraction, largest.value), where, largest.value)


MEASURE = Measure(
    name="constants",
    definition=DEFINITION,
    fields=Constants,
    finalize=finalize,
    parts=(SUMS,),
    checks=(
        Check(
            "constant_pixels",
            "1",
            lambda found, _: exact(found.fraction),
            place=lambda found: found.largest,
            next_step=f"{LOOK}; if the value means no data, give it with --nodata",
        ),
        Check(
            "no_noise",
            "1",
            lambda found, _: exact(found.smooth_fraction),
            without_noise=True,
            next_step="measure on the image as it was observed: a smooth or simulated sky has no noise to compare with",
        ),
    ),
    advice=advice,
)
