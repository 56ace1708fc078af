"""The sky of a mesh by local polynomial regression, with bandwidths that follow the sky, and its error.

At each cell a polynomial is fitted to the values of the boxes about it, weighted by a Gaussian of their distance (its
standard deviation is the bandwidth, it ends at three of them) and by their weights; its value at the cell is the sky
there (Cleveland 1979, J. Am. Stat. Assoc. 74, 829; Fan & Gijbels 1996). All sums are moments of the mesh.

Nobody knows the best bandwidth, and it differs from place to place. So the fits of several bandwidths, and
polynomials of the whole mesh, are averaged, each with the weight::

    exp(-(N log R + P) / (2 T))

R is the sum of squared weights times squared residuals, of boxes from fits made without them, over the sum of weights,
in a Gaussian window about the cell; N is the number of boxes in the window, P that of the parameters that the fit has
for them (the sum of their leverages). The residual of a box from the fit without it is that from the fit with it over
(1 - its leverage), which is what Akaike's criterion takes 2 P for; with P more it is one of the criteria that do not
choose too many parameters so often (Bhansali & Downham 1977, Biometrika 64, 547). For T = 1 these are the weights that
information criteria give to models (Buckland et al. 1997, Biometrics 53, 603). Narrow fits weigh most where the sky
bends on small scales; wide ones weigh most where it is smooth, in the limit one value for the whole image.

With boxes of variance ``s**2 / weight``, s**2 being R, a fit has the variance ``s**2 q' V q``, where q is the solution
of its normal equations for the value at the cell, V the moments of the squared Gaussian. (The boxes of large weights
dominate the fits, and R counts them most: if the weights are wrong, R is right for these boxes.) The error adds the
differences between the fits; variances are `shared` times as large where neighbouring boxes share noise
(`tiledsky.kernels.mesh.error.shared_noise`)::

    error**2 = sum of u_k (variance_k + (fit_k - average)**2)

The weights u leave P out, so that they trust wide fits less than the weights of the average do: the error then counts
differences between the fits that are too weak to change the average. Where boxes are missing, no fit shows how the sky
bends: `tiledsky.kernels.fit.gaps` measures how far the sky strays from such fits where there are boxes, and adds that.
(A fit of one given bandwidth has the error of noise alone.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, row_bands
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.averages import BLOCK, WINDOW, Averages
from tiledsky.kernels.fit.gaps import REACH, gap_variance
from tiledsky.kernels.fit.moments import fit_rows, taps, terms

#: Gaussians end at this many bandwidths.
_REACH = 3.0
#: Bandwidths of the fits, in boxes: from this, by this factor, to this.
_NARROWEST, _RATIO, _WIDEST = 1.5, 2.0**0.5, 36.0
#: Wide fits are made at every 2nd, 4th, 8th cell: nodes are at least half so many to a bandwidth, of parabolas; of
#: quartics, which are sharper than parabolas of the same bandwidth.
_STEP, _APART = 8, (3, 4)
#: Condition of normal equations above which a polynomial of the whole mesh is left out: boxes in a row, or too few.
_SINGULAR = 1e12
#: A fit in which a typical box at the cell would have more than this leverage is replaced by one of lower degree.
_LEVERAGE = 1.0
#: A mean of boxes that are all farther away than 2.4 bandwidths counts for nothing beside wider fits.
_LONELY = 18.0

#: Rows beside a band that its residuals are of; the values that these depend on reach farther, by the widest Gaussian.
HALO = BLOCK * (int(3 * WINDOW / BLOCK) + 1 + -(-REACH // BLOCK))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LocalFit:
    """The sky of some rows of a mesh.

    Attributes
    ----------
    background : ndarray (rows, nbx), float64
    error : ndarray (rows, nbx), float64
        Its standard error; 0 for values without scatter, NaN if there is one box alone.
    bandwidth : ndarray (rows, nbx), float64
        Mean bandwidth in pixels, as a geometric mean; polynomials of the whole mesh count as 1.4 times the widest.
    degree : ndarray (rows, nbx), float64
        Mean degree of the polynomials.
    """

    background: Floats
    error: Floats
    bandwidth: Floats
    degree: Floats


@dataclass(frozen=True)
class FitModel:
    """Bandwidths and degrees of the fits that are averaged.

    Attributes
    ----------
    bandwidths : tuple of float
        Pixels, narrowest first.
    degree : int
        Of the polynomials.
    whole : int, optional
        Polynomials of the whole mesh up to this degree are averaged with them. None: the first bandwidth alone is
        asked for; one value for the whole mesh stands in where no box is in its reach.
    """

    bandwidths: tuple[float, ...]
    degree: int
    whole: int | None = None


def fit_model(shape: Pair, box_size: Pair, *, order: int, bandwidth: float | None, narrowest: float = 0.0) -> FitModel:
    """Choose bandwidths and degrees for a mesh of `shape`.

    Parameters
    ----------
    shape, box_size : (int, int)
    order : int
        Degree of the polynomials, 0 to 4.
    bandwidth : float, optional
        One bandwidth in pixels; None: all from 1.5 boxes (or `narrowest`, in pixels, if that is more) to 36 boxes or
        the side of the mesh, and polynomials of the whole mesh up to the second degree.
    narrowest : float
    """
    if bandwidth is not None:
        return FitModel((float(bandwidth),), order)
    first = max(_NARROWEST * max(box_size), narrowest)
    last = min(_WIDEST * max(box_size), max(n * b for n, b in zip(shape, box_size, strict=True)))
    bandwidths = [first]
    while bandwidths[-1] * _RATIO <= last * (1.0 + 1e-12):
        bandwidths.append(bandwidths[-1] * _RATIO)
    return FitModel(tuple(bandwidths), order, min(order, 2))


@numba.njit(nogil=True, cache=True)
def _choose(out: Floats, limit: float, lonely: float, chosen: Floats, used: Floats) -> None:
    """Fit, leverage, variance at nodes, of the largest degree within its limit; variance NaN where there is none."""
    degree = out.shape[0] - 1
    for y in range(out.shape[2]):
        for x in range(out.shape[3]):
            k = degree
            while k > 0 and not out[k, 1, y, x] <= (limit if k > 1 else lonely):
                k -= 1
            for m in range(3):
                chosen[m, y, x] = out[k, m, y, x]
            used[y, x] = k
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
def _refine(nodes: Floats, first: int, step: int, y0: int, cells: Floats) -> None:
    """Cells of rows from y0 on, from nodes of which the first row is cell row `first`."""
    wide = np.empty((nodes.shape[0], cells.shape[1]))
    for i in range(nodes.shape[0]):
        for x in range(cells.shape[1]):
            wide[i, x] = _mix(nodes[i], x // step, (x % step) / step)
    for y in range(cells.shape[0]):
        i, f = (y + y0 - first) // step, ((y + y0 - first) % step) / step
        for x in range(cells.shape[1]):
            cells[y, x] = _mix(wide[:, x], i, f)


def _interval(rows: slice, ny: int, halo: int) -> tuple[int, int]:
    return max(rows.start - halo, 0), min(rows.stop + halo, ny)


class MeshFit:
    """The sky of a mesh, in rows.

    Parameters
    ----------
    values : ndarray (nby, nbx), float32 or float64
        Of the boxes; any number, also NaN, where the weight is 0.
    weight : ndarray (nby, nbx), float32 or float64
        Inverse variance of the boxes up to a factor; 0 where a box is left out. One at least is not 0.
    box_size : (int, int)
        Pixels of a box.
    model : FitModel
    judged : ndarray (nby, nbx), optional
        Weights that fits are judged with, where they are others: not 0 where `weight` is not.
    shared : float
        Variance of means of many boxes, over what it would be if boxes did not share noise.
    """

    def __init__(
        self,
        values: NDArray[Any],
        weight: NDArray[Any],
        *,
        box_size: Pair,
        model: FitModel,
        judged: NDArray[Any] | None = None,
        shared: float = 1.0,
    ) -> None:
        self.shared = shared
        self.values, self.weight, self.box_size, self.model = values, weight, box_size, model
        self.judged = weight if judged is None else judged
        self.shape: Pair = (values.shape[0], values.shape[1])
        known = [(values[r][weight[r] > 0], weight[r][weight[r] > 0]) for r in row_bands(self.shape)]
        self.total = math.fsum(float(np.sum(w, dtype=np.float64)) for _, w in known)
        self.center = math.fsum(float(np.sum(v * w, dtype=np.float64)) for v, w in known) / self.total
        spread = max(float(np.max(np.abs(v - self.center), initial=0.0)) for v, _ in known)
        self.constant, self.alone = spread == 0.0, sum(w.size for _, w in known) == 1
        self.floor = max((1e-12 * spread) ** 2, 1e-300)
        self.typical = float(np.median(np.concatenate([w for _, w in known]), overwrite_input=True))

    def rows(self, rows: slice = slice(None)) -> LocalFit:
        """Fit some rows: they have the bits that they have in the whole.

        Notes
        -----
        Without noise, polynomials up to the degree of the model are reproduced (quartics to 3e-5 of their range:
        between the cells that wide fits are made at, cubics are).
        Where few boxes carry a fit (corners, edges, holes) one of lower degree takes its place: where a typical box at
        the cell would have more leverage than 1. In holes that a fit does not reach, wider ones count alone.

        Halo: the rows of the window of the comparison and of the widest Gaussian. Memory: about 230 bytes a cell of the
        rows and the window's halo.
        """
        rows = slice(*rows.indices(self.shape[0])[:2])
        aligned = slice(rows.start // BLOCK * BLOCK, -(-rows.stop // BLOCK) * BLOCK)
        first, last = _interval(aligned, self.shape[0], HALO)
        values, fitted = self._cells(first, last)
        judged = fitted
        if self.judged is not self.weight:
            judged = self.judged[first:last].astype(np.float64)
            values = np.where(judged > 0.0, self.values[first:last].astype(np.float64) - self.center, 0.0)
        band = Averages(values, judged, fitted, rows, first)
        for fit, lever, unit, used, bandwidth in self._candidates(first, last):
            band.add(fit, lever, self.shared * unit, used, log_h=elementary.log(bandwidth), floor=self.floor)
        found = band.sums[1] > 0.0
        averaged = self.model.whole is not None
        if averaged or not found.all():
            before = band.sums.copy()
            log_h = elementary.log(self.model.bandwidths[-1] * _RATIO)
            for degree, fit, lever in self._whole(first, last):
                used = np.full(values.shape, float(degree))
                band.add(fit, lever, self.shared * lever, used, log_h=log_h, floor=self.floor)
            if not averaged:
                band.sums = np.where(found, before, band.sums)
        mean, variance, log_h_mean, degree_mean = band.result()
        if averaged:  # else the one bandwidth is asked for, and the error is that of noise alone
            variance += gap_variance(band.values, band.weight, band.least, band.mean_weight, band.inner)
        if self.constant:
            variance[:] = 0.0
        if self.alone:
            variance[:] = np.nan
        return LocalFit(mean + self.center, np.sqrt(variance), elementary.exps(log_h_mean), degree_mean)

    def _whole(self, first: int, last: int) -> Iterator[tuple[int, Floats, Floats]]:
        """Degree, fit and leverage over weight in some rows, of polynomials fitted to the whole mesh."""
        basis, (moments, products) = self._basis(first, last), self._normal
        for degree in range((self.model.whole or 0) + 1):
            n = (degree + 1) * (degree + 2) // 2
            matrix = moments[:n, :n]
            inverse = elementary.inverse(np.ascontiguousarray(matrix))
            if not np.abs(matrix).sum(axis=0).max() * np.abs(inverse).sum(axis=0).max() <= _SINGULAR:
                return
            # term by term: the order of sums in a matrix product may depend on the number of rows
            factors = np.zeros(n)
            for k in range(n):
                factors += inverse[:, k] * products[k]
            fit, lever = np.zeros(basis.shape[1:]), np.zeros(basis.shape[1:])
            for i in range(n):
                fit += factors[i] * basis[i]
                for j in range(n):
                    lever += inverse[i, j] * basis[i] * basis[j]
            yield degree, fit, lever

    @cached_property
    def _normal(self) -> tuple[Floats, Floats]:
        """Normal equations of parabolas fitted to the whole mesh: moments, and products with the values."""
        moments, products = np.zeros((6, 6)), np.zeros(6)
        for band in row_bands(self.shape):
            basis = self._basis(band.start, band.stop)
            values, weight = self._cells(band.start, band.stop)
            for i, one in enumerate(basis):
                weighted = one * weight
                moments[i] += [np.sum(weighted * other) for other in basis]
                products[i] += np.sum(weighted * values)
        return moments, products

    def _basis(self, first: int, last: int) -> Floats:
        """Monomials of rows and columns from -1 to 1, lower degrees first, in some rows, (6, rows, nbx)."""
        y, x = (np.arange(n) * (2.0 / max(n - 1, 1)) - (n > 1) for n in self.shape)
        v, u = y[first:last, np.newaxis], x[np.newaxis, :]
        return np.stack([v**i * u**j for i, j in terms(2)])

    def plain(self, rows: slice) -> Floats:
        """Fit of the first bandwidth and degree alone in some rows; NaN where no box is in its reach."""
        fit, _, unit, _, _ = next(self._candidates(rows.start, rows.stop))
        return np.where(np.isfinite(unit), fit + self.center, np.nan)

    def _cells(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Values less their mean, and weights, of some rows."""
        weight = self.weight[first:last].astype(np.float64)
        return np.where(weight > 0.0, self.values[first:last].astype(np.float64) - self.center, 0.0), weight

    def _candidates(self, first: int, last: int) -> Iterator[tuple[Floats, Floats, Floats, Floats, float]]:
        """Fit, leverage over weight, variance over R and degree in some rows, and the bandwidth."""
        for bandwidth in self.model.bandwidths:
            h = bandwidth / self.box_size[0], bandwidth / self.box_size[1]
            out, start, step = self._fits(h, first, last)
            chosen, used = np.empty(out.shape[1:]), np.empty(out.shape[2:])
            _choose(out, _LEVERAGE / self.typical, _LONELY / self.typical, chosen, used)
            made = []
            chosen[2] = elementary.logs(chosen[2])  # between nodes a variance must not fall below 0
            for nodes in (*chosen, used):
                cells = nodes[first - start : last - start]
                if step > 1:
                    cells = np.empty((last - first, self.shape[1]))
                    _refine(nodes, start, step, first, cells)
                made.append(cells)
            yield made[0], made[1], elementary.exps(made[2]), made[3], bandwidth

    def _fits(self, h: tuple[float, float], first: int, last: int) -> tuple[Floats, int, int]:
        """Fits of all degrees at every `step`-th cell, dense for this bandwidth, and the row of the first."""
        step = 1
        while step < _STEP and _APART[self.model.degree > 2] * step <= min(h):
            step *= 2
        # a node more on each side, and at the ends of the mesh four, which cubics between nodes go through
        most = -(-(self.shape[0] - 1) // step)
        start = max(min(first // step - 1, most - 3), 0) * step
        end = min(max(-(-(last - 1) // step) + 1, start // step + 3), most)
        order, ys = self.model.degree, np.arange(start, end * step + 1, step)
        gaussians = [taps(b, math.ceil(_REACH * b), 2 * order) for b in h]
        squared = [g * g[0] for g in gaussians]
        top, bottom = _interval(slice(start, int(ys[-1]) + 1), self.shape[0], math.ceil(_REACH * h[0]))
        values, weight = self._cells(top, bottom)
        columns = -(-(self.shape[1] - 1) // step) + 1
        out = np.zeros((order + 1, 3, ys.size, columns))
        along, limit = (gaussians[0], gaussians[1]), _LEVERAGE / self.typical
        powers = np.array(terms(order), np.int64)
        fit_rows(weight, weight * values, ys - top, columns, step, powers, along, (squared[0], squared[1]), limit, out)
        return out, start, step
