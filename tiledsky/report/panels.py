"""Panels of planes that pan and zoom together, as Bokeh figures for a page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.result import Run
from tiledsky.io.fits.cards import label_value
from tiledsky.report.colors import NO_DATA, ColorRange, palette, ranges, spread
from tiledsky.report.scales import Scale, scales, with_unit
from tiledsky.report.windows import Window, planes_to_look_at, read_window

#: Codes of 16 bits: 0 is no data, the others cover this many times the range that is shown, as many as bright
#: pixels need. Shares have 8 bits.
_CODES, _COVERED, _SHARES = 65534, (20.0, 200.0), 250
#: Cells of a panel along the longer side; fewer of smooth planes, and of the residual, which only means over blocks
#: show in the noise.
CELLS = {"science": 1000, "subtracted": 1000, "mask": 1000, "background": 400, "residual": 160, "background_error": 250}
NAMES = ("science", "background", "mask", "subtracted", "residual", "background_error")
TITLES = {
    "science": "Image",
    "background": "Background",
    "subtracted": "Image − background",
    "residual": "What is left of the sky",
    "mask": "Mask",
    "background_rms": "Noise of a pixel",
    "background_error": "Error of the background",
}


@dataclass(frozen=True)
class Panel:
    """One plane as it is shown, with the words beside it."""

    name: str
    title: str
    window: Window
    shown: ColorRange
    caption: str
    alt: str
    unit: str = ""

    @cached_property
    def scales(self) -> tuple[Scale, ...]:
        """Scales that it can be shown with, the first at the beginning."""
        return scales(self.name, self.window.cells, self.shown)

    def beside(self, scale: Scale) -> str:
        """What stands beside the labels of a scale."""
        return with_unit(scale.before, self.unit)

    @property
    def stretched(self) -> bool:
        """Whether a reader can choose its scale."""
        return len(self.scales) > 1

    @property
    def digits(self) -> int:
        """Significant digits that tell values of its scale apart."""
        low, high = self.shown.low, self.shown.high
        return int(np.clip(4 + np.log10(max(abs(low), abs(high)) / (high - low)), 4, 9))

    @property
    def gradient(self) -> str:
        """CSS colours of its scale, from low to high."""
        return ", ".join(palette(self.shown.kind, 9))


def make_panels(run: Run, names: tuple[str, ...] = NAMES) -> list[Panel]:
    """Read planes of a whole run, in at most about a million cells each, and choose how to show them."""
    there = [name for name in names if name in planes_to_look_at(run)]
    windows = {name: read_window(run, name, largest=CELLS[name]) for name in there}
    noise = spread(windows["subtracted"].cells) if "subtracted" in windows else 0.0
    shown = ranges({name: w.cells for name, w in windows.items()}, noise=noise)
    return [_panel(run, name, windows[name], shown[name]) for name in there]


def _panel(run: Run, name: str, window: Window, shown: ColorRange) -> Panel:
    ny, nx = run.plan.shape
    cell = "a cell is a pixel" if window.size == 1 else f"a cell is the mean of {window.size} × {window.size} px"
    if name == "mask":
        said = f"share of masked pixels, light 0 to dark 1; {cell}"
        alt = f"Map of the mask: {100 * float(np.nanmean(window.cells)):.0f} % of the pixels are left out."
    elif name == "residual":
        said = f"unmasked pixels of image − background, blue below and orange above 0; {cell}; grey: all masked"
        alt = f"Map of the unmasked residual; its cells scatter by {spread(window.cells):.3g}."
    else:
        said = f"dark to light; {cell}"
        alt = f"Map of the {TITLES[name].lower()}, median {float(np.nanmedian(_finite(window.cells))):.4g}."
    unit = "" if name == "mask" else label_value(run.header, "BUNIT")
    return Panel(name, TITLES[name], window, shown, said, f"{alt} {ny} by {nx} pixels.", unit)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    found = values[np.isfinite(values)]
    return found if found.size else np.zeros(1, np.float32)


def encode(cells: NDArray[np.float32], shown: ColorRange) -> tuple[NDArray[np.unsignedinteger], float, float]:
    """Codes of 16 bits, half the bytes of the values, of shares 8: 0 for no data, else 1 + (value - offset) / step.

    Returns
    -------
    codes : ndarray of uint16 or uint8
    offset, step : float
        Values beyond 200 times the range that is shown are cut.
    """
    share = shown.kind == "share"
    middle, width = (shown.low + shown.high) / 2, shown.high - shown.low
    far = 2 * float(np.nanmax(np.abs(cells - middle), initial=0.0)) / width
    codes, covered = (_SHARES, 1.0) if share else (_CODES, float(np.clip(far, *_COVERED)))
    width *= covered
    offset = middle - width / 2
    step = width / (codes - 1)
    scaled = np.clip(np.rint((cells.astype(np.float64) - offset) / step), 0, codes - 1) + 1
    found = np.where(np.isnan(cells), 0, np.nan_to_num(scaled))
    return found.astype(np.uint8 if share else np.uint16), offset, step


def linked_ranges(shape: tuple[int, int]) -> tuple[Any, Any]:
    """x and y ranges of an image, for all panels of a page."""
    from bokeh.models import Range1d

    ny, nx = shape
    return Range1d(start=-0.5, end=nx - 0.5), Range1d(start=-0.5, end=ny - 0.5)


def frame(name: str, shape: tuple[int, int], x_range: Any, y_range: Any) -> Any:
    """Empty Bokeh figure of one panel, as wide as its place on the page."""
    from bokeh.models import BasicTickFormatter
    from bokeh.plotting import figure

    ny, nx = shape
    plot = figure(
        x_range=x_range,
        y_range=y_range,
        sizing_mode="stretch_width",
        aspect_ratio=float(np.clip(nx / ny, 0.6, 4.0)),
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_drag="pan",
        active_scroll="wheel_zoom",
        toolbar_location="above",
        name=name,
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    plot.grid.visible = False
    plot.background_fill_color = NO_DATA
    plot.min_border = 4
    plot.axis.major_label_text_font_size = "11px"
    plot.axis.minor_tick_line_color = None
    plot.axis.formatter = BasicTickFormatter(use_scientific=False)
    plot.xaxis.axis_label, plot.yaxis.axis_label = "x (px)", "y (px)"
    plot.axis.axis_label_text_font_size = "11px"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_standoff = 2
    return plot


def draw(panel: Panel, x_range: Any, y_range: Any, shape: tuple[int, int], *, sky: bool = False) -> Any:
    """Bokeh figure of a panel, with its pixels in it.

    ``sky``: whether the page has ``tiledsky.sky``, which says where a pixel is on the sky.
    """
    from bokeh.models import CustomJSHover, HoverTool, LinearColorMapper

    codes, offset, step = encode(panel.window.cells, panel.shown)
    low, high = ((limit - offset) / step + 1 for limit in (panel.shown.low, panel.shown.high))
    mapper = LinearColorMapper(palette=palette(panel.shown.kind), low=low, high=high, name=f"colors-{panel.name}")
    mapper.tags = [{"offset": offset, "step": step}]
    if not codes.all():
        # code 0 lies far below what is shown: a second image, of what has no data, covers it
        mapper.low_color = None
    plot = frame(panel.name, shape, x_range, y_range)
    place = extent(panel.window)
    image = plot.image(image=[codes], color_mapper=mapper, name=f"image-{panel.name}", **place)
    if not codes.all():
        nothing = LinearColorMapper(palette=[NO_DATA, NO_DATA], low=0, high=1, high_color="rgba(0, 0, 0, 0)")
        plot.image(image=[np.minimum(codes, 2).astype(np.uint8)], color_mapper=nothing, **place)
    said = "((value - 1) * step + offset).toPrecision(digits) + unit"
    value = CustomJSHover(
        args={"step": step, "offset": offset, "digits": panel.digits, "unit": f" {panel.unit}".rstrip()},
        code=f"return value < 1 ? 'no data' : {said}",
    )
    tips = [("x, y", "$x{0}, $y{0}"), (panel.title, "@image{custom}")]
    formatters: dict[str, Any] = {"@image": value}
    if sky:
        tips.insert(1, ("RA, Dec", "$sx{custom}"))
        formatters["$sx"] = CustomJSHover(code="return tiledsky.sky(special_vars.x, special_vars.y)")
    plot.add_tools(HoverTool(renderers=[image], tooltips=tips, formatters=formatters, attachment="vertical"))
    return plot


def extent(window: Window) -> dict[str, float]:
    """Place of the cells of a window in a figure."""
    ny, nx = window.cells.shape
    y0, x0 = window.region.y0 - 0.5, window.region.x0 - 0.5
    return {"x": x0, "y": y0, "dw": nx * window.size, "dh": ny * window.size}
