"""Commands that show runs: report, compare, view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiledsky.cli.options import LOOK, RunArgument, app, loading, placed, say
from tiledsky.errors import ParameterError

if TYPE_CHECKING:
    from tiledsky.engine.result import Run


def write_after(run: Run, *, wanted: bool = True) -> None:
    """Write the report of a run that has just ended, and say where; a run does not fail for its picture.

    A page of an earlier run does not stay in its place, be the new one not ``wanted`` or not to be written.
    """
    from tiledsky.report import imprint, imprint_of, report_path, write_report

    path = report_path(run.path)
    try:
        there = imprint_of(path)
        if there != imprint(run):
            if there is not None:
                path.unlink()
            if wanted:
                write_report(run, path)
            elif there is not None:
                say(f"report: {path} was of an earlier run, and is removed")
        if wanted:
            say(f"report: {path}")
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        say(f"tiledsky: no report was written ({said}); the run is whole, try: tiledsky report {run.path}", err=True)


@app.command("report", rich_help_panel=LOOK)
def report_of(
    source: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="REPORT.html", help="Page (default: RUN.report.html beside the run)."),
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write the figures as PNG files.")] = None,
    pdf: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write the figures as PDF files.")] = None,
) -> None:
    """Write the report of a run as one page that opens offline: verdict, planes, figures, memory and time."""
    with loading():
        from tiledsky.engine.result import open_run

    from tiledsky.report import save_figures, write_report

    run = open_run(source)
    say(str(write_report(run, out)))
    for kind, folder in (("png", png), ("pdf", pdf)):
        if folder is not None:
            paths = save_figures(run, folder, kind=kind)
            say(f"{folder}: {len(paths)} figures ({', '.join(path.name for path in paths)})")


@app.command("compare", rich_help_panel=LOOK)
def compare_runs(
    runs: Annotated[
        list[str], typer.Argument(parser=placed, metavar="RUN.zarr", help="Finished runs of one image, two or more.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="COMPARE.html")] = Path("compare.html"),
    truth: Annotated[
        str | None,
        typer.Option(metavar="TRUTH.zarr|.fits", help="The true sky, as simulate --truth writes it, or a FITS image."),
    ] = None,
) -> None:
    """Compare several runs of one image on one page: verdicts, residuals, noise against scale."""
    with loading():
        from tiledsky.engine.result import open_run

    from tiledsky.report import write_comparison

    say(str(write_comparison([open_run(path) for path in runs], out, truth=truth)))


@app.command("view", rich_help_panel=LOOK)
def view_run(
    source: RunArgument,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any free port.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Show every pixel of all planes of a run in a browser on this machine; Ctrl-C ends it."""
    with loading():
        from tiledsky.engine.result import open_run

    if not 0 <= port <= 65535:
        raise ParameterError(f"port {port} does not exist; use 0 (any free port) to 65535")
    from tiledsky.report.view import serve

    run = open_run(source)

    def ready(address: str) -> None:
        say(address)
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(run, port=port, ready=ready)
