"""Looking at a run of any size: a window of a plane, in as few cells as a screen shows.

Where a cell is larger than a pixel, the means of blocks that the run keeps (`tiledsky.operations.output`) are read, so
that no more is read than is shown, but for a factor of 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.result import Run
from tiledsky.errors import ParameterError
from tiledsky.geometry import Region, boxes_of
from tiledsky.images import as_float
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.zarr.reader import ZarrReader, read_plane
from tiledsky.kernels.filters.blocks import block_means
from tiledsky.operations.output import OVERVIEW_PLANES, overview_path

#: Smooth planes whose cells are read off the mesh: name to the map of the mesh.
_SMOOTH = {"background_rms": "rms", "background_error": "error"}
#: Pixels (or cells of a level) that are read at a time.
_BAND = 1 << 22


@dataclass(frozen=True)
class Window:
    """Part of a plane.

    Attributes
    ----------
    cells : ndarray of float32, shape (ny, nx)
        Means of blocks of ``size`` x ``size`` pixels; NaN where a block has no pixel that counts.
    region : Region
        Pixels of the image that the cells cover; the last row and column of cells may be cut by its border.
    size : int
        1: the cells are pixels.
    """

    cells: NDArray[np.float32]
    region: Region
    size: int


def planes_to_look_at(run: Run) -> list[str]:
    """Names that `read_window` takes: the planes of the result, ``residual``, and ``science`` if it is there."""
    names = [*OVERVIEW_PLANES, *_SMOOTH]
    return [name for name in names if name != "science" or _overviews(run) or _science(run) is not None]


def read_window(run: Run, name: str, region: Region | None = None, *, largest: int = 1024) -> Window:
    """Read a window of a plane in at most about ``largest`` cells a side.

    Parameters
    ----------
    run : Run
    name : str
        One of `planes_to_look_at`: the mask is the share of pixels left out (0 to 1), the residual the subtracted
        plane where the mask is 0.
    region : Region, optional
        Default: the whole image.
    largest : int
        Cells along the longer side.

    Returns
    -------
    Window
        Its region is ``region`` grown to whole blocks.

    Raises
    ------
    ParameterError
        No such plane; a region outside the image.

    Notes
    -----
    Memory: a window of ``largest`` x ``largest`` float32 cells, and 4 Mi pixels of the planes that are read.
    """
    shape = run.plan.shape
    region = region or Region.whole(shape)
    if not Region.whole(shape).contains(region) or min(region.shape) < 1:
        raise ParameterError(f"{region} is not inside an image of {shape[0]} x {shape[1]} px; choose pixels inside it")
    wanted = -(-max(region.shape) // largest)
    stored = max(size for size in (1, *_overviews(run)) if size <= wanted)
    size = stored * (-(-wanted // stored))
    cells = boxes_of(_aligned(region, size), (size, size))
    whole = Region(cells.y0 * size, cells.y1 * size, cells.x0 * size, cells.x1 * size).grown((0, 0), shape)
    if stored > 1 and name in _SMOOTH:
        return Window(_sampled(run, _SMOOTH[name], cells, size), whole, size)
    out = np.empty(cells.shape, np.float32)
    rows = max(_BAND // (whole.shape[1] // stored + 1) // (size // stored), 1)
    for first in range(0, cells.shape[0], rows):
        last = min(first + rows, cells.shape[0])
        band = Region(whole.y0 + first * size, min(whole.y0 + last * size, whole.y1), whole.x0, whole.x1)
        out[first:last] = block_means(_read(run, name, band, stored), size // stored)
    return Window(out, whole, size)


def _aligned(region: Region, size: int) -> Region:
    return region._replace(y0=region.y0 // size * size, x0=region.x0 // size * size)


def _overviews(run: Run) -> tuple[int, ...]:
    return run.plan.stage("output").overviews


def _read(run: Run, name: str, region: Region, stored: int) -> NDArray[Any]:
    """Pixels of a region, or the cells of a level that begin in it, as floats."""
    if stored > 1:
        if name not in OVERVIEW_PLANES:
            raise ParameterError(
                f"{run.path}: no plane {name!r} to look at; it has {', '.join(planes_to_look_at(run))}"
            )
        return read_plane(run.array(overview_path(stored, name)), boxes_of(region, (stored, stored)))
    if name == "mask":
        return (read_plane(run.plane("mask"), region) != 0).astype(np.float32)
    if name == "residual":
        pixels = as_float(read_plane(run.plane("subtracted"), region))
        return np.where(read_plane(run.plane("mask"), region) == 0, pixels, pixels.dtype.type(np.nan))
    science = _science(run) if name == "science" else None
    return as_float(read_plane(run.plane(name), region) if science is None else science.read(region))


def _science(run: Run) -> PlaneReader | None:
    """Return the image itself: the run's copy, or what it read in place if that is still there."""
    return ZarrReader(run.plane("science")) if "science" in run.planes else run.science_in_place


def _sampled(run: Run, part: str, cells: Region, size: int) -> NDArray[np.float32]:
    """Map of the mesh of the result at the middle of each cell: the nearest box."""
    mesh, box = run.array(f"meshes/{run.recipe.result.name}/{part}"), run.recipe.result.box_size
    index = []
    for axis, (first, last) in enumerate(((cells.y0, cells.y1), (cells.x0, cells.x1))):
        middle = (np.arange(first, last) * size + size // 2) // box[axis]
        index.append(np.minimum(middle, mesh.shape[axis] - 1))
    y, x = index
    out = np.empty(cells.shape, np.float32)
    x0, x1 = int(x[0]), int(x[-1]) + 1
    most = max(_BAND // (x1 - x0), 1)  # rows of the mesh at a time
    first = 0
    while first < len(y):
        last = max(int(np.searchsorted(y, y[first] + most)), first + 1)
        rows = read_plane(mesh, Region(int(y[first]), int(y[last - 1]) + 1, x0, x1))
        out[first:last] = rows[np.ix_(y[first:last] - y[first], x - x0)]
        first = last
    return out
