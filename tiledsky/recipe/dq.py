"""Names of data quality flags, and the bits that a recipe's ``dq_flags`` choose.

Values are those of the observatories' documents; of HST, which documents what each value means but gives it no name,
the names are of this package and alike for all its cameras.

References
----------
JWST : JWST calibration pipeline, "Reference File Information", section "Data Quality Flags"
    (https://jwst-pipeline.readthedocs.io/en/latest/jwst/references_general/references_general.html), which is also what
    ``DQ_DEF`` and `stdatamodels.jwst.datamodels.dqflags` hold. Bit 28 was UNRELIABLE_RESET until stdatamodels 1.4.
ACS : "ACS Data Quality Flags", STScI
    (https://www.stsci.edu/hst/instrumentation/acs/data-analysis/dq-flag-definitions).
WFC3 : WFC3 Data Handbook, section 2.2.3 "Contents of Individual Arrays", the table of DQ values of UVIS and IR
    (https://hst-docs.stsci.edu/wfc3dhb/chapter-2-wfc3-data-structure/2-2-wfc3-file-structure).
WFPC2 : WFPC2 Data Handbook, table 3.4 (https://www.stsci.edu/hst/wfpc2/analysis/WFPC2_flags.html).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tiledsky.errors import ParameterError

JWST = {
    "DO_NOT_USE": 1 << 0,  # bad pixel
    "SATURATED": 1 << 1,
    "JUMP_DET": 1 << 2,  # a jump was found in the ramp
    "DROPOUT": 1 << 3,  # lost in transmission
    "OUTLIER": 1 << 4,  # by outlier detection
    "PERSISTENCE": 1 << 5,
    "AD_FLOOR": 1 << 6,  # below the floor of the converter
    "CHARGELOSS": 1 << 7,  # charge migrated
    "UNRELIABLE_ERROR": 1 << 8,
    "NON_SCIENCE": 1 << 9,  # not on the part of the detector that sees sky
    "DEAD": 1 << 10,
    "HOT": 1 << 11,
    "WARM": 1 << 12,
    "LOW_QE": 1 << 13,
    "RC": 1 << 14,
    "TELEGRAPH": 1 << 15,
    "NONLINEAR": 1 << 16,
    "BAD_REF_PIXEL": 1 << 17,
    "NO_FLAT_FIELD": 1 << 18,
    "NO_GAIN_VALUE": 1 << 19,
    "NO_LIN_CORR": 1 << 20,
    "NO_SAT_CHECK": 1 << 21,
    "UNRELIABLE_BIAS": 1 << 22,
    "UNRELIABLE_DARK": 1 << 23,
    "UNRELIABLE_SLOPE": 1 << 24,
    "UNRELIABLE_FLAT": 1 << 25,
    "OPEN": 1 << 26,
    "ADJ_OPEN": 1 << 27,  # beside an open pixel
    "FLUX_ESTIMATED": 1 << 28,
    "UNRELIABLE_RESET": 1 << 28,  # what the same bit was called before
    "MSA_FAILED_OPEN": 1 << 29,
    "OTHER_BAD_PIXEL": 1 << 30,
    "REFERENCE_PIXEL": 1 << 31,
}

ACS = {
    "LOST": 1,  # Reed-Solomon decoding error
    "FILLED": 2,  # replaced by a fill value
    "BAD_DETECTOR": 4,
    "OCCULTED": 8,  # masked by an aperture feature
    "HOT": 16,
    "UNSTABLE": 32,
    "WARM": 64,
    "BAD_BIAS": 128,  # bias structure, mostly bad columns
    "SATURATED": 256,  # full well
    "BAD_FLAT": 512,  # bad pixel of a reference file
    "CHARGE_TRAP": 1024,  # and sink pixels
    "AD_SATURATED": 2048,
    "COSMIC_RAY_DRIZZLE": 4096,  # found by AstroDrizzle
    "COSMIC_RAY": 8192,  # found by CALACS
    "USER": 16384,  # set by hand
}

WFC3_UVIS = {
    "LOST": 1,
    "FILLED": 2,
    "BAD_DETECTOR": 4,
    "OCCULTED": 8,
    "HOT": 16,
    "UNSTABLE": 32,  # CTE tails in files of early calibrations
    "WARM": 64,
    "BAD_BIAS": 128,
    "SATURATED": 256,
    "BAD_FLAT": 512,
    "CHARGE_TRAP": 1024,  # and sink pixels
    "AD_SATURATED": 2048,
    "COSMIC_RAY_DRIZZLE": 4096,
    "COSMIC_RAY": 8192,  # found when exposures of one visit are combined
    "CROSSTALK": 16384,  # ghost or crosstalk
}

WFC3_IR = {
    "LOST": 1,
    "FILLED": 2,
    "BAD_DETECTOR": 4,
    "BAD_ZERO_READ": 8,
    "HOT": 16,
    "UNSTABLE": 32,
    "WARM": 64,
    "BAD_REFERENCE": 128,  # reference pixel
    "SATURATED": 256,
    "BAD_FLAT": 512,  # and blobs
    "SPIKE": 1024,  # in the ramp
    "ZERO_READ_SIGNAL": 2048,
    "COSMIC_RAY_DRIZZLE": 4096,
    "COSMIC_RAY": 8192,  # found in the ramp
    "CROSSTALK": 16384,
}

WFPC2 = {
    "LOST": 1,
    "BAD_CALIBRATION": 2,  # flagged in a calibration file
    "BAD_DETECTOR": 4,  # permanent defect of the camera
    "SATURATED": 8,  # of the converter
    "MISSING": 16,  # lost in readout or transmission
    "BAD_PIXEL": 32,  # of no other kind
    "CHARGE_TRAP": 128,
    "QUESTIONABLE": 256,  # above a charge trap
    "WARM": 512,  # not repaired
    "WARM_REPAIRED": 1024,
    "CHIP_MASKED": 2048,
}

#: Flags by instrument, as a prefix names it.
TABLES: dict[str, dict[str, int]] = {
    "JWST": JWST,
    "ACS": ACS,
    "WFC3/UVIS": WFC3_UVIS,
    "WFC3/IR": WFC3_IR,
    "WFPC2": WFPC2,
}
_JWST_CAMERAS = ("NIRCAM", "NIRISS", "NIRSPEC", "MIRI")


def dq_bits(flags: Sequence[int | str] | Literal["all"], *, header: Mapping[str, Any] | None = None) -> int | None:
    """Return the sum of the flags that make a pixel invalid.

    Parameters
    ----------
    flags : sequence of int or str, or "all"
        Values (powers of two) or names. Names are of the instrument in ``header``, or of the one that stands before
        them: ``"JWST:SATURATED"``, ``"ACS:HOT"``, ``"WFC3/IR:UNSTABLE"``, ``"WFC3:HOT"`` where both detectors agree.
        Upper and lower case are one.
    header : mapping, optional
        FITS header of the image: TELESCOP, INSTRUME, DETECTOR.

    Returns
    -------
    int or None
        None for "all"; 0 for no flags.

    Raises
    ------
    ParameterError
        A name that the instrument does not have, or no instrument to look it up for; a number that is no flag.
    """
    if isinstance(flags, str):
        if flags == "all":
            return None
        flags = (flags,)
    bits = 0
    for flag in flags:
        text = str(flag).strip()
        bits |= _value(int(text)) if text.lstrip("+-").isdecimal() else _named(text, header)
    return bits


def _value(flag: int) -> int:
    if flag <= 0:
        raise ParameterError(f"dq flag {flag} is not a bit, so no pixel has it; give powers of two, or names")
    if flag & (flag - 1):
        parts = [str(1 << b) for b in range(flag.bit_length()) if flag >> b & 1]
        raise ParameterError(f"dq flag {flag} is not a single bit; give its parts {', '.join(parts)} if you mean them")
    return flag


def _named(text: str, header: Mapping[str, Any] | None) -> int:
    prefix, colon, name = (part.strip() for part in text.rpartition(":"))
    tables = _tables_of(prefix, text) if colon else _tables_of_header(header, text)
    name = name.upper()
    values = {table: TABLES[table].get(name) for table in tables}
    found = set(values.values())
    if len(found) == 1 and None not in found:
        return next(v for v in found if v is not None)
    if any(v is not None for v in found):
        either = " or ".join(f"{table}:{name}" for table, value in values.items() if value is not None)
        raise ParameterError(f"dq flag {text!r} differs between {' and '.join(tables)}; write {either}")
    known = list(dict.fromkeys(n for table in tables for n in TABLES[table]))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [n for n in known if name in n] or known
    raise ParameterError(f"{' and '.join(tables)} has no dq flag {name!r}; similar names: {', '.join(near)}")


def _tables_of(prefix: str, text: str) -> list[str]:
    """Tables that a prefix means: one, or both of WFC3."""
    wanted = prefix.upper()
    tables = [table for table in TABLES if table == wanted or table.partition("/")[0] == wanted]
    if not tables:
        raise ParameterError(f"dq flag {text!r}: tiledsky knows no flags of {prefix!r}, only of {', '.join(TABLES)}")
    return tables


def _tables_of_header(header: Mapping[str, Any] | None, text: str) -> list[str]:
    """Tables of the instrument that took an image."""
    words = {}
    for key in ("TELESCOP", "INSTRUME", "DETECTOR"):
        value = (header or {}).get(key, "")
        words[key] = value.strip().upper() if isinstance(value, str) else ""  # a card without a value says nothing
    instrument = words["INSTRUME"]
    if words["TELESCOP"] == "JWST" or instrument in _JWST_CAMERAS:
        return ["JWST"]
    both = f"{instrument}/{words['DETECTOR']}"
    tables = [both] if both in TABLES else [t for t in TABLES if instrument in (t, t.partition("/")[0])]
    if tables and words["TELESCOP"] in ("", "HST"):
        return tables
    named = ", ".join(f"{key} {word}" for key, word in words.items() if word) or "no instrument"
    raise ParameterError(
        f"dq flag {text!r} has a name and the header names {named}, whose flags tiledsky does not know; "
        f"write the instrument before the name ({', '.join(f'{t}:' for t in TABLES)}) or give the value "
        "of the bit"
    )
