"""Weights of boxes in a fit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.whole_fits import weights_of

#: The typical noise is known to 2**-13 of itself; weights go by its square.
CLOSE = 2**-12


def test_noise_alone_makes_no_box_uneven():
    rng = np.random.default_rng(5)
    for n in (36, 9):
        rms = rng.normal(size=(120, 130, n)).std(axis=-1)
        assert (weights_of(np.full(rms.shape, n), rms, rms > 0, pixels=n) > 0).all()


def test_counts_of_which_most_boxes_have_none():
    rms = np.where(np.random.default_rng(6).random((30, 30)) < 0.2, 0.3, 0.0)
    assert (weights_of(np.full(rms.shape, 36), rms, rms >= 0, pixels=36) > 0).all()


def test_weights():
    n_good = np.full((9, 9), 100)
    n_good[2, 2], n_good[4, 4] = 50, 0
    rms = np.ones((9, 9), np.float32)
    rms[:, 6:] = 2.0
    rms[0, 0] = 50.0  # one box alone
    weight = weights_of(n_good, rms, n_good > 0, pixels=100)
    assert weight[2, 2] == pytest.approx(0.25, rel=CLOSE)
    assert weight[4, 4] == 0
    assert weight[0, 0] == 0  # more than noise
    assert weight[1, 1] == pytest.approx(1, rel=CLOSE)
    assert weight[3, 8] == pytest.approx(0.25, rel=CLOSE)
    assert (weights_of(n_good, 0 * rms, n_good > 0, pixels=100)[6:] == 1).all()
