"""The mesh as a whole: leaving out poor boxes, median filter, and the cubic spline down to pixels.

A mesh is the low-resolution image of boxes, shape ``(nby, nbx)``. Box ``(i, j)`` covers the pixels ``i * by <= y <
(i + 1) * by`` (x alike), its centre is at ``i * by + (by - 1) / 2``. Everything up to the spline coefficients looks at
the whole mesh and is done once an image; `spline_evaluate` turns any part of it into pixels, and a pixel gets the same
bits whatever the part.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiledsky import geometry
from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.mesh.prefilter import cubic_coefficients

_COLUMN_BLOCK = 512  # pixels: four float64 rows of a block stay in a 32 kB cache

Region = tuple[int, int, int, int]
Floats = NDArray[Any]


def exclude(
    background: Floats,
    rms: Floats,
    n_good: NDArray[Any],
    *,
    box_npixels: int,
    exclude_percentile: float,
    inclusive: bool = False,
) -> tuple[Floats, Floats]:
    """Set the boxes with too few good pixels to NaN.

    Parameters
    ----------
    background, rms : ndarray (nby, nbx), float32 or float64
        Box statistics; not changed.
    n_good : ndarray (nby, nbx), integer
        Pixels that were left in each box after masking and clipping.
    box_npixels : int
        Pixels of a whole box, ``by * bx``; used for the partial boxes at the image's edge as well.
    exclude_percentile : float
        Largest percentage of bad pixels, 0 to 100. A box stays if ``n_good > (1 - exclude_percentile / 100) *
        box_npixels``: 0 drops every box, 100 keeps each box that has a pixel.
    inclusive : bool
        Keep boxes that lie at this limit too (``>=``): 0 then keeps the boxes without a bad pixel.

    Returns
    -------
    background, rms : ndarray (nby, nbx)
        Copies of the same dtype, NaN where the box is left out.

    Raises
    ------
    ParameterError
        `exclude_percentile` outside 0 to 100, or shapes that differ.

    Notes
    -----
    The floating-point expression is that of `photutils.background.Background2D`; so is the limit, of 3.0 by default
    and of 3.1 if inclusive.
    """
    if not 0.0 <= exclude_percentile <= 100.0:
        raise ParameterError(
            f"exclude_percentile {exclude_percentile} is not a percentage, so no box could be judged by it; "
            "give exclude_percentile from 0 to 100"
        )
    if not background.shape == rms.shape == n_good.shape:
        raise ParameterError(
            f"background {background.shape}, rms {rms.shape} and n_good {n_good.shape} differ in shape, so boxes "
            "cannot be matched; pass the three arrays of one mesh"
        )
    limit = (1 - (exclude_percentile / 100.0)) * box_npixels
    poor = ((n_good < limit) if inclusive else (n_good <= limit)) | (n_good == 0)
    background, rms = background.copy(), rms.copy()
    background[poor] = np.nan
    rms[poor] = np.nan
    return background, rms


@numba.njit(nogil=True, cache=True)
def _medians(mesh: Floats, half_y: int, half_x: int) -> Floats:
    """Sort the non-NaN cells of each window into `run`; the middle one, or the float64 mean of the middle two."""
    out = np.empty_like(mesh)
    rows, columns = mesh.shape
    run = np.empty((2 * half_y + 1) * (2 * half_x + 1), mesh.dtype)
    for i in range(rows):
        for j in range(columns):
            n = 0
            for ii in range(max(i - half_y, 0), min(i + half_y + 1, rows)):
                for jj in range(max(j - half_x, 0), min(j + half_x + 1, columns)):
                    value = mesh[ii, jj]
                    if value == value:
                        k = n
                        while k > 0 and run[k - 1] > value:
                            run[k] = run[k - 1]
                            k -= 1
                        run[k] = value
                        n += 1
            if n == 0:
                out[i, j] = np.nan
            else:
                out[i, j] = (np.float64(run[(n - 1) // 2]) + np.float64(run[n // 2])) / 2.0
    return out


def median_filter(
    mesh: Floats,
    *,
    size: tuple[int, int] = (3, 3),
    threshold: float | None = None,
    reference: Floats | None = None,
) -> Floats:
    """Replace each box by the median of the window around it.

    Parameters
    ----------
    mesh : ndarray (nby, nbx), float32 or float64
        NaN boxes are not counted; not changed.
    size : (int, int)
        Window in boxes, odd; (1, 1) returns a copy.
    threshold : float, optional
        Replace only the boxes whose `reference` is above it; None replaces all.
    reference : ndarray (nby, nbx), optional
        The filled background mesh, which decides for the rms mesh as well; default `mesh`.

    Returns
    -------
    ndarray (nby, nbx)
        Same dtype. Cells outside the mesh are not counted; a window without a number gives NaN. Of a part of the mesh
        a cell has the bits of the whole if the part reaches half of `size` beyond it, or to the edge of the mesh.

    Raises
    ------
    ParameterError
        A size that is not odd and positive; a reference of another shape.

    Notes
    -----
    Bit for bit ``scipy.ndimage.generic_filter(mesh, numpy.nanmedian, size, mode="constant", cval=nan)``: the mean of
    two middle values is taken in float64. `threshold` is photutils' ``filter_threshold``; the special case there, a
    threshold below every box before filling means all, follows from the rule, since fillings lie between boxes.
    """
    if len(size) != 2 or any(s < 1 or s % 2 == 0 for s in size):
        raise ParameterError(f"median filter size {size} has no centre box on some axis; give two odd sizes, such as 3")
    reference = mesh if reference is None else reference
    if reference.shape != mesh.shape:
        raise ParameterError(
            f"reference {reference.shape} and mesh {mesh.shape} differ in shape, so the threshold cannot be applied; "
            "pass the filled background mesh as reference"
        )
    if tuple(size) == (1, 1) or mesh.size == 0:
        return mesh.copy()
    filtered = _medians(np.ascontiguousarray(mesh), size[0] // 2, size[1] // 2)
    return filtered if threshold is None else np.where(reference > threshold, filtered, mesh)


def spline_coefficients(mesh: Floats) -> NDArray[np.float64]:
    """Cubic B-spline coefficients of the whole mesh, mirrored about its outer edges.

    Parameters
    ----------
    mesh : ndarray (nby, nbx), float32 or float64
        Filled mesh: finite everywhere.

    Returns
    -------
    ndarray (nby, nbx), float64
        `scipy.ndimage.spline_filter` of order 3, mode "reflect", of scipy 1.18 (see `tiledsky.kernels.mesh.prefilter`).
        Every coefficient depends on every box: make them once from the whole mesh, any tile then reads its part.

    Raises
    ------
    InputError
        A box that is not finite.
    """
    if not np.isfinite(mesh).all():
        raise InputError(
            f"{np.count_nonzero(~np.isfinite(mesh))} boxes of the mesh are NaN or infinite, and the spline would "
            "spread them over the whole image; fill the mesh first"
        )
    whole = geometry.Region.whole(mesh.shape)
    return cubic_coefficients(mesh, whole, whole, whole.shape)


def region_cells(region: Region, box_size: tuple[int, int], mesh_shape: tuple[int, int]) -> Region:
    """Boxes (i0, i1, j0, j1) of the pixels (y0, y1, x0, x1); ParameterError if there are none, or outside the mesh."""
    y0, y1, x0, x1 = region
    (by, bx), (nby, nbx) = box_size, mesh_shape
    if by < 1 or bx < 1:
        raise ParameterError(f"box_size {box_size} holds no pixel, so it covers no image; give sizes of at least 1")
    if not (0 <= y0 < y1 <= nby * by and 0 <= x0 < x1 <= nbx * bx):
        raise ParameterError(
            f"region {region} is empty or outside the {nby * by} x {nbx * bx} pixels of the mesh, where there is no "
            "sky to evaluate; change region, or mesh_shape if the mesh given is a window"
        )
    return y0 // by, -(-y1 // by), x0 // bx, -(-x1 // bx)


def check_pixels_wanted(shape: tuple[int, ...], origin: tuple[int, int], needed: Region, dtype: DTypeLike) -> None:
    """ParameterError if a window of this shape and origin lacks a box of `needed`, or dtype is no float of ours."""
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ParameterError(f"dtype {np.dtype(dtype)} would round the sky; use dtype float32 or float64")
    held = (origin[0], origin[0] + shape[0], origin[1], origin[1] + shape[1])
    if needed[0] < held[0] or needed[1] > held[1] or needed[2] < held[2] or needed[3] > held[3]:
        raise ParameterError(
            f"the boxes given, {held}, do not hold the boxes {needed} that the region is made of; pass the window made "
            "for this region, with its first box as origin"
        )


def spline_window(region: Region, box_size: tuple[int, int], mesh_shape: tuple[int, int]) -> Region:
    """Coefficients (i0, i1, j0, j1), ends excluded, that `spline_evaluate` reads for `region` (y0, y1, x0, x1).

    Up to two boxes beyond the region's own on each side, cut at the mesh's edge. Errors as `region_cells`.
    """
    region_cells(region, box_size, mesh_shape)
    y0, y1, x0, x1 = region
    limits = []
    for lo, hi, box, n in ((y0, y1, box_size[0], mesh_shape[0]), (x0, x1, box_size[1], mesh_shape[1])):
        limits += [max(_first_tap(lo, box), 0), min(_first_tap(hi - 1, box) + 4, n)]
    return limits[0], limits[1], limits[2], limits[3]


def _first_tap(pixel: int, box: int) -> int:
    """First of the four boxes whose coefficients make a pixel: the pixel lies between the second and third centre."""
    return (2 * pixel + 1 - box) // (2 * box) - 1


def _taps(start: int, stop: int, box: int, n: int, origin: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Coefficient indices and weights, each (4, stop - start), of the pixels along one axis.

    The position between two centres is an integer over ``2 * box``, so pixels of the same phase get the same weights.
    """
    place = 2 * np.arange(start, stop) + 1 - box
    index = place // (2 * box) - 1 + np.arange(4)[:, None]
    index %= 2 * n  # mirrored about the outer edge: ... 1 0 | 0 1 ... n-1 | n-1 ...
    index = np.where(index >= n, 2 * n - 1 - index, index) - origin
    f = (place % (2 * box)) / (2 * box)
    g = 1.0 - f
    weights = np.array([g * g * g, 4 + 3 * f * f * (f - 2), 4 + 3 * g * g * (g - 2), f * f * f]) / 6
    return index, weights


