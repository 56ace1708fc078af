"""One source mask of several runs: what is a source in any band is one in all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.result import Run, open_run
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.header import describing_cards
from tiledsky.io.plane_reader import HEADER, MASK_BITS
from tiledsky.io.targets import check_store_name
from tiledsky.planes import SOURCES
from tiledsky.workflows.export import RowCount, RowProgress, copy_plane, new_store

#: Attribute of the group: the runs that went in.
MERGED = "merged_from"
#: Pixels by which the grids of two runs may differ.
TOLERANCE = 0.01


@dataclass(frozen=True)
class MergeReport:
    """A mask that `merge_masks` wrote.

    Attributes
    ----------
    path : Path
    shape : (int, int)
    masked : int
        Pixels with a tier bit.
    of_runs : tuple of int
        The same of each run alone, in their order.
    """

    path: Path
    shape: Pair
    masked: int
    of_runs: tuple[int, ...]


def merge_masks(
    runs: Sequence[Run | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    progress: RowProgress | None = None,
) -> MergeReport:
    """Unite the source masks of finished runs on one grid, for a second run of each band: ``tiledsky run --mask``.

    Parameters
    ----------
    runs : sequence of Run or path
        At least two.
    out : path
        A new Zarr group with the array ``mask`` (uint8, tiles and chunks of the first run's mask), the header of the
        first run, and in ``merged_from`` path, run id and recipe of each. The store appears when it is whole.
    progress : callable, optional
        Called with rows done and rows in all.

    Returns
    -------
    MergeReport

    Raises
    ------
    ParameterError
        Fewer than two runs, one given twice, ``out`` exists.
    InputError
        No such store; runs that differ in shape, or in the sky position of corners or centre by more than 0.01 px.
    RunError
        A store that is no run; an unfinished run.

    Notes
    -----
    A pixel's bits 1 to 6 are those that it has in any run, so tier n of the result is tier n of all runs together.
    Bits 0 and 7 are left out: which pixels have no valid datum, and which the user masks, is of each band alone; a
    second run finds both again in its own input.

    Memory: one tile of the first run's mask, twice.
    """
    check_store_name(out)
    opened = [one if isinstance(one, Run) else open_run(one) for one in runs]
    paths = [run.path.resolve() for run in opened]
    if len(opened) < 2:
        what = "one run leaves nothing to merge" if opened else "there is no run to merge"
        raise ParameterError(f"{what}; give at least two run stores")
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise ParameterError(f"{twice} is given twice; give every run once")
    masks = [run.plane("mask") for run in opened]
    for run, mask in zip(opened[1:], masks[1:], strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{run.path} is {mask.shape[0]} x {mask.shape[1]} px, {opened[0].path} {masks[0].shape[0]} x "
                f"{masks[0].shape[1]}; masks can be merged on one grid only, resample the images first"
            )
        _check_same_sky(opened[0], run)
    union = _Union(masks)
    with new_store(out) as group:
        count = RowCount(masks[0].shape[0], progress)
        tile = masks[0].shards or masks[0].chunks
        array = copy_plane(group, "mask", masks[0].shape, "uint8", union.read, count, tile=tile)
        array.attrs[MASK_BITS] = 1
        facts = [{"path": str(r.path), "run_id": r.provenance["run_id"], "recipe": r.recipe.name} for r in opened]
        group.attrs.update({HEADER: opened[0].store.header, MERGED: facts})
    return MergeReport(Path(out), masks[0].shape, union.masked, tuple(union.of_runs))


class _Union:
    """Tiles of the union of mask planes; counts what passes."""

    def __init__(self, masks: Sequence[Any]) -> None:
        self.masks, self.masked, self.of_runs = masks, 0, [0] * len(masks)

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Tier bits of a region that any mask has."""
        merged = np.zeros(region.shape, np.uint8)
        for index, mask in enumerate(self.masks):
            bits = np.asarray(mask[region.slices]) & SOURCES
            self.of_runs[index] += int(np.count_nonzero(bits))
            merged |= bits
        self.masked += int(np.count_nonzero(merged))
        return merged


def _check_same_sky(first: Run, other: Run) -> None:
    """Refuse runs whose pixels lie elsewhere on the sky."""
    one, two = _celestial(first), _celestial(other)
    if one is None and two is None:
        return
    if one is None or two is None:
        with_wcs, without = (first, other) if two is None else (other, first)
        raise InputError(
            f"{without.path} has no celestial WCS and {with_wcs.path} has one, so their grids cannot be "
            "compared; give both the same WCS"
        )
    apart, y, x = _pixels_apart(one, two, first.plan.shape)
    worst = int(np.argmax(apart))
    if apart[worst] > TOLERANCE:
        raise InputError(
            f"{other.path} and {first.path} differ by {apart[worst]:.3g} px on the sky at pixel ({y[worst]:g}, "
            f"{x[worst]:g}), more than {TOLERANCE} px; masks can be merged on one grid only, resample the images first"
        )


def _celestial(run: Run) -> Any:
    """Return the celestial `astropy.wcs.WCS` of a run; None if its header has none.

    Distortions kept as lookup tables in other extensions are not part of a header, and not compared.
    """
    from astropy.wcs import WCS

    # the class of the header, since modules above tiledsky.io do not import astropy.io
    header = type(run.header)(describing_cards(run.header, commentary=False)[0])
    try:
        with quiet():
            wcs = WCS(header)
            return wcs.celestial if wcs.has_celestial else None
    except Exception as error:  # wcslib and astropy raise many types for keywords that contradict each other
        raise InputError(f"{run.path}: its WCS cannot be read ({' '.join(str(error).split())}); correct it") from None


def _pixels_apart(one: Any, two: Any, shape: Pair) -> tuple[NDArray[np.float64], ...]:
    """Distance on the sky of the corners and the centre in two WCS, in pixels of the first; their y and x.

    0 where neither has a position, as in the corners of an image of the whole sky; infinite where one has none.
    """
    ny, nx = shape
    x = np.array([0.0, nx - 1.0, 0.0, nx - 1.0, (nx - 1) / 2])
    y = np.array([0.0, 0.0, ny - 1.0, ny - 1.0, (ny - 1) / 2])
    with quiet(), np.errstate(all="ignore"):
        here, there = one.pixel_to_world(x, y), two.pixel_to_world(x, y)
        beside = one.pixel_to_world(x + 0.5, y).separation(one.pixel_to_world(x - 0.5, y)).deg
        apart = here.separation(there).deg / beside
        neither = ~np.isfinite(here.spherical.lon.deg) & ~np.isfinite(there.spherical.lon.deg)
    return np.where(neither, 0.0, np.where(np.isfinite(apart), apart, np.inf)), y, x
