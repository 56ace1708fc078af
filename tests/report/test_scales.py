"""Scales of colours: round ticks, offsets and powers taken out, and what a bent scale shows where."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tiledsky.report.colors import ColorRange
from tiledsky.report.scales import along, scales, ticks

LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def value_of(before: str, label: str) -> float:
    """What a reader takes a label for: offset + power x label."""
    text = before.replace("−", "-")
    offset = re.match(r"(.*?) \+ ", text)
    power = re.search("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+) ×", text)
    return (float(offset[1]) if offset else 0.0) + (10.0 ** int(power[1].translate(LOWERED)) if power else 1.0) * float(
        label.replace("−", "-")
    )


@pytest.mark.parametrize("bend", [0.0, 8.0])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((0, 1), (2000, 2030), (-0.4, 0.4), (-3e-13, 6e-13), (12.301, 12.304), (-3000, 2e6), (10000.1, 10000.2)),
        *((55, 61), (0.0012, 0.0013), (-5020, -5000), (-7e4, 9e4), (1e-3, 1e3)),
    ],
)
def test_labels_say_what_is_there(low: float, high: float, bend: float) -> None:
    """Labels are the values at their places to less than a pixel of a bar, short, in order, and enough of them."""
    before, found = ticks(low, high, bend)
    assert 2 <= len(found) <= 8
    values = [value for value, _ in found]
    assert values == sorted(values)
    assert all(low - 1e-9 * (high - low) <= value <= high + 1e-9 * (high - low) for value in values)
    for value, label in found:
        assert value_of(before, label) == pytest.approx(value, abs=1e-3 * (high - low) / (bend or 1.0))
        assert len(label) <= 6
    if not bend:
        assert np.ptp(np.diff(values)) < 1e-6 * (high - low)
        step = (values[1] - values[0]) / 10.0 ** np.floor(np.log10((values[1] - values[0]) * 1.000001))
        assert min(abs(step - round_one) for round_one in (1, 2, 5)) < 1e-3


def test_a_large_offset_is_taken_out() -> None:
    assert ticks(2000, 2030) == ("2020 + ", [(2000.0, "−20"), (2010.0, "−10"), (2020.0, "0"), (2030.0, "10")])
    assert ticks(-0.4, 0.4)[0] == ""


def test_stretches_of_a_field_of_stars() -> None:
    """The zscale is that of astropy; asinh is linear in the sky and reaches the bright pixels."""
    from astropy.visualization import AsinhStretch, ZScaleInterval

    rng = np.random.default_rng(5)
    cells = rng.normal(100, 1, (200, 200)).astype(np.float32)
    cells[:4] += rng.exponential(15, (4, 200)).astype(np.float32)
    cells[7, 7] = np.nan
    sky, zscale, asinh = scales("science", cells, ColorRange(97.0, 106.0, "even"))
    assert (sky.low, sky.high, sky.bend) == (97.0, 106.0, 0.0)
    assert (zscale.low, zscale.high) == pytest.approx(ZScaleInterval().get_limits(cells[np.isfinite(cells)]))
    assert asinh.low == 97.0
    assert asinh.high == pytest.approx(np.percentile(cells[np.isfinite(cells)], 99.9))
    for fraction in (0.01, 0.1, 0.5, 1.0):
        (known,) = AsinhStretch(a=1 / asinh.bend)(np.array([fraction]))
        assert along(fraction, asinh.bend) == pytest.approx(float(known))
    assert len(scales("residual", cells, ColorRange(-1.0, 1.0, "signed"))) == 1
    nothing = scales("science", np.full((3, 3), np.nan), ColorRange(0.0, 1.0, "even"))
    assert [scale.key for scale in nothing] == ["sky"]
