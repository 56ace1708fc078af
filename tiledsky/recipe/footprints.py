"""The step that finds the steps in the sky between exposures, by their footprints."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Literal

from tiledsky.errors import InputError
from tiledsky.recipe.parameters import FOOTPRINTS, Model, Name

if TYPE_CHECKING:
    from tiledsky.recipe.recipe import Recipe
    from tiledsky.recipe.steps import AnyStep

#: The preset for images with footprints, where none is named.
WITH_FOOTPRINTS = "mosaic-steps"


class FootprintsStep(Model):
    """A constant for the footprint of each exposure, of the steps that the mosaic has at their edges.

    The constants follow from the pixels outside a mask; each pixel has the mean of those of its exposures. All later
    steps work on the image without them, and the background of the result is the sky with them. A later step of the
    same kind measures them anew, on the image as it was, under its own mask.

    ``mask``: the mask step whose sources are left out (default: the last one before, if any; "none": the invalid pixels
    alone).
    """

    kind: Literal["footprints"] = "footprints"
    name: Name = "footprints"
    mask: str | None = None

    @property
    def words(self) -> str:
        """The step in a few words."""
        return "a constant for the footprint of each exposure"


def check_order(steps: Sequence[AnyStep]) -> None:
    """Check that footprints are known before objects are, and used.

    Raises
    ------
    ValueError
    """
    kinds = [step.kind for step in steps]
    for k, step in enumerate(steps):
        if isinstance(step, FootprintsStep) and "objects" in kinds[:k]:
            raise ValueError(
                f"footprints step {step.name!r} comes after an objects step, which would take steps for light; put it "
                "before"
            )
        if isinstance(step, FootprintsStep) and "background" not in kinds[k:]:
            raise ValueError(f"footprints step {step.name!r} comes after the last background; put it before")


def check_footprints(recipe: Recipe, planes: Container[str]) -> None:
    """Check that a recipe with a footprints step has a plane of them among ``planes`` (names), and no other has one.

    Raises
    ------
    InputError
    """
    given = [name for name in FOOTPRINTS if name in planes]
    wanted = any(isinstance(step, FootprintsStep) for step in recipe.steps)
    if wanted and not given:
        raise InputError(
            f"recipe {recipe.name} has a footprints step and no plane says which exposures a pixel is of; give "
            "--footprints or --footprint-labels, or use a recipe without that step"
        )
    if given and not wanted:
        raise InputError(
            f"footprints are given and recipe {recipe.name} has no footprints step, so they would not be used; use "
            f"{WITH_FOOTPRINTS}, or leave them out"
        )
    if "footprint_labels" in given and len(given) > 1:
        raise InputError(
            "footprints are given as bits and as labels, and only one of them can be right; give --footprints or "
            "--footprint-labels"
        )
