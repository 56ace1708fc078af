"""From a low-resolution map to the sky at any pixel.

A `Surface` gives the pixels of any region, from a window of its low-resolution arrays: the same bits for any region and
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import idw
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.guards import central_pixels
from tiledsky.overlap import Patch, map_patches
from tiledsky.recipe import AnyInterpolator, IDWInterpolator, ZoomInterpolator


@dataclass(frozen=True)
class Surface:
    """A low-resolution map that can be evaluated at any pixel.

    Attributes
    ----------
    interpolator : ZoomInterpolator, IDWInterpolator or LocalPolynomialInterpolator
    box_size : (int, int)
        Pixels a cell.
    values : ndarray or zarr array, (nby, nbx)
        Spline coefficients, or the mesh with NaN at the boxes to leave out (IDW).
    reach : ndarray or zarr array of integers, (nby, nbx), or None
        IDW: how many boxes away the neighbours of a box's pixels can be.
    vmin, vmax : float
        Range of the mesh.
    dtype : dtype
        Of the pixels.
    """

    interpolator: AnyInterpolator
    box_size: Pair
    values: Any
    reach: Any
    vmin: float
    vmax: float
    dtype: np.dtype[Any]

    def evaluate(self, region: Region) -> NDArray[Any]:
        """Pixels of ``region`` of the image; reads only the window of the arrays that it needs."""
        if not self.vmin < self.vmax:  # one value, or NaN alone
            return np.full(region.shape, self.vmin, self.dtype)
        shape: Pair = tuple(self.values.shape)
        if not isinstance(self.interpolator, IDWInterpolator):
            i0, i1, j0, j1 = kernel.spline_window(region, self.box_size, shape)
            clip = isinstance(self.interpolator, ZoomInterpolator) and self.interpolator.clip
            limits = {"vmin": self.vmin, "vmax": self.vmax} if clip else {}
            return kernel.spline_evaluate(
                np.asarray(self.values[i0:i1, j0:j1]),
                self.box_size,
                region,
                origin=(i0, j0),
                mesh_shape=shape,
                dtype=self.dtype,
                **limits,
            )
        i0, i1, j0, j1 = idw.idw_window(region, self.box_size, self.reach)
        return idw.idw_evaluate(
            np.asarray(self.values[i0:i1, j0:j1]),
            self.box_size,
            region,
            n_neighbors=self.interpolator.n_neighbors,
            power=self.interpolator.power,
            regularization=self.interpolator.regularization,
            origin=(i0, j0),
            mesh_shape=shape,
            dtype=self.dtype,
        )


def surface_reach(excluded: NDArray[np.bool_], interpolator: AnyInterpolator) -> Any:
    """Return how far the neighbours of each box can be, for IDW."""
    return idw.idw_reach(~excluded, interpolator.n_neighbors) if isinstance(interpolator, IDWInterpolator) else None


def surface(
    cells: NDArray[Any],
    interpolator: AnyInterpolator,
    *,
    excluded: NDArray[np.bool_],
    box_size: Pair,
    reach: Any,
) -> Surface:
    """Surface through a filled and filtered map; NaN everywhere for one of NaN alone."""
    if np.isnan(cells).all():
        values: NDArray[Any] = cells.astype(cells.dtype if isinstance(interpolator, IDWInterpolator) else np.float64)
    elif not isinstance(interpolator, IDWInterpolator):
        values = kernel.spline_coefficients(cells)
    else:
        values = np.where(excluded, np.asarray(np.nan, cells.dtype), cells)
    limits = float(cells.min()), float(cells.max())
    return Surface(interpolator, box_size, values, reach, *limits, cells.dtype)


def error_interpolator(interpolator: AnyInterpolator) -> AnyInterpolator:
    """Return the interpolator for errors: a spline is always cut to the mesh's range, so that none is negative."""
    return interpolator if isinstance(interpolator, IDWInterpolator) else ZoomInterpolator(clip=True)


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
    for made, weight in zip(pair[:2], (1.0, sigma), strict=True):
        reach = None if made.reach is None else np.asarray(made.reach[...])
        held = replace(made, values=np.asarray(made.values[...]), reach=reach)
        for i, y in enumerate(rows.tolist()):
            limit[i] += weight * held.evaluate(Region(y, y + 1, 0, shape[1]))[0, columns].astype(np.float64)
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
