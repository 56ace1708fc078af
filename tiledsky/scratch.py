"""Scratch files and folders, which end with the process that made them, also if it is killed.

A process that is killed removes nothing. Each file or folder is locked by the process that made it, and the system
releases the lock however that ends; whoever makes the next one removes what nobody holds any more. What another host
made is left alone, for not all file systems tell of locks on other machines.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import stat
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

_NAME = f"tiledsky-scratch-{zlib.crc32(socket.gethostname().encode()):08x}-"
_OURS = re.compile(rf"{_NAME}[a-z0-9_]{{8}}(-|\.|$)")
#: Locks of this process, by path.
_held: dict[str, int] = {}


def scratch_file(suffix: str, folder: Path | None = None) -> tuple[int, Path]:
    """Make an empty file in a folder (default: that of the system); return it, open for writing, and its path.

    Raises
    ------
    OSError
        The folder does not take it.
    """
    _sweep(folder)
    opened, name = tempfile.mkstemp(prefix=f".{_NAME}", suffix=suffix, dir=folder)
    return opened, _kept(name, os.dup(opened))


def scratch_folder(folder: Path | None = None) -> Path:
    """Make a folder; errors as of `scratch_file`."""
    _sweep(folder)
    name = tempfile.mkdtemp(prefix=f".{_NAME}", dir=folder)
    return _kept(name, os.open(name, os.O_RDONLY))


def drop(path: Path) -> None:
    """Remove a file or a folder that this process made."""
    _remove(path)
    if (lock := _held.pop(str(path), None)) is not None:
        os.close(lock)


def _kept(name: str, lock: int) -> Path:
    """Lock what was made, and only then give it the name by which it is found when it is left behind."""
    with suppress(OSError):  # a file system without locks: then nobody finds it free either
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path = Path(name)
    path = path.rename(path.with_name(path.name[1:]))
    _held[str(path)] = lock
    return path


def _sweep(folder: Path | None) -> None:
    """Remove what processes of this host and user left that are no more."""
    with suppress(OSError), os.scandir(folder or tempfile.gettempdir()) as entries:
        for entry in entries:
            if _OURS.match(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                with suppress(OSError):
                    _remove_if_free(Path(entry.path))


def _remove_if_free(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    finally:
        os.close(opened)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
