"""Source masks: what is looked for in an image minus a first sky, tier by tier, as bit planes.

Bit 0 of a mask plane: no valid datum (NaN, infinity, zero weight, DQ flag). Bits 1 to 6: the tiers. Bit 7: the user's
mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair
from tiledsky.images import taken_apart
from tiledsky.kernels.detection.detect import detect
from tiledsky.kernels.detection.grow import grow_disc, grow_square, grow_tophat
from tiledsky.operations.filters import smooth_patch, taps_of
from tiledsky.operations.thresholds import Thresholds, search_radius, tier_thresholds
from tiledsky.overlap import Patch, is_dask_array, map_patches
from tiledsky.recipe import SigmaClip, Tier, validated

_GROW: dict[str, Any] = {"disc": grow_disc, "tophat": grow_tophat, "square": grow_square}


def detection_image(science: NDArray[Any], sky: NDArray[Any], scale: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """Image minus sky, rounded to float32: detection needs no more, and its statistics are exact in it.

    ``scale`` (see `tiledsky.planes.noise_scale`) makes the noise even.
    """
    difference = science - sky
    return _rounded(difference if scale is None else difference * scale)


def _rounded(pixels: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # infinite then: no pixel to measure noise on
        return np.asarray(pixels, dtype=np.float32)


def _in_float32(detection: Any) -> Any:
    """Round a detection image, lazily if it is lazy."""
    return detection.map_blocks(_rounded, dtype=np.float32) if is_dask_array(detection) else _rounded(detection)


def growth_radius(tier: Tier) -> int:
    """Pixels by which a tier's growth reaches out of what it found."""
    return int(tier.grow) // 2 if tier.grow_shape == "square" else int(tier.grow)


def tier_radius(tier: Tier) -> int:
    """Halo of a tier: that of its search, and its growth."""
    return search_radius(tier) + growth_radius(tier)


def tiers_halo(tiers: Sequence[Tier]) -> Pair:
    """Halo of all tiers together: each starts from the detection image, so the largest."""
    return (max(map(tier_radius, tiers)),) * 2


def source_patch(
    detection: Patch,
    ignore: Patch | None,
    *,
    tier: Tier,
    threshold: float,
    fill: float | None = None,
    noise: Patch | None = None,
) -> Patch:
    """Pixels (bool) of the sources of one tier and of their growth.

    ``fill`` is the value of ignored pixels in smoothing (None: they are left out); ``noise`` a map of the local noise,
    of which ``n_sigma`` is added to the threshold.
    """
    taps = taps_of(fwhm=tier.fwhm, sigma=tier.sigma, kernel_radius=tier.kernel_radius)
    if fill is None or ignore is None:
        smoothed = smooth_patch(detection, ignore, taps=taps, boundary="fill")
    else:
        filled = detection.replaced(np.where(ignore.data, np.float32(fill), detection.data))
        smoothed = smooth_patch(filled, None, taps=taps, boundary="fill")
    left_out = None if ignore is None else ignore.crop(smoothed.region)
    limit = threshold if noise is None else threshold + tier.n_sigma * noise.crop(smoothed.region)
    # what the tile needs of a source of n pixels lies within n - 1 pixels of it: no labels need to cross tiles
    found = smoothed.replaced(detect(smoothed.data, limit, n_pixels=tier.n_pixels, mask=left_out))
    found = found.cropped(found.region.inner((tier.n_pixels - 1,) * 2, found.shape))
    if not tier.grow:
        return found
    size = tier.grow if tier.grow_shape != "square" else int(tier.grow)
    return found.apply(lambda pixels: _GROW[tier.grow_shape](pixels, size), (growth_radius(tier),) * 2, "fill")


def tiers_patch(
    detection: Patch,
    ignore: Patch | None,
    noise: Patch | None = None,
    *,
    tiers: Sequence[Tier],
    thresholds: Thresholds,
    first_bit: int = 1,
) -> Patch:
    """Bits of the mask plane (uint8) from ``first_bit`` on, one a tier."""
    region = detection.region.inner(tiers_halo(tiers), detection.shape)
    bits = np.zeros(region.shape, np.uint8)
    for index, (tier, value) in enumerate(zip(tiers, thresholds.values, strict=True)):
        local = noise if tier.noise == "local" else None
        found = source_patch(detection, ignore, tier=tier, threshold=value, fill=thresholds.fill, noise=local)
        bits |= np.uint8(1 << (first_bit + index)) * found.crop(region).astype(np.uint8)
    return Patch(bits, region, detection.shape)


