"""Sources put into the image of a run, and the recipe run again on it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tiledsky.diagnostics.injection import Injection, changes, draw, finalize, light
from tiledsky.engine.result import Run
from tiledsky.engine.runner import run as run_recipe
from tiledsky.errors import RunError
from tiledsky.geometry import TileGrid
from tiledsky.images import as_float
from tiledsky.io.files import write_bytes
from tiledsky.io.plane_reader import HEADER, NODATA, PlaneReader
from tiledsky.io.store import create_plane, write_json
from tiledsky.io.targets import check_store_name
from tiledsky.io.zarr.check import open_zarr
from tiledsky.io.zarr.reader import ZarrReader
from tiledsky.io.zarr.shards import write_object
from tiledsky.nodata import empty
from tiledsky.workflows.export import new_store

#: Attribute of an image with sources: of which run, and which sources.
_WHOSE = "tiledsky_injected"


def inject(
    before: Run,
    out: str | os.PathLike[str],
    injection: Injection | None = None,
    *,
    client: Any = None,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Put sources into the image of a finished run, run its recipe again, and measure what the background takes.

    Parameters
    ----------
    before : Run
        Finished, its input where it was (or copied into its store, as FITS files are).
    out : path
        Folder of the new run; the image with the sources is in the folder with ``-input`` before its ending. What
        stands there is never replaced; the same call goes on with what it made.
    injection : Injection, optional
    client : distributed.Client, optional
    progress : callable, optional
        Of the new run.

    Returns
    -------
    dict
        The measure (`tiledsky.diagnostics.injection`), also in ``run/injection.json`` of the new run.

    Raises
    ------
    ParameterError
        Something else stands where the image with the sources would be.
    RunError
        The run has no noise to put sources in proportion to.

    Notes
    -----
    Memory: a tile of the image and its sources; the truth is what is put in, so no simulation is needed.
    """
    check_store_name(out)
    injection = injection or Injection()
    noise = (before.diagnostics.get("image") or {}).get("noise")
    if not noise:
        raise RunError(
            f"{before.path}: the noise is unknown, so fluxes in units of the noise are unknown too; use another run"
        )
    sources = draw(injection, before.plan.shape)
    sources["flux"] *= noise
    path = Path(out)
    copied = path.with_name(f"{path.stem}-input{path.suffix or '.zarr'}")
    whose = {"run_id": before.run_id, **asdict(injection)}
    if not _is_made(copied, whose):
        with new_store(copied) as group:
            _copy(before, group, sources)
            group.attrs[_WHOSE] = whose
    write_bytes(copied / "sources.csv", _table(sources).encode())
    tile = before.plan.tile_size
    with _advising(path):
        after = run_recipe(copied, before.recipe, path, client=client, tile_size=tile, progress=progress)
    rows = changes(sources, before.plane("background"), after.plane("background"))
    found = finalize(sources, rows, noise=noise)
    write_json(after.store.root, "injection.json", found)
    return found


@contextmanager
def _advising(out: Path) -> Iterator[None]:
    """Say in errors about a run store what works here, where nothing that stands there is replaced."""
    try:
        yield
    except RunError as error:
        if "--restart" not in str(error):
            raise
        said = re.sub(r"(start over|run again|the same) with --restart", f"remove {out}", str(error))
        raise RunError(said) from error


def _is_made(path: Path, whose: dict[str, Any]) -> bool:
    """Whether an earlier call made this image; the run on it then goes on where that ended."""
    if not (path / "zarr.json").is_file():
        return False
    found = open_zarr(path)
    return isinstance(found, zarr.Group) and found.attrs.get(_WHOSE) == json.loads(json.dumps(whose))


def _copy(before: Run, group: zarr.Group, sources: NDArray[np.void]) -> None:
    """Write the planes of the input, the image with the sources, a tile at a time."""
    planes = before.store.source()
    stored = any(stage.kind == "ingest" for stage in before.plan.stages)
    opened: dict[str, PlaneReader]
    opened = {name: ZarrReader(before.plane(name)) if stored else plane.open() for name, plane in planes.items()}
    output, nodata = before.plan.stage("output"), planes["science"].nodata
    group.attrs[HEADER] = before.store.header
    for name, plane in opened.items():
        science = name == "science"
        dtype = before.plan.dtype if science else planes[name].dtype
        array = create_plane(group, name, shape=before.plan.shape, dtype=dtype, tile=output.tile)
        if isinstance(plane, ZarrReader):
            array.attrs.update(plane.attributes)
        if science and nodata is not None:
            array.attrs[NODATA] = nodata
        for index in (grid := TileGrid(before.plan.shape, output.tile)):
            region = grid.region(index)
            pixels = plane.read(region)
            if science:
                shone = pixels + light(sources, region).astype(dtype)
                pixels = shone if nodata is None else np.where(empty(as_float(pixels), nodata), pixels, shone)
            write_object(array, region, pixels)


def _table(sources: NDArray[np.void]) -> str:
    names = sources.dtype.names or ()
    rows = [",".join(f"{source[name]:.6g}" for name in names) for source in sources]
    return "\n".join([",".join(names), *rows, ""])
