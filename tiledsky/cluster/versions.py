"""Versions of the packages that a run is made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import tiledsky

#: Packages that can change the bits of a result: a run goes on with the same versions of them only.
LIBRARIES = ("numpy", "scipy", "numba", "llvmlite", "astropy", "zarr")


def libraries() -> dict[str, str]:
    """Versions of `LIBRARIES`."""
    return {name: version(name) for name in LIBRARIES}


def versions(*, regions: bool = False) -> dict[str, str]:
    """Versions of this package, Python and what is used of others; ``regions``: a region file was drawn too."""
    names = ["photutils", "dask", "distributed", *["regions"] * regions]
    own = {"tiledsky": tiledsky.__version__, "python": platform.python_version()}
    return {**own, **libraries(), **{name: version(name) for name in names}}
