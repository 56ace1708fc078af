"""Shares of a stage's tiles, done by processes that do not know each other: job arrays, without Dask.

The tiles of a stage are dealt out in runs of neighbours, so that slices read few of each other's halos. A stage begins
when the stages that it reads are done: a slice looks for the markers of what its own tiles read, and refuses to work
on less, which it would read as fill value.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tiledsky.engine.attempt import Failure
from tiledsky.engine.dependencies import covered, reads
from tiledsky.engine.driver import FailedTasks, Progress
from tiledsky.engine.executors import Options, SerialExecutor
from tiledsky.engine.plan import Plan, Stage
from tiledsky.engine.run_store import RunStore
from tiledsky.errors import ParameterError, RunError
from tiledsky.geometry import Pair
from tiledsky.io.store import Markers

#: Seconds that the former self of a job gets to end: locks of a machine that died are held for a minute and a half.
PATIENCE = 120.0
_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Slice:
    """Share ``number`` (from 1) of ``count``."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Return the share that "i/n" says."""
        found = _TEXT.fullmatch(text)
        number, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ParameterError(f"worker slice {text!r} is not a slice; write it like 3/16, from 1/16 to 16/16")
        return cls(number, count)

    def of(self, plan: Plan, stage: Stage) -> list[Pair]:
        """Tiles of a stage that are this share: neighbours in row order; of a gather stage the first has its task."""
        tiles = list(plan.grid(stage))
        first, last = ((k * len(tiles)) // self.count for k in (self.number - 1, self.number))
        return tiles[first:last] if len(tiles) > 1 else tiles[: self.number == 1]


def stage_named(plan: Plan, name: str | None) -> Stage:
    """Return a stage by its name."""
    names = [stage.name for stage in plan.stages]
    if name not in names:
        said = "a worker slice needs --stage" if name is None else f"there is no stage {name!r}"
        raise ParameterError(f"{said}; the stages of this run are {', '.join(names)}")
    return plan.stage(name)


def run_slice(
    store: RunStore,
    stage: Stage,
    share: Slice,
    *,
    patience: float = PATIENCE,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[int, int]:
    """Do a share of the tiles of a stage in this process, but those that are done.

    Parameters
    ----------
    store : RunStore
        Created before (`tiledsky.engine.run_store.RunStore.create`).
    stage : Stage
    share : Slice
    patience : float
        Seconds to wait for another process with the same share.
    progress : callable, optional
        Called after every tile; counts are of the share.

    Returns
    -------
    (int, int)
        Tiles of the share, and how many were done now.

    Raises
    ------
    RunError
        The store is not prepared, or of another run; another process has the same share, or all of the store; what the
        tiles read is not done; tiles failed.
    """
    store.check(restart=False)
    if not store.described:
        raise RunError(f"{store.root} is not prepared for slices; run `tiledsky submit` first")
    tiles = share.of(store.plan, stage)
    markers = Markers(store.root, store.run_id, lambda name, i: store.layout.objects(store.plan.stage(name), i))
    name, what = f"slice-{stage.name}-{share.number}-{share.count}", f"slice {share.number}/{share.count} of stage"
    with store.guard.shared(name, f"{what} {stage.name}", patience=patience) as call:
        missing = [index for index in tiles if markers.read(stage.name, index) is None]
        _check_reads(store, stage, missing, markers)
        failed = FailedTasks(store.root, store.plan, stage, list(store.plan.grid(stage)))
        count, began = 0, time.monotonic()
        with closing(
            SerialExecutor(store.root, store.run_id, call, Options()).outcomes(stage.name, missing)
        ) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failed.add(index, outcome)
                    continue
                failed.remove(index)
                count += 1
                if progress is not None:
                    before = len(tiles) - len(missing)
                    pixels = store.plan.shape[0] * store.plan.shape[1]
                    progress(
                        Progress(stage.name, before + count, len(tiles), before, 1, time.monotonic() - began, pixels)
                    )
        failed.raise_first()
    return len(tiles), count


def _check_reads(store: RunStore, stage: Stage, tiles: list[Pair], markers: Markers) -> None:
    """Check that what the tiles read is there."""
    for read in reads(store.recipe, store.plan, stage) if tiles else []:
        source = store.plan.stage(read.node)
        there = covered(store.plan, stage, tiles, source, read.halo)
        absent = [i for i in store.plan.grid(source) if there[i] and markers.read(read.node, i) is None]
        if absent:
            raise RunError(
                f"{store.root}: stage {stage.name} reads {len(absent)} tiles of stage {read.node} that are not done, "
                f"the first {absent[0]}; do that stage first"
            )
