"""Names that files are written under: what stands there is replaced only if it is a file, and one that may be lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tiledsky.errors import ParameterError

#: Ends of the names of FITS files that are written.
_FITS = (".fits", ".fit", ".fts")
#: Ends of names of files, which a folder should not have.
_FILES = (
    *_FITS,
    ".gz",
    ".bz2",
    ".fz",
    ".csv",
    ".png",
    ".jpg",
    ".pdf",
    ".html",
    ".toml",
    ".txt",
    ".tif",
    ".tiff",
    ".asdf",
)

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_fits_name(path: Path, *, others: tuple[str, ...] = ()) -> None:
    """Refuse a name that does not end as that of a FITS file, or in one of ``others``.

    Raises
    ------
    ParameterError
    """
    if path.is_dir():
        return  # which `check_target_file` and its like have a word on
    end = path.suffix.lower()
    if end in (".gz", ".bz2", ".fz"):
        raise ParameterError(f"{path}: tiledsky does not compress FITS files as this name says; end the name in .fits")
    if end not in (*_FITS, *others):
        ends = " or ".join((".fits", *others))
        raise ParameterError(
            f"{path} does not end in {ends}, so nobody could tell what is in it; name it like {path.stem or 'sky'}.fits"
        )


def check_store_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name for a Zarr store, a folder, that ends as that of a file.

    Raises
    ------
    ParameterError
    """
    name = os.fspath(path).rstrip("/").rpartition("/")[2]
    stem, dot, end = name.rpartition(".")
    if stem and f"{dot}{end}".lower() in _FILES:
        raise ParameterError(
            f"{path} would be a folder (a Zarr store) with the name of a file; name it like {stem}.zarr, and write "
            "files from it with `tiledsky export`"
        )


def check_target_file(path: Path, *, mark: bytes | None = None) -> None:
    """Refuse a name under which something else than a file stands: a file would take its place.

    Links are not followed: neither the link nor what it leads to is written.

    Parameters
    ----------
    path : Path
    mark : bytes, optional
        Of a kind of file that is replaced unasked: it is in each of them. Any other file is refused.

    Raises
    ------
    ParameterError
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is none, or the folder is none, which is told when it is written
        return
    for is_kind, what in _KINDS:
        if is_kind(mode):
            raise ParameterError(f"{path} is {what}, and a file would take its place; name a file to write")
    if mark is not None and mark not in path.read_bytes():
        raise ParameterError(f"{path} was not written by tiledsky, so it is not replaced; name another, or remove it")