@numba.njit(nogil=True, cache=True)
def _expand_row(row: Floats, index: NDArray[np.int64], weight: Floats, out: Floats) -> None:
    for x in range(index.shape[1]):
        out[x] = (
            weight[0, x] * row[index[0, x]]
            + weight[1, x] * row[index[1, x]]
            + weight[2, x] * row[index[2, x]]
            + weight[3, x] * row[index[3, x]]
        )


@numba.njit(nogil=True, cache=True)
def _blend_rows(a: Floats, b: Floats, c: Floats, d: Floats, weight: Floats, clip: Floats, out: Floats) -> None:
    wa, wb, wc, wd = weight[0], weight[1], weight[2], weight[3]
    vmin, vmax = clip[0], clip[1]
    for x in range(out.size):
        value = wa * a[x] + wb * b[x] + wc * c[x] + wd * d[x]
        out[x] = min(max(value, vmin), vmax)


@numba.njit(nogil=True, cache=True)
def _evaluate(
    coefficients: Floats,
    rows: NDArray[np.int64],
    row_weights: Floats,
    columns: NDArray[np.int64],
    column_weights: Floats,
    clip: Floats,
    out: Floats,
) -> None:
    """Mesh rows are first drawn out to pixels along x (once a box), then four of them are mixed for each pixel row.

    Long contiguous loops whatever the box size. Of four neighbouring mesh rows no two have the same index modulo 4.
    """
    wide = np.empty((4, _COLUMN_BLOCK))
    for start in range(0, out.shape[1], _COLUMN_BLOCK):
        stop = min(start + _COLUMN_BLOCK, out.shape[1])
        held = np.full(4, -1)
        for y in range(out.shape[0]):
            for k in range(4):
                i = rows[k, y]
                if held[i % 4] != i:
                    _expand_row(coefficients[i], columns[:, start:stop], column_weights[:, start:stop], wide[i % 4])
                    held[i % 4] = i
            a, b, c, d = wide[rows[0, y] % 4], wide[rows[1, y] % 4], wide[rows[2, y] % 4], wide[rows[3, y] % 4]
            _blend_rows(a, b, c, d, row_weights[y], clip, out[y, start:stop])


