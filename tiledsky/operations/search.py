"""What ring and mask steps work on: the image, or the detection image, and the bits that are left out.

The detection image is the image minus an earlier sky, rounded to float32; a step may even its noise by a plane of the
input or by the rms map of an earlier background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tiledsky.geometry import Pair, Region
from tiledsky.operations.background import mesh_terms
from tiledsky.operations.base import PixelOperation, Read, Task, image_of
from tiledsky.operations.filters import taps_of
from tiledsky.operations.masking import detection_image, growth_radius
from tiledsky.operations.memory import READ, Phase, Sizes
from tiledsky.overlap import Patch
from tiledsky.planes import noise_scale
from tiledsky.recipe import BackgroundStep, MaskStep, Recipe, Tier


@dataclass(frozen=True)
class StepInput:
    """The image that a step works on, and the bits that it leaves out.

    Attributes
    ----------
    step : str
    image, bits : str
        Nodes.
    detection : Detection or None
        Operation of the image, where it is not the science image.
    local : BackgroundStep or None
        Its rms map is the noise of tiers with ``noise = "local"``.
    fill : bool
        Whether smoothing puts a value where pixels are left out.
    """

    step: str
    image: str
    bits: str
    detection: Detection | None = None
    local: BackgroundStep | None = None
    fill: bool = False

    @property
    def is_detection(self) -> bool:
        """Whether the image is a detection image."""
        return self.detection is not None

    def reads(self, halo: Pair) -> list[Read]:
        """Nodes of both."""
        return [Read(self.image, halo), Read(self.bits, halo)]

    def patches(self, task: Task, region: Region) -> tuple[Patch, Patch]:
        """Pixels of the image, and whether each is left out (bool)."""
        image, bits = task.patch(self.image, region), task.patch(self.bits, region)
        assert image is not None
        assert bits is not None
        return image, left_out(bits)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """Phases until both are there."""
        return [*sizes.inputs(), *([] if self.detection is None else self.detection.phases(sizes))]


def left_out(bits: Patch) -> Patch:
    """Whether a pixel has any bit."""
    return bits.replaced(bits.data != 0)


class Detection(PixelOperation):
    """The image that a mask step searches."""

    kind, stored = "detection", False

    def __init__(self, recipe: Recipe, step: MaskStep) -> None:
        self.step, self.name = step.name, f"{step.name}-detection"
        self.output = f"{step.name}/detection"
        sky = recipe.detection_sky(step)
        #: Whether the sky is a plane of the store; else it is made from a mesh.
        self.sky_is_plane = not isinstance(sky, BackgroundStep)
        self.sky, self.image = sky, image_of(recipe, step)
        self.equalize = step.equalize
        self.noise = recipe.noise_source(step) if step.equalize == "rms" else None

    def inputs(self) -> list[Read]:
        """See `PixelOperation.inputs`."""
        sky = self.sky.name if self.sky_is_plane else f"{self.sky.name}/background"
        planes = [self.image, sky]
        if self.noise is not None:
            planes.append(f"{self.noise.name}/rms")
        elif self.equalize:
            planes += ["weight", "error"]
        return [Read(plane) for plane in planes]

    def apply(self) -> Callable[..., Patch]:
        """See `PixelOperation.apply`."""
        if self.noise is not None:
            return _evened_by_rms
        return _evened if self.equalize else _detection

    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """See `PixelOperation.dtype`."""
        return np.dtype(np.float32)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        size = sizes.size
        made = Phase("sky").add("science", size, "px read", sizes.read).add("bits", 1, "px read", sizes.read)
        if self.image != "science":
            made.add("light, difference", 16, "px read", sizes.read)
        if isinstance(self.sky, BackgroundStep):
            mesh_terms(made.add("sky", size, "px read", sizes.read), self.sky, sizes)
        else:
            sizes.reading(made, "sky", size)
        detection = Phase("detection image")
        detection.add("science, sky, difference", 3 * size, "px read", sizes.read)
        detection.add("bits", 1, "px read", sizes.read)
        detection.add("rounded", 4 if size == 8 else 0, "px read", sizes.read)
        if self.noise is not None:
            mesh_terms(detection.add("rms, scale and its making", 4 * size, "px read", sizes.read), self.noise, sizes)
        elif self.equalize:
            noise = [sizes.planes[n].itemsize for n in ("weight", "error") if n in sizes.planes]
            detection.add("noise planes", sum(noise), "px read", sizes.read)
            detection.add("scale and its making", 3 * max([4, *noise]), "px read", sizes.read)
            detection.add("noise plane while read", READ * max(noise, default=0), "px read", sizes.read)
        return [made, detection]


def _detection(image: Patch, sky: Patch) -> Patch:
    return image.replaced(detection_image(image.data, sky.data))


def _evened(image: Patch, sky: Patch, weight: Patch | None, error: Patch | None) -> Patch:
    planes = {"weight": weight, "error": error}
    scale = noise_scale(**{k: None if p is None else p.data for k, p in planes.items()})
    return image.replaced(detection_image(image.data, sky.data, scale))


def _evened_by_rms(image: Patch, sky: Patch, rms: Patch) -> Patch:
    return _evened(image, sky, None, rms)


def search_phases(sizes: Sizes, source: StepInput, tier: Tier, held: Iterable[tuple[str, int]]) -> Phase:
    """Phase of the search of one tier, beside arrays of so many bytes a pixel."""
    taps = taps_of(fwhm=tier.fwhm, sigma=tier.sigma, kernel_radius=tier.kernel_radius)
    search = Phase("search")
    for what, per in held:
        search.add(what, per, "px read", sizes.read)
    search.add("ignored, found", 2, "px read", sizes.read).add("mask", 3, "px", sizes.tile)
    search.add("filled", 4 * source.fill, "px read", sizes.read)
    if tier.noise == "local" and source.local is not None:
        noise = search.add("noise, limit", 3 * sizes.size, "px read", sizes.read)
        mesh_terms(noise, source.local, sizes)
    if taps is not None:
        search.add("padded image and mask", 5, "px padded", sizes.padded).add("smoothed", 4, "px read", sizes.read)
        search.add("smoothing", 1, "B", 16 * 256 * (taps.size + 63))
    # runs of pixels along a row: at most every second pixel begins one
    search.add("runs", 8 * (tier.n_pixels > 1), "px read", sizes.read)
    grow = growth_radius(tier)
    wide = 2 * (1024 + 2 * grow) if tier.grow_shape == "tophat" else 1024
    return search.add("strip", wide * bool(grow), "rows", sizes.read_shape[0])
