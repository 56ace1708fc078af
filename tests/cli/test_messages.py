"""What the command line says where somebody mistyped, misnamed or forgot: what is meant, and what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import typer
import zarr
from astropy.io import fits

import tiledsky
from tests.engine.scenes import make_planes
from tiledsky import cli, open_run, run
from tiledsky.cli.verdict import table
from tiledsky.diagnostics import next_step
from tiledsky.recipe import Checks

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run on an image with a hole that no background follows, and with a WCS."""
    folder = tmp_path_factory.mktemp("finished")
    y, x = np.mgrid[:200, :220]
    pixels = np.random.default_rng(5).normal(10, 1, y.shape) - 5.0 * ((y - 150) ** 2 + (x - 60) ** 2 < 20**2)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 61.0,
                          "CRPIX2": 151.0, "CDELT1": -1e-5, "CDELT2": 1e-5})  # fmt: skip
    fits.PrimaryHDU(pixels.astype("f4"), header).writeto(folder / "image.fits")
    return run(folder / "image.fits", "sextractor", folder / "sky.zarr").path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(make_planes((130, 140))["science"]).writeto(path)
    return path


# --- names that are almost right


def test_a_wrong_key_is_named_with_its_step(refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'name = "mine"\n[[steps]]\nkind = "background"\nname = "bkg4"\nbox_size = 5\n'
        '[[steps]]\nkind = "background"\nname = "bkg5"\nbox_size = 2.5\n'
    )
    refused(2, r"mine\.toml: step 'bkg5'\.box_size: .*\(got 2\.5\)", "recipes", "show", mine)
    mine.write_text(mine.read_text().replace("box_size = 2.5", "box_size = 6\nfilter_sise = 3"))
    message = r"step 'bkg5': unknown key 'filter_sise'; known are .*; did you mean 'filter_size'\?$"
    refused(2, message, "recipes", "show", mine)


def test_what_was_meant(refused: Refused, finished: Path, image: Path, tmp_path: Path) -> None:
    refused(2, r"no recipe 'complex-ski': .*; did you mean 'complex-sky'\?$", "recipes", "show", "complex-ski")
    refused(2, r"did you mean 'sextractor'\?$", "run", image, "--recipe", "SExtracter", "--out", tmp_path / "o.zarr")
    refused(2, r"no plane 'backgroud'; it has .*; did you mean 'background'\?$",
            "export", finished, tmp_path / "o.fits", "--planes", "backgroud")  # fmt: skip
    refused(2, r"no cluster 'slrum': .*; did you mean 'slurm'\?$", "cluster", "script", "slrum")
    refused(2, r"'marker' is not a level .*; did you mean 'markers'\?$", "verify", finished, "--level", "marker")


