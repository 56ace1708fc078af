"""What an interpolator is: it makes the maps of a mesh from its boxes, and pixels of the sky from a map.

A mesh always has the maps background, rms and error. An interpolator may make more (`Interpolator.fit_maps`), and may
need more to find pixels (`Interpolator.lookup_maps`). By default the maps are filled and filtered; what is fitted
instead overrides `Interpolator.operations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, MeshSource
from tiledsky.operations.filtered_maps import FILTERED, BoxNumbers, FilteredMaps
from tiledsky.overlap import Patch
from tiledsky.recipe import InterpolatorParameters

#: Memory: what it is for, bytes a unit, the unit, how many units.
Term = tuple[str, float, str, int]
Parameters = TypeVar("Parameters", bound=InterpolatorParameters)


@dataclass(frozen=True)
class Interpolator(ABC, Generic[Parameters]):
    """One way from boxes to maps, and from a map to the sky at any pixel.

    The interpolator of ``NearestInterpolator``, kind "nearest", is the class ``Nearest`` of the module ``nearest``. It
    holds nothing but its parameters; all that it makes is the same, bit for bit, for any region and window.

    Attributes
    ----------
    parameters : InterpolatorParameters
        Of the recipe.
    fit_maps : mapping of str to str or None
        Maps that `maps` makes beside background, rms and error, and their dtypes; None: that of the image.
    lookup_maps : mapping of str to str or None
        Maps that `evaluate` looks at beside the values of a surface, likewise.
    surface_dtype : str or None
        Of the values of a surface; None: that of the image.
    working, filled : tuple of str
        Working maps of the boxes that it needs, and those whose holes are filled.
    box_halo, surface_halo, lookup_halo : (int, int)
        Cells beside a tile that `box_parts`, `values` and `lookups` need.
    of_whole_image : bool
        Whether the sky at a pixel depends on all of the image: in a window of it the sky would be another.
    """

    parameters: Parameters
    fit_maps: ClassVar[Mapping[str, str | None]] = {}
    lookup_maps: ClassVar[Mapping[str, str | None]] = {}
    surface_dtype: ClassVar[str | None] = None
    working: ClassVar[tuple[str, ...]] = FILTERED
    filled: ClassVar[tuple[str, ...]] = FILTERED
    box_halo: ClassVar[Pair] = (0, 0)
    surface_halo: ClassVar[Pair] = (0, 0)
    lookup_halo: ClassVar[Pair] = (0, 0)
    of_whole_image: ClassVar[bool] = False

    # --- from boxes to maps

    def operations(self, mesh: MeshSource, *, noise: str, above: Above | None) -> Iterator[CellOperation | CellNumbers]:
        """Operations that make the maps of a mesh, in order: background, rms and error, and `fit_maps`.

        By default `FilteredMaps`.

        Parameters
        ----------
        mesh : MeshSource
            Its working maps ``values``, ``scatter``, ``variance`` and ``own`` are there.
        noise : str
            The operation that makes the `BoxNumbers`.
        above : Above or None
            The mesh of the step that limits it.
        """
        yield FilteredMaps(mesh, self, noise=noise, above=above)

    def box_parts(self, scatter: Patch, own: NDArray[np.bool_], region: Region) -> list[bytes]:
        """Return what the interpolator needs to know of the boxes of a tile, to be merged by `merge_box_parts`.

        Parameters
        ----------
        scatter : Patch
            Rms of the boxes of the tile and `box_halo` beside it, NaN where a box does not count.
        own : ndarray of bool
            Boxes of the window with values of their own.
        region : Region
            Cells of the tile.
        """
        return []

    def merge_box_parts(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """Merge what `box_parts` returned for all tiles, exactly, in any order."""
        return []

    def error_factors(self, shape: Pair, box_size: Pair, size: Pair) -> mesh_error.Factors:
        """Sum of the squares of the weights that boxes have in a pixel, for `tiledsky.kernels.mesh.error`.

        Parameters
        ----------
        shape : (int, int)
            Of the mesh.
        box_size : (int, int)
            Pixels of a box.
        size : (int, int)
            Window of the mean filter before the interpolation, in boxes.

        Returns
        -------
        two arrays (nby,) and (nbx,)
            The factor of a box is the product of that of its row and that of its column.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no error from those of the boxes")

    # --- from a map to pixels

    @property
    def of_error(self) -> Interpolator[Any]:
        """The interpolator of the error map, with the same `lookup_maps`: it must not make an error negative."""
        return self

    def of_map(self, part: str) -> Interpolator[Any]:
        """The interpolator of one of the maps that have a surface."""
        return self.of_error if part == "error" else self

    def lookups(self, excluded: Patch, region: Region, numbers: BoxNumbers) -> dict[str, NDArray[Any]]:
        """Make the `lookup_maps` of a tile from the boxes that are excluded, with `lookup_halo`."""
        return {}

    @abstractmethod
    def values(self, cells: Patch, excluded: Patch, region: Region) -> NDArray[Any]:
        """Make the values of a surface, of `surface_dtype`, for a tile of a map without NaN and its `surface_halo`."""

    def surface_values(self, cells: Patch, excluded: Patch, region: Region) -> NDArray[Any]:
        """`values`, or NaN through a map of NaN alone."""
        if not np.isnan(cells.data).all():
            return self.values(cells, excluded, region)
        dtype = cells.data.dtype if self.surface_dtype is None else np.dtype(self.surface_dtype)
        return np.full(region.shape, np.nan, dtype)

    @abstractmethod
    def evaluate(
        self,
        values: Any,
        region: Region,
        *,
        box_size: Pair,
        lookups: Mapping[str, Any],
        limits: tuple[float, float],
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Pixels of a region of the image; reads only the window of the arrays that it needs.

        Parameters
        ----------
        values : ndarray or zarr array (nby, nbx)
            Of `values`.
        region : Region
        box_size : (int, int)
            Pixels of a box.
        lookups : mapping of str to ndarray or zarr array
            The `lookup_maps`.
        limits : (float, float)
            Smallest and largest number of the map that the values are of.
        dtype : dtype
            float32 or float64 of the result.
        """

    def window(self, region: Region, *, box_size: Pair, mesh: Pair) -> Region | None:
        """Part of a mesh of this shape that `evaluate` reads for a region; None: it depends on the boxes."""
        return None

    @abstractmethod
    def cells_read(self, region: Pair, *, box_size: Pair, mesh: Pair) -> Pair:
        """Cells of the window that `evaluate` reads for a region of this shape, of a mesh of this shape: at most."""

    @abstractmethod
    def evaluate_memory(self, region: Pair, *, box_size: Pair, mesh: Pair, reading: int) -> list[Term]:
        """Memory of `evaluate` beside the pixels, for a region of this shape, of a mesh of this shape.

        ``reading``: bytes that each byte of the window takes more while it is read.
        """
