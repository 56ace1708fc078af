"""The error of a background: its parts against numerical integrals and brute force, the whole against the truth."""

import numpy as np
import pytest
from scipy import integrate, ndimage, stats

from tests.kernels.oracles import spline_surface
from tests.operations.surfaces import finish
from tiledsky import Recipe, estimate_background
from tiledsky.geometry import Region, TileGrid, row_bands
from tiledsky.kernels.boxes.boxes import Clip, box_statistics
from tiledsky.kernels.boxes.estimators import inefficiency, median_inefficiency
from tiledsky.kernels.mesh.error import (
    NOISE_HALO,
    box_variance,
    filtered_variance,
    noise_factor,
    noise_samples,
    window_counts,
    window_means,
)
from tiledsky.operations.boxes import array_box_statistics
from tiledsky.operations.interpolators.idw import idw_factors
from tiledsky.operations.interpolators.zoom import spline_factors
from tiledsky.operations.mesh import finished
from tiledsky.recipe import BackgroundStep, validated

ZOOM, IDW, NEAREST = {"kind": "zoom"}, {"kind": "idw"}, {"kind": "idw", "power": 0.0, "n_neighbors": 4}


def step(**parameters):
    return validated(BackgroundStep, {"kind": "background", "name": "sky", **parameters}, source="test")


def smooth_sky(shape, amplitude):
    """A gradient and a wide sinc."""
    y, x = np.indices(shape) / max(shape)
    return amplitude * (0.7 * x - 0.4 * y + np.sinc(2.2 * np.hypot(y - 0.4, x - 0.55)))


def noise_of(shape, taps=None, *, seed=7):
    """Noise of deviation 1, white or smoothed by a separable kernel; and its noise factor."""
    rng = np.random.default_rng(seed)
    if taps is None:
        return rng.normal(size=shape), 1.0
    kernel = np.outer(taps, taps)
    noise = ndimage.convolve(rng.normal(size=shape), kernel, mode="wrap") / np.sqrt(np.sum(kernel**2))
    return noise, np.sum(kernel) ** 2 / np.sum(kernel**2)


def evaluated(image, parameters, *, levels=None):
    made = finished(array_box_statistics(image, None, parameters) if levels is None else levels, parameters)
    background, _, error = (s.evaluate(Region.whole(image.shape)) for s in made.surfaces)
    return background, error, made.mesh


