"""FITS files of buckets and the web: copied to this machine, for their headers and tiles are read here and there."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from tiledsky.errors import InputError, RunError
from tiledsky.io.address import Address
from tiledsky.scratch import drop, scratch_file

_BLOCK = 16 << 20
#: Times that a copy which broke off is begun again; single requests are repeated besides.
_TRIES = 3


class LocalCopy:
    """A copy of an object in the scratch folder, removed with this object, at the latest when the process ends.

    The time of the file is that of the object, so that a copy made again is known as the same file.

    Parameters
    ----------
    url : str
    scratch : Path, optional
        Folder; default: the system's for temporary files.

    Raises
    ------
    InputError
        No such object; the folder does not take it.
    RunError
        The store does not answer.
    """

    def __init__(self, url: str, scratch: Path | None) -> None:
        address = Address(url)
        try:
            handle, self.path = scratch_file(f"-{address.name}", scratch)
        except OSError as error:
            raise InputError(
                f"{url}: tiledsky cannot write to the scratch directory ({error}); name another in TMPDIR"
            ) from error
        os.close(handle)
        self._remove = weakref.finalize(self, drop, self.path)
        try:
            self._fetch(url, address)
        except BaseException:  # the error holds this object, so that nothing would be removed while it is known
            self._remove()
            raise

    def _fetch(self, url: str, address: Address) -> None:
        for tries in range(_TRIES):
            try:
                self._copy(address)
                return
            except FileNotFoundError:
                raise InputError(f"{url}: no such file; check the address") from None
            except RunError:
                if tries == _TRIES - 1:
                    raise
            except OSError as error:
                raise InputError(f"{self.path}: {url} cannot be copied here ({error.strerror}); make room") from error

    def _copy(self, address: Address) -> None:
        size = 0
        with self.path.open("wb") as file:
            status, blocks = address.stream(_BLOCK)
            for block in blocks:
                size += file.write(block)
                if size > status.st_size:
                    break
        if size != status.st_size:
            raise RunError(f"{address} gave {size} bytes instead of {status.st_size}; the same command tries again")
        os.utime(self.path, ns=(status.st_mtime_ns, status.st_mtime_ns))
