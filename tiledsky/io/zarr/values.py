"""What the numbers that a Zarr array stores mean: packed and missing values, as xarray writes them (CF conventions).

A pixel is ``stored * scale_factor + add_offset``; where ``_FillValue`` or ``missing_value`` is stored there is none. In
format 3 these are attributes (``_FillValue`` of floats in base64). In format 2 xarray keeps ``_FillValue`` as the fill
value of the array, and leaves ``_ARRAY_DIMENSIONS``, by which its arrays are known.

References
----------
CF conventions, sections 2.5.1 "Missing data" and 8.1 "Packed data" (https://cfconventions.org).
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError

_DIMENSIONS = "_ARRAY_DIMENSIONS"
#: Names of the two axes of an image, by which one that lies on its side is known.
_ACROSS, _UP = ("x", "lon", "longitude", "ra"), ("y", "lat", "latitude", "dec")
_BLOCK = 1 << 18  # pixels that are made at once: what this needs beside the result
#: A float32 keeps packed numbers of up to 16 bits apart while the offset is no more than so many steps.
_STEPS = 1 << 20
#: Scales with which floats that a float32 holds, but for the largest and the smallest, are still such floats.
_SCALES = (1e-28, 1e28)


@dataclass(frozen=True)
class Values:
    """How stored numbers become pixels.

    Attributes
    ----------
    stored : dtype
        As the numbers count: of other sign than that of the array, where it says ``_Unsigned``.
    scale, offset : float
    missing : tuple of int or float
        Stored numbers that stand for no value; NaN, which needs no word, is none of them.
    """

    stored: np.dtype[Any]
    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()

    @property
    def is_packed(self) -> bool:
        """Whether there is a scale or an offset."""
        return self.scale != 1 or self.offset != 0

    def output(self, *, flags: bool) -> np.dtype[Any]:
        """Type of the pixels; ``flags``: of a plane of bits, which keeps its integers."""
        native = self.stored.newbyteorder("=")
        if not self.is_packed and (flags or not self.missing):
            return native
        if native.kind == "f":
            wide = self.offset or not _SCALES[0] <= abs(self.scale) <= _SCALES[1]
            return np.dtype(np.float64) if wide else np.result_type(native, np.float32)
        single = np.finfo(np.float32)
        narrow = native.itemsize <= 2 and abs(self.offset) <= _STEPS * abs(self.scale)
        narrow &= float(single.tiny) <= abs(self.scale) and self.largest <= float(single.max)
        return np.dtype(np.float32 if narrow else np.float64)

    @property
    def largest(self) -> float:
        """The most, but for its sign, that a pixel of integers can be."""
        limits = np.iinfo(self.stored) if self.stored.kind in "iu" else np.iinfo(np.uint8)
        return max(-int(limits.min), int(limits.max)) * abs(self.scale) + abs(self.offset)

    def decode(self, raw: NDArray[Any], output: np.dtype[Any]) -> NDArray[Any]:
        """Return stored numbers as pixels of a type that `output` gave.

        In float64, rounded once. What is missing is NaN; of flags it has all bits, but 0 is no flag whatever it is
        called. ``raw`` may be written to.
        """
        raw = raw.view(self.stored.newbyteorder(raw.dtype.byteorder))
        in_place = raw.dtype.isnative and raw.itemsize == output.itemsize and raw.flags.writeable
        pixels = raw.view(output) if in_place and raw.flags.c_contiguous else np.empty(raw.shape, output)
        step = max(1, _BLOCK // max(1, raw.shape[-1]))
        for top in range(0, len(raw), step):
            part = raw[top : top + step]
            lost = np.zeros(part.shape, bool)
            for value in self.missing:
                lost |= part == np.array(value).astype(raw.dtype)
            if output.kind != "f":
                pixels[top : top + step] = part
                pixels[top : top + step][lost & (part != 0)] = ~np.zeros((), output)
                continue
            values = part.astype(np.float64)
            with np.errstate(all="ignore"):  # what is no number becomes NaN or infinite, which is invalid
                values *= self.scale
                values += self.offset
                values[lost] = np.nan
                pixels[top : top + step] = values
        return pixels


def values_of(path: str | os.PathLike[str], array: Any) -> Values:
    """Read from its attributes what the numbers of an array mean.

    Raises
    ------
    InputError
        Numbers that are none, a scale of 0, a missing value that cannot be stored; times; axes the other way round.
    """
    attributes = dict(array.attrs)
    _check_image(path, array, attributes)
    stored = _counted(array.dtype, attributes.get("_Unsigned"))
    scale = _number(path, "scale_factor", attributes.get("scale_factor", 1))
    offset = _number(path, "add_offset", attributes.get("add_offset", 0))
    if scale == 0:
        raise _refuse(path, "scale_factor 0 makes every pixel the same", "correct it")
    values = Values(stored, scale, offset)
    if stored.kind != "f" and not math.isfinite(values.largest):
        raise _refuse(
            path, f"scale_factor {scale:g} and add_offset {offset:g} make pixels that no float holds", "correct them"
        )
    given = [(key, attributes[key]) for key in ("_FillValue", "missing_value") if key in attributes]
    if array.metadata.zarr_format == 2 and _DIMENSIONS in attributes and array.fill_value is not None:
        given.append(("fill_value", array.fill_value))
    missing: dict[float, None] = {}
    for key, several in given:
        for value in several if isinstance(several, list | tuple) else [several]:
            missing |= dict.fromkeys(_missing(path, key, value, stored))
    return replace(values, missing=tuple(missing))


def _check_image(path: str | os.PathLike[str], array: Any, attributes: Mapping[str, Any]) -> None:
    """Refuse what holds numbers but no pixels, and an image that lies on its side."""
    kind, unit = str(attributes.get("dtype", "")), str(attributes.get("units", ""))
    if kind.startswith(("datetime64", "timedelta64")) or " since " in unit:
        raise _refuse(path, f"the array holds times ({kind or unit}), not pixels", "name another array")
    names = getattr(array.metadata, "dimension_names", None) or attributes.get(_DIMENSIONS) or ()
    axes = tuple(str(name).lower() for name in list(names)[-2:])
    if len(axes) == 2 and axes[0] in _ACROSS and axes[1] in _UP:
        raise _refuse(
            path, f"its axes are ({', '.join(axes)}) and those of an image (y, x)", "transpose the array and write it"
        )


def _counted(dtype: np.dtype[Any], unsigned: Any) -> np.dtype[Any]:
    """Type of an array as its numbers count, by the attribute ``_Unsigned``."""
    word = str(unsigned).lower()
    if dtype.kind == "i" and word == "true":
        return np.dtype(f"{dtype.byteorder}u{dtype.itemsize}")
    if dtype.kind == "u" and word == "false":
        return np.dtype(f"{dtype.byteorder}i{dtype.itemsize}")
    return np.dtype(dtype)


def _number(path: str | os.PathLike[str], key: str, value: Any) -> float:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refuse(path, f"{key} {value!r} is not a number, so its pixels are not known", "correct the attribute")
    return float(value)


def _missing(path: str | os.PathLike[str], key: str, value: Any, stored: np.dtype[Any]) -> Iterable[float]:
    """Yield a missing value as it is stored, unless no pixel can have it or it is NaN."""
    number = _from_text(value) if isinstance(value, str) else value
    if isinstance(number, np.generic):
        number = number.item()
    if stored.kind == "b" and isinstance(number, int):
        return
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _refuse(
            path, f"{key} {value!r} is not a number, so missing pixels are not known", "correct the attribute"
        )
    if isinstance(number, float) and math.isnan(number):
        return
    if stored.kind == "f":
        yield float(number)
        return
    limits = np.iinfo(stored)
    if stored.kind == "u" and -(1 << (8 * stored.itemsize - 1)) <= number < 0 and number == int(number):
        number = int(number) + (1 << (8 * stored.itemsize))  # as the signed number of the same bits
    if not limits.min <= number <= limits.max or number != int(number):
        raise _refuse(
            path,
            f"{key} {number} is not one of the numbers of {stored}, so missing pixels are not known",
            "correct the attribute",
        )
    yield int(number)


def _from_text(text: str) -> Any:
    """Number in a text: in words, or the 8 bytes of a float64 in base64; the text itself if it is none."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        (number,) = struct.unpack("<d", base64.b64decode(text, validate=True))
        return number
    except (binascii.Error, struct.error, ValueError):
        return text


def _refuse(path: str | os.PathLike[str], what: str, change: str) -> InputError:
    return InputError(f"{path}: {what}; {change}")
