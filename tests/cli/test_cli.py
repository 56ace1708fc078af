"""The command line as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import os
import platform
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

import tiledsky
from tests.engine.scenes import assert_results, command, make_planes, reference, stored_bytes, write_arrays
from tiledsky import open_run, run
from tiledsky.cli.console import Reporter
from tiledsky.engine.runner import Progress
from tiledsky.recipe import preset_names
from tiledsky.workflows.outputs import EXPORTED

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(make_planes((130, 140))["science"]).writeto(path)
    return path


@pytest.fixture
def sky(tmp_path: Path) -> list[object]:
    """Options of a run that every test needs."""
    return ["--recipe", "sextractor", "--out", tmp_path / "sky.zarr"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fits.PrimaryHDU(make_planes((130, 140))["science"]).writeto(folder / "image.fits")
    return run(folder / "image.fits", "sextractor", folder / "sky.zarr").path


# --- inputs that cannot be used: 3


def test_missing_file(refused: Callable[..., None], tmp_path: Path, sky: list[object]) -> None:
    refused(3, r"none\.fits", "run", tmp_path / "none.fits", *sky)
    refused(3, r"none\.zarr", "run", tmp_path / "none.zarr", *sky)
    refused(3, r"none\.fits", "ingest", tmp_path / "none.fits", tmp_path / "out.zarr")
    refused(3, r"none\.fits", "info", tmp_path / "none.fits")
    refused(3, r"none\.zarr: no such Zarr store", "export", tmp_path / "none.zarr", tmp_path / "out.fits")


def test_no_image(refused: Callable[..., None], tmp_path: Path, sky: list[object]) -> None:
    path = tmp_path / "table.fits"
    columns = [fits.Column("a", "E", array=np.zeros(3))]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    refused(3, r"table\.fits.*2-D image", "run", path, *sky)
    text = tmp_path / "text.fits"
    text.write_text("not FITS\nat all\n" * 300)
    refused(3, r"text\.fits", "run", text, *sky)


def test_hdu_not_named(refused: Callable[..., None], tmp_path: Path, sky: list[object]) -> None:
    path = tmp_path / "two.fits"
    hdus = [fits.ImageHDU(np.ones((70, 70), np.float32), name=name) for name in ("BLUE", "RED")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    refused(3, r"two\.fits.*BLUE.*RED", "run", path, *sky)
    refused(3, r"two\.fits.*GREEN", "run", path, "--hdu", "GREEN", *sky)


def test_truncated_file(refused: Callable[..., None], image: Path, sky: list[object]) -> None:
    os.truncate(image, image.stat().st_size - 2880 * 3)
    refused(3, r"image\.fits.*(truncated|end|short|bytes)", "run", image, *sky)


def test_image_without_a_valid_pixel(call: Call, image: Path, sky: list[object]) -> None:
    with fits.open(image, mode="update") as hdus:
        hdus[0].data[...] = np.nan
    code, out, err = call("run", image, *sky, "--workers", 1)
    assert (code, out) == (3, "")
    assert (
        "All boxes contain no more than 10% of 4096 unmasked or finite pixels (9 boxes of 64 x 64 px)"
        in err.splitlines()[-1]
    )
    assert "Traceback" not in err


def test_box_larger_than_the_image(refused: Callable[..., None], tmp_path: Path, sky: list[object]) -> None:
    fits.PrimaryHDU(np.ones((70, 50), np.float32)).writeto(tmp_path / "small.fits")
    refused(3, "box of 64 x 64 px is larger than the 70 x 50 px image", "run", tmp_path / "small.fits", *sky)


@pytest.mark.parametrize("option", ["--weight", "--error", "--dq", "--coverage", "--mask", "--user-mask"])
def test_planes_of_another_shape(
    refused: Callable[..., None], image: Path, tmp_path: Path, sky: list[object], option: str
) -> None:
    fits.PrimaryHDU(np.ones((130, 139), np.int16)).writeto(tmp_path / "other.fits")
    message = "is 130 x 139 px, the science image 130 x 140; all planes must be on one grid"
    refused(3, message, "run", image, *sky, option, tmp_path / "other.fits")


def test_masks_that_cannot_be_used(
    refused: Callable[..., None], image: Path, tmp_path: Path, sky: list[object]
) -> None:
    pytest.importorskip("regions")
    (tmp_path / "sky.reg").write_text("fk5; circle(150,2,3)")
    (tmp_path / "one.reg").write_text("image; circle(50,20,3)")
    refused(3, r"sky\.reg: the regions have sky coordinates and the image has no celestial WCS", "run", image, *sky,
            "--mask", tmp_path / "sky.reg")  # fmt: skip
    two = ["--mask", tmp_path / "one.reg", "--user-mask", image]
    refused(3, r"one\.reg and .*image\.fits are two user masks; give one", "run", image, *sky, *two)
    refused(3, r"one\.reg and .*image\.fits are two user masks", "ingest", image, tmp_path / "in.zarr", *two)


# --- wrong arguments, recipe or plan: 2


def test_recipes_that_are_none(refused: Callable[..., None], image: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "sky.zarr"]
    message = "no recipe 'complex': neither a file nor one of .*complex-sky, .*sextractor"
    refused(2, message, "run", image, "--recipe", "complex", *out)
    refused(2, message, "recipes", "show", "complex")
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\n[[steps]]\nkind = "background"\nname = "a"\nboxsize = 10\n')
    refused(2, r"mine\.toml: step 'a': .*unknown key 'boxsize'; known are .*box_size", "run", image,
            "--recipe", mine, *out)  # fmt: skip
    mine.write_text("name = mine")
    refused(2, r"mine\.toml: not valid TOML", "run", image, "--recipe", mine, *out)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--memory-limit", "2XB", "memory limit '2XB' is not a size; write it like 2GB or 512MiB"),
        ("--memory-limit", "2", "memory limit '2' is less than the 256 MB"),
        ("--workers", 0, "0 workers with 1 threads do no work"),
        ("--threads", 0, "2 workers with 0 threads do no work"),
        ("--workers", 10_001, "10001 workers are more than the 10000 that can work on one run; use fewer workers"),
        ("--threads", 10**20, f"{10**20} threads are more than the 1000 that can work on one run; use fewer threads"),
        ("--tile-size", 0, "tile size 0 has no pixel; use --tile-size of at least 1"),
        (
            "--tile-size",
            10**23,
            f"tile size {10**23} is larger than an image of 130 x 140 px needs, and .* at most 16384",
        ),
    ],
)
def test_options_that_cannot_work(
    refused: Callable[..., None], image: Path, sky: list[object], option: str, value: object, message: str
) -> None:
    refused(2, message, "run", image, *sky, option, value)
    refused(2, message, "plan", image, *sky[:2], option, value)


@pytest.mark.parametrize("words", [("run",), ("run", "a.fits", "--workers", "two"), ("nonsense",), ("recipes", "hide")])
def test_usage(call: Call, words: tuple[str, ...]) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert "Error" in err


def test_output_of_export_exists(refused: Callable[..., None], finished: Path, tmp_path: Path) -> None:
    (tmp_path / "sky.fits").write_text("precious")
    refused(2, r"sky\.fits.*--overwrite|sky\.fits.*overwrite", "export", finished, tmp_path / "sky.fits")
    refused(2, "no plane 'ring'; it has background", "export", finished, tmp_path / "new.fits", "--planes", "ring")
    assert (tmp_path / "sky.fits").read_text() == "precious"


def test_what_errors_advise_works(call: Call, refused: Callable[..., None], tmp_path: Path) -> None:
    """An option that is named is one of the command, and done as it says the command goes through."""
    pixels = make_planes((130, 140))["science"]
    hdus = [fits.PrimaryHDU()]
    for ver in (1, 2):
        hdus += [
            fits.ImageHDU(pixels, name="SCI", ver=ver),
            fits.ImageHDU(np.zeros((130, 140), "i2"), name="DQ", ver=ver),
        ]
    source, out = tmp_path / "two.fits", tmp_path / "out.fits"
    fits.HDUList(hdus).writeto(source)
    words = [f"{source}:SCI,2", out, "--recipe", "sextractor"]
    refused(3, rf"2 of 4 images could be the dq image .*: {source}:DQ,1 or {source}:DQ,2$",
            "estimate", *words, "--dq", source)  # fmt: skip
    assert call("estimate", *words, "--dq", f"{source}:DQ,2")[0] == 0
    refused(2, r"out\.fits: exists and would be lost; name another file, or give --overwrite$", "estimate", *words)
    assert call("estimate", *words, "--overwrite")[0] == 0
    with fits.open(out, mode="update") as written:
        for hdu in written[1:]:
            hdu.add_datasum()
            hdu.header["DATASUM"] = "1"
    refused(3, r"out\.fits, HDU .*DATASUM is 1; fetch the file again, or give --no-checksum",
            "restore", out, tmp_path / "back.fits")  # fmt: skip
    assert call("restore", out, tmp_path / "back.fits", "--no-checksum")[0] == 0


# --- runs that did not finish, stores of other runs: 4


def test_stores_of_others(refused: Callable[..., None], image: Path, finished: Path, tmp_path: Path) -> None:
    refused(4, "holds a run with another recipe", "run", finished.parent / "image.fits", "--recipe", "complex-sky",
            "--out", finished)  # fmt: skip
    refused(4, "exists and is not a run store, so tiledsky does not touch it", "run", image, "--recipe", "sextractor",
            "--out", tmp_path)  # fmt: skip
    refused(3, "does not exist; make it or change --out", "run", image, "--recipe", "sextractor",
            "--out", tmp_path / "none" / "sky.zarr")  # fmt: skip


def test_unfinished_run(call: Call, refused: Callable[..., None], image: Path, tmp_path: Path) -> None:
    def stop(state: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(image, "sextractor", tmp_path / "sky.zarr", progress=stop)
    refused(4, "sky.zarr is not finished", "export", tmp_path / "sky.zarr", tmp_path / "sky.fits")
    code, out, err = call("info", tmp_path / "sky.zarr")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'sky.zarr'}: NOT finished\n")


def test_scheduler_that_is_not_there(refused: Callable[..., None], image: Path, sky: list[object]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    refused(4, f"no Dask scheduler answers at {address} .*; start it, or leave out", "run", image, *sky,
            "--scheduler", address)  # fmt: skip


def test_error_of_the_system(call: Call, image: Path) -> None:
    code, out, err = call("run", image, "--recipe", "sextractor", "--out", "/proc/sky.zarr", "--workers", 1)
    assert (code, out) == (4, "")
    assert "/proc/sky.zarr" in err.splitlines()[-1]
    assert "Traceback" not in err


# --- what works


def test_recipes(call: Call, tmp_path: Path) -> None:
    code, out, err = call("recipes")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == preset_names()
    code, out, err = call("recipes", "show", "complex-sky")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out)
    assert tiledsky.Recipe.load(tmp_path / "mine.toml") == tiledsky.Recipe.load("complex-sky")


def test_version_and_help(call: Call) -> None:
    code, out, err = call("--version")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == f"tiledsky {tiledsky.__version__}"
    said = dict(part.split() for part in second.removeprefix("with ").split(", "))
    assert said.pop("python") == platform.python_version()
    assert {"numpy", "scipy", "numba", "llvmlite", "astropy", "photutils", "zarr", "dask"} <= said.keys()
    assert said == {name: metadata.version(name) for name in said}
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("simulate", "ingest", "run", "export", "recipes", "info"))


def test_scenes_need_not_be_square(call: Call, tmp_path: Path) -> None:
    assert call("simulate", tmp_path / "scene.fits", "--size", "40x70", "--seed", 9)[0] == 0
    expected = tiledsky.simulate_scene((40, 70), seed=9)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "scene.fits"), expected.image)
    for wrong in ("40x", "x70", "4e3", "40x70x2", "-3"):
        code, _, err = call("simulate", tmp_path / "other.fits", f"--size={wrong}")
        assert (code, f"size {wrong!r} is not a number of pixels; write 2000 or 46200x15400" in err) == (2, True)


def test_from_simulation_to_fits(call: Call, tmp_path: Path) -> None:
    scene, truth, copy, sky, out = (
        tmp_path / n for n in ("scene.fits", "truth.zarr", "scene.zarr", "sky.zarr", "sky.fits")
    )
    code, stdout, _ = call("simulate", scene, "--size", 300, "--seed", 9, "--truth", truth)
    assert (code, stdout) == (0, "")
    expected = tiledsky.simulate_scene((300, 300), seed=9)
    np.testing.assert_array_equal(fits.getdata(scene), expected.image)
    np.testing.assert_array_equal(zarr.open_group(str(truth), mode="r")["sky"][...], expected.sky)
    with fits.open(scene, mode="update") as hdus:
        hdus[0].header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.0, CRPIX1=5.0, FILTER="F200W")
    assert call("ingest", scene, copy)[:2] == (0, "")
    words = ["--recipe", "complex-sky", "--out", sky, "--tile-size", 150, "--workers", 2]
    code, stdout, stderr = call("run", copy, *words)
    assert code == 0
    first, second, third, *_, last = stdout.splitlines()
    assert third.startswith("verdict: ")
    assert last == f"FITS: tiledsky export {sky} scene.sky.fits"
    assert re.fullmatch(rf"{sky}: 300 x 300 px, complex-sky, \d+\.\d s, peak \d+ MB a worker", first)
    assert second == "planes: background, background_error, background_rms, mask, subtracted"
    assert "2 workers (local)\n" in stderr
    assert re.search(r"^\S+ tiles \d+/\d+ \(\d+%\) 2 workers [\d.]+ Mpix/s eta \d+s$", stderr, re.MULTILINE)
    assert "\x1b" not in stdout + stderr
    assert call("export", sky, out)[:2] == (0, "")
    result = open_run(sky)
    np.testing.assert_array_equal(result.plane("background")[...],
                                  tiledsky.estimate_background(expected.image, "complex-sky").background)  # fmt: skip
    with fits.open(out) as hdus:
        for hdu in hdus[1:]:
            np.testing.assert_array_equal(hdu.data, result.plane(hdu.name.lower())[...])
            assert (hdu.header["CRVAL1"], hdu.header["FILTER"]) == (10.0, "F200W")
        assert [hdu.name.lower() for hdu in hdus[1:]] == list(EXPORTED)


def test_every_plane_as_an_option(call: Call, tmp_path: Path, image: Path, finished: Path) -> None:
    """Of run and of ingest: both lead to the same planes, and to the result on whole arrays."""
    pytest.importorskip("regions")
    science = fits.getdata(image)
    rng = np.random.default_rng(2)
    planes = {name: rng.choice([0, 1, 2], science.shape, p=[0.1, 0.4, 0.5]) for name in ("WHT", "ERR", "DQ", "COV")}
    kinds = {"WHT": "f4", "ERR": "f4", "DQ": "i2", "COV": "i4"}
    hdus = [fits.ImageHDU((plane == 0 if name == "DQ" else plane).astype(kinds[name]), name=name)
            for name, plane in planes.items()]  # fmt: skip
    path = tmp_path / "planes.fits"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    (tmp_path / "mine.reg").write_text("image; circle(50,70,20)")
    names = {"--weight": "WHT", "--error": "ERR", "--dq": "DQ", "--coverage": "COV"}
    options: list[object] = [word for option, hdu in names.items() for word in (option, f"{path}:{hdu}")]
    options += ["--user-mask", tmp_path / "mine.reg", "--mask", finished]
    assert call("ingest", image, tmp_path / "in.zarr", *options)[0] == 0
    shared = ["--recipe", "sextractor", "--workers", 1]
    assert call("run", image, *shared, *options, "--out", tmp_path / "one.zarr")[0] == 0
    assert call("run", tmp_path / "in.zarr", *shared, "--out", tmp_path / "two.zarr")[0] == 0
    y, x = np.mgrid[: science.shape[0], : science.shape[1]]
    sky = tiledsky.estimate_background(
        science.astype(np.float32),
        "sextractor",
        weight=planes["WHT"],
        error=planes["ERR"],
        dq=planes["DQ"] == 0,
        coverage=planes["COV"],
        mask=(y - 69) ** 2 + (x - 49) ** 2 < 400,
        source_mask=open_run(finished).plane("mask")[...],
    )
    expected = {name: getattr(sky, name) for name in ("background", "background_rms", "mask", "subtracted")}
    assert sorted(set((expected["mask"] & 129).ravel().tolist())) == [0, 1, 128, 129]
    for name in ("one.zarr", "two.zarr"):
        assert_results(open_run(tmp_path / name), expected)


def test_info(call: Call, finished: Path) -> None:
    code, out, err = call("info", finished)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{finished}: finished"
    assert lines[1] == "image      130 x 140 px (y, x), float32"
    assert lines[2] == "recipe     sextractor: mesh64"
    assert any(line.startswith("plane      background  float32, chunks ") for line in lines)
    path = finished.parent / "image.fits"
    code, out, err = call("info", path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{path} HDU 0 (no name)",
        "image      130 x 140 px (y, x), read as float32, unit not given",
    ]


def line_of(process: subprocess.Popen[str], pattern: str) -> str:
    """Return the first group of the first line of standard error that matches."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found.group(1)
    raise AssertionError(f"the process ended without {pattern}")


