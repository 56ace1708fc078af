"""Signals that stop a run: the first ends it in order, Ctrl-C after that ends it at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Delay:
    """How many blocks delay signals, and the signal that waits for them."""

    depth = 0
    waiting: int | None = None


class StopSignal(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell counts it."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `StopSignal` in this block when a signal asks to end; a Ctrl-C that follows does not wait for anything.

    Signals that this process was started to ignore stay ignored (nohup). In other threads than the main one: no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            if not _Delay.depth:
                raise StopSignal(number)
            _Delay.waiting = number
        elif number == signal.SIGINT:
            end_children()
            os._exit(128 + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def held() -> Iterator[None]:
    """Let the first signal wait for the end of this block: what it begins must not stay half begun."""
    _Delay.depth += 1
    try:
        yield
    finally:
        _Delay.depth -= 1
        if not _Delay.depth and _Delay.waiting is not None:
            number, _Delay.waiting = _Delay.waiting, None
            raise StopSignal(number)


def end_children() -> None:
    """Kill the processes that this one started, without waiting for them."""
    for child in multiprocessing.active_children():
        child.kill()
