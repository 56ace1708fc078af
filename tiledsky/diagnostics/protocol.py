"""What a measure is: the parts it needs of the tiles, its numbers, their fields, its checks, its figures.

A measure is one module that ends in ``MEASURE = Measure(...)``, and one line in `tiledsky.diagnostics.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tiledsky.diagnostics.curve import Figure
from tiledsky.diagnostics.fields import Fields, Place
from tiledsky.diagnostics.parts import Cells, Part
from tiledsky.diagnostics.patches import Floats, PatchSums
from tiledsky.diagnostics.windows import Taken
from tiledsky.geometry import Pair

F = TypeVar("F", bound=Fields)
V = TypeVar("V")
T = TypeVar("T")
S = TypeVar("S")

#: Sky coordinates (ra, dec in degrees) of pixels (x, y).
ToSky = Callable[[Floats, Floats], tuple[Floats, Floats]]
#: Value and error of a check (error 0: exact; None: not known), or None where it cannot be told.
CheckValue = tuple[float, float | None] | None


@dataclass(frozen=True)
class ImageFacts:
    """Facts of an image beside its pixels.

    Attributes
    ----------
    tile : (int, int)
        Of the background as it is written.
    source : str, optional
        The plane that the expected noise is of.
    catalogue : bool
        Whether sources were given (`tiledsky.diagnostics.band.Pixels.catalogue`).
    box : int
        Side of the box at a source.
    to_sky : callable, optional
    unit : str, optional
        Of the image.
    taken : Taken, optional
        What the recipe takes of profiles.
    objects : ndarray of `tiledsky.kernels.objects.catalogue.OBJECT`, optional
        Large objects that the recipe knows.
    """

    tile: Pair
    source: str | None = None
    catalogue: bool = False
    box: int = 3
    to_sky: ToSky | None = None
    unit: str | None = None
    taken: Taken | None = None
    objects: NDArray[np.void] | None = None


class ImageSums:
    """All that the tiles of an image say.

    Parameters
    ----------
    shape : (int, int)
        Of the image.
    facts : ImageFacts
    sums : dict of str to PatchSums
        By the names of their `Cells`.
    totals : dict of str
        By the names of their `Part`.
    measures : sequence of Measure
        Those that may be asked for.
    """

    def __init__(
        self,
        shape: Pair,
        facts: ImageFacts,
        sums: Mapping[str, PatchSums],
        totals: Mapping[str, Any],
        measures: Sequence[Measure[Any]],
    ) -> None:
        self.shape, self.facts = shape, facts
        self._sums, self._totals = sums, totals
        self._measures = {measure.name: measure for measure in measures}
        self._made: dict[str, dict[str, Any] | None] = {}
        self._once: dict[Callable[[ImageSums], Any], Any] = {}

    def sums(self, cells: Cells) -> PatchSums:
        """Sums of the patches."""
        return self._sums[cells.name]

    def total(self, part: Part[V, T]) -> T:
        """Return what the image says."""
        found: T = self._totals[part.name]
        return found

    def once(self, function: Callable[[ImageSums], S]) -> S:
        """Return what a function says of the image, which several measures ask for."""
        if function not in self._once:
            self._once[function] = function(self)
        found: S = self._once[function]
        return found

    def of(self, name: str) -> dict[str, Any] | None:
        """Plain data of a measure, by its name; None where it does not apply."""
        if name not in self._made:
            measure = self._measures[name]
            found = measure.finalize(self)
            self._made[name] = found and {"definition": measure.definition, **found}
        return self._made[name]


@dataclass(frozen=True)
class Check(Generic[F]):
    """A number of a measure that is judged; its limits and reason stand in `tiledsky.recipe.checks` under its name.

    Attributes
    ----------
    name, unit : str
    value : callable
        Of the fields of the measure and the noise of a pixel (NaN where it is not known): value and error.
    without_noise : bool
        Whether it means something of an image without noise.
    place : callable, optional
        Of the fields of the measure: where in the image the value is from; None: from all of it.
    next_step : str
        What to try where it fails, in one line, for whoever uses the command line; "": nothing to say.
    """

    name: str
    unit: str
    value: Callable[[F, float], CheckValue]
    without_noise: bool = False
    place: Callable[[F], Place | None] | None = None
    next_step: str = ""


@dataclass(frozen=True)
class Measure(Generic[F]):
    """A measure.

    Attributes
    ----------
    name : str
        Key of its data.
    definition : str
        What its numbers are, for who reads them.
    fields : type
        Of its data, as far as checks and pages use them.
    finalize : callable
        Of `ImageSums`: plain data, or None where it does not apply.
    parts : tuple of Cells or Part
        What it needs of the tiles, its own or shared.
    checks : tuple of Check
    figures : tuple of callable
        Of its fields: a figure, or None where there is nothing to draw.
    comparison : callable, optional
        Of names of runs and their fields: a figure of all of them, or None.
    advice : callable, optional
        Of its fields: one line on what is wrong, and what to do; None where nothing is.
    """

    name: str
    definition: str
    fields: type[F]
    finalize: Callable[[ImageSums], dict[str, Any] | None]
    parts: tuple[Cells | Part[Any, Any], ...] = ()
    checks: tuple[Check[F], ...] = ()
    figures: tuple[Callable[[F], Figure | None], ...] = ()
    comparison: Callable[[Sequence[tuple[str, F]]], Figure | None] | None = None
    advice: Callable[[F], str | None] | None = None

    def read(self, data: object) -> F | None:
        """Return fields of plain data; None without any, or if they are not of this measure."""
        if data is None:
            return None
        try:
            return self.fields.model_validate(data)
        except ValidationError:
            return None


def in_noise(value: float | None, error: float | None, noise: float) -> CheckValue:
    """Return value and error in units of the noise; None where one is not known."""
    if value is None or error is None or not noise:
        return None
    return value / noise, error / noise


def exact(value: float | None) -> CheckValue:
    """Return a value without error; None where it is not known."""
    return None if value is None else (value, 0.0)
