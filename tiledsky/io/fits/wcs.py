"""Where the pixels of an image are on the sky, and how large they are."""

from __future__ import annotations

import warnings
from typing import Any

from tiledsky.errors import InputError
from tiledsky.recipe import Recipe


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


def on_scale(recipe: Recipe, header: Any) -> Recipe:
    """Return the recipe with sizes that it gives in arcseconds in pixels, by the WCS of a FITS header (or None).

    A pixel's side is the square root of its area at the reference pixel.

    Raises
    ------
    InputError
        A size in arcseconds, and no celestial WCS.
    """
    if not recipe.needs_scale:
        return recipe
    wcs = None if header is None else wcs_of(header)
    if wcs is None:
        raise InputError(
            f"recipe {recipe.name} gives a size in arcseconds and the image has no celestial WCS, so its pixels have "
            "no size on the sky; give keep in pixels, or a header with a WCS"
        )
    from astropy.wcs.utils import proj_plane_pixel_area

    return recipe.on_scale(3600.0 * float(proj_plane_pixel_area(wcs.celestial)) ** 0.5)
