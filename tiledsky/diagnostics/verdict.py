"""The verdict: each check one number with its error, limits and reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tiledsky.diagnostics import constants
from tiledsky.diagnostics.patches import number
from tiledsky.nodata import TEXTURE
from tiledsky.recipe import Checks, Limit

#: Checks of an image without noise.
_WITHOUT_NOISE = ("masked_fraction", "no_noise", "narrow_fit")
RESULTS = ("pass", "warn", "fail")
NOT_MEASURED = "not measured"

#: Value and error of a check (error 0: exact; None: not known), or None where it cannot be told.
Found = tuple[float, float | None] | None


def judge(diagnostics: dict[str, Any], checks: Checks | None = None) -> dict[str, Any]:
    """Return the verdict on what `tiledsky.diagnostics.measure` found: ``result`` and ``checks``.

    A check fails (warns) where its value, in magnitude, is at least its limit, and ``significance`` errors away from
    zero. What could not be measured does not count, and of an image without noise little can be.
    """
    limits = checks or Checks()
    noisy = _is_noisy(diagnostics)
    rows = []
    for name in Checks.names():
        measure, unit, value_of = _CHECKS[name]
        try:
            found = value_of(diagnostics)
        except (LookupError, TypeError, ValueError, ArithmeticError, StopIteration):  # not there, or null
            found = None
        if found is not None and (found[0] is None or not (noisy or name in _WITHOUT_NOISE)):
            found = None
        limit: Limit = getattr(limits, name)
        rows.append(
            {
                "measure": measure,
                "name": name,
                "value": None if found is None else number(found[0], 4),
                "error": None if found is None or found[1] is None else number(found[1], 4),
                "unit": unit,
                "warn": limit.warn,
                "fail": limit.fail,
                "result": _result(found, limit, limits.significance),
                "reason": Checks.reason(name),
            }
        )
    counted = [RESULTS.index(row["result"]) for row in rows if row["result"] in RESULTS]
    return {"result": RESULTS[max(counted, default=0)], "checks": rows}


def _result(found: Found, limit: Limit, significance: float) -> str:
    if found is None or not math.isfinite(found[0]):
        return NOT_MEASURED
    value, error = abs(found[0]), found[1]
    if error is None or not math.isfinite(error):
        return NOT_MEASURED
    if value >= significance * error:
        for result, at in (("fail", limit.fail), ("warn", limit.warn)):
            if at is not None and value >= at:
                return result
    return "pass"


def _is_noisy(d: dict[str, Any]) -> bool:
    smooth = d.get("measures", {}).get(constants.NAME, {}).get("smooth_fraction")
    return smooth is None or smooth <= 1 - TEXTURE


def _noise(d: dict[str, Any]) -> float:
    return float(d["image"]["noise"])


def _scale_excess(d: dict[str, Any]) -> Found:
    """Most significant of the largest: by the lower end of each."""
    scale = d["measures"]["scale"]
    rows = zip(scale["ratio"], scale["expected"], scale["ratio_error"], strict=True)
    found = [(r / e - 1, s / e) for r, e, s in rows if r is not None and s is not None]
    return max(found, key=lambda f: f[0] - 3 * f[1], default=None)


def _scale_overfit(d: dict[str, Any]) -> Found:
    scale = d["measures"]["scale"]
    rows = zip(scale["widths"], scale["ratio"], scale["ratio_error"], strict=True)
    found = [(max(1 - r, 0.0), s) for w, r, s in rows if w <= 16 and r is not None and s is not None]
    return max(found, key=lambda f: f[0] - 3 * f[1], default=None)


def _group(measure: str, name: str) -> Callable[[dict[str, Any]], Found]:
    def value(d: dict[str, Any]) -> Found:
        noise = _noise(d)
        row = next((g for g in d["measures"][measure]["groups"] if g["name"] == name), None)
        if row is None or row["z"] is None or row["bias"] is None:
            return None
        # the error that makes value / error the normal deviate
        return row["bias"] / noise, abs(row["bias"] / row["z"]) / noise if row["z"] else row["error"] / noise

    return value


def _edge_light(d: dict[str, Any]) -> Found:
    """Mean residual next to masks minus that far from them, weighted by pixels."""
    edges, noise = d["measures"]["edges"], _noise(d)
    near, far = _mean(edges, 0, 4), _mean(edges, 16, 64)
    if near is None:
        return None
    away = far if far is not None else (0.0, 0.0)
    return (near[0] - away[0]) / noise, math.hypot(near[1], away[1]) / noise


def _mean(edges: dict[str, Any], start: int, stop: int) -> tuple[float, float] | None:
    keys = ("distance", "n_pixels", "residual", "residual_error")
    rows = [r for r in zip(*(edges[k] for k in keys), strict=True) if start <= r[0] < stop and None not in r]
    n = sum(r[1] for r in rows)
    if not n:
        return None
    # errors of neighbouring distances go together: added as they are
    return sum(r[1] * r[2] for r in rows) / n, sum(r[1] * r[3] for r in rows) / n


def _source_bias(d: dict[str, Any]) -> Found:
    found = [f for name in ("masked", "unmasked") if (f := _group("positions", name)(d)) is not None]
    return max(found, key=lambda f: abs(f[0]) - 3 * (f[1] or 0.0), default=None)


def _flux_slope(d: dict[str, Any]) -> Found:
    row = next(g for g in [*d["measures"]["positions"]["groups"], {}] if g.get("name", "masked") == "masked")
    return row["line_flux"]["slope"] / _noise(d), row["line_flux"]["slope_error"] / _noise(d)


def _seam(d: dict[str, Any]) -> Found:
    step = d["measures"]["seams"]["step"]
    if step["worst"] is None or step["fake_worst"] is None:
        return None
    return max(step["worst"] - 1.5 * step["fake_worst"], 0.0) / _noise(d), 0.0


def _worst_block(d: dict[str, Any]) -> Found:
    return max((abs(p["significance"]) for p in d["measures"]["worst"]["positions"]), default=0.0), 0.0


def _of_residual(key: str, in_noise: bool) -> Callable[[dict[str, Any]], Found]:
    def value(d: dict[str, Any]) -> Found:
        found, unit = d["measures"]["residual"], _noise(d) if in_noise else 1.0
        return found[key] / unit, found[f"{key}_error"] / unit

    return value


_CHECKS: dict[str, tuple[str, str, Callable[[dict[str, Any]], Found]]] = {
    "scale_excess": ("scale", "1", _scale_excess),
    "scale_overfit": ("scale", "1", _scale_overfit),
    "masked_bias": ("masked_bias", "sigma", _group("masked_bias", "all")),
    "bright_bias": ("masked_bias", "sigma", _group("masked_bias", "bright")),
    "edge_light": ("edges", "sigma", _edge_light),
    "idle_rim": ("edges", "px", lambda d: (d["measures"]["edges"]["idle_rim"]["value"], 0.0)),
    "source_bias": ("positions", "sigma", _source_bias),
    "flux_slope": ("positions", "sigma", _flux_slope),
    "negative_area": ("negative", "px", lambda d: (d["measures"]["negative"]["largest"]["area"], 0.0)),
    "negative_significance": (
        "negative",
        "sigma",
        lambda d: (d["measures"]["negative"]["strongest"]["significance"], 0.0),
    ),
    "positive_significance": (
        "negative",
        "sigma",
        lambda d: (d["measures"]["negative"]["positive"]["strongest"]["significance"], 0.0),
    ),
    "seam": ("seams", "sigma", _seam),
    "mean_residual": ("residual", "sigma", _of_residual("mean", True)),
    "skewness": ("residual", "1", _of_residual("skewness", False)),
    "worst_block": ("worst", "sigma", _worst_block),
    "masked_fraction": ("image", "1", lambda d: (d["image"]["masked_fraction"], 0.0)),
    "constant_pixels": ("constants", "1", lambda d: (d["measures"]["constants"]["fraction"], 0.0)),
    "no_noise": ("constants", "1", lambda d: (d["measures"]["constants"]["smooth_fraction"], 0.0)),
    "narrow_fit": ("fit", "1", lambda d: (d["measures"]["fit"]["share_at_narrowest"], 0.0)),
}
