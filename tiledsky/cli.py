"""The command line: arguments to recipe to run to exit code; the only module that prints.

Exit codes: 0 done, 2 wrong arguments or recipe, 3 input that cannot be used, 4 a run that did not finish,
130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import tiledsky
from tiledsky.console import Ended, reporting
from tiledsky.errors import ParameterError, RunError, TiledSkyError
from tiledsky.io.fits import image_hdus, open_image, split_hdu
from tiledsky.io.source import InputOptions
from tiledsky.recipe import Recipe, preset_names, recipe_text
from tiledsky.run import export as streams
from tiledsky.run.cluster import local_client, parse_memory, scheduler_client
from tiledsky.run.crew import TASK_TIMEOUT
from tiledsky.run.forecast import describe
from tiledsky.run.masks import merge_masks
from tiledsky.run.restore import restore
from tiledsky.run.result import open_run
from tiledsky.run.runner import planned, prepare
from tiledsky.run.verify import verify

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Estimate and subtract the sky background of astronomical mosaics of any size.",
)

HduOption = Annotated[str | None, typer.Option(help="HDU of the science image (name or number), or a Zarr array.")]
WeightOption = Annotated[str | None, typer.Option(metavar="FILE[:HDU]", help="Weight: pixels not above 0 are invalid.")]
ErrorOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Standard deviation: pixels not above 0 are invalid.")
]
DqOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Data quality: pixels with the recipe's flags are invalid.")
]
CoverageOption = Annotated[
    str | None, typer.Option(metavar="FILE[:HDU]", help="Coverage: pixels that are 0 are invalid and get no sky.")
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE[:HDU]",
        help="Left out of statistics: non-zero pixels, a region file (.reg, .crtf), or the sources of RUN.zarr or of "
        "what merge-masks wrote.",
    ),
]
ChecksumOption = Annotated[
    bool, typer.Option("--checksum/--no-checksum", help="Refuse FITS files whose CHECKSUM or DATASUM is wrong.")
]
UserMaskOption = Annotated[
    str | None,
    typer.Option(metavar="FILE[:HDU]", help="A mask of your own, beside the one of a run: pixels or a region file."),
]


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="OUT.fits or OUT.zarr")],
    size: Annotated[str, typer.Option(help="Pixels: rows x columns (46200x15400), or the side of a square.")] = "2000",
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 4,
    truth: Annotated[Path | None, typer.Option(help="Zarr store for the noiseless sky.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Simulate a pathological sky: gradient, sinc blemishes, noise 0.1, elliptical Gaussian sources."""
    with reporting() as report:
        streams.simulate(
            out, shape=_shape(size), seed=seed, truth=truth, overwrite=overwrite, progress=report.rows("simulate")
        )


def _shape(text: str) -> tuple[int, int]:
    """Rows and columns from "2000" or "46200x15400"."""
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdecimal() and (columns or rows).isdecimal()) or text.lower().endswith("x"):
        raise ParameterError(f"size {text!r} is no number of pixels; write 2000 or 46200x15400 (rows x columns)")
    return int(rows), int(columns or rows)


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(metavar="IN.fits[:HDU]")],
    out: Annotated[Path, typer.Argument(metavar="OUT.zarr")],
    hdu: HduOption = None,
    weight: WeightOption = None,
    error: ErrorOption = None,
    dq: DqOption = None,
    coverage: CoverageOption = None,
    mask: MaskOption = None,
    user_mask: UserMaskOption = None,
    checksum: ChecksumOption = True,
) -> None:
    """Copy a FITS image and its planes to a Zarr store, which runs read in place."""
    planes: InputOptions = {"weight": weight, "error": error, "dq": dq, "coverage": coverage}
    planes |= {"mask": mask, "user_mask": user_mask, "hdu": hdu, "checksum": checksum}
    with reporting() as report:
        streams.ingest(source, out, **planes, progress=report.rows("ingest"))


