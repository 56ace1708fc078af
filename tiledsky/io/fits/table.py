"""Tables as FITS extensions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from astropy.io import fits
from numpy.typing import NDArray

from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.scan import BLOCK


class Column(NamedTuple):
    """Column of a table of numbers: all of the same length; what it means, for a comment."""

    name: str
    values: NDArray[Any]
    unit: str
    means: str


def table_bytes(name: str, columns: Sequence[Column]) -> bytes:
    """Encode a table of int64 or float64 columns as a binary table extension with this name."""
    formats = {"i": "K", "f": "D"}
    with quiet():  # of units that FITS does not know
        made = [fits.Column(c.name, formats[c.values.dtype.kind], c.unit or None, array=c.values) for c in columns]
        hdu = fits.BinTableHDU.from_columns(made, name=name)
        for k, column in enumerate(columns, 1):
            hdu.header.comments[f"TTYPE{k}"] = column.means
        file = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    return file.getvalue()[BLOCK:]  # the empty primary is one block
