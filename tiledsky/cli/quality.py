"""Commands on how good a sky is: check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tiledsky.cli.options import app
from tiledsky.diagnostics import judge
from tiledsky.recipe import Recipe
from tiledsky.run.result import open_run

#: Exit code of `check` where a check fails: the run is there, its sky is not good enough.
NOT_GOOD = 1


@app.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="RUN.zarr")],
    recipe: Annotated[
        str | None, typer.Option(help="Judge by the [checks] of this recipe instead of those of the run.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 on a warning, too.")] = False,
    reasons: Annotated[bool, typer.Option("--reasons", help="Say what each check is for.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Say how good the sky of a finished run is; exit code 1 if a check fails."""
    run = open_run(source)
    verdict = run.diagnostics["verdict"] if recipe is None else judge(run.diagnostics, Recipe.load(recipe).checks)
    if as_json:
        typer.echo(json.dumps(verdict, indent=1))
    else:
        for line in _table(verdict, reasons=reasons):
            typer.echo(line)
        typer.echo(f"{source}: {verdict['result']}")
    if verdict["result"] == "fail" or (strict and verdict["result"] == "warn"):
        raise typer.Exit(NOT_GOOD)


def _table(verdict: dict[str, Any], *, reasons: bool) -> list[str]:
    """Lines of the table of checks."""
    lines = [f"{'check':22}{'value':>10}{'error':>10}  {'unit':6}{'warn':>8}{'fail':>8}  result"]
    for row in verdict["checks"]:
        numbers = [_number(row[key]) for key in ("value", "error", "warn", "fail")]
        name = row["name"].replace("_", " ")
        lines.append(
            f"{name:22}{numbers[0]:>10}{numbers[1]:>10}  {row['unit']:6}{numbers[2]:>8}{numbers[3]:>8}  {row['result']}"
        )
        if reasons:
            lines.append(f"    {row['reason']}")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
