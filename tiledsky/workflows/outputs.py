"""What all FITS files of results have in common, whoever makes them: their planes and their header."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from tiledsky.recipe import Recipe

#: What is written unless told otherwise.
EXPORTED = ("background", "background_rms", "background_error", "mask", "subtracted")
#: Card with the value that the sky and the subtracted image have outside the coverage.
FILL = "TSKYFILL"


def fill_of(recipe: Recipe, planes: Container[str], nodata: float | None) -> float | None:
    """Return what sky and subtracted image hold outside the coverage; None if nowhere, or NaN.

    ``planes``: names of those of the input; ``nodata``: the number that means no data in it.
    """
    covered = recipe.uncovered == "coverage" and "coverage" not in planes and nodata is None
    return None if covered or recipe.fill_value == "nan" else float(recipe.fill_value)


def result_header(science: Any, fill: float | None) -> Any:
    """Return the header of the science image (changed in place) as that of a result."""
    science.remove(FILL, ignore_missing=True)  # of an earlier result that was this one's input
    if fill is not None:
        science[FILL] = (fill, "of sky and subtracted image outside the coverage")
    return science
