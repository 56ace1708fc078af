"""The background of the CEERS survey's NIRCam and HST images, with scipy, astropy and photutils: an oracle for tests.

After what CEERS' background_subtraction.py 1.4.0 does (github.com/ceers/ceers-nircam), in other words. Whole images at
once, slow on purpose. Nothing of tiledsky is used. Where the script fails or leaves a choice it is settled as tiledsky
documents it: pixels that are NaN or infinite are invalid even where their error is finite; a tier that finds nothing is
an empty mask; images are rounded to float32 for global statistics and for detection; what replaces hidden pixels is
rounded to the type of the image that it goes into.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from astropy.convolution import Gaussian2DKernel, Ring2DKernel, convolve_fft
from astropy.stats import SigmaClip, biweight_location, biweight_scale
from numpy.typing import NDArray
from photutils.background import Background2D, BiweightLocationBackground
from photutils.segmentation import detect_sources
from photutils.utils import circular_footprint
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

from tests.reference_chain import Search, detection_image

Array = NDArray[Any]
Bools = NDArray[np.bool_]

SIGMAS = (25.0, 15.0, 5.0, 2.0)  # of the tiers' kernels


class Numbers(NamedTuple):
    """What CEERS sets for one kind of image."""

    ring: tuple[float, float]
    n_sigma: tuple[float, ...]
    n_pixels: tuple[int, ...]
    grow: tuple[int, ...]
    box_size: int
    filter_size: int


def _mosaic(n_sigma: tuple[float, ...], n_pixels: tuple[int, ...]) -> Numbers:
    return Numbers((80, 4), n_sigma, n_pixels, (33, 25, 21, 19), 10, 5)


NUMBERS = {
    "ceers-nircam": _mosaic((1.5, 1.5, 1.5, 1.5), (15, 10, 3, 1)),
    "ceers-hst-f606w": _mosaic((0.8, 0.8, 0.6, 0.6), (5, 5, 1, 1)),
    "ceers-hst-f814w": _mosaic((0.8, 0.8, 0.8, 0.8), (5, 5, 1, 1)),
    "ceers-hst-ir": _mosaic((0.8, 0.8, 0.5, 0.5), (5, 5, 1, 1)),
    "ceers-nircam-exposure": Numbers((40, 3), (3.0, 3.0, 3.0, 3.0), (15, 15, 5, 2), (0, 0, 0, 3), 5, 3),
}


def mesh(image: Array, ignore: Bools, *, box_size: int, filter_size: int) -> Background2D:
    """Biweight location of the boxes, outside what is ignored, through a cubic spline."""
    return Background2D(
        np.where(ignore, 0, image).astype(image.dtype),
        box_size,
        mask=ignore,
        sigma_clip=SigmaClip(sigma=3),
        filter_size=filter_size,
        bkg_estimator=BiweightLocationBackground(),
        exclude_percentile=90,
    )


def ceiling_search(image: Array, coarse: Array, invalid: Bools) -> Search:
    """Pixels more than five times the noise above the coarse sky."""
    detection = detection_image(image, coarse, invalid)
    noise = float(biweight_scale(detection[~invalid]))
    with np.errstate(invalid="ignore"):
        return Search(detection > 5 * noise, detection, 5 * noise, noise)


def filled(image: Array, hidden: Bools) -> Array:
    """The image with the biweight location of all that is not hidden in the place of what is."""
    location = biweight_location(image[~hidden].astype(np.float32), c=6)
    return np.where(hidden, image.dtype.type(location), image)


def ring_median(image: Array, hidden: Bools, radius_in: float, width: float) -> Array:
    """Median in the ring, in which hidden pixels count with the location of the others."""
    return ndimage.median_filter(filled(image, hidden), footprint=Ring2DKernel(radius_in, width).array > 0)


def tier_search(detection: Array, invalid: Bools, sigma: float, n_sigma: float, n_pixels: int) -> Search:
    """Smooth and search one tier; noise and fill value are those of the unsmoothed image."""
    detection = detection.astype(np.float32)
    noise = float(biweight_scale(detection[~invalid]))
    smoothed = convolve_fft(filled(detection, invalid).astype(float), Gaussian2DKernel(sigma), allow_huge=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        segments = detect_sources(smoothed, n_sigma * noise, n_pixels=n_pixels, mask=invalid)
    found = np.zeros(smoothed.shape, bool) if segments is None else segments.data > 0
    return Search(found, smoothed, n_sigma * noise, noise)


def grown(found: Bools, radius: int) -> Bools:
    """Sources and all that is within the radius of one."""
    return ndimage.binary_dilation(found, circular_footprint(radius)) if radius else found


class Masks(NamedTuple):
    """All that the chain makes before its last mesh."""

    coarse: Array
    ceiling: Search
    ring: Array
    searches: list[Search]
    tiers: list[Bools]


def run_masks(image: Array, invalid: Bools, numbers: Numbers) -> Masks:
    """Run the chain on a float image up to the tiers' masks; a ring of 80 pixels takes half a minute a megapixel."""
    coarse = mesh(image, invalid, box_size=100, filter_size=3).background
    ceiling = ceiling_search(image, coarse, invalid)
    ring = ring_median(image, invalid | ceiling.found, *numbers.ring)
    return with_tiers(Masks(coarse, ceiling, ring, [], []), image, invalid, numbers)


def with_tiers(masks: Masks, image: Array, invalid: Bools, numbers: Numbers) -> Masks:
    """Search the tiers of other numbers with the same ring."""
    detection = detection_image(image, masks.ring, invalid)
    searches = [
        tier_search(detection, invalid, *tier) for tier in zip(SIGMAS, numbers.n_sigma, numbers.n_pixels, strict=True)
    ]
    tiers = [grown(search.found, radius) for search, radius in zip(searches, numbers.grow, strict=True)]
    return masks._replace(searches=searches, tiers=tiers)


def run_chain(image: Array, numbers: Numbers, invalid: Bools | None = None) -> Array:
    """Background of a float image."""
    invalid = ~np.isfinite(image) if invalid is None else invalid
    ignore = np.logical_or.reduce([invalid, *run_masks(image, invalid, numbers).tiers])
    return mesh(image, ignore, box_size=numbers.box_size, filter_size=numbers.filter_size).background
