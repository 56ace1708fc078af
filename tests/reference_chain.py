"""The last chain of the "Complex 2D Background" notebook, with scipy, astropy and photutils: an oracle for tests.

Whole images at once, slow and hungry on purpose. Nothing of tiledsky is used. What the notebook does not say is settled
as tiledsky documents it: detection images are rounded to float32; invalid pixels (True in ``invalid``) are left out of
every statistic, are NaN for `astropy.convolution.convolve` (interpolated), and are not searched for sources.

``python -m tests.reference_chain 4 5 6`` prints the accuracy of the chain on the notebook's scenes of these seeds.
"""

from __future__ import annotations

import sys
import warnings
from typing import NamedTuple

import numpy as np
from astropy.convolution import Gaussian2DKernel, Ring2DKernel, Tophat2DKernel, convolve
from astropy.stats import SigmaClip, gaussian_fwhm_to_sigma
from astropy.utils.exceptions import AstropyDeprecationWarning, AstropyUserWarning
from numpy.typing import NDArray
from photutils.background import Background2D, BkgIDWInterpolator, MedianBackground, SExtractorBackground
from photutils.segmentation import detect_sources, detect_threshold
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage
from scipy.spatial import cKDTree

RING = Ring2DKernel(15, 5).array > 0
TIERS = ((1.0, 4.0), (3.0, 2.0), (5.0, 1.0))  # FWHM of the kernel, radius of the tophat


