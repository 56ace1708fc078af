"""IDW against photutils' ShepardIDWInterpolator, and the same bits for any region and window."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.utils.exceptions import AstropyDeprecationWarning
from photutils.background import Background2D, BkgIDWInterpolator
from photutils.utils import ShepardIDWInterpolator

from tiledsky.errors import ParameterError
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.mesh import idw
from tiledsky.kernels.mesh.idw import idw_evaluate
from tiledsky.kernels.mesh.reach import REACH_HALO, good_counts, idw_reach, idw_reach_tile, idw_window

BOXES = [(6, 6), (10, 10), (7, 11)]


def _mesh(shape, holes, seed=0):
    rng = np.random.default_rng(seed)
    mesh = rng.normal(size=shape)
    mesh[rng.random(shape) < holes] = np.nan
    return mesh


def _whole(shape, box):
    return (0, shape[0] * box[0], 0, shape[1] * box[1])


def _pixels(region):
    return np.stack(np.mgrid[region[0] : region[1], region[2] : region[3]], -1).reshape(-1, 2)


def _squares(mesh, box, region):
    """Four times the squared distances (pixels, good boxes), exact, and the values of the good boxes."""
    size = np.array(box)
    centres = 2 * np.argwhere(~np.isnan(mesh)) * size + size - 1
    return ((2 * _pixels(region)[:, None] - centres) ** 2).sum(-1), mesh[~np.isnan(mesh)]


def _photutils(mesh, box, region, n, power, regularization):
    size = np.array(box)
    centres = np.argwhere(~np.isnan(mesh)) * size + (size - 1) / 2
    shepard = ShepardIDWInterpolator(centres, mesh[~np.isnan(mesh)])
    return shepard(_pixels(region), n_neighbors=n, power=power, regularization=regularization)


def _bounds_of_any_choice(squares, values, n, power, regularization):
    """Smallest and largest result that taking any of the tied boxes can give, one pixel at a time."""
    order = np.argsort(squares, axis=1, kind="stable")
    low, high = np.empty(len(squares)), np.empty(len(squares))
    for p, (q, o) in enumerate(zip(squares, order, strict=True)):
        tied = np.flatnonzero(q == q[o[n - 1]])
        sure = np.flatnonzero(q < q[o[n - 1]])
        left = n - sure.size
        weight = 1 / ((np.sqrt(q) / 2) ** power + regularization)
        ends = np.sort(values[tied])
        total = weight[sure].sum() + left * weight[tied[0]]
        low[p] = ((weight * values)[sure].sum() + weight[tied[0]] * ends[:left].sum()) / total
        high[p] = ((weight * values)[sure].sum() + weight[tied[0]] * ends[-left:].sum()) / total
    return low, high


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(
    ("shape", "holes", "n", "power", "regularization"),
    [
        ((12, 13), 0.0, 10, 1.0, 0.0),
        ((12, 13), 0.3, 20, 1.0, 30.0),
        ((11, 9), 0.5, 20, 0.0, 1.0),
        ((9, 9), 0.9, 4, 1.5, 0.0),
        ((1, 17), 0.2, 6, 2.0, 3.0),
        ((9, 12), 0.3, 1, 1.0, 0.0),
    ],
)
def test_equals_photutils_where_nothing_ties_and_lies_among_its_choices_where_it_does(
    shape, holes, n, power, regularization, box
):
    mesh = _mesh(shape, holes)
    region = _whole(shape, box)
    ours = idw_evaluate(
        mesh, box, region, n_neighbors=n, power=power, regularization=regularization, dtype=np.float64
    ).ravel()
    theirs = _photutils(mesh, box, region, n, power, regularization)
    squares, values = _squares(mesh, box, region)
    ranked = np.sort(squares, axis=1)
    centred = ranked[:, 0] == 0
    ties = (ranked[:, n - 1] == ranked[:, n]) & ~centred
    assert np.count_nonzero(ties) < 0.7 * ties.size
    assert ties.any() or shape[0] == 1  # in one row of even boxes the two sides never tie at the n-th place
    np.testing.assert_allclose(ours[~ties], theirs[~ties], rtol=1e-10, atol=1e-13)
    if box == (7, 11):  # odd: there are centre pixels, and they take the box's own value
        assert centred.any()
        np.testing.assert_array_equal(ours[centred], values[np.argmin(squares[centred], axis=1)])
    low, high = _bounds_of_any_choice(squares[ties], values, n, power, regularization)
    for estimate in (ours[ties], theirs[ties]):
        assert np.all((estimate >= low - 1e-12) & (estimate <= high + 1e-12))


def test_tied_boxes_share_the_places_left():
    """A pixel of an even box on the diagonal: the second and third box are equally far, and one place is left."""
    mesh = np.array([[1.0, 10.0], [100.0, 1000.0]])
    got = idw_evaluate(mesh, (2, 2), (1, 2, 1, 2), n_neighbors=3, power=1.0, dtype=np.float64)[0, 0]
    near, side = 1 / np.sqrt(0.5), 1 / np.sqrt(2.5)
    assert got == pytest.approx((near * 1 + side * 10 + side * 100) / (near + 2 * side), rel=1e-15)
    got = idw_evaluate(mesh, (2, 2), (1, 2, 1, 2), n_neighbors=2, power=1.0, dtype=np.float64)[0, 0]
    assert got == pytest.approx((near * 1 + side * 55) / (near + side), rel=1e-15)


def test_fewer_good_boxes_than_neighbours_uses_all():
    mesh = np.full((8, 9), np.nan)
    mesh[1, 2], mesh[6, 7], mesh[7, 0] = 3.0, 5.0, -1.0
    region = _whole(mesh.shape, (6, 6))
    ours = idw_evaluate(mesh, (6, 6), region, n_neighbors=20, dtype=np.float64)
    np.testing.assert_allclose(ours.ravel(), _photutils(mesh, (6, 6), region, 20, 1.0, 0.0), rtol=1e-12)


def test_one_good_box_gives_its_value_everywhere():
    mesh = np.full((5, 5), np.nan)
    mesh[4, 1] = 0.1
    np.testing.assert_array_equal(idw_evaluate(mesh, (4, 4), (0, 20, 0, 20), dtype=np.float64), 0.1)


def test_equals_background2d_of_photutils():
    """The drop-in case, whole class: exclusion, filter and IDW; only pixels without a tie are determined there."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(105, 132)).astype(np.float32)
    mask = np.zeros(data.shape, bool)
    mask[30:60, 40:77] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyDeprecationWarning)
        interpolator = BkgIDWInterpolator(n_neighbors=9, power=1.0, regularization=30.0)
        reference = Background2D(
            data, (7, 11), mask=mask, filter_size=1, exclude_percentile=90, interpolator=interpolator
        )
        theirs = reference.background.ravel()
    mesh = np.where(reference.n_pixels_mesh > 7, reference.background_mesh, np.nan)
    region = _whole(mesh.shape, (7, 11))
    ours = idw_evaluate(mesh, (7, 11), region, n_neighbors=9, power=1.0, regularization=30.0).ravel()
    ranked = np.sort(_squares(mesh, (7, 11), region)[0], axis=1)
    sure = (ranked[:, 8] < ranked[:, 9]) | (ranked[:, 0] == 0)
    assert np.count_nonzero(sure) > 0.5 * sure.size
    assert np.isnan(mesh).any()
    assert np.abs(ours - theirs)[sure].max() < 1e-6 * np.std(mesh[np.isfinite(mesh)])


