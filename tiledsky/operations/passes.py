"""Statistics of the whole image that a ring or mask step needs, as reductions: exact in any order of the tiles.

A run makes them in up to three passes over the tiles, and a task that combines the tiles after each::

    histogram -> bins -> refine -> centers -> biweight, detections -> statistics

The first counts pixels by the upper half of their keys; ``bins`` chooses the bins whose single values can matter, which
``refine`` counts; ``centers`` gives the median and the noise that the third pass starts from. Passes that a step does
not need are left out. Arrays do all of it in `Statistics.on_arrays` (`tiledsky.statistics`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.operations import reliability
from tiledsky.operations.base import Operation, Read, Task, TaskOutput, summary_file
from tiledsky.operations.memory import MEGABYTE, Phase, Sizes
from tiledsky.operations.search import StepInput, search_phases
from tiledsky.operations.thresholds import NoiseImage, noise_image, ranks_halo, ranks_patch
from tiledsky.overlap import Patch
from tiledsky.recipe import SigmaClip, Tier
from tiledsky.statistics import Statistics, bins_to_refine, finish, finish_in_parts

#: Counters of the upper halves of all keys.
HISTOGRAM = 12 * MEGABYTE
#: Counters of single values in a few bins (16 MiB), or a sort of a million values; distinct values of a tile.
_REFINE = 60 * MEGABYTE
#: Distinct values in the bins that a median or a clip can fall in, of the whole image and of a tile: the most that is
#: likely; a bin has 65536, and few bins have more than a handful of values.
_DISTINCT, _DISTINCT_TILE = 1 << 20, 1 << 18
#: Merged at once beside them (`tiledsky.kernels.statistics.refinement`), and bytes a value while they are sorted and
#: added up.
_MERGED, _MERGING = 1 << 20, 52
#: Merged histograms, and the exact sums of their bins as Python integers.
_HISTOGRAMS = 45 * MEGABYTE


@dataclass(frozen=True)
class StatisticsRequest:
    """Statistics that a step needs: of which images, by which clip, and of which tiers the detections are counted."""

    source: StepInput
    images: tuple[NoiseImage, ...]
    clip: SigmaClip
    tiers: tuple[Tier, ...] = ()

    @property
    def refine(self) -> bool:
        """Whether any image needs the second pass."""
        return any(image.refine for image in self.images)

    @property
    def biweight(self) -> bool:
        """Whether any image needs the biweights."""
        return any(image.biweight for image in self.images)

    @property
    def detections(self) -> bool:
        """Whether any tier has a reliability."""
        return any(tier.reliability is not None for tier in self.tiers)

    @property
    def array_bytes(self) -> int:
        """Bytes a pixel on arrays: an image of which medians are asked for is kept between the passes over it."""
        counted = sum(tier.reliability is not None for tier in self.tiers)  # image and mask, with the halo of the tier
        return 4 * sum(image.refine for image in self.images) + 5 * counted

    @property
    def passes(self) -> list[str]:
        """Kinds of the operations that make them, in order."""
        refine = ["bins", "refine"] * self.refine
        third = ["biweight"] * self.biweight + ["detections"] * self.detections
        return ["histogram", *refine, *["centers"] * bool(third), *third, "statistics"] if self.images else []


class Pass(Operation):
    """One of the passes, or what combines one; see above."""

    def __init__(self, request: StatisticsRequest) -> None:
        self.request, self.step = request, request.source.step
        self.name = self._of(self.kind)

    def _of(self, kind: str) -> str:
        return f"{self.step}-{kind}"

    def files(self, index: tuple[int, int]) -> list[str]:
        """See `Operation.files`."""
        return [summary_file(self.name, index)]

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return False


class TilePass(Pass):
    """Summary of a tile for each image."""

    counters: ClassVar[int] = 0

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        halos = [image.halo for image in self.request.images]
        yield from self.request.source.reads((max(h[0] for h in halos), max(h[1] for h in halos)))

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        pixels, ignored = self._pixels(task)
        return TaskOutput(task.write_parts(self.chunk(task, pixels, ignored)))

    def _pixels(self, task: Task) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
        """Pixels of a tile of each image, and those that are left out."""
        detection, ignore = self.request.source.patches(task, task.region.grown(self.halo, task.shape))
        tile, images = task.region, self.request.images
        ignored = np.ascontiguousarray(ignore.crop(tile))
        return [np.ascontiguousarray(i.patch(detection, ignore).crop(tile), np.float32) for i in images], ignored

    @abstractmethod
    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """Summaries of a tile, one for each image."""

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        images, size, source = self.request.images, sizes.size, self.request.source
        smoothed = max(images, key=lambda i: i.halo)
        found = Phase(self.kind).add("image", size, "px read", sizes.read)
        found.add("detection", 4 * source.is_detection, "px read", sizes.read)
        found.add("bits, ignored", 2, "px read", sizes.read)
        found.add("ignored", 1, "px", sizes.tile).add("pixels", 4 * len(images), "px", sizes.tile)
        if any(smoothed.halo):
            found.add("padded image and mask", 5, "px padded", sizes.padded).add("smoothed", 4, "px", sizes.tile)
            found.add("smoothing", 1, "B", 16 * 256 * (2 * max(smoothed.halo) + 64))
        counted = Phase(self.kind).add("pixels and ignored", 4 * len(images) + 1, "px", sizes.tile)
        counted.add("image if not smoothed", size + 4, "px read", sizes.read)
        counted.add("counters", 1, "B", self.counters)
        return [*source.phases(sizes), found, counted]


class Histogram(TilePass):
    """First pass: counts and sums of the pixels by the upper half of their keys."""

    kind, counters = "histogram", HISTOGRAM

    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """See `TilePass.chunk`."""
        return [KeyHistogram.from_values(values, mask=ignored).to_bytes() for values in pixels]


class RefinementPass(TilePass):
    """Second pass: the values in the chosen bins."""

    kind, counters = "refine", _REFINE

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from super().reads()
        yield Read(self._of("bins"), None)

    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """See `TilePass.chunk`."""
        images = zip(pixels, task.value(self._of("bins")), strict=True)
        return [Refinement.from_values(values, bins, mask=ignored).to_bytes() for values, (_, bins) in images]


class Biweight(TilePass):
    """Third pass: the sums of the biweights."""

    kind = "biweight"

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from super().reads()
        yield Read(self._of("centers"), None)

    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """See `TilePass.chunk`."""
        parts = []
        for image, values, of in zip(self.request.images, pixels, task.value(self._of("centers")), strict=True):
            if not image.biweight:
                parts.append(b"")
                continue
            sums = BiweightSums.from_values(values, median=of.median, mad=of.mad, mask=ignored)
            parts.append(sums.to_bytes())
        return parts


class Detections(Pass):
    """Third pass of tiers with a reliability: what searches of the image and of its negative find."""

    kind = "detections"

    @property
    def _counted(self) -> list[Tier]:
        return [tier for tier in self.request.tiers if tier.reliability is not None]

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from self.request.source.reads(ranks_halo(self.request.tiers))
        yield Read(self._of("centers"), None)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        detection, ignore = self.request.source.patches(task, task.region.grown(self.halo, task.shape))
        centers = dict(zip(self.request.images, task.value(self._of("centers")), strict=True))
        parts = []
        for tier in self.request.tiers:
            if tier.reliability is None:
                parts.append(b"")
                continue
            found: Patch = ranks_patch(detection, ignore, tier=tier, statistics=centers[noise_image(tier)])
            parts.append(reliability.to_bytes(reliability.counts(found.crop(task.region))))
        return TaskOutput(task.write_parts(parts))

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: searches of the image and of its negative with several thresholds."""
        held = (("image, detection", sizes.size + 4), ("bits", 1), ("negative, ranks", 5))
        source = self.request.source
        return [*source.phases(sizes), *(search_phases(sizes, source, tier, held) for tier in self._counted)]


