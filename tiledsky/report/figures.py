"""Figures of one run, by matplotlib: small ones of one axes each, set side by side or below each other by a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledsky.diagnostics import curve
from tiledsky.diagnostics.curve import BIAS, RESIDUAL, SCALE, Section
from tiledsky.diagnostics.document import Diagnostics
from tiledsky.diagnostics.registry import MEASURES
from tiledsky.diagnostics.worst import MEASURE as LARGEST
from tiledsky.engine.result import Run
from tiledsky.report import curves, maps
from tiledsky.report.facts import Spot, diagnostics_of, spot_at, spots_of
from tiledsky.report.windows import planes_to_look_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: matplotlib settings of all figures.
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "image.origin": "lower",
    "image.interpolation": "nearest",
    "svg.hashsalt": "tiledsky",
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
}
#: Room at the edges of a figure, in inches.
_PAD = 0.04
#: Room of a colour bar with its labels, in inches.
_BAR = 0.9


@dataclass(frozen=True)
class Plot:
    """A figure, and what it shows in words.

    Attributes
    ----------
    name : str
        Of the file.
    title, caption : str
    alt : str
        For those who do not see it: what is drawn, and what it says.
    section : Section
        Part of the report that it belongs to.
    image : bool
        Made of pixels rather than lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    section: Section
    figure: Figure = field(repr=False)
    image: bool = False


#: Maps of the whole image among the figures.
MAPS = ("science", "background", "subtracted", "residual", "mask")
#: Sections of a report; those of other measures follow, in the order of the measures.
WORST = Section(
    "worst",
    "Worst regions",
    "The places that the checks name, those that fail or warn first; then where the residual is least like noise.",
)
_SECTIONS = (WORST, SCALE, BIAS, RESIDUAL)


def sections_of(drawn: Sequence[Plot]) -> list[Section]:
    """Sections of some figures, in the order of a report."""
    there = [figure.section for figure in drawn]
    return [section for section in dict.fromkeys((*_SECTIONS, *there)) if section in there]


def figures_of(run: Run, *, with_maps: bool = True) -> list[Plot]:
    """Draw the figures of a run; those whose measure the run does not have are left out.

    ``with_maps``: also those of the whole image, which a page shows as panels.
    """
    from matplotlib import rc_context

    diagnostics = diagnostics_of(run)
    drawn = []
    with rc_context(STYLE):
        if with_maps:
            drawn += [_map(run, name) for name in MAPS if name in planes_to_look_at(run)]
        drawn += _worst(run, diagnostics)
        drawn += [draw(figure, (4.3, 3.2)) for figure in _measured(diagnostics)]
    return drawn


def fit(figure: Figure) -> Figure:
    """Make room for labels that stick out of a figure: its axes shrink by what is missing at each side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.get_tightbbox(renderer)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if power := axis.get_offset_text().get_text():
            # part of the label: at the end of its axis it would lie on title or label
            axis.get_offset_text().set_visible(False)
            axis.set_label_text(f"{axis.get_label_text()} ({power})")
    for _ in range(3):  # labels stay as large as they are while axes shrink, and ticks may change
        for axes in figure.axes:
            _inside(figure, axes.xaxis, renderer)
        box = figure.get_tightbbox(renderer)
        width, height = figure.get_size_inches()
        out = np.array([box.x0, width - box.x1, box.y0, height - box.y1]) - _PAD
        frame = figure.axes[0].get_position(original=True)
        moved = np.array([1 - frame.x0, frame.x1, 1 - frame.y0, frame.y1])  # share of a shift that an edge goes along
        missing = np.clip(-out / (width, width, height, height) / moved, 0, 0.45)
        if not missing.any():
            break
        left, right, bottom, top = missing
        for axes in figure.axes:
            x0, y0, across, up = axes.get_position(original=True).bounds
            wide, high = 1 - left - right, 1 - bottom - top
            axes.set_position((left + x0 * wide, bottom + y0 * high, across * wide, up * high))
    for axes in figure.axes:
        _inside(figure, axes.xaxis, renderer)
    return figure


def _measured(diagnostics: Diagnostics) -> list[curve.Figure]:
    """Figures of the measures, section by section."""
    found = []
    for measure in MEASURES:
        if (fields := diagnostics.of(measure)) is not None:
            found += [figure for make in measure.figures if (figure := make(fields)) is not None]
    sections = list(dict.fromkeys((*_SECTIONS, *(figure.section for figure in found))))
    return sorted(found, key=lambda figure: (sections.index(figure.section), figure.rank))


def draw(figure: curve.Figure, size: tuple[float, float]) -> Plot:
    """Draw a figure of measures; ``size``: width and height in inches."""
    canvas, axes = axes_of(*size)
    curves.draw(axes, figure)
    return Plot(figure.name, figure.title, figure.caption, figure.alt, figure.section, fit(canvas))


def _inside(figure: Figure, axis: Any, renderer: Any) -> None:
    """Make the label of an x axis that is longer than the axis end where the figure does, smaller if it must."""
    label, wide, pad = axis.label, figure.bbox.width, _PAD * figure.dpi
    box = label.get_window_extent(renderer)
    label.set_fontsize(label.get_fontsize() * min(1.0, (wide - 2 * pad) / max(box.width, 1.0)))
    box = label.get_window_extent(renderer)
    beyond = max(box.x1 - wide + pad, 0.0) - max(pad - box.x0, 0.0)
    if beyond:
        place, height = label.get_position()
        label.set_position((place - beyond / axis.axes.bbox.width, height))


def axes_of(width: float, height: float, *, right: float = 0.12) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes, with room for labels and ``right`` of the axes."""
    from matplotlib.figure import Figure

    # margins in inches: laying out by trial takes as long as drawing
    left, bottom, top = 0.8, 0.5, 0.3
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def _map(run: Run, name: str) -> Plot:
    ny, nx = run.plan.shape
    figure, axes = axes_of(4.8, float(np.clip(3.1 * ny / nx, 1.2, 8.0)) + 0.8, right=_BAR)
    words = maps.whole(axes, run, name)
    return Plot(name, *words, RESIDUAL, fit(figure), image=True)


def _worst(run: Run, diagnostics: Diagnostics) -> list[Plot]:
    """Regions about the places that checks name, then those with the largest residuals."""
    drawn = []
    for k, spot in enumerate(places_to_see(run, diagnostics), 1):
        figure, axes = axes_of(3.9, 3.0, right=_BAR)
        words = maps.region(axes, run, spot, k)
        drawn.append(Plot(f"worst_{k}", *words, WORST, fit(figure), image=True))
    return drawn


def places_to_see(run: Run, diagnostics: Diagnostics) -> list[Spot]:
    """Places of checks that fail or warn, of those that pass, and of the largest residuals, each once."""
    if diagnostics.verdict is None:
        return []
    found = spots_of(run, diagnostics)
    found += spots_of(run, diagnostics, ("pass",), first=len(found) + 1, known=found)
    worst = diagnostics.of(LARGEST)
    for position in [] if worst is None else worst.positions:
        if len(found) < maps.WORST and all(spot.apart(position.x, position.y) for spot in found):
            found.append(spot_at(run, len(found) + 1, position.x, position.y))
    return found[: maps.WORST]
