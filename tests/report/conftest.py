"""A small finished run with measures, and a browser that reaches nothing but this machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.engine.stores import make_run
from tiledsky.report import write_report

from .measured import diagnostics

SHAPE = (150, 180)


def planes(seed: int = 3, *, tilt: float = 0.0, unit: float = 1.0) -> dict[str, np.ndarray[Any, Any]]:
    """Planes of a result: a slope, noise, one bright source that is masked, a corner without data."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    sky, noise = 10 + y / 100 + x / 400, rng.normal(0, 0.1, SHAPE).astype(np.float32)
    source = 5 * np.exp(-0.5 * ((y - 60) ** 2 + (x - 70) ** 2) / 9)
    science = (sky + noise + source).astype(np.float32)
    science[:20, :30] = np.nan
    mask = (source > 0.05).astype(np.uint8) * 2
    mask[:20, :30] |= 1
    flat = {"background_rms": np.full(SHAPE, 0.1, np.float32), "background_error": (0.004 + x / 1e5).astype(np.float32)}
    background = (sky + tilt * y).astype(np.float32)
    found = {"science": science, "background": background, "subtracted": science - background, **flat}
    return {"mask": mask, **{name: plane * np.float32(unit) for name, plane in found.items()}}


#: Tangential plane with a scale of its own along each axis, turned.
WCS_CARDS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 359.9999,
    "CRVAL2": -42.5,
    "CRPIX1": 40.0,
    "CRPIX2": 90.0,
    "CD1_1": -2e-4,
    "CD1_2": 5e-5,
    "CD2_1": 6e-5,
    "CD2_2": 2.1e-4,
}
OBJECTS_STEPS = [
    {"kind": "objects", "name": "objects", "mask": "none"},
    {"kind": "background", "name": "sky", "box_size": 8, "mask": "objects"},
]


def one_object(number: int) -> dict[str, Any]:
    """Return a large object, the larger the lower its number, as a run store has it."""
    return {
        "y": 60.0 + 10 * number,
        "x": 70.0 - 5 * number,
        "axis_ratio": 0.5,
        "angle": 0.6,
        "extent": 40.0,
        "slope": -3.0,
        "flux": 1234.5 + number,
        "half_light_radius": 16.0 / (1 + number),
        "n_knots": 2,
        "radius": [2.0, 10.0],
        "light": [5.0, 0.5],
        "scores": [1.0, 2.0, 3.0, 4.0],
    }


def add_taken(measured: dict[str, Any]) -> None:
    """Add objects of which the background takes a lot, an uncertain share, and nothing."""
    rows = [(80.0, 40.0, 0.43, 0.04), (30.0, 100.0, 0.2, 0.19), (120.0, 20.0, 0.01, 0.002)]
    names = ("y", "x", "taken", "taken_error")
    found = [{**dict(zip(names, row, strict=True)), "size": 12.0, "flux": 250.0, "signal": 90.0} for row in rows]
    measured["measures"]["objects_taken"] = {"definition": "large objects", "n": 3, "box": 8, "objects": found}
    limits = {"warn": 0.03, "fail": 0.1, "unit": "share"}
    check = {"name": "objects_taken", "result": "fail", "value": 0.43, "error": 0.04, "reason": "light", **limits}
    measured["verdict"]["checks"].append(check)


def make(
    path: Path,
    *,
    seed: int = 3,
    measures: bool = True,
    result: str = "warn",
    objects: int = 0,
    sky: bool = False,
    tilt: float = 0.0,
    unit: float = 1.0,
) -> Path:
    """Write a finished run, with all that a report speaks of.

    ``tilt``: of its background, a pixel; ``unit``: size of the image's unit.
    """
    header = fits.Header({"OBJECT": "<b>field</b> & more", "BUNIT": "MJy/sr", **(WCS_CARDS if sky else {})})
    facts: dict[str, Any] = {
        "input": {"science": "/data/<image>.fits", "weight": "/data/weight.fits"},
        "tasks": 24,
        "cpu_seconds": 3.25,
        "wall_seconds_last": 4.5,
        "peak_worker_memory": 312_000_000,
        "memory": {"output": {"projected": 400_000_000, "measured": 300_000_000}},
        "stage_cpu_seconds": {"output": 2.0, "ingest": 1.0},
    }
    recipe = {"name": "plain", "steps": OBJECTS_STEPS} if objects else None
    make_run(path, planes(seed, tilt=tilt, unit=unit), header=header, recipe=recipe, **facts)
    if objects:
        rows = [one_object(k) for k in reversed(range(objects))]
        (path / "run" / "objects").mkdir()
        (path / "run" / "objects" / "objects.json").write_text(json.dumps(rows))
    if measures:
        measured = diagnostics(SHAPE, seed=seed, result=result)
        if objects:
            add_taken(measured)
        (path / "run" / "diagnostics.json").write_text(json.dumps(measured))
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report") / "field.zarr")


