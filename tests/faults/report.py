"""Write what runs of the tests of faults counted into a page: ``python -m tests.faults.report LEDGER.json... PAGE.md``.

The table goes between two comments of the page. Counts of several ledgers are added up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.faults.ledger import ROWS

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table(facts: dict[str, Any]) -> str:
    """Return the table and what is said about it."""
    rows = facts["rows"]
    lines = ["| what is done | what must happen | tried | survived | bytes lost |", "|---|---|--:|--:|--:|"]
    for row in ROWS:
        entry = rows[row.key]
        numbers = " | ".join(f"{entry[key]:,}" for key in ("tried", "survived", "lost"))
        lines.append(f"| {row.fault} | {row.must} | {numbers} |")
    total = " | ".join(f"**{sum(entry[key] for entry in rows.values()):,}**" for key in ("tried", "survived", "lost"))
    lines.append(f"| **all** | | {total} |")
    lines += ["", f"Counted on {facts['date']} in {facts['seconds'] / 60:.0f} minutes ({facts['machine']})."]
    skipped = [f"{row.key}: {text}" for row in ROWS for text in rows[row.key]["skipped"]]
    failed = [text for row in ROWS for text in rows[row.key]["failed"]]
    lines += [f"Not tried: {text}" for text in skipped] + [f"NOT survived: {text}" for text in failed]
    return "\n".join(lines)


def added(ledgers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one ledger with the counts of several; date and machine are those of the last."""
    facts = {**ledgers[-1], "seconds": sum(ledger["seconds"] for ledger in ledgers)}
    facts["rows"] = {
        row.key: {key: sum((ledger["rows"][row.key][key] for ledger in ledgers[1:]), start)
                  for key, start in ledgers[0]["rows"][row.key].items()} for row in ROWS
    }  # fmt: skip
    return facts


def main() -> None:
    """Put the table into the page, and print the counts."""
    *files, page = map(Path, sys.argv[1:])
    facts, text = added([json.loads(file.read_text()) for file in files]), page.read_text()
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit(f"{page} has no place for the table: {BEGIN} ... {END}")
    page.write_text(f"{head}{BEGIN}\n{table(facts)}\n{END}{tail}")
    for row in ROWS:
        entry = facts["rows"][row.key]
        counts = f"{entry['tried']:6} tried {entry['survived']:6} survived {entry['lost']:3} bytes lost"
        print(f"{row.key:10} {counts} {entry['seconds']:6.0f} s")


if __name__ == "__main__":
    main()