def _scene(kind):
    if kind == "scattered":
        return _mesh((24, 26), 0.3)
    mesh = _mesh((40, 42), 0.05)
    if kind == "hole":
        mesh[8:33, 9:31] = np.nan
    else:
        mesh[:6], mesh[-5:], mesh[:, :7], mesh[:, -9:] = np.nan, np.nan, np.nan, np.nan
    return mesh


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("kind", ["scattered", "hole", "border"])
def test_same_bits_for_any_region_and_its_window(kind, box):
    mesh = _scene(kind)
    law = {"n_neighbors": 9, "power": 1.5, "regularization": 2.0, "dtype": np.float64}
    y1, x1 = _whole(mesh.shape, box)[1::2]
    whole = idw_evaluate(mesh, box, (0, y1, 0, x1), **law)
    assert np.isfinite(whole).all()
    reach = idw_reach(~np.isnan(mesh), 9)
    smaller = 0
    for y0, x0, height, width in [(0, 0, 31, 17), (37, 40, 50, 50), (y1 - 23, x1 - 45, 23, 45), (61, 5, 1, 90)]:
        region = (y0, y0 + height, x0, x0 + width)
        i0, i1, j0, j1 = idw_window(region, box, reach)
        part = idw_evaluate(mesh[i0:i1, j0:j1], box, region, origin=(i0, j0), mesh_shape=mesh.shape, **law)
        np.testing.assert_array_equal(part, whole[y0 : y0 + height, x0 : x0 + width])
        smaller += (i1 - i0) * (j1 - j0) < mesh.size
    assert smaller >= 3


