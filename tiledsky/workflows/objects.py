"""Large objects as a table: FITS or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.io.files import write_bytes
from tiledsky.io.fits.table import Column, table_bytes
from tiledsky.io.fits.wcs import sky_of
from tiledsky.io.fits.write import check_target


def object_columns(objects: NDArray[Any], header: Any) -> list[Column]:
    """Columns of the table of objects, the brightest first; with places on the sky if the header has a WCS."""
    columns = [Column("number", np.arange(1, len(objects) + 1), "", "the brightest first")]
    columns += [Column(name, _of(objects, name), "pix", "centre, whole pixels from 0") for name in ("y", "x")]
    to_sky = sky_of(header)
    if to_sky is not None:
        ra, dec = to_sky(objects["x"], objects["y"])
        columns += [Column("ra", ra, "deg", "centre, ICRS"), Column("dec", dec, "deg", "centre, ICRS")]
    unit = str(header.get("BUNIT", "")).strip()
    return [
        *columns,
        Column("half_light_radius", _of(objects, "half_light_radius"), "pix", "along the major axis"),
        Column("axis_ratio", _of(objects, "axis_ratio"), "", "minor over major axis"),
        Column("angle", np.degrees(_of(objects, "angle")), "deg", "of the major axis, from +x to +y"),
        Column("flux", _of(objects, "flux"), unit, "sum of the model's pixels"),
        Column("extent", _of(objects, "extent"), "pix", "masked within, along the major axis"),
    ]


def objects_table(objects: NDArray[Any], header: Any) -> bytes:
    """Encode objects as the extension ``OBJECTS`` of the FITS file of a result."""
    return table_bytes("OBJECTS", object_columns(objects, header))


def write_csv(columns: Sequence[Column], out: Path, *, overwrite: bool) -> None:
    """Write a table as CSV: names, then a line for each row.

    Raises
    ------
    ParameterError
        A file that exists, without ``overwrite``.
    """
    check_target(out, overwrite=overwrite, others=(".csv",))
    rows = zip(*(column.values.tolist() for column in columns), strict=True)
    lines = [",".join(column.name for column in columns), *(",".join(map(repr, row)) for row in rows)]
    write_bytes(out, "".join(f"{line}\n" for line in lines).encode())


def _of(objects: NDArray[Any], name: str) -> NDArray[Any]:
    return np.ascontiguousarray(objects[name], dtype=float)
