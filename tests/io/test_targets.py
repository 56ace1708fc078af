"""What stands under the name of an output: only files are replaced."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiledsky.errors import ParameterError
from tiledsky.io.targets import check_target_file


@pytest.fixture
def names() -> Iterator[Path]:
    """Folder with one of each; its path is short, as that of a socket must be."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        folder = Path(name)
        os.mkfifo(folder / "pipe")
        server.bind(str(folder / "socket"))
        (folder / "folder").mkdir()
        (folder / "file").write_text("thesis")
        (folder / "link").symlink_to("file")
        (folder / "nowhere").symlink_to("none")
        (folder / "null").symlink_to("/dev/null")
        yield folder


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pipe", "pipe"),
        ("socket", "socket"),
        ("folder", "folder"),
        ("link", "link"),
        ("nowhere", "link"),
        ("null", "link"),
        ("/dev/null", "device"),
    ],
)
def test_what_is_no_file_is_refused(names: Path, name: str, what: str) -> None:
    with pytest.raises(ParameterError, match=f"{name} is a {what}, and a file would take its place; name a file"):
        check_target_file(names / name)


def test_files_that_others_wrote_are_refused(names: Path) -> None:
    check_target_file(names / "file")
    check_target_file(names / "none")
    check_target_file(names / "file", mark=b"the")
    with pytest.raises(ParameterError, match="file was not written by tiledsky, so it is not replaced; name another"):
        check_target_file(names / "file", mark=b"tiledsky")
