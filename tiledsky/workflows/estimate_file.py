"""A recipe from file to file in one process: threads, no run store, nothing to resume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

import tiledsky
from tiledsky.arrays.estimate import Sky, estimated
from tiledsky.engine.inputs import check_planes, open_input, warn_of_constants
from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair
from tiledsky.io.fits.image import NewImage, Plane, check_target, new_fits
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.fits.wcs import for_image
from tiledsky.io.options import InputOptions
from tiledsky.io.plane_reader import SourcePlane
from tiledsky.io.source import Source
from tiledsky.operations.background import Boxes
from tiledsky.operations.base import NO_HALO, PixelOperation
from tiledsky.operations.compile import compiled
from tiledsky.overlap import Patch, blank, is_dask_array, map_patches
from tiledsky.recipe import Recipe
from tiledsky.workflows.estimate_memory import check_memory
from tiledsky.workflows.footprints import footprints_table
from tiledsky.workflows.objects import objects_table
from tiledsky.workflows.outputs import EXPORTED, fill_of, result_header

#: Pixels of a band of rows, at least, so that the work on it outweighs its bookkeeping.
_BAND = 1 << 20
#: Bands are at least so many times as high as the halo.
_HALOS = 8
#: Called with tasks done and tasks in all.
TaskProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class EstimateReport:
    """What `estimate` wrote.

    Attributes
    ----------
    shape : (int, int)
    recipe : str
        Its name.
    planes : tuple of str
    nodata : float or None
        The number that meant no data.
    footprints : ndarray or None
        Table of the constants of footprints, if the recipe finds them.
    """

    shape: Pair
    recipe: str
    planes: tuple[str, ...]
    nodata: float | None = None
    footprints: NDArray[np.void] | None = None


def estimate(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe | str,
    *,
    planes: Sequence[str] = EXPORTED,
    threads: int | None = None,
    overwrite: bool = False,
    progress: TaskProgress | None = None,
    **inputs: Unpack[InputOptions],
) -> EstimateReport:
    """Estimate the sky of an image that fits in memory and write it to FITS: `tiledsky.estimate_background` on files.

    The pixels are those of a run and its export, to the bit.

    Parameters
    ----------
    source, recipe, **inputs
        As of `tiledsky.run`.
    out : path
        FITS file: an extension a plane, with the header and WCS of the science image, and tables of large objects and
        of footprints if the recipe finds them. It appears when it is whole.
    planes : sequence of str
        Some of background, background_rms, background_error, mask, subtracted, in this order in the file.
    threads : int, optional
        Default: one for each core that this process may use.
    overwrite : bool
        Replace ``out``, but never a file that is read.
    progress : callable, optional
        Called with tasks done and in all.

    Returns
    -------
    EstimateReport

    Raises
    ------
    ParameterError, InputError
        As of `tiledsky.run`; planes that are none; ``out`` exists, or is part of the input.
    PlanError
        Not enough memory (`tiledsky.workflows.estimate_memory`). All these before anything is written.
    RunError
        No room or permission to write.

    Notes
    -----
    Memory: see `tiledsky.workflows.estimate_memory`. The image is cut into bands of whole rows, which lie in one piece
    in FITS; the threads read them, work on them (`dask.array`) and write them in any order.
    """
    target = Path(out)
    check_target(target, overwrite=overwrite)
    _check_names(planes)
    threads = _threads(threads)
    recipe = Recipe.load(recipe)
    opened = open_input(source, **inputs)
    header = parse_header(opened.header)
    recipe = for_image(recipe, header)
    _check_not_read(target, opened)
    bits = check_planes(recipe, opened)
    rows = band_rows(recipe, opened.shape, threads)
    band = (rows, opened.shape[1])
    check_memory(recipe, opened, planes, band=band, halo=halo_rows(recipe), threads=threads)
    warn_of_constants(opened, bits)
    with ExitStack() as stack:
        sky = _sky(recipe, opened, header, rows, stack)
        arrays = [getattr(sky, name) for name in planes]
        images = [Plane(name.upper(), opened.shape, array.dtype) for name, array in zip(planes, arrays, strict=True)]
        history = [f"tiledsky {tiledsky.__version__}: recipe {recipe.name}, estimate of {Path(source).name}"]
        header = result_header(header, fill_of(recipe, opened.planes, opened.planes["science"].nodata))
        found: list[Any] = []
        known = (sky.objects, sky.footprints)
        after = None if all(table is None for table in known) else lambda: _tables(found[0], header)
        options = {"header": header, "history": history, "overwrite": overwrite, "after": after}
        found.append(_write(arrays, stack.enter_context(new_fits(target, images, **options)), threads, progress, known))
    return EstimateReport(opened.shape, recipe.name, tuple(planes), opened.planes["science"].nodata, found[0][1])


def _tables(known: tuple[Any, Any], header: Any) -> bytes:
    """Tables that follow the planes."""
    objects, footprints = known
    tables = [objects_table(objects, header)] if objects is not None else []
    return b"".join(tables + ([footprints_table(footprints, header)] if footprints is not None else []))


def _check_names(planes: Sequence[str]) -> None:
    known = ", ".join(EXPORTED)
    if not planes:
        raise ParameterError(f"no plane to write; name some of {known}")
    for name in planes:
        if name not in EXPORTED:
            raise ParameterError(f"no plane {name!r}; there are {known}, and `tiledsky run` keeps others")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(threads: int | None) -> int:
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise ParameterError(f"{threads} threads do no work; use at least 1")
    return threads


def _check_not_read(target: Path, source: Source) -> None:
    for name, plane in source.planes.items():
        if not plane.url and target.exists() and target.samefile(plane.path):
            raise ParameterError(f"{target}: is the {name} plane of the input, which is not overwritten; name another")


def band_rows(recipe: Recipe, shape: Pair, threads: int) -> int:
    """Rows of the bands that an image is cut into: whole boxes, enough for the halo, and a few bands a thread.

    The halo is read and worked on twice where two bands meet; the result does not depend on the bands.
    """
    boxes = math.lcm(*(size[0] for operation in compiled(recipe).stages for size in operation.boxes()))
    halo = halo_rows(recipe)
    rows = max(-(-_BAND // shape[1]), min(_HALOS * halo, -(-shape[0] // (2 * threads))), halo)
    rows = -(-rows // boxes) * boxes if boxes < shape[0] else rows
    return min(rows, shape[0])


def halo_rows(recipe: Recipe) -> int:
    """Rows on both sides of a band that its steps read, at most."""
    return max(o.halo[0] for o in compiled(recipe).stages if isinstance(o, PixelOperation | Boxes))


class _Pixels:
    """A plane of the input, opened, that Dask tells from others by what is in it."""

    def __init__(self, plane: SourcePlane) -> None:
        self.plane, self.reader = plane, plane.open()

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return self.plane.path, self.plane.identity, self.plane.dtype


def _read(template: Patch, *, pixels: _Pixels) -> Patch:
    return template.replaced(pixels.reader.read(template.region))


def _sky(recipe: Recipe, source: Source, header: Any, rows: int, stack: ExitStack) -> Sky:
    """Return the sky: numpy arrays of an image that is one band, else dask arrays that read the input when computed.

    What is read is closed by ``stack``.
    """
    ny, nx = source.shape
    template = np.broadcast_to(np.False_, source.shape)
    if rows < ny:  # one band needs no Dask, which takes half a second to load
        import dask.array as da
        from dask import config

        # else Dask loads distributed, to ask it whether there is a cluster that would rechunk in another way
        stack.enter_context(config.set({"array.rechunk.method": "tasks"}))
        template = blank(da.zeros(source.shape, chunks=(rows, nx), dtype=bool))
    planes = {}
    for name, plane in source.planes.items():
        pixels = _Pixels(plane)
        stack.callback(pixels.reader.close)
        func = partial(_read, pixels=pixels)
        planes[name] = map_patches(func, template, halo=NO_HALO, dtype=np.dtype(plane.dtype), name=f"read_{name}")
    nodata = source.planes["science"].nodata
    return estimated(planes.pop("science"), recipe, planes, nodata=nodata, header=header)[0]


def _write(
    arrays: Sequence[Any], images: Sequence[NewImage], threads: int, progress: TaskProgress | None, tables: Any
) -> Any:
    """Compute planes and write them, each band as soon as it is there; return the tables, computed."""
    if not is_dask_array(arrays[0]):
        for pixels, image in zip(arrays, images, strict=True):
            image.put(pixels, 0)
        if progress is not None:
            progress(1, 1)
        return tables
    import dask.array as da
    from dask import compute
    from dask.callbacks import Callback
    from dask.threaded import get

    def told(key: Any, value: Any, graph: Any, state: Any, worker: Any) -> None:
        if progress is not None:
            done = len(state["finished"])
            progress(done, done + sum(len(state[kind]) for kind in ("ready", "waiting", "running")))

    writes = []
    for array, image in zip(arrays, images, strict=True):
        starts = tuple(np.cumsum((0, *array.chunks[0])).tolist())
        chunks = tuple((1,) * n for n in array.numblocks)
        put = partial(_put, image=image, starts=starts)
        meta = np.empty((0, 0), bool)
        writes.append(da.map_blocks(put, array, dtype=bool, meta=meta, chunks=chunks, name=f"write-{array.name}"))
    # the pool, which is left when all its threads rest: none of them writes to a file that is closed after an error
    with Callback(posttask=told), ThreadPoolExecutor(threads) as pool:
        *_, found = compute(*writes, tables, scheduler=get, pool=pool)
    return found


def _put(pixels: NDArray[Any], *, image: NewImage, starts: tuple[int, ...], block_id: Pair) -> NDArray[np.bool_]:
    image.put(pixels, starts[block_id[0]])
    return np.ones((1, 1), bool)
