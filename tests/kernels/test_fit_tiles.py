"""A mesh that is fitted in tiles: the same bits for any tiling, with the halos that are stated and none more."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest

from tests.kernels.whole_fits import fit_of, numbers_of, robust_of, weights_of
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.fit.averages import BLOCK, count_blocks, scored_boxes
from tiledsky.kernels.fit.gaps import SUMS
from tiledsky.kernels.fit.local_polynomial import COUNT_HALO, SCORE_HALO, FitModel, MeshFit, fit_model
from tiledsky.kernels.fit.nodes import Kernel
from tiledsky.kernels.fit.robust import judge_boxes, judge_halo, judge_memory
from tiledsky.kernels.fit.sums import BoxSums, ExactSums, normal_sums
from tiledsky.kernels.fit.weights import NOISE_HALO, box_noise
from tiledsky.kernels.fit.windows import Window, blocks_of

TILES = ((32, 32), (64, 32), (96, 160))


def boxes_of(shape, *, seed=1, share=0.3):
    """Statistics of boxes: values that bend on two scales, noise that differs, boxes that are left out."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    rms = (0.1 * (1.0 + 0.5 * np.sin(x / 40.0)) * rng.uniform(0.9, 1.1, shape)).astype(np.float32)
    usable = rng.random(shape) > share
    usable[shape[0] // 3 : shape[0] // 2, : shape[1] // 3] = False
    usable[0, 0] = True
    n_good = np.where(usable, rng.integers(18, 37, shape), 0)
    values = np.sin(y / 30.0) + 0.3 * np.sin(x / 4.0) * (x < 50) + rms / 6 * rng.normal(size=shape)
    return np.where(usable, values, np.nan).astype(np.float32), rms, n_good, usable


def made_of(boxes, *, order=4, robust=20.0, bandwidth=None, box=(6, 6), **options):
    """All maps of a fit, and its weights."""
    values, rms, n_good, usable = boxes
    weight = weights_of(n_good, rms, usable, pixels=36, **options)
    fitted = robust_of(values, weight, box_size=box, bandwidth=robust, **options) if robust else weight
    model = fit_model(values.shape, box, order=order, bandwidth=bandwidth)
    made = fit_of(values, weight, fitted=fitted, box_size=box, model=model, shared=1.2, **options)
    return {"weight": weight, "fitted": fitted, **{f.name: getattr(made, f.name) for f in fields(made)}}


def same(boxes, tiles=TILES, **options):
    """What a mesh in one tile has, which tiles have too."""
    whole = made_of(boxes, tile=(4096, 4096), **options)
    for tile in tiles:
        for name, cells in made_of(boxes, tile=tile, **options).items():
            np.testing.assert_array_equal(cells, whole[name], err_msg=f"{name}, {tile}")
    return whole


@pytest.mark.parametrize("shape", [(181, 230), (33, 260)])
def test_tiles_have_the_bits_of_the_whole(shape):
    whole = same(boxes_of(shape))
    assert np.unique(whole["bandwidth"]).size > 10
    assert (whole["fitted"] < whole["weight"]).any()
    assert all(np.isfinite(cells).all() for cells in whole.values())


@pytest.mark.parametrize(
    "options",
    [
        {"order": 2, "robust": 0.0},
        {"order": 1, "bandwidth": 35.0, "robust": 40.0},
        {"order": 0, "box": (4, 9)},
        {"order": 3, "bandwidth": 4000.0},
    ],
)
def test_other_models(options):
    same(boxes_of((100, 97), seed=2), **options)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (2, 2), (3, 40), (5, 3), (65, 2), (33, 33)])
def test_small_meshes(shape):
    whole = same(boxes_of(shape, seed=3, share=0.1), tiles=TILES[:1])
    assert np.isfinite(whole["background"]).all()


