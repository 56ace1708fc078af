"""Samples of an image: their pixels, and what recipes make of them with the light of objects and without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiledsky.arrays.estimate import Sky, estimated
from tiledsky.diagnostics import measure
from tiledsky.diagnostics.advice import Trial, falls_from_cores
from tiledsky.diagnostics.windows import LEVELS, SERSIC, Profile
from tiledsky.errors import InputError
from tiledsky.geometry import Region, places
from tiledsky.io.source import Source
from tiledsky.kernels.objects.catalogue import inside
from tiledsky.nodata import without
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.planes import INVALID, SOURCES, base_mask
from tiledsky.recipe import Recipe

Planes = dict[str, NDArray[Any]]
Floats = NDArray[np.floating]

#: Pixels around a sample that recipes see and measures do not: at the border of an image a sky is worse.
MARGIN = 64
#: Share of a sample that has to be valid.
_VALID = 0.5
#: Places looked at for each sample that is wanted.
_LOOKS = 32
#: Half-light radius of a profile that is tried where nothing else says how large objects are: px, and of a sample.
_TRIED, _PART = 40.0, 0.125
#: Light counts as that of objects where it is above this many times the noise of a pixel.
_SEEN = 0.05
#: Points of a sample along an axis through which a polynomial of the whole image is fitted.
_POINTS = 6


class Found(NamedTuple):
    """A recipe's sky of a sample, and what the light of objects does to it.

    Attributes
    ----------
    sky : Sky
        Of the sample as it is; maps of the cut.
    without : ndarray
        Background without the light of objects that were found.
    with_probe : ndarray
        Background with the light of a profile that is tried.
    """

    sky: Sky
    without: Floats
    with_probe: Floats


@dataclass
class Sample:
    """Pixels of a sample and its margin.

    Attributes
    ----------
    region, cut : Region
        The sample; what was read.
    planes : dict of str to ndarray
        By name; the image is NaN where it has no data.
    objects : int
        How many were found.
    sizes : tuple of float
        Their half-light radii, px.
    filled : bool
        Whether it is mostly object (`tiledsky.diagnostics.advice.falls_from_cores`).
    mask, rms : ndarray, optional
        Mask and noise that all are measured with.
    light, covered : ndarray, optional
        Light of the objects that were found; which pixels they cover.
    whole : dict of str to ndarray
        Backgrounds of recipes with a polynomial of the whole image.
    """

    region: Region
    cut: Region
    planes: Planes
    sizes: tuple[float, ...] = ()
    filled: bool = False
    mask: Any = None
    rms: Any = None
    light: Any = None
    covered: Any = None
    whole: dict[str, Floats] = field(default_factory=dict)

    def sky(
        self, recipe: Recipe, header: Any, *, added: Floats | None = None, masked: NDArray[np.bool_] | None = None
    ) -> Sky:
        """Return what a recipe makes of the sample, with ``added`` light and more pixels ``masked``."""
        others = {name: plane for name, plane in self.planes.items() if name != "science"}
        science = self.planes["science"]
        if added is not None:
            science = (science + added).astype(science.dtype)
        if masked is not None:
            bits = np.asarray(others.get("source_mask", np.zeros(science.shape, np.uint8)))
            others["source_mask"] = bits | masked.astype(np.uint8) << 1
        return estimated(science, recipe, others, header=header)[0]

    def compared(self, skies: Mapping[str, Sky]) -> None:
        """Keep what all are measured with: a mask, a noise, and the light of objects that any recipe finds."""
        masks = [sky.mask for sky in skies.values()]
        tiers = [tier for tier in (mask & SOURCES != 0 for mask in masks) if tier.any()]
        both = np.bitwise_or.reduce(masks) & ~SOURCES  # invalid by the flags of any recipe; the user's mask
        found = np.mean(tiers, axis=0) >= 0.5 if tiers else np.zeros(both.shape, bool)
        catalogues = [sky for sky in skies.values() if sky.objects is not None and len(sky.objects)]
        for sky in catalogues[:1]:
            self.light, self.sizes = sky.object_light, tuple(sky.objects["half_light_radius"].tolist())
            self.covered = inside(sky.objects, 0, 0, self.cut.shape)
            found |= self.covered
        self.mask = both | found.astype(np.uint8) << 1
        self.rms = np.median([sky.background_rms for sky in skies.values()], axis=0)

    @property
    def noise(self) -> float:
        """Of a pixel."""
        return float(np.median(self.rms[self.mask & INVALID == 0]))

    def probe(self, keep: float | None) -> Floats:
        """Light of profiles of the size that is to be kept, or of a usual one: two kinds where there is room."""
        shape = self.cut.shape
        side = min(shape)
        size = min(_TRIED, _PART * side) if keep is None else keep
        apart = side / 4 if side >= 20 * size else 0.0
        middle = shape[0] / 2, shape[1] / 2
        light = np.zeros(shape)
        for sign, sersic in zip((-1, 1), SERSIC, strict=True) if apart else ((0, SERSIC[0]),):
            profile = Profile(middle[0] + sign * apart, middle[1] + sign * apart, size, LEVELS[0], sersic)
            light += profile.drawn(Region.whole(shape), self.noise)
        return light

    def trial(self, found: Found, background: Floats, light: Floats, *, counts: bool, stiff: Floats | None) -> Trial:
        """Measure a background.

        Parameters
        ----------
        found : Found
        background : ndarray, of the sample
        light : ndarray, of the cut
            Of objects, found or tried.
        counts : bool
            Whether what it changes is an error; else it is told as the share that is lost.
        stiff : ndarray, optional
            Of the sample: the background that counts as the sky, where the sample is mostly object.
        """
        inner = self.region.within(self.cut)
        image = self.planes["science"][inner] - (0 if self.light is None else self.light[inner])
        image = image.astype(self.planes["science"].dtype)
        measured = measure(image, background, self.mask[inner], rms=self.rms[inner])
        valid = self.mask[inner] & INVALID == 0
        deviation = _rms(found.sky.background_error[inner][valid])
        rise = (found.with_probe[inner] - found.without[inner]).astype(np.float64)
        seen = valid & (light[inner] > _SEEN * self.noise)
        lost = float(rise[seen].sum() / light[inner][seen].sum()) if seen.any() else np.nan
        changed = _rms(rise[valid]) if counts else 0.0
        if self.filled and stiff is not None:
            changed = _rms((background - stiff)[valid])
        return Trial(measured, deviation, changed, lost, self.filled and stiff is not None)

    def look(self, fine: Floats, stiff: Floats) -> None:
        """See whether what a fine background has more than a stiff one is the light of objects that nobody found."""
        inner = self.region.within(self.cut)
        rest = 0 if self.light is None else self.light[inner]
        image = np.where(self.mask[inner] & INVALID == 0, self.planes["science"][inner] - rest, np.nan)
        self.filled = falls_from_cores(image, fine[inner], stiff[inner], self.noise)


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.asarray(values, np.float64) ** 2)))


def of_whole_image(recipe: Recipe) -> bool:
    """Whether the result of a recipe is one polynomial of the whole image, which a sample does not show."""
    return interpolator_of(recipe.result.interpolator).of_whole_image


def through_all(recipe: Recipe, backgrounds: list[Floats], regions: list[Region]) -> list[Floats]:
    """Return the polynomial of the whole image that lies nearest to those of the samples, in each of these."""
    order = int(getattr(recipe.result.interpolator, "order", 0))
    top, left = min(r.y0 for r in regions), min(r.x0 for r in regions)
    span = max(max(r.y1 - top, r.x1 - left) for r in regions)

    def terms(region: Region, y: NDArray[Any], x: NDArray[Any]) -> list[NDArray[Any]]:
        down, across = (region.y0 + y - top) / span, (region.x0 + x - left) / span
        return [down**i * across**j for i in range(order + 1) for j in range(order + 1 - i)]

    rows, values = [], []
    for region, background in zip(regions, backgrounds, strict=True):
        y, x = (np.linspace(0, n - 1, _POINTS).astype(int) for n in region.shape)
        yy, xx = np.meshgrid(y, x, indexing="ij")
        rows.append(np.stack([np.broadcast_to(t, yy.shape).ravel() for t in terms(region, yy, xx)], axis=1))
        values.append(background[yy, xx].ravel().astype(np.float64))
    factors = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values))[0]
    made: list[NDArray[np.floating]] = []
    for region in regions:
        y, x = np.arange(region.shape[0])[:, None], np.arange(region.shape[1])
        surface = sum(f * t for f, t in zip(factors, terms(region, y, x), strict=True))
        made.append(np.broadcast_to(np.asarray(surface, np.float64), region.shape))
    return made


def samples_of(source: Source, count: int, size: int, bits: int | None) -> Iterator[Sample]:
    """Read samples of an image, spread evenly over what is valid.

    Raises
    ------
    InputError
        There are none.
    """
    opened = {name: plane.open() for name, plane in source.planes.items()}
    shape = source.shape
    sizes = min(size, shape[0]), min(size, shape[1])
    found = looked = 0
    for region in islice(places(shape, sizes), _LOOKS * count):
        looked += 1
        cut = region.grown((MARGIN, MARGIN), shape)
        planes = {name: plane.read(cut) for name, plane in opened.items()}
        planes["science"] = without(planes["science"], source.planes["science"].nodata)
        names = ("weight", "error", "dq", "coverage")
        known: Any = {name: planes[name][region.within(cut)] for name in names if name in planes}
        invalid = base_mask(planes["science"][region.within(cut)], dq_bits=bits, **known)
        if np.mean(invalid & INVALID == 0) >= _VALID:
            found += 1
            yield Sample(region, cut, planes)
        if found == count:
            break
    if not found:
        raise InputError(
            f"none of {looked} places of {sizes[0]} x {sizes[1]} px has half of its pixels valid, so there is "
            "no sample for the recipes; use a smaller --sample-size, or check weight and DQ planes"
        )
