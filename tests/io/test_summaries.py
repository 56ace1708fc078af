"""Summaries of tasks: each part is read alone, and every byte that is read is one that was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiledsky.errors import RunError
from tiledsky.io.folders import LocalFolder
from tiledsky.io.summaries import read_part, read_summary, write_summary

PARTS = [b"first", b"", np.arange(1000).tobytes(), b"last"]


@pytest.fixture
def root(tmp_path: Path) -> LocalFolder:
    folder = LocalFolder(tmp_path)
    write_summary(folder, "s.bin", PARTS)
    return folder


def test_all_parts_and_each_alone(root: LocalFolder) -> None:
    assert read_summary(root, "s.bin") == PARTS
    assert [read_part(root, "s.bin", k) for k in range(4)] == PARTS


def test_no_parts(root: LocalFolder) -> None:
    write_summary(root, "none.bin", [])
    assert read_summary(root, "none.bin") == []


def test_damage_anywhere_is_found(root: LocalFolder, tmp_path: Path) -> None:
    """Of the parts read alone, exactly those that have the byte; all of them if it lies in the head."""
    whole = (tmp_path / "s.bin").read_bytes()
    head = len(whole) - sum(map(len, PARTS))
    ends = np.cumsum([head, *map(len, PARTS)])
    for at in [*range(head + 12), len(whole) - 1]:
        (tmp_path / "s.bin").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(RunError, match=r"s\.bin is damaged; run `tiledsky verify"):
            read_summary(root, "s.bin")
        for k, part in enumerate(PARTS):
            if at < head or ends[k] <= at < ends[k + 1]:
                with pytest.raises(RunError, match=r"s\.bin is damaged"):
                    read_part(root, "s.bin", k)
            else:
                assert read_part(root, "s.bin", k) == part


def test_a_file_that_goes_on(root: LocalFolder, tmp_path: Path) -> None:
    with (tmp_path / "s.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(RunError, match=r"s\.bin is damaged"):
        read_summary(root, "s.bin")


@pytest.mark.parametrize("left", [0, 1, 7, 8, 20, 59, 60, 70])
def test_a_file_that_ends_early(root: LocalFolder, tmp_path: Path, left: int) -> None:
    whole = (tmp_path / "s.bin").read_bytes()
    (tmp_path / "s.bin").write_bytes(whole[:left])
    with pytest.raises(RunError, match=r"s\.bin is damaged"):
        read_summary(root, "s.bin")
    with pytest.raises(RunError, match=r"s\.bin is damaged"):
        read_part(root, "s.bin", 2)
