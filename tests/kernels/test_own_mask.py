"""Compact light beside scipy, in any window; sums of boxes beside numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.kernels.residual.box_columns import COLUMNS, box_columns
from tiledsky.kernels.residual.own_mask import COMPACT, WINGS, compact_light

CELLS = (4, 5)
SHAPE = (4 * 64 - 9, 5 * 64 - 23)


def scene(seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Noise with stars, on a sky that is wrong by a step and a slope; some pixels are lost."""
    random = np.random.default_rng(seed)
    image = random.normal(0, 1, SHAPE)
    for y, x in random.integers(10, 240, (25, 2)):
        image[y, x] += 80
    image = ndimage.gaussian_filter(image, 1.0) * 3
    image[:, 130:] += 4
    image[90:93, 40:44] -= 9
    image[170, 60] += 3000
    state = (random.random(SHAPE) < 0.02).astype(np.uint8) * np.uint8(2)
    return np.where(state == 2, 0, image).astype(np.float32), state


def by_scipy(values: NDArray[Any], state: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Compact light; that with its wings, and defects."""
    taps = np.array([1.0, 2, 3, 2, 1])
    smooth = ndimage.correlate1d(ndimage.correlate1d(values.astype(float), taps, axis=0), taps, axis=1)
    smooth[:2] = smooth[-2:] = smooth[:, :2] = smooth[:, -2:] = 0
    padded = [np.zeros((CELLS[0] * 8, CELLS[1] * 8)) for _ in range(2)]
    for total, plane in zip(padded, (values * (state != 2), (state != 2).astype(float)), strict=True):
        whole = np.zeros((CELLS[0] * 64, CELLS[1] * 64))
        whole[: SHAPE[0], : SHAPE[1]] = plane
        total += ndimage.uniform_filter(whole.reshape(total.shape[0], 8, -1, 8).sum(axis=(1, 3)), 3, mode="constant")
    level = smooth.copy()
    smooth -= 81 * np.kron(padded[0] / np.maximum(padded[1], 1e-9), np.ones((8, 8)))[: SHAPE[0], : SHAPE[1]]
    seeds, low = np.zeros((5, *SHAPE), bool), np.zeros(SHAPE, bool)
    for top in range(0, SHAPE[0], 64):
        for left in range(0, SHAPE[1], 64):
            cell = slice(top, min(top + 64, SHAPE[0])), slice(left, min(left + 64, SHAPE[1]))
            ends = (56 if top + 64 <= SHAPE[0] else -2), (56 if left + 64 <= SHAPE[1] else -2)
            some = slice(8, ends[0], 2), slice(8, ends[1], 2)
            inner = smooth[cell][some][state[cell][some] != 2]
            middle = np.median(inner)
            limit = 4 * 1.4826022185056018 * np.median(np.abs(inner - middle))
            for k in range(5):
                seeds[k][cell] = smooth[cell] > middle + limit * 5**k
            low[cell] = (smooth[cell] < middle - limit) & (level[cell] < -limit)
    square = np.ones((7, 7), bool)
    square[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    compact = ndimage.binary_dilation(seeds[0], square)
    wide = compact | ndimage.binary_dilation(low, square)
    for seed, radius in zip(seeds[1:], (6, 12, 20, 32), strict=True):
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        wide |= ndimage.binary_dilation(seed, y * y + x * x <= radius * radius)
    return np.asarray(compact), np.asarray(wide)


def test_compact_light_beside_scipy() -> None:
    values, state = scene()
    found = compact_light(values, state, origin=(0, 0), cells=CELLS)
    for bit, expected in zip((COMPACT, WINGS), by_scipy(values, state), strict=True):
        assert np.count_nonzero((found & bit != 0) != expected) <= 2  # float32 beside float64
        assert 0.01 < expected.mean() < 0.15
    assert found[91, 42] == WINGS
    assert found[170, 60 + 18] == WINGS


@pytest.mark.parametrize("seed", range(5))
def test_a_cell_has_the_same_bits_in_any_window(seed: int) -> None:
    values, state = scene(seed)
    whole = compact_light(values, state, origin=(0, 0), cells=CELLS)
    for top, bottom, left, right in ((1, 3, 1, 3), (2, 4, 3, 5), (0, 1, 2, 3)):
        y0, x0 = max(64 * top - 64, 0), max(64 * left - 64, 0)
        part = slice(y0, 64 * bottom + 64), slice(x0, 64 * right + 64)
        origin = (64 * top - y0, 64 * left - x0)
        window = np.ascontiguousarray(values[part]), np.ascontiguousarray(state[part])
        found = compact_light(*window, origin=origin, cells=(bottom - top, right - left))
        # and 3 px beyond, where there are any
        first, last = (max(64 * n - 3, 0) for n in (top, left)), (64 * bottom + 3, 64 * right + 3)
        (v, u), (bottom_end, right_end) = first, last
        assert np.array_equal(
            found[v - y0 : bottom_end - y0, u - x0 : right_end - x0], whole[v:bottom_end, u:right_end]
        )


def test_neither_noise_nor_a_wrong_sky_is_masked() -> None:
    y, x = np.mgrid[:512, :512]
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(0, 1, (512, 512)), 0.8) * 2.8
    for wrong in (0.0, 3 * np.sin(x / 60) * np.cos(y / 70), 0.02 * x):
        found = compact_light(
            (noise + wrong).astype(np.float32), np.zeros((512, 512), np.uint8), origin=(0, 0), cells=(8, 8)
        )
        assert (found != 0).mean() < 0.01


@pytest.mark.parametrize("box", [8, 16, 64])
def test_sums_of_boxes_beside_numpy(box: int) -> None:
    random = np.random.default_rng(5)
    science, background, rms = (random.normal(m, 1, SHAPE).astype(np.float32) for m in (9, 7, 20))
    state = random.choice([0, 1, 2], SHAPE, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    masked = (random.random(SHAPE) < 0.1).astype(np.uint8)
    science[state == 2] = np.nan
    found = box_columns(science, background, rms, state, masked, box=box, limit=0.05)
    assert found.shape == (-(-SHAPE[0] // box), -(-SHAPE[1] // box), COLUMNS)
    for i, j in ((0, 0), (1, 2), (found.shape[0] - 1, found.shape[1] - 1)):
        part = slice(box * i, box * i + box), slice(box * j, box * j + box)
        image, valid = science[part].astype(float), state[part] != 2
        sky = (state[part] == 0) & (masked[part] == 0)
        sky &= np.abs(image - image[sky].mean()) <= 0.05 * rms[part][valid].mean(dtype=float)
        expected = [sky.sum(), image[sky].sum(), valid.sum()]
        expected += [plane[part][valid].sum(dtype=float) for plane in (science, background, rms)]
        assert found[i, j] == pytest.approx(expected, rel=1e-12)
