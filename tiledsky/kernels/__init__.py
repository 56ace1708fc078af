"""Pixel kernels: ndarray in, ndarray out; no dask, no I/O.

numba keeps compiled kernels in the folder that the variable NUMBA_CACHE_DIR names, else beside their source, else in
the cache of the user. Where none of these can be written (an installation for many users, on a node without homes),
this process and those that it starts share a folder of their own, which is removed at the end.
"""

from __future__ import annotations

import atexit
import os
import warnings
from pathlib import Path

import numba
from numba import njit

from tiledsky.errors import RunError
from tiledsky.scratch import drop, scratch_folder

__all__ = ["NOT_KEPT", "njit"]

#: Variable with the folder of compiled kernels; numba reads it.
_VARIABLE = "NUMBA_CACHE_DIR"
#: What is to be said of compiled kernels that are not kept; "" where they are.
NOT_KEPT = ""


def _are_kept() -> bool:
    """Whether numba finds a folder for what it compiles."""

    def probe() -> None:
        """Do nothing; it is not compiled either."""

    try:
        njit(cache=True)(probe)
    except RuntimeError:  # numba has no other word for it
        return False
    return True


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked one ends earlier
        drop(folder)


def _keep_for_now() -> str:
    """Keep compiled kernels as long as this process lives; return what is to be said about it."""
    here = Path(__file__).parent
    try:
        folder = scratch_folder()
    except OSError as error:
        raise RunError(
            f"there is no folder for compiled kernels ({error.strerror or error}), so nothing can be computed; set "
            f"{_VARIABLE} to a folder that can be written"
        ) from None
    atexit.register(_remove, folder, os.getpid())
    os.environ[_VARIABLE] = str(folder)  # for the processes that this one starts
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
    return (
        f"kernels are compiled for this process alone, which takes up to a minute: neither {here} nor a cache of this "
        f"user can be written; set {_VARIABLE} to a folder that can, to keep them"
    )


if not _are_kept():
    NOT_KEPT = _keep_for_now()
    warnings.warn(NOT_KEPT, RuntimeWarning, stacklevel=2)
