"""The document of all measures, ``run/diagnostics.json`` of a run: what is relied on when it is read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import create_model

from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.image import Image
from tiledsky.diagnostics.protocol import F, Measure
from tiledsky.diagnostics.registry import MEASURES


class CheckResult(Fields):
    """A line of the verdict."""

    name: str
    result: Literal["pass", "warn", "fail", "not measured"]
    value: Number = None
    error: Number = None
    warn: Number = None
    fail: Number = None
    unit: str = "1"
    reason: str = ""


class Verdict(Fields):
    """The verdict on a sky."""

    result: Literal["pass", "warn", "fail"]
    checks: list[CheckResult]


_fields: dict[str, Any] = {measure.name: (measure.fields | None, None) for measure in MEASURES}
#: Fields of all measures, by their names.
Measures: type[Fields] = create_model("Measures", __base__=Fields, **_fields)


class Diagnostics(Fields):
    """All of it."""

    image: Image | None = None
    measures: Measures | None = None
    verdict: Verdict | None = None

    def of(self, measure: Measure[F]) -> F | None:
        """Fields of a measure; None where it was not made."""
        return getattr(self.measures, measure.name, None)
