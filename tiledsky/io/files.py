"""Files of this machine, written whole or not at all; errors of the system name the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from tiledsky.errors import RunError
from tiledsky.io.address import Place
from tiledsky.io.inside import unforeseen, write_new

#: Folder in which a task begins its files, if it may write only as long as that is there (`begun_in`).
_BEGUN_IN: ContextVar[Path | None] = ContextVar("begun_in", default=None)

#: What to do about a write that the system refuses.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing there"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
}


@contextmanager
def writing(path: Place) -> Iterator[None]:
    """Name the file in the error if the system refuses a write: disk full, read-only, no permission.

    Raises
    ------
    RunError
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the disk")
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); {advice}, then the same command goes on"
        ) from error


@contextmanager
def begun_in(folder: Path) -> Iterator[None]:
    """Within, `write_bytes` begins its files in this folder and renames them from there.

    Whoever takes the folder away keeps out all that is still to be written, also by a process that is held up between
    any two steps: the system does not rename what is no longer there.
    """
    token = _BEGUN_IN.set(folder)
    try:
        yield
    finally:
        _BEGUN_IN.reset(token)


def write_bytes(path: Path, *parts: bytes) -> None:
    """Write a file whole or not at all: a temporary name that nobody can foretell, sync, rename.

    What stands at its name is replaced, also if it is a link; of the folders above it links are followed. Files of a
    store: `tiledsky.io.folders.LocalFolder.write`.

    Raises
    ------
    RunError
        The system refuses it; the call that the task belongs to has ended (`begun_in`).
    """
    folder = _BEGUN_IN.get()
    temporary = unforeseen(path if folder is None else folder / path.name)
    with writing(path):
        if folder is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_new(temporary, *parts)
            _renamed(temporary, path)
        except FileNotFoundError:
            if folder is None or folder.is_dir():
                raise
        except OSError:
            with suppress(OSError):
                temporary.unlink()  # on a full disk it takes the room of what could be written
            raise
        else:
            sync_folder(path.parent)
            return
    raise RunError(f"{path} is not written: the call of this task has ended, or another one has taken the run over")


def _renamed(temporary: Path, path: Path) -> None:
    """Give a file its name; of its folder, what is missing is made, but not for a file that was taken away."""
    try:
        temporary.replace(path)
    except FileNotFoundError:
        if not temporary.exists():
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a system that fails later keeps the names in it, and brings back none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file is what a killed writer left: of `write_bytes`, or of an object."""
    return name.startswith(".") or name.endswith(".partial")
