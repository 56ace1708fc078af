"""Each kernel beside the library call that does the same, on one noisy image with gradient and sources."""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import Any

import numpy as np
import sep
from astropy.convolution import Gaussian2DKernel, convolve, convolve_fft
from astropy.stats import SigmaClip, sigma_clipped_stats
from numpy.typing import NDArray
from photutils import background as peer
from photutils.segmentation import detect_sources
from photutils.utils import circular_footprint
from scipy import ndimage

import tiledsky
from tests.benchmarks.machine import Floor
from tests.benchmarks.measure import Call, Case, largest_difference
from tiledsky.kernels.boxes.boxes import Clip, box_statistics
from tiledsky.kernels.detection.detect import detect, disc_footprint, grow_disc
from tiledsky.kernels.filters.ring import footprint_percentile, ring_footprint
from tiledsky.kernels.filters.smooth import convolve_separable, gaussian_taps
from tiledsky.kernels.mesh.fill import fill
from tiledsky.kernels.mesh.idw import idw_evaluate
from tiledsky.kernels.mesh.mesh import exclude, median_filter, spline_coefficients, spline_evaluate
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.needed_bins import clipping_bins
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.kernels.statistics.selection import clipped_statistics

Array = NDArray[Any]

_RINGS = ((15, 5, 560), (40, 3, 560), (80, 4, 500))  # radius, width, side of the peer's image
_BOXES = (64, 50, 10, 6)
_CLIP = Clip(sigma_lower=3.0, sigma_upper=3.0, maxiters=10)
_PEER_CLIP = SigmaClip(sigma=3.0, maxiters=10)
_NOISE = 0.1  # of a pixel of the scene
_ESTIMATORS = (
    ("sextractor", "std", peer.SExtractorBackground, peer.StdBackgroundRMS),
    ("biweight", "biweight", peer.BiweightLocationBackground, peer.BiweightScaleBackgroundRMS),
    ("median", "mad_std", peer.MedianBackground, peer.MADStdBackgroundRMS),
)


class Images:
    """The planes that the cases share, made when first asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def pixels(self) -> int:
        """In the image."""
        return self.size**2

    @cached_property
    def scene(self) -> tiledsky.Scene:
        """Gradient, blemishes, sources and noise; float32."""
        return tiledsky.simulate_scene((self.size, self.size), seed=4)

    @property
    def image(self) -> Array:
        """The scene with everything in it."""
        return self.scene.image

    @cached_property
    def holes(self) -> NDArray[np.bool_]:
        """One pixel in five, at random."""
        return np.random.default_rng(4).random((self.size, self.size)) < 0.2

    @cached_property
    def smoothed(self) -> Array:
        """Image minus the true sky, smoothed with sigma 2."""
        return _gaussian(self.image - self.scene.sky, gaussian_taps(2.0), "edge")

    @property
    def threshold(self) -> float:
        """Three times the noise that smoothing leaves."""
        return 3 * _NOISE / (2 * math.sqrt(math.pi) * 2.0)

    @cached_property
    def sources(self) -> NDArray[np.bool_]:
        """Source mask, not grown."""
        return detect(self.smoothed, self.threshold, n_pixels=5)

    def corner(self, side: int) -> tuple[slice, slice]:
        """The corner that a slow peer works on."""
        return (slice(min(side, self.size)),) * 2

    def corner_pixels(self, side: int) -> int:
        """Pixels in it."""
        return min(side, self.size) ** 2


def cases(size: int) -> list[Case]:
    """All rows, for an image of ``size`` x ``size`` pixels."""
    images = Images(size)
    return [
        *_ring_cases(images),
        *_box_cases(images),
        *_upsampling_cases(images),
        *_gaussian_cases(images),
        *_mask_cases(images),
        _statistics_case(images),
    ]


def _ring_cases(images: Images) -> list[Case]:
    found = []
    for radius_in, width, side in _RINGS:
        footprint = ring_footprint(radius_in, width)
        for masked in (False, True):
            found.append(
                Case(
                    name=f"ring median {radius_in}/{width}" + (", 20% masked" if masked else ""),
                    peer="scipy median_filter" + (", no mask" if masked else ""),
                    prepare=partial(_ring, images, footprint, side, masked),
                    pixels=images.pixels,
                    peer_pixels=images.corner_pixels(side),
                    goal=25 if masked else 30,
                    stretch=None if masked else 60,
                    # the least a counting search can do: one comparison of 16 bits with each member
                    floor=Floor(bytes=8, steps=int(footprint.sum()), bits=16),
                    compare=None if masked else partial(_inner_difference, margin=footprint.shape[0] // 2),
                )
            )
    return found


def _ring(images: Images, footprint: NDArray[np.bool_], side: int, masked: bool) -> tuple[Call, Call]:
    image, mask, radius = images.image, images.holes if masked else None, footprint.shape[0] // 2
    corner = image[images.corner(side)].copy()

    def ours() -> Array:
        left_out = None if mask is None else np.pad(mask, radius, mode="symmetric")
        return footprint_percentile(np.pad(image, radius, mode="symmetric"), footprint, mask=left_out)

    return ours, lambda: ndimage.median_filter(corner, footprint=footprint, mode="reflect")


def _inner_difference(ours: Array, theirs: Array, *, margin: int) -> float:
    """Difference where the peer's corner of the image is far enough from its own border."""
    side = theirs.shape[0]
    inner = (slice(margin, side if side == ours.shape[0] else side - margin),) * 2
    return largest_difference(ours[inner], theirs[inner])


