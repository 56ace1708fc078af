"""Runs and inputs in buckets and on the web: the same methods as those of `tiledsky.io.folders.LocalFolder`.

There are no links, and an object is put whole or not at all: much that is done with care in folders is nothing here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

import zarr

from tiledsky.errors import InputError
from tiledsky.io.address import Address
from tiledsky.io.files import is_temporary
from tiledsky.io.remote import as_system, bucket, is_outage, unreachable

_METADATA = ("zarr.json", ".zarray", ".zattrs")


class ObjectStore:
    """What is in a bucket below an address, or on the web, of which there are no lists."""

    def __init__(self, path: Address) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Address:
        return self.path / name

    def check(self) -> None:
        """Do nothing: there are no links."""

    def check_takes(self, name: str, *, mark: bytes | None = None) -> None:
        """Do nothing: there are no folders, and an object is put in the place of any other."""

    def check_made_of(self, known: Collection[str]) -> None:
        """Do nothing: whoever may put objects may delete them."""

    def holds(self, path: str) -> bool:
        """Whether a path or an address lies in it."""
        return f"{path}/".startswith(f"{self}/")

    def open(self, name: str) -> BinaryIO:
        """Open an object for reading, in memory."""
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        """Read an object of any size."""
        return (self / name).read_bytes()

    def reader(self, within: str) -> Callable[[str], bytes]:
        """Return what reads objects by the rest of their names."""
        return lambda name: self.read(f"{within}{name}")

    def is_file(self, name: str) -> bool:
        """Whether there is an object."""
        return (self / name).is_file()

    def stands(self, name: str) -> bool:
        """Whether there is an object, or any whose names begin with this one and a slash."""
        return (self / name).exists()

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return (self / name).stat().st_size

    def names(self, within: str = "") -> set[str]:
        """Names of what is right below ("run/")."""
        return (self / within).names()

    def files(self) -> Iterator[str]:
        """Names of all objects."""
        return (address.relative_to(self.path).as_posix() for address in self.path.rglob("*"))

    def make_way(self, *names: str) -> None:
        """Do nothing: an object stands in no other's way."""

    def write(self, name: str, *parts: bytes) -> None:
        """Put an object."""
        (self / name).write_bytes(b"".join(parts))

    def remove(self, *names: str, sync: bool = False) -> None:
        """Delete objects, if they are there."""
        for name in names:
            (self / name).unlink(missing_ok=True)

    def remove_tree(self, name: str, *, ignore_errors: bool = False) -> None:
        """Delete an object, and all whose names begin with this one and a slash."""
        (self / name).remove_all()
        self.remove(name)

    def tidy(self) -> None:
        """Delete what is named as a temporary file."""
        self.remove(*(name for name in self.files() if is_temporary(name.rpartition("/")[2])))

    def zarr_store(self) -> Any:
        """Return the store that Zarr reads a run from."""
        return zarr.storage.ObjectStore(bucket(str(self)), read_only=True)

    # --- inputs

    def node(self) -> zarr.Array[Any] | zarr.Group:
        """Open the Zarr array or group that is here, for reading; errors as of `tiledsky.io.zarr.check.open_zarr`."""
        try:
            return zarr.open(self.zarr_store(), mode="r", use_consolidated=False)
        except InputError:
            raise
        except Exception as error:
            if is_outage(error):
                raise unreachable(str(self), error) from as_system(error)
            said = " ".join(str(error).split())[:300]
            raise InputError(f"{self}: no Zarr array or group ({said}); give the address of a Zarr store") from None

    def check_metadata(self) -> None:
        """Do nothing: no object is waited for."""

    def members(self, group: zarr.Group) -> list[str] | None:
        """Names of the arrays right in the group that is here; None: not known."""
        return sorted(name for name, _ in group.arrays()) if self.path.is_listed else None

    def listing(self) -> dict[str, tuple[int, str]]:
        """Sizes and tags of all objects, by name; on the web, of the metadata of an array alone.

        Raises
        ------
        RunError
            The store does not answer.
        """
        if self.path.is_listed:
            return dict(self.path.entries())
        found = {}
        for name in _METADATA:
            with suppress(FileNotFoundError):
                data = self.read(name)
                found[name] = len(data), hashlib.blake2b(data, digest_size=16).hexdigest()
        return found

    def absent(self, names: list[str], *, known: bool) -> list[str]:
        """Which of the objects that `listing` does not have are not there; on the web if all are ``known`` to be."""
        if self.path.is_listed:
            return names
        if not known:
            return []
        with ThreadPoolExecutor(16) as pool:
            there = list(pool.map(self.is_file, names))
        return [name for name, is_there in zip(names, there, strict=True) if not is_there]
