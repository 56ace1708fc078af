"""What a reader does with a report: switches, stretches, profiles, places on the sky; in a browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS

from tiledsky import open_run
from tiledsky.report import write_report

from .conftest import FIGURES, RANGES, SHAPE, Browser, one_object, phone

MODEL = "Bokeh.documents[0].get_model_by_name"
READY = "return 'ready' in document.documentElement.dataset"


@pytest.fixture(scope="module")
def address(with_objects: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(with_objects, tmp_path_factory.mktemp("look") / "report.html").as_uri()


@pytest.fixture
def look(browser: Browser, address: str) -> Iterator[Browser]:
    """The report of a run with objects, at the width of a screen; nothing may complain."""
    browser.open(address, width=1400)
    browser.wait(READY)
    yield browser
    assert browser.complaints() == []


def visible(browser: Browser, *names: str) -> list[bool]:
    """Whether some marks are shown, by the names of their renderers."""
    return [browser.run(f"return {MODEL}(arguments[0]).visible", name) for name in names]


def click(browser: Browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).click()", selector)


def tap(browser: Browser, name: str, fx: float, fy: float) -> None:
    """Click into a panel, at fractions of its frame from its lower left."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    browser.run(f"{FIGURES} figures()[arguments[0]].el.scrollIntoView({{block: 'center'}})", name)
    x, y = browser.run(
        f"{FIGURES} const v = figures()[arguments[0]], r = v.el.getBoundingClientRect(), b = v.frame.bbox;"
        "return [r.left + b.left + arguments[1] * b.width, r.top + b.bottom - arguments[2] * b.height].map(Math.round)",
        *(name, fx, fy),
    )
    builder = ActionBuilder(browser.driver)
    builder.pointer_action.move_to_location(x, y).click()
    builder.perform()
    ActionChains(browser.driver).reset_actions()


def test_marks_are_switched(look: Browser) -> None:
    marks = ("objects-half-science", "objects-extent-mask", "checks-above-residual", "checks-numbers-science")
    assert visible(look, *marks) == [True] * 4
    assert visible(look, "masked-science", "boxes-x-science", "blink") == [False] * 3
    click(look, "[data-layer=objects]")
    look.wait(f"return !{MODEL}('objects-half-science').visible && !{MODEL}('objects-extent-mask').visible")
    click(look, "[data-layer=checks]")
    look.wait(f"return !{MODEL}('checks-above-residual').visible && !{MODEL}('checks-numbers-science').visible")
    before = look.colors("science")
    click(look, "[data-layer=masked]")
    look.wait(f"return {MODEL}('masked-science').visible && {MODEL}('masked-subtracted').visible")
    look.until(lambda: look.colors("science") != before)  # drawn some time after it is switched
    click(look, "[data-layer=boxes]")
    look.wait(f"return {MODEL}('boxes-x-science').visible && {MODEL}('boxes-y-mask').visible")
    assert look.run("return document.getElementById('boxes-told').hidden")
    # boxes that are too small for the screen are not drawn, and the page says so
    look.run(f"{MODEL}('science').x_range.setv({{start: -5000, end: 5000}})")
    look.wait(f"return !{MODEL}('boxes-x-science').visible && !document.getElementById('boxes-told').hidden")


def test_marks_are_where_they_belong(look: Browser, with_objects: Path) -> None:
    """Outlines have the axes and the angle of their objects, the largest object first; rings the places of checks."""
    lines: Any = look.run(
        f"const d = {MODEL}('objects-half-science').data_source.data; return [[...d.x].map(v => [...v]), "
        "[...d.y].map(v => [...v])]"
    )
    for k in range(3):
        one = one_object(k)
        x, y = (np.array(lines[axis][k]) - one["xy"[axis]] for axis in (0, 1))
        radius = np.hypot(x, y)
        half = one["half_light_radius"]
        assert radius.max() == pytest.approx(half, rel=1e-3)
        assert radius.min() == pytest.approx(half * one["axis_ratio"], rel=1e-3)
        far = int(radius.argmax())
        assert np.tan(one["angle"]) == pytest.approx(y[far] / x[far], rel=1e-3)
    rings = look.run(f"const d = {MODEL}('checks-above-science').data_source.data; return [[...d.x], [...d.y]]")
    named = open_run(with_objects).diagnostics["measures"]
    first, second = named["negative"]["strongest"], named["worst"]["positions"][0]
    assert rings == [[40.0, first["x"], second["x"]], [80.0, first["y"], second["y"]]]
    # no label or ring is drawn beside the frame: marks are clipped to it
    levels = look.run(f"return ['objects-half', 'checks-above'].map(n => {MODEL}(n + '-science').level)")
    assert levels == ["glyph", "glyph"]


