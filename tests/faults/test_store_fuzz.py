"""Run stores whose documents somebody edited: an exit code that is documented, one line, nothing touched outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.ledger import Tally


@pytest.mark.row("edited")
@pytest.mark.parametrize(
    ("share", "least"), [(90, 15), pytest.param(3, 400, marks=pytest.mark.faults)], ids=["some", "many"]
)
def test_edited_documents(finished: Path, image: Path, tmp_path: Path, tally: Tally, share: int, least: int) -> None:
    words = [str(tmp_path / "fuzz"), str(finished), str(image), str(share), str(share)]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.faults.store_fuzz", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, cwd=Path(__file__).parents[2])
    last = tmp_path / "fuzz/last"
    assert done.returncode == 0, f"died at {last.read_text() if last.exists() else 'the start'}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert found["failures"] == []
    assert found["edits"] > least
    # neither blind nor afraid of everything, to two standard errors of a share of so many commands
    commands = sum(found["counts"].values())
    assert 0.3 - commands**-0.5 < found["counts"]["exit code 4"] / commands < 0.9
    tally.add(found["edits"])
    print(f"faults: {found['edits']} edited documents of run stores, 0 failures: {found['counts']}")
