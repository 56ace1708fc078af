"""Damaged objects, markers and metadata, systematically and at random: named, and made anew with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.scenes import KEEPING, stored_bytes
from tests.faults.conftest import TILE
from tests.faults.ledger import Tally
from tiledsky import Recipe, run
from tiledsky.engine.runner import Progress, prepare
from tiledsky.engine.verify import verify
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.files import is_temporary
from tiledsky.io.folders import LocalFolder
from tiledsky.io.store import Markers

#: Task of a stage, and its files.
Owners = dict[str, tuple[str, tuple[int, int]]]


def flip(path: Path, at: float = 0.37) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1 << int(8 * at)
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(7))


def zero(path: Path) -> None:
    """A block that the disk lost."""
    path.write_bytes(bytes(path.stat().st_size))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def forget(path: Path) -> None:
    path.unlink()


DAMAGES: list[Callable[[Path], None]] = [flip, truncate, empty, forget, halve, lengthen, zero, folder]


@pytest.fixture(scope="module")
def undone(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tasks are all done, stopped before it threw anything away."""
    out = tmp_path_factory.mktemp("undone") / "run.zarr"

    def stop(state: Progress) -> None:
        if state.done == state.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(image, KEEPING, out, tile_size=TILE, progress=stop)
    return out


def owners(root: Path) -> Owners:
    """Task of every object, by what the markers say."""
    markers = [json.loads(file.read_text()) for file in sorted(root.glob("run/markers/*/*.json"))]
    return {o["path"]: (marker["stage"], tuple(marker["tile"])) for marker in markers for o in marker["objects"]}


def named(root: Path, owned: Owners, path: str, damage: Callable[[Path], None]) -> None:
    """Damage an object, look that it alone is named, and put it back."""
    file = root / path
    data = file.read_bytes()
    damage(file)
    faults = [(f.path, (f.stage, f.index)) for f in verify(root, level="crc", discard=False)]
    assert faults == [(path, owned[path])], damage.__name__
    if file.is_dir():
        file.rmdir()
    file.write_bytes(data)


@pytest.mark.row("damage")
def test_every_object_is_named(undone: Path, tally: Tally) -> None:
    owned = owners(undone)
    assert {stage for stage, _ in owned.values()} == {p.name for p in (undone / "run/markers").iterdir()}
    for number, path in enumerate(list(owned)[::3]):  # each kind of damage at some objects of every kind
        with tally.fault():
            named(undone, owned, path, DAMAGES[number % len(DAMAGES)])
    assert verify(undone, level="decode") == []


@pytest.mark.faults
@pytest.mark.row("damage")
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_object_is_named_whatever_it_is(undone: Path, tally: Tally, damage: Callable[[Path], None]) -> None:
    owned = owners(undone)
    for path in owned:
        with tally.fault():
            named(undone, owned, path, damage)


def again(image: Path, out: Path, whole: dict[str, str], tally: Tally, level: str = "crc") -> int:
    """Give the same command; return how many tasks it did, after a look at the bytes."""
    states: list[Progress] = []
    prepare(KEEPING, image, out, tile_size=TILE).execute(progress=states.append, verify=level)
    tally.compare(out, whole)
    assert not [p for p in out.rglob("*") if p.is_file() and is_temporary(p.name)]
    return len(states)


