"""Commands on how good a sky is: check, inject; and on which recipe makes it so: advise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.options import (
    LOOK,
    KeepOption,
    RunArgument,
    app,
    loading,
    name_beside,
    placed,
    say,
    size_kept,
    with_inputs,
    words_of,
)
from tiledsky.cli.verdict import findings, number_of, table, verdict_table
from tiledsky.errors import ParameterError
from tiledsky.io.options import InputOptions
from tiledsky.plain import counted
from tiledsky.recipe import checks_of
from tiledsky.workflows.advice import ALWAYS, BOXES, RECIPES, SMALLEST

#: Exit code of `check` where a check fails: the run is there, its sky is not good enough.
NOT_GOOD = 1


@app.command(rich_help_panel=LOOK)
def check(
    source: RunArgument,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe, or file of its table of checks alone: these limits, not the run's.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Also exit with code 1 on a warning.")] = False,
    reasons: Annotated[bool, typer.Option("--reasons", help="Print the reason of each limit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Print the quality checks of a finished run; exit code 1 if a check fails."""
    with loading():
        from tiledsky.diagnostics import judge, remarks
        from tiledsky.engine.result import open_run

    run = open_run(source)
    found = run.diagnostics
    checks = run.recipe.checks if recipe is None else checks_of(recipe)
    verdict = judge(found, checks) if recipe is not None or not found.get("verdict") else found["verdict"]
    if as_json:
        typer.echo(json.dumps(verdict, indent=1))
    else:
        for line in verdict_table(verdict, reasons=reasons):
            say(line)
        for line in findings(run, verdict):
            say(line)
        for line in remarks(found):
            say(line)
        say(f"{source}: {verdict['result']}")
    if verdict["result"] == "fail" or (strict and verdict["result"] == "warn"):
        raise typer.Exit(NOT_GOOD)


@app.command("inject", rich_help_panel=LOOK)
def inject_sources(
    source: Annotated[str, typer.Argument(parser=placed, metavar="RUN.zarr", help="A finished run.")],
    out: Annotated[Path, typer.Option(metavar="NEW.zarr", help="Store for the run with the sources.")],
    count: Annotated[int, typer.Option(min=2, help="Number of sources for each pair of flux and size.")] = 40,
    flux: Annotated[str, typer.Option(help="Total fluxes in units of the noise of a pixel.")] = "100,1000",
    size: Annotated[str, typer.Option(help="Half-light radii in pixels.")] = "2,5",
    sersic: Annotated[float, typer.Option(min=0.5, max=8, help="Sersic index; 0.5: a Gaussian.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Add sources of known flux to the image of a run, run its recipe again, measure what the background takes."""
    with loading():
        from tiledsky.diagnostics.injection import Injection
        from tiledsky.engine.result import open_run
        from tiledsky.workflows.inject import inject

    wanted = Injection(count, _numbers("--flux", flux), _numbers("--size", size), sersic, seed)
    with reporting() as report:
        found = inject(open_run(source), out, wanted, progress=report.tiles)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [["flux", "size", "n", "change", "error", "lost %", "error"]]
    for row in found["groups"]:
        lost = [None if row[key] is None else 100 * row[key] for key in ("lost", "lost_error")]
        rows.append(
            [number_of(x) for x in (row["flux"], row["size"], row["n"], row["change"], row["change_error"], *lost)]
        )
    for line in table(rows, words=()):
        say(line)


@app.command(rich_help_panel=LOOK)
@with_inputs()
def advise(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipes: Annotated[
        str | None,
        typer.Option(help=f"Presets or TOML files to try beside {','.join(ALWAYS)} (default: {','.join(RECIPES)})."),
    ] = None,
    keep: KeepOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of cutouts, spread over the image.")] = 4,
    sample_size: Annotated[
        int | None, typer.Option(min=SMALLEST, help="Side of a cutout in pixels (default: 1024, or 8 times --keep).")
    ] = None,
    boxes: Annotated[str, typer.Option(help="Box sizes to try for the last mesh of the best recipe.")] = ",".join(
        map(str, BOXES)
    ),
    *,
    inputs: InputOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Try recipes and box sizes on samples of an image, rank them with errors, and recommend one."""
    with loading():
        from tiledsky.workflows.advise import advise as try_recipes

    sizes = _numbers("--boxes", boxes, "6,10,15", whole=True)
    names = None if recipes is None else [name.strip() for name in recipes.split(",")]
    with reporting() as report:

        def said(what: str, done: int, total: int) -> None:
            report.show(what, done, total, f"samples {done}/{total}")

        found = try_recipes(
            source,
            recipes=names,
            keep=None if keep is None else size_kept(keep),
            samples=samples,
            sample_size=sample_size,
            boxes=[int(size) for size in sizes],
            progress=said,
            **inputs,
        )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for line in _ranking(found):
        say(line)
    say(f"next: {shlex.join(_next_run(source, found, keep, inputs))}")


def _next_run(source: str, found: Mapping[str, Any], keep: str | None, inputs: InputOptions) -> list[str]:
    """Words of the command that runs what is advised."""
    best = found["recipes"][0]["name"]
    with loading():
        from tiledsky.recipe import Recipe

    kept = ["--keep", keep] if keep is not None and Recipe.load(best).objects is not None else []
    words = ["tiledsky", "run", source, "--recipe", best, *kept, *words_of(inputs)]
    return [*words, "--out", name_beside(source, ".zarr")]


def _ranking(found: Mapping[str, Any]) -> list[str]:
    """Lines of the tables of recipes and boxes, and the advice."""
    lines = []
    of_boxes = [] if found["boxes"] is None else found["boxes"]["rows"]
    tables = [("recipe", found["recipes"])]
    tables += [("box_size", sorted(of_boxes, key=lambda row: int(row["name"])))] if of_boxes else []
    for title, rows in tables:
        columns = ["score", "error", "structure", "taken", "sources"]
        columns += ["objects", "lost"] * (title == "recipe") + ["times", "times_error"]
        names = [title, *(column.replace("times_error", "error") for column in columns)]
        lines += [*table([names, *([row["name"], *(number_of(row[c]) for c in columns)] for row in rows)]), ""]
    lines += [f"left out: {name}: {reason}" for name, reason in found["left_out"].items()]
    n, (y0, y1, x0, x1) = len(found["samples"]), found["samples"][0]
    lines.append(f"{n} samples of {y1 - y0} x {x1 - x0} px, errors of the background in units of the noise of a pixel")
    sizes = found["objects"]
    if sizes:
        lines.append(
            f"{counted(len(sizes), 'large object')}, half-light radii {sizes[0]:.3g} to "
            f"{sizes[-1]:.3g} px; lost: share of their light that the background takes"
        )
    elif found["keep"] != 0:
        lines.append("no large object was found; lost: share of the light of a profile, put in, that is taken")
    return [*lines, *found["advice"]]


def _numbers(option: str, text: str, example: str = "100,1000", *, whole: bool = False) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value < float("inf") and (not whole or value % 1 == 0) for value in found):
        kind = "whole numbers" if whole else "numbers"
        raise ParameterError(f"{option} {text!r} is not a list of {kind} above 0; write {example}")
    return found
