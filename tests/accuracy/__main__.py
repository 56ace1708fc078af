"""Accuracy of the presets beside photutils and sep: JSON, a figure, the tables of docs/accuracy.md.

``python -m tests.accuracy --json build/accuracy.json [--figure FILE.png] [--page docs/accuracy.md] [--families ..]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tests.accuracy.families import FAMILIES
from tests.accuracy.measure import CHAIN, TOOLS, estimates, figures
from tests.accuracy.tables import figure, page


def main() -> None:
    """Measure what is asked for, adding to what the JSON file holds."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--figure", type=Path)
    options.add_argument("--page", type=Path)
    options.add_argument("--families", default=",".join(FAMILIES))
    options.add_argument("--tools", default=",".join((*TOOLS, *CHAIN)))
    options.add_argument("--seeds", type=int, default=None, help="at most so many of each kind")
    chosen = options.parse_args()
    rows = json.loads(chosen.json.read_text()) if chosen.json.exists() else []
    for family in filter(None, chosen.families.split(",")):
        make, tuned, others = FAMILIES[family]
        for seed in (*tuned[: chosen.seeds], *others[: chosen.seeds]):
            scene = make(seed)
            for tool, found, seconds in estimates(scene, tuple(chosen.tools.split(","))):
                key = {"family": family, "seed": seed, "tool": tool}
                row = {**key, "tuned": seed in tuned, "cpu": seconds, **figures(scene, found)}
                rows = [r for r in rows if any(r[k] != v for k, v in key.items())] + [row]
                print(f"{family:20} {seed:3} {tool:18} std {row['std']:.5f} mean {row['mean']:+.5f}", flush=True)
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            chosen.json.write_text(json.dumps(rows, indent=1))
    if chosen.figure:
        figure(rows, chosen.figure)
    if chosen.page:
        page(rows, chosen.page)


if __name__ == "__main__":
    main()
