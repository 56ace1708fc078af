"""Kinds of blocks, against their definition pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from tiledsky.kernels.detection.constants import DIP, NEAR, SMOOTH, SOLID, UNUSED, block_kinds


def expected(block: np.ndarray, used: np.ndarray) -> int:
    if not used.all():
        return int(UNUSED)
    most = np.unique(block, return_counts=True)[1].max()
    if most >= 15:
        return int(SOLID if most == 16 else NEAR)
    low = 2 * float(np.finfo(block.dtype).eps) * np.abs(block) + block
    dips = [
        line[k - 1] > limit[k] and line[k + 1] > limit[k]
        for lines, limits in ((block, low), (block.T, low.T))
        for line, limit in zip(lines, limits, strict=True)
        for k in (1, 2)
    ]
    return int(DIP if any(dips) else SMOOTH)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_kind_of_block(dtype: type) -> None:
    rng = np.random.default_rng(3)
    image = rng.choice([-99.0, 0.0, 1.0, 2.5], (61, 83), p=[0.01, 0.96, 0.02, 0.01]).astype(dtype)
    image[:20, :40] = 7
    for odd in ((0, 0), (4, 5), (9, 10), (15, 15)):
        image[odd] = 3
    image[20:40] = rng.normal(1e6, 1, (20, 83))
    image[40:] = np.cumsum(rng.uniform(0, 1, (21, 83)), axis=1)
    used = rng.random(image.shape) < 0.99
    image[~used] = rng.choice([np.nan, np.inf, 7.0], np.count_nonzero(~used))
    kinds = block_kinds(image, used)
    assert kinds.shape == (15, 20)
    blocks = [[expected(image[y : y + 4, x : x + 4], used[y : y + 4, x : x + 4]) for x in range(0, 80, 4)]
              for y in range(0, 60, 4)]  # fmt: skip
    np.testing.assert_array_equal(kinds, blocks)
    assert set(kinds.ravel()) == set(range(5))
