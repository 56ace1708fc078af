"""The command that compiles ahead: warm-up."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tiledsky.cli.compiling import compiled, folders
from tiledsky.cli.console import reporting
from tiledsky.cli.options import FILES, app, loading, names_of, say
from tiledsky.recipe import RECOMMENDED

#: What is compiled without being asked: the recommended recipe, and those that papers compare with.
_RECIPES = (RECOMMENDED, "complex-sky", "sextractor")


@app.command("warm-up", rich_help_panel=FILES)
def warm(
    recipe: Annotated[str, typer.Option(help="Presets or TOML files, separated by commas.")] = ",".join(_RECIPES),
    beside: Annotated[bool, typer.Option("--beside", hidden=True)] = False,
) -> None:
    """Compile the kernels of recipes ahead of the first image, for containers and nodes; NUMBA_CACHE_DIR says where."""
    with loading():
        from tiledsky.workflows.warm_up import backwards, warm_up

    if beside:  # a process that compiles the first steps
        for name in names_of(recipe):
            backwards(name)
        return
    began = time.monotonic()
    with reporting() as report:

        def told(done: int, total: int) -> None:
            report.show("warm-up", done, total, f"recipes {done}/{total}")

        warm_up(names_of(recipe), progress=told)
    found = compiled()
    places = [str(folder) for folder in folders() if any(path.is_relative_to(folder) for path in found)]
    say(f"{len(found)} compiled kernels in {' and '.join(places) or 'no folder'}, {time.monotonic() - began:.0f} s")
