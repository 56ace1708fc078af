"""Profiles about a position that a reader clicks: figures that the script of the page fills."""

from __future__ import annotations

from typing import Any

from tiledsky.report.colors import LINES

#: Planes of each figure, with the names of their lines.
FIGURES = (
    ("profile-light", (("science", "image"), ("background", "background"))),
    ("profile-residual", (("subtracted", "image − background"),)),
)


def figures(unit: str) -> list[Any]:
    """Empty figures: image and background, image less background, against the distance from the position."""
    from bokeh.models import ColumnDataSource, CustomJSTickFormatter, PlainText, Range1d
    from bokeh.models.annotations import Span
    from bokeh.plotting import figure

    plots = []
    for name, lines in FIGURES:
        plot = figure(
            name=name,
            sizing_mode="stretch_width",
            height=270,
            tools="save",
            toolbar_location="above",
            tags=["lines"],
            x_range=Range1d(start=0, end=1),
            x_axis_label="distance (px)",
            y_axis_label=PlainText(text=unit),  # no formula
        )
        plot.toolbar.logo = None
        plot.xgrid.visible = False
        plot.axis.axis_label_text_font_style = "normal"
        plot.axis.minor_tick_line_color = None
        plot.yaxis.formatter = CustomJSTickFormatter(code="return String(+tick.toPrecision(8)).replaceAll('-', '−')")
        plot.min_border = 4
        for k, (plane, label) in enumerate(lines):
            color = LINES[(k + 2 * (len(lines) == 1)) % len(LINES)]
            source = ColumnDataSource({"r": [0.5], "value": [0]}, name=f"profile-{plane}")
            dash = "dashed" if plane == "background" else "solid"
            plot.line("r", "value", source=source, color=color, line_width=2, line_dash=dash, legend_label=label)
            plot.scatter("r", "value", source=source, color=color, size=4)
        if len(lines) == 1:
            plot.add_layout(Span(location=0, dimension="width", line_color="#777777"))
        legend = plot.legend[0]
        plot.add_layout(legend, "above")  # beside the lines, not over them
        legend.update(orientation="horizontal", padding=0, spacing=16, label_text_font_size="12px")
        legend.update(background_fill_alpha=0, border_line_color=None)
        plots.append(plot)
    return plots
