"""From a low-resolution map to the sky at any pixel.

A `Surface` gives the pixels of any region, from a window of its low-resolution arrays: the same bits for any region and
window.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh.guards import central_pixels
from tiledsky.overlap import Patch, cut, is_dask_array, is_delayed, lazy_key, map_patches

if TYPE_CHECKING:
    from tiledsky.operations.interpolators import Interpolator

#: Rows of a map that are read at a time where single rows of pixels are wanted.
_ROWS = 64


@dataclass(frozen=True)
class Surface:
    """A low-resolution map that can be evaluated at any pixel.

    Attributes
    ----------
    interpolator : Interpolator
    box_size : (int, int)
        Pixels a cell.
    values : ndarray or zarr array, (nby, nbx)
        Of `Interpolator.values`.
    lookups : dict of str to ndarray or zarr array, (nby, nbx)
        The `Interpolator.lookup_maps`.
    vmin, vmax : float
        Range of the map.
    dtype : dtype
        Of the pixels.
    """

    interpolator: Interpolator[Any]
    box_size: Pair
    values: Any
    lookups: Mapping[str, Any]
    vmin: float
    vmax: float
    dtype: np.dtype[Any]

    def evaluate(self, region: Region) -> NDArray[Any]:
        """Pixels of ``region`` of the image; reads only the window of the arrays that it needs."""
        if not self.vmin < self.vmax:  # one value, or NaN alone
            return np.full(region.shape, self.vmin, self.dtype)
        return self.interpolator.evaluate(
            self.values,
            region,
            box_size=self.box_size,
            lookups=self.lookups,
            limits=(self.vmin, self.vmax),
            dtype=self.dtype,
        )

    def by_rows(self) -> Surface:
        """The same, quick where one row of pixels after the other is wanted."""
        lookups = {name: _ByRows(cells) for name, cells in self.lookups.items()}
        return replace(self, values=_ByRows(self.values), lookups=lookups)

    def lazy_parts(self, region: Region) -> tuple[Surface, list[Any], list[Any]]:
        """The same without its arrays, tasks that make the parts of them that a region needs, and its limits."""
        mesh: Pair = tuple(self.values.shape)
        part = self.interpolator.window(region, box_size=self.box_size, mesh=mesh) or Region.whole(mesh)
        tasks = [cut(cells, part) for cells in (self.values, *self.lookups.values())]
        lookups = {name: _MapPart(None, part, mesh) for name in self.lookups}
        limits = [lazy_key(value) for value in (self.vmin, self.vmax)]
        return replace(self, values=_MapPart(None, part, mesh), lookups=lookups, vmin=0.0, vmax=0.0), tasks, limits


class _ByRows:
    """A map of which some rows more than are asked for are read, and held."""

    def __init__(self, cells: Any) -> None:
        self._cells, self.shape = cells, cells.shape
        self._held, self._at = np.empty((0, 0)), (0, 0, 0, 0)

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        (i0, i1, _), (j0, j1, _) = (part.indices(n) for part, n in zip(index, self.shape, strict=True))
        top, bottom, left, right = self._at
        if not (top <= i0 and i1 <= bottom and left <= j0 and j1 <= right):
            top, bottom, left, right = self._at = i0, min(max(i1, i0 + _ROWS), self.shape[0]), j0, j1
            self._held = np.asarray(self._cells[top:bottom, left:right])
        return self._held[i0 - top : i1 - top, j0 - left : j1 - left]


def ceiling(
    pair: Sequence[Surface], *, box_size: Pair, sigma: float, shape: Pair, region: Region
) -> NDArray[np.float64]:
    """Largest value of cells of a mesh: background plus `sigma` times rms of another step, at their central pixels.

    Parameters
    ----------
    pair : sequence of Surface
        Background and rms of the other step (and more, not used).
    box_size : (int, int)
        Of the mesh that is limited.
    sigma : float
    shape : (int, int)
        Of the image.
    region : Region
        Cells that are wanted.

    Returns
    -------
    ndarray, float64
        Memory: this, and some rows of the low-resolution map of the other step.
    """
    cells = (region.y0, region.y1), (region.x0, region.x1)
    rows, columns = (central_pixels(n, b)[slice(*part)] for n, b, part in zip(shape, box_size, cells, strict=True))
    first, last = int(columns[0]), int(columns[-1]) + 1
    limit = np.zeros((rows.size, columns.size))
    for surface, weight in zip(pair[:2], (1.0, sigma), strict=True):
        held = surface.by_rows()
        for i, y in enumerate(rows.tolist()):
            pixels = held.evaluate(Region(y, y + 1, first, last))[0]
            limit[i] += weight * pixels[columns - first].astype(np.float64)
    return limit


@dataclass(frozen=True)
class _MapPart:
    """A window of a map, indexed as the map is."""

    cells: Any
    region: Region
    shape: Pair

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        (i0, i1, _), (j0, j1, _) = (part.indices(n) for part, n in zip(index, self.shape, strict=True))
        held: NDArray[Any] = self.cells[Region(i0, i1, j0, j1).within(self.region)]
        return held


def surface_pixels(
    template: Any, surface: Surface, *, dtype: Any, name: str, coverage: Any = None, fill_value: float = 0.0
) -> Any:
    """Pixels of a surface, ``fill_value`` where ``coverage`` is True.

    Parameters
    ----------
    template : ndarray or dask.array.Array, (ny, nx)
        Any array of the image's shape and chunks.
    surface : Surface
        Its arrays may be dask arrays: then so is the result, of which a chunk takes the window of the surface that it
        needs (all of it, where how far the interpolator looks depends on the boxes).
    dtype : dtype
        Of the result.
    name : str
        Of the tasks.
    coverage : array of bool, (ny, nx), optional
    fill_value : float
    """
    if not is_dask_array(surface.values):
        return map_patches(
            _surface_patch,
            template,
            coverage,
            halo=(0, 0),
            dtype=dtype,
            name=name,
            surface=surface,
            fill_value=fill_value,
        )
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph
    from dask.tokenize import tokenize

    chunks = template.chunks if is_dask_array(template) else tuple((n,) for n in template.shape)
    rows, columns = (list(itertools.pairwise(np.cumsum((0, *sizes)).tolist())) for sizes in chunks)
    name, layer = f"{name}-{tokenize(surface, chunks, coverage, fill_value, dtype)}", dict[Any, Any]()
    for iy, ix in itertools.product(range(len(rows)), range(len(columns))):
        region = Region(*rows[iy], *columns[ix])
        outside = None if coverage is None else cut(coverage, region)
        layer[name, iy, ix] = (_evaluated_lazily, *surface.lazy_parts(region), region, outside, fill_value)
    lazy = [surface.values, *surface.lookups.values(), surface.vmin, surface.vmax, coverage]
    given = [value for value in lazy if is_dask_array(value) or is_delayed(value)]
    return da.Array(HighLevelGraph.from_collections(name, layer, dependencies=given), name, chunks, dtype=dtype)


def in_memory(surfaces: Sequence[Surface], image: Pair) -> Any:
    """Surfaces that a task can take: lazy ones as one value, with their arrays whole."""
    if not is_dask_array(surfaces[0].values):
        return surfaces
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph
    from dask.tokenize import tokenize

    name = f"surfaces-{tokenize(*surfaces)}"
    held = [(_restored, *surface.lazy_parts(Region.whole(image))) for surface in surfaces]
    lazy = [value for s in surfaces for value in (s.values, *s.lookups.values(), s.vmin, s.vmax)]
    return Delayed(name, HighLevelGraph.from_collections(name, {name: (list, held)}, dependencies=lazy))


def _restored(surface: Surface, parts: list[NDArray[Any]], limits: list[float]) -> Surface:
    held = (surface.values, *surface.lookups.values())
    values, *others = (replace(cells, cells=part) for cells, part in zip(held, parts, strict=True))
    lookups = dict(zip(surface.lookups, others, strict=True))
    return replace(surface, values=values, lookups=lookups, vmin=limits[0], vmax=limits[1])


def _evaluated_lazily(
    surface: Surface,
    parts: list[NDArray[Any]],
    limits: list[float],
    region: Region,
    outside: NDArray[np.bool_] | None,
    fill_value: float,
) -> NDArray[Any]:
    return _evaluated(_restored(surface, parts, limits), region, outside, fill_value)


def _evaluated(surface: Surface, region: Region, outside: NDArray[np.bool_] | None, fill_value: float) -> NDArray[Any]:
    pixels = surface.evaluate(region)
    if outside is not None:
        pixels[outside] = fill_value
    return pixels


def _surface_patch(template: Patch, coverage: Patch | None, *, surface: Surface, fill_value: float) -> Patch:
    outside = None if coverage is None else coverage.data
    return template.replaced(_evaluated(surface, template.region, outside, fill_value))
