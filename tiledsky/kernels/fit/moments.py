"""Weighted local polynomials on a grid: their moments, and the small symmetric systems that they make."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels._simd import elementary

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
    return elementary.exps(-0.5 * u * u) * elementary.powers(u, degree + 1)


@numba.njit(nogil=True, cache=True)
def _index(i: int, j: int) -> int:
    """Place of the moment (i, j) in the order of `terms`."""
    return (i + j) * (i + j + 1) // 2 + j


@numba.njit(nogil=True, cache=True)
def _pair(a: Floats, b: Floats, step: int, even: Floats, odd: Floats, n: int) -> None:
    """Sum and difference of every `step`-th value of two rows."""
    if step == 1:
        for x in range(n):
            even[x] = b[x] + a[x]
            odd[x] = b[x] - a[x]
    else:
        for x in range(n):
            even[x] = b[x * step] + a[x * step]
            odd[x] = b[x * step] - a[x * step]


@numba.njit(nogil=True, cache=True)
def _add(out: Floats, weight: float, row: Floats, n: int) -> None:
    for x in range(n):
        out[x] += weight * row[x]


@numba.njit(nogil=True, cache=True)
def _along_y(source: Floats, y: int, weights: Floats, margin: int, pair: Floats, out: Floats) -> None:
    """Sums over the rows about row y, with each of the weights; columns begin at `margin` of the result.

    Weights of even powers are alike on both sides, those of odd ones opposite: rows are taken in pairs.
    """
    reach, (ny, nx) = weights.shape[1] // 2, source.shape
    nothing = np.zeros(nx)
    out[:, :] = 0.0
    for k in range(reach):
        above = source[y + k - reach] if 0 <= y + k - reach < ny else nothing
        below = source[y - k + reach] if 0 <= y - k + reach < ny else nothing
        _pair(above, below, 1, pair[0], pair[1], nx)
        for m in range(weights.shape[0]):
            _add(out[m, margin : margin + nx], weights[m, 2 * reach - k], pair[m % 2], nx)
    if 0 <= y < ny:
        _add(out[0, margin : margin + nx], weights[0, reach], source[y], nx)


@numba.njit(nogil=True, cache=True)
def _moments(
    rows: Floats, weights: Floats, total: int, first: int, step: int, pair: Floats, out: Floats, n: int
) -> None:
    """Moments (i, j) of i + j up to `total`, in the order of `terms`, of n cells from column `first` on."""
    reach = weights.shape[1] // 2
    for m in range((total + 1) * (total + 2) // 2):
        out[m, :n] = 0.0
    for i in range(total + 1):
        for k in range(reach):
            _pair(rows[i, first + k :], rows[i, first + 2 * reach - k :], step, pair[0], pair[1], n)
            for j in range(total + 1 - i):
                _add(out[_index(i, j)], weights[j, 2 * reach - k], pair[j % 2], n)
        middle = rows[i, first + reach :]
        for x in range(n):
            out[_index(i, 0), x] += middle[x * step]


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
    column: int,
    columns: int,
    step: int,
    powers: NDArray[np.int64],
    along: tuple[Floats, Floats],
    squared: tuple[Floats, Floats],
    limit: float,
    out: Floats,
) -> None:
    """Fits of all degrees about rows `ys` and every `step`-th of some columns.

    Parameters
    ----------
    weight, product : ndarray (ny, nx), float64
        Weights of the cells, not below 0, and weights times values (0 where the weight is 0).
    ys : ndarray of integers
        Rows, also beyond the mesh.
    column, columns, step : int
        Columns column, column + step, .., as many as `columns`; the last may lie up to a `step` beyond the mesh.
    powers : ndarray (n, 2), integers
        `terms` of the largest degree.
    along, squared : two pairs of arrays
        `taps` along y and x, and the same with the Gaussian squared: of no length (n, 0) if no variances are wanted.
    limit : float
        Of e0' A^-1 e0, see there.
    out : ndarray (degrees, 3, ys.size, columns), float64
        Gets for each degree the fit, e0' A^-1 e0 (times the weight of the central cell: its leverage), and the
        variance if that of a cell is 1 / weight: of the largest degree, and of the others where the next larger one is
        above the limit. 0 where no weight is in reach.
    """
    degrees = out.shape[0]
    n, twice = powers.shape[0], 2 * (degrees - 1)
    margin, nx = along[1].shape[1] // 2, weight.shape[1]
    wide = nx + 2 * margin + step
    pair = np.empty((2, max(nx, _BLOCK)))
    rows, values, variance = np.zeros((twice + 1, wide)), np.zeros((degrees, wide)), np.zeros((twice + 1, wide))
    moments = np.empty(((twice + 1) * (twice + 2) // 2, _BLOCK))
    a, d = np.empty((n, n, _BLOCK)), np.empty((n, _BLOCK))
    z, t, q = np.empty((n, _BLOCK)), np.empty((n, _BLOCK)), np.empty((n + 1, _BLOCK))
    for y in range(ys.size):
        _along_y(weight, ys[y], along[0], margin, pair, rows)
        _along_y(product, ys[y], along[0][:degrees], margin, pair, values)
        if squared[0].shape[1]:
            _along_y(weight, ys[y], squared[0], margin, pair, variance)
        for start in range(0, columns, _BLOCK):
            cells = min(_BLOCK, columns - start)
            first = column + start * step
            _moments(rows, along[1], twice, first, step, pair, moments, cells)
            _moments(values, along[1], degrees - 1, first, step, pair, t, cells)
            _decompose(moments, powers, a, d, z, t, cells)
            for x in range(cells):
                fit, lever, k = 0.0, 0.0, 0
                for degree in range(degrees):
                    for _ in range(degree + 1):
                        fit += z[k, x] * t[k, x] * d[k, x]
                        lever += z[k, x] * z[k, x] * d[k, x]
                        k += 1
                    out[degree, 0, y, start + x] = fit
                    out[degree, 1, y, start + x] = lever
            if not squared[0].shape[1]:
                continue
            _moments(variance, squared[1], twice, first, step, pair, moments, cells)
            for degree in range(degrees - 1, -1, -1):  # lower ones stand in for the next larger one
                if degree < degrees - 1 and np.all(out[degree + 1, 1, y, start : start + cells] <= limit):
                    break
                size = (degree + 1) * (degree + 2) // 2
                _variances(moments, powers, a, d, z, q, size, cells)
                out[degree, 2, y, start : start + cells] = q[size, :cells]
