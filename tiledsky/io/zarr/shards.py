"""Objects of planes on this machine's disk, encoded and decoded at once: the bytes are those that Zarr writes.

Zarr hands every inner chunk to a thread and back, which takes twice as long as compressing it
(https://github.com/zarr-developers/zarr-python/issues/4293); here a whole object is made in the thread that asks. Only
arrays as `tiledsky.io.store.create_plane` makes them, in folders; all others are Zarr's business. Zarr 3.3 has a
synchronous pipeline, off by default; an object of 1920 x 1920 float32 takes 22 ms of CPU to write with it and 13 to
read (here 18 and 9, with the default 33 and 23), the halo of a neighbour 2.7 (1.1, 3.7). To be dropped once that
pipeline is the default of the oldest Zarr that is supported.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.storage import LocalStore

from tiledsky.geometry import Pair, Region
from tiledsky.io.inside import inside, open_inside

#: Offset and length of a chunk that was not written.
_MISSING = 2**64 - 1
_CRC = struct.Struct("<I")
_checksum: Callable[[Any], int] = google_crc32c.value  # of anything that holds bytes
#: The most that compression may add to a chunk.
_OVERHEAD = 64


class StoreFolder(LocalStore):
    """Folder of a run store as Zarr reads it: no link in it is followed, and nothing but files is opened."""

    def _look(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            open_inside(self.root, key).close()

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Return an object, or None."""
        self._look(key)
        return await super().get(key, *arguments, **options)

    def get_sync(self, key: str, *arguments: Any, **options: Any) -> Any:
        """Return an object, or None."""
        self._look(key)
        return super().get_sync(key, *arguments, **options)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """Return parts of objects."""
        ranges = list(key_ranges)
        for key, _ in ranges:
            self._look(key)
        return await super().get_partial_values(prototype, ranges)


def compressors(dtype: DTypeLike) -> list[Any]:
    """Codecs of a plane: fast compression, then a checksum (zstd or lz4 alone let most flipped bits through)."""
    return [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize), Crc32cCodec()]


def is_plain(array: Any) -> bool:
    """Whether an array is stored as `tiledsky.io.store.create_plane` does it, in a folder of this machine."""
    here = isinstance(array, zarr.Array) and type(array.store) in (LocalStore, StoreFolder)
    return here and sys.byteorder == "little" and is_made_here(array)


def is_made_here(array: zarr.Array[Any]) -> bool:
    """Whether the metadata of an array are as `tiledsky.io.store.create_plane` makes them, wherever it is stored."""
    metadata = array.metadata
    if metadata.zarr_format != 3 or metadata.storage_transformers or array.ndim != 2:
        return False
    if metadata.chunk_key_encoding.to_dict() != {"name": "default", "configuration": {"separator": "/"}}:
        return False
    dtype = array.dtype
    if dtype.kind not in "biuf" or not dtype.isnative:
        return False
    inner = (BytesCodec(endian="little" if dtype.itemsize > 1 else None), *compressors(dtype))
    if array.shards is None:
        return tuple(metadata.codecs) == inner
    return tuple(metadata.codecs) == (ShardingCodec(chunk_shape=array.chunks, codecs=inner),)


def encoded_object(array: zarr.Array[Any], region: Region, pixels: NDArray[Any]) -> list[bytes]:
    """Parts of the one object of a plain array that holds exactly ``region``."""
    size = array.shards or array.chunks
    if region.y0 % size[0] or region.x0 % size[1] or pixels.shape != region.shape:
        raise ValueError(f"pixels of shape {pixels.shape} are not those of one object of {array.path}: {region}")
    with _one_thread():
        return _encoded(array, np.asarray(pixels, array.dtype))