@pytest.mark.parametrize("box", BOXES)
def test_lists_and_tree_give_the_same_bits(monkeypatch, box):
    """Without lists every box goes the way of the deep holes."""
    mesh = _mesh((20, 21), 0.3)
    for n, power in ((1, 1.0), (10, 1.5), (20, 1.0)):
        law = {"n_neighbors": n, "power": power, "regularization": 0.5, "dtype": np.float64}
        by_lists = idw_evaluate(mesh, box, _whole(mesh.shape, box), **law)
        with monkeypatch.context() as patch:
            patch.setattr(idw, "_lists", lambda *_: None)
            patch.setattr(idw, "_TREE_CELLS", 50)
            by_tree = idw_evaluate(mesh, box, _whole(mesh.shape, box), **law)
        np.testing.assert_array_equal(by_lists, by_tree)


def test_boxes_too_large_for_lists():
    mesh = _mesh((3, 4), 0.2)
    box = (90, 400)
    assert idw._lists(*box, 5, 1.0, 0.0) is None
    region = (85, 95, 790, 830)
    squares = np.sort(_squares(mesh, box, region)[0], axis=1)
    sure = squares[:, 4] < squares[:, 5]
    ours = idw_evaluate(mesh, box, region, n_neighbors=5, dtype=np.float64).ravel()
    np.testing.assert_allclose(ours[sure], _photutils(mesh, box, region, 5, 1.0, 0.0)[sure], rtol=1e-10)
    assert sure.any()


@pytest.mark.parametrize("kind", ["scattered", "hole", "border"])
def test_window_holds_every_box_used_and_one_less_than_those_fails(kind):
    mesh, box, n = _scene(kind), (6, 6), 9
    reach = idw_reach(~np.isnan(mesh), n)
    region = (90, 114, 84, 102)
    squares, _ = _squares(mesh, box, region)
    nth = np.sort(squares, axis=1)[:, n - 1]
    used = np.argwhere(~np.isnan(mesh))[(squares <= nth[:, None]).any(axis=0)]
    i0, i1, j0, j1 = idw_window(region, box, reach)
    top, left = np.minimum(used.min(axis=0), (15, 14))
    bottom, right = np.maximum(used.max(axis=0) + 1, (19, 17))
    assert i0 <= top
    assert j0 <= left
    assert i1 >= bottom
    assert j1 >= right

    def from_boxes(a, b, c, d):
        return idw_evaluate(mesh[a:b, c:d], box, region, n_neighbors=n, origin=(a, c), mesh_shape=mesh.shape)

    np.testing.assert_array_equal(from_boxes(top, bottom, left, right), from_boxes(0, mesh.shape[0], 0, mesh.shape[1]))
    for less in ((top + 1, bottom, left, right), (top, bottom, left, right - 1)):
        assert not np.array_equal(from_boxes(*less), from_boxes(i0, i1, j0, j1))


def test_reach_is_the_smallest_square_with_enough_good_boxes():
    for good, n in ((_mesh((13, 17), 0.6) == 0, 3), (~np.isnan(_mesh((13, 17), 0.6)), 7)):
        if not good.any():
            good[5, 11] = True
        reach = idw_reach(good, n)
        enough = min(n, np.count_nonzero(good))
        for (i, j), k in np.ndenumerate(reach):

            def count(k, i=i, j=j, good=good):
                return np.count_nonzero(good[max(i - k, 0) : i + k + 1, max(j - k, 0) : j + k + 1])

            assert count(k) >= enough
            assert k == 0 or count(k - 1) < enough


def _squares_that_hold(good, n, reach):
    """Whether the square of each cell's reach holds n good boxes."""
    total = np.pad(good.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    y, x = np.indices(good.shape)
    top, bottom = np.maximum(y - reach, 0), np.minimum(y + reach + 1, good.shape[0])
    left, right = np.maximum(x - reach, 0), np.minimum(x + reach + 1, good.shape[1])
    return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left] >= n


