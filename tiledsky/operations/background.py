"""Background steps: boxes measured tile by tile, the mesh finished, its maps at any pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, boxes_of, mesh_shape
from tiledsky.kernels.boxes.boxes import BoxStatistics
from tiledsky.kernels.mesh.fill import fill_bytes
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
from tiledsky.operations.boxes import array_box_statistics, box_statistics, cells_of, largest_box, level_box, same_boxes
from tiledsky.operations.interpolators import Interpolator, Term, a_cell, interpolator_of
from tiledsky.operations.memory import MEGABYTE, READ, Phase, Sizes
from tiledsky.operations.mesh import Mesh, finish, maps, surfaces
from tiledsky.operations.surface import Surface, ceiling, make_surface
from tiledsky.overlap import Patch, call
from tiledsky.recipe import BackgroundStep, MaskStep, Recipe

#: Maps of a mesh that have a surface, in the order of `tiledsky.operations.mesh.surfaces`.
SURFACES = ("background", "rms", "error")
#: Side of the chunks that maps of a mesh are stored in.
_MESH_CHUNK = 1024
#: Cells that are filled, and rows that are worked on, at a time.
_MESH_BLOCKS = 45 * MEGABYTE
#: Cells whose differences give the noise factor, at most, and bytes of each.
_SAMPLED, _DIFFERENCES = 1 << 22, 34
#: On arrays: bytes a cell of the mesh that is made, and of one that is kept for its pixels.
_MADE, _KEPT = 350, 32
#: Largest box that is proposed where a mesh does not fit.
_LARGEST_BOX = 4096


def measured_by(recipe: Recipe, step: BackgroundStep) -> BackgroundStep:
    """Return the first step that measures the same boxes under the same mask: its numbers serve both."""
    return next(
        s
        for s in recipe.steps
        if isinstance(s, BackgroundStep) and recipe.mask_for(s) is recipe.mask_for(step) and same_boxes(s, step)
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

    A mask operation measures those of the backgrounds that use it in its own pass.
    """

    kind = "boxes"

    def __init__(self, step: BackgroundStep, bits: str) -> None:
        self.parameters, self.bits, self.step = step, bits, step.name
        self.name = f"{step.name}-boxes"
        self.measured = (self,)

    def boxes(self) -> list[Pair]:
        """See `Operation.boxes`."""
        return [largest_box(self.parameters)]

    def folder(self, level: int) -> str:
        """Folder of the statistics; of boxes 2**level times as large."""
        return f"meshes/{self.step}/measured" + (f"-{1 << level}" if level else "")

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from (Read("science"), Read(self.bits))

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
        science, bits = task.patch("science", task.region), task.patch(self.bits, task.region)
        assert science is not None
        assert bits is not None
        return TaskOutput(self.measure(task, science, bits.data != 0))

    def measure(self, task: Task, science: Patch, ignore: NDArray[np.bool_]) -> list[str]:
        """Measure and write the boxes of a tile; return the paths."""
        written = []
        for level in range(self.parameters.grow_boxes + 1):
            cells = boxes_of(science.region, level_box(self.parameters, level))
            for part, values in box_statistics(science.data, ignore, self.parameters, level=level)._asdict().items():
                written.append(task.write(f"{self.folder(level)}/{part}", cells, values))
        return written

    @property
    def paths(self) -> list[str]:
        """Paths of all statistics."""
        levels = range(self.parameters.grow_boxes + 1)
        return [f"{self.folder(level)}/{part}" for level in levels for part in BoxStatistics._fields]

    def read(self, task: Task, part: str) -> list[NDArray[Any]]:
        """Read one statistic back, level by level."""
        return [task.array(f"{self.folder(k)}/{part}")[...] for k in range(self.parameters.grow_boxes + 1)]

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        bits = arrays.plane(self.bits)
        arrays.values[self.name] = array_box_statistics(arrays.plane("science"), bits != 0, self.parameters)

    @staticmethod
    def terms(phase: Phase, sizes: Sizes, measured: Iterable[Boxes]) -> Phase:
        """Add the memory of measuring the boxes of a tile; the image is copied where it has a halo."""
        phase.add("image of the tile", sizes.size * (sizes.read != sizes.tile), "px", sizes.tile)
        counts = (zip(sizes.stage_tile, boxes.parameters.box_size, strict=True) for boxes in measured)
        cells = max((math.prod(-(-t // b) for t, b in pairs) for pairs in counts), default=0)
        return phase.add("boxes", 2 * (2 * sizes.size + 8) + 16, "cells", cells)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        measured = Phase("boxes").add("image, bits, ignored", sizes.size + 2, "px", sizes.tile)
        return [*sizes.inputs(), self.terms(measured, sizes, [self])]


class MeshOperation(Operation):
    """The mesh of a background step, finished from the statistics of its boxes, with the surfaces of its maps.

    ``boxes`` measures them, in the pass of the operation ``source``.
    """

    kind, whole, shared = "mesh", True, True

    def __init__(self, recipe: Recipe, step: BackgroundStep, boxes: Boxes, source: str) -> None:
        self.parameters, self.measured_by, self.source = step, boxes, source
        self.step, self.name = step.name, mesh_name(step)
        above = None if step.ceiling is None else recipe.step(step.ceiling.above)
        assert above is None or isinstance(above, BackgroundStep)
        self.above = above
        self.folder = f"meshes/{step.name}"
        self.interpolator = interpolator_of(step.interpolator)

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read(self.source, None, boxes=True)
        if self.above is not None:
            yield Read(mesh_name(self.above), None)

    def kept_maps(self) -> dict[str, str]:
        """Paths of the maps that a run keeps to be read: background, rms, error, excluded, n_good, of a fit more."""
        found = {part: f"{self.folder}/{part}" for part in (*SURFACES, "excluded", *self.interpolator.fit_maps)}
        folder = self.folder if self.parameters.grow_boxes else self.measured_by.folder(0)
        return {**found, "n_good": f"{folder}/n_good"}

    def check(self, shape: Pair) -> None:
        """See `Operation.check`: a box is not larger than the image."""
        cells_of(shape, self.parameters)

    @property
    def maps(self) -> list[str]:
        """Maps that are written, and the arrays of their surfaces."""
        names = ["excluded", *SURFACES, *(f"surface_{part}" for part in SURFACES)]
        names += [*self.interpolator.fit_maps, *self.interpolator.lookup_maps]
        return names + ["n_good"] * (self.parameters.grow_boxes > 0)

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        cells, chunk = mesh_shape(image.shape, self.parameters.box_size), (_MESH_CHUNK, _MESH_CHUNK)
        types: dict[str, str | None] = {"n_good": "int32", "excluded": "bool"}
        types |= {f"surface_{part}": self.interpolator.surface_dtype for part in SURFACES}
        types |= {**self.interpolator.fit_maps, **self.interpolator.lookup_maps}
        return {f"{self.folder}/{part}": ArraySpec(cells, types.get(part) or image.dtype, chunk) for part in self.maps}

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [f"{self.folder}.json"]

    def map_arrays(self) -> list[str]:
        """See `Operation.map_arrays`: statistics of the boxes, once to choose the boxes, once for the map."""
        return [*self.measured_by.paths, *self.measured_by.paths]

    def box_sizes(self) -> dict[str, Pair]:
        """See `Operation.box_sizes`."""
        return {self.parameters.name: self.parameters.box_size}

    def alternatives(self, recipe: Recipe, shape: Pair) -> Iterator[tuple[str, Recipe]]:
        """See `Operation.alternatives`: larger boxes."""
        step = self.parameters
        for box in range(min(step.box_size) + 1, min(_LARGEST_BOX, *shape)):
            change = step.model_copy(update={"box_size": (box, box)})
            steps = tuple(change if s.name == step.name else s for s in recipe.steps)
            yield f"box_size {box} in step {step.name}", recipe.model_copy(update={"steps": steps})

    def surface_arrays(self, which: int) -> list[str]:
        """Arrays that evaluating a surface reads."""
        return [f"{self.folder}/{name}" for name in (f"surface_{SURFACES[which]}", *self.interpolator.lookup_maps)]

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """See `Operation.array_bytes`."""
        cells = math.prod(mesh_shape(shape, self.parameters.box_size)) / math.prod(shape)
        return PixelBytes(_MADE * cells, _KEPT * cells)

    def run(self, task: Task) -> TaskOutput:
        """Finish the mesh, one map after the other, so that few whole maps are in memory at a time."""
        step, written = self.parameters, []
        facts: dict[str, Any] = {"range": {}}
        excluded = np.zeros((0, 0), bool)
        for name, values in maps(partial(self.measured_by.read, task), step, limit=self._limit(task)):
            if name == "noise_factor":
                facts |= {"noise_factor": values, "noise_length": values**0.5}
                continue
            if name == "n_good" and not step.grow_boxes:
                del values  # it is what was measured; kept here it would stay while the next map is made
                continue
            written += task.write_whole(f"{self.folder}/{name}", values)
            if name == "excluded":
                excluded = values
                lookups = self.interpolator.lookups(values).items()
                written += [
                    path for part, cells in lookups for path in task.write_whole(f"{self.folder}/{part}", cells)
                ]
                del lookups
            elif name in SURFACES:
                made = make_surface(values, self._of(name), excluded=excluded, box_size=step.box_size, lookups={})
                written += task.write_whole(f"{self.folder}/surface_{name}", made.values)
                facts["range"][name] = (made.vmin, made.vmax)
                del made
            del values
        return TaskOutput([*written, *task.write_facts(f"{self.folder}.json", facts)])

    def _of(self, part: str) -> Interpolator[Any]:
        """Interpolator of a map."""
        return self.interpolator.of_error if part == "error" else self.interpolator

    def _limit(self, task: Task) -> NDArray[np.float64] | None:
        """Ceiling of the mesh, if it has one."""
        if self.above is None:
            return None
        return self._ceiling(task.value(mesh_name(self.above)), task.shape)

    def _ceiling(self, pair: Sequence[Surface], shape: Pair) -> NDArray[np.float64]:
        step = self.parameters
        assert step.ceiling is not None
        return ceiling(pair, box_size=step.box_size, sigma=step.ceiling.sigma, shape=shape)

    def load(self, task: Task) -> tuple[Surface, ...]:
        """Surfaces of background, rms and error, their arrays left in the store."""
        return tuple(self._surface(task, part) for part in SURFACES)

    def _surface(self, task: Task, part: str) -> Surface:
        step = self.parameters
        low, high = task.range_of(step.name, part)
        lookups = {name: task.array(f"{self.folder}/{name}") for name in self.interpolator.lookup_maps}
        values, dtype = task.array(f"{self.folder}/surface_{part}"), np.dtype(task.dtype)
        return Surface(self._of(part), step.box_size, values, lookups, low, high, dtype)

    def on_arrays(self, arrays: Arrays) -> None:
        """See `Operation.on_arrays`."""
        step, limit = self.parameters, None
        if self.above is not None:
            limit = call(self._ceiling, arrays.values[mesh_name(self.above)], arrays.nodes["science"].shape)
        mesh: Mesh = call(finish, arrays.values[self.measured_by.name], step, limit=limit)
        arrays.meshes[step.name] = mesh = arrays.checked(mesh, self.name)
        arrays.values[self.name] = call(surfaces, mesh, step.interpolator)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: maps of the whole mesh, one after the other."""
        step, size = self.parameters, sizes.size
        shape = mesh_shape(sizes.shape, step.box_size)
        cells, limit, copies = math.prod(shape), 8 * (step.ceiling is not None), 1 + (step.grow_boxes > 0)
        more = sum(math.prod(mesh_shape(sizes.shape, level_box(step, k))) for k in range(1, step.grow_boxes + 1))

        def phase(name: str, others: Iterable[Term] = (), **terms: float) -> Phase:
            made = Phase(name).add("limit", limit, "cells", cells)
            for term in (*a_cell(shape, **terms), *others):
                made.add(*term)
            made.add("larger boxes", 2 * size + 4, "cells", more)
            return made.add("blocks", 1, "B", min(_MESH_BLOCKS, 200 * cells))

        phases = [
            phase("levels", background=size, n_good=4, left_out=2),
            phase("variance", excluded=2, rms=copies * size, n_good=copies * 4, variance=8, unknown=2),
            phase("filling the variance", excluded=2, variance=8, holes=2, neighbours=fill_bytes(cells)),
            phase("noise", excluded=4, background=copies * size, variance=8).add(
                "differences", _DIFFERENCES, "cells", min(cells, _SAMPLED)
            ),
        ]
        making = self.interpolator.maps_memory(shape, itemsize=size, threshold=step.filter_threshold is not None)
        phases += [phase(name, terms) for name, terms in making]
        if step.reject_sigma is not None:
            phases.append(phase("outlying boxes", excluded=3, distances=6 * size))
        if self.above is not None:
            coarse = 12 * (1 + READ), "cells of the other", math.prod(mesh_shape(sizes.shape, self.above.box_size))
            phases.append(phase("ceiling").add("surface", *coarse))
        return phases


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

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        return partial(_evaluated, which=self.which)

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return image

    def map_arrays(self) -> list[str]:
        """See `Operation.map_arrays`."""
        return self.mesh.surface_arrays(self.which)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        return [mesh_terms(Phase("evaluating"), self.mesh.parameters, sizes)]


def _evaluated(template: Patch, *, surfaces: Sequence[Surface], which: int) -> Patch:
    return template.replaced(surfaces[which].evaluate(template.region))


def cell_values(values: Any, region: Region, box: Pair) -> NDArray[Any]:
    """Value of its cell at each pixel of a region, of a map of a mesh that has no surface."""
    cells = boxes_of(region, box)
    held = np.asarray(values[cells.slices])
    rows, columns = np.arange(region.y0, region.y1) // box[0], np.arange(region.x0, region.x1) // box[1]
    return held[np.ix_(rows - cells.y0, columns - cells.x0)]


def measured_under(recipe: Recipe, mask: MaskStep) -> tuple[Boxes, ...]:
    """Boxes that are measured in the pass that makes a mask: of the backgrounds that use it."""
    later = recipe.steps[recipe.steps.index(mask) + 1 :]
    users = (s for s in later if isinstance(s, BackgroundStep) and recipe.mask_for(s) is mask)
    return tuple(Boxes(user, mask.name) for user in users if measured_by(recipe, user) is user)


def background_operations(recipe: Recipe, step: BackgroundStep, before: Sequence[Operation]) -> Iterator[Operation]:
    """Operations of a background step; its boxes may be those of an operation before it."""
    first = measured_by(recipe, step)
    found = ((o, boxes) for o in before for boxes in o.measured if boxes.parameters is first)
    source, boxes = next(found, (None, None))
    if source is None or boxes is None:
        source = boxes = Boxes(step, bits_of(recipe, step))
        yield boxes
    mesh = MeshOperation(recipe, step, boxes, source.name)
    yield mesh
    yield from (MeshPixels(mesh, which) for which in range(len(SURFACES)))
