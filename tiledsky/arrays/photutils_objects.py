"""What of `tiledsky.Background2D` follows photutils: its objects in the terms of the kernels, its rules and words."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyDeprecationWarning, AstropyUserWarning
from numpy.typing import NDArray
from photutils import __version__ as photutils_version
from photutils import background as photutils
from photutils.utils import exceptions as photutils_exceptions

from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair
from tiledsky.kernels.boxes.boxes import Clip
from tiledsky.recipe import IDWInterpolator, InterpolatorParameters, ZoomInterpolator

_IS_3_1 = tuple(int(n) for n in photutils_version.split(".")[:2]) >= (3, 1)
#: Whether a box at the limit of exclude_percentile takes part: 3.1 has it so.
INCLUSIVE = _IS_3_1
_NON_FINITE = "nonfinite" if _IS_3_1 else "non-finite"
#: 3.1 has a class of its own below astropy's.
_DeprecationWarning = getattr(photutils_exceptions, "PhotutilsDeprecationWarning", AstropyDeprecationWarning)
_WARNING_FILTERS = threading.Lock()  # warnings.catch_warnings is not safe in threads
_MODE = {"median_factor": 3.0, "mean_factor": 2.0}
#: Estimators of photutils that have a kernel here, and the parameters that the kernel has.
_ESTIMATORS: dict[type, tuple[str, dict[str, Any]]] = {
    photutils.MedianBackground: ("median", {}),
    photutils.MeanBackground: ("mean", {}),
    photutils.ModeEstimatorBackground: ("mode", _MODE),
    photutils.MMMBackground: ("mmm", _MODE),
    photutils.SExtractorBackground: ("sextractor", {}),
    photutils.BiweightLocationBackground: ("biweight", {"c": 6.0, "M": None}),
}
_RMS_ESTIMATORS: dict[type, tuple[str, dict[str, Any]]] = {
    photutils.StdBackgroundRMS: ("std", {}),
    photutils.MADStdBackgroundRMS: ("mad_std", {}),
    photutils.BiweightScaleBackgroundRMS: ("biweight", {"c": 9.0, "M": None}),
}


@dataclass(frozen=True)
class ObjectClip:
    """Clips boxes by calling an object like `astropy.stats.SigmaClip`, in the order of pixels that photutils has.

    With ``grow`` the order matters: partial boxes are read column by column, the corner box as an image.
    """

    sigma_clip: Callable[..., Any]

    def __call__(self, science: NDArray[Any], ignore: NDArray[np.bool_] | None, box_size: Pair) -> NDArray[Any]:
        """Return a copy of the pixels, NaN where not finite, ignored or clipped; boxes begin at the first pixel."""
        kept = np.where(np.isfinite(science), science, np.asarray(np.nan, science.dtype))
        if ignore is not None:
            kept[ignore] = np.nan
        (by, bx), (ny, nx) = box_size, kept.shape
        whole = nx // bx * bx
        for y in range(0, ny, by):
            for strip, width in ((kept[y : y + by, :whole], bx), (kept[y : y + by, whole:], nx - whole)):
                if strip.size:
                    strip[...] = self._clipped(strip, width, (len(strip) < by, width < bx))
        return kept

    def _clipped(self, strip: NDArray[Any], width: int, partial: tuple[bool, bool]) -> NDArray[Any]:
        height = len(strip)
        with _WARNING_FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", category=AstropyUserWarning)
            if all(partial):
                values = np.ravel(self.sigma_clip(strip.copy(), axis=None, masked=False, copy=False))
                corner = np.full(strip.size, np.nan, strip.dtype)
                corner[: values.size] = values  # some clips return only what is left; its place does not matter
                return corner.reshape(strip.shape)
            order = (1, 2, 0) if any(partial) else (1, 0, 2)
            boxes = strip.reshape(height, -1, width).transpose(order)
            rows = boxes.reshape(1, len(boxes), -1).copy()
            rows = self.sigma_clip(rows, axis=-1, masked=False, copy=False)
        back = np.asarray(rows, strip.dtype).reshape(boxes.shape).transpose(np.argsort(order))
        return back.reshape(strip.shape)


@dataclass(frozen=True)
class LastAxis:
    """Calls an estimator as photutils does: ``axis=-1`` (astropy's biweights with ``M`` take no other)."""

    estimator: Callable[..., Any]

    def __call__(self, boxes: NDArray[Any], *, axis: int) -> Any:
        """Return a value a box; boxes are rows, so that ``axis`` is the last one."""
        return self.estimator(boxes, axis=-1)


def box_clip(sigma_clip: Any) -> Clip | ObjectClip | None:
    """Return the clip as the kernels take it, or wrapped where they have none like it."""
    if sigma_clip is None:
        return None
    if not callable(sigma_clip):
        raise ParameterError(f"sigma_clip={sigma_clip!r} cannot clip; give an astropy.stats.SigmaClip, or None")
    if type(sigma_clip) is SigmaClip and not sigma_clip.grow:
        lower, upper, center, spread = (
            getattr(sigma_clip, k) for k in ("sigma_lower", "sigma_upper", "cenfunc", "stdfunc")
        )
        names = isinstance(center, str) and isinstance(spread, str)
        if names and center in ("median", "mean") and spread in ("std", "mad_std") and lower > 0 and upper > 0:
            rounds = -1 if np.isinf(sigma_clip.maxiters) else int(sigma_clip.maxiters)
            return Clip(float(lower), float(upper), rounds, center, spread)
    return ObjectClip(sigma_clip)


def _kernel(name: str, estimator: Any, known: dict[type, tuple[str, dict[str, Any]]]) -> str | Callable[..., Any]:
    kernel, parameters = known.get(type(estimator), ("", {}))
    if kernel and all(np.array_equal(getattr(estimator, k), v) for k, v in parameters.items()):
        return kernel
    if not callable(estimator):
        raise ParameterError(
            f"{name}={estimator!r} cannot be called on boxes; give an estimator of photutils.background"
        )
    return LastAxis(estimator)


def box_estimator(estimator: Any) -> str | Callable[..., Any]:
    """Return the name of the kernel that does the same, or the callable itself."""
    return _kernel("bkg_estimator", estimator, _ESTIMATORS)


def box_rms_estimator(estimator: Any) -> str | Callable[..., Any]:
    """Return the name of the kernel that does the same, or the callable itself."""
    return _kernel("bkg_rms_estimator", estimator, _RMS_ESTIMATORS)


def unclipped(estimator: Any) -> Any:
    """Return a copy of an estimator without clipping of its own: boxes are clipped once, for both estimators."""
    estimator = copy.copy(estimator)
    if hasattr(estimator, "sigma_clip"):
        estimator.sigma_clip = None
    return estimator


def surface_interpolator(interpolator: Any) -> InterpolatorParameters | None:
    """Return our model of the interpolator; None for one that has to be called."""
    if isinstance(interpolator, InterpolatorParameters):
        return interpolator
    zooms = (photutils.BkgZoomInterpolator, photutils.BkgZoomInterpolator.__base__)
    if type(interpolator) in zooms and (interpolator.order, interpolator.mode) == (3, "reflect"):
        return ZoomInterpolator(clip=bool(interpolator.clip))
    if type(interpolator) is photutils.BkgIDWInterpolator:
        return IDWInterpolator(**{k: getattr(interpolator, k) for k in ("n_neighbors", "power", "regularization")})
    if not callable(interpolator):
        raise ParameterError(
            f"interpolator={interpolator!r} cannot be called; give ZoomInterpolator or IDWInterpolator"
        )
    return None


def whole_numbers(name: str, value: Any, *, odd: bool = False) -> NDArray[np.int64]:
    """Return one or two sizes as two."""
    sizes = np.atleast_1d(value)
    if sizes.ndim != 1 or sizes.size not in (1, 2):
        raise ParameterError(f"{name} must have 1 or 2 elements, not {value!r}; give one size, or (y, x)")
    if sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ParameterError(f"{name} must have integer values above 0, not {value!r}; give whole pixels or boxes")
    if odd and (sizes % 2 == 0).any():
        raise ParameterError(
            f"{name} must have an odd value for both axes, not {value!r}, to have a central element; add or subtract 1"
        )
    return np.broadcast_to(sizes, 2).astype(np.int64)


def union_of(masks: list[Any]) -> Any:
    """Return the union of those masks that are there."""
    union = None
    for mask in masks:
        if mask is not None:
            union = mask if union is None else union | mask
    return union


def check_pixels(image: NDArray[Any], left_out: NDArray[np.bool_] | None) -> None:
    """Refuse an image without a good pixel; warn of bad ones outside the masks."""
    bad = ~np.isfinite(image)
    if bad.all():
        raise InputError(
            f"Input data contains all {_NON_FINITE} (NaN or infinity) values, so there is no sky; pass other data"
        )
    if (bad if left_out is None else bad > left_out).any():
        message = f"Input data contains {_NON_FINITE} (NaN or infinity) values outside the masks; they are left out."
        warnings.warn(message, AstropyUserWarning, stacklevel=3)
    if left_out is not None and (bad | left_out).all():
        raise InputError(
            "All input pixels are masked. Cannot compute a background. There is no sky to measure; mask less"
        )


def warn_deprecated(message: str) -> None:
    """Warn, where the caller of the class will see it, of what photutils drops."""
    warnings.warn(message, _DeprecationWarning, stacklevel=3)
