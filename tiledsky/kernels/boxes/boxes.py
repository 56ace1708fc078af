"""Clipped statistics of the boxes of a background mesh.

Small boxes are sorted, sixteen at a time (:mod:`tiledsky.kernels.boxes.lanes`), large ones counted one by one
(:mod:`tiledsky.kernels.boxes.counts`). Which of the two, and the order of every sum, follows from the box's shape and
pixels alone: not from the image it lies in, nor from its place there.

The definitions are those of `photutils.background.Background2D` 3.0 with `astropy.stats.SigmaClip` (without growing),
and of Bertin & Arnouts (1996, A&AS 117, 393) for SExtractor's mode, Stetson (1987, PASP 99, 191) for MMM, Beers, Flynn
& Gebhardt (1990, AJ 100, 32) for the biweights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.boxes import rules as box_rules
from tiledsky.kernels.boxes.counts import statistics_by_counts
from tiledsky.kernels.boxes.estimators import MEDIAN, STD, Function, estimator_of, rms_estimator_of
from tiledsky.kernels.boxes.lanes import statistics_by_lanes

_LANES_NPIXELS = 400  # boxes up to this many pixels are sorted, larger ones counted: where the two cost the same


@dataclass(frozen=True)
class Clip:
    """Sigma clipping of a box, with the meaning of `astropy.stats.SigmaClip`.

    Parameters
    ----------
    sigma_lower, sigma_upper : float
        Values below ``center - sigma_lower * spread`` or above ``center + sigma_upper * spread`` are clipped;
        `math.inf` leaves a side alone.
    maxiters : int
        Largest number of rounds; -1 goes on until a round clips nothing.
    center : "median" or "mean"
        What the limits are counted from.
    spread : "std" or "mad_std"
        Their unit: population standard deviation, or 1.4826 times the median absolute deviation from the median.

    Raises
    ------
    ParameterError
        If a value has no meaning.
    """

    sigma_lower: float = 3.0
    sigma_upper: float = 3.0
    maxiters: int = 10
    center: Literal["median", "mean"] = "median"
    spread: Literal["std", "mad_std"] = "std"

    def __post_init__(self) -> None:
        for name, sigma in (("sigma_lower", self.sigma_lower), ("sigma_upper", self.sigma_upper)):
            if not sigma > 0:
                raise ParameterError(f"{name}={sigma} would clip every value of a box; give {name} a number above 0")
        if int(self.maxiters) != self.maxiters or (self.maxiters < 1 and self.maxiters != -1):
            raise ParameterError(
                f"maxiters={self.maxiters} is not a number of clipping rounds; "
                "set maxiters to 1 or more, to -1 for no limit, or pass clip=None for no clipping"
            )
        for name, value, choices in (
            ("center", self.center, ("median", "mean")),
            ("spread", self.spread, ("std", "mad_std")),
        ):
            if value not in choices:
                raise ParameterError(
                    f"{name}={value!r} is unknown, so no limits follow from it; set {name} to one of {choices}"
                )


class BoxStatistics(NamedTuple):
    """Statistics of every box, arrays of shape (nby, nbx)."""

    background: np.ndarray  # dtype and unit of the data; NaN where no pixel is left
    rms: np.ndarray  # likewise
    n_good: np.ndarray  # int64, pixels left after masks and clipping


def _box_shape(box_size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (by, bx), checked."""
    pair = box_size if isinstance(box_size, tuple | list | np.ndarray) else (box_size, box_size)
    if len(pair) != 2 or any(int(size) != size or size < 1 for size in pair):
        raise ParameterError(
            f"box_size={box_size!r} is not a box of whole pixels; "
            "give box_size as one integer of 1 or more, or as (by, bx)"
        )
    return int(pair[0]), int(pair[1])


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view, so that writable and read-only arrays do not compile the kernel twice."""
    view = array.view()
    view.flags.writeable = False
    return view


def _arrays(data: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return data and mask (empty for none) as the compiled code wants them."""
    data = np.asarray(data)
    if data.ndim != 2:
        raise InputError(f"data has {data.ndim} axes, but boxes lie in an image of 2; pass one plane (y, x) as data")
    if data.dtype.kind != "f" or data.dtype.itemsize not in (4, 8):
        raise InputError(
            f"data has dtype {data.dtype}, which cannot hold NaN, or a mean at a known precision; "
            "pass data.astype(np.float32)"
        )
    data = _read_only(np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("=")))
    if mask is None:
        return data, _read_only(np.zeros((0, 0), dtype=np.bool_))
    mask = np.asarray(mask)
    if mask.shape != data.shape:
        raise InputError(
            f"mask has shape {mask.shape} and data {data.shape}, so it is unknown which pixels it hides; "
            "pass a mask of the shape of data"
        )
    if mask.dtype != np.bool_:
        raise InputError(
            f"mask has dtype {mask.dtype}, and True must mean left out; pass mask as bool, such as (bits != 0)"
        )
    return data, _read_only(np.ascontiguousarray(mask))


def _pieces(shape: tuple[int, ...], box: tuple[int, int]) -> list[tuple[slice, slice, box_rules.BoxGrid]]:
    """Split the mesh into grids of equal boxes: mesh rows, mesh columns and the grid of each."""
    axes = []
    for size, side in zip(shape, box, strict=True):
        whole, rest = divmod(size, side)
        parts = [(slice(0, whole), 0, side)] if whole else []
        if rest:
            parts.append((slice(whole, whole + 1), whole * side, rest))
        axes.append(parts)
    pieces = []
    for rows, top, by in axes[0]:
        for columns, left, bx in axes[1]:
            n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
            grid = box_rules.BoxGrid(top, left, by, bx, n_rows, n_columns, (by, bx) != box)
            pieces.append((rows, columns, grid))
    return pieces


