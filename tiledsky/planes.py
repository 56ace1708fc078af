"""What the planes of an input say of each pixel: whether it has a valid datum, how noisy it is, what is masked already.

Bits of a mask plane: 0 invalid, 1 to 6 sources, 7 the user's mask.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.images import as_float

#: Planes beside an image that `base_mask` knows.
MASK_PLANES = ("weight", "error", "dq", "coverage", "user_mask", "source_mask")
INVALID = np.uint8(1)
#: Bits 1 to 6.
SOURCES = np.uint8(126)
USER = np.uint8(128)


def tier_bit(index: int) -> np.uint8:
    """Bit of tier ``index`` (from 0) in a mask plane."""
    return np.uint8(1 << (index + 1))


def base_mask(
    science: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    error: NDArray[Any] | None = None,
    dq: NDArray[Any] | None = None,
    coverage: NDArray[Any] | None = None,
    user_mask: NDArray[Any] | None = None,
    source_mask: NDArray[Any] | None = None,
    dq_bits: int | None = None,
) -> NDArray[np.uint8]:
    """Bits of a mask plane that are known before any step: what is invalid, and the masks that came with the image.

    Parameters
    ----------
    science : ndarray, (ny, nx)
        NaN and infinite pixels are invalid.
    weight : ndarray, (ny, nx), optional
        Inverse variance up to a factor. Pixels whose weight is not above 0, or NaN, are invalid.
    error : ndarray, (ny, nx), optional
        Standard deviation. Pixels whose error is not finite or not above 0 are invalid.
    dq : ndarray of integers, (ny, nx), optional
        Flags. Pixels with any of the bits of ``dq_bits`` are invalid.
    coverage : ndarray, (ny, nx), optional
        Exposures, seconds or a bit for each exposure. Pixels that are 0 or NaN are invalid.
    user_mask : ndarray, (ny, nx), optional
        Any value but 0 sets bit 7.
    source_mask : ndarray of uint8, (ny, nx), optional
        A mask plane made earlier; its bits 1 to 6 are kept. Its bits 0 and 7 are of other planes and are not.
    dq_bits : int, optional
        Sum of the flags that count (see `tiledsky.recipe.dq.dq_bits`); None: all.

    Returns
    -------
    ndarray of uint8, (ny, nx)

    Raises
    ------
    InputError
        ``dq_bits`` for a dq plane that is not of integers; a ``source_mask`` that is not uint8.
    """
    invalid = ~np.isfinite(science)
    if weight is not None:
        invalid |= ~(weight > 0)
    if error is not None:
        invalid |= ~((error > 0) & np.isfinite(error))
    if dq is not None:
        invalid |= _flagged(dq, dq_bits)
    if coverage is not None:
        invalid |= _bare(coverage)
    bits = invalid.astype(np.uint8)
    if user_mask is not None:
        bits |= USER * (user_mask != 0).astype(np.uint8)
    if source_mask is not None:
        if source_mask.dtype != np.uint8:
            raise InputError(
                f"source_mask of type {source_mask.dtype} has no bits to read; give the uint8 mask of a run"
            )
        bits |= source_mask & SOURCES
    return bits


def _flagged(dq: NDArray[Any], dq_bits: int | None) -> NDArray[np.bool_]:
    if dq_bits is None:
        return np.asarray(dq != 0)
    if dq.dtype.kind not in "biu":
        raise InputError(f"a dq plane of type {dq.dtype} has no flags to choose from; give integers, or dq_flags 'all'")
    # as unsigned numbers: the highest flag is the sign of a signed plane; flags beyond the type cannot be set
    unsigned = dq.view(f"{dq.dtype.byteorder.replace('|', '=')}u{dq.dtype.itemsize}")
    chosen = unsigned.dtype.type(dq_bits & int(np.iinfo(unsigned.dtype).max))
    return np.asarray(unsigned & chosen) != 0


def _bare(coverage: NDArray[Any]) -> NDArray[np.bool_]:
    # negative is covered: a bit for each exposure may be the sign
    return np.asarray((coverage == 0) | (coverage != coverage))


def noise_scale(*, weight: NDArray[Any] | None = None, error: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return what to multiply an image by so that its noise is even: sqrt(weight), or 1 / error.

    Parameters
    ----------
    weight : ndarray, (ny, nx), optional
        Inverse variance up to a factor, which is that of the result.
    error : ndarray, (ny, nx), optional
        Standard deviation; used without ``weight`` alone.

    Returns
    -------
    ndarray, (ny, nx)
        float32 for planes of float32 or of integers up to 16 bits, else float64. 0 where the plane has no valid value
        (not above 0, NaN, infinite, or so small that its inverse is).

    Raises
    ------
    InputError
        Neither is given.
    """
    if weight is None and error is None:
        raise InputError(
            "no plane gives the noise of the pixels; give a weight or an error plane, or switch equalize off"
        )
    with np.errstate(all="ignore"):  # what is no number becomes 0 below
        if weight is not None:
            scale = np.sqrt(np.where(weight > 0, weight, 0).astype(_float_of(weight), copy=False))
        else:
            assert error is not None
            values = error.astype(_float_of(error), copy=False)
            scale = np.where(values > 0, 1 / values, values.dtype.type(0))
    scale[~np.isfinite(scale)] = 0
    return scale


def roots(variance: NDArray[Any]) -> NDArray[Any]:
    """Return the standard deviations of variances, float32 or float64; NaN below 0."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(as_float(variance))


def _float_of(plane: NDArray[Any]) -> np.dtype[Any]:
    """Float type that holds all values of a plane."""
    return np.result_type(plane.dtype.newbyteorder("="), np.float32)


def uncovered(
    base_bits: NDArray[np.uint8],
    coverage: NDArray[Any] | None,
    *,
    where: Literal["coverage", "invalid"],
    empty: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_] | None:
    """Return where an image has no sky to give.

    Parameters
    ----------
    base_bits : ndarray of uint8, (ny, nx)
        See `base_mask`.
    coverage : ndarray, (ny, nx), or None
    where : "coverage" or "invalid"
        Where ``coverage`` is 0 or NaN, or where bit 0 is set.
    empty : ndarray of bool, (ny, nx), optional
        Where the image holds the number that means no data: outside in any case.

    Returns
    -------
    ndarray of bool, (ny, nx), or None
        None: nowhere, since neither a coverage plane nor a number for no data says so.
    """
    if where == "invalid":
        return np.asarray(base_bits & INVALID) != 0
    if coverage is None or empty is None:
        return empty if coverage is None else _bare(coverage)
    return _bare(coverage) | empty
