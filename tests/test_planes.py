"""What planes say of pixels, against plain numpy and Python, pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from astropy.nddata.bitmask import bitfield_to_boolean_mask

from tiledsky.errors import InputError
from tiledsky.planes import INVALID, SOURCES, USER, base_mask, noise_scale, uncovered
from tiledsky.recipe import Recipe, check_noise

BAD = [math.nan, math.inf, -math.inf]


def planes() -> dict[str, np.ndarray[Any, Any]]:
    """Planes in which every kind of value meets every other."""
    rng = np.random.default_rng(5)
    size = (40, 50)
    return {
        "science": rng.choice([*BAD, 0.0, -3.0, 7.0], size, p=[0.05, 0.05, 0.05, 0.05, 0.4, 0.4]).astype(np.float32),
        "weight": rng.choice([math.nan, math.inf, -1.0, 0.0, -0.0, 2.0], size),
        "error": rng.choice([*BAD, -1.0, 0.0, 0.5, 2.0], size).astype(np.float32),
        "dq": rng.integers(0, 16, size).astype(np.int16),
        "coverage": rng.choice([0.0, -0.0, math.nan, -2.0, math.inf, 3.0], size),
        "user_mask": rng.choice([0, 1, 3], size).astype(np.uint8),
        "source_mask": rng.integers(0, 256, size).astype(np.uint8),
    }


def expected(values: dict[str, Any], dq_bits: int | None) -> int:
    """Bits of one pixel, by the words of the docstring."""
    bad = not math.isfinite(values["science"])
    if "weight" in values:
        bad |= not values["weight"] > 0
    if "error" in values:
        bad |= not math.isfinite(values["error"]) or values["error"] <= 0
    if "dq" in values:
        bad |= bool(values["dq"] if dq_bits is None else values["dq"] & dq_bits)
    if "coverage" in values:
        bad |= values["coverage"] == 0 or math.isnan(values["coverage"])
    bits = int(bad)
    if values.get("user_mask"):
        bits += 128
    return bits + sum(1 << b for b in range(1, 7) if values.get("source_mask", 0) >> b & 1)


ALL = planes()
GIVEN = [("science",), *[("science", name) for name in ALL if name != "science"], tuple(ALL)]


@pytest.mark.parametrize("dq_bits", [None, 0, 1, 6, 8 + 4096])
@pytest.mark.parametrize("names", GIVEN, ids="+".join)
def test_base_mask_by_single_pixels(names: tuple[str, ...], dq_bits: int | None) -> None:
    given = {name: ALL[name] for name in names}
    bits = base_mask(**given, dq_bits=dq_bits)
    assert bits.dtype == np.uint8
    for index in np.ndindex(bits.shape):
        values = {name: plane[index].item() for name, plane in given.items()}
        assert bits[index] == expected(values, dq_bits), (index, values)


def test_inputs_stay_as_they_are() -> None:
    before = {name: plane.copy() for name, plane in ALL.items()}
    base_mask(**ALL, dq_bits=3)
    noise_scale(weight=ALL["weight"])
    noise_scale(error=ALL["error"])
    for name, plane in ALL.items():
        np.testing.assert_array_equal(plane, before[name])


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u2", "i4", "u4", ">u4", "i8", "u8", "u1", "i1"])
def test_flags_up_to_the_sign_bit(dtype: str) -> None:
    """The highest flag of a signed plane is its sign; astropy sees the same flags in the unsigned plane."""
    kind = np.dtype(dtype)
    values = [0, 1, 2, 3, *(1 << b for b in range(8 * kind.itemsize)), (1 << 8 * kind.itemsize) - 1]
    unsigned = np.array([values], kind.newbyteorder("=").str.replace("i", "u"))
    dq = unsigned.view(unsigned.dtype.str.replace("u", kind.kind)).astype(kind)
    science = np.zeros(dq.shape)
    for bits in (1, 2 + 8, 1 << (8 * kind.itemsize - 1), 1 << 40, (1 << 40) + 4):
        found = base_mask(science, dq=dq, dq_bits=bits) != 0
        known = bits & ((1 << 8 * kind.itemsize) - 1)  # a flag beyond the type is nowhere set
        good = int(np.iinfo(unsigned.dtype).max) & ~known
        np.testing.assert_array_equal(found, bitfield_to_boolean_mask(unsigned, good, good_mask_value=False))


def test_flags_of_a_bool_plane() -> None:
    dq = np.array([[False, True]])
    assert base_mask(np.zeros((1, 2)), dq=dq, dq_bits=1).tolist() == [[0, 1]]
    assert base_mask(np.zeros((1, 2)), dq=dq, dq_bits=2).tolist() == [[0, 0]]


def test_planes_without_bits() -> None:
    pixels = np.ones((1, 2), np.float32)
    with pytest.raises(InputError, match="a dq plane of type float32 has no flags to choose from; give integers"):
        base_mask(pixels, dq=pixels, dq_bits=4)
    assert base_mask(pixels, dq=pixels).tolist() == [[1, 1]]
    with pytest.raises(InputError, match="source_mask of type bool has no bits to read; give the uint8 mask of a run"):
        base_mask(pixels, source_mask=pixels != 0)


def test_bits_fill_a_byte() -> None:
    assert int(INVALID) + int(SOURCES) + int(USER) == 255


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2", "i4", "u1"])
def test_scale_of_weights(dtype: str) -> None:
    values = [0, 1, 2, 100] if np.dtype(dtype).kind in "iu" else [0, -1, 2, 100, 1e-30, np.nan, np.inf, -np.inf]
    weight = np.array([values], dtype)
    scale = noise_scale(weight=weight, error=np.ones((1, len(values))))  # the weight is preferred
    assert scale.dtype == (np.float64 if dtype in ("f8", "i4") else np.float32)
    for w, s in zip(weight[0], scale[0], strict=True):
        assert s == (np.sqrt(scale.dtype.type(w)) if 0 < w < np.inf else 0)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scale_of_errors(dtype: str) -> None:
    tiny = np.finfo(dtype).smallest_subnormal  # its inverse is not finite
    error = np.array([[0, -1, 2, 0.1, np.nan, np.inf, -np.inf, tiny]], dtype)
    scale = noise_scale(error=error)
    assert scale.dtype == error.dtype
    one = error.dtype.type(1)
    assert scale.tolist() == [[0, 0, 0.5, float(one / error[0, 3]), 0, 0, 0, 0]]


def test_scale_makes_noise_even() -> None:
    rng = np.random.default_rng(8)
    error = rng.choice([0.5, 2.0, 8.0], (300, 300))
    noise = rng.normal(0, error)
    for scale in (noise_scale(error=error), noise_scale(weight=error**-2)):
        for level in (0.5, 2.0, 8.0):
            assert (noise * scale)[error == level].std() == pytest.approx(1, abs=0.02)


def test_no_plane_to_scale_by() -> None:
    with pytest.raises(InputError, match="no plane gives the noise of the pixels; give a weight or an error plane"):
        noise_scale()


def test_what_recipes_need() -> None:
    mask = {"kind": "mask", "name": "found", "tiers": [{"n_sigma": 3}]}
    ring, sky = {"kind": "ring", "radius_in": 4, "width": 2}, {"kind": "background", "name": "sky", "box_size": 8}
    recipes = [
        Recipe.from_dict({"name": "a", "steps": [ring, {**mask, "equalize": equalize}, sky]})
        for equalize in (True, False)
    ]
    for planes in ({"science"}, {"science", "dq", "coverage", "user_mask", "source_mask"}):
        with pytest.raises(InputError, match="mask step 'found' equalizes the noise and no plane gives it"):
            check_noise(recipes[0], planes)
        check_noise(recipes[1], planes)
    check_noise(recipes[0], {"science", "weight"})
    check_noise(recipes[0], {"science", "error"})


def test_uncovered() -> None:
    coverage = ALL["coverage"]
    bits = base_mask(**ALL)
    outside = uncovered(bits, coverage, where="coverage")
    np.testing.assert_array_equal(outside, np.isnan(coverage) | (coverage == 0))
    assert uncovered(bits, None, where="coverage") is None
    for plane in (coverage, None):
        np.testing.assert_array_equal(uncovered(bits, plane, where="invalid"), bits % 2 == 1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_coverage_of_integers(dtype: type) -> None:
    coverage = np.array([[0, 1]], dtype)
    assert base_mask(np.zeros((1, 2)), coverage=coverage).tolist() == [[1, 0]]
    assert np.asarray(uncovered(np.zeros((1, 2), np.uint8), coverage, where="coverage")).tolist() == [[True, False]]
