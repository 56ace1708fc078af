"""Tables and figure of the measurements."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from tests.accuracy.measure import CHAIN, KEEP_NOTHING, TOOLS

Rows = list[dict[str, Any]]
#: Electrons that published runs find, as mean sky of fields of low and high density, n 1 and n 4 (Kelvin et al. 2023).
PUBLISHED = {
    "SExtractor, published": {"low n 1": 3.8, "low n 4": 4.6, "high n 1": 5.7, "high n 4": 7.0},
    "NoiseChisel tuned, published": {"low n 1": 1.6, "low n 4": 2.4, "high n 1": 2.4, "high n 4": 3.5},
}


def _kinds(rows: Rows) -> list[tuple[str, bool, int]]:
    return sorted({(r["family"], r["tuned"], r["size"]) for r in rows})


def _of(rows: Rows, kind: tuple[str, bool, int]) -> Rows:
    return [r for r in rows if (r["family"], r["tuned"], r["size"]) == kind]


def _tools(rows: Rows) -> list[str]:
    found = {r["tool"] for r in rows}
    return [tool for tool in (*TOOLS, *CHAIN) if tool in found]


def _mean(rows: Iterable[dict[str, Any]], key: str, *, signed: bool = False) -> float | None:
    values = [r[key] if signed else abs(r[key]) for r in rows if key in r]
    return mean(values) if values else None


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _lines(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    names = list(head)
    rows = [names, ["---"] * len(names), *body]
    return ["| " + " | ".join(row) + " |" if row[0] != "---" else "|" + "---|" * len(row) for row in map(list, rows)]


def table(rows: Rows, key: str = "std") -> list[str]:
    """Mean deviation or rms error of each tool and family, in 1e-3 of the noise of a pixel."""
    tools, body = _tools(rows), []
    for kind in _kinds(rows):
        found = _of(rows, kind)
        seeds = len({r["seed"] for r in found})
        size = "" if found[0]["group"] == "notebooks" else f", {kind[2]} px"
        chosen = ", rules chosen here" if kind[1] else ""
        line = [f"{kind[0]} ({seeds} seed{'s' * (seeds > 1)}{size}{chosen})"]
        for tool in tools:
            own = [{key: r[key] / r["noise"]} for r in found if r["tool"] == tool]
            value = _mean(own, key)
            line.append("-" if value is None else f"{1e3 * value:.1f}")
        body.append(line)
    return _lines(["scenes", *tools], body)


def details(rows: Rows) -> list[str]:
    """Bias, pull, flux kept, ratios, CPU time of the presets that know their error."""
    body = []
    for kind in _kinds(rows):
        here = _of(rows, kind)
        for preset in ("deep-sky", KEEP_NOTHING, "extended-light"):
            found = [r for r in here if r["tool"] == preset]
            if not found:
                continue
            line = [kind[0] + (" (rules chosen here)" if kind[1] else ""), preset]
            line += [f"{1e3 * (_mean(found, k) or 0.0) / found[0]['noise']:.1f}" for k in ("std", "mean")]
            line += [_cell(_mean(found, k), ".2f") for k in ("pull", "pull_std")]
            line.append(_cell(_mean(found, "kept_2"), ".1%"))
            for other, key in (("photutils bkg5", "std"), ("single mean", "rms")):
                theirs = _mean((r for r in here if r["tool"] == other), key)
                line.append("-" if theirs is None else f"{(_mean(found, key) or 0.0) / theirs:.2f}")
            body.append([*line, f"{_mean(found, 'cpu'):.1f}"])
    head = "scenes,preset,std,mean error (absolute),rms of pull,std of pull,flux kept,std / that of bkg5"
    return _lines([*head.split(","), "rms / that of a single mean", "CPU s"], body)


def survey_details(rows: Rows) -> list[str]:
    """Bias, pulls, light left outside the masks and light kept of large objects, of the presets."""
    body = []
    for kind in _kinds(rows):
        for preset in ("deep-sky", KEEP_NOTHING, "complex-sky", "extended-light"):
            found = [r for r in _of(rows, kind) if r["tool"] == preset]
            if found:
                noise = found[0]["noise"]
                bias, left = (_mean(found, k, signed=True) for k in ("mean", "light_left"))
                line = [kind[0], preset, f"{1e3 * (bias or 0.0) / noise:+.1f}", _cell(_mean(found, "pull"), ".2f")]
                line += [_cell(None if left is None else 1e3 * left / noise, ".1f")]
                line += [_cell(_mean(found, "masked"), ".0%")]
                line += [_cell(_mean(found, k, signed=True), ".1%") for k in ("kept_2", "kept_4")]
                body.append([*line, _cell(_mean(found, "cpu"), ".1f")])
    head = "scenes,preset,mean error,rms of pull,light outside the mask,masked,kept within 2 Re,within 4 Re,CPU s"
    return _lines(head.split(","), body)


def mean_skies(rows: Rows) -> list[str]:
    """Mean and deviation of the sky in the fields of Kelvin et al., whose truth is zero, in electrons."""
    kinds, body = _kinds(rows), []
    for tool in _tools(rows):
        line = [tool]
        for kind in kinds:
            own = [r for r in _of(rows, kind) if r["tool"] == tool]
            line.append("-" if not own else f"{_mean(own, 'mean', signed=True):+.2f} ± {_mean(own, 'std'):.2f}")
        body.append(line)
    names = [family.removeprefix("kelvin ") for family, _, _ in kinds]
    body += [[tool, *(f"{means[name]:+.1f}" for name in names)] for tool, means in PUBLISHED.items()]
    return _lines(["tool", *(f"{name} ({kind[2]} px)" for name, kind in zip(names, kinds, strict=True))], body)


def _taken(found: Rows) -> tuple[str, str]:
    """Two cells of a tool and an object: what it keeps; how much too high its sky is, and where 0.1 mag is lost."""
    if not found:
        return "-", "-"
    kept = " / ".join(_cell(100 * (_mean(found, k, signed=True) or 0.0), ".1f") for k in ("kept_2", "kept_4"))
    over = " / ".join(f"{1e3 * mean(o['over'][k] for o in found):+.0f}" for k in range(3))
    lost = _mean(found, "tenth_lost_mag")
    return kept, over if lost is None else f"{over}; {lost:.1f}"


def injected(rows: Rows) -> list[str]:
    """What each tool leaves and takes of a large object put into a field: two tables, a column for each object."""
    kinds, kept, over = _kinds(rows), [], []
    for tool in _tools(rows):
        cells = [_taken([o for r in _of(rows, kind) if r["tool"] == tool for o in r["objects"]]) for kind in kinds]
        kept.append([tool, *(one for one, _ in cells)])
        over.append([tool, *(two for _, two in cells)])
    names = [kind[0].removeprefix("kelvin + ").removeprefix("real ") for kind in kinds]
    return [*_lines(["kept within 2 / 4 Re, %", *names], kept), "", *_lines(["sky too high", *names], over)]


def page(rows: Rows, file: Path) -> None:
    """Put the tables of the groups that were measured between their marks of the page."""
    text = file.read_text()
    for group in dict.fromkeys(r["group"] for r in rows):
        own = [r for r in rows if r["group"] == group]
        if group == "notebooks":
            body = [*table(own), "", *details(own)]
        elif group == "survey":
            body = [*table(own, "rms"), "", *survey_details(own)]
        elif group == "real":
            body = injected(own)
        else:
            objects = [r for r in own if "objects" in r]
            body = [*mean_skies([r for r in own if "objects" not in r]), "", *injected(objects)]
        begin, end = f"<!-- {group}: begin -->", f"<!-- {group}: end -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n" + "\n".join(body) + f"\n\n{end}{rest.split(end)[1]}"
    file.write_text(text)


def figure(rows: Rows, file: Path) -> None:
    """Draw a point for each scene and tool."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tools = [t for t in _tools(rows) if t != "single mean"]  # it has no scatter
    families = list(dict.fromkeys(r["family"] for r in rows))
    made, axes = plt.subplots(figsize=(max(10, len(families) * 0.8), 5), layout="constrained")
    for k, tool in enumerate(tools):
        found = [r for r in rows if r["tool"] == tool]
        place = [families.index(r["family"]) + (k - len(tools) / 2) * 0.05 for r in found]
        axes.plot(place, [r["std"] / r["noise"] for r in found], "os^vDP<>*"[k % 9], ms=5, label=tool)
    axes.set_yscale("log")
    axes.set_xticks(range(len(families)), families, rotation=20, ha="right")
    axes.set_ylabel("std of background - sky, in the noise of a pixel")
    axes.grid(axis="y", alpha=0.4)
    axes.legend(ncols=3, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(file, dpi=110)
    plt.close(made)
