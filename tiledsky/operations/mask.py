"""Mask steps: the search for sources, as bits of a plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tiledsky.geometry import Pair
from tiledsky.operations import reliability
from tiledsky.operations.background import Boxes, measured_under
from tiledsky.operations.base import (
    Arrays,
    ArraySpec,
    Image,
    Operation,
    PixelBytes,
    PixelOperation,
    Read,
    Task,
    TaskOutput,
    bits_of,
)
from tiledsky.operations.masking import tiers_halo, tiers_patch
from tiledsky.operations.memory import WRITE, Phase, Sizes
from tiledsky.operations.passes import StatisticsRequest
from tiledsky.operations.reductions import StepStatistics, known, passes
from tiledsky.operations.search import Detection, StepInput, left_out, search_phases
from tiledsky.operations.thresholds import (
    Thresholds,
    clip_of,
    noise_image,
    noise_images,
    thresholds,
    tier_thresholds,
)
from tiledsky.overlap import Patch
from tiledsky.recipe import MaskStep, Recipe


def mask_operations(recipe: Recipe, step: MaskStep, before: Sequence[Operation]) -> list[Operation]:
    """Operations of a mask step; the boxes of the backgrounds that use it are measured in the pass that makes it."""
    detection = Detection(recipe, step)
    local = recipe.noise_source(step) if any(t.noise == "local" for t in step.tiers) else None
    fill = step.masked == "fill"
    source = StepInput(step.name, detection.output, bits_of(recipe, step), detection, local, fill)
    request = StatisticsRequest(source, tuple(noise_images(step)), clip_of(step), step.tiers)
    mask = Mask(recipe, step, request, measured_under(recipe, step))
    return [detection, *passes(request, MaskStatistics(request, step)), mask]


class MaskStatistics(StepStatistics):
    """Thresholds of the tiers, and the value of the pixels that are left out."""

    def __init__(self, request: StatisticsRequest, parameters: MaskStep) -> None:
        super().__init__(request)
        self.parameters = parameters

    def facts(self, task: Task) -> list[dict[str, Any]]:
        """See `StepStatistics.facts`."""
        step, fill = self.parameters, self.request.source.fill
        of_images = dict(zip(self.request.images, self.of_images(task), strict=True))
        statistics = [of_images[noise_image(t, fill=fill)] for t in step.tiers]
        found = self.detections(task)
        limits = thresholds(step.tiers, statistics, found, self.law(task), fill=fill)
        law = {} if limits.skewness is None else {"skewness": limits.skewness}
        return [
            # a tier that finds nothing has no threshold
            {
                **known(s),
                "threshold": x if math.isfinite(x) else None,
                "fill": limits.fill,
                **reliability.known(n),
                **law,
            }
            for s, x, n in zip(statistics, limits.values, found, strict=True)
        ]

    def load(self, task: Task) -> Thresholds:
        """Thresholds of the tiers."""
        facts = task.tiers(str(self.step))
        values = tuple(math.inf if fact["threshold"] is None else fact["threshold"] for fact in facts)
        return Thresholds(values, facts[0]["fill"], facts[0].get("skewness"))

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        step, source = self.parameters, self.request.source
        detection, ignore = arrays.plane(source.image), arrays.plane(source.bits) != 0
        options = {"mask": ignore, "clip": step.clip, "masked": step.masked}
        arrays.values[self.name] = tier_thresholds(detection, step.tiers, **options)


class Mask(PixelOperation):
    """Bits of a mask step, and of the masks that it goes on from."""

    kind, is_mask = "mask", True

    def __init__(self, recipe: Recipe, step: MaskStep, request: StatisticsRequest, boxes: tuple[Boxes, ...]) -> None:
        self.request, self.source, self.parameters = request, request.source, step
        self.output = self.step = step.name
        self.name = f"{step.name}-mask"
        self.measured = boxes
        self.first_bit = recipe.first_bit(step)
        is_result = step is recipe.result_mask
        self.keep = step.keep or is_result
        self.plane = "mask" if is_result else step.name

    def boxes(self) -> list[Pair]:
        """See `Operation.boxes`."""
        return [size for boxes in self.measured for size in boxes.boxes()]

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        halo, local = tiers_halo(self.parameters.tiers), self.source.local
        planes = [Read(self.source.bits, halo), Read(self.source.image, halo)]
        return planes if local is None else [*planes, Read(f"{local.name}/rms", halo)]

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"limits": f"{self.step}-statistics"}

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from super().reads()
        yield from (Read(node) for node in dict.fromkeys(boxes.image for boxes in self.measured))
        noises = dict.fromkeys(read for boxes in self.measured for read in boxes.noise_read())
        yield from (read for read in noises if read.node not in self.values().values())

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_mask, tiers=self.parameters.tiers, first_bit=self.first_bit)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return np.dtype(np.uint8)

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        specs = super().arrays(image, tile)
        for boxes in self.measured:
            specs |= boxes.arrays(image, tile)
        return specs

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return self.keep or bool(self.measured)

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        local = size * (self.source.local is not None)
        return PixelBytes(4 + 1 + self.source.fill + self.request.array_bytes + local + 2, 1)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        plane = self.patch(task, task.region).cropped(task.region)
        written = [task.write(self.plane, task.region, plane.data)]
        for boxes in self.measured:
            written += boxes.measure(task, plane.data != 0)
        return TaskOutput(written)

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        super().on_arrays(arrays)
        for boxes in self.measured:
            boxes.on_arrays(arrays)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: the search of every tier, then the boxes."""
        held = (("image, detection", sizes.size + 4), ("bits", 1))
        searches = [search_phases(sizes, self.source, tier, held) for tier in self.parameters.tiers]
        measured = Phase("boxes")
        for what, per in held:
            measured.add(what, per, "px read", sizes.read)
        measured.add("mask, found, ignored", 3, "px", sizes.tile)
        # the plane is written with the same arrays, and less beside them
        measuring = Boxes.terms(measured, sizes, self.measured)
        return [*self.source.phases(sizes), *searches, measuring.add("shard", WRITE, "px", sizes.tile)]


def _mask(
    bits: Patch,
    detection: Patch,
    noise: Patch | None = None,
    *,
    tiers: Any,
    first_bit: int,
    limits: Thresholds,
) -> Patch:
    found = tiers_patch(detection, left_out(bits), noise, tiers=tiers, thresholds=limits, first_bit=first_bit)
    return found.replaced(bits.crop(found.region) | found.data)
