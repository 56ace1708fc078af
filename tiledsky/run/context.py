"""What a task knows of its run: plan, recipe, planes to read, objects to write."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.dq import dq_bits
from tiledsky.filters import as_float
from tiledsky.fitted import FITTED
from tiledsky.geometry import Pair, Region, boxes_of
from tiledsky.io.address import is_address, located
from tiledsky.io.shards import write_object
from tiledsky.io.source import HEADER, FitsReader, SourcePlane, parse_header, read_plane
from tiledsky.io.store import (
    RUN_FOLDER,
    Markers,
    encoded,
    object_path,
    open_store,
    read_json,
    stored_objects,
    summary_path,
    tile_index,
    writable,
    write_bytes,
    writing,
)
from tiledsky.kernels.boxes import BoxStatistics
from tiledsky.overlap import Patch
from tiledsky.planes import base_mask, uncovered
from tiledsky.recipe import Recipe
from tiledsky.run.plan import Plan, Stage
from tiledsky.steps import BackgroundStep, RingStep
from tiledsky.surface import Surface, error_interpolator

Index = Pair
#: Maps of a mesh that have a surface, in the order of `tiledsky.mesh.surfaces`.
SURFACES = ("background", "rms", "error")
#: Stands beside these for the bandwidth of a fit, which has none: each pixel has that of its cell.
BANDWIDTH = 3
#: Folder of the means of blocks of the planes, and of which planes there are any.
LEVEL_FOLDER = "levels"
LEVEL_PLANES = ("science", "background", "subtracted", "residual", "mask")


class Context:
    """What a task needs to know of its run; made once a process and run."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.root, self.run_id = root, run_id
        self.group = open_store(root, mode="r+")
        self.markers = Markers(root, run_id)
        self.recipe = Recipe.from_dict(read_json(root, "recipe.json"))
        self.plan = Plan.from_json(read_json(root, "plan.json"))
        self.stages = {s.name: s for s in self.plan.stages}
        self._arrays: dict[str, Any] = {}
        self._surfaces: dict[tuple[str, int], Surface] = {}

    @cached_property
    def source(self) -> dict[str, Any]:
        """Planes of the input, open: FITS files, arrays or region files."""
        planes = {k: SourcePlane.from_json(v) for k, v in read_json(self.root, "source.json").items()}
        return {name: plane.open() for name, plane in planes.items()}

    @cached_property
    def input(self) -> dict[str, Any]:
        """Planes that the steps read: copies in this store, or the arrays of the source."""
        if "ingest" in self.stages:
            return {name: self.array(name) for name in read_json(self.root, "source.json")}
        return self.source

    def array(self, path: str) -> Any:
        """Array of the store."""
        if path not in self._arrays:
            self._arrays[path] = writable(self.group[path])  # type: ignore[arg-type]
        return self._arrays[path]

    def patch(self, data: NDArray[Any], region: Region) -> Patch:
        """Wrap pixels of a region of this run's image."""
        return Patch(data, region, self.plan.shape)

    def science(self, region: Region) -> Patch:
        """Pixels of the image, float32 or float64."""
        return self.patch(as_float(read_plane(self.input["science"], region)), region)

    def base(self, science: Patch) -> Patch:
        """Bits of the mask plane that are known before any step, for these pixels."""
        others = self._planes(science.region, *(name for name in self.input if name != "science"))
        return science.replaced(base_mask(science.data, **others, dq_bits=self.dq_bits))

    @cached_property
    def dq_bits(self) -> int | None:
        """Flags of the dq plane that count; None: all."""
        if "dq" not in self.input:
            return None
        return dq_bits(self.recipe.dq_flags, header=parse_header(str(self.group.attrs.get(HEADER, ""))))

    def noise_planes(self, region: Region) -> dict[str, NDArray[Any] | None]:
        """Weight and error, as `tiledsky.planes.noise_scale` takes them."""
        given = self._planes(region, "weight", "error")
        return {name: given.get(name) for name in ("weight", "error")}

    def uncovered(self, base: Patch) -> NDArray[np.bool_] | None:
        """Where the result has the fill value, for the pixels of ``base``; None: nowhere."""
        coverage = self._planes(base.region, "coverage").get("coverage")
        return uncovered(base.data, coverage, where=self.recipe.uncovered)

    def _planes(self, region: Region, *names: str) -> dict[str, NDArray[Any]]:
        return {name: read_plane(self.input[name], region) for name in names if name in self.input}

    def sky(self, step: RingStep | BackgroundStep, region: Region) -> NDArray[Any]:
        """Pixels of the sky of an earlier step."""
        if isinstance(step, RingStep):
            return read_plane(self.array(step.name), region)
        return self.surface(step, 0).evaluate(region)

    def surface(self, step: BackgroundStep, which: int) -> Surface:
        """Background (0), rms (1) or error (2) surface of a background step, its arrays left in the store."""
        if (step.name, which) not in self._surfaces:
            part, folder = SURFACES[which], f"meshes/{step.name}"
            low, high = read_json(self.root, f"{folder}.json")["range"][part]
            reach = self.array(f"{folder}/reach") if step.interpolator.kind == "idw" else None
            values = self.array(f"{folder}/surface_{part}")
            interpolator = error_interpolator(step.interpolator) if part == "error" else step.interpolator
            dtype = np.dtype(self.plan.dtype)
            self._surfaces[step.name, which] = Surface(interpolator, step.box_size, values, reach, low, high, dtype)
        return self._surfaces[step.name, which]

    def pixels(self, step: BackgroundStep, which: int, region: Region) -> NDArray[Any]:
        """Pixels of one of the `SURFACES` of a background step, or of its bandwidth."""
        if which != BANDWIDTH:
            return self.surface(step, which).evaluate(region)
        (by, bx), cells = step.box_size, boxes_of(region, step.box_size)
        held = np.asarray(self.array(f"meshes/{step.name}/bandwidth")[cells.slices])
        rows, columns = np.arange(region.y0, region.y1) // by, np.arange(region.x0, region.x1) // bx
        return held[np.ix_(rows - cells.y0, columns - cells.x0)]

    def write(self, path: str, region: Region, data: NDArray[Any]) -> str:
        """Write one whole object of an array and return its path."""
        array = self.array(path)
        written = object_path(array, tile_index(array, region))
        if is_address(self.root):
            self._put(array, region, data)
        else:
            with writing(self.root / written):
                write_object(array, region, data)
        return written

    def write_whole(self, path: str, data: NDArray[Any]) -> list[str]:
        """Write a whole array and return the paths of its objects."""
        array = self.array(path)
        if is_address(self.root):
            self._put(array, Region.whole(array.shape), data)
        else:
            with writing(self.root / path):
                array[...] = data
        return stored_objects(array)

    def _put(self, array: Any, region: Region, data: NDArray[Any]) -> None:
        for name, content in encoded(array, region, data).items():
            write_bytes(self.root / name, content)

    def owned(self, stage: Stage, index: Index) -> list[str]:
        """Objects that a task of a stage may write: deleted before it begins."""
        paths = [summary_path(stage.name, index)]
        if stage.kind in ("statistics", "mesh"):
            paths.append(f"{RUN_FOLDER}/{'meshes' if stage.kind == 'mesh' else 'thresholds'}/{stage.step}.json")
        if stage.kind == "diagnostics":
            paths.append(f"{RUN_FOLDER}/diagnostics.json")
        for name in self.source if stage.kind == "ingest" else planes_of(self.recipe, stage):
            array = self.array(name)
            paths += stored_objects(array) if stage.kind == "mesh" else [object_path(array, index)]
        return paths


