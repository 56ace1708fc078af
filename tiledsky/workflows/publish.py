"""Copies of runs in buckets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tiledsky.errors import InputError, RunError
from tiledsky.io.address import Address
from tiledsky.io.files import is_temporary
from tiledsky.io.folders import folder_at


def upload(run: str | os.PathLike[str], url: str, *, last: str, told: Callable[[int, int], None] | None = None) -> int:
    """Copy all files of a folder to an address, one of them last, so that nobody takes a part for the whole.

    What stands at the address under the name of ``last`` is removed first.

    Parameters
    ----------
    run : path
    url : str
    last : str
        Path within the folder of the file whose presence means that all is there.
    told : callable, optional
        Called with files done and in all.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    InputError, RunError
        No address that can be written; the store does not answer, or holds something else than was sent. A link, a
        pipe or a device in the folder: nothing is sent then.
    """
    root, there, sent = folder_at(run), Address(url), 0
    if not there.is_listed:
        raise InputError(f"{url}: https:// stores no files; give an address of a bucket, like s3://bucket/sky.zarr")
    names = sorted(name for name in root.files() if name != last and not is_temporary(Path(name).name))
    (there / last).unlink(missing_ok=True)
    for count, name in enumerate([*names, last]):
        with root.open(name) as file:
            data = file.read()
        (there / name).write_bytes(data)
        if (there / name).read_bytes() != data:
            raise RunError(
                f"{there / name} differs from the file that was sent; check the store, then give the command again"
            )
        sent += len(data)
        if told is not None:
            told(count + 1, len(names) + 1)
    return sent
