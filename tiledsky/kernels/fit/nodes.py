"""Fits of one bandwidth at the cells of a region of a mesh; wide ones are made at some cells, and interpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.moments import fit_rows, taps, terms
from tiledsky.kernels.fit.windows import Floats, Window, weighted_cells

#: Gaussians end at this many bandwidths.
_REACH = 3.0
#: Wide fits are made at every 2nd, 4th, 8th cell: nodes are at least half so many to a bandwidth, of parabolas; of
#: quartics, which are sharper than parabolas of the same bandwidth.
_STEP, _APART = 8, (3, 4)
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
    """

    bandwidth: tuple[float, float]
    degree: int

    @property
    def step(self) -> int:
        """Cells from one node to the next."""
        step = 1
        while step < _STEP and _APART[self.degree > 2] * step <= min(self.bandwidth):
            step *= 2
        return step

    @property
    def halo(self) -> Pair:
        """Cells beside a region that its fits depend on: the Gaussian, about nodes up to three steps from a cell."""
        beyond = 3 * self.step if self.step > 1 else 0
        y, x = (math.ceil(_REACH * b) + beyond for b in self.bandwidth)
        return y, x

    def fits(
        self, region: Region, values: Window, weight: Window, *, shape: Pair, center: float, typical: float, unit: bool
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

        Notes
        -----
        Memory: 24 bytes a cell of the region and the reach of the Gaussian; 24 (degree + 1) + 32 bytes a node, and if
        there are fewer nodes than cells 32 bytes a cell.
        """
        (y0, y1), (x0, x1) = (
            _nodes(a, b, n, self.step) for a, b, n in zip(region[::2], region[1::2], shape, strict=True)
        )
        nodes = self._at(Region(y0, y1, x0, x1), values, weight, shape=shape, center=center, typical=typical, unit=unit)
        if self.step == 1:
            return nodes
        parts = []
        for part in (nodes.fit, nodes.lever, elementary.logs(nodes.unit), nodes.degree):
            cells = np.empty(region.shape)
            _refine(part, (y0, x0), self.step, (region.y0, region.x0), cells)
            parts.append(cells)
        # logarithms: between nodes a variance must not fall below 0
        return CellFits(parts[0], parts[1], elementary.exps(parts[2]), parts[3])

    def _at(
        self, nodes: Region, values: Window, weight: Window, *, shape: Pair, center: float, typical: float, unit: bool
    ) -> CellFits:
        """Fits at nodes, which are every `step`-th cell from the first of the mesh."""
        step, order = self.step, self.degree
        gaussians = [taps(b, math.ceil(_REACH * b), 2 * order) for b in self.bandwidth]
        squared = [g * g[0] if unit else np.empty((2 * order + 1, 0)) for g in gaussians]
        covered = Region(nodes.y0 * step, nodes.y1 * step, nodes.x0 * step, nodes.x1 * step)
        reach = math.ceil(_REACH * self.bandwidth[0]), math.ceil(_REACH * self.bandwidth[1])
        last = Region(covered.y0, covered.y1 - step + 1, covered.x0, covered.x1 - step + 1)
        read = last.grown(reach, shape)
        cells, weights = weighted_cells(values, weight, read, center)
        ys = np.arange(covered.y0, covered.y1, step) - read.y0
        out = np.zeros((order + 1, 3, *nodes.shape))
        fit_rows(
            weights,
            np.multiply(weights, cells, out=cells),
            ys,
            covered.x0 - read.x0,
            nodes.shape[1],
            step,
            np.array(terms(order), np.int64),
            (gaussians[0], gaussians[1]),
            (squared[0], squared[1]),
            _LEVERAGE / typical,
            out,
        )
        if not unit:
            out[:, 2] = 1.0
        chosen = np.empty((4, *nodes.shape))
        _choose(out, _LEVERAGE / typical, _LONELY / typical, chosen)
        return CellFits(*chosen)


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
def _choose(out: Floats, limit: float, lonely: float, chosen: Floats) -> None:
    """Fit, leverage, variance, degree at nodes, of the largest degree within its limit; variance NaN where none is."""
    degree = out.shape[0] - 1
    for y in range(out.shape[2]):
        for x in range(out.shape[3]):
            k = degree
            while k > 0 and not out[k, 1, y, x] <= (limit if k > 1 else lonely):
                k -= 1
            for m in range(3):
                chosen[m, y, x] = out[k, m, y, x]
            chosen[3, y, x] = k
            lever = out[k, 1, y, x]
            if not 0.0 < lever <= lonely:
                chosen[2, y, x] = np.nan


@numba.njit(nogil=True, cache=True)
def _mix(nodes: Floats, i: int, f: float) -> float:
    """Cubic through four nodes about i + f, at the ends the first or last four: cubics are reproduced."""
    n = nodes.size
    if f == 0.0:
        return nodes[i]
    if n < 4:
        return nodes[i] + f * (nodes[min(i + 1, n - 1)] - nodes[i])
    k = min(max(i - 1, 0), n - 4)
    t = i - k + f
    outer = nodes[k + 3] * (t - 1.0) * (t - 2.0) * t - nodes[k] * (t - 1.0) * (t - 2.0) * (t - 3.0)
    return outer / 6.0 + 0.5 * t * (t - 3.0) * (nodes[k + 1] * (t - 2.0) - nodes[k + 2] * (t - 1.0))


@numba.njit(nogil=True, cache=True)
def _refine(nodes: Floats, first: tuple[int, int], step: int, corner: tuple[int, int], cells: Floats) -> None:
    """Cells from `corner` on, from nodes of which `first` is the first."""
    wide = np.empty((nodes.shape[0], cells.shape[1]))
    for i in range(nodes.shape[0]):
        for x in range(cells.shape[1]):
            j = x + corner[1] - first[1] * step
            wide[i, x] = _mix(nodes[i], j // step, (j % step) / step)
    for y in range(cells.shape[0]):
        j = y + corner[0] - first[0] * step
        for x in range(cells.shape[1]):
            cells[y, x] = _mix(wide[:, x], j // step, (j % step) / step)
