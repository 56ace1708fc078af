"""Names that files are written under: what stands there is replaced only if it is a file, and one that may be lost."""

from __future__ import annotations

import stat
from pathlib import Path

from tiledsky.errors import ParameterError

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
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
