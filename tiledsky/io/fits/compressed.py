"""The table of a tile-compressed image, checked before anything is unpacked.

The decoders believe what they are given: a descriptor that points outside the heap, a block size of zero (which never
ends) or a tile stream that declares another size than its tile make them read or write where they must not. So every
number that they use is compared with the file first. Streams are looked at when their tile is read.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
from typing import BinaryIO

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.io.fits.cards import integer, number, once, text_value
from tiledsky.io.fits.scan import HduInfo

_COMPRESSIONS = ("GZIP_1", "GZIP_2", "RICE_1", "RICE_ONE", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
_DITHERS = ("NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
_WIDTH = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_TFORM = re.compile(r"(\d{0,9})([LXBIJKAEDCMPQ])(.*)")
# Bytes of a tile that the decoders hold; they compute the number as a 32-bit int, and it must not overflow.
_PIXEL_BYTES = {"HCOMPRESS_1": 8, "RICE_1": 4, "RICE_ONE": 4, "PLIO_1": 4}
_DEFLATE = 1032  # deflate never packs more than this into a byte
_ROWS = 1 << 16
_BOMB = 64 << 20


class TileTable:
    """Where the compressed tiles of an image are.

    Parameters
    ----------
    file : binary file
        Uncompressed on the whole.
    info : HduInfo
        Of kind "compressed".
    label : str
        File and HDU, for messages.

    Raises
    ------
    InputError
        The header contradicts itself or the file.
    """

    def __init__(self, file: BinaryIO, info: HduInfo, label: str) -> None:
        self._file, self._label = file, label
        header = info.header
        self.method = _method(header, label)
        self._tile = _tile_shape(header, info.shape, label)
        self._grid = tuple(-(-n // t) for n, t in zip(info.shape, self._tile, strict=True))
        self._shape = info.shape
        rows, width = _table_size(header, label), integer(header, "NAXIS1", label, minimum=1)
        if math.prod(self._grid) != rows:
            raise InputError(
                f"{label}: an image of {info.shape} in tiles of {self._tile} needs {math.prod(self._grid)} table rows, "
                f"there are {rows}; the header is damaged, fetch the file again"
            )
        if math.prod(self._tile[:-2]) > 1 and math.prod(info.shape[:-2]) > 1:
            raise InputError(f"{label}: its tiles hold several images at once; unpack the file with funpack")
        block = _settings(header, self.method, label)
        columns = _columns(header, width, label)
        _check_dither(header, columns, label)
        heap = integer(header, "THEAP", label, default=rows * width, minimum=rows * width)
        self._heap, self._heap_bytes = info.data_offset + heap, info.data_bytes - heap
        if self._heap_bytes < 0:
            raise InputError(
                f"{label}: THEAP = {heap} is beyond the end of the table; the header is damaged, repair it"
            )
        self._streams = {
            name: self._descriptors(info.data_offset, rows, width, *columns[name])
            for name in _COLUMNS
            if name in columns
        }
        if self._tile_pixels() * _PIXEL_BYTES.get(self.method, 0) >= 1 << 31:
            raise InputError(
                f"{label}: tiles of {self._tile} pixels are beyond the 2 GB that {self.method} can unpack; unpack the "
                "file with funpack"
            )
        self._check_sizes(block)
        self._known: set[int] = set()

    def _tile_pixels(self) -> int:
        return math.prod(min(n, t) for n, t in zip(self._shape, self._tile, strict=True))

    def _descriptors(self, start: int, rows: int, width: int, offset: int, code: str, item: int) -> NDArray[np.int64]:
        """Read the column of (bytes, position in the heap) and check that every one lies within the heap."""
        found = np.empty((rows, 2), np.int64)
        wide = 8 if code == "P" else 16
        for first in range(0, rows, _ROWS):
            count = min(_ROWS, rows - first)
            self._file.seek(start + first * width)
            raw = np.frombuffer(_exactly(self._file, count * width, self._label), np.uint8).reshape(count, width)
            part = np.ascontiguousarray(raw[:, offset : offset + wide])
            found[first : first + count] = part.view(">i4" if code == "P" else ">i8")
        # Compared before they are multiplied or added: neither can overflow then.
        limit = self._heap_bytes
        bad = (found < 0).any(axis=1) | (found[:, 0] > limit // item) | (found[:, 1] > limit)
        bad |= found[:, 1] > limit - item * np.minimum(found[:, 0], limit // item)
        bad &= found[:, 0] != 0
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{self._label}: the table places tile {row} of {found[row, 0]} elements at byte {found[row, 1]} "
                f"of a heap of {limit} bytes; the table is damaged, fetch the file again"
            )
        found[:, 0] *= item
        return found

    def _check_sizes(self, block: int) -> None:
        """Refuse tiles that are too large to come from the bytes that are there."""
        sizes = np.ones(1, np.int64)
        for n, t, count in zip(self._shape, self._tile, self._grid, strict=True):
            edge = np.full(count, min(n, t), np.int64)
            edge[-1] = n - (count - 1) * t
            sizes = np.multiply.outer(sizes, edge).reshape(-1)
        stored = self._streams["COMPRESSED_DATA"][:, 0]
        most = {"GZIP_1": _DEFLATE, "GZIP_2": _DEFLATE, "NOCOMPRESS": 1, "RICE_1": 3 * block, "RICE_ONE": 3 * block}
        short = (stored > 0) & (sizes // most.get(self.method, 1 << 40) > stored)
        others = [self._streams[name][:, 0] for name in _COLUMNS[1:] if name in self._streams]
        empty = stored == 0
        for other in others:
            empty &= other == 0
            short |= (stored == 0) & (other > 0) & (sizes // _DEFLATE > other)
        if (empty | short).any():
            row = int(np.argmax(empty | short))
            raise InputError(
                f"{self._label}: tile {row} of {sizes[row]} pixels cannot come from {stored[row]} bytes of "
                f"{self.method}; the header or the table is damaged, fetch the file again"
            )

    def check_streams(self, y0: int, y1: int, x0: int, x1: int, layer: int = 0) -> None:
        """Check the tiles that overlap a region before they are unpacked; once each."""
        ty, tx = self._tile[-2:]
        ny, nx = self._grid[-2:]
        for row in range(y0 // ty, -(-y1 // ty)):
            for column in range(x0 // tx, -(-x1 // tx)):
                index = (layer * ny + row) * nx + column
                if index in self._known:
                    continue
                shape = (min(ty, self._shape[-2] - row * ty), min(tx, self._shape[-1] - column * tx))
                self._check_stream(index, shape)
                self._known.add(index)

    def _check_stream(self, index: int, shape: tuple[int, int]) -> None:
        size, at = (int(v) for v in self._streams["COMPRESSED_DATA"][index])
        fault = None
        if size and self.method == "PLIO_1":
            fault = _plio_fault(self._bytes(at, min(size, 14)), size // 2)
        elif size and self.method == "HCOMPRESS_1":
            fault = _hcompress_fault(self._bytes(at, min(size, 25)), shape)
        elif size and self.method.startswith("GZIP"):
            fault = self._bomb(at, size, shape)
        elif not size and "GZIP_COMPRESSED_DATA" in self._streams:
            size, at = (int(v) for v in self._streams["GZIP_COMPRESSED_DATA"][index])
            fault = self._bomb(at, size, shape)
        if fault:
            raise InputError(f"{self._label}: tile {index} {fault}; the file is damaged, fetch it again")

    def _bytes(self, at: int, size: int) -> bytes:
        self._file.seek(self._heap + at)
        return _exactly(self._file, size, self._label)

    def _bomb(self, at: int, size: int, shape: tuple[int, int]) -> str | None:
        """Unpack without keeping: only where the bytes could give far more than the tile, which is rare."""
        most = 8 * math.prod(shape)
        if _DEFLATE * size <= 4 * most + _BOMB:
            return None
        total = 0
        with gzip.GzipFile(fileobj=io.BytesIO(self._bytes(at, size))) as stream:
            try:
                while part := stream.read(1 << 20):
                    total += len(part)
                    if total > most:
                        return f"unpacks to more than the {most} bytes that its pixels can take"
            except Exception as exc:  # OSError, EOFError, zlib.error: a damaged stream can fail in many ways
                return f"cannot be unpacked ({exc})"
        return None


def _exactly(file: BinaryIO, size: int, label: str) -> bytes:
    parts = []
    while size > 0:
        part = file.read(size)
        if not part:
            raise InputError(f"{label}: the file ended while it was read; it has changed, start again")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _method(header: Header, label: str) -> str:
    once(header, "ZCMPTYPE", label)
    method = text_value(header, "ZCMPTYPE", label)
    if method not in _COMPRESSIONS:
        raise InputError(f"{label}: compression {method!r} is not one of {_COMPRESSIONS}; unpack the file with funpack")
    return method


def _tile_shape(header: Header, shape: tuple[int, ...], label: str) -> tuple[int, ...]:
    return tuple(integer(header, f"ZTILE{i}", label, minimum=1) for i in range(len(shape), 0, -1))


def _table_size(header: Header, label: str) -> int:
    if integer(header, "NAXIS", label) != 2 or integer(header, "BITPIX", label) != 8:
        raise InputError(
            f"{label}: a compressed image is a table of 2 axes and 8 bits; the header is damaged, repair it"
        )
    return integer(header, "NAXIS2", label, minimum=0)


def _settings(header: Header, method: str, label: str) -> int:
    """Check the parameters of the compression and return RICE's block size (1 if it is another)."""
    settings = {}
    for i in range(1, 1000):
        if not (name := text_value(header, f"ZNAME{i}", label).upper()):
            break
        if name in ("BLOCKSIZE", "BYTEPIX", "SCALE", "SMOOTH"):
            settings[name] = number(header, f"ZVAL{i}", label)
    rice = method.startswith("RICE")
    for name, value in settings.items():
        allowed = {"BLOCKSIZE": value in (8, 16, 32, 64, 128, 256), "BYTEPIX": value in (1, 2, 4)} if rice else {}
        if not allowed.get(name, abs(value) < 1 << 31):
            raise InputError(
                f"{label}: {name} = {value} is not possible for {method}; the header is damaged, repair it"
            )
    return int(settings.get("BLOCKSIZE", 32)) if rice else 1