def test_button_goes_to_the_place_of_a_check(look: Browser, with_objects: Path) -> None:
    place = open_run(with_objects).diagnostics["measures"]["negative"]["strongest"]
    look.run("document.querySelectorAll('#checks [data-go]')[1].click()")
    look.wait(f"return {MODEL}('science').x_range.start > 0")
    x0, x1, y0, y1 = look.run(RANGES)["science"]
    assert (x0 + x1) / 2 == pytest.approx(place["x"])
    assert (y0 + y1) / 2 == pytest.approx(place["y"])
    assert f"x {place['x']:.0f}, y {place['y']:.0f}" in look.run(
        "return document.getElementById('profile-place').textContent"
    )


def test_stretches(look: Browser) -> None:
    """Each has its range, its palette and the labels of its colour bar."""
    state = f"const m = {MODEL}('colors-science'), t = m.tags[0]; return [(m.low - 1) * t.step + t.offset, "
    state += "(m.high - 1) * t.step + t.offset, m.palette.length]"
    shown = "return [...document.querySelectorAll('#panel-science .key')].filter(e => e.offsetHeight).map(e => "
    shown += "[e.dataset.scale, e.textContent])"
    seen = {}
    for key in ("asinh", "zscale", "sky"):
        look.run(
            "const s = document.getElementById('stretch'); s.value = arguments[0];s.dispatchEvent(new Event('change'))",
            key,
        )
        facts = json.loads(look.run("return document.getElementById('facts').textContent"))
        scale = facts["panels"]["science"]["scales"][key]
        low, high, colors = look.run(state)
        assert low == pytest.approx(scale["low"])
        assert high == pytest.approx(scale["high"])
        assert colors == (2048 if key == "asinh" else 256)
        ((name, text),) = look.run(shown)
        assert name == key
        assert "MJy/sr" in text
        seen[key] = high
    assert seen["asinh"] > seen["sky"]
    assert look.run("return document.querySelectorAll('#panel-residual .key').length") == 1


def test_blink(look: Browser) -> None:
    heading = "return document.querySelector('#panel-science h3').textContent"
    click(look, "#blink")
    look.wait(f"return {MODEL}('blink').visible")
    look.wait(f"{heading} === 'Image − background'")
    look.wait(f"return !{MODEL}('blink').visible")
    click(look, "#blink")
    look.wait(f"{heading} === 'Image'")
    assert visible(look, "blink") == [False]


def test_profile_about_a_click(look: Browser, with_objects: Path) -> None:
    """Medians of rings about the position, as numpy has them from the planes of the run."""
    tap(look, "mask", 0.75, 0.25)
    look.wait(f"return {MODEL}('chosen').data.x[0] > 120")
    (x,), (y,) = look.run(f"const d = {MODEL}('chosen').data; return [[...d.x], [...d.y]]")
    assert x == pytest.approx(0.75 * SHAPE[1] - 0.5, abs=1.0)
    assert y == pytest.approx(0.25 * SHAPE[0] - 0.5, abs=1.0)
    run = open_run(with_objects)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - y, columns - x)
    for name in ("science", "subtracted", "background"):
        r, value = look.run(f"const d = {MODEL}('profile-{name}').data; return [[...d.r], [...d.value]]")
        assert len(r) >= 20
        width = r[0] * 2
        pixels = run.plane(name)[...]
        wanted = [np.median(pixels[np.floor(distance / width) == k]) for k in range(len(r))]
        assert value == pytest.approx(wanted, abs=1e-3)
    told = look.run("return document.getElementById('profile-place').textContent")
    assert told.startswith(f"x {x:.0f}, y {y:.0f} (RA, Dec ")


