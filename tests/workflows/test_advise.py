"""Advice on recipes and boxes: in the order of their true errors, from samples of the image alone."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from scipy import ndimage
from typer.testing import CliRunner

from tiledsky import Recipe, Scene, estimate_background, simulate_scene
from tiledsky.cli import app
from tiledsky.diagnostics.advice import (
    Trial,
    advice,
    box_advice,
    box_range,
    falls_from_cores,
    parts,
    preferred,
    rank,
)
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region, places
from tiledsky.io.fits.image import FitsImage
from tiledsky.workflows import advise as module
from tiledsky.workflows.advice import ALWAYS
from tiledsky.workflows.advise import advise, with_box
from tiledsky.workflows.samples import of_whole_image, through_all

SIDE = 640
OPTIONS: dict[str, Any] = {"samples": 4, "sample_size": 256}


def written(scene: Scene, path: Path) -> Path:
    fits.writeto(path, scene.image)
    return path


def evened(folder: Path) -> Path:
    """Write a recipe that needs a weight or an error plane."""
    sky = {"kind": "background", "name": "b", "box_size": 32}
    mask = {"kind": "mask", "name": "m", "equalize": True, "tiers": [{"n_sigma": 3}]}
    recipe = Recipe.from_dict({"name": "evened", "steps": [sky, mask, {**sky, "name": "sky"}]})
    (path := folder / "evened.toml").write_text(recipe.to_toml())
    return path


def true_errors(scene: Scene, recipe: str, boxes: list[int]) -> tuple[float, dict[int, float]]:
    """Root mean square error of a recipe's sky over the whole image, and with other last boxes."""

    def error(sky: Any) -> float:
        return float(np.sqrt(np.mean((sky.background - scene.sky) ** 2)))

    sky, loaded = estimate_background(scene.image, recipe), Recipe.load(recipe).expanded()
    others = {box: error(estimate_background(scene.image, with_box(loaded, box))) for box in boxes}
    return error(sky), others