@pytest.mark.parametrize(
    ("words", "meant"),
    [(("rum", "image.fits"), "'run'"), (("run", "image.fits", "--recpe", "sextractor"), "--recipe"),
     (("estimate", "a.fits", "b.fits", "--overwritte"), "--overwrite"), (("recipe",), "'recipes'")],
)  # fmt: skip
def test_commands_and_options_that_were_meant(call: Call, words: tuple[str, ...], meant: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert re.search(rf"(Did you mean|Possible options:).*{meant}", err), err


# --- refused before anything starts


def test_levels_and_stages_that_are_none(refused: Refused, image: Path, tmp_path: Path) -> None:
    words = ["run", image, "--recipe", "sextractor", "--out", tmp_path / "sky.zarr"]
    refused(2, "'foo' is not a level of verification; use one of markers, sizes, crc, decode", *words,
            "--verify", "foo")  # fmt: skip
    refused(2, "--stage output is the stage of a job of an array, and this is none; give --worker-slice", *words,
            "--stage", "output")  # fmt: skip
    refused(2, "0 workers with 1 threads do no work", "plan", image, "--recipe", "sextractor", "--workers", 0)


@pytest.mark.parametrize("name", ["sky.png", "sky.txt", "sky", "sky.zarr.tmp"])
def test_names_that_are_not_of_fits(refused: Refused, finished: Path, image: Path, tmp_path: Path, name: str) -> None:
    message = r"{} does not end in {}, so nobody could tell what is in it; name it like .*\.fits$"
    out, fits_only = tmp_path / name, message.format(re.escape(name), r"\.fits")
    refused(2, message.format(re.escape(name), r"\.fits or \.zarr"), "simulate", out, "--size", 30)
    refused(2, message.format(re.escape(name), r"\.fits or \.csv"), "export", finished, out)
    refused(2, fits_only, "estimate", image, out, "--recipe", "sextractor")
    refused(2, fits_only, "restore", finished, out)


@pytest.mark.parametrize("name", ["sky.fits", "sky.FITS", "sky.fits.gz", "sky.html"])
def test_names_that_are_not_of_stores(refused: Refused, finished: Path, image: Path, tmp_path: Path, name: str) -> None:
    message = rf"{re.escape(name)} would be a folder \(a Zarr store\) with the name of a file; name it like .*\.zarr, "
    out = tmp_path / name
    refused(2, message, "run", image, "--recipe", "sextractor", "--out", out)
    refused(2, message, "ingest", image, out)
    refused(2, message, "inject", finished, "--out", out)
    refused(2, message, "merge-masks", finished, finished, "--out", out)
    refused(2, message, "simulate", tmp_path / "scene.fits", "--size", 30, "--truth", out)


# --- checks


def test_limits_in_a_file_of_their_own(call: Call, refused: Refused, finished: Path, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[checks]\nnegative_area = { warn = 1e6, fail = 2e6 }\n")
    code, out, err = call("check", finished, "--recipe", limits)
    assert (code, err) == (1, "")
    rows = {line[:21].strip(): line.split()[-4:] for line in out.splitlines()}
    assert rows["negative area"][1:] == ["1e+06", "2e+06", "pass"]
    assert rows["worst block"][1:] == ["10", "20", "fail"]
    limits.write_text("[checks]\nnegative_aera = { fail = 3 }\n")
    message = r"limits\.toml: checks: unknown key 'negative_aera'; .*; did you mean 'negative_area'\?$"
    refused(2, message, "check", finished, "--recipe", limits)


def test_failed_checks_say_where_and_what_next(call: Call, finished: Path) -> None:
    code, out, _ = call("check", finished)
    assert code == 1
    found = re.search(
        r"^negative significance fails at x ([\d.]+), y ([\d.]+) \(RA ([\d.]+), Dec ([+-][\d.]+)\): "
        r"look there with `tiledsky view`; ",
        out,
        re.MULTILINE,
    )
    assert found, out
    x, y, ra, dec = map(float, found.groups())
    assert np.hypot(x - 60, y - 150) < 16
    expected = 150 - 1e-5 * (x - 60) / np.cos(np.radians(2)), 2 + 1e-5 * (y - 150)  # so near the pole of the tangent
    np.testing.assert_allclose((ra, dec), expected, atol=2e-6)
    verdict = open_run(finished).diagnostics["verdict"]
    wrong = {row["name"].replace("_", " ") for row in verdict["checks"] if row["result"] in ("fail", "warn")}
    assert {line.partition(" fails ")[0].partition(" warns ")[0] for line in out.splitlines() if ": " in line} >= wrong


def test_every_check_has_a_next_step() -> None:
    assert all(next_step(name) for name in Checks.names())


def test_columns_do_not_merge() -> None:
    rows = [["name", "change", "lost %"], ["a", "-1.234e-05", "-1.234e-05"], ["negative significance", "1", "-"]]
    lines = table(rows)
    assert [re.split(r" {2,}", line) for line in lines] == rows
    assert len({len(line) for line in lines}) == 1


# --- help


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield all commands, by what one writes."""

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        for sub, inner in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {sub}".strip(), inner)

    yield from walk("", typer.main.get_command(cli.app))


def test_help_shows_every_word_of_itself(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a text is taken for markup, which would be left out."""
    monkeypatch.setenv("COLUMNS", "400")
    for name, command in commands():
        code, out, _ = call(*name.split(), "--help")
        assert code == 0
        said = " ".join(re.sub(r"[│╭╰─╮╯]", " ", out).split())
        texts = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
        missing = [text for text in texts if " ".join(text.split()) not in said]
        assert not missing, f"{name}: {missing}"


# --- other inputs


def test_info_of_stores_that_are_no_runs(call: Call, refused: Refused, image: Path, tmp_path: Path) -> None:
    assert call("ingest", image, tmp_path / "in.zarr")[0] == 0
    code, out, err = call("info", tmp_path / "in.zarr")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == f"{tmp_path / 'in.zarr'}: Zarr, no run, to be read by runs in place"
    assert second.startswith("array      science  130 x 140, float32, chunks ")
    zarr.create_array(str(tmp_path / "one.zarr"), shape=(3, 4), dtype="i2", chunks=(3, 4))
    assert call("info", tmp_path / "one.zarr")[1].splitlines()[1] == (
        "array      one.zarr  3 x 4, int16, chunks (3, 4), shards None"
    )
    zarr.create_group(str(tmp_path / "none.zarr"))
    refused(3, "a Zarr group without arrays, so there is nothing to describe", "info", tmp_path / "none.zarr")


def test_truth_of_a_comparison_as_fits(call: Call, refused: Refused, finished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished, tmp_path / "other.zarr")
    truth = np.full((200, 220), 10, "f4")
    fits.PrimaryHDU(truth).writeto(tmp_path / "truth.fits")
    group = zarr.create_group(str(tmp_path / "truth.zarr"))
    group.create_array("sky", data=truth, chunks=(100, 100))
    pages = []
    for name in ("truth.fits", "truth.zarr"):
        page = tmp_path / f"{name}.html"
        assert call("compare", finished, other, "--truth", tmp_path / name, "-o", page)[0] == 0
        pages.append(re.findall(r"background − true sky, means of [^;]*; they scatter by [^<]*", page.read_text()))
    assert pages[0] == pages[1] != []
    fits.PrimaryHDU(truth[1:]).writeto(tmp_path / "short.fits")
    refused(3, r"short\.fits is 199 x 220 px, the images of the runs 200 x 220 px", "compare", finished, other,
            "--truth", tmp_path / "short.fits", "-o", tmp_path / "page.html")  # fmt: skip


# --- in Python


def test_a_run_is_shown_in_a_few_lines(finished: Path) -> None:
    shown = repr(open_run(finished))
    assert shown.splitlines()[:2] == [f"Run {finished}: finished", "  image   200 x 220 px (y, x), float32"]
    assert len(shown.splitlines()) <= 5
    assert max(map(len, shown.splitlines())) < 200


def test_public_names_that_the_docs_promise() -> None:
    page = (Path(tiledsky.__file__).parent.parent / "docs/python.md").read_text()
    table = page.partition("| name | does |")[2].partition("## An image")[0]
    names = re.findall(r"`([A-Za-z_][A-Za-z0-9_.]*)\(", table)
    assert {"diagnostics.measure", "advise", "run", "Background2D"} <= set(names)
    asked = " and ".join(f"callable(tiledsky.{name})" for name in names)
    # in a process that has imported nothing else
    subprocess.run([sys.executable, "-c", f"import tiledsky; assert {asked}"], check=True)


@pytest.mark.parametrize(
    ("typed", "offered"), [("tiledsky merge", {"merge-masks"}), ("tiledsky verify --lev", {"--level"})]
)
def test_a_shell_completes_commands_and_options(typed: str, offered: set[str]) -> None:
    words = typed.split()
    shell = {"_TILEDSKY_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['tiledsky']; from tiledsky.cli import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **shell}, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == offered, done.stderr
