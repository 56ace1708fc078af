"""Steps of the residual along straight lines, as exposures leave them in a mosaic whose skies do not agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tiledsky.diagnostics.fields import Coordinate, Fields, Number, Position
from tiledsky.diagnostics.object_boxes import BOXES, box_means, box_side, large_objects_of
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.kernels.objects.catalogue import inside
from tiledsky.kernels.residual.straight_edges import MOST, SHORTEST, SIDE, straight_edges

#: Share of the boxes with pixels that must be seen.
_SEEN = 0.2
#: Errors above 0 from which a step is one, for the order in which they are listed.
_ERRORS = 3.0

DEFINITION = (
    "straight lines of any direction along which the residual has a step, found in boxes of 8 px and more, those that "
    f"large objects cover left out: mean of {SIDE} boxes on the side of larger y (of steep lines: larger x) minus that "
    f"of {SIDE} on the other, in units of the noise of a pixel; error: from the noise, or from the scatter of eight "
    "parts of the line, whichever is larger; rms: over the lines, by their length"
)


class Edge(Position):
    """A straight edge: its middle, ends and step."""

    x0: Coordinate
    y0: Coordinate
    x1: Coordinate
    y1: Coordinate
    step: float
    step_error: float


class ExposureSteps(Fields):
    """Edges, those first of which the step is largest for certain."""

    not_measured: str | None = None
    box: Number = None
    n: Number = None
    rms: Number = None
    rms_error: Number = None
    edges: list[Edge] = []


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    side = box_side(image.shape)
    found: dict[str, Any] = {"unit": "sigma", "not_measured": None, "box": side, "n": 0, "edges": []}
    shortest = SHORTEST * side
    if max(image.shape) < shortest:
        return {
            **found,
            "not_measured": f"the image is smaller than the shortest edge that is looked for, {shortest} px",
        }
    boxes, objects = image.once(box_means), image.once(large_objects_of)
    if isinstance(boxes, str) or objects is None:
        return {**found, "not_measured": boxes}
    rows, columns = boxes.good.shape
    good = boxes.good & ~inside(objects, 0, 0, (rows, columns), (side, side))
    if image.facts.objects is not None:  # those found at the same places may be smaller
        good &= ~inside(image.facts.objects, 0, 0, (rows, columns), (side, side))
    found["seen"] = number(float(good.sum() / (boxes.valid > 0).sum()), 4)
    if good.sum() < _SEEN * (boxes.valid > 0).sum():
        return {**found, "not_measured": f"objects and masks leave less than {_SEEN:.0%} of the boxes"}
    errors = np.where(good, boxes.error * boxes.stretch, boxes.unit) / boxes.unit
    residual = np.where(good, boxes.sky - boxes.background, 0.0) / boxes.unit
    edges = straight_edges(residual, np.where(good, 1 / np.square(errors), 0.0))
    if not len(edges):
        return {**found, "rms": 0.0, "rms_error": 0.0}
    step, error = edges["step"], edges["error"]
    y0, x0, y1, x1 = (edges[name] * side for name in ("y0", "x0", "y1", "x1"))
    length = np.hypot(y1 - y0, x1 - x0)
    rms = math.sqrt(max(float((length * (step**2 - error**2)).sum() / length.sum()), 0.0))
    rms_error = float(np.sqrt((np.square(length * step * error)).sum())) / (float(length.sum()) * rms) if rms else None
    order = np.argsort(-(np.abs(step) - _ERRORS * error), kind="stable")
    listed = [_edge(y0[k], x0[k], y1[k], x1[k], step[k], error[k], image) for k in order]
    known = {"rms": number(rms, 4), "rms_error": None if rms_error is None else number(rms_error, 3)}
    return {**found, "n": len(listed), **known, "edges": listed}


def _edge(
    y0: float, x0: float, y1: float, x1: float, step: float, error: float, image: ImageSums
) -> dict[str, float | None]:
    """Return an edge, of the edges of boxes, in pixels; their centres have whole numbers."""
    places = {"y": 0.5 * (y0 + y1), "x": 0.5 * (x0 + x1), "x0": x0, "y0": y0, "x1": x1, "y1": y1}
    row: dict[str, float | None] = {name: round(float(value) - 0.5, 1) for name, value in places.items()}
    to_sky = image.facts.to_sky
    ra, dec = (None, None) if to_sky is None else to_sky(np.array([row["x"]]), np.array([row["y"]]))
    sky = {name: None if c is None else number(float(c[0]), 10) for name, c in (("ra", ra), ("dec", dec))}
    return row | {"step": number(float(step), 4), "step_error": number(float(error), 3)} | sky


def _rms(found: ExposureSteps, _: float) -> CheckValue:
    return None if found.rms is None else (found.rms, found.rms_error)


def _said(found: ExposureSteps) -> str | None:
    """The largest step and its ends."""
    if not found.edges:
        return None
    one, more = found.edges[0], "" if found.n is None or found.n < MOST else " or more"
    return (
        f"{len(found.edges)}{more} straight edges in the residual: the largest step is {one.step:+.3f} +- "
        f"{one.step_error:.3f} sigma, from x {one.x0:.0f}, y {one.y0:.0f} to x {one.x1:.0f}, y {one.y1:.0f}"
    )


MEASURE = Measure(
    name="exposure_steps",
    definition=DEFINITION,
    fields=ExposureSteps,
    finalize=finalize,
    parts=(BOXES,),
    checks=(
        Check(
            "exposure_steps",
            "sigma",
            _rms,
            place=lambda found: next(iter(found.edges), None),
            next_step="skies of exposures that do not agree: match them before they are added up"
            ", or give their footprints: --footprints FILE --recipe mosaic-steps",
        ),
    ),
    advice=_said,
)
