"""Memory of an estimate in one process, and whether the machine has it.

The pixels of a step lie in memory as long as a later one may ask for them: all of the image at once, where the step in
between needs a statistic or a mesh of the whole image. What each kind of step holds is counted here in bytes a pixel,
once for what is kept and once for the bands that the threads work on; a test compares the sum with what the system
measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from tiledsky.containers import float_dtype
from tiledsky.errors import PlanError
from tiledsky.geometry import Pair
from tiledsky.io.source import Source
from tiledsky.operations.compile import compiled
from tiledsky.operations.nodes import most_held
from tiledsky.recipe import Recipe

#: Python, libraries and compiled kernels: 255 MB measured.
_PROCESS = 280_000_000
#: Bytes a pixel of a band, with its halo on both sides, that a thread works on.
_BAND = 48
#: Freed arrays leave holes, and Dask begins a step before the one before has ended: a tenth more was measured.
_MORE = 1.25
#: Where Linux says what a container may take.
_CGROUPS = Path("/sys/fs/cgroup")


def needed_memory(recipe: Recipe, source: Source, planes: Sequence[str], *, band: Pair, halo: int, threads: int) -> int:
    """Return the most bytes that an estimate of these planes holds at once.

    Parameters
    ----------
    recipe : Recipe
    source : Source
    planes : sequence of str
        That are written.
    band : (int, int)
        Size of the bands that the image is cut into.
    halo : int
        Rows that are read on both sides of a band.
    threads : int
        Bands that are worked on at a time.
    """
    pixels = math.prod(source.shape)
    bands = min(threads * min(band[0] + 2 * halo, source.shape[0]), source.shape[0] + 2 * halo * threads) * band[1]
    return _PROCESS + _BAND * bands + math.ceil(_MORE * pixels * _kept(recipe, source, planes))


def _kept(recipe: Recipe, source: Source, planes: Sequence[str]) -> float:
    """Bytes a pixel of the image, the most of all steps."""
    size = float_dtype(source.planes["science"].dtype).itemsize
    always = float(size + 1) if len(recipe.steps) > 1 else size * ("subtracted" in planes) + ("mask" in planes)
    operations = compiled(recipe)
    nodes = {node for operation in operations.stages for node in operations.pixel_nodes(operation)}
    for name, plane in source.planes.items():
        if name == "coverage" or name in nodes & {"weight", "error"}:
            always += np.dtype(plane.dtype).itemsize
    if source.planes["science"].nodata is not None:
        always += size + 1  # the image as it is, and where it has no data
    return most_held(recipe, always, size=size, shape=source.shape)


def check_memory(recipe: Recipe, source: Source, planes: Sequence[str], *, band: Pair, halo: int, threads: int) -> None:
    """Refuse an image that this machine has not the memory for; arguments as of `needed_memory`.

    Raises
    ------
    PlanError
    """
    needed = needed_memory(recipe, source, planes, band=band, halo=halo, threads=threads)
    there = available_memory()
    if needed > there:
        ny, nx = source.shape
        raise PlanError(
            f"{recipe.name} of {ny} x {nx} px needs up to {needed / 1e9:.3g} GB of memory and "
            f"{there / 1e9:.3g} GB are free; use `tiledsky run`, which works on tiles, and `tiledsky export`"
        )


def available_memory() -> int:
    """Return the bytes that this process may take: of the machine, or of the container that it is in."""
    there = int(psutil.virtual_memory().available)
    for limit, used, statistics in _limits():
        with suppress(OSError, ValueError):  # "max": none
            room = int(limit.read_text()) - int(used.read_text())
            numbers = dict(line.split() for line in statistics.read_text().splitlines())
            cache = int(numbers.get("total_inactive_file", numbers.get("inactive_file", 0)))
            there = min(there, room + cache)
    return max(there, 0)


def _limits() -> list[tuple[Path, Path, Path]]:
    """Files with the limit, the use and its parts, of this process's control groups, versions 2 and 1."""
    folders: list[tuple[Path, tuple[str, str]]] = [
        (_CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    ]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = _CGROUPS / line[3:].lstrip("/")
                above = [folder for folder in (own, *own.parents) if folder.is_relative_to(_CGROUPS)]
                folders += [(folder, ("memory.max", "memory.current")) for folder in above]
    return [(folder / limit, folder / used, folder / "memory.stat") for folder, (limit, used) in folders]
