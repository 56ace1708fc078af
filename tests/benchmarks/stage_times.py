"""How long a run takes on many workers, on paper; integers and seconds only.

A stage has ``n`` tasks of ``t`` seconds; ``w`` threads do them in rounds, and one driver hands out one task every ``c``
seconds. The stage takes the longer of the two: the rounds of the threads, or the handing out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tiledsky.engine.plan import GATHER, Plan


def stage_seconds(count: int, *, threads: int, task_seconds: float, driver_seconds: float) -> float:
    """Wall seconds of ``count`` equal tasks: rounds of the threads, or the driver's pace where that takes longer.

    The last task is handed out before it is done, so a driver at its limit adds one task's time.
    """
    rounds = math.ceil(count / threads) * task_seconds
    return max(rounds + driver_seconds * min(count, threads), count * driver_seconds + task_seconds)


def threads_fed(task_seconds: float, driver_seconds: float) -> int:
    """Threads that one driver keeps at work."""
    return int(task_seconds / driver_seconds)


@dataclass(frozen=True)
class Cost:
    """What is measured on some machine.

    Attributes
    ----------
    pixel_seconds : float
        CPU seconds of all tile stages together, a pixel of the image.
    driver_seconds : float
        Of driver and scheduler, a task.
    gather_seconds : float
        Of all gather tasks together, a pixel of the image; nothing else runs meanwhile.
    """

    pixel_seconds: float
    driver_seconds: float
    gather_seconds: float


def run_seconds(plan: Plan, cost: Cost, *, threads: int) -> float:
    """Wall seconds of a run whose tile stages take equal shares of the work."""
    pixels = plan.shape[0] * plan.shape[1]
    tiled = [stage for stage in plan.stages if stage.kind not in GATHER]
    counts: list[int] = [len(plan.grid(stage)) for stage in tiled]
    share = cost.pixel_seconds * pixels / len(tiled)
    work = sum(
        stage_seconds(count, threads=threads, task_seconds=share / count, driver_seconds=cost.driver_seconds)
        for count in counts
    )
    return work + cost.gather_seconds * pixels
