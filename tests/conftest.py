"""What all tests share. Runs of the tests draw no report, unless they ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

os.environ.setdefault("TILEDSKY_REPORT", "0")


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