# a sky with much structure, where a coarse mesh is wrong; noise with hardly any, where a fine one is
@pytest.mark.parametrize(
    ("kind", "best"),
    [({"noise": 0.5, "seed": 7}, "complex-sky"), ({"noise": 2.0, "n_blemishes": 1, "seed": 11}, "sextractor")],
    ids=["structure", "noise"],
)
def test_the_order_is_that_of_the_true_errors_and_the_boxes_hold_the_best(
    tmp_path: Path, kind: dict[str, Any], best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALWAYS", ("complex-sky",))
    scene = simulate_scene((SIDE, SIDE), **kind)
    names, boxes = ["sextractor", "complex-sky"], [3, 6, 10, 15, 24, 32, 50]
    found = advise(written(scene, tmp_path / "i.fits"), recipes=["sextractor"], boxes=boxes, **OPTIONS)
    assert len(found["samples"]) == 4
    ranked = [row["name"] for row in found["recipes"]]
    assert ranked == sorted(names, key=lambda name: true_errors(scene, name, [])[0])
    assert ranked[0] == found["boxes"]["recipe"] == best
    assert found["advice"][0].startswith(f"advised: {best}, ")
    scores = {int(row["name"]): row["score"] for row in found["boxes"]["rows"]}
    _, truth = true_errors(scene, best, list(scores))
    for one, other in combinations(scores, 2):  # boxes whose true errors clearly differ
        if max(truth[one], truth[other]) > 1.5 * min(truth[one], truth[other]):
            assert (scores[one] < scores[other]) == (truth[one] < truth[other]), (one, other)
    box = found["boxes"]
    assert box["smallest"] <= min(truth, key=lambda size: truth[size]) <= box["largest"]
    assert box["smallest"] <= box["best"] <= box["largest"]
    within = [truth[size] for size in truth if box["smallest"] <= size <= box["largest"]]
    beyond = [truth[size] for size in truth if not box["smallest"] <= size <= box["largest"]]
    assert beyond
    assert min(beyond) > min(within)
    assert max(truth.values()) == max(beyond)


def test_the_command_tells_a_table_and_reads_windows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = simulate_scene((SIDE, SIDE), seed=3, noise=0.5)
    image = scene.image.copy()
    image[:, :300] = np.nan  # nothing to be learnt here
    fits.writeto(tmp_path / "i.fits", image)
    group = zarr.open_group(str(tmp_path / "i.zarr"), mode="w")
    group.create_array("science", data=image, chunks=(128, 128))
    masked = np.zeros(image.shape, np.uint8)
    masked[:, 600:] = 1
    fits.writeto(tmp_path / "m.fits", masked)
    looked_at: list[Region] = []

    read = FitsImage.read

    def spy(image: FitsImage, region: Region) -> Any:
        looked_at.append(region)
        return read(image, region)

    monkeypatch.setattr(FitsImage, "read", spy)
    monkeypatch.setattr(module, "warn_of_constants", lambda *_: None)  # which looks at other pixels
    # of the recipes that are tried unasked, those that need more than there is are left out
    monkeypatch.setattr(module, "ALWAYS", ("plane",))
    monkeypatch.setattr(module, "RECIPES", ("sextractor", str(evened(tmp_path))))
    words = ["--samples", "2", "--sample-size", "256", "--boxes", "16,24,200"]
    told = CliRunner().invoke(app, ["advise", str(tmp_path / "i.fits"), *words])
    assert told.exit_code == 0, told.output
    assert max(max(region.shape) for region in looked_at) == 256 + 2 * 64
    assert f"left out: {tmp_path / 'evened.toml'}: mask step 'm' equalizes the noise" in told.stdout
    lines = told.stdout.splitlines()
    columns = ["recipe", "score", "error", "structure", "taken", "sources", "objects", "lost", "times", "error"]
    assert lines[0].split() == columns
    assert [line.split()[0] for line in lines[1:3]] == ["sextractor", "plane"]
    assert [line.split()[0] for line in lines[4:8]] == ["box_size", "16", "24", "64"]
    assert lines[-3].startswith("advised: sextractor, ")
    assert lines[-2].startswith("box_size of step mesh64: best ")
    assert lines[-1] == f"next: tiledsky run {tmp_path / 'i.fits'} --recipe sextractor --out i.sky.zarr"
    stores = []
    for name in ("i.fits", "i.zarr"):
        words_of = ["advise", str(tmp_path / name), *words, "--mask", str(tmp_path / "m.fits"), "--json"]
        stores.append(json.loads(CliRunner().invoke(app, words_of).stdout))
    assert stores[0] == stores[1]
    assert len(stores[0]["samples"]) == 2
    assert all(x0 >= 200 for _, _, x0, _ in stores[0]["samples"])


def test_what_cannot_be_tried_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "i.fits"
    fits.writeto(path, np.full((600, 600), np.nan, np.float32))
    with pytest.raises(InputError, match="none of 4 places of 256 x 256 px has half of its pixels valid"):
        advise(path, recipes=["sextractor"], samples=2, sample_size=256)
    with pytest.raises(ParameterError, match="no recipe 'best': neither a file nor one of "):
        advise(path, recipes=["sextractor", "best"])
    with pytest.raises(ParameterError, match="samples of at least 256 px"):
        advise(path, sample_size=100)
    image = np.random.default_rng(1).normal(size=(100, 100)).astype(np.float32)
    fits.writeto(path, image, overwrite=True)
    with pytest.raises(InputError, match="no sample has enough unmasked sky"):
        advise(path, recipes=["sextractor"])
    refused = CliRunner().invoke(app, ["advise", str(path), "--boxes", "6,7.5"])
    assert "--boxes '6,7.5' is not a list of whole numbers above 0" in str(refused.exception)


def test_places_are_all_there_and_the_first_ones_spread() -> None:
    found = list(places((1000, 2075), (100, 100)))
    assert len(found) == len(set(found)) == 200
    assert {region.shape for region in found} == {(100, 100)}
    assert (min(r.y0 for r in found), max(r.y1 for r in found)) == (0, 1000)
    assert (min(r.x0 for r in found), max(r.x1 for r in found)) == (37, 2037)
    assert len({(r.y0 // 500, r.x0 // 1000) for r in found[:6]}) == 4
    assert list(places((50, 90), (50, 90))) == [Region(0, 50, 0, 90)]


def trial(*, ratio: float, bias: float = 0.0, deviation: float = 0.0, error: float = 0.0) -> Trial:
    """What a measure of one width would be: blocks of 4 px with noise 2."""
    power = (ratio**2 - 1) * (2 / 4) ** 2
    scale = {
        "excess": [None, np.sign(power) * abs(power) ** 0.5],
        "ratio": [None, ratio],
        "ratio_error": [None, 0.01],
        "white": [None, 0.5],
    }
    groups = [{"name": "all", "bias": bias, "error": error}]
    measures = {"scale": scale, "masked_bias": {"groups": groups}}
    return Trial({"image": {"noise": 2.0, "masked_fraction": 0.25}, "measures": measures}, deviation)


def test_parts_of_the_score() -> None:
    # 1.25^2 - 1 = 0.5625: an excess of 0.75 of the noise of a block, which is 0.25 of that of a pixel; seen on 3 / 4
    whole = 0.1875 / 0.75**0.5
    assert parts(trial(ratio=1.25), 2.0) == pytest.approx((whole, whole, 0, 0, 0))
    # what is missing is taken; the standard error where that is more
    assert parts(trial(ratio=0.6), 2.0) == pytest.approx((0.2, 0, 0.2, 0, 0))
    assert parts(trial(ratio=0.6, deviation=0.6), 2.0) == pytest.approx((0.3, 0, 0.3, 0, 0))
    # a bias beyond its error, for the share that is masked
    assert parts(trial(ratio=1, bias=-0.5, error=0.3), 2.0) == pytest.approx((0.1, 0, 0, 0.2, 0))
    # what objects change, in the noise too; where all is object, what is left of it is no structure
    one = trial(ratio=1.25, deviation=0.6)
    assert parts(replace(one, objects=0.8), 2.0) == pytest.approx((0.5449, whole, 0.3, 0, 0.4), rel=1e-3)
    assert parts(replace(one, objects=0.8, filled=True), 2.0) == pytest.approx((0.5, 0, 0.3, 0, 0.4))


def test_ranking_and_its_words() -> None:
    good = [trial(ratio=1.25), trial(ratio=1.3), trial(ratio=1.2)]
    alike = [trial(ratio=1.26), trial(ratio=1.29), trial(ratio=1.22)]
    bad = [trial(ratio=2.5), trial(ratio=2.6), trial(ratio=2.4)]
    rows = rank({"bad": bad, "good": good, "alike": alike})
    assert [(row["name"], row["behind"]) for row in rows] == [("good", False), ("alike", False), ("bad", True)]
    scores = np.array([parts(t, 2.0)[0] for t in good])
    assert rows[0]["score"] == pytest.approx(scores.mean(), rel=1e-3)
    assert rows[0]["error"] == pytest.approx(scores.std(ddof=1) / 3**0.5, rel=1e-3)
    assert (rows[0]["times"], rows[0]["times_error"]) == (1, 0)
    assert advice(rows).endswith("the least; these samples do not tell it from alike")
    assert "the next, bad, by 0.661 +- " in advice(rank({"bad": bad, "good": good}))
    one = rank({"bad": bad[:1], "good": good[:1]})
    assert [(row["name"], row["error"], row["behind"]) for row in one] == [("good", None, False), ("bad", None, True)]
    assert advice(one[:1]) == (
        "advised: good, whose background is wrong by 0.216 of the noise; there is nothing to compare it with"
    )
    boxes = box_range(rank({"6": bad, "10": alike, "16": good, "32": bad, "64": good}))
    assert (boxes["smallest"], boxes["best"], boxes["largest"]) == (10, 16, 16)
    assert box_advice(boxes, "sky") == (
        "box_size of step sky: best 16, 10 to 16 px do as well; smaller ones take noise or sources for sky, larger "
        "ones do not follow the sky"
    )
    boxes = box_range(rank({"10": alike, "16": good}))
    assert box_advice(boxes, "s").endswith("smaller ones were not tried, larger ones were not tried")


def test_of_equal_recipes_the_one_that_takes_less_of_objects_comes_first() -> None:
    good = [trial(ratio=1.25), trial(ratio=1.3), trial(ratio=1.2)]
    alike = [trial(ratio=1.26), trial(ratio=1.29), trial(ratio=1.22)]
    takes = {"good": [replace(t, lost=0.6) for t in good], "alike": [replace(t, lost=-0.1) for t in alike]}
    rows = preferred(rank(takes))
    assert [(row["name"], row["lost"]) for row in rows] == [("alike", -0.1), ("good", 0.6)]
    assert advice(rows).endswith(
        "takes less of objects than others that do as well; these samples do not tell it from good"
    )
    keeps = {**takes, "good": [replace(t, lost=0.05) for t in good]}
    assert [row["name"] for row in preferred(rank(keeps))] == ["good", "alike"]


def disc(size: float, *, side: int = 700, seed: int = 3) -> np.ndarray:
    """Noise with one exponential disc."""
    y, x = np.mgrid[:side, :side]
    radius = np.hypot(y - side / 2, x - side / 2)
    return (np.random.default_rng(seed).normal(100, 1, (side, side)) + 20 * np.exp(-radius * 1.678 / size)).astype("f4")


def test_a_recipe_that_takes_the_disc_is_not_advised(tmp_path: Path) -> None:
    """The true sky is a constant: what a background has under the disc is light that it takes."""
    image, quick = disc(60.0), {"recipes": [], "boxes": [6]}
    fits.writeto(tmp_path / "i.fits", image)
    found = advise(tmp_path / "i.fits", **quick)
    rows = {row["name"]: row for row in found["recipes"]}
    assert max(found["objects"]) == pytest.approx(60, rel=0.15)
    truth = {name: estimate_background(image, name).background - 100 for name in ALWAYS}
    error = {name: float(np.sqrt(np.mean(sky**2))) for name, sky in truth.items()}
    assert found["recipes"][-1]["name"] == max(error, key=error.get) == "complex-sky"  # type: ignore[arg-type]
    assert rows["complex-sky"]["score"] == pytest.approx(error["complex-sky"], rel=0.1)
    light = image.astype(float) - 100
    assert rows["complex-sky"]["lost"] == pytest.approx(truth["complex-sky"].sum() / light.sum(), abs=0.1)
    assert abs(rows["deep-sky"]["lost"]) < 0.05
    # whoever calls all light sky gets the order of what a residual shows
    all_sky = advise(tmp_path / "i.fits", keep=0, **quick)
    assert all_sky["objects"] == []
    assert all(row["objects"] == 0 for row in all_sky["recipes"])


def test_a_size_that_is_to_be_kept_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain sky without an object: every recipe is fine, but a fine mesh takes what is to be kept."""
    monkeypatch.setattr(module, "ALWAYS", ("complex-sky", "plane"))
    image = np.random.default_rng(2).normal(3, 1, (600, 600)).astype(np.float32)
    fits.writeto(tmp_path / "i.fits", image)
    found = advise(tmp_path / "i.fits", recipes=[], keep=60, boxes=[6])
    rows = {row["name"]: row for row in found["recipes"]}
    assert rows["complex-sky"]["lost"] > 0.8
    assert rows["plane"]["lost"] < 0.1
    assert rows["complex-sky"]["objects"] > 5 * rows["plane"]["objects"]
    assert found["recipes"][-1]["name"] == "complex-sky"
    assert found["keep"] == 60
    # what is advised has objects that keep goes to
    monkeypatch.setattr(module, "ALWAYS", ("plane",))
    words = ["advise", str(tmp_path / "i.fits"), "--keep", "60", "--recipes", "sextractor", "--boxes", "6"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines()[-1].endswith("--keep 60 --out i.sky.zarr")


def test_light_that_falls_from_cores_is_told_from_a_sky_that_goes_up_and_down() -> None:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:1000, :1000]
    noise, flat = rng.normal(0, 1, y.shape), np.zeros(y.shape)
    galaxy = 60 * np.exp(-np.hypot(y - 420, (x - 530) / 0.9) * 1.678 / 170)
    assert falls_from_cores(galaxy + noise, np.minimum(galaxy, 20), flat, 1.0)
    # clouds as high as that, and stars wherever they are
    clouds = 8 * ndimage.gaussian_filter(rng.normal(0, 1, y.shape), 60, mode="wrap") * 60
    stars = np.zeros(y.shape)
    stars[tuple(rng.integers(0, 1000, (2, 300)))] = 100 * rng.pareto(1.5, 300)
    stars = ndimage.gaussian_filter(stars, 1.5)
    assert np.ptp(clouds) > 10
    assert not falls_from_cores(clouds + stars + noise, clouds, flat, 1.0)
    # nothing but noise; an image without any datum
    assert not falls_from_cores(noise, flat, flat, 1.0)
    assert not falls_from_cores(noise * np.nan, flat, flat, 1.0)


def test_samples_of_a_plane_are_one_plane() -> None:
    """Of samples with a plane each the nearest plane to all; exact where there is one."""
    y, x = np.mgrid[:900, :1200]
    surface = 3 + 0.01 * y - 0.02 * x
    regions = [Region(0, 300, 0, 300), Region(600, 900, 100, 400), Region(300, 600, 900, 1200)]
    recipe = Recipe.load("plane").expanded()
    assert of_whole_image(recipe)
    made = through_all(recipe, [surface[r.slices] for r in regions], regions)
    for region, background in zip(regions, made, strict=True):
        np.testing.assert_allclose(background, surface[region.slices], atol=1e-9)
    # constants that differ: none of them, but their mean
    levels = [np.full(r.shape, float(k)) for k, r in enumerate(regions)]
    made = through_all(Recipe.load("constant").expanded(), levels, regions)
    assert [float(background.mean()) for background in made] == pytest.approx([1, 1, 1])
