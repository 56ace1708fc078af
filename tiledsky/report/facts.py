"""What a report says in words and numbers, as plain data for its page: the verdict, the run, what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.document import CheckResult, Diagnostics
from tiledsky.diagnostics.light_kept import MEASURE as LIGHT
from tiledsky.diagnostics.objects_taken import MEASURE as TAKEN
from tiledsky.diagnostics.objects_taken import certain
from tiledsky.diagnostics.protocol import ToSky
from tiledsky.diagnostics.text import measured_text
from tiledsky.diagnostics.verdict import most_telling, next_step, places
from tiledsky.engine.result import Run
from tiledsky.io.fits.cards import label_value
from tiledsky.io.fits.wcs import pixel_side, sky_of
from tiledsky.io.store import RUN_FOLDER

#: What the results of a check are called on a page: a sign (never colour alone) and a word.
SIGNS = {"pass": "✓", "warn": "!", "fail": "✕", "not measured": "–"}


#: Places that are nearer than a block of the measures are one.
_NEAR = 16.0


@dataclass(frozen=True)
class Spot:
    """A place of the image, and the checks that name it; numbers of those that fail or warn stand on the panels."""

    number: int
    x: float
    y: float
    where: str
    checks: tuple[str, ...]

    def apart(self, x: float, y: float) -> bool:
        """Whether another place is not in the same block."""
        return max(abs(self.x - x), abs(self.y - y)) > _NEAR


@dataclass(frozen=True)
class Row:
    """An object of the list, the largest first."""

    number: int
    x: float
    y: float
    place: str
    sky: str
    size: str
    shape: str
    flux: str
    extent: float


@dataclass(frozen=True)
class TakenRow:
    """An object whose light the background takes, for certain; the one that loses most first."""

    x: float
    y: float
    place: str
    size: str
    radius: float
    flux: str
    taken: str
    share: str


@dataclass(frozen=True)
class Check:
    """A line of the verdict."""

    result: str
    sign: str
    name: str
    value: str
    limits: str
    reason: str
    next_step: str = ""
    spot: Spot | None = None

    @property
    def troubled(self) -> bool:
        """Whether it fails or warns."""
        return self.result in ("fail", "warn")


@dataclass(frozen=True)
class StageCost:
    """What the tasks of a stage took; bars in percent of the longest."""

    name: str
    tasks: int
    cpu: str
    cpu_bar: float
    measured: str
    measured_bar: float
    projected: str
    projected_bar: float


def diagnostics_of(run: Run) -> Diagnostics:
    """Return the measures and the verdict that a run keeps; empty where it has none."""
    there = run.store.root.stands(f"{RUN_FOLDER}/diagnostics.json")
    return Diagnostics.model_validate(run.diagnostics) if there else Diagnostics()


def verdict_of(diagnostics: Diagnostics, recipe: str = "") -> tuple[str, str, list[Check]]:
    """Return the result, a sentence about it, and its checks, the most telling first; ``recipe``: that was used."""
    verdict = diagnostics.verdict
    if verdict is None or not verdict.checks:
        result = "not measured" if verdict is None else verdict.result
        return result, "This run holds no measures of its sky.", []
    result, checks = verdict.result, [_check(c, recipe) for c in in_order(diagnostics)]
    counted = [c for c in checks if c.result != "not measured"]
    passed = sum(c.result == "pass" for c in counted)
    troubled = [c.name for c in checks if c.result in ("warn", "fail")]
    said = f"{passed} of {len(counted)} checks pass"
    return result, f"{said}; look at: {', '.join(troubled)}." if troubled else f"{said}.", checks


def kept_text(diagnostics: Diagnostics) -> str:
    """What the recipe leaves of objects, in a line; "": nobody asked."""
    kept = diagnostics.of(LIGHT)
    return "" if kept is None else kept.headline or f"not measured ({kept.not_measured})"


def in_order(diagnostics: Diagnostics) -> list[CheckResult]:
    """Checks as a run tells them: those that fail, those that warn, the most telling first; then the others."""
    if diagnostics.verdict is None:
        return []
    first = [row["name"] for row in most_telling(diagnostics.verdict.model_dump())]
    return sorted(diagnostics.verdict.checks, key=lambda c: first.index(c.name) if c.name in first else len(first))


def _check(check: CheckResult, recipe: str) -> Check:
    unit = "" if check.unit == "1" else check.unit
    value = measured_text(check.value, check.error)
    limits = " / ".join(map(measured_text, (check.warn, check.fail)))
    return Check(
        result=check.result,
        sign=SIGNS.get(check.result, "–"),
        name=check.name.replace("_", " "),
        value=value if value == "–" else f"{value} {unit}".strip(),
        limits=f"{limits} {unit}".strip(),
        reason=check.reason,
        next_step=next_step(check.name, recipe),
    )


def where_text(x: float, y: float, to_sky: ToSky | None) -> str:
    """Pixel of a place, and right ascension and declination where they are known."""
    told = f"x {x:.0f}, y {y:.0f}"
    if to_sky is None:
        return told
    ra, dec = (float(v[0]) for v in to_sky(np.array([x]), np.array([y])))
    return f"{told} (RA {ra:.5f}°, Dec {dec:+.5f}°)".replace("-", "−") if ra == ra else told


def spot_at(run: Run, number: int, x: float, y: float, checks: Sequence[str] = ()) -> Spot:
    """Return a place of a run's image, with its place on the sky."""
    return Spot(number, x, y, where_text(x, y, sky_of(run.header)), tuple(checks))


