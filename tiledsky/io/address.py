"""Addresses in object stores and on the web, with as much of a path's ways as sources and run stores need.

An object is put whole or not at all, so there is nothing to sync, to rename or to clear away first. What does not
answer raises RunError caused by an OSError, as a disk that fails does, so that a task is tried again.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from tiledsky.errors import InputError, RunError
from tiledsky.io.remote import as_system, bucket, checked, is_outage, is_url, library, unreachable

#: What is asked before something is put, by a task: whether it still may.
_MAY_PUT: ContextVar[Any] = ContextVar("may_put", default=None)


class Status(NamedTuple):
    """Size of an object, and when it was put, by the store's clock."""

    st_size: int
    st_mtime_ns: int


class Address:
    """An address: of an object, or of all objects whose names begin with it and a slash.

    Parameters
    ----------
    url : str
        See `tiledsky.io.remote.checked`.
    """

    def __init__(self, url: str) -> None:
        self.url = checked(url)
        parts = urlsplit(self.url)
        self._pure = PurePosixPath(parts.path)
        self._base = f"{parts.scheme}://{parts.netloc}"
        #: Whether this is of a store, which lists and takes objects; the web does neither.
        self.is_listed = parts.scheme not in ("http", "https")

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    def __fspath__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str | os.PathLike[str]) -> Address:
        return Address(f"{self.url}/{os.fspath(name)}")

    @property
    def name(self) -> str:
        """Last part."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """Last part without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """Ending of the last part."""
        return self._pure.suffix

    @property
    def parent(self) -> Address:
        """Address above; of a bucket or host itself, the same."""
        above = self._pure.parent.as_posix().strip("/.")
        return Address(f"{self._base}/{above}" if above else self._base)

    def with_name(self, name: str) -> Address:
        """Address beside this."""
        return self.parent / name

    def relative_to(self, other: Address) -> PurePosixPath:
        """Path from another address to this."""
        return self._pure.relative_to(other._pure)

    def resolve(self) -> Address:
        """Return this: addresses have no links."""
        return self

    def absolute(self) -> Address:
        """Return this."""
        return self

    # --- reading

    @property
    def _key(self) -> str:
        return self._pure.as_posix().strip("/") if self.is_listed else self._pure.name

    @property
    def _within(self) -> str | None:
        """How the names of all objects below begin; None: they are all of the bucket."""
        return f"{self._key}/" if self._key else None

    @property
    def _store(self) -> Any:
        return bucket(self._base if self.is_listed else self.url.rpartition("/")[0])

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """obstore, its errors as those of the system: FileNotFoundError, or RunError of one that does not answer."""
        try:
            yield library(self.url)
        except (FileNotFoundError, RunError, InputError):
            raise
        except Exception as error:
            if not is_outage(error):
                raise
            raise unreachable(self.url, error) from as_system(error)

    def stat(self) -> Status:
        """Return size and time of the object; FileNotFoundError if there is none."""
        if not self._key:
            raise FileNotFoundError(self.url)
        with self._asking() as obstore:
            return _status(obstore.head(self._store, self._key))

    def is_file(self) -> bool:
        """Whether there is an object here."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether the names of objects begin with this and a slash."""
        return next(self.entries(), None) is not None

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return the object; FileNotFoundError if there is none."""
        with self._asking() as obstore:
            return bytes(obstore.get(self._store, self._key).bytes())

    def stream(self, block: int) -> tuple[Status, Iterator[bytes]]:
        """Return what `stat` does, and the object in blocks of about so many bytes."""
        with self._asking() as obstore:
            found = obstore.get(self._store, self._key)

        def blocks() -> Iterator[bytes]:
            with self._asking():
                yield from map(bytes, found.stream(min_chunk_size=block))

        return _status(found.meta), blocks()

    def entries(self) -> Iterator[tuple[str, tuple[int, str]]]:
        """Names of all objects below this, from here, with sizes and tags."""
        with self._asking() as obstore:
            for page in obstore.list(self._store, self._within):
                for entry in page:
                    tag = str(entry["e_tag"] or entry["last_modified"])
                    yield entry["path"].removeprefix(self._within or ""), (entry["size"], tag)

    def names(self) -> set[str]:
        """Names of what is right below."""
        with self._asking() as obstore:
            found = obstore.list_with_delimiter(self._store, self._within)
        names = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return {name.rstrip("/").rpartition("/")[2] for name in names}

    def rglob(self, pattern: str) -> Iterator[Address]:
        """Objects below whose last part fits."""
        return (self / name for name, _ in self.entries() if fnmatch.fnmatchcase(name.rpartition("/")[2], pattern))

    # --- writing

    def write_bytes(self, data: bytes) -> None:
        """Put the object, if the task that does it still may (`may_put`)."""
        self._may()
        with self._asking() as obstore:
            obstore.put(self._store, self._key, data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object, if there is one."""
        self._may()
        with self._asking() as obstore:
            try:
                obstore.delete(self._store, self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_all(self) -> None:
        """Delete all objects below."""
        names = [f"{self._within or ''}{name}" for name, _ in self.entries()]
        with self._asking() as obstore:
            for start in range(0, len(names), 500):
                obstore.delete(self._store, names[start : start + 500])

    def rmdir(self) -> None:
        """Do nothing: there are no folders."""

    def _may(self) -> None:
        asked = _MAY_PUT.get()
        if asked is not None:
            asked()

    # --- what a lock needs

    def tagged(self) -> tuple[bytes, str] | None:
        """Return the object and its tag; None if there is none."""
        with self._asking() as obstore:
            try:
                found = obstore.get(self._store, self._key)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), str(found.meta["e_tag"])

    def put_if(self, data: bytes, tag: str | None) -> str | None:
        """Put the object if the one that is there has this tag (None: there is none); return its tag, or None."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        mode: Any = "create" if tag is None else {"e_tag": tag}
        with self._asking() as obstore:
            try:
                return str(obstore.put(self._store, self._key, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None
            except NotSupportedError:
                raise RunError(
                    f"{self.url}: this store has no conditional writes, so the run cannot keep a second driver out; "
                    "run into a folder, and copy it with `tiledsky publish`"
                ) from None


def _status(meta: Any) -> Status:
    return Status(meta["size"], int(meta["last_modified"].timestamp()) * 10**9)


#: Where a store, an input or a page is.
Place: TypeAlias = Path | Address


@contextmanager
def may_put(asked: Any) -> Iterator[None]:
    """Within, ``asked()`` is called before anything is put or deleted in a bucket; it raises if it must not be."""
    token = _MAY_PUT.set(asked)
    try:
        yield
    finally:
        _MAY_PUT.reset(token)


def located(where: str | os.PathLike[str]) -> Place:
    """Return the path, or the `Address`, which has the ways of a path that are used here; see `path_text`."""
    text = path_text(where)
    return Address(text) if is_url(text) else Path(text)


def path_text(where: str | os.PathLike[str]) -> str:
    """Return a path or an address as text.

    Raises
    ------
    InputError
        It is neither.
    """
    if not isinstance(where, str | os.PathLike):
        raise InputError(
            f"a {type(where).__name__} is not a path; give a path or an address, or give arrays to "
            "tiledsky.estimate_background"
        )
    return os.fspath(where)
