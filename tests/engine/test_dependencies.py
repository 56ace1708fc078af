"""The tasks that a run must do are those that the missing parts need, by what real tasks were seen to read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.engine.scenes import KEEPING, make_planes, stored_bytes
from tiledsky import Recipe, run
from tiledsky.engine import tasks
from tiledsky.engine.context import forget
from tiledsky.engine.dependencies import TaskState, keeps, needed, reads
from tiledsky.engine.layout import Layout
from tiledsky.engine.plan import Plan, Stage, make_plan
from tiledsky.engine.tasks import execute
from tiledsky.engine.verify import Checker
from tiledsky.io.folders import LocalFolder

Task = tuple[str, tuple[int, int]]

#: Every kind of read: statistics in three passes, masks of masks, local noise of another step, a ceiling.
RICH = Recipe.from_dict(
    {
        "name": "rich",
        "steps": [
            {"kind": "background", "name": "coarse", "box_size": 20, "grow_boxes": 1},
            {
                "kind": "mask",
                "name": "bright",
                "masked": "fill",
                "tiers": [{"n_sigma": 4.0, "sigma": 1.0, "n_pixels": 3, "grow": 3, "noise": "biweight"}],
            },
            {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2, "mask": "bright", "masked": "fill"},
            {
                "kind": "mask",
                "name": "faint",
                "mask": "bright",
                "minus": "ring",
                "noise_map": "coarse",
                "tiers": [{"n_sigma": 2.0, "fwhm": 2.5, "n_pixels": 4, "grow": 2, "noise": "local"}],
            },
            {"kind": "background", "name": "fine", "box_size": 10, "ceiling": {"above": "coarse", "sigma": 2.0}},
            {
                "kind": "mask",
                "name": "last",
                "mask": "faint",
                "tiers": [{"n_sigma": 1.5, "noise": "std", "center": "zero"}, {"n_sigma": 3.0, "sigma": 1.5}],
            },
            {"kind": "background", "name": "result", "box_size": 8},
        ],
    }
).expanded()

#: Tiles whose summaries are merged in blocks: all three passes.
MERGING = Recipe.from_dict(
    {
        "name": "merging",
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2},
            {"kind": "mask", "name": "found", "tiers": [{"n_sigma": 2.0, "fwhm": 2.0, "noise": "biweight"}]},
            {"kind": "background", "name": "sky", "box_size": 40, "mask": "found"},
        ],
    }
).expanded()

_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | Path):
        _opened.append(str(arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect the names of all files that are opened, in any thread."""
    global _opened
    found: list[str] = []
    _opened = found
    try:
        yield found
    finally:
        _opened = None


class WatchedRun:
    """A finished run, what each of its tasks was seen to read, and what it wrote."""

    def __init__(self, recipe: Recipe, folder: Path, tile: int) -> None:
        self.recipe, self.tile = recipe, tile
        self.image, self.path = folder / "image.fits", folder / "run.zarr"
        fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(self.image)
        finished = run(self.image, recipe, self.path, tile_size=tile)
        self.plan, self.run_id, self.bytes = finished.plan, finished.run_id, stored_bytes(self.path)
        left = set(self.bytes)
        redo = folder / "redo.zarr"
        self.reads, self.writes = _watch(recipe, self.image, redo, tile)
        self.keeping = {task for task, files in self.writes.items() if files & left}
        self.writers = {file: task for task, files in self.writes.items() for file in files}

    def there(self, root: Path, task: Task) -> bool:
        """Whether all that a finished run has of a task is there."""
        marker = root / "run" / "markers" / task[0] / f"{task[1][0]}.{task[1][1]}.json"
        files = {f for f in self.writes[task] if f in self.bytes}
        return marker.is_file() and all((root / f).is_file() for f in files)

    def expected(self, root: Path) -> set[Task]:
        """Tasks that are needed, from what was seen."""
        wanted = {task for task in self.keeping if not self.there(root, task)}
        waiting = list(wanted)
        while waiting:
            read = self.reads[waiting.pop()]
            sources = {self.writers[file] for file in read if not (root / file).is_file()}
            unsure = {self.writers[file] for file in read} - sources
            new = (sources | {s for s in unsure if not self.there(root, s)}) - wanted
            wanted |= new
            waiting += new
        return wanted

    def found(self, root: Path) -> set[Task]:
        """Tasks that are needed, from the module that is tested."""
        layout = Layout(self.recipe, self.plan, read_run_file(root, "identity.json")["dtypes"])
        checker = Checker(LocalFolder(root), self.run_id, layout)
        return {(name, index) for name, some in needed(self.recipe, self.plan, checker.done).items() for index in some}


