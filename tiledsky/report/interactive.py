"""Panels of a report with their marks, and what the script of its page goes by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tiledsky.engine.result import Run
from tiledsky.io.fits.cards import label_value
from tiledsky.report import marks, panels, profiles, sky_places
from tiledsky.report.facts import Row, Spot, TakenRow


@dataclass(frozen=True)
class Look:
    """Figures of the panels, of the profiles, switches (key, label, on), and the facts of the script as JSON."""

    plots: list[Any]
    profiles: list[Any]
    layers: list[tuple[str, str, bool]]
    page: str


def make(
    run: Run, shown: Sequence[panels.Panel], spots: Sequence[Spot], rows: Sequence[Row], taken: Sequence[TakenRow]
) -> Look:
    """Draw the panels of a run with all that can be switched over them.

    Parameters
    ----------
    run : Run
    shown : sequence of Panel
    spots : sequence of Spot
        Places that checks name.
    rows : sequence of Row
        Objects, the largest first.
    taken : sequence of TakenRow
        Objects whose light the background takes.
    """
    from bokeh.models import CustomJS

    shape = run.plan.shape
    x_range, y_range = panels.linked_ranges(shape)
    sky = sky_places.table(run.header, shape)
    known = [*((row.x, row.y) for row in rows[:1]), *((spot.x, spot.y) for spot in spots[:1])]
    start = next(iter(known), (float(shape[1] // 2), float(shape[0] // 2)))
    over = marks.make_marks(run, spots, taken, start)
    plots = [panels.draw(panel, x_range, y_range, shape, sky=sky is not None) for panel in shown]
    marks.lay_blink(plots)
    marks.lay_mask(plots)
    tapped = CustomJS(code="tiledsky.profile(cb_obj.x, cb_obj.y)")
    for plot in plots:
        marks.add(plot, over)
        plot.js_on_event("tap", tapped)
    x_range.js_on_change("start", CustomJS(code="tiledsky.boxes()"))
    page = {
        "shape": shape,
        "box": run.recipe.result.box_size[1],
        "start": start,
        "sky": sky,
        "panels": {panel.name: _facts(panel) for panel in shown},
    }
    there = {"objects": bool(rows), "checks": bool(spots), "taken": bool(taken)}
    layers = [(key, label, on) for key, label, on in marks.LAYERS if there.get(key, True)]
    return Look(plots, profiles.figures(label_value(run.header, "BUNIT")), layers, json_text(page))


def _facts(panel: panels.Panel) -> dict[str, Any]:
    place = panels.extent(panel.window)
    scales = {s.key: {"low": s.low, "high": s.high, "bend": s.bend} for s in panel.scales} if panel.stretched else {}
    return {
        "title": panel.title,
        "size": panel.window.size,
        "x0": place["x"] + 0.5,
        "y0": place["y"] + 0.5,
        "scales": scales,
    }


def json_text(value: Any) -> str:
    """JSON that ends no element of a page."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
