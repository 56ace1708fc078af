"""Recipes: round trip, presets, and messages that name the key."""

import re
import tomllib

import pytest

from tiledsky.errors import ParameterError
from tiledsky.recipe import Recipe, preset_names, recipe_text
from tiledsky.recipe.parameters import (
    PLANES,
    BackgroundStep,
    IDWInterpolator,
    MaskStep,
    RingStep,
    SigmaClip,
    Tier,
    ZoomInterpolator,
)

BACKGROUND = {"kind": "background", "name": "sky", "box_size": 10}
RING = {"kind": "ring", "radius_in": 15, "width": 5}
MASK = {"kind": "mask", "name": "bright", "tiers": [{"n_sigma": 2}]}


def _recipe(*steps, **more):
    return Recipe.from_dict({"name": "mine", "steps": list(steps), **more})


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_survive_the_round_trip(name, tmp_path):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description
    path = tmp_path / "copy.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.load(path) == Recipe.load(str(path)) == recipe
    assert Recipe.load(recipe) is recipe


def test_presets_are_there():
    assert {"complex-sky", "sextractor"} <= set(preset_names())


def test_the_preset_has_the_numbers_of_the_notebook():
    recipe = Recipe.load("complex-sky")
    ring, bright, bkg3, bkg4, tiers, bkg5 = recipe.steps
    assert (ring.radius_in, ring.width, ring.percentile) == (15, 5, 50)
    (tier,) = bright.tiers
    assert (tier.n_sigma, tier.sigma, tier.center, tier.noise, tier.noise_of) == (1, 3, "zero", "std", "smoothed")
    assert [(b.box_size[0], b.filter_size[0]) for b in (bkg3, bkg4, bkg5)] == [(10, 5), (10, 5), (6, 3)]
    assert all((b.estimator, b.exclude_percentile, b.clip) == ("median", 90, SigmaClip()) for b in (bkg3, bkg4, bkg5))
    assert bkg3.interpolator == ZoomInterpolator()
    assert bkg4.interpolator == IDWInterpolator(n_neighbors=20, power=1, regularization=30)
    assert bkg5.interpolator == IDWInterpolator(n_neighbors=20, power=0, regularization=30)
    assert [(t.n_sigma, t.n_pixels, t.fwhm, t.grow) for t in tiers.tiers] == [
        (1.5, 3, 1, 4),
        (1.5, 3, 3, 2),
        (1.5, 3, 5, 1),
    ]
    assert {(t.kernel_radius, t.grow_shape, t.center, t.noise, t.noise_of) for t in tiers.tiers} == {
        (1, "tophat", "mean", "clipped_std", "unsmoothed")
    }
    assert recipe.detection_sky(bright) is ring
    assert recipe.detection_sky(tiers) is bkg4
    assert recipe.mask_for(bkg3) is recipe.mask_for(bkg4) is bright
    assert recipe.mask_for(bkg5) is recipe.result_mask is tiers
    assert recipe.result is bkg5
    assert [s.box_size for s in recipe.steps if isinstance(s, BackgroundStep)] == [(10, 10), (10, 10), (6, 6)]


def test_round_trip_of_every_parameter_away_from_its_default():
    recipe = Recipe(
        name="all",
        description="every key",
        steps=(
            RingStep(name="r", radius_in=3.5, width=1.5, percentile=40, keep=True),
            BackgroundStep(
                name="b",
                box_size=(7, 9),
                filter_size=(1, 5),
                filter_threshold=0.5,
                exclude_percentile=33.3,
                clip=SigmaClip(sigma_lower=2, sigma_upper=4, maxiters=-1, center="mean", spread="mad_std"),
                estimator="mmm",
                rms_estimator="biweight",
                interpolator=ZoomInterpolator(clip=False),
                mask="none",
                keep=True,
            ),
            MaskStep(
                name="m",
                minus="r",
                keep=True,
                clip=SigmaClip(sigma_lower=5),
                tiers=(
                    Tier(
                        n_sigma=-1.5,
                        sigma=2,
                        kernel_radius=4,
                        n_pixels=9,
                        grow=3,
                        grow_shape="square",
                        center="median",
                        noise="mad_std",
                        noise_of="smoothed",
                    ),
                ),
            ),
            BackgroundStep(
                name="c", box_size=5, interpolator=IDWInterpolator(n_neighbors=3, power=2, regularization=1)
            ),
        ),
    )
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe


