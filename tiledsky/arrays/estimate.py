"""A whole recipe on numpy or dask arrays: the same functions on patches that a run's tile tasks call."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from tiledsky.containers import float_dtype
from tiledsky.errors import InputError, InputWarning
from tiledsky.images import Image, as_float, same_kind, taken_apart
from tiledsky.io.fits.wcs import for_image
from tiledsky.nodata import AUTO, Candidate, checked, empty, look, places, without
from tiledsky.operations.base import NO_HALO, footprint_offsets
from tiledsky.operations.nodes import Nodes
from tiledsky.operations.surface import surface_pixels
from tiledsky.overlap import Patch, blank, call, is_dask_array, map_patches
from tiledsky.planes import MASK_PLANES, SOURCES, base_mask, roots, uncovered
from tiledsky.recipe import FOOTPRINTS, Recipe, check_footprints, check_noise
from tiledsky.recipe.dq import dq_bits

#: Planes that tell what a number stands for: what they call invalid is not looked at for one that means no data.
_OF_NODATA = ("weight", "error", "coverage")


@dataclass
class Sky:
    """What a recipe makes of an image; arrays of the image's kind (numpy or dask), Quantities where it has a unit.

    The planes of an image that came as a DataArray or CCDData are of that kind too, with its coordinates.

    Attributes
    ----------
    background, background_rms : (ny, nx), float32 or float64
        The sky and the scatter of single pixels about it, in the image's unit.
    background_error : (ny, nx), float32 or float64
        Standard error of `background` by noise alone (`tiledsky.kernels.mesh.error`).
    mask : (ny, nx), uint8
        Bit 0 invalid, bits 1 to 6 the tiers of the mask step that the result uses, bit 7 the user's mask.
    subtracted : (ny, nx)
        Image minus background; NaN where the image is masked.
    meshes : dict of str to `tiledsky.operations.mesh.Mesh`
        By step name; `dask.delayed.Delayed` for dask input.
    nodata : float or None
        The number that meant no data; of "auto" for dask input `dask.delayed.Delayed`.
    objects : ndarray of `tiledsky.kernels.objects.catalogue.OBJECT`, or None
        Large objects that an objects step found, the brightest first; for dask input `dask.delayed.Delayed`; None
        without such a step.
    object_light : (ny, nx) or None
        Light of their models, where the recipe asks for it (``objects_plane``).
    footprints : ndarray of `tiledsky.kernels.footprints.terms.FOOTPRINT`, or None
        Constants of the exposures that a footprints step found, by number; for dask input `dask.delayed.Delayed`; None
        without such a step.
    footprint_offsets : (ny, nx) or None
        The mean of those of its exposures at each pixel, which is part of `background`.
    """

    background: Any
    background_rms: Any
    background_error: Any
    mask: Any
    subtracted: Any
    meshes: dict[str, Any] = field(default_factory=dict)
    nodata: Any = None
    objects: Any = None
    object_light: Any = None
    footprints: Any = None
    footprint_offsets: Any = None


def estimate_background(
    image: Any,
    recipe: Recipe | str,
    *,
    weight: Any = None,
    error: Any = None,
    variance: Any = None,
    dq: Any = None,
    coverage: Any = None,
    mask: Any = None,
    source_mask: Any = None,
    footprints: Any = None,
    footprint_labels: Any = None,
    nodata: float | str | None = None,
    header: Mapping[str, Any] | None = None,
) -> Sky:
    """Estimate the sky of an image by a recipe.

    Parameters
    ----------
    image : array_like or dask.array.Array, (ny, nx)
        Integers or floats, any unit: anything that `tiledsky.images.taken_apart` takes; not changed. NaN, infinite and
        masked pixels are invalid.
    recipe : Recipe or str
        A recipe, the name of a preset, or the path of a TOML file.
    weight : array, (ny, nx), optional
        Inverse variance up to a factor. Pixels whose weight is masked or not above 0 are invalid.
    error : array, (ny, nx), optional
        Standard deviation. Pixels whose error is masked, not finite or not above 0 are invalid. Default: the
        uncertainty of an NDData, if there is no weight either.
    variance : array, (ny, nx), optional
        Instead of ``error``, which is its square root.
    dq : array of integers, (ny, nx), optional
        Pixels with any of the recipe's ``dq_flags`` (default: any bit) are invalid; a masked one has all bits.
    coverage : array, (ny, nx), optional
        Pixels that are 0, NaN or masked are invalid, and have the recipe's ``fill_value`` in the result.
    mask : array, (ny, nx), optional
        Non-zero or masked = left out of all statistics; the sky is estimated there too.
    source_mask : array of uint8, (ny, nx), optional
        A mask plane made earlier, of this image or of another band: its sources (bits 1 to 6) are left out too.
    footprints : array of integers, (ny, nx) or (n, ny, nx), optional
        Bits of the exposures that each pixel is of, as drizzle makes them, for a recipe with a footprints step
        (`tiledsky.recipe.FootprintsStep`). A masked pixel is of none.
    footprint_labels : array of integers, (ny, nx), optional
        Instead: the number of the exposure or panel of each pixel; 0 or less: none.
    nodata : float or "auto", optional
        Pixels that are this number, in the type that the image is worked on in (float32 or float64), are as NaN, and
        have the recipe's ``fill_value`` in the result. "auto": the number that a look at the image finds, if any, in
        solid patches at the border or of at least 0.5% of the valid pixels (`tiledsky.nodata`); it is in
        ``Sky.nodata``.
    header : mapping, optional
        FITS header: the instrument whose names ``dq_flags`` may use, and the WCS for a ``keep`` in arcseconds.

    Returns
    -------
    Sky
        numpy arrays for numpy input, in its unit if it has one; for a dask image lazy dask arrays with its chunks; in
        DataArrays or CCDData (their mask plane plain) where the image came in one.

    Raises
    ------
    ParameterError, InputError
        A recipe that cannot work; no image; planes that differ in shape or unit; an image without a valid pixel (for
        dask arrays when computed).

    Warns
    -----
    InputWarning
        A number in solid patches counts as sky, and probably means no data (for dask arrays when computed).

    Notes
    -----
    Halo and memory: the largest of the steps', see the builders. A dask graph holds the pixels of a step until the next
    has used them; for images larger than memory use `tiledsky.run`, which keeps them on disk. Both give the same bits.
    """
    given = taken_apart(image)
    image = given.blanked()
    planes = {
        "weight": given.plane(weight, "weight", power=-2, factor=True),
        "error": _errors(given, error, variance, weight is not None),
        "dq": given.flags(dq),
        "coverage": given.plane(coverage, "coverage", power=None, fill=0),
        "user_mask": given.mask(mask),
        "source_mask": given.plane(source_mask, "source_mask", power=0, fill=int(SOURCES)),
        **footprint_planes(given, footprints, footprint_labels),
    }
    sky, found = estimated(image, recipe, planes, nodata=nodata, header=header, told=True)
    if isinstance(found, Candidate):
        _warn(found, stacklevel=3)
    return _like(sky, given)


def _errors(image: Image, error: Any, variance: Any, weighted: bool) -> Any:
    """Return standard deviations: those given, of variances, or of an NDData if nothing else says how noisy it is."""
    if variance is not None:
        if error is not None:
            raise InputError("error and variance both give the noise of a pixel; give only one of them")
        plane = image.plane(variance, "variance", power=2)
        return map_patches(_root_patch, plane, halo=(0, 0), dtype=float_dtype(plane.dtype), name="error")
    return image.plane(error, "error", power=1) if error is not None or weighted else image.error()


def estimated(
    image: Any,
    recipe: Recipe | str,
    planes: Mapping[str, Any],
    *,
    nodata: float | str | None = None,
    header: Mapping[str, Any] | None = None,
    told: bool = False,
) -> tuple[Sky, Any]:
    """Return what `estimate_background` does, and with ``told`` its `Candidate` (lazy for a dask array).

    ``image`` and ``planes``, by their names in `tiledsky.planes.base_mask`, are plain numpy or dask arrays of one grid;
    warnings are those of lazy looks alone.
    """
    recipe = for_image(recipe, header)
    image = image.astype(float_dtype(image.dtype)) if is_dask_array(image) else as_float(image)
    planes = {name: same_kind(plane, image) for name, plane in planes.items() if plane is not None}
    coverage = planes.get("coverage")
    check_noise(recipe, planes)
    check_footprints(recipe, planes)
    bits = dq_bits(recipe.dq_flags, header=header) if "dq" in planes else None
    nodata = checked(nodata, image.dtype)
    if nodata == AUTO:
        nodata = call(_nodata_of, _look(image, _base(image, {n: planes[n] for n in _OF_NODATA if n in planes})))
    whole, image = image, _without(image, nodata)
    base = _base(image, planes, dq_bits=bits)
    if isinstance(base, np.ndarray) and base.all():
        raise InputError("all pixels are NaN, no data, of zero weight, flagged or masked: there is no sky to measure")
    found = _look(image, base) if told else None
    given = {"science": image, "base": base, **{name: planes.get(name) for name in ("weight", "error", *FOOTPRINTS)}}
    nodes = _Nodes(recipe, given, found=found)
    nodes.run()
    outside = None
    if recipe.uncovered == "invalid" or coverage is not None or nodata is not None:
        func = partial(_uncovered_patch, where=recipe.uncovered)
        pixels = None if nodata is None else whole
        outside = map_patches(func, base, coverage, pixels, halo=NO_HALO, dtype=bool, name="uncovered", nodata=nodata)
    fill = float(recipe.fill_value)
    surfaces = nodes.values[nodes.result]
    background, rms, deviation = (
        surface_pixels(blank(image), surface, dtype=image.dtype, name=name, coverage=outside, fill_value=fill)
        for surface, name in zip(surfaces, ("background", "background_rms", "background_error"), strict=True)
    )
    steps, offsets = nodes.operations.footprints, None
    if steps is not None:
        offsets = nodes.plane(footprint_offsets(str(steps.step)))
        background, offsets = (
            map_patches(_outside_patch, first, second, outside, halo=NO_HALO, dtype=image.dtype, name=name, fill=fill)
            for first, second, name in ((background, offsets, "with_steps"), (offsets, None, "footprint_offsets"))
        )
    subtract = partial(_subtracted_patch, fill_value=fill)
    catalogue = nodes.operations.objects
    chosen = recipe.result_mask
    sky = Sky(
        background=background,
        background_rms=rms,
        background_error=deviation,
        mask=base if chosen is None else nodes.nodes[chosen.name],
        subtracted=map_patches(
            subtract, image, background, outside, halo=NO_HALO, dtype=image.dtype, name="subtracted"
        ),
        meshes=nodes.meshes,
        nodata=nodata,
        objects=None if catalogue is None else nodes.values[catalogue.name],
        object_light=nodes.plane(catalogue.light).astype(image.dtype) if catalogue and recipe.objects_plane else None,
        footprints=None if steps is None else nodes.values[steps.name],
        footprint_offsets=offsets,
    )
    return sky, found


def _like(sky: Sky, image: Image) -> Sky:
    """Return a sky whose maps have the unit and the coordinates of the image."""
    parts = ("background", "rms", "error")
    names = ("background", "background_rms", "background_error", "object_light", "footprint_offsets")
    maps = {name: image.like(getattr(sky, name), name) for name in names if getattr(sky, name) is not None}
    in_unit = image.unit is not None  # meshes of lazy images are not there yet, and have no units
    return replace(
        sky,
        **maps,
        mask=image.like(sky.mask, "mask", unit=False),
        subtracted=image.like(sky.subtracted, "subtracted", hidden=True),
        meshes={
            name: replace(mesh, **{part: image.in_unit(getattr(mesh, part)) for part in parts}) if in_unit else mesh
            for name, mesh in sky.meshes.items()
        },
    )


def footprint_planes(image: Image, bits: Any, labels: Any) -> dict[str, Any]:
    """Return the planes of footprints of an image by name; a masked pixel is of none."""
    if bits is not None and getattr(bits, "ndim", 2) == 3:
        if not 1 <= len(bits) < len(FOOTPRINTS):
            raise InputError(
                f"footprints has {len(bits)} planes, and tiledsky takes 1 to {len(FOOTPRINTS) - 1} of bits"
            )
        given = {name: (plane, f"footprints[{k}]") for k, (name, plane) in enumerate(zip(FOOTPRINTS[1:], bits))}  # noqa: B905
    else:
        given = {FOOTPRINTS[1]: (bits, "footprints")}
    planes = {}
    for name, (value, called) in {**given, FOOTPRINTS[0]: (labels, "footprint_labels")}.items():
        planes[name] = image.plane(value, called, power=0, fill=0)
        if planes[name] is not None and planes[name].dtype.kind not in "iu":
            raise InputError(f"{called} is of type {planes[name].dtype}, which is no footprint; give integers")
    return planes


def _base(image: Any, planes: Mapping[str, Any], *, dq_bits: int | None = None) -> Any:
    planes = {name: plane for name, plane in planes.items() if name in MASK_PLANES}
    func = partial(_base_patch, names=tuple(planes), dq_bits=dq_bits)
    return map_patches(func, image, *planes.values(), halo=NO_HALO, dtype=np.uint8, name="base_mask")


def _without(image: Any, nodata: Any) -> Any:
    """Return the image, NaN where it means no data."""
    if nodata is None:
        return image
    return map_patches(_without_patch, image, halo=(0, 0), dtype=image.dtype, name="without_nodata", nodata=nodata)


def _look(image: Any, base: Any) -> Any:
    """Look at the pixels of an image that have no bit; lazy for a dask array."""
    regions = places(image.shape)
    patches = [np.where(base[r.slices] == 0, image[r.slices], np.nan) for r in regions]
    return call(look, patches, regions, image.shape)


def _nodata_of(found: Candidate) -> float | None:
    return found.nodata


def _warn(found: Candidate, stacklevel: int = 2) -> None:
    """Warn of numbers that count as sky; of an image without noise the caller knows."""
    if found.nodata is not None:
        warnings.warn(str(found.words("the image")), InputWarning, stacklevel=stacklevel)


def _warned(mesh: Any, found: Candidate) -> Any:
    _warn(found)
    return mesh


class _Nodes(Nodes):
    """Planes and values of a recipe; ``found``: a look at the image, which the result warns of if it is lazy."""

    def __init__(self, recipe: Recipe, planes: Mapping[str, Any], *, found: Any) -> None:
        super().__init__(recipe, planes)
        self._found = None if isinstance(found, Candidate) else found

    def checked(self, value: Any, name: str) -> Any:
        """Return a value, which warns when it is made if it is the result's."""
        return call(_warned, value, self._found) if name == self.result and self._found is not None else value


