"""The rows that count faults name tests that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ledger import COUNTS, NAMED, ROWS


@pytest.mark.parametrize("name", [*NAMED, *COUNTS])
def test_what_is_named_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    (path,) = Path(__file__).parents[1].rglob(file)
    assert f"\ndef {test.partition('[')[0]}" in path.read_text() if test else "\ndef test_" in path.read_text()


def test_every_row_is_one_of_the_table() -> None:
    assert set(NAMED.values()) <= {row.key for row in ROWS}
