"""Stores of finished runs with planes of the test's own, made without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

from tiledsky import Recipe
from tiledsky.io.source import HEADER, open_source
from tiledsky.io.store import RUN_FOLDER, SUCCESS, create_plane, write_bytes, write_json
from tiledsky.run.plan import make_plan

PLAIN = {"name": "plain", "steps": [{"kind": "background", "name": "sky", "box_size": 8}]}


def make_run(
    path: Path,
    planes: dict[str, np.ndarray[Any, Any]],
    *,
    header: fits.Header | None = None,
    recipe: dict[str, Any] | None = None,
    tile: tuple[int, int] = (64, 64),
    science: Path | None = None,
    inputs: tuple[str, ...] = ("science",),
    finished: bool = True,
) -> Path:
    """Write a run store: its planes, and the files of its run folder that reading it needs.

    ``science``: Zarr array that was read in place; ``inputs``: planes that the run had.
    """
    chosen = Recipe.from_dict(recipe or PLAIN)
    first = next(iter(planes.values()))
    group = zarr.open_group(str(path), mode="w")
    group.require_group(RUN_FOLDER)
    group.attrs[HEADER] = "" if header is None else header.tostring(sep="\n", endcard=False, padding=False)
    for name, plane in planes.items():
        create_plane(group, name, shape=first.shape, dtype=plane.dtype, tile=tile)[...] = plane
    plan = make_plan(chosen, first.shape, "float32", tile_size=64, ingest=science is None)
    write_json(path, "recipe.json", chosen.model_dump(mode="json"))
    write_json(path, "plan.json", plan.to_json())
    write_json(path, "identity.json", {"run_id": path.stem})
    if science is not None:
        write_json(path, "source.json", {"science": open_source(science).planes["science"].to_json()})
    versions = {"tiledsky": "0.0"}
    write_json(path, "provenance.json", {"run_id": path.stem, "versions": versions, "input": dict.fromkeys(inputs)})
    if finished:
        write_bytes(path / RUN_FOLDER / SUCCESS, b"")
    return path
