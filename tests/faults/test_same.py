"""The same bytes from any number of workers and threads, the same pixels from other tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.scenes import KEEPING, make_planes, stored_bytes, write_fits
from tests.faults.ledger import Tally
from tiledsky import Recipe, Run, run
from tiledsky.cluster.local import local_client
from tiledsky.recipe import BackgroundStep

pytestmark = [pytest.mark.faults, pytest.mark.row("same")]

RECIPES: dict[str, Recipe | str] = {"keeping": KEEPING, "complex-sky": "complex-sky", "ceers-nircam": "ceers-nircam"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_fits(tmp_path_factory.mktemp("planes"), make_planes((301, 320)))
    return {"source": f"{path}:SCI", "weight": f"{path}:WHT", "dq": f"{path}:DQ", "mask": f"{path}:MASK"}


@pytest.fixture(scope="module")
def here(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs in this process, in tiles of 120."""
    parent = tmp_path_factory.mktemp("here")
    return {name: run(recipe=recipe, out=parent / name, tile_size=120, **inputs) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (4, 1), (1, 3), (2, 2)])
def test_workers_and_threads(
    inputs: dict[str, str], here: dict[str, Run], tmp_path: Path, tally: Tally, workers: int, threads: int
) -> None:
    with local_client(workers=workers, threads=threads, memory_limit="4GB") as client:
        client.wait_for_workers(workers)
        for name, recipe in RECIPES.items():
            with tally.fault():
                run(recipe=recipe, out=tmp_path / name, tile_size=120, client=client, **inputs)
                tally.compare(tmp_path / name, stored_bytes(here[name].path))


def assert_same(one: Run, other: Run) -> None:
    """Planes and meshes of two runs are, bit for bit, the same."""
    assert one.planes == other.planes
    arrays: dict[str, tuple[Any, Any]] = {name: (one.plane(name)[...], other.plane(name)[...]) for name in one.planes}
    for step in (s.name for s in one.recipe.steps if isinstance(s, BackgroundStep)):
        first, second = one.mesh(step), other.mesh(step)
        assert first.keys() == second.keys()
        arrays |= {f"{step} {part}": (first[part], second[part]) for part in first}
    for name, (a, b) in arrays.items():
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8), err_msg=name)
    assert one.thresholds == other.thresholds


@pytest.mark.parametrize("tile_size", [64, 97, 150, 255, 1000])
@pytest.mark.parametrize("name", RECIPES)
def test_other_tiles(inputs: dict[str, str], here: dict[str, Run], tmp_path: Path, name: str, tile_size: int) -> None:
    assert_same(run(recipe=RECIPES[name], out=tmp_path / "run.zarr", tile_size=tile_size, **inputs), here[name])
