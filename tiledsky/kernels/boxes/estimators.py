"""The estimators of boxes: how each is found, and how much its values scatter.

An estimator is either compiled, with a code that the kernels know, or any function on boxes as rows, which is slower::

    ESTIMATORS["p40"] = Estimator(percentile_40, inefficiency=lambda n: np.full_like(n, 1.61))

Its `inefficiency` has no default: the error map of a sky follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tiledsky.errors import ParameterError

MEDIAN, MEAN, MODE, SEXTRACTOR, BIWEIGHT = range(5)
STD, MAD_STD, BIWEIGHT_SCALE = range(3)

#: One step of the biweight (6 MAD = 4.05 standard deviations) from the median, for many pixels.
_BIWEIGHT = 1.134

#: ``f(values, axis=1)`` on an array (boxes, pixels) with NaN for what is left out, one value a box.
Function = Callable[..., Any]
#: Of the numbers of pixels of boxes, float64.
OfCounts = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimator:
    """How the background of a box is found.

    Attributes
    ----------
    kernel : int or callable
        Code of `location` or of a branch of its own in the kernels; or a function.
    inefficiency : callable
        Variance of the values over that of means, for n normal pixels.
    """

    kernel: int | Function
    inefficiency: OfCounts


@dataclass(frozen=True)
class RmsEstimator:
    """How the scatter of the pixels of a box is found.

    Attributes
    ----------
    kernel : int or callable
        As that of `Estimator`.
    population : bool
        It is a population standard deviation: for normal noise the mean of its square is n - 1 n-ths of the variance.
    """

    kernel: int | Function
    population: bool


@njit(nogil=True, cache=True)
def location(estimator: int, median: float, mean: float, std: float) -> float:
    """Return the background of a box from its median, mean and standard deviation."""
    if estimator == MEAN:
        return mean
    if estimator == MODE:
        return 3.0 * median - 2.0 * mean
    if estimator == SEXTRACTOR:
        if std == 0.0:
            return mean
        if abs(mean - median) / std < 0.3:
            return 2.5 * median - 1.5 * mean
    return median


def median_inefficiency(n: Any) -> Any:
    """Variance of the median of n normal values over that of their mean.

    ``pi n / (2 (n - 1) + pi)`` for odd n (exact for 1, within 2% beyond); an even number, whose median is a mean of
    two, does a little better: ``pi n / (2 n + pi - 1/2)``, within 1% from 4 on. Both tend to pi / 2.
    """
    n = np.asarray(n, np.float64)
    return np.pi * n / (2.0 * n + np.where(n % 2 == 0, np.pi - 0.5, np.pi - 2.0))


def _mode(n: NDArray[np.float64]) -> Any:
    return 9.0 * median_inefficiency(n) - 8.0


def _sextractor(n: NDArray[np.float64]) -> Any:
    return 6.25 * median_inefficiency(n) - 5.25


def _biweight(n: NDArray[np.float64]) -> Any:
    return np.full_like(n, _BIWEIGHT)


#: Backgrounds of boxes, by their names in recipes. Mode and MMM are the same formula under two names.
ESTIMATORS: dict[str, Estimator] = {
    "median": Estimator(MEDIAN, median_inefficiency),
    "mean": Estimator(MEAN, np.ones_like),
    "mode": Estimator(MODE, _mode),
    "mmm": Estimator(MODE, _mode),
    "sextractor": Estimator(SEXTRACTOR, _sextractor),
    "biweight": Estimator(BIWEIGHT, _biweight),
}
#: Scatters of the pixels of boxes, likewise.
RMS_ESTIMATORS: dict[str, RmsEstimator] = {
    "std": RmsEstimator(STD, population=True),
    "mad_std": RmsEstimator(MAD_STD, population=False),
    "biweight": RmsEstimator(BIWEIGHT_SCALE, population=False),
}


def estimator_of(estimator: str | Function) -> Estimator:
    """Return the estimator of a name, or that of a callable.

    A callable counts as the mean: what it does worse is then measured, as part of
    `tiledsky.kernels.mesh.error.noise_factor`.

    Raises
    ------
    ParameterError
        An unknown name.
    """
    if callable(estimator):
        return Estimator(estimator, np.ones_like)
    return _known("estimator", estimator, ESTIMATORS)


def rms_estimator_of(estimator: str | Function) -> RmsEstimator:
    """Return the estimator of a name, or that of a callable, which counts as no population standard deviation.

    Raises
    ------
    ParameterError
        An unknown name.
    """
    if callable(estimator):
        return RmsEstimator(estimator, population=False)
    return _known("rms_estimator", estimator, RMS_ESTIMATORS)


def _known(option: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise ParameterError(
            f"{option}={name!r} is unknown, so the boxes have no value; set {option} to one of {tuple(known)} or a "
            "callable"
        )
    return known[name]


def inefficiency(estimator: str | Function, n: Any) -> Any:
    """Variance of an estimator of boxes over that of the mean, for n normal pixels.

    Parameters
    ----------
    estimator : str or callable
        As `estimator_of` takes it.
    n : array_like
        Number of pixels.

    Raises
    ------
    ParameterError
        An unknown name.

    Notes
    -----
    The covariance of median and mean is the mean's variance (the mean is complete and sufficient, so it is independent
    of the difference between the two: Basu 1955). With E of `median_inefficiency`, mode and MMM, 3 median - 2 mean,
    have ``9 E + 4 - 12``, SExtractor's 2.5 median - 1.5 mean has ``6.25 E + 2.25 - 7.5``.

    The biweight stops after one step from the median. Its influence function is ``psi / w + (1 - d / w)`` times the
    median's, with d and w the means of psi's derivative and of the weights: 1.134 for normal noise. (Iterated to the
    end it would be 1.094; Kafadar 1983, J. Res. NBS 88, 105, gives 1.08 for 4 standard deviations and 20 values.)
    """
    return estimator_of(estimator).inefficiency(np.asarray(n, np.float64))
