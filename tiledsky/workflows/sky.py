"""Where the pixels of an image are on the sky."""

from __future__ import annotations

import warnings
from typing import Any


def wcs_of(header: Any) -> Any:
    """WCS of a FITS header (`astropy.wcs.WCS`); None if it has none that astropy understands."""
    from astropy.wcs import WCS, FITSFixedWarning

    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(header, naxis=2)
        except Exception:  # wcslib raises whatever it meets first; a picture does without
            return None
    return wcs if wcs.has_celestial else None
