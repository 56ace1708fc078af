"""The run store: planes as they are stored, and the commit of a task."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tiledsky.errors import InputError, RunError
from tiledsky.geometry import Region
from tiledsky.io import files, store
from tiledsky.io.folders import LocalFolder
from tiledsky.io.store import Markers


@pytest.fixture
def group(tmp_path: Path) -> zarr.Group:
    return zarr.open_group(str(tmp_path / "s.zarr"), mode="w")


def objects(array: Any, root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in (root / array.path / "c").rglob("*") if p.is_file())


def test_planes_are_sharded_by_tile(group: zarr.Group, tmp_path: Path) -> None:
    array = store.create_plane(group, "p", shape=(1000, 700), dtype="float32", tile=(600, 600))
    assert (array.shards, array.chunks) == ((600, 600), (300, 300))
    region = Region(600, 1000, 0, 600)
    array[region.slices] = 1
    assert objects(array, tmp_path / "s.zarr") == ["p/c/1/0"]
    assert store.tile_index(array, region) == (1, 0)
    assert store.object_path(array, (1, 0)) == "p/c/1/0"
    assert np.isnan(array[:600, :600]).all()


@pytest.mark.parametrize(("dtype", "fill"), [("float32", np.nan), ("float64", np.nan), ("uint8", 0), ("bool", False)])
@pytest.mark.parametrize("tile", [(50, 60), (600, 600)])
def test_objects_equal_to_the_fill_value_are_written(tmp_path: Path, dtype: str, fill: Any, tile: Any) -> None:
    root = tmp_path / "s.zarr"
    group = zarr.open_group(str(root), mode="w")
    store.create_plane(group, "p", shape=tile, dtype=dtype, tile=tile)
    array = store.writable(zarr.open_group(str(root), mode="r+")["p"])  # type: ignore[arg-type]
    array[...] = fill
    assert objects(array, root) == ["p/c/0/0"]


@pytest.mark.parametrize("tile", [(60, 60), (600, 600)])
def test_a_flipped_bit_is_an_error(tmp_path: Path, tile: tuple[int, int]) -> None:
    root = tmp_path / "s.zarr"
    group = zarr.open_group(str(root), mode="w")
    array = store.create_plane(group, "p", shape=tile, dtype="float32", tile=tile)
    array[...] = np.random.default_rng(1).normal(size=tile)
    path = root / "p/c/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        array[...]


def test_groups_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such Zarr store; give the folder that a run or ingest wrote"):
        store.open_store(LocalFolder(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a Zarr group"):
        store.open_store(LocalFolder(tmp_path / "empty"))
    zarr.create_array(str(tmp_path / "array"), data=np.zeros((3, 3)))
    with pytest.raises(InputError, match="not a Zarr group"):
        store.open_store(LocalFolder(tmp_path / "array"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/zarr.json").write_text("{")
    with pytest.raises(InputError, match="not a Zarr group"):
        store.open_store(LocalFolder(tmp_path / "damaged"))


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.json"
    files.write_bytes(path, b"one")
    assert path.read_bytes() == b"one"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match=r"b.json cannot be written \(No space left on device\); make room"):
        files.write_bytes(path, b"two")
    assert path.read_bytes() == b"one"
    assert all(files.is_temporary(p.name) for p in path.parent.iterdir() if p != path)


def test_temporary_names() -> None:
    assert [files.is_temporary(n) for n in (".0.0.json.17", "0.12ab.partial", "0", "zarr.json", "0.0.json")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_run_files(tmp_path: Path) -> None:
    store.write_json(LocalFolder(tmp_path), "x/facts.json", {"b": 1, "a": [2]})
    assert json.loads((tmp_path / "run/x/facts.json").read_bytes()) == {"a": [2], "b": 1}


def owned(stage: str, index: tuple[int, int]) -> list[str]:
    """Objects of a task by the plan."""
    return ["p/0", "p/1"]


@pytest.fixture
def committed(tmp_path: Path) -> tuple[Markers, dict[str, Any]]:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/0").write_bytes(b"pixels" * 1000)
    (tmp_path / "p/1").write_bytes(b"")
    markers = Markers(LocalFolder(tmp_path), "run1", owned)
    return markers, markers.write("ring", (3, 4), objects=["p/0", "p/1"], seconds=1.5)


def test_marker_says_what_was_written(committed: Any, tmp_path: Path) -> None:
    markers, marker = committed
    assert markers.read("ring", (3, 4)) == marker == json.loads((tmp_path / "run/markers/ring/3.4.json").read_text())
    assert marker["objects"][0] == {"path": "p/0", "size": 6000, "crc32": zlib.crc32(b"pixels" * 1000)}
    assert (marker["run_id"], marker["stage"], marker["tile"], marker["seconds"]) == ("run1", "ring", [3, 4], 1.5)


def test_no_marker_for_what_is_not_there(tmp_path: Path) -> None:
    markers = Markers(LocalFolder(tmp_path), "run1", owned)
    with pytest.raises(RunError, match="p/7 cannot be written"):
        markers.write("ring", (0, 0), objects=["p/7"])
    assert markers.read("ring", (0, 0)) is None
    assert not (markers.root / markers.name("ring", (0, 0))).exists()


@pytest.mark.parametrize("cut", range(0, 219, 23))
def test_torn_marker_is_none(committed: Any, cut: int) -> None:
    markers, _ = committed
    path = markers.root / markers.name("ring", (3, 4))
    assert cut < len(path.read_bytes())
    path.write_bytes(path.read_bytes()[:cut])
    assert markers.read("ring", (3, 4)) is None


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"run_id": "run1"}', '{"run_id": "run1", "objects": [{}]}'])
def test_marker_of_another_form_is_none(committed: Any, text: str) -> None:
    markers, _ = committed
    (markers.root / markers.name("ring", (3, 4))).write_text(text)
    assert markers.read("ring", (3, 4)) is None


@pytest.mark.parametrize("path", ["/etc/hostname", "../p/1", "p/../p/1", "p/2"])
def test_marker_with_objects_of_others_is_none(committed: Any, tmp_path: Path, path: str) -> None:
    markers, marker = committed
    (tmp_path / "p/2").write_bytes(b"")
    changed = {**marker, "objects": [marker["objects"][0], {"path": path, "size": 0, "crc32": 0}]}
    (markers.root / markers.name("ring", (3, 4))).write_text(json.dumps(store.sealed(changed)))
    assert markers.read("ring", (3, 4)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"objects": {}},
        {"objects": [None]},
        {"objects": [{"path": 1, "size": 0, "crc32": 0}]},
        {"objects": [{"path": "p/0", "size": True, "crc32": 0}]},
        {"cpu_seconds": "1"},
        {"peak_memory": None},
        {"task_peak": [1]},
        {"status": 1},
    ],
)
def test_marker_with_values_of_other_types_is_none(committed: Any, change: dict[str, Any]) -> None:
    markers, marker = committed
    (markers.root / markers.name("ring", (3, 4))).write_text(json.dumps(store.sealed({**marker, **change})))
    assert markers.load("ring", (3, 4)) is None


def test_marker_needs_its_objects_and_its_run(committed: Any, tmp_path: Path) -> None:
    markers, marker = committed
    assert Markers(LocalFolder(tmp_path), "run2", owned).read("ring", (3, 4)) is None
    assert markers.read("ring", (4, 3)) is None
    assert markers.read("mask", (3, 4)) is None
    (tmp_path / "p/0").write_bytes(b"pixels" * 999)
    assert markers.read("ring", (3, 4)) is None
    (tmp_path / "p/0").write_bytes(b"pixels" * 1000)
    assert markers.read("ring", (3, 4)) == marker
    markers.root.remove("p/1", "p/none")
    assert markers.read("ring", (3, 4)) is None


def test_discarded_marker(committed: Any) -> None:
    markers, _ = committed
    markers.discard("ring", (3, 4))
    markers.discard("ring", (3, 4))
    assert markers.read("ring", (3, 4)) is None


def test_discarded_marker_does_not_come_back(committed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is synced before what it vouches for is touched, where there was a marker."""
    markers, _ = committed
    synced = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    markers.discard("ring", (3, 4))
    markers.discard("ring", (3, 4))
    assert synced == [str((markers.root / markers.name("ring", (3, 4))).parent)]


