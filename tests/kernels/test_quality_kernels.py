"""Kernels of the tests of a background, against scipy, numpy and photutils."""

from __future__ import annotations

import numpy as np
import pytest
from photutils.detection import find_peaks as photutils_peaks
from scipy import ndimage

from tiledsky.errors import ParameterError
from tiledsky.kernels.residual.apertures import aperture_sums, box_excess, box_is_good
from tiledsky.kernels.residual.cell_sums import CELL, LAGS, WIDTHS, block_columns, moment_columns, pair_columns
from tiledsky.kernels.residual.local_sky import local_quadratic
from tiledsky.kernels.residual.mask_distance import squared_distance
from tiledsky.kernels.residual.peaks import RADIUS, find_peaks
from tiledsky.kernels.residual.sky_sums import GOOD, LOST, MASKED, pixel_planes


@pytest.mark.parametrize(("share", "limit"), [(0.3, 5), (0.01, 20), (0.0005, 64), (0.0, 7), (1.0, 7)])
def test_distances_are_those_of_scipy(share: float, limit: int) -> None:
    mask = np.random.default_rng(1).random((131, 87)) < share
    expected = np.full(mask.shape, 10**6)
    if mask.any():
        expected = np.rint(ndimage.distance_transform_edt(~mask) ** 2).astype(int)
    expected = np.where(expected > limit**2, (limit + 1) ** 2, expected)
    np.testing.assert_array_equal(squared_distance(mask, limit), expected)


def test_distances_need_a_halo_of_the_limit() -> None:
    mask = np.random.default_rng(2).random((90, 90)) < 0.002
    whole = squared_distance(mask, 10)[30:60, 30:60]
    np.testing.assert_array_equal(squared_distance(mask[20:70, 20:70], 10)[10:40, 10:40], whole)
    edge = np.zeros((50, 50), bool)
    edge[0, 25] = True
    assert squared_distance(edge, 10)[10, 25] == 100
    assert squared_distance(edge[1:], 10)[9, 25] == 121  # less halo does not see it


def test_local_sky_is_a_weighted_least_squares_fit() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 65, (20, 23)).astype(float)
    means = rng.normal(size=counts.shape)
    found = local_quadratic(counts, counts * means, sigma=2.5, radius=7, worst=1.0)
    for y, x in [(0, 0), (10, 11), (19, 3)]:
        j, i = np.mgrid[max(y - 7, 0) : min(y + 8, 20), max(x - 7, 0) : min(x + 8, 23)]
        dy, dx = (j - y).ravel().astype(float), (i - x).ravel().astype(float)
        weight = np.sqrt(counts[j, i].ravel() * np.exp(-0.5 * (dy**2 + dx**2) / 2.5**2))
        terms = np.stack([np.ones_like(dy), dy, dx, dy**2, dy * dx, dx**2], axis=1)
        fit = np.linalg.lstsq(terms * weight[:, None], means[j, i].ravel() * weight, rcond=None)[0]
        np.testing.assert_allclose(found[y, x], fit[:3], rtol=1e-9, atol=1e-12)


def test_local_sky_follows_a_quadratic_and_says_what_it_does_not_know() -> None:
    y, x = np.mgrid[:30, :30].astype(float)
    sky = 3 + 0.1 * y - 0.2 * x + 0.01 * y * x + 0.02 * x**2
    counts = np.full(sky.shape, 10.0)
    counts[8:22, 8:22] = 0
    found = local_quadratic(counts, counts * sky, sigma=2.5, radius=7, worst=0.02)
    known = np.isfinite(found[..., 0])
    np.testing.assert_allclose(found[known][:, 0], sky[known], rtol=1e-9)
    assert known[4:8, 4:26].all()  # at corners too little is around
    assert not known[15, 15]


def test_blocks_and_pairs_against_loops() -> None:
    rng = np.random.default_rng(4)
    good = (rng.random((150, 140)) < 0.7).astype(np.uint8)
    values = rng.normal(size=good.shape).astype(np.float32) * good
    columns, kept = block_columns(values, good, origin=(10, 5), cells=(2, 2))
    pairs = pair_columns(values, good, origin=(10, 5), cells=(2, 2))
    ys, xs = slice(10 + CELL, 10 + 2 * CELL), slice(5 + CELL, 5 + 2 * CELL)
    for k, width in enumerate(WIDTHS):
        n = total = squares = 0.0
        for y in range(ys.start, ys.stop, width):
            for x in range(xs.start, xs.stop, width):
                g = good[y : y + width, x : x + width].sum()
                if 2 * g >= width * width:
                    v = values[y : y + width, x : x + width].astype(float)
                    n, total, squares = n + 1, total + v.sum() ** 2 / g, squares + (v**2).sum() / g
        np.testing.assert_allclose(columns[1, 1, k], (n, total, squares), rtol=1e-9)
    assert kept[4, 4, 0] == good[74:90, 69:85].sum()
    for k, (dy, dx) in enumerate(LAGS):
        ends = slice(ys.start + dy, ys.stop + dy), slice(xs.start + dx, xs.stop + dx)
        other = np.zeros((CELL, CELL))
        cut = values[ends].astype(float)
        other[: cut.shape[0], : cut.shape[1]] = cut
        np.testing.assert_allclose(pairs[1, 1, k, 1], (values[ys, xs] * other).sum(), rtol=1e-4, atol=1e-3)
    moments = moment_columns(values, values, good, origin=(10, 5), cells=(2, 2))
    inside = values[ys, xs][good[ys, xs] == 1].astype(float)
    np.testing.assert_allclose(moments[1, 1, 6], (inside[abs(inside) <= 5] ** 3).sum(), rtol=1e-9)


