"""Memory of this process as the system counts it: the most that it ever held, and the most since a task began.

Linux keeps one high-water mark a process (VmHWM in ``/proc/self/status``). Writing 5 to ``/proc/self/clear_refs`` sets
it back to what the process holds now, so that the next reading is of one task alone; the largest reading before that
is remembered here, since the system forgets it.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

from tiledsky.operations.memory import FREED

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET = b"5\n"
#: Units of ``ru_maxrss``.
_UNIT = 1 if sys.platform == "darwin" else 1024

#: Gives freed memory back to the system; says how much of it is kept: of glibc alone.
_TRIM, _SET = (getattr(ctypes.CDLL(None), name, None) for name in ("malloc_trim", "mallopt"))
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Largest mark before it was set back, bytes; and what was done since.
_largest, _work = 0, ""


def reset(work: str = "") -> bool:
    """Set the mark back to what is held now; False where the system refuses that.

    Before ``work`` other than the last, what is freed goes back to the system: a task holds what its own stage takes.
    Tasks of one stage take the same, and leave it to the next. With several threads the mark is that of all their
    tasks: an upper bound for each.
    """
    global _largest, _work
    if work != _work and _TRIM is not None:
        _TRIM(0)
    _work = work
    before = process_peak()
    try:
        with _CLEAR.open("wb", buffering=0) as file:
            file.write(_RESET)
    except OSError:  # no such file, or not allowed: containers, other systems
        return False
    _largest = max(_largest, before)
    return True


def keep_freed() -> None:
    """Keep freed memory for the next arrays in this process, as workers do by their environment."""
    if _SET is not None:
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            _SET(option, FREED)


def process_peak() -> int:
    """Most bytes that this process ever held."""
    now = task_peak()
    if now is None:  # the other count begins with what the process that started this one held
        now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    return max(_largest, now)


def task_peak() -> int | None:
    """Most bytes that this process held since `reset`; None where the system does not say."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    marks = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else None
