"""Scratch files end with their process, however that ends, and nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiledsky.scratch import drop, scratch_file, scratch_folder

MAKES = """
import os, signal, sys
from pathlib import Path
from tiledsky.scratch import scratch_file, scratch_folder
folder = Path(sys.argv[1])
os.write(scratch_file(".fits", folder)[0], b"pixels")
(scratch_folder(folder) / "inside").write_bytes(b"more")
print("made", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    others = ["tiledsky-scratch-mine.fits", "tiledsky-results.fits", "x"]
    for name in others:
        (tmp_path / name).write_bytes(b"of the user")
    words = [sys.executable, "-c", MAKES, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        first, second = sorted({p.name for p in tmp_path.iterdir()} - set(others))
        _, own = scratch_file("-own", tmp_path)
        assert (tmp_path / first).exists()
        assert (tmp_path / second).exists()  # as long as it lives
        process.kill()
        process.wait()
        folder = scratch_folder(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {*others, own.name, folder.name}
    (folder / "inside").mkdir()
    for path in (own, folder):
        drop(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_bytes(b"of the user")
    opened, path = scratch_file("", tmp_path / "scratch")
    os.close(opened)
    drop(path)
    path.symlink_to(tmp_path / "precious")
    path.with_name(path.name[:-8] + "a" * 8).symlink_to(tmp_path / "precious/file")
    scratch_folder(tmp_path / "scratch")
    assert (tmp_path / "precious/file").read_bytes() == b"of the user"


def test_no_folder(tmp_path: Path) -> None:
    for make in (lambda: scratch_file("", tmp_path / "none"), lambda: scratch_folder(tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match="none"):
            make()