def spline_evaluate(
    coefficients: NDArray[np.float64],
    box_size: tuple[int, int],
    region: Region,
    *,
    origin: tuple[int, int] = (0, 0),
    mesh_shape: tuple[int, int] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    dtype: DTypeLike = np.float32,
) -> Floats:
    """Pixels of a region from the cubic spline through the mesh.

    Parameters
    ----------
    coefficients : ndarray (my, mx), float64
        Of `spline_coefficients`: whole, or a window that holds at least `spline_window` of the region.
    box_size : (int, int)
        Pixels of a box (by, bx).
    region : (int, int, int, int)
        Pixels (y0, y1, x0, x1) of the image, ends excluded.
    origin : (int, int)
        Whole-mesh index of ``coefficients[0, 0]``.
    mesh_shape : (int, int), optional
        Shape of the whole mesh, whose edges mirror; default the shape of `coefficients`.
    vmin, vmax : float, optional
        Clip to these, in general the smallest and largest value of the whole mesh; None does not clip.
    dtype : dtype
        float32 or float64 of the result.

    Returns
    -------
    ndarray (y1 - y0, x1 - x0)
        A pixel has the same bits for any region and window that hold it.

    Raises
    ------
    ParameterError
        A region outside the mesh, a window that is too small, or another dtype.

    Notes
    -----
    Equals ``scipy.ndimage.zoom(mesh, box_size, order=3, mode="reflect", grid_mode=True)`` cut to the region and clipped
    (photutils' ``BkgZoomInterpolator``) to the rounding of float64, except for boxes of 1 x 1 pixel, where zoom
    copies. A mesh of one value gives that value when clipped. The weights of a pixel are products of four per axis
    (Unser 1999, IEEE SPM 16, 22).
    """
    mesh_shape = (coefficients.shape[0], coefficients.shape[1]) if mesh_shape is None else mesh_shape
    check_pixels_wanted(coefficients.shape, origin, spline_window(region, box_size, mesh_shape), dtype)
    y0, y1, x0, x1 = region
    rows, row_weights = _taps(y0, y1, box_size[0], mesh_shape[0], origin[0])
    columns, column_weights = _taps(x0, x1, box_size[1], mesh_shape[1], origin[1])
    out = np.empty((y1 - y0, x1 - x0), dtype)
    clip = np.array([-np.inf if vmin is None else vmin, np.inf if vmax is None else vmax])
    array = np.ascontiguousarray(coefficients, dtype=np.float64)
    _evaluate(array, rows, np.ascontiguousarray(row_weights.T), columns, column_weights, clip, out)
    return out
