"""Figures as files: nothing is cut off, outliers do not set scales, signed maps are centred on 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from tiledsky import open_run
from tiledsky.diagnostics.curve import BIAS, RESIDUAL, Curve, Points, Rows
from tiledsky.diagnostics.edges import MEASURE as EDGES
from tiledsky.diagnostics.edges import Edges
from tiledsky.report.curves import robust_limit
from tiledsky.report.figures import MAPS, STYLE, Plot, draw, figures_of

from .conftest import make


def texts(figure: Any) -> Iterator[tuple[str, Any]]:
    """Words of a figure with their boxes, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ticks = [tick for axis in figure.findobj(Axis) for tick in beyond(axis)]
    unseen = {text for tick in ticks for text in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            yield text.get_text(), text.get_window_extent(canvas.get_renderer())


def beyond(axis: Axis) -> list[Any]:
    """Ticks beyond the ends of an axis, which are not drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick for tick in (*axis.majorTicks, *axis.minorTicks) if not low <= tick.get_loc() <= high]


def assert_whole(plot: Plot) -> None:
    """No word leaves the figure."""
    wide, high = plot.figure.bbox.width, plot.figure.bbox.height
    found = list(texts(plot.figure))
    assert found
    for text, box in found:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= wide and box.y1 <= high
        assert inside, f"{plot.name}: {text!r} at {box.bounds} of {wide} x {high}"


@pytest.mark.parametrize("unit", [1.0, 1e-13, 3e6])
def test_no_label_is_cut_off(tmp_path: Path, unit: float) -> None:
    plots = figures_of(open_run(make(tmp_path / "run.zarr", unit=unit)))
    assert [plot.name for plot in plots[:5]] == list(MAPS)
    assert {"science", "background", "subtracted", "residual"} <= set(MAPS)
    for plot in plots:
        assert_whole(plot)


def long_and_small(size: float, *, far: float = 0.0, robust: bool = False) -> Curve:
    """A curve of 20 values of about ``size``, the last but one of them ``far`` times that."""
    y = size * np.cos(np.arange(20.0))
    if far:
        y[-2] = far * size
    points = Points("image − background", np.arange(20.0), y, np.full(20, 0.3 * size))
    words = {"title": "Across", "x_label": "distance from the edge (px)", "y_label": "background − sky around"}
    return Curve(name="c", section=BIAS, caption="", alt="", points=(points,), level=0.0, robust=robust, **words)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with rc_context(STYLE):
        yield


@pytest.mark.parametrize("size", [3e-5, 1.0, 2.5e7])
def test_labels_of_any_size(size: float) -> None:
    assert_whole(draw(long_and_small(size), (4.3, 3.2)))
    rows = Rows(
        name="r",
        section=RESIDUAL,
        title="Bias under the mask",
        x_label="background − what the sky around predicts",
        caption="",
        alt="",
        labels=("a run with a name that is rather long", "short"),
        values=np.array([size, -size]),
        errors=np.array([size, size]),
    )
    plot = draw(rows, (4.3, 3.2))
    assert_whole(plot)
    (axes,) = plot.figure.axes
    boxes = [axis.get_offset_text() for axis in (axes.xaxis, axes.yaxis)]
    assert not any(text.get_visible() and text.get_text() for text in boxes)  # powers are in the labels


def test_outliers_do_not_set_the_scale() -> None:
    with_one = draw(long_and_small(1e-3, far=-500.0, robust=True), (4.3, 3.2)).figure.axes[0]
    low, high = with_one.get_ylim()
    assert -low == pytest.approx(high)
    assert 1e-3 < high < 2.5e-3
    (arrow,) = [line for line in with_one.lines if line.get_gid() == "beyond"]
    assert arrow.get_marker() == "v"
    assert list(arrow.get_xdata()) == [18.0]
    assert low < arrow.get_ydata()[0] < 0.9 * low
    # without one, and where the scale is of values that belong together, all is shown
    for curve in (long_and_small(1e-3, robust=True), long_and_small(1e-3, far=3.0, robust=True)):
        axes = draw(curve, (4.3, 3.2)).figure.axes[0]
        low, high = axes.get_ylim()
        assert all(low <= value <= high for value in curve.points[0].y)
        assert not [line for line in axes.lines if line.get_gid() == "beyond"]


def test_limits() -> None:
    assert robust_limit(np.array([])) == 0
    assert robust_limit(np.array([np.nan, 2.0, -3.0, 100.0])) <= 100
    assert robust_limit(np.array([1.0, -1.0, 1.2, 0.8, 50.0])) == 1.2
    assert robust_limit(np.zeros(5)) == 0


def test_signed_maps_are_centred_on_0(tmp_path: Path) -> None:
    plots = {p.name: p for p in figures_of(open_run(make(tmp_path / "run.zarr", tilt=0.01)))}
    signed = [plots["residual"], *(plot for name, plot in plots.items() if name.startswith("worst_"))]
    assert len(signed) >= 4
    for plot in signed:
        norm = plot.figure.axes[0].images[0].norm
        assert norm.vmin == -norm.vmax
    science, background = (plots[name].figure.axes[0].images[0].norm for name in ("science", "background"))
    assert science.vmin < background.vmin < background.vmax < science.vmax


def test_nothing_is_drawn_of_a_mask_that_is_not_there() -> None:
    (figure,) = EDGES.figures
    nothing: list[float | None] = [None, None]
    distance = [-1.0, 0.0]
    assert figure(Edges(distance=distance, background=nothing, residual=nothing)) is None
    assert figure(Edges(distance=distance, background=[0.1, 0.0], residual=nothing)) is not None
