"""Commands that make, copy, merge and describe files: simulate, ingest, export, restore, merge-masks, recipes, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.options import (
    FILES,
    ChecksumOption,
    HduOption,
    RunArgument,
    app,
    loading,
    names_of,
    placed,
    say,
    with_inputs,
)
from tiledsky.errors import ParameterError
from tiledsky.io.address import located
from tiledsky.io.options import InputOptions
from tiledsky.recipe import Recipe, preset_names, recipe_text
from tiledsky.workflows.outputs import EXPORTED

_DIGITS = 10  # of a side in pixels: beyond what any scene can have


@app.command(rich_help_panel=FILES)
def simulate(
    out: Annotated[Path, typer.Argument(help="OUT.fits or OUT.zarr")],
    size: Annotated[str, typer.Option(help="Pixels: rows x columns (46200x15400), or the side of a square.")] = "2000",
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 4,
    truth: Annotated[Path | None, typer.Option(help="Zarr store for the noiseless sky.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Simulate a difficult sky: gradient, sinc blemishes, noise 0.1, elliptical Gaussian sources."""
    with loading():
        from tiledsky.workflows import export as streams

    with reporting() as report:
        streams.simulate(
            out, shape=_shape(size), seed=seed, truth=truth, overwrite=overwrite, progress=report.rows("simulate")
        )


def _shape(text: str) -> tuple[int, int]:
    """Rows and columns from "2000" or "46200x15400"."""
    rows, _, columns = text.lower().partition("x")
    fits = all(n.isdecimal() and len(n) <= _DIGITS for n in (rows, columns or rows))
    if not fits or text.lower().endswith("x"):
        raise ParameterError(
            f"size {text[:40]!r} is not a number of pixels; write 2000 or 46200x15400 (rows x columns)"
        )
    return int(rows), int(columns or rows)


