"""Stores of finished runs with planes of the test's own, made without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

from tiledsky import Recipe
from tiledsky.engine.layout import Layout
from tiledsky.engine.plan import identity, make_plan, run_id
from tiledsky.io.files import write_bytes
from tiledsky.io.folders import LocalFolder
from tiledsky.io.plane_reader import ROLES
from tiledsky.io.source import open_source
from tiledsky.io.store import RUN_FOLDER, SUCCESS, sealed, write_json

PLAIN = {"name": "plain", "steps": [{"kind": "background", "name": "sky", "box_size": 8}]}


def make_run(
    path: Path,
    planes: dict[str, np.ndarray[Any, Any]],
    *,
    header: fits.Header | None = None,
    recipe: dict[str, Any] | None = None,
    tile: int = 64,
    science: Path | None = None,
    inputs: tuple[str, ...] = ("science",),
    finished: bool = True,
    **facts: Any,
) -> Path:
    """Write a run store: its planes, and the files of its run folder that reading it needs.

    ``science``: Zarr array that was read in place; ``inputs``: planes that the run had; ``facts``: of its provenance.
    """
    chosen = Recipe.from_dict(recipe or PLAIN)
    first = next(iter(planes.values()))
    read = None if science is None else open_source(science).planes["science"]
    dtypes = {name: plane.dtype.name for name, plane in planes.items() if name in ROLES}
    dtypes = {"science": "float32", **dtypes} if read is None else {"science": read.dtype}
    floats = [plane.dtype.name for name, plane in planes.items() if name not in ROLES and plane.dtype.kind == "f"]
    plan = make_plan(chosen, first.shape, (floats or ["float32"])[0], tile_size=tile, ingest=science is None)
    parts, told = Layout(chosen, plan, dtypes), {name: f"input {name}" for name in dtypes}
    if read is not None:
        told["science"] = read.identity
        write_json(LocalFolder(path), "source.json", {"science": read.to_json()})
    for name, data in parts.zarr_files("" if header is None else header.tostring("\n", False, False)).items():
        if "/" not in name or not name.endswith("/zarr.json") or name.removesuffix("/zarr.json") in (*planes, "run"):
            write_bytes(path / name, data)
    group = zarr.open_group(str(path), mode="r+")
    for name, plane in planes.items():
        group[name][...] = plane  # type: ignore[index]
    digests = identity(chosen, plan, told)
    known = {
        "identity": digests,
        "run_id": run_id(digests),
        "code": "0.0",
        "libraries": {},
        "input": told,
        "dtypes": dtypes,
        "files": {},
    }
    write_json(LocalFolder(path), "recipe.json", chosen.model_dump(mode="json"))
    write_json(LocalFolder(path), "plan.json", plan.to_json())
    write_json(LocalFolder(path), "identity.json", sealed(known))
    made = {
        "run_id": run_id(digests),
        "versions": {"tiledsky": "0.0"},
        "recipe": chosen.name,
        "input": dict.fromkeys(inputs),
    }
    write_json(LocalFolder(path), "provenance.json", sealed({**made, **facts}))
    if finished:
        write_bytes(path / RUN_FOLDER / SUCCESS, b"")
    return path
