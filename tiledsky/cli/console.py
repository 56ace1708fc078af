"""What the command line shows while it works, and how it ends when a signal asks it to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from tiledsky.cli.compiling import told
from tiledsky.cluster.stop import StopSignal, stoppable
from tiledsky.plain import counted, plain

if TYPE_CHECKING:
    from tiledsky.engine.driver import Progress

#: Seconds between the lines of progress where there is no terminal.
_INTERVAL = 5.0


class Reporter:
    """Progress: a bar on a terminal, otherwise a line every few seconds; on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Bar | None = None
        self.last = time.monotonic()
        self.compiled: float | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self.bar = Bar(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("starting", total=1.0, text="")
            self.bar.start()

    def show(self, what: str, done: float, total: float, text: str) -> None:
        """Show one line, or move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, description=plain(what), completed=done, total=total, text=text)
        elif done >= total or time.monotonic() - self.last > _INTERVAL:
            self.last = time.monotonic()
            self.line(f"{what} {text}")

    def line(self, text: str) -> None:
        """Say one line."""
        self.console.print(plain(text), highlight=False, markup=False, soft_wrap=True)

    def compiling(self, done: int, most: int) -> None:
        """Say that kernels are compiled, while nothing else moves."""
        text = f"compiling kernels (once on this machine) {done}/{most}"
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        elif self.compiled is None or time.monotonic() - self.compiled > _INTERVAL:
            self.compiled = time.monotonic()
            self.line(text)

    def tiles(self, state: Progress) -> None:
        """Show how far a run is."""
        fresh = state.done - state.resumed
        rate = fresh / state.seconds if state.seconds else 0.0
        eta = (state.total - state.done) / rate if rate else 0.0
        speed = rate / state.total * state.pixels / 1e6
        text = (
            f"tiles {state.done}/{state.total} ({100 * state.done // state.total}%) "
            f"{counted(state.workers, 'worker')} {speed:.1f} Mpix/s eta {eta:.0f}s"
        )
        self.show(state.stage, state.done, state.total, text)

    def rows(self, what: str) -> Any:
        """Return a callback for rows done."""
        return self._counted(what, "rows")

    def tasks(self, what: str) -> Any:
        """Return a callback for tasks done."""
        return self._counted(what, "tasks")

    def _counted(self, what: str, unit: str) -> Any:
        return lambda done, total: self.show(what, done, total, f"{unit} {done}/{total} ({100 * done // total}%)")


class SignalExit(Exception):
    """A command that a signal ended in order."""

    def __init__(self, exit_code: int, *, goes_on: bool) -> None:
        super().__init__()
        self.exit_code, self.goes_on = exit_code, goes_on


@contextmanager
def reporting(*, goes_on: bool = False, recipe: str | None = None) -> Iterator[Reporter]:
    """Show progress, and end in order when a signal asks to; ``goes_on``: the same command goes on where it ended.

    ``recipe``: as of `tiledsky.cli.compiling.told`.
    """
    reporter = Reporter()
    try:
        with stoppable(), told(reporter.compiling, recipe=recipe):
            yield reporter
    except KeyboardInterrupt as stopped:
        # another error than KeyboardInterrupt, which Typer would end without a word
        raise SignalExit(stopped.exit_code if isinstance(stopped, StopSignal) else 130, goes_on=goes_on) from None
    finally:
        if reporter.bar is not None:
            reporter.bar.stop()
