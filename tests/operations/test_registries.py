"""The registries of interpolators and estimators: nobody else knows one by name, and another one works like them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Literal, get_args

import dask.array as da
import numpy as np
import pytest
from scipy import stats

import tiledsky
from tiledsky import Recipe, estimate_background
from tiledsky.errors import ParameterError
from tiledsky.geometry import Region
from tiledsky.kernels.boxes.boxes import box_statistics
from tiledsky.kernels.boxes.estimators import (
    ESTIMATORS,
    RMS_ESTIMATORS,
    Estimator,
    RmsEstimator,
    inefficiency,
    rms_estimator_of,
)
from tiledsky.kernels.mesh.error import window_counts
from tiledsky.operations.filtered_maps import BoxNumbers
from tiledsky.operations.interpolators import INTERPOLATORS, Interpolator, interpolator_of
from tiledsky.overlap import Patch
from tiledsky.recipe import BackgroundStep, InterpolatorParameters
from tiledsky.recipe.parameters import AnyInterpolator

PACKAGE = Path(tiledsky.__file__).parent
#: Where interpolators are known by name; and modules that pass the models of the public interface on.
HOMES = ("recipe/", "operations/interpolators/")
PUBLIC = ("__init__.py", "arrays/background2d.py", "arrays/photutils_objects.py")

MODELS = {model.__name__ for model in INTERPOLATORS}
IMPLEMENTATIONS = {implementation.__name__ for implementation in INTERPOLATORS.values()}
KINDS = {model.model_fields["kind"].default for model in INTERPOLATORS}


def names_of(node: ast.AST) -> set[str]:
    """Names that a node uses or imports."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.alias):
        return {node.name.rpartition(".")[2], str(node.asname)}
    return set()


