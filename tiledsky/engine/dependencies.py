"""What a task reads, and so which tasks a run must do: integers and names only.

A run keeps some of what it makes and throws the rest away when it ends (rings, masks that are no result, summaries of
tiles). After that, or after damage, a task is needed if something that the run keeps of it is not there, or if a needed
task reads what it makes and not all of that is there. On an empty store that is every task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import HALO
from tiledsky.engine.plan import GATHER, Plan, Stage, measured_by
from tiledsky.geometry import Pair
from tiledsky.operations.filters import ring_halo
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.masking import tiers_halo
from tiledsky.operations.thresholds import noise_images, ranks_halo
from tiledsky.recipe import AnyStep, BackgroundStep, MaskStep, Recipe, RingStep

NO_HALO: Pair = (0, 0)
#: Kinds of stages whose tasks hand a file to later ones, which is thrown away when the run ends.
SUMMARIES = ("histogram", "bins", "refine", "centers", "biweight", "detections")


@dataclass(frozen=True)
class Read:
    """What a task reads of an earlier stage: its own region and ``halo`` more, or everything (None).

    ``boxes``: the measured boxes alone, which are kept, whatever became of the mask plane made with them.
    """

    stage: str
    halo: Pair | None
    boxes: bool = False


def halo_of(recipe: Recipe, stage: Stage) -> Pair:
    """Halo of a stage: the pixels around its tile that a task reads."""
    step = None if stage.step is None else recipe.step(stage.step)
    if stage.kind == "ring" and isinstance(step, RingStep):
        return ring_halo(step)
    if stage.kind == "mask" and isinstance(step, MaskStep):
        return tiers_halo(step.tiers)
    if stage.kind in ("histogram", "refine", "biweight") and isinstance(step, RingStep | MaskStep):
        halos = [image.halo for image in noise_images(step)]
        return max(h[0] for h in halos), max(h[1] for h in halos)
    if stage.kind == "detections" and isinstance(step, MaskStep):
        return ranks_halo(step.tiers)
    if stage.kind == "output":
        return HALO
    return NO_HALO


def reads(recipe: Recipe, plan: Plan, stage: Stage) -> list[Read]:
    """Return what the tasks of a stage read of earlier ones."""
    names = {s.name for s in plan.stages}
    wanted = [*_pixels_read(recipe, stage), *_results_read(recipe, plan, stage)]
    return list(dict.fromkeys(read for read in wanted if read.stage in names))


def _pixels_read(recipe: Recipe, stage: Stage) -> Iterator[Read]:
    """Planes of the input and of earlier steps, with the stage's halo."""
    if stage.kind in GATHER or stage.kind == "ingest":
        return
    halo = halo_of(recipe, stage)
    yield Read("ingest", halo)
    if stage.kind == "output":
        if recipe.result_mask is not None:
            yield Read(f"{recipe.result_mask.name}-mask", halo)
        return
    step = recipe.step(str(stage.step))
    before = recipe.mask_for(step)
    if before is not None:
        yield Read(f"{before.name}-mask", halo)
    if isinstance(step, MaskStep):
        sky = recipe.detection_sky(step)
        yield Read(sky.name, halo) if isinstance(sky, RingStep) else Read(f"{sky.name}-mesh", None)
        if step.equalize == "rms" or (stage.kind == "mask" and any(t.noise == "local" for t in step.tiers)):
            yield Read(f"{recipe.noise_source(step).name}-mesh", None)


def _results_read(recipe: Recipe, plan: Plan, stage: Stage) -> Iterator[Read]:
    """Summaries and meshes, whole."""
    earlier = {
        "bins": ("histogram",),
        "refine": ("bins",),
        "centers": ("histogram", "bins", "refine"),
        "biweight": ("centers",),
        "detections": ("centers",),
        "statistics": ("histogram", "bins", "refine", "biweight", "detections"),
        "ring": ("statistics",),
        "mask": ("statistics",),
    }
    merged = any(
        s.name == f"{stage.step}-bins" for s in plan.stages
    )  # then the tiles' histograms are read for it alone
    for kind in earlier.get(stage.kind, ()):
        if kind != "histogram" or stage.kind == "bins" or not merged:
            yield Read(f"{stage.step}-{kind}", None)
    if stage.kind == "diagnostics":
        yield Read("output", None)
        if interpolator_of(recipe.result.interpolator).chooses_bandwidths:
            yield Read(f"{recipe.result.name}-mesh", None)  # its bandwidths
    if stage.kind == "output":
        for step in recipe.steps:
            if isinstance(step, BackgroundStep) and (step is recipe.result or step.keep):
                yield Read(f"{step.name}-mesh", None)
    if stage.kind == "mesh":
        step = recipe.step(str(stage.step))
        assert isinstance(step, BackgroundStep)
        source = measured_by(recipe, step).name
        yield Read(next(s.name for s in plan.stages if source in s.measures), None, boxes=True)
        if step.ceiling is not None:
            yield Read(f"{step.ceiling.above}-mesh", None)


def is_scratch(recipe: Recipe, step: AnyStep) -> bool:
    """Whether the plane of a step is thrown away when the run ends."""
    if isinstance(step, BackgroundStep) or step.keep:
        return False
    return step is not recipe.result_mask


@dataclass(frozen=True)
class Done:
    """What is there of a task: all that the run keeps of it, and all that it made."""

    kept: bool
    usable: bool


#: Says of a task what is there of it.
State = Callable[[Stage, Pair], Done]


def needed(recipe: Recipe, plan: Plan, state: State) -> dict[str, list[Pair]]:
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
                if read.boxes:
                    continue  # kept, so those that are not there are made anew without being asked for
                demand[read.stage] |= covered(plan, stage, chosen, stages[read.stage], read.halo)
    return {s.name: tasks[s.name] for s in plan.stages}


def keeps(recipe: Recipe, stage: Stage) -> bool:
    """Whether a run keeps something of what the tasks of a stage make."""
    if stage.measures or stage.kind in ("ingest", "statistics", "boxes", "mesh", "output", "diagnostics"):
        return True
    return stage.kind in ("ring", "mask") and not is_scratch(recipe, recipe.step(str(stage.step)))


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