def median_variance(n):
    """Variance of the median of n normal values, by integrals."""
    if n % 2:
        beta = stats.beta((n + 1) / 2, (n + 1) / 2)
        return integrate.quad(lambda p: beta.pdf(p) * stats.norm.ppf(p) ** 2, 0, 1)[0]
    grid = np.linspace(-8, 8, 1601)  # the two in the middle, x < y
    x, y = grid[:, None], grid
    density = (stats.norm.cdf(x) * stats.norm.sf(y)) ** (n // 2 - 1) * stats.norm.pdf(x) * stats.norm.pdf(y) * (x < y)
    return np.sum(((x + y) / 2) ** 2 * density) / np.sum(density)


@pytest.mark.parametrize(("n", "tolerance"), [(1, 1e-6), (3, 0.02), (9, 0.015), (25, 0.01), (4, 0.01), (6, 0.01)])
def test_median_inefficiency_is_that_of_order_statistics(n, tolerance):
    assert float(median_inefficiency(n)) == pytest.approx(n * median_variance(n), rel=tolerance)


def test_median_inefficiency_of_many():
    assert float(median_inefficiency(10**6)) == pytest.approx(np.pi / 2, rel=1e-5)


@pytest.mark.parametrize("estimator", ["mean", "median", "mode", "mmm", "sextractor", "biweight"])
def test_inefficiencies_are_those_of_the_kernels(estimator):
    image = np.random.default_rng(5).normal(size=(1600, 1600))
    found = box_statistics(image, 16, clip=None, estimator=estimator).background
    expected = float(inefficiency(estimator, 256)) / 256
    # 10^4 boxes: 1.4% of the variance, three times over; and 256 pixels are not infinitely many
    assert np.var(found) == pytest.approx(expected, rel=0.045)


def test_a_callable_counts_as_the_mean():
    assert np.array_equal(inefficiency(np.nanmean, [3, 4]), [1.0, 1.0])


def test_box_variance():
    rms, n = np.array([[2.0, 2.0, 0.0, np.nan]]), np.array([[5, 1, 1, 0]])
    assert np.array_equal(
        box_variance(rms, n, estimator="mean", population=True), [[1.0, np.nan, np.nan, np.nan]], equal_nan=True
    )
    assert np.array_equal(
        box_variance(rms, n, estimator="mean", population=False), [[0.8, 4.0, 0.0, np.nan]], equal_nan=True
    )


def filter_matrix(n, size):
    """Rows: the mean filter of a window that the edges cut."""
    near = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= size // 2
    return near / near.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_spline_factors_are_those_of_every_impulse(n, size):
    box = 6
    impulses = filter_matrix(n, size)  # columns: what a 1 in one box becomes
    response = np.hstack([spline_surface(impulse[:, None], (box, 1)) for impulse in impulses.T])
    expected = np.sum(response**2, axis=1).reshape(n, box).mean(axis=1)
    found, other = spline_factors((n, 3), (box, 5), (size, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert other.shape == (3,)


def idw_rows(centres, pixel, n, power, regularization):
    """Weights of all boxes for one pixel; boxes at one distance share the last places."""
    distance = np.round(np.hypot(*(centres - pixel).T), 9)
    weights = np.zeros(len(centres))
    if distance.min() == 0:
        weights[distance == 0] = 1.0
        return weights
    left = n
    for d in np.unique(distance):
        here = distance == d
        take = min(left, here.sum())
        weights[here] = take / here.sum() / (d**power + regularization)
        left -= take
        if left == 0:
            break
    return weights / weights.sum()


@pytest.mark.parametrize("law", [(10, 1.0, 0.0), (4, 0.0, 0.0), (1, 1.0, 0.0), (13, 2.0, 3.0)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_idw_factor_is_that_of_the_weights(law, size):
    box, cells = (5, 8), (15, 15)
    centres = np.argwhere(np.ones(cells)) * box + (np.array(box) - 1) / 2
    smooth = np.kron(filter_matrix(cells[0], size[0]), filter_matrix(cells[1], size[1]))
    total = 0.0
    for py in range(box[0]):
        for px in range(box[1]):
            row = idw_rows(centres, (7 * box[0] + py, 7 * box[1] + px), *law)
            total += np.sum((row @ smooth) ** 2)
    n, power, regularization = law
    rows, columns = idw_factors(cells, box, size, n_neighbors=n, power=power, regularization=regularization)
    assert rows[7] * columns[7] == pytest.approx(total / (box[0] * box[1]), rel=1e-9)
    assert rows[0] * columns[0] == pytest.approx(
        rows[7] * columns[7] * np.prod(size) / np.prod([s // 2 + 1 for s in size])
    )


def test_idw_factor_hardly_depends_on_the_box():
    law = {"n_neighbors": 10, "power": 1.0, "regularization": 0.0}
    small, large = (idw_factors((30, 30), (b, 2 * b), (3, 3), **law)[0][9] for b in (16, 200))
    assert large == pytest.approx(small, rel=0.01)
    law["regularization"] = 7.0
    assert idw_factors((30, 30), (200, 400), (3, 3), **law)[0][9] < 0.999 * large
    many = idw_factors((60, 60), (64, 64), (1, 1), n_neighbors=500, power=0.0, regularization=0.0)[0][30]
    assert many == pytest.approx(1 / 500, rel=0.02)


def test_windows():
    assert window_counts(4, 5).tolist() == [3, 4, 4, 3]
    values = np.random.default_rng(1).random((6, 7))
    whole = Region.whole(values.shape)
    expected = ndimage.generic_filter(values, np.nanmean, (3, 5), mode="constant", cval=np.nan)
    np.testing.assert_allclose(window_means(values, (3, 5), whole, whole, whole.shape), expected, rtol=1e-12)


def test_filtered_variance_of_a_mesh_of_noise():
    mesh = np.random.default_rng(2).normal(size=(250, 250))
    for size in (3, 5):
        filtered = ndimage.median_filter(mesh, size)[10:-10, 10:-10]
        ones = np.ones(250)
        inner, whole = Region(125, 126, 125, 126), Region.whole(mesh.shape)
        factors = ones / size, ones / size
        variance = filtered_variance(np.ones(mesh.shape), factors, (size, size), inner, whole, mesh.shape)[0, 0]
        assert np.var(filtered) == pytest.approx(variance, rel=0.05)


def _samples(background, variance, usable):
    whole = Region.whole(usable.shape)
    return noise_samples(background, variance, usable, whole, whole, usable.shape)


@pytest.mark.parametrize("box", [10, 32])
@pytest.mark.parametrize("taps", [None, [1, 2, 1], [1, 1, 1]])
def test_noise_factor(box, taps):
    """The sky bends by many times the noise of a box; boxes and clipping make the factor up to 15% too large."""
    shape = (40 * box, 45 * box)
    noise, truth = noise_of(shape, taps)
    image = noise + smooth_sky(shape, 5.0)
    for estimator in ("mean", "biweight"):
        (found,) = array_box_statistics(image, None, step(box_size=box, estimator=estimator))
        variance = box_variance(found.rms, found.n_good, estimator=estimator, population=True)
        usable = np.ones(variance.shape, bool)
        excess = float(inefficiency(estimator, box**2))
        factor = noise_factor(_samples(found.background, variance, usable), box_size=(box, box), excess=excess)
        assert 0.88 * truth < factor < 1.25 * truth


def test_noise_factor_needs_differences_and_is_never_below_one():
    rng = np.random.default_rng(3)
    mesh, ones = rng.normal(size=(30, 30)), np.ones((30, 30))
    every = ones > 0
    assert noise_factor(_samples(3 * mesh, ones, every), box_size=(50, 50)) == pytest.approx(9, rel=0.25)
    assert noise_factor(_samples(0.3 * mesh, ones, every), box_size=(50, 50)) == 1.0
    assert (
        noise_factor(_samples(9 * mesh[:4, :8], ones[:4, :8], every[:4, :8]), box_size=(50, 50)) > 20
    )  # 20 + 8 differences
    assert noise_factor(_samples(9 * mesh[:3, :8], ones[:3, :8], every[:3, :8]), box_size=(50, 50)) == 1.0
    assert noise_factor(_samples(9 * mesh, ones, rng.random((30, 30)) < 0.2), box_size=(50, 50)) == 1.0
    assert noise_factor(_samples(9 * mesh, 0 * ones, every), box_size=(50, 50)) == 1.0
    # one box in ten off by a lot
    mesh[rng.random((30, 30)) < 0.03] += 1e3
    assert noise_factor(_samples(mesh, ones, every), box_size=(50, 50)) < 2.0


def test_noise_factor_of_samples_of_a_large_mesh(monkeypatch):
    monkeypatch.setattr("tiledsky.kernels.mesh.error.SAMPLED_CELLS", 1 << 14)
    mesh = np.random.default_rng(4).normal(size=(220, 200))
    ones = np.ones(mesh.shape)
    samples = _samples(2 * mesh, ones, ones > 0)
    assert samples.size == 74 * 197 + 67 * 217  # every third row and column
    factor = noise_factor(samples, box_size=(200, 200))
    assert factor == pytest.approx(4, rel=0.1)
    parts = []
    for size in (32, 64):
        grid = TileGrid(mesh.shape, (size, size))
        for inner in map(grid.region, grid):
            outer = inner.grown((NOISE_HALO, NOISE_HALO), mesh.shape)
            windows = [a[outer.slices] for a in (2 * mesh, ones, ones > 0)]
            parts.append(noise_samples(*windows, inner, outer, mesh.shape))
        together = np.concatenate(parts[::-1])
        np.testing.assert_array_equal(np.sort(together), np.sort(samples))
        assert noise_factor(together, box_size=(200, 200)) == factor
        parts.clear()


@pytest.mark.parametrize("box", [10, 32])
@pytest.mark.parametrize(
    ("estimator", "taps"),
    [("mean", None), ("median", None), ("sextractor", None), ("biweight", None), ("mean", [1, 2, 1])],
)
def test_pulls_on_a_smooth_sky(box, estimator, taps):
    """(background - truth) / error has about unit deviation.

    A filtered mesh, and inverse distances, follow a sky only as far as it is flat over their windows: there the sky
    changes by less than the noise of the boxes. The spline without a filter follows a sky a hundred times as strong.
    """
    shape = (36 * box, 35 * box)
    noise, _ = noise_of(shape, taps)
    weak = 0.3 / box
    for strength, size, interpolators in ((100, 1, (ZOOM,)), *((1, k, (ZOOM, IDW, NEAREST)) for k in (1, 3, 5))):
        truth = smooth_sky(shape, weak * strength)
        levels = array_box_statistics(truth + noise, None, step(box_size=box, estimator=estimator))
        for interpolator in interpolators:
            parameters = step(box_size=box, estimator=estimator, filter_size=size, interpolator=interpolator)
            background, error, _ = evaluated(truth, parameters, levels=levels)
            pull = (background - truth) / error
            assert 0.8 < pull.std() < 1.25, f"strength {strength}, filter {size}, {interpolator}"


def test_pulls_where_pixels_are_masked():
    rng = np.random.default_rng(9)
    shape = (500, 500)
    mask = rng.random(shape) < np.where(np.arange(500) < 250, 0.8, 0.0)
    truth = smooth_sky(shape, 0.5)
    image = truth + rng.normal(size=shape)
    steps = [{"kind": "background", "name": "sky", "box_size": 10, "filter_size": 1, "exclude_percentile": 95}]
    sky = estimate_background(image, Recipe.from_dict({"name": "pulls", "steps": steps}), mask=mask)
    pull = (sky.background - truth) / sky.background_error
    for half in (pull[:, 10:240], pull[:, 260:490]):
        assert 0.8 < half.std() < 1.25
    ratio = np.median(sky.background_error[:, 10:240]) / np.median(sky.background_error[:, 260:490])
    assert ratio == pytest.approx(5**0.5, rel=0.1)


def test_error_of_filled_boxes_and_of_the_threshold():
    rng = np.random.default_rng(1)
    image = 5.0 + rng.normal(size=(300, 300))
    image[:, 150:] += 10.0
    mask = np.zeros(image.shape, bool)
    mask[40:50, 40:50] = True
    parameters = step(box_size=10, filter_size=3, filter_threshold=10.0)
    mesh = finish(array_box_statistics(image, mask, parameters), parameters)
    assert mesh.excluded[4, 4]
    assert mesh.error[4, 4] == pytest.approx(np.median(mesh.error[2:7, 2:7]), rel=0.2)
    # unfiltered on the left: 9 boxes in the window, a median, and more interpolation
    assert np.median(mesh.error[:, :14]) / np.median(mesh.error[2:-2, 17:28]) == pytest.approx(2.0, rel=0.15)


def test_no_noise_no_error():
    parameters = step(box_size=10)
    background, error, mesh = evaluated(np.full((90, 95), 3.5, np.float32), parameters)
    assert (background == 3.5).all()
    assert (error == 0).all()
    assert mesh.noise_factor == 1.0
    assert error.dtype == np.float32


@pytest.mark.parametrize("interpolator", [ZOOM, IDW])
def test_boxes_of_one_pixel_tell_no_error(interpolator):
    parameters = step(box_size=1, exclude_percentile=100, interpolator=interpolator)
    background, error, _ = evaluated(np.random.default_rng(1).normal(size=(12, 13)), parameters)
    assert np.isfinite(background).all()
    assert np.isnan(error).all()


def test_small_units_do_not_underflow():
    image = np.random.default_rng(1).normal(size=(120, 120)).astype(np.float32)
    parameters = step(box_size=10)
    error, small = (evaluated(a, parameters)[1] for a in (image, image * np.float32(2.0**-80)))
    assert np.array_equal(small, error * np.float32(2.0**-80))
    assert (small > 0).all()


def test_boxes_of_one_pixel_take_the_error_of_their_neighbours():
    image = np.random.default_rng(6).normal(size=(100, 100))
    mask = np.ones(image.shape, bool)
    mask[:, 20:] = False
    mask[::10, ::10] = False  # one pixel a box on the left
    parameters = step(box_size=10, exclude_percentile=100, filter_size=1)
    mesh = finish(array_box_statistics(image, mask, parameters), parameters)
    assert (mesh.n_good[:, :2] == 1).all()
    assert (mesh.error > 0).all()


@pytest.mark.parametrize("clip", [Clip(), None])
def test_error_surface_is_never_negative(clip):
    rng = np.random.default_rng(8)
    image = rng.normal(size=(200, 200)) * np.where(np.arange(200) < 100, 0.001, 30.0)
    parameters = step(box_size=10, filter_size=1, interpolator={"kind": "zoom", "clip": False})
    if clip is None:
        parameters = parameters.model_copy(update={"clip": None})
    background, error, mesh = evaluated(image, parameters)
    assert error.min() >= mesh.error.min() > 0
    assert background.min() < mesh.background.min()  # the background's spline is not cut


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 7), (9, 3)])
def test_tiles_of_a_mesh_have_the_bits_of_the_whole(size: tuple[int, int]) -> None:
    variance = np.random.default_rng(8).random((43, 37)) * 1e3
    factors = spline_factors(variance.shape, (6, 6), size)
    all_of_it = Region.whole(variance.shape)
    whole = filtered_variance(variance, factors, size, all_of_it, all_of_it, variance.shape)
    for tile in ((1, 37), (4, 5), (32, 32), (42, 11)):
        grid = TileGrid(variance.shape, tile)
        for inner in map(grid.region, grid):
            outer = inner.grown((size[0] // 2, size[1] // 2), variance.shape)
            part = filtered_variance(variance[outer.slices].copy(), factors, size, inner, outer, variance.shape)
            np.testing.assert_array_equal(part, whole[inner.slices])


def test_noise_of_large_meshes_is_that_of_all_their_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    background, variance = rng.normal(size=(60, 40)).astype(np.float32), rng.random((60, 40)) + 0.5
    usable = rng.random((60, 40)) < 0.9
    whole = noise_factor(_samples(background, variance, usable), box_size=(6, 6))
    monkeypatch.setattr("tiledsky.kernels.mesh.error.row_bands", lambda shape: row_bands(shape, cells=90))
    assert noise_factor(_samples(background, variance, usable), box_size=(6, 6)) == whole > 1.0
