"""Constants of footprints as a table: FITS or CSV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.io.fits.table import Column, table_bytes

#: What a name of a CSV file ends in that is to have this table.
CSV_NAME = "footprints.csv"


def footprint_columns(footprints: NDArray[Any], header: Any) -> list[Column]:
    """Columns of the table of footprints, by number."""
    unit = str(header.get("BUNIT", "")).strip()
    of = {name: np.ascontiguousarray(footprints[name]) for name in footprints.dtype.names or ()}
    return [
        Column("number", of["number"], "", "of the bit, from 1, or the label"),
        Column("term", of["term"], unit, "constant; their mean in a group is 0"),
        Column("error", of["error"], unit, "standard error; NaN: not known"),
        Column("pixels", of["pixels"], "pix", "outside masks"),
        Column("shared", of["shared"], "pix", "of these, with other footprints"),
        Column("overlaps", of["overlaps"], "", "other footprints that share pixels"),
        Column("group", of["group"], "", "footprints that edges connect"),
    ]


def footprints_table(footprints: NDArray[Any], header: Any) -> bytes:
    """Encode footprints as the extension ``FOOTPRINTS`` of the FITS file of a result."""
    return table_bytes("FOOTPRINTS", footprint_columns(footprints, header))
