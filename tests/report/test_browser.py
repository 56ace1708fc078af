"""Pages in a real browser: everything drawn, panels that move together, no error, no request."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.scenes import command
from tiledsky import open_run
from tiledsky.report import write_comparison

from .conftest import FIGURES, RANGES, SHAPE, Browser, make, phone, wheel

PANELS = ("science", "background", "mask", "subtracted", "residual", "background_error")


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return written.as_uri()


def test_report_is_drawn(browser: Browser, page: str) -> None:
    browser.open(page)
    assert set(browser.run(RANGES)) == set(PANELS)
    for name in PANELS:
        # the mask has masked, unmasked and what lies between; the others a scale of colours
        assert browser.colors(name) >= (2 if name == "mask" else 40), name
    broken = "return [...document.images].filter(i => !(i.complete && i.naturalWidth > 50)).length"
    assert browser.run(broken) == 0
    assert browser.run("return document.images.length") >= 11
    assert browser.run("return [...document.images].every(i => i.alt.length > 20)")
    assert browser.complaints() == []
    assert all(url.split(":")[0] in ("file", "data", "blob") for url in browser.requests())


def test_zoom_of_one_panel_moves_all(browser: Browser, page: str) -> None:
    browser.open(page)
    before = browser.run(RANGES)
    assert set(map(tuple, before.values())) == {(-0.5, SHAPE[1] - 0.5, -0.5, SHAPE[0] - 0.5)}
    wheel(browser, "background", 3)
    browser.wait(
        RANGES.replace("return Object", "const r = Object").rstrip("\n") + " return r.mask[1] - r.mask[0] < 150"
    )
    after = browser.run(RANGES)
    assert len(set(map(tuple, after.values()))) == 1
    x0, x1, y0, y1 = after["science"]
    assert -0.5 < x0 < x1 < SHAPE[1] - 0.5
    assert -0.5 < y0 < y1 < SHAPE[0] - 0.5
    assert browser.complaints() == []


def test_request_to_elsewhere_is_refused(browser: Browser, page: str) -> None:
    """The page's own policy lets no request out, whatever a script tries; and the record of requests sees tries."""
    browser.open(page)
    said = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), e => done('refused'))"
    )
    assert said == "refused"
    assert any("Content Security Policy" in message for message in browser.complaints())


@pytest.mark.parametrize("width", [390, 768])
def test_narrow_screens(browser: Browser, page: str, width: int) -> None:
    """Nothing is wider than the screen, and text is not small."""
    with phone(browser, width):
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        sizes = browser.run(
            "return [...document.querySelectorAll('td, dd, figcaption, p')].map(e => getComputedStyle(e).fontSize)"
        )
        assert min(float(size.removesuffix("px")) for size in sizes) >= 13
        assert all(browser.colors(name) >= 2 for name in PANELS)


def test_comparison(browser: Browser, store: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other.zarr", seed=4, result="pass", tilt=0.001)
    browser.open(write_comparison([store, other], tmp_path / "compare.html").as_uri())
    ranges: dict[str, Any] = browser.run(RANGES)
    assert set(ranges) == {"run-0", "run-1", "sky-0", "sky-1", "difference-1"}
    assert all(browser.colors(name) >= 40 for name in ranges)
    scales = browser.run(
        "return ['sky-0', 'sky-1', 'difference-1'].map(n => { const m = Bokeh.documents[0].get_model_by_name('colors-' "
        "+ n), t = m.tags[0]; return [m.low, m.high].map(v => (v - 1) * t.step + t.offset) })"
    )
    assert scales[0] == scales[1]
    assert scales[2][0] == pytest.approx(-scales[2][1])
    cells = browser.run(
        "const i = Bokeh.documents[0].get_model_by_name('image-difference-1').data_source.data.image[0], t = "
        "Bokeh.documents[0].get_model_by_name('colors-difference-1').tags[0];"
        "return [...i].map(v => (v - 1) * t.step + t.offset)"
    )
    first, second = (open_run(path).plane("background")[...] for path in (store, other))
    difference = second - first
    size = round((difference.size / len(cells)) ** 0.5)
    rows, columns = difference.shape[0] // size, difference.shape[1] // size
    means = difference[: rows * size, : columns * size].reshape(rows, size, columns, size).mean((1, 3))
    shown = np.reshape(cells, (-1, -(-difference.shape[1] // size)))[:rows, :columns]
    assert shown == pytest.approx(means, abs=1e-3 * scales[2][1])
    wheel(browser, "run-1", 2)
    browser.wait(f"{FIGURES} return figures()['run-0'].model.x_range.start > 0")
    assert len(set(map(tuple, browser.run(RANGES).values()))) == 1
    assert browser.complaints() == []
    assert all(url.split(":")[0] in ("file", "data", "blob") for url in browser.requests())


def test_view(browser: Browser, store: Path) -> None:
    """Zooming reads what is seen again; everything comes from this machine."""
    process = command("view", str(store), "--no-browser", "--port", "0")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        browser.open(address)
        assert set(browser.run(RANGES)) == set(PANELS)
        assert all(browser.colors(name) >= (2 if name == "mask" else 40) for name in PANELS)
        wheel(browser, "subtracted", 4)
        science = f"{FIGURES} const d = figures().science.model.renderers[0].data_source.data;"
        seen = f"{science} return [d.dw[0], d.image[0].shape]"
        browser.wait(f"{science} return d.dw[0] < 140")
        width, shape = browser.run(seen)
        assert shape[1] == width
        assert 60 < width < 140
        assert len(set(map(tuple, browser.run(RANGES).values()))) == 1
        bars = browser.run(
            f"{FIGURES} return Object.values(figures()).map(v => v.model.below.some(m => m.type === 'ColorBar'))"
        )
        assert bars == [True] * len(PANELS)
        assert "every pixel is shown" in browser.run("return Bokeh.documents[0].get_model_by_name('told').text")
        with phone(browser):
            browser.open(address)
            places = browser.run(
                f"{FIGURES} return Object.values(figures()).map(v => v.el.getBoundingClientRect())"
                ".map(r => [r.left, r.top, r.width])"
            )
            assert len({left for left, _, _ in places}) == 1
            tops = sorted(top for _, top, _ in places)
            assert min(np.diff(tops)) > 200
            assert min(across for *_, across in places) > 330
            assert browser.run("return document.documentElement.scrollWidth") <= 390
        assert browser.complaints() == []
        hosts = {url.split("/")[2] for url in browser.requests() if not url.startswith(("data:", "blob:"))}
        assert hosts == {address.split("/")[2]}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()
