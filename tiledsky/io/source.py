"""The input of a run: its planes, each from a FITS file, a Zarr array or a region file.

FITS files are copied into the run store, Zarr arrays read in place; a region file is drawn as it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from tiledsky.containers import float_dtype
from tiledsky.errors import InputError
from tiledsky.geometry import Pair
from tiledsky.io.address import Place, located
from tiledsky.io.fetch import LocalCopy
from tiledsky.io.fits.image import FITS_ENDINGS, FitsImage, FitsRef, split_hdu
from tiledsky.io.fits.source import FitsPlane, open_fits_plane
from tiledsky.io.options import InputOptions
from tiledsky.io.plane_reader import ROLES, PlaneEntry, SourcePlane
from tiledsky.io.regions import SUFFIXES, RegionPlane, RegionRef, open_region_plane
from tiledsky.io.remote import checked, is_url
from tiledsky.nodata import checked as checked_nodata
from tiledsky.recipe import FOOTPRINTS


@dataclass(frozen=True)
class Source:
    """The planes of an input by name (those of `ROLES`, in that order), and the header of its science image."""

    planes: dict[str, SourcePlane]
    header: str

    @property
    def shape(self) -> Pair:
        """Shape of all planes."""
        return self.planes["science"].shape


_Option = Literal[
    "weight", "error", "variance", "dq", "coverage", "mask", "user_mask", "footprints", "footprint_labels"
]
_PLANE_OPTIONS: tuple[_Option, ...] = (
    *("weight", "error", "variance", "dq", "coverage", "mask", "user_mask", "footprints", "footprint_labels"),
)
#: Options whose planes have another name.
_NAMES = {"variance": "error", "footprints": FOOTPRINTS[1]}


def open_source(
    science: str | os.PathLike[str], *, scratch: Path | None = None, **inputs: Unpack[InputOptions]
) -> Source:
    """Look at the input and check that its planes fit together; no pixel is used.

    Parameters
    ----------
    science : path
        FITS (plain, .gz, .bz2, .fz; ``file.fits:HDU``) or Zarr: an array, or a group with ``science`` (and ``weight``,
        ``error``, ``dq``, ``coverage``, ``user_mask``, ``source_mask``), as `tiledsky ingest` writes it.
    scratch : Path, optional
        Where compressed files are unpacked.
    **inputs
        See `tiledsky.io.options.InputOptions`.

    Raises
    ------
    InputError
        What is missing, ambiguous or damaged, or differs in shape; two user masks; an error and a variance plane; a run
        that is not finished.
    ParameterError
        ``nodata`` that no pixel can have.
    """
    checksum = inputs.get("checksum", True)
    opened = _open_plane(science, "science", inputs.get("hdu"), scratch, checksum)
    nodata = checked_nodata(inputs.get("nodata"), float_dtype(opened.plane.dtype))
    number = opened.plane.nodata if nodata is None else nodata if isinstance(nodata, float) else None
    planes = {**opened.siblings, "science": replace(opened.plane, nodata=number)}
    header = opened.header
    shape = opened.plane.shape
    options = {name: inputs.get(name) for name in _PLANE_OPTIONS}
    given: set[str] = set()
    for option, where in options.items():
        if where is None:
            continue
        if option.endswith("mask") and Path(where).suffix.lower() in SUFFIXES:
            if is_url(where):
                raise InputError(
                    f"{checked(os.fspath(where))}: tiledsky reads region files from local folders only; copy it to one"
                )
            opened = PlaneEntry(open_region_plane(where, shape=shape, header=header))
        else:
            opened = _open_plane(
                where, _NAMES["footprints"] if option == "footprints" else option, None, scratch, checksum
            )
        name = ("source_mask" if opened.mask_bits else "user_mask") if option == "mask" else _NAMES.get(option, option)
        if option.startswith("footprint"):
            planes = {**{n: p for n, p in planes.items() if n not in FOOTPRINTS}, **_further(opened, option)}
        if name in given:
            if name == "error":
                both = f"{options['error']} and {options['variance']}"
                raise InputError(f"{both} both give the noise of a pixel; give --error or --variance, not both")
            both = f"{options['mask']} and {options['user_mask']}"
            raise InputError(f"{both} are two user masks; give one with --user-mask, or unite them")
        given.add(name)
        planes[name] = opened.plane.as_error if option == "variance" else opened.plane
    source = Source({name: planes[name] for name in ROLES if name in planes}, header)
    _check(source)
    return source


def _further(opened: PlaneEntry, option: str) -> dict[str, SourcePlane]:
    """Planes of footprints that lie upon the first one."""
    if opened.siblings and option == "footprint_labels":
        raise InputError(
            f"{opened.plane.path}: is {1 + len(opened.siblings)} images, and labels are one; give bits as --footprints"
        )
    if len(opened.siblings) > len(FOOTPRINTS) - 2:
        raise InputError(
            f"{opened.plane.path}: is {1 + len(opened.siblings)} images of footprints, and tiledsky takes "
            f"{len(FOOTPRINTS) - 1}; give the mosaic in parts"
        )
    return dict(zip(FOOTPRINTS[2:], opened.siblings.values(), strict=False))


def _check(source: Source) -> None:
    """Check that planes are on one grid, and that mask bits are bits."""
    for name, plane in source.planes.items():
        if plane.shape != source.shape:
            raise InputError(
                f"{name} is {plane.shape[0]} x {plane.shape[1]} px, the science image "
                f"{source.shape[0]} x {source.shape[1]}; all planes must be on one grid"
            )
        if name in FOOTPRINTS and np.dtype(plane.dtype).kind not in "iu":
            raise InputError(f"{plane.path}: {plane.dtype} pixels are no footprints; give integers, bits or labels")
        if name == "source_mask" and plane.dtype != "uint8":
            raise InputError(f"{plane.path}: {plane.dtype} pixels have no mask bits; give the uint8 mask of a run")


def _open_plane(
    where: str | os.PathLike[str], name: str, hdu: str | int | None, scratch: Path | None, checksum: bool
) -> PlaneEntry:
    path, named = split_hdu(where)
    away = is_url(where)
    if Path(where).is_dir() or (away and not path.lower().endswith(FITS_ENDINGS)):
        return _open_zarr(located(where), name, hdu)
    if Path(path).is_dir():
        return _open_zarr(Path(path), name, named)
    if named is not None and hdu is not None:
        raise InputError(f"{where} names an HDU, and --hdu {hdu} another; give one of them")
    chosen = hdu if named is None else named
    if not away:
        return _open_fits(Path(path), chosen, name, scratch, checksum)
    fetched = LocalCopy(path, scratch)
    try:
        opened = _open_fits(fetched.path, chosen, name, scratch, checksum)
    except InputError as error:  # about a copy that is gone by the time it is read
        raise InputError(str(error).replace(str(fetched.path), path)) from None
    _keep_open.append(fetched)
    return opened._replace(plane=replace(opened.plane, url=path))


def _open_zarr(path: Place, name: str, inner: str | int | None) -> PlaneEntry:
    from tiledsky.io.zarr.source import open_zarr_plane  # a third of a second, which FITS files need not wait for

    return open_zarr_plane(path, name, inner)


def _open_fits(path: Path, hdu: str | int | None, name: str, scratch: Path | None, checksum: bool) -> PlaneEntry:
    if isinstance(hdu, str) and hdu.isdecimal():
        hdu = int(hdu)
    role: Any = name if name == "variance" else ROLES.get(name, "mask")
    entry, unpacked = open_fits_plane(path, hdu=hdu, role=role, scratch=scratch, checksum=checksum)
    if unpacked is not None:
        _keep_open.append(unpacked)
    return entry


#: Unpacked images and copies of this process: the run that reads them is driven from here.
_keep_open: list[FitsImage | LocalCopy] = []


def plane_from_json(data: Mapping[str, Any]) -> SourcePlane:
    """Return the plane that `SourcePlane.to_json` made plain data of."""
    shape, dtype, identity = (data["shape"][0], data["shape"][1]), data["dtype"], data["identity"]
    plane: SourcePlane
    if data["fits"]:
        plane = FitsPlane(FitsRef(**data["fits"]), shape=shape, dtype=dtype, identity=identity)
    elif data.get("regions"):
        ref = RegionRef(**{**data["regions"], "shape": tuple(data["regions"]["shape"])})
        plane = RegionPlane(ref, shape=shape, dtype=dtype, identity=identity)
    else:
        from tiledsky.io.zarr.source import ZarrPlane

        plane = ZarrPlane(data["array"], shape=shape, dtype=dtype, identity=identity)
    url, nodata, is_variance = data.get("url", ""), data.get("nodata"), data.get("is_variance", False)
    return replace(plane, url=url, nodata=nodata, is_variance=is_variance)
