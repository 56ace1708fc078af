"""What is in a Zarr store that is no run."""

from __future__ import annotations

import os
from typing import Any

import zarr

from tiledsky.errors import InputError
from tiledsky.io.address import located
from tiledsky.io.folders import folder_at
from tiledsky.io.store import RUN_FOLDER
from tiledsky.io.zarr.check import open_zarr


def arrays_of(path: str | os.PathLike[str]) -> dict[str, zarr.Array[Any]] | None:
    """Arrays of a store or an array alone, by name; None of a run, which `tiledsky.open_run` opens.

    Raises
    ------
    InputError
        No Zarr, or nothing in it.
    """
    place = located(path)
    if (place / RUN_FOLDER).is_dir():
        return None
    node = open_zarr(place)
    if isinstance(node, zarr.Array):
        return {place.name: node}
    found = {name: node[name] for name in folder_at(place).members(node) or ()}
    arrays = {name: array for name, array in found.items() if isinstance(array, zarr.Array)}
    if not arrays:
        raise InputError(f"{path}: a Zarr group without arrays, so there is nothing to describe; name one of its parts")
    return arrays
