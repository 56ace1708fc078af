"""Boxes in blocks: averages as numpy has them, cubics come back, and any region has the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from tiledsky.geometry import Region
from tiledsky.kernels.fit.coarse import BLOCK_HALO, at_boxes, averaged
from tiledsky.kernels.fit.windows import Window


def test_averages_are_those_of_numpy():
    rng = np.random.default_rng(2)
    values, weight = rng.normal(5.0, 1.0, (18, 23)), rng.uniform(0.1, 1.0, (18, 23)).astype(np.float32)
    weight[rng.random(weight.shape) < 0.3] = 0.0
    weight[8:12, 4:8] = 0.0
    values[weight == 0.0] = np.nan
    mean, total = averaged(values, weight, 4)
    assert mean.shape == total.shape == (5, 6)
    for y, x in np.ndindex(mean.shape):
        part = np.s_[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        v, w = values[part][weight[part] > 0.0], weight[part][weight[part] > 0.0].astype(np.float64)
        np.testing.assert_allclose(total[y, x], w.sum() / 16.0, rtol=1e-6)
        if w.size:
            np.testing.assert_allclose(mean[y, x], np.average(v, weights=w), rtol=1e-12)
        else:
            assert np.isnan(mean[y, x])
    assert averaged(values.astype(np.float32), weight, 4)[0].dtype == np.float32


@pytest.mark.parametrize("shape", [(9, 12), (4, 5), (3, 2), (1, 7)])
def test_polynomials_come_back(shape):
    """Cubics, as far as the number of blocks along an axis determines them; also beyond the last middle."""
    times, rng = 4, np.random.default_rng(4)
    y, x = ((np.arange(times * n) + 0.5) / times - 0.5 for n in shape)
    along = [np.polynomial.Polynomial(rng.normal(size=min(n, 4))) for n in shape]
    blocks = np.multiply.outer(along[0](np.arange(shape[0])), along[1](np.arange(shape[1])))
    region = Region(0, y.size, 0, x.size)
    made = at_boxes(Window(blocks, Region.whole(shape)), region, shape, times)
    truth = np.multiply.outer(along[0](y), along[1](x))
    np.testing.assert_allclose(made, truth, rtol=1e-10, atol=1e-10 * np.abs(truth).max())


def test_a_region_needs_its_halo_alone():
    times, shape = 4, (20, 24)
    blocks = np.random.default_rng(5).normal(size=shape)
    whole = at_boxes(Window(blocks, Region.whole(shape)), Region(0, 80, 0, 93), shape, times)
    for region in (Region(0, 13, 0, 9), Region(21, 50, 33, 64), Region(60, 80, 80, 93)):
        of_blocks = Region(region.y0 // times, -(-region.y1 // times), region.x0 // times, -(-region.x1 // times))
        window = Window.about(blocks, of_blocks, (BLOCK_HALO, BLOCK_HALO))
        np.testing.assert_array_equal(at_boxes(window, region, shape, times), whole[region.slices])
