"""How long a run takes on many workers, on paper; integers and seconds only. The formula is the one that tasks are
handed out by (`tiledsky.engine.pace`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tiledsky.engine.dependencies import reads
from tiledsky.engine.executors import FIRST
from tiledsky.engine.pace import grouped_seconds, stage_seconds, tasks_together
from tiledsky.engine.plan import GATHER, Plan
from tiledsky.operations.base import Operation
from tiledsky.operations.cells import CellOperation
from tiledsky.recipe import Recipe


def sent_seconds(count: int, *, threads: int, task_seconds: float, driver_seconds: float) -> float:
    """Wall seconds of a stage: its first tasks go one by one, the others in groups when one of these has ended."""
    options = {"threads": threads, "task_seconds": task_seconds, "driver_seconds": driver_seconds}
    if count <= FIRST:
        return stage_seconds(count, **options)
    others = grouped_seconds(count, tasks_together(count - FIRST, **options), **options)
    return max(FIRST * driver_seconds, driver_seconds + task_seconds) * (threads > FIRST) + others


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
        Of driver and scheduler, for what they send at once.
    gather_seconds : mapping of str to float
        Of gather tasks, by kind, for each summary that they merge; nothing else runs meanwhile.
    """

    pixel_seconds: float
    cell_seconds: float
    driver_seconds: float
    gather_seconds: Mapping[str, float]


def kinds_of(base: type[Operation]) -> set[str]:
    """Kinds of the operations of a class."""
    found = {kind for child in base.__subclasses__() for kind in kinds_of(child)}
    return found | ({base.kind} if hasattr(base, "kind") else set())


def gather_seconds(recipe: Recipe, plan: Plan, cost: Cost) -> float:
    """Wall seconds of all gather tasks of a run: so many summaries as each merges."""
    total = 0.0
    for stage in plan.stages:
        if stage.kind in GATHER:
            sources = [plan.stage(read.node) for read in reads(recipe, plan, stage) if read.halo is None]
            merged = max((len(plan.grid(s)) for s in sources if s.kind not in GATHER), default=0)
            total += cost.gather_seconds.get(stage.kind, 0.0) * merged
    return total


def run_seconds(recipe: Recipe, plan: Plan, cost: Cost, *, threads: int) -> float:
    """Wall seconds of a run whose stages of each sort take equal shares of the work."""
    pixels, of_cells = plan.shape[0] * plan.shape[1], kinds_of(CellOperation)
    tiled = [stage for stage in plan.stages if stage.kind not in GATHER]
    work = 0.0
    for seconds, stages in (
        (cost.pixel_seconds * pixels, [s for s in tiled if s.kind not in of_cells and s.merges is None]),
        (cost.cell_seconds * pixels, [s for s in tiled if s.kind in of_cells]),
        (0.0, [s for s in tiled if s.merges is not None]),  # these tasks take little, but the driver sends them
    ):
        for count in (len(plan.grid(stage)) for stage in stages):
            task = seconds / len(stages) / count
            options = {"threads": threads, "task_seconds": task, "driver_seconds": cost.driver_seconds}
            work += sent_seconds(count, **options)
    return work + gather_seconds(recipe, plan, cost)
