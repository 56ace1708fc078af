"""Summaries that are merged in two steps, so that the task that merges those of the whole image has little to do."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

from tiledsky.operations.base import Operation, Read, SummaryOperation, Task, TaskOutput
from tiledsky.operations.memory import Phase, Sizes


class Summarised(Operation):
    """An operation on tiles whose summaries merge to one of the same form, exactly, in any order."""

    @abstractmethod
    def merge(self, parts: Callable[[int], Iterator[bytes]]) -> list[bytes]:
        """Merge the summaries of some tiles: ``parts`` reads part ``k`` of each, one after the other."""

    @abstractmethod
    def merging(self, phase: Phase, sizes: Sizes, count: int) -> Phase:
        """Add the memory of `merge`, for ``count`` tiles."""


class MergedSummaries(SummaryOperation):
    """Merges the summaries of a block of tiles. A plan leaves it out where there are few tiles.

    What reads the summaries of all tiles reads those of the blocks instead (`tiledsky.engine.plan.Plan.merged`).
    """

    kind = "merge"

    def __init__(self, source: Summarised) -> None:
        self.source, self.step = source, source.step
        self.name = f"{source.name}-{self.kind}"

    @property
    def merges(self) -> str:
        """See `Operation.merges`."""
        return self.source.name

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read(self.source.name)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        return TaskOutput(task.write_parts(self.source.merge(partial(task.part, self.source.name, region=task.region))))

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        count = math.prod(-(-n // t) for n, t in zip(sizes.tile_shape, sizes.tiles[self.source.name], strict=True))
        return [self.source.merging(Phase("merging"), sizes, count)]
