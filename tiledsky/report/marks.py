"""What is drawn over panels and can be switched: objects, places of checks, the mask, boxes, the chosen position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.result import Run
from tiledsky.kernels.objects.catalogue import no_objects
from tiledsky.report.colors import MASK
from tiledsky.report.facts import Spot, TakenRow, largest_first

#: Kinds of marks: key, label, whether they are shown at first.
LAYERS = (
    ("objects", "objects", True),
    ("taken", "light taken", True),
    ("checks", "places of checks", True),
    ("masked", "mask", False),
    ("boxes", "boxes", False),
)
#: Objects that are drawn, the largest first, and those of them that have their number beside them.
DRAWN, _NUMBERED = 200, 15
#: Panels that the mask is laid over.
_OVER = ("science", "background", "subtracted")
_CORNERS = np.linspace(0, 2 * np.pi, 41)
_OBJECT, _TAKEN = "#e6007e", "#d40000"


@dataclass(frozen=True)
class Marks:
    """Sources of data that all panels share."""

    halves: Any
    extents: Any
    numbers: Any
    taken: Any
    shares: Any
    spots: Any
    columns: Any
    rows: Any
    chosen: Any


def outlines(objects: NDArray[np.void], times: NDArray[np.float64]) -> tuple[list[Any], list[Any]]:
    """Ellipses of objects as closed lines, of semi-major axes ``times``, in pixels x and y.

    Lines, not glyphs of ellipses: pixels of a panel need not be square, and then its angles are not those of the image.
    """
    xs, ys = [], []
    for one, major in zip(objects, times, strict=True):
        along, across = major * np.cos(_CORNERS), major * one["axis_ratio"] * np.sin(_CORNERS)
        cosine, sine = np.cos(one["angle"]), np.sin(one["angle"])
        xs.append((one["x"] + along * cosine - across * sine).astype(np.float32))
        ys.append((one["y"] + along * sine + across * cosine).astype(np.float32))
    return xs, ys


def make_marks(run: Run, spots: Sequence[Spot], taken: Sequence[TakenRow], chosen: tuple[float, float]) -> Marks:
    """Read what is to be marked; ``chosen``: x and y of the first position that profiles are of."""
    from bokeh.models import ColumnDataSource

    objects = run.objects
    found = no_objects() if objects is None else objects[largest_first(objects)[:DRAWN]]
    half, wide = (outlines(found, found[n]) for n in ("half_light_radius", "extent"))
    named = found[:_NUMBERED]
    numbers = {"x": named["x"].tolist(), "y": named["y"].tolist(), "text": [str(k + 1) for k in range(len(named))]}
    by, bx = run.recipe.result.box_size
    ny, nx = run.plan.shape
    return Marks(
        halves=ColumnDataSource({"x": half[0], "y": half[1]}),
        extents=ColumnDataSource({"x": wide[0], "y": wide[1]}),
        numbers=ColumnDataSource(numbers),
        taken=ColumnDataSource(
            {
                "x": [(t.x + t.radius * np.cos(_CORNERS)).astype(np.float32) for t in taken],
                "y": [(t.y + t.radius * np.sin(_CORNERS)).astype(np.float32) for t in taken],
            }
        ),
        shares=ColumnDataSource(
            {"x": [t.x for t in taken], "y": [t.y - t.radius for t in taken], "text": [t.share for t in taken]}
        ),
        spots=ColumnDataSource(
            {"x": [s.x for s in spots], "y": [s.y for s in spots], "text": [str(s.number) for s in spots]}
        ),
        columns=ColumnDataSource({"x": _edges(nx, bx)}),
        rows=ColumnDataSource({"y": _edges(ny, by)}),
        chosen=ColumnDataSource({"x": [chosen[0]], "y": [chosen[1]]}, name="chosen"),
    )


def _edges(count: int, box: int) -> NDArray[np.float32]:
    """Places between boxes, and the ends of the image; whole numbers are middles of pixels."""
    return np.append(np.arange(0, count, box), count).astype(np.float32) - np.float32(0.5)


def add(plot: Any, marks: Marks) -> None:
    """Draw marks over a panel; renderers are named by their layer and the panel."""
    shown = {key: on for key, _, on in LAYERS}

    def of(layer: str) -> dict[str, Any]:
        return {"name": f"{layer}-{plot.name}", "visible": shown[layer], "level": "glyph"}

    line = {"line_color": "#101010", "line_alpha": 0.45, "line_width": 0.7}
    plot.vspan(x="x", source=marks.columns, **line, **{**of("boxes"), "name": f"boxes-x-{plot.name}"})
    plot.hspan(y="y", source=marks.rows, **line, **{**of("boxes"), "name": f"boxes-y-{plot.name}"})
    # a light line below a dark one stands out on any colour
    for part, color, width in (("below", "white", 3.0), ("half", _OBJECT, 1.4), ("extent", _OBJECT, 1.0)):
        source, dash = (marks.extents, "dashed") if part == "extent" else (marks.halves, "solid")
        named = {**of("objects"), "name": f"objects-{part}-{plot.name}"}
        plot.multi_line(xs="x", ys="y", line_dash=dash, source=source, line_color=color, line_width=width, **named)
    words = {"text_font_size": "11px", "text_font_style": "bold"}
    plot.text(
        source=marks.numbers,
        text_color=_OBJECT,
        background_fill_color="white",
        background_fill_alpha=0.7,
        padding=1,
        x_offset=4,
        y_offset=-3,
        **words,
        **{**of("objects"), "name": f"objects-numbers-{plot.name}"},
    )
    for part, color, width in (("below", "white", 3.0), ("above", _TAKEN, 1.6)):
        named = {**of("taken"), "name": f"taken-{part}-{plot.name}"}
        plot.multi_line(xs="x", ys="y", source=marks.taken, line_color=color, line_width=width, **named)
    plot.text(
        source=marks.shares,
        text_color=_TAKEN,
        background_fill_color="white",
        padding=1,
        text_align="center",
        text_baseline="top",
        y_offset=2,
        **words,
        **{**of("taken"), "name": f"taken-numbers-{plot.name}"},
    )
    for part, color, width in (("below", "white", 4.5), ("above", "#101010", 1.8)):
        named = {**of("checks"), "name": f"checks-{part}-{plot.name}"}
        plot.scatter(source=marks.spots, size=22, fill_color=None, line_color=color, line_width=width, **named)
    plot.text(
        source=marks.spots,
        text_color="#101010",
        background_fill_color="white",
        padding=2,
        x_offset=11,
        y_offset=-7,
        **words,
        **{**of("checks"), "name": f"checks-numbers-{plot.name}"},
    )
    for color, width in (("white", 4), (_OBJECT, 1.6)):
        plot.scatter(source=marks.chosen, marker="cross", size=16, line_color=color, line_width=width, level="glyph")


def lay_mask(plots: Sequence[Any]) -> None:
    """Lay the mask over panels of light, where the page has it."""
    from bokeh.models import LinearColorMapper

    found = [r for plot in plots for r in plot.renderers if r.name == "image-mask"]
    for mask in found:
        given = mask.glyph.color_mapper
        fading = [f"{MASK}{round(170 * k / 15):02x}" for k in range(16)]
        over = LinearColorMapper(palette=fading, low=given.low, high=given.high)
        for plot in plots:
            if plot.name in _OVER:
                place = {name: getattr(mask.glyph, name) for name in ("x", "y", "dw", "dh", "image")}
                named = {"name": f"masked-{plot.name}", "visible": False}
                plot.image(source=mask.data_source, color_mapper=over, **place, **named)


def lay_blink(plots: Sequence[Any]) -> None:
    """Lay the image less its background over the image, unseen until a reader lets it blink."""
    by_name = {plot.name: plot for plot in plots}
    if "science" in by_name and "subtracted" in by_name:
        image = next(r for r in by_name["subtracted"].renderers if r.name == "image-subtracted")
        place = {name: getattr(image.glyph, name) for name in ("x", "y", "dw", "dh", "image")}
        by_name["science"].image(
            source=image.data_source, color_mapper=image.glyph.color_mapper, name="blink", visible=False, **place
        )
