"""Zarr arrays of unknown origin: what is accepted, decided from their metadata before any chunk is read.

A codec is code that the array chooses. Only those that numbers need are accepted; what unpickles, parses or calls by
name is not. Chunk files that are symbolic links are accepted: people assemble stores of them, and they are only read.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np
import zarr

from tiledsky.errors import InputError
from tiledsky.io.address import Place
from tiledsky.io.folders import folder_at

#: Codecs of format 3, and filters and compressors of format 2 (in format 3 with the prefix "numcodecs.").
CODECS = ("bytes", "transpose", "sharding_indexed", "crc32c", "blosc", "zstd", "gzip")
NUMCODECS = (
    "blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma", "shuffle", "delta", "fixedscaleoffset", "bitround",
    "crc32", "crc32c", "adler32", "fletcher32",
)  # fmt: skip
#: Bytes that one chunk may take once decoded.
CHUNK_BYTES = 1 << 30
_PIXELS = 1 << 40
_NUMBER = re.compile(r"[<>|=]?[biuf][1248]|bool|u?int(8|16|32|64)|float(16|32|64)")


def open_zarr(path: str | os.PathLike[str]) -> zarr.Array[Any] | zarr.Group:
    """Open an array or a group for reading, from its own metadata, not a copy of them in a group above.

    Raises
    ------
    InputError
        There is none, or its metadata are damaged.
    RunError
        The store does not answer.
    """
    return folder_at(path).node()


def open_zarr_array(path: str | os.PathLike[str], *, chunk_bytes: int = CHUNK_BYTES) -> zarr.Array[Any]:
    """Open an array for reading and check it with `check_zarr_array`."""
    node = open_zarr(path)
    if not isinstance(node, zarr.Array):
        raise InputError(f"{path}: is a Zarr group, not an array; name one of its arrays")
    check_zarr_array(path, node, chunk_bytes=chunk_bytes)
    return node


def array_alone_or_named(path: Place, name: str) -> zarr.Array[Any] | None:
    """Open an array, or that of this name in a group (None: it has none), and check it with `check_zarr_array`."""
    node = open_zarr(path)
    if isinstance(node, zarr.Array):
        check_zarr_array(path, node)
        return node
    return open_zarr_array(path / name) if has_member(path, node, name) else None


def check_zarr_name(path: str | os.PathLike[str], name: str) -> str:
    """Return the name of an array in a group, if it leads to one: no ``..``, no absolute path."""
    parts = name.replace("\\", "/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise InputError(
            f"{path}: {name!r} is not a name of an array in this group; give one without '..' and leading '/'"
        )
    return name


def check_zarr_array(path: str | os.PathLike[str], array: zarr.Array[Any], *, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Refuse an array that cannot be an image, or whose chunks run code or take more memory than they may.

    Parameters
    ----------
    path : path
        Where the array is, for the message.
    array : zarr.Array
        Opened, of format 2 or 3; no chunk is read.
    chunk_bytes : int
        Bytes that the smallest part that must be decoded at once may take: a chunk, or the inner chunk of a shard.

    Raises
    ------
    InputError
        A type other than bool, integer or float of up to 8 bytes, a codec that is not on the list, chunks that are too
        large or of no size, a size no image has.
    """
    try:
        dtype, shape, metadata = np.dtype(array.dtype), array.shape, array.metadata
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise _refuse(path, f"holds {dtype}", "bool, integers and floats of up to 8 bytes are read; convert it")
        if math.prod(shape) > _PIXELS:
            raise _refuse(
                path, f"is said to be {shape}, above {_PIXELS} pixels", "its metadata are damaged, repair them"
            )
        if metadata.zarr_format == 2:
            _check_v2(path, metadata)
            size = _chunk(path, metadata.chunks, len(shape))
        else:
            size = _check_v3(path, metadata, len(shape))
    except InputError:
        raise
    except Exception as error:
        raise _refuse(
            path, f"has metadata that cannot be used ({type(error).__name__}: {_line(error)})", "repair them"
        ) from None
    if size * dtype.itemsize > chunk_bytes:
        raise _refuse(
            path, f"has chunks that take {size * dtype.itemsize} bytes, above {chunk_bytes}", "write it in smaller ones"
        )


