"""Errors that a person can act on: what is wrong, why it matters, what to change.

Each class carries the exit code of the command line; docs/commands.md has the table.
"""

from __future__ import annotations

from tiledsky.plain import without_secrets


class TiledSkyError(Exception):
    """Base of every error that tiledsky raises on purpose; its message keeps the secrets of addresses."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class ParameterError(TiledSkyError, ValueError):
    """A parameter or recipe that cannot work, whatever the image is."""

    exit_code = 2


class PlanError(ParameterError):
    """Parameters that do not fit this image, tiling or memory limit."""


class InputError(TiledSkyError, ValueError):
    """An input file or array that cannot be used: missing, damaged, ambiguous, empty, of another shape."""

    exit_code = 3


class MaskTypeError(InputError, TypeError):
    """A mask whose values are not of bool; a TypeError too, as photutils raises it."""


class InputWarning(UserWarning):
    """Something about an input that can be used, but hardly as it is meant."""


class RunError(TiledSkyError, RuntimeError):
    """A run that did not finish, or a run store that does not match what was asked."""

    exit_code = 4


class WorkerError(RunError):
    """A worker, or a scheduler, that cannot do tasks of this run: without tiledsky, or with other versions."""


class ClockError(RunError):
    """A run whose machine had its clock set back, for which Dask waits until the clock shows again what it did."""
