"""Objects steps: large objects found on a mesh, their pixels masked, their light taken off the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels.objects.catalogue import Objects, inside, light, to_rows
from tiledsky.operations.background import Boxes, boxes_for
from tiledsky.operations.base import (
    Arrays,
    Operation,
    PixelBytes,
    PixelOperation,
    Read,
    Task,
    TaskOutput,
    bits_of,
    catalogue_of,
    without_light,
)
from tiledsky.operations.boxes import cells_of
from tiledsky.operations.cells_on_arrays import do_on_arrays
from tiledsky.operations.memory import WRITE, Phase, Sizes
from tiledsky.operations.object_rounds import BoxMaps, Rounds, round_operations
from tiledsky.overlap import Patch
from tiledsky.recipe import ObjectsStep, Recipe

#: On arrays: bytes a cell of the mesh while objects are looked for.
_MADE = 700


def object_light(step: str) -> str:
    """Node of the light of the objects of a step."""
    return f"{step}/light"


class Catalogue(Operation):
    """The catalogue of the objects: the number of the last round, kept."""

    kind, whole, shared = "objects", True, True

    def __init__(self, step: ObjectsStep, measured: Boxes, maker: str, unmasked: Boxes) -> None:
        self.parameters, self.step, self.name = step, step.name, catalogue_of(step.name)
        self.sources, self.light = (measured, unmasked), object_light(step.name)
        makers = BoxMaps(measured.folder(0), maker), BoxMaps(unmasked.folder(0), unmasked.name)
        self.rounds: Rounds = round_operations(step, *makers)

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read(self.rounds.last, None)

    def check(self, shape: Pair) -> None:
        """See `Operation.check`: a box is not larger than the image."""
        cells_of(shape, self.parameters.sky)

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [f"objects/{self.step}.json"]

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        return TaskOutput(task.write_facts(f"objects/{self.step}.json", to_rows(task.value(self.rounds.last))))

    def load(self, task: Task) -> Objects:
        """See `Operation.load`."""
        return task.objects_of(str(self.step))

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`: all rounds."""
        image, maps, numbers = arrays.nodes["science"], dict[str, Any](), dict[str, Any]()
        for boxes in self.sources:
            (statistics,) = arrays.values[boxes.name]
            maps |= {f"{boxes.folder(0)}/{part}": values for part, values in statistics._asdict().items()}
        do_on_arrays(self.rounds.all, maps, numbers, image=image.shape, dtype=image.dtype)
        arrays.values[self.name] = numbers[self.rounds.last]

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        return PixelBytes(_MADE * math.prod(mesh_shape(shape, self.parameters.sky.box_size)) / math.prod(shape), 0)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [Phase("catalogue")]


class ObjectBits(PixelOperation):
    """Bits of the mask that an objects step goes on from, and one for the pixels that objects cover."""

    kind, stored, is_mask = "objects-mask", False, True

    def __init__(self, recipe: Recipe, step: ObjectsStep, catalogue: Catalogue) -> None:
        self.output = self.step = step.name
        self.name = f"{step.name}-mask"
        self.bits, self.bit, self.catalogue = bits_of(recipe, step), recipe.first_bit(step), catalogue.name

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return [Read(self.bits)]

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"objects": self.catalogue}

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_bits, bit=self.bit)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return np.dtype(np.uint8)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [*sizes.inputs(), Phase("objects").add("bits, covered, joined", 4, "px read", sizes.read)]


class ResultBits(ObjectBits):
    """The same where the result uses it: the plane ``mask`` of a run."""

    stored, keep, plane = True, True, "mask"

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        return PixelBytes(4, 1)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        *others, last = super().phases(sizes)
        return [*others, last.add("shard", WRITE, "px", sizes.tile)]


class ObjectLight(PixelOperation):
    """Light of the models, made where it is read."""

    kind, stored = "objects-light", False

    def __init__(self, step: ObjectsStep, catalogue: Catalogue) -> None:
        self.step, self.output, self.name = step.name, object_light(step.name), f"{step.name}-light"
        self.catalogue = catalogue.name

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return []

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"objects": self.catalogue}

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return _light

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return np.dtype(np.float64)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [Phase("light").add("light", 8, "px read", sizes.read)]


class WithoutLight(ObjectLight):
    """The image minus the light of the models, made where it is read."""

    kind = "objects-science"

    def __init__(self, step: ObjectsStep, catalogue: Catalogue, image: str) -> None:
        super().__init__(step, catalogue)
        self.image = image
        self.output, self.name = without_light(step.name), f"{step.name}-science"

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return [Read(self.image)]

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return _without

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return image

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        light = Phase("light").add("image, light, difference", 2 * sizes.size + 16, "px read", sizes.read)
        return [*sizes.inputs(), light]


def _bits(bits: Patch, *, bit: int, objects: Objects) -> Patch:
    region = bits.region
    covered = inside(objects, region.y0, region.x0, region.shape)
    return bits.replaced(bits.data | (covered.view(np.uint8) << np.uint8(bit)))


def _light(template: Patch, *, objects: Objects) -> Patch:
    region = template.region
    return template.replaced(light(objects, region.y0, region.x0, region.shape))


def _without(image: Patch, *, objects: Objects) -> Patch:
    region = image.region
    rest = image.data - light(objects, region.y0, region.x0, region.shape)
    return image.replaced(rest.astype(image.data.dtype))


def objects_operations(recipe: Recipe, step: ObjectsStep, before: Sequence[Operation]) -> Iterator[Operation]:
    """Operations of an objects step; its boxes may be measured in the pass of the mask that it goes on from."""
    found = ((o, boxes) for o in before for boxes in o.measured if boxes.parameters.name == step.name)
    source, measured = next(found, (None, None))
    if source is None or measured is None:
        source = measured = boxes_for(recipe, step)
        yield measured
    sky = step.sky.model_copy(update={"name": f"{step.name}-unmasked"})
    unmasked = Boxes(sky, "base", measured.image, measured.noise)
    unmasked.step = step.name
    yield unmasked
    catalogue = Catalogue(step, measured, source.name, unmasked)
    yield from catalogue.rounds.all
    yield catalogue
    of_result = step is recipe.result_mask
    yield (ResultBits if of_result else ObjectBits)(recipe, step, catalogue)
    yield ObjectLight(step, catalogue)
    yield WithoutLight(step, catalogue, measured.image)