def test_places_on_the_sky(look: Browser, with_objects: Path) -> None:
    """Right ascension and declination of any pixel are those of astropy, across 0 h too."""
    wcs = WCS(open_run(with_objects).header)
    places = [(0.0, 0.0), (179.0, 149.0), (37.3, 91.2), (40.2, 88.9), (100.5, 3.25)]
    for x, y in places:
        ra, dec = look.run("return tiledsky.degrees(...arguments)", x, y)
        there = wcs.pixel_to_world(x, y)
        # 1e-7 degrees are a two-thousandth of a pixel here
        assert (ra - there.ra.deg + 180) % 360 - 180 == pytest.approx(0, abs=1e-7)
        assert dec == pytest.approx(there.dec.deg, abs=1e-7)
    hover = look.run("return tiledsky.sky(0, 0)")
    assert hover == f"{wcs.pixel_to_world(0, 0).ra.deg:.6f}°, −{abs(wcs.pixel_to_world(0, 0).dec.deg):.6f}°"


def test_objects_are_listed(look: Browser) -> None:
    """Folded at first; the largest first, with place, sky, size and flux."""
    assert look.run("return document.getElementById('objects').open") is False
    rows = look.run(
        "return [...document.querySelectorAll('#objects tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[0] for row in rows] == ["1 x 70, y 60", "2 x 65, y 70", "3 x 60, y 80"]
    assert rows[0][1].startswith("16 px (")
    assert rows[0][2] == "1234 MJy/sr"
    assert rows[0][5].startswith("RA 359.9")


def test_objects_whose_light_is_taken(look: Browser) -> None:
    """Those of which more than the limit is taken for certain are listed, circled and named by their share."""
    rows = look.run(
        "return [...document.querySelectorAll('#taken tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    ((place, share, size, flux),) = rows
    assert place.startswith("x 40, y 80 (RA ")
    assert (share, size[:6], flux) == ("43.0 ± 4.0 %", "12 px ", "250 MJy/sr")
    circles = look.run(
        f"const d = {MODEL}('taken-above-science').data_source.data; return [[...d.x[0]], [...d.y[0]], d.x.length]"
    )
    assert circles[2] == 1
    assert np.hypot(np.array(circles[0]) - 40, np.array(circles[1]) - 80) == pytest.approx(24, rel=1e-4)
    told = look.run(f"return [...{MODEL}('taken-numbers-mask').data_source.data.text]")
    assert told == ["43%"]
    click(look, "[data-layer=taken]")
    look.wait(f"return !{MODEL}('taken-above-science').visible && !{MODEL}('taken-numbers-mask').visible")


def test_saved_files(look: Browser, with_objects: Path) -> None:
    """The buttons give the browser the measures and the figures under names of their own."""
    look.run(
        "window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href]) }"
    )
    click(look, "[data-from=diagnostics]")
    click(look, "#worst button.save")
    (document, blob), (picture, source) = look.run("return saved")
    assert document == "objects.diagnostics.json"
    assert picture == "worst_1.png"
    assert base64.b64decode(source.partition(",")[2])[:4] == b"\x89PNG"
    text = look.run("return document.getElementById('diagnostics').textContent")
    assert json.loads(json.loads(text)) == open_run(with_objects).diagnostics
    assert blob.startswith("blob:")


def test_on_a_phone(browser: Browser, address: str) -> None:
    """Pictures come before the table of checks, passed ones are folded, and all stays within the screen."""
    with phone(browser):
        browser.open(address)
        browser.wait(READY)
        tops = browser.run(
            "return ['verdict', 'planes', 'checks', 'worst'].map(i => document.getElementById(i).offsetTop)"
        )
        assert tops == sorted(tops)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        assert browser.complaints() == []


def test_dark_mode(browser: Browser, address: str) -> None:
    """Text stands out in both, in pages and on axes."""
    contrast = """
    const light = (color) => {
      const [r, g, b] = color.startsWith('#') ? [1, 3, 5].map(k => parseInt(color.slice(k, k + 2), 16))
        : color.match(/[0-9.]+/g).map(Number);
      const linear = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const section = document.getElementById('planes'), paper = light(getComputedStyle(section).backgroundColor);
    const ratio = (l) => (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05);
    const over = (color) => ratio(light(color));
    const texts = [...section.querySelectorAll('h2, p, figcaption, label, .ticks')].map(e => getComputedStyle(e).color);
    const axis = Bokeh.documents[0].get_model_by_name('science').below[0].major_label_text_color;
    return [paper, Math.min(...[...texts, axis].map(over))];
    """
    papers = {}
    for scheme in ("light", "dark"):
        browser.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        try:
            browser.open(address)
            browser.wait(READY)
            papers[scheme], least = browser.run(contrast)
            assert least >= 4.5, scheme
        finally:
            browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert papers["dark"] < 0.05 < 0.9 < papers["light"]
