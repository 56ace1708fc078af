"""Statistics of the whole image that a ring or mask step needs, and the thresholds that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair
from tiledsky.kernels.statistics import skewness
from tiledsky.nodata import nodata_option
from tiledsky.operations.filters import smooth_patch, taps_of
from tiledsky.operations.reliability import Counts, counts, merged, ranks, reliable_n_sigma
from tiledsky.overlap import Patch, call, map_patches
from tiledsky.recipe import MaskStep, RingStep, SigmaClip, Tier
from tiledsky.statistics import Statistics, image_statistics, reduced

#: Standard deviations that a detection image may have: 2**20 times the smallest float32, 2**-13 of the largest.
_LEAST_NOISE, _LARGEST_NOISE = 2.0**-129, 2.0**114


@dataclass(frozen=True)
class NoiseImage:
    """One image whose statistics a step needs: the image that it works on, smoothed or not.

    Attributes
    ----------
    fwhm, sigma, kernel_radius
        Of the smoothing, as in `tiledsky.recipe.parameters.Tier`.
    refine, biweight : bool
        Whether more than the first pass is needed (median, MAD, clipping), and the third (biweights).
    """

    fwhm: float = 0.0
    sigma: float = 0.0
    kernel_radius: int | None = None
    refine: bool = False
    biweight: bool = False

    @property
    def halo(self) -> Pair:
        """Radius of the smoothing kernel."""
        taps = taps_of(fwhm=self.fwhm, sigma=self.sigma, kernel_radius=self.kernel_radius)
        return (0, 0) if taps is None else (taps.size // 2,) * 2

    def patch(self, image: Patch, ignore: Patch | None) -> Patch:
        """Pixels of this image from those of the one that the step works on."""
        taps = taps_of(fwhm=self.fwhm, sigma=self.sigma, kernel_radius=self.kernel_radius)
        return smooth_patch(image, ignore, taps=taps, boundary="fill")


def noise_image(tier: Tier, *, fill: bool = False) -> NoiseImage:
    """Return the image whose statistics give the threshold of ``tier``, with ``fill`` also that of masked pixels."""
    biweight = fill or "biweight" in (tier.noise, tier.center)
    refine = biweight or tier.center == "median" or tier.noise not in ("std", "local") or tier.reliability is not None
    refine |= tier.noise == "local" and tier.center == "mean"
    if tier.noise_of == "unsmoothed":
        return NoiseImage(refine=refine, biweight=biweight)
    return NoiseImage(tier.fwhm, tier.sigma, tier.kernel_radius, refine, biweight)


def noise_images(step: RingStep | MaskStep) -> list[NoiseImage]:
    """Return the images whose statistics a step needs, each once; none for a ring that leaves masked pixels out."""
    if isinstance(step, RingStep):
        return [NoiseImage(refine=True, biweight=True)] if step.masked == "fill" else []
    return list(dict.fromkeys(noise_image(t, fill=step.masked == "fill") for t in step.tiers))


def clip_of(step: RingStep | MaskStep) -> SigmaClip:
    """Return the rejection for the clipped statistics of a step."""
    return step.clip if isinstance(step, MaskStep) else SigmaClip()


def center_and_noise(tier: Tier, statistics: Statistics) -> tuple[float, float]:
    """What the threshold of a tier is counted from, and in units of; a local noise counts 0 here.

    The center goes with the noise: of the clipped pixels if the noise is clipped or local, else of all. The center
    "sky" is zero, but the mean where this lies above the threshold, and so most pixels do: then the sky that was taken
    off is not that of the image, as a median of few photons is not.
    """
    _check_pixels(statistics)
    clipped = tier.noise in ("clipped_std", "local")
    centers = {
        "zero": 0.0,
        "mean": statistics.clipped_mean if clipped else statistics.mean,
        "median": statistics.clipped_median if clipped else statistics.median,
        "biweight": statistics.biweight_location,
    }
    noises = {
        "std": statistics.std,
        "clipped_std": statistics.clipped_std,
        "mad_std": statistics.mad_std,
        "biweight": statistics.biweight_scale,
        "local": 0.0,
    }
    _check_range(noises[tier.noise])
    if tier.noise in ("mad_std", "biweight") and noises[tier.noise] == 0 and statistics.std > 0:
        raise InputError(
            f"the noise of the image is 0 by its {tier.noise}: more than half of the pixels have one value, "
            "and every pixel above it would count as a source; if that value means no data, give "
            f'{nodata_option()}, else use a recipe whose tiers have noise = "clipped_std", as complex-sky'
        )
    noise = noises[tier.noise]
    if tier.center == "sky":
        return (centers["mean"] if 0.0 < tier.n_sigma * noise < centers["mean"] else 0.0), noise
    return centers[tier.center], noise


def threshold(tier: Tier, statistics: Statistics, found: Counts | None = None, *, skewed: float | None = None) -> float:
    """Threshold of a tier: center + n_sigma x noise; for a local noise the center alone.

    ``found``: what the search with each threshold finds, of a tier with a reliability; ``skewed``: skewness of the
    noise of pixels. Where the smoothed noise is still skewed, its negative says nothing of it, and the tier finds
    nothing.
    """
    center, noise = center_and_noise(tier, statistics)
    if found is not None and skewed is not None and skewness.smoothed_skewness(skewed, _taps(tier)) >= skewness.LEAST:
        return math.inf
    return center + (tier.n_sigma if found is None else reliable_n_sigma(tier, found)) * noise


def _taps(tier: Tier) -> NDArray[np.float64] | None:
    return taps_of(fwhm=tier.fwhm, sigma=tier.sigma, kernel_radius=tier.kernel_radius)


def search_radius(tier: Tier) -> int:
    """Halo of the search of a tier: its kernel, and ``n_pixels - 1`` for the size of a source."""
    return _searched(tier).halo[0] + tier.n_pixels - 1


def ranks_halo(tiers: Sequence[Tier]) -> Pair:
    """Halo of the counts for those tiers that have a reliability."""
    radii = [max(search_radius(t), skewness.HALO) for t in tiers if t.reliability is not None]
    return (max(radii, default=0),) * 2


def law_tier(tiers: Sequence[Tier]) -> Tier | None:
    """Return the tier by whose noise the law of the noise of pixels is counted: the first with a reliability."""
    return next((tier for tier in tiers if tier.reliability is not None), None)


def _searched(tier: Tier) -> NoiseImage:
    return NoiseImage(tier.fwhm, tier.sigma, tier.kernel_radius)


def ranks_patch(detection: Patch, ignore: Patch | None, *, tier: Tier, statistics: Statistics) -> Patch:
    """Ranks of the pixels of a tier with a reliability (`tiledsky.operations.reliability.ranks`)."""
    smoothed = _searched(tier).patch(detection, ignore)
    center, noise = center_and_noise(tier, statistics)
    left_out = None if ignore is None else ignore.crop(smoothed.region)
    found = smoothed.replaced(ranks(smoothed.data, tier, center=center, noise=noise, mask=left_out))
    return found.cropped(found.region.inner((tier.n_pixels - 1,) * 2, found.shape))


def law_patch(detection: Patch, ignore: Patch | None, *, tier: Tier, statistics: Statistics) -> Patch:
    """Places of the pixels with dark neighbours (`tiledsky.kernels.statistics.skewness.dark_places`)."""
    _, noise = center_and_noise(tier, statistics)
    taps = _taps(tier) if tier.noise_of == "smoothed" else None
    unit = noise if taps is None else noise / math.fsum((taps * taps).tolist())
    pixels = detection.data if ignore is None else np.where(ignore.data, np.float32(np.nan), detection.data)
    places = detection.replaced(skewness.dark_places(pixels, detection.region.y0, unit=unit))
    return places.cropped(places.region.inner((skewness.HALO,) * 2, places.shape))


def _check_pixels(statistics: Statistics) -> None:
    if not statistics.n:
        raise InputError(
            "no pixel is left to measure the noise on: all are NaN, masked, of zero weight, or beyond the 3e38 that "
            "float32 holds; check the masks and the unit of the image"
        )


def _check_range(noise: float) -> None:
    """Refuse an image whose float32 detection image cannot hold its noise, or sources some thousand times above it."""
    if noise and not _LEAST_NOISE <= noise <= _LARGEST_NOISE:
        raise InputError(
            f"the noise of the image minus its sky is {noise:.3g}; the search for sources uses float32, which "
            f"needs a noise from {_LEAST_NOISE:.2g} to {_LARGEST_NOISE:.2g}; multiply the image by a power of "
            "ten"
        )


def fill_value(statistics: Statistics) -> float:
    """Return what masked pixels count as: the biweight location, rounded to float32 as detection images are."""
    _check_pixels(statistics)
    return float(np.float32(statistics.biweight_location))


@dataclass(frozen=True)
class Thresholds:
    """What the search of a mask step goes by: a threshold a tier, and the value of masked pixels (None: left out).

    ``skewness``: of the noise of pixels, where it is skewed and a tier has a reliability; else None.
    """

    values: tuple[float, ...]
    fill: float | None = None
    skewness: float | None = None


def thresholds(
    tiers: Sequence[Tier],
    statistics: Sequence[Statistics],
    found: Sequence[Counts | None],
    law: skewness.Counts | None,
    *,
    fill: bool,
) -> Thresholds:
    """Return the thresholds of tiers from the statistics of their noise images and their counts, one a tier.

    ``law``: counts of the noise of pixels, for tiers with a reliability.
    """
    noise = None if law is None else skewness.noise_law(law)
    skewed = noise.skewness if noise is not None and noise.skewed else None
    values = tuple(threshold(t, s, n, skewed=skewed) for t, s, n in zip(tiers, statistics, found, strict=True))
    return Thresholds(values, fill_value(statistics[0]) if fill else None, skewed)


def tier_thresholds(detection: Any, tiers: Sequence[Tier], *, mask: Any, clip: SigmaClip, masked: str = "omit") -> Any:
    """`Thresholds` of an image, lazy for a dask array."""
    fill = masked == "fill"
    wanted = [noise_image(t, fill=fill) for t in tiers]
    statistics = {}
    for image in dict.fromkeys(wanted):
        pixels = map_patches(image.patch, detection, mask, halo=image.halo, dtype=np.float32, name="noise_image")
        statistics[image] = image_statistics(pixels, mask, clip, refine=image.refine, biweight=image.biweight)
    found: list[Any] = []
    law: Any = None
    for tier, image in zip(tiers, wanted, strict=True):
        if tier.reliability is None:
            found.append(None)
            continue
        options = {"halo": ranks_halo([tier]), "statistics": statistics[image]}
        ranked = map_patches(partial(ranks_patch, tier=tier), detection, mask, dtype=np.int8, name="ranks", **options)
        found.append(reduced(counts, merged, ranked, None))
        if law is None:
            dark = map_patches(partial(law_patch, tier=tier), detection, mask, dtype=np.int16, name="dark", **options)
            law = reduced(skewness.counts, _added, dark, None)
    return call(thresholds, tuple(tiers), [statistics[i] for i in wanted], found, law, fill=fill)


def _added(parts: list[skewness.Counts]) -> skewness.Counts:
    return np.asarray(sum(parts[1:], parts[0]))
