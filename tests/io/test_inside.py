"""Files of a store are reached by their paths within it, and never through a link."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from tiledsky.errors import RunError
from tiledsky.geometry import Region
from tiledsky.io import files, store
from tiledsky.io.files import write_bytes
from tiledsky.io.folders import LocalFolder
from tiledsky.io.inside import DOCUMENT_BYTES, inside, unforeseen
from tiledsky.io.zarr.shards import read_region, write_object
from tiledsky.workflows.publish import upload

#: What reads a file, or opens it.
OPENING = (LocalFolder.open, LocalFolder.read, LocalFolder.size, LocalFolder.open_lock)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store/run").mkdir(parents=True)
    (tmp_path / "store/run/plan.json").write_bytes(b"{}")
    return tmp_path / "store"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder with a file that nothing may touch."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis").write_bytes(b"years of work")
    return tmp_path / "home"


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


#: What may stand in place of a file.
INTRUDERS: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda place, home: place.symlink_to(home / "thesis"),
    "dangling": lambda place, home: place.symlink_to(home / "new"),
    "device": lambda place, home: place.symlink_to("/dev/zero"),
    "pipe": lambda place, home: os.mkfifo(place),
    "socket": lambda place, home: _socket(place),
}


def test_plain_files(root: Path) -> None:
    assert LocalFolder(root).read("run/plan.json") == b"{}"
    assert LocalFolder(root).size("run/plan.json") == 2
    assert LocalFolder(root).is_file("run/plan.json")
    assert not LocalFolder(root).is_file("run")
    assert list(LocalFolder(root).files()) == ["run/plan.json"]
    LocalFolder(root).check()
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        LocalFolder(root).read("run/none.json")
    with pytest.raises(IsADirectoryError, match="run"):
        LocalFolder(root).read("run")
    link = root.with_name("link")
    link.symlink_to(root)  # the store itself may be reached by one: it was named by the user
    assert LocalFolder(link).read("run/plan.json") == b"{}"


@pytest.mark.parametrize("path", ["../home/thesis", "run/../../home/thesis", "/etc/hostname", "run/\0"])
def test_paths_that_lead_out(root: Path, precious: Path, path: str) -> None:
    for use in (*OPENING, lambda folder, path: inside(folder.path, path)):
        with pytest.raises(OSError, match="is not a path of this store"):
            use(LocalFolder(root), path)
    with pytest.raises(RunError, match="is not a path of this store"):
        LocalFolder(root).write(path, b"x")
    with pytest.raises(RunError, match="is not a path of this store"):
        LocalFolder(root).remove(path)
    assert (precious / "thesis").read_bytes() == b"years of work"


@pytest.mark.parametrize("kind", INTRUDERS)
def test_what_is_no_file_is_neither_read_nor_written_to(root: Path, precious: Path, kind: str) -> None:
    place = root / "run/lock"
    INTRUDERS[kind](place, precious)
    for use in OPENING:
        with pytest.raises(OSError, match=r"a link, which a run store does not have|not a file"):
            use(LocalFolder(root), "run/lock")
    assert not LocalFolder(root).is_file("run/lock")
    with pytest.raises(
        RunError,
        match=r"run/lock is (a link|a pipe, a socket or a "
        "device), and a run store may contain",
    ):
        list(LocalFolder(root).files())
    LocalFolder(root).write("run/lock", b"new")  # replaces what stands there
    assert LocalFolder(root).read("run/lock") == b"new"
    place.unlink()
    INTRUDERS[kind](place, precious)
    LocalFolder(root).remove("run/lock")
    assert not os.path.lexists(place)
    assert {p.name: p.read_bytes() for p in precious.iterdir()} == {"thesis": b"years of work"}


def test_folders_that_are_links(root: Path, precious: Path) -> None:
    (root / "run/failed").symlink_to(precious)
    for use in OPENING:
        with pytest.raises(OSError, match="a link, which a run store does not have"):
            use(LocalFolder(root), "run/failed/thesis")
    with pytest.raises(RunError, match=r"run/failed/thesis cannot be written \(a link"):
        LocalFolder(root).write("run/failed/thesis", b"x")
    with pytest.raises(RunError, match=r"run/failed/thesis cannot be written \(a link"):
        LocalFolder(root).remove("run/failed/thesis")
    with pytest.raises(
        RunError,
        match=r"run/failed is a link, and a run store may "
        "contain only plain files and folders",
    ):
        LocalFolder(root).check()
    assert {p.name: p.read_bytes() for p in precious.iterdir()} == {"thesis": b"years of work"}


def test_documents_have_a_size(root: Path) -> None:
    with (root / "run/plan.json").open("wb") as file:
        file.truncate(DOCUMENT_BYTES + 1)
    with pytest.raises(OSError, match=f"has more than {DOCUMENT_BYTES} bytes"):
        LocalFolder(root).read("run/plan.json")


def test_temporary_names_are_new_and_follow_no_link(
    root: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {unforeseen(root / "page.html").name for _ in range(100)}
    assert len(names) == 100
    assert all(files.is_temporary(name) and str(os.getpid()) != name.rpartition(".")[2] for name in names)
    laid = root / ".page.html.known"
    laid.symlink_to(precious / "thesis")
    monkeypatch.setattr(files, "unforeseen", lambda path: laid)
    with pytest.raises(RunError, match=r"page\.html cannot be written \(File exists\)"):
        write_bytes(root / "page.html", b"x")
    assert (precious / "thesis").read_bytes() == b"years of work"


def test_files_have_the_permissions_that_the_user_gives(root: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(root / "page.html", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "page.html").stat().st_mode) == 0o640


@pytest.mark.parametrize("what", ["chunk", "folder"])
def test_pixels_behind_a_link(tmp_path: Path, what: str) -> None:
    group = zarr.open_group(str(tmp_path / "run.zarr"), mode="w")
    region = Region(0, 8, 0, 9)
    made = store.create_plane(group, "p", shape=(8, 9), dtype="float32", tile=(8, 9))
    write_object(made, region, np.ones((8, 9), np.float32))
    place = tmp_path / "run.zarr/p/c/0" / ("0" if what == "chunk" else "")
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(read_region(made, region), 1)  # of an input
    array = store.open_plane(LocalFolder(tmp_path / "run.zarr"), "p")
    for read in (lambda: read_region(array, region), lambda: array[...]):
        with pytest.raises(OSError, match="a link, which a run store does not have"):
            read()


@pytest.mark.parametrize("kind", ["link", "pipe", "socket"])
def test_nothing_is_published_of_a_store_with_links(root: Path, precious: Path, kind: str) -> None:
    (root / "background").mkdir()
    INTRUDERS[kind](root / "background/notes", precious)
    with pytest.raises(RunError, match="background/notes is a"):
        upload(root, "s3://sky/run.zarr", last="run/_SUCCESS")
