"""Reliability of detections, counted on the image and on its negative.

Noise is as often above the sky as below it, sources are above it alone. So what a search finds in the negative image
is what noise, and all that is on both sides alike, adds to the search of the image (Serra, Jurek & Floeer 2012, PASA
29, 296)::

    reliability = 1 - pixels found in the negative image / pixels found in the image

A tier that asks for a reliability is searched with a ladder of thresholds; the lowest one that reaches it counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.kernels.detection.detect import detect
from tiledsky.recipe import Tier

#: Thresholds that are tried: ``n_sigma`` and times this again and again, so many in all (up to 3 times n_sigma).
_RATIO, RUNGS = 1.15, 9

Counts = NDArray[np.int64]


def n_sigmas(tier: Tier) -> tuple[float, ...]:
    """Thresholds that are tried for a tier, in units of the noise, lowest first."""
    return tuple(tier.n_sigma * _RATIO**k for k in range(RUNGS))


def ranks(
    smoothed: NDArray[np.float32], tier: Tier, *, center: float, noise: float, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """How many of the thresholds find each pixel; of those that are found in the negative image, minus how many.

    Parameters
    ----------
    smoothed : ndarray (ny, nx), float32
        The smoothed detection image; the negative image is that about ``center``.
    tier : Tier
    center, noise : float
        In the unit of the image.
    mask : ndarray (ny, nx), bool, optional
        True = not searched.

    Returns
    -------
    ndarray (ny, nx), int8
        What a threshold finds holds all that higher ones do, so one number says it.

    Notes
    -----
    Edge rule: as `tiledsky.kernels.detection.detect.detect`, ``n_pixels - 1`` pixels at the sides of a window may
    differ from the whole image. Memory: 7 bytes a pixel beside what `detect` takes.
    """
    found = np.zeros(smoothed.shape, np.int8)
    for sign in (1, -1):
        image = smoothed if sign > 0 else -smoothed
        for n_sigma in n_sigmas(tier):
            above = detect(image, sign * center + n_sigma * noise, n_pixels=tier.n_pixels, mask=mask)
            if not above.any():
                break
            np.add(found, np.int8(sign), out=found, where=above)
    return found


def counts(found: NDArray[np.int8], *, mask: NDArray[np.bool_] | None = None) -> Counts:
    """Pixels that each threshold finds in the image and in the negative, (2, RUNGS), of their `ranks`; merge by adding.

    ``mask``: True = not counted.
    """
    pixels = found if mask is None else found[~mask]
    times = np.bincount((pixels.ravel() + np.int8(RUNGS)).astype(np.uint8), minlength=2 * RUNGS + 1)
    above, below = times[RUNGS + 1 :], times[:RUNGS][::-1]
    return np.stack([np.cumsum(side[::-1])[::-1] for side in (above, below)]).astype(np.int64)


def merged(parts: Iterable[Counts]) -> Counts:
    """Sum of the counts of tiles."""
    return np.asarray(sum(parts, np.zeros((2, RUNGS), np.int64)))


def reliable_n_sigma(tier: Tier, found: Counts) -> float:
    """Lowest of the thresholds that finds pixels and has the reliability asked for; infinity if none has.

    Then the tier finds nothing: what is there is as often below the sky as above it.
    """
    assert tier.reliability is not None
    for n_sigma, above, below in zip(n_sigmas(tier), *found.tolist(), strict=True):
        if above and above - below >= tier.reliability * above:
            return float(n_sigma)
    return math.inf


def to_bytes(found: Counts) -> bytes:
    """Counts as bytes, the same on all machines."""
    return found.astype("<i8").tobytes()


def from_bytes(data: bytes) -> Counts:
    """Inverse of `to_bytes`."""
    return np.frombuffer(data, "<i8").reshape(2, RUNGS).astype(np.int64)


def known(found: Counts | None) -> dict[str, Any]:
    """Counts as plain data."""
    return {} if found is None else {"found": found[0].tolist(), "found_in_the_negative": found[1].tolist()}
