"""What the store of a run holds: arrays, the objects that each task writes, the files that describe them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.storage import MemoryStore

from tiledsky.engine.dependencies import SUMMARIES, is_scratch
from tiledsky.engine.names import OVERVIEW_FOLDER, mask_plane, measured_arrays, planes_of
from tiledsky.engine.plan import Plan, Stage
from tiledsky.geometry import Pair, mesh_shape
from tiledsky.io.plane_reader import HEADER, MASK_BITS
from tiledsky.io.store import RUN_FOLDER, create_plane, summary_path
from tiledsky.operations.boxes import level_box
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.recipe import BackgroundStep, Recipe

FORMAT = 1
_MESH_CHUNK = 1024


@dataclass(frozen=True)
class ArraySpec:
    """One array of a run store."""

    shape: Pair
    dtype: str
    tile: Pair
    mask_bits: bool = False

    def indices(self) -> Iterator[Pair]:
        """Indices of its objects."""
        ny, nx = (-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))
        return ((iy, ix) for iy in range(ny) for ix in range(nx))


class Layout:
    """The store of a run by its recipe, its plan and the dtypes of the planes of its input."""

    def __init__(self, recipe: Recipe, plan: Plan, dtypes: Mapping[str, str]) -> None:
        self.recipe, self.plan, self.dtypes = recipe, plan, dict(dtypes)

    @cached_property
    def arrays(self) -> dict[str, ArraySpec]:
        """All arrays by their paths, those of scratch planes too."""
        return {path: spec for stage in self.plan.stages for path, spec in self.of_stage(stage).items()}

    @cached_property
    def scratch(self) -> frozenset[str]:
        """Paths of the arrays that are thrown away when the run ends."""
        paths = set()
        for stage in self.plan.stages:
            if stage.kind in ("ring", "mask") and is_scratch(self.recipe, self.recipe.step(str(stage.step))):
                name = str(stage.step)
                paths.add(name if stage.kind == "ring" else mask_plane(self.recipe, name))
        return frozenset(paths)

    def of_stage(self, stage: Stage) -> dict[str, ArraySpec]:
        """Arrays that a stage writes."""
        if stage.kind == "ingest":
            items = self.dtypes.items()
            return {name: ArraySpec(self.plan.shape, dtype, stage.tile, name == "source_mask") for name, dtype in items}
        return {path: self._spec(stage, path) for path in planes_of(self.recipe, stage)}

    def _spec(self, stage: Stage, path: str) -> ArraySpec:
        plan, part = self.plan, path.rpartition("/")[2]
        if path.startswith(f"{OVERVIEW_FOLDER}/"):
            size = int(path.split("/")[1])
            tile = stage.tile[0] // size, stage.tile[1] // size
            return ArraySpec(mesh_shape(plan.shape, (size, size)), "float32", tile)
        if not path.startswith("meshes/"):
            bits = stage.kind == "mask" or path == "mask"
            return ArraySpec(plan.shape, "uint8" if bits else plan.dtype, stage.tile, bits)
        step = self.recipe.step(path.split("/")[1])
        assert isinstance(step, BackgroundStep)
        interpolator, dtypes = interpolator_of(step.interpolator), {"n_good": "int32", "excluded": "bool"}
        own = {**dtypes, **interpolator.fit_maps, **interpolator.lookup_maps}.get(part)
        dtype = plan.dtype if own is None else own
        measured = measured_arrays(self.recipe, step.name)
        if path in measured:
            box = level_box(step, measured[path])
            return ArraySpec(mesh_shape(plan.shape, box), dtype, (stage.tile[0] // box[0], stage.tile[1] // box[1]))
        if part.startswith("surface") and interpolator.surface_dtype is not None:
            dtype = interpolator.surface_dtype
        return ArraySpec(mesh_shape(plan.shape, step.box_size), dtype, (_MESH_CHUNK, _MESH_CHUNK))

    def objects(self, stage: Stage, index: Pair) -> list[str]:
        """Paths of all that a task writes."""
        if stage.kind in SUMMARIES:
            return [summary_path(stage.name, index)]
        if stage.kind == "statistics":
            return [f"{RUN_FOLDER}/thresholds/{stage.step}.json"]
        if stage.kind == "diagnostics":
            return [f"{RUN_FOLDER}/diagnostics.json"]
        if stage.kind != "mesh":
            paths = [f"{path}/c/{index[0]}/{index[1]}" for path in self._paths(stage)]
            return [*paths, summary_path(stage.name, index)] if stage.kind == "output" else paths
        arrays = self.of_stage(stage)
        objects = [f"{path}/c/{iy}/{ix}" for path, spec in arrays.items() for iy, ix in spec.indices()]
        return [*objects, f"{RUN_FOLDER}/meshes/{stage.step}.json"]

    def _paths(self, stage: Stage) -> list[str]:
        return list(self.dtypes) if stage.kind == "ingest" else planes_of(self.recipe, stage)

    def is_scratch(self, path: str) -> bool:
        """Whether an object, or the file that describes an array, is thrown away when the run ends."""
        return path.startswith(f"{RUN_FOLDER}/summaries/") or path.partition("/")[0] in self.scratch

    def zarr_files(self, header: str) -> dict[str, bytes]:
        """Return the files that describe groups and arrays (zarr.json), by path; ``header`` is of the science image."""
        files: dict[str, Buffer] = {}
        group = zarr.open_group(MemoryStore(files), mode="w")
        group.attrs.update({"tiledsky_format": FORMAT, "recipe": self.recipe.name, HEADER: header})
        group.require_group(RUN_FOLDER)  # so that Zarr knows the folder when it lists the store
        for path, spec in self.arrays.items():
            array = create_plane(group, path, shape=spec.shape, dtype=np.dtype(spec.dtype), tile=spec.tile)
            if spec.mask_bits:
                array.attrs[MASK_BITS] = 1
        return {path: data.to_bytes() for path, data in sorted(files.items())}
