"""Medians from counts by bin: against numpy's median; merging in any order; bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.statistics.counted import CountedValues

ANY_FLOAT = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(width=64))
ONE_SIGN = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(2.3e-308, 1.7e308))
WIDTH = 2.0**-13


@settings(deadline=None)
@given(ANY_FLOAT)
def test_counts_the_finite_values_of_anything(values):
    counted = CountedValues.of(values)
    finite = np.sort(values[np.isfinite(values)])
    assert counted.n == finite.size
    assert CountedValues.from_bytes(counted.to_bytes()).to_bytes() == counted.to_bytes()
    if finite.size % 2:
        true = float(finite[finite.size // 2])
        assert abs(counted.median() - true) <= WIDTH * abs(true) + 2.3e-308
    else:
        low, high = finite[finite.size // 2 - 1 : finite.size // 2 + 1] / 2 if finite.size else (np.nan, np.nan)
        near = WIDTH * (abs(low) + abs(high)) + 5e-308
        np.testing.assert_allclose(counted.median(), low + high, rtol=0, atol=near, equal_nan=True)


@settings(deadline=None)
@given(ONE_SIGN)
def test_the_median_of_one_sign_is_good_to_a_bin(values):
    with np.errstate(over="ignore"):
        true = float(np.median(values / 4))
    assert 4 * abs(CountedValues.of(values).median() / 4 - true) <= 4 * WIDTH * true
    assert CountedValues.of(-values).median() == pytest.approx(-CountedValues.of(values).median(), rel=1e-15)


@pytest.mark.parametrize("value", [1.0, -1.0, 1 + 2.0**-52, 2 - 2.0**-52, 3e-40, -7e200, 1.7976931348623157e308])
def test_one_value_many_times(value):
    assert CountedValues.of(np.full(7, value)).median() == pytest.approx(value, rel=WIDTH)


def test_zero_is_zero_and_nothing_has_no_median():
    assert CountedValues.of(np.array([0.0, -0.0, 0.0, 5.0, -1e-320])).median() == 0.0
    assert CountedValues.of(np.float32([-1, 0, 1])).median() == 0.0
    for empty in (CountedValues.of(np.full(5, np.nan)), CountedValues.merged([]), CountedValues.of(np.zeros((0, 3)))):
        assert np.isnan(empty.median())
        assert empty.n == 0
        assert CountedValues.from_bytes(empty.to_bytes()).n == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_median_of_a_mesh(dtype):
    mesh = np.random.default_rng(1).normal(20.0, 3.0, (300, 401)).astype(dtype)
    mesh[::7, ::5] = np.nan
    mesh[3, 3] = np.inf
    known = mesh[np.isfinite(mesh)]
    assert CountedValues.of(mesh).median() == pytest.approx(np.median(known), rel=2e-6)  # far better than a bin
    # float32 values and the same as float64 lie in the same bins
    assert CountedValues.of(mesh.astype(np.float64)).to_bytes() == CountedValues.of(mesh).to_bytes()


def test_merged_in_any_order_and_any_parts(monkeypatch):
    rng = np.random.default_rng(2)
    values = rng.lognormal(0, 20, 20_000) * rng.choice([-1, 1], 20_000)
    whole = CountedValues.of(values)
    assert np.array_equal(whole.keys, np.unique(whole.keys))
    parts = [CountedValues.of(part) for part in np.array_split(values, 37)]
    monkeypatch.setattr("tiledsky.kernels.statistics.counted._BLOCK", 500)
    for order in (
        parts,
        parts[::-1],
        [CountedValues.merged(parts[:9]), *parts[20:], CountedValues.merged(parts[9:20])],
    ):
        merged = CountedValues.merged(iter(order))
        assert merged.to_bytes() == whole.to_bytes()
    assert CountedValues.of(values).to_bytes() == whole.to_bytes()
    assert merged.n == values.size


def test_counts_beyond_32_bits():
    part = CountedValues.of(np.array([1.0, 2.0, 2.0]))
    for _ in range(40):
        part = CountedValues.merged([part, part])
    assert part.n == 3 * 2**40
    assert CountedValues.from_bytes(part.to_bytes()).median() == pytest.approx(2.0, rel=WIDTH)


def test_refuses():
    with pytest.raises(ParameterError, match="dtype <i8"):
        CountedValues.of(np.arange(3))
    with pytest.raises(ParameterError, match="dtype >f4"):
        CountedValues.of(np.ones(3, ">f4"))
    data = CountedValues.of(np.arange(5.0)).to_bytes()
    with pytest.raises(InputError, match="are not a CountedValues"):
        CountedValues.from_bytes(b"x" + data)
    with pytest.raises(InputError, match="should have"):
        CountedValues.from_bytes(data[:-1])
    with pytest.raises(InputError, match="not in order or empty"):
        CountedValues.from_bytes(data[:17] + data[21:25] + data[17:21] + data[25:])