def test_no_clip_is_kept_through_the_round_trip():
    recipe = Recipe(name="plain", steps=(BackgroundStep(name="b", box_size=5, clip=None),))
    assert recipe.to_toml() != Recipe(name="plain", steps=(BackgroundStep(name="b", box_size=5),)).to_toml()
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe
    assert _recipe({**BACKGROUND, "clip": "none"}).result.clip is None


def test_a_number_stands_for_a_square():
    assert _recipe({**BACKGROUND, "filter_size": 5}).result.filter_size == (5, 5)


def test_defaults_of_masks_and_detection():
    recipe = _recipe(RING, MASK, BACKGROUND, {**MASK, "name": "deep"}, {**BACKGROUND, "name": "plain", "mask": "none"})
    ring, bright, sky, deep, plain = recipe.steps
    assert recipe.detection_sky(bright) is ring
    assert recipe.detection_sky(deep) is sky
    assert recipe.mask_for(sky) is bright
    assert recipe.mask_for(plain) is recipe.result_mask is None
    assert recipe.step("deep") is deep


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [{**BACKGROUND, "boxsize": 3}],
            r"step '\w+': unknown key 'boxsize'; known are kind, name, box_size, filter_size",
        ),
        ([{**RING, "radius": 3}, BACKGROUND], r"step '\w+': unknown key 'radius'; known are kind, name, radius_in"),
        (
            [RING, {**MASK, "tiers": [{"nsigma": 2, "n_sigma": 2}]}, BACKGROUND],
            r"step '\w+'\.tiers\[0\]: unknown key 'nsigma'",
        ),
        ([RING, {**MASK, "tiers": [{}]}, BACKGROUND], r"step '\w+'\.tiers\[0\]: key 'n_sigma' is missing"),
        ([RING, {**MASK, "tiers": []}, BACKGROUND], r"step '\w+'\.tiers: .*at least 1"),
        ([RING, {**MASK, "tiers": [{"n_sigma": 2}] * 7}, BACKGROUND], r"step '\w+'\.tiers: .*at most 6"),
        ([{"kind": "background", "name": "b"}], r"step '\w+': key 'box_size' is missing"),
        ([{**BACKGROUND, "box_size": 0}], r"step '\w+'\.box_size.*greater than or equal to 1 \(got 0\)"),
        ([{**BACKGROUND, "box_size": [6, 0]}], r"step '\w+'\.box_size\[1\]: .*\(got 0\)"),
        ([{**BACKGROUND, "box_size": 2.5}], r"step '\w+'\.box_size: .*\(got 2\.5\)"),
        ([{**BACKGROUND, "filter_size": 4}], r"step '\w+': filter_size \[4, 4\] has no central box; use odd sizes"),
        ([{**BACKGROUND, "exclude_percentile": 101}], r"step '\w+'\.exclude_percentile: .*100 \(got 101\)"),
        ([{**BACKGROUND, "estimator": "mead"}], r"step '\w+'\.estimator: .*'median', 'mean'.*\(got 'mead'\)"),
        ([{**BACKGROUND, "clip": {"sigma": 3}}], r"step '\w+'\.clip: unknown key 'sigma'; known are sigma_lower"),
        ([{**BACKGROUND, "skewed_clip": {"sigma": 3}}], r"skewed_clip: unknown key 'sigma'; known are sigma_lower"),
        ([{**BACKGROUND, "clip": {"sigma_lower": -1}}], r"step '\w+'\.clip\.sigma_lower: .*greater than 0 \(got -1"),
        ([{**BACKGROUND, "clip": {"maxiters": 0}}], r"step '\w+'\.clip: maxiters 0 rejects nothing"),
        ([{**BACKGROUND, "clip": {"sigma_lower": float("inf")}}], r"step '\w+'\.clip\.sigma_lower: .*finite"),
        (
            [{**BACKGROUND, "interpolator": {"kind": "idw", "n": 3}}],
            r"step '\w+'\.interpolator: unknown key 'n'; known are kind, n_neighbors, power, regularization",
        ),
        (
            [{**BACKGROUND, "interpolator": {"kind": "local-polynomial", "degree": 3}}],
            r"step '\w+'\.interpolator: unknown key 'degree'; known are kind, order, bandwidth, ",
        ),
        (
            [{**BACKGROUND, "interpolator": {"kind": "local-polynomial", "order": 9}}],
            r"step '\w+'\.interpolator\.order: .*\(got 9\)",
        ),
        ([{**BACKGROUND, "interpolator": {"kind": "linear"}}], r"step '\w+'\.interpolator: .*'linear'.*'zoom', 'idw'"),
        (
            [{**BACKGROUND, "interpolator": {"kind": "idw", "n_neighbors": 0}}],
            r"interpolator\.n_neighbors: .*\(got 0\)",
        ),
        ([{"kind": "smooth", "name": "s"}, BACKGROUND], r"step '\w+': .*'smooth'.*'ring', 'mask', 'background'"),
        ([{"name": "s"}, BACKGROUND], r"step 's': .*'kind'"),
        ([{**RING, "width": 0}, BACKGROUND], r"step '\w+'\.width: .*greater than 0 \(got 0"),
        ([{**RING, "percentile": "half"}, BACKGROUND], r"step '\w+'\.percentile: .*number.*\(got 'half'\)"),
        ([{**BACKGROUND, "name": "1st"}], r"step '\w+'\.name: .*\(got '1st'\)"),
        (
            [RING, {**MASK, "tiers": [{"n_sigma": 1, "fwhm": 2, "sigma": 1}]}, BACKGROUND],
            r"tiers\[0\]: fwhm and sigma both",
        ),
        (
            [RING, {**MASK, "tiers": [{"n_sigma": 1, "grow_shape": "box"}]}, BACKGROUND],
            r"tiers\[0\]\.grow_shape: .*'disc'",
        ),
        ([], r"steps: .*at least 1"),
        ([RING], "there is no background step"),
        ([MASK, BACKGROUND], "mask step 'bright' has no sky to subtract"),
        (
            [RING, {**MASK, "minus": "sky"}, BACKGROUND],
            r"mask step 'bright' subtracts 'sky'; earlier steps are \['ring'\]",
        ),
        (
            [RING, {**BACKGROUND, "mask": "bright"}, MASK],
            r"background 'sky' uses mask 'bright'; earlier mask steps are \[\]",
        ),
        ([BACKGROUND, BACKGROUND], "step name 'sky' is taken"),
        *[([{**BACKGROUND, "name": plane}], f"step name '{plane}' is taken") for plane in (*PLANES, "none")],
    ],
)
def test_every_message_names_the_key(steps, message):
    with pytest.raises(ParameterError, match=message) as caught:
        _recipe(*steps)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("recipe: ")


