"""Fits of one bandwidth at the cells of a region of a mesh; wide ones are made at some cells, and interpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.moments import fit_points, taps, terms
from tiledsky.kernels.fit.windows import Floats, Window, weighted_cells

#: Gaussians end at this many bandwidths.
_REACH = 3.0
#: Wide fits are made at every 2nd, 4th, 8th cell: nodes are at least half so many to a bandwidth, of parabolas; of
#: quartics, which are sharper than parabolas of the same bandwidth.
_STEP, _APART = 8, (3, 4)
#: The widest fits of quartics are made at every 16th or 32nd: nodes are at least a third so many to a bandwidth.
_WIDEST_STEP, _WIDE_APART = 32, 3
#: A fit in which a typical box at the cell would have more than this leverage is replaced by one of lower degree.
_LEVERAGE = 1.0
#: A mean of boxes that are all farther away than 2.4 bandwidths counts for nothing beside wider fits.
_LONELY = 18.0


@dataclass(frozen=True)
class CellFits:
    """Fits at the cells of a region.

    Attributes
    ----------
    fit, lever : ndarray (rows, columns), float64
        Value, and leverage over weight.
    unit : ndarray (rows, columns), float64
        Variance, of boxes of variance 1 / weight; NaN where no box is in reach. 1 there if variances are not wanted.
    degree : ndarray (rows, columns), float64
    """

    fit: Floats
    lever: Floats
    unit: Floats
    degree: Floats


@dataclass(frozen=True)
class Kernel:
    """Local polynomials of one bandwidth.

    Attributes
    ----------
    bandwidth : (float, float)
        In cells.
    degree : int
    shortest : int
        Of the sides of the mesh, in cells: if it has fewer than four nodes, these are no more than `_STEP` apart.
    """

    bandwidth: tuple[float, float]
    degree: int
    shortest: int = 0

    @property
    def step(self) -> int:
        """Cells from one node to the next."""
        step = 1
        while step < _STEP and _APART[self.degree > 2] * step <= min(self.bandwidth):
            step *= 2
        while self.degree > 2 and _STEP <= step < _WIDEST_STEP:
            if 2 * _WIDE_APART * step > min(self.bandwidth) or 2 * 3 * step >= self.shortest:
                break
            step *= 2
        return step

    @property
    def halo(self) -> Pair:
        """Cells beside a region that its fits depend on: the Gaussian, about nodes up to three steps from a cell."""
        beyond = 3 * self.step if self.step > 1 else 0
        y, x = (math.ceil(_REACH * b) + beyond for b in self.bandwidth)
        return y, x

    def memory(self, region: Pair, shape: Pair) -> int:
        """Bytes that `fits` takes for a region of this shape, of a mesh of this shape, beside what is given to it.

        26 a cell of the window while values and weights are made, 16 of it from then on; 24 (degree + 1) + 64 a node;
        40 a cell if there are fewer nodes than cells; 40 (degree + 2) a column of the window, and 1 MB, for the rows
        and matrices that are worked on.
        """
        rows, columns = (min(n + 2 * h, of) for n, h, of in zip(region, self.halo, shape, strict=True))
        window = rows * columns
        cells = math.prod(region)
        nodes = cells if self.step == 1 else math.prod(n // self.step + 4 for n in region)
        made = (24 * (self.degree + 1) + 64) * nodes + (40 * cells if self.step > 1 else 0)
        return max(26 * window, 16 * window + made) + 40 * (self.degree + 2) * columns + 1_000_000

    def fits(
        self,
        region: Region,
        values: Window,
        weight: Window,
        *,
        shape: Pair,
        center: float,
        typical: float,
        unit: bool,
        wanted: NDArray[Any] | None = None,
    ) -> CellFits:
        """Fits at the cells of a region.

        Parameters
        ----------
        region : Region
        values, weight : Window
            Of the boxes, in the region grown by `halo`; any value where the weight is 0.
        shape : (int, int)
            Of the mesh.
        center : float
            Taken from the values.
        typical : float
            Weight of a typical box.
        unit : bool
            Whether variances are wanted.
        wanted : ndarray (rows, columns), optional
            Not 0 at the cells that fits are wanted at; others may have any.

        Notes
        -----
        Memory: `memory`.
        """
        (y0, y1), (x0, x1) = (
            _nodes(a, b, n, self.step) for a, b, n in zip(region[::2], region[1::2], shape, strict=True)
        )
        nodes, reach = Region(y0, y1, x0, x1), [math.ceil(_REACH * b) for b in self.bandwidth]
        last = Region(y0 * self.step, (y1 - 1) * self.step + 1, x0 * self.step, (x1 - 1) * self.step + 1)
        read = last.grown((reach[0], reach[1]), shape)
        cells, weights = weighted_cells(values, weight, read, center)
        found = self._at(nodes, wanted if self.step == 1 else None, cells, weights, read, typical=typical, unit=unit)
        if self.step == 1:
            return found
        del cells, weights
        parts = []
        for part in (found.fit, found.lever, elementary.logs(found.unit), found.degree):
            refined = np.empty(region.shape)
            _refine(part, (y0, x0), self.step, (region.y0, region.x0), refined)
            parts.append(refined)
        # logarithms: between nodes a variance must not fall below 0
        return CellFits(parts[0], parts[1], elementary.exps(parts[2]), parts[3])

    def _at(
        self,
        nodes: Region,
        wanted: NDArray[Any] | None,
        cells: Floats,
        weights: Floats,
        read: Region,
        *,
        typical: float,
        unit: bool,
    ) -> CellFits:
        """Fits at nodes, which are every `step`-th cell from the first of the mesh; `cells` of `read` are given up."""
        order, limit = self.degree, _LEVERAGE / typical
        gaussians = [taps(b, math.ceil(_REACH * b), 2 * order) for b in self.bandwidth]
        squared = [g * g[0] if unit else np.empty((2 * order + 1, 0)) for g in gaussians]
        ys, xs = np.arange(nodes.y0, nodes.y1) * self.step, np.arange(nodes.x0, nodes.x1) * self.step
        if wanted is None:
            wanted = np.ones(nodes.shape, np.bool_)
        places = np.flatnonzero(wanted)
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.count_nonzero(wanted, axis=1))))
        out = np.zeros((order + 1, 3, places.size))
        fit_points(
            weights,
            np.multiply(weights, cells, out=cells),
            ys - read.y0,
            starts,
            xs[places % xs.size] - read.x0,
            np.array(terms(order), np.int64),
            (gaussians[0], gaussians[1]),
            (squared[0], squared[1]),
            limit,
            out,
        )
        if not unit:
            out[:, 2] = 1.0
        chosen = np.zeros((4, ys.size * xs.size))
        _choose(out, limit, _LONELY / typical, places, chosen)
        return CellFits(*chosen.reshape(4, ys.size, xs.size))


def _nodes(first: int, last: int, n: int, step: int) -> tuple[int, int]:
    """Nodes that the cells from `first` to before `last`, of `n` along an axis, are interpolated from.

    One more on each side than lie about them, and at the ends of the mesh four, which cubics between nodes go through.
    """
    if step == 1:
        return first, last
    most = -(-(n - 1) // step)
    start = max(min(first // step - 1, most - 3), 0)
    return start, min(max(-(-(last - 1) // step) + 1, start + 3), most) + 1


@numba.njit(nogil=True, cache=True)
def _choose(out: Floats, limit: float, lonely: float, places: NDArray[np.int64], chosen: Floats) -> None:
    """Fit, leverage, variance, degree at nodes, of the largest degree within its limit; variance NaN where none is."""
    degree = out.shape[0] - 1
    for i in range(places.size):
        k, at = degree, places[i]
        while k > 0 and not out[k, 1, i] <= (limit if k > 1 else lonely):
            k -= 1
        for m in range(3):
            chosen[m, at] = out[k, m, i]
        chosen[3, at] = k
        if not 0.0 < out[k, 1, i] <= lonely:
            chosen[2, at] = np.nan


@numba.njit(nogil=True, cache=True)
def _mix(a: Floats, b: Floats, c: Floats, d: Floats, t: float, out: Floats) -> None:
    """Cubic through four rows at 0, 1, 2, 3, at t."""
    for x in range(out.size):
        outer = d[x] * (t - 1.0) * (t - 2.0) * t - a[x] * (t - 1.0) * (t - 2.0) * (t - 3.0)
        out[x] = outer / 6.0 + 0.5 * t * (t - 3.0) * (b[x] * (t - 2.0) - c[x] * (t - 1.0))


@numba.njit(nogil=True, cache=True)
def _between_rows(nodes: Floats, first: int, step: int, corner: int, rows: Floats) -> None:
    """Rows from `corner` on, from every `step`-th, of which the node `first` is the first.

    Cubics through the four nodes about each, at the ends the first or last four: cubics are reproduced.
    """
    n = nodes.shape[0]
    for y in range(rows.shape[0]):
        j = y + corner - first * step
        i, f = j // step, (j % step) / step
        if f == 0.0:
            rows[y] = nodes[i]
        elif n < 4:
            low, high = nodes[i], nodes[min(i + 1, n - 1)]
            for x in range(low.size):
                rows[y, x] = low[x] + f * (high[x] - low[x])
        else:
            k = min(max(i - 1, 0), n - 4)
            _mix(nodes[k], nodes[k + 1], nodes[k + 2], nodes[k + 3], i - k + f, rows[y])


@numba.njit(nogil=True, cache=True)
def _refine(nodes: Floats, first: tuple[int, int], step: int, corner: tuple[int, int], cells: Floats) -> None:
    """Cells from `corner` on, from nodes of which `first` is the first."""
    wide = np.empty((cells.shape[1], nodes.shape[0]))
    _between_rows(np.ascontiguousarray(nodes.T), first[1], step, corner[1], wide)
    _between_rows(np.ascontiguousarray(wide.T), first[0], step, corner[0], cells)
