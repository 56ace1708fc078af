"""The checksums that a FITS file carries: DATASUM of the data unit, CHECKSUM of the whole HDU.

Both are 32-bit ones' complement sums of big-endian words (FITS standard 4.0, section 4.4.2.7 and appendix J). CHECKSUM
is chosen such that the sum of the whole HDU, its own card included, is all ones, so it never has to be decoded.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from tiledsky.errors import InputError
from tiledsky.io.fits.cards import text_value
from tiledsky.io.fits.scan import BLOCK, HduInfo

_ONES = 0xFFFFFFFF
_READ = 4 << 20


def verify_checksums(file: BinaryIO, info: HduInfo, label: str) -> None:
    """Check DATASUM and CHECKSUM of one HDU; an absent or blank keyword leaves nothing to check.

    Parameters
    ----------
    file : binary file
        Uncompressed, or tile-compressed: the sums are of the table as it is stored. ZDATASUM and ZHECKSUM, those of the
        image before its compression, are not looked at.
    info : HduInfo
        The HDU.
    label : str
        File and HDU, for the message.

    Raises
    ------
    InputError
        A sum does not agree, or DATASUM is no number.

    Notes
    -----
    Reads the HDU once, in blocks of 4 MB. Padding that the file lacks counts as zeros.
    """
    declared, checksum = text_value(info.header, "DATASUM", label), text_value(info.header, "CHECKSUM", label)
    if not declared and not checksum:
        return
    found = ones_sum(file, info.data_offset, -(-info.data_bytes // BLOCK) * BLOCK)
    if declared:
        if not (declared.isascii() and declared.isdecimal()):
            raise InputError(
                f"{label}: DATASUM = {declared!r} is not a whole number; the header is damaged, fetch the file again "
                "or give --no-checksum"
            )
        if (found - int(declared)) % _ONES:
            raise InputError(
                f"{label}: the pixels have changed: their sum is {found} and DATASUM is {declared}; fetch the "
                "file again, or give --no-checksum if the keyword is out of date"
            )
    if checksum and (found + ones_sum(file, info.header_offset, info.data_offset - info.header_offset)) % _ONES:
        part = "header" if declared else "header or the pixels"
        raise InputError(
            f"{label}: the {part} changed, CHECKSUM does not match; fetch the file again, or give "
            "--no-checksum if the header was edited without updating it"
        )


def ones_sum(file: BinaryIO, offset: int, size: int) -> int:
    """Ones' complement sum, 32 bits, of `size` bytes from `offset`; bytes beyond the end of the file count as zero."""
    file.seek(offset)
    buffer = bytearray(min(size, _READ))
    total = 0
    while size > 0:
        view = memoryview(buffer)[: min(size, _READ)]
        count = 0
        while count < len(view) and (got := file.readinto(view[count:])):  # type: ignore[attr-defined]
            count += got
        if not count:
            break
        view[count : count + -count % 4] = bytes(-count % 4)
        total += int(np.frombuffer(view[: count + -count % 4], ">u4").sum(dtype=np.uint64))
        size -= count
    while total > _ONES:  # the carries come round
        total = (total & _ONES) + (total >> 32)
    return total