def write_object(array: zarr.Array[Any], region: Region, pixels: NDArray[Any]) -> None:
    """Write the one object of an array that holds exactly ``region``: whole, then under its own name."""
    size = array.shards or array.chunks
    if not is_plain(array):  # a machine that has its bytes the other way round
        array[region.slices] = pixels
        return
    parts = encoded_object(array, region, pixels)
    root, key = _place(array, (region.y0 // size[0], region.x0 // size[1]))
    path = inside(root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
        temporary.replace(path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def read_region(array: zarr.Array[Any], region: Region) -> NDArray[Any]:
    """Pixels of a region of a plain array; the fill value where nothing was written, as Zarr has it.

    Raises
    ------
    ValueError, OSError
        A chunk or an index is damaged, or cannot be read.
    """
    out = np.empty(region.shape, array.dtype)
    size: Any = array.shards or array.chunks
    with _one_thread():
        for index, part in _parts(region, size):
            target = out[part.y0 - region.y0 : part.y1 - region.y0, part.x0 - region.x0 : part.x1 - region.x0]
            try:
                file = _opened(array, index)
            except FileNotFoundError:
                target[...] = array.fill_value
                continue
            with file:
                _decode(array, file, index, part, target)
    return out


def _place(array: zarr.Array[Any], index: Pair) -> tuple[Path, str]:
    """Folder of the store of an array, and the path of an object in it."""
    assert isinstance(array.store, LocalStore)
    return array.store.root, f"{array.path}/c/{index[0]}/{index[1]}".lstrip("/")


def _opened(array: zarr.Array[Any], index: Pair) -> BinaryIO:
    root, key = _place(array, index)
    # inputs may be put together of links; run stores are not
    return open_inside(root, key) if isinstance(array.store, StoreFolder) else (root / key).open("rb")


def _parts(region: Region, size: Pair) -> Iterator[tuple[Pair, Region]]:
    """Cells of a grid that a region touches, and what of the region each holds."""
    for iy in range(region.y0 // size[0], -(-region.y1 // size[0])):
        for ix in range(region.x0 // size[1], -(-region.x1 // size[1])):
            top, left = iy * size[0], ix * size[1]
            yield (
                (iy, ix),
                Region(
                    max(region.y0, top),
                    min(region.y1, top + size[0]),
                    max(region.x0, left),
                    min(region.x1, left + size[1]),
                ),
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep Blosc to the calling thread, where its results do not depend on threads; elsewhere than here it is so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, blosc.use_threads = blosc.use_threads, False
    try:
        yield
    finally:
        blosc.use_threads = before


def _encoded(array: zarr.Array[Any], pixels: NDArray[Any]) -> list[bytes]:
    """Parts of the object that holds these pixels; those of an object beyond the image have the fill value."""
    (height, width), shards = array.chunks, array.shards
    empty = np.full((height, width), array.fill_value, array.dtype)
    parts: list[bytes] = []
    if shards is None:
        return _chunk(_filled(pixels, empty), parts)
    counts = shards[0] // height, shards[1] // width
    index = np.full((*counts, 2), _MISSING, "<u8")
    offset = 0
    for iy, ix in _morton_order(counts):
        part = pixels[iy * height : (iy + 1) * height, ix * width : (ix + 1) * width]
        if not part.size:
            continue
        _chunk(_filled(part, empty), parts)
        length = len(parts[-2]) + len(parts[-1])
        index[iy, ix] = offset, length
        offset += length
    return _sealed(index.tobytes(), parts)


def _morton_order(counts: Pair) -> list[Pair]:
    """Cells of a grid in the order in which Zarr writes the chunks of a shard: along Morton's curve, y first."""

    def place(cell: Pair) -> int:
        return sum((cell[axis] >> bit & 1) << (2 * bit + axis) for bit in range(32) for axis in (0, 1))

    return sorted(np.ndindex(counts), key=place)


def _filled(pixels: NDArray[Any], empty: NDArray[Any]) -> NDArray[Any]:
    """Pixels of a whole chunk, contiguous; of ``empty`` where there are none."""
    if pixels.shape == empty.shape:
        return np.ascontiguousarray(pixels)
    chunk = empty.copy()
    chunk[: pixels.shape[0], : pixels.shape[1]] = pixels
    return chunk


def _chunk(pixels: NDArray[Any], parts: list[bytes]) -> list[bytes]:
    return _sealed(blosc.compress(pixels, b"lz4", 1, blosc.BITSHUFFLE, 0, pixels.itemsize), parts)


def _sealed(data: bytes, parts: list[bytes]) -> list[bytes]:
    parts += [data, _CRC.pack(_checksum(data))]
    return parts


def _decode(array: zarr.Array[Any], file: BinaryIO, index: Pair, wanted: Region, target: NDArray[Any]) -> None:
    """Read the pixels ``wanted`` of an object into ``target``."""
    size = os.fstat(file.fileno()).st_size
    height, width = array.chunks
    chunk, fill = np.empty((height, width), array.dtype), array.fill_value
    shards = array.shards
    if shards is None:
        where = np.array([[[0, size]]], np.uint64)
    else:
        where = _index(file, size, (shards[0] // height, shards[1] // width))
    top, left = (i * n for i, n in zip(index, shards or (height, width), strict=True))
    inside = Region(wanted.y0 - top, wanted.y1 - top, wanted.x0 - left, wanted.x1 - left)
    for (iy, ix), part in _parts(inside, (height, width)):
        goal = target[part.y0 - inside.y0 : part.y1 - inside.y0, part.x0 - inside.x0 : part.x1 - inside.x0]
        offset, length = (int(n) for n in where[iy, ix])
        if (offset, length) == (_MISSING, _MISSING):
            goal[...] = fill
            continue
        data = _read(file, offset, length, size, chunk.nbytes + _OVERHEAD)
        nbytes = int(data[4:8].view("<u4")[0])
        if nbytes != chunk.nbytes:
            raise ValueError(f"a chunk of {nbytes} bytes where {chunk.nbytes} are expected")
        blosc.decompress(data, chunk)
        y, x = iy * height, ix * width
        goal[...] = chunk[part.y0 - y : part.y1 - y, part.x0 - x : part.x1 - x]


def _index(file: BinaryIO, size: int, counts: Pair) -> NDArray[np.uint64]:
    """Offset and length of each chunk of a shard, from its end."""
    length = 16 * counts[0] * counts[1] + _CRC.size
    if size < length:
        raise ValueError(f"{size} bytes are less than the {length} of the index of a shard")
    data = _read(file, size - length, length, size, length)
    return np.frombuffer(data, "<u8").reshape(*counts, 2)


def _read(file: BinaryIO, offset: int, length: int, size: int, most: int) -> NDArray[np.uint8]:
    """Bytes of a chunk or an index without their checksum, which is compared."""
    if length < _CRC.size + 16 or length > most or offset + length > size:
        raise ValueError(f"{length} bytes from byte {offset} on are not a chunk of a file of {size} bytes")
    data = np.frombuffer(os.pread(file.fileno(), length, offset), np.uint8)
    body = data[: -_CRC.size]
    if data.size != length or _CRC.unpack(data[-_CRC.size :].tobytes())[0] != _checksum(body):
        raise ValueError(f"stored and computed checksum of {length} bytes from byte {offset} on do not match")
    return body
