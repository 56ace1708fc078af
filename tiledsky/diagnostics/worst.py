"""Measure 9: where the residual is worst, for a look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.blocks import away_from_edges, centre, significance
from tiledsky.diagnostics.patches import Floats, number
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.cell_sums import KEPT

NAME = "worst"
_LISTED = 20

DEFINITION = (
    "16 x 16 px blocks whose mean residual deviates most from zero, in units of its error, more than 16 px from the "
    "edges of the image"
)
#: Sky coordinates (ra, dec in degrees) of pixels (x, y), or None without any.
ToSky = Callable[[Floats, Floats], tuple[Floats, Floats]]


def finalize(
    blocks: NDArray[np.void], *, scale: float, noise: float, shape: Pair, to_sky: ToSky | None
) -> dict[str, Any]:
    """Return the measure; arguments as of `tiledsky.diagnostics.negative.finalize`."""
    blocks = blocks[away_from_edges(blocks, shape)]
    z = significance(blocks, scale)
    chosen = np.argsort(-np.abs(z), kind="stable")[:_LISTED]
    y, x = (centre(blocks[k][chosen], n) for k, n in zip(("y", "x"), shape, strict=True))
    ra, dec = to_sky(x, y) if to_sky is not None and len(chosen) else (np.full(len(chosen), np.nan),) * 2
    means = blocks["sum"][chosen] / blocks["n"][chosen] * noise
    return {
        "definition": DEFINITION,
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
