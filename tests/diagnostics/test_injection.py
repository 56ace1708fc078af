"""Sources put into an image, against astropy and against what is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.modeling.models import Gaussian2D, Sersic2D
from typer.testing import CliRunner

import tiledsky
from tiledsky import Recipe
from tiledsky.cli import app
from tiledsky.diagnostics.injection import SOURCE, Injection, changes, draw, finalize, light
from tiledsky.errors import ParameterError
from tiledsky.geometry import Region

WHOLE = Region(0, 200, 0, 220)


def one(n: float, *, ratio: float = 0.5) -> np.ndarray:
    return np.array([(100.3, 90.8, 50.0, 6.0, ratio, 0.7, n)], SOURCE)


def test_sources_have_the_shape_of_astropys_and_their_flux() -> None:
    y, x = np.mgrid[:200, :220]
    sigma = 6.0 / np.sqrt(2 * np.log(2))  # half of the light of a Gaussian is within 1.1774 sigma
    gaussian = Gaussian2D(1, 90.8, 100.3, sigma / np.sqrt(0.5), sigma * np.sqrt(0.5), 0.7)(x, y)
    found = light(one(0.5), WHOLE)
    assert found.sum() == pytest.approx(50)
    near = found > found.max() * 1e-5
    np.testing.assert_allclose(found[near] / found.max(), (gaussian / gaussian.max())[near], rtol=0.02)
    # astropy's radius is along the major axis
    sersic = Sersic2D(1, 6 / np.sqrt(0.5), 1.0, 90.8, 100.3, ellip=0.5, theta=0.7)(x, y)
    found = light(one(1.0), WHOLE)
    near = found > found.max() * 1e-3
    np.testing.assert_allclose(found[near] / found.max(), (sersic / sersic.max())[near], rtol=1e-6)


def test_light_does_not_depend_on_the_region() -> None:
    sources = draw(Injection(count=6, sersic=2.0), (200, 220))
    whole = light(sources, WHOLE)
    for region in (Region(0, 77, 0, 220), Region(77, 200, 31, 90)):
        np.testing.assert_array_equal(light(sources, region), whole[region.slices])
    assert len(sources) == 6 * 4
    assert (sources["y"] >= 15).all()


def test_what_a_background_takes_is_found() -> None:
    sources = draw(Injection(count=5, fluxes=(100.0,), sizes=(3.0,)), (200, 220))
    before = np.zeros((200, 220))
    eaten = sum(light(sources[k : k + 1], WHOLE) for k in range(5)) * 0.2
    (group,) = finalize(sources, changes(sources, before, before + eaten), noise=1.0)["groups"]
    assert group["n"] == 5
    assert group["lost"] == pytest.approx(0.2, abs=0.01 + 3 * group["lost_error"])
    (group,) = finalize(sources, changes(sources, before, before + 0.5), noise=1.0)["groups"]
    assert group["change"] == pytest.approx(0.5)
    assert group["change_error"] == pytest.approx(0, abs=1e-12)


def test_command(tmp_path: Path) -> None:
    """A fine mesh without masks takes the sources, a coarse one does not."""
    image = np.random.default_rng(1).normal(5, 1, (256, 256)).astype(np.float32)
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(64, 64))
    lost = {}
    for box in (4, 64):
        step = {"kind": "background", "name": "sky", "box_size": box, "filter_size": 1, "estimator": "mean"}
        recipe = Recipe.from_dict({"name": "mesh", "steps": [{**step, "clip": "none"}]})
        tiledsky.run(tmp_path / "image.zarr", recipe, tmp_path / f"{box}.zarr", tile_size=128)
        words = ["inject", str(tmp_path / f"{box}.zarr"), "--out", str(tmp_path / f"{box}-new.zarr")]
        result = CliRunner().invoke(app, [*words, "--count", "10", "--flux", "500", "--size", "3", "--json"])
        assert result.exit_code == 0, result.output
        told = json.loads(result.output[result.output.index("{") :])
        assert told == json.loads((tmp_path / f"{box}-new.zarr/run/injection.json").read_text())
        lost[box] = told["groups"][0]["lost"]
    added = zarr.open_array(str(tmp_path / "4-new-input.zarr/science"), mode="r")[...] - image
    assert added.sum() == pytest.approx(10 * 500, rel=0.03)
    assert lost[4] > 0.8
    assert abs(lost[64]) < 0.3
    _goes_on_with_its_own_alone(tmp_path, words)
    refused = CliRunner().invoke(app, [*words, "--flux", "bright"])
    assert "--flux 'bright' is not a list of numbers" in str(refused.exception)


def _goes_on_with_its_own_alone(folder: Path, words: list[str]) -> None:
    """The same command again uses the image that is there; one with other sources, or somebody's folder, stays."""
    copied, sources = folder / "64-new-input.zarr", ["--count", "10", "--flux", "500", "--size", "3"]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copied.rglob("c/*/*")}
    assert CliRunner().invoke(app, [*words, *sources]).exit_code == 0
    theirs = folder / "other-input.zarr"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    for given in ([*words, *sources, "--seed", "2"], [*words[:-1], str(folder / "other.zarr"), *sources]):
        refused = CliRunner().invoke(app, given)
        assert isinstance(refused.exception, ParameterError)
        assert "exists and is not overwritten; change the name or remove it" in str(refused.exception)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in copied.rglob("c/*/*")} == before
    assert [p.name for p in theirs.iterdir()] == ["thesis.tex"]
    shutil.rmtree(copied)  # then the image is made anew, with other sources, and the run on it is of another image
    other = [*words, *sources, "--seed", "2"]
    advised = str(CliRunner().invoke(app, other).exception)
    assert advised.endswith(f"results must not be mixed: change --out, or remove {words[-1]}")
    shutil.rmtree(words[-1])
    assert CliRunner().invoke(app, other).exit_code == 0
