"""What all tests share. Runs of the tests draw no report, unless they ask for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.oracles import SharedTies

os.environ.setdefault("TILEDSKY_REPORT", "0")


@pytest.fixture(scope="session", autouse=True)
def ties_are_shared() -> Iterator[None]:
    """Let photutils fill the holes of its meshes with shared places, where its tree takes any of the boxes that tie.

    So that all else of whole chains compares; `tests.kernels.test_fill` has what it does itself.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("photutils.background.background_2d.ShepardIDWInterpolator", SharedTies)
        yield


@pytest.fixture(scope="session", autouse=True)
def compiling_is_not_told() -> Iterator[None]:
    """What a command says does not depend on which kernels are compiled meanwhile, by it or by other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiledsky.cli.compiling._EVERY", 1e6)
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit code, standard output and standard error."""

    from tiledsky.cli import main

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def refused(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[..., None]:
    """Check that a command ends with one line of error that says ``message``, and leaves no output behind."""

    def refused(code: int, message: str, *words: object) -> None:
        before = sorted(tmp_path.iterdir())
        found, out, err = call(*words)
        assert found == code, err
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("tiledsky: ")
        assert re.search(message, err), err
        assert sorted(tmp_path.iterdir()) == before

    return refused


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """Two worker processes with one thread each."""
    from tiledsky.cluster.local import local_client

    with local_client(workers=2, threads=1, memory_limit="2GB") as client:
        yield client
