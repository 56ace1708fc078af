"""The examples of docs/extending.md, executed: a copy of the package is changed as the page says, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCK = re.compile(r"```(?:python|toml)\n# (?P<file>[\w./-]+\.\w+)(?P<how>[^\n]*)\n(?P<text>.*?)```", re.DOTALL)


def section(title: str) -> str:
    """Text of a section of the page."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def apply(title: str, root: Path) -> set[str]:
    """Change a copy of the package as a section says; return the files of the package that changed."""
    changed = set()
    for block in BLOCK.finditer(section(title)):
        path, text = root / block["file"], block["text"]
        found = re.fullmatch(r', (before|instead of) "(.+)"', block["how"])
        if found is None:
            assert not block["how"], block["how"]
            assert not path.exists(), f"{path} is there already"
            path.write_text(text)
        else:
            lines = path.read_text().splitlines(keepends=True)
            (at,) = (k for k, line in enumerate(lines) if line.startswith(found[2]))
            lines[at : at + (found[1] == "instead of")] = [text]
            path.write_text("".join(lines))
        if block["file"].startswith("tiledsky/"):
            changed.add(block["file"])
    return changed


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, compiled kernels and all."""
    shutil.copytree(ROOT / "tiledsky", tmp_path / "tiledsky")
    return tmp_path


def python(root: Path, code: str) -> str:
    """Run code with the package that is in ``root``; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


A_STEP = """
import numpy as np, tiledsky, zarr
from astropy.convolution import Gaussian2DKernel, convolve
from astropy.io import fits
from pathlib import Path

assert Path(tiledsky.__file__).is_relative_to(Path.cwd())
image = fits.getdata("image.fits").astype("f4")
run = tiledsky.run("smooth.toml", "image.fits", "run.zarr", tile_size=80)
sky = tiledsky.estimate_background(image, "smooth.toml")
for name in ("background", "background_error", "mask", "subtracted"):
    assert np.array_equal(run.plane(name)[...], getattr(sky, name), equal_nan=name != "mask"), name
expected = convolve(image, Gaussian2DKernel(3.0), boundary="extend")
np.testing.assert_allclose(run.plane("blurred")[...], expected, atol=1e-5)
other = tiledsky.run("smooth.toml", "image.fits", "other.zarr", tile_size=60)
assert all(np.array_equal(run.plane(n)[...], other.plane(n)[...]) for n in ("blurred", "mask", "background"))
print([s.name for s in run.plan.stages])
"""


def write_image(root: Path) -> None:
    """Write an image of noise with a source."""
    rng = np.random.default_rng(5)
    image = rng.normal(3.0, 0.1, (200, 230)).astype(np.float32)
    image[60:64, 100:104] += 5
    fits.PrimaryHDU(image).writeto(root / "image.fits")


def test_a_step(copy: Path) -> None:
    assert len(apply("A step", copy)) == 3
    write_image(copy)
    assert "'blurred', 'sources-histogram'" in python(copy, A_STEP)


A_MESH = """
import numpy as np, tiledsky
from astropy.io import fits
from scipy.ndimage import median_filter

image = fits.getdata("image.fits").astype("f4")
run = tiledsky.run("nearest.toml", "image.fits", "run.zarr", tile_size=80)
sky = tiledsky.estimate_background(image, "nearest.toml")
for name in ("background", "background_rms", "background_error"):
    assert np.array_equal(run.plane(name)[...], getattr(sky, name)), name
box = image[40:60, 80:100].astype("f8").ravel()
low, high = np.quantile(box, (0.25, 0.75))
assert np.ptp(sky.background[40:60, 80:100]) == 0
print(np.isfinite(sky.background_error).all(), abs(run.mesh("sky")["background"][2, 4] - (low + high) / 2) < 0.05)
"""


def test_an_estimator_and_an_interpolator(copy: Path) -> None:
    assert len(apply("An estimator", copy)) == 2
    assert len(apply("An interpolator", copy)) == 2  # its file and its parameters
    write_image(copy)
    assert python(copy, A_MESH).split() == ["True", "True"]
