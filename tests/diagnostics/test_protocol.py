"""A measure of somebody else's: a file, its lines in two others, and it is measured, judged, kept, checked, drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits

import tiledsky
from tests.quality.scenes import unbiased
from tiledsky.diagnostics.registry import IMAGE, MEASURES
from tiledsky.recipe import Checks

PACKAGE = Path(tiledsky.__file__).parent
EXAMPLE = Path(__file__).with_name("balance.py")
LIMIT = '    balance: Limit = _limit(0.02, 0.05, "share of the pixels above the background, less a half")\n\n'

SCRIPT = """
import json, sys
import numpy as np
import tiledsky
from tiledsky.diagnostics import measure
from tiledsky.recipe import Recipe

folder = sys.argv[1]
planes = np.load(f"{folder}/planes.npz")
found = measure(planes["image"], planes["background"], planes["mask"], tile=(100, 130))
json.dump(found, open(f"{folder}/measured.json", "w"))
steps = [{"kind": "background", "name": "sky", "box_size": 32}]
recipe = Recipe.from_dict({"name": "r", "steps": steps, "checks": {"balance": {"fail": 1e-6}, "significance": 1e-6}})
tiledsky.run(recipe, f"{folder}/image.fits", f"{folder}/sky.zarr", tile_size=192)
"""


def changed(text: str, before: str, line: str) -> str:
    """Return a text with a line before what stands there once."""
    assert text.count(before) == 1, before
    return text.replace(before, line + before)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with this package, an example of a measure in it, and what it measured."""
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "tiledsky"
    for source, target in ((PACKAGE, package), *((PACKAGE / n, package / n) for n in ("diagnostics", "recipe"))):
        target.mkdir()
        for path in source.iterdir():
            if path.name not in ("diagnostics", "recipe", "__pycache__"):
                (target / path.name).symlink_to(path)
    registry, checks = package / "diagnostics" / "registry.py", package / "recipe" / "checks.py"
    edits = {
        registry: (("    constants,\n", "    balance,\n"), ("    constants.MEASURE,\n", "    balance.MEASURE,\n")),
        checks: (("    @classmethod\n    def reason", LIMIT),),
    }
    for path, lines in edits.items():
        text = path.read_text()
        for before, line in lines:
            text = changed(text, before, line)
        path.unlink()
        path.write_text(text)
    (package / "diagnostics" / "balance.py").symlink_to(EXAMPLE)

    case = unbiased(5, "known", size=330)
    np.savez(folder / "planes.npz", image=case.image, background=case.background, mask=case.mask)
    fits.PrimaryHDU(case.image).writeto(folder / "image.fits")
    call(folder, "-c", SCRIPT, str(folder))
    return folder


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the extended package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_it_is_measured_on_arrays_as_numpy_does(extended: Path) -> None:
    planes = np.load(extended / "planes.npz")
    found = json.loads((extended / "measured.json").read_text())
    sky = (planes["image"] - planes["background"])[~planes["mask"]]
    balance = found["measures"]["balance"]
    assert balance["share"] == pytest.approx(np.mean(sky > 0), abs=1e-6)
    assert balance["share_error"] == pytest.approx(0.5 / np.sqrt(sky.size), rel=0.5)
    assert balance["definition"] == "share of the unmasked pixels that lie above the background"
    row = next(row for row in found["verdict"]["checks"] if row["name"] == "balance")
    assert row["value"] == pytest.approx(balance["share"] - 0.5, rel=1e-3)
    assert (row["measure"], row["result"], row["fail"]) == ("balance", "pass", 0.05)
    assert row["reason"] == "share of the pixels above the background, less a half"


def test_a_run_measures_judges_and_shows_it(extended: Path) -> None:
    kept = json.loads((extended / "sky.zarr" / "run" / "diagnostics.json").read_text())["measures"]["balance"]
    planes = zarr.open_group(extended / "sky.zarr", mode="r")
    sky = np.asarray(planes["subtracted"])[np.asarray(planes["mask"]) == 0]
    assert kept["share"] == pytest.approx(np.mean(sky > 0), abs=1e-6)
    said = call(extended, "-m", "tiledsky", "check", "sky.zarr", "--reasons").stdout
    line = next(line for line in said.splitlines() if line.startswith("balance"))
    assert line.split()[-2:] == ["1e-06", "fail"]  # the limit of the recipe
    call(extended, "-m", "tiledsky", "report", "sky.zarr", "-o", "page.html")
    page = (extended / "page.html").read_text()
    assert "It should be half." in page
    assert kept["definition"] in page


def test_what_is_none_of_its_fields_is_refused(extended: Path) -> None:
    path = extended / "sky.zarr" / "run" / "diagnostics.json"
    text = path.read_text()
    data = json.loads(text)
    data["measures"]["balance"]["share"] = "half"
    path.write_text(json.dumps(data))
    try:
        done = call(extended, "-m", "tiledsky", "check", "sky.zarr")
    finally:
        path.write_text(text)
    assert done.returncode != 0
    assert "diagnostics.json holds no measures (measures.balance.share: Input should be a valid number)" in done.stderr


def test_names_are_unique_and_every_check_has_limits() -> None:
    names = [measure.name for measure in MEASURES]
    assert len(set(names)) == len(names)
    checks = [check.name for measure in (IMAGE, *MEASURES) for check in measure.checks]
    assert sorted(checks) == sorted(Checks.names())
    parts = {part.name: part for measure in MEASURES for part in measure.parts}
    assert all(parts[part.name] is part for measure in MEASURES for part in measure.parts)