def _check_v2(path: str | os.PathLike[str], metadata: Any) -> None:
    stored = metadata.to_dict()
    for codec in (*(stored["filters"] or ()), stored["compressor"]):
        if codec is not None:
            _check_numcodec(path, str(codec["id"]), codec)


def _check_v3(path: str | os.PathLike[str], metadata: Any, axes: int) -> int:
    """Check grid, keys and codecs; return the pixels of the smallest part that is decoded at once."""
    stored = metadata.to_dict()
    for what, allowed in (("chunk_grid", ("regular",)), ("chunk_key_encoding", ("default", "v2"))):
        if stored[what]["name"] not in allowed:
            raise _refuse(
                path, f"has the {what} {stored[what]['name']!r}", f"{' and '.join(allowed)} are read; rewrite it"
            )
    if stored.get("storage_transformers"):
        raise _refuse(path, "has storage transformers", "rewrite it without")
    size = _chunk(path, stored["chunk_grid"]["configuration"]["chunk_shape"], axes)
    return _check_codecs(path, stored["codecs"], size, axes)


def _check_codecs(path: str | os.PathLike[str], codecs: Any, size: int, axes: int) -> int:
    names = [str(codec["name"]) for codec in codecs]
    for name, codec in zip(names, codecs, strict=True):
        settings = codec.get("configuration") or {}
        if name.startswith("numcodecs."):
            _check_numcodec(path, name.removeprefix("numcodecs."), settings)
        elif name not in CODECS:
            raise _unknown(path, name)
        elif name == "sharding_indexed":
            inner = _chunk(path, settings["chunk_shape"], axes)
            index = {str(c["name"]) for c in settings["index_codecs"]}
            if not index <= {"bytes", "crc32c"}:
                raise _refuse(
                    path, f"packs the index of its shards with {sorted(index)}", "rewrite it with bytes and crc32c"
                )
            if 16 * (size // inner) > CHUNK_BYTES // 8:
                raise _refuse(path, f"has {size // inner} chunks in a shard", "write smaller shards or larger chunks")
            # A shard behind another codec has to be decoded whole.
            part = _check_codecs(path, settings["codecs"], inner, axes)
            size = part if len(names) == 1 else size
    return size


def _check_numcodec(path: str | os.PathLike[str], name: str, settings: Any) -> None:
    if name not in NUMCODECS:
        raise _unknown(path, name)
    for key in ("dtype", "astype"):
        if settings.get(key) is not None and not _NUMBER.fullmatch(str(settings[key])):
            raise _refuse(
                path, f"has the codec {name} with {key} {settings[key]!r}", "only numbers are read; rewrite it"
            )
    if name == "lzma" and settings.get("filters"):
        raise _refuse(path, "has the codec lzma with filters of its own", "rewrite it without them")


def _chunk(path: str | os.PathLike[str], shape: Any, axes: int) -> int:
    if len(shape) != axes or min(shape, default=1) < 1:
        raise _refuse(
            path, f"has chunks of {tuple(shape)}", f"every one of {axes} axes needs 1 or more; repair its metadata"
        )
    return math.prod(int(n) for n in shape)


def has_member(path: Place, group: zarr.Group, name: str) -> bool:
    """Whether there is an array or a group of this name in a group; its metadata files are looked at before.

    Raises
    ------
    InputError
        See `tiledsky.io.folders.LocalFolder.check_metadata`.
    """
    folder_at(path / name).check_metadata()
    return name in group


def _unknown(path: str | os.PathLike[str], name: str) -> InputError:
    allowed = ", ".join(sorted({*CODECS, *NUMCODECS}))
    return _refuse(
        path, f"uses the codec {name!r}", f"these are trusted: {allowed}; rewrite the array with one of them"
    )


def _refuse(path: str | os.PathLike[str], what: str, change: str) -> InputError:
    return InputError(f"{path}: the Zarr array {what}; {change}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
