"""Places on the sky of an image of any projection, as a small table from which a page reads off any pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.geometry import Pair
from tiledsky.io.fits.wcs import sky_of

#: Places along a side. Between them unit vectors are linear in x and y: within 0.1" on a tangential plane of 10 deg.
COUNT = 25


def table(header: Any, shape: Pair) -> dict[str, Any] | None:
    """Unit vectors (ICRS) at places across an image, for the script of a page.

    Returns
    -------
    dict or None
        ``x``, ``y``: first place and distance of the next; ``count``; ``vectors``: x, y and z of each, row by row, null
        outside the projection. None without sky coordinates.
    """
    to_sky = sky_of(header)
    if to_sky is None:
        return None
    steps = [n / (COUNT - 1) for n in shape]
    y, x = (np.arange(COUNT) * step - 0.5 for step in steps)
    ra, dec = (np.radians(v) for v in to_sky(*np.meshgrid(x, y)))
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    listed = [[None if np.isnan(v).any() else [round(float(c), 11) for c in v] for v in row] for row in vectors]
    return {"x": [-0.5, steps[1]], "y": [-0.5, steps[0]], "count": COUNT, "vectors": listed}