def test_peaks_are_those_of_photutils() -> None:
    rng = np.random.default_rng(5)
    image = ndimage.gaussian_filter(rng.normal(size=(200, 190)), 2).astype(np.float32) * 20
    everywhere = slice(0, 200), slice(0, 190)
    found = find_peaks(image, threshold=5.0, rows=everywhere[0], columns=everywhere[1])
    smooth = 3 * ndimage.uniform_filter(image.astype(float), 3)
    table = photutils_peaks(smooth, 5.0, box_size=2 * RADIUS + 1)
    expected = [(int(y), int(x)) for y, x in zip(table["y_peak"], table["x_peak"], strict=True)]
    inner = [
        sorted((y, x) for y, x in peaks if 12 <= y < 188 and 12 <= x < 178)  # at borders photutils repeats pixels
        for peaks in (expected, map(tuple, found[:, :2].astype(int).tolist()))
    ]
    assert inner[0] == inner[1]
    assert len(inner[0]) > 10


def test_flux_and_size_of_a_peak() -> None:
    y, x = np.mgrid[:60, :60]
    image = (200 * np.exp(-((y - 31) ** 2 + (x - 28) ** 2) / (2 * 1.5**2))).astype(np.float32)
    (found,) = find_peaks(image, threshold=5.0, rows=slice(0, 60), columns=slice(0, 60))
    assert found[:2].tolist() == [31, 28]
    assert found[2] == pytest.approx(200 * 2 * np.pi * 1.5**2, rel=1e-3)
    assert found[3] == pytest.approx(1.5, rel=0.05)


def test_distances_of_some_rows_go_farther() -> None:
    mask = np.random.default_rng(6).random((80, 130)) < 0.003
    found = squared_distance(mask, 30, rows=slice(20, 50), elsewhere=4)
    whole, near = squared_distance(mask, 30), squared_distance(mask, 4)
    np.testing.assert_array_equal(found[20:50], whole[20:50])
    others = np.r_[:20, 50:80]
    np.testing.assert_array_equal(found[others], np.where(near[others] <= 16, near[others], 31**2))
    assert (found[others] != whole[others]).any()
    with pytest.raises(ParameterError, match="limit 181 px: squares are kept in 16 bits; give 1 to 180"):
        squared_distance(mask, 181)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_pixel_is(dtype: type) -> None:
    rng = np.random.default_rng(7)
    science, background = (rng.normal(size=(40, 50)).astype(dtype) for _ in range(2))
    rms, bits = rng.random((40, 50)).astype(dtype), rng.integers(0, 8, (40, 50)).astype(np.uint8)
    for k, value in enumerate((np.nan, np.inf, -np.inf)):
        science[k], background[10 + k], rms[20 + k] = value, value, value
    rms[30], rms[31], science[0, 0], background[0, 0] = 0, -1, np.inf, np.inf
    state, residual, scaled = pixel_planes(science, background, rms, bits)
    with np.errstate(all="ignore"):
        expected = science - background
        lost = (bits & 1 != 0) | ~np.isfinite(expected) | ~(rms > 0)
        over = np.where(lost, 0, expected / rms).astype(np.float32)
    np.testing.assert_array_equal(state, np.where(lost, LOST, np.where(bits > 1, MASKED, GOOD)))
    np.testing.assert_array_equal(residual, expected)
    assert residual.dtype == dtype
    np.testing.assert_array_equal(scaled, over)


def test_places_against_loops() -> None:
    rng = np.random.default_rng(8)
    image, rms = (rng.normal(1, 0.1, (64, 72)).astype(np.float32) for _ in range(2))
    around = rng.normal(size=(8, 9, 3))
    around[3, 3] = np.nan
    state = (rng.random(image.shape) < 0.01).astype(np.uint8)
    y, x = rng.integers(0, 64, (40, 5)), rng.integers(0, 72, (40, 5))
    excess, good = box_excess(image, around, y, x, box=5), box_is_good(state, y, x, box=5)
    whole, light, noise = aperture_sums(image, rms, state, y, x, radius=4)
    v, u = np.mgrid[-4:5, -4:5]
    disc = v**2 + u**2 <= 16
    for k in np.ndindex(y.shape):
        j, i = int(y[k]), int(x[k])
        inside = min(j, i, 63 - j, 71 - i)
        sky = around[j // 8, i // 8] @ (1, (j % 8 - 3.5) / 8, (i % 8 - 3.5) / 8)
        mean = image[j - 2 : j + 3, i - 2 : i + 3].mean(dtype=float) if inside >= 2 else np.nan
        assert excess[k] == pytest.approx(mean - sky, rel=1e-12, nan_ok=True)
        below = max(j - 2, 0), max(i - 2, 0)
        assert good[k] == (j < 62 and i < 70 and not state[below[0] : j + 3, below[1] : i + 3].any())
        square = slice(j - 4, j + 5), slice(i - 4, i + 5)
        assert whole[k] == (inside >= 4 and not state[square][disc].any())
        if whole[k]:
            assert light[k] == pytest.approx(image[square][disc].sum(dtype=float), rel=1e-12)
            assert noise[k] == pytest.approx((rms[square][disc].astype(float) ** 2).sum(), rel=1e-12)
    assert whole.any()
    assert good.any()


def test_pairs_leave_out_what_is_far_from_zero() -> None:
    rng = np.random.default_rng(9)
    values, good = rng.normal(size=(70, 75)).astype(np.float32), np.ones((70, 75), np.uint8)
    near = np.abs(values) <= 1.5
    options = {"origin": (0, 0), "cells": (2, 2)}
    found = pair_columns(values, good, limit=1.5, **options)
    np.testing.assert_array_equal(found, pair_columns(np.where(near, values, np.float32(0)), good * near, **options))
    assert (found[0, 0, :, 0] < pair_columns(values, good, **options)[0, 0, :, 0]).all()
