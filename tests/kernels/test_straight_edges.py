"""Steps along straight lines: those that were put in, wherever they lie; nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tiledsky.kernels.residual import straight_edges as edges
from tiledsky.kernels.residual.straight_edges import straight_edges

SIZE = 120


def noise(seed: int = 0, shape: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def distance(angle: float, y: float = 60.0, x: float = 55.0, size: int = SIZE) -> NDArray[np.float64]:
    """Distance from a line through (y, x), of the middles of boxes."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.asarray((rows - y) * c - (columns - x) * s)


def found(values: Any, weight: Any = None) -> NDArray[np.void]:
    return straight_edges(values, np.ones(values.shape) if weight is None else weight)


@pytest.mark.parametrize("angle", [0.0, 1.0, 4.0, 20.0, 45.0, 70.0, 90.0, 92.0, 135.0, 179.0])
@pytest.mark.parametrize("height", [1.6, -1.6])
def test_a_step_is_found_with_its_place_and_height(angle: float, height: float) -> None:
    beyond = distance(angle)
    # larger y, of steep lines larger x
    sign = np.sign(np.cos(np.radians(angle))) if abs(np.tan(np.radians(angle))) <= 1.01 else -1
    made = found(noise() + sign * height * (beyond > 0))
    assert 1 <= len(made) <= 3
    one = made[0]
    assert one["step"] == pytest.approx(height, abs=4 * one["error"])
    # two boxes on each side, or the scatter of eight parts
    assert 0.95 / np.sqrt(SIZE) <= one["error"] <= 2.5 / np.sqrt(SIZE)
    for y, x in ((one["y0"], one["x0"]), (one["y1"], one["x1"])):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        assert abs((y - 60.0) * c - (x - 55.0) * s) < 2.0
    # of most of the line
    length = np.hypot(one["y1"] - one["y0"], one["x1"] - one["x0"])
    assert length > 60


def test_steps_of_part_of_a_map() -> None:
    """A corner of an exposure: two edges with ends, and not farther."""
    values = noise(1, (128, 128))
    values[40:, 64:] += 1.8
    made = found(values)
    assert len(made) == 2
    first, second = sorted(made, key=lambda one: one["y1"] - one["y0"])
    assert (first["y0"], first["y1"]) == pytest.approx((40, 40), abs=1.5)
    assert (first["x0"], first["x1"]) == pytest.approx((64, 128), abs=1.5)
    assert (second["x0"], second["x1"]) == pytest.approx((64, 64), abs=1.5)
    assert second["y0"] >= 32


@pytest.mark.parametrize("shape", [(120, 120), (40, 300), (300, 33), (1, 200), (200, 3), (5, 5), (97, 211)])
def test_noise_has_none(shape: tuple[int, int]) -> None:
    for seed in range(4):
        assert not len(found(noise(seed, shape)))


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert not len(found(np.zeros((64, 64))))
    assert not len(found(noise(), np.zeros((SIZE, SIZE))))


@pytest.mark.parametrize(
    "bent",
    [
        lambda y, x: 0.2 * y + 0.1 * x,
        lambda y, x: ((y - 60) ** 2 + x * y) / 800,
        lambda y, x: 12 * np.exp(-((y - 50) ** 2 + (x - 70) ** 2) / (2 * 6.0**2)),
        lambda y, x: 3 * (np.abs(y - 60 - 0.1 * x) < 1),
        lambda y, x: 3 * np.exp(-((y - 60 - 0.1 * x) ** 2) / (2 * 1.5**2)),
    ],
    ids=["slope", "parabola", "star", "spike", "wide spike"],
)
def test_what_is_no_step_is_none(bent: Any) -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    for seed in range(3):
        assert not len(found(noise(seed) + bent(y, x)))


def test_what_is_not_seen_does_not_count() -> None:
    values, weight = noise(2), np.ones((SIZE, SIZE))
    values += 1.6 * (distance(3.0) > 0)
    hidden = np.random.default_rng(3).random(weight.shape) < 0.25
    weight[hidden], values[hidden] = 0.0, np.nan
    made = found(values, weight)
    assert made[0]["step"] == pytest.approx(1.6, abs=4 * made[0]["error"])
    values[hidden] = 1e6
    assert np.array_equal(found(values, weight), made)


def test_a_step_is_the_same_seen_from_all_sides() -> None:
    values = noise(4) + 1.8 * (distance(10.0) > 0)
    one, across, below = found(values)[0], found(values.T)[0], found(values[::-1])[0]
    assert (across["y0"], across["x0"], across["y1"], across["x1"]) == (one["x0"], one["y0"], one["x1"], one["y1"])
    assert (below["y0"], below["y1"]) == (SIZE - one["y0"], SIZE - one["y1"])
    assert across["step"] == one["step"] == -below["step"]
    assert across["error"] == one["error"] == below["error"]


def test_sums_along_lines_are_those_of_their_boxes() -> None:
    rows, length = 40, 8
    values = np.random.default_rng(5).integers(-9, 10, (rows, 2 * length)).astype(np.float64)
    sums = values.T[:, None, None, :]
    while sums.shape[1] < length:
        sums = edges._longer(sums)
    assert sums.shape == (2, length, 1, rows)
    for move in range(length):
        offsets = edges._offsets(length, move)
        assert (offsets[0], offsets[-1]) == (0, move)
        assert np.abs(offsets - move * np.arange(length) / (length - 1)).max() <= 1.0
        for strip in range(2):
            columns = strip * length + np.arange(length)
            for row in range(rows - move):
                assert sums[strip, move, 0, row] == values[row + offsets, columns].sum()


def test_the_list_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(6) + 1.8 * (distance(0.0) > 0) + 1.8 * (distance(90.0) > 0)
    assert len(found(values)) >= 2
    monkeypatch.setattr(edges, "MOST", 1)
    assert len(found(values)) == 1