def _box_cases(images: Images) -> list[Case]:
    whole = {"pixels": images.pixels, "peer_pixels": images.pixels, "floor": Floor(bytes=4)}
    found = []
    for box in _BOXES:
        name = f"box {box} median + std"
        note = "its own estimator"
        found += [
            Case(
                name,
                "sep.Background, no filter",
                partial(_boxes_sep, images, box),
                **whole,
                goal=1,
                stretch=2,
                note=note,
            ),
            Case(
                name + ", mesh",
                "sep.Background",
                partial(_mesh_sep, images, box),
                **whole,
                goal=1,
                stretch=2,
                note=note,
            ),
            Case(
                name,
                "Background2D()",
                partial(_boxes_photutils, images, box, "median", "std", peer.MedianBackground, peer.StdBackgroundRMS),
                **whole,
                goal=8,
                compare=largest_difference,
            ),
        ]
    for box in (50, 10):
        for estimator, rms, location, scale in _ESTIMATORS:
            prepare = partial(_boxes_photutils, images, box, estimator, rms, location, scale)
            name = f"box {box} {estimator} + {rms}"
            found.append(Case(name, "Background2D()", prepare, **whole, goal=5, compare=largest_difference))
    return found


def _boxes_sep(images: Images, box: int) -> tuple[Call, Call]:
    image = images.image
    return (
        lambda: box_statistics(image, box, clip=_CLIP, estimator="median", rms_estimator="std"),
        lambda: sep.Background(image, bw=box, bh=box, fw=1, fh=1),
    )


def _mesh_sep(images: Images, box: int) -> tuple[Call, Call]:
    """The whole of what `sep.Background` does: filtered meshes, ready to be evaluated."""
    image = images.image

    def ours() -> list[Array]:
        found = box_statistics(image, box, clip=_CLIP, estimator="median", rms_estimator="std")
        meshes = exclude(*found, box_npixels=box * box, exclude_percentile=90)
        background, rms = (fill(mesh) for mesh in meshes)
        filtered = [median_filter(mesh, size=(3, 3), reference=background) for mesh in (background, rms)]
        return [spline_coefficients(mesh) for mesh in filtered]

    return ours, lambda: sep.Background(image, bw=box, bh=box, fw=3, fh=3)


