"""Figures of one run, by matplotlib: small ones of one axes each, set side by side or below each other by a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledsky.engine.result import Run
from tiledsky.report import curves, maps
from tiledsky.report.facts import diagnostics_of

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
}


@dataclass(frozen=True)
class Drawn:
    """A figure, and what it shows in words.

    Attributes
    ----------
    name : str
        Of the file.
    title, caption : str
    alt : str
        For those who do not see it: what is drawn, and what it says.
    section : str
        Part of the report that it belongs to.
    image : bool
        Made of pixels rather than lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    section: str
    figure: Figure = field(repr=False)
    image: bool = False


Draw = Callable[[Any, Run, dict[str, Any]], tuple[str, str, str] | None]

#: Name, section, made of pixels?, size in inches, function that draws on axes and returns title, caption and alt text.
_LINES: list[tuple[str, str, Draw]] = [
    ("scale", "scale", curves.scale),
    ("power", "scale", curves.power),
    ("bias_flux", "bias", curves.bias_flux),
    ("bias_size", "bias", curves.bias_size),
    ("masked_bias", "bias", curves.masked_bias),
    ("edges", "bias", curves.edges),
    ("histogram", "residual", curves.histogram),
    ("correlation", "residual", curves.correlation),
]


def figures_of(run: Run, *, with_maps: bool = True) -> list[Drawn]:
    """Draw the figures of a run; those whose measure the run does not have are left out.

    ``with_maps``: also the residual and the mask of the whole image, which a page shows as panels.
    """
    from matplotlib import rc_context

    diagnostics = diagnostics_of(run)
    measures = diagnostics.get("measures", {})
    drawn = []
    with rc_context(STYLE):
        if with_maps:
            drawn += [_map(run, name) for name in ("residual", "mask", "subtracted")]
        drawn += _worst(run, measures)
        for name, section, draw in _LINES:
            figure, axes = axes_of(4.3, 3.2)
            told = draw(axes, run, diagnostics)
            if told is not None:
                drawn.append(Drawn(name, *told, section, figure))
    return drawn


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure of this size in inches, and its axes, with room for labels."""
    from matplotlib.figure import Figure

    # margins in inches: laying out by trial takes as long as drawing
    left, right, bottom, top = 0.8, 0.12, 0.5, 0.3
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def _map(run: Run, name: str) -> Drawn:
    ny, nx = run.plan.shape
    figure, axes = axes_of(4.8, float(np.clip(3.2 * ny / nx, 1.6, 8.0)) + 0.8)
    return Drawn(name, *maps.whole(axes, run, name), "residual", figure, image=True)


def _worst(run: Run, measures: dict[str, Any]) -> list[Drawn]:
    """Regions with the largest residuals, and the deepest hole."""
    negative = measures.get("negative") or {}
    holes = [{**r, "hole": True} for r in negative.get("regions", [])[:1]]
    positions = [*(measures.get("worst") or {}).get("positions", [])[: maps.WORST - len(holes)], *holes]
    drawn = []
    for k, position in enumerate(positions):
        figure, axes = axes_of(3.4, 3.3)
        drawn.append(Drawn(f"worst_{k + 1}", *maps.region(axes, run, position, k + 1), "worst", figure, image=True))
    return drawn
