"""The report as a file: what it says, what it asks for, its figures; a run does not fail for it."""

from __future__ import annotations

import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from bokeh.document import Document
from typer.testing import CliRunner

from tiledsky import open_run, simulate_scene
from tiledsky.cli import app
from tiledsky.diagnostics.text import measured_text
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.report import report_path, save_figures, write_comparison, write_report
from tiledsky.report.colors import ColorRange, palette, ranges
from tiledsky.report.panels import encode
from tiledsky.report.view import fill, seen

from .conftest import SHAPE, make


def test_name_of_a_run_is_no_markup_in_a_view(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>$$x$$\n&.zarr"
    document = Document()
    fill(document, open_run(make(tmp_path / "plain.zarr").rename(tmp_path / name)))
    told = document.get_model_by_name("told")
    (tmp_path / "told.html").write_text(told.text)
    page = Page(tmp_path / "told.html")
    assert [tag for tag, _ in page.tags] == ["b"]
    assert page.text.startswith(name.replace("\n", "\\n"))
    assert told.disable_math


LOADING = {"src", "srcset", "href", "action", "data", "poster", "background"}


class Page(HTMLParser):
    """Text, tags and attributes of a page, scripts and styles apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.raw, self._inside = "", path.read_text(), ""
        self.feed(self.raw)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written)


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in LOADING & attributes.keys():
            assert str(attributes[name]).startswith(("data:", "#")), f"{tag} {name}={str(attributes[name])[:60]}"
        assert tag not in ("link", "iframe", "object", "embed", "base")
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    assert not re.search("https?:", str(policy))


def test_what_it_says(page: Page) -> None:
    for words in (
        *(
            "The sky passes with warnings",
            "2 of 6 checks pass; look at: edge light, negative significance, scale excess, worst block.",
            "0.120 ± 0.030",
        ),
        *("1e−06 / 1e−05 image", "/data/<image>.fits", "<b>field</b> & more", "weight (weight.fits)", "MJy/sr"),
        *("24 tasks, 3.2 s of CPU time, 4.5 s on the clock in the last call, at most 312 MB in a worker", "400 MB"),
        *("mesh of 8 × 8 px boxes", "rms of means of blocks over that of white noise <of the pixels>"),
    ):
        assert words in page.text, words
    order = [page.text.index(words) for words in ("Verdict", "Look at it", "Worst regions", "Memory and time")]
    assert order == sorted(order)
    assert [page.text.count(word) for word in ("✓ pass", "✕ fail", "– not measured")] == [2, 2, 1]


def test_pictures_have_words(page: Page) -> None:
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) == 4 + 8  # the fourth of the regions is the third of the worst blocks
    assert all(len(str(a.get("alt"))) > 20 for a in images)
    labels = [a["aria-label"] for _, a in page.tags if a.get("role") == "img"]
    assert len(labels) == 6 + 2
    assert labels[2] == "Map of the mask: 3 % of the pixels are left out. 150 by 180 pixels."
    headings = [t for t, _ in page.tags if re.fullmatch("h[1-6]", t)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_without_measures(tmp_path: Path) -> None:
    page = Page(write_report(make(tmp_path / "bare.zarr", measures=False), tmp_path / "bare.html"))
    assert "This run holds no measures of its sky." in page.text
    assert not [t for t, _ in page.tags if t == "img"]


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_the_same_run_gives_the_same_figures(store: Path, tmp_path: Path, kind: str, start: bytes) -> None:
    one = save_figures(store, tmp_path, kind=kind)
    first = [p.read_bytes() for p in one]
    assert save_figures(store, tmp_path, kind=kind) == one  # its own are replaced
    assert {f"{name}.{kind}" for name in ("residual", "mask", "worst_1", "scale", "bias_flux", "edges")} <= {
        p.name for p in one
    }
    assert {data[:4] for data in first} == {start}
    assert [p.read_bytes() for p in one] == first
    with pytest.raises(ParameterError, match="'svg' is not a format of figures; use one of png, pdf"):
        save_figures(store, tmp_path, kind="svg")


def test_refused(store: Path, tmp_path: Path) -> None:
    assert report_path("a/sky.zarr") == Path("a/sky.report.html")
    assert report_path("a/sky") == Path("a/sky.report.html")
    with pytest.raises(InputError, match="no such Zarr store"):
        write_report(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="none does not exist; make it or change --out"):
        write_report(store, tmp_path / "none" / "report.html")
    with pytest.raises(InputError, match="is a folder; name a file"):
        write_report(store, tmp_path)
    unfinished = tmp_path / "unfinished.zarr"
    shutil.copytree(store, unfinished)
    (unfinished / "run" / "_SUCCESS").unlink()
    with pytest.raises(RunError, match="is not finished"):
        write_report(unfinished)


def test_comparison(store: Path, tmp_path: Path) -> None:
    name = r"_$\frac{1$<b onload=x>"  # neither a formula nor markup
    other = make(tmp_path / f"{name}.zarr", seed=4, result="fail")
    import zarr

    sky = open_run(store).plane("background")[...] + np.float32(0.5)
    zarr.create_array(str(tmp_path / "truth.zarr"), data=sky)
    page = Page(write_comparison([store, other], tmp_path / "compare.html", truth=tmp_path / "truth.zarr"))
    for words in (f"field · {name}", "Verdicts", "! warn", "✕ fail", "scatter of background − true sky"):
        assert words in page.text, words
    assert page.text.count("(mean -0.5)") == 2
    assert all("onload" not in attributes for _, attributes in page.tags)
    assert len([a for t, a in page.tags if t == "img" and len(str(a["alt"])) > 20]) == 2
    with pytest.raises(ParameterError, match="1 run cannot be compared; name two or more"):
        write_comparison([store], tmp_path / "compare.html")
    zarr.create_array(str(tmp_path / "small.zarr"), data=sky[1:])
    with pytest.raises(InputError, match="no array 'sky' of 150 x 180 px"):
        write_comparison([store, other], tmp_path / "compare.html", truth=tmp_path / "small.zarr")


def test_codes_are_the_values() -> None:
    values = np.random.default_rng(1).normal(3, 1, (40, 50)).astype(np.float32)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, 1e9, -1e9
    codes, offset, step = encode(values, ColorRange(1.0, 6.0, "even"))
    assert codes.dtype == np.uint16
    assert (codes == 0).tolist() == np.isnan(values).tolist()
    back = (codes.astype(float) - 1) * step + offset
    inside = np.isfinite(values) & (abs(values) < 50)
    assert abs(back - values)[inside].max() <= 0.51 * step
    assert step < 0.004 * 5
    assert back[1, 1] == pytest.approx(503.5)
    assert back[2, 2] == pytest.approx(-496.5)
    codes, offset, step = encode(np.array([[1.0, 6.0, 3.0, 70.0]], np.float32), ColorRange(1.0, 6.0, "even"))
    assert step < 0.001 * 5
    assert (codes[0, 3] - 1.0) * step + offset == pytest.approx(70.0, abs=step)


def luminance(colors: list[str]) -> np.ndarray[Any, Any]:
    """Relative luminance, as the WCAG define it."""
    channels = np.array([[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in colors])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_palettes_work_without_colours() -> None:
    """Lightness alone tells values apart: it rises, falls, or rises and falls again, without a step back."""
    assert (np.diff(luminance(palette("even"))) > -1e-3).all()
    assert (np.diff(luminance(palette("share"))) < 1e-3).all()
    signed = luminance(palette("signed"))
    assert (np.diff(signed[:128]) > -1e-3).all()
    assert (np.diff(signed[128:]) < 1e-3).all()
    # and the two signs differ in blue against red, which all common colour deficiencies leave
    ends = [[int(c[k : k + 2], 16) for k in (1, 5)] for c in (palette("signed")[40], palette("signed")[-40])]
    assert ends[0][1] - ends[0][0] > 80
    assert ends[1][0] - ends[1][1] > 80


def test_ranges_of_odd_planes() -> None:
    nothing = np.full((4, 4), np.nan, np.float32)
    for name in ("science", "background", "residual", "background_error"):
        shown = ranges({name: nothing}, noise=1.0).get(name)
        assert shown is None or shown.low < shown.high
    constant = ranges({"background_error": np.full((4, 4), 2.0, np.float32)}, noise=1.0)["background_error"]
    assert constant.low < constant.high


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (None, None, "–"),
        (float("nan"), 1.0, "–"),
        (0.123456, None, "0.1235"),
        (0.123456, 0.03, "0.123 ± 0.030"),
        (47872.0, None, "47872"),
        (-1234.5, 20, "−1234 ± 20"),
        (1e-6, 2e-7, "1e−06 ± 2e−07"),
    ],
)
def test_numbers(value: Any, error: Any, text: str) -> None:
    assert measured_text(value, error) == text


def test_a_run_writes_its_report_and_does_not_fail_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits.PrimaryHDU(simulate_scene((120, 130), seed=2).image).writeto(tmp_path / "image.fits")
    out, page = tmp_path / "sky.zarr", tmp_path / "sky.report.html"
    words = ["run", str(tmp_path / "image.fits"), "--recipe", "sextractor", "--out", str(out), "--workers", "1"]

    def call(*more: str) -> list[str]:
        """Return what is said of the report."""
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        return [line for line in result.output.splitlines() if line.startswith("report:") or "no report was" in line]

    assert call("--no-report") == []
    assert not page.exists()
    assert call("--report") == [f"report: {page}"]
    first = page.stat().st_mtime_ns
    assert "The sky" in Page(page).text
    call("--report")
    assert page.stat().st_mtime_ns == first  # nothing was computed, so there is nothing new to show

    later = time.time() + 600  # of a clock that was ahead, or of a copy: times do not tell which run a page is of
    os.utime(page, (later, later))
    words[words.index("sextractor")] = "notebook-bkg1"
    assert call("--report", "--restart") == [f"report: {page}"]
    assert page.stat().st_mtime < later
    assert "notebook-bkg1 on 120" in Page(page).text

    words[words.index("notebook-bkg1")] = "sextractor"
    assert call("--no-report", "--restart") == [f"report: {page} was of an earlier run, and is removed"]
    assert not page.exists()
    page.write_text("a page of somebody else's")
    call("--no-report")
    assert page.read_text() == "a page of somebody else's"

    def broken(*_: Any) -> None:
        raise ValueError("no ink")

    page.unlink()
    call("--report")
    words[words.index("sextractor")] = "notebook-bkg1"
    monkeypatch.setattr("tiledsky.report.write_report", broken)
    (told,) = call("--report", "--restart")
    assert "no report was written (no ink); the run is whole, try: tiledsky report" in told
    assert not page.exists()


def test_command(store: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "page.html", tmp_path / "figures"
    result = CliRunner().invoke(app, ["report", str(store), "-o", str(out), "--png", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == str(out)
    assert out.is_file()
    pictures = list(folder.glob("*.png"))
    assert len(pictures) == 5 + 4 + 8
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    assert open_run(store).plan.shape == SHAPE


@pytest.mark.parametrize(
    ("x", "y", "region"),
    [
        ((-0.5, 179.5), (-0.5, 149.5), (0, 150, 0, 180)),
        ((10.2, 20.4), (5.6, 5.9), (6, 7, 10, 21)),
        ((-400, -300), (900, 1000), (149, 150, 0, 1)),  # beside the image: its nearest pixel
        ((20.4, 10.2), (3.0, 4.0), (3, 5, 10, 21)),  # turned round
    ],
)
def test_what_a_view_sees(x: tuple[float, float], y: tuple[float, float], region: tuple[int, ...]) -> None:
    assert seen(x, y, SHAPE) == region
