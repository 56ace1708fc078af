"""Summaries of tasks: files of a few parts, each with a checksum of its own, so that one part is read alone.

A file begins with the number of its parts and with length and CRC-32 of each, and the CRC-32 of all that; the parts
follow, one after the other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from tiledsky.errors import RunError
from tiledsky.io.folders import Folder

_COUNT, _CRC, _PART = struct.Struct("<Q"), struct.Struct("<I"), struct.Struct("<QI")


def write_summary(root: Folder, path: str, parts: Sequence[bytes]) -> None:
    """Write the parts of a summary to a file of a run store."""
    head = _COUNT.pack(len(parts)) + b"".join(_PART.pack(len(part), zlib.crc32(part)) for part in parts)
    root.write(path, head, _CRC.pack(zlib.crc32(head)), *parts)


def read_summary(root: Folder, path: str) -> list[bytes]:
    """Read all parts of a summary; RunError if any byte of it is not what was written."""
    with root.open(path) as opened:
        try:
            parts = [_checked(opened, *part) for part in _parts(opened)]
            if opened.read(1):
                raise _Damaged
            return parts
        except _Damaged:
            raise _error(root, path) from None


def read_part(root: Folder, path: str, which: int) -> bytes:
    """Read part ``which`` of a summary alone; RunError if any byte of it, or of the file's head, is not as written."""
    with root.open(path) as opened:
        try:
            parts = _parts(opened)
            opened.seek(sum(length for length, _ in parts[:which]), 1)
            return _checked(opened, *parts[which])
        except _Damaged:
            raise _error(root, path) from None


class _Damaged(Exception):
    """Bytes are not those that were written."""


def _parts(opened: BinaryIO) -> list[tuple[int, int]]:
    """Read length and checksum of each part."""
    count = opened.read(_COUNT.size)
    if len(count) < _COUNT.size or (number := _COUNT.unpack(count)[0]) > 1 << 20:  # of a damaged file
        raise _Damaged
    table, crc = opened.read(number * _PART.size), opened.read(_CRC.size)
    if crc != _CRC.pack(zlib.crc32(count + table)):
        raise _Damaged
    return list(_PART.iter_unpack(table))


def _checked(opened: BinaryIO, length: int, crc: int) -> bytes:
    part = opened.read(length)
    if len(part) != length or zlib.crc32(part) != crc:
        raise _Damaged
    return part


def _error(root: Folder, path: str) -> RunError:
    return RunError(f"{root / path} is damaged; run `tiledsky verify {root}`, then the same command repairs it")
