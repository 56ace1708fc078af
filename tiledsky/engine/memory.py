"""Projected peak of a worker that does a task of a stage, before the run; the terms are those of its operation."""

from __future__ import annotations

from tiledsky.engine.plan import INGEST, Plan, Stage
from tiledsky.operations.base import Operation
from tiledsky.operations.memory import Memory, Plane, Planes, Sizes
from tiledsky.operations.stages import compiled_run
from tiledsky.recipe import Recipe


def sizes_of(operation: Operation, plan: Plan, stage: Stage, planes: Planes) -> Sizes:
    """Pixels that a task of a stage reads and writes."""
    if stage.name != INGEST and any(s.name == INGEST for s in plan.stages):
        # the run's own copies are read
        planes = {name: Plane(plane.itemsize) for name, plane in planes.items()}
    tiles = {s.name: s.tile for s in plan.stages}
    return Sizes(plan.shape, plan.dtype, tile=stage.tile, halo=operation.halo, planes=planes, tiles=tiles)


def peak(recipe: Recipe, plan: Plan, stage: Stage, planes: Planes, *, threads: int = 1) -> Memory:
    """Projected peak of a worker that does a task of a stage.

    Parameters
    ----------
    recipe : Recipe
        Expanded, as the plan's.
    plan : Plan
    stage : Stage
    planes : mapping of str to Plane
        Of the input.
    threads : int
        Tasks that a worker does at the same time.

    Returns
    -------
    Memory
        Of a tile stage: the same for any size of the image, once that is larger than a tile and its halos.
    """
    operation = compiled_run(recipe)[stage.name]
    phases = operation.phases(sizes_of(operation, plan, stage, planes))
    return max(phases, key=lambda phase: phase.bytes).memory(threads)
