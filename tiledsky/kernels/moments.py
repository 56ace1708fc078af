"""Weighted local polynomials on a grid: their moments, and the small symmetric systems that they make."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

#: Largest degree of a polynomial.
MAX_ORDER = 4
#: Cells of a row that are solved at once: their matrices stay in a 512 kB cache.
_BLOCK = 64
#: A monomial of which lower ones leave less than this (of its squared length) is not told apart from them.
_TINY = 1e-9

Floats = NDArray[np.float64]


def terms(order: int) -> list[tuple[int, int]]:
    """Exponents (along y, along x) of the monomials up to a degree, lower degrees first."""
    return [(degree - j, j) for degree in range(order + 1) for j in range(degree + 1)]


def taps(bandwidth: float, reach: int, degree: int) -> Floats:
    """Gaussian times powers of the distance in bandwidths, (degree + 1, 2 reach + 1); bandwidth and reach in cells."""
    u = np.arange(-reach, reach + 1) / bandwidth
    return np.asarray(np.exp(-0.5 * u * u) * u ** np.arange(degree + 1)[:, np.newaxis])


@numba.njit(nogil=True, cache=True)
def _along_y(source: Floats, y: int, weights: Floats, margin: int, out: Floats) -> None:
    """Sums over the rows about row y, with each of the weights; columns begin at `margin` of the result."""
    reach = weights.shape[1] // 2
    nx = source.shape[1]
    out[:, :] = 0.0
    for k in range(weights.shape[1]):
        i = y + k - reach
        if 0 <= i < source.shape[0]:
            row = source[i]
            for m in range(weights.shape[0]):
                t = weights[m, k]
                held = out[m, margin : margin + nx]
                for x in range(nx):
                    held[x] += t * row[x]


@numba.njit(nogil=True, cache=True)
def _add(row: Floats, first: int, step: int, weight: float, out: Floats, n: int) -> None:
    """Add every `step`-th value of a row times a weight."""
    if step == 1:
        held = row[first : first + n]
        for x in range(n):
            out[x] += weight * held[x]
    else:
        for x in range(n):
            out[x] += weight * row[first + x * step]


@numba.njit(nogil=True, cache=True)
def _moments(rows: Floats, weights: Floats, total: int, first: int, step: int, out: Floats, n: int) -> None:
    """Moments (i, j) of i + j up to `total`, in the order of `terms`, of n cells from column `first` on."""
    m = 0
    for degree in range(total + 1):
        for j in range(degree + 1):
            held, row = out[m], rows[degree - j]
            held[:n] = 0.0
            for k in range(weights.shape[1]):
                _add(row, first + k, step, weights[j, k], held, n)
            m += 1


@numba.njit(nogil=True, cache=True)
def _index(i: int, j: int) -> int:
    """Place of the moment (i, j) in the order of `terms`."""
    return (i + j) * (i + j + 1) // 2 + j


@numba.njit(nogil=True, cache=True)
def _subtract(out: Floats, a: Floats, b: Floats, n: int) -> None:
    for x in range(n):
        out[x] -= a[x] * b[x]


@numba.njit(nogil=True, cache=True)
def _decompose(
    moments: Floats, powers: NDArray[np.int64], a: Floats, d: Floats, z: Floats, t: Floats, cells: int
) -> None:
    """LDL' of the matrices of many cells at once; z and t (right sides: the first unit vector, the values) go along.

    A pivot that is lost to rounding becomes infinite: its term counts for nothing. ``d`` gets the inverse pivots.
    """
    n = d.shape[0]
    for r in range(n):
        for c in range(r + 1):
            a[r, c, :cells] = moments[_index(powers[r, 0] + powers[c, 0], powers[r, 1] + powers[c, 1]), :cells]
        z[r, :cells] = 1.0 if r == 0 else 0.0
    for k in range(n):
        whole, pivot, inverse = moments[_index(2 * powers[k, 0], 2 * powers[k, 1])], a[k, k], d[k]
        for x in range(cells):
            inverse[x] = 1.0 / pivot[x] if pivot[x] > _TINY * whole[x] else 0.0
        for r in range(k + 1, n):
            lower, upper = a[r, k], a[k, r]  # above the diagonal: as it was
            for x in range(cells):
                upper[x] = lower[x]
                lower[x] *= inverse[x]
        for r in range(k + 1, n):
            lower = a[r, k]
            for c in range(k + 1, r + 1):
                _subtract(a[r, c], lower, a[k, c], cells)
            _subtract(z[r], lower, z[k], cells)
            _subtract(t[r], lower, t[k], cells)


@numba.njit(nogil=True, cache=True)
def _variances(
    moments: Floats, powers: NDArray[np.int64], a: Floats, d: Floats, z: Floats, q: Floats, size: int, cells: int
) -> None:
    """``q' V q`` of many cells, q being the solution with the first `size` terms; the result is the first row of q."""
    for r in range(size - 1, -1, -1):
        held = q[r]
        for x in range(cells):
            held[x] = z[r, x] * d[r, x]
        for s in range(r + 1, size):
            _subtract(held, a[s, r], q[s], cells)
    total = q[size]
    total[:cells] = 0.0
    for r in range(size):
        for c in range(r + 1):
            m = _index(powers[r, 0] + powers[c, 0], powers[r, 1] + powers[c, 1])
            times = 1.0 if r == c else 2.0
            for x in range(cells):
                total[x] += times * q[r, x] * q[c, x] * moments[m, x]


