"""Installations that cannot be written: kernels are compiled, and it is said where they could be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import tiledsky


@pytest.fixture
def closed(tmp_path: Path) -> dict[str, str]:
    """Environment with a copy of the package that takes no cache, not even of root, and without a home."""
    copy = tmp_path / "packages/tiledsky"
    shutil.copytree(Path(tiledsky.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy, copy / "kernels"):
        (folder / "__pycache__").write_text("no folder")
    (tmp_path / "scratch").mkdir()
    gone = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "MPLCONFIGDIR": str(tmp_path / "scratch")}
    kept = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    return {**kept, **gone, "PYTHONPATH": str(copy.parent), "TMPDIR": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}


def simulate(out: Path, environment: dict[str, str]) -> tuple[int, list[str]]:
    words = [sys.executable, "-m", "tiledsky", "simulate", str(out), "--size", "64"]
    done = subprocess.run(words, env=environment, cwd=out.parent, capture_output=True, text=True, check=False)
    return done.returncode, [
        line for line in done.stderr.splitlines() if not line.startswith(("simulate", "compiling"))
    ]


def test_no_place_for_compiled_kernels(closed: dict[str, str], tmp_path: Path) -> None:
    code, said = simulate(tmp_path / "a.fits", closed)
    assert code == 0, said
    assert len(said) == 1
    assert said[0].startswith("tiledsky: kernels are compiled for this process alone, which takes up to a minute:")
    assert said[0].endswith("set NUMBA_CACHE_DIR to a folder that can, to keep them")
    assert list((tmp_path / "scratch").glob("tiledsky*")) == []
    cache = tmp_path / "cache"
    assert simulate(tmp_path / "b.fits", {**closed, "NUMBA_CACHE_DIR": str(cache)}) == (0, [])
    assert list(cache.rglob("*.nbi"))
    first, second = (fits.getdata(tmp_path / name) for name in ("a.fits", "b.fits"))
    np.testing.assert_array_equal(first, second)


def test_no_place_at_all(closed: dict[str, str], tmp_path: Path) -> None:
    code = "import tempfile; tempfile.tempdir = '/proc/none'; from tiledsky.cli import main; main(['plan', 'a.fits'])"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=closed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.strip().endswith("set NUMBA_CACHE_DIR to a folder that can be written")
    assert "Traceback" not in done.stderr
