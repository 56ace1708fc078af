"""All measures on arrays that are at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Pixels, needed_region
from tiledsky.diagnostics.patches import Floats
from tiledsky.diagnostics.protocol import ImageFacts, ToSky
from tiledsky.diagnostics.summary import Collector, summarise
from tiledsky.diagnostics.verdict import judge
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair, Region, TileGrid
from tiledsky.images import Image, taken_apart
from tiledsky.planes import base_mask
from tiledsky.recipe import Checks
from tiledsky.statistics import global_statistics

_TILE = 1024
#: Bit of a source in a mask.
_SOURCE = 2


def measure(
    image: Any,
    background: Any,
    mask: Any = None,
    *,
    rms: Any = None,
    error: Any = None,
    weight: Any = None,
    truth: Any = None,
    catalogue: Any = None,
    objects: NDArray[np.void] | None = None,
    box: int = 3,
    tile: Pair | None = None,
    to_sky: ToSky | None = None,
    checks: Checks | None = None,
) -> dict[str, Any]:
    """Measure how good a background is, and judge it.

    Parameters
    ----------
    image, background : array_like, (ny, nx)
        Anything that gives numpy arrays when sliced (Zarr arrays too), or that `tiledsky.images.taken_apart` takes.
        NaN, infinite and masked pixels are left out.
    mask : array_like, (ny, nx), optional
        A mask plane (uint8: bit 0 invalid, others sources), or bool: True where a source is masked. Where the mask is
        masked itself a pixel counts as a source.
    rms : array_like, (ny, nx), optional
        Noise of a pixel. Default: one number, the normalised median absolute deviation of the residual.
    error, weight : array_like, (ny, nx), optional
        Expected noise, or inverse variance up to a factor; pixels where they are masked or not above 0 are left out.
        Default of both: the uncertainty of an NDData.
    truth : array_like, (ny, nx), optional
        The sky as it is.
    catalogue : array_like, (n, 4), optional
        Sources: y, x [px], flux [image unit], size [px]; default: peaks of the residual.
    objects : ndarray of OBJECT, optional
        Large objects that a recipe knows (``Sky.objects``), beside those that are found.
    box : int
        Side of the box at each source, odd.
    tile : (int, int), optional
        Tiles whose edges are looked at for seams. No other number depends on it.
    to_sky : callable, optional
        Sky coordinates of pixels, ``f(x, y) -> (ra, dec)``.
    checks : Checks, optional

    Returns
    -------
    dict
        Plain data as in the file ``run/diagnostics.json`` of a run: version, image, measures, verdict. Numbers are in
        the unit of the image or in that of its noise.

    Raises
    ------
    InputError, ParameterError
        No images; arrays of different shapes or units; a box that is not odd.

    Notes
    -----
    Memory: about 60 bytes a pixel of a tile of 1024 pixels and its halo; without ``rms`` also
    the residual of the whole image.
    """
    given = taken_apart(image, sliced=True)
    shape = given.shape
    if error is None and weight is None:
        error = given.error()
    options = {"mask": (mask, 0), "rms": (rms, 1), "error": (error, 1), "weight": (weight, -2), "truth": (truth, 1)}
    planes: dict[str, Image | None] = {"background": given.beside(background, "background", power=1)}
    for name, (value, power) in options.items():
        plane = None if value is None else given.beside(value, name, power=power, factor=name == "weight")
        planes[name] = plane
    mask_plane = planes["mask"]
    if mask_plane is not None and mask_plane.pixels.dtype.kind not in "biu":
        raise InputError(f"mask is of type {mask_plane.pixels.dtype}, which has no bits; give bool or uint8")
    if box < 1 or box % 2 == 0:
        raise ParameterError(f"box {box} has no central pixel, so it has no centre on a source; use an odd box")
    noise = _noise(given, planes) if rms is None else None
    sources = None if catalogue is None else _catalogue(catalogue, noise, planes["rms"])
    collector = Collector(shape)
    grid = TileGrid(shape, tile or (min(_TILE, shape[0]), min(_TILE, shape[1])))
    for region in map(grid.region, grid):
        pixels = replace(_pixels(given, planes, needed_region(region, shape), noise), catalogue=sources, box=box)
        written = pixels.background[region.within(pixels.region)]
        collector.add(region, summarise(pixels, region, written))
    source = "error" if error is not None else "weight" if weight is not None else None
    facts = ImageFacts(
        grid.tile, source=source, catalogue=catalogue is not None, box=box, to_sky=to_sky, objects=objects
    )
    found = collector.finalize(facts)
    return {**found, "verdict": judge(found, checks)}


def _noise(image: Image, planes: dict[str, Image | None]) -> float:
    mask, background = planes["mask"], planes["background"]
    assert background is not None  # it is no option
    left_out = None if mask is None else mask.part(..., fill=_SOURCE) != 0
    residual = image.part(...) - background.part(...)
    return float(global_statistics(residual.astype(np.float32), mask=left_out).mad_std)


def _catalogue(catalogue: Any, noise: float | None, rms: Image | None) -> Floats:
    rows = np.array(catalogue, np.float64).reshape(-1, 4)
    scale = noise if rms is None else float(np.nanmedian(rms.part(...)))
    assert scale is not None  # without an rms plane it was measured
    rows[:, 2] /= scale
    return rows


def _pixels(image: Image, planes: dict[str, Image | None], region: Region, noise: float | None) -> Pixels:
    def read(name: str) -> NDArray[Any] | None:
        plane = planes[name]
        return None if plane is None else plane.part(region.slices, fill=_SOURCE if name == "mask" else None)

    science, background = image.part(region.slices), read("background")
    assert background is not None  # it is no option
    if science.dtype.kind != "f":
        science = science.astype(np.float64)
    weight, error, mask, rms = read("weight"), read("error"), read("mask"), read("rms")
    bits = base_mask(science, weight=weight, error=error)
    if mask is not None:
        if mask.size and not 0 <= int(mask.max()) < 256:
            raise InputError(f"mask has the value {mask.max()}, beyond the eight bits of a mask plane; pass mask != 0")
        bits |= mask.astype(np.uint8) << 1 if mask.dtype == np.bool_ else mask.astype(np.uint8)
    return Pixels(
        science=science,
        background=background,
        rms=np.full(science.shape, noise, np.float32) if rms is None else rms,
        bits=bits,
        region=region,
        shape=image.shape,
        expected=expected_noise(error, weight),
        truth=read("truth"),
    )


def expected_noise(error: NDArray[Any] | None, weight: NDArray[Any] | None) -> NDArray[Any] | None:
    """Noise of a pixel as an error or weight plane says, up to a factor for a weight; None without both."""
    if error is not None:
        return error
    if weight is None:
        return None
    with np.errstate(all="ignore"):
        return 1 / np.sqrt(weight)