@lru_cache(maxsize=4)
def context(root: str, run_id: str) -> Context:
    """Return the context of a run, one a process."""
    return Context(located(root), run_id)


def forget(root: str, run_id: str) -> None:
    """Close what this process holds open of a run."""
    for plane in context(root, run_id).__dict__.get("source", {}).values():
        if isinstance(plane, FitsReader):
            plane.image.close()
    context.cache_clear()


def planes_of(recipe: Recipe, stage: Stage) -> list[str]:
    """Paths of the arrays that a stage writes (ingest: see the source)."""
    measured = [path for name in stage.measures for path in measured_arrays(recipe, name)]
    if stage.kind == "ring":
        return [str(stage.step)]
    if stage.kind in ("mask", "boxes"):
        return measured if stage.kind == "boxes" else [mask_plane(recipe, str(stage.step)), *measured]
    if stage.kind == "mesh":
        step = recipe.step(str(stage.step))
        assert isinstance(step, BackgroundStep)
        names = ["excluded", *SURFACES, *(f"surface_{part}" for part in SURFACES)]
        names += FITTED if step.interpolator.kind == "local-polynomial" else ()
        names += ["reach"] * (step.interpolator.kind == "idw") + ["n_good"] * (step.grow_boxes > 0)
        return [f"meshes/{stage.step}/{name}" for name in names]
    if stage.kind == "output":
        return [*output_planes(recipe), *(level_path(size, name) for size in stage.levels for name in LEVEL_PLANES)]
    return []


def level_path(size: int, plane: str) -> str:
    """Path of the array of the means of blocks of a plane."""
    return f"{LEVEL_FOLDER}/{size}/{plane}"


def measured_folder(step: str, level: int) -> str:
    """Folder of the statistics of the boxes of a step; of those 2**level times as large."""
    return f"meshes/{step}/measured" + (f"-{1 << level}" if level else "")


def measured_arrays(recipe: Recipe, name: str) -> dict[str, int]:
    """Arrays of the statistics of the boxes of a step, with the level that they are of."""
    step = recipe.step(name)
    assert isinstance(step, BackgroundStep)
    levels = range(step.grow_boxes + 1)
    return {f"{measured_folder(name, level)}/{part}": level for level in levels for part in BoxStatistics._fields}


def mask_plane(recipe: Recipe, step: str) -> str:
    """Name of the plane of a mask step: that of the result is ``mask``."""
    chosen = recipe.result_mask
    return "mask" if chosen is not None and chosen.name == step else step


def output_planes(recipe: Recipe) -> dict[str, tuple[str, int] | None]:
    """Planes of the last pass: name to (background step, which of `SURFACES` or `BANDWIDTH`); None: made of others."""
    planes: dict[str, tuple[str, int] | None] = {
        "background": (recipe.result.name, 0),
        "background_rms": (recipe.result.name, 1),
        "background_error": (recipe.result.name, 2),
        "subtracted": None,
    }
    if recipe.bandwidth_plane:
        planes["bandwidth"] = (recipe.result.name, BANDWIDTH)
    if recipe.result_mask is None:
        planes["mask"] = None
    for step in recipe.steps:
        if isinstance(step, BackgroundStep) and step.keep and step is not recipe.result:
            planes |= {f"{step.name}{ending}": (step.name, k) for k, ending in enumerate(("", "_rms", "_error"))}
    return planes
