"""Memory of this process as the system counts it: the most that it ever held, and the most since a task began.

Linux keeps one high-water mark a process (VmHWM in ``/proc/self/status``). Writing 5 to ``/proc/self/clear_refs`` sets
it back to what the process holds now, so that the next reading is of one task alone; the largest reading before that
is remembered here, since the system forgets it.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET = b"5\n"
#: Units of ``ru_maxrss``.
_UNIT = 1 if sys.platform == "darwin" else 1024

#: Largest mark before it was set back, bytes.
_largest = 0


def reset() -> bool:
    """Set the mark back to what is held now; False where the system refuses that.

    With several threads the mark is that of all their tasks: an upper bound for each.
    """
    global _largest
    before = process_peak()
    try:
        with _CLEAR.open("wb", buffering=0) as file:
            file.write(_RESET)
    except OSError:  # no such file, or not allowed: containers, other systems
        return False
    _largest = max(_largest, before)
    return True


def process_peak() -> int:
    """Most bytes that this process ever held."""
    return max(_largest, task_peak() or 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT)


def task_peak() -> int | None:
    """Most bytes that this process held since `reset`; None where the system does not say."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    marks = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(marks[0][1]) * 1024 if marks else None