@pytest.fixture
def scheduler() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a scheduler with one worker, in another process."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
             "--no-dashboard", "--no-show"]  # fmt: skip
    with subprocess.Popen(start, **pipes) as process:  # type: ignore[call-overload]
        address = line_of(process, r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)")
        join = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--no-nanny",
                "--nthreads", "1", "--no-dashboard"]  # fmt: skip
        with subprocess.Popen(join, **(pipes | {"stderr": subprocess.DEVNULL})) as worker:  # type: ignore[call-overload]
            yield address, process
            worker.terminate()
        process.terminate()
        process.communicate()


def wait_for_worker(address: str) -> None:
    from distributed import Client

    with Client(address, timeout=30) as client:
        client.wait_for_workers(1, timeout=60)


def test_scheduler_of_somebody_else(call: Call, scheduler: Any, finished: Path, tmp_path: Path) -> None:
    address, _ = scheduler
    wait_for_worker(address)
    image, out = finished.parent / "image.fits", tmp_path / "sky.zarr"
    code, stdout, stderr = call("run", image, "--recipe", "sextractor", "--out", out, "--scheduler", address)
    assert code == 0, stderr
    assert stdout.splitlines()[1] == "planes: background, background_error, background_rms, mask, science, subtracted"
    assert stored_bytes(out) == stored_bytes(finished)


