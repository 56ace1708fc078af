"""Recipes: ordered steps and their parameters, checked by name, read from and written to TOML. No numba, no pixels."""

from tiledsky.recipe.checks import Checks, Limit
from tiledsky.recipe.footprints import WITH_FOOTPRINTS, FootprintsStep, check_footprints
from tiledsky.recipe.parameters import (
    FOOTPRINTS,
    BackgroundStep,
    GlobalPolynomialInterpolator,
    IDWInterpolator,
    InterpolatorParameters,
    LocalPolynomialInterpolator,
    MaskStep,
    MeshCeiling,
    RingStep,
    SigmaClip,
    Tier,
    ZoomInterpolator,
)
from tiledsky.recipe.reading import preset_names, recipe_text
from tiledsky.recipe.recipe import RECOMMENDED, Recipe, check_noise, checks_of
from tiledsky.recipe.steps import AnyMask, AnyStep, ObjectsStep
from tiledsky.recipe.validation import validated

__all__ = [
    "FOOTPRINTS",
    "RECOMMENDED",
    "WITH_FOOTPRINTS",
    "AnyMask",
    "AnyStep",
    "BackgroundStep",
    "Checks",
    "FootprintsStep",
    "GlobalPolynomialInterpolator",
    "IDWInterpolator",
    "InterpolatorParameters",
    "Limit",
    "LocalPolynomialInterpolator",
    "MaskStep",
    "MeshCeiling",
    "ObjectsStep",
    "Recipe",
    "RingStep",
    "SigmaClip",
    "Tier",
    "ZoomInterpolator",
    "check_footprints",
    "check_noise",
    "checks_of",
    "preset_names",
    "recipe_text",
    "validated",
]
