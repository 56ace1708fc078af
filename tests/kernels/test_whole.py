"""One polynomial for a whole mesh, beside least squares, scipy's M-estimates and truth, and its pixels."""

import numpy as np
import pytest
from numpy.polynomial import polynomial
from scipy import optimize

from tiledsky.geometry import Region
from tiledsky.kernels.fit.whole import MOST_GROUPS, WholeFit, fit_whole, group_side, group_sums
from tiledsky.kernels.mesh.lagrange import lagrange_evaluate, lagrange_window

SHAPE = (41, 53)


def places(shape):
    return np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")


def basis(shape, degree):
    """Monomials by numpy, of degrees up to one."""
    full = polynomial.polyvander2d(*places(shape), (degree, degree))
    i, j = np.divmod(np.arange(full.shape[-1]), degree + 1)
    return full[..., i + j <= degree].reshape(-1, np.count_nonzero(i + j <= degree))


def fit(values, weight=None, *, degree=0, masked=None, noise=0.0, shared=1.0):
    weight = np.ones(values.shape) if weight is None else weight
    masked = np.zeros(values.shape) if masked is None else masked
    side = group_side(values.shape)
    sums = group_sums(values, weight, masked, side=side, center=3.0)
    return fit_whole(sums, values.shape, degree=degree, center=3.0, noise=noise, shared=shared)


def sky_of(made, shape=SHAPE):
    return made.at(Region.whole(shape), shape)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_polynomial_is_reproduced_and_has_no_error(degree):
    rng = np.random.default_rng(degree)
    x = basis(SHAPE, degree)
    truth = (x @ rng.normal(size=x.shape[1])).reshape(SHAPE) + 100.0
    weight = rng.uniform(0.1, 1.0, SHAPE) * (rng.random(SHAPE) > 0.2)
    values = np.where(weight > 0, truth, np.nan)
    background, error = sky_of(fit(values, weight, degree=degree))
    np.testing.assert_allclose(background, truth, rtol=1e-9)
    assert error.max() < 1e-6


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_of_noise_it_is_the_m_estimate_that_scipy_finds(degree):
    rng = np.random.default_rng(10 + degree)
    weight = rng.uniform(0.2, 1.0, SHAPE)
    values = 5.0 + places(SHAPE)[1] * (degree > 0) + rng.normal(size=SHAPE) / np.sqrt(weight)
    background, error = sky_of(fit(values, weight, degree=degree))
    x, root = basis(SHAPE, degree), np.sqrt(weight).ravel()
    residual = (values - background).ravel() * root
    scale = 1.4826 * np.median(-residual[residual < 0])

    def welsch(z):  # twice the square of a residual over the scale, of f_scale = sqrt(2) scale
        rho = np.exp(-z)
        return np.stack([1.0 - rho, rho, -rho])

    start = np.linalg.lstsq(x * root[:, None], values.ravel() * root, rcond=None)[0]
    reference = optimize.least_squares(
        lambda c: (values.ravel() - x @ c) * root, start, loss=welsch, f_scale=2**0.5 * scale, xtol=1e-14, gtol=1e-12
    )
    # the scatter of terms above the first may not grow, so that it may be a little smaller
    assert np.abs(background.ravel() - x @ reference.x).max() < (0.01 if degree == 0 else 0.4) * error.mean()
    assert np.abs(background.ravel() - x @ start).max() < 4.0 * error.max()


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_light_in_most_boxes_does_not_move_it(degree):
    rng = np.random.default_rng(3)
    y, x = places(SHAPE)
    truth = 3.0 + 0.5 * x * (degree > 0) + 0.3 * y * x * (degree > 1)
    light = 30.0 * np.exp(-(((x + 0.1) / 0.9) ** 2 + y**2) / 0.35**2)
    values = truth + light + rng.normal(scale=0.1, size=SHAPE)
    assert np.mean(light > 0.02) > 0.6
    background, error = sky_of(fit(values, degree=degree, noise=0.1))
    plain = (basis(SHAPE, degree) @ np.linalg.lstsq(basis(SHAPE, degree), values.ravel(), rcond=None)[0]).reshape(SHAPE)
    off = np.sqrt(np.mean((background - truth) ** 2))
    assert off < 0.1
    assert off < 0.03 * np.sqrt(np.mean((plain - truth) ** 2))
    assert 0.3 < np.sqrt(np.mean(((background - truth) / error) ** 2)) < 2.0


@pytest.mark.parametrize("degree", [0, 2])
def test_its_error_is_that_of_noise(degree):
    pulls = []
    for seed in range(25):
        values = 3.0 + np.random.default_rng(seed).normal(size=SHAPE)
        background, error = sky_of(fit(values, degree=degree, noise=0.5))
        pulls.append(np.mean(((background - 3.0) / error) ** 2))
    assert 0.7 < np.sqrt(np.mean(pulls)) < 1.3


