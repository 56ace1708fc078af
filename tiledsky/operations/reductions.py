"""Statistics of the whole image: what puts the passes over its tiles together (`tiledsky.operations.passes`)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.operations import reliability
from tiledsky.operations.base import Operation, Read, Task, TaskOutput
from tiledsky.operations.memory import Phase, Sizes
from tiledsky.operations.merging import MergedSummaries, Summarised
from tiledsky.operations.passes import (
    DISTINCT_BLOCK,
    DISTINCT_TILE,
    HISTOGRAMS,
    Biweight,
    Detections,
    Histogram,
    Pass,
    RefinementPass,
    StatisticsRequest,
    added,
)
from tiledsky.statistics import Statistics, bins_to_refine, finish, finish_in_parts, with_biweights

#: Distinct values in the bins that a median or a clip can fall in, of the whole image: the most that is likely. Merged
#: at once beside them (`tiledsky.kernels.statistics.refinement`), and bytes a value while they are sorted and added up.
_DISTINCT, _MERGED, _MERGING = 1 << 20, 1 << 18, 52


class Reduction(Pass):
    """A task that combines the tiles of a pass."""

    whole = True

    def of_two(self, task: Task) -> list[Statistics]:
        """Statistics of the images from the first two passes."""
        found, clip = [], self.request.clip
        for k, image in enumerate(self.request.images):
            if not self.request.refine:
                found.append(finish(self._histogram(task, k), None, clip))
                continue
            histogram, bins = task.value(self._of("bins"))[k]
            if image.refine:
                found.append(finish_in_parts(histogram, bins, partial(self._refinement, task, k), clip))
            else:
                found.append(finish(histogram, None, clip))
        return found

    def _refinement(self, task: Task, k: int, bins: NDArray[np.uint16]) -> Refinement:
        return Refinement.merged(Refinement.from_bytes(part, bins) for part in self._parts(task, "refine", k))

    def _histogram(self, task: Task, k: int) -> KeyHistogram:
        return KeyHistogram.merged(map(KeyHistogram.from_bytes, self._parts(task, "histogram", k)))

    def _parts(self, task: Task, kind: str, k: int) -> Iterator[bytes]:
        return task.part(self._of(kind), k)

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`: the passes before it, those from the last on that put earlier ones together."""
        before = self.request.passes[: self.request.passes.index(self.kind)]
        together = [k for k, kind in enumerate(before) if kind in ("bins", "centers")]
        yield from (Read(self._of(kind), None) for kind in before[max(together, default=0) :])

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        merged = Phase("merging").add("histograms", 1, "B", HISTOGRAMS)
        if any(read.node == self._of("refine") for read in self.reads()):
            values = min(sizes.tasks(self._of("refine")) * DISTINCT_TILE, _MERGED + 2 * _DISTINCT + DISTINCT_BLOCK)
            merged.add("values", _MERGING, "values", values).add("sample", 24, "values", _DISTINCT)
        return [merged]


class Bins(Reduction):
    """Merge the first pass; choose the bins whose single values can matter."""

    kind = "bins"

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        parts: list[bytes] = []
        for k, image in enumerate(self.request.images):
            merged = self._histogram(task, k)
            bins = bins_to_refine(merged, self.request.clip) if image.refine else np.zeros(0, np.uint16)
            parts += [merged.to_bytes(), np.ascontiguousarray(bins, np.uint16).tobytes()]
        return TaskOutput(task.write_parts(parts))

    def load(self, task: Task) -> list[tuple[KeyHistogram, NDArray[np.uint16]]]:
        """Histogram and bins of each image."""
        (parts,) = task.parts(self.name)
        bins = (np.frombuffer(part, np.uint16) for part in parts[1::2])
        return list(zip(map(KeyHistogram.from_bytes, parts[::2]), bins, strict=True))


class Centers(Reduction):
    """Merge the first two passes: the statistics of each image that the third pass needs."""

    kind = "centers"

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        found = [astuple(s) for s in self.of_two(task)]
        return TaskOutput(task.write_parts([np.array(values, "<f8").tobytes() for values in found]))

    def load(self, task: Task) -> list[Statistics]:
        """Statistics of each image."""
        (parts,) = task.parts(self.name)
        found = (np.frombuffer(part, "<f8").tolist() for part in parts)
        return [Statistics(int(n), *others) for n, *others in found]


class StepStatistics(Reduction):
    """Merge the last pass and write the statistics of a step: what follows from them is the step's."""

    kind = "statistics"

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return True

    def files(self, index: tuple[int, int]) -> list[str]:
        """See `Operation.files`."""
        return [f"thresholds/{self.step}.json"]

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        return TaskOutput(task.write_facts(f"thresholds/{self.step}.json", self.facts(task)))

    @abstractmethod
    def facts(self, task: Task) -> list[dict[str, Any]]:
        """Document of the statistics."""

    def of_images(self, task: Task) -> list[Statistics]:
        """Statistics of the images from all passes."""
        if "centers" not in self.request.passes:
            return self.of_two(task)
        found: list[Statistics] = list(task.value(self._of("centers")))
        for k, image in enumerate(self.request.images):
            if image.biweight:
                sums = BiweightSums.merged(map(BiweightSums.from_bytes, self._parts(task, "biweight", k)))
                found[k] = with_biweights(found[k], sums)
        return found

    def detections(self, task: Task) -> list[reliability.Counts | None]:
        """Counts of each tier, of the whole image; None of tiers without a reliability."""
        return [
            None
            if tier.reliability is None
            else reliability.merged(map(reliability.from_bytes, self._parts(task, "detections", k)))
            for k, tier in enumerate(self.request.tiers)
        ]

    def law(self, task: Task) -> NDArray[np.int64] | None:
        """Counts of the noise of pixels, of the whole image; None where no tier has a reliability."""
        if not self.request.detections:
            return None
        return added(self._parts(task, "detections", len(self.request.tiers)))


def known(statistics: Statistics) -> dict[str, float | None]:
    """Statistics as plain data, those that were asked for."""
    return {name: value for name, value in vars(statistics).items() if not math.isnan(value)}


PASSES: tuple[type[Pass], ...] = (Histogram, Bins, RefinementPass, Centers, Biweight, Detections)


def passes(request: StatisticsRequest, final: StepStatistics) -> list[Operation]:
    """Operations that make the statistics of a step, in order; ``final`` is the last."""
    kinds = {operation.kind: operation for operation in PASSES}
    made: list[Operation] = []
    for kind in request.passes:
        made.append(final if kind == final.kind else kinds[kind](request))
        if isinstance(made[-1], Summarised):
            made.append(MergedSummaries(made[-1]))
    return made