@pytest.mark.faults
@pytest.mark.row("repair")
@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_an_object_of_every_stage_is_repaired(
    image: Path, undone: Path, tmp_path: Path, whole: dict[str, str], tally: Tally, number: int
) -> None:
    """One task alone: what its repair reads is still there; what nothing reads any more is not made anew."""
    owned = owners(undone)
    for stage in sorted({stage for stage, _ in owned.values()})[number % 2 :: 2]:
        out = Path(shutil.copytree(undone, tmp_path / stage))
        paths = [path for path, (name, _) in owned.items() if name == stage]
        path = paths[number * len(paths) // len(DAMAGES)]
        DAMAGES[number](out / path)
        with tally.fault():
            assert again(image, out, whole, tally) == int(path in whole), path
        shutil.rmtree(out)


def damage_at_random(out: Path, rng: np.random.Generator) -> list[str]:
    """Damage some files of any kind; leave temporary files behind."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("lock", "tasks.lock"))
    done = []
    for k in rng.choice(len(files), int(rng.integers(1, 12)), replace=False):
        file, damage = files[k], DAMAGES[int(rng.integers(len(DAMAGES)))]
        if file.name == "_SUCCESS" or file.stat().st_size == 0:
            damage = forget
        damage(file)
        done.append(f"{damage.__name__} {file.relative_to(out)}")
    for file in (out / "run/.recipe.json.17", out / "mask/c/0/0.99.partial"):
        if file.parent.is_dir():
            file.write_bytes(b"half")
    return done


@pytest.mark.row("repair")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(1, 20))])
@pytest.mark.parametrize("state", ["finished", "undone"])
def test_many_damages_at_once(
    request: pytest.FixtureRequest,
    image: Path,
    tmp_path: Path,
    whole: dict[str, str],
    tally: Tally,
    state: str,
    seed: int,
) -> None:
    out = Path(shutil.copytree(request.getfixturevalue(state), tmp_path / "run.zarr"))
    done = damage_at_random(out, np.random.default_rng([seed, len(state)]))
    print("; ".join(done))
    tally.tried += len(done)
    if seed % 2:
        verify(out, level="crc")
    again(image, out, whole, tally, level="sizes" if seed % 2 else "crc")
    assert verify(out, level="decode") == []
    tally.survived += len(done)


@pytest.mark.row("repair")
@pytest.mark.parametrize("name", ["plan", "recipe", "identity"])
def test_damage_behind_damage(image: Path, finished: Path, tmp_path: Path, whole: Any, tally: Tally, name: str) -> None:
    """Without its plan nobody can look at the tiles of a store, so the command that repairs the plan does."""
    out = Path(shutil.copytree(finished, tmp_path / "run.zarr"))
    halve(out / f"run/{name}.json")
    flip(out / "background/c/1/1")
    assert [fault.path for fault in verify(out, level="decode")] == [f"run/{name}.json"]
    assert again(image, out, whole, tally, level="sizes") == 1


@pytest.mark.row("torn")
@pytest.mark.parametrize(
    "stage", ["output", *(pytest.param(s, marks=pytest.mark.faults) for s in ("found-statistics", "bare-mesh"))]
)
def test_torn_markers(finished: Path, tmp_path: Path, tally: Tally, stage: str) -> None:
    run_id = json.loads((finished / "run/identity.json").read_text())["run_id"]
    file = finished / f"run/markers/{stage}/0.0.json"
    markers, content = Markers(LocalFolder(tmp_path), run_id, lambda stage, index: []), file.read_bytes()
    copy = tmp_path / f"run/markers/{stage}/0.0.json"
    copy.parent.mkdir(parents=True)
    true = json.loads(content)

    def found(data: bytes) -> Any:
        copy.write_bytes(data)
        return markers.load(stage, (0, 0))

    assert found(content) == true
    for size in range(len(content)):
        with tally.fault():
            assert found(content[:size]) is None
    for bit in range(0, 8 * len(content), 3):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        with tally.fault():
            assert found(bytes(data)) in (None, true), bit  # a space that became a line end says the same


def numbers(steps: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Where numbers are among the parameters of steps."""
    found: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), steps)]
    while waiting:
        place, value = waiting.pop(0)
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*place, key), inner) for key, inner in items]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(place)
    return found


@pytest.mark.row("changed")
def test_every_number_of_a_recipe(image: Path, finished: Path, tmp_path: Path, tally: Tally) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run.zarr"))
    before = stored_bytes(out)
    for place in numbers(KEEPING.model_dump(mode="json")["steps"]):
        data = KEEPING.model_dump(mode="json")
        inner: Any = data["steps"]
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] += 2  # odd sizes stay odd
        try:
            recipe = Recipe.from_dict(data)
        except ParameterError:
            continue
        name = next(key for key in reversed(place) if isinstance(key, str))
        step = data["steps"][place[0]]["name"]
        with (
            tally.fault(),
            pytest.raises(RunError, match=rf"holds a run with another recipe \(step '{step}'.*{name}"),
        ):
            run(image, recipe, out, tile_size=TILE)
    assert tally.tried > 20
    assert stored_bytes(out) == before