def spots_of(
    run: Run,
    diagnostics: Diagnostics,
    results: Sequence[str] = ("fail", "warn"),
    *,
    first: int = 1,
    known: Sequence[Spot] = (),
) -> list[Spot]:
    """Places that the checks of some results name, in their order, numbered from ``first``; but for ``known`` ones.

    Checks whose places lie in one block are told together.
    """
    checks = in_order(diagnostics)
    named = places(run.diagnostics) if checks else {}
    found: list[Spot] = []
    for name in (c.name for result in results for c in checks if c.result == result and c.name in named):
        x, y = named[name]
        if all(spot.apart(x, y) for spot in known):
            near = next((k for k, spot in enumerate(found) if not spot.apart(x, y)), None)
            if near is None:
                found.append(spot_at(run, first + len(found), x, y, [name]))
            else:
                found[near] = replace(found[near], checks=(*found[near].checks, name))
    return found


def with_places(checks: Sequence[Check], spots: Sequence[Spot]) -> tuple[list[Check], list[Check]]:
    """Checks that fail or warn, with their places; and the others."""
    of = {name.replace("_", " "): spot for spot in spots for name in spot.checks}
    return [replace(c, spot=of.get(c.name)) for c in checks if c.troubled], [c for c in checks if not c.troubled]


def largest_first(objects: NDArray[np.void]) -> NDArray[np.intp]:
    """Order of objects by half-light radius, the largest first; of equal ones the brighter."""
    return np.argsort(-objects["half_light_radius"], kind="stable")


def object_rows(run: Run, most: int) -> tuple[int, list[Row]]:
    """Number of objects that the run found, and the largest of them."""
    objects = run.objects
    if objects is None or not len(objects):
        return 0, []
    to_sky, unit = sky_of(run.header), label_value(run.header, "BUNIT")
    scale = pixel_side(run.header)
    rows = []
    for k, one in enumerate(objects[largest_first(objects)[:most]], 1):
        x, y, radius = (float(one[name]) for name in ("x", "y", "half_light_radius"))
        pixel, _, sky = where_text(x, y, to_sky).partition(" (")
        size = _size_text(radius, scale)
        shape = f"{float(one['axis_ratio']):.2f}, {np.degrees(float(one['angle'])):.0f}°".replace("-", "−")
        flux = f"{float(one['flux']):.4g} {unit}".rstrip().replace("-", "−")
        rows.append(Row(k, x, y, pixel, sky.removesuffix(")"), size, shape, flux, float(one["extent"])))
    return len(objects), rows


