"""Damage of a run store is found and named, and the same command makes anew just that, with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from tests.engine.scenes import make_planes, stored_bytes
from tiledsky import Recipe, open_run, run
from tiledsky.cli import main
from tiledsky.engine import tasks
from tiledsky.engine.result import STATUS
from tiledsky.engine.runner import Progress, prepare
from tiledsky.engine.verify import LEVELS, verify
from tiledsky.errors import ParameterError, RunError
from tiledsky.io import store

TILE = 100
#: A ring and a mask that are thrown away, a mask that is the result, meshes.
RECIPE = Recipe.from_dict(
    {
        "name": "small",
        "steps": [
            {"kind": "ring", "name": "ring", "radius_in": 4, "width": 2},
            {"kind": "mask", "name": "bright", "tiers": [{"n_sigma": 3.0, "sigma": 1.5, "n_pixels": 4, "grow": 2}]},
            {"kind": "background", "name": "coarse", "box_size": 20, "mask": "bright"},
            {"kind": "mask", "name": "faint", "mask": "bright", "tiers": [{"n_sigma": 2.0, "fwhm": 2.5, "grow": 1}]},
            {"kind": "background", "name": "fine", "box_size": 10},
        ],
    }
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.fits"
    fits.PrimaryHDU(make_planes((190, 210))["science"]).writeto(path)
    return path


@pytest.fixture(scope="module")
def finished(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(image, RECIPE, tmp_path_factory.mktemp("finished") / "run.zarr", tile_size=TILE).path


@pytest.fixture(scope="module")
def whole(finished: Path) -> dict[str, str]:
    return stored_bytes(finished)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run that may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run.zarr"))


def again(image: Path, out: Path, whole: dict[str, str], **options: Any) -> int:
    """Give the same command; return how many tasks it did, after a look at the bytes."""
    states: list[Progress] = []
    result = prepare(RECIPE, image, out, tile_size=TILE).execute(progress=states.append, **options)
    assert result.complete
    assert stored_bytes(out) == whole
    assert verify(out, level="decode") == []
    return len(states)


# --- kinds of damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text("in the way")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


#: All kinds of damage at all places, instead of each kind at some and each place with some.
ALL = bool(os.environ.get("TILEDSKY_ALL_FAULTS"))


def pairs(places: list[str], damages: list[Callable[[Path], None]]) -> list[tuple[str, Callable[[Path], None]]]:
    """Places and damages to try together."""
    if ALL:
        return [(place, damage) for place in places for damage in damages]
    count = max(len(places), len(damages))
    return [(places[k % len(places)], damages[k % len(damages)]) for k in range(count)]


SIZES: list[Callable[[Path], None]] = [Path.unlink, truncate, halve, empty, lengthen, folder, dangling]
#: Object that a finished run keeps, to the tasks that its repair needs. Tiles are 2 x 3; scratch is there no more.
OBJECTS: dict[str, set[Any] | None] = {
    "science/c/1/2": {("ingest", (1, 2))},
    "mask/c/0/0": None,  # with the ring and the first mask of the tiles around it
    "background/c/1/1": {("output", (1, 1))},
    "subtracted/c/0/2": {("output", (0, 2))},
    "meshes/fine/surface_rms/c/0/0": {("fine-surfaces", (0, 0))},
    "meshes/coarse/measured/n_good/c/0/1": None,
    "run/meshes/coarse.json": None,
    "run/thresholds/bright.json": None,
}
OWNERS = {
    "mask/c/0/0": ("faint-mask", (0, 0)),
    "meshes/coarse/measured/n_good/c/0/1": ("bright-mask", (0, 1)),
    "run/meshes/coarse.json": ("coarse-mesh", (0, 0)),
    "run/thresholds/bright.json": ("bright-statistics", (0, 0)),
}
#: Tasks that the repair of the others does, of 2 x 3 tiles: the mask tile needs 4 of the mask before it, which need all
#: rings; the boxes are made with a mask tile, which needs all rings; the thresholds need rings, histograms and values;
#: the ranges of a mesh need its maps, these the boxes that count and their noise.
COUNTS = {
    "mask/c/0/0": 1 + 4 + 6,
    "meshes/coarse/measured/n_good/c/0/1": 1 + 6,
    "run/meshes/coarse.json": 4,
    "run/thresholds/bright.json": 20,
}


def owner(name: str) -> tuple[str, tuple[int, int]]:
    tasks = OBJECTS[name]
    return next(iter(tasks)) if tasks else OWNERS[name]


@pytest.mark.parametrize(("name", "damage"), pairs(list(OBJECTS), SIZES))
def test_damaged_object(
    image: Path, copy: Path, whole: dict[str, str], name: str, damage: Callable[[Path], None]
) -> None:
    damage(copy / name)
    (fault,) = verify(copy, level="sizes", discard=False)
    assert (fault.stage, fault.index) == owner(name)
    assert fault.path == name
    assert verify(copy, level="markers") == []
    count = len(OBJECTS[name] or ()) or COUNTS[name]
    assert again(image, copy, whole) == count
    assert again(image, copy, whole) == 0


@pytest.mark.parametrize(
    "name", [name if k % 3 == 0 else pytest.param(name, marks=pytest.mark.faults) for k, name in enumerate(OBJECTS)]
)
def test_flipped_bit(image: Path, copy: Path, whole: dict[str, str], name: str) -> None:
    flip(copy / name)
    small = name.endswith(".json")  # without a checksum of its own, so always read
    assert bool(verify(copy, level="sizes", discard=False)) == small
    for level in ("crc", "decode"):
        (fault,) = verify(copy, level=level, discard=False)
        assert ((fault.stage, fault.index), fault.path, fault.what) == (owner(name), name, "checksum differs")
    assert (copy / "run/_SUCCESS").is_file()
    assert again(image, copy, whole, verify="crc") == (len(OBJECTS[name] or ()) or COUNTS[name])


def test_verify_discards_so_that_the_command_repairs(image: Path, copy: Path, whole: dict[str, str]) -> None:
    flip(copy / "background/c/1/1")
    assert again_count(image, copy) == 0  # a flipped bit is not looked for by default
    assert [f.index for f in verify(copy)] == [(1, 1)]
    assert not (copy / "run/_SUCCESS").exists()
    with pytest.raises(RunError, match="is not finished"):
        open_run(copy)
    assert again(image, copy, whole) == 1


def again_count(image: Path, out: Path) -> int:
    states: list[Progress] = []
    run(image, RECIPE, out, tile_size=TILE, progress=states.append)
    return len(states)


def other_run(path: Path) -> None:
    marker = json.loads(path.read_text())
    path.write_text(json.dumps(store.sealed({**marker, "run_id": "0" * 16})))


def other_tile(path: Path) -> None:
    shutil.copy(path.with_name("1.2.json"), path)


def fewer_objects(path: Path) -> None:
    marker = json.loads(path.read_text())
    path.write_text(json.dumps(store.sealed({**marker, "objects": marker["objects"][:-1]})))


def escaping(path: Path) -> None:
    marker = json.loads(path.read_text())
    marker["objects"][0]["path"] = "../../image.fits"
    path.write_text(json.dumps(store.sealed(marker)))


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


#: Stage to the tasks that the repair of its first tile needs: the mask needs the rings around it.
STAGES = {"output": 1, "ingest": 1, "coarse-surfaces": 1, "coarse-mesh": 4, "bright-mask": 5}
MARKERS = [*SIZES, flip, other_run, fewer_objects, escaping, nested]


@pytest.mark.parametrize(("stage", "damage"), [*pairs(list(STAGES), MARKERS), ("output", other_tile)])
def test_damaged_marker(
    image: Path, copy: Path, whole: dict[str, str], damage: Callable[[Path], None], stage: str
) -> None:
    damage(copy / f"run/markers/{stage}/0.0.json")
    faults = verify(copy, level="markers", discard=False)
    assert {(f.stage, f.index) for f in faults} == {(stage, (0, 0))}
    assert again(image, copy, whole) == STAGES[stage]


def test_marker_of_what_is_thrown_away_is_not_missed(image: Path, copy: Path, whole: dict[str, str]) -> None:
    for stage in ("ring", "bright-histogram", "bright-refine"):
        (copy / f"run/markers/{stage}/0.0.json").write_text("{")
    assert verify(copy) == []
    assert again(image, copy, whole) == 0


FILES = [
    *("zarr.json", "meshes/zarr.json", "run/zarr.json", "background/zarr.json", "meshes/fine/surface_rms/zarr.json"),
    *("mask/zarr.json", "run/recipe.json", "run/plan.json", "run/identity.json", "run/source.json"),
    "run/provenance.json",
]


@pytest.mark.parametrize(("name", "damage"), pairs(FILES, [*SIZES, flip]))
def test_damaged_metadata(
    image: Path, copy: Path, whole: dict[str, str], name: str, damage: Callable[[Path], None]
) -> None:
    damage(copy / name)
    if name == "run/source.json" and damage in (flip, lengthen):
        (copy / name).write_text("{}")
    faults = verify(copy, level="markers", discard=False)
    assert [(fault.stage, fault.path) for fault in faults] == [(None, name)]
    assert again(image, copy, whole) == 0
    assert open_run(copy).provenance["tasks"] == open_run(copy).plan.n_tasks


def test_recipe_with_another_number_in_it(image: Path, copy: Path, whole: dict[str, str]) -> None:
    file = copy / "run/recipe.json"
    file.write_text(file.read_text().replace('"n_pixels": 4', '"n_pixels": 5'))
    assert [f.path for f in verify(copy)] == ["run/recipe.json"]
    (copy / "background/c/0/0").unlink()
    assert again(image, copy, whole) == 1


def test_everything_at_once(image: Path, copy: Path, whole: dict[str, str]) -> None:
    damages = iter([*SIZES, flip, truncate])
    for name in (*OBJECTS, *FILES):
        if "identity" not in name:
            next(damages, Path.unlink)(copy / name)
    # without recipe and plan verify knows no tiles
    assert [fault.path for fault in verify(copy)] == ["run/recipe.json", "run/plan.json"]
    # 20 tasks of the thresholds with all rings, 4 masks (one for the boxes too), the mask of the result, the science
    # tile, 2 outputs, the surfaces of one mesh, and of the other its ranges, maps, noise and boxes
    assert again(image, copy, whole, verify="decode") == 20 + 4 + 1 + 1 + 2 + 1 + 4


def test_markers_all_gone(image: Path, copy: Path, whole: dict[str, str]) -> None:
    shutil.rmtree(copy / "run/markers")
    assert again(image, copy, whole) == open_run(copy).plan.n_tasks


def test_file_in_place_of_a_folder(image: Path, copy: Path, whole: dict[str, str]) -> None:
    shutil.rmtree(copy / "background/c/1")
    (copy / "background/c/1").write_text("in the way")
    assert {f.index for f in verify(copy, discard=False)} == {(1, 0), (1, 1), (1, 2)}
    assert again(image, copy, whole) == 3


def test_folder_in_place_of_every_document(image: Path, copy: Path, whole: dict[str, str]) -> None:
    """Also in place of those that nothing reads before they are written or removed."""
    (copy / "background/c/1/1").unlink()
    (copy / "run/failed/output").mkdir(parents=True)
    (copy / "run/failed/output/0.0.json").touch()
    documents = [*(copy / "run").glob("*.json"), copy / "run/_SUCCESS", copy / "run/failed/output/0.0.json"]
    assert len(documents) > 7
    for file in documents:
        if file.name != "identity.json":
            folder(file)
    again(image, copy, whole)


def test_identity_lost_with_all_markers(image: Path, copy: Path) -> None:
    shutil.rmtree(copy / "run/markers")
    (copy / "run/identity.json").write_text("{")
    with pytest.raises(RunError, match=r"identity.json is damaged; run again with --restart"):
        run(image, RECIPE, copy, tile_size=TILE)
    (copy / "run/identity.json").unlink()
    with pytest.raises(RunError, match="exists and is not a run store, so tiledsky does not touch it; change --out"):
        run(image, RECIPE, copy, tile_size=TILE)


def test_leftover_temporary_files(image: Path, copy: Path, whole: dict[str, str]) -> None:
    (copy / "background/c/1/1").unlink()
    left = ["background/c/1/1.0123.partial", "run/markers/output/.1.1.json.77", "mask/c/0/0.89.partial", "run/.x.1"]
    for name in left:
        (copy / name).write_bytes(b"half")
    assert len(verify(copy)) == 1
    assert again(image, copy, whole) == 1
    assert not [name for name in left if (copy / name).exists()]


def test_read_only_marker(image: Path, copy: Path, whole: dict[str, str]) -> None:
    file = copy / "run/markers/output/1.1.json"
    file.write_text("{")
    file.chmod(0o444)
    (copy / "background/c/1/0").chmod(0o444)
    truncate_as_root = copy / "background/c/1/0"
    os.chmod(truncate_as_root, 0o644)
    truncate(truncate_as_root)
    truncate_as_root.chmod(0o444)
    assert again(image, copy, whole) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_whole_store_has_no_fault_and_is_not_written_to(finished: Path, level: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert verify(finished, level=level) == []
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_unknown_level(finished: Path) -> None:
    with pytest.raises(
        ParameterError, match="'all' is not a level of verification; use one of markers, sizes, crc, dec"
    ):
        verify(finished, level="all")


def stop_after(count: int) -> Callable[[Progress], None]:
    def stop(state: Progress) -> None:
        if state.done == count:
            raise KeyboardInterrupt

    return stop


def test_unfinished_run(image: Path, tmp_path: Path, whole: dict[str, str]) -> None:
    out, count = tmp_path / "run.zarr", 29  # half of the mask that reads the ring
    with pytest.raises(KeyboardInterrupt):
        run(image, RECIPE, out, tile_size=TILE, progress=stop_after(count))
    assert verify(out, level="decode") == []  # what was never done is no damage
    total = open_run(out, allow_partial=True).plan.n_tasks
    for name in ("ring/c/0/1", "science/c/0/0"):
        flip(out / name)
    assert [(f.stage, f.index) for f in verify(out)] == [("ingest", (0, 0)), ("ring", (0, 1))]
    assert again(image, out, whole) == total - count + 2


def test_verify_of_a_run_in_progress_changes_nothing(image: Path, copy: Path, whole: dict[str, str]) -> None:
    seen = []

    def look(state: Progress) -> None:
        if state.stage == "output":
            seen.append(verify(copy, level="crc", discard=False))
            (copy / "science/c/0/0").write_bytes(b"")
            with pytest.raises(RunError, match="is being run by another process"):
                verify(copy)
            raise KeyboardInterrupt

    shutil.rmtree(copy / "background/c")
    with pytest.raises(KeyboardInterrupt):
        run(image, RECIPE, copy, tile_size=TILE, progress=look)
    assert len(seen[0]) == 5
    assert again(image, copy, whole) == 6


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such Zarr store"):
        verify(tmp_path / "nothing")


# --- the command


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_command(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "verify", copy) == (0, f"{copy}: nothing is damaged (level crc)\n")
    flip(copy / "mask/c/1/2")
    assert call(capsys, "verify", copy, "--level", "sizes")[0] == 0
    code, out = call(capsys, "verify", copy, "--dry-run")
    assert code == 4
    assert out.splitlines()[0] == (
        "faint-mask tile (1, 2) (rows 100:190, columns 200:210), mask/c/1/2: checksum differs"
    )
    assert (copy / "run/_SUCCESS").is_file()
    code, out = call(capsys, "verify", copy, "--json")
    (fault,) = json.loads(out)["faults"]
    assert (code, fault["index"], fault["region"]) == (4, [1, 2], [100, 190, 200, 210])
    assert not (copy / "run/_SUCCESS").exists()
    assert call(capsys, "verify", copy, "--level", "most")[0] == 2


# --- status


def test_status(image: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {int(v) for state in open_run(finished).status().values() for v in state.ravel()} == {STATUS["done"]}
    out, works = tmp_path / "run.zarr", tasks.perform

    def fails(operation: Any, task: Any) -> Any:
        if operation.kind == "ring" and task.index == (1, 1):
            raise ValueError("no")
        return works(operation, task)

    monkeypatch.setattr(tasks, "perform", fails)
    with pytest.raises(RunError, match="1 of 6 tasks of stage ring failed"):
        run(image, RECIPE, out, tile_size=TILE)
    (out / "science/c/0/2").unlink()
    partial = open_run(out, allow_partial=True)
    state = partial.status()
    assert state["ingest"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert state["ring"].tolist() in ([[1, 1, 1], [1, 0, 1]], [[1, 1, 1], [1, 3, 1]])
    assert not state["output"].any()
    assert state["fine-mesh"].shape == (1, 1)


def test_status_of_masked_tiles(tmp_path: Path) -> None:
    science = make_planes((192, 192))["science"]
    science[64:128, 64:128] = np.nan
    fits.PrimaryHDU(science).writeto(tmp_path / "image.fits")
    result = run(tmp_path / "image.fits", "sextractor", tmp_path / "run.zarr", tile_size=64)
    assert result.status()["output"].tolist() == [[1, 1, 1], [1, STATUS["all-masked"], 1], [1, 1, 1]]
    assert run(tmp_path / "image.fits", "sextractor", tmp_path / "run.zarr", tile_size=64,
               progress=lambda _: pytest.fail("computed again")).complete  # fmt: skip


@pytest.mark.parametrize("count", [0, 30, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 7, 48))])
def test_partial_run_opens_at_any_moment(image: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "run.zarr"
    prepared = prepare(RECIPE, image, out, tile_size=TILE)
    if count == 0:
        with prepared.locked(restart=False):
            prepared.create()
    else:
        with pytest.raises(KeyboardInterrupt):
            prepared.execute(progress=stop_after(count))
    state = open_run(out, allow_partial=True).status()
    assert sum(int(s.sum()) for s in state.values()) == count


# --- what the system refuses


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no privilege to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def done_and_damaged(out: Path) -> tuple[int, int]:
    return len(list(out.glob("run/markers/*/[0-9]*.json"))), len(verify(out, level="decode", discard=False))


def test_disk_full(image: Path, small_disk: Path, whole: dict[str, str]) -> None:
    out = small_disk / "run.zarr"
    with pytest.raises(RunError, match=r"run.zarr/.* cannot be written \(No space left on device\); make room, then"):
        run(image, RECIPE, out, tile_size=TILE)
    assert not (out / "run/_SUCCESS").exists()
    markers, faults = done_and_damaged(out)
    assert faults == 0
    remount(small_disk, "size=16m")
    total = open_run(out, allow_partial=True).plan.n_tasks
    assert 0 < markers < total
    assert again(image, out, whole) == total - markers


@pytest.mark.parametrize(
    "room", [30_000, *(pytest.param(n, marks=pytest.mark.faults) for n in (2000, 90_000, 170_000))]
)
def test_disk_full_at_any_moment(image: Path, small_disk: Path, whole: dict[str, str], room: int) -> None:
    out = small_disk / "run.zarr"
    (small_disk / "filler").write_bytes(b"x" * (400_000 - 32_768 - room))
    with pytest.raises(RunError, match=r"cannot be written \(No space left on device\); make room, then"):
        run(image, RECIPE, out, tile_size=TILE)
    assert not (out / "run/_SUCCESS").exists()
    remount(small_disk, "size=16m")
    again(image, out, whole)


def test_read_only_store(image: Path, finished: Path, small_disk: Path, whole: dict[str, str]) -> None:
    remount(small_disk, "size=16m")
    out = Path(shutil.copytree(finished, small_disk / "run.zarr"))
    remount(small_disk, "ro")
    assert again(image, out, whole) == 0  # a finished run is only read
    remount(small_disk, "rw")
    (out / "background/c/0/1").unlink()
    remount(small_disk, "ro")
    with pytest.raises(RunError, match=r"run/lock cannot be written \(Read-only file system\); allow writing there"):
        run(image, RECIPE, out, tile_size=TILE)
    remount(small_disk, "rw")
    assert again(image, out, whole) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [(13, r"Permission denied\); allow writing there"), (5, r"Input/output error\); check the disk"),
     (122, r"Disk quota exceeded\); make room")],
)  # fmt: skip
@pytest.mark.parametrize("nth", [30, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 90))])
def test_write_refused(
    image: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch, code: int, words: str, nth: int
) -> None:
    """The system refuses a write: real errors of the other kinds need rights that tests may not lack."""
    out, count, real = tmp_path / "run.zarr", 0, os.fsync

    def refuse(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count >= nth:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(RunError, match=rf"run.zarr/.* cannot be written \({words}"):
            run(image, RECIPE, out, tile_size=TILE)
    assert not (out / "run/_SUCCESS").exists()
    again(image, out, whole)


# --- an input that changes


def test_input_that_changes_while_it_is_read(image: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "image.fits", tmp_path / "run.zarr"
    shutil.copy2(image, path)
    stat = path.stat()

    def touch(state: Progress) -> None:
        if state.stage == "output":
            os.utime(path, ns=(1, 1))

    with pytest.raises(RunError, match=r"image.fits changed while it was read \(size or time of image.fits changed\)"):
        run(path, RECIPE, out, tile_size=TILE, progress=touch)
    assert not (out / "run/_SUCCESS").exists()
    with pytest.raises(RunError, match=r"another input \(science: size or time of image.fits changed\)"):
        run(path, RECIPE, out, tile_size=TILE)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(RunError, match="tiles of two inputs are mixed; start over with --restart"):
        run(path, RECIPE, out, tile_size=TILE)
    assert run(path, RECIPE, out, tile_size=TILE, restart=True).complete


def test_input_that_goes_away(image: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "image.fits", tmp_path / "run.zarr"
    shutil.copy2(image, path)

    def remove(state: Progress) -> None:
        if state.stage == "output" and path.exists():
            path.rename(tmp_path / "away.fits")

    with pytest.raises(ValueError, match=r"image.fits can no longer be read .*; restore it, then run again"):
        run(path, RECIPE, out, tile_size=TILE, progress=remove)
    (tmp_path / "away.fits").rename(path)
    states: list[Progress] = []
    assert run(path, RECIPE, out, tile_size=TILE, progress=states.append).complete
    assert not states