def read_run_file(root: Path, name: str) -> Any:
    return json.loads((root / "run" / name).read_bytes())


def _watch(recipe: Recipe, image: Path, root: Path, tile: int) -> tuple[dict[Task, set[str]], dict[Task, set[str]]]:
    """Do the tasks of a run one by one; return what each read of the others, and what each wrote."""
    with pytest.raises(KeyboardInterrupt):
        run(image, recipe, root, tile_size=tile, progress=_interrupt)
    ident, plan = read_run_file(root, "identity.json")["run_id"], Plan.from_json(read_run_file(root, "plan.json"))
    shutil.rmtree(root / "run" / "markers")
    seen: dict[Task, set[str]] = {}
    writes: dict[Task, set[str]] = {}
    for stage in plan.stages:
        for index in plan.grid(stage):
            with watched() as opened:
                marker = execute(str(root), ident, stage.name, index)
                forget(str(root), ident)  # so that nothing that is known from another task is left unread
            writes[stage.name, index] = {o["path"] for o in marker["objects"]}
            seen[stage.name, index] = {f[len(f"{root}/") :] for f in opened if f.startswith(f"{root}/")}
    known = set().union(*writes.values())
    for task, files in seen.items():
        seen[task] = (files & known) - writes[task]
    return seen, writes


