"""What the store of a run holds: arrays, the objects that each task writes, the files that describe them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import accumulate

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.storage import MemoryStore

from tiledsky.engine.plan import Plan, Stage
from tiledsky.geometry import Pair
from tiledsky.io.plane_reader import HEADER, MASK_BITS
from tiledsky.io.store import RUN_FOLDER, create_plane
from tiledsky.operations.base import ArraySpec, Image
from tiledsky.operations.stages import compiled_run
from tiledsky.recipe import Recipe

FORMAT = 1


class Layout:
    """The store of a run by its recipe, its plan and the dtypes of the planes of its input."""

    def __init__(self, recipe: Recipe, plan: Plan, dtypes: Mapping[str, str]) -> None:
        self.recipe, self.plan, self.dtypes = recipe, plan, dict(dtypes)
        self.operations = compiled_run(recipe)

    @cached_property
    def arrays(self) -> dict[str, ArraySpec]:
        """All arrays by their paths, those of scratch planes too."""
        return {path: spec for specs in self._arrays.values() for path, spec in specs.items()}

    @cached_property
    def _arrays(self) -> dict[str, dict[str, ArraySpec]]:
        return {stage.name: self.of_stage(stage) for stage in self.plan.stages}

    @cached_property
    def scratch(self) -> frozenset[str]:
        """Paths of the arrays that are thrown away when the run ends."""
        return frozenset(path for stage in self.plan.stages for path in self.operations[stage.name].scratch)

    def of_stage(self, stage: Stage) -> dict[str, ArraySpec]:
        """Arrays that a stage writes."""
        image = Image(self.plan.shape, self.plan.dtype, self.dtypes)
        return self.operations[stage.name].arrays(image, stage.tile)

    def objects(self, stage: Stage, index: Pair) -> list[str]:
        """Paths of all that a task writes: one object of each array (of a gather stage all), and files."""
        operation = self.operations[stage.name]
        paths = []
        for path, spec in self._arrays[stage.name].items():
            indices = spec.indices() if operation.whole else [index]
            paths += [f"{path}/c/{iy}/{ix}" for iy, ix in indices]
        return [*paths, *(f"{RUN_FOLDER}/{file}" for file in operation.files(index))]

    def is_scratch(self, path: str) -> bool:
        """Whether an object, or the file that describes an array, is thrown away when the run ends."""
        folders = accumulate(path.split("/"), "{}/{}".format)
        return path.startswith(f"{RUN_FOLDER}/summaries/") or any(folder in self.scratch for folder in folders)

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