def tier_mask(
    detection: Any,
    tiers: Sequence[Tier],
    *,
    mask: Any = None,
    clip: SigmaClip | None = None,
    masked: Literal["omit", "fill"] = "omit",
    noise: Any = None,
    first_bit: int = 1,
) -> Any:
    """Search an image for sources in several tiers.

    Parameters
    ----------
    detection : array_like or dask.array.Array, (ny, nx)
        The image minus a first estimate of its sky: anything that `tiledsky.images.taken_apart` takes. Rounded to
        float32. NaN and masked pixels are not searched.
    tiers : sequence of `tiledsky.recipe.parameters.Tier`
        At most six.
    mask : array_like or dask.array.Array, (ny, nx), optional
        True, or not 0 = leave out of statistics and search; sources beside it may still grow over it.
    clip : `tiledsky.recipe.parameters.SigmaClip`, optional
        Rejection for clipped centers and noise; default 3 sigma about the median, at most 10 rounds.
    masked : {"omit", "fill"}
        What smoothing puts in place of masked and NaN pixels: the weighted mean of their neighbours, or the biweight
        location of all others.
    noise : array_like or dask.array.Array, (ny, nx), optional
        Local noise for tiers with ``noise = "local"``, in the image's unit.
    first_bit : int
        Bit of the first tier.

    Returns
    -------
    ndarray or dask.array.Array of uint8, (ny, nx)
        Bit ``first_bit + i`` set where tier ``i`` found (or grew over) a source; 0 where nothing is.

    Raises
    ------
    ParameterError, InputError
        Tiers that cannot work; no image; a mask or noise of another shape, a noise of another unit; no pixel to measure
        the noise on (for dask arrays when computed).

    Notes
    -----
    Halo: kernel radius + n_pixels - 1 + growth, the largest of the tiers. Thresholds are of the whole image, exact, the
    same for any chunks; for a dask array they are computed when the mask is. Source: each tier equals
    `photutils.segmentation.detect_sources` (8-connected) and its ``make_source_mask``.
    """
    given = taken_apart(detection, "detection")
    marked = search(
        given.blanked(),
        tiers,
        mask=given.mask(mask),
        clip=clip,
        masked=masked,
        noise=given.plane(noise, "noise", power=1),
        first_bit=first_bit,
    )
    return given.like(marked, "tier_mask", unit=False)


def search(
    detection: Any,
    tiers: Sequence[Tier],
    *,
    mask: Any,
    clip: SigmaClip | None = None,
    masked: Literal["omit", "fill"] = "omit",
    noise: Any = None,
    first_bit: int = 1,
) -> Any:
    """Search plain numpy or dask arrays; see `tier_mask`."""
    if not (len(tiers) > 0 and 1 <= first_bit <= 7 - len(tiers)):
        raise ParameterError(
            f"{len(tiers)} tiers from bit {first_bit} on do not fit the mask's bits 1 to 6; give one to six in all"
        )
    if noise is None and any(t.noise == "local" for t in tiers):
        raise ParameterError("a tier with local noise needs a noise map; pass noise, or choose another noise")
    detection = _in_float32(detection)
    ignore = _with_nan(detection, mask) if masked == "fill" else mask
    limits = tier_thresholds(detection, tiers, mask=ignore, clip=clip or SigmaClip(), masked=masked)
    func = partial(tiers_patch, tiers=tuple(tiers), first_bit=first_bit)
    return map_patches(
        func, detection, ignore, noise, halo=tiers_halo(tiers), dtype=np.uint8, name="tier_mask", thresholds=limits
    )


def _with_nan(detection: Any, mask: Any) -> Any:
    """Return the mask with the pixels that are not finite: a filled image must not hold any."""
    return map_patches(_nan_patch, detection, mask, halo=(0, 0), dtype=bool, name="not_finite")


def _nan_patch(detection: Patch, mask: Patch | None) -> Patch:
    wrong = ~np.isfinite(detection.data)
    return detection.replaced(wrong if mask is None else wrong | mask.data)


def source_mask(
    detection: Any,
    *,
    threshold: Any = None,
    n_sigma: float | None = None,
    n_pixels: int = 1,
    fwhm: float = 0.0,
    sigma: float = 0.0,
    kernel_radius: int | None = None,
    grow: float = 0.0,
    grow_shape: str = "disc",
    mask: Any = None,
    clip: SigmaClip | None = None,
) -> Any:
    """Mask the sources of one tier.

    Parameters
    ----------
    detection : array_like or dask.array.Array, (ny, nx)
        The image minus its sky: anything that `tiledsky.images.taken_apart` takes. Rounded to float32. NaN and masked
        pixels are not searched.
    threshold : float, optional
        In the image's unit (a number, or a Quantity): smoothed pixels above it are found.
    n_sigma : float, optional
        Instead of ``threshold``: this many standard deviations above the mean, both of the unsmoothed, clipped image.
    n_pixels : int
        Smallest number of connected pixels (edges or corners).
    fwhm, sigma, kernel_radius : float, float, int
        Gaussian smoothing before the threshold; see `tiledsky.smooth`. Beyond the border the image is 0.
    grow, grow_shape : float, {"disc", "tophat", "square"}
        Radius (or size of the square) by which sources are grown, and the rule.
    mask : array_like or dask.array.Array, (ny, nx), optional
        True, or not 0 = not searched.
    clip : `tiledsky.recipe.parameters.SigmaClip`, optional
        For ``n_sigma``.

    Returns
    -------
    ndarray or dask.array.Array of bool, (ny, nx)

    Raises
    ------
    ParameterError, InputError
        Not one limit, or a parameter out of its range; no image; a mask of another shape, a threshold of another unit.

    Notes
    -----
    Halo, source: see `tier_mask`.
    """
    if (threshold is None) == (n_sigma is None):
        raise ParameterError("a source mask needs one limit; set threshold (image unit) or n_sigma, not both")
    given = taken_apart(detection, "detection")
    detection, mask, threshold = given.blanked(), given.mask(mask), given.number(threshold, "threshold")
    tier = validated(
        Tier,
        {
            "n_sigma": 0.0 if n_sigma is None else n_sigma,
            "n_pixels": n_pixels,
            "fwhm": fwhm,
            "sigma": sigma,
            "kernel_radius": kernel_radius,
            "grow": grow,
            "grow_shape": grow_shape,
        },
        source="source mask",
    )
    if threshold is None:
        return given.like(search(detection, [tier], mask=mask, clip=clip) != 0, "source_mask", unit=False)
    func = partial(source_patch, tier=tier)
    halo = tiers_halo([tier])
    detection = _in_float32(detection)
    marked = map_patches(func, detection, mask, halo=halo, dtype=bool, name="source_mask", threshold=threshold)
    return given.like(marked, "source_mask", unit=False)