class Reduction(Pass):
    """A task that combines the tiles of a pass."""

    whole = True

    def merged(self, task: Task, *, last: bool) -> list[Statistics]:
        """Statistics of the images from the passes; ``last``: with the third, if there is one."""
        found, clip = [], self.request.clip
        for k, image in enumerate(self.request.images):
            sums = None
            if image.biweight and last:
                sums = BiweightSums.merged(map(BiweightSums.from_bytes, self._parts(task, "biweight", k)))
            if not self.request.refine:
                found.append(finish(self._histogram(task, k), None, clip, sums))
                continue
            histogram, bins = task.value(self._of("bins"))[k]
            if image.refine:
                found.append(finish_in_parts(histogram, bins, partial(self._refinement, task, k), clip, sums))
            else:
                found.append(finish(histogram, None, clip, sums))
        return found

    def _refinement(self, task: Task, k: int, bins: NDArray[np.uint16]) -> Refinement:
        return Refinement.merged(Refinement.from_bytes(part).part(bins) for part in self._parts(task, "refine", k))

    def _histogram(self, task: Task, k: int) -> KeyHistogram:
        return KeyHistogram.merged(map(KeyHistogram.from_bytes, self._parts(task, "histogram", k)))

    def _parts(self, task: Task, kind: str, k: int) -> Iterator[bytes]:
        return (parts[k] for parts in task.parts(self._of(kind)))

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`: the passes before it; the histograms of tiles alone if nothing has merged them."""
        before = self.request.passes[: self.request.passes.index(self.kind)]
        for kind in before:
            if kind != "centers" and (kind != "histogram" or "bins" not in before):
                yield Read(self._of(kind), None)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        merged = Phase("merging").add("histograms", 1, "B", _HISTOGRAMS)
        if self.kind != "bins" and self.request.refine:
            values = min(sizes.tasks(self._of("refine")) * _DISTINCT_TILE, _MERGED + 2 * _DISTINCT + _DISTINCT_TILE)
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
        found = [astuple(s) for s in self.merged(task, last=False)]
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

    def detections(self, task: Task) -> list[reliability.Counts | None]:
        """Counts of each tier, of the whole image; None of tiers without a reliability."""
        return [
            None
            if tier.reliability is None
            else reliability.merged(map(reliability.from_bytes, self._parts(task, "detections", k)))
            for k, tier in enumerate(self.request.tiers)
        ]


def known(statistics: Statistics) -> dict[str, float | None]:
    """Statistics as plain data, those that were asked for."""
    return {name: value for name, value in vars(statistics).items() if not math.isnan(value)}


PASSES: tuple[type[Pass], ...] = (Histogram, Bins, RefinementPass, Centers, Biweight, Detections)


def passes(request: StatisticsRequest, final: StepStatistics) -> list[Operation]:
    """Operations that make the statistics of a step, in order; ``final`` is the last."""
    kinds = {operation.kind: operation for operation in PASSES}
    return [final if kind == final.kind else kinds[kind](request) for kind in request.passes]
