"""Whole recipes on dask arrays: the same bits in any chunks."""

import numpy as np
import pytest

from tests.arrays.test_estimate import COMPLEX, _holes, _plain
from tiledsky.arrays.estimate import estimate_background
from tiledsky.testing import assert_tile_invariant


def _small(case, dtype=None):
    cut = (slice(100, 190), slice(160, 270))
    image = case.image[cut] if dtype is None else case.image[cut].astype(dtype)
    return {"image": image} | {k: v[cut] for k, v in case.planes.items() if v is not None}


def test_the_whole_recipe_does_not_depend_on_chunks():
    planes = _small(_holes())
    image = planes.pop("image")
    assert np.isnan(image).any()
    planes["weight"][10:30, 10:30] = 0

    def build(image, **planes):
        return estimate_background(image, COMPLEX, **planes)

    assert_tile_invariant(build, image, **planes)


@pytest.mark.parametrize("dtype", ["f8", "i2"])
def test_other_types_do_not_depend_on_chunks(dtype):
    image = (_plain().image[:70, :90] * 1000).astype(dtype)

    def build(image):
        return estimate_background(image, COMPLEX)

    assert_tile_invariant(build, image, chunks=[(23, 31), ((1, 40, 28, 1), 90)])


def test_sextractor_does_not_depend_on_chunks():
    planes = _small(_holes())
    image = planes.pop("image")
    assert_tile_invariant(lambda image, **planes: estimate_background(image, "sextractor", **planes), image, **planes)