def _boxes_photutils(
    images: Images, box: int, estimator: str, rms: str, location: type, scale: type
) -> tuple[Call, Call]:
    image = images.image

    def theirs() -> Array:
        # the constructor makes the statistics; filter, filling and upsampling wait for the attributes
        found = peer.Background2D(
            image,
            box,
            filter_size=1,
            exclude_percentile=100,
            sigma_clip=_PEER_CLIP,
            bkg_estimator=location(),
            bkg_rms_estimator=scale(),
        )
        return found.background_mesh

    return lambda: box_statistics(image, box, clip=_CLIP, estimator=estimator, rms_estimator=rms).background, theirs


def _upsampling_cases(images: Images) -> list[Case]:
    whole = {"pixels": images.pixels, "peer_pixels": images.pixels, "floor": Floor(bytes=4)}
    found = []
    for box in (50, 10):
        spline, spline_sep = partial(_spline, images, box), partial(_spline_sep, images, box)
        found += [
            Case(
                f"cubic upsampling {box}",
                "Background2D.background",
                spline,
                **whole,
                goal=30,
                compare=largest_difference,
            ),
            Case(f"cubic upsampling {box}", "sep.Background.back()", spline_sep, **whole, goal=1),
        ]
    found.append(
        Case(
            "IDW upsampling 10, n=20",
            "BkgIDWInterpolator",
            partial(_idw, images, 1000),
            pixels=images.pixels,
            peer_pixels=images.corner_pixels(1000),
            goal=50,
            # one multiply-add of 64 bits for each neighbour, weights known
            floor=Floor(bytes=4, steps=20, bits=64),
        )
    )
    return found


def _photutils_mesh(images: Images, box: int, side: int, **options: Any) -> peer.Background2D:
    corner = images.image[images.corner(side)]
    return peer.Background2D(corner, box, bkg_estimator=peer.MedianBackground(), exclude_percentile=90, **options)


def _spline(images: Images, box: int) -> tuple[Call, Call]:
    made = _photutils_mesh(images, box, images.size)
    mesh = made.background_mesh
    region = (0, images.size, 0, images.size)
    limits = {"vmin": float(mesh.min()), "vmax": float(mesh.max())}
    return lambda: spline_evaluate(spline_coefficients(mesh), (box, box), region, **limits), lambda: made.background


def _spline_sep(images: Images, box: int) -> tuple[Call, Call]:
    """Evaluation alone: `sep.Background` has its spline from the constructor, ours has its coefficients."""
    coefficients = spline_coefficients(_photutils_mesh(images, box, images.size).background_mesh)
    made = sep.Background(images.image, bw=box, bh=box)
    region = (0, images.size, 0, images.size)
    return lambda: spline_evaluate(coefficients, (box, box), region), lambda: made.back(dtype=np.float32)


def _idw(images: Images, side: int) -> tuple[Call, Call]:
    mesh = _photutils_mesh(images, 10, images.size).background_mesh
    region = (0, images.size, 0, images.size)
    law = {"n_neighbors": 20, "power": 1.0, "regularization": 30.0}
    made = _photutils_mesh(images, 10, side, interpolator=peer.BkgIDWInterpolator(**law))
    return lambda: idw_evaluate(mesh, (10, 10), region, **law), lambda: made.background


def _gaussian_cases(images: Images) -> list[Case]:
    whole = {"pixels": images.pixels, "peer_pixels": images.pixels, "compare": largest_difference}
    found = []
    for sigma, name, goal in ((3.0, "astropy convolve", 20), (25.0, "astropy convolve_fft", 4)):
        taps = gaussian_taps(sigma)
        floor = Floor(bytes=8, steps=2 * taps.size, bits=64)  # a multiply-add of 64 bits a tap, along x and along y
        title = f"Gaussian sigma {sigma:g} ({taps.size} taps)"
        astropy, scipy = partial(_gaussian_astropy, images, sigma), partial(_gaussian_scipy, images, sigma)
        found += [
            Case(title, name, astropy, **whole, goal=goal, floor=floor),
            Case(title, "scipy gaussian_filter", scipy, **whole, goal=1, floor=floor),
        ]
    return found


