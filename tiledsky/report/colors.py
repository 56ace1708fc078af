"""Colours that people with any colour vision tell apart, and the range of values that they show.

Images are shown in cividis (even in lightness, the same for the common colour deficiencies), signed ones in blue and
orange around white; lines in the colours of Okabe and Ito (2008), with markers and dashes that differ too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Okabe and Ito, in the order in which lines take them.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MASK = "#D55E00"
NO_DATA = "#c8c8c8"
#: Blue to orange around white, from dark blue.
_SIGNED = (
    (8, 48, 107),
    (66, 133, 190),
    (198, 219, 239),
    (250, 250, 250),
    (253, 208, 162),
    (230, 110, 20),
    (110, 40, 0),
)
_SHARE = ((255, 255, 255), (120, 150, 180), (10, 35, 70))
#: cividis at seven places.
_EVEN = ((0, 34, 78), (43, 68, 109), (87, 92, 109), (124, 123, 120), (164, 155, 115), (208, 190, 94), (254, 232, 56))


def palette(kind: str, count: int = 256) -> list[str]:
    """Return ``count`` colours as #rrggbb: "even", "signed" or "share"."""
    stops = np.array({"even": _EVEN, "signed": _SIGNED, "share": _SHARE}[kind], float)
    places = np.linspace(0, len(stops) - 1, count)
    channels = [np.interp(places, np.arange(len(stops)), stops[:, k]) for k in range(3)]
    return [f"#{int(r):02x}{int(g):02x}{int(b):02x}" for r, g, b in zip(*np.rint(channels), strict=True)]


@dataclass(frozen=True)
class ColorRange:
    """Range of values that is shown, and with which palette."""

    low: float
    high: float
    kind: str


def spread(values: NDArray[np.floating]) -> float:
    """Robust standard deviation (1.4826 MAD) of the finite values; 1 where there is none, never 0."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    found = 1.4826 * float(np.median(np.abs(finite - np.median(finite))))
    return found if found > 0 else float(finite.std()) or 1.0


def ranges(planes: dict[str, NDArray[np.floating]], *, noise: float) -> dict[str, ColorRange]:
    """Choose what to show of each plane.

    Parameters
    ----------
    planes : dict of str to ndarray
        Cells of the whole image, by the names of `tiledsky.report.windows.planes_to_look_at`.
    noise : float
        Spread of the cells of the subtracted plane.

    Returns
    -------
    dict of str to ColorRange
        The image and its sky share a range, so that they can be compared by eye.
    """
    shown = {"mask": ColorRange(0.0, 1.0, "share"), "subtracted": ColorRange(-3 * noise, 6 * noise, "even")}
    sky = planes.get("background")
    if sky is not None:
        low, high = _middle(sky)
        shown["background"] = ColorRange(low, max(high, low + noise), "even")
        shown["science"] = ColorRange(low - 2 * noise, high + 4 * noise, "even")
    for name, values in planes.items():
        if name == "residual":
            limit = 4 * spread(values)
            shown[name] = ColorRange(-limit, limit, "signed")
        elif name not in shown:
            low, high = _middle(values)
            shown[name] = ColorRange(low, high if high > low else low + (abs(low) or 1.0), "even")
    return shown


def _middle(values: NDArray[np.floating]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (0.5, 99.5))
    return float(low), float(high)
