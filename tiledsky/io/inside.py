"""Files of a folder of this machine, by their paths within it: opened and made, never through a link."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

#: Bytes that a document of a store may have.
DOCUMENT_BYTES = 64 << 20


def inside(root: Path, path: str) -> Path:
    """Return a path of a store, if no folder on the way to it is a link; there need not be anything.

    Raises
    ------
    OSError
        A link (ELOOP), or a path that leads out of the store (EINVAL).
    """
    parts = path.split("/")
    if ".." in parts or path.startswith("/") or "\0" in path:
        raise OSError(errno.EINVAL, f"{path!r} is not a path of this store", str(root))
    place = os.fspath(root)
    for part in parts[:-1]:
        place = f"{place}/{part}"
        try:
            mode = os.lstat(place).st_mode
        except OSError:
            break
        if stat.S_ISLNK(mode):
            raise no_file(place, link=True)
    return root / path


def open_inside(root: Path, path: str) -> BinaryIO:
    """Open a file of a store for reading.

    Raises
    ------
    OSError
        There is none; a link, a pipe or a device.
    """
    return os.fdopen(opened(os.fspath(inside(root, path)), os.O_RDONLY), "rb", buffering=0)


def read_plain(place: str) -> bytes:
    """Read a small file whose folders are known to be no links; errors as of `open_inside`, also if it is larger."""
    descriptor = opened(place, os.O_RDONLY)
    try:
        parts, left = [], DOCUMENT_BYTES + 1
        while left and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(errno.EFBIG, f"has more than {DOCUMENT_BYTES} bytes", place)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def opened(place: str, flags: int) -> int:
    """Open a file that is no link and can neither be waited for nor never end."""
    try:
        descriptor = os.open(place, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise no_file(place, link=True) from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise no_file(place) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        raise no_file(place)
    return descriptor


def no_file(place: str, *, link: bool = False) -> OSError:
    """Error of what is neither a file nor a folder."""
    what = "a link, which a run store does not have" if link else "a pipe, a socket or a device, not a file"
    return OSError(errno.ELOOP if link else errno.EINVAL, what, place)


def unforeseen(path: Path) -> Path:
    """Return a name beside a path for a file that is renamed to it when it is whole: hidden, and known to nobody."""
    return path.with_name(f".{path.name[:150]}.{secrets.token_hex(8)}")


def write_new(path: Path, *parts: bytes) -> None:
    """Write a file that is not there yet, and sync it; a link in its place is not followed, but refused."""
    with open(path, "xb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