def known_by_name(source: str, forbidden: set[str]) -> set[str]:
    """What of interpolators a module names: classes, and kinds as whole strings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        found |= names_of(node) & forbidden
        if isinstance(node, ast.Constant) and node.value in KINDS:
            found.add(str(node.value))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            found |= {ast.unparse(s) for s in sides if ast.unparse(s).endswith("interpolator.kind")}
    return found


def test_nobody_else_knows_an_interpolator_by_name():
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(HOMES):
            forbidden = IMPLEMENTATIONS if place in PUBLIC else IMPLEMENTATIONS | MODELS
            assert not known_by_name(path.read_text(), forbidden), place


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tiledsky.recipe import IDWInterpolator", "IDWInterpolator"),
        ("isinstance(step.interpolator, recipe.ZoomInterpolator)", "ZoomInterpolator"),
        ('reach = step.interpolator.kind == "idw"', "idw"),
        ("reach = step.interpolator.kind in kinds", "step.interpolator.kind"),
        ('match kind:\n case "local-polynomial":\n  pass', "local-polynomial"),
        ("from tiledsky.operations.interpolators.idw import IDW", "IDW"),
    ],
)
def test_a_name_of_an_interpolator_is_found(source, found):
    assert found in known_by_name(source, IMPLEMENTATIONS | MODELS)


def test_every_interpolator_of_recipes_has_an_implementation_of_its_own_parameters():
    own = {model: get_args(implementation.__orig_bases__[0])[0] for model, implementation in INTERPOLATORS.items()}
    assert own == {model: model for model in get_args(AnyInterpolator)}


def test_estimators_of_recipes_are_those_of_the_registry():
    fields = BackgroundStep.model_fields
    assert get_args(fields["estimator"].annotation) == tuple(ESTIMATORS)
    assert get_args(fields["rms_estimator"].annotation) == tuple(RMS_ESTIMATORS)


def test_an_unknown_estimator_has_no_scatter():
    with pytest.raises(ParameterError, match=r"estimator='mod' is unknown.* one of .*'mode'"):
        inefficiency("mod", [4, 5])
    with pytest.raises(ParameterError, match=r"rms_estimator='mad' is unknown.* one of .*'mad_std'"):
        rms_estimator_of("mad")
    with pytest.raises(TypeError, match="inefficiency"):
        Estimator(0)
    with pytest.raises(TypeError, match="population"):
        RmsEstimator(0)


class RecordingArray:
    """An array that remembers how many rows and columns are asked for."""

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, []

    def __getitem__(self, index):
        self.read.append(self.values[index].shape)
        return self.values[index]


@pytest.mark.parametrize("model", sorted(INTERPOLATORS, key=lambda m: m.__name__))
@pytest.mark.parametrize("box", [(6, 6), (7, 20)])
def test_no_more_cells_are_read_than_foreseen(model, box):
    """Tiles begin at corners of boxes, their halos anywhere."""
    interpolator, rng = interpolator_of(model()), np.random.default_rng(12)
    cells, excluded = rng.normal(size=(60, 50)), rng.random((60, 50)) < 0.3
    whole, patch = Region.whole(cells.shape), Patch(cells, Region.whole(cells.shape), cells.shape)
    values = RecordingArray(interpolator.values(patch, patch.replaced(excluded), whole))
    parts = interpolator.box_parts(patch.replaced(np.where(excluded, np.nan, cells)), ~excluded, whole)
    numbers = BoxNumbers(1.0, 1.0, True, {}, interpolator.merge_box_parts(iter([parts])) if parts else [])
    shape, lookups = (60 * box[0], 50 * box[1]), interpolator.lookups(patch.replaced(excluded), whole, numbers)
    assert lookups.keys() == interpolator.lookup_maps.keys()
    for _ in range(50):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(n, 2, replace=False)) for n in shape)
        region, options = Region(int(y0), int(y1), int(x0), int(x1)), {"box_size": box, "dtype": np.dtype(np.float64)}
        interpolator.evaluate(values, region, lookups=lookups, limits=(cells.min(), cells.max()), **options)
        most = interpolator.cells_read(region.shape, box_size=box, mesh=cells.shape)
        assert all(n <= m for n, m in zip(values.read.pop(), most, strict=True))
    assert not values.read


class NearestInterpolator(InterpolatorParameters):
    """Each pixel has the value of its box."""

    kind: Literal["nearest"] = "nearest"


class Nearest(Interpolator[NearestInterpolator]):
    """Boxes as large pixels."""

    def error_factors(self, shape, box_size, size):
        rows, columns = (1.0 / window_counts(n, s) for n, s in zip(shape, size, strict=True))
        return rows, columns

    def values(self, cells, excluded, region):
        return cells.crop(region)

    def evaluate(self, values, region, *, box_size, lookups, limits, dtype):
        (by, bx), (y0, y1, x0, x1) = box_size, region
        window = np.asarray(values[y0 // by : -(-y1 // by), x0 // bx : -(-x1 // bx)])
        return window[np.ix_(np.arange(y0, y1) // by - y0 // by, np.arange(x0, x1) // bx - x0 // bx)].astype(dtype)

    def cells_read(self, region, *, box_size, mesh):
        return region[0] // box_size[0] + 2, region[1] // box_size[1] + 2

    def evaluate_memory(self, region, *, box_size, mesh, reading):
        rows, columns = self.cells_read(region, box_size=box_size, mesh=mesh)
        return [("cells", 8 * (1 + reading), "cells", rows * columns)]


def test_parameters_without_an_implementation_are_an_error():
    with pytest.raises(ParameterError, match=r"NearestInterpolator.* has no implementation.*ZoomInterpolator"):
        interpolator_of(NearestInterpolator())


def recipe_of(**changes):
    """A recipe of boxes of 10 px whose mesh is not filtered, and a step with changes that no recipe file can have."""
    step = BackgroundStep(name="sky", box_size=(10, 10), filter_size=(1, 1), clip=None, estimator="mean")
    return Recipe(name="made-up", steps=(step.model_copy(update=changes),))


@pytest.fixture
def image():
    """Noise on a slope, boxes of 10 px whole and partial, one of them without pixels."""
    y, x = np.indices((84, 67))
    image = 0.02 * y - 0.01 * x + np.random.default_rng(3).normal(size=(84, 67))
    image[30:40, 20:30] = np.nan
    return image


def test_another_interpolator(image, monkeypatch):
    monkeypatch.setitem(INTERPOLATORS, NearestInterpolator, Nearest)
    recipe = recipe_of(interpolator=NearestInterpolator())
    sky = estimate_background(image, recipe)
    mesh = sky.meshes["sky"]
    blocks = [[image[y : y + 10, x : x + 10] for x in range(0, 67, 10)] for y in range(0, 84, 10)]
    for i, j in np.argwhere(~mesh.excluded):
        pixels = np.s_[10 * i : 10 * i + 10, 10 * j : 10 * j + 10]
        box = blocks[i][j]
        np.testing.assert_allclose(sky.background[pixels], box.mean(), atol=1e-12)
        np.testing.assert_allclose(sky.background_rms[pixels], box.std(), rtol=1e-12)
        # a pixel has the error of the mean of its box
        error = np.sqrt(mesh.noise_factor) * stats.sem(box, axis=None)
        np.testing.assert_allclose(sky.background_error[pixels], error, rtol=1e-12)
    assert mesh.excluded[3, 2]
    assert np.unique(sky.background[30:40, 20:30]).size == 1
    lazy = estimate_background(da.from_array(image, chunks=(33, 41)), recipe)
    assert np.array_equal(lazy.background.compute(scheduler="threads"), sky.background)
    assert np.array_equal(lazy.background_error.compute(scheduler="threads"), sky.background_error)


def midhinge(values, *, axis):
    """Mean of the two quartiles."""
    return np.nanquantile(values, (0.25, 0.75), axis=axis).mean(axis=0)


#: Of many normal values: with f the density at a quartile, both have the variance 3 / (16 n f**2), and the covariance
#: 1 / (16 n f**2).
MIDHINGE = 1.0 / (8.0 * stats.norm.pdf(stats.norm.ppf(0.75)) ** 2)


def test_another_estimator(image, monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "midhinge", Estimator(midhinge, lambda n: np.full_like(n, MIDHINGE)))
    sky = estimate_background(image, recipe_of(estimator="midhinge"))
    mesh = sky.meshes["sky"]
    for i, j in np.argwhere(~mesh.excluded):
        box = image[10 * i : 10 * i + 10, 10 * j : 10 * j + 10]
        assert mesh.background[i, j] == pytest.approx(np.percentile(box, [25, 75]).mean(), abs=1e-12)
    # the error is that of the mean, by the same spline, times what the estimator is worse
    mean = estimate_background(image, recipe_of()).meshes["sky"]
    expected = mean.error * np.sqrt(MIDHINGE * mesh.noise_factor / mean.noise_factor)
    np.testing.assert_allclose(mesh.error, expected, rtol=1e-12)


def test_the_scatter_of_the_other_estimator_is_as_said():
    noise = np.random.default_rng(8).normal(size=(800, 800))
    found = box_statistics(noise, 16, clip=None, estimator=midhinge).background
    assert np.var(found) * 256 == pytest.approx(MIDHINGE, rel=0.09)  # 2500 boxes: 2.8% of the variance, 3 times


def test_another_rms_estimator(image, monkeypatch):
    def quartiles(values, *, axis):
        return np.diff(np.nanquantile(values, (0.25, 0.75), axis=axis), axis=0)[0] / 1.3489795

    monkeypatch.setitem(RMS_ESTIMATORS, "quartiles", RmsEstimator(quartiles, population=False))
    mesh = estimate_background(image, recipe_of(rms_estimator="quartiles")).meshes["sky"]
    for i, j in np.argwhere(~mesh.excluded):
        box = image[10 * i : 10 * i + 10, 10 * j : 10 * j + 10]
        assert mesh.rms[i, j] == pytest.approx(stats.iqr(box, scale="normal"), rel=1e-7)