def test_killed_scheduler(call: Call, scheduler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, process = scheduler
    wait_for_worker(address)
    planes = make_planes((190, 210))
    source, out = write_arrays(tmp_path, {"science": planes["science"]})["source"], tmp_path / "sky.zarr"
    tiles = Reporter.tiles

    def kill(self: Reporter, state: Progress) -> None:
        if state.done == 4:
            process.kill()
        tiles(self, state)

    monkeypatch.setattr(Reporter, "tiles", kill)
    words = ("run", source, "--recipe", "complex-sky", "--out", out, "--tile-size", 70)
    code, stdout, stderr = call(*words, "--scheduler", address)
    assert (code, stdout) == (4, "")
    assert "the connection to the Dask scheduler was lost; finished tasks are kept" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    result = run(source, "complex-sky", out, tile_size=70)
    assert result.provenance["tasks_computed_last"] <= result.provenance["tasks"] - 4
    assert_results(result, reference("complex-sky", {"science": planes["science"]}))


@pytest.mark.faults
def test_interrupt(tmp_path: Path) -> None:
    fits.PrimaryHDU(make_planes((300, 310))["science"]).writeto(tmp_path / "image.fits")
    out = tmp_path / "sky.zarr"
    words = ("run", str(tmp_path / "image.fits"), "--recipe", "complex-sky", "--out", str(out), "--tile-size", "30")
    with command(*words, "--workers", "1") as process:
        end = time.monotonic() + 90
        while not list(out.glob("run/markers/*/*.json")):
            assert time.monotonic() < end, "the run does not begin"
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    again = shlex.join([sys.executable, "-m", "tiledsky", *words, "--workers", "1"])
    assert stderr.splitlines()[-1] == f"tiledsky: stopped; what is done is kept, go on with: {again}"
    assert "Traceback" not in stderr
    assert not open_run(out, allow_partial=True).complete


def test_the_table_of_commands_is_whole() -> None:
    """A command loads the module that the table names for it, so that one must have it."""
    from tiledsky import cli

    found: dict[str, set[str]] = {}
    for info in cli.app.registered_commands:
        found.setdefault(info.callback.__module__, set()).add(info.name or info.callback.__name__)
    for group in cli.app.registered_groups:
        found.setdefault(group.typer_instance.registered_commands[0].callback.__module__, set()).add(group.name)
    assert found == {f"tiledsky.cli.{module}": set(names) for module, names in cli._MODULES.items()}
    with pytest.raises(AttributeError, match="no attribute 'ap'"):
        _ = cli.ap
