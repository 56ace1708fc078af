"""From a low-resolution map to the sky at any pixel.

A `Surface` gives the pixels of any region, from a window of its low-resolution arrays: the same bits for any region and
window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh.guards import central_pixels
from tiledsky.operations.interpolators import Interpolator
from tiledsky.overlap import Patch, map_patches


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

    def loaded(self) -> Surface:
        """The same with its arrays in memory."""
        lookups = {name: np.asarray(cells[...]) for name, cells in self.lookups.items()}
        return replace(self, values=np.asarray(self.values[...]), lookups=lookups)


def make_surface(
    cells: NDArray[Any],
    interpolator: Interpolator[Any],
    *,
    excluded: NDArray[np.bool_],
    box_size: Pair,
    lookups: Mapping[str, Any],
) -> Surface:
    """Surface through a filled and filtered map; NaN everywhere for one of NaN alone."""
    alone = np.isnan(cells).all()
    values = interpolator.no_values(cells) if alone else interpolator.values(cells, excluded)
    return Surface(interpolator, box_size, values, lookups, float(cells.min()), float(cells.max()), cells.dtype)


def ceiling(pair: Sequence[Surface], *, box_size: Pair, sigma: float, shape: Pair) -> NDArray[np.float64]:
    """Largest value of each cell of a mesh: background plus `sigma` times rms of another step, at its central pixel.

    Parameters
    ----------
    pair : sequence of Surface
        Background and rms of the other step (and more, not used).
    box_size : (int, int)
        Of the mesh that is limited.
    sigma : float
    shape : (int, int)
        Of the image.

    Returns
    -------
    ndarray (nby, nbx), float64
        Memory: this, one low-resolution map of the other step, and one row of pixels at a time.
    """
    rows, columns = (central_pixels(n, b) for n, b in zip(shape, box_size, strict=True))
    limit = np.zeros((rows.size, columns.size))
    for surface, weight in zip(pair[:2], (1.0, sigma), strict=True):
        loaded = surface.loaded()
        for i, y in enumerate(rows.tolist()):
            limit[i] += weight * loaded.evaluate(Region(y, y + 1, 0, shape[1]))[0, columns].astype(np.float64)
    return limit


def sky_pixels(
    template: Any, pair: Any, which: int, *, dtype: Any, coverage: Any = None, fill_value: float = 0.0
) -> Any:
    """Pixels of the background (0), its rms (1) or its error (2), ``fill_value`` where ``coverage`` is True.

    ``template`` is any array of the image's shape and chunks (numpy or dask), ``pair`` what `surfaces` gave (or its
    `dask.delayed.Delayed`).
    """
    name = ("background", "background_rms", "background_error")[which]
    options = {"pair": pair, "which": which, "fill_value": fill_value}
    return map_patches(_sky_patch, template, coverage, halo=(0, 0), dtype=dtype, name=name, **options)


def _sky_patch(
    template: Patch, coverage: Patch | None, *, pair: Sequence[Surface], which: int, fill_value: float
) -> Patch:
    pixels = pair[which].evaluate(template.region)
    if coverage is not None:
        pixels[coverage.data] = fill_value
    return template.replaced(pixels)
