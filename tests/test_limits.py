"""Extreme numbers and texts: refused in one line, or planned in bounded memory; nothing large is allocated before."""

from __future__ import annotations

import resource
import typing

import numpy as np
import psutil
import pytest
from astropy.io import fits

from tiledsky import Recipe
from tiledsky.diagnostics.injection import Injection
from tiledsky.engine.forecast import describe
from tiledsky.engine.runner import planned
from tiledsky.errors import InputError, ParameterError
from tiledsky.io.regions import MAX_CORNERS, MAX_REGIONS, open_regions
from tiledsky.recipe import ObjectsStep
from tiledsky.recipe import parameters as steps
from tiledsky.recipe.reading import MAX_BYTES
from tiledsky.simulate import simulate_scene

EXTREMES = [0, -1, 5e-324, 1e-30, 1e5, 1e9, 2**31, 2**63, 10**30, 1e300, -1e300]
MODELS = [
    *(steps.RingStep, steps.MaskStep, steps.Tier, steps.SigmaClip, steps.BackgroundStep, steps.IDWInterpolator),
    *(steps.LocalPolynomialInterpolator, steps.MeshCeiling, ObjectsStep, Recipe),
]


def is_number(annotation):
    """Whether a field may hold a number, or a pair of them."""
    inside = typing.get_args(annotation)
    return annotation in (int, float) or any(is_number(a) for a in inside if not isinstance(a, str))


NUMBERS = [
    (m, name) for m in MODELS for name, f in m.model_fields.items() if name != "steps" and is_number(f.annotation)
]


def recipe_with(model, name, value):
    """A recipe with every kind of model, and one number of one of them set."""

    def made(of, /, **parameters):
        return parameters | ({name: value} if of is model else {})

    clip, tier = made(steps.SigmaClip), made(steps.Tier, n_sigma=3.0, n_pixels=3)
    ring = made(steps.RingStep, kind="ring", name="ring", radius_in=10.0, width=3.0)
    first = made(steps.BackgroundStep, kind="background", name="first", box_size=20, clip=clip)
    first["interpolator"] = made(steps.IDWInterpolator, kind="idw")
    mask = made(steps.MaskStep, kind="mask", name="mask", minus="ring", tiers=[tier], clip=clip)
    last = {"kind": "background", "name": "last", "box_size": 10}
    last["ceiling"] = made(steps.MeshCeiling, above="first")
    last["interpolator"] = made(steps.LocalPolynomialInterpolator, kind="local-polynomial")
    objects = made(ObjectsStep, kind="objects")
    return made(Recipe, name="extreme", steps=[ring, first, mask, objects, last])


@pytest.fixture(autouse=True)
def little_memory():
    """Two gigabytes more than there is now: a MemoryError, not a full machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("limits") / "image.fits"
    fits.PrimaryHDU(np.zeros((240, 260), np.float32)).writeto(path)
    return path


@pytest.mark.parametrize(("model", "name"), NUMBERS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_extreme_numbers_of_steps(model, name, image):
    said = []
    for value in EXTREMES:
        try:
            made = planned(Recipe.from_dict(recipe_with(model, name, value)), str(image), memory_limit=2 * 10**9)
            describe(made.recipe, made.plan, made.source, memory_limit=2 * 10**9)
        except ParameterError as error:
            said.append(str(error))
    assert len(said) > 1
    assert all("\n" not in line and len(line) < 400 for line in said)


def test_the_walk_finds_the_numbers():
    found = {f"{model.__name__}.{name}" for model, name in NUMBERS}
    assert {"RingStep.radius_in", "Tier.grow", "Tier.kernel_radius", "BackgroundStep.box_size"} <= found
    assert {"LocalPolynomialInterpolator.bandwidth", "IDWInterpolator.n_neighbors", "Recipe.fill_value"} <= found


def test_limits_are_said():
    with pytest.raises(ParameterError, match=r"step 'ring'\.radius_in: 1000000000\.0 is beyond .* use 2048 or less"):
        Recipe.from_dict(recipe_with(steps.RingStep, "radius_in", 1e9))
    many = [{"kind": "background", "name": f"b{i}", "box_size": 10} for i in range(steps.MAX_STEPS + 1)]
    with pytest.raises(ParameterError, match=r"steps: 100 steps is beyond .* use 99 or less"):
        Recipe.from_dict({"name": "many", "steps": many})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 10_000 + "]" * 10_000, "nested too deep"),
        ("x = " + "{a = " * 10_000 + "1" + "}" * 10_000, "nested too deep"),
        ("[a" + ".a" * 10_000 + "]\nx = 1", "unknown key"),
        ("#" * (MAX_BYTES + 1), "more than the 1000000 bytes"),
        ("x = " + "9" * 5000, "not valid TOML"),
    ],
    ids=["arrays", "tables", "keys", "long", "digits"],
)
def test_extreme_texts_of_recipes(text, message, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\n" + "circle(10,10,3)\n" * (MAX_REGIONS + 1), "give a mask image instead"),
        ("image;" + "circle(10,10,3);" * (MAX_REGIONS + 1), "give a mask image instead"),
        ("image\npolygon(" + "1,2," * (MAX_CORNERS + 1) + "3,4)\n", "about 5001 corners"),
        ("#CRTF\npoly [" + "[1pix, 2pix], " * (MAX_CORNERS + 1) + "[3pix, 4pix]]\n", "corners"),
    ],
    ids=["lines", "one line", "polygon", "crtf"],
)
def test_extreme_region_files(text, message, tmp_path):
    path = tmp_path / "mask.reg"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_regions(path, shape=(100, 100), header="")


@pytest.mark.parametrize("value", [10**6 * 2**31, 10**31, 1e300, float("inf")])
@pytest.mark.parametrize("name", ["n_sources", "n_blemishes", "noise", "flux_max", "stddev_max"])
def test_extreme_scenes(name, value):
    value = value * 10**20 if name in ("noise", "flux_max") else value
    with pytest.raises(ParameterError, match=f"{name} .* change {name}"):
        simulate_scene((100, 100), seed=1, chunks=50, **{name: value})


def test_extreme_sizes_of_scenes():
    with pytest.raises(ParameterError, match="make the shape smaller"):
        simulate_scene((2**30, 2**30), seed=1, chunks=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 10**9}, r"count x fluxes x sizes .* fewer sources"),
        ({"sizes": (2.0, 1e9)}, "smaller half-light radii"),
        ({"fluxes": (1e300,)}, "lower fluxes"),
    ],
)
def test_extreme_injections(options, message):
    with pytest.raises(ParameterError, match=message):
        Injection(**options)