@pytest.mark.parametrize("kind", ["scattered", "hole", "corner", "few"])
def test_reach_in_tiles(kind):
    shape, n = (330, 270), 9
    good = np.random.default_rng(5).random(shape) < 0.1
    if kind == "hole":
        good[40:290, 30:230] = False
    elif kind == "corner":
        good[:, 20:], good[30:] = False, False
    elif kind == "few":
        good[:], good[3, 5], good[300, 7], good[320, 260] = False, True, True, True
    reach = idw_reach(good, n)
    enough = min(n, np.count_nonzero(good))
    assert _squares_that_hold(good, enough, reach).all()
    exact = (reach > 0) & (reach <= REACH_HALO)
    assert not _squares_that_hold(good, enough, np.maximum(reach - 1, 0))[exact].any()
    far = reach > REACH_HALO
    assert far.any() == (kind != "scattered")
    less = np.maximum(reach - 2 * REACH_HALO, 0)
    assert not _squares_that_hold(good, enough, less)[far & (less > 0)].any()
    for size in (32, 64, 96):
        grid = TileGrid(shape, (size, size))
        counts = np.zeros((-(-shape[0] // 64), -(-shape[1] // 64)), np.int64)
        for inner in map(grid.region, grid):
            blocks, part = good_counts(good[inner.slices], inner)
            counts[blocks.slices] += part
        assert counts.sum() == np.count_nonzero(good)
        for inner in map(grid.region, grid):
            outer = inner.grown((REACH_HALO, REACH_HALO), shape)
            found = idw_reach_tile(good[outer.slices], n, inner, outer, shape, counts)
            np.testing.assert_array_equal(found, reach[inner.slices])


def test_pixels_deep_in_a_hole_from_the_window_that_the_blocks_tell():
    mesh = np.full((200, 210), np.nan)
    mesh[:15, :12] = np.random.default_rng(6).normal(size=(15, 12))
    reach = idw_reach(~np.isnan(mesh), 10)
    law = {"n_neighbors": 10, "dtype": np.float64}
    for region in ((0, 3, 60, 90), (180, 183, 100, 110), (320, 330, 410, 420)):
        i0, i1, j0, j1 = idw_window(region, (2, 2), reach)
        part = idw_evaluate(mesh[i0:i1, j0:j1], (2, 2), region, origin=(i0, j0), mesh_shape=mesh.shape, **law)
        np.testing.assert_array_equal(part, idw_evaluate(mesh, (2, 2), region, **law))
    good, inner, window = ~np.isnan(mesh), Region(64, 96, 0, 32), Region(1, 200, 0, 210)
    with pytest.raises(ParameterError, match="are not the 64 x 64 around"):
        idw_reach_tile(good[1:], 10, inner, window, mesh.shape, np.ones((4, 4), np.int64))


def test_float32_is_the_rounded_float64_and_the_input_stays():
    mesh = _mesh((9, 9), 0.3).astype(np.float32)
    before = mesh.copy()
    single = idw_evaluate(mesh, (6, 6), (3, 50, 0, 54))
    double = idw_evaluate(mesh, (6, 6), (3, 50, 0, 54), dtype=np.float64)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, double.astype(np.float32))
    np.testing.assert_array_equal(mesh, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors 0 leaves no box"),
        ({"power": -1.0}, "power -1.0 would favour"),
        ({"regularization": np.nan}, "regularization nan would favour"),
        ({"dtype": np.int32}, "dtype int32 would round"),
        ({"region": (0, 0, 0, 5)}, "is empty or outside"),
        ({"region": (0, 31, 0, 5)}, "is empty or outside the 30 x 30 pixels"),
        ({"origin": (1, 0), "mesh_shape": (6, 5)}, "do not hold the boxes"),
    ],
)
def test_refuses(arguments, message):
    region = arguments.pop("region", (0, 5, 0, 5))
    with pytest.raises(ParameterError, match=message):
        idw_evaluate(np.ones((5, 5)), (6, 6), region, **arguments)


def test_refuses_a_mesh_without_good_boxes():
    with pytest.raises(ParameterError, match="all 9 boxes given are NaN"):
        idw_evaluate(np.full((3, 3), np.nan), (6, 6), (0, 5, 0, 5))
    with pytest.raises(ParameterError, match="all 9 boxes of the mesh are excluded"):
        idw_reach(np.zeros((3, 3), bool), 4)