@pytest.mark.parametrize("bandwidth", [None, 12.0])
def test_one_box_alone_is_the_sky_of_all(bandwidth):
    values, rms, n_good, usable = boxes_of((70, 40), seed=4)
    usable = np.zeros(usable.shape, bool)
    usable[66, 33] = True
    values[66, 33], n_good[66, 33] = 3.7, 30
    whole = same((values, rms, n_good, usable), tiles=TILES[:1], bandwidth=bandwidth)
    assert (whole["background"] == np.float32(3.7)).all()
    assert np.isnan(whole["error"]).all()


def test_a_constant_is_found_without_error():
    values, rms, n_good, usable = boxes_of((70, 40), seed=5)
    whole = same((np.full_like(values, 3.7), rms, n_good, usable), tiles=TILES[:1])
    assert (whole["background"] == np.float32(3.7)).all()
    assert (whole["error"] == 0).all()


def test_boxes_in_one_corner_are_the_sky_of_all():
    """Nothing is in reach of most tiles but the polynomials of the whole mesh."""
    values, rms, n_good, usable = boxes_of((300, 200), seed=6)
    usable[40:] = usable[:, 40:] = False
    whole = same((values, rms, n_good, usable), tiles=TILES[1:2])
    assert np.isfinite(whole["background"]).all()
    narrow = same((values, rms, n_good, usable), tiles=TILES[1:2], bandwidth=18.0, order=2)
    far = narrow["background"][200:, 100:]
    assert (far == far[0, 0]).all()  # one value of the whole mesh
    mean = np.average(values[usable], weights=narrow["fitted"][usable])
    assert far[0, 0] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("bandwidth", "degree"), [((2.0, 3.0), 2), ((6.0, 8.0), 1), ((30.0, 25.0), 0)])
def test_fits_need_their_halo(bandwidth, degree):
    kernel, shape = Kernel(bandwidth, degree), (400, 420)
    values, weight = (np.random.default_rng(k).uniform(0.5, 1.0, shape) for k in (7, 8))
    tile, numbers = Region(384, 400, 192, 224), {"shape": shape, "center": 0.7, "typical": 0.7, "unit": True}
    whole = kernel.fits(tile, *(Window(a, Region.whole(shape)) for a in (values, weight)), **numbers)
    near = kernel.fits(tile, *(Window.about(a, tile, kernel.halo) for a in (values, weight)), **numbers)
    for field in fields(near):
        np.testing.assert_array_equal(getattr(near, field.name), getattr(whole, field.name))
    less = kernel.halo[0] - 1 if kernel.step == 1 else kernel.halo[0] - 3 * kernel.step - 1
    with pytest.raises(ValueError, match="its halo is too small"):
        kernel.fits(tile, *(Window.about(a, tile, (less, kernel.halo[1])) for a in (values, weight)), **numbers)


def test_scores_and_fits_need_their_halos_of_blocks():
    values, rms, n_good, usable = boxes_of((320, 330), seed=15)
    weight, tile = weights_of(n_good, rms, usable, pixels=36), Region(128, 160, 128, 192)
    fit = MeshFit(
        weight.shape, (6, 6), fit_model(weight.shape, (6, 6), order=0, bandwidth=None), numbers_of(values, weight)
    )
    boxes = [Window.about(part, tile, fit.halo) for part in (values, weight, weight)]
    counted, blocks = count_blocks(weight), blocks_of(tile, BLOCK)
    scores = np.ones((*counted.shape[:2], fit.score_parts))

    def about(data, halo):
        return Window.about(data, blocks, (halo, halo))

    counts = about(counted, COUNT_HALO)
    fit.scores(tile, *boxes, counts)
    fit.fit(tile, *boxes, counts, about(scores, SCORE_HALO))
    with pytest.raises(ValueError, match="its halo is too small"):
        fit.scores(tile, *boxes, about(counted, COUNT_HALO - 1))
    with pytest.raises(ValueError, match="its halo is too small"):
        fit.fit(tile, *boxes, counts, about(scores, SCORE_HALO - 1))


