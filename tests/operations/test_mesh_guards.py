"""Guards of a mesh: against plain numpy, in scenes that they are for, and in any tiles."""

import numpy as np
import pytest
import zarr
from scipy import ndimage

from tests.operations.surfaces import finish
from tiledsky import Recipe, estimate_background, run
from tiledsky.engine.plan import make_plan
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.boxes.boxes import box_statistics
from tiledsky.kernels.mesh.guards import (
    OUTLYING_HALO,
    central_pixels,
    from_levels,
    grown_boxes,
    outlying_boxes,
    outlying_distances,
)
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.boxes import array_box_statistics
from tiledsky.recipe import BackgroundStep, validated
from tiledsky.testing import assert_tile_invariant

PLANES = ("background", "background_rms", "background_error", "mask", "subtracted")


def step(**parameters):
    data = {"kind": "background", "name": "sky", "box_size": 10, "estimator": "mean", **parameters}
    return validated(BackgroundStep, data, source="test")


def recipe(*steps):
    return Recipe.from_dict({"name": "guarded", "steps": [{"kind": "background", **s} for s in steps]})


#: All guards at once, on boxes whose doubles fit no tile by themselves; and with IDW.
GUARDED = recipe(
    {"name": "coarse", "box_size": 30, "exclude_percentile": 60, "keep": True},
    {
        "name": "fine",
        "box_size": [6, 5],
        "exclude_percentile": 70,
        "min_pixels": 12,
        "grow_boxes": 2,
        "reject_sigma": 4.0,
        "ceiling": {"above": "coarse", "sigma": 0.5},
        "keep": True,
    },
    {
        "name": "last",
        "box_size": 8,
        "estimator": "median",
        "exclude_percentile": 60,
        "interpolator": {"kind": "idw", "n_neighbors": 5},
        "grow_boxes": 1,
        "reject_sigma": 5.0,
        "ceiling": {"above": "fine", "sigma": 1.0},
    },
)


