"""A run gives the bits of the whole image, from any input, in any tiles; and what its store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

from tests.engine.scenes import (
    KEEPING,
    RESULTS,
    assert_results,
    make_planes,
    reference,
    truncated,
    write_arrays,
    write_fits,
)
from tiledsky import Recipe, estimate_background, open_run, ring_median, run
from tiledsky.errors import InputError, InputWarning
from tiledsky.io.files import is_temporary
from tiledsky.planes import base_mask
from tiledsky.workflows.export import ingest


@pytest.fixture(scope="module")
def planes() -> dict[str, Any]:
    return make_planes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, planes: dict[str, Any]) -> Path:
    """Holds planes.fits, planes.zarr (ingested) and plain arrays."""
    folder = tmp_path_factory.mktemp("inputs")
    path = write_fits(folder, planes)
    ingest(f"{path}:SCI", folder / "planes.zarr", weight=f"{path}:WHT", dq=f"{path}:DQ", mask=f"{path}:MASK")
    write_arrays(folder, planes)
    return folder


def inputs(folder: Path, kind: str) -> dict[str, str]:
    """Arguments of a run for one of the three kinds of input."""
    if kind == "ingested":
        return {"source": str(folder / "planes.zarr")}
    if kind == "fits":
        path = folder / "planes.fits"
        return {"source": f"{path}:SCI", "weight": f"{path}:WHT", "dq": f"{path}:DQ", "mask": f"{path}:MASK"}
    names = {name: str(folder / f"{name}.zarr") for name in ("science", "weight", "dq", "mask")}
    return {"source": names.pop("science"), **names}


@pytest.fixture(scope="module")
def expected(planes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    recipes: dict[str, Recipe | str] = {"complex-sky": "complex-sky", "sextractor": "sextractor", "keeping": KEEPING}
    return {name: reference(recipe, planes) for name, recipe in recipes.items()}


# 150: edge tiles of one row; 1000: one tile, larger than the image
@pytest.mark.parametrize(
    ("kind", "tile_size"),
    [
        ("fits", None),
        ("ingested", 160),
        ("arrays", 150),
        ("arrays", 97),
        *(
            pytest.param(kind, size, marks=pytest.mark.faults)
            for kind, size in (("fits", 1000), ("arrays", 100), ("fits", 230))
        ),
    ],
)
def test_complex_sky(folder: Path, expected: Any, tmp_path: Path, kind: str, tile_size: int | None) -> None:
    result = run(recipe="complex-sky", out=tmp_path / "run.zarr", tile_size=tile_size, **inputs(folder, kind))
    assert result.complete
    assert_results(result, expected["complex-sky"])


@pytest.mark.parametrize(
    ("kind", "tile_size"),
    [
        ("fits", 75),
        ("arrays", 100),
        ("ingested", 300),
        *(
            pytest.param(kind, size, marks=pytest.mark.faults)
            for kind, size in (("fits", 256), ("fits", None), ("arrays", 60))
        ),
    ],
)
def test_sextractor(folder: Path, expected: Any, tmp_path: Path, kind: str, tile_size: int | None) -> None:
    result = run(recipe="sextractor", out=tmp_path / "run.zarr", tile_size=tile_size, **inputs(folder, kind))
    assert_results(result, expected["sextractor"])


@pytest.mark.parametrize(("kind", "tile_size"), [("ingested", 150), ("arrays", 131), ("fits", 400)])
def test_kept_steps(folder: Path, planes: Any, expected: Any, tmp_path: Path, kind: str, tile_size: int) -> None:
    result = run(recipe=KEEPING, out=tmp_path / "run.zarr", tile_size=tile_size, **inputs(folder, kind))
    others = {k: v for k, v in planes.items() if k != "science"}
    base = base_mask(planes["science"], weight=others["weight"], dq=others["dq"], user_mask=others["mask"])
    bare = estimate_background(
        planes["science"],
        Recipe.from_dict({"name": "bare", "steps": [{"kind": "background", "name": "bare", "box_size": [9, 7]}]}),
        **others,
    )
    kept = {
        "ring": ring_median(planes["science"], radius_in=4, width=2, percentile=40, mask=base != 0),
        "unused": reference(truncated(KEEPING, "unused"), planes)["mask"],
        "bare": bare.background,
        "bare_rms": bare.background_rms,
        "bare_error": bare.background_error,
    }
    assert (kept["unused"] != expected["keeping"]["mask"]).any()
    assert_results(result, expected["keeping"] | kept)


def test_tiles_smaller_than_every_halo(tmp_path: Path) -> None:
    planes = make_planes((61, 68))
    result = run(
        recipe="complex-sky", out=tmp_path / "run.zarr", tile_size=14, **write_arrays(tmp_path, planes, (31, 17))
    )
    assert_results(result, reference("complex-sky", planes))


@pytest.mark.parametrize("dtype", [">f8", "int16", "uint8", ">i4", "float64"])
def test_other_pixel_types(tmp_path: Path, dtype: str) -> None:
    science = make_planes((130, 140))["science"] * 20 + 40
    pixels = np.where(np.isfinite(science), science, np.roll(science, 60, axis=1)).astype(dtype)
    planes = {"science": pixels}
    fits.PrimaryHDU(pixels).writeto(tmp_path / "image.fits")
    wanted = reference("sextractor", planes)
    for k, source in enumerate((write_arrays(tmp_path, planes)["source"], str(tmp_path / "image.fits"))):
        result = run(source, "sextractor", tmp_path / f"run{k}.zarr", tile_size=64)
        assert_results(result, wanted)


def test_meshes_and_thresholds(folder: Path, planes: Any, tmp_path: Path) -> None:
    result = run(recipe="complex-sky", out=tmp_path / "run.zarr", tile_size=150, **inputs(folder, "ingested"))
    sky = estimate_background(planes["science"], "complex-sky", **{k: v for k, v in planes.items() if k != "science"})
    for step, mesh in sky.meshes.items():
        stored = result.mesh(step)
        for part, values in stored.items():
            np.testing.assert_array_equal(values, getattr(mesh, part), err_msg=f"{step} {part}")
    assert {step: len(tiers) for step, tiers in result.thresholds.items()} == {"bright": 1, "tiers": 3}


@pytest.fixture(scope="module")
def stored(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run of complex-sky in tiles of 100."""
    out = tmp_path_factory.mktemp("stored") / "run.zarr"
    return run(recipe="complex-sky", out=out, tile_size=100, **inputs(folder, "fits"))


