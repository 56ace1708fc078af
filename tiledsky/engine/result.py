"""The result of a run, opened for reading."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.checked_store import CheckedStore, open_checked_store
from tiledsky.engine.documents import read_diagnostics, read_footprints, read_objects, read_provenance, read_tiers
from tiledsky.engine.plan import Plan
from tiledsky.engine.verify import Checker
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.geometry import Region
from tiledsky.io.address import Place
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.folders import folder_at
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.store import RUN_FOLDER
from tiledsky.io.zarr.reader import read_plane
from tiledsky.plain import did_you_mean, plain
from tiledsky.recipe import Recipe

#: What `Run.status` says of a task.
STATUS = {"never": 0, "done": 1, "all-masked": 2, "failed": 3}


@dataclass(repr=False)
class Run:
    """A run store, opened.

    Attributes
    ----------
    path : Path
        Of a store in a bucket a `tiledsky.io.address.Address`.
    recipe : Recipe
    plan : Plan
    provenance : dict
        Versions, input, identity, seconds, tasks, peak memory.
    complete : bool
        Whether the run finished; planes of an unfinished one hold fill values where nothing was written.
    """

    path: Place
    recipe: Recipe
    plan: Plan
    provenance: dict[str, Any]
    complete: bool
    store: CheckedStore

    def __repr__(self) -> str:
        """Return what it is in four lines: recipe and plan have hundreds."""
        ny, nx = self.plan.shape
        return "\n".join(
            [
                f"Run {plain(self.path)}: {'finished' if self.complete else 'NOT finished'}",
                f"  image   {ny} x {nx} px (y, x), {self.plan.dtype}",
                f"  recipe  {self.recipe.name}: {', '.join(step.name for step in self.recipe.steps)}",
                f"  planes  {', '.join(self.planes)}",
            ]
        )

    @property
    def planes(self) -> list[str]:
        """Names of the full-resolution planes."""
        return self.store.planes

    def plane(self, name: str) -> Any:
        """Return a plane as a Zarr array; slices of it are numpy arrays."""
        layout = self.store.layout
        kept = self.complete and name in layout.arrays and "/" not in name and not layout.is_scratch(name)
        if not kept and name not in self.planes:
            known = ", ".join(self.planes)
            raise ParameterError(f"{self.path}: no plane {name!r}; it has {known}{did_you_mean(name, self.planes)}")
        return self.array(name)

    def array(self, path: str) -> Any:
        """Return an array of the store, a plane or another; see `tiledsky.engine.checked_store.CheckedStore.array`."""
        return self.store.array(path)

    def mesh(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Low-resolution maps of a background step: background, rms, error, n_good, excluded, of a fitted one more.

        See `tiledsky.operations.mesh.Mesh`.
        """
        self.recipe.step(name)  # refuses a name that is none
        mesh = self.store.layout.operations.meshes.get(name)
        if mesh is None:
            raise ParameterError(f"{self.path}: step {name!r} has no mesh; name a background step")
        return {part: _whole(self.array(path)) for part, path in mesh.kept_maps().items()}

    @property
    def objects(self) -> NDArray[np.void] | None:
        """Large objects, an array of `tiledsky.kernels.objects.catalogue.OBJECT`; None without a step that finds them.

        The brightest first.
        """
        operation = self.store.layout.operations.objects
        return None if operation is None else read_objects(self.store.root, str(operation.step))

    @property
    def footprints(self) -> NDArray[np.void] | None:
        """Constants of the footprints that the background has, by number; None without a step that measures them.

        An array of `tiledsky.kernels.footprints.terms.FOOTPRINT`.
        """
        operation = self.store.layout.operations.footprints
        return None if operation is None else read_footprints(self.store.root, str(operation.step))

    @property
    def thresholds(self) -> dict[str, Any]:
        """Global statistics and thresholds of the mask steps, tier by tier."""
        steps = sorted(str(stage.step) for stage in self.plan.stages if stage.kind == "statistics")
        there = [s for s in steps if self.complete or self.store.root.stands(f"{RUN_FOLDER}/thresholds/{s}.json")]
        return {step: read_tiers(self.store.root, step) for step in there}

    @property
    def diagnostics(self) -> dict[str, Any]:
        """How good the background is: measures with their errors, and the verdict; see ``docs/quality.md``."""
        return read_diagnostics(self.store.root)

    def status(self) -> dict[str, NDArray[np.int8]]:
        """State of every task, by stage: arrays of the shape of the stage's grid of tiles (1 x 1 for gather tasks).

        The numbers are those of `STATUS`: 0 never done (or damaged since), 1 done, 2 done and all of the tile's pixels
        are masked (of the output stage), 3 failed, with its traceback in ``run/failed``.
        """
        checker = Checker(self.store.root, self.run_id, self.store.layout)
        states = {}
        for stage in self.plan.stages:
            grid = self.plan.grid(stage)
            state = states[stage.name] = np.zeros(grid.counts, np.int8)
            for index in grid:
                done = checker.done(stage, index)
                if done.usable or (done.kept and checker.settled):
                    marker = checker.marker(stage, index) or {}
                    state[index] = STATUS["all-masked" if marker.get("status") == "all-masked" else "done"]
                elif self.store.root.is_file(f"{RUN_FOLDER}/failed/{stage.name}/{index[0]}.{index[1]}.json"):
                    state[index] = STATUS["failed"]
        return states

    @cached_property
    def science_in_place(self) -> PlaneReader | None:
        """The image that the run read where it was; None if it is gone or has changed."""
        plane = self.store.source()["science"]
        try:
            now = plane.again()
        except InputError:
            return None
        return plane.open() if now.identity == plane.identity else None

    @property
    def run_id(self) -> str:
        """Digest of recipe, plan, input and code."""
        return self.store.run_id

    @property
    def header(self) -> Any:
        """FITS header of the science image (empty if it had none)."""
        return parse_header(self.store.header)


def open_run(path: str | os.PathLike[str], *, allow_partial: bool = False) -> Run:
    """Open the result of a run.

    Raises
    ------
    InputError
        No such store.
    RunError
        Not a run store, or one that is damaged or holds links (`tiledsky.engine.checked_store`). An unfinished run (a
        chunk that was never written reads as sky); ``allow_partial=True`` opens that too, `Run.status` says what is
        there.
    """
    root = folder_at(path)
    if root.is_file(f"{RUN_FOLDER}/preparing"):
        raise RunError(f"{root} stopped before its first task; give the command that began it")
    store = open_checked_store(root)
    if not store.finished and not allow_partial:
        raise RunError(
            f"{root} is not finished, and parts of its planes are empty; finish it with the command that began it"
        )
    provenance = read_provenance(root, store.known) if store.finished else store.known
    return Run(root.path, store.recipe, store.plan, provenance, store.finished, store)


def _whole(array: Any) -> NDArray[Any]:
    return read_plane(array, Region.whole(array.shape))