def holed(shape=(141, 157), *, seed=3):
    """Noise on a bent gradient, a galaxy, a plate of bright boxes, and holes of all sizes."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(size=shape) + 0.03 * x + 0.0004 * (y - 60) ** 2
    image += 30 * np.exp(-0.5 * ((y - 90) ** 2 + (x - 40) ** 2) / 15**2)
    image[20:26, 100:106] += 40
    mask = rng.random(shape) < ndimage.uniform_filter(rng.random(shape), 25) * 1.2 - 0.1
    mask[60:110, 80:130] |= rng.random((50, 50)) < 0.8
    mask[:30, :40] = True
    return image.astype(np.float32), mask


# kernels


def test_grown_boxes_are_the_smallest_that_are_good():
    rng = np.random.default_rng(1)
    bad = [rng.random((-(-13 >> k), -(-10 >> k))) < 0.7 for k in range(4)]
    level = grown_boxes(bad)
    for i, j in np.ndindex(13, 10):
        good = [k for k in range(4) if not bad[k][i // 2**k, j // 2**k]]
        assert level[i, j] == (good[0] if good else -1)
    assert set(level.ravel().tolist()) == {-1, 0, 1, 2, 3}
    values = [rng.random(b.shape).astype(np.float32) for b in bad]
    before = values[0].copy()
    found = from_levels(values, level)
    for i, j in np.ndindex(13, 10):
        k = max(level[i, j], 0)
        assert found[i, j] == values[k][i // 2**k, j // 2**k]
    assert found.dtype == np.float32
    assert np.array_equal(values[0], before)


def test_levels_of_another_mesh_are_refused():
    with pytest.raises(ParameterError, match=r"2\*\*1 times as large make a mesh of \(3, 2\) over one of \(5, 4\)"):
        grown_boxes([np.ones((5, 4), bool), np.ones((2, 2), bool)])


def _distances(mesh):
    whole = Region.whole(mesh.shape)
    return outlying_distances(mesh, whole, whole, mesh.shape)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_outlying_boxes(sigma):
    rng = np.random.default_rng(2)
    mesh = rng.standard_t(2, size=(21, 17))
    mesh[rng.random(mesh.shape) < 0.2] = np.nan
    mesh[:4, :6] = np.nan

    def median(values):
        return np.median(values[~np.isnan(values)]) if not np.isnan(values).all() else np.nan

    distance = abs(mesh - ndimage.generic_filter(mesh, median, 5, mode="constant", cval=np.nan))
    found = _distances(mesh)
    assert np.array_equal(found, distance, equal_nan=True)
    expected = distance > sigma * 1.4826022185056018 * np.nanmedian(distance)
    middle = CountedValues.of(found).median()
    assert np.array_equal(outlying_boxes(found, sigma=sigma, middle=middle), expected)
    assert 0 < expected.sum() < 0.6 * mesh.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_in_tiles(dtype):
    mesh = np.random.default_rng(3).normal(size=(70, 45)).astype(dtype)
    mesh[20:40, 3:30] = np.nan
    whole, parts = _distances(mesh), []
    grid = TileGrid(mesh.shape, (32, 32))
    for inner in map(grid.region, grid):
        outer = inner.grown((OUTLYING_HALO, OUTLYING_HALO), mesh.shape)
        part = outlying_distances(mesh[outer.slices], inner, outer, mesh.shape)
        assert np.array_equal(part, whole[inner.slices], equal_nan=True)
        parts.append(CountedValues.of(part))
    assert CountedValues.merged(parts).median() == CountedValues.of(whole).median()
    with pytest.raises(ParameterError, match="are not the 2 x 2 around"):
        outlying_distances(mesh[:33], Region(0, 32, 0, 45), Region(0, 33, 0, 45), mesh.shape)


def test_nothing_outlies_without_a_scale():
    mesh = np.ones((9, 9))
    mesh[4, 4] = 50
    for distances in (_distances(mesh), np.full((3, 3), np.nan)):
        assert not outlying_boxes(distances, sigma=3, middle=CountedValues.of(distances).median()).any()


@pytest.mark.parametrize(
    ("n", "box", "centres"), [(12, 4, [1, 5, 9]), (11, 5, [2, 7, 10]), (7, 4, [1, 5]), (3, 9, [1])]
)
def test_central_pixels(n, box, centres):
    assert central_pixels(n, box).tolist() == centres


# meshes


def test_without_guards_nothing_changes():
    image, mask = holed()
    options = {"exclude_percentile": 60, "filter_size": 5}
    plain = finish(array_box_statistics(image, mask, step(**options)), step(**options))
    weak = step(**options, min_pixels=1, grow_boxes=2, reject_sigma=1e9)
    weak = weak.model_copy(update={"grow_boxes": 0})
    found = finish(array_box_statistics(image, mask, weak), weak)
    for name in ("background", "rms", "error", "n_good", "excluded"):
        assert np.array_equal(getattr(found, name), getattr(plain, name)), name


def test_min_pixels():
    image, mask = holed()
    options = {"exclude_percentile": 95}
    levels = array_box_statistics(image, mask, step(**options))
    few = finish(levels, step(**options, min_pixels=40))
    assert np.array_equal(few.excluded, (levels[0].n_good < 40) | (levels[0].n_good <= 5))
    assert few.excluded.sum() > finish(levels, step(**options)).excluded.sum()
    with pytest.raises(
        InputError,
        match=r"All boxes contain no more than 5% of 100 and of 100 unmasked or finite pixels \(240 boxes of 10 x 10",
    ):
        finish(levels, step(**options, min_pixels=101))


def test_grown_boxes_take_the_statistics_of_larger_ones():
    image, mask = holed()
    parameters = step(
        exclude_percentile=50, min_pixels=30, grow_boxes=2, filter_size=1, estimator="median", clip="none"
    )
    mesh = finish(array_box_statistics(image, mask, parameters), parameters)
    y, x = np.indices(image.shape)
    levels = set()
    for i, j in np.ndindex(mesh.background.shape):
        chosen = None
        for k in range(3):
            side = 10 * 2**k
            inside = (y // side == i // 2**k) & (x // side == j // 2**k) & ~mask
            n = np.count_nonzero(inside)
            if n > 0.5 * side**2 and n >= 30:
                chosen = k
                assert mesh.n_good[i, j] == n
                assert mesh.background[i, j] == np.median(image[inside])
                assert mesh.rms[i, j] == pytest.approx(np.std(image[inside].astype(float)), rel=1e-5)
                break
        levels.add(chosen)
        assert mesh.excluded[i, j] == (chosen is None)
    assert levels == {0, 1, 2, None}


def test_growing_beats_filling_at_the_end_of_a_gradient():
    """A corner with few pixels left: its neighbours lie all on one side."""
    rng = np.random.default_rng(4)
    y, x = np.indices((200, 200))
    truth = 0.05 * x + 0.05 * y
    image = truth + 0.3 * rng.normal(size=truth.shape)
    mask = (rng.random(truth.shape) < 0.8) & (y < 60) & (x < 60)
    worst = {}
    for grow in (0, 2):
        options = {"min_pixels": 50, "exclude_percentile": 90, "grow_boxes": grow, "filter_size": 1}
        parameters = step(**options)
        mesh = finish(array_box_statistics(image, mask, parameters), parameters)
        cells = truth.reshape(20, 10, 20, 10).mean(axis=(1, 3))
        worst[grow] = abs(mesh.background - cells)[:6, :6].max()
        assert mesh.excluded[:6, :6].any() == (grow == 0)
    assert worst[2] < 0.6 < 1.5 < worst[0]


def test_rejected_boxes_are_refilled():
    rng = np.random.default_rng(5)
    image = 10 + rng.normal(size=(300, 300))
    image[100:110, 200:210] += 5.0
    image[50:60, 50:60] -= 4.0
    image[52, 55] = 1e5  # one pixel, which is clipped
    plain, guarded = step(filter_size=1), step(filter_size=1, reject_sigma=6.0)
    levels = array_box_statistics(image, None, plain)
    found = finish(levels, guarded)
    assert np.argwhere(found.excluded).tolist() == [[5, 5], [10, 20]]
    assert abs(found.background[10, 20] - 10) < 0.3
    assert abs(found.background[5, 5] - 10) < 0.3
    assert abs(finish(levels, plain).background[10, 20] - 15) < 0.5
    others = ~found.excluded
    assert np.array_equal(found.background[others], levels[0].background[others])
    assert not np.array_equal(found.rms[found.excluded], levels[0].rms[found.excluded])


@pytest.mark.parametrize("interpolator", [{"kind": "zoom"}, {"kind": "idw"}])
def test_ceiling_is_that_of_the_pixels_of_the_other_step(interpolator):
    image, mask = holed()
    coarse = {"name": "coarse", "box_size": [25, 30], "exclude_percentile": 90, "interpolator": interpolator}
    fine = {"name": "fine", "box_size": [10, 7], "exclude_percentile": 90}
    limited = {**fine, "ceiling": {"above": "coarse", "sigma": 0.7}}
    found = estimate_background(image, recipe(coarse, limited), mask=mask).meshes["fine"]
    other = estimate_background(image, recipe(coarse), mask=mask)
    rows, columns = central_pixels(image.shape[0], 10), central_pixels(image.shape[1], 7)
    place = np.ix_(rows, columns)
    limit = other.background[place].astype(float) + 0.7 * other.background_rms[place].astype(float)
    plain = estimate_background(image, recipe(fine), mask=mask).meshes["fine"]
    assert np.array_equal(found.background, np.minimum(plain.background, limit.astype(np.float32)))
    assert np.array_equal(found.rms, plain.rms)
    assert 0 < np.count_nonzero(found.background < plain.background) < 0.6 * found.background.size


def test_ceiling_keeps_the_light_of_an_extended_galaxy():
    rng = np.random.default_rng(6)
    y, x = np.indices((800, 800))
    galaxy = 50 * np.exp(-0.5 * ((y - 410) ** 2 + (x - 380) ** 2) / 30**2)
    sky = 0.001 * x
    image = (sky + galaxy + rng.normal(size=sky.shape)).astype(np.float32)
    mask = galaxy > 0.3  # where the flux is summed; the meshes see all
    coarse = {"name": "coarse", "box_size": 100, "exclude_percentile": 90, "filter_size": 3, "estimator": "median"}
    fine = {"name": "fine", "box_size": 16, "exclude_percentile": 90}
    flux = {}
    for name, guard in (("free", {}), ("limited", {"ceiling": {"above": "coarse", "sigma": 0.05}})):
        left = estimate_background(image, recipe(coarse, {**fine, **guard})).subtracted
        flux[name] = float(left[mask].sum() / galaxy[mask].sum())
    assert flux["limited"] > 0.98
    assert flux["free"] < 0.2


# tiles


def test_guards_do_not_depend_on_chunks():
    image, mask = holed()
    assert_tile_invariant(
        lambda image, mask: estimate_background(image, GUARDED, mask=mask),
        image,
        chunks=[(37, 50), ((1, 100, 40), 157)],
        mask=mask,
    )


@pytest.mark.parametrize("tile_size", [60, 97])
def test_a_run_gives_the_same_bits(tmp_path, tile_size):
    image, mask = holed()
    for name, plane in (("science", image), ("mask", mask.astype(np.uint8))):
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=plane, chunks=(53, 61))
    sources = {"source": str(tmp_path / "science.zarr"), "mask": str(tmp_path / "mask.zarr")}
    result = run(recipe=GUARDED, out=tmp_path / "run.zarr", tile_size=tile_size, **sources)
    sky = estimate_background(image, GUARDED, mask=mask)
    for name in PLANES:
        assert np.array_equal(result.plane(name)[...], getattr(sky, name)), name
    for name, mesh in sky.meshes.items():
        for part, values in result.mesh(name).items():
            assert np.array_equal(values, getattr(mesh, part)), (name, part)
        assert {"background", "rms", "error", "n_good", "excluded"} == set(result.mesh(name))
    fine = sky.meshes["fine"]
    own = box_statistics(image, (6, 5), mask=mask).n_good
    assert (fine.n_good > own).sum() > 20  # some did grow
    assert fine.excluded.any()
    kept = estimate_background(image, Recipe(name="fine", steps=GUARDED.steps[:2]), mask=mask)
    for ending, plane in (("", kept.background), ("_rms", kept.background_rms), ("_error", kept.background_error)):
        assert np.array_equal(result.plane(f"fine{ending}")[...], plane)


@pytest.mark.parametrize("tile_size", [None, 10, 50, 333])
def test_tiles_are_whole_numbers_of_the_largest_boxes(tile_size):
    plan = make_plan(GUARDED, (700, 900), "float32", tile_size=tile_size, ingest=False)
    largest = {"coarse": (30, 30), "fine": (24, 20), "last": (16, 16)}
    measured = [(stage.tile, largest[name]) for stage in plan.stages for name in stage.measures]
    assert len(measured) == 3
    for tile, box in measured:
        assert tile[0] % box[0] == tile[1] % box[1] == 0
