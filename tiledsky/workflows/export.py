"""Streams in and out of stores: export of a run to FITS, ingest of FITS to Zarr, simulated scenes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import zarr
from numpy.typing import NDArray

from tiledsky.engine.inputs import open_input
from tiledsky.engine.result import Run, open_run
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair, Region, TileGrid
from tiledsky.io.fits.image import Plane, write_fits
from tiledsky.io.fits.table import Column
from tiledsky.io.inside import unforeseen
from tiledsky.io.options import InputOptions
from tiledsky.io.plane_reader import HEADER, MASK_BITS, NODATA
from tiledsky.io.store import create_plane
from tiledsky.io.targets import check_fits_name, check_store_name
from tiledsky.io.zarr.objects import WHOLE
from tiledsky.io.zarr.reader import read_plane
from tiledsky.io.zarr.shards import write_object
from tiledsky.simulate import Catalogue, scene_block, simulate_scene
from tiledsky.workflows.footprints import CSV_NAME, footprint_columns, footprints_table
from tiledsky.workflows.objects import object_columns, objects_table, write_csv
from tiledsky.workflows.outputs import EXPORTED, fill_of, result_header

#: Tile of stores that are not runs: a multiple of common boxes and chunks.
_TILE = 1920
_ROWS = 256

#: Called with rows done and rows in all.
RowProgress = Callable[[int, int], None]


def export(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    planes: Sequence[str] = EXPORTED,
    overwrite: bool = False,
    progress: RowProgress | None = None,
) -> None:
    """Write planes of a run to a FITS file, one extension each, with the header and WCS of the science image.

    Large objects that the run found follow as the table ``OBJECTS``, constants of footprints as ``FOOTPRINTS``. An
    ``out`` that ends in ``footprints.csv`` is the second table alone, any other ``.csv`` the first. Streamed: memory is
    a row of the store's inner chunks.

    Raises
    ------
    ParameterError
        A plane that the run does not have; a file that exists, without ``overwrite``; no step that makes the table of a
        CSV.
    RunError
        An unfinished run; a disk without room.
    """
    check_fits_name(Path(out), others=(".csv",))
    run = run if isinstance(run, Run) else open_run(run)
    if Path(out).suffix.lower() == ".csv":
        write_csv(_table_of(run, Path(out)), Path(out), overwrite=overwrite)
        return
    if not planes:
        raise ParameterError(f"no plane to export; name some of {', '.join(run.planes)}")
    arrays = [run.plane(name) for name in planes]
    count = RowCount(sum(a.shape[0] for a in arrays), progress)
    images = [
        Plane(
            name.upper(),
            tuple(array.shape),
            array.dtype,
            lambda y0, y1, array=array: count.after(  # type: ignore[misc]
                read_plane(array, Region(y0, y1, 0, array.shape[1])), y1 - y0
            ),
            block_rows=array.chunks[0],
        )
        for name, array in zip(planes, arrays, strict=True)
    ]
    versions = run.provenance["versions"]
    history = [f"tiledsky {versions['tiledsky']}: recipe {run.recipe.name}, run {run.provenance['run_id']}"]
    header = result_header(run.header, fill_of(run.recipe, run.provenance["input"], run.provenance.get("nodata")))
    tables = [objects_table(run.objects, run.header)] if run.objects is not None else []
    tables += [footprints_table(run.footprints, run.header)] if run.footprints is not None else []
    after = (lambda: b"".join(tables)) if tables else None
    write_fits(out, images, header=header, history=history, overwrite=overwrite, after=after)


def _table_of(run: Run, out: Path) -> list[Column]:
    """Columns of the table that the name of a CSV file means."""
    of_footprints = out.name.lower().endswith(CSV_NAME)
    rows, kind = (run.footprints, "footprints") if of_footprints else (run.objects, "objects")
    if rows is None:
        other = f"; constants of footprints are in a name that ends in {CSV_NAME}" if run.footprints is not None else ""
        raise ParameterError(
            f"{run.path}: recipe {run.recipe.name} has no {kind} step, so there is no table; run one that has{other}"
        )
    return footprint_columns(rows, run.header) if of_footprints else object_columns(rows, run.header)


class RowCount:
    """Counts rows as they pass."""

    def __init__(self, total: int, progress: RowProgress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def after(self, rows: NDArray[Any], count: int) -> NDArray[Any]:
        """Report ``count`` rows more and hand ``rows`` through."""
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)
        return rows


@contextmanager
def new_store(out: str | os.PathLike[str]) -> Iterator[zarr.Group]:
    """Make a store under a temporary name; it gets its own when all is written."""
    path = Path(out)
    check_store_name(path)
    if os.path.lexists(path):
        raise ParameterError(f"{path} exists and is not overwritten; change the name or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist; make it or change the name")
    temporary = unforeseen(path)
    temporary.mkdir()  # which fails if anything is there
    try:
        yield zarr.open_group(str(temporary), mode="w")
        if os.path.lexists(path):
            raise ParameterError(f"{path} appeared while it was written, and is not overwritten; change the name")
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_plane(
    group: zarr.Group,
    name: str,
    shape: Pair,
    dtype: str,
    read: Callable[[Region], NDArray[Any]],
    count: RowCount,
    *,
    tile: Pair = (_TILE, _TILE),
) -> zarr.Array[Any]:
    """Write a plane tile by tile and return its array, which says that all of its objects were written."""
    array = create_plane(group, name, shape=shape, dtype=dtype, tile=tile)
    grid = TileGrid(shape, tile)
    for index in grid:
        region = grid.region(index)
        pixels = read(region)
        write_object(array, region, count.after(pixels, region.shape[0] if region.x1 == shape[1] else 0))
    array.attrs[WHOLE] = 1
    return array


def ingest(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: RowProgress | None = None,
    **inputs: Unpack[InputOptions],
) -> None:
    """Copy a FITS image and the planes beside it to a Zarr store that runs read in place.

    The store appears under its name when it is whole. Memory: one tile of 1920 x 1920 pixels. ``inputs``: see
    `tiledsky.io.source.InputOptions`.

    Raises
    ------
    InputError
        See `tiledsky.io.source.open_source`.
    ParameterError
        ``out`` exists.
    """
    planes = open_input(source, **inputs)
    count = RowCount(planes.shape[0] * len(planes.planes), progress)
    with new_store(out) as group:
        group.attrs.update({HEADER: planes.header, WHOLE: list(planes.planes)})
        for name, plane in planes.planes.items():
            reader = plane.open()
            array = copy_plane(group, name, planes.shape, plane.dtype, reader.read, count)
            if name == "source_mask":
                array.attrs[MASK_BITS] = 1
            if plane.nodata is not None:
                array.attrs[NODATA] = plane.nodata


def simulate(
    out: str | os.PathLike[str],
    *,
    shape: Pair,
    seed: int,
    truth: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: RowProgress | None = None,
    **options: Any,
) -> None:
    """Write a simulated scene (see `tiledsky.simulate_scene`) as FITS or Zarr, by the suffix of ``out``.

    ``truth`` names a Zarr store for the noiseless sky (plane ``sky``). Streamed: any size.
    """
    check_fits_name(Path(out), others=(".zarr",))
    if truth is not None:
        check_store_name(truth)
    catalogue = simulate_scene(shape, seed=seed, chunks=shape, **options).catalogue  # lazy: no pixel is made here
    count = RowCount(shape[0] * (1 if truth is None else 2), progress)
    if Path(out).suffix == ".zarr":
        _store_scene(out, "science", catalogue, "image", shape, count)
    else:
        rows = lambda y0, y1: count.after(scene_block(catalogue, y0, y1, 0, shape[1]), y1 - y0)  # noqa: E731
        image = Plane("SCI", shape, np.dtype(np.float32), rows, block_rows=_ROWS)
        write_fits(out, [image], history=[f"tiledsky simulate, seed {seed}"], single=True, overwrite=overwrite)
    if truth is not None:
        _store_scene(truth, "sky", catalogue, "sky", shape, count)


def _store_scene(
    out: str | os.PathLike[str], name: str, catalogue: Catalogue, part: Any, shape: Pair, count: RowCount
) -> None:
    with new_store(out) as group:
        copy_plane(group, name, shape, "float32", lambda r: scene_block(catalogue, *r, part=part), count)
