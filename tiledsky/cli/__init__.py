"""The command line: arguments to recipe to run to exit code; the only place that prints.

Exit codes: 0 done, 1 `check` found the sky not good enough, 2 wrong arguments or recipe, 3 input that cannot be used,
4 a run that did not finish, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiledsky.cli.console import SignalExit
from tiledsky.cli.options import app as _app
from tiledsky.cli.options import loading, say
from tiledsky.errors import InputWarning, RunError, TiledSkyError
from tiledsky.io.remote import keeps_no_secret

if TYPE_CHECKING:
    from tiledsky.cli.options import app

__all__ = ["app", "main"]

#: Errors of the system for too many open files.
_FILES = (errno.EMFILE, errno.ENFILE)
#: Beginning of the warning of kernels that cannot be kept.
_NOT_KEPT = "kernels are compiled for this process alone"
#: Modules that add commands to the app, in the order of the help, and the names of these.
_MODULES = {
    "runs": ("plan", "run", "verify"),
    "direct": ("estimate",),
    "quality": ("check", "inject", "advise"),
    "reports": ("report", "compare", "view"),
    "files": ("simulate", "ingest", "export", "merge-masks", "restore", "recipes", "info"),
    "warm": ("warm-up",),
    "publish": ("publish",),
    "arrays": ("submit",),
    "clusters": ("cluster",),
}


def _load(words: Sequence[str]) -> None:
    """Import the module of the command that ``words`` begin with, or all."""
    if words and words[0] == "--version":
        return
    chosen = [module for module, names in _MODULES.items() if words and words[0] in names]
    modules = [f"tiledsky.cli.{module}" for module in chosen or _MODULES]
    if all(module in sys.modules for module in modules):
        return
    with loading():
        for module in modules:
            import_module(module)


def __getattr__(name: str) -> Any:
    """Give the app to whoever asks for it, with all its commands."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load(())
    return _app


def _version(wanted: bool) -> None:
    if wanted:
        from tiledsky.cluster.versions import versions

        own, *others = versions().items()
        typer.echo(" ".join(own))
        typer.echo(f"with {', '.join(map(' '.join, others))}")
        raise typer.Exit


@_app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the versions that decide the bits of a result."
        ),
    ] = False,
) -> None:
    """Estimate and subtract the sky background of astronomical mosaics of any size."""


def _said(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    """Say a warning about the input in one line; others as Python does."""
    if issubclass(category, InputWarning):
        say(f"tiledsky: warning: {message}", err=True)
    elif str(message).startswith(_NOT_KEPT):
        say(f"tiledsky: {message}", err=True)
    else:
        _as_python(message, category, *where, **options)


_as_python = warnings.showwarning


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors are one line on standard error and an exit code."""
    if arguments is None:  # what ends with the process need not be looked through for garbage: half a second
        atexit.register(gc.freeze)
    words = _words() if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = _said
        _run(arguments, words)


def _words() -> list[str]:
    """Return the words of the command line; of one that a shell completes, those that are there so far."""
    if "_TILEDSKY_COMPLETE" not in os.environ:
        return sys.argv[1:]
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")).split()[1:]


def _run(arguments: list[str] | None, words: Sequence[str]) -> None:
    try:
        _load(words)
        for word in words:  # before anything can repeat them
            keeps_no_secret(word)
        _app(arguments)
    except SignalExit as ended:
        said = "tiledsky: stopped"
        if ended.goes_on:
            said += f"; what is done is kept, go on with: {shlex.join(_again(arguments))}"
        say(said, err=True)
        sys.exit(ended.exit_code)
    except TiledSkyError as error:
        say(f"tiledsky: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        advice = (
            "raise the limit of open files (ulimit -n)"
            if error.errno in _FILES
            else "check paths, permissions and room"
        )
        say(f"tiledsky: {' '.join(str(error).split())}; {advice}", err=True)
        sys.exit(RunError.exit_code)
    except (MemoryError, ImportError, RuntimeError) as error:
        if not _is_want_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200] or "no memory"
        say(
            f"tiledsky: the system gives this process no more memory or threads ({said}); raise its limits (ulimit -v, "
            "-u), or use fewer workers and smaller tiles; the same command goes on",
            err=True,
        )
        sys.exit(RunError.exit_code)


def _is_want_of_memory(error: BaseException) -> bool:
    """Whether an error is one of limits of the system: Python and the loader of libraries have no class for it."""
    said = str(error).lower()
    marks = ("can't start new thread", "cannot allocate memory", "failed to map segment", "out of memory")
    return isinstance(error, MemoryError) or any(mark in said for mark in marks)


def _again(arguments: list[str] | None) -> list[str]:
    """Return the command that goes on with a run: this one, but for the option that throws away what is done."""
    if arguments is not None:
        words = ["tiledsky", *arguments]
    elif Path(sys.argv[0]).name == "__main__.py":
        words = list(sys.orig_argv)
    else:
        words = list(sys.argv)
    return [word for word in words if word != "--restart"]
