"""Inputs and recipes of the tests of runs, and what runs are compared by."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

from tiledsky import Recipe, Run, estimate_background, simulate_scene

RESULTS = ("background", "background_rms", "background_error", "mask", "subtracted")

#: Kept steps of every kind, a background that uses no mask, a mask step that no background uses.
KEEPING = Recipe.from_dict(
    {
        "name": "keeping",
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2, "percentile": 40, "keep": True},
            {
                "kind": "mask",
                "name": "found",
                "keep": True,
                "tiers": [{"n_sigma": 2.0, "fwhm": 2.5, "n_pixels": 4, "grow": 2, "center": "median"}],
            },
            {"kind": "background", "name": "bare", "box_size": [9, 7], "mask": "none", "keep": True},
            {
                "kind": "mask",
                "name": "unused",
                "keep": True,
                "minus": "bare",
                "tiers": [
                    {"n_sigma": 1.5, "sigma": 1.0, "noise": "mad_std", "noise_of": "smoothed", "grow": 1},
                    {"n_sigma": 1.0, "sigma": 2.0, "n_pixels": 5, "noise": "mad_std", "reliability": 0.8},
                ],
            },
            {
                "kind": "background",
                "name": "last",
                "box_size": 8,
                "mask": "found",
                "estimator": "biweight",
                "exclude_percentile": 80,
            },
        ],
    }
)


def truncated(recipe: Recipe, mask: str) -> Recipe:
    """Return the recipe with a last step that uses the mask step ``mask``, so that its plane is a result."""
    data = recipe.model_dump(mode="json", exclude_none=True)
    kept = [s for s in data["steps"] if s["name"] != recipe.result.name]
    return Recipe.from_dict({**data, "steps": [*kept, {**data["steps"][-1], "mask": mask}]})


def make_planes(shape: tuple[int, int] = (301, 320)) -> dict[str, np.ndarray[Any, Any]]:
    """Simulated sky with NaN and infinite pixels, and weight, DQ and mask planes that each leave something out."""
    ny, nx = shape
    science = simulate_scene(shape, seed=11).image.copy()
    science[ny // 4 : ny // 4 + 9, 5:40] = np.nan
    science[ny // 2, nx // 2] = np.inf
    weight = np.ones(shape, np.float32)
    weight[: ny // 10, nx // 2 :] = 0
    weight[3, 3] = np.nan
    dq = np.zeros(shape, np.int32)
    dq[np.arange(0, ny, 7), np.arange(0, ny, 7) % nx] = 4
    mask = np.zeros(shape, np.uint8)
    mask[-ny // 6 : -ny // 12, nx // 8 : nx // 3] = 1
    return {"science": science, "weight": weight, "dq": dq, "mask": mask}


def write_fits(folder: Path, planes: dict[str, np.ndarray[Any, Any]]) -> Path:
    """Write planes to one multi-extension file, big-endian as FITS is."""
    names = {"science": "SCI", "weight": "WHT", "dq": "DQ", "mask": "MASK"}
    hdus = [fits.ImageHDU(plane, name=names[name]) for name, plane in planes.items()]
    hdus[0].header["OBJECT"] = "a test of runs"
    path = folder / "planes.fits"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def write_arrays(
    folder: Path, planes: dict[str, np.ndarray[Any, Any]], chunks: tuple[int, int] = (71, 53)
) -> dict[str, str]:
    """Write planes to plain Zarr arrays with chunks that fit no tile; return the arguments of a run."""
    for name, plane in planes.items():
        zarr.create_array(str(folder / f"{name}.zarr"), data=plane, chunks=chunks)
    names = {name: str(folder / f"{name}.zarr") for name in planes}
    return {"source": names.pop("science"), **names}


def reference(recipe: Recipe | str, planes: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Results of the recipe on whole arrays."""
    sky = estimate_background(planes["science"], recipe, **{k: v for k, v in planes.items() if k != "science"})
    return {name: getattr(sky, name) for name in RESULTS}


def assert_results(run: Run, expected: dict[str, np.ndarray[Any, Any]]) -> None:
    """Every plane of a run is, bit for bit, what is expected."""
    for name, plane in expected.items():
        found = run.plane(name)[...]
        assert found.dtype == plane.dtype, name
        same = (found == plane) | ((found != found) & (plane != plane))
        assert same.all(), f"{name}: {np.count_nonzero(~same)} pixels differ, first {np.argwhere(~same)[:1].tolist()}"


def stored_bytes(root: Path) -> dict[str, str]:
    """Digest of every file of a store but those with times and process ids in them."""
    varying = {"run/provenance.json", "run/source.json"}
    files = (p for p in root.rglob("*") if p.is_file())
    names = {p.relative_to(root).as_posix(): p for p in files}
    return {
        name: hashlib.blake2b(path.read_bytes()).hexdigest()
        for name, path in sorted(names.items())
        if name not in varying and not name.startswith("run/markers/")
    }


_HEEDING = (
    "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)]; "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command line in a process and session of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    start = [sys.executable, "-m", "tiledsky"]
    if signal.SIG_IGN in (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)):
        start = [sys.executable, "-c", _HEEDING, *start]  # tests in the background ignore them, and so would this
    return subprocess.Popen([*start, *words], env=environment, **(pipes | options))
