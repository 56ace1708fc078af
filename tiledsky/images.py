"""What comes in as an image, or beside one: taken apart into plain values, mask, unit and errors, in this one place.

All functions see plain numpy or dask arrays alone. Whatever an array of another kind says of its pixels is used, or
refused: nothing is dropped.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, MaskTypeError, ParameterError
from tiledsky.geometry import Pair
from tiledsky.overlap import is_dask_array

#: Power of the image's unit that the values of an NDData uncertainty are in, by its type.
_POWERS = {"std": 1, "var": 2, "ivar": -2}


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the float type to work in: float32 where it holds every value of ``dtype``, else float64."""
    given = np.dtype(dtype)
    if given.kind not in "biuf":
        raise ParameterError(f"an image of {given} has no sky; give integers or floats")
    return np.dtype(np.float32 if given.itemsize < (8 if given.kind == "f" else 4) else np.float64)


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
    """

    pixels: Any
    hidden: Any = None
    unit: Any = None
    uncertainty: Any = None
    name: str = "image"

    @property
    def shape(self) -> Pair:
        """Rows and columns."""
        return tuple(self.pixels.shape)

    def blanked(self) -> Any:
        """Pixels, NaN where they are masked: floats then (`float_dtype`), else of the type that came."""
        return _filled(self.pixels, self.hidden, None)

    def part(self, where: Any, *, fill: int | None = None) -> NDArray[Any]:
        """Read the pixels of a slice, ``fill`` (default: NaN) where they are masked."""
        hidden = None if self.hidden is None else np.asarray(self.hidden[where])
        return np.asarray(_filled(np.asarray(self.pixels[where]), hidden, fill))

    def in_unit(self, values: Any) -> Any:
        """Give numbers the unit of the image, if it has one."""
        return values if self.unit is None else values << self.unit

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
        return _filled(plane.pixels, plane.hidden, fill)

    def flags(self, value: Any, name: str = "dq") -> Any:
        """Take a plane of flags apart; a pixel that is masked in it has all of them."""
        if value is None:
            return None
        plane = self._beside(value, name, kinds="biuf", power=0)
        fill = None if plane.pixels.dtype.kind == "f" else np.invert(np.zeros((), plane.pixels.dtype))
        return _filled(plane.pixels, plane.hidden, fill)

    def number(self, value: Any, name: str) -> Any:
        """Return a number that is in the unit of the image, without it."""
        if isinstance(value, _kind("astropy.units", "Quantity")):
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
        DataArray (its values alone), lists of numbers, and what reads as an array when sliced (Zarr, HDF5). Integers
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


def _kind(module: str, name: str) -> Any:
    """Class of a module, for isinstance; nothing is of it while the module is not loaded, which takes long."""
    return getattr(sys.modules.get(module), name, ())


def _apart(value: Any, name: str, *, sliced: bool = False) -> Image:
    """Take anything apart, of any shape and type."""
    uncertainty = hidden = unit = None
    if isinstance(value, _kind("astropy.nddata", "NDData")):
        hidden, unit, uncertainty = value.mask, value.unit, value.uncertainty
        value = value.data
    elif isinstance(value, _kind("xarray", "DataArray")):
        value = value.data
    if is_dask_array(value):
        pixels, own, found = _lazy(_with_pixels(value, name), name)
        unit = found if unit is None else unit
        if unit is not None:
            raise InputError(
                f"{name} is lazy and in {unit}, which dask arrays cannot hold; pass its values alone, and its mask as "
                "mask if it has one"
            )
    else:
        value = _array(value, name, sliced=sliced)
        pixels, own, found = _peeled(value) if isinstance(value, np.ndarray) else (value, None, None)
        unit = found if unit is None else unit
    image = Image(pixels, own, unit, uncertainty, name)
    if hidden is not None and np.ndim(hidden) == 0:
        hidden = np.broadcast_to(np.asarray(hidden, bool), image.shape)
    hidden = same_kind(image.mask(hidden, f"mask of {name}"), pixels)
    both = own if hidden is None else hidden if own is None else own | hidden
    return Image(pixels, both, unit, uncertainty, name)


def _array(value: Any, name: str, *, sliced: bool) -> Any:
    """Return an array of numpy or of a subclass; with ``sliced`` anything that is read by slices."""
    if isinstance(value, np.ndarray):
        return value
    module, kind = type(value).__module__.partition(".")[0], type(value).__name__
    kind = kind if module == "builtins" else f"{module}.{kind}"
    told = [what for what in ("mask", "unit", "units") if getattr(value, what, None) is not None]
    rows = isinstance(value, list | tuple)
    if rows:
        told = [what for what in ("mask", "unit", "units") if any(hasattr(row, what) for row in value)]
    elif not all(hasattr(value, what) for what in ("shape", "dtype", "__getitem__")) or _is_lazy(value):
        raise InputError(f"{name} is a {kind}, not an array, so it has no pixels to read; pass a numpy or dask array")
    if told:
        raise InputError(
            f"{name} is a {kind} with a {told[0]}, which would be lost; pass a numpy array, numpy.ma.MaskedArray or "
            "astropy Quantity"
        )
    lazy = sliced and not rows
    try:
        where = tuple(slice(1) for _ in value.shape) if lazy else ...
        array = np.asanyarray(value if rows else value[where])
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name} is a {kind} that is not an array ({reason}); pass a numpy or dask array") from None
    if not rows and array.ndim != len(value.shape):
        raise InputError(f"{name} is a {kind}, which numpy cannot read; pass a numpy or dask array")
    return value if lazy else array


def _is_lazy(value: Any) -> bool:
    """Whether something is to be computed by dask, and so has any attribute that it is asked for."""
    return hasattr(type(value), "__dask_graph__")


def _peeled(value: NDArray[Any]) -> tuple[NDArray[Any], Any, Any]:
    """Return values, mask and unit of an array of numpy or of a subclass; None for what it does not have."""
    hidden, unit = None, getattr(value, "unit", None)
    if isinstance(value, np.ma.MaskedArray):
        hidden, value = np.ma.getmaskarray(value), np.ma.getdata(value)
    elif isinstance(value, _kind("astropy.utils.masked", "Masked")):
        hidden, value = np.asarray(value.mask), value.unmasked
    return np.asarray(value), hidden, getattr(value, "unit", None) if unit is None else unit


def _with_pixels(value: Any, name: str) -> Any:
    """Return a dask array without its empty chunks."""
    if any(math.isnan(size) for sizes in value.chunks for size in sizes):
        raise InputError(
            f"{name} is a dask array with chunks of unknown size, so the positions of its pixels are unknown; "
            "call compute_chunk_sizes() on it first"
        )
    if 0 in value.shape or not any(0 in sizes for sizes in value.chunks):
        return value
    return value.rechunk(tuple(tuple(size for size in sizes if size) for sizes in value.chunks))


def _lazy(value: Any, name: str) -> tuple[Any, Any, Any]:
    """Return values, mask and unit of a dask array, the first two lazily."""
    from dask.array.utils import meta_from_array

    meta = meta_from_array(value)
    if not isinstance(meta, np.ndarray):
        raise InputError(
            f"{name} is a dask array of {type(meta).__name__} chunks, which have no numpy values; convert them with "
            "map_blocks"
        )
    _, hidden, unit = _peeled(meta)
    masked = hidden is not None
    empty = np.empty((0,) * value.ndim, value.dtype)
    pixels = value.map_blocks(_chunk_values, masked=masked, named=name, dtype=value.dtype, meta=empty)
    if not masked:
        return pixels, None, unit
    return pixels, value.map_blocks(_chunk_mask, dtype=bool, meta=np.empty((0,) * value.ndim, bool)), unit


def _chunk_values(chunk: Any, *, masked: bool, named: str) -> NDArray[Any]:
    """Return the plain values of a chunk, which may be of another kind than the dask array says."""
    values, hidden, unit = _peeled(np.asanyarray(chunk))
    if hidden is not None and not masked and values.dtype.kind != "f":
        raise InputError(
            f"a chunk of {named} is a masked array of {values.dtype}, and the dask array does not declare it; "
            "make it with a masked meta"
        )
    if unit is not None:
        raise InputError(
            f"a chunk of {named} is in {unit}, which the dask array does not declare; pass values without a unit"
        )
    return values if masked else np.asarray(_filled(values, hidden, None))


def _chunk_mask(chunk: Any) -> NDArray[np.bool_]:
    hidden = _peeled(np.asanyarray(chunk))[1]
    return np.zeros(chunk.shape, bool) if hidden is None else hidden


def _filled(values: Any, hidden: Any, fill: Any) -> Any:
    """Put a value of their type (None: NaN, as floats) where values are hidden; none hidden: the values as they are."""
    if hidden is None:
        return values
    dtype = float_dtype(values.dtype) if fill is None else values.dtype
    if is_dask_array(values):
        return values.map_blocks(_filled, hidden, fill=fill, dtype=dtype, meta=np.empty((0, 0), dtype))
    return np.where(hidden, dtype.type(np.nan if fill is None else fill), values.astype(dtype, copy=False))


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
