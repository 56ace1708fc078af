"""Statistics of the whole image that a ring or mask step needs, as reductions: exact in any order of the tiles.

A run makes them in up to three passes over the tiles, and a task that combines the tiles after each::

    histogram -> bins -> refine -> centers -> biweight, detections -> statistics

The first counts pixels by the upper half of their keys; ``bins`` chooses the bins whose single values can matter, which
``refine`` counts; ``centers`` gives the median and the noise that the third pass starts from. Passes that a step does
not need are left out. Arrays do all of it in `Statistics.on_arrays` (`tiledsky.statistics`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels.statistics import skewness
from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement, merged_bytes
from tiledsky.operations import reliability
from tiledsky.operations.base import Read, SummaryOperation, Task, TaskOutput
from tiledsky.operations.memory import MEGABYTE, Phase, Sizes
from tiledsky.operations.merging import Summarised
from tiledsky.operations.search import StepInput, search_phases
from tiledsky.operations.thresholds import NoiseImage, law_patch, law_tier, noise_image, ranks_halo, ranks_patch
from tiledsky.overlap import Patch
from tiledsky.recipe import SigmaClip, Tier

#: Counters of the upper halves of all keys.
HISTOGRAM = 12 * MEGABYTE
#: Counters of single values in a few bins (16 MiB), or a sort of a million values.
_REFINE = 60 * MEGABYTE
#: Distinct values of a tile in the bins that a median or a clip can fall in: the most that is likely; a bin has 65536,
#: and few bins have more than a handful of values.
DISTINCT_TILE = 1 << 18
#: The same of a block of tiles.
DISTINCT_BLOCK = 1 << 20
#: Merged histograms, and the exact sums of their bins as Python integers; counters of the values of some bins.
HISTOGRAMS, _VALUES = 45 * MEGABYTE, 90 * MEGABYTE
#: Bytes of the histogram of a tile, at most.
_SUMMARY = MEGABYTE


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
        return 4 * sum(image.refine for image in self.images) + 5 * counted + 2 * (counted > 0)

    @property
    def passes(self) -> list[str]:
        """Kinds of the operations that make them, in order."""
        refine = ["bins", "refine"] * self.refine
        third = ["biweight"] * self.biweight + ["detections"] * self.detections
        return ["histogram", *refine, *["centers"] * bool(third), *third, "statistics"] if self.images else []


class Pass(SummaryOperation):
    """One of the passes, or what combines one; see above."""

    def __init__(self, request: StatisticsRequest) -> None:
        self.request, self.step = request, request.source.step
        self.name = self._of(self.kind)

    def _of(self, kind: str) -> str:
        return f"{self.step}-{kind}"


class MergedPass(Pass, Summarised):
    """A pass over the tiles, with a summary for each image (or tier) that merges by adding integers."""

    #: Bytes of the summary of an image at most, of a tile and of a block, and of counters while they are merged.
    summary, block, adding = 0, 0, HISTOGRAMS

    @property
    def count(self) -> int:
        """Parts of a summary."""
        return len(self.request.images)

    @staticmethod
    @abstractmethod
    def merged(parts: Sequence[bytes]) -> bytes:
        """Merge summaries of one image."""

    def merge(self, parts: Callable[[int], Iterator[bytes]]) -> list[bytes]:
        """See `Summarised.merge`: image after image; one that the pass leaves out has an empty summary."""
        of_images = (list(parts(k)) for k in range(self.count))
        return [self.merged(of_tiles) if of_tiles[0] else b"" for of_tiles in of_images]

    def merging(self, phase: Phase, sizes: Sizes, count: int) -> Phase:
        """See `Summarised.merging`."""
        phase.add("summaries of an image", self.summary, "tiles", count).add("counters", 1, "B", self.adding)
        # of a bucket, a file is read whole
        return phase.add("a file", self.summary, "parts", self.count).add("merged", self.block, "parts", self.count)


class TilePass(MergedPass):
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
    summary = block = _SUMMARY

    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """See `TilePass.chunk`."""
        return [KeyHistogram.from_values(values, mask=ignored).to_bytes() for values in pixels]

    @staticmethod
    def merged(parts: Sequence[bytes]) -> bytes:
        """See `MergedPass.merged`."""
        return KeyHistogram.merged(map(KeyHistogram.from_bytes, parts)).to_bytes()


class RefinementPass(TilePass):
    """Second pass: the values in the chosen bins."""

    kind, counters = "refine", _REFINE
    summary, block, adding = 6 * DISTINCT_TILE, 6 * DISTINCT_BLOCK, _VALUES

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from super().reads()
        yield Read(self._of("bins"), None)

    def chunk(self, task: Task, pixels: list[NDArray[np.float32]], ignored: NDArray[np.bool_]) -> list[bytes]:
        """See `TilePass.chunk`."""
        images = zip(pixels, task.value(self._of("bins")), strict=True)
        return [Refinement.from_values(values, bins, mask=ignored).to_bytes() for values, (_, bins) in images]

    @staticmethod
    def merged(parts: Sequence[bytes]) -> bytes:
        """See `MergedPass.merged`."""
        return merged_bytes(parts)


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

    @staticmethod
    def merged(parts: Sequence[bytes]) -> bytes:
        """See `MergedPass.merged`."""
        return BiweightSums.merged(map(BiweightSums.from_bytes, parts)).to_bytes()


def added(parts: Iterable[bytes]) -> NDArray[np.int64]:
    """Sum of counts of several tiles, flat."""
    return np.asarray(np.sum([np.frombuffer(part, "<i8") for part in parts], axis=0))


class Detections(MergedPass):
    """Third pass of tiers with a reliability: what searches of the image and of its negative find.

    The last part of a summary is the law of the noise of pixels.
    """

    kind = "detections"

    @property
    def count(self) -> int:
        """See `MergedPass.count`."""
        return len(self.request.tiers) + 1

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
        of = law_tier(self.request.tiers)
        assert of is not None
        law: Patch = law_patch(detection, ignore, tier=of, statistics=centers[noise_image(of)])
        parts.append(reliability.to_bytes(skewness.counts(law.crop(task.region))))
        return TaskOutput(task.write_parts(parts))

    @staticmethod
    def merged(parts: Sequence[bytes]) -> bytes:
        """See `MergedPass.merged`."""
        return reliability.to_bytes(added(parts))

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: searches of the image and of its negative with several thresholds."""
        held = (("image, detection", sizes.size + 4), ("bits", 1), ("negative, ranks", 5))
        source = self.request.source
        law = Phase("law").add("image, detection, blanked", sizes.size + 8, "px read", sizes.read)
        # the sums and their terms are of a quarter of the rows
        law.add("bits, places", 3, "px read", sizes.read).add("sums", 12, "px read", sizes.read)
        return [*source.phases(sizes), *(search_phases(sizes, source, tier, held) for tier in self._counted), law]
