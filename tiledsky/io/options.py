"""What can be said of an input beside where its image is."""

from __future__ import annotations

import os
from typing import TypedDict


class InputOptions(TypedDict, total=False):
    """Options of an input.

    Attributes
    ----------
    hdu : str or int
        HDU of the science image, or array of a Zarr group.
    weight, error, dq, coverage : path
        Planes beside it, FITS (``file.fits:HDU``) or Zarr; they win over planes of a group.
    variance : path
        Likewise, instead of ``error``: its square root becomes plane ``error``.
    mask : path
        Likewise, or a region file (.reg, .crtf), or a run store, which means its mask. Becomes plane ``source_mask`` if
        it is the mask of a run or of several, merged (an array with the attribute ``tiledsky_mask``), else
        ``user_mask``.
    user_mask : path
        Likewise; always becomes plane ``user_mask``.
    footprints : path
        Bits of the exposures that each pixel is of, as drizzle makes them (CTX, CON): integers, one plane or several,
        one upon the other. Become planes ``footprint_bits``, ``footprint_bits_2``, ...
    footprint_labels : path
        Instead: the number of the exposure, detector or panel that each pixel is of (integers; 0 or less: none).
    nodata : float or "auto"
        Pixels of the science image that are this number have no data: they are as NaN, and outside the coverage. It is
        compared after BSCALE and BZERO, in the type that the image is worked on in (float32 or float64). "auto": see
        `tiledsky.engine.inputs.open_input`.
    checksum : bool
        Compare FITS images with the DATASUM and CHECKSUM that they carry (the default), which reads them once.
    """

    hdu: str | int | None
    weight: str | os.PathLike[str] | None
    error: str | os.PathLike[str] | None
    variance: str | os.PathLike[str] | None
    dq: str | os.PathLike[str] | None
    coverage: str | os.PathLike[str] | None
    mask: str | os.PathLike[str] | None
    user_mask: str | os.PathLike[str] | None
    footprints: str | os.PathLike[str] | None
    footprint_labels: str | os.PathLike[str] | None
    nodata: float | str | None
    checksum: bool
