"""Memory of a worker: what is projected before a run against what the system measures."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import tiledsky
from tests.engine.scenes import KEEPING, command, make_planes, write_arrays, write_fits
from tests.objects_scene import galaxy_scene, with_objects
from tiledsky import Recipe
from tiledsky.cli import app
from tiledsky.cluster import process_memory
from tiledsky.cluster.local import local_client, worker_environment, worker_limits
from tiledsky.engine.dependencies import halo_of
from tiledsky.engine.forecast import check_fits, describe, fits, fitted_plan, fitting_tile
from tiledsky.engine.layout import Layout
from tiledsky.engine.memory import peak
from tiledsky.engine.plan import GATHER, TILE, Plan, Stage, make_plan
from tiledsky.engine.runner import planned, prepare
from tiledsky.errors import InputError, PlanError
from tiledsky.geometry import Region
from tiledsky.io.fits.image import FitsImage
from tiledsky.io.source import open_source
from tiledsky.operations.cells import CellOperation
from tiledsky.operations.memory import BASE, FREED, MEGABYTE, Plane
from tiledsky.operations.stages import compiled_run
from tiledsky.recipe import preset_names

SHAPE = (600, 490)
TILES = (240, 360, 600)
MOSAIC = (46200, 15400)
PLANES = {"science": Plane(4)}

needs_clear_refs = pytest.mark.skipif(
    not process_memory.reset(), reason="this system does not reset the high-water mark"
)


def plan_for(recipe: Recipe, shape: tuple[int, int] = MOSAIC, *, tile_size: int | None = None) -> Plan:
    return make_plan(recipe, shape, "float32", tile_size=tile_size, ingest=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two processes with one thread each, of this file alone."""
    with local_client(workers=2, threads=1, memory_limit="2GB") as client:
        yield client


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Image, weight and dq in chunks that fit no tile."""
    planes = {k: v for k, v in make_planes(SHAPE).items() if k in ("science", "weight", "dq")}
    return write_arrays(tmp_path_factory.mktemp("scene"), planes, chunks=(311, 277))


@needs_clear_refs
@pytest.mark.parametrize(
    "presets",
    [
        pytest.param(["complex-sky", "ceers-nircam", "sextractor"], id="usual"),
        pytest.param(preset_names(), id="every", marks=pytest.mark.faults),
    ],
)
def test_measured_is_below_projected(presets: list[str], scene: dict[str, str], workers: Any, tmp_path: Path) -> None:
    """One recipe after the other in the same processes, which keep the kernels of all of them."""
    for preset in presets:  # whoever uses a kernel for the first time compiles it, which is not part of the projection
        tiledsky.run(recipe=preset, out=tmp_path / f"{preset}.zarr", client=workers, tile_size=TILES[-1], **scene)
    workers.restart()  # processes that have compiled nothing
    for preset, tile in itertools.product(presets, TILES):
        run = tiledsky.run(
            recipe=preset, out=tmp_path / f"{preset}-{tile}.zarr", client=workers, tile_size=tile, **scene
        )
        memory = run.provenance["memory"]
        assert set(memory) == {stage.name for stage in run.plan.stages}
        for name, found in memory.items():
            assert found["measured"] <= found["projected"], f"{preset}, tile {tile}, {name}"
        projected, measured = (max(found[kind] for found in memory.values()) for kind in ("projected", "measured"))
        # of small tiles the statistics of the whole image take most, in the worst case: all values near a median
        assert projected <= (2 if tile > TILES[0] else 2.5) * measured, f"{preset}, tile {tile}"


#: Does all tasks of a run; prints, for each stage, what its last task added to the process.
_EACH_TASK = """
import json, sys
from tiledsky.cluster import process_memory
from tiledsky.engine.tasks import context, execute
root, ident = sys.argv[1:]
added = {}
for stage in context(root, ident).plan.stages:
    for index in context(root, ident).plan.grid(stage):
        # freed memory goes back to the system, so that the mark counts all that the task holds
        process_memory.reset(f"{stage.name} {index}")
        before = process_memory.task_peak()
        added[stage.name] = execute(root, ident, stage.name, index)["task_peak"] - before
