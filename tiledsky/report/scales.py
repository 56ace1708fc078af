"""Scales of colours as people write them: ticks at round numbers, a common offset and a power of ten taken out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiledsky.report.colors import ColorRange

#: A tick is about so much of the scale.
_STEP = 0.25
#: An offset is taken out of ticks that are more than so many times as large as what they go over.
_SAME = 20.0
#: Room of a label, as a share of the scale.
_ROOM = 0.13
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Planes whose range a reader can choose; residual and mask have but one.
STRETCHED = ("science", "background", "subtracted")


@dataclass(frozen=True)
class Scale:
    """A scale of colours: what it goes over, and what is written beside it.

    Attributes
    ----------
    key : str
        "sky": the range of the sky; "zscale": that of IRAF; "asinh": up to bright objects, linear in the sky.
    low, high : float
        Values at its ends.
    bend : float
        A value at ``f`` of the way from low to high is shown at ``asinh(f * bend) / asinh(bend)``; 0: at ``f``.
    before : str
        What the ticks are added to, and multiplied with: "2010 + ", "10⁻¹² × ", or nothing.
    ticks : tuple of (float, str)
        Place along the scale in percent, and label.
    """

    key: str
    low: float
    high: float
    bend: float
    before: str
    ticks: tuple[tuple[float, str], ...]


def scales(name: str, cells: NDArray[np.floating], shown: ColorRange) -> tuple[Scale, ...]:
    """Scales that a panel can be shown with, the first at the beginning."""
    found = [_scale("sky", shown.low, shown.high)]
    finite = cells[np.isfinite(cells)]
    if name in STRETCHED and finite.size:
        from astropy.visualization import ZScaleInterval

        low, high = map(float, ZScaleInterval().get_limits(finite))
        width = shown.high - shown.low
        found.append(_scale("zscale", low, high if high > low else low + width))
        bright = min(float(np.percentile(finite, 99.9)), shown.low + 10 * width)
        bright = max(bright, shown.low + 3 * width)
        found.append(_scale("asinh", shown.low, bright, (bright - shown.low) / width))
    return tuple(found)


def _scale(key: str, low: float, high: float, bend: float = 0.0) -> Scale:
    before, labels = ticks(low, high, bend)
    places = ((along((value - low) / (high - low), bend), label) for value, label in labels)
    return Scale(key, low, high, bend, before, tuple((100 * place, label) for place, label in places))


def along(fraction: float, bend: float) -> float:
    """Place on a scale of a value at a fraction of its range."""
    return math.asinh(fraction * bend) / math.asinh(bend) if bend else fraction


def ticks(low: float, high: float, bend: float = 0.0) -> tuple[str, list[tuple[float, str]]]:
    """Round numbers between two values.

    Returns
    -------
    before : str
        Offset or power of ten that all labels share, to be read before them.
    labels : list of (float, str)
        Values and how they are written, from low to high.
    """
    width = (high - low) / (bend or 1.0)  # of the part that is linear
    step = _round(width * _STEP)
    middle = low + width / 2
    whole = 10.0 ** math.ceil(math.log10(step) - 1e-9)
    offset = round(middle / whole) * whole if abs(middle) > _SAME * width else 0.0
    values: NDArray[np.float64]
    if bend:
        values = _spread(_decades(step, high - offset), low - offset, high - offset, bend)
    else:
        first, last = math.ceil((low - offset) / step - 1e-9), math.floor((high - offset) / step + 1e-9)
        values = np.array([k * step for k in range(first, last + 1)])
    most = float(np.abs(values).max(initial=step))
    power = 0 if 1e-2 <= most < 1e5 else 3 * math.floor(math.log10(most) / 3)
    digits = max(-math.floor(math.log10(step / 10.0**power) + 1e-9), 0)
    before = f"{_written(offset, max(-round(math.log10(whole)), 0))} + " if offset else ""
    before += f"10{str(power).translate(_RAISED)} × " if power else ""
    return before, [
        (float(v + offset), f"{v / 10.0**power:g}" if bend else _written(v / 10.0**power, digits)) for v in values
    ]


def with_unit(before: str, unit: str) -> str:
    """What stands beside the labels of a scale: what they are added to or multiplied with, and the unit."""
    return f"{before}{unit or 'label'}" if before else unit


def _round(value: float) -> float:
    """Nearest of 1, 2, 5 times a power of ten."""
    ten = 10.0 ** math.floor(math.log10(value))
    return min((1 * ten, 2 * ten, 5 * ten, 10 * ten), key=lambda known: abs(math.log(known / value)))


def _decades(step: float, high: float) -> list[float]:
    """0 and powers of ten from about a step on, and twice and five times these."""
    first, last = math.floor(math.log10(step)), math.floor(math.log10(max(high, step)))
    powers = [10.0**k for k in range(first, last + 1)]
    return [0.0, *reversed(powers), *(m * power for m in (2, 5) for power in reversed(powers))]


def _spread(wanted: list[float], low: float, high: float, bend: float) -> NDArray[np.float64]:
    """Those of some values that have room on a scale, the first before others."""
    kept: list[tuple[float, float]] = []
    for value in wanted:
        place = along((value - low) / (high - low), bend)
        if 0 <= place <= 1 and all(abs(place - other) >= _ROOM for other, _ in kept):
            kept.append((place, value))
    return np.array([value for _, value in sorted(kept)])


def _written(value: float, digits: int) -> str:
    text = f"{value + 0.0:.{digits}f}" if abs(value) < 1e15 else f"{value:.15g}"
    return text.replace("-", "−")
