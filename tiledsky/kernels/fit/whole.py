"""One polynomial for the whole mesh, through the lowest level that many boxes have, and its error.

Masks leave light: a galaxy that fills the frame is in most boxes. It only adds, so sky is the lowest level that many
boxes have. The fit begins at the tenth percentile of the boxes, and climbs: in each round a box counts with its weight
times ``exp(-z**2 / 2)``, z being its residual in units of the scatter, and the scatter is that of the boxes below the
fit, as 1.4826 times the median of their distances: light does not widen it. This ends at the mode next above (mean
shift: Cheng 1995, IEEE Trans. PAMI 17, 790; as an M-estimate: Dennis & Welsch 1978, Commun. Stat. B 7, 345), whose
variance for normal noise is 1.54 times that of a mean. Then come the terms of the next degree, with a scatter that does
not grow again: a parabola that is free from the start goes up the galaxy. But where the sky itself bends, the free one
fits: it starts at the polynomial that a tenth of the boxes lies below (Koenker & Bassett 1978, Econometrica 46, 33). Of
both, the one with more boxes per unit of scatter is taken.

The error of the fit has four parts, added in quadrature:

- what the scatter of the boxes makes of it, by the covariance of M-estimates (Huber 1981, Robust Statistics, 6.3), as
  many times larger as sums of residuals over blocks of an eighth of the mesh vary more than independent boxes would
  (a sandwich: Liang & Zeger 1986, Biometrika 73, 13): noise that boxes share, and sky that no polynomial follows;
- how far the fit moves when the scatter is taken 1.5 times larger, so that more light comes in, or twice as far, less
  what noise makes of that, for a fit that light has moved as far as it is wide;
- how far it moves when boxes are extrapolated to those of which nothing is masked: sources leave light beside masks;
- the scatter of the sky itself about the polynomial, as far as means of these blocks show it (3 sigma and more).

Light that stands out from the polynomial is no sky here: the error does not hold it. Nor does it hold faint light that
a polynomial can follow, as a parabola does the outskirts of a galaxy that fills the frame: there fit one value or a
plane.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.moments import terms
from tiledsky.kernels.fit.sums import ExactSums, moments_of, normal_sums_of, polynomials, powers_at
from tiledsky.kernels.fit.windows import ALIGNED, Floats
from tiledsky.kernels.mesh.guards import MAD_TO_STD

#: Boxes of larger meshes are joined, by twos along each axis, until there are no more, or ALIGNED are one.
MOST_GROUPS = 1 << 16
#: Share of the boxes, by weight, below the level that a fit begins at.
_LOW = 0.1
#: Rounds for each degree: after ten a fit moves by less than a hundredth of its error.
_ROUNDS = 30
#: Scatter below this share of the values is that of rounding.
_ROUNDING = 1e-9
#: How many times larger the scatter is taken to see what the fit owes to it, and rounds with it.
_WIDER, _WIDER_ROUNDS = 1.5, 5
#: How many times farther it is from this scatter to none.
_TO_NONE = 2.0
#: Blocks along each axis; those with less than this share of the mean weight are not compared.
_BLOCKS, _LEAST_SHARE = 8, 0.25
#: Standard deviations by which blocks differ more than noise makes them before it is taken for sky.
_SURE = 3.0
#: Least slope of the influence of a box, per weight; for normal noise it is 0.5.
_LEAST_SLOPE = 0.25


@dataclass(frozen=True)
class WholeFit:
    """A polynomial of the whole mesh, with its error.

    Attributes
    ----------
    degree : int
        Lower than asked for where the boxes do not tell more.
    center : float
        What the constant term is added to.
    factors, moved : ndarray (n,)
        Of the monomials, and how they change with a larger scatter.
    covariance : ndarray (n, n)
    apart : float
        Deviation from it of the sky, and of boxes without masks.
    """

    degree: int
    center: float
    factors: Floats
    moved: Floats
    covariance: Floats
    apart: float

    def at(self, region: Region, shape: Pair) -> tuple[Floats, Floats]:
        """Value and standard error at the cells of a region of a mesh; 100 bytes a cell and more for each term."""
        ends = ((region.y0, region.y1), (region.x0, region.x1))
        along = [powers_at(np.arange(*end), n, self.degree) for end, n in zip(ends, shape, strict=True)]
        basis = _basis(along[0], along[1])
        variance = np.zeros(region.shape)
        for i, one in enumerate(basis):
            for j, other in enumerate(basis):
                variance += self.covariance[i, j] * one * other
        moved = np.square(_combined(self.moved, basis))
        variance += np.maximum(moved, _TO_NONE**2 * moved - variance) + self.apart**2
        return self.center + _combined(self.factors, basis), np.sqrt(np.maximum(variance, 0.0))

    def to_bytes(self) -> bytes:
        """Pack the numbers; see `from_bytes`."""
        held = (self.factors, self.moved, self.covariance.reshape(-1), np.array([self.center, self.apart]))
        return json.dumps([self.degree, *([float(v).hex() for v in part] for part in held)]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> WholeFit:
        """Inverse of `to_bytes`."""
        degree, *parts = json.loads(data)
        factors, moved, covariance, (center, apart) = (np.array([float.fromhex(v) for v in p]) for p in parts)
        return cls(degree, float(center), factors, moved, covariance.reshape(2 * factors.shape), float(apart))


def group_side(shape: Pair) -> int:
    """How many boxes along each axis are joined to one on a mesh of this shape."""
    side = 1
    while side < ALIGNED and -(-shape[0] // side) * -(-shape[1] // side) > MOST_GROUPS:
        side *= 2
    return side


def group_sums(values: NDArray[Any], weight: NDArray[Any], masked: NDArray[Any], *, side: int, center: float) -> Floats:
    """Sums of the groups of a tile, (3, rows, columns): weights, and weights times values less `center`, times shares.

    The tile begins at a whole group. Values and masked shares of weight 0 may be anything. Memory: 24 bytes a group.
    """
    sums = np.zeros((3, *(-(-n // side) for n in values.shape)))
    _sum_groups(values, weight, masked, side, center, sums)
    return sums


def fit_whole(sums: Floats, shape: Pair, *, degree: int, center: float, noise: float, shared: float) -> WholeFit:
    """Fit a polynomial to the groups of a whole mesh.

    Parameters
    ----------
    sums : ndarray (3, rows, columns)
        `group_sums` of all tiles.
    shape : (int, int)
        Of the mesh.
    degree : int
        0 to 3.
    center : float
        What was taken off the values.
    noise : float
        Deviation of a group of weight 1, by the noise of its pixels: boxes do not scatter less. 0: not known.
    shared : float
        `tiledsky.kernels.mesh.error.shared_noise`.

    Returns
    -------
    WholeFit

    Notes
    -----
    Reference, where all boxes are sky: a weighted least squares fit, `numpy.polynomial.polynomial.polyvander2d`.

    Memory: 200 bytes a group.
    """
    weight, side = sums[0], group_side(shape)
    values, masked = (np.divide(s, weight, out=np.zeros_like(weight), where=weight > 0.0) for s in sums[1:])
    along = []
    for n in shape:
        starts = np.arange(0, n, side)
        along.append(powers_at((starts + np.minimum(starts + side, n) - 1) / 2.0, n, degree))
    # of values without noise the scatter shrinks until rounding is left
    least = max(noise, _ROUNDING * float(np.max(np.abs(sums[1]), initial=0.0)))
    fit = _Fit(values, weight, masked, along[0], along[1], least)
    factors, scale = np.array([_low(values, weight)]), np.inf
    for each in range(degree + 1):
        found = fit.climb(factors, each, limit=scale)
        if len(found[0]) < _terms(each):
            break
        factors, scale = found
        if 0 < each == degree:
            free = fit.climb(fit.low(factors[0], each), each, limit=np.inf)
            factors, scale = max(found, free, key=lambda made: fit.height(*made))
    return fit.with_error(factors, scale, center=center, shared=shared)


@dataclass(frozen=True)
class _Fit:
    """Groups with their weights and masked shares, and powers of their places."""

    values: Floats
    weight: Floats
    masked: Floats
    along_y: Floats
    along_x: Floats
    noise: float

    def _residual(self, factors: Floats) -> Floats:
        degree = _degree(factors)
        return self.values - _combined(factors, _basis(self.along_y[: degree + 1], self.along_x[: degree + 1]))

    def _sums(self, weight: Floats, degree: int) -> ExactSums:
        return normal_sums_of(self.values, weight, self.along_y[: degree + 1], self.along_x[: degree + 1])

    def _shares(self, residual: Floats, scale: float) -> tuple[Floats, Floats]:
        """How much each group counts, and its residual in units of the scatter."""
        z = residual * np.sqrt(self.weight) / scale if scale > 0.0 else np.zeros_like(residual)
        return self.weight * elementary.exps(-0.5 * np.square(z)), z

    def _scale(self, residual: Floats, limit: float) -> float:
        below = (residual < 0.0) & (self.weight > 0.0)
        distances = -residual[below] * np.sqrt(self.weight[below])
        found = MAD_TO_STD * float(np.median(distances)) if distances.size else 0.0
        return max(min(found, limit), self.noise)

    def low(self, level: float, degree: int) -> Floats:
        """Polynomial that a share `_LOW` of the groups, by weight, lies below; from a level."""
        found = np.zeros(_terms(degree))
        found[0] = level
        for _ in range(_ROUNDS):
            residual = self._residual(found)
            distance = np.maximum(np.abs(residual) * np.sqrt(self.weight), self.noise)
            share = np.where(residual > 0.0, _LOW, 1.0 - _LOW)
            counted = np.divide(self.weight * share, distance, out=np.zeros_like(distance), where=distance > 0.0)
            made = polynomials(self._sums(counted, degree), whole=degree) if counted.any() else ()
            if len(made) <= degree:
                break
            found = made[degree].factors
        return found

    def height(self, factors: Floats, scale: float) -> float:
        """How many groups, by weight, there are per unit of the scatter about a fit."""
        counted = _ordered(self._shares(self._residual(factors), scale)[0].reshape(-1))
        return counted / scale if scale > 0.0 else np.inf

    def climb(self, factors: Floats, degree: int, *, limit: float) -> tuple[Floats, float]:
        """Fit a degree, from the factors of a lower one; those come back if the groups do not tell it."""
        found = np.zeros(_terms(degree))
        found[: len(factors)] = factors
        scale = self._scale(self._residual(found), limit)
        for _ in range(_ROUNDS):
            made = polynomials(self._sums(self._shares(self._residual(found), scale)[0], degree), whole=degree)
            if len(made) <= degree:
                return factors, scale
            before, found = found, made[degree].factors
            scale = self._scale(self._residual(found), min(limit, scale) if limit < np.inf else limit)
            if np.array_equal(before, found):
                break
        return found, scale

    def with_error(self, factors: Floats, scale: float, *, center: float, shared: float) -> WholeFit:
        """Add the error to a fit."""
        degree, residual = _degree(factors), self._residual(factors)
        counted, z = self._shares(residual, scale)
        along = self.along_y[: degree + 1], self.along_x[: degree + 1]
        matrix, _ = moments_of(self._sums(counted, degree))
        inverse = elementary.inverse(matrix)
        scores = np.zeros((_BLOCKS * _BLOCKS, len(factors) + 3))
        _sum_scores(residual, counted, z, *along, np.array(terms(degree)), _BLOCKS, scores)
        total, bent = (_ordered(scores[:, k]) for k in (-3, -2))
        slope = max(1.0 - bent / total, _LEAST_SLOPE)
        meat, _ = moments_of(self._sums(np.square(counted * residual), degree))
        covariance = _sandwich(inverse, meat) / slope**2
        known = self.noise**2 * shared * inverse
        if _ordered((matrix * covariance).reshape(-1)) < _ordered((matrix * known).reshape(-1)):
            covariance = known  # of so few groups the residuals say nothing
        else:
            covariance = covariance * max(_inflation(scores, inverse, meat), shared)
        moved = np.zeros_like(factors)
        wide = factors
        for _ in range(_WIDER_ROUNDS):
            made = polynomials(self._sums(self._shares(self._residual(wide), _WIDER * scale)[0], degree), whole=degree)
            wide = made[-1].factors if len(made) > degree else wide
        moved = wide - factors
        apart = (
            _scatter(scores, slope, shared, len(factors)) ** 2 + self._unmasked(residual, counted, slope) ** 2
        ) ** 0.5
        return WholeFit(degree, center, factors, moved, covariance, apart)

    def _unmasked(self, residual: Floats, counted: Floats, slope: float) -> float:
        """How far the boxes are from such as have no mask, by the slope of their residuals with the masked share."""
        weight, shares = counted.reshape(-1), self.masked.reshape(-1)
        mean = _ordered(weight * shares) / _ordered(weight)
        away = weight * (shares - mean)
        square = _ordered(away * (shares - mean))
        return mean * _ordered(away * residual.reshape(-1)) / (slope * square) if square > 0.0 else 0.0


def _terms(degree: int) -> int:
    return (degree + 1) * (degree + 2) // 2


def _degree(factors: Floats) -> int:
    return {1: 0, 3: 1, 6: 2, 10: 3}[len(factors)]


def _basis(along_y: Floats, along_x: Floats) -> list[Floats]:
    return [np.multiply.outer(along_y[i], along_x[j]) for i, j in terms(len(along_y) - 1)]


def _combined(factors: Floats, basis: list[Floats]) -> Floats:
    """Sum of monomials, term by term: the order of sums in a matrix product may depend on the number of rows."""
    found = np.zeros(basis[0].shape)
    for factor, one in zip(factors, basis, strict=True):
        found += factor * one
    return found


def _ordered(values: Floats) -> float:
    """Sum in order."""
    total = 0.0
    for value in values.tolist():
        total += value
    return total


def _product(one: Floats, other: Floats) -> Floats:
    """Product of small matrices, the terms added in order."""
    found = np.zeros((one.shape[0], other.shape[1]))
    for k in range(one.shape[1]):
        found += np.multiply.outer(one[:, k], other[k])
    return found


def _sandwich(inverse: Floats, meat: Floats) -> Floats:
    return _product(_product(inverse, meat), inverse)


def _low(values: Floats, weight: Floats) -> float:
    """Level that a share `_LOW` of the groups, by weight, lies below."""
    known = weight > 0.0
    held, weights = values[known], weight[known]
    order = np.argsort(held, kind="stable")
    below = np.cumsum(weights[order])
    return float(held[order[int(np.searchsorted(below, _LOW * below[-1]))]])


def _inflation(scores: Floats, inverse: Floats, meat: Floats) -> float:
    """How many times more sums of blocks vary than those of independent groups; 1 of few blocks."""
    used = scores[:, -3] > 0.0
    n, parameters = int(used.sum()), len(inverse)
    if n <= 2 * parameters:
        return 1.0
    of_blocks = np.zeros_like(meat)
    for row in scores[used]:
        of_blocks += np.multiply.outer(row[:parameters], row[:parameters])
    found, alone = (_ordered((inverse * each).reshape(-1)) for each in (of_blocks, meat))
    return found / alone * n / (n - parameters) if alone > 0.0 else 1.0


def _scatter(scores: Floats, slope: float, shared: float, parameters: int) -> float:
    """Deviation of the sky from the polynomial, by means of blocks, as far as it is more than noise."""
    weights, squares = scores[:, -3], scores[:, -1]
    enough = weights > _LEAST_SHARE * _ordered(weights) / max(int((weights > 0.0).sum()), 1)
    free = int(enough.sum()) - parameters
    if free < 2 or not (squares[enough] > 0.0).all():
        return 0.0
    means = np.square(scores[enough, 0] / (slope * weights[enough]))
    noise = shared * squares[enough] / np.square(slope * weights[enough])
    if _ordered(means / noise) <= free + _SURE * (2.0 * free) ** 0.5:
        return 0.0
    return float(max(_ordered(means - noise) / free, 0.0) ** 0.5)


@numba.njit(nogil=True, cache=True)
def _sum_groups(
    values: NDArray[Any], weight: NDArray[Any], masked: NDArray[Any], side: int, center: float, sums: Floats
) -> None:
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if weight[y, x] > 0.0:
                w = np.float64(weight[y, x])
                sums[0, y // side, x // side] += w
                sums[1, y // side, x // side] += w * (np.float64(values[y, x]) - center)
                sums[2, y // side, x // side] += w * masked[y, x]


@numba.njit(nogil=True, cache=True)
def _sum_scores(
    residual: Floats,
    counted: Floats,
    z: Floats,
    along_y: Floats,
    along_x: Floats,
    powers: NDArray[np.int64],
    blocks: int,
    out: Floats,
) -> None:
    """Of each block: residuals times weights times monomials; then the weights, times z**2, squared times residuals."""
    n, (ny, nx) = powers.shape[0], residual.shape
    for y in range(ny):
        for x in range(nx):
            w = counted[y, x]
            if not w > 0.0:
                continue
            k = y * blocks // ny * blocks + x * blocks // nx
            r = w * residual[y, x]
            for i in range(n):
                out[k, i] += r * along_y[powers[i, 0], y] * along_x[powers[i, 1], x]
            out[k, n] += w
            out[k, n + 1] += w * z[y, x] * z[y, x]
            out[k, n + 2] += r * r
