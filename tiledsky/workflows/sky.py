"""Where the pixels of a run are on the sky."""

from __future__ import annotations

import warnings
from typing import Any

from tiledsky.engine.result import Run


def wcs_of(run: Run) -> Any:
    """WCS of the image of a run (`astropy.wcs.WCS`); None if its header has none that astropy understands."""
    from astropy.wcs import WCS, FITSFixedWarning

    if "CTYPE1" not in run.header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(run.header, naxis=2)
        except Exception:  # wcslib raises whatever it meets first; a picture does without
            return None
    return wcs if wcs.has_celestial else None