print(json.dumps(added))
"""


def added_by_tasks(prepared: Any) -> dict[str, int]:
    """Do all tasks of a run in a process of their own; return what the last of each stage added to it."""
    with prepared.locked(restart=False):
        prepared.create()
    environment = {**os.environ, **worker_environment()}
    words = [sys.executable, "-c", _EACH_TASK, str(prepared.root.path.absolute()), prepared.run_id]
    added: dict[str, int] = json.loads(
        subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    )
    return added


@needs_clear_refs
def test_large_objects_take_what_their_terms_say(tmp_path: Path) -> None:
    recipe, image = with_objects(), tmp_path / "image.zarr"
    zarr.create_array(str(image), data=galaxy_scene(420).image, chunks=(210, 210))
    tiledsky.run(image, recipe, tmp_path / "first.zarr")  # compiles what is not compiled yet
    prepared = prepare(recipe, image, tmp_path / "run.zarr")
    added, plan = added_by_tasks(prepared), prepared.plan
    assert {"objects-1-found", "objects-catalogue"} <= added.keys()
    for stage in plan.stages:
        assert added[stage.name] <= peak(prepared.recipe, plan, stage, PLANES).bytes - BASE, stage.name


@needs_clear_refs
def test_large_tiles_take_what_their_terms_say(tmp_path: Path) -> None:
    """What a task adds to its process is not above its terms; and where it is much, not far below them."""
    image = np.random.default_rng(3).normal(1.0, 0.1, (TILE, 2 * TILE)).astype(np.float32)
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(240, 240), shards=(TILE, TILE))
    prepared = prepare("notebook-bkg3", tmp_path / "image.zarr", tmp_path / "run.zarr", tile_size=TILE)
    added, recipe, plan = added_by_tasks(prepared), prepared.recipe, prepared.plan
    for stage in plan.stages:
        terms = peak(recipe, plan, stage, PLANES).bytes - BASE
        assert added[stage.name] <= terms, stage.name
        if stage.kind not in GATHER and stage.merges is None and not _of_cells(recipe, stage):
            assert added[stage.name] >= 0.6 * (terms - FREED), stage.name


@pytest.mark.parametrize("preset", preset_names())
def test_tiles_of_any_image_take_the_same(preset: str) -> None:
    recipe = Recipe.load(preset).expanded()
    small, large = (plan_for(recipe, shape, tile_size=960) for shape in ((4000, 5000), (100_000, 90_000)))
    for one in small.stages:
        if one.kind not in GATHER and not _of_cells(recipe, one):
            other = large.stage(one.name)
            assert peak(recipe, small, one, PLANES) == peak(recipe, large, other, PLANES), one.name


def _of_cells(recipe: Recipe, stage: Stage) -> bool:
    """Whether a stage works on tiles of a mesh, which are larger on larger images, up to 512 x 512 boxes."""
    return isinstance(compiled_run(recipe)[stage.name], CellOperation)


@pytest.mark.parametrize("shape", [(83_000, 93_200), (316_000, 316_000)])
def test_measures_and_statistics_of_the_largest_images_take_little(shape: tuple[int, int]) -> None:
    kinds = {"diagnostics", "merge", "bins", "centers", "statistics", "output"}
    for preset in preset_names():
        recipe = Recipe.load(preset).expanded()
        plan = plan_for(recipe, shape)
        assert {"diagnostics", "output"} <= {stage.kind for stage in plan.stages}
        for stage in plan.stages:
            if stage.kind in kinds or stage.name.endswith("-statistics"):
                assert peak(recipe, plan, stage, PLANES).bytes <= 720 * MEGABYTE, f"{preset}, {stage.name}"


@pytest.mark.parametrize("preset", ["complex-sky", "ceers-nircam"])
def test_a_mosaic_fits_a_gigabyte(preset: str) -> None:
    recipe = Recipe.load(preset).expanded()
    plan = plan_for(recipe)
    assert fitted_plan(recipe, plan, PLANES, memory_limit=10**9) == plan
    check_fits(recipe, plan, PLANES, memory_limit=10**9)


def test_terms_add_up() -> None:
    recipe = Recipe.load("ceers-nircam").expanded()
    plan = plan_for(recipe)
    for stage in plan.stages:
        memory = peak(recipe, plan, stage, PLANES)
        assert memory.terms["process"] == BASE
        assert memory.bytes == sum(memory.terms.values())
        assert memory.formula.startswith("370 MB process + [")
        assert peak(recipe, plan, stage, PLANES, threads=3).bytes - BASE == 3 * (memory.bytes - BASE)


def test_planes_and_large_chunks_count() -> None:
    recipe = Recipe.load("sextractor").expanded()
    plan = make_plan(recipe, MOSAIC, "float32", tile_size=960, ingest=False)
    stage = plan.stages[0]

    def total(**planes: Plane) -> int:
        return peak(recipe, plan, stage, {"science": Plane(4), **planes}).bytes

    assert total() < total(weight=Plane(4)) < total(weight=Plane(4), error=Plane(8))
    # an array in chunks of whole rows is unpacked chunk by chunk, whatever the tile
    assert total(science=Plane(4, 4000 * 15400)) > total() + 4 * 4000 * 15400


def test_a_tile_that_fits_is_named() -> None:
    recipe = Recipe.load("sextractor").expanded()
    plan = plan_for(recipe, (4000, 4000), tile_size=1920)
    limit = 500 * MEGABYTE
    tile = fitting_tile(recipe, plan, PLANES, memory_limit=limit)
    assert tile is not None
    message = (
        rf"stage output needs 5[67]\d MB a worker \(370 MB process .*use --tile-size {tile}, or --memory-limit 60\dMB"
    )
    with pytest.raises(PlanError, match=message):
        check_fits(recipe, plan, PLANES, memory_limit=limit)
    check_fits(recipe, plan_for(recipe, plan.shape, tile_size=tile), PLANES, memory_limit=limit)
    with pytest.raises(PlanError, match=f"use --tile-size {tile}"):
        check_fits(recipe, plan_for(recipe, plan.shape, tile_size=tile + 240), PLANES, memory_limit=limit)
    assert fitted_plan(recipe, plan, PLANES, memory_limit=limit).tile_size == tile


def test_a_limit_that_fits_is_named() -> None:
    recipe = Recipe.load("sextractor").expanded()
    plan = plan_for(recipe, (4000, 4000), tile_size=1920)
    with pytest.raises(PlanError, match=r"smaller tiles are not enough; use --memory-limit 60\dMB$"):
        check_fits(recipe, plan, PLANES, memory_limit=410 * MEGABYTE)
    with pytest.raises(PlanError, match=r"use --tile-size \d+, or --memory-limit (\d+)MB$") as refused:
        check_fits(recipe, plan, PLANES, memory_limit=700 * MEGABYTE, threads=3)
    named = int(str(refused.value).split("--memory-limit ")[1].removesuffix("MB"))
    check_fits(recipe, plan, PLANES, memory_limit=named * MEGABYTE, threads=3)


@pytest.mark.parametrize("shape", [(83_000, 93_200), (316_000, 316_000)])
@pytest.mark.parametrize("preset", preset_names())
def test_memory_does_not_grow_with_the_image(preset: str, shape: tuple[int, int]) -> None:
    recipe = Recipe.load(preset).expanded()
    plan = plan_for(recipe, shape)
    largest = {stage.name: peak(recipe, plan, stage, PLANES).bytes for stage in plan.stages}
    assert max(largest.values()) <= 1500 * MEGABYTE, max(largest.items(), key=lambda item: item[1])


def test_tiles_stay_larger_than_their_halos() -> None:
    recipe = Recipe.load("ceers-nircam").expanded()
    plan = plan_for(recipe)
    largest = max(max(halo_of(recipe, stage)) for stage in plan.stages if not _of_cells(recipe, stage))
    smallest = fitting_tile(recipe, plan, PLANES, memory_limit=10**9, largest=2 * largest - 1)
    assert smallest is None
    assert fitting_tile(recipe, plan, PLANES, memory_limit=10**9) == TILE


def test_the_default_tile_follows_the_limit(scene: dict[str, str], tmp_path: Path) -> None:
    recipe = Recipe.load("sextractor").expanded()
    plan = plan_for(recipe, (15400, 15400))
    assert plan.tile_size > 1500
    short = fitted_plan(recipe, plan, PLANES, memory_limit=490 * MEGABYTE)
    assert 240 <= short.tile_size < 1500
    assert all(fits(peak(recipe, short, s, PLANES), 490 * MEGABYTE) for s in short.stages if s.kind not in GATHER)
    # a run that was begun keeps its tiles, whatever the limit
    first = prepare("sextractor", out=tmp_path / "run.zarr", tile_size=300, **scene)
    with first.locked(restart=False):
        first.create()
    assert prepare("sextractor", out=tmp_path / "run.zarr", memory_limit=10**9, **scene).plan == first.plan


@pytest.mark.parametrize("recipe", ["complex-sky", "ceers-hst-ir", "keeping"])
def test_a_report_is_of_integers(recipe: str, tmp_path: Path) -> None:
    source = write_fits(tmp_path, make_planes())
    chosen = KEEPING if recipe == "keeping" else recipe
    others = {name: f"{source}:{hdu}" for name, hdu in (("weight", "WHT"), ("dq", "DQ"), ("mask", "MASK"))}
    made = planned(chosen, f"{source}:SCI", **others)
    report = describe(made.recipe, made.plan, made.source, workers=4, threads=2, memory_limit=10**9)
    data = json.loads(json.dumps(report.to_json()))

    def numbers(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                yield from numbers(item)
        elif not isinstance(value, str):
            yield value

    assert data.pop("nodata") is None
    assert {type(n) for n in numbers(data)} == {int}
    assert data["tasks"] == made.plan.n_tasks == sum(s["tasks"] for s in data["stages"])
    assert data["peak_memory"] == max(s["peak_memory"] for s in data["stages"])
    assert len(list(report.text())) == len(made.plan.stages) + 8
    ny, nx = made.plan.shape
    ingest = data["stages"][0]
    assert ingest["bytes_read"] == ingest["bytes_written"] == ny * nx * (4 + 4 + 4 + 1)


def test_what_is_read_and_kept(scene: dict[str, str], tmp_path: Path) -> None:
    """Against counts of what a run reads, and the arrays that it leaves."""
    run = tiledsky.run(recipe=KEEPING, out=tmp_path / "run.zarr", tile_size=300, **scene)
    stored = json.loads((tmp_path / "run.zarr" / "run" / "forecast.json").read_text())
    made = planned(KEEPING, tile_size=300, **scene)
    report = describe(made.recipe, made.plan, made.source)
    assert stored == json.loads(json.dumps(report.to_json()))
    arrays = [zarr.open_array(file.parent) for file in run.path.rglob("zarr.json") if "shape" in file.read_text()]
    assert report.output_bytes == sum(a.nbytes for a in arrays)
    working = ("values", "scatter", "variance")  # it keeps all but these of its two meshes
    of_meshes = [spec for path, spec in Layout(made.recipe, made.plan, {}).arrays.items() if path.endswith(working)]
    sizes = [math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in of_meshes]
    assert len(sizes) == 6
    assert report.scratch_bytes == sum(sizes)
    ring = next(s for s in report.stages if s.name == "ring")
    rows, columns = ([min(n, a + 306) - max(a - 6, 0) for a in range(0, n, 300)] for n in SHAPE)
    assert ring.halo == (6, 6)
    assert ring.bytes_read == sum(rows) * sum(columns) * (4 + 4 + 4)


def test_a_plan_needs_no_pixel(scene: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise InputError("a pixel was read")

    source = write_fits(tmp_path, make_planes())
    monkeypatch.setattr(FitsImage, "read", refuse)
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    arrays = [scene["source"], "--weight", scene["weight"]]
    for words in (arrays, [f"{source}:SCI", "--dq", f"{source}:DQ", "--memory-limit", "1GB"]):
        result = CliRunner().invoke(app, ["plan", *words, "--recipe", "complex-sky", "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["peak_stage"]
    with pytest.raises(InputError, match="a pixel was read"):
        open_source(source, hdu="SCI").planes["science"].open().read(Region(0, 1, 0, 1))


def test_commands(scene: dict[str, str], tmp_path: Path) -> None:
    arguments = (scene["source"], "--recipe", "complex-sky")
    told = command("plan", *arguments, "--memory-limit", "1GB").communicate()[0]
    assert "bright-mask" in told
    assert "\npeak           " in told
    refused = command("plan", *arguments, "--memory-limit", "300MB")
    errors = refused.communicate()[1]
    assert refused.returncode == PlanError.exit_code
    assert "--memory-limit" in errors
    out = tmp_path / "run.zarr"
    refused = command("run", *arguments, "--out", str(out), "--memory-limit", "300MB")
    assert "needs" in refused.communicate()[1]
    assert refused.returncode == PlanError.exit_code
    assert not out.exists()


def test_workers_are_asked_for_their_limit(
    workers: Any, scene: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker_limits(workers) == (2_000_000_000, 1)
    assert worker_limits(None) == (None, 1)
    prepared = prepare("sextractor", out=tmp_path / "run.zarr", **scene)

    small, free = {"memory_limit": 290 * MEGABYTE, "nthreads": 2}, {"memory_limit": 0, "nthreads": 1}
    monkeypatch.setattr(workers, "scheduler_info", lambda n_workers: {"workers": {"a": small, "b": free}})
    with pytest.raises(PlanError, match=r"95% of a memory limit of 290 MB is less"):
        prepared.execute(client=workers)
    assert not (tmp_path / "run.zarr").exists()


#: In a process of its own, which does nothing beside; blocks larger than what the system counts late.
_MARKS = """
import json
import numpy as np
from tiledsky.cluster import process_memory
found = {"reset": process_memory.reset(), "before": process_memory.task_peak()}
block = np.ones(256_000_000, np.uint8)
found["large"] = process_memory.task_peak()
del block
found |= {"again": process_memory.reset(), "after": process_memory.task_peak()}
found["process"] = process_memory.process_peak()
print(json.dumps(found))
"""


@needs_clear_refs
def test_the_mark_is_of_a_task_and_the_peak_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _MARKS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["reset"]
    assert found["again"]
    assert found["large"] > found["before"] + 200_000_000
    assert found["after"] < found["large"] - 200_000_000
    assert found["process"] > found["before"] + 200_000_000


def test_a_system_that_does_not_reset_gives_no_task_peak(
    scene: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_memory, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    run = tiledsky.run(recipe="sextractor", out=tmp_path / "run.zarr", tile_size=900, **scene)
    assert {found["measured"] for found in run.provenance["memory"].values()} == {None}
    assert run.provenance["peak_worker_memory"] > 0


def test_status_of_tiles(tmp_path: Path) -> None:
    image = np.random.default_rng(5).normal(1.0, 0.1, (128, 256)).astype(np.float32)
    image[:, 128:] = np.nan
    zarr.create_array(str(tmp_path / "image.zarr"), data=image, chunks=(64, 64))
    run = tiledsky.run(tmp_path / "image.zarr", "sextractor", tmp_path / "run.zarr", tile_size=128)
    folder = run.path / "run" / "markers" / "output"
    found = {file.stem: json.loads(file.read_text())["status"] for file in sorted(folder.glob("*.json"))}
    assert found == {"0.0": "done", "0.1": "all-masked"}