def test_noise_of_boxes_needs_its_halo():
    _, rms, _, usable = boxes_of((100, 110), seed=16)
    tile = Region(32, 64, 64, 96)
    whole, near, less = (
        box_noise(tile, *(Window.about(part, tile, (halo, halo)) for part in (rms, usable)))
        for halo in (50, NOISE_HALO, NOISE_HALO - 1)
    )
    np.testing.assert_array_equal(near, whole)
    assert (less != whole).any()


def test_sums_are_those_of_numpy_and_merge_in_any_order():
    values, rms, n_good, usable = boxes_of((150, 130), seed=9)
    weight = weights_of(n_good, rms, usable, pixels=36)
    regions = [TileGrid(weight.shape, (64, 32)).region(i) for i in TileGrid(weight.shape, (64, 32))]
    parts = [BoxSums.of(values[r.slices], weight[r.slices]) for r in regions]
    one = BoxSums.of(values, weight)
    packed = [BoxSums.from_bytes(part.to_bytes()) for part in parts[::-1]]
    merged = BoxSums.merged([BoxSums.merged(packed[:3]), *packed[3:]])
    assert merged.to_bytes() == one.to_bytes()
    numbers = merged.numbers()
    known, w = values[usable].astype(float), weight[usable].astype(float)
    assert merged.number == usable.sum()
    assert numbers.center == pytest.approx(np.average(known, weights=w), rel=1e-12)
    assert numbers.typical == pytest.approx(np.median(w), rel=2**-12)
    assert numbers.floor == pytest.approx((1e-12 * abs(known - numbers.center).max()) ** 2, rel=1e-9)

    def normal(region):
        boxes = (Window(part, Region.whole(weight.shape)) for part in (values, weight))
        return normal_sums(region, *boxes, shape=weight.shape, center=numbers.center)

    whole = normal(Region.whole(weight.shape))
    tiles = [ExactSums.from_list(normal(r).to_list()) for r in regions[::-1]]
    assert ExactSums.merged(tiles) == whole
    y, x = (np.linspace(-1, 1, n) for n in weight.shape)
    v, u = y[:, None], x[None, :]
    basis = [1 + 0 * v * u, v + 0 * u, u + 0 * v, v**2 + 0 * u, v * u, u**2 + 0 * v]
    expected = [np.sum(weight * basis[i] * basis[j]) for i in range(6) for j in range(i + 1)]
    filled = np.where(usable, values - numbers.center, 0.0)
    expected += [np.sum(weight * filled * one) for one in basis]
    np.testing.assert_allclose([float(t) for t in whole.totals], expected, rtol=1e-9, atol=1e-4)


def test_one_box_of_each_two_by_two_is_scored_for_all():
    weight = boxes_of((66, 45), seed=11, share=0.5)[3] * np.random.default_rng(12).uniform(0.1, 1.0, (66, 45))
    times = scored_boxes(weight)
    assert (times[weight == 0] == 0).all()
    wide = np.pad(weight > 0, ((0, 0), (0, 1))).reshape(33, 2, 23, 2)
    groups = np.pad(times, ((0, 0), (0, 1))).reshape(33, 2, 23, 2)
    np.testing.assert_array_equal(groups.sum(axis=(1, 3)), wide.sum(axis=(1, 3)))
    np.testing.assert_array_equal((groups > 0).sum(axis=(1, 3)), wide.any(axis=(1, 3)))
    counted = count_blocks(weight)
    padded = np.pad(np.stack([weight > 0, weight], axis=2), ((0, 2), (0, 3), (0, 0)))
    np.testing.assert_allclose(counted, padded.reshape(17, 4, 12, 4, 2).sum(axis=(1, 3)), rtol=1e-12)


