"""Where a run store or an input lies: a folder of this machine, or a bucket. What the two do differently stands here.

Both hold objects by their paths within, and do the same with them by the same methods: `folder_at` alone asks which of
them a path or an address means.

A link in a store could lead to any file of whoever opens it, so none is followed: not as a file, not as a folder on the
way. Pipes, sockets and devices, which are waited for or never end, are no files either. The store itself may be reached
by a link: it was named by the one who gave the command. Inputs may be put together of links, and are only read. Objects
of buckets have no links and are put whole or not at all: there is nothing to sync, to rename or to clear away first.
"""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

import zarr
from zarr.errors import ZarrUserWarning

from tiledsky.errors import InputError, RunError
from tiledsky.io.address import Address, located
from tiledsky.io.buckets import ObjectStore
from tiledsky.io.files import is_temporary, sync_folder, write_bytes, writing
from tiledsky.io.inside import inside, no_file, open_inside, opened, read_plain
from tiledsky.io.targets import check_target_file
from tiledsky.io.zarr.shards import StoreFolder

#: Folders with a folder for each stage, and in that a file for each tile (as in ``c``, that of the chunks of an array).
_MANY = ("markers", "summaries", "failed")
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_METADATA_BYTES = 64 << 20


class LocalFolder:
    """A folder of this machine, whoever wrote what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def check(self) -> None:
        """Refuse a store in which a link stands for a folder.

        Folders with files of single tiles are not listed; they are looked at when their files are opened. A link, a
        pipe or the like in place of a file is damage like any other: it is not opened, and removed where the file is
        made anew.

        Raises
        ------
        RunError
        """
        folders = [(str(self), "")]
        while folders:
            folder, name = folders.pop()
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        mode = entry.stat(follow_symlinks=False).st_mode
                        if stat.S_ISLNK(mode) and os.path.isdir(entry.path):
                            raise _refused(entry.path, mode)
                        if stat.S_ISDIR(mode) and entry.name != "c" and name not in _MANY:
                            folders.append((entry.path, entry.name))

    def check_takes(self, name: str, *, mark: bytes | None = None) -> None:
        """Refuse something new in a folder that is not there; in place of another file if that has no such ``mark``."""
        folder = self.path.absolute()
        if not folder.is_dir():
            raise InputError(f"{self / name}: the folder {folder} does not exist; make it or change --out")
        if mark is not None:
            if (self / name).is_dir():
                raise InputError(f"{self / name} is a folder; name a file to write with --out")
            check_target_file(self / name, mark=mark)

    def check_made_of(self, known: Collection[str]) -> None:
        """Refuse to throw away a store that holds more than arrays and what has one of the names ``known``."""
        for path in sorted(self.path.iterdir()):
            made = path.name in known or is_temporary(path.name) or (path / "zarr.json").is_file()
            if not made and not (path / "c").is_dir():
                raise RunError(
                    f"{self} holds {path.name}, which no run wrote and --restart would delete; move it, or change --out"
                )

    def holds(self, path: str) -> bool:
        """Whether a path or an address lies in it."""
        return self.path.resolve() in Path(path).resolve().parents

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading.

        Raises
        ------
        OSError
            There is none; a link, a pipe or a device, a path that leads out.
        """
        return open_inside(self.path, name)

    def read(self, name: str) -> bytes:
        """Read a small file; errors as of `open`, also one above `tiledsky.io.inside.DOCUMENT_BYTES`."""
        return read_plain(os.fspath(inside(self.path, name)))

    def reader(self, within: str) -> Callable[[str], bytes]:
        """Return what reads files of one folder, by their names: it is looked at once, for there may be many in it."""
        folder = os.fspath(inside(self.path, within))
        return lambda name: read_plain(f"{folder}/{name}")

    def open_lock(self, name: str) -> IO[str]:
        """Open a file that is only ever locked, and make it if need be; errors as of `open`."""
        # for writing too: NFS gives shared locks to those who can read, others to those who can write
        return os.fdopen(opened(os.fspath(inside(self.path, name)), os.O_RDWR | os.O_CREAT), "r+")

    def is_file(self, name: str) -> bool:
        """Whether there is a file, and no link."""
        try:
            return stat.S_ISREG(os.lstat(inside(self.path, name)).st_mode)
        except OSError:
            return False

    def stands(self, name: str) -> bool:
        """Whether there is anything, be it a link to nowhere."""
        return os.path.lexists(self / name)

    def size(self, name: str) -> int:
        """Bytes of a file; errors as of `open`."""
        place = inside(self.path, name)
        status = os.lstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise no_file(str(place), link=stat.S_ISLNK(status.st_mode))
        return status.st_size

    def names(self, within: str = "") -> set[str]:
        """Names of what is right in a folder ("run/"); none if it is not there."""
        return {p.name for p in inside(self.path, within).iterdir()} if (self / within).is_dir() else set()

    def files(self) -> Iterator[str]:
        """Paths of all files.

        Raises
        ------
        RunError
            A link, a pipe, a socket or a device among them.
        """
        folders = [""]
        while folders:
            folder = folders.pop()
            with os.scandir(self / folder) as entries:
                for entry in entries:
                    mode, path = entry.stat(follow_symlinks=False).st_mode, f"{folder}{entry.name}"
                    if stat.S_ISDIR(mode):
                        folders.append(f"{path}/")
                    elif stat.S_ISREG(mode):
                        yield path
                    else:
                        raise _refused(entry.path, mode)

    def make_way(self, *names: str) -> None:
        """Remove what stands where objects go, and is no file: a folder, or a file in place of one of their folders.

        A file is left: what replaces it does so whole. Nothing that anybody committed can be removed, at whatever
        moment this process is held up: the system does not remove a file as a folder, nor a folder as a file.
        """
        for name in names:
            with writing(self / name):
                file = inside(self.path, name)
                try:
                    if not stat.S_ISDIR(file.lstat().st_mode):
                        continue
                    with suppress(NotADirectoryError):
                        shutil.rmtree(file)
                except FileNotFoundError:
                    continue
                except NotADirectoryError:
                    self._clear_way(name, IsADirectoryError, PermissionError)

    def _clear_way(self, name: str, *passed: type[OSError]) -> None:
        """Remove a file in place of one of the folders of a file."""
        for folder in (self / str(above) for above in reversed(Path(name).parents)):
            with suppress(*passed):
                if folder.is_file():
                    folder.unlink(missing_ok=True)

    def write(self, name: str, *parts: bytes) -> None:
        """Write a file whole, as `tiledsky.io.files.write_bytes` does, whatever is in its place, but never through a
        link.
        """
        self.make_way(name)
        with writing(self / name):
            place = inside(self.path, name)
        write_bytes(place, *parts)

    def remove(self, *names: str, sync: bool = False) -> None:
        """Delete files, or whatever stands in place of one or of its folders; with ``sync`` none comes back."""
        for name in names:
            with writing(self / name):
                there = sync and self.stands(name)
                self.remove_tree(name)
                if there:
                    sync_folder((self / name).parent)

    def remove_tree(self, name: str, *, ignore_errors: bool = False) -> None:
        """Delete a file or a folder, as `remove` does, with the errors of the system, or all of it that it lets go."""
        file = inside(self.path, name)
        try:
            file.unlink(missing_ok=True)
        except NotADirectoryError:
            self._clear_way(name)
        except (IsADirectoryError, PermissionError):
            if not (ignore_errors or file.is_dir()):
                raise
            shutil.rmtree(file, ignore_errors=ignore_errors)

    def tidy(self) -> None:
        """Remove the files that killed writers left."""
        for folder, _, names in os.walk(self.path):
            for name in filter(is_temporary, names):
                Path(folder, name).unlink(missing_ok=True)

    def zarr_store(self) -> Any:
        """Return the store that Zarr reads a run from."""
        return StoreFolder(self.path, read_only=True)

    # --- inputs

    def node(self) -> zarr.Array[Any] | zarr.Group:
        """Open the Zarr array or group that is here, for reading; errors as of `tiledsky.io.zarr.check.open_zarr`."""
        try:
            self.check_metadata()
            with warnings.catch_warnings():
                # Zarr 3.4 reads such metadata as if they were others, and the array as empty
                warnings.filterwarnings("error", message="(?s).*is invalid", category=ZarrUserWarning)
                return zarr.open(str(self), mode="r", use_consolidated=False)
        except InputError:
            raise
        except Exception as error:  # damaged metadata raise whatever the parser meets first
            said = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self}: no Zarr array or group ({type(error).__name__}: {said}); give a FITS file or a Zarr store"
            ) from None

    def check_metadata(self) -> None:
        """Refuse metadata of an array or a group that would be waited for or that never end.

        Raises
        ------
        InputError
        """
        for path in map(self.path.joinpath, _METADATA):
            with suppress(FileNotFoundError):
                status = path.stat()
                if not stat.S_ISREG(status.st_mode) or status.st_size > _METADATA_BYTES:
                    raise InputError(
                        f"{path}: is not a file, or has more than {_METADATA_BYTES} bytes; metadata of an array are "
                        "small, repair the store"
                    )

    def members(self, group: zarr.Group) -> list[str] | None:
        """Names of the arrays right in the group that is here; None: not known. What cannot be looked at is none."""
        names = []
        for name in sorted(self.names()):
            # damaged metadata raise whatever the parser meets first; another array was asked for
            with suppress(Exception):
                LocalFolder(self / name).check_metadata()
                if isinstance(group[name], zarr.Array):
                    names.append(name)
        return names

    def listing(self) -> dict[str, tuple[int, str]]:
        """Sizes and times of all files, by path; links to files are followed, those to folders are not.

        Raises
        ------
        InputError
            A file that cannot be read; a pipe or a device.
        """
        found = {}
        for folder, _, files in os.walk(self.path):
            for file in (os.path.join(folder, name) for name in files):
                try:
                    status = os.stat(file)
                except OSError as error:
                    raise InputError(f"{file}: cannot be read ({error.strerror}); restore it") from None
                if not stat.S_ISREG(status.st_mode):
                    raise InputError(f"{file}: is a pipe or a device, not a file; remove it")
                name = os.path.relpath(file, self.path).replace(os.sep, "/")
                found[name] = status.st_size, str(status.st_mtime_ns)
        return found

    def absent(self, names: list[str], *, known: bool) -> list[str]:
        """Which of the files that `listing` does not have are not there; on the web only if all are ``known`` to be."""
        return [name for name in names if not (self / name).is_file()]  # a folder that is a link is not listed


def _refused(place: str, mode: int) -> RunError:
    """Error of something in a store that is neither a file nor a folder."""
    what = "a link" if stat.S_ISLNK(mode) else "a pipe, a socket or a device"
    return RunError(
        f"{place} is {what}, and a run store may contain only plain files and folders, because others can "
        "lead to your own files; remove it, or replace it by what it points to"
    )


#: What can hold a run store.
Folder: TypeAlias = LocalFolder | ObjectStore


def folder_at(where: str | os.PathLike[str]) -> Folder:
    """Return the folder at a path, or the objects at an address; errors as of `tiledsky.io.address.path_text`."""
    place = located(where)
    return ObjectStore(place) if isinstance(place, Address) else LocalFolder(place)
