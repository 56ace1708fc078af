"""Jobs that a queue does not take: seen when it says so, told in one line."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tiledsky.errors import ParameterError
from tiledsky.plain import plain

_log = logging.getLogger(__name__)
#: Where the loop of Dask tells of errors of what it does in the background, such as submitting jobs.
_LOOP = logging.getLogger("tornado.application")
#: Beginning of what dask-jobqueue says of a command that failed, and the heading of the errors that it wrote.
_FAILED, _ERRORS = "Command exited with non-zero exit code", "stderr:"
#: Longest word of a queue that is repeated.
_LONGEST = 200


def check_commands(queue: Any, kind: str) -> None:
    """Refuse a queue (class of dask-jobqueue) whose commands are not on this machine.

    Raises
    ------
    ParameterError
    """
    command = shlex.split(queue.job_cls.submit_command)[0]
    if shutil.which(command) is None:
        raise ParameterError(
            f"no {command} on this machine, so no job can be submitted to {kind}; start this on a machine of the "
            "cluster, or use a cluster of kind local"
        )


class Submissions(logging.Filter):
    """What the queue said of the ``last`` submission that failed; None: none did."""

    def __init__(self) -> None:
        super().__init__()
        self.last: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the record of a failed submission out of the log, where it would be a page long."""
        error = record.exc_info[1] if record.exc_info else None
        said = str(error)
        if not isinstance(error, RuntimeError) or not said.startswith(_FAILED):
            return True
        lines = [line.strip() for line in said.partition(_ERRORS)[2].splitlines() if line.strip()]
        self.last = plain(lines[-1])[:_LONGEST] if lines else "it did not say why"
        _log.warning("the queue did not take a job: %s", self.last)
        return False


@contextmanager
def submissions() -> Iterator[Submissions]:
    """Watch for failed submissions."""
    seen = Submissions()
    _LOOP.addFilter(seen)
    try:
        yield seen
    finally:
        _LOOP.removeFilter(seen)
