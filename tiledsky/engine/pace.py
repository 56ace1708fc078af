"""How fast a stage goes: one driver hands out its tasks, one after the other, and threads do them.

A stage has ``n`` tasks of ``t`` seconds; ``w`` threads do them in rounds, and the driver hands out one task, or one
group of tasks, every ``c`` seconds. The stage takes the longer of the two: the rounds of the threads, or the handing
out.
"""

from __future__ import annotations

import math

#: Seconds of driver and scheduler for what they hand out at once.
HANDING_OUT = 0.002
#: Most tasks of a group; a group may be so much slower than the best if it is smaller.
_MOST, _NEAR = 64, 1.05


def stage_seconds(count: int, *, threads: int, task_seconds: float, driver_seconds: float) -> float:
    """Wall seconds of ``count`` equal tasks: rounds of the threads, or the driver's pace where that takes longer.

    The last task is handed out before it is done, so a driver at its limit adds one task's time.
    """
    rounds = math.ceil(count / threads) * task_seconds
    return max(rounds + driver_seconds * min(count, threads), count * driver_seconds + task_seconds)


def grouped_seconds(count: int, together: int, *, threads: int, task_seconds: float, driver_seconds: float) -> float:
    """Wall seconds of tasks that are handed out in groups."""
    groups = -(-count // together)
    return stage_seconds(groups, threads=threads, task_seconds=together * task_seconds, driver_seconds=driver_seconds)


def tasks_together(count: int, *, threads: int, task_seconds: float, driver_seconds: float = HANDING_OUT) -> int:
    """Tasks of the groups with which a stage ends soonest: one, unless tasks end faster than the driver hands them out.

    The smallest that is near the best: what a worker loses when it dies is little, and threads share evenly.
    """
    threads, sizes = max(threads, 1), range(1, min(max(count, 1), _MOST) + 1)
    took = [
        grouped_seconds(count, size, threads=threads, task_seconds=task_seconds, driver_seconds=driver_seconds)
        for size in sizes
    ]
    return next(size for size, seconds in zip(sizes, took, strict=True) if seconds <= _NEAR * min(took))
