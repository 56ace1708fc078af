"""From the values that FITS stores to pixels: BSCALE, BZERO, BLANK, unsigned integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.io.fits.cards import number, text_value
from tiledsky.io.fits.scan import HduInfo

INTEGER_ROLES = ("dq", "coverage", "mask", "footprints")


@dataclass(frozen=True)
class Scaling:
    """How stored values become pixels: value = BZERO + BSCALE * stored, BLANK = no value."""

    stored: np.dtype[Any]
    output: np.dtype[Any]
    bscale: float
    bzero: float
    blank: float | None  # an integer, but some files write it with a decimal point
    signed_shift: bool  # BZERO only moves the sign: the unsigned (or signed byte) convention
    plio_shift: bool

    def apply(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return `raw` (stored values, any byte order) as pixels; equal to astropy's, with its float32 arithmetic."""
        if self.plio_shift:
            raw = raw ^ np.int16(-32768)
        if self.stored.kind == "f":
            values = raw.astype(self.output)
        else:
            values = self._integers(raw) if self.signed_shift else raw.astype(self.stored.newbyteorder("="))
            values = values.astype(self.output, copy=False)
        if self.output.kind != "f" or self.signed_shift:
            return self._blanked(values, raw)
        with np.errstate(all="ignore"):  # an overflow to inf is what the file says
            if self.bscale != 1:
                values *= self.bscale
            if self.bzero != 0:
                values += self.bzero
        return self._blanked(values, raw)

    def _integers(self, raw: NDArray[Any]) -> NDArray[Any]:
        native = raw.astype(self.stored.newbyteorder("="))
        flipped = native.view(f"u{native.itemsize}") ^ np.array(1 << (8 * native.itemsize - 1), f"u{native.itemsize}")
        return flipped.view("i1") if native.itemsize == 1 else flipped

    def _blanked(self, values: NDArray[Any], raw: NDArray[Any]) -> NDArray[Any]:
        if self.blank is not None and self.output.kind == "f":
            values[raw == self.blank] = np.nan
        return values


def scaling_of(info: HduInfo, header: Header, role: str, label: str) -> Scaling:
    """Derive the scaling from the image header and check that it makes sense."""
    stored = np.dtype({8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[info.bitpix])
    bscale = number(header, "BSCALE", label, default=1)
    bzero = number(header, "BZERO", label, default=0)
    if bscale == 0:
        raise InputError(f"{label}: BSCALE = 0 makes every pixel the same; the header is damaged, repair it")
    bits = 8 * stored.itemsize
    integers = stored.kind in "iu"
    shift = integers and bscale == 1 and bzero == (-128 if bits == 8 else 1 << (bits - 1))
    blank = number(header, "BLANK", label) if integers and "BLANK" in header else None
    unscaled = shift or (bscale == 1 and bzero == 0)
    if role in INTEGER_ROLES and integers and unscaled:
        pixel = {8: "i1", 16: "u2", 32: "u4", 64: "u8"}[bits] if shift else stored.newbyteorder("=").str
    elif role in ("dq", "footprints"):
        what = "dq needs integer flags" if role == "dq" else "footprints needs integers, bits or labels,"
        raise InputError(
            f"{label}: role {what} and the pixels are BITPIX {info.bitpix} with BSCALE {bscale} and "
            f"BZERO {bzero}; choose another HDU{', or give it as a mask' if role == 'dq' else ''}"
        )
    elif not info.is_plane:
        raise InputError(
            f"{label}: several coverage images with BSCALE {bscale} and BZERO {bzero} are not bits of "
            "exposures; give one image"
        )
    else:
        pixel = "f8" if bits == 64 or (bits == 32 and integers) else "f4"
    # PLIO cannot hold negative numbers, so CFITSIO adds 32768 to unsigned 16-bit pixels, which are stored offset by
    # -32768, before it compresses them, and takes it off again on reading (imcompress.c, imcomp_decompress_tile).
    # astropy (to 8.0.2) does not, and gives such pixels 32768 too high; its tests leave this combination out
    # (astropy PR 19670). fitsio had the same fault: esheldon/fitsio#55. The exclusive or puts the offset back.
    # Drop it when the oldest astropy we allow reads such a file as funpack does; the test on real data tells.
    plio = info.kind == "compressed" and info.bitpix == 16 and bscale == 1 and bzero == 32768
    plio = plio and text_value(info.header, "ZCMPTYPE", label) == "PLIO_1"
    return Scaling(stored, np.dtype(pixel), bscale, bzero, blank, shift, plio)
