"""Runs as job arrays: submit, and what their jobs do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.options import (
    BATCH,
    InjectionOption,
    KeepOption,
    OutOption,
    app,
    injecting,
    kept,
    loading,
    say,
    with_inputs,
    words_of,
)
from tiledsky.errors import RunError
from tiledsky.io.address import located
from tiledsky.io.options import InputOptions

if TYPE_CHECKING:
    from tiledsky.engine.runner import PreparedRun


def do_slice(prepared: PreparedRun, text: str, stage: str | None) -> None:
    """Do what one job of an array does."""
    with loading():
        from tiledsky.engine.slices import Slice, run_slice, stage_named
        from tiledsky.workflows.submit import FINISH

    share = Slice.parse(text)
    with reporting(goes_on=True) as report:
        if stage == FINISH:
            prepared.execute(progress=report.tiles)
            say(f"{prepared.root}: done")
            return
        found = stage_named(prepared.plan, stage)
        total, done = run_slice(prepared, found, share, progress=report.tiles)
    say(f"{prepared.root}: stage {stage}, slice {text}: {total} tiles, {done} done now")


@app.command("submit", rich_help_panel=BATCH)
@with_inputs()
def submit(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipe: Annotated[str, typer.Option(help="Preset or TOML file; see `tiledsky recipes`.")],
    out: OutOption,
    array: Annotated[int, typer.Option(metavar="N", help="Jobs of each stage.")],
    cluster: Annotated[
        str, typer.Option(metavar="FILE.toml", help="Cluster file: queue, memory, walltime, ...")
    ] = "slurm",
    *,
    inputs: InputOptions,
    memory_limit: Annotated[
        str | None, typer.Option(help="Memory of a task (default: that of the cluster file).")
    ] = None,
    keep: KeepOption = None,
    tile_size: Annotated[int | None, typer.Option(help="Side of the tiles in pixels; the result is the same.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Delete an earlier run in --out.")] = False,
    injection: InjectionOption = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the scripts; submit nothing.")] = False,
) -> None:
    """Submit a run to SLURM as one job array for each stage, without Dask; write the scripts to RUN.zarr.jobs."""
    with loading():
        from tiledsky.cluster.configuration import load_cluster
        from tiledsky.cluster.local import parse_memory
        from tiledsky.engine.runner import prepare
        from tiledsky.workflows.submit import array_jobs, submit_scripts, write_scripts

    config, out = load_cluster(cluster).changed(memory=memory_limit), str(located(out).absolute())
    prepared = prepare(
        injecting(kept(recipe, keep, inputs), injection),
        source,
        out,
        tile_size=tile_size,
        memory_limit=parse_memory(config.memory),
        threads=1,
        **inputs,
    )
    words = [source, "--recipe", recipe, "--out", out, *words_of(inputs)]
    words += ["--keep", keep] if keep is not None else []
    words += ["--tile-size", str(tile_size)] if tile_size is not None else []
    words += [] if injection else ["--no-injection"]
    folder = Path(f"{out}.jobs")
    jobs = array_jobs(prepared, words, array, config, folder)
    prepared.check(restart=restart)
    if prepared.finished and not restart:
        raise RunError(f"{out} is finished; `tiledsky verify` looks for damage, and `tiledsky run` repairs it")
    with prepared.locked(restart=restart):
        prepared.create()
    files = write_scripts(jobs, folder)
    if dry_run:
        say(f"{len(files)} scripts in {folder}")
        return
    numbers = submit_scripts(files)
    say(f"jobs {numbers[0]} to {numbers[-1]}, {len(numbers)} stages of up to {array}; scripts, output: {folder}")