def _interrupt(state: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module", params=["rich", "keeping", "complex-sky"])
def watched_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    recipe = {"rich": RICH, "keeping": KEEPING}.get(request.param) or Recipe.load(request.param).expanded()
    tile = {"rich": 60, "keeping": 72}.get(request.param, 100)
    return WatchedRun(recipe, tmp_path_factory.mktemp(request.param), tile)


def test_merges_are_made_anew_for_what_reads_them() -> None:
    """Of an unfinished run those that are missing, from their own tiles; of a finished one, without summaries, all."""
    plan = make_plan(MERGING, (190, 210), "float32", tile_size=36, ingest=True)
    assert set(plan.merged) == {"found-histogram", "found-refine", "found-biweight"}
    lost = {("found-statistics", (0, 0)), ("found-biweight-merge", (1, 1)), ("found-biweight", (2, 3))}
    merged_before = {("found-biweight", (0, 0)), ("found-refine", (5, 5)), ("found-refine-merge", (2, 2))}

    def unfinished(stage: Stage, index: tuple[int, int]) -> TaskState:
        there = (stage.name, index) not in lost | merged_before
        return TaskState(kept=there, usable=there)

    def finished(stage: Stage, index: tuple[int, int]) -> TaskState:
        there = keeps(MERGING, stage) and stage.kind != "statistics"
        return TaskState(kept=there, usable=there)

    found = needed(MERGING, plan, unfinished)
    assert {(name, index) for name, some in found.items() for index in some} == lost
    found = needed(MERGING, plan, finished)
    for stage in plan.stages:
        again = stage.step == "found" and stage.kind != "mask"
        assert len(found[stage.name]) == len(plan.grid(stage)) * (again or stage.name == "ring"), stage.name


def test_empty_store_needs_every_task(watched_run: WatchedRun) -> None:
    plan, nothing = watched_run.plan, TaskState(kept=False, usable=False)
    found = needed(watched_run.recipe, plan, lambda stage, index: nothing)
    assert found == {stage.name: list(plan.grid(stage)) for stage in plan.stages}
    assert set(watched_run.reads) == {(name, index) for name, some in found.items() for index in some}


def test_whole_store_needs_none(watched_run: WatchedRun) -> None:
    assert watched_run.found(watched_run.path) == set()


def test_reads_are_those_that_were_seen(watched_run: WatchedRun) -> None:
    recipe, plan = watched_run.recipe, watched_run.plan
    for stage in plan.stages:
        seen = {watched_run.writers[f][0] for i in plan.grid(stage) for f in watched_run.reads[stage.name, i]}
        declared = {read.node for read in reads(recipe, plan, stage)}
        if stage.kind == "injection":  # the image has no room for its windows, so that it looks at no pixel
            assert seen <= declared
            assert declared - seen <= {"ingest"}
            continue
        assert declared == seen, stage.name


def test_lost_objects_one_by_one_of_a_finished_run(watched_run: WatchedRun, tmp_path: Path) -> None:
    """Each object away alone: the tasks are those that its repair was seen to read, and scratch is remade for them."""
    root, sizes = watched_run.path, set()
    names = sorted({f for files in watched_run.writes.values() for f in files} & set(watched_run.bytes))
    for name in names[:: 1 + len(names) // 60]:
        (root / name).rename(tmp_path / "away")
        expected = watched_run.expected(root)
        assert watched_run.writers[name] in expected
        assert watched_run.found(root) == expected, name
        sizes.add(len(expected))
        (tmp_path / "away").rename(root / name)
    assert min(sizes) == 1
    assert max(sizes) > 1 or watched_run.recipe is KEEPING


def test_several_lost_objects(watched_run: WatchedRun, tmp_path: Path) -> None:
    rng, root = np.random.default_rng(3), tmp_path / "run.zarr"
    names = sorted({f for files in watched_run.writes.values() for f in files} & set(watched_run.bytes))
    for count in (2, 3, 5, 9):
        shutil.copytree(watched_run.path, root)
        for name in rng.choice(names, count, replace=False):
            (root / name).unlink()
        for task in rng.permutation(np.array(list(watched_run.reads), object))[:2]:
            (root / f"run/markers/{task[0]}/{task[1][0]}.{task[1][1]}.json").unlink()
        assert watched_run.found(root) == watched_run.expected(root)
        shutil.rmtree(root)


@pytest.mark.parametrize("lost", ["output", "mask", "mesh", "ingest", "statistics"])
def test_repair_does_these_tasks_and_no_other(
    watched_run: WatchedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    root, done = tmp_path / "run.zarr", set()
    shutil.copytree(watched_run.path, root)
    stage = next(s for s in reversed(watched_run.plan.stages) if s.kind == lost)
    index = list(watched_run.plan.grid(stage))[-1]
    name = sorted(watched_run.writes[stage.name, index] & set(watched_run.bytes))[0]
    (root / name).unlink()
    expected = watched_run.expected(root)

    works = tasks.perform

    def spied(operation: Any, task: Any) -> Any:
        done.add((operation.name, task.index))
        return works(operation, task)

    monkeypatch.setattr(tasks, "perform", spied)
    run(watched_run.image, watched_run.recipe, root, tile_size=watched_run.tile)
    assert done == expected
    assert stored_bytes(root) == watched_run.bytes


BIG = """
import json, resource, sys, time
from pathlib import Path
from tiledsky import Recipe
from tiledsky.engine.layout import Layout
from tiledsky.engine.dependencies import TaskState, needed, reads
from tiledsky.engine.plan import make_plan

recipe = Recipe.from_dict(json.loads(sys.argv[1]))
plan = make_plan(recipe, (49000, 49000), "float32", tile_size=200, ingest=True)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
none, every = TaskState(False, False), TaskState(True, False)
results = []
for state in (lambda s, i: none, lambda s, i: none if s.kind == "output" else every, lambda s, i: every):
    before, began = peak(), time.process_time()
    found = needed(recipe, plan, state)
    results.append((sum(map(len, found.values())), time.process_time() - began, peak() - before))
reached = {"output"}  # what is kept is there, whatever reads it
for stage in reversed(plan.stages):
    if stage.name in reached:
        reached |= {read.node for read in reads(recipe, plan, stage) if not read.kept}
asked = sum(len(plan.grid(stage)) for stage in plan.stages if stage.name in reached)
print(json.dumps({"tasks": plan.n_tasks, "asked": asked, "results": results}))
"""


def test_sixty_thousand_tiles() -> None:
    words = [sys.executable, "-c", BIG, json.dumps(RICH.model_dump(mode="json"))]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert told["tasks"] > 900_000
    assert [count for count, _, _ in told["results"]] == [told["tasks"], told["asked"], 0]
    assert 0.8 * told["tasks"] < told["asked"] < told["tasks"]
    assert all(seconds < 5 and megabytes < 300 for _, seconds, megabytes in told["results"])


def test_plan_without_tiles_in_common() -> None:
    """Grids of other tiles: a tile of the last stage reads just the tiles of the first that hold its pixels."""
    plan = make_plan(RICH, (190, 210), "float32", tile_size=60, ingest=True)
    state = lambda stage, index: TaskState(stage.name != "coarse-boxes" or index != (1, 2), True)  # noqa: E731
    assert [k for k, v in needed(RICH, plan, state).items() if v] == ["coarse-boxes"]
