"""Local polynomial regression against weighted least squares, cell by cell, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.whole_fits import fit_of
from tiledsky.kernels.fit.local_polynomial import fit_model
from tiledsky.kernels.fit.moments import fit_points, taps, terms


def holed(shape, *, seed=1, share=0.3):
    """Weights with single boxes, a block and a corner left out."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 1.0, shape)
    weight[rng.random(shape) < share] = 0.0
    weight[8:14, 5:12] = 0.0
    weight[-5:, -4:] = 0.0
    return weight


def polynomial(shape, order, *, seed=2):
    """A polynomial of a degree, with values about 1."""
    rng = np.random.default_rng(seed)
    y, x = (n / max(shape) - 0.4 for n in np.indices(shape))
    return sum(rng.normal() * y**i * x**j for i in range(order + 1) for j in range(order + 1 - i))


def mesh_fit(values, weight, *, order=4, bandwidth=None, box=(10, 10), narrowest=0.0, **options):
    model = fit_model(values.shape, box, order=order, bandwidth=bandwidth, narrowest=narrowest)
    return fit_of(values, weight, box_size=box, model=model, **options)


def least_squares(values, weight, order, h, y, x):
    """Fit at a cell, weights of the boxes in it, by numpy.linalg.lstsq."""
    reach = [int(np.ceil(3 * b)) for b in h]
    rows, columns = np.indices(values.shape)
    near = (abs(rows - y) <= reach[0]) & (abs(columns - x) <= reach[1]) & (weight > 0)
    dy, dx = (rows[near] - y) / h[0], (columns[near] - x) / h[1]
    root = np.sqrt(np.exp(-0.5 * (dy**2 + dx**2)) * weight[near])
    design = np.stack([dy**i * dx**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)
    linear = np.linalg.lstsq(design * root[:, None], np.diag(root), rcond=None)[0][0]
    full = np.zeros(values.shape)
    full[near] = linear
    return linear @ values[near], full


def fit_nodes(weight, values, ys, columns, step, powers, along, squared, limit, out):
    """Fits at all crossings of rows and every so many-th column."""
    xs, starts = np.tile(np.arange(columns) * step, ys.size), np.arange(ys.size + 1) * columns
    flat = out.reshape(*out.shape[:2], -1)
    fit_points(weight, weight * values, ys, starts, xs, powers, along, squared, limit, flat)


@pytest.mark.parametrize(
    ("order", "h"), [(0, (2.0, 3.0)), (1, (3.0, 2.0)), (2, (2.5, 2.5)), (3, (3, 4)), (4, (4.0, 3))]
)
@pytest.mark.parametrize("step", [1, 2])
def test_fits_are_those_of_least_squares(order, h, step):
    shape = (26, 31)
    values, weight = np.random.default_rng(order).normal(size=shape), holed(shape)
    along = tuple(taps(b, int(np.ceil(3 * b)), 2 * order) for b in h)
    ys = np.array([-1, 0, 9, 12, 20, 25, 27])
    columns = -(-30 // step) + 1
    out = np.full((order + 1, 3, ys.size, columns), np.nan)
    powers, squared = np.array(terms(order)), tuple(g * g[0] for g in along)
    fit_nodes(weight, values, ys, columns, step, powers, along, squared, 0.0, out)
    for i, y in enumerate(ys):
        for j in range(i % 4, columns, 7 // step):
            for degree in range(order + 1):
                expected, linear = least_squares(values, weight, degree, h, y, j * step)
                variance = np.sum(linear[weight > 0] ** 2 / weight[weight > 0])
                fit, lever, found = out[degree, :, i, j]
                assert fit == pytest.approx(expected, rel=1e-8, abs=1e-8)
                assert found == pytest.approx(variance, rel=1e-7)
                if 0 <= y < 26 and j * step < 31 and weight[y, j * step] > 0:
                    assert lever * weight[y, j * step] == pytest.approx(linear[y, j * step], rel=1e-8)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_polynomials_are_reproduced_beside_holes_and_at_edges(order):
    shape = (40, 37)
    values, weight = 100.0 + polynomial(shape, order), holed(shape)
    values[weight == 0] = np.nan
    for bandwidth in (50.0, None):
        found = mesh_fit(values, weight, order=order, bandwidth=bandwidth)
        carried = abs(found.degree - order) < 1e-6  # in corners of little data lower degrees stand in
        assert carried.mean() > 0.9  # these and the cells up to the next where a fit is made
        limit = 1e-6 if order < 4 else 3e-5  # cubics between the cells that fits of 4 boxes and more are made at
        np.testing.assert_allclose(
            found.background[carried], 100.0 + polynomial(shape, order)[carried], rtol=0, atol=limit
        )


def test_fits_of_wide_bandwidths_are_hardly_different_between_their_nodes():
    rng = np.random.default_rng(3)
    shape = (90, 85)
    values, weight = rng.normal(size=shape), holed(shape)
    wide = mesh_fit(values, weight, order=2, bandwidth=170.0)  # at every 8th cell, half a bandwidth
    along = (taps(17.0, 51, 4),) * 2
    out, squared = np.zeros((3, 3, 90, 85)), (along[0] * along[0][0],) * 2
    fit_nodes(weight, values, np.arange(90), 85, 1, np.array(terms(2)), along, squared, np.inf, out)
    difference = wide.background - out[2, 0]
    # 5% of the scatter of the fits adds 0.2% to their variance
    assert np.std(difference) < 0.05 * np.std(out[2, 0])
    assert abs(difference).max() < 0.35 * np.std(out[2, 0])


def test_bandwidths_follow_the_sky():
    """A narrow structure on one side of a smooth sky: narrow there, wide here."""
    rng = np.random.default_rng(5)
    y, x = np.indices((150, 240))
    truth = np.where(x < 80, np.sin(y / 4.0) * np.sin(x / 4.0), 0.0) * np.clip((100 - x) / 20, 0, 1)
    found = mesh_fit(truth + rng.normal(scale=0.1, size=truth.shape), np.ones(truth.shape))
    assert np.median(found.bandwidth[:, :40]) < 45 < 150 < np.median(found.bandwidth[:, 200:])
    error = found.background - truth
    assert error[:, :50].std() < 0.045
    assert error[:, 200:].std() < 0.007


def test_a_constant_with_noise_is_nearly_its_mean():
    rng = np.random.default_rng(6)
    found = [mesh_fit(rng.normal(size=(100, 100)), np.ones((100, 100))).background for _ in range(12)]
    assert np.sqrt(np.mean(np.square(found))) < 2.5 * 0.01  # a single mean has 0.01; boxes have 1


def test_errors_are_right():
    """Monte Carlo: the scatter of fits of one sky beside their errors."""
    rng = np.random.default_rng(7)
    truth = 0.05 * polynomial((60, 60), 4)
    weight = holed((60, 60))
    noise = 0.1 / np.sqrt(np.where(weight > 0, weight, np.inf))
    for options in ({"bandwidth": 60.0}, {"bandwidth": 40.0, "order": 2}):
        found = [mesh_fit(truth + noise * rng.normal(size=noise.shape), weight, **options) for _ in range(40)]
        scatter = np.std([f.background for f in found], axis=0, ddof=1)
        ratio = scatter / np.sqrt(np.mean([f.error**2 for f in found], axis=0))
        assert np.sqrt(np.mean(ratio**2)) == pytest.approx(1.0, abs=0.06)
        for part in (ratio[:3], ratio[8:14, 5:12], ratio[:, -4:], ratio[-6:, -6:]):
            assert np.sqrt(np.mean(part**2)) == pytest.approx(1.0, abs=0.25)


def test_pulls_with_bandwidths_that_are_chosen():
    rng = np.random.default_rng(8)
    y, x = np.indices((100, 100))
    pulls = []
    for k in range(6):
        truth = 0.3 * np.sinc(np.hypot(y - 50, x - 30) / (9 + 2 * k)) + 0.005 * x
        found = mesh_fit(truth + 0.02 * rng.normal(size=truth.shape), holed((100, 100)))
        pulls.append((found.background - truth) / found.error)
    assert 0.85 < np.sqrt(np.mean(np.square(pulls))) < 1.15


def test_lower_degrees_stand_in_where_few_boxes_carry_a_fit():
    weight = np.zeros((30, 30))
    weight[:, 10:] = 1.0
    values = np.random.default_rng(9).normal(size=(30, 30))
    found = mesh_fit(values, weight, order=4, bandwidth=15.0)
    assert (found.degree[8:22, 18:22] == 4).all()
    assert found.degree[:, :8].max() < 2
    assert abs(found.background).max() < 20
    # one value far from all others, no box near enough for any fit
    lonely = mesh_fit(values, np.eye(30) * (np.indices((30, 30))[0] == 0), order=2, bandwidth=15.0)
    np.testing.assert_allclose(lonely.background, values[0, 0])


def test_constant_values_have_no_error():
    found = mesh_fit(np.full((30, 40), 3.7, np.float32), holed((30, 40)))
    assert (found.background == np.float32(3.7)).all()
    assert (found.error == 0).all()


def test_ladders():
    model = fit_model((100, 50), (10, 10), order=4, bandwidth=None)
    assert model.bandwidths[0] == 15
    assert 360 / 2**0.5 < model.bandwidths[-1] <= 360
    assert np.allclose(np.diff(np.log2(model.bandwidths)), 0.5)
    assert (model.degree, model.whole) == (4, 2)
    assert fit_model((100, 50), (10, 10), order=3, bandwidth=None, narrowest=100).bandwidths[0] == 100
    assert fit_model((100, 50), (10, 10), order=1, bandwidth=None).whole == 1
    assert fit_model((10, 20), (10, 10), order=1, bandwidth=None).bandwidths[-1] <= 200
    assert fit_model((2, 2), (10, 10), order=1, bandwidth=None, narrowest=70).bandwidths == (70,)
    assert fit_model((9, 9), (10, 20), order=1, bandwidth=33) == type(model)((33.0,), 1, None)
