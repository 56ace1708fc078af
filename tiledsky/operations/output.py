"""The output of a recipe: planes of its result, means of their blocks to look at, and summaries for the measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import HALO, needed_region
from tiledsky.geometry import Pair, Region, boxes_of, mesh_shape
from tiledsky.kernels.filters.blocks import block_means
from tiledsky.operations import quality
from tiledsky.operations.background import MeshOperation, cell_values, mesh_terms
from tiledsky.operations.base import (
    ArraySpec,
    Image,
    Operation,
    Read,
    Task,
    TaskOutput,
    footprint_offsets,
    summary_file,
)
from tiledsky.operations.filtered_maps import SURFACES
from tiledsky.operations.memory import WRITE, Phase, Sizes
from tiledsky.operations.objects import object_light
from tiledsky.operations.passes import HISTOGRAM
from tiledsky.overlap import Patch
from tiledsky.recipe import BackgroundStep, Recipe

#: Stands beside `SURFACES` for the bandwidth of a fit, which has none: each pixel has that of its cell.
BANDWIDTH = 3
#: The same for the light of large objects, and for the constants of footprints.
LIGHT, OFFSETS = 4, 5
#: Sides in pixels of the blocks whose means a run keeps of its planes, to look at an image larger than `WHOLE` px.
OVERVIEWS = (4, 16)
WHOLE = 2048
#: Folder of the means of blocks of the planes, and of which planes there are any.
OVERVIEW_FOLDER = "levels"
OVERVIEW_PLANES = ("science", "background", "subtracted", "residual", "mask")
#: Planes that the tests of the background need, with their halo.
_MEASURED = ("background", "background_rms")


def overview_path(size: int, plane: str) -> str:
    """Path of the array of the means of blocks of a plane."""
    return f"{OVERVIEW_FOLDER}/{size}/{plane}"


def output_planes(recipe: Recipe) -> dict[str, tuple[str, int] | None]:
    """Planes of the last pass: name to (step, which of `SURFACES` or of the others above); None: made of others."""
    planes: dict[str, tuple[str, int] | None] = {
        "background": (recipe.result.name, 0),
        "background_rms": (recipe.result.name, 1),
        "background_error": (recipe.result.name, 2),
        "subtracted": None,
    }
    if recipe.bandwidth_plane:
        planes["bandwidth"] = (recipe.result.name, BANDWIDTH)
    if recipe.objects_plane and recipe.objects is not None:
        planes["object_light"] = (recipe.objects.name, LIGHT)
    if recipe.footprints is not None:
        planes["footprint_offsets"] = (recipe.footprints.name, OFFSETS)
    if recipe.result_mask is None:
        planes["mask"] = None
    for step in recipe.steps:
        if isinstance(step, BackgroundStep) and step.keep and step is not recipe.result:
            planes |= {f"{step.name}{ending}": (step.name, k) for k, ending in enumerate(("", "_rms", "_error"))}
    return planes


class Output(Operation):
    """Surfaces evaluated, written and measured."""

    kind = name = "output"

    def __init__(self, recipe: Recipe, before: Iterable[Operation]) -> None:
        self.recipe = recipe
        self.planes = output_planes(recipe)
        meshes = (o for o in before if isinstance(o, MeshOperation))
        self.meshes = [m for m in meshes if m.parameters.name == recipe.result.name or m.parameters.keep]
        self.backgrounds = {mesh.parameters.name: mesh.parameters for mesh in self.meshes}
        self.mask = recipe.result_mask
        lights = (step for step, which in filter(None, self.planes.values()) if which == LIGHT)
        self.light = next(map(object_light, lights), None)
        self.offsets = None if recipe.footprints is None else footprint_offsets(recipe.footprints.name)

    def overviews(self, shape: Pair) -> tuple[int, ...]:
        """See `Operation.overviews`."""
        return OVERVIEWS if max(shape) > WHOLE else ()

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield Read("science", HALO)
        yield Read("base", HALO)
        if self.mask is not None:
            yield Read(self.mask.name, HALO)
        for mesh in self.meshes:
            yield Read(mesh.name, None)
            yield Read(mesh.operations.surfaces, None, kept=True)
        yield from (
            Read(mesh.operations.makers["bandwidth"], None, kept=True)
            for mesh in self.meshes
            if (mesh.step, BANDWIDTH) in self.planes.values()
        )
        if self.light is not None:
            yield Read(self.light)
        if self.offsets is not None:
            yield Read(self.offsets, HALO)

    def map_arrays(self) -> list[str]:
        """See `Operation.map_arrays`."""
        return [path for mesh in self.meshes for which in range(len(SURFACES)) for path in mesh.surface_arrays(which)]

    def bytes_read(self, sizes: Sizes) -> int:
        """See `Operation.bytes_read`: the mask too, for the status and the measures, and noise planes again."""
        again = ["weight", "error", *["coverage"] * (self.recipe.uncovered == "coverage")]
        known = sum(plane.itemsize for plane in sizes.planes.values())
        known += sum(sizes.planes[name].itemsize for name in again if name in sizes.planes)
        return known + 2 + bool(self.overviews(sizes.shape))

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`."""
        specs = {}
        for name in self.planes:
            bits = name == "mask"
            specs[name] = ArraySpec(image.shape, "uint8" if bits else image.dtype, tile, bits)
        for size in self.overviews(image.shape):
            cells, cut = mesh_shape(image.shape, (size, size)), (tile[0] // size, tile[1] // size)
            specs |= {overview_path(size, plane): ArraySpec(cells, "float32", cut) for plane in OVERVIEW_PLANES}
        return specs

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [summary_file(self.name, index)]

    def run(self, task: Task) -> TaskOutput:
        """Write the planes of a tile and measure it."""
        tile, region = task.region, needed_region(task.region, task.shape)
        science, base = task.patch("science", region), task.patch("base", region)
        assert science is not None
        assert base is not None
        outside, fill_value = task.outside(base.cropped(tile)), float(self.recipe.fill_value)
        bits = base if self.mask is None else task.patch(self.mask.name, region)
        assert bits is not None
        overviews = _Overviews(task, self.overviews(task.shape), bits.cropped(tile))
        written, measured = overviews.write("science", science.crop(tile)), {"science": science.data}

        def write(name: str, pixels: NDArray[Any]) -> None:
            if outside is not None:
                pixels[outside] = fill_value
            written.extend((task.write(name, tile, pixels), *overviews.write(name, pixels)))

        for name, origin in self.planes.items():
            if origin is not None:
                pixels = self._pixels(task, *origin, region if name in _MEASURED else tile)
                if name == "background" and self.offsets is not None:
                    pixels = pixels + self._plane(task, self.offsets, region)
                if name in _MEASURED:
                    measured[name] = pixels
                    pixels = pixels[tile.within(region)]
                if name == "background":
                    write("subtracted", science.crop(tile) - pixels)
                write(name, pixels.copy() if name in _MEASURED and outside is not None else pixels)
            elif name == "mask":
                written.append(task.write(name, tile, base.crop(tile)))
        written += quality.summarise_tile(task, bits, measured, outside)
        return TaskOutput(written, all_masked=bool(np.all(bits.crop(tile))))

    def _plane(self, task: Task, node: str, region: Region) -> NDArray[Any]:
        """Pixels of a plane, in the type of the sky."""
        patch = task.patch(node, region)
        assert patch is not None
        return patch.data.astype(task.dtype, copy=False)

    def _pixels(self, task: Task, name: str, which: int, region: Region) -> NDArray[Any]:
        """Pixels of one of the `SURFACES` of a background step, of its bandwidth, of light, or of constants."""
        if which in (LIGHT, OFFSETS):
            return self._plane(task, object_light(name) if which == LIGHT else footprint_offsets(name), region)
        if which != BANDWIDTH:
            pixels: NDArray[Any] = task.value(f"{name}-mesh")[which].evaluate(region)
            return pixels
        return cell_values(task.array(f"meshes/{name}/bandwidth"), region, self.backgrounds[name].box_size)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        held = Phase("").add("planes, bits", 3 * sizes.size + 1, "px read", sizes.read)
        held.add("outside, pixels", 1 + sizes.size + 2 * bool(self.overviews(sizes.shape)), "px", sizes.tile)
        evaluated = [mesh_terms(held.again("evaluating"), step, sizes) for step in self.backgrounds.values()]
        writing = held.again("writing").add("shard", WRITE * sizes.size, "px", sizes.tile)
        writing.add("light of objects", 8 * (self.light is not None), "px", sizes.tile)
        writing.add("constants", 2 * sizes.size * (self.offsets is not None), "px read", sizes.read)
        measured = quality.measuring(held.again("measuring"), sizes).add("counts", 1, "B", HISTOGRAM)
        return [*sizes.inputs(), *evaluated, writing, measured]


class _Overviews:
    """Writes the means of blocks of one tile of the output; ``bits``: the result's mask for the pixels of the tile.

    A run on an image larger than `WHOLE` pixels keeps, for each of its blocks of 4 x 4 and 16 x 16 pixels (blocks begin
    at pixel 0 of the image, and those that its border cuts are smaller), the mean of science, background and
    subtracted; ``residual``: of the subtracted pixels that have no bit; ``mask``: the share that has one.
    """

    def __init__(self, task: Task, sizes: tuple[int, ...], bits: Patch) -> None:
        self.task, self.sizes, self.tile = task, sizes, bits.region
        if self.sizes:
            self.masked = bits.data != 0

    def write(self, name: str, pixels: NDArray[Any]) -> list[str]:
        """Write the means of a plane, and with those of the subtracted plane what follows from it and the mask.

        Returns
        -------
        list of str
            Paths; none for a plane that is kept in full alone.
        """
        if not self.sizes or name not in OVERVIEW_PLANES:
            return []
        written = []
        for size in self.sizes:
            cells = boxes_of(self.tile, (size, size))
            means = {name: block_means(pixels, size)}
            if name == "subtracted":
                means["residual"] = block_means(pixels, size, mask=self.masked)
                means["mask"] = block_means(self.masked.astype(np.float32), size)
            for plane, values in means.items():
                path = overview_path(size, plane)
                written.append(self.task.write(path, cells, values.astype(np.float32, copy=False)))
        return written
