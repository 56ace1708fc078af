"""Tables and figure of the measurements."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

Rows = list[dict[str, Any]]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def _kinds(rows: Rows) -> list[tuple[str, bool]]:
    return list(dict.fromkeys((r["family"], r["tuned"]) for r in sorted(rows, key=lambda r: not r["tuned"])))


def _mean(rows: Iterable[dict[str, Any]], key: str) -> float | None:
    values = [abs(r[key]) for r in rows if key in r]
    return mean(values) if values else None


def table(rows: Rows) -> list[str]:
    """Mean std of each tool and family, in 1e-4 of the unit in which the noise is 0.1."""
    tools = list(dict.fromkeys(r["tool"] for r in rows))
    lines = ["| scenes | " + " | ".join(tools) + " |", "|" + "---|" * (len(tools) + 1)]
    for family, tuned in sorted(_kinds(rows)):
        found = [r for r in rows if (r["family"], r["tuned"]) == (family, tuned)]
        seeds = sorted({r["seed"] for r in found})
        cells = []
        for tool in tools:
            value = _mean((r for r in found if r["tool"] == tool), "std")
            cells.append("-" if value is None else f"{1e4 * value:.1f}")
        chosen = ", rules chosen here" if tuned else ""
        lines.append(f"| {family} ({len(seeds)} seeds{chosen}) | " + " | ".join(cells) + " |")
    return lines


def details(rows: Rows) -> list[str]:
    """Bias, pull, flux kept, ratios, CPU time of the presets that know their error."""
    lines = [
        "| scenes | preset | std | mean error, absolute | rms of pull | std of pull | flux kept "
        "| std / that of bkg5 | rms / that of a single mean | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for family, tuned in sorted(_kinds(rows)):
        kind = [r for r in rows if (r["family"], r["tuned"]) == (family, tuned)]
        for preset in ("deep-sky", "extended-light"):
            found = [r for r in kind if r["tool"] == preset]
            if not found:
                continue
            cells = [f"{1e4 * (_mean(found, k) or 0.0):.1f}" for k in ("std", "mean")]
            kept = _mean(found, "flux_kept")
            cells += [f"{_mean(found, 'pull'):.2f}", f"{_mean(found, 'pull_std'):.2f}"]
            cells += ["-" if kept is None else f"{100 * kept:.1f}%"]
            for other, key in (("photutils bkg5", "std"), ("single mean", "rms")):
                theirs = _mean((r for r in kind if r["tool"] == other), key)
                cells.append("-" if theirs is None else f"{(_mean(found, key) or 0.0) / theirs:.2f}")
            chosen = " (rules chosen here)" if tuned else ""
            lines.append(f"| {family}{chosen} | {preset} | {' | '.join(cells)} | {_mean(found, 'cpu'):.1f} |")
    return lines


def page(rows: Rows, file: Path) -> None:
    """Put the tables between the marks of the page."""
    text = file.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    body = "\n".join([*table(rows), "", *details(rows)])
    file.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


def figure(rows: Rows, file: Path) -> None:
    """Draw a point for each scene and tool."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tools = [t for t in dict.fromkeys(r["tool"] for r in rows) if t != "single mean"]  # it has no scatter
    families = list(dict.fromkeys(r["family"] for r in rows))
    made, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    for k, tool in enumerate(tools):
        found = [r for r in rows if r["tool"] == tool]
        place = [families.index(r["family"]) + (k - len(tools) / 2) * 0.08 for r in found]
        axes.plot(place, [r["std"] for r in found], "os^vDP<>*"[k % 9], ms=5, label=tool)
    axes.set_yscale("log")
    axes.set_xticks(range(len(families)), families, rotation=20, ha="right")
    axes.set_ylabel("std of background - sky (noise 0.1)")
    axes.grid(axis="y", alpha=0.4)
    axes.legend(ncols=3, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(file, dpi=110)
    plt.close(made)