@app.command("plan")
def plan_of(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipe: Annotated[str, typer.Option(help="Preset or TOML file; see `tiledsky recipes`.")],
    hdu: HduOption = None,
    weight: WeightOption = None,
    error: ErrorOption = None,
    dq: DqOption = None,
    coverage: CoverageOption = None,
    mask: MaskOption = None,
    user_mask: UserMaskOption = None,
    workers: Annotated[int, typer.Option(help="Worker processes on this machine.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    memory_limit: Annotated[str, typer.Option(help="Of each worker.")] = "2GB",
    tile_size: Annotated[int | None, typer.Option(help="Side of the tiles in pixels.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: integers, sizes in bytes.")] = False,
) -> None:
    """Say what a run will take: tasks, bytes, memory of a worker, room on the disk. Reads headers alone."""
    planes: InputOptions = {"weight": weight, "error": error, "dq": dq, "coverage": coverage}
    planes |= {"mask": mask, "user_mask": user_mask, "hdu": hdu, "checksum": False}
    limit = parse_memory(memory_limit)
    limits: dict[str, Any] = {"memory_limit": limit, "threads": threads}
    made = planned(recipe, source, tile_size=tile_size, **planes, **limits)
    made.check_fits(**limits)
    report = describe(made.recipe, made.plan, made.source, workers=workers, **limits)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.text()))


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipe: Annotated[str, typer.Option(help="Preset or TOML file; see `tiledsky recipes`.")],
    out: Annotated[Path, typer.Option(metavar="RUN.zarr", help="Run store; the same command goes on where it ended.")],
    hdu: HduOption = None,
    weight: WeightOption = None,
    error: ErrorOption = None,
    dq: DqOption = None,
    coverage: CoverageOption = None,
    mask: MaskOption = None,
    user_mask: UserMaskOption = None,
    workers: Annotated[int, typer.Option(help="Worker processes on this machine.")] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    memory_limit: Annotated[str, typer.Option(help="Of each worker.")] = "2GB",
    scheduler: Annotated[str | None, typer.Option(help="Use this Dask scheduler (tcp://... or tls://...).")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a tcp:// scheduler on another machine.")] = False,
    task_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Kill the worker of a task that takes longer; 0: never.")
    ] = TASK_TIMEOUT,
    tile_size: Annotated[int | None, typer.Option(help="Side of the tiles in pixels; the result is the same.")] = None,
    checksum: ChecksumOption = True,
    verify_done: Annotated[
        str, typer.Option("--verify", help="How closely to look at what is done: markers, sizes, crc or decode.")
    ] = "sizes",
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an earlier run in --out.")] = False,
) -> None:
    """Estimate and subtract the sky by a recipe."""
    began = time.monotonic()
    planes: InputOptions = {"weight": weight, "error": error, "dq": dq, "coverage": coverage}
    planes |= {"mask": mask, "user_mask": user_mask, "hdu": hdu, "checksum": checksum}
    with reporting(goes_on=True) as report:
        # of another scheduler the workers say themselves what they have
        limit = parse_memory(memory_limit) if scheduler is None else None
        limits: dict[str, Any] = {"memory_limit": limit, "threads": threads}
        prepared = prepare(recipe, source, out, tile_size=tile_size, **planes, **limits)
        prepared.check(restart=restart)
        if scheduler is None:
            cluster = local_client(workers=workers, threads=threads, memory_limit=memory_limit)
        else:
            cluster = scheduler_client(scheduler, insecure=insecure)
        with cluster as client:
            report.line(f"dashboard {client.dashboard_link}")
            result = prepared.execute(
                client=client,
                restart=restart,
                verify=verify_done,
                task_timeout=task_timeout or None,
                progress=report.tiles,
            )
    ny, nx = result.plan.shape
    peak = result.provenance["peak_worker_memory"] / 1e6
    typer.echo(
        f"{out}: {ny} x {nx} px, {result.recipe.name}, {time.monotonic() - began:.1f} s, peak {peak:.0f} MB a worker"
    )
    typer.echo(f"planes: {', '.join(result.planes)}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN.zarr")],
    out: Annotated[Path, typer.Argument(metavar="OUT.fits")],
    planes: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(streams.EXPORTED),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Write planes of a run to FITS, with the header and WCS of the science image."""
    names = [name.strip() for name in planes.split(",") if name.strip()]
    with reporting() as report:
        streams.export(source, out, planes=names, overwrite=overwrite, progress=report.rows("export"))


@app.command("verify")
def check(
    source: Annotated[Path, typer.Argument(metavar="RUN.zarr")],
    level: Annotated[str, typer.Option(help="How closely: markers, sizes, crc or decode.")] = "crc",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look only; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> None:
    """Name what is damaged in a run store, and mark it to be made anew; exit code 4 if anything is."""
    faults = verify(source, level=level, discard=not dry_run)
    if as_json:
        typer.echo(json.dumps({"run": str(source), "level": level, "faults": [f.to_json() for f in faults]}, indent=1))
    else:
        for fault in faults:
            typer.echo(str(fault))
        tiles = len({(f.stage, f.index) for f in faults if f.stage is not None})
        files = sum(f.stage is None for f in faults)
        found = f"{tiles} tiles and {files} files of metadata damaged" if faults else "nothing is damaged"
        typer.echo(f"{source}: {found} (level {level})")
    if faults:
        typer.echo("the command that made the run makes anew just what is damaged", err=True)
        raise typer.Exit(RunError.exit_code)


@app.command("merge-masks")
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.zarr", help="Finished runs on one grid, two or more.")],
    out: Annotated[Path, typer.Option(metavar="M.zarr", help="Store for the mask; give it to run with --mask.")],
) -> None:
    """Unite the source masks of runs, for a second run of each band."""
    with reporting() as report:
        merged = merge_masks(runs, out, progress=report.rows("merge-masks"))
    ny, nx = merged.shape
    typer.echo(f"{out}: {ny} x {nx} px, sources in {_share(merged.masked, ny * nx)}")
    for path, count in zip(runs, merged.of_runs, strict=True):
        typer.echo(f"{path}: {_share(count, ny * nx)}")


@app.command("restore")
def add_sky(
    source: Annotated[Path, typer.Argument(metavar="RUN.zarr|SUB.fits")],
    out: Annotated[Path, typer.Argument(metavar="OUT.fits")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.fits.")] = False,
) -> None:
    """Add the background back: the image that a run, or a file that export wrote, began with."""
    with reporting() as report:
        result = restore(source, out, overwrite=overwrite, progress=report.rows("restore"))
    (ny, nx), compared = result.shape, result.comparison
    typer.echo(f"{out}: {ny} x {nx} px, {result.dtype}")
    for count, what in ((result.uncovered, "outside the coverage, not restored"), (result.nan, "NaN")):
        if count:
            typer.echo(f"{what}: {_share(count, ny * nx)}")
    if compared is None:
        typer.echo("not compared with the input, which is not there as it was")
    elif compared.differing:
        most = f"at most {compared.max_ulp} units in the last place, {compared.max_difference:.3g}"
        typer.echo(f"other than the input: {_share(compared.differing, ny * nx)}, by {most}")
    else:
        typer.echo(f"identical to the input: {_share(result.restored, ny * nx)}")


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
            typer.echo(f"{preset:{width}}  {Recipe.load(preset).description}")
    elif action == "show" and name is not None:
        Recipe.load(name)
        typer.echo(recipe_text(name)[0], nl=False)
    else:
        raise typer.BadParameter(f"{action!r} is no action; write `tiledsky recipes` or `tiledsky recipes show NAME`")


@app.command()
def info(source: Annotated[str, typer.Argument(metavar="RUN.zarr|IN.fits[:HDU]")], hdu: HduOption = None) -> None:
    """Say what a run store or a FITS file holds."""
    if not Path(source).is_dir():
        _info_fits(source, hdu)
        return
    found = open_run(source, allow_partial=True)
    ny, nx = found.plan.shape
    typer.echo(f"{found.path}: {'finished' if found.complete else 'NOT finished'}")
    typer.echo(f"image      {ny} x {nx} px (y, x), {found.plan.dtype}")
    typer.echo(f"recipe     {found.recipe.name}: {', '.join(step.name for step in found.recipe.steps)}")
    for name in found.planes:
        plane = found.plane(name)
        typer.echo(f"plane      {name}  {plane.dtype}, chunks {plane.chunks}, shards {plane.shards}")
    for step, tiers in found.thresholds.items():
        limits = [format(tier["threshold"], ".6g") for tier in tiers if "threshold" in tier]
        fills = [format(tier["fill"], ".6g") for tier in tiers[:1] if tier.get("fill") is not None]
        typer.echo(f"threshold  {step}  {', '.join([*limits, *(f'masked pixels count as {x}' for x in fills)])}")
    for key in ("run_id", "tasks", "cpu_seconds", "wall_seconds_last", "peak_worker_memory"):
        if key in found.provenance:
            typer.echo(f"{key:10} {found.provenance[key]}")


def _info_fits(source: str, hdu: str | None) -> None:
    path, named = split_hdu(source)
    chosen = [named if hdu is None else hdu]
    if chosen == [None]:
        chosen = list(image_hdus(path))
    for one in chosen:
        with open_image(path, hdu=one, checksum=False) as image:
            ny, nx = image.shape
            typer.echo(f"{image.path} HDU {image.hdu} {image.name or '(no name)'}")
            typer.echo(f"image      {ny} x {nx} px (y, x), read as {image.dtype}, unit {image.bunit or 'not given'}")
            for key in ("TELESCOP", "INSTRUME", "FILTER", "OBJECT", "CTYPE1", "CTYPE2"):
                if key in image.header:
                    typer.echo(f"{key:10} {image.header[key]}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tiledsky {tiledsky.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Estimate and subtract the sky background of astronomical mosaics of any size."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors are one line on standard error and an exit code."""
    try:
        app(arguments)
    except Ended as ended:
        said = "tiledsky: stopped"
        if ended.goes_on:
            said += f"; what is done is kept, go on with: {shlex.join(_again(arguments))}"
        typer.echo(said, err=True)
        sys.exit(ended.exit_code)
    except TiledSkyError as error:
        typer.echo(f"tiledsky: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(f"tiledsky: {' '.join(str(error).split())}; check paths, permissions and room", err=True)
        sys.exit(RunError.exit_code)


def _again(arguments: list[str] | None) -> list[str]:
    """Return the command that goes on with a run: this one, but for the option that throws away what is done."""
    if arguments is not None:
        words = ["tiledsky", *arguments]
    elif Path(sys.argv[0]).name == "__main__.py":
        words = list(sys.orig_argv)
    else:
        words = list(sys.argv)
    return [word for word in words if word != "--restart"]