def _base_patch(image: Patch, *planes: Patch, names: tuple[str, ...], dq_bits: int | None) -> Patch:
    others = {name: plane.data for name, plane in zip(names, planes, strict=True)}
    return image.replaced(base_mask(image.data, **others, dq_bits=dq_bits))


def _without_patch(image: Patch, *, nodata: float | None) -> Patch:
    return image.replaced(without(image.data, nodata))


def _root_patch(variance: Patch) -> Patch:
    return variance.replaced(roots(variance.data))


def _uncovered_patch(
    base: Patch,
    coverage: Patch | None,
    image: Patch | None,
    *,
    where: Literal["coverage", "invalid"],
    nodata: float | None,
) -> Patch:
    bare = None if nodata is None or image is None else empty(image.data, nodata)
    outside = uncovered(base.data, None if coverage is None else coverage.data, where=where, empty=bare)
    return base.replaced(np.zeros(base.data.shape, bool) if outside is None else outside)


def _outside_patch(first: Patch, second: Patch | None, outside: Patch | None, *, fill: float) -> Patch:
    pixels = first.data.copy() if second is None else first.data + second.data
    if outside is not None:
        pixels[outside.data] = fill
    return first.replaced(pixels)


def _subtracted_patch(image: Patch, background: Patch, outside: Patch | None, *, fill_value: float) -> Patch:
    pixels = image.data - background.data
    if outside is not None:
        pixels[outside.data] = fill_value
    return image.replaced(pixels)
