"""How long a run takes on many workers, on paper; integers and seconds only.

A stage has ``n`` tasks of ``t`` seconds; ``w`` threads do them in rounds, and one driver hands out one task every ``c``
seconds. The stage takes the longer of the two: the rounds of the threads, or the handing out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tiledsky.engine.plan import GATHER, Plan
from tiledsky.operations.base import Operation
from tiledsky.operations.cells import CellOperation


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
    pixel_seconds, cell_seconds : float
        CPU seconds of all stages of tiles of the image together, and of tiles of meshes, a pixel of the image.
    driver_seconds : float
        Of driver and scheduler, a task.
    gather_seconds : float
        Of all gather tasks together, a tile of the output; nothing else runs meanwhile.
    """

    pixel_seconds: float
    cell_seconds: float
    driver_seconds: float
    gather_seconds: float


def kinds_of(base: type[Operation]) -> set[str]:
    """Kinds of the operations of a class."""
    found = {kind for child in base.__subclasses__() for kind in kinds_of(child)}
    return found | ({base.kind} if hasattr(base, "kind") else set())


def run_seconds(plan: Plan, cost: Cost, *, threads: int) -> float:
    """Wall seconds of a run whose stages of each sort take equal shares of the work."""
    pixels, of_cells = plan.shape[0] * plan.shape[1], kinds_of(CellOperation)
    tiled = [stage for stage in plan.stages if stage.kind not in GATHER]
    work = 0.0
    for seconds, stages in (
        (cost.pixel_seconds, [stage for stage in tiled if stage.kind not in of_cells]),
        (cost.cell_seconds, [stage for stage in tiled if stage.kind in of_cells]),
    ):
        for count in (len(plan.grid(stage)) for stage in stages):
            task = seconds * pixels / len(stages) / count
            work += stage_seconds(count, threads=threads, task_seconds=task, driver_seconds=cost.driver_seconds)
    return work + cost.gather_seconds * len(plan.grid(plan.stage("output")))