def test_all_faults_are_told_at_once():
    with pytest.raises(ParameterError, match=r"box_size.*missing.*width.*colour"):
        _recipe({"kind": "background", "name": "b"}, {**RING, "width": -1}, colour="red")


def test_faults_of_the_recipe_itself():
    known = (
        "name, description, dq_flags, fill_value, uncovered, bandwidth_plane, objects_plane, injection, checks, steps"
    )
    with pytest.raises(ParameterError, match=f"unknown key 'colour'; known are {known}"):
        _recipe(BACKGROUND, colour="red")
    with pytest.raises(ParameterError, match="key 'name' is missing"):
        Recipe.from_dict({"steps": [BACKGROUND]})


def test_unknown_names_list_the_presets():
    with pytest.raises(ParameterError, match=re.escape(", ".join(preset_names()))):
        Recipe.load("no-such-recipe")
    with pytest.raises(ParameterError, match=r"no step 'x' in recipe mine; it has sky"):
        _recipe(BACKGROUND).step("x")


def test_files_that_are_no_recipes(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("name = \n")
    with pytest.raises(ParameterError, match=r"bad\.toml: not valid TOML.*line 1"):
        Recipe.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match=r"bad\.toml cannot be read"):
        Recipe.load(path)
    path.write_text('name = "x"\n[[steps]]\nkind = "ring"\nradius_in = 1\nwidth = -1\n')
    with pytest.raises(ParameterError, match=r"bad\.toml: step '\w+'\.width"):
        Recipe.load(path)