def _gaussian(image: Array, taps: NDArray[np.float64], mode: Any) -> Array:
    return convolve_separable(np.pad(image, taps.size // 2, mode=mode), taps)


def _gaussian_astropy(images: Images, sigma: float) -> tuple[Call, Call]:
    image, taps, kernel = images.image, gaussian_taps(sigma), Gaussian2DKernel(sigma)
    if sigma < 10:
        return partial(_gaussian, image, taps, "edge"), lambda: convolve(image, kernel, boundary="extend")
    return partial(_gaussian, image, taps, "constant"), lambda: convolve_fft(image, kernel, boundary="fill")


def _gaussian_scipy(images: Images, sigma: float) -> tuple[Call, Call]:
    image, taps = images.image, gaussian_taps(sigma)
    options = {"mode": "nearest", "radius": taps.size // 2}
    return partial(_gaussian, image, taps, "edge"), lambda: ndimage.gaussian_filter(image, sigma, **options)


def _mask_cases(images: Images) -> list[Case]:
    detection = Case(
        "threshold, n_pixels 5, grow 3",
        "detect_sources + make_source_mask",
        partial(_source_mask, images),
        pixels=images.pixels,
        peer_pixels=images.pixels,
        goal=3,
        floor=Floor(bytes=5),  # the image in, the mask out
        compare=largest_difference,
    )
    growing = [
        Case(
            f"grow by disc {radius}",
            "scipy binary_dilation",
            partial(_grow, images, radius, 1000),
            pixels=images.pixels,
            peer_pixels=images.corner_pixels(1000),
            goal=50,
            floor=Floor(bytes=2, steps=2 * radius + 1, bits=8),  # one comparison of 8 bits for each row of the disc
            compare=partial(_inner_difference, margin=radius),
        )
        for radius in (21, 33)
    ]
    return [detection, *growing]


def _source_mask(images: Images) -> tuple[Call, Call]:
    smoothed, threshold, footprint = images.smoothed, images.threshold, circular_footprint(3)
    return (
        lambda: grow_disc(np.pad(detect(smoothed, threshold, n_pixels=5), 3), 3),
        lambda: detect_sources(smoothed, threshold, n_pixels=5).make_source_mask(footprint=footprint),
    )


def _grow(images: Images, radius: int, side: int) -> tuple[Call, Call]:
    mask, disc = images.sources, disc_footprint(radius)
    corner = mask[images.corner(side)].copy()
    return lambda: grow_disc(np.pad(mask, radius), radius), lambda: ndimage.binary_dilation(corner, disc)


def _statistics_case(images: Images) -> Case:
    return Case(
        "clipped mean, median, std, exact",
        "astropy sigma_clipped_stats",
        partial(_statistics, images),
        pixels=images.pixels,
        peer_pixels=images.pixels,
        goal=None,
        floor=Floor(bytes=8),  # the image is read twice
        compare=largest_difference,
        note="peer not exact",
    )


def _statistics(images: Images) -> tuple[Call, Call]:
    image = images.image

    def ours() -> tuple[float, float, float]:
        histogram = KeyHistogram.from_values(image)
        clip: dict[str, Any] = {"sigma_lower": 3.0, "sigma_upper": 3.0, "maxiters": 5, "center": "median"}
        refinement = Refinement.from_values(image, clipping_bins(histogram, **clip))
        found = clipped_statistics(histogram, refinement, **clip)
        return found.mean, found.median, found.std

    return ours, lambda: sigma_clipped_stats(image, sigma=3.0, maxiters=5)
