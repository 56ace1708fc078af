"""How much of the light of objects the background takes, by their size: profiles of known light in the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.curve import BIAS, Curve, Points, Reference
from tiledsky.diagnostics.fields import Fields, Number, Numbers
from tiledsky.diagnostics.patches import number
from tiledsky.diagnostics.protocol import ImageSums, Measure, ToSky
from tiledsky.diagnostics.windows import WITHIN
from tiledsky.geometry import Pair

#: Profiles count as objects where their light within the half-light radius is this many times its noise.
OBJECT = 10.0
#: Shares that the headline is about.
_KEPT, _LOST = 0.05, 0.5
#: A share is more than that of `_KEPT` where it is this many errors above 0.
_ERRORS = 2.0
_ARCSEC = 3600.0
#: A share of more than so much says nothing of a profile: the whole sky moved.
_ALL = 1.5
_UNSTEADY = "profiles move the sky by more than their own light, as where one object fills the window"

DEFINITION = (
    "share of the light of round profiles that the background takes: profiles of known light (level: surface "
    "brightness at the half-light radius in units of the noise of a pixel; sersic 1: exponential, 4: de Vaucouleurs; "
    "signal: light within the half-light radius over its noise) are added to windows of the image, and the recipe is "
    "run on these with them and without; taken: rise of the background within 4 half-light radii over the light "
    "(taken_1, taken_2: within 1 and 2); errors: of the scatter over profiles, or over the quarters of each; by size: "
    "of the level that is farthest from 0 among profiles of at least 10 sigma; sizes: half-light radii, px"
)


class Group(Fields):
    """Profiles of one kind."""

    size: Number = None
    level: Number = None
    signal: Number = None
    taken: Number = None
    taken_error: Number = None


class LightKept(Fields):
    """Shares by size, and of all kinds of profiles."""

    not_measured: str | None = None
    headline: str | None = None
    kept_to: Number = None
    half_lost_at: Number = None
    size: Numbers = []
    taken: Numbers = []
    taken_error: Numbers = []
    groups: list[Group] = []
    table: ClassVar[tuple[str, ...]] = ("size", "taken", "taken_error")


def finalize(image: ImageSums) -> dict[str, Any] | None:
    """Return the measure; None where nobody has put profiles into the image."""
    if image.facts.taken is None:
        return None
    return summary(image.facts.taken.rows, image.facts.taken.reason, scale=_scale(image.shape, image.facts.to_sky))


def summary(rows: NDArray[np.void], reason: str, *, scale: float | None = None) -> dict[str, Any]:
    """Return the measure of what was taken of each profile.

    Parameters
    ----------
    rows : ndarray of `tiledsky.diagnostics.windows.ROW`
    reason : str
        Why there are none, or not those of all windows.
    scale : float, optional
        Size of a pixel, arcsec.
    """
    groups = list(_groups(rows))
    by_size = list(_by_size(groups))
    if any(abs(taken) > _ALL + _ERRORS * error for _, taken, error in by_size):
        by_size, reason = [], reason or _UNSTEADY
    found: dict[str, Any] = {
        "unit": "1",
        "not_measured": None if by_size else reason or "no share of an object is known to 5%",
        "left_out": reason or None,
        "headline": None,
        "kept_to": None,
        "half_lost_at": None,
        "arcsec": None if scale is None else number(scale, 5),
    }
    if by_size:
        kept, lost = (
            _reach([(size, abs(taken), error) for size, taken, error in by_size], _KEPT),
            _reach(by_size, _LOST),
        )
        found |= {"headline": _headline(by_size, kept, lost, scale), "kept_to": _at(kept), "half_lost_at": _at(lost)}
    for k, name in enumerate(("size", "taken", "taken_error")):
        found[name] = [number(row[k], 4) for row in by_size]
    return {**found, "groups": groups}


def _at(reach: float) -> float | None:
    return number(reach, 3) if math.isfinite(reach) else None


def _groups(rows: NDArray[np.void]) -> Iterator[dict[str, Any]]:
    """Means of the profiles of one kind, the smallest first."""
    for kind in np.unique(rows[["size", "level", "sersic"]]):
        chosen = rows[rows[["size", "level", "sersic"]] == kind]
        n, taken = chosen.size, chosen["taken"]
        error = np.sqrt((chosen["error"] ** 2).sum(axis=0)) / n
        if n > 1:
            error = np.maximum(error, taken.std(axis=0, ddof=1) / math.sqrt(n))
        group: dict[str, Any] = {"size": number(kind["size"]), "level": number(kind["level"])}
        group |= {"sersic": number(kind["sersic"]), "signal": number(chosen["signal"][0], 4), "n": n}
        for k, times in enumerate(WITHIN):
            name = "taken" if times == WITHIN[-1] else f"taken_{times}"
            group[name], group[f"{name}_error"] = number(taken.mean(axis=0)[k], 4), number(error[k], 3)
        yield group


def _by_size(groups: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float, float]]:
    """Size, share and its error of the level that is farthest from 0, of profiles that are objects; if it is known."""
    objects = [group for group in groups if group["signal"] >= OBJECT and group["taken"] is not None]
    for size in sorted({group["size"] for group in objects}):
        levels = []
        for level in sorted({group["level"] for group in objects if group["size"] == size}):
            of = [g for g in objects if g["size"] == size and g["level"] == level]
            error = math.sqrt(sum((g["taken_error"] or 0.0) ** 2 for g in of)) / len(of)
            levels.append((sum(g["taken"] for g in of) / len(of), error))
        taken, error = max(levels, key=lambda level: abs(level[0]))
        if error <= max(_KEPT, abs(taken) / _ERRORS):
            yield size, taken, error


def _reach(by_size: Sequence[tuple[float, float, float]], share: float) -> float:
    """Size at which the share is lost, between those that were measured; infinite: nowhere; 0: at all sizes."""
    before: tuple[float, float] | None = None
    for size, taken, error in by_size:
        if taken >= share and taken >= _ERRORS * error:
            if before is None:
                return 0.0
            part = (share - before[1]) / (taken - before[1])
            return float(before[0] * (size / before[0]) ** part)
        before = size, min(taken, share)
    return math.inf


def _headline(by_size: Sequence[tuple[float, float, float]], kept: float, lost: float, scale: float | None) -> str:
    def text(size: float) -> str:
        return f"{size:.3g} px" + ("" if scale is None else f" ({size * scale:.2g} arcsec)")

    largest = by_size[-1][0]
    if kept == 0:
        size, taken, _ = by_size[0]
        does = "takes {:.0f}% of" if taken > 0 else "adds {:.0f}% to"
        said = f"{does.format(100 * abs(taken))} objects of Re {text(size)}, the smallest measured"
    else:
        said = f"keeps {100 * (1 - _KEPT):.0f}% of objects up to Re {text(min(kept, largest))}"
    if math.isinf(kept):
        return f"{said}, the largest measured"
    if math.isinf(lost):
        taken = by_size[-1][1]
        does = "lost" if taken > 0 else "added"
        return f"{said}; of Re {text(largest)}, the largest measured, {100 * abs(taken):.0f}% is {does}"
    return f"{said}; half is lost at {text(lost)}" if lost else said


def _scale(shape: Pair, to_sky: ToSky | None) -> float | None:
    """Size of a pixel in the middle of the image, arcsec; None without sky coordinates."""
    if to_sky is None:
        return None
    y, x = shape[0] / 2, shape[1] / 2
    ra, dec = (np.radians(v) for v in to_sky(np.array([x, x + 1, x]), np.array([y, y, y + 1])))
    along = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    area = float(np.linalg.norm(np.cross(along[:, 1] - along[:, 0], along[:, 2] - along[:, 0])))
    return math.degrees(math.sqrt(area)) * _ARCSEC if math.isfinite(area) and area > 0 else None


def _points(found: LightKept, level: float, color: int) -> Points:
    """Shares of a level by size, means over the kinds of profiles."""
    by_size: dict[float, list[tuple[float, float]]] = {}
    for g in found.groups:
        if g.level == level and g.size is not None and g.taken is not None:
            by_size.setdefault(g.size, []).append((g.taken, g.taken_error or 0.0))
    rows = [(s, np.mean([t for t, _ in of]), math.hypot(*(e for _, e in of)) / len(of)) for s, of in by_size.items()]
    x, share, error = np.array(rows, float).reshape(-1, 3).T
    return Points(f"{level:g} x noise at Re", x, 100 * share, 100 * error, color=color)


def _figure(found: LightKept) -> Curve | None:
    if not found.size:
        return None
    levels = sorted({g.level for g in found.groups if g.level is not None}, reverse=True)
    sizes = sorted({g.size for g in found.groups if g.size is not None})
    return Curve(
        name="light_kept",
        section=BIAS,
        title="Light that the background takes",
        x_label="half-light radius Re [px]",
        y_label="share taken within 4 Re [%]",
        caption=f"This recipe {found.headline}. Profiles of known light were added to windows of the image.",
        alt=f"Share of the light of added profiles that the background takes, by size: it {found.headline}.",
        points=tuple(_points(found, level, color) for color, level in enumerate(levels)),
        expected=(Reference("5%", np.array([sizes[0], sizes[-1]]), np.full(2, 100 * _KEPT), faint=True),),
        level=0.0,
        x_scale="log2",
        ticks=tuple(sizes),
        rank=0,
    )


def said(found: LightKept) -> str:
    """Say in one line what the recipe keeps."""
    if found.headline is None:
        return f"light of objects: not measured ({found.not_measured})"
    return f"light of objects: {found.headline}"


MEASURE = Measure(
    name="light_kept",
    definition=DEFINITION,
    fields=LightKept,
    finalize=finalize,
    figures=(_figure,),
    advice=said,
)
