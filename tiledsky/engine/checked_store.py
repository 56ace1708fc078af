"""A run store, checked when it is opened: every command that reads a store opens it here, whoever wrote it.

A checked store has no links, and its recipe and plan are those of its identity. Its arrays have the shape, type, tiles,
chunks and codecs of the plan, so that zarr decodes nothing but numbers, and at most one chunk of the plan at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from tiledsky.engine.documents import check_identity, read_identity, read_plan, read_recipe, read_source
from tiledsky.engine.layout import Layout
from tiledsky.engine.plan import Plan
from tiledsky.errors import InputError, RunError
from tiledsky.geometry import inner_chunk
from tiledsky.io.folders import Folder
from tiledsky.io.plane_reader import HEADER, SourcePlane
from tiledsky.io.store import RUN_FOLDER, SUCCESS, open_plane, open_store
from tiledsky.io.zarr.check import CHUNK_BYTES
from tiledsky.io.zarr.shards import is_made_here
from tiledsky.operations.base import ArraySpec
from tiledsky.recipe import Recipe


@dataclass(frozen=True)
class CheckedStore:
    """A run store that passed the checks of `open_checked_store`.

    Attributes
    ----------
    root : Folder
    known : dict
        Its identity: whose run it is.
    recipe : Recipe
    plan : Plan
    """

    root: Folder
    known: dict[str, Any]
    recipe: Recipe
    plan: Plan
    _opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def run_id(self) -> str:
        """Digest of recipe, plan, input and code."""
        return str(self.known["run_id"])

    @cached_property
    def layout(self) -> Layout:
        """Arrays and objects that the store may have."""
        return Layout(self.recipe, self.plan, self.known["dtypes"])

    @cached_property
    def header(self) -> str:
        """FITS header of the science image, as text."""
        return str(open_store(self.root).attrs.get(HEADER, ""))

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.root.is_file(f"{RUN_FOLDER}/{SUCCESS}")

    @property
    def planes(self) -> list[str]:
        """Names of the full-resolution planes that are there."""
        names = (name for name in self.layout.arrays if "/" not in name)
        return sorted(name for name in names if self.root.is_file(f"{name}/zarr.json"))

    def source(self) -> dict[str, SourcePlane]:
        """Planes of the input, as the run's identity knows them."""
        return read_source(self.root, self.known)

    def array(self, path: str) -> zarr.Array[Any]:
        """Return an array of the plan, opened for reading.

        Raises
        ------
        RunError
            It is not there, or not as the plan says.
        """
        if path not in self._opened:
            spec = self.layout.arrays.get(path)
            if spec is None:
                raise RunError(f"{self.root}: the plan of this run has no array {path!r}; name one of its arrays")
            self._opened[path] = checked_array(self.root, path, spec)
        found: zarr.Array[Any] = self._opened[path]
        return found


def open_checked_store(root: Folder) -> CheckedStore:
    """Open a run store and check its documents.

    Raises
    ------
    InputError
        There is no store.
    RunError
        It is not of a run; links in it; documents that are missing, damaged, or contradict each other.
    """
    if not root.path.is_dir():
        raise InputError(f"{root}: no such Zarr store; give the folder that a run or ingest wrote")
    root.check()
    known = read_identity(root)
    if known is None:
        if not root.is_file(f"{RUN_FOLDER}/identity.json"):
            open_store(root)
            raise RunError(f"{root} is a Zarr store but not a run store; give the folder named with --out")
        raise RunError(f"{root / RUN_FOLDER / 'identity.json'} is damaged; the command that made the run repairs it")
    recipe = read_recipe(root)
    plan = read_plan(root, recipe)
    check_identity(root, known, recipe, plan)
    return CheckedStore(root, known, recipe, plan)


def checked_array(root: Folder, path: str, spec: ArraySpec) -> zarr.Array[Any]:
    """Open an array of a store; a RunError if it is not what the plan says of it."""
    where = root / path
    try:
        array = open_plane(root, path)
        found = (array.shape, array.dtype.name, array.chunks, array.shards)
        made_here, fill = is_made_here(array), array.fill_value
    except RunError:
        raise
    except Exception as error:  # damaged metadata raise whatever the parser meets first
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{where}: tiledsky cannot read the array ({said}); {_REPAIR}") from None
    chunks = inner_chunk(spec.tile[0]), inner_chunk(spec.tile[1])
    shards = None if chunks == spec.tile else spec.tile
    if found != (spec.shape, spec.dtype, chunks, shards) or not made_here or not _is_fill(fill, spec.dtype):
        raise RunError(
            f"{where}: the array does not match the plan of this run: {spec.shape} {spec.dtype} in tiles of "
            f"{spec.tile}, with the codecs of tiledsky; {_REPAIR}"
        )
    if math.prod(chunks) * np.dtype(spec.dtype).itemsize > CHUNK_BYTES:
        raise RunError(f"{where}: chunks of {chunks} take more than {CHUNK_BYTES >> 20} MB; run with another tile size")
    return array


_REPAIR = "the command that made the run repairs it"


def _is_fill(value: Any, dtype: str) -> bool:
    return bool(np.isnan(value)) if np.dtype(dtype).kind == "f" else bool(value == 0)
