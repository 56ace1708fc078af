"""The recipe of a whole image at once, without a run: estimate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.defaults import tell_footprints
from tiledsky.cli.options import (
    KeepOption,
    RecipeOption,
    app,
    kept,
    loading,
    name_beside,
    names_of,
    say,
    with_inputs,
)
from tiledsky.io.options import InputOptions
from tiledsky.recipe import RECOMMENDED
from tiledsky.workflows.outputs import EXPORTED


@app.command()
@with_inputs()
def estimate(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT.fits]", help="Default: IN.sky.fits in this folder.", show_default=False),
    ] = None,
    recipe: RecipeOption = RECOMMENDED,
    keep: KeepOption = None,
    planes: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(EXPORTED),
    *,
    inputs: InputOptions,
    threads: Annotated[int | None, typer.Option(help="Threads (default: one for each core).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Estimate the sky of an image that fits in memory, FITS to FITS: no store, no quality measures, no resuming."""
    with loading():
        from tiledsky.cluster.process_memory import keep_freed, process_peak
        from tiledsky.nodata import number_text
        from tiledsky.workflows.estimate_file import estimate as estimate_file

    began = time.monotonic()
    keep_freed()
    out = out or Path(name_beside(source, ".fits"))
    with reporting(recipe=recipe) as report:
        progress = report.tasks("estimate")
        made = estimate_file(
            source,
            out,
            kept(recipe, keep, inputs),
            planes=names_of(planes),
            threads=threads,
            overwrite=overwrite,
            progress=progress,
            **inputs,
        )
    (ny, nx), peak = made.shape, process_peak() / 1e6
    say(f"{out}: {ny} x {nx} px, {made.recipe}, {time.monotonic() - began:.1f} s, peak {peak:.0f} MB")
    say(f"planes: {', '.join(made.planes)}")
    tell_footprints(made.footprints)
    if made.nodata is not None:
        say(f"no data: pixels that are {number_text(made.nodata)}")