def test_way_is_made_past_what_is_no_file(committed: Any, tmp_path: Path) -> None:
    """Files stay, for they may be somebody's work; folders in their place go, and files in place of folders."""
    markers, marker = committed
    markers.root.make_way(markers.name("ring", (3, 4)), "p/0", "p/1", "p/none", "none/at/all")
    assert markers.read("ring", (3, 4)) == marker
    (tmp_path / "p/1").unlink()
    (tmp_path / "p/1/inside").mkdir(parents=True)
    (tmp_path / "q").write_bytes(b"a file")
    (markers.root / markers.name("ring", (3, 5))).mkdir()
    markers.root.make_way(markers.name("ring", (3, 5)), "p/0", "p/1", "q/c/0")
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.is_dir()) == ["0", "3.4.json"]
    files.write_bytes(tmp_path / "q/c/0", b"pix", b"els")
    assert (tmp_path / "q/c/0").read_bytes() == b"pixels"


def test_nothing_is_written_once_the_call_has_ended(tmp_path: Path) -> None:
    call, path = tmp_path / "call", tmp_path / "p/0"
    call.mkdir()
    with files.begun_in(call):
        files.write_bytes(path, b"one")
        assert (path.read_bytes(), list(call.iterdir())) == (b"one", [])
        call.rename(tmp_path / "gone")
        for file in (path, tmp_path / "q/0"):
            with pytest.raises(RunError, match="is not written: the call of this task has ended, or another one has"):
                files.write_bytes(file, b"two")
    assert path.read_bytes() == b"one"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["0", "gone", "p"]


def test_zarr_threads_are_given_back() -> None:
    before = zarr.config.get("async.concurrency")
    with store.zarr_threads(1):
        assert zarr.config.get("threading.max_workers") == 1
    assert zarr.config.get("async.concurrency") == before
