"""Maps of a run on matplotlib axes: the whole image in few cells, the worst regions pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics.text import measured_text
from tiledsky.engine.result import Run
from tiledsky.geometry import Region
from tiledsky.io.fits.cards import label_value
from tiledsky.io.zarr.reader import read_plane
from tiledsky.kernels.residual.cell_sums import KEPT
from tiledsky.plain import figure_label
from tiledsky.report.colors import MASK, NO_DATA, ColorRange, palette, ranges, spread
from tiledsky.report.facts import Spot
from tiledsky.report.panels import CELLS, TITLES
from tiledsky.report.scales import ticks, with_unit
from tiledsky.report.windows import read_window

#: Regions that are shown, and pixels of their sides.
WORST, _SIDE = 6, 128
#: Side of the square about a place: that of the blocks of the measures.
_BLOCK = KEPT
#: Planes that set the scale of another.
_BESIDE = {"science": ("background", "subtracted"), "background": ("subtracted",)}


def _colormap(kind: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(kind, palette(kind)).with_extremes(bad=NO_DATA)


def color_bar(drawn: Any, axes: Any, shown: ColorRange, unit: str) -> None:
    """Draw the scale of an image beside it: round numbers, with what they have in common and the unit as its label."""
    before, labels = ticks(shown.low, shown.high)
    beside = axes.inset_axes((1.03, 0, 0.05, 1))  # as high as the image, whatever its shape
    bar = axes.figure.colorbar(drawn, cax=beside, ticks=[value for value, _ in labels])
    bar.ax.set_yticklabels([text for _, text in labels])
    bar.set_label(figure_label(with_unit(before, unit)))


def whole(axes: Any, run: Run, name: str) -> tuple[str, str, str]:
    """Draw a plane of the whole image; return title, caption and alternative text."""
    window = read_window(run, name, largest=CELLS[name])
    beside = {n: read_window(run, n, largest=CELLS[n]).cells for n in _BESIDE.get(name, ())}
    noise = spread(beside.get("subtracted", window.cells))
    shown = ranges({name: window.cells, **beside}, noise=noise)[name]
    region = window.region
    ny, nx = window.cells.shape
    extent = (region.x0 - 0.5, region.x0 + nx * window.size - 0.5, region.y0 - 0.5, region.y0 + ny * window.size - 0.5)
    drawn = axes.imshow(window.cells, extent=extent, vmin=shown.low, vmax=shown.high, cmap=_colormap(shown.kind))
    axes.set(
        xlim=(-0.5, run.plan.shape[1] - 0.5), ylim=(-0.5, run.plan.shape[0] - 0.5), xlabel="x (px)", ylabel="y (px)"
    )
    axes.set_title(TITLES[name])
    unit = "" if name == "mask" else label_value(run.header, "BUNIT")
    color_bar(drawn, axes, shown, unit)
    cells = f"means of {window.size} × {window.size} px" if window.size > 1 else "pixels"
    alt = f"Map of {TITLES[name].lower()}, {cells}, from {shown.low:.3g} to {shown.high:.3g}."
    return TITLES[name], f"{cells}.", alt


def region(axes: Any, run: Run, spot: Spot, rank: int) -> tuple[str, str, str]:
    """Draw the pixels around a place, with outlines of the mask; return title, caption and alternative text."""
    ny, nx = run.plan.shape
    y, x = spot.y, spot.x
    starts = [int(np.clip(round(c) - _SIDE // 2, 0, max(n - _SIDE, 0))) for c, n in ((y, ny), (x, nx))]
    part = Region(starts[0], min(starts[0] + _SIDE, ny), starts[1], min(starts[1] + _SIDE, nx))
    pixels = read_plane(run.plane("subtracted"), part)
    masked = read_plane(run.plane("mask"), part) != 0
    noise = spread(pixels[~masked] if (~masked).any() else pixels)
    extent = (part.x0 - 0.5, part.x1 - 0.5, part.y0 - 0.5, part.y1 - 0.5)
    drawn = axes.imshow(pixels, extent=extent, vmin=-4 * noise, vmax=4 * noise, cmap=_colormap("signed"))
    color_bar(drawn, axes, ColorRange(-4 * noise, 4 * noise, "signed"), label_value(run.header, "BUNIT"))
    if masked.any() and not masked.all():
        # outlines on a white line, so that they stand out on any colour
        for color, width in (("white", 1.6), ("black", 0.7)):
            axes.contour(masked, levels=[0.5], colors=color, linewidths=width, extent=extent)
    from matplotlib.patches import Rectangle

    corner = x - _BLOCK / 2, y - _BLOCK / 2
    axes.add_patch(Rectangle(corner, _BLOCK, _BLOCK, fill=False, edgecolor=MASK, linewidth=2))
    where = f"x {x:.0f}, y {y:.0f}"
    axes.set(xlabel="x (px)", ylabel="y (px)", xlim=extent[:2], ylim=extent[2:], title=f"{rank}. {where}")
    named = " and ".join(name.replace("_", " ") for name in spot.checks)
    inside = _block(run, x, y)
    told = f"mean {measured_text(inside)} in the square" if np.isfinite(inside) else "the square is masked"
    caption = f"{f'Named by {named}: ' if named else ''}{spot.where}; {told}. Black outlines: the mask."
    share = 100 * masked.mean()
    alt = (
        f"{part.shape[0]} by {part.shape[1]} pixels of image minus background around {where}; {share:.0f} % are masked."
    )
    return f"{rank}. {where}", caption, alt


def _block(run: Run, x: float, y: float) -> float:
    """Mean of the unmasked pixels of a block about a place; NaN without any."""
    first = [round(c - _BLOCK / 2) for c in (y, x)]
    ny, nx = run.plan.shape
    part = Region(max(first[0], 0), min(first[0] + _BLOCK, ny), max(first[1], 0), min(first[1] + _BLOCK, nx))
    pixels, mask = read_plane(run.plane("subtracted"), part), read_plane(run.plane("mask"), part)
    found = pixels[(mask == 0) & np.isfinite(pixels)]
    return float(found.mean(dtype=float)) if found.size else float("nan")
