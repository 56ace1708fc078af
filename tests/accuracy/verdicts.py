"""Verdicts on backgrounds of scenes whose sky is known: how often they are right, and which check decided.

    python -m tests.accuracy.verdicts --json build/verdicts.json [--page docs/quality-numbers.md]
    python -m tests.accuracy.verdicts --json build/part.json --only stars,crowded --seeds 701 --size 800 --recipes plane

A background is bad if outside large objects it is wrong by more than 0.1 of the noise of a pixel (rms), or has more
than a tenth of the light of an object of at least 10 sigma within two half-light radii; good below 0.03 of each. What
the JSON file holds already is not measured again, but judged again by the limits of today.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.accuracy import lsb
from tests.accuracy.advised import gradient
from tests.accuracy.families import FAMILIES
from tests.accuracy.scene import LargeObject, Scene
from tiledsky import Sky, estimate_background
from tiledsky.diagnostics import measure
from tiledsky.diagnostics.verdict import RESULTS, result_of
from tiledsky.errors import TiledSkyError
from tiledsky.recipe import Checks

#: Seeds that limits were chosen on, and others, which are reported.
CHOSEN, REPORTED = (701,), (711, 712)
RECIPES = ("deep-sky", "complex-sky", "extended-light", "sextractor", "ceers-nircam", "constant", "plane")
#: Errors (rms, in the noise of a pixel) and shares of light above and below which a background is bad and good.
BAD, GOOD = (0.1, 0.1), (0.03, 0.03)
#: Signal to noise, within the half-light radius, from which light counts; light, in the noise of a pixel, below which
#: a pixel lies outside objects, as all do beyond four half-light radii; least share of such pixels.
_SEEN, _DARK, _OUTSIDE = 10.0, 0.05, 0.05

Rows = list[dict[str, Any]]


def noise(seed: int, size: int) -> Scene:
    """Noise alone."""
    rng = np.random.default_rng([701, seed])
    return lsb.observed(rng, np.full((size, size), lsb.LEVEL), np.zeros((size, size)))


def _family(name: str, seed: int, size: int) -> Scene:
    return FAMILIES[name].scene(seed, size)


SCENES: dict[str, Callable[[int, int], Scene]] = {
    "noise": noise,
    "gradient": gradient,
    **{
        name: partial(_family, name)
        for name in (
            *("deep", "galaxies", "cluster", "stars", "cirrus", "steps", "crowded 10%", "crowded 40%"),
            *("counts 0.5", "counts 4", "skewed", "notebook"),
        )
    },
}


def _signal(large: LargeObject, unit: float) -> float:
    inside = large.radii() < 1.0
    return float(large.light[inside].sum() / (unit * np.sqrt(max(np.count_nonzero(inside), 1))))


def truth(scene: Scene, background: np.ndarray[Any, Any]) -> dict[str, float | None]:
    """Error outside large objects (all of the image where they fill it), largest share that was taken of one."""
    assert scene.sky is not None
    error = (background - scene.sky) / scene.noise
    outside, taken = np.isfinite(error), []
    for large in scene.objects:
        radius = large.radii()
        outside &= (radius > 4.0) | (large.light < _DARK * scene.noise)
        if _signal(large, scene.noise) >= _SEEN:
            inside = radius < 2.0
            taken.append(float(error[inside].sum() * scene.noise / large.light[inside].sum()))
    if np.count_nonzero(outside) < _OUTSIDE * error.size:
        outside = np.isfinite(error)
    return {"rms": float(np.sqrt(np.mean(np.square(error[outside])))), "taken": max(taken, default=None)}


def kind(row: dict[str, Any]) -> str:
    """Whether a background is good, bad, or between."""
    values = [0.0 if row[key] is None else row[key] for key in ("rms", "taken")]
    if any(value > limit for value, limit in zip(values, BAD, strict=True)):
        return "bad"
    return "good" if all(value < limit for value, limit in zip(values, GOOD, strict=True)) else "between"


def diagnosed(scene: Scene, sky: Sky) -> dict[str, Any]:
    """Return what the measures find of a sky."""
    return measure(scene.image, sky.background, sky.mask, rms=sky.background_rms, objects=sky.objects)


def measured(
    only: Iterable[str], recipes: Iterable[str], seeds: Iterable[int], size: int, rows: Rows
) -> Iterable[Rows]:
    """Add rows that are not there, a scene at a time."""
    for name in only:
        for seed in seeds:
            there = {r["recipe"] for r in rows if (r["scene"], r["seed"], r["size"]) == (name, seed, size)}
            wanted = [recipe for recipe in recipes if recipe not in there]
            scene = SCENES[name](seed, size) if wanted else None
            for recipe in wanted:
                assert scene is not None
                here = {"scene": name, "seed": seed, "size": size, "recipe": recipe}
                try:
                    sky = estimate_background(scene.image, recipe, **scene.planes)
                except TiledSkyError as error:
                    rows.append({**here, "refused": str(error).splitlines()[0]})
                    continue
                checks = diagnosed(scene, sky)["verdict"]["checks"]
                values = {c["name"]: (c["value"], c["error"]) for c in checks}
                rows.append({**here, **truth(scene, sky.background), "checks": values})
            yield rows


def judged(row: dict[str, Any], limits: Checks) -> tuple[str, list[str]]:
    """Verdict by limits, and the checks that decided it."""
    of = {
        name: result_of(None if value[0] is None else (value[0], value[1]), getattr(limits, name), limits.significance)
        for name, value in row["checks"].items()
        if name in limits.names()
    }
    worst = max((RESULTS.index(r) for r in of.values() if r in RESULTS), default=0)
    return RESULTS[worst], [name for name, r in of.items() if worst and r == RESULTS[worst]]


def _counts(rows: Rows, limits: Checks) -> str:
    cells = []
    for wanted in ("good", "between", "bad"):
        said = [judged(row, limits)[0] for row in rows if kind(row) == wanted]
        cells.append(" | ".join(str(said.count(result)) for result in RESULTS))
    return " | ".join(cells)


def table(rows: Rows, limits: Checks) -> Iterable[str]:
    """Verdicts beside the truth: by scene, by recipe, and what each check decided."""
    rows = [row for row in rows if "checks" in row]
    head = " | ".join(f"{k}: {r}" for k in ("good", "between", "bad") for r in RESULTS)
    for key in ("scene", "recipe"):
        yield f"| {key} | {head} |"
        yield "|---" * 10 + "|"
        for name in dict.fromkeys(row[key] for row in rows):
            yield f"| {name} | {_counts([row for row in rows if row[key] == name], limits)} |"
        yield f"| all | {_counts(rows, limits)} |\n"
    wrong = {("bad", "pass"): "bad called pass", ("good", "fail"): "good called fail"}
    for (true, said), words in wrong.items():
        of = [judged(row, limits)[0] for row in rows if kind(row) == true]
        yield f"- {words}: {of.count(said)} of {len(of)} ({of.count(said) / max(len(of), 1):.1%})"
    of = [judged(row, limits)[0] for row in rows if row["scene"] == "noise" and kind(row) == "good"]
    yield f"- noise, good, not called pass: {len(of) - of.count('pass')} of {len(of)}\n"
    yield "| check | good: warn | good: fail | between: warn | between: fail | bad: warn | bad: fail | bad: alone |"
    yield "|---" * 8 + "|"
    for name in limits.names():
        counts, alone = dict.fromkeys(((k, r) for k in ("good", "between", "bad") for r in RESULTS[1:]), 0), 0
        for row in rows:
            if name not in row["checks"]:
                continue
            value = row["checks"][name]
            own = result_of(None if value[0] is None else tuple(value), getattr(limits, name), limits.significance)
            if own in RESULTS[1:]:
                counts[kind(row), own] += 1
                verdict, deciding = judged(row, limits)
                alone += kind(row) == "bad" and own == verdict and deciding == [name]
        if any(counts.values()):
            yield f"| {name} | {' | '.join(map(str, counts.values()))} | {alone} |"


def details(rows: Rows, limits: Checks) -> Iterable[str]:
    """Return a line a background."""
    for row in rows:
        here = f"{row['scene']:12} {row['seed']} {row['recipe']:14}"
        if "checks" not in row:
            yield f"{here} refused: {row['refused'][:90]}"
            continue
        verdict, deciding = judged(row, limits)
        figures = " ".join(f"{k} {'-' if row[k] is None else format(row[k], '.3f'):6}" for k in ("rms", "taken"))
        said = ", ".join(f"{name} {row['checks'][name][0]:.3g}" for name in deciding)
        yield f"{here} {figures} {kind(row):8} {verdict:5} {said}"


def page(text: str, lines: Iterable[str]) -> str:
    """Put a table between its marks."""
    begin, end = "<!-- verdicts: begin -->", "<!-- verdicts: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Measure what is asked for and not there, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--only", default=",".join(SCENES))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--seeds", default=",".join(map(str, REPORTED)), help=f"limits were chosen on {CHOSEN}")
    parser.add_argument("--size", type=int, default=800)
    asked = parser.parse_args()
    rows: Rows = json.loads(asked.json.read_text()) if asked.json.exists() else []
    only = [name for part in asked.only.split(",") for name in SCENES if name.startswith(part)]
    seeds, recipes = list(map(int, asked.seeds.split(","))), asked.recipes.split(",")
    for found in measured(only, recipes, seeds, asked.size, rows):
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found))
    asked_for = [r for r in rows if r["scene"] in only and r["seed"] in seeds and r["recipe"] in recipes]
    limits = Checks()
    print("\n".join([*details(asked_for, limits), "", *table(asked_for, limits)]))
    if asked.page:
        asked.page.write_text(page(asked.page.read_text(), table(asked_for, limits)))


if __name__ == "__main__":
    main()
