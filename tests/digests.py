"""Digests of all that every preset makes of three scenes, by runs and by arrays: a change that moves a bit is seen.

    python -m tests.digests            compares with tests/digests.json
    python -m tests.digests --only deep-sky,sextractor     of these presets alone
    python -m tests.digests --write    writes it anew, for a change that means to move bits (with --only: these presets)

The bits are the same on every machine and Python; where they differ between versions of a library, the file says which
versions it was made with.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.io import fits

import tiledsky
from tiledsky.errors import TiledSkyError
from tiledsky.io.store import json_bytes
from tiledsky.recipe import Recipe, preset_names
from tiledsky.simulate import simulate_scene

FILE = Path(__file__).with_suffix(".json")
LIBRARIES = ("numpy", "scipy", "numba", "astropy")
#: More than the tiles of a scene, so that halos, neighbours and partial tiles are there.
TILE = 240


#: Without its objects step.
KEEP_NOTHING = "deep-sky keep 0"


def recipe_of(name: str) -> Recipe | str:
    """Return what is run under a name."""
    return Recipe.load("deep-sky").keeping(0) if name == KEEP_NOTHING else name


def scenes() -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, Any]]]:
    """Name, planes and header of each scene; whole units of noise, so that no simulation's last bit matters."""
    image = simulate_scene((700, 560), seed=11, n_blemishes=4, n_sources=300).image
    random = np.random.default_rng(11)
    error = np.where(np.arange(560) < 300, np.float32(0.1), np.float32(0.14))[np.newaxis] + np.zeros((700, 1), "f4")
    dq = (random.random(image.shape) < 0.01).astype(np.uint32) * 2
    image = (image + random.normal(0, 0.02, image.shape)).astype(np.float32)
    image[100:130, 40:90] = np.nan
    weight = np.where(random.random(image.shape) < 0.005, 0, 1 / error**2).astype(np.float32)
    yield "mosaic", {"science": image, "error": error, "weight": weight, "dq": dq}, {"TELESCOP": "JWST"}
    wide = simulate_scene((613, 787), seed=12, n_blemishes=6, n_sources=200, dtype="float64").image
    error = np.full(wide.shape, 0.1)
    yield "pedestal", {"science": wide + 2.0e4, "error": error}, {}
    faint = simulate_scene((520, 900), seed=13, n_blemishes=2, n_sources=900).image.astype(np.float32)
    coverage = np.ones(faint.shape, np.float32)
    coverage[:, :61], coverage[480:, 700:] = 0, 0
    yield "edges", {"science": faint, "coverage": coverage, "error": np.full(faint.shape, 0.1, np.float32)}, {}


def footprint_bits(shape: tuple[int, int]) -> np.ndarray:
    """Bits of three exposures that cover an image, for presets that ask for them."""
    y, x = np.indices(shape)
    return ((y < 400) | 2 * (x > 150) | 4 * (y + x > 500)).astype(np.int32)


def digest(array: Any) -> str:
    """Digest of an array's type, shape and bytes; every NaN is the same."""
    values = np.ascontiguousarray(array)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.asarray(np.nan, values.dtype), values)
    data = f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def of_run(recipe: Recipe | str, files: dict[str, Path], store: Path) -> dict[str, str]:
    """Digests of all arrays that a run keeps."""
    inputs = {name: path for name, path in files.items() if name != "science"}
    # what a recipe takes from objects follows from backgrounds, which are compared
    without = Recipe.load(recipe).model_copy(update={"injection": False})
    tiledsky.run(files["science"], without, store, tile_size=TILE, **inputs)
    group = zarr.open_group(store, mode="r")
    kept = {name for name, _ in group.arrays()} - set(files)
    found = {name: digest(group[name][...]) for name in kept}
    for name, mesh in group["meshes"].groups():
        found |= {f"meshes/{name}/{part}": digest(array[...]) for part, array in mesh.arrays()}
        for folder, measured in mesh.groups():
            found |= {f"meshes/{name}/{folder}/{part}": digest(array[...]) for part, array in measured.arrays()}
    for document in ("diagnostics.json", *(f"thresholds/{p.name}" for p in (store / "run/thresholds").glob("*"))):
        facts = json.loads((store / "run" / document).read_bytes())
        if document == "diagnostics.json":
            del facts["measures"]["light_kept"]
        found[f"run/{document}"] = hashlib.blake2b(json_bytes(facts), digest_size=8).hexdigest()
    return dict(sorted(found.items()))


def of_arrays(recipe: Recipe | str, planes: dict[str, np.ndarray], header: dict[str, Any]) -> dict[str, str]:
    """Digests of the sky of numpy arrays."""
    others = {name: plane for name, plane in planes.items() if name != "science"}
    sky = tiledsky.estimate_background(planes["science"], recipe, header=header, **others)
    names = ("background", "background_rms", "background_error", "mask", "subtracted")
    found = {name: digest(getattr(sky, name)) for name in names}
    for name, mesh in sky.meshes.items():
        for part in ("background", "rms", "error", "excluded", "n_good", "bandwidth"):
            if (values := getattr(mesh, part, None)) is not None:
                found[f"meshes/{name}/{part}"] = digest(values)
    return found


def made(presets: list[str]) -> dict[str, Any]:
    """Digests by scene, preset, and way."""
    result: dict[str, Any] = {"versions": {name: version(name) for name in LIBRARIES}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for scene, planes, header in scenes():
            files = {name: Path(folder) / f"{scene}-{name}.fits" for name in planes}
            for name, plane in planes.items():
                fits.PrimaryHDU(plane, fits.Header(header)).writeto(files[name])
            bits = footprint_bits(planes["science"].shape)
            fits.writeto(Path(folder) / f"{scene}-footprints.fits", bits)
            for recipe in presets:
                with_footprints = Recipe.load(recipe_of(recipe)).footprints is not None
                given = {**planes, "footprints": bits} if with_footprints else planes
                files = {name: Path(folder) / f"{scene}-{name}.fits" for name in given}
                for way in ("run", "arrays"):
                    try:
                        if way == "run":
                            found: Any = of_run(recipe_of(recipe), files, Path(folder) / f"{scene}-{recipe}.zarr")
                        else:
                            found = of_arrays(recipe_of(recipe), given, header)
                    except TiledSkyError as error:
                        found = f"{type(error).__name__}: {str(error)[:60]}"
                    result[f"{scene} {recipe} {way}"] = found
    return result


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines that name what differs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            lines += [f"{key} {n}" for n in sorted(one.keys() | other.keys()) if one.get(n) != other.get(n)]
        elif one != other:
            lines.append(f"{key}: {one} -> {other}")
    return lines


def main() -> int:
    """Write the digests, or compare them."""
    every = [*preset_names(), KEEP_NOTHING]
    new = made(sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else every)
    old = json.loads(FILE.read_text())
    if "--write" in sys.argv:
        FILE.write_text(json.dumps({**old, **new} if "--only" in sys.argv else new, indent=1) + "\n")
        return 0
    lines = differences({k: v for k, v in old.items() if k in new}, new)
    print("\n".join(lines) or f"{len(new) - 1} results, the same bits")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
