"""What a recipe takes from objects, against photutils, sums that are known, and itself on other tiles."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.modeling.models import Sersic2D
from photutils.background import Background2D, MeanBackground
from typer.testing import CliRunner

import tiledsky
from tiledsky import Recipe
from tiledsky.cli import app
from tiledsky.diagnostics import remarks
from tiledsky.diagnostics.light_kept import MEASURE, summary
from tiledsky.diagnostics.windows import (
    ROW,
    SMALL_SIDE,
    Design,
    Part,
    Pixels,
    Profile,
    Skies,
    arrangements,
    design,
    measured,
)
from tiledsky.errors import InputError, RunError
from tiledsky.geometry import Region, TileGrid
from tiledsky.operations.injection import windows_of

BOX, WINDOW = 32, Region(0, SMALL_SIDE, 0, SMALL_SIDE)
MESH = {"kind": "background", "name": "sky", "box_size": BOX, "filter_size": 3, "estimator": "mean", "clip": "none"}


def recipe(**changes: Any) -> Recipe:
    return Recipe.from_dict({"name": "mesh", "steps": [{**MESH, **changes}]})


def noise(shape: tuple[int, int] = (SMALL_SIDE, SMALL_SIDE), *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 1, shape).astype(np.float32)


def test_profiles_are_those_of_astropy_at_their_level() -> None:
    y, x = np.mgrid[:320, :320]
    for n in (1.0, 4.0):
        profile = Profile(159.5, 150.5, 20.0, 0.3, n)
        found = profile.drawn(WINDOW, 2.0)
        astropys = Sersic2D(0.6, 20.0, n, 150.5, 159.5)(x, y)
        near = found > 0
        np.testing.assert_allclose(found[near], astropys[near], rtol=1e-9)
        inside = profile.distance(WINDOW) <= 20
        assert found[inside].sum() / 2.0 / math.sqrt(inside.sum()) == pytest.approx(profile.signal, rel=0.05)


@pytest.mark.parametrize(
    "shape",
    [
        (320, 320),
        (700, 900),
        (1280, 1280),
        (1500, 1500),
        (2000, 9000),
        (10000, 10000),
        (1300, 200000),
        (46200, 15400),
        (90000, 83000),
    ],
)
def test_windows_lie_within_the_cells_and_profiles_within_the_windows(shape: tuple[int, int]) -> None:
    plan = design(shape)
    cells = [TileGrid(shape, plan.cell).region(index) for index in TileGrid(shape, plan.cell)]
    assert all(min(cell.shape) >= max(plan.sides) for cell in cells)
    tasks = [0]
    for part in plan.parts:
        for place in range(2):
            profiles = [p for of_one_time in plan.profiles(part, place) for p in of_one_time]
            assert all(4 * p.size <= min(p.y + 1, p.x + 1, part.side - p.y, part.side - p.x) for p in profiles)
        tasks.append((1 + len(plan.profiles(part, 0))) * part.side**2)
    assert sum(tasks) == plan.pixels
    pixels = len(cells) * plan.pixels
    assert pixels <= max(8e6, 0.3 * math.prod(shape))
    assert pixels <= 48e6
    # each window's profiles are put in once, whatever the parts; each part of each cell is a task
    for side in plan.sides:
        parts = [of for part in plan.parts if part.side == side for of in plan.profiles(part, 0)]
        assert parts == arrangements(side, 0, alone=side == max(plan.sides))
    assert TileGrid(shape, plan.tile).counts == (
        -(-shape[0] // plan.cell[0]),
        len(plan.parts) * -(-shape[1] // plan.cell[1]),
    )
    # where an image is large no task is longer than two estimates of the largest window
    if math.prod(shape) > 7e7:
        assert max(tasks) <= 2 * max(plan.sides) ** 2
    assert {p.size for side in plan.sides for of in arrangements(side, 0) for p in of} >= {5, 10, 20, 40}


def test_light_that_is_taken_is_found_whatever_is_invalid() -> None:
    """A background that takes a fifth of all light that is added, and what is the same everywhere, not of profiles."""
    sky = np.zeros((SMALL_SIDE, SMALL_SIDE), np.float32)
    valid = np.ones(sky.shape, bool)
    valid[:, :30] = False

    def of_window(region: Region) -> Pixels:
        assert region == Region.whole(sky.shape)
        return Pixels(sky, valid, lambda image: Skies(0.2 * image, sky + 1))

    rows, reason = measured(design(sky.shape), sky.shape, (0, 0), lambda region: valid[region.slices], of_window)
    assert reason == ""
    found = summary(rows, reason)
    assert found["not_measured"] is None
    for group in found["groups"]:
        within = 0.2 * (0.99 if group["sersic"] == 1 else 0.87)  # of the light drawn, the share within 4 radii
        assert group["taken"] == pytest.approx(within, abs=0.02), group
        assert 0.4 <= group["taken_1"] / group["taken"] <= 0.75, group
    assert found["headline"].startswith("takes 20% of objects of Re 5 px")


def test_a_mesh_takes_what_photutils_takes() -> None:
    """The same profiles in the same image by another's mesh."""
    image = noise()
    found = tiledsky.light_kept(image, recipe())
    options = {"filter_size": 3, "sigma_clip": None, "bkg_estimator": MeanBackground(sigma_clip=None)}

    def background(added: np.ndarray | float) -> np.ndarray:
        return np.asarray(Background2D(image + np.float32(added), BOX, **options).background)

    rms = float(np.median(np.asarray(Background2D(image, BOX, **options).background_rms)))
    groups = {(g["size"], g["level"], g["sersic"]): g for g in found["groups"]}
    before, compared = background(0.0), 0
    for of_one_time in arrangements(SMALL_SIDE, 0):
        lights = [profile.drawn(WINDOW, rms) for profile in of_one_time]
        rise = background(sum(lights)) - before
        shares: dict[Any, list[float]] = {}
        for profile, light in zip(of_one_time, lights, strict=True):
            share = rise[profile.distance(WINDOW) <= 4 * profile.size].sum() / light.sum()
            shares.setdefault((profile.size, profile.level, profile.sersic), []).append(share)
        for kind, values in shares.items():
            assert groups[kind]["taken"] == pytest.approx(np.mean(values), abs=5e-3), kind
            compared += 1
    assert compared == len(groups) == 14  # the largest is exponential
    assert found["half_lost_at"] < 2 * BOX


