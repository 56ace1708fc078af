"""What a task knows of its run: plan, recipe, planes to read, objects to write."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.cluster.versions import versions
from tiledsky.cluster.workers import check_versions
from tiledsky.engine.checked_store import open_checked_store
from tiledsky.engine.leases import process_name
from tiledsky.engine.plan import INGEST, Stage
from tiledsky.errors import RunError
from tiledsky.geometry import Pair, Region
from tiledsky.images import as_float
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.folders import Folder, folder_at
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.store import Markers, encoded, object_path, summary_path, tile_index
from tiledsky.io.zarr.reader import ZarrReader
from tiledsky.io.zarr.shards import encoded_object, is_plain
from tiledsky.nodata import empty
from tiledsky.operations.compile import Operations
from tiledsky.overlap import Patch
from tiledsky.planes import MASK_PLANES, base_mask, uncovered
from tiledsky.recipe.dq import dq_bits

Index = Pair


class Context:
    """What a task needs to know of its run; made once a process and run."""

    def __init__(self, root: Folder, run_id: str) -> None:
        self.root, self.run_id = root, run_id
        self.store = open_checked_store(root)
        if self.store.run_id != run_id:
            raise RunError(f"{root} now belongs to run {self.store.run_id}, not to {run_id}; give the command again")
        known = self.store.known
        # workers may come while a run goes on
        check_versions(f"worker {process_name()}", {"tiledsky": known["code"], **known["libraries"]}, versions())
        self.recipe, self.plan = self.store.recipe, self.store.plan
        self.stages = {s.name: s for s in self.plan.stages}
        self.markers = Markers(root, run_id, self.made)
        #: Values of the whole image that tasks share.
        self.values: dict[str, Any] = {}

    @cached_property
    def source(self) -> dict[str, PlaneReader]:
        """Planes of the input, open."""
        return {name: plane.open() for name, plane in self.store.source().items()}

    @cached_property
    def input(self) -> dict[str, PlaneReader]:
        """Planes that the steps read: copies in this store, or the arrays of the source."""
        if INGEST in self.stages:
            return {name: ZarrReader(self.array(name)) for name in self.store.layout.dtypes}
        return self.source

    def array(self, path: str) -> Any:
        """Array of the store."""
        return self.store.array(path)

    @property
    def operations(self) -> Operations:
        """Operations of the recipe."""
        return self.store.layout.operations

    def patch(self, data: NDArray[Any], region: Region) -> Patch:
        """Wrap pixels of a region of this run's image."""
        return Patch(data, region, self.plan.shape)

    def science(self, region: Region) -> Patch:
        """Pixels of the image, float32 or float64."""
        pixels = self.stored(region)
        if self.nodata is not None:
            pixels[empty(pixels, self.nodata)] = np.nan
        return self.patch(pixels, region)

    def stored(self, region: Region) -> NDArray[Any]:
        """Pixels of the image as they are stored, float32 or float64: with the number that means no data."""
        return as_float(self.input["science"].read(region))

    @cached_property
    def nodata(self) -> float | None:
        """The number that means no data."""
        return self.store.source()["science"].nodata

    def base(self, science: Patch) -> Patch:
        """Bits of the mask plane that are known before any step, for these pixels."""
        others = self._planes(science.region, *MASK_PLANES)
        return science.replaced(base_mask(science.data, **others, dq_bits=self.dq_bits))

    @cached_property
    def dq_bits(self) -> int | None:
        """Flags of the dq plane that count; None: all."""
        if "dq" not in self.input:
            return None
        return dq_bits(self.recipe.dq_flags, header=parse_header(self.store.header))

    def uncovered(self, base: Patch) -> NDArray[np.bool_] | None:
        """Where the result has the fill value, for the pixels of ``base``; None: nowhere."""
        coverage = self._planes(base.region, "coverage").get("coverage")
        bare = None if self.nodata is None else empty(self.stored(base.region), self.nodata)
        return uncovered(base.data, coverage, where=self.recipe.uncovered, empty=bare)

    def plane(self, name: str, region: Region) -> Patch | None:
        """Pixels of a plane beside the image; None if the input has none."""
        return self.patch(self.input[name].read(region), region) if name in self.input else None

    def _planes(self, region: Region, *names: str) -> dict[str, NDArray[Any]]:
        return {name: self.input[name].read(region) for name in names if name in self.input}

    def write(self, path: str, region: Region, data: NDArray[Any]) -> str:
        """Write one whole object of an array and return its path."""
        array = self.array(path)
        written = object_path(array, tile_index(array, region))
        if is_plain(array):
            self.root.write(written, *encoded_object(array, region, data))
        else:
            for name, content in encoded(array, region, data).items():
                self.root.write(name, content)
        return written

    def made(self, stage: str, index: Index) -> list[str]:
        """Objects that a task makes, by the plan."""
        return self.store.layout.objects(self.stages[stage], index)

    def owned(self, stage: Stage, index: Index) -> list[str]:
        """Objects that a task of a stage may write, by the plan."""
        return list(dict.fromkeys([summary_path(stage.name, index), *self.made(stage.name, index)]))


@lru_cache(maxsize=4)
def context(root: str, run_id: str) -> Context:
    """Return the context of a run, one a process."""
    return Context(folder_at(root), run_id)


def forget(root: str, run_id: str) -> None:
    """Close what this process holds open of a run."""
    for plane in context(root, run_id).__dict__.get("source", {}).values():
        plane.close()
    context.cache_clear()
