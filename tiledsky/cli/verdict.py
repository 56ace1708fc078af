"""Verdicts and other tables as lines of text."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tiledsky.cli.options import loading

if TYPE_CHECKING:
    from tiledsky.engine.result import Run


def number_of(value: float | None) -> str:
    """Return a number with four digits; "-" for none."""
    return "-" if value is None else f"{value:.4g}"


def table(rows: Sequence[Sequence[str]], *, words: Container[int] = (0,)) -> list[str]:
    """Lines of a table, its columns two spaces apart whatever is in them; those of ``words`` begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if k in words else ">" for k in range(len(widths))]
    return ["  ".join(f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]


def verdict_table(verdict: Mapping[str, Any], *, reasons: bool) -> list[str]:
    """Lines of the table of checks."""
    rows = [["check", "value", "error", "unit", "warn", "fail", "result"]]
    for row in verdict["checks"]:
        # a count has no error, and says 0
        value, error = number_of(row["value"]), number_of(row["error"] or None)
        limits = [number_of(row["warn"]), number_of(row["fail"])]
        rows.append([row["name"].replace("_", " "), value, error, row["unit"], *limits, row["result"]])
    first, *lines = table(rows, words=(0, 3, 6))
    if not reasons:
        return [first, *lines]
    told = (f"    {row['reason']}" for row in verdict["checks"])
    return [first, *(line for pair in zip(lines, told, strict=True) for line in pair)]


def findings(run: Run, verdict: Mapping[str, Any]) -> list[str]:
    """Lines of the checks that fail, then of those that warn, the most telling first: where, and what to try next."""
    with loading():
        from tiledsky.diagnostics import next_step, places
        from tiledsky.diagnostics.verdict import most_telling

    where = places(run.diagnostics)
    lines = []
    for row in most_telling(verdict):
        place = _place(run, where.get(row["name"]))
        said, advice = (
            f"{row['name'].replace('_', ' ')} {row['result']}s {place}",
            next_step(row["name"], run.recipe.name),
        )
        lines.append(f"{said}: {advice}" if advice else said)
    return lines


def _place(run: Run, where: tuple[float, float] | None) -> str:
    with loading():
        from tiledsky.io.fits.wcs import sky_of

    if where is None:
        return "over the whole image"
    x, y = where
    told = f"at x {x:.1f}, y {y:.1f}"
    to_sky = sky_of(run.header)
    if to_sky is None:
        return told
    ra, dec = to_sky(x, y)
    return f"{told} (RA {ra:.6f}, Dec {dec:+.6f})"