def test_what_is_kept_is_said_by_size() -> None:
    def rows(
        shares: dict[float, float], *, level: float = 0.3, signal: float = 20.0, error: float = 1e-3
    ) -> np.ndarray:
        made = [
            (size, level, 1.0, signal, (share / 4, share / 2, share), (error,) * 3) for size, share in shares.items()
        ]
        return np.array(made, ROW)

    found = summary(rows({10: 0.0, 20: 0.1, 40: 0.3, 80: 0.7}), "", scale=0.06)
    assert found["kept_to"] == pytest.approx(10 * 2**0.5, rel=0.01)
    assert found["half_lost_at"] == pytest.approx(40 * 2**0.5, rel=0.01)
    assert (
        found["headline"] == "keeps 95% of objects up to Re 14.1 px (0.85 arcsec); half is lost at 56.6 px (3.4 arcsec)"
    )
    # the level that loses most counts, and no profile that is fainter than an object
    fainter = rows({40: 0.9}, level=0.03), rows({80: 0.95}, level=0.01, signal=9.0)
    assert summary(np.concatenate([rows({40: 0.0, 80: 0.0}), *fainter]), "")["taken"] == [0.9, 0.0]
    assert "Re 80 px, the largest measured" in summary(rows({40: 0.01, 80: 0.02}), "")["headline"]
    assert "of Re 80 px, the largest measured, 20% is lost" in summary(rows({40: 0.0, 80: 0.2}), "")["headline"]
    assert summary(rows({5: 0.08, 10: 0.0}, error=0.05), "")["headline"].startswith(
        "keeps 95% of objects up to Re 10 px"
    )
    unsure = summary(np.concatenate([rows({5: -0.1}, error=0.4), rows({10: 0.01})]), "")
    assert unsure["size"] == [10.0]
    moved = summary(rows({10: 0.01, 20: -2.5}, error=0.2), "")
    assert (moved["headline"], moved["kept_to"], moved["taken"]) == (None, None, [])
    assert moved["not_measured"].startswith("profiles move the sky by more than their own light")
    nothing = summary(rows({5: 0.5}, signal=3.0), "")
    assert (nothing["headline"], nothing["not_measured"]) == (None, "no share of an object is known to 5%")


def test_runs_have_the_numbers_of_arrays_on_any_tiles(tmp_path: Path) -> None:
    image = noise((400, 500))
    y, x = np.mgrid[:400, :500]
    image += 30 * np.exp(-0.5 * ((y % 50 - 25) ** 2 + (x % 60 - 30) ** 2) / 4).astype(np.float32)
    image[40:90, 100:300] = np.nan
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(100, 100))
    expected = tiledsky.light_kept(image, "complex-sky")
    assert expected["not_measured"] is None
    for tile in (130, 600):
        run = tiledsky.run(tmp_path / "image.zarr", "complex-sky", tmp_path / f"{tile}.zarr", tile_size=tile)
        found = run.diagnostics["measures"]["light_kept"]
        assert {**found, "definition": None} == {**expected, "definition": None}
    assert any("light of objects: " in line for line in remarks(run.diagnostics))


