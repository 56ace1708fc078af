"""Data quality flags: names, values, and what astropy makes of the same words."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from astropy.io.fits import Header
from astropy.nddata.bitmask import BitFlagNameMap, bitfield_to_boolean_mask, interpret_bit_flags

from tiledsky.errors import ParameterError
from tiledsky.planes import base_mask
from tiledsky.recipe.dq import TABLES, dq_bits

HEADERS: dict[str, dict[str, str]] = {
    "JWST": {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG"},
    "ACS": {"TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC"},
    "WFC3/UVIS": {"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "UVIS"},
    "WFC3/IR": {"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "IR"},
    "WFPC2": {"TELESCOP": "HST", "INSTRUME": "WFPC2"},
}


def name_map(table: str) -> Any:
    """The table as astropy wants it."""
    return type("Flags", (BitFlagNameMap,), dict(TABLES[table]))


@pytest.mark.parametrize("table", TABLES)
def test_words_mean_what_they_mean_to_astropy(table: str) -> None:
    flags = name_map(table)
    rng = np.random.default_rng(3)
    names = list({value: name for name, value in TABLES[table].items()}.values())  # one name a bit
    chosen = [(n,) for n in names] + list(combinations(names, 2))
    chosen += [tuple(rng.choice(names, 5, replace=False).tolist()) for _ in range(20)]
    for some in chosen:
        expected = interpret_bit_flags(",".join(some), flag_name_map=flags)
        assert dq_bits(some, header=HEADERS[table]) == expected
        assert dq_bits(tuple(f"{table}:{n}".lower() for n in some)) == expected
        values = tuple(TABLES[table][n] for n in some)
        assert dq_bits(values) == interpret_bit_flags(values) == expected
        assert dq_bits(tuple(map(str, values))) == interpret_bit_flags(",".join(map(str, values)))


def test_cards_without_a_value_say_nothing() -> None:
    header = Header([("INSTRUME", "ACS"), ("TELESCOP", None), ("DETECTOR", None)])
    assert dq_bits(("HOT",), header=header) == TABLES["ACS"]["HOT"]
    with pytest.raises(ParameterError, match="the header names no instrument, whose flags tiledsky does not know"):
        dq_bits(("HOT",), header=Header([("INSTRUME", None)]))


def test_masks_are_those_of_astropy() -> None:
    """astropy ignores good bits; a recipe names the bad ones: the same mask by the complement."""
    rng = np.random.default_rng(9)
    dq = rng.integers(0, 1 << 32, (60, 70), dtype=np.uint32) & rng.integers(0, 1 << 32, (60, 70), dtype=np.uint32)
    for some in (("DO_NOT_USE",), ("SATURATED", "JUMP_DET"), ("REFERENCE_PIXEL", 4), tuple(TABLES["JWST"])):
        bits = dq_bits(some, header=HEADERS["JWST"])
        good = interpret_bit_flags(bits, flip_bits=True)
        expected = bitfield_to_boolean_mask(dq, good, good_mask_value=False)
        np.testing.assert_array_equal(base_mask(np.zeros(dq.shape), dq=dq, dq_bits=bits) != 0, expected)


def test_all_and_none() -> None:
    assert dq_bits("all") is None
    assert dq_bits(()) == 0
    assert dq_bits((4, "4", 4)) == 4
    assert dq_bits("ACS:HOT") == 16


# the values of documents, number by number
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("JWST:DO_NOT_USE", 1),
        ("JWST:SATURATED", 2),
        ("JWST:OUTLIER", 16),
        ("JWST:CHARGELOSS", 128),
        ("JWST:NON_SCIENCE", 512),
        ("JWST:HOT", 2048),
        ("JWST:TELEGRAPH", 32768),
        ("JWST:NO_FLAT_FIELD", 262144),
        ("JWST:UNRELIABLE_FLAT", 33554432),
        ("JWST:FLUX_ESTIMATED", 268435456),
        ("JWST:UNRELIABLE_RESET", 268435456),
        ("JWST:REFERENCE_PIXEL", 2147483648),
        ("ACS:HOT", 16),
        ("ACS:SATURATED", 256),
        ("ACS:AD_SATURATED", 2048),
        ("ACS:COSMIC_RAY_DRIZZLE", 4096),
        ("ACS:COSMIC_RAY", 8192),
        ("WFC3/UVIS:CHARGE_TRAP", 1024),
        ("WFC3/IR:BAD_ZERO_READ", 8),
        ("WFC3/IR:BAD_FLAT", 512),
        ("WFC3:SATURATED", 256),
        ("WFPC2:SATURATED", 8),
        ("WFPC2:WARM", 512),
        ("WFPC2:CHIP_MASKED", 2048),
    ],
)
def test_values(flag: str, value: int) -> None:
    assert dq_bits((flag,)) == value


@pytest.mark.parametrize("table", TABLES)
def test_tables_hold_single_bits_and_words_for_all_that_a_plane_has_room_for(table: str) -> None:
    values = set(TABLES[table].values())
    assert all(v & (v - 1) == 0 < v for v in values)
    unused = {"JWST": 0, "ACS": 0, "WFC3/UVIS": 0, "WFC3/IR": 0, "WFPC2": 64}[table]
    room = {"JWST": 1 << 32, "WFPC2": 1 << 12}.get(table, 1 << 15)
    assert sum(values) == room - 1 - unused
    assert all(name == name.upper() and name.isidentifier() for name in TABLES[table])


@pytest.mark.parametrize(
    ("header", "table"),
    [
        ({"TELESCOP": "JWST"}, "JWST"),
        ({"INSTRUME": "MIRI"}, "JWST"),
        ({"INSTRUME": "acs "}, "ACS"),
        ({"TELESCOP": "HST", "INSTRUME": "WFC3/IR"}, "WFC3/IR"),
        ({"TELESCOP": "HST", "INSTRUME": "WFPC2", "DETECTOR": 4}, "WFPC2"),
    ],
)
def test_headers_that_say_less(header: dict[str, Any], table: str) -> None:
    for form in (header, Header(header)):
        assert dq_bits(("SATURATED",), header=form) == TABLES[table]["SATURATED"]


def test_wfc3_without_a_detector() -> None:
    header = {"TELESCOP": "HST", "INSTRUME": "WFC3"}
    assert dq_bits(("HOT", "UNSTABLE"), header=header) == 48
    with pytest.raises(ParameterError, match="'OCCULTED' differs between WFC3/UVIS and WFC3/IR; write WFC3/UVIS:OC"):
        dq_bits(("OCCULTED",), header=header)
    with pytest.raises(ParameterError, match=r"'wfc3:spike' differs .*; write WFC3/IR:SPIKE"):
        dq_bits(("wfc3:spike",))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("SATURATION", "JWST has no dq flag 'SATURATION'; similar names: SATURATED"),
        ("JWST:JUMP", "JWST has no dq flag 'JUMP'; similar names: JUMP_DET"),
        ("ACS:JUMP_DET", "ACS has no dq flag 'JUMP_DET'; similar names: "),
        ("WFPC2:ZZ", "WFPC2 has no dq flag 'ZZ'; similar names: LOST, .*CHIP_MASKED"),
        ("WFC3:NONE", "WFC3/UVIS and WFC3/IR has no dq flag 'NONE'; similar names: "),
        (
            "NICMOS:HOT",
            "'NICMOS:HOT': tiledsky knows no flags of 'NICMOS', only of JWST, ACS, WFC3/UVIS, WFC3/IR, WFPC2",
        ),
        (0, "dq flag 0 is not a bit, so no pixel has it; give powers of two, or names"),
        (-4, "dq flag -4 is not a bit"),
        ("-4", "dq flag -4 is not a bit"),
        (6, "dq flag 6 is not a single bit; give its parts 2, 4 if you mean them"),
        ("", "JWST has no dq flag ''"),
    ],
)
def test_flags_that_are_none(flag: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        dq_bits((1, flag), header=HEADERS["JWST"])


@pytest.mark.parametrize("value", [6, 3])
def test_astropy_refuses_sums_in_lists_too(value: int) -> None:
    with pytest.raises(ValueError, match="invalid"):
        interpret_bit_flags([1, value])


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (None, "names no instrument"),
        ({}, "names no instrument"),
        ({"TELESCOP": "VST", "INSTRUME": "OMEGACAM"}, "names TELESCOP VST, INSTRUME OMEGACAM"),
        ({"TELESCOP": "HST", "INSTRUME": "NICMOS", "DETECTOR": "3"}, "names TELESCOP HST, INSTRUME NICMOS, DETECTOR 3"),
        ({"TELESCOP": "SIMULATOR", "INSTRUME": "ACS"}, "names TELESCOP SIMULATOR, INSTRUME ACS"),
    ],
)
def test_images_of_instruments_that_are_not_known(header: Any, named: str) -> None:
    with pytest.raises(
        ParameterError, match=f"'HOT' has a name and the header {named}, whose flags tiledsky does not know"
    ):
        dq_bits(("HOT",), header=header)
    assert dq_bits((16,), header=header) == 16
    assert dq_bits(("WFC3/IR:HOT",), header=header) == 16
