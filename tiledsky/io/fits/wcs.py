"""Where the pixels of an image are on the sky, and how large they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tiledsky.errors import InputError
from tiledsky.recipe import Recipe


def wcs_of(header: Any) -> Any:
    """WCS of a FITS header (`astropy.wcs.WCS`); None if it has none that astropy understands."""
    from astropy.wcs import WCS

    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not standard and understood nevertheless
        try:
            wcs = WCS(header, naxis=2)
        except Exception:  # wcslib raises whatever it meets first; a picture does without
            return None
    return wcs if wcs.has_celestial else None


def sky_of(header: Any) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Right ascension and declination (ICRS, degrees) of pixels, from x and y, by a FITS header.

    None without a celestial WCS, and where its coordinates have none, as those of the Sun or a planet.
    """
    wcs = wcs_of(header)
    if wcs is None:
        return None

    def to_sky(x: Any, y: Any) -> tuple[Any, Any]:
        sky = wcs.pixel_to_world(x, y).icrs
        return sky.ra.deg, sky.dec.deg

    try:
        to_sky(0.0, 0.0)
    except Exception:  # each frame has its own error; positions in pixels remain
        return None
    return to_sky


def pixel_side(header: Any) -> float | None:
    """Side of a pixel at the reference pixel, arcsec: the square root of its area; None without a celestial WCS."""
    wcs = wcs_of(header)
    if wcs is None:
        return None
    from astropy.wcs.utils import proj_plane_pixel_area

    return 3600.0 * float(proj_plane_pixel_area(wcs.celestial)) ** 0.5


def for_image(recipe: Recipe | str, header: Any) -> Recipe:
    """Return what runs of a recipe on an image (`Recipe.expanded`), by its FITS header (or None).

    Sizes in arcseconds are then in pixels: a pixel's side is the square root of its area at the reference pixel.

    Raises
    ------
    ParameterError
        As of `Recipe.load`.
    InputError
        A size in arcseconds, and no celestial WCS.
    """
    recipe = Recipe.load(recipe)
    if not recipe.needs_scale:
        return recipe.expanded()
    side = None if header is None else pixel_side(header)
    if side is None:
        raise InputError(
            f"recipe {recipe.name} gives a size in arcseconds and the image has no celestial WCS, so its pixels have "
            "no size on the sky; give keep in pixels, or a header with a WCS"
        )
    return recipe.on_scale(side).expanded()
