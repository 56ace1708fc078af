"""Figures of measures on matplotlib axes: what is in them is said in `tiledsky.diagnostics.curve`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.curve import Curve, Figure, Histogram, Reference, Rows
from tiledsky.plain import figure_label
from tiledsky.report.colors import LINES, MARKERS

_FAINT = "#666666"


def draw(axes: Any, figure: Figure) -> None:
    """Draw a figure of a measure."""
    axes.set(xlabel=figure.x_label, title=figure.title)
    if isinstance(figure, Curve):
        _curve(axes, figure)
    elif isinstance(figure, Histogram):
        _histogram(axes, figure)
    elif isinstance(figure, Rows):
        _rows(axes, figure)


def _expected(axes: Any, line: Reference) -> None:
    color = _FAINT if line.faint else "black"
    axes.plot(line.x, line.y, color=color, linestyle="--", linewidth=1.2, label=figure_label(line.label))


def _curve(axes: Any, curve: Curve) -> None:
    if curve.level is not None:
        axes.axhline(curve.level, color="black", linewidth=1)
    if curve.edge is not None:
        axes.axvline(curve.edge, color=_FAINT, linestyle=":", linewidth=1.2)
    for line in curve.expected:
        _expected(axes, line)
    for points in curve.points:
        axes.errorbar(
            points.x,
            points.y,
            None if points.error is None else np.nan_to_num(points.error),
            color=LINES[points.color % len(LINES)],
            marker=MARKERS[points.color % len(MARKERS)],
            linestyle="-" if points.joined else "none",
            markersize=5,
            linewidth=1.4,
            capsize=2,
            label=figure_label(points.label),
        )
    if curve.x_scale == "log2":
        axes.set_xscale("log", base=2)
    elif curve.x_scale == "symlog":
        axes.set_xscale("symlog", linthresh=4)
    else:
        axes.set_xscale(curve.x_scale)
    axes.set_yscale(curve.y_scale)
    if len(curve.ticks):
        axes.set_xticks(curve.ticks, [f"{t:g}" for t in curve.ticks])
    if curve.robust:
        _without_outliers(axes, curve)
    axes.set_ylabel(curve.y_label)
    axes.legend()


def _without_outliers(axes: Any, curve: Curve) -> None:
    """Set the scale by what most points do; arrows at its ends are the others."""
    level = curve.level or 0.0
    y = np.concatenate([points.y for points in curve.points]) - level
    most = robust_limit(y)
    if not most or not (np.abs(y) > most).any():
        return
    bars = [np.abs(p.y - level) + np.nan_to_num(p.error) for p in curve.points if p.error is not None]
    inside = [bar[np.abs(p.y - level) <= most] for bar, p in zip(bars, curve.points, strict=False)]
    most = min(2 * most, max([most, *np.concatenate(inside)])) if inside else most
    axes.set_ylim(level - 1.1 * most, level + 1.1 * most)
    for points in curve.points:
        for sign, marker in ((1, "^"), (-1, "v")):
            beyond = sign * (points.y - level) > most
            if beyond.any():
                places = np.full(int(beyond.sum()), level + sign * 1.04 * most)
                color = LINES[points.color % len(LINES)]
                axes.plot(points.x[beyond], places, marker, color=color, markersize=8, clip_on=False, gid="beyond")


def robust_limit(values: NDArray[np.float64]) -> float:
    """Distance from 0 that shows all values, but for those beyond 6 times the median and twice the quartile."""
    size = np.abs(values[np.isfinite(values)])
    if not size.size:
        return 0.0
    middle, quarter = np.percentile(size, (50, 75))
    return float(size[size <= max(6 * middle, 2 * quarter)].max())


def _histogram(axes: Any, histogram: Histogram) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color="#9ecae1")
    axes.stairs(histogram.counts, histogram.edges, color=LINES[0], linewidth=1.2)
    if histogram.expected is not None:
        _expected(axes, histogram.expected)
        axes.legend()
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_ylabel(histogram.y_label)


def _rows(axes: Any, rows: Rows) -> None:
    places = np.arange(len(rows.labels), 0, -1)
    axes.axvline(0, color="black", linewidth=1)
    for k, (place, value, error) in enumerate(zip(places, rows.values, np.nan_to_num(rows.errors), strict=True)):
        color = k if rows.apart else 0
        style = {"color": LINES[color % len(LINES)], "marker": MARKERS[color % len(MARKERS)]}
        axes.errorbar([value], [place], xerr=[error], capsize=3, linewidth=1.4, **style)
    axes.set_yticks(places, [figure_label(label) for label in rows.labels])
    axes.set_ylim(0.4, len(rows.labels) + 0.6)
    axes.locator_params(axis="x", nbins=5 if rows.apart else 4)
