"""Measured numbers as text for captions, tables and lines."""

from __future__ import annotations

import math
from typing import Any


def measured_text(value: Any, error: Any = None) -> str:
    """Write a number with the digits that its error leaves; "–" for none."""
    return _digits(value, error).replace("-", "−")


def _digits(value: Any, error: Any) -> str:
    if not _is_number(value):
        return "–"
    if not _is_number(error) or error <= 0:
        return format(value, ".0f" if 1e3 <= abs(value) < 1e7 else ".4g")
    if abs(value) >= 1e5 or (value and max(abs(value), error) < 1e-4):
        return f"{value:.3g} ± {error:.1g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 8)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
