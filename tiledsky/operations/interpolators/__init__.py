"""The interpolators of meshes by their parameters in a recipe; see `Interpolator` for what each knows of itself."""

from __future__ import annotations

from typing import Any

from tiledsky.errors import ParameterError
from tiledsky.operations.interpolators.base import Interpolator, MeasuredBoxes, Term, a_cell
from tiledsky.operations.interpolators.idw import IDW
from tiledsky.operations.interpolators.local_polynomial import LocalPolynomial
from tiledsky.operations.interpolators.zoom import Zoom
from tiledsky.recipe import (
    IDWInterpolator,
    InterpolatorParameters,
    LocalPolynomialInterpolator,
    ZoomInterpolator,
)

__all__ = ["INTERPOLATORS", "Interpolator", "MeasuredBoxes", "Term", "a_cell", "interpolator_of"]

#: What interpolates a mesh, by the class of its parameters.
INTERPOLATORS: dict[type[InterpolatorParameters], type[Interpolator[Any]]] = {
    ZoomInterpolator: Zoom,
    IDWInterpolator: IDW,
    LocalPolynomialInterpolator: LocalPolynomial,
}


def interpolator_of(parameters: InterpolatorParameters) -> Interpolator[Any]:
    """Return what interpolates with these parameters.

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