def _columns(header: Header, width: int, label: str) -> dict[str, tuple[int, str, int]]:
    """Return, by name, the columns' offset in a row, type and bytes of an element on the heap."""
    columns: dict[str, tuple[int, str, int]] = {}
    offset = 0
    for i in range(1, integer(header, "TFIELDS", label, minimum=1) + 1):
        form = _TFORM.fullmatch(text_value(header, f"TFORM{i}", label).upper())
        if form is None:
            raise InputError(f"{label}: TFORM{i} is not a column format; the header is damaged, repair it")
        count, code = int(form[1] or 1), form[2]
        name = text_value(header, f"TTYPE{i}", label).upper()
        if (name and name in columns) or (
            name in _COLUMNS and (code not in "PQ" or count != 1 or form[3][:1] not in _WIDTH)
        ):
            raise InputError(
                f"{label}: column {i}, {name}, occurs twice or is not an array of variable length; the header is "
                "damaged, repair it"
            )
        columns[name] = offset, code, _WIDTH.get(form[3][:1], 1)
        offset += -(-count // 8) if code == "X" else count * _WIDTH[code]
    if offset != width or "COMPRESSED_DATA" not in columns:
        raise InputError(
            f"{label}: the columns {', '.join(columns)} take {offset} bytes and NAXIS1 is {width}; a compressed image "
            "needs COMPRESSED_DATA and rows that fit, the header is damaged, repair it"
        )
    return columns


def _check_dither(header: Header, columns: dict[str, tuple[int, str, int]], label: str) -> None:
    """Check what turns quantised integers back into floats."""
    if "ZBLANK" in header:
        integer(header, "ZBLANK", label)
    if ("ZSCALE" in columns) != ("ZZERO" in columns):
        raise InputError(f"{label}: one of the columns ZSCALE and ZZERO is missing; the header is damaged, repair it")
    dither = text_value(header, "ZQUANTIZ", label) or "NO_DITHER"
    if "ZSCALE" not in columns:
        return
    if integer(header, "ZBITPIX", label) > 0:
        raise InputError(f"{label}: ZBITPIX is for integers and ZSCALE for floats; the header is damaged, repair it")
    if dither not in _DITHERS:
        raise InputError(f"{label}: ZQUANTIZ = {dither!r} is not one of {_DITHERS}; unpack the file with funpack")
    # The seed and the row number index a table of random numbers; below 1 they would index in front of it.
    if dither != "NO_DITHER" and integer(header, "ZDITHER0", label, minimum=1) > 10_000:
        raise InputError(f"{label}: ZDITHER0 is above the standard's 10000; the header is damaged, repair it")


def _plio_fault(head: bytes, words: int) -> str | None:
    """Compare the length that a line list declares, in its old or new form, with the words that are there."""
    values = struct.unpack(f">{len(head) // 2}h", head[: len(head) // 2 * 2])
    if len(values) < 3:
        return "has no line list"
    first, length = 4, values[2]
    if length <= 0:
        if len(values) < 5:
            return "has no line list"
        first, length = values[1] + 1, (values[4] << 15) + values[3]
    if first < 1 or length > words:
        return f"declares a line list of {length} words from {first} and has {words}"
    return None


def _hcompress_fault(head: bytes, shape: tuple[int, int]) -> str | None:
    """Compare the size that a stream declares with that of its tile: the decoder writes as much as it declares."""
    if len(head) < 25 or head[:2] != b"\xdd\x99":
        return "is no HCOMPRESS stream"
    size = struct.unpack(">ii", head[2:10])
    if sorted(size) != sorted(shape):
        return f"declares {size[0]} x {size[1]} pixels and is of {shape[0]} x {shape[1]}"
    if max(head[22:25]) > 48:
        return f"declares {max(head[22:25])} bit planes"
    return None