@app.command(rich_help_panel=FILES)
@with_inputs()
def ingest(
    source: Annotated[str, typer.Argument(metavar="IN.fits[:HDU]")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zarr")],
    *,
    inputs: InputOptions,
) -> None:
    """Copy a FITS image and its planes to a Zarr store, which runs read in place."""
    with loading():
        from tiledsky.workflows import export as streams

    with reporting() as report:
        streams.ingest(source, out, **inputs, progress=report.rows("ingest"))


@app.command(rich_help_panel=FILES)
def export(
    source: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.fits|OUT.csv")],
    planes: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(EXPORTED),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Write planes of a run to FITS, with header and WCS of the science image, and its large objects; these to CSV."""
    with loading():
        from tiledsky.workflows import export as streams

    with reporting() as report:
        streams.export(source, out, planes=names_of(planes), overwrite=overwrite, progress=report.rows("export"))


@app.command("merge-masks", rich_help_panel=FILES)
def merge(
    runs: Annotated[
        list[str], typer.Argument(parser=placed, metavar="RUN.zarr", help="Finished runs on one grid, two or more.")
    ],
    out: Annotated[Path, typer.Option(metavar="M.zarr", help="Store for the mask; give it to run with --mask.")],
) -> None:
    """Combine the source masks of runs, for a second run of each band."""
    with loading():
        from tiledsky.workflows.merge_masks import merge_masks

    with reporting() as report:
        merged = merge_masks(runs, out, progress=report.rows("merge-masks"))
    ny, nx = merged.shape
    say(f"{out}: {ny} x {nx} px, sources in {_share(merged.masked, ny * nx)}")
    for path, count in zip(runs, merged.of_runs, strict=True):
        say(f"{path}: {_share(count, ny * nx)}")


@app.command("restore", rich_help_panel=FILES)
def add_sky(
    source: Annotated[str, typer.Argument(parser=placed, metavar="RUN.zarr|SUB.fits")],
    out: Annotated[Path, typer.Argument(metavar="OUT.fits")],
    checksum: ChecksumOption = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Add the background back, to restore the image of a run or of a file written by export."""
    with loading():
        from tiledsky.workflows.restore import restore

    with reporting() as report:
        result = restore(source, out, overwrite=overwrite, checksum=checksum, progress=report.rows("restore"))
    (ny, nx), compared = result.shape, result.comparison
    say(f"{out}: {ny} x {nx} px, {result.dtype}")
    for count, what in ((result.uncovered, "outside the coverage, not restored"), (result.nan, "NaN")):
        if count:
            say(f"{what}: {_share(count, ny * nx)}")
    if compared is None:
        say("not compared with the input, which is not there as it was")
    elif compared.differing:
        differing = _share(compared.differing, ny * nx)
        say(f"other than the input: {differing}, by at most {compared.max_difference:.3g}")
    else:
        say(f"identical to the input: {_share(result.restored, ny * nx)}")


def _share(count: int, total: int) -> str:
    return f"{count} px ({100 * count / total:.3g}%)"


@app.command()
def recipes(
    action: Annotated[str | None, typer.Argument(metavar="[show NAME]")] = None,
    name: Annotated[str | None, typer.Argument(metavar="", show_default=False)] = None,
) -> None:
    """List the presets, or show one (or check and show a TOML file)."""
    if action is None:
        width = max(map(len, preset_names()))
        for preset in preset_names():
            say(f"{preset:{width}}  {Recipe.load(preset).description}")
    elif action == "show" and name is not None:
        Recipe.load(name)
        typer.echo(recipe_text(name)[0], nl=False)
    else:
        raise typer.BadParameter(f"{action!r} is no action; write `tiledsky recipes` or `tiledsky recipes show NAME`")


@app.command()
def info(source: Annotated[str, typer.Argument(metavar="RUN.zarr|IN.fits[:HDU]")], hdu: HduOption = None) -> None:
    """Describe a run store, another Zarr store or a FITS file."""
    with loading():
        from tiledsky.engine.result import open_run
        from tiledsky.workflows.arrays_of import arrays_of

    if not located(source).is_dir():
        _info_fits(source, hdu)
        return
    if (arrays := arrays_of(source)) is not None:
        say(f"{source}: Zarr, no run{', to be read by runs in place' * ('science' in arrays)}")
        for name, array in arrays.items():
            size = " x ".join(map(str, array.shape))
            say(f"array      {name}  {size}, {array.dtype}, chunks {array.chunks}, shards {array.shards}")
        return
    found = open_run(source, allow_partial=True)
    ny, nx = found.plan.shape
    say(f"{found.path}: {'finished' if found.complete else 'NOT finished'}")
    say(f"image      {ny} x {nx} px (y, x), {found.plan.dtype}")
    say(f"recipe     {found.recipe.name}: {', '.join(step.name for step in found.recipe.steps)}")
    for name in found.planes:
        plane = found.plane(name)
        say(f"plane      {name}  {plane.dtype}, chunks {plane.chunks}, shards {plane.shards}")
    for step, tiers in found.thresholds.items():
        limits = [
            "none" if t["threshold"] is None else format(t["threshold"], ".6g") for t in tiers if "threshold" in t
        ]
        fills = [format(tier["fill"], ".6g") for tier in tiers[:1] if tier.get("fill") is not None]
        say(f"threshold  {step}  {', '.join([*limits, *(f'masked pixels count as {x}' for x in fills)])}")
    for key in ("run_id", "tasks", "cpu_seconds", "wall_seconds_last", "peak_worker_memory"):
        if key in found.provenance:
            say(f"{key:10} {found.provenance[key]}")


def _info_fits(source: str, hdu: str | None) -> None:
    with loading():
        from tiledsky.io.fits.cards import label_value
        from tiledsky.io.fits.image import image_hdus, open_image, split_hdu

    path, named = split_hdu(source)
    chosen = [named if hdu is None else hdu]
    if chosen == [None]:
        chosen = list(image_hdus(path))
    for one in chosen:
        with open_image(path, hdu=one, checksum=False) as image:
            ny, nx = image.shape
            say(f"{image.path} HDU {image.hdu} {image.name or '(no name)'}")
            say(f"image      {ny} x {nx} px (y, x), read as {image.dtype}, unit {image.bunit or 'not given'}")
            for key in ("TELESCOP", "INSTRUME", "FILTER", "OBJECT", "CTYPE1", "CTYPE2"):
                if value := label_value(image.header, key):
                    say(f"{key:10} {value}")
