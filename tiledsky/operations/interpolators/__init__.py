"""The interpolators of meshes by their parameters in a recipe; see `Interpolator` for what each knows of itself."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_args

from tiledsky.errors import ParameterError
from tiledsky.operations.interpolators.base import Interpolator, Term
from tiledsky.recipe import InterpolatorParameters
from tiledsky.recipe.parameters import AnyInterpolator

__all__ = ["INTERPOLATORS", "Interpolator", "Term", "interpolator_of"]


def _implementation(model: type[InterpolatorParameters]) -> type[Interpolator[Any]]:
    """Return class ``LocalPolynomial`` of module ``local_polynomial`` for ``LocalPolynomialInterpolator``."""
    module = import_module(f"{__name__}.{model.model_fields['kind'].default.replace('-', '_')}")
    implementation: type[Interpolator[Any]] = getattr(module, model.__name__.removesuffix("Interpolator"))
    return implementation


#: Implementation of each interpolator, by the class of its parameters.
INTERPOLATORS = {model: _implementation(model) for model in get_args(AnyInterpolator)}


def interpolator_of(parameters: InterpolatorParameters) -> Interpolator[Any]:
    """Return the interpolator with these parameters.

    Raises
    ------
    ParameterError
        No interpolator is registered for them.
    """
    implementation = INTERPOLATORS.get(type(parameters))
    if implementation is None:
        known = ", ".join(sorted(model.__name__ for model in INTERPOLATORS))
        raise ParameterError(
            f"interpolator {parameters!r} has no implementation, so no sky follows from it; give one of {known}"
        )
    return implementation(parameters)
