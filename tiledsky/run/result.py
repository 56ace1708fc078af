"""The result of a run, opened for reading."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tiledsky.errors import ParameterError, RunError
from tiledsky.fitted import FITTED
from tiledsky.io.address import located
from tiledsky.io.source import HEADER, parse_header
from tiledsky.io.store import RUN_FOLDER, SUCCESS, open_store, read_json
from tiledsky.recipe import Recipe
from tiledsky.run.plan import Plan, measured_by
from tiledsky.run.verify import Checker
from tiledsky.steps import BackgroundStep

#: What `Run.status` says of a task.
STATUS = {"never": 0, "done": 1, "all-masked": 2, "failed": 3}


@dataclass
class Run:
    """A run store, opened.

    Attributes
    ----------
    path : Path
    recipe : Recipe
    plan : Plan
    provenance : dict
        Versions, input, identity, seconds, tasks, peak memory.
    complete : bool
        Whether the run finished; planes of an unfinished one hold fill values where nothing was written.
    """

    path: Path
    recipe: Recipe
    plan: Plan
    provenance: dict[str, Any]
    complete: bool
    group: Any = field(repr=False)

    @property
    def planes(self) -> list[str]:
        """Names of the full-resolution planes."""
        return sorted(name for name, _ in self.group.arrays())

    def plane(self, name: str) -> Any:
        """Return a plane as a Zarr array; slices of it are numpy arrays."""
        if name not in self.group or not isinstance(self.group[name], zarr.Array):
            raise ParameterError(f"{self.path}: no plane {name!r}; it has {', '.join(self.planes)}")
        return self.group[name]

    def mesh(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Low-resolution maps of a background step: background, rms, error, n_good, excluded, of a fitted one more.

        See `tiledsky.mesh.Mesh`.
        """
        step = self.recipe.step(name)
        if not isinstance(step, BackgroundStep):
            raise ParameterError(f"{self.path}: step {name!r} has no mesh; name a background step")
        parts = ["background", "rms", "error", "excluded"]
        parts += FITTED if step.interpolator.kind == "local-polynomial" else ()
        maps = {part: self.group[f"meshes/{name}/{part}"][...] for part in parts}
        folder = name if step.grow_boxes else f"{measured_by(self.recipe, step).name}/measured"
        return {**maps, "n_good": self.group[f"meshes/{folder}/n_good"][...]}

    @property
    def thresholds(self) -> dict[str, Any]:
        """Global statistics and thresholds of the mask steps, tier by tier."""
        folder = self.path / RUN_FOLDER / "thresholds"
        return {file.stem: read_json(self.path, f"thresholds/{file.name}") for file in sorted(folder.glob("*.json"))}

    @property
    def diagnostics(self) -> dict[str, Any]:
        """How good the background is: measures with their errors, and the verdict; see ``docs/quality.md``."""
        found: dict[str, Any] = read_json(self.path, "diagnostics.json")
        return found

    def status(self) -> dict[str, NDArray[np.int8]]:
        """State of every task, by stage: arrays of the shape of the stage's grid of tiles (1 x 1 for gather tasks).

        The numbers are those of `STATUS`: 0 never done (or damaged since), 1 done, 2 done and all of the tile's pixels
        are masked (of the output stage), 3 failed, with its traceback in ``run/failed``.
        """
        checker = Checker(self.path, self.run_id, self.recipe, self.plan)
        states = {}
        for stage in self.plan.stages:
            grid = self.plan.grid(stage)
            state = states[stage.name] = np.zeros(grid.counts, np.int8)
            for index in grid:
                done = checker.done(stage, index)
                if done.usable or (done.kept and checker.settled):
                    marker = checker.marker(stage, index) or {}
                    state[index] = STATUS["all-masked" if marker.get("status") == "all-masked" else "done"]
                elif (self.path / RUN_FOLDER / "failed" / stage.name / f"{index[0]}.{index[1]}.json").is_file():
                    state[index] = STATUS["failed"]
        return states

    @property
    def run_id(self) -> str:
        """Digest of recipe, plan, input and code."""
        return str(self.provenance["run_id"])

    @property
    def header(self) -> Any:
        """FITS header of the science image (empty if it had none)."""
        return parse_header(str(self.group.attrs.get(HEADER, "")))


def open_run(path: str | os.PathLike[str], *, allow_partial: bool = False) -> Run:
    """Open the result of a run.

    Raises
    ------
    InputError
        No such store.
    RunError
        Not a run store, or an unfinished run (a chunk that was never written would read as sky); ``allow_partial=True``
        opens that too, and `Run.status` says what is there.
    """
    root = located(path)
    group = open_store(root)
    if (root / RUN_FOLDER / "preparing").is_file():
        raise RunError(f"{root} was stopped before its first task; give the command that began it")
    if not (root / RUN_FOLDER / "identity.json").is_file():
        raise RunError(f"{root} is a Zarr store but not of a run; give the folder named with --out")
    complete = (root / RUN_FOLDER / SUCCESS).is_file()
    if not complete and not allow_partial:
        raise RunError(f"{root} is not finished: parts of its planes are empty; go on with the command that began it")
    provenance = read_json(root, "provenance.json") if complete else read_json(root, "identity.json")
    recipe = Recipe.from_dict(read_json(root, "recipe.json"))
    return Run(root, recipe, Plan.from_json(read_json(root, "plan.json")), provenance, complete, group)
