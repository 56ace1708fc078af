"""Ring steps: the ring-median filter of the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tiledsky.geometry import Pair
from tiledsky.operations.base import Arrays, Operation, PixelBytes, PixelOperation, Read, Task, bits_of, image_of
from tiledsky.operations.filters import ring_halo, ring_step_patch
from tiledsky.operations.memory import WRITE, Phase, Sizes
from tiledsky.operations.passes import StatisticsRequest
from tiledsky.operations.reductions import StepStatistics, known, passes
from tiledsky.operations.search import StepInput, left_out
from tiledsky.operations.thresholds import clip_of, fill_value, noise_images
from tiledsky.overlap import Patch, call
from tiledsky.recipe import Recipe, RingStep
from tiledsky.statistics import image_statistics


def ring_operations(recipe: Recipe, step: RingStep, before: Sequence[Operation]) -> list[Operation]:
    """Operations of a ring step."""
    source = StepInput(step.name, image_of(recipe, step), bits_of(recipe, step))
    request = StatisticsRequest(source, tuple(noise_images(step)), clip_of(step))
    return [*passes(request, RingStatistics(request)), Ring(request, step)]


class RingStatistics(StepStatistics):
    """Value that the pixels count as that the ring leaves out."""

    def facts(self, task: Task) -> list[dict[str, Any]]:
        """See `StepStatistics.facts`."""
        (only,) = self.of_images(task)
        return [{**known(only), "fill": fill_value(only)}]

    def load(self, task: Task) -> float:
        """The value."""
        fill: float = task.tiers(str(self.step))[0]["fill"]
        return fill

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        image, bits = arrays.plane(self.request.source.image), arrays.plane(self.request.source.bits)
        (noise,) = self.request.images
        statistics = image_statistics(
            image.astype(np.float32), bits != 0, self.request.clip, refine=noise.refine, biweight=noise.biweight
        )
        arrays.values[self.name] = call(fill_value, statistics)


class Ring(PixelOperation):
    """Ring median of the image."""

    kind = "ring"

    def __init__(self, request: StatisticsRequest, step: RingStep) -> None:
        self.request, self.source, self.parameters = request, request.source, step
        self.name = self.output = self.plane = self.step = step.name
        self.keep = step.keep

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return self.source.reads(ring_halo(self.parameters))

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"fill": f"{self.name}-statistics"} if self.parameters.masked == "fill" else {}

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_ring, step=self.parameters)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return image

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        return PixelBytes(size + 1 + self.request.array_bytes, size)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        size, radius = sizes.size, ring_halo(self.parameters)[0]
        block = math.prod(min(160, n) + 2 * radius for n in sizes.stage_tile)
        fill = self.parameters.masked == "fill"
        ring = Phase("filter").add("image", size, "px read", sizes.read)
        ring.add("bits, ignored", 2, "px read", sizes.read)
        ring.add("filled, missing", (size + 2) * fill, "px read", sizes.read)
        ring.add("padded image", size, "px padded", sizes.padded)
        ring.add("padded mask", 0 if fill else 1, "px padded", sizes.padded).add("ring", size, "px", sizes.tile)
        ring.add("codes", 32 if size == 4 else 44, "px of a block", block)
        written = Phase("writing").add("image, bits", size + 1, "px read", sizes.read)
        written.add("ring", size, "px", sizes.tile).add("shard", WRITE * size, "px", sizes.tile)
        return [*self.source.phases(sizes), ring, written]


def _ring(image: Patch, bits: Patch, *, step: RingStep, fill: float | None = None) -> Patch:
    return ring_step_patch(image, left_out(bits), step=step, fill=fill)
