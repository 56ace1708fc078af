"""Weighted local polynomials on a grid: their moments, and the small symmetric systems that they make."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels._simd import elementary

#: Cells of a row that are solved at once: their matrices stay in a 512 kB cache.
_BLOCK = 128
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
def _pair(a: Floats, b: Floats, even: Floats, odd: Floats, n: int) -> None:
    """Sum and difference of two rows."""
    for x in range(n):
        even[x] = b[x] + a[x]
        odd[x] = b[x] - a[x]


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
        _pair(above, below, pair[0], pair[1], nx)
        for m in range(weights.shape[0]):
            _add(out[m, margin : margin + nx], weights[m, 2 * reach - k], pair[m % 2], nx)
    if 0 <= y < ny:
        _add(out[0, margin : margin + nx], weights[0, reach], source[y], nx)


@numba.njit(nogil=True, cache=True)
def _pairs(row: Floats, at: NDArray[np.int64], near: int, far: int, even: Floats, odd: Floats) -> None:
    """Sums and differences of the values at two distances from ascending places."""
    n = at.size
    if at[n - 1] - at[0] == n - 1:
        _pair(row[at[0] + near :], row[at[0] + far :], even, odd, n)
    else:
        for x in range(n):
            low, high = row[at[x] + near], row[at[x] + far]
            even[x] = high + low
            odd[x] = high - low


@numba.njit(nogil=True, cache=True)
def _moments(rows: Floats, weights: Floats, total: int, at: NDArray[np.int64], pair: Floats, out: Floats) -> None:
    """Moments (i, j) of i + j up to `total`, in the order of `terms`, of cells at some columns.

    Two distances are added at a time, for a cell is read and written as often as it is added to.
    """
    reach, n = weights.shape[1] // 2, at.size
    for m in range((total + 1) * (total + 2) // 2):
        out[m, :n] = 0.0
    for i in range(total + 1):
        for k in range(0, reach, 2):
            two = k + 1 < reach
            for p in range(1 + two):
                _pairs(rows[i], at, k + p, 2 * reach - k - p, pair[2 * p], pair[2 * p + 1])
            for j in range(total + 1 - i):
                m, kind, one = _index(i, j), j % 2, weights[j, 2 * reach - k]
                if two:
                    other = weights[j, 2 * reach - k - 1]
                    for x in range(n):
                        out[m, x] = out[m, x] + one * pair[kind, x] + other * pair[kind + 2, x]
                else:
                    for x in range(n):
                        out[m, x] += one * pair[kind, x]
        for x in range(n):
            out[_index(i, 0), x] += rows[i, at[x] + reach]


@numba.njit(nogil=True, cache=True)
def _subtract(out: Floats, a: Floats, b: Floats, n: int) -> None:
    for x in range(n):
        out[x] -= a[x] * b[x]


@numba.njit(nogil=True, cache=True)
def _decompose(
    moments: Floats, powers: NDArray[np.int64], a: Floats, d: Floats, z: Floats, t: Floats, cells: int
) -> None:
    """LDL' of the matrices of many cells at once; z and t (right sides: the first unit vector, the values) go along.

    A pivot that is lost to rounding becomes infinite: its term counts for nothing. ``d`` gets the inverse pivots. All
    loops over cells stand here: calls and slices take as long as a loop.
    """
    n = d.shape[0]
    for r in range(n):
        for c in range(r + 1):
            m = _index(powers[r, 0] + powers[c, 0], powers[r, 1] + powers[c, 1])
            for x in range(cells):
                a[r, c, x] = moments[m, x]
        for x in range(cells):
            z[r, x] = 1.0 if r == 0 else 0.0
    for k in range(n):
        for r in range(k, n):
            for c in range(0, k - 1, 2):
                for x in range(cells):
                    a[r, k, x] = a[r, k, x] - a[r, c, x] * a[c, k, x] - a[r, c + 1, x] * a[c + 1, k, x]
            if k % 2:
                for x in range(cells):
                    a[r, k, x] -= a[r, k - 1, x] * a[k - 1, k, x]
        whole = _index(2 * powers[k, 0], 2 * powers[k, 1])
        for x in range(cells):
            d[k, x] = 1.0 / a[k, k, x] if a[k, k, x] > _TINY * moments[whole, x] else 0.0
        for r in range(k + 1, n):
            for x in range(cells):
                a[k, r, x] = a[r, k, x]  # above the diagonal: as it was
                a[r, k, x] *= d[k, x]
            for x in range(cells):
                z[r, x] -= a[r, k, x] * z[k, x]
            for x in range(cells):
                t[r, x] -= a[r, k, x] * t[k, x]


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
def fit_points(
    weight: Floats,
    product: Floats,
    ys: NDArray[np.int64],
    starts: NDArray[np.int64],
    xs: NDArray[np.int64],
    powers: NDArray[np.int64],
    along: tuple[Floats, Floats],
    squared: tuple[Floats, Floats],
    limit: float,
    out: Floats,
) -> None:
    """Fits of all degrees about some cells.

    Parameters
    ----------
    weight, product : ndarray (ny, nx), float64
        Weights of the cells, not below 0, and weights times values (0 where the weight is 0).
    ys : ndarray (rows,), integers
        Rows, also beyond the mesh.
    starts : ndarray (rows + 1,), integers
        Where the points of each row begin in `xs`, and where the last ones end.
    xs : ndarray (points,), integers
        Columns of the points, not below 0, ascending in a row; they may lie beyond the mesh.
    powers : ndarray (n, 2), integers
        `terms` of the largest degree.
    along, squared : two pairs of arrays
        `taps` along y and x, and the same with the Gaussian squared: of no length (n, 0) if no variances are wanted.
    limit : float
        Of e0' A^-1 e0, see there.
    out : ndarray (degrees, 3, points), float64
        Gets for each degree the fit, e0' A^-1 e0 (times the weight of the central cell: its leverage), and the
        variance if that of a cell is 1 / weight: of the largest degree, and of the others where the next larger one is
        above the limit. 0 where no weight is in reach.
    """
    degrees = out.shape[0]
    n, twice = powers.shape[0], 2 * (degrees - 1)
    margin, nx = along[1].shape[1] // 2, weight.shape[1]
    wide = 2 * margin + nx
    for x in xs:
        wide = max(wide, 2 * margin + x + 1)
    pair = np.empty((4, max(nx, _BLOCK)))
    rows, values, variance = np.zeros((twice + 1, wide)), np.zeros((degrees, wide)), np.zeros((twice + 1, wide))
    moments = np.empty(((twice + 1) * (twice + 2) // 2, _BLOCK))
    a, d = np.empty((n, n, _BLOCK)), np.empty((n, _BLOCK))
    z, t, q = np.empty((n, _BLOCK)), np.empty((n, _BLOCK)), np.empty((n + 1, _BLOCK))
    for y in range(ys.size):
        if starts[y] == starts[y + 1]:
            continue
        _along_y(weight, ys[y], along[0], margin, pair, rows)
        _along_y(product, ys[y], along[0][:degrees], margin, pair, values)
        if squared[0].shape[1]:
            _along_y(weight, ys[y], squared[0], margin, pair, variance)
        for start in range(starts[y], starts[y + 1], _BLOCK):
            at = xs[start : min(start + _BLOCK, starts[y + 1])]
            cells = at.size
            _moments(rows, along[1], twice, at, pair, moments)
            _moments(values, along[1], degrees - 1, at, pair, t)
            _decompose(moments, powers, a, d, z, t, cells)
            for x in range(cells):
                fit, lever, k = 0.0, 0.0, 0
                for degree in range(degrees):
                    for _ in range(degree + 1):
                        fit += z[k, x] * t[k, x] * d[k, x]
                        lever += z[k, x] * z[k, x] * d[k, x]
                        k += 1
                    out[degree, 0, start + x] = fit
                    out[degree, 1, start + x] = lever
            if not squared[0].shape[1]:
                continue
            _moments(variance, squared[1], twice, at, pair, moments)
            for degree in range(degrees - 1, -1, -1):  # lower ones stand in for the next larger one
                if degree < degrees - 1 and np.all(out[degree + 1, 1, start : start + cells] <= limit):
                    break
                size = (degree + 1) * (degree + 2) // 2
                _variances(moments, powers, a, d, z, q, size, cells)
                out[degree, 2, start : start + cells] = q[size, :cells]