def test_scores_are_residuals_from_fits_without_each_box():
    """Of a local mean: against means that are made anew without the box."""
    shape = (24, 28)
    rng = np.random.default_rng(13)
    values, weight = rng.normal(size=shape), rng.uniform(0.5, 1.0, shape) * (rng.random(shape) > 0.2)
    model = FitModel((12.0,), 0)
    fit, whole = MeshFit(shape, (6, 6), model, numbers_of(values, weight)), Region.whole(shape)
    boxes = [Window(part, whole) for part in (values, weight, weight)]
    counts = Window(count_blocks(weight), Region.whole((6, 7)))
    found = fit.scores(whole, *boxes, counts)
    expected = np.zeros((2, *shape))
    y, x = np.indices(shape)
    for v, u in np.argwhere(weight):
        near = (abs(y - v) <= 6) & (abs(x - u) <= 6)
        share = weight * near * np.exp(-0.5 * ((y - v) ** 2 + (x - u) ** 2) / 4.0)
        others = share * ((y != v) | (x != u))
        residual = weight[v, u] * (values[v, u] - np.sum(others * values) / np.sum(others))
        expected[:, v, u] = residual**2, share[v, u] / share.sum()
    blocks = expected.reshape(2, 6, 4, 7, 4).sum(axis=(2, 4))
    np.testing.assert_allclose(np.moveaxis(found[:, :, :2], 2, 0), blocks, rtol=1e-9)


def test_fits_that_are_left_out_would_change_nothing(monkeypatch):
    boxes = boxes_of((140, 150), seed=14)
    few, cells, fits = made_of(boxes, robust=0.0), [], Kernel.fits

    def noted(self, region, *args, **options):
        cells.append(region.shape[0] * region.shape[1])
        return fits(self, region, *args, **options)

    monkeypatch.setattr(Kernel, "fits", noted)
    made_of(boxes, robust=0.0)
    made = sum(cells)
    cells.clear()
    monkeypatch.setattr("tiledsky.kernels.fit.averages._NEGLECTED", 1e300)
    all_of_them = made_of(boxes, robust=0.0)
    assert made < 0.9 * sum(cells)
    assert np.max(abs(few["background"] - all_of_them["background"]) / all_of_them["error"]) < 1e-3
    np.testing.assert_allclose(few["error"], all_of_them["error"], rtol=1e-3)


def peak(make, *args, **options):
    """Result of a function, and the largest number of bytes that numpy held beside what was there before."""
    make(*args, **options)  # compiled
    tracemalloc.start()
    try:
        made = make(*args, **options)
        return made, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("order", "tile"), [(4, (256, 256)), (1, (96, 160))])
def test_memory_is_what_its_formula_says(order, tile):
    values, rms, n_good, usable = boxes_of((600, 620), seed=10)
    shape, box = values.shape, {"box_size": (6, 6)}
    weight = weights_of(n_good, rms, usable, pixels=36)
    region = Region(288, 288 + tile[0], 256, 256 + tile[1])
    fit = MeshFit(shape, (6, 6), fit_model(shape, (6, 6), order=order, bandwidth=None), numbers_of(values, weight))
    boxes = [Window.about(part, region, fit.halo) for part in (values, weight, weight)]
    counts = Window.about(count_blocks(weight), blocks_of(region, BLOCK), (COUNT_HALO,) * 2)
    made, scoring = peak(fit.scores, region, *boxes, counts)
    scores = np.tile(made.mean(axis=(0, 1)), (150, 155, 1))
    scores[:, :, :-SUMS] = 1.0  # all fits are alike, so all are made everywhere
    scores = Window.about(scores, blocks_of(region, BLOCK), (SCORE_HALO,) * 2)
    _, fitting = peak(fit.fit, region, *boxes, counts, scores)
    for found, stated in zip((scoring, fitting), fit.memory(tile), strict=True):
        assert 0.5 * stated < found < stated
    boxes = [Window.about(part, region, judge_halo(**box, bandwidth=20.0)) for part in (values, weight, weight)]
    options = {"shape": shape, **box, "bandwidth": 20.0}
    _, judging = peak(judge_boxes, region, *boxes, 1.0, **options, numbers=fit.numbers)
    assert 0.5 * judge_memory(tile, **options) < judging < judge_memory(tile, **options)
