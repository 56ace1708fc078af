"Blocks with the largest residuals."

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.blocks import BLOCKS, away_from_edges, centre, not_of_objects, significance, stretch
from tiledsky.diagnostics.fields import Fields, Position
from tiledsky.diagnostics.next_steps import LOOK
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.diagnostics.residual import noise_of
from tiledsky.kernels.residual.cell_sums import KEPT

_LISTED = 20

DEFINITION = (
    "16 x 16 px blocks whose mean residual deviates most from zero, in units of its error, more than 16 px from the "
    "edges of the image; blocks as in negative"
)


class WorstBlocks(Fields):
    """Blocks, the worst first."""

    positions: list[Position] = []


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    blocks, shape, to_sky = image.total(BLOCKS), image.shape, image.facts.to_sky
    blocks = blocks[away_from_edges(blocks, shape) & not_of_objects(blocks, image)]
    z = significance(blocks, stretch(image))
    chosen = np.argsort(-np.abs(z), kind="stable")[:_LISTED]
    y, x = (centre(blocks[k][chosen], n) for k, n in zip(("y", "x"), shape, strict=True))
    ra, dec = to_sky(x, y) if to_sky is not None and len(chosen) else (np.full(len(chosen), np.nan),) * 2
    means = blocks["sum"][chosen] / blocks["n"][chosen] * noise_of(image)
    return {
        "unit": "sigma",
        "block": KEPT,
        "positions": [
            {
                "y": float(y[i]),
                "x": float(x[i]),
                "ra": number(float(ra[i]), 10),
                "dec": number(float(dec[i]), 10),
                "size": KEPT,
                "mean": number(float(means[i])),
                "significance": number(float(z[k]), 5),
            }
            for i, k in enumerate(chosen)
        ],
    }


def _worst_block(found: WorstBlocks, _: float) -> CheckValue:
    known = [p.significance for p in found.positions if p.significance is not None]
    return max(map(abs, known), default=0.0), 0.0


MEASURE = Measure(
    name="worst",
    definition=DEFINITION,
    fields=WorstBlocks,
    finalize=finalize,
    parts=(BLOCKS,),
    checks=(
        Check(
            "worst_block",
            "sigma",
            _worst_block,
            place=lambda found: next(iter(found.positions), None),
            next_step=f"{LOOK}; a defect or a source: mask it with --user-mask; sky: a smaller box_size or deep-sky",
        ),
    ),
)