def test_arrays_carry_a_checksum_and_their_fill_value(stored: Any) -> None:
    assert set(RESULTS) <= set(stored.planes)
    for name in stored.planes:
        plane = stored.plane(name)
        codecs = json.dumps(json.loads((stored.path / name / "zarr.json").read_text())["codecs"])
        assert "crc32c" in codecs, name
        floats = plane.dtype.kind == "f"
        assert np.isnan(plane.fill_value) if floats else plane.fill_value == 0
        assert plane.metadata.dimension_names == ("y", "x")


def test_one_object_a_tile(stored: Any) -> None:
    output = next(s for s in stored.plan.stages if s.kind == "output")
    counts = stored.plan.grid(output).counts
    for name in ("background", "background_rms", "background_error", "subtracted"):
        objects = [p for p in (stored.path / name / "c").rglob("*") if p.is_file()]
        assert len(objects) == counts[0] * counts[1]


def test_nothing_but_results_is_left(stored: Any) -> None:
    names = {p.name for p in stored.path.iterdir() if p.is_dir()}
    assert names == {*RESULTS, "science", "weight", "dq", "user_mask", "meshes", "run"}
    assert not [p for p in stored.path.rglob("*") if p.is_file() and is_temporary(p.name)]
    assert not (stored.path / "run" / "preparing").exists()


def test_success_is_written_last(stored: Any) -> None:
    times = {p: p.stat().st_mtime_ns for p in stored.path.rglob("*") if p.is_file()}
    assert max(times, key=lambda p: times[p]) == stored.path / "run" / "_SUCCESS"