def ring_median(image: NDArray, invalid: NDArray[np.bool_], footprint: NDArray[np.bool_] = RING) -> NDArray:
    """Median under the footprint; NaN where all of it is invalid."""
    filtered = ndimage.median_filter(np.where(invalid, 0, image).astype(image.dtype), footprint=footprint)
    # scipy has no masks: the pixels whose ring meets one are sorted here, rank n // 2 of the n that are left
    radius = footprint.shape[0] // 2
    padded = np.pad(np.where(invalid, np.nan, image).astype(image.dtype), radius, mode="symmetric")
    touched = ndimage.maximum_filter(invalid, footprint=footprint)
    dy, dx = np.nonzero(footprint)
    for rows in np.array_split(np.argwhere(touched), 1 + np.count_nonzero(touched) // 5000):
        under = np.sort(padded[rows[:, :1] + dy, rows[:, 1:] + dx], axis=1)  # NaN last
        rank = np.isfinite(under).sum(axis=1) // 2
        filtered[rows[:, 0], rows[:, 1]] = np.take_along_axis(under, rank[:, None], axis=1)[:, 0]
    return filtered


def detection_image(image: NDArray, sky: NDArray, invalid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Image minus sky, rounded to float32, in float64; NaN where invalid."""
    difference = (np.where(invalid, 0, image) - sky).astype(np.float32).astype(np.float64)
    return np.where(invalid, np.nan, difference)


def smoothed(detection: NDArray[np.float64], kernel: Gaussian2DKernel) -> NDArray[np.float64]:
    """Convolve with astropy's default boundary ("fill", 0) and treatment of NaN ("interpolate")."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # NaN that no valid pixel is near enough to replace
        return convolve(detection, kernel)


class Search(NamedTuple):
    """What a search for sources found, and what it went by."""

    found: NDArray[np.bool_]
    smoothed: NDArray[np.float64]
    threshold: float
    noise: float


def bright_search(detection: NDArray[np.float64], invalid: NDArray[np.bool_]) -> Search:
    """The notebook's first mask: smoothed above one standard deviation of itself."""
    image = smoothed(detection, Gaussian2DKernel(3))
    threshold = float(image[~invalid].std())
    with np.errstate(invalid="ignore"):
        return Search((image > 1.0 * threshold) & ~invalid, image, threshold, threshold)


def tier_search(
    detection: NDArray[np.float64],
    invalid: NDArray[np.bool_],
    fwhm: float,
    *,
    n_sigma: float = 1.5,
    maxiters: int = 10,
) -> Search:
    """What make_source_mask(nsigma=n_sigma, npixels=3, dilate_size=1, filter_fwhm=fwhm) did, before it was removed."""
    clip = SigmaClip(sigma=3.0, maxiters=maxiters)
    data = np.where(invalid, 0.0, detection)
    threshold = float(detect_threshold(data, n_sigma=n_sigma, mask=invalid, sigma_clip=clip)[0, 0])
    background = float(detect_threshold(data, n_sigma=0.0, mask=invalid, sigma_clip=clip)[0, 0])
    kernel = Gaussian2DKernel(fwhm * gaussian_fwhm_to_sigma, x_size=3, y_size=3)
    kernel.normalize()
    image = smoothed(detection, kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        # NaN inside a large hole is never above; photutils would warn of it
        segments = detect_sources(np.where(np.isnan(image), -np.inf, image), threshold, n_pixels=3, mask=invalid)
    found = np.zeros(image.shape, bool) if segments is None else segments.data > 0
    return Search(found, image, threshold, (threshold - background) / n_sigma)


def grown_tophat(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """The notebook's dilate_mask."""
    return convolve(mask.astype(float), Tophat2DKernel(radius)) >= 1.0 / (np.pi * radius**2)


def background(
    image: NDArray,
    ignore: NDArray[np.bool_],
    *,
    box_size: int,
    filter_size: int,
    power: float | None = None,
    estimator: type = MedianBackground,
    exclude_percentile: float = 90,
    maxiters: int = 10,
) -> Background2D:
    """Run Background2D with a 3 sigma clip; a cubic spline, or IDW of 20 neighbours if a power is given."""
    options = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyDeprecationWarning)  # of the IDW interpolator
        warnings.simplefilter("ignore", AstropyUserWarning)  # about values that are not finite
        if power is not None:
            options["interpolator"] = BkgIDWInterpolator(n_neighbors=20, power=power, regularization=30)
        return Background2D(
            image,
            box_size,
            mask=ignore,
            filter_size=filter_size,
            exclude_percentile=exclude_percentile,
            sigma_clip=SigmaClip(sigma=3.0, maxiters=maxiters),
            bkg_estimator=estimator(),
            **options,
        )


def tied_pixels(
    good: NDArray[np.bool_], box_size: int, shape: tuple[int, int], *, n_neighbors: int = 20
) -> NDArray[np.bool_]:
    """Pixels whose n-th and next nearest good boxes are equally far, so that IDW may take either."""
    centres = 2 * np.argwhere(good) * box_size + box_size - 1  # doubled: integers, exact
    if len(centres) <= n_neighbors:
        return np.zeros(shape, bool)
    pixels = 2 * np.stack(np.mgrid[: shape[0], : shape[1]], -1).reshape(-1, 2)
    _, nearest = cKDTree(centres).query(pixels, k=n_neighbors + 1)
    last, beyond = (((pixels - centres[nearest[:, k]]) ** 2).sum(axis=1) for k in (n_neighbors - 1, n_neighbors))
    return (last == beyond).reshape(shape)


def bounds_of_ties(
    mesh: NDArray,
    good: NDArray[np.bool_],
    box_size: int,
    pixels: NDArray[np.intp],
    *,
    power: float,
    n_neighbors: int = 20,
    regularization: float = 30.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest IDW value that pixels (n, 2) can have, whichever boxes tied for the last places count."""
    centres, values = 2 * np.argwhere(good) * box_size + box_size - 1, mesh[good].astype(float)
    _, nearest = cKDTree(centres).query(2 * pixels, k=min(n_neighbors + 16, len(centres)))
    squared = ((2 * pixels[:, None] - centres[nearest]) ** 2).sum(axis=2)
    last = squared[:, n_neighbors - 1, None]
    if not (squared[:, -1] > last[:, 0]).all():
        raise ValueError("more boxes tie than were asked for")
    weight = 1.0 / ((np.sqrt(squared) / 2) ** power + regularization)
    sure, tied = squared < last, squared == last
    places = n_neighbors - sure.sum(axis=1)
    taken = np.arange(squared.shape[1]) < places[:, None]
    shared = weight[:, n_neighbors - 1]
    fixed, total = (weight * values[nearest] * sure).sum(axis=1), (weight * sure).sum(axis=1) + places * shared
    limits = []
    for sign in (1, -1):
        ends = np.sort(np.where(tied, sign * values[nearest], np.inf), axis=1)
        limits.append((fixed + sign * shared * np.where(taken, ends, 0.0).sum(axis=1)) / total)
    return limits[0], limits[1]


class Chain(NamedTuple):
    """All that the chain makes; the backgrounds are pixels."""

    ring: NDArray
    bright: NDArray[np.bool_]
    bkg3: NDArray
    bkg4: NDArray
    tiers: NDArray[np.bool_]
    bkg5: NDArray


def run_chain(image: NDArray, invalid: NDArray[np.bool_] | None = None) -> Chain:
    """Run the chain on a float image; not above 1000 x 1000 pixels, for photutils' IDW needs 1.2 GB there."""
    invalid = np.zeros(image.shape, bool) if invalid is None else invalid
    ring = ring_median(image, invalid)
    bright = bright_search(detection_image(image, ring, invalid), invalid).found
    bkg3 = background(image, bright | invalid, box_size=10, filter_size=5).background
    bkg4 = background(image, bright | invalid, box_size=10, filter_size=5, power=1).background
    detection = detection_image(image, bkg4, invalid)
    tiers = np.zeros(image.shape, bool)
    for fwhm, radius in TIERS:
        tiers |= grown_tophat(tier_search(detection, invalid, fwhm).found, radius)
    bkg5 = background(image, tiers | invalid, box_size=6, filter_size=3, power=0).background
    return Chain(ring, bright, bkg3, bkg4, tiers, bkg5)


class NotebookStart(NamedTuple):
    """What the notebook's first two backgrounds start from; the first sky is pixels."""

    first: NDArray
    search: Search
    sources: NDArray[np.bool_]


def masked_at_three_sigma(image: NDArray, invalid: NDArray[np.bool_]) -> NotebookStart:
    """First mesh and make_source_mask(nsigma=3, npixels=3, dilate_size=5, filter_fwhm=3), clipped in 5 rounds."""
    first = background(image, invalid, box_size=50, filter_size=3, exclude_percentile=50, maxiters=5).background
    search = tier_search(detection_image(image, first, invalid), invalid, 3.0, n_sigma=3.0, maxiters=5)
    return NotebookStart(first, search, ndimage.binary_dilation(search.found, np.ones((5, 5))))


def masked_background(image: NDArray, ignore: NDArray[np.bool_], box_size: int) -> Background2D:
    """Make bkg1 (boxes of 30 pixels) or bkg2 (15): photutils' own exclude_percentile."""
    return background(image, ignore, box_size=box_size, filter_size=3, exclude_percentile=10, maxiters=5)


def sextractor(image: NDArray, invalid: NDArray[np.bool_]) -> Background2D:
    """One mesh of boxes of 64 pixels, SExtractor's estimator."""
    return background(image, invalid, box_size=64, filter_size=3, estimator=SExtractorBackground)


def accuracy(seed: int) -> tuple[float, float, float]:
    """Standard deviation of bkg3, bkg4 and bkg5 minus the true sky, on the notebook's scene of a seed."""
    from tests.notebook_scene import notebook_scene

    scene = notebook_scene(seed)
    chain = run_chain(scene.scene)
    return tuple(float((b - scene.sky).std()) for b in (chain.bkg3, chain.bkg4, chain.bkg5))


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:]):
        print(f"    {seed}: ({', '.join(f'{value:.6f}' for value in accuracy(seed))}),")
