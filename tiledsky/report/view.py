"""A page of this machine that pans and zooms all planes of a run, of any size, down to the pixel.

Whenever the view changes, the part of each plane that is seen is read again, in about as many cells as the screen
shows.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np

from tiledsky.engine.result import Run
from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.plain import spelled
from tiledsky.report.colors import NO_DATA, palette
from tiledsky.report.panels import CELLS as SHOWN
from tiledsky.report.panels import NAMES, Panel, extent, frame, linked_ranges, make_panels
from tiledsky.report.peers import guarded
from tiledsky.report.scales import ticks, with_unit
from tiledsky.report.windows import Window, read_window

#: Cells along the longer side of what is read of a plane; milliseconds that a view must rest before it is read.
CELLS, _REST = 700, 120
#: Bokeh's page, as wide as a phone.
_PAGE = """{% block preamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}"""
_COLUMNS = "repeat(auto-fit, minmax(min(100%, 380px), 1fr))"


def serve(run: Run, *, port: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve the page at 127.0.0.1 until the process is interrupted or told to end; to this user alone.

    Parameters
    ----------
    run : Run
    port : int
        0: any free one.
    ready : callable, optional
        Called with the address once it answers.

    Raises
    ------
    ParameterError
        The port is taken.
    """
    from bokeh.application import Application
    from bokeh.application.handlers import FunctionHandler
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop
    from tornado.netutil import bind_sockets

    try:
        sockets = bind_sockets(port, "127.0.0.1")
    except OSError as error:
        raise ParameterError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
    host = f"127.0.0.1:{sockets[0].getsockname()[1]}"
    application = Application(FunctionHandler(lambda document: fill(document, run)))
    # pages of other servers may not talk to this one
    pages = BokehTornado({"/": application}, extra_websocket_origins=[host])
    listening = HTTPServer(guarded(pages, host))
    listening.add_sockets(sockets)
    server = BaseServer(IOLoop.current(), pages, listening)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.io_loop.add_callback_from_signal(server.io_loop.stop))
    server.start()
    if ready is not None:
        server.io_loop.add_callback(ready, f"http://{host}/")
    server.io_loop.start()
    server.stop()


def fill(document: Any, run: Run) -> None:
    """Put the panels of a run into a Bokeh document, and read what is seen when that changes."""
    from bokeh.layouts import column, row
    from bokeh.models import InlineStyleSheet
    from bokeh.models.widgets import Div

    x_range, y_range = linked_ranges(run.plan.shape)
    panels = make_panels(run, NAMES)
    views = [_View(run, panel, x_range, y_range) for panel in panels]
    ny, nx = run.plan.shape
    told = Div(text=_words(run, views[0].window), disable_math=True, sizing_mode="stretch_width", name="told")
    plots = [view.plot for view in views]
    # as many columns as the screen has room for, one on a phone
    columns = InlineStyleSheet(css=f":host {{ display: grid; gap: 10px; grid-template-columns: {_COLUMNS}; }}")
    grid = row(plots, sizing_mode="stretch_width", stylesheets=[columns])
    document.template = _PAGE
    document.title = f"{spelled(run.path.name)} · tiledsky"
    waiting: list[Any] = []

    def look() -> None:
        waiting.clear()
        region = seen((x_range.start, x_range.end), (y_range.start, y_range.end), (ny, nx))
        for view in views:
            view.read(region)
        told.text = _words(run, views[0].window)

    def moved(attribute: str, old: float, new: float) -> None:
        for callback in waiting:
            document.remove_timeout_callback(callback)
        waiting[:] = [document.add_timeout_callback(look, _REST)]

    for axis in (x_range, y_range):
        axis.on_change("start", moved)
        axis.on_change("end", moved)
    document.add_root(column(told, grid, sizing_mode="stretch_width"))


def seen(x: tuple[float, float], y: tuple[float, float], shape: Pair) -> Region:
    """Pixels of an image that lie in a view, of which one at least is."""
    spans = []
    for (low, high), count in ((y, shape[0]), (x, shape[1])):
        first = int(np.clip(np.floor(min(low, high) + 0.5), 0, count - 1))
        last = int(np.clip(np.ceil(max(low, high) + 0.5), first + 1, count))
        spans += [first, last]
    return Region(*spans)


def _words(run: Run, window: Window) -> str:
    ny, nx = run.plan.shape
    y0, y1, x0, x1 = window.region
    cell = "every pixel is shown" if window.size == 1 else f"a cell is the mean of {window.size} × {window.size} px"
    what = f"<b>{escape(spelled(run.path.name))}</b>: {escape(run.recipe.name)} on {ny} × {nx} px"
    return (
        f"{what}. Rows {y0} to {y1 - 1}, columns {x0} to {x1 - 1}; {cell}. "
        "Drag to pan, wheel to zoom; all panels move together."
    )


class _View:
    """A panel whose pixels are read anew whenever another part of it is seen."""

    def __init__(self, run: Run, panel: Panel, x_range: Any, y_range: Any) -> None:
        from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper

        self.run, self.name = run, panel.name
        self.source = ColumnDataSource(data=_columns(panel.window))
        self.window = panel.window
        self.plot = frame(panel.name, run.plan.shape, x_range, y_range)
        self.plot.title.text = panel.title
        colors = palette(panel.shown.kind)
        mapper = LinearColorMapper(palette=colors, low=panel.shown.low, high=panel.shown.high, nan_color=NO_DATA)
        self.plot.add_layout(_color_bar(panel, mapper), "below")
        names = {name: name for name in ("image", "x", "y", "dw", "dh")}
        self.plot.image(source=self.source, color_mapper=mapper, **names)
        self.plot.add_tools(HoverTool(tooltips=[("x, y", "$x{0}, $y{0}"), (panel.title, "@image")]))

    def read(self, region: Region) -> None:
        """Show a part of the image."""
        self.window = read_window(self.run, self.name, region, largest=min(CELLS, SHOWN[self.name]))
        self.source.data = _columns(self.window)


def _color_bar(panel: Panel, mapper: Any) -> Any:
    """Scale of a panel below it: round numbers, and what they have in common with the unit."""
    from bokeh.models import CustomJSTickFormatter, FixedTicker, PlainText
    from bokeh.models.annotations import ColorBar

    before, labels = ticks(panel.shown.low, panel.shown.high)
    words = {str(k): text for k, (_, text) in enumerate(labels)}
    bar = ColorBar(
        color_mapper=mapper,
        ticker=FixedTicker(ticks=[value for value, _ in labels]),
        formatter=CustomJSTickFormatter(args={"words": words}, code="return words[index]"),
        title=PlainText(text=with_unit(before, panel.unit)),  # a unit is no formula
        title_text_font_style="normal",
        height=8,
        padding=2,
        major_label_text_font_size="11px",
    )
    return bar


def _columns(window: Window) -> dict[str, list[Any]]:
    return {"image": [window.cells], **{name: [value] for name, value in extent(window).items()}}