def taken_rows(run: Run, diagnostics: Diagnostics) -> list[TakenRow]:
    """Objects of which the background takes more than the check of it lets pass."""
    found = diagnostics.of(TAKEN)
    checks = [] if diagnostics.verdict is None else diagnostics.verdict.checks
    limit = next((c.warn for c in checks if c.name == TAKEN.checks[0].name), None)
    if found is None or limit is None:
        return []
    to_sky, unit, scale = sky_of(run.header), label_value(run.header, "BUNIT"), pixel_side(run.header)
    return [
        TakenRow(
            x=float(one.x),
            y=float(one.y),
            place=where_text(one.x, one.y, to_sky),
            size=_size_text(one.size or 0.0, scale),
            radius=2 * (one.size or 0.0),
            flux="–" if one.flux is None else f"{one.flux:.4g} {unit}".rstrip().replace("-", "−"),
            taken=measured_text(100 * (one.taken or 0.0), 100 * (one.taken_error or 0.0)),
            share=f"{100 * (one.taken or 0.0):.0f}%",
        )
        for one in found.objects
        if certain(one.taken, one.taken_error) > limit
    ]


def _size_text(radius: float, scale: float | None) -> str:
    return f"{radius:.3g} px" + ("" if scale is None else f" ({radius * scale:.3g}″)")


def size_text(count: float) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def run_facts(run: Run, diagnostics: Diagnostics) -> list[tuple[str, str]]:
    """What was run and on what: names and values."""
    ny, nx = run.plan.shape
    image = diagnostics.image
    unit = (image and image.bunit) or label_value(run.header, "BUNIT") or "not given"
    planes = {name: path for name, path in run.provenance.get("input", {}).items() if path}
    facts = [
        ("Image", planes.get("science", "not recorded")),
        ("Size", f"{ny} × {nx} px (rows × columns), {ny * nx / 1e6:.3g} Mpix, {run.plan.dtype}"),
        ("Unit", str(unit)),
    ]
    for key, label in (
        ("OBJECT", "Object"),
        ("TELESCOP", "Telescope"),
        ("INSTRUME", "Instrument"),
        ("FILTER", "Filter"),
    ):
        if label_value(run.header, key):
            facts.append((label, label_value(run.header, key)))
    beside = [f"{name} ({Path(str(path)).name})" for name, path in planes.items() if name != "science"]
    facts.append(("Planes beside it", ", ".join(beside) or "none"))
    if image:
        facts.append(("Noise of a pixel", measured_text(image.noise)))
        facts.append(("Masked", f"{100 * (image.masked_fraction or 0):.1f} % of the pixels"))
        facts.append(("Without data", f"{100 * (image.invalid_fraction or 0):.1f} % of the pixels"))
    if kept := kept_text(diagnostics):
        facts.append(("Light of objects", kept))
    facts += [("Recipe", run.recipe.name), ("Run", run.run_id)]
    versions = run.provenance.get("versions", {})
    facts.append(("Made by", ", ".join(f"{name} {versions[name]}" for name in versions)))
    return facts


def step_lines(run: Run) -> list[tuple[str, str]]:
    """Each step of the recipe in a few words."""
    return [(step.name, step.words) for step in run.recipe.steps]


def stage_costs(run: Run) -> list[StageCost]:
    """Memory and CPU time of each stage, for a table with bars."""
    memory = run.provenance.get("memory", {})
    seconds = run.provenance.get("stage_cpu_seconds", {})
    most = max([m.get(k) or 0 for m in memory.values() for k in ("projected", "measured")], default=0) or 1
    longest = max(seconds.values(), default=0) or 1
    costs = []
    for stage in run.plan.stages:
        known, cpu = memory.get(stage.name, {}), seconds.get(stage.name)
        measured, projected = known.get("measured"), known.get("projected")
        costs.append(
            StageCost(
                name=stage.name,
                tasks=len(run.plan.grid(stage)),
                cpu="–" if cpu is None else f"{cpu:.2f} s",
                cpu_bar=100 * (cpu or 0) / longest,
                measured="–" if measured is None else size_text(measured),
                measured_bar=100 * (measured or 0) / most,
                projected="–" if projected is None else size_text(projected),
                projected_bar=100 * (projected or 0) / most,
            )
        )
    return costs


def totals(run: Run) -> str:
    """What the whole run took, in a sentence."""
    facts = run.provenance
    said = [f"{facts.get('tasks', run.plan.n_tasks)} tasks"]
    if "cpu_seconds" in facts:
        said.append(f"{facts['cpu_seconds']:.1f} s of CPU time")
    if "wall_seconds_last" in facts:
        said.append(f"{facts['wall_seconds_last']:.1f} s on the clock in the last call")
    if facts.get("peak_worker_memory"):
        said.append(f"at most {size_text(facts['peak_worker_memory'])} in a worker")
    return ", ".join(said)
