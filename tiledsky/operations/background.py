"""Background steps: boxes measured tile by tile, the mesh finished, its maps at any pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, boxes_of, mesh_shape
from tiledsky.kernels.boxes.boxes import BoxStatistics
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
    catalogue_of,
    image_of,
)
from tiledsky.operations.boxes import (
    array_box_statistics,
    box_statistics,
    cells_of,
    largest_box,
    level_box,
    of_noise,
    same_boxes,
)
from tiledsky.operations.cells import Above, MeshSource
from tiledsky.operations.filtered_maps import SURFACES
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.memory import READ, Phase, Sizes
from tiledsky.operations.mesh import SurfaceValues, finished, mesh_operations
from tiledsky.operations.surface import Surface, in_memory, surface_pixels
from tiledsky.overlap import Patch, blank, call
from tiledsky.recipe import AnyMask, AnyStep, BackgroundStep, MaskStep, ObjectsStep, Recipe

#: On arrays: bytes a cell of the mesh that is made, and of one that is kept for its pixels.
_MADE, _KEPT = 350, 32


def measured_by(recipe: Recipe, step: BackgroundStep) -> BackgroundStep:
    """Return the first step that measures the same boxes of one image under one mask: its numbers serve both."""
    mask, image = recipe.mask_for(step), image_of(recipe, step)
    return next(
        s
        for s in recipe.steps
        if isinstance(s, BackgroundStep)
        and recipe.mask_for(s) is mask
        and image_of(recipe, s) == image
        and same_boxes(s, step)
    )


def mesh_name(step: BackgroundStep) -> str:
    """Name of the operation that makes the mesh of a step."""
    return f"{step.name}-mesh"


def mesh_terms(phase: Phase, step: BackgroundStep, sizes: Sizes) -> Phase:
    """Add the memory of evaluating a mesh on a tile and its halo, beside the pixels."""
    shape, interpolator = mesh_shape(sizes.shape, step.box_size), interpolator_of(step.interpolator)
    for term in interpolator.evaluate_memory(sizes.read_shape, box_size=step.box_size, mesh=shape, reading=READ):
        phase.add(*term)
    return phase


class Boxes(Operation):
    """Statistics of the boxes of a tile: of a step, and of its larger boxes.

    A mask operation measures those of the backgrounds that use it in its own pass. ``noise``: the statistics that say
    whether the noise is skewed, where the step has a clip for that.
    """

    kind = "boxes"

    def __init__(self, step: BackgroundStep, bits: str, image: str, noise: str | None) -> None:
        self.parameters, self.bits, self.image, self.step, self.noise = step, bits, image, step.name, noise
        self.name = f"{step.name}-boxes"
        self.measured = (self,)

    def boxes(self) -> list[Pair]:
        """See `Operation.boxes`."""
        return [largest_box(self.parameters)]

    def folder(self, level: int) -> str:
        """Folder of the statistics; of boxes 2**level times as large."""
        return f"meshes/{self.parameters.name}/measured" + (f"-{1 << level}" if level else "")

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from (Read(self.image), Read(self.bits), *self.noise_read())

    def noise_read(self) -> list[Read]:
        """Read of the statistics of the noise, if it needs them."""
        return [] if self.noise is None else [Read(self.noise, None)]

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        specs = {}
        for level in range(self.parameters.grow_boxes + 1):
            box = level_box(self.parameters, level)
            cells, cut = mesh_shape(image.shape, box), (tile[0] // box[0], tile[1] // box[1])
            for part in BoxStatistics._fields:
                dtype = "int32" if part == "n_good" else image.dtype
                specs[f"{self.folder(level)}/{part}"] = ArraySpec(cells, dtype, cut)
        return specs

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        bits = task.patch(self.bits, task.region)
        assert bits is not None
        return TaskOutput(self.measure(task, bits.data != 0))

    def measure(self, task: Task, ignore: NDArray[np.bool_]) -> list[str]:
        """Measure and write the boxes of a tile; return the paths."""
        science = task.patch(self.image, task.region)
        assert science is not None
        written, step = [], of_noise(self.parameters, None if self.noise is None else task.value(self.noise))
        for level in range(self.parameters.grow_boxes + 1):
            cells = boxes_of(science.region, level_box(self.parameters, level))
            for part, values in box_statistics(science.data, ignore, step, level=level)._asdict().items():
                written.append(task.write(f"{self.folder(level)}/{part}", cells, values))
        return written

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        bits = arrays.plane(self.bits)
        limits = None if self.noise is None else arrays.values[self.noise]
        arrays.values[self.name] = array_box_statistics(arrays.plane(self.image), bits != 0, self.parameters, limits)

    @staticmethod
    def terms(phase: Phase, sizes: Sizes, measured: Iterable[Boxes]) -> Phase:
        """Add the memory of measuring the boxes of a tile; the image is copied where it has a halo."""
        measured = list(measured)
        phase.add("image of the tile", sizes.size * (sizes.read != sizes.tile), "px", sizes.tile)
        if any(boxes.image != "science" for boxes in measured):
            phase.add("image, light, difference", sizes.size + 16, "px", sizes.tile)
        counts = (zip(sizes.stage_tile, boxes.parameters.box_size, strict=True) for boxes in measured)
        cells = max((math.prod(-(-t // b) for t, b in pairs) for pairs in counts), default=0)
        return phase.add("boxes", 2 * (2 * sizes.size + 8) + 16, "cells", cells)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        measured = Phase("boxes").add("image, bits, ignored", sizes.size + 2, "px", sizes.tile)
        return [*sizes.inputs(), self.terms(measured, sizes, [self])]


class MeshOperation(Operation):
    """The mesh of a background step is finished: ranges of its maps, and the surfaces through them.

    ``boxes`` measures its boxes, in the pass of the operation ``source``. What it is made by are its `operations`.
    """

    kind, whole, shared = "mesh", True, True

    def __init__(self, recipe: Recipe, step: BackgroundStep, boxes: Boxes, source: str) -> None:
        self.parameters, self.measured_by = step, boxes
        self.step, self.name = step.name, mesh_name(step)
        above = None if step.ceiling is None else recipe.step(step.ceiling.above)
        assert above is None or isinstance(above, BackgroundStep)
        self.above = above
        self.interpolator = interpolator_of(step.interpolator)
        objects = recipe.objects_for(step)
        self.objects = None if objects is None else catalogue_of(objects.name)
        folders = tuple(boxes.folder(k) for k in range(step.grow_boxes + 1))
        self.source = MeshSource(step, folders, source, self.objects)
        limit = None if above is None else Above(mesh_name(above), f"{above.name}-{SurfaceValues.kind}")
        self.operations = mesh_operations(self.source, above=limit)

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from (Read(name, None) for name in (*self._ranges(), self.operations.noise))

    def _ranges(self) -> dict[str, list[str]]:
        """Maps that have a surface, by the operation that knows their ranges."""
        found: dict[str, list[str]] = {}
        for part in SURFACES:
            found.setdefault(self.operations.makers[part], []).append(part)
        return found

    def kept_maps(self) -> dict[str, str]:
        """Paths of the maps that a run keeps to be read: background, rms, error, excluded, n_good, of a fit more."""
        found = {part: self.source.path(part) for part in (*SURFACES, "excluded", *self.interpolator.fit_maps)}
        grown = self.parameters.grow_boxes > 0
        return {**found, "n_good": self.source.path("n_good") if grown else f"{self.source.measured[0]}/n_good"}

    def check(self, shape: Pair) -> None:
        """See `Operation.check`: a box is not larger than the image."""
        cells_of(shape, self.parameters)

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [f"meshes/{self.step}.json"]

    def box_sizes(self) -> dict[str, Pair]:
        """See `Operation.box_sizes`."""
        return {self.parameters.name: self.parameters.box_size}

    def surface_arrays(self, which: int) -> list[str]:
        """Arrays that evaluating a surface reads."""
        return [self.source.path(name) for name in (f"surface_{SURFACES[which]}", *self.interpolator.lookup_maps)]

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        cells = math.prod(mesh_shape(shape, self.parameters.box_size)) / math.prod(shape)
        return PixelBytes(_MADE * cells, _KEPT * cells)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`: merge the ranges of the maps."""
        ranges: dict[str, Pair] = {}
        for maker, names in self._ranges().items():
            found = np.stack([np.frombuffer(part, "<f8").reshape(-1, 2) for part in task.part(maker, 0)])
            ranges |= dict(zip(names, zip(found[..., 0].min(0), found[..., 1].max(0), strict=True), strict=True))
        factor = task.value(self.operations.noise).noise_factor
        facts = {
            "range": {part: (float(low), float(high)) for part, (low, high) in ranges.items()},
            "noise_factor": factor,
            "noise_length": factor**0.5,
        }
        return TaskOutput(task.write_facts(f"meshes/{self.step}.json", facts))

    def load(self, task: Task) -> tuple[Surface, ...]:
        """Surfaces of background, rms and error, their arrays left in the store."""
        return tuple(self._surface(task, part) for part in SURFACES)

    def _surface(self, task: Task, part: str) -> Surface:
        step = self.parameters
        low, high = task.range_of(step.name, part)
        lookups = {name: task.array(self.source.path(name)) for name in self.interpolator.lookup_maps}
        values, dtype = task.array(self.source.path(f"surface_{part}")), np.dtype(task.dtype)
        return Surface(self.interpolator.of_map(part), step.box_size, values, lookups, low, high, dtype)

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`: all of its operations."""
        boxes, image = arrays.values[self.measured_by.name], arrays.nodes["science"].shape
        above = None if self.above is None else in_memory(arrays.values[mesh_name(self.above)], image)
        objects = None if self.objects is None else arrays.values[self.objects]
        made = finished(boxes, self.parameters, image=image, above=above, objects=objects)
        mesh, surfaces, told = made.mesh, made.surfaces, arrays.checked(None, self.name)
        if told is not None:  # whoever computes a part of the sky is warned
            mesh = call(_first, mesh, told)
            background, rms, error = (replace(each, vmin=call(_first, each.vmin, told)) for each in surfaces)
            surfaces = background, rms, error
        arrays.meshes[self.parameters.name], arrays.values[self.name] = mesh, surfaces

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [Phase("ranges")]


class MeshPixels(PixelOperation):
    """Pixels of a surface of a background step (background, rms, error), made where they are read."""

    kind, stored = "pixels", False

    def __init__(self, mesh: MeshOperation, which: int) -> None:
        self.mesh, self.which, self.step = mesh, which, mesh.step
        self.output = f"{mesh.step}/{SURFACES[which]}"
        self.name = f"{mesh.step}-{SURFACES[which]}"

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        return []

    def values(self) -> dict[str, str]:
        """See `PixelOperation.values`."""
        return {"surfaces": self.mesh.name}

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from super().reads()
        yield Read(self.mesh.operations.surfaces, None, kept=True)

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_evaluated, which=self.which)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return image

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`: of a lazy mesh a chunk takes the part that it needs."""
        image = arrays.nodes["science"]
        surface = arrays.values[self.mesh.name][self.which]
        arrays.nodes[self.output] = surface_pixels(blank(image), surface, dtype=image.dtype, name=SURFACES[self.which])

    def map_arrays(self) -> list[str]:
        """See `Operation.map_arrays`."""
        return self.mesh.surface_arrays(self.which)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [mesh_terms(Phase("evaluating"), self.mesh.parameters, sizes)]


def _first(value: Any, _: Any) -> Any:
    return value


def _evaluated(template: Patch, *, surfaces: Sequence[Surface], which: int) -> Patch:
    return template.replaced(surfaces[which].evaluate(template.region))


def cell_values(values: Any, region: Region, box: Pair) -> NDArray[Any]:
    """Value of its cell at each pixel of a region, of a map of a mesh that has no surface."""
    cells = boxes_of(region, box)
    held = np.asarray(values[cells.slices])
    rows, columns = np.arange(region.y0, region.y1) // box[0], np.arange(region.x0, region.x1) // box[1]
    return held[np.ix_(rows - cells.y0, columns - cells.x0)]


def noise_of(recipe: Recipe, step: AnyStep) -> str | None:
    """Statistics that know the noise of pixels under the mask of a step; None: none do.

    Those of the last mask before it that has a tier with a reliability.
    """
    before = recipe.mask_for(step)
    while before is not None:
        if isinstance(before, MaskStep) and any(tier.reliability is not None for tier in before.tiers):
            return f"{before.name}-statistics"
        before = recipe.mask_for(before)
    return None


def boxes_for(recipe: Recipe, step: BackgroundStep | ObjectsStep) -> Boxes:
    """Boxes of a background step, or of the stiff sky of an objects step."""
    measured = step.sky if isinstance(step, ObjectsStep) else step
    noise = None if measured.skewed_clip is None else noise_of(recipe, step)
    return Boxes(measured, bits_of(recipe, step), image_of(recipe, step), noise)


def measured_under(recipe: Recipe, mask: AnyMask) -> tuple[Boxes, ...]:
    """Boxes that are measured in the pass that makes a mask: of the backgrounds and objects that use it."""
    later = recipe.steps[recipe.steps.index(mask) + 1 :]
    found = []
    for user in later:
        if recipe.mask_for(user) is not mask or recipe.footprints_for(user) is not recipe.footprints_for(mask):
            continue  # the image of a step after footprints is not known yet
        if isinstance(user, ObjectsStep) or (isinstance(user, BackgroundStep) and measured_by(recipe, user) is user):
            found.append(boxes_for(recipe, user))
    return tuple(found)


def background_operations(recipe: Recipe, step: BackgroundStep, before: Sequence[Operation]) -> Iterator[Operation]:
    """Operations of a background step; its boxes may be those of an operation before it."""
    first = measured_by(recipe, step)
    found = ((o, boxes) for o in before for boxes in o.measured if boxes.parameters is first)
    source, boxes = next(found, (None, None))
    if source is None or boxes is None:
        source = boxes = boxes_for(recipe, step)
        yield boxes
    mesh = MeshOperation(recipe, step, boxes, source.name)
    yield from mesh.operations.all
    yield mesh
    yield from (MeshPixels(mesh, which) for which in range(len(SURFACES)))
