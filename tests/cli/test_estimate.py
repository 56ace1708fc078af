"""`tiledsky estimate`: the pixels of a run and its export, and nothing but the file that was asked for."""

from __future__ import annotations

import gzip
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from typer.testing import CliRunner

import tiledsky
from tests.engine.scenes import KEEPING, command, make_planes, write_arrays, write_fits
from tiledsky import Recipe, simulate_scene
from tiledsky.cli import app
from tiledsky.errors import InputError, ParameterError, PlanError, RunError
from tiledsky.io.fits.image import NewImage
from tiledsky.io.source import open_source
from tiledsky.recipe import preset_names
from tiledsky.workflows import estimate_memory as direct_memory
from tiledsky.workflows.export import export
from tiledsky.workflows.outputs import EXPORTED, FILL

direct = importlib.import_module("tiledsky.workflows.estimate_file")
estimate = direct.estimate

Call = Callable[..., tuple[int, str, str]]

#: An image with coverage, named flags, its own noise, and NaN where nothing is covered.
_EVENED = {
    "name": "evened",
    "dq_flags": [4],
    "fill_value": "nan",
    "steps": [
        {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2, "masked": "fill"},
        {"kind": "mask", "name": "found", "equalize": True, "tiers": [{"n_sigma": 2.0, "fwhm": 2.5, "grow": 2}]},
        {"kind": "background", "name": "sky", "box_size": 8},
    ],
}


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small images into bands, too."""
    monkeypatch.setattr(direct, "_BAND", 1 << 13)
    monkeypatch.setattr(direct, "_HALOS", 1)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    hdu = fits.PrimaryHDU(make_planes((130, 140))["science"])
    hdu.header["OBJECT"], hdu.header["CRVAL1"], hdu.header["CTYPE1"] = "a field", 214.9, "RA---TAN"
    hdu.header[FILL] = 3.0
    hdu.header.add_history("reduced")
    hdu.writeto(path)
    return path


def assert_as_run(folder: Path, recipe: Recipe | str, source: str | Path, **inputs: Any) -> None:
    """All planes and their headers are those of a run and its export; only where they come from is another."""
    sky = tiledsky.run(source, recipe, folder / "run.zarr", tile_size=96, **inputs)
    export(sky, folder / "run.fits")
    made = estimate(source, folder / "direct.fits", recipe, threads=3, **inputs)
    assert (made.shape, made.recipe, made.planes) == (sky.plan.shape, sky.recipe.name, EXPORTED)
    with fits.open(folder / "direct.fits") as found, fits.open(folder / "run.fits") as expected:
        found.verify("exception")
        assert [hdu.name for hdu in found] == [hdu.name for hdu in expected]
        for one, two in zip(found, expected, strict=True):
            cards = [[c.image for c in hdu.header.cards if "tiledsky " not in c.image] for hdu in (one, two)]
            assert [c for c in cards[0] if "estimate of" not in c] == cards[1][: len(cards[0])]
            if two.data is not None:
                assert one.data.dtype == two.data.dtype
                np.testing.assert_array_equal(one.data, two.data, err_msg=one.name)


@pytest.mark.usefixtures("bands")
@pytest.mark.parametrize("recipe", ["sextractor", "complex-sky", "deep-sky", "keeping"])
def test_bits_of_a_run(tmp_path: Path, recipe: str) -> None:
    source = write_fits(tmp_path, {"science": make_planes()["science"]})
    chosen = KEEPING if recipe == "keeping" else Recipe.load(recipe)
    assert direct.band_rows(chosen.expanded(), (301, 320), 3) <= 120
    assert_as_run(tmp_path, chosen, source)


@pytest.mark.usefixtures("bands")
def test_bits_of_a_run_with_planes(tmp_path: Path) -> None:
    planes = make_planes()
    source = write_fits(tmp_path, planes)
    coverage = np.ones((301, 320), np.int16)
    coverage[:40, :70] = 0
    fits.PrimaryHDU(coverage).writeto(tmp_path / "coverage.fits")
    (tmp_path / "evened.toml").write_text(Recipe.from_dict(_EVENED).to_toml())
    options = {"weight": f"{source}:WHT", "dq": f"{source}:DQ", "mask": f"{source}:MASK"}
    options["coverage"] = str(tmp_path / "coverage.fits")
    assert_as_run(tmp_path, str(tmp_path / "evened.toml"), f"{source}:SCI", **options)
    assert np.isnan(fits.getdata(tmp_path / "direct.fits", "SUBTRACTED")[:40, :70]).all()


@pytest.mark.usefixtures("bands")
@pytest.mark.parametrize("kind", ["scaled", "integer", "double", "gz", "fz", "zarr"])
def test_bits_of_a_run_of_every_input(tmp_path: Path, kind: str) -> None:
    science = make_planes((150, 141))["science"]
    source = tmp_path / "image.fits"
    whole = np.where(np.isfinite(science), science, np.roll(science, 60, axis=1)).clip(-30, 30)
    if kind == "zarr":
        assert_as_run(tmp_path, "sextractor", write_arrays(tmp_path, {"science": science})["source"])
        return
    if kind in ("scaled", "integer"):
        hdu = fits.PrimaryHDU((whole * 1000).astype(np.int16 if kind == "scaled" else np.int32))
        if kind == "scaled":
            hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.001, 2.5, 7
        hdu.writeto(source, output_verify="ignore")
    elif kind == "fz":
        source = tmp_path / "image.fits.fz"
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(whole, tile_shape=(13, 50))]).writeto(source)
    else:
        fits.PrimaryHDU(science.astype(float) if kind == "double" else science).writeto(source)
    if kind == "gz":
        data, source = source.read_bytes(), tmp_path / "image.fits.gz"
        source.write_bytes(gzip.compress(data))
    assert_as_run(tmp_path, "sextractor", source)


@pytest.mark.parametrize(
    ("size", "recipe", "loaded"), [(300, "sextractor", "[]"), (1300, "complex-sky", "['dask']"), (300, "none", "[]")]
)
def test_what_is_loaded(tmp_path: Path, size: int, recipe: str, loaded: str) -> None:
    """One band needs no Dask, FITS no Zarr, and nothing of it distributed."""
    fits.PrimaryHDU(simulate_scene((size, size), seed=2).image).writeto(tmp_path / "image.fits")
    code = (
        "import sys; from tiledsky.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted(set(sys.modules) & {'dask', 'zarr', 'distributed', 'tiledsky.cli.runs'}))"
    )
    words = ("estimate", str(tmp_path / "image.fits"), str(tmp_path / "sky.fits"), "--recipe", recipe)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == loaded, done.stderr
    assert (tmp_path / "sky.fits").is_file() == (recipe != "none")


# --- what it says and leaves


def test_planes_in_the_order_asked_for(call: Call, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "sky.fits"
    words = ["--recipe", "sextractor", "--planes", " mask,background ,", "--threads", 1]
    code, said, err = call("estimate", image, out, *words)
    assert code == 0
    assert said.splitlines()[0].startswith(f"{out}: 130 x 140 px, sextractor, ")
    assert said.splitlines()[1] == "planes: mask, background"
    assert err == "estimate tasks 1/1 (100%)\n"
    with fits.open(out) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["MASK", "BACKGROUND"]
        assert hdus[0].header["OBJECT"] == hdus["BACKGROUND"].header["OBJECT"] == "a field"
        assert hdus["MASK"].header["CRVAL1"] == 214.9
        assert FILL not in hdus[0].header
        version = tiledsky.__version__
        assert list(hdus[0].header["HISTORY"]) == [
            "reduced",
            f"tiledsky {version}: recipe sextractor, estimate of image.fits",
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.fits", "sky.fits"]
    assert call("estimate", image, out, "--recipe", "sextractor", "--planes", "background", "--overwrite")[0] == 0
    with fits.open(out) as hdus:
        assert [hdu.name for hdu in hdus][1:] == ["BACKGROUND"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--planes", "background,ring"], "no plane 'ring'; there are background, background_rms, "),
        (["--planes", ","], "no plane to write; name some of background"),
        (["--planes", "mask,mask"], r"plane names \['MASK', 'MASK'\] repeat"),
        (["--threads", 0], "0 threads do no work; use at least 1"),
        (["--recipe", "no-such"], "no recipe 'no-such'"),
    ],
)
def test_arguments_that_cannot_work(
    refused: Callable[..., None], image: Path, tmp_path: Path, words: list[object], message: str
) -> None:
    refused(2, message, "estimate", image, tmp_path / "sky.fits", "--recipe", "sextractor", *words)


def test_outputs_that_are_refused(refused: Callable[..., None], image: Path, tmp_path: Path) -> None:
    recipe = ("--recipe", "sextractor")
    (tmp_path / "sky.fits").write_text("precious")
    refused(2, r"sky\.fits: exists and would be lost; .*--overwrite", "estimate", image, tmp_path / "sky.fits", *recipe)
    assert (tmp_path / "sky.fits").read_text() == "precious"
    refused(2, r"end the name in \.fits", "estimate", image, tmp_path / "sky.fits.gz", *recipe)
    refused(2, "its directory does not exist", "estimate", image, tmp_path / "none" / "sky.fits", *recipe)
    refused(2, "is a directory", "estimate", image, tmp_path, *recipe, "--overwrite")
    before = image.read_bytes()
    refused(2, "is the science plane of the input", "estimate", image, image, *recipe, "--overwrite")
    weight, link = tmp_path / "weight.fits", tmp_path / "link.fits"
    fits.PrimaryHDU(np.ones((130, 140), np.float32)).writeto(weight)
    os.link(weight, link)
    refused(2, "is the weight plane", "estimate", image, link, *recipe, "--weight", weight, "--overwrite")
    assert image.read_bytes() == before


def test_inputs_that_cannot_be_used(refused: Callable[..., None], image: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "sky.fits", ("--recipe", "sextractor")
    refused(3, "no such file", "estimate", tmp_path / "none.fits", out, *recipe)
    noise = np.random.default_rng(1).normal(9, 1, (50, 200)).astype(np.float32)
    fits.PrimaryHDU(noise).writeto(tmp_path / "flat.fits")
    refused(3, "a box of 64 x 64 px is larger", "estimate", tmp_path / "flat.fits", out, *recipe)
    refused(3, "weight is 50 x 200 px", "estimate", image, out, *recipe, "--weight", tmp_path / "flat.fits")
    (tmp_path / "evened.toml").write_text(Recipe.from_dict(_EVENED).to_toml())
    refused(3, "no plane gives it", "estimate", image, out, "--recipe", tmp_path / "evened.toml")
    noise = ("--recipe", tmp_path / "evened.toml", "--weight", image)
    refused(3, "role dq needs integer flags", "estimate", image, out, *noise, "--dq", image)
    zarr.create_array(str(tmp_path / "dq.zarr"), data=np.zeros((130, 140), np.float32))
    refused(3, "float32 pixels have no flags to choose", "estimate", image, out, *noise, "--dq", tmp_path / "dq.zarr")


@pytest.mark.parametrize("shape", [(130, 140), (300, 320)])
@pytest.mark.usefixtures("bands")
def test_image_without_a_valid_pixel(call: Call, tmp_path: Path, shape: tuple[int, int]) -> None:
    fits.PrimaryHDU(np.full(shape, np.nan, np.float32)).writeto(tmp_path / "nan.fits")
    code, out, err = call("estimate", tmp_path / "nan.fits", tmp_path / "sky.fits", "--recipe", "sextractor")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("tiledsky: ")
    assert "no sky to measure" in err
    assert [path.name for path in tmp_path.iterdir()] == ["nan.fits"]


@pytest.mark.usefixtures("bands")
def test_nothing_is_left_of_an_error(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = NewImage.put

    def fail(self: NewImage, pixels: Any, y0: int, x0: int = 0) -> None:
        put(self, pixels, y0, x0)
        if y0 >= 64:
            raise OSError(28, "No space left on device")

    def lose(self: NewImage, pixels: Any, y0: int, x0: int = 0) -> None:
        put(self, pixels[:1], y0, x0)

    before = sorted(tmp_path.iterdir())
    for wrong, message in ((fail, r"sky\.fits: cannot be written \(No space left"), (lose, "pixels were not written")):
        monkeypatch.setattr(NewImage, "put", wrong)
        with pytest.raises(RunError, match=message):
            estimate(image, tmp_path / "sky.fits", "sextractor", threads=2)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("bands")
def test_stopped_from_within(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        assert total > 4
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        estimate(image, tmp_path / "sky.fits", "sextractor", threads=2, progress=stop)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(tmp_path: Path, number: int) -> None:
    fits.PrimaryHDU(simulate_scene((2500, 2500), seed=2).image).writeto(tmp_path / "image.fits")
    with command("estimate", str(tmp_path / "image.fits"), str(tmp_path / "sky.fits"), "--recipe", "complex-sky",
                 "--threads", "2") as process:  # fmt: skip
        end = time.monotonic() + 90
        while not list(tmp_path.glob(".sky.fits.*.part")):
            assert time.monotonic() < end, "nothing is written"
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == "tiledsky: stopped"
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["image.fits"]


# --- memory


def test_too_little_memory(
    refused: Callable[..., None], image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_memory, "available_memory", lambda: 100_000_000)
    message = r"sextractor of 130 x 140 px needs up to 0\.\d+ GB of memory and 0\.1 GB are free; .*`tiledsky run`"
    refused(2, message, "estimate", image, tmp_path / "sky.fits", "--recipe", "sextractor")
    with pytest.raises(PlanError, match="are free"):
        estimate(image, tmp_path / "sky.fits", "complex-sky")


def test_memory_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = direct_memory.available_memory()
    assert whole > 100_000_000
    monkeypatch.setattr(direct_memory, "_CGROUPS", tmp_path)
    for name, text in (("max", "3000000"), ("current", "2500000"), ("stat", "anon 5\ninactive_file 200000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert direct_memory.available_memory() in (700_000, whole) or not Path("/proc/self/cgroup").exists()
    (tmp_path / "memory").mkdir()
    for name, text in (("limit_in_bytes", "9000"), ("usage_in_bytes", "8000"), ("stat", "total_inactive_file 24\n")):
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert direct_memory.available_memory() == 1024


def test_memory_grows_with_what_is_held(image: Path) -> None:
    source = open_source(image)
    options: dict[str, Any] = {"band": (64, 140), "halo": 0, "threads": 1}
    needed = {
        name: direct_memory.needed_memory(Recipe.load(name).expanded(), source, EXPORTED, **options)
        for name in preset_names()
    }
    # plain presets and mosaic-steps have the masks of deep-sky
    largest = max(needed, key=lambda name: needed[name])
    assert largest in ("deep-sky", "mosaic-steps", "constant", "plane", "polynomial")
    assert min(needed, key=lambda name: needed[name]) == "sextractor"
    recipe = Recipe.load("sextractor").expanded()
    assert direct_memory.needed_memory(recipe, source, ["background"], **options) < needed["sextractor"]


@pytest.mark.parametrize("recipe", ["sextractor", "complex-sky"])
def test_memory_is_below_what_is_told(tmp_path: Path, recipe: str) -> None:
    size = 2000
    fits.PrimaryHDU(simulate_scene((size, size), seed=2).image).writeto(tmp_path / "image.fits")
    words = ("estimate", str(tmp_path / "image.fits"), str(tmp_path / "sky.fits"), "--recipe", recipe)
    with command(*words, "--threads", "2") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    measured = int(out.splitlines()[0].split()[-2]) * 1_000_000
    chosen, source = Recipe.load(recipe).expanded(), open_source(tmp_path / "image.fits")
    rows, halo = direct.band_rows(chosen, (size, size), 2), direct.halo_rows(chosen)
    told = direct_memory.needed_memory(chosen, source, EXPORTED, band=(rows, size), halo=halo, threads=2)
    assert 0.3 * told < measured <= told


def test_bands_are_whole_boxes_and_higher_than_the_halo() -> None:
    for name in preset_names():
        recipe = Recipe.load(name).expanded()
        for shape in ((10000, 10000), (3000, 46200), (400, 5000), (300, 300)):
            for threads in (1, 8):
                rows = direct.band_rows(recipe, shape, threads)
                assert min(direct.halo_rows(recipe), shape[0]) <= rows <= shape[0]
                boxes = [step.box_size[0] for step in recipe.steps if step.kind == "background"]
                assert rows == shape[0] or not any(rows % box for box in boxes)


def test_wrong_use_from_python(image: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no plane to write"):
        estimate(image, tmp_path / "sky.fits", "sextractor", planes=[])
    with pytest.raises(InputError, match="no such file"):
        estimate(tmp_path / "none.fits", tmp_path / "sky.fits", "sextractor")


def test_what_footprints_say_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exposures = np.full((200, 220), 1, np.int16)
    exposures[:, 110:] = 2
    image = make_planes(exposures.shape)["science"] + 0.3 * (exposures == 2)
    planes = fits.ImageHDU(exposures, name="CTX"), fits.ImageHDU(0 * exposures, name="NONE")
    fits.HDUList([fits.PrimaryHDU(image.astype(np.float32)), *planes]).writeto("scene.fits")
    told = {}
    for name in ("CTX", "NONE"):
        words = ["estimate", "scene.fits:0", f"{name}.fits", "--footprints", f"scene.fits:{name}"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert "footprints are given: mosaic-steps in place of deep-sky" in result.output
        (told[name],) = re.findall("^footprints: (.*)$", result.output, re.MULTILINE)
    assert told["CTX"].startswith("2, constants -0.")
    assert told["NONE"] == "none, no pixel is of any exposure"
    with fits.open("CTX.fits") as written:
        assert written[-1].name == "FOOTPRINTS"
