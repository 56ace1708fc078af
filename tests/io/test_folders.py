"""A folder of this machine and a bucket, here one in memory: the same methods, and the same answers of both."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from tiledsky.engine import leases
from tiledsky.engine.locks import FolderLocks, guard_at
from tiledsky.errors import InputError, RunError
from tiledsky.io import address
from tiledsky.io.address import Address
from tiledsky.io.buckets import ObjectStore
from tiledsky.io.folders import Folder, LocalFolder, folder_at

FILES = {"zarr.json": b"{}", "run/plan.json": b"plan", "run/markers/ring/0.0.json": b"", "background/c/0/0": b"pix"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    memory = MemoryStore()
    monkeypatch.setattr(address, "bucket", lambda url: memory)
    return ObjectStore(Address("s3://sky/run.zarr"))


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Return a store with files, and one beside it whose name begins alike."""
    made: Folder = LocalFolder(tmp_path / "run.zarr")
    if request.param == "bucket":
        made = request.getfixturevalue("bucket")
    for name, data in FILES.items():
        made.write(name, data[:1], data[1:])
    folder_at(f"{made}2").write("run/plan.json", b"another")
    return made


def test_one_door() -> None:
    assert isinstance(folder_at("a/run.zarr"), LocalFolder)
    assert isinstance(folder_at(Path("a/run.zarr")), LocalFolder)
    for url in ("s3://sky/run.zarr", "https://sky.example/run.zarr/"):
        assert isinstance(folder_at(url), ObjectStore)
        assert str(folder_at(url)) == str(folder_at(Address(url))) == url.rstrip("/")
    with pytest.raises(InputError, match="a int is not a path; give a path or an address"):
        folder_at(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("local", "remote", "alone"),
    [(LocalFolder, ObjectStore, {"open_lock"}), (FolderLocks, leases.BucketLease, {"begin"})],
)
def test_both_have_the_same_methods(local: type, remote: type, alone: set[str]) -> None:
    """``alone``: what the methods of the one alone, or their tests, need."""

    def methods(of: type) -> dict[str, Any]:
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(of, callable)
            if not name.startswith("_")
        }

    assert {name: given for name, given in methods(local).items() if name not in alone} == methods(remote)


def test_what_is_written_is_read(store: Folder) -> None:
    assert {name: store.read(name) for name in FILES} == FILES
    for name, data in FILES.items():
        with store.open(name) as file:
            assert file.read() == data
        assert (store.size(name), store.is_file(name), store.stands(name)) == (len(data), True, True)
    assert store.reader("run/")("plan.json") == b"plan"
    store.write("run/plan.json", b"new")
    assert store.read("run/plan.json") == b"new"
    for use in (store.read, store.open, store.size, store.reader("run/")):
        with pytest.raises(FileNotFoundError, match="none"):
            use("run/none")


def test_what_is_there(store: Folder) -> None:
    store.check()
    assert sorted(store.files()) == sorted(FILES)
    assert store.names() == {"zarr.json", "run", "background"}
    assert store.names("run/") == {"plan.json", "markers"}
    assert store.names("none/") == set()
    assert (store.is_file("run"), store.stands("run"), store.stands("ru"), store.path.is_dir()) == (
        False, True, False, True,
    )  # fmt: skip
    assert {name: size for name, (size, _) in store.listing().items()} == {n: len(d) for n, d in FILES.items()}
    assert store.absent(["background/c/0/1"], known=False) == ["background/c/0/1"]
    assert store.holds(f"{store}/background")
    assert not store.holds(f"{store}2/background")


def test_listing_tells_a_change(store: Folder) -> None:
    before = store.listing()
    store.write("run/plan.json", b"nalp")
    assert {name for name, told in store.listing().items() if told != before[name]} == {"run/plan.json"}


def test_what_is_removed_is_gone(store: Folder) -> None:
    store.remove("run/plan.json", "run/none")
    store.remove("run/none", sync=True)
    assert sorted(store.files()) == sorted(FILES.keys() - {"run/plan.json"})
    store.remove_tree("run")
    store.remove_tree("none")
    store.remove_tree("zarr.json")
    assert list(store.files()) == ["background/c/0/0"]
    assert folder_at(f"{store}2").read("run/plan.json") == b"another"


def test_what_killed_writers_left_is_tidied_up(store: Folder) -> None:
    for name in ("run/.plan.json.0123", "background/c/0/0.45.partial", "run/failed/ring/.0.0.timeout"):
        store.write(name, b"half")
    store.tidy()
    assert sorted(store.files()) == sorted(FILES)


def test_a_folder_takes_files_and_a_bucket_takes_any(tmp_path: Path, bucket: ObjectStore) -> None:
    folder = LocalFolder(tmp_path)
    (tmp_path / "page.html").write_text("by tiledsky")
    folder.check_takes("page.html", mark=b"tiledsky")
    with pytest.raises(InputError, match=r"none/page\.html: the folder .*none does not exist; make it or change --out"):
        LocalFolder(tmp_path / "none").check_takes("page.html")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="is a folder; name a file to write with --out"):
        folder.check_takes("b", mark=b"tiledsky")
    bucket.check_takes("page.html", mark=b"tiledsky")


# --- the lease of a bucket


def test_a_lease_keeps_others_out(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW", 0.2)
    guard = guard_at(bucket)
    with guard.locked() as call:
        with pytest.raises(RunError, match=r"s3://sky/run\.zarr is being run by another process"), guard.locked():
            raise AssertionError("two have the lease")
        with guard.working(call):
            bucket.write("background/c/0/0", b"pixels")
        for change in (lambda: bucket.write("background/c/0/0", b""), lambda: bucket.remove("background/c/0/0")):
            with guard.working("another"), pytest.raises(RunError, match="is driven by another call now, of "):
                change()
    assert bucket.read("background/c/0/0") == b"pixels"
    assert not bucket.stands("run")
    with guard.working(call), pytest.raises(RunError, match="has no driver; this task ends"):
        bucket.write("background/c/0/0", b"")
    with pytest.raises(RunError, match="slices of a job array need a folder that all jobs see; change --out"):
        guard.shared("slice", "slice 1/2", patience=0)
