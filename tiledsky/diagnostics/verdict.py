"""The verdict: each check one number with its error, limits and reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tiledsky.diagnostics import constants
from tiledsky.diagnostics.next_steps import NAMING
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import CheckValue
from tiledsky.diagnostics.registry import IMAGE, MEASURES
from tiledsky.recipe import Checks, Limit

RESULTS = ("pass", "warn", "fail")
NOT_MEASURED = "not measured"

#: Checks that others follow from.
_FIRST = ("no_noise", "constant_pixels", "masked_fraction", "objects_taken")
#: Each check with its measure.
_CHECKS = {check.name: (measure, check) for measure in (IMAGE, *MEASURES) for check in measure.checks}


def judge(diagnostics: Mapping[str, Any], checks: Checks | None = None) -> dict[str, Any]:
    """Return the verdict on what `tiledsky.diagnostics.measure` found: ``result`` and ``checks``.

    A check fails (warns) where its value, in magnitude, is at least its limit, and ``significance`` errors away from
    zero. What could not be measured does not count, and of an image without noise little can be.
    """
    limits = checks or Checks()
    given = {**diagnostics.get("measures", {}), IMAGE.name: diagnostics.get("image")}
    fields = {measure.name: measure.read(given.get(measure.name)) for measure in (IMAGE, *MEASURES)}
    image = fields[IMAGE.name]
    noise = math.nan if image is None or image.noise is None else image.noise
    noisy = constants.is_noisy(fields[constants.MEASURE.name])
    rows = []
    for name in limits.names():
        measure, check = _CHECKS[name]
        data = fields[measure.name]
        found = None if data is None or not (noisy or check.without_noise) else check.value(data, noise)
        limit: Limit = getattr(limits, name)
        rows.append(
            {
                "measure": measure.name,
                "name": name,
                "value": None if found is None else number(found[0], 4),
                "error": None if found is None or found[1] is None else number(found[1], 4),
                "unit": check.unit,
                "warn": limit.warn,
                "fail": limit.fail,
                "result": result_of(found, limit, limits.significance),
                "reason": limits.reason(name),
            }
        )
    counted = [RESULTS.index(row["result"]) for row in rows if row["result"] in RESULTS]
    return {"result": RESULTS[max(counted, default=0)], "checks": rows}


def next_step(name: str, recipe: str = "") -> str:
    """Return what to try where a check fails, in one line; "": nothing is known. ``recipe``: that was used."""
    said = _CHECKS[name][1].next_step if name in _CHECKS else ""
    for words in NAMING.get(recipe, ()):
        said = said.replace(words, "")
    return said


def most_telling(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return checks that fail, then those that warn.

    First those that say what others follow from: light of objects in the sky, next to no sky, values that are no data;
    then that which is farthest beyond its limit.
    """
    rows = [row for result in RESULTS[:0:-1] for row in verdict["checks"] if row["result"] == result]

    def order(row: Mapping[str, Any]) -> tuple[int, int, float]:
        first = _FIRST.index(row["name"]) if row["name"] in _FIRST else len(_FIRST)
        return -RESULTS.index(row["result"]), first, -abs(row["value"]) / (row[row["result"]] or 1.0)

    return sorted(rows, key=order)


def places(diagnostics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Pixels (x, y) of the checks whose value is from one place of the image."""
    given = {**diagnostics.get("measures", {}), IMAGE.name: diagnostics.get("image")}
    found = {}
    for name, (measure, check) in _CHECKS.items():
        data = measure.read(given.get(measure.name))
        place = None if data is None or check.place is None else check.place(data)
        if place is not None and place.x is not None and place.y is not None:
            found[name] = place.x, place.y
    return found


def remarks(diagnostics: Mapping[str, Any]) -> list[str]:
    """Say what is wrong and what to do, a line a measure that knows."""
    given = {**diagnostics.get("measures", {}), IMAGE.name: diagnostics.get("image")}
    lines = []
    for measure in (IMAGE, *MEASURES):
        data = measure.read(given.get(measure.name))
        if data is not None and measure.advice is not None and (said := measure.advice(data)) is not None:
            lines.append(said)
    return lines


def result_of(found: CheckValue, limit: Limit, significance: float) -> str:
    """Return what a check says of a value and its error."""
    if found is None or not math.isfinite(found[0]):
        return NOT_MEASURED
    value, error = abs(found[0]), found[1]
    if error is None or not math.isfinite(error):
        return NOT_MEASURED
    if value >= significance * error:
        for result, at in (("fail", limit.fail), ("warn", limit.warn)):
            if at is not None and value >= at:
                return result
    return "pass"
