"""What an interpolator is: it makes the maps of a mesh from its boxes, and pixels of the sky from a map.

A mesh always has the maps background, rms and error. An interpolator may make more (`Interpolator.fit_maps`), and may
need more to find pixels (`Interpolator.lookup_maps`). By default the maps are filled and filtered; what is fitted
instead overrides `Interpolator.maps`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, row_bands
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.fill import fill, fill_bytes
from tiledsky.kernels.mesh.guards import from_levels
from tiledsky.operations.boxes import MeshParameters
from tiledsky.recipe import BackgroundStep, InterpolatorParameters

#: Memory: what it is for, bytes a unit, the unit, how many units.
Term = tuple[str, float, str, int]
Parameters = TypeVar("Parameters", bound=InterpolatorParameters)


@dataclass
class MeshBoxes:
    """The boxes of a mesh, from which an interpolator makes the maps.

    Attributes
    ----------
    step : BackgroundStep or MeshParameters
    measured : callable
        ``measured(part)``: that part of `tiledsky.kernels.boxes.boxes.BoxStatistics`, level by level.
    level : ndarray of int8 (nby, nbx)
        Level of boxes that each takes its statistics from: 0 its own, -1 none.
    excluded : ndarray of bool (nby, nbx)
        Boxes whose values do not count.
    noise_factor, shared_noise : float
        See `tiledsky.kernels.mesh.error.noise_factor` and `shared_noise`.
    """

    step: BackgroundStep | MeshParameters
    measured: Callable[[str], Sequence[NDArray[Any]]]
    level: NDArray[np.int8]
    excluded: NDArray[np.bool_]
    noise_factor: float
    shared_noise: float
    _values: NDArray[Any] | None
    _variance: NDArray[np.float64] | None
    _limit: NDArray[Any] | None

    @property
    def own(self) -> NDArray[np.bool_]:
        """Boxes with values of their own, which count."""
        return ~self.excluded & (self.level == 0)

    def release(self) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Give up the values of the boxes, and their variance by white noise: only the caller holds them from now on.

        Both may be changed. The variance is filled where boxes are excluded; the values are not.
        """
        values, variance = self._values, self._variance
        assert values is not None, "released before"
        assert variance is not None, "released before"
        self._values = self._variance = None
        return values, variance

    def limited(self, background: NDArray[Any]) -> NDArray[Any]:
        """Cut a background off at the ceiling of the step, if it has one; the ceiling is given up."""
        limit, self._limit = self._limit, None
        return background if limit is None else np.minimum(background, limit.astype(background.dtype))

    def with_holes(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of values of the boxes, NaN where they are excluded."""
        return np.where(self.excluded, np.asarray(np.nan, values.dtype), values)

    def filtered(self, filled: NDArray[Any], *, reference: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a filled map after the median filter; a threshold looks at ``reference``, the filled background."""
        step = self.step
        return kernel.median_filter(filled, size=step.filter_size, threshold=step.filter_threshold, reference=reference)

    def rms(self, *, reference: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the rms of the boxes, filled and filtered."""
        values = self.with_holes(from_levels(self.measured("rms"), self.level))
        return self.filtered(fill(values, overwrite=True), reference=reference)


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
    """

    parameters: Parameters
    fit_maps: ClassVar[Mapping[str, str | None]] = {}
    lookup_maps: ClassVar[Mapping[str, str | None]] = {}
    surface_dtype: ClassVar[str | None] = None

    # --- from boxes to maps

    def maps(self, boxes: MeshBoxes) -> Iterator[tuple[str, NDArray[Any]]]:
        """Make the maps of a mesh: background, rms and error in any order, and `fit_maps`.

        Each is given up when the next is asked for, so that few are in memory at a time. By default: the boxes filled
        from their neighbours and filtered, and the error by `error_factors`.
        """
        values, variance = boxes.release()
        values = boxes.with_holes(values)  # and the original is given up before it is filled
        background = fill(values, overwrite=True)
        del values
        reference = None if boxes.step.filter_threshold is None else background
        background = boxes.filtered(background)
        dtype = background.dtype
        background = boxes.limited(background)
        yield "background", background
        del background
        yield "rms", boxes.rms(reference=reference)
        yield "error", self._error(variance, boxes, reference=reference, dtype=dtype)

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

    def _error(
        self,
        variance: NDArray[np.float64],
        boxes: MeshBoxes,
        *,
        reference: NDArray[Any] | None,
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        """Error of the pixels after filter and interpolation; only cells above the filter's threshold are filtered."""
        step, shape = boxes.step, (variance.shape[0], variance.shape[1])
        filtered, plain = (self.error_factors(shape, step.box_size, size) for size in (step.filter_size, (1, 1)))
        error = np.empty(shape, dtype)
        whole = Region.whole(shape)
        for rows in row_bands(shape):
            band = Region(rows.start, rows.stop, 0, shape[1])
            found = mesh_error.filtered_variance(variance, filtered, step.filter_size, band, whole, shape)
            if reference is not None and step.filter_threshold is not None:
                alone = mesh_error.filtered_variance(variance, plain, (1, 1), band, whole, shape)
                found = np.where(reference[rows] > step.filter_threshold, found, alone)
            error[rows] = np.sqrt(boxes.noise_factor * found)
        return error

    def maps_memory(self, shape: Pair, *, itemsize: int, threshold: bool) -> list[tuple[str, list[Term]]]:
        """Memory of `maps`, as phases: a name, and the terms that are held at the same time.

        Parameters
        ----------
        shape : (int, int)
            Of the mesh.
        itemsize : int
            Bytes a value of the image's dtype.
        threshold : bool
            Whether the filter has a threshold, for which the filled background is kept.
        """
        reference = itemsize * threshold
        return [
            filling_memory(shape, itemsize=itemsize, threshold=threshold),
            (
                "surface",
                a_cell(shape, excluded=2, variance=8, reference=2 * reference, map=itemsize, coefficients=9),
            ),
        ]

    # --- from a map to pixels

    @property
    def of_error(self) -> Interpolator[Any]:
        """The interpolator of the error map, with the same `lookup_maps`: it must not make an error negative."""
        return self

    def lookups(self, excluded: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Make the `lookup_maps` of a mesh from the boxes that are excluded."""
        return {}

    @abstractmethod
    def values(self, cells: NDArray[Any], excluded: NDArray[np.bool_]) -> NDArray[Any]:
        """Make the values of a surface, of `surface_dtype`, from a map without NaN and the boxes that are excluded."""

    def no_values(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Values of a surface through a map of NaN alone."""
        return cells.astype(cells.dtype if self.surface_dtype is None else self.surface_dtype)

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

    @abstractmethod
    def cells_read(self, region: Pair, *, box_size: Pair, mesh: Pair) -> Pair:
        """Cells of the window that `evaluate` reads for a region of this shape, of a mesh of this shape: at most."""

    @abstractmethod
    def evaluate_memory(self, region: Pair, *, box_size: Pair, mesh: Pair, reading: int) -> list[Term]:
        """Memory of `evaluate` beside the pixels, for a region of this shape, of a mesh of this shape.

        ``reading``: bytes that each byte of the window takes more while it is read.
        """

    # --- for the diagnostics

    @property
    def chooses_bandwidths(self) -> bool:
        """Whether it is a fit that chooses its bandwidth at each cell, and so has a map ``bandwidth`` to be judged."""
        return False

    def bandwidths(self, shape: Pair, box_size: Pair) -> tuple[float, ...]:
        """Bandwidths of a fit on a mesh of this shape, in pixels, narrowest first; none where nothing is fitted."""
        return ()


def a_cell(shape: Pair, **terms: float) -> list[Term]:
    """Terms of memory that are so many bytes for each cell of a mesh."""
    return [(what.replace("_", " "), per, "cells", shape[0] * shape[1]) for what, per in terms.items()]


def filling_memory(shape: Pair, *, itemsize: int, threshold: bool) -> tuple[str, list[Term]]:
    """Memory of filling a map of the boxes, as a phase."""
    terms = {"excluded": 2.0, "variance": 8.0, "reference": itemsize * threshold, "map": itemsize, "holes": 2.0}
    return "filling", a_cell(shape, **terms, neighbours=fill_bytes(shape[0] * shape[1]))
