"""What comes in as an image, or beside one: taken apart into plain values, mask, unit and errors, in this one place.

All functions see plain numpy or dask arrays alone. Whatever an array of another kind says of its pixels is used, or
refused: nothing is dropped.
"""

from __future__ import annotations

import sys
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.containers import filled, float_dtype, kind_of, lazily_peeled, peeled, read_array, with_pixels
from tiledsky.errors import InputError, MaskTypeError, ParameterError
from tiledsky.geometry import Pair
from tiledsky.overlap import is_dask_array

#: Power of the image's unit that the values of an NDData uncertainty are in, by its type.
_POWERS = {"std": 1, "var": 2, "ivar": -2}


def as_float(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the pixels in native byte order as `float_dtype` says, without a copy where they are so already."""
    return np.ascontiguousarray(pixels, dtype=float_dtype(pixels.dtype))


@dataclass(frozen=True, eq=False)
class Image:
    """An image, or a plane beside one, taken apart.

    Attributes
    ----------
    pixels : ndarray or dask.array.Array, (ny, nx)
        Plain values; for `taken_apart` with ``sliced`` anything that gives arrays when sliced.
    hidden : array of bool of the same kind, or None
        True = masked.
    unit : `astropy.units.UnitBase` or None
    uncertainty : `astropy.nddata.NDUncertainty` or None
    name : str
        For messages.
    came : `xarray.DataArray`, `astropy.nddata.CCDData` or None
        What the image was taken out of, if planes of its grid go back into one of the kind.
    """

    pixels: Any
    hidden: Any = None
    unit: Any = None
    uncertainty: Any = None
    name: str = "image"
    came: Any = None

    @property
    def shape(self) -> Pair:
        """Rows and columns."""
        return tuple(self.pixels.shape)

    def blanked(self) -> Any:
        """Pixels, NaN where they are masked: floats then (`float_dtype`), else of the type that came."""
        return filled(self.pixels, self.hidden, None)

    def part(self, where: Any, *, fill: int | None = None) -> NDArray[Any]:
        """Read the pixels of a slice, ``fill`` (default: NaN) where they are masked."""
        hidden = None if self.hidden is None else np.asarray(self.hidden[where])
        return np.asarray(filled(np.asarray(self.pixels[where]), hidden, fill))

    def in_unit(self, values: Any) -> Any:
        """Give numbers the unit of the image, if it has one."""
        return values if self.unit is None else values << self.unit

    def like(self, plane: Any, name: str, *, unit: bool = True, hidden: bool = False) -> Any:
        """Give a plane of this image's grid the unit and the coordinates of the image.

        Parameters
        ----------
        plane : array, (ny, nx)
            Plain numbers, numpy or dask.
        name : str
            Of a DataArray.
        unit : bool
            The plane is in the image's unit; False: it has none.
        hidden : bool
            The image's mask and uncertainty hold for the plane too.

        Returns
        -------
        array, Quantity, `xarray.DataArray` or `astropy.nddata.CCDData`
            A DataArray (with dimensions, coordinates and the attribute ``units``) or a CCDData (with WCS, if the plane
            has a unit) where the image came as one, of which ``hidden`` adds the mask, uncertainty and header.
        """
        came = self.came
        if isinstance(came, kind_of("astropy.nddata", "CCDData")):
            if not unit:
                return plane
            beside = {"mask": came.mask, "uncertainty": copy(came.uncertainty), "meta": came.meta} if hidden else {}
            return sys.modules["astropy.nddata"].CCDData(plane, unit=self.unit, wcs=came.wcs, **beside)
        values = self.in_unit(plane) if unit else plane
        if came is None:
            return values
        units = {"units": came.attrs["units"]} if unit and "units" in came.attrs else {}
        return type(came)(values, coords=came.coords, dims=came.dims, name=name, attrs=units)

    def mask(self, value: Any, name: str = "mask", *, strict: bool = False) -> Any:
        """Take a mask of this image apart: bool, True where it is not zero, and where it is masked itself.

        None stays None. Numpy or dask, as it came. ``strict``: MaskTypeError where it is not bool already.
        """
        if value is None or value is np.ma.nomask:
            return None
        plane = self._beside(value, name, kinds=None if strict else "biufO", power=0)
        if strict and plane.pixels.dtype != bool:
            raise MaskTypeError(
                f"{name} must be a boolean array, not of {plane.pixels.dtype}, whose values are ambiguous; pass "
                f"{name} != 0"
            )
        marked = plane.pixels if plane.pixels.dtype == bool else plane.pixels.astype(bool)
        return marked if plane.hidden is None else marked | plane.hidden

    def plane(self, value: Any, name: str, *, power: int | None, fill: int | None = None, factor: bool = False) -> Any:
        """Take a plane beside this image apart.

        Parameters
        ----------
        value : array_like, `dask.array.Array`, `astropy.nddata.NDData`, ... or None
            As `taken_apart` takes them. None stays None.
        name : str
            For messages.
        power : int or None
            Of the image's unit, in which the plane must be if it has one; None: any.
        fill : int, optional
            Value where the plane is masked; default NaN.
        factor : bool
            The plane is right up to a factor, and may have no dimension too.

        Returns
        -------
        ndarray or dask.array.Array, (ny, nx)
        """
        if value is None:
            return None
        plane = self._beside(value, name, kinds="biuf", power=power, factor=factor)
        return filled(plane.pixels, plane.hidden, fill)

    def flags(self, value: Any, name: str = "dq") -> Any:
        """Take a plane of flags apart; a pixel that is masked in it has all of them."""
        if value is None:
            return None
        plane = self._beside(value, name, kinds="biuf", power=0)
        fill = None if plane.pixels.dtype.kind == "f" else np.invert(np.zeros((), plane.pixels.dtype))
        return filled(plane.pixels, plane.hidden, fill)

    def number(self, value: Any, name: str) -> Any:
        """Return a number that is in the unit of the image, without it."""
        if isinstance(value, kind_of("astropy.units", "Quantity")):
            self._check_unit(name, value.unit, power=1)
            return value.value
        return value

    def error(self) -> Any:
        """Return the uncertainty of an NDData as standard deviations, in the image's unit; None without one."""
        uncertainty = self.uncertainty
        if uncertainty is None or uncertainty.array is None:
            return None
        power = _POWERS.get(uncertainty.uncertainty_type)
        if power is None:
            raise InputError(
                f"the uncertainty of {self.name} is of the type {uncertainty.uncertainty_type!r}, which does not "
                "give the size of the noise; make it a StdDevUncertainty, a VarianceUncertainty or an "
                "InverseVariance"
            )
        self._check_unit("uncertainty", uncertainty.unit, power=power)
        values = self.plane(uncertainty.array, "uncertainty", power=power)
        if power == 1:
            return values
        dtype = float_dtype(values.dtype)
        if is_dask_array(values):
            return values.map_blocks(_deviations, power=power, dtype=dtype, meta=np.empty((0, 0), dtype))
        return _deviations(values, power=power)

    def beside(self, value: Any, name: str, *, power: int | None, factor: bool = False) -> Image:
        """Take a plane apart as `plane` does, but leave what can be sliced where it is; see `part`."""
        return self._beside(value, name, kinds="biuf", power=power, factor=factor, sliced=True)

    def _beside(
        self, value: Any, name: str, *, kinds: str | None, power: int | None, factor: bool = False, sliced: bool = False
    ) -> Image:
        plane = _apart(value, name, sliced=sliced)
        if kinds is not None and plane.pixels.dtype.kind not in kinds:
            raise InputError(f"{name} is of type {plane.pixels.dtype}, which holds no numbers; give integers or floats")
        _check_shape(name, plane.shape, self.name, self.shape)
        if power is not None:
            self._check_unit(name, plane.unit, power=power, factor=factor)
        return plane

    def _check_unit(self, name: str, unit: Any, *, power: int, factor: bool = False) -> None:
        if unit is None or (factor and not str(unit)):
            return
        if self.unit is None or power == 0:
            wanted = unit**0
        elif power == 1:
            wanted = self.unit
        else:  # magnitudes have no powers
            wanted = None if hasattr(self.unit, "physical_unit") else self.unit**power
        if unit != wanted:
            own = "has no unit" if self.unit is None else f"is {_words(self.unit)}"
            change = f"convert it to {wanted}" if wanted is not None and str(wanted) else "pass its values alone"
            raise InputError(f"{name} is {_words(unit)} and {self.name} {own}, so they cannot be combined; {change}")


def taken_apart(value: Any, name: str = "image", *, sliced: bool = False) -> Image:
    """Take an image apart.

    Parameters
    ----------
    value : array_like, (ny, nx)
        numpy and dask arrays, masked arrays of numpy, dask and astropy (`astropy.utils.masked.Masked`),
        `astropy.units.Quantity`, `astropy.nddata.NDData` and CCDData (their flags are not looked at), xarray's
        DataArray (in the order y, x), lists of numbers, and what reads as an array when sliced (Zarr, HDF5). Integers
        or floats of any size and byte order.
    name : str
        For messages.
    sliced : bool
        Leave what can be sliced where it is.

    Returns
    -------
    Image
        The pixels of a dask array stay lazy; its chunks without pixels are gone.

    Raises
    ------
    InputError, ParameterError
        No array; not of two axes; no pixels; no numbers; dask arrays with chunks of unknown size or with a unit.
    """
    image = _apart(value, name, sliced=sliced)
    if len(image.shape) != 2:
        raise ParameterError(
            f"{name} has {len(image.shape)} axes, and tiledsky works on 2-D images; pass one plane (ny, nx)"
        )
    if 0 in image.shape:
        raise InputError(f"{name} has shape {image.shape}, so there are no pixels; pass an image of positive shape")
    float_dtype(image.pixels.dtype)
    return image


def same_kind(plane: Any, image: Any) -> Any:
    """Return a plane as a numpy array for a numpy image, and lazy in the image's chunks for a dask image."""
    if plane is None:
        return None
    if not is_dask_array(image):
        return np.asarray(plane)
    if is_dask_array(plane):
        return plane.rechunk(image.chunks)
    import dask.array as da

    return da.from_array(plane, chunks=image.chunks)


def _words(unit: Any) -> str:
    return f"in {unit}" if str(unit) else "without dimension"


def _apart(value: Any, name: str, *, sliced: bool = False) -> Image:
    """Take anything apart, of any shape and type."""
    uncertainty = hidden = unit = came = None
    if isinstance(value, kind_of("astropy.nddata", "NDData")):
        hidden, unit, uncertainty = value.mask, value.unit, value.uncertainty
        came = value if isinstance(value, kind_of("astropy.nddata", "CCDData")) else None
        value = value.data
    elif isinstance(value, kind_of("xarray", "DataArray")):
        value, came = value.data, value
    if is_dask_array(value):
        pixels, own, found = lazily_peeled(with_pixels(value, name), name)
        unit = found if unit is None else unit
        if unit is not None:
            raise InputError(
                f"{name} is lazy and in {unit}, which dask arrays cannot hold; pass its values alone, and its mask as "
                "mask if it has one"
            )
    else:
        value = read_array(value, name, sliced=sliced)
        pixels, own, found = peeled(value) if isinstance(value, np.ndarray) else (value, None, None)
        unit = found if unit is None else unit
    image = Image(pixels, own, unit, uncertainty, name)
    if hidden is not None and np.ndim(hidden) == 0:
        hidden = np.broadcast_to(np.asarray(hidden, bool), image.shape)
    hidden = same_kind(image.mask(hidden, f"mask of {name}"), pixels)
    both = own if hidden is None else hidden if own is None else own | hidden
    return Image(pixels, both, unit, uncertainty, name, came)


def _deviations(values: NDArray[Any], *, power: int) -> NDArray[Any]:
    """Return standard deviations for variances (2) or inverse variances (-2); NaN where these are negative."""
    with np.errstate(all="ignore"):
        deviations = np.sqrt(values.astype(float_dtype(values.dtype), copy=False))
        return deviations if power == 2 else 1 / deviations


def _check_shape(name: str, shape: tuple[int, ...], image: str, expected: Pair) -> None:
    if len(shape) != 2:
        raise InputError(
            f"{name} must be a 2D array, a value for every pixel, but has {len(shape)} axes; pass one plane"
        )
    if shape != expected:
        raise InputError(
            f"{name} {shape} and {image} {expected} differ in shape: {image} and {name} must have the same "
            "shape; give planes of one grid"
        )