@pytest.fixture(scope="session")
def with_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that fails, with objects and places on the sky."""
    return make(tmp_path_factory.mktemp("objects") / "objects.zarr", result="fail", objects=3, sky=True)


@pytest.fixture(scope="session")
def written(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    return write_report(store, tmp_path_factory.mktemp("page") / "report.html")


class Browser:
    """Headless Chromium, and what its pages asked for and complained about."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str, *, width: int = 1280, height: int = 1000) -> None:
        """Load a page and wait until all Bokeh figures on it are drawn."""
        self.driver.set_window_size(width, height)
        self.requests(), self.complaints()  # those of other pages
        self.driver.get(address)
        self.wait("return typeof Bokeh !== 'undefined' && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")

    def run(self, script: str, *values: Any) -> Any:
        """Result of a script in the page."""
        return self.driver.execute_script(script, *values)

    def wait(self, script: str, *, seconds: float = 60) -> None:
        """Wait until a script returns true."""
        self.until(lambda: bool(self.run(script)), seconds=seconds)

    def until(self, true: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until a function returns true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(lambda _: true())

    def requests(self) -> list[str]:
        """Addresses of everything that was asked for since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        names = ("Network.requestWillBeSent", "Network.webSocketCreated")
        found = [e["params"] for e in entries if e["method"] in names]
        return [p["url"] if "url" in p else p["request"]["url"] for p in found]

    def complaints(self) -> list[str]:
        """Errors and warnings of scripts since the last call."""
        said = [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        # Chromium's advice to those who read pixels often, as `colors` does
        return [message for message in said if "willReadFrequently" not in message]

    def colors(self, name: str) -> int:
        """Number of different colours in the frame of the figure of a panel."""
        return self.driver.execute_async_script(_COLORS, name)


#: Views of figures by the names of their models.
FIGURES = """
function figures() {
  const found = {};
  const visit = (view) => {
    if (view.model.type === 'Figure' && view.model.name) found[view.model.name] = view;
    for (const child of view.children ? view.children() : []) visit(child);
  };
  for (const view of Object.values(Bokeh.index.roots ?? Bokeh.index)) visit(view);
  return found;
}
"""
#: Ranges of the panels by their names.
RANGES = (
    FIGURES
    + """
const panels = Object.entries(figures()).filter(([name]) => !name.startsWith('profile'));
return Object.fromEntries(panels.map(([name, view]) => {
  const {x_range, y_range} = view.model;
  return [name, [x_range.start, x_range.end, y_range.start, y_range.end]];
}));
"""
)
_COLORS = (
    FIGURES
    + """
const done = arguments[arguments.length - 1], view = figures()[arguments[0]];
const canvas = view.export('png').canvas, box = view.frame.bbox, scale = canvas.width / view.bbox.width;
const data = canvas.getContext('2d').getImageData(
  box.left * scale, box.top * scale, box.width * scale, box.height * scale).data;
const colors = new Set();
for (let k = 0; k < data.length; k += 4) colors.add((data[k] << 16) | (data[k + 1] << 8) | data[k + 2]);
done(colors.size);
"""
)


def wheel(browser: Browser, name: str, clicks: int) -> None:
    """Turn the wheel over the middle of a panel, as a person does."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    browser.run(f"{FIGURES} figures()[arguments[0]].el.scrollIntoView({{block: 'center'}})", name)
    x, y = browser.run(
        f"{FIGURES} const v = figures()[arguments[0]], r = v.el.getBoundingClientRect(), b = v.frame.bbox;"
        "return [r.left + (b.left + b.right) / 2, r.top + (b.top + b.bottom) / 2].map(Math.round)",
        name,
    )
    for _ in range(clicks):
        ActionChains(browser.driver).scroll_from_origin(ScrollOrigin.from_viewport(x, y), 0, -120).perform()


@contextmanager
def phone(browser: Browser, width: int = 390) -> Iterator[None]:
    """The screen of a phone."""
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        yield
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One session of the machine's Chromium; names of other machines lead nowhere."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    words = [
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage", "hide-scrollbars"),
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ]
    for word in words:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(chromedriver, log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
