"""The kinds of arrays that come in: what their values, masks and units are, and which are refused."""

from __future__ import annotations

import math
import sys
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.overlap import is_dask_array


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the float type to work in: float32 where it holds every value of ``dtype``, else float64."""
    given = np.dtype(dtype)
    if given.kind not in "biuf":
        raise ParameterError(f"an image of {given} has no sky; give integers or floats")
    return np.dtype(np.float32 if given.itemsize < (8 if given.kind == "f" else 4) else np.float64)


def kind_of(module: str, name: str) -> Any:
    """Class of a module, for isinstance; nothing is of it while the module is not loaded, which takes long."""
    return getattr(sys.modules.get(module), name, ())


def read_array(value: Any, name: str, *, sliced: bool) -> Any:
    """Return an array of numpy or of a subclass; with ``sliced`` anything that is read by slices."""
    if isinstance(value, np.ndarray):
        return value
    module, kind = type(value).__module__.partition(".")[0], type(value).__name__
    kind = kind if module == "builtins" else f"{module}.{kind}"
    told = [what for what in ("mask", "unit", "units") if getattr(value, what, None) is not None]
    rows = isinstance(value, list | tuple)
    if rows and any(hasattr(row, "header") for row in value):
        raise InputError(f"{name} is a list of HDUs, not an array; pass the array of one: hdus[0].data")
    if rows:
        told = [what for what in ("mask", "unit", "units") if any(hasattr(row, what) for row in value)]
    elif not all(hasattr(value, what) for what in ("shape", "dtype", "__getitem__")) or _is_lazy(value):
        raise InputError(f"{name} is a {kind}, not an array, so it has no pixels to read; {_instead(value)}")
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


def _instead(value: Any) -> str:
    """Say what to pass in place of something that is no array."""
    if isinstance(value, str | PathLike):
        return "pass a numpy or dask array, or give the file to tiledsky.run, or to `tiledsky estimate` in a terminal"
    if hasattr(value, "data") and hasattr(value, "header"):  # of astropy.io.fits
        return "pass its array: hdu.data"
    return "pass a numpy or dask array"


def _is_lazy(value: Any) -> bool:
    """Whether something is to be computed by dask, and so has any attribute that it is asked for."""
    return hasattr(type(value), "__dask_graph__")


def peeled(value: NDArray[Any]) -> tuple[NDArray[Any], Any, Any]:
    """Return values, mask and unit of an array of numpy or of a subclass; None for what it does not have."""
    hidden, unit = None, getattr(value, "unit", None)
    if isinstance(value, np.ma.MaskedArray):
        hidden, value = np.ma.getmaskarray(value), np.ma.getdata(value)
    elif isinstance(value, kind_of("astropy.utils.masked", "Masked")):
        hidden, value = np.asarray(value.mask), value.unmasked
    return np.asarray(value), hidden, getattr(value, "unit", None) if unit is None else unit


def with_pixels(value: Any, name: str) -> Any:
    """Return a dask array without its empty chunks."""
    if any(math.isnan(size) for sizes in value.chunks for size in sizes):
        raise InputError(
            f"{name} is a dask array with chunks of unknown size, so the positions of its pixels are unknown; "
            "call compute_chunk_sizes() on it first"
        )
    if 0 in value.shape or not any(0 in sizes for sizes in value.chunks):
        return value
    return value.rechunk(tuple(tuple(size for size in sizes if size) for sizes in value.chunks))


def lazily_peeled(value: Any, name: str) -> tuple[Any, Any, Any]:
    """Return values, mask and unit of a dask array, the first two lazily."""
    from dask.array.utils import meta_from_array

    meta = meta_from_array(value)
    if not isinstance(meta, np.ndarray):
        raise InputError(
            f"{name} is a dask array of {type(meta).__name__} chunks, which have no numpy values; convert them with "
            "map_blocks"
        )
    _, hidden, unit = peeled(meta)
    masked = hidden is not None
    empty = np.empty((0,) * value.ndim, value.dtype)
    pixels = value.map_blocks(_chunk_values, masked=masked, named=name, dtype=value.dtype, meta=empty)
    if not masked:
        return pixels, None, unit
    return pixels, value.map_blocks(_chunk_mask, dtype=bool, meta=np.empty((0,) * value.ndim, bool)), unit


def _chunk_values(chunk: Any, *, masked: bool, named: str) -> NDArray[Any]:
    """Return the plain values of a chunk, which may be of another kind than the dask array says."""
    values, hidden, unit = peeled(np.asanyarray(chunk))
    if hidden is not None and not masked and values.dtype.kind != "f":
        raise InputError(
            f"a chunk of {named} is a masked array of {values.dtype}, and the dask array does not declare it; "
            "make it with a masked meta"
        )
    if unit is not None:
        raise InputError(
            f"a chunk of {named} is in {unit}, which the dask array does not declare; pass values without a unit"
        )
    return values if masked else np.asarray(filled(values, hidden, None))


def _chunk_mask(chunk: Any) -> NDArray[np.bool_]:
    hidden = peeled(np.asanyarray(chunk))[1]
    return np.zeros(chunk.shape, bool) if hidden is None else hidden


def filled(values: Any, hidden: Any, fill: Any) -> Any:
    """Put a value of their type (None: NaN, as floats) where values are hidden; none hidden: the values as they are."""
    if hidden is None:
        return values
    dtype = float_dtype(values.dtype) if fill is None else values.dtype
    if is_dask_array(values):
        return values.map_blocks(filled, hidden, fill=fill, dtype=dtype, meta=np.empty((0, 0), dtype))
    return np.where(hidden, dtype.type(np.nan if fill is None else fill), values.astype(dtype, copy=False))