@numba.njit(nogil=True, cache=True)
def fit_rows(
    weight: Floats,
    product: Floats,
    ys: NDArray[np.int64],
    columns: int,
    step: int,
    powers: NDArray[np.int64],
    along: tuple[Floats, Floats],
    squared: tuple[Floats, Floats],
    limit: float,
    out: Floats,
) -> None:
    """Fits of all degrees about rows `ys` and the first `columns` of every `step`-th column.

    Parameters
    ----------
    weight, product : ndarray (ny, nx), float64
        Weights of the cells, not below 0, and weights times values (0 where the weight is 0).
    ys : ndarray of integers
        Rows, also beyond the mesh.
    columns, step : int
        Columns 0, step, .. (columns - 1) step; the last may lie up to a `step` beyond the mesh.
    powers : ndarray (n, 2), integers
        `terms` of the largest degree.
    along, squared : two pairs of arrays
        `taps` along y and x, and the same with the Gaussian squared.
    limit : float
        Of e0' A^-1 e0, see there.
    out : ndarray (degrees, 3, ys.size, columns), float64
        Gets for each degree the fit, e0' A^-1 e0 (times the weight of the central cell: its leverage), and the
        variance if that of a cell is 1 / weight: of every second degree down from the largest, and of the others where
        the next larger one is above the limit. 0 where no weight is in reach.
    """
    degrees = out.shape[0]
    n, twice = powers.shape[0], 2 * (degrees - 1)
    margin, nx = along[1].shape[1] // 2, weight.shape[1]
    wide = nx + 2 * margin + step
    rows, values, variance = np.zeros((twice + 1, wide)), np.zeros((degrees, wide)), np.zeros((twice + 1, wide))
    moments = np.empty(((twice + 1) * (twice + 2) // 2, _BLOCK))
    a, d = np.empty((n, n, _BLOCK)), np.empty((n, _BLOCK))
    z, t, q = np.empty((n, _BLOCK)), np.empty((n, _BLOCK)), np.empty((n + 1, _BLOCK))
    for y in range(ys.size):
        _along_y(weight, ys[y], along[0], margin, rows)
        _along_y(product, ys[y], along[0][:degrees], margin, values)
        _along_y(weight, ys[y], squared[0], margin, variance)
        for start in range(0, columns, _BLOCK):
            cells = min(_BLOCK, columns - start)
            _moments(rows, along[1], twice, start * step, step, moments, cells)
            _moments(values, along[1], degrees - 1, start * step, step, t, cells)
            _decompose(moments, powers, a, d, z, t, cells)
            _moments(variance, squared[1], twice, start * step, step, moments, cells)
            for x in range(cells):
                fit, lever, k = 0.0, 0.0, 0
                for degree in range(degrees):
                    for _ in range(degree + 1):
                        fit += z[k, x] * t[k, x] * d[k, x]
                        lever += z[k, x] * z[k, x] * d[k, x]
                        k += 1
                    out[degree, 0, y, start + x] = fit
                    out[degree, 1, y, start + x] = lever
            for degree in range(degrees):
                # degrees between those that are averaged stand in for the next larger one
                if (degrees - 1 - degree) % 2 == 1 and np.all(out[degree + 1, 1, y, start : start + cells] <= limit):
                    continue
                size = (degree + 1) * (degree + 2) // 2
                _variances(moments, powers, a, d, z, q, size, cells)
                out[degree, 2, y, start : start + cells] = q[size, :cells]
