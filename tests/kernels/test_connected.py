"""Connected regions of a list of places against scipy's of an image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tiledsky.kernels.residual.connected import connected


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.4, 0.7, 1.0])
def test_regions_are_those_of_scipy(share: float) -> None:
    for seed, shape in enumerate([(60, 70), (1, 90), (90, 1), (7, 300)]):
        flags = np.random.default_rng(seed).random(shape) < share
        y, x = (k.astype(np.int32) for k in np.nonzero(flags))
        # scipy numbers them by their first places, too
        expected = ndimage.label(flags, np.ones((3, 3)))[0][y, x] - 1
        assert np.array_equal(connected(y, x), expected)


def test_a_spiral_is_one_region() -> None:
    """Branches that meet late."""
    y, x = np.mgrid[:81, :81] - 40
    angle, radius = np.arctan2(y, x) / (2 * np.pi), np.hypot(y, x)
    flags = ((radius / 6 - angle) % 1 < 0.4) & (radius < 40)
    places = [k.astype(np.int32) for k in np.nonzero(flags)]
    expected = ndimage.label(flags, np.ones((3, 3)))[0][tuple(places)] - 1
    assert np.array_equal(connected(*places), expected)
