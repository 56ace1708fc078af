"""Planes of an input that are Zarr arrays; loaded where there is one."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr

from tiledsky.containers import float_dtype
from tiledsky.errors import InputError, RunError
from tiledsky.io.address import Place, located
from tiledsky.io.folders import folder_at
from tiledsky.io.plane_reader import HEADER, MASK_BITS, NODATA, ROLES, PlaneEntry, SourcePlane
from tiledsky.io.store import RUN_FOLDER, SUCCESS
from tiledsky.io.zarr.check import (
    check_zarr_array,
    check_zarr_name,
    has_member,
    open_zarr,
    open_zarr_array,
)
from tiledsky.io.zarr.objects import WHOLE, MissingObjects, consolidated_names, look_at_objects
from tiledsky.io.zarr.reader import ZarrReader, reader_of
from tiledsky.io.zarr.values import values_of
from tiledsky.nodata import checked
from tiledsky.plain import plain
from tiledsky.recipe import FOOTPRINTS

_log = logging.getLogger(__name__)
#: Planes of bits, whose numbers are not changed.
_FLAGS = ("dq", "mask", "user_mask", "source_mask", *FOOTPRINTS)
#: Names of the arrays of a group that an option can mean, the first that is there; of others their own name.
_ARRAYS = {"mask": ("mask", "user_mask", "source_mask"), "user_mask": ("user_mask", "mask")}


@dataclass(frozen=True)
class ZarrPlane(SourcePlane):
    """A Zarr array; its identity: the sizes and times of all its files."""

    array: str

    kind: ClassVar[str] = "array"

    @property
    def reference(self) -> str:
        """Folder or address of the array."""
        return self.array

    @property
    def file(self) -> str:
        """Folder or address of the array."""
        return self.array

    @property
    def chunk_pixels(self) -> int:
        """Pixels of a chunk."""
        return math.prod(open_zarr_array(self.array).chunks)

    def change(self, before: SourcePlane) -> str:
        """Say what of the array changed."""
        return f"size or time of files of {Path(self.path).name} changed"

    def _open(self) -> ZarrReader:
        return reader_of(self.array, open_zarr_array(self.array), np.dtype(self.dtype))

    def _again(self) -> ZarrPlane:
        return zarr_plane(located(self.array), flags=np.dtype(self.dtype).kind != "f")


def open_zarr_plane(path: Place, name: str, inner: str | int | None) -> PlaneEntry:
    """Look at an array, alone or in a group, for the plane ``name``; ``inner``: the array that is named.

    Raises
    ------
    InputError
        No such array; damaged metadata; a run that is not finished.
    """
    try:
        return _open_zarr_node(path, name, inner)
    except (InputError, RunError):
        raise
    except Exception as error:  # whatever damaged metadata make Zarr raise
        raise InputError(f"{path}: tiledsky cannot read this Zarr store ({type(error).__name__}: {error})") from None


def _open_zarr_node(path: Place, name: str, inner: str | int | None) -> PlaneEntry:
    node = open_zarr(path)
    if isinstance(node, zarr.Array):
        _check_finished(path.resolve().parent)
        return PlaneEntry(_image(path, node, name), str(node.attrs.get(HEADER, "")), {}, _has_mask_bits(node))
    _check_finished(path)
    chosen = _member(path, node, name, inner)
    siblings = {}
    if name == "science" and inner is None:
        _check_planes(path, node)
        siblings = {k: _told(path / k, k) for k in ROLES if k != name and has_member(path, node, k)}
        if "error" not in siblings and has_member(path, node, "variance"):
            siblings["error"] = _told(path / "variance", "variance").as_error
    bits = chosen == "source_mask" or _has_mask_bits(node[chosen])
    return PlaneEntry(_image(path / chosen, node[chosen], name), str(node.attrs.get(HEADER, "")), siblings, bits)


def _image(path: Place, array: Any, name: str) -> ZarrPlane:
    """Look at an array for a plane, and at the number in its attributes that means no data."""
    plane = _told(path, name)
    number = checked(array.attrs.get(NODATA), float_dtype(plane.dtype)) if name == "science" else None
    return replace(plane, nodata=number) if isinstance(number, float) else plane


def _member(path: Place, group: zarr.Group, name: str, inner: str | int | None) -> str:
    """Name of the array of a group that is meant."""
    wanted = (check_zarr_name(path, str(inner)),) if inner is not None else _ARRAYS.get(name, (name,))
    for member in wanted:
        if has_member(path, group, member) and isinstance(group[member], zarr.Array):
            return member
    levels = [] if inner is not None else _levels(path, group)
    if levels:
        if not (has_member(path, group, levels[0]) and isinstance(group[levels[0]], zarr.Array)):
            raise InputError(f"{path}: its multiscales name an array {levels[0]!r}, which does not exist; restore it")
        _log.warning(plain(f"{path}: an OME-Zarr image of {len(levels)} levels; the first, {levels[0]!r}, is read"))
        return levels[0]
    arrays = folder_at(path).members(group)
    has = "others, if any" if arrays is None else ", ".join(arrays) or "none"
    raise InputError(f"{path}: no array {wanted[0]!r} in this group; it has {has}; name one: {path}/NAME")


def _check_planes(path: Place, group: zarr.Group) -> None:
    """Refuse a group that lacks a plane that was written, without which the others would be read alone."""
    planes = group.attrs.get(WHOLE)
    for plane in planes if isinstance(planes, list) else []:
        if not has_member(path, group, check_zarr_name(path, str(plane))):
            raise InputError(
                f"{path}: the plane {plane} was written and is missing, so the image would be read without it; restore "
                f"it or ingest again (if it was deleted on purpose, take it out of the attribute {WHOLE} of the group)"
            )
    for plane in consolidated_names(path) & ROLES.keys():
        if not has_member(path, group, plane):
            raise InputError(
                f"{path}: its consolidated metadata name the plane {plane}, which is missing, so the image would be "
                "read without it; restore it, or consolidate the metadata again"
            )


def _levels(path: Place, group: zarr.Group) -> list[str]:
    """Arrays of an OME-Zarr image, the one of full resolution first; none if this is no such group."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(images, list) or not images:
        return []
    try:
        if len(images) > 1:
            raise InputError(
                f"{path}: has {len(images)} OME-Zarr images, and tiledsky reads one; name one of its arrays"
            )
        return [check_zarr_name(path, str(level["path"])) for level in images[0]["datasets"]]
    except (KeyError, TypeError):
        raise InputError(f"{path}: its multiscales are damaged; name one of its arrays") from None


