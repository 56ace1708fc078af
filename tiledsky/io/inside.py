"""Files of a run store, by their paths within it: read, written and removed there, whoever wrote what else is there.

A link in a store could lead to any file of whoever opens it, so none is followed: not as a file, not as a folder on the
way. Pipes, sockets and devices, which are waited for or never end, are no files either. The store itself may be reached
by a link: it was named by the one who gave the command. Files of buckets have no links and need none of this.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from tiledsky.errors import RunError
from tiledsky.io.address import is_address

#: Bytes that a document of a store may have.
DOCUMENT_BYTES = 64 << 20
#: Folders with a folder for each stage, and in that a file for each tile (as in ``c``, that of the chunks of an array).
_MANY = ("markers", "summaries", "failed")


def inside(root: Path, path: str) -> Path:
    """Return a path of a store, if no folder on the way to it is a link; there need not be anything.

    Raises
    ------
    OSError
        A link (ELOOP), or a path that leads out of the store (EINVAL).
    """
    if is_address(root):
        return root / path
    parts = path.split("/")
    if ".." in parts or path.startswith("/") or "\0" in path:
        raise OSError(errno.EINVAL, f"{path!r} is no path of this store", str(root))
    place = os.fspath(root)
    for part in parts[:-1]:
        place = f"{place}/{part}"
        try:
            mode = os.lstat(place).st_mode
        except OSError:
            break
        if stat.S_ISLNK(mode):
            raise _link(place)
    return root / path


def open_inside(root: Path, path: str) -> BinaryIO:
    """Open a file of a store for reading.

    Raises
    ------
    OSError
        There is none; a link, a pipe or a device.
    """
    place = inside(root, path)
    if is_address(place):
        return place.open("rb")
    return os.fdopen(_descriptor(os.fspath(place), os.O_RDONLY), "rb", buffering=0)


def read_inside(root: Path, path: str, *, most: int = DOCUMENT_BYTES) -> bytes:
    """Read a small file of a store; errors as of `open_inside`, also one above ``most`` bytes."""
    place = inside(root, path)
    return place.read_bytes() if is_address(place) else read_plain(os.fspath(place), most=most)


def read_plain(place: str, *, most: int = DOCUMENT_BYTES) -> bytes:
    """Read a small file whose folders are known to be no links; errors as of `read_inside`."""
    descriptor = _descriptor(place, os.O_RDONLY)
    try:
        parts, left = [], most + 1
        while left and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", place)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def lock_inside(root: Path, path: str) -> IO[str]:
    """Open a file of a store that is only ever locked, and make it if need be; errors as of `open_inside`."""
    # for writing too: NFS gives shared locks to those who can read, others to those who can write
    return os.fdopen(_descriptor(os.fspath(inside(root, path)), os.O_RDWR | os.O_CREAT), "r+")


def is_file_inside(root: Path, path: str) -> bool:
    """Whether there is a file, and no link."""
    if is_address(root):
        return (root / path).is_file()
    try:
        return stat.S_ISREG(os.lstat(inside(root, path)).st_mode)
    except OSError:
        return False


def size_inside(root: Path, path: str) -> int:
    """Bytes of a file of a store; errors as of `open_inside`."""
    place = inside(root, path)
    if is_address(place):
        return place.stat().st_size
    status = os.lstat(place)
    if not stat.S_ISREG(status.st_mode):
        raise _link(os.fspath(place)) if stat.S_ISLNK(status.st_mode) else _no_file(str(place))
    return status.st_size


def _descriptor(place: str, flags: int) -> int:
    """Open a file that is no link and can neither be waited for nor never end."""
    try:
        opened = os.open(place, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(place) from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise _no_file(place) from None
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        raise _no_file(place)
    return opened


def _link(place: str) -> OSError:
    return OSError(errno.ELOOP, "a link, which a run store does not have", place)


def _no_file(place: str) -> OSError:
    return OSError(errno.EINVAL, "a pipe, a socket or a device, not a file", place)


def unforeseen(path: Path) -> Path:
    """Return a name beside a path for a file that is renamed to it when it is whole: hidden, and known to nobody."""
    return path.with_name(f".{path.name[:150]}.{secrets.token_hex(8)}")


def write_new(path: Path, *parts: bytes) -> None:
    """Write a file that is not there yet, and sync it; a link in its place is not followed, but refused."""
    with open(path, "xb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def check_inside(root: Path) -> None:
    """Refuse a store in which a link stands for a folder.

    Folders with files of single tiles are not listed; they are looked at when their files are opened. A link, a pipe or
    the like in place of a file is damage like any other: it is not opened, and removed where the file is made anew.

    Raises
    ------
    RunError
    """
    if is_address(root):
        return
    for place, mode in _entries(root):
        if stat.S_ISLNK(mode) and os.path.isdir(place):
            raise refused(place, mode)


def refused(place: str, mode: int) -> RunError:
    """Error of something in a store that is neither a file nor a folder."""
    what = "a link" if stat.S_ISLNK(mode) else "a pipe, a socket or a device"
    return RunError(
        f"{place} is {what}; a run store holds plain files and folders alone, since anything else can lead to files of "
        "yours; remove it, or put there what it stands for"
    )


def _entries(root: Path) -> Iterator[tuple[str, int]]:
    """Paths and modes of what is in a folder and in the folders in it, but for those of `_MANY` deeper than once."""
    folders = [(os.fspath(root), "")]
    while folders:
        folder, name = folders.pop()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    mode = entry.stat(follow_symlinks=False).st_mode
                    yield entry.path, mode
                    if stat.S_ISDIR(mode) and entry.name != "c" and name not in _MANY:
                        folders.append((entry.path, entry.name))


def all_files(root: Path) -> Iterator[str]:
    """Paths of all files of a folder of this machine and of its folders, within it.

    Raises
    ------
    RunError
        A link, a pipe, a socket or a device among them.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                mode, path = entry.stat(follow_symlinks=False).st_mode, f"{folder}{entry.name}"
                if stat.S_ISDIR(mode):
                    folders.append(f"{path}/")
                elif stat.S_ISREG(mode):
                    yield path
                else:
                    raise refused(entry.path, mode)