@pytest.mark.parametrize(
    ("image", "changes", "reason"),
    [
        (noise((300, 700)), {}, "an image of 300 x 700 px has no window of 320 px"),
        (np.where(np.arange(400) < 300, np.nan, noise((400, 400))), {}, "no window of 320 px has half of its pixels"),
        (np.full((330, 330), np.float32(7)), {}, "no window has noise and profiles on valid pixels"),
        (np.full((330, 330), np.nan, np.float32), {}, "all pixels are invalid or masked"),
        (noise((400, 400)), {"box_size": 350}, r"cannot work on a window of 320 px: .*350 x 350 px is larger"),
        (
            noise(),
            {"interpolator": {"kind": "global-polynomial", "order": 1}},
            "step sky is a polynomial of the whole image",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(image: np.ndarray, changes: dict[str, Any], reason: str) -> None:
    found = tiledsky.light_kept(image, recipe(**changes))
    assert found["headline"] is None
    assert found["groups"] == found["size"] == []
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found["not_measured"])


def test_pixels_that_cannot_be_read_are_an_error_and_no_measure() -> None:
    """A task that fails is tried again; what the recipe cannot work on stays so."""

    def unread(region: Region) -> Pixels:
        raise RunError(f"no pixels of {region}")

    with pytest.raises(RunError, match="no pixels of"):
        measured(design((400, 400)), (400, 400), (0, 0), lambda region: np.ones(region.shape, bool), unread)


def test_a_size_on_the_sky_needs_one() -> None:
    with pytest.raises(InputError, match="gives a size in arcseconds and the image has no celestial WCS"):
        tiledsky.light_kept(noise((330, 330)), Recipe.load("deep-sky").keeping("2 arcsec"))


def test_of_an_image_that_is_mostly_an_object_no_share_is_told() -> None:
    """Its sky moves by more than the light of a profile: the numbers are there, with errors, and no headline."""
    y, x = np.mgrid[:400, :400]
    image = noise((400, 400)) + 500 * np.exp(-np.hypot(y - 200, x - 200) / 60)
    found = tiledsky.light_kept(image, "deep-sky")
    assert found["not_measured"].startswith("profiles move the sky by more than their own light")
    assert found["headline"] is None
    assert found["groups"]
    assert all(group["taken_error"] > 0 for group in found["groups"])


def test_command_leaves_it_out_and_says_so(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "image.zarr"), data=noise((340, 340)), chunks=(100, 100))
    words = ["run", str(tmp_path / "image.zarr"), "--recipe", "sextractor", "--out", str(tmp_path / "sky.zarr")]
    result = CliRunner().invoke(app, [*words, "--cluster", "local", "--workers", "1", "--no-injection", "--no-report"])
    assert result.exit_code == 0, result.output
    run = tiledsky.open_run(tmp_path / "sky.zarr")
    assert "injection" not in [stage.name for stage in run.plan.stages]
    found = MEASURE.read(run.diagnostics["measures"]["light_kept"])
    assert found is not None
    assert found.headline is None
    checked = CliRunner().invoke(app, ["check", str(tmp_path / "sky.zarr")])
    assert "light of objects: not measured (left out by injection = false in the recipe" in checked.output
    plan = CliRunner().invoke(app, ["plan", *words[1:4], "--no-injection", "--json"])
    assert "injection" not in [stage["name"] for stage in json.loads(plan.output)["stages"]]


def test_a_place_cut_into_tasks_has_the_profiles_of_one() -> None:
    """All parts of a place put together are what its windows are when each is one task."""
    image = noise((1300, 1400), seed=4)

    def of_window(region: Region) -> Pixels:
        part = image[region.slices]
        sky = np.full(part.shape, 5, np.float32)
        return Pixels(part, np.ones(part.shape, bool), lambda image: Skies(0.3 * image, sky))

    def rows(plan: Design) -> np.ndarray:
        valid = lambda region: np.ones(region.shape, bool)  # noqa: E731
        tasks = TileGrid(image.shape, plan.tile)
        return np.concatenate([measured(plan, image.shape, index, valid, of_window)[0] for index in tasks])

    plan = design(image.shape)
    assert len(plan.parts) == 2
    halves = tuple(Part(part.side, times) for part in plan.parts for times in (slice(0, 1), slice(1, None)))
    found = rows(replace(plan, parts=halves))
    assert found.size > 20
    assert found.tobytes() == rows(plan).tobytes()


def test_looking_for_a_window_reads_one_plane() -> None:
    """Which pixels are valid is known from one plane; the others are read of the window that is chosen."""
    looked: list[tuple[str, Region]] = []

    def plane(name: str, region: Region) -> np.ndarray:
        looked.append((name, region))
        bad = (np.arange(region.y0, region.y1)[:, None] < 400) & np.ones(region.shape, bool)
        return bad.astype(np.uint8) if name == "base" else noise(region.shape)

    rows, _ = windows_of(recipe().expanded(), (700, 500), (1, 0), ("science", "base"), plane, {})
    assert rows.size
    assert [name for name, _ in looked] == ["base", "science", "base"]
    assert len({region for _, region in looked}) == 1
