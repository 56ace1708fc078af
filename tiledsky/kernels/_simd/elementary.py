"""Exponential, logarithm, powers and angles in plain float64 arithmetic: the same bits on every machine.

numpy and the C library choose their versions by the CPU, and these round differently. Here are additions,
multiplications and divisions in a fixed order alone, which numba compiles as they stand (it joins no product and sum
into one rounding). Errors: below one unit of the last place. An argument is reduced by powers of two as in fdlibm (Sun
Microsystems 1993), then the Taylor series follows.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

# ln 2 in two parts: the first has 32 bits, so that its products with exponents are exact
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG2_E, _ROOT_HALF = 1.4426950408889634, 0.7071067811865476
_LARGEST, _SMALLEST = 709.782712893384, -745.1332191019412  # beyond them the exponential is infinite, or 0


@numba.njit(nogil=True, cache=True)
def exp(x: float) -> float:
    """Exponential of a number; NaN of NaN."""
    if not x <= _LARGEST:
        return x if x != x else math.inf
    if x < _SMALLEST:
        return 0.0
    k = math.floor(x * _LOG2_E + 0.5)
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    # (exp(r) - 1 - r) / r**2, for |r| up to 0.35
    q = 1.0 / 6227020800.0
    q = q * r + 1.0 / 479001600.0
    q = q * r + 1.0 / 39916800.0
    q = q * r + 1.0 / 3628800.0
    q = q * r + 1.0 / 362880.0
    q = q * r + 1.0 / 40320.0
    q = q * r + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    q = q * r + 0.5
    held = 1.0 + (high - (low - r * r * q))
    if k < -1021.0 or k > 1023.0:
        return math.ldexp(held, int(k))
    return held * np.int64((np.int64(k) + 1023) << 52).view(np.float64)


@numba.njit(nogil=True, cache=True)
def log(x: float) -> float:
    """Natural logarithm of a number; -infinity of 0, NaN of NaN and below 0."""
    if not x > 0.0:
        return -math.inf if x == 0.0 else math.nan
    if x == math.inf:
        return x
    m, k = math.frexp(x)
    if m < _ROOT_HALF:
        m, k = 2.0 * m, k - 1
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    # log(1 + f) = 2 (s + s**3 / 3 + s**5 / 5 ..) = f - half + s (half + rest)
    rest = 2.0 / 23.0
    rest = rest * z + 2.0 / 21.0
    rest = rest * z + 2.0 / 19.0
    rest = rest * z + 2.0 / 17.0
    rest = rest * z + 2.0 / 15.0
    rest = rest * z + 2.0 / 13.0
    rest = rest * z + 2.0 / 11.0
    rest = rest * z + 2.0 / 9.0
    rest = rest * z + 2.0 / 7.0
    rest = rest * z + 2.0 / 5.0
    rest = rest * z + 2.0 / 3.0
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + z * rest) + k * _LN2_LOW)) - f)


@numba.njit(nogil=True, cache=True)
def power(x: float, exponent: float) -> float:
    """``x**exponent`` for x above 0: by multiplications for 1 to 16, else to some units of the last place."""
    if 1.0 <= exponent <= 16.0 and exponent == math.floor(exponent):
        product = x
        for _ in range(int(exponent) - 1):
            product *= x
        return product
    return exp(exponent * log(x))


@numba.njit(nogil=True, cache=True)
def sine_cosine(angle: float) -> tuple[float, float]:
    """Sine and cosine of an angle from -pi to pi, to some units of 1e-16; Taylor series of an eighth, then doubled."""
    r = angle / 8.0
    z = r * r
    sine, versed = 1.0, 1.0
    for k in range(8, 0, -1):
        sine = 1.0 - z / (2.0 * k * (2.0 * k + 1.0)) * sine
        versed = 1.0 - z / ((2.0 * k + 1.0) * (2.0 * k + 2.0)) * versed
    sine, versed = r * sine, 0.5 * z * versed  # versed: 1 - cosine, which loses nothing where it is small
    for _ in range(3):
        sine, versed = 2.0 * sine * (1.0 - versed), 2.0 * sine * sine
    return sine, 1.0 - versed


@numba.njit(nogil=True, cache=True)
def direction(y: float, x: float) -> float:
    """Angle of a vector from +x to +y, from -pi to pi, to some units of 1e-16; 0 of no vector."""
    length = math.sqrt(y * y + x * x)
    if length == 0.0:
        return 0.0
    # half the angle, from -pi / 4 to pi / 4, of the vector turned to +x; then a half and a half of it
    turned = abs(x)
    t = abs(y) / (length + turned)
    for _ in range(2):
        t = t / (1.0 + math.sqrt(1.0 + t * t))
    z = t * t
    series = 0.0
    for k in range(15, -1, -1):
        series = 1.0 / (2.0 * k + 1.0) - z * series
    angle = 8.0 * t * series
    if x < 0.0:
        angle = math.pi - angle
    return -angle if y < 0.0 else angle


@numba.njit(nogil=True, cache=True)
def _exp_all(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for i in range(values.size):
        out[i] = exp(values[i])


@numba.njit(nogil=True, cache=True)
def _log_all(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for i in range(values.size):
        out[i] = log(values[i])


def exps(values: NDArray[Any]) -> NDArray[np.float64]:
    """Exponentials of an array, float64."""
    return _each(_exp_all, values)


def logs(values: NDArray[Any]) -> NDArray[np.float64]:
    """Natural logarithms of an array, float64."""
    return _each(_log_all, values)


def _each(function: Any, values: NDArray[Any]) -> NDArray[np.float64]:
    flat = np.ascontiguousarray(values, np.float64).reshape(-1)
    out = np.empty_like(flat)
    function(flat, out)
    return out.reshape(np.shape(values))


def powers(values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Powers 0 to ``count - 1`` of an array, by multiplication, along a new first axis."""
    out = np.ones((count, *np.shape(values)))
    for k in range(1, count):
        out[k] = out[k - 1] * values
    return out


@numba.njit(nogil=True, cache=True)
def inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a small matrix by Gauss and Jordan with row pivots; infinite where a pivot is 0.

    LAPACK's order of operations is chosen by the CPU. Reference: `numpy.linalg.inv`.
    """
    n = matrix.shape[0]
    left, right = matrix.copy(), np.eye(n)
    for k in range(n):
        best = k
        for i in range(k + 1, n):
            if abs(left[i, k]) > abs(left[best, k]):
                best = i
        if left[best, k] == 0.0:
            return np.full((n, n), np.inf)
        for j in range(n):
            left[k, j], left[best, j] = left[best, j], left[k, j]
            right[k, j], right[best, j] = right[best, j], right[k, j]
        pivot = left[k, k]
        for j in range(n):
            left[k, j] /= pivot
            right[k, j] /= pivot
        for i in range(n):
            factor = left[i, k]
            if i != k and factor != 0.0:
                for j in range(n):
                    left[i, j] -= factor * left[k, j]
                    right[i, j] -= factor * right[k, j]
    return right
