"""Cutouts of a run for Imviz, jdaviz' viewer of images, which takes arrays in memory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tiledsky.engine.result import Run
from tiledsky.errors import ParameterError
from tiledsky.geometry import Region
from tiledsky.io.fits.cards import label_value
from tiledsky.io.fits.wcs import wcs_of
from tiledsky.report.windows import planes_to_look_at, read_window

_DEFAULT = ("science", "background", "subtracted", "mask")


def to_imviz(
    run: Run,
    region: Region | tuple[int, int, int, int],
    *,
    planes: Sequence[str] = _DEFAULT,
    imviz: Any = None,
    largest: int = 4096,
) -> dict[str, Any]:
    """Cut a region out of planes of a run, and load it into Imviz.

    Parameters
    ----------
    run : Run
    region : (int, int, int, int)
        First and last row, first and last column, half open: ``y0, y1, x0, x1``.
    planes : sequence of str
        Names of `tiledsky.report.windows.planes_to_look_at`.
    imviz : jdaviz.Imviz, optional
        Viewer to load the cutouts into, each under its name and place. Default: only return them.
    largest : int
        A region with a longer side than this (px) is refused: a cutout is in memory whole.

    Returns
    -------
    dict of str to astropy.nddata.NDData
        Pixels as they are in the run (float32, or float64 of a float64 image; the mask as 0 and 1), with unit and WCS
        where the image has them.

    Raises
    ------
    ParameterError
        No such plane; a region outside the image, or a larger one than ``largest``.
    """
    from astropy.nddata import NDData

    part = Region(*(int(edge) for edge in region))
    if max(part.shape) > largest:
        raise ParameterError(
            f"a cutout of {part.shape[0]} x {part.shape[1]} px has a side longer than {largest} px, and a "
            "cutout must fit in memory; choose a smaller region, or raise largest"
        )
    known = planes_to_look_at(run)
    if missing := [name for name in planes if name not in known]:
        raise ParameterError(f"{run.path}: no plane {missing[0]!r} to cut out; it has {', '.join(known)}")
    wcs, unit = wcs_of(run.header), _unit(run)
    place = None if wcs is None else wcs[part.slices]
    cutouts: dict[str, Any] = {}
    for name in planes:
        pixels = read_window(run, name, part, largest=largest).cells
        has_unit = name != "mask"
        cutouts[name] = NDData(pixels, wcs=place, unit=unit if has_unit else None, mask=~np.isfinite(pixels))
        if imviz is not None:
            load = imviz.load if hasattr(imviz, "load") else imviz.load_data  # jdaviz 4 has no load
            label = f"{run.path.stem} {name} [{part.y0}:{part.y1}, {part.x0}:{part.x1}]"
            load(cutouts[name], data_label=label)
    return cutouts


def _unit(run: Run) -> Any:
    """Unit of the image, if astropy knows it."""
    from astropy.units import Unit

    text = label_value(run.header, "BUNIT")
    try:
        return Unit(text) if text else None
    except ValueError:
        return None