def _without_own_clip(estimator: Function) -> Function:
    """Return an estimator without its own clipping (the boxes are clipped already), leaving the caller's as it is."""
    if hasattr(estimator, "sigma_clip"):
        estimator = copy.copy(estimator)
        estimator.sigma_clip = None
    return estimator


def _call(estimator: Function, values: np.ndarray) -> np.ndarray:
    """Apply a callable to boxes as rows; check what it returns."""
    result = np.asarray(estimator(values, axis=1))
    if result.shape != (len(values),):
        raise ParameterError(
            f"estimator {estimator!r} returned shape {result.shape} for {len(values)} boxes, so boxes and values "
            "cannot be matched; pass an estimator that reduces axis=1"
        )
    return result


def _apply(
    estimator: Function,
    data: np.ndarray,
    mask: np.ndarray,
    grid: box_rules.BoxGrid,
    flat: box_rules.FlatStatistics,
    out: np.ndarray,
) -> None:
    """Fill `out` with a callable's values, one row of boxes at a time; NaN where no pixel is left."""
    by, bx, n = grid.by, grid.bx, grid.n_columns

    def boxes(image: np.ndarray) -> np.ndarray:
        return image.reshape(by, n, bx).swapaxes(0, 1).reshape(n, by * bx)

    out[:] = np.nan
    for i in range(grid.n_rows):
        top, row = grid.top + i * by, slice(i * n, (i + 1) * n)
        strip = slice(top, top + by), slice(grid.left, grid.left + n * bx)
        values = boxes(data[strip]).copy()
        good = np.isfinite(values)
        good &= (values >= flat.lower[row, np.newaxis]) & (values <= flat.upper[row, np.newaxis])
        if mask.size:
            good &= ~boxes(mask[strip])
        values[~good] = np.nan
        some = good.any(axis=1)
        if some.any():
            out[row][some] = _call(estimator, values[some])


def box_statistics(
    data: np.ndarray,
    box_size: int | tuple[int, int],
    *,
    mask: np.ndarray | None = None,
    clip: Clip | None = Clip(),
    estimator: str | Function = "sextractor",
    rms_estimator: str | Function = "std",
) -> BoxStatistics:
    """Return the clipped background, its rms and the number of good pixels of every box.

    Parameters
    ----------
    data : ndarray of float32 or float64, shape (ny, nx)
        Image whose first pixel is the corner of a box. The last row and column of boxes may be partial. Values that are
        not finite are left out.
    box_size : int or (int, int)
        Box side in pixels, or (by, bx).
    mask : ndarray of bool, shape (ny, nx), optional
        True leaves a pixel out.
    clip : Clip, optional
        Sigma clipping of every box; None for none.
    estimator : str or callable
        A name of `tiledsky.kernels.boxes.estimators.ESTIMATORS`, or a callable as `photutils.background` has them:
        ``f(values, axis=1)`` on an array (boxes, pixels) with NaN for what is left out, returning one value a box. A
        `sigma_clip` of its own is put aside.
    rms_estimator : str or callable
        A name of `tiledsky.kernels.boxes.estimators.RMS_ESTIMATORS`, or a callable likewise.

    Returns
    -------
    BoxStatistics
        ``background`` and ``rms`` (dtype and unit of `data`) and ``n_good``, shape (ceil(ny / by), ceil(nx / bx)).
        A box without a good pixel has NaN, NaN and 0.

    Raises
    ------
    ParameterError
        If the box size or an estimator is unknown, or a callable does not return one value a box.
    InputError
        If data or mask have the wrong shape or dtype.

    Notes
    -----
    Same boxes, same bits: a region cut at box corners has the statistics that these boxes have in the whole image.
    Limits, medians and counts are those of `photutils.background.Background2D` 3.0 (before it excludes boxes) bit for
    bit, except the corner box that is partial on both axes, which photutils clips in the data's own precision.
    Means and deviations are summed in float64 about the median; photutils sums float32 data in float32.
    """
    data, mask = _arrays(data, mask)
    box = _box_shape(box_size)
    locating, scattering = estimator_of(estimator).kernel, rms_estimator_of(rms_estimator).kernel
    used = clip if clip is not None else Clip()
    rules = box_rules.Rules(
        clip is not None,
        float(used.sigma_lower),
        float(used.sigma_upper),
        int(used.maxiters),
        used.center == "mean",
        used.spread == "mad_std",
        MEDIAN if callable(locating) else locating,
        STD if callable(scattering) else scattering,
    )
    kinds = (data.dtype, data.dtype, np.int64)
    shape = (-(-data.shape[0] // box[0]), -(-data.shape[1] // box[1]))
    result = BoxStatistics(*(np.empty(shape, dtype) for dtype in kinds))
    kernel = statistics_by_lanes if box[0] * box[1] <= _LANES_NPIXELS else statistics_by_counts
    for rows, columns, grid in _pieces(data.shape, box):
        n = grid.n_rows * grid.n_columns
        flat = box_rules.FlatStatistics(*(np.empty(n, dtype) for dtype in (*kinds, np.float64, np.float64)))
        kernel(data, mask, grid, rules, flat)
        for function, values in ((locating, flat.background), (scattering, flat.rms)):
            if callable(function):
                _apply(_without_own_clip(function), data, mask, grid, flat, values)
        for mesh, values in zip(result, flat, strict=False):
            mesh[rows, columns] = values.reshape(grid.n_rows, grid.n_columns)
    return result
