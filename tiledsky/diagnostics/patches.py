"""Sums of cells put together, and errors from them: the delete-one jackknife over square patches of the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.residual.cell_sums import CELL

#: Patches there should be at least, and may be at most.
_ENOUGH, _MOST = 48, 16384
#: A scatter of fewer patches than this is no error.
FEWEST = 8
#: Patches larger than this are made for want of room alone.
_LARGE = 256

Floats = NDArray[np.float64]


def patch_size(shape: Pair) -> int:
    """Side of a patch in pixels, by the size of the image alone: larger than what neighbours share, and many of them.

    256 where that leaves at least 48 patches, else 128 or 64; a multiple of 256 where there would be too many.
    """

    def count(size: int) -> int:
        return -(-shape[0] // size) * -(-shape[1] // size)

    size = CELL
    while (size < _LARGE and count(2 * size) >= _ENOUGH) or count(size) > _MOST:
        size *= 2
    return size


class PatchSums:
    """Sums of the patches of an image, added up from the rows of cells of each in order: the same bits for any tiling.

    Parameters
    ----------
    shape : (int, int)
        Of the image.
    columns : int
        Numbers a cell.
    side, unit : int, optional
        Of the patches, px (default: `patch_size`), and of the cells that come in.

    Attributes
    ----------
    sums : ndarray of float64, shape (patches along y, patches along x, columns)
    """

    def __init__(self, shape: Pair, columns: int, *, side: int | None = None, unit: int = CELL) -> None:
        size = side or patch_size(shape)
        self.cells = size // unit
        self.sums = np.zeros((-(-shape[0] // size), -(-shape[1] // size), columns))
        self._width = -(-shape[1] // unit)
        self._cut = np.zeros((0, 0, columns))

    def add(self, where: Region, cells: Floats) -> None:
        """Add the cells of the next tile, tiles in row order.

        Parameters
        ----------
        where : Region
            The cells, counted from the first of the image.
        cells : ndarray of float64, shape (rows, columns of cells, columns)
            Those of a patch that the tile cuts are kept until the next tile brings the rest.
        """
        first = where.x0
        if first and self._cut.shape[1]:
            first -= self._cut.shape[1]
            cells = np.concatenate([self._cut, cells], axis=1)
        width = where.x1 - first
        whole = width if where.x1 == self._width else width // self.cells * self.cells
        if whole:
            starts = np.arange(0, whole, self.cells)
            patches = slice(first // self.cells, first // self.cells + starts.size)
            for row, values in enumerate(cells[:, :whole], where.y0):
                self.sums[row // self.cells, patches] += np.add.reduceat(values, starts, axis=0)
        self._cut = cells[:, whole:].copy()

    def part(self, columns: slice) -> PatchSums:
        """Some columns of the same patches."""
        made = PatchSums((1, 1), 0)
        made.cells, made.sums = self.cells, self.sums[..., columns]
        return made

    def table(self, columns: slice = slice(None)) -> Floats:
        """Rows of some columns, one a patch that has anything."""
        flat = self.sums[..., columns].reshape(-1, self.sums[..., columns].shape[-1])
        return flat[np.any(flat != 0, axis=1)]


@dataclass(frozen=True)
class Estimate:
    """Values with their errors, arrays of one shape; NaN where there is nothing to tell them.

    Attributes
    ----------
    value, error : ndarray of float64
        Error: one standard deviation by the jackknife.
    n : int
        Patches that tell it.
    """

    value: Floats
    error: Floats
    n: int

    @property
    def z(self) -> Floats:
        """Value in units of its error, as the deviate of a normal distribution that is as likely."""
        return gaussian_deviate(self.value, self.error, self.n)


def jackknife(table: Floats, function: Callable[[Floats], Floats], *, holds: int | None = None) -> Estimate:
    """Value of a function of sums, and its error from leaving out one patch at a time.

    Parameters
    ----------
    table : ndarray, shape (patches, k)
        Sums of each patch.
    function : callable
        Of sums, shape (..., k) to (..., m). Where it is not finite without some patch, that patch is left out of the
        error.
    holds : int, optional
        Column that is not 0 in the patches that tell something; default: all do.

    Returns
    -------
    Estimate
        ``error**2 = (n - 1) / n sum (value without a patch - their mean)**2`` (B. Efron, "The Jackknife, the Bootstrap
        and Other Resampling Plans", 1982); NaN for fewer than `FEWEST` patches.
    """
    with np.errstate(all="ignore"):
        total = table.sum(axis=0)
        value = function(total)
        n = len(table)
        told_by = n if holds is None else int(np.count_nonzero(table[:, holds]))
        if told_by < FEWEST:
            return Estimate(value, np.full_like(value, np.nan), told_by)
        without = function(total - table)
        told = np.isfinite(without)
        mean = np.where(told, without, 0.0).sum(axis=0) / told.sum(axis=0)
        squares = np.where(told, without - mean, 0.0) ** 2
        error = np.sqrt((n - 1) / n * squares.sum(axis=0))
    known = np.isfinite(value) & (told.sum(axis=0) > 1)
    return Estimate(np.where(known, value, np.nan), np.where(known, error, np.nan), told_by)


def gaussian_deviate(value: Floats, error: Floats, n: int) -> Floats:
    """Normal deviate as likely as ``value / error`` is for Student's t with ``n - 1`` degrees of freedom.

    An error from few patches is uncertain itself; without this |z| > 3 would come far more often than 0.27%.
    """
    with np.errstate(all="ignore"):
        t = np.asarray(value / error, np.float64)
        if n < 2:
            return np.full_like(t, np.nan)
        # the tail underflows far out, where the deviate is what it is: very large
        tail = np.maximum(special.stdtr(n - 1, -np.abs(t)), 1e-300)
        return -np.sign(t) * special.ndtri(tail)


def ratio(over: Floats, under: Floats) -> Floats:
    """Quotient, NaN where the divisor is not above 0."""
    with np.errstate(all="ignore"):
        return np.where(under > 0, over / np.where(under > 0, under, 1.0), np.nan)


def plain(values: Floats, digits: int = 6) -> list[float | None]:
    """Numbers as JSON has them, NaN as None."""
    return [number(v, digits) for v in np.asarray(values, np.float64).ravel().tolist()]


def number(value: float, digits: int = 6) -> float | None:
    """One number as JSON has it, rounded to significant digits; None for NaN and infinity."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