def test_a_sky_that_is_not_so_plain_is_in_the_error():
    y, x = places(SHAPE)
    wave = 0.3 * np.sin(4.0 * x) * np.cos(3.0 * y)
    values = 3.0 + wave + np.random.default_rng(5).normal(scale=0.2, size=SHAPE)
    background, error = sky_of(fit(values, degree=1, noise=0.2))
    off = np.sqrt(np.mean((background - 3.0 - wave) ** 2))
    assert 0.7 < off / error.mean() < 1.3
    flat = sky_of(fit(values - wave, degree=1, noise=0.2))[1]
    assert flat.mean() < 0.15 * error.mean()


def test_light_beside_masks_is_in_the_error():
    rng = np.random.default_rng(6)
    masked = rng.uniform(0.0, 0.6, SHAPE)
    values = 3.0 + 0.5 * masked + rng.normal(scale=0.1, size=SHAPE)
    background, error = sky_of(fit(values, (1 - masked) ** 2, masked=masked))
    assert 0.7 < (background[0, 0] - 3.0) / error[0, 0] < 1.3
    assert sky_of(fit(values, (1 - masked) ** 2))[1][0, 0] < 0.3 * error[0, 0]


def test_boxes_in_a_row_or_too_few_give_a_lower_degree():
    rng = np.random.default_rng(7)
    row = np.zeros(SHAPE)
    row[7] = 1.0
    made = fit(rng.normal(size=SHAPE), row, degree=2)
    assert (made.degree, len(made.factors)) == (0, 1)
    few = np.zeros(SHAPE)
    few[[0, 20, 40, 3], [1, 50, 9, 30]] = 1.0
    background, error = sky_of(fit(np.full(SHAPE, 3.5), few, degree=3, noise=0.1))
    np.testing.assert_allclose(background, 3.5, atol=1e-9)
    assert (error >= 0.1 / 2.0).all()  # four boxes: the noise of their pixels is known, their scatter is not


def test_boxes_of_large_meshes_are_joined_and_any_tiles_have_the_same_bits():
    shape = (300, 330)
    side = group_side(shape)
    assert side == 2
    assert -(-shape[0] // side) * -(-shape[1] // side) <= MOST_GROUPS
    rng = np.random.default_rng(8)
    y, x = places(shape)
    values, weight = 3.0 + x - y + rng.normal(size=shape), rng.uniform(0, 1, shape) * (rng.random(shape) > 0.1)
    whole = group_sums(values, weight, weight, side=side, center=3.0)
    tiled = np.concatenate(
        [
            group_sums(values[k : k + 32], weight[k : k + 32], weight[k : k + 32], side=side, center=3.0)
            for k in range(0, 300, 32)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_allclose(whole[1].sum(), np.sum(weight * (values - 3.0)), rtol=1e-10)
    made = fit(values, weight, degree=1)
    background, error = sky_of(made, shape)
    assert np.sqrt(np.mean(((background - 3.0 - x + y) / error) ** 2)) < 2.0
    again = WholeFit.from_bytes(made.to_bytes())
    for region in (Region(0, 300, 0, 330), Region(13, 50, 100, 330)):
        for one, other in zip(again.at(region, shape), (background, error), strict=True):
            np.testing.assert_array_equal(one, other[region.slices])


@pytest.mark.parametrize("shape", [(9, 11), (2, 7), (1, 1), (4, 3)])
@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_pixels_are_those_of_the_polynomial(shape, points):
    box = (6, 4)
    degrees = [min(points, n) - 1 for n in shape]
    rng = np.random.default_rng(9)
    factors = rng.normal(size=(degrees[0] + 1, degrees[1] + 1))
    centres = [np.arange(n) for n in shape]
    cells = polynomial.polygrid2d(*(c / 10 for c in centres), factors)
    size = shape[0] * box[0] - 2, shape[1] * box[1] - 3
    pixels = [(np.arange(n) + 0.5) / b - 0.5 for n, b in zip(size, box, strict=True)]
    expected = polynomial.polygrid2d(*(p / 10 for p in pixels), factors)
    made = {}
    for region in (Region.whole(size), Region(0, 1, 0, 1), Region(size[0] - 3, size[0], size[1] // 2, size[1])):
        window = lagrange_window(region, box, shape, points)
        made[region] = lagrange_evaluate(
            cells[window.slices], box, region, points=points, origin=(window.y0, window.x0), shape=shape, dtype="f8"
        )
        np.testing.assert_allclose(made[region], expected[region.slices], atol=1e-11)
        np.testing.assert_array_equal(made[region], made[Region.whole(size)][region.slices])