def test_planes_of_large_tiles_are_sharded(tmp_path: Path) -> None:
    science = make_planes((600, 610))["science"]
    result = run(
        recipe="sextractor", out=tmp_path / "run.zarr", tile_size=576, **write_arrays(tmp_path, {"science": science})
    )
    plane = result.plane("background")
    assert (plane.shards, plane.chunks) == ((576, 576), (288, 288))
    assert len([p for p in (result.path / "background" / "c").rglob("*") if p.is_file()]) == 4
    assert_results(result, reference("sextractor", {"science": science}))


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constant_image_has_every_object(tmp_path: Path, value: float) -> None:
    planes = {"science": np.full((130, 140), value, np.float32)}
    with pytest.warns(InputWarning, match="shows no noise"):
        result = run(recipe="sextractor", out=tmp_path / "run.zarr", tile_size=64, **write_arrays(tmp_path, planes))
    assert (result.plane("background")[...] == value).all()
    for name in RESULTS:  # the mask equals its fill value everywhere, the others where value is 0
        assert len([p for p in (result.path / name / "c").rglob("*") if p.is_file()]) == 9, name


def test_tile_without_a_valid_pixel(tmp_path: Path) -> None:
    planes = {"science": make_planes((192, 192))["science"]}
    planes["science"][64:128, 64:128] = np.nan
    result = run(recipe="sextractor", out=tmp_path / "run.zarr", tile_size=64, **write_arrays(tmp_path, planes))
    assert (result.path / "subtracted/c/1/1").is_file()  # NaN, as the fill value is
    assert np.isnan(result.plane("subtracted")[64:128, 64:128]).all()
    assert_results(result, reference("sextractor", planes))


@pytest.mark.parametrize("recipe", ["complex-sky", "sextractor"])
def test_image_without_a_valid_pixel(tmp_path: Path, recipe: str) -> None:
    planes = {"science": np.full((130, 140), np.nan, np.float32)}
    with pytest.raises(InputError, match=r"no (pixel is left|sky to measure)|All boxes contain .*9 boxes") as caught:
        run(recipe=recipe, out=tmp_path / "run.zarr", tile_size=64, **write_arrays(tmp_path, planes))
    assert "\n" not in str(caught.value)


def test_finished_run_is_returned_as_it_is(stored: Any, folder: Path) -> None:
    before = (stored.path / "run" / "provenance.json").read_bytes()
    again = run(recipe="complex-sky", out=stored.path, tile_size=100, progress=lambda _: pytest.fail("computed again"),
                **inputs(folder, "fits"))  # fmt: skip
    assert again.complete
    assert (stored.path / "run" / "provenance.json").read_bytes() == before


def test_provenance(stored: Any, folder: Path) -> None:
    facts = open_run(stored.path).provenance
    assert facts["tasks"] == facts["tasks_computed_last"] == stored.plan.n_tasks
    assert facts["input"]["weight"] == str(folder / "planes.fits")
    assert {"tiledsky", "python", "numpy", "zarr", "numba"} <= facts["versions"].keys()
    assert facts["peak_worker_memory"] > 1e7
    assert stored.header["OBJECT"] == "a test of runs"


def test_inputs_are_not_changed(folder: Path, planes: Any, stored: Any) -> None:
    for name, plane in planes.items():
        np.testing.assert_array_equal(zarr.open_array(str(folder / f"{name}.zarr"), mode="r")[...], plane)


def test_the_order_of_old(tmp_path: Path) -> None:
    image = write_arrays(tmp_path, {"science": np.random.default_rng(1).normal(9, 1, (90, 80))})["source"]
    with pytest.warns(DeprecationWarning, match=r"image first.*run\(source, recipe, out\)"):
        before = run("sextractor", image, tmp_path / "before.zarr")
    now = run(image, "sextractor", tmp_path / "now.zarr")
    np.testing.assert_array_equal(before.plane("background")[:], now.plane("background")[:])
