"""Planes of an input that are Zarr arrays; loaded where there is one."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import zarr

from tiledsky.errors import InputError, RunError
from tiledsky.io.address import is_address
from tiledsky.io.remote import listed_digest
from tiledsky.io.source import HEADER, MASK_BITS, ROLES, Opened, SourcePlane
from tiledsky.io.store import RUN_FOLDER, SUCCESS
from tiledsky.io.zarrcheck import check_zarr_array, check_zarr_name, has_member, member_arrays, open_zarr

#: Names of the arrays of a group that an option can mean, the first that is there; of others their own name.
_ARRAYS = {"mask": ("mask", "user_mask", "source_mask"), "user_mask": ("user_mask", "mask")}


def open_zarr_plane(path: Path, name: str, inner: str | int | None) -> Opened:
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
        raise InputError(f"{path}: not a Zarr store that can be read ({type(error).__name__}: {error})") from None


def _open_zarr_node(path: Path, name: str, inner: str | int | None) -> Opened:
    node = open_zarr(path)
    if isinstance(node, zarr.Array):
        _check_finished(path.resolve().parent)
        return Opened(zarr_plane(path), str(node.attrs.get(HEADER, "")), {}, _has_mask_bits(node))
    _check_finished(path)
    group = node
    wanted = (check_zarr_name(path, str(inner)),) if inner is not None else _ARRAYS.get(name, (name,))
    found = [k for k in wanted if has_member(path, group, k) and isinstance(group[k], zarr.Array)]
    if not found:
        web = str(path).startswith("http")  # the web has no lists
        if is_address(path):
            arrays = [] if web else sorted(k for k, a in group.arrays())
        else:
            arrays = member_arrays(path, group)
        has = ", ".join(arrays) or ("others, if any" if web else "none")
        raise InputError(f"{path}: no array {wanted[0]!r} in this group; it has {has}; name one")
    siblings = {}
    if name == "science" and inner is None:
        siblings = {k: zarr_plane(path / k) for k in ROLES if k != name and has_member(path, group, k)}
    array = group[found[0]]
    bits = found[0] == "source_mask" or _has_mask_bits(array)
    return Opened(zarr_plane(path / found[0]), str(group.attrs.get(HEADER, "")), siblings, bits)


def _has_mask_bits(array: Any) -> bool:
    return array.attrs.get(MASK_BITS) == 1


def _check_finished(folder: Path) -> None:
    """Refuse planes of a run that is not finished: what was not written yet would read as no source, or NaN."""
    if (folder / RUN_FOLDER / "identity.json").is_file() and not (folder / RUN_FOLDER / SUCCESS).is_file():
        raise InputError(f"{folder} is a run that is not finished; go on with the command that began it")


def zarr_plane(path: Path) -> SourcePlane:
    """Look at an array; errors as of `open_zarr_plane`."""
    array: Any = open_zarr(path)
    if isinstance(array, zarr.Group):
        raise InputError(f"{path}: is a Zarr group, not an array; name one of its arrays")
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: {array.ndim}-D array of {array.dtype}; an image is 2-D and of numbers, name another array"
        )
    if min(array.shape) < 1:
        raise InputError(f"{path}: {array.shape[0]} x {array.shape[1]} px has no pixel; name another array")
    check_zarr_array(path, array)
    digest = listed_digest(str(path)) if is_address(path) else _files_digest(path)
    identity = f"{path.resolve()} {array.shape} {array.dtype} {digest}"
    return SourcePlane(None, str(path.resolve()), tuple(array.shape), array.dtype.newbyteorder("=").name, identity)


def _files_digest(path: Path) -> str:
    """Digest of the sizes and times of all files of an array: a chunk that is written anew changes it."""
    digest = hashlib.blake2b(digest_size=16)
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError as error:
                raise InputError(
                    f"{os.path.join(folder, name)}: cannot be read ({error.strerror}); restore it"
                ) from None
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{os.path.join(folder, name)}: is a pipe or a device, not a file; remove it")
            digest.update(f"{os.path.relpath(folder, path)}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