def test_text_of_a_preset_keeps_its_comments():
    text, source = recipe_text("sextractor")
    assert text.startswith("#")
    assert source == "recipe sextractor"


def _mask(name, **more):
    return {"kind": "mask", "name": name, "tiers": [{"n_sigma": 2}], **more}


def test_cumulative_masks_expand_to_a_chain_that_ends_with_their_name():
    tiers = [{"n_sigma": 3, "grow": 2}, {"n_sigma": 2}, {"n_sigma": 1}]
    recipe = _recipe(RING, _mask("deep", tiers=tiers, cumulative=True, masked="fill"), BACKGROUND)
    expanded = recipe.expanded()
    assert [s.name for s in expanded.steps] == ["ring", "deep-1", "deep-2", "deep", "sky"]
    masks = expanded.steps[1:4]
    assert [m.mask for m in masks] == [None, "deep-1", "deep-2"]
    assert [m.minus for m in masks] == ["ring"] * 3
    assert [m.tiers[0].n_sigma for m in masks] == [3, 2, 1]
    assert [expanded.first_bit(m) for m in masks] == [1, 2, 3]
    assert all(m.masked == "fill" for m in masks)
    assert expanded.expanded() is expanded
    plain = _recipe(RING, _mask("deep", tiers=tiers), BACKGROUND)
    assert plain.expanded() is plain


def test_masks_that_go_on_have_six_bits_in_all():
    tiers = [{"n_sigma": 2}] * 4
    with pytest.raises(ParameterError, match=r"'second' needs bit 8.*fewer tiers"):
        _recipe(RING, _mask("first", tiers=tiers), _mask("second", tiers=tiers, mask="first"), BACKGROUND)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{**RING, "mask": "bright"}, BACKGROUND], r"ring 'ring' uses mask 'bright'; earlier mask steps are \[\]"),
        ([RING, _mask("a", mask="b"), BACKGROUND], r"mask 'a' uses mask 'b'; earlier mask steps are \[\]"),
        (
            [RING, _mask("a", tiers=[{"n_sigma": 2, "noise": "local"}]), BACKGROUND],
            "subtracts a ring, which has no rms map",
        ),
        (
            [RING, _mask("a", noise_map="ring"), BACKGROUND],
            r"takes its noise from 'ring'; earlier background steps are \[\]",
        ),
        (
            [{**BACKGROUND, "ceiling": {"above": "coarse"}}],
            r"has its ceiling above 'coarse'; earlier background steps are \[\]",
        ),
        ([{**RING, "downsample": 8}, BACKGROUND], "downsample 8 makes the ring of width 5 px thinner"),
        (
            [RING, _mask("a", masked="fill", tiers=[{"n_sigma": 2, "noise_of": "smoothed"}]), BACKGROUND],
            "needs the statistics of the unsmoothed image first",
        ),
        (
            [RING, _mask("a", equalize=True, tiers=[{"n_sigma": 2, "noise": "local"}]), BACKGROUND],
            "equalize already makes the noise even",
        ),
        (
            [RING, _mask("a", tiers=[{"n_sigma": 2, "noise": "local", "noise_of": "smoothed"}]), BACKGROUND],
            "a local noise map gives the noise of single pixels",
        ),
        ([{**BACKGROUND, "ceiling": {"over": "coarse"}}], r"unknown key 'over'; known are above, sigma"),
    ],
)
def test_what_steps_ask_of_each_other_is_checked(steps, message):
    with pytest.raises(ParameterError, match=message):
        _recipe(*steps)


def test_the_local_noise_is_that_of_the_sky_subtracted_unless_named():
    local = [{"n_sigma": 2, "noise": "local"}]
    coarse = {**BACKGROUND, "name": "coarse", "box_size": 50}
    recipe = _recipe(coarse, _mask("a", tiers=local), RING, _mask("b", tiers=local, noise_map="coarse"), BACKGROUND)
    assert recipe.noise_map(recipe.step("a")).name == recipe.noise_map(recipe.step("b")).name == "coarse"
