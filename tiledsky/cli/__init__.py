"""The command line: arguments to recipe to run to exit code; the only place that prints.

Exit codes: 0 done, 1 `check` found the sky not good enough, 2 wrong arguments or recipe, 3 input that cannot be used,
4 a run that did not finish, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

import tiledsky

# The modules add their commands to the app, in this order.
# isort: off
from tiledsky.cli import runs, quality, reports, files, publish, arrays, clusters

# isort: on
from tiledsky.cli.options import app
from tiledsky.console import Ended
from tiledsky.errors import RunError, TiledSkyError

__all__ = ["app", "arrays", "clusters", "files", "main", "publish", "quality", "reports", "runs"]


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
