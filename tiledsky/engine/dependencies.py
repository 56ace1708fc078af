"""What a task reads, and so which tasks a run must do: integers and names only.

A run keeps some of what it makes and throws the rest away when it ends (rings, masks that are no result, summaries of
tiles). After that, or after damage, a task is needed if something that the run keeps of it is not there, or if a needed
task reads what it makes and not all of that is there. On an empty store that is every task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.plan import Plan, Stage
from tiledsky.geometry import Pair
from tiledsky.operations.base import Read
from tiledsky.operations.stages import compiled_run
from tiledsky.recipe import Recipe


def halo_of(recipe: Recipe, stage: Stage) -> Pair:
    """Halo of a stage: the pixels around its tile that a task reads."""
    return compiled_run(recipe)[stage.name].halo


def reads(recipe: Recipe, plan: Plan, stage: Stage) -> list[Read]:
    """Return what the tasks of a stage read of earlier ones; the nodes are names of stages."""
    names, operations = {s.name for s in plan.stages}, compiled_run(recipe)
    found = [read for read in operations.stored_reads(operations[stage.name]) if read.node in names]
    return [read._replace(node=plan.merged.get(read.node, read.node)) if read.halo is None else read for read in found]


@dataclass(frozen=True)
class TaskState:
    """Whether all that the run keeps of a task is there, and all that the task made."""

    kept: bool
    usable: bool


def needed(recipe: Recipe, plan: Plan, state: Callable[[Stage, Pair], TaskState]) -> dict[str, list[Pair]]:
    """Return the tasks that a run must do, by stage, each list in row order."""
    stages = {s.name: s for s in plan.stages}
    demand = {name: np.zeros(plan.grid(stage).counts, bool) for name, stage in stages.items()}
    tasks: dict[str, list[Pair]] = {}
    for stage in reversed(plan.stages):
        grid, asked, kept = plan.grid(stage), demand[stage.name], keeps(recipe, stage)
        chosen = tasks[stage.name] = []
        for index in grid:
            wanted = bool(asked[index])
            if wanted or kept:
                done = state(stage, index)
                if (wanted and not done.usable) or (kept and not done.kept):
                    chosen.append(index)
        if chosen:
            for read in reads(recipe, plan, stage):
                if read.kept:
                    continue  # kept, so those that are not there are made anew without being asked for
                demand[read.node] |= covered(plan, stage, chosen, stages[read.node], read.halo)
    return {s.name: tasks[s.name] for s in plan.stages}


def keeps(recipe: Recipe, stage: Stage) -> bool:
    """Whether a run keeps something of what the tasks of a stage make."""
    return compiled_run(recipe)[stage.name].kept


def covered(plan: Plan, stage: Stage, tasks: list[Pair], source: Stage, halo: Pair | None) -> NDArray[np.bool_]:
    """Return the tiles of ``source`` that hold what ``tasks`` of ``stage`` read, their regions grown by ``halo``."""
    counts = plan.grid(source).counts
    if halo is None or len(tasks) == len(plan.grid(stage)):
        return np.ones(counts, bool)
    indices = np.array(tasks)
    first, last = [], []
    for axis in (0, 1):
        start = indices[:, axis] * stage.tile[axis]
        stop = np.minimum(start + stage.tile[axis], plan.shape[axis])
        first.append(np.maximum(start - halo[axis], 0) // source.tile[axis])
        last.append(-(-np.minimum(stop + halo[axis], plan.shape[axis]) // source.tile[axis]))
    # corners of the rectangles, summed up: how many of them cover each tile
    corners = np.zeros((counts[0] + 1, counts[1] + 1), np.int32)
    corner = (first[0], first[1], 1), (last[0], last[1], 1), (first[0], last[1], -1), (last[0], first[1], -1)
    for ys, xs, sign in corner:
        np.add.at(corners, (ys, xs), sign)
    return np.asarray(corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0)