def _has_mask_bits(array: Any) -> bool:
    return array.attrs.get(MASK_BITS) == 1


def _check_finished(folder: Place) -> None:
    """Refuse planes of a run that is not finished: what was not written yet would read as no source, or NaN."""
    if _is_run(folder) and not (folder / RUN_FOLDER / SUCCESS).is_file():
        raise InputError(f"{folder} is a run and is not finished; finish it with the command that began it")


def _is_run(folder: Place) -> bool:
    return (folder / RUN_FOLDER / "identity.json").is_file()


def _told(path: Place, name: str) -> ZarrPlane:
    """Look at an array, and say what of it will be read as fill value because it is not there."""
    plane, missing, fill = _look(path, flags=name in _FLAGS)
    if missing is not None:
        _log.warning(plain(f"{path}: {missing}; they are read as {fill}, the fill value of the array"))
    return plane


def zarr_plane(path: Place, *, flags: bool = False) -> ZarrPlane:
    """Look at an array; errors as of `open_zarr_plane`. ``flags``: of a plane of bits."""
    return _look(path, flags=flags)[0]


def _look(path: Place, *, flags: bool) -> tuple[ZarrPlane, MissingObjects | None, Any]:
    """Return an array as a plane, which of its objects are missing, and the pixel that these are read as."""
    array: Any = open_zarr(path)
    if isinstance(array, zarr.Group):
        raise InputError(f"{path}: is a Zarr group, not an array; name one of its arrays")
    shape = tuple(array.shape[-2:])
    if array.ndim < 2 or any(n != 1 for n in array.shape[:-2]) or array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: {array.ndim}-D array of {array.dtype}; an image is 2-D and of numbers, name another array"
        )
    if min(shape) < 1:
        raise InputError(f"{path}: {shape[0]} x {shape[1]} px has no pixel; name another array")
    check_zarr_array(path, array)
    values = values_of(path, array)
    if flags and values.is_packed:
        raise InputError(
            f"{path}: numbers with scale_factor and add_offset are not flags; store the flags as plain integers"
        )
    digest, missing = look_at_objects(path, array)
    if missing is not None and array.attrs.get(WHOLE) == 1:
        raise InputError(
            f"{path}: {missing}, and all were written, so these pixels are lost; restore them or ingest again (if they "
            f"were deleted on purpose, remove the attribute {WHOLE} of the array)"
        )
    if missing is not None and _is_run(path.resolve().parent):
        raise InputError(
            f"{path}: {missing}, of a finished run, so these pixels are lost; the command that made the run makes them "
            "again"
        )
    dtype = values.output(flags=flags)
    fill = values.decode(np.full((1, 1), array.fill_value or 0, array.dtype), dtype)[0, 0]
    identity = f"{path.resolve()} {array.shape} {array.dtype} {digest}"
    plane = ZarrPlane(str(path.resolve()), shape=shape, dtype=dtype.name, identity=identity)
    return plane, missing, fill
