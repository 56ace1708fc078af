"""Curves of the measures of a run on matplotlib axes; each returns title, caption and alternative text, or None."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.result import Run
from tiledsky.plain import figure_label
from tiledsky.report.colors import LINES, MARKERS
from tiledsky.report.facts import number

Told = tuple[str, str, str] | None
_GROUPS = ("masked", "unmasked", "control")


def _numbers(values: Any) -> NDArray[np.float64]:
    """Array of numbers; NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values or []], float)


def _measure(diagnostics: dict[str, Any], name: str) -> dict[str, Any]:
    found = diagnostics.get("measures", {}).get(name)
    return found if isinstance(found, dict) else {}


def _points(axes: Any, x: Any, y: Any, error: Any, k: int, label: str, *, line: bool = True) -> None:
    axes.errorbar(
        x,
        y,
        np.nan_to_num(error),
        color=LINES[k % len(LINES)],
        marker=MARKERS[k % len(MARKERS)],
        linestyle="-" if line else "none",
        markersize=5,
        linewidth=1.4,
        capsize=2,
        label=label,
    )


def scale(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the rms of block means relative to ideal noise."""
    found = _measure(diagnostics, "scale")
    if not found.get("widths"):
        return None
    widths, ratio = _numbers(found["widths"]), _numbers(found["ratio"])
    axes.axhline(1, color="black", linewidth=1)
    expected = _numbers(found.get("expected"))
    if expected.size:
        axes.plot(widths, expected, color="#666666", linestyle="--", linewidth=1.2, label="noise of this image alone")
    _points(axes, widths, ratio, _numbers(found.get("ratio_error")), 0, "this background")
    for k, (key, label) in enumerate((("against_weights", "against the weights"), ("truth", "with the true sky"))):
        other = found.get(key)
        if isinstance(other, dict) and other.get("ratio"):
            _points(axes, widths, _numbers(other["ratio"]), _numbers(other.get("ratio_error")), k + 1, label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{w:g}" for w in widths])
    axes.set(xlabel="side of the blocks (px)", ylabel="rms / rms of white noise", title="Noise against scale")
    axes.legend()
    last = number(ratio[-1]) if ratio.size else "–"
    caption = (
        "Means of blocks of unmasked pixels should scatter as white noise would (1). Above: structure that the sky "
        "left behind; below: the background follows the noise."
    )
    return "Noise against scale", caption, f"Ratio to white noise, by block size; {last} at {widths[-1]:g} px."


def power(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the power of the residual by scale."""
    found = _measure(diagnostics, "residual").get("power") or {}
    if not found.get("width"):
        return None
    width = _numbers(found["width"])
    variance, white = _numbers(found["variance"]), _numbers(found.get("white"))
    _points(axes, width, variance, _numbers(found.get("error")), 0, "residual")
    if white.size:
        axes.plot(width, white, color="black", linestyle="--", linewidth=1.2, label="white noise")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(width, [f"{w:g}" for w in width])
    axes.set(xlabel="scale (px, to twice that)", ylabel="variance", title="Power by scale")
    axes.legend()
    caption = "Variance of the unmasked residual between one scale and twice that; white noise falls fourfold a step."
    return "Power by scale", caption, "Variance of the residual by scale, beside that of white noise."


def _bias(axes: Any, diagnostics: dict[str, Any], key: str, line: str, label: str, title: str) -> Told:
    groups = _measure(diagnostics, "positions").get("groups") or []
    drawn: list[str] = []
    axes.axhline(0, color="black", linewidth=1)
    for group in groups:
        binned = group.get(key) or {}
        if not binned.get("lower"):
            continue
        k = _GROUPS.index(group["name"]) if group["name"] in _GROUPS else len(drawn)
        x = _numbers(binned["lower"]) * 1.04**k  # beside each other, not on top
        _points(
            axes, x, _numbers(binned["bias"]), _numbers(binned.get("error")), k, figure_label(group["name"]), line=False
        )
        fit = group.get(line) or {}
        drawn.append(f"{group['name']}: {number(group.get('bias'), group.get('error'))}")
        if fit.get("slope") is not None:
            drawn[-1] += f", slope {number(fit['slope'], fit.get('slope_error'))}"
    if not drawn:
        return None
    axes.set(xlabel=label, ylabel="background − sky around", title=title)
    axes.legend()
    caption = (
        "Background in 3 × 3 px boxes on sources, less what the sky around them predicts, for masked and unmasked "
        f"sources and random places (control); it should be 0 for all. {'; '.join(drawn)}."
    )
    return title, caption, f"Bias of the background under sources. {'; '.join(drawn)}."


def bias_flux(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the bias under sources against their flux."""
    axes.set_xscale("log")
    return _bias(
        axes, diagnostics, "by_flux", "line_flux", "flux of the source / noise of a pixel", "Bias against flux"
    )


def bias_size(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the bias under sources against their size."""
    return _bias(axes, diagnostics, "by_size", "line_size", "rms radius of the source (px)", "Bias against radius")


def masked_bias(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the bias under the mask, by group."""
    groups = [g for g in _measure(diagnostics, "masked_bias").get("groups") or [] if g.get("bias") is not None]
    if not groups:
        return None
    places = np.arange(len(groups))[::-1]
    bias, error = (_numbers([g.get(key) for g in groups]) for key in ("bias", "error"))
    axes.axvline(0, color="black", linewidth=1)
    axes.errorbar(bias, places, xerr=np.nan_to_num(error), fmt="o", color=LINES[0], capsize=3, linewidth=1.4)
    axes.set_yticks(places, [figure_label(g["name"]) for g in groups])
    axes.set(xlabel="background − what the sky around predicts", title="Bias under the mask")
    axes.set_ylim(-0.6, len(groups) - 0.4)
    axes.locator_params(axis="x", nbins=4)
    first = groups[0]
    said = f"{first['name']}: {number(first['bias'], first.get('error'))}, {number(first.get('z'))} sigma"
    other = (first.get("notebook") or {}).get("difference")
    caption = f"Under masked pixels the background should be what the unmasked sky around them predicts. {said}."
    if other is not None:
        caption += (
            f" (Mean background under the mask less the mean outside is {number(other)}: no bias, the sky differs.)"
        )
    return "Bias under the mask", caption, f"Bias of the background under masked pixels. {said}."


def edges(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw background and residual against the distance from the mask's edge."""
    found = _measure(diagnostics, "edges")
    if not found.get("distance"):
        return None
    start = _numbers(found["distance"])
    middle = (start + _numbers(found.get("distance_end") or found["distance"])) / 2
    axes.axhline(0, color="black", linewidth=1)
    axes.axvline(0, color="#666666", linestyle=":", linewidth=1.2)
    for k, (key, label) in enumerate((("background", "background − sky around"), ("residual", "image − background"))):
        values, error = _numbers(found.get(key)), _numbers(found.get(f"{key}_error"))
        if key == "residual":  # under the mask it is the sources
            values = np.where(start >= 0, values, np.nan)
        if values.size == middle.size:
            _points(axes, middle, values, error if error.size else np.full(middle.size, np.nan), k, label)
    axes.set_xscale("symlog", linthresh=4)
    ticks = [t for t in (-64, -16, -4, 0, 4, 16, 64) if start[0] <= t <= middle[-1] + 1]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set(xlabel="distance from the edge (px), masked < 0", title="Across the edge of the mask")
    axes.legend()
    caption = "Light that the mask leaves out shows as a residual near its edge; a background that eats it rises there."
    return "Across the edge of the mask", caption, "Background and residual against the distance from the mask's edge."


def histogram(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the distribution of the unmasked residual beside a Gaussian."""
    found = _measure(diagnostics, "residual")
    counted = found.get("histogram") or {}
    edges_, counts = _numbers(counted.get("edges")), _numbers(counted.get("counts"))
    if counts.size < 2 or edges_.size != counts.size + 1:
        return None
    axes.stairs(counts, edges_, fill=True, color="#9ecae1")
    axes.stairs(counts, edges_, color=LINES[0], linewidth=1.2)
    center, width = found.get("median") or 0.0, found.get("mad_std") or found.get("std")
    if width:
        x = (edges_[1:] + edges_[:-1]) / 2
        peak = counts.sum() * np.diff(edges_).mean() / (width * np.sqrt(2 * np.pi))
        axes.plot(x, peak * np.exp(-0.5 * ((x - center) / width) ** 2), color="black", linestyle="--", label="Gaussian")
        axes.legend()
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set(xlabel="image − background, unmasked", ylabel="pixels", title="Residual pixels")
    said = f"mean {number(found.get('mean'), found.get('mean_error'))}, skewness "
    said += number(found.get("skewness"), found.get("skewness_error"))
    caption = f"A tail to the right is light of sources that the mask leaves out: {said}."
    return "Residual pixels", caption, f"Histogram of the unmasked residual: {said}."


def correlation(axes: Any, run: Run, diagnostics: dict[str, Any]) -> Told:
    """Draw the correlation of the residual with itself."""
    found = _measure(diagnostics, "residual").get("correlation") or {}
    if not found.get("lag"):
        return None
    lag, error = _numbers(found["lag"]), _numbers(found.get("error"))
    axes.axhline(0, color="black", linewidth=1)
    for k, key in enumerate(("x", "y")):
        _points(axes, lag[1:] + 0.08 * k, _numbers(found[key])[1:], error[1:], k, f"along {key}")
    axes.set(xlabel="distance (px)", ylabel="correlation", title="Correlation of the noise")
    axes.legend()
    length = f"{number(found.get('length'))} px"
    caption = f"Neighbouring pixels share noise where an image was resampled; length {length}. Far out it should be 0."
    return "Correlation of the noise", caption, f"Correlation of the residual by distance; its length is {length}."


def scales(axes: Any, labels: list[str], measured: list[dict[str, Any]]) -> Told:
    """Draw the noise against scale of several runs."""
    drawn = []
    axes.axhline(1, color="black", linewidth=1)
    for k, (label, diagnostics) in enumerate(zip(labels, measured, strict=True)):
        found = _measure(diagnostics, "scale")
        if found.get("widths"):
            widths, ratio = _numbers(found["widths"]), _numbers(found["ratio"])
            _points(axes, widths * 1.03**k, ratio, _numbers(found.get("ratio_error")), k, figure_label(label))
            drawn.append(f"{label} {number(ratio[-1])}")
    if not drawn:
        return None
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{w:g}" for w in widths])
    axes.set(xlabel="side of the blocks (px)", ylabel="rms / rms of white noise", title="Noise against scale")
    axes.legend()
    caption = (
        "Each on its own unmasked pixels. Above 1: structure that the sky left behind; below: the background follows "
        "the noise."
    )
    return "Noise against scale", caption, f"Ratio to white noise at {widths[-1]:g} px: {', '.join(drawn)}."


def biases(axes: Any, labels: list[str], measured: list[dict[str, Any]]) -> Told:
    """Draw the bias under the mask of several runs."""
    drawn = []
    for k, (label, diagnostics) in enumerate(zip(labels, measured, strict=True)):
        groups: list[dict[str, Any]] = _measure(diagnostics, "masked_bias").get("groups") or [{}]
        group = groups[0]
        if group.get("bias") is not None:
            error = np.nan_to_num(_numbers([group.get("error")]))
            style = {"color": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)]}
            axes.errorbar([group["bias"]], [len(labels) - k], xerr=error, capsize=3, linewidth=1.4, **style)
            drawn.append(f"{label} {number(group['bias'], group.get('error'))}")
    if not drawn:
        return None
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(labels), 0, -1), [figure_label(label) for label in labels])
    axes.set(xlabel="background − what the sky around predicts", title="Bias under the mask")
    axes.set_ylim(0.4, len(labels) + 0.6)
    axes.locator_params(axis="x", nbins=5)
    return "Bias under the mask", f"{'; '.join(drawn)}.", f"Bias under the mask: {'; '.join(drawn)}."
