"""Accuracy of the presets beside other tools: JSON, a figure, the tables of docs/accuracy.md.

    python -m tests.accuracy --json build/accuracy.json [--figure FILE.png] [--page docs/accuracy.md]
    python -m tests.accuracy --json build/part.json --only deep,galaxies --seeds 2 --size 1000 --tools deep-sky

`--only` takes names of families, their beginnings, and groups: notebooks, survey, kelvin, real.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.accuracy.families import FAMILIES, chosen_families
from tests.accuracy.measure import USUAL, estimates, figures
from tests.accuracy.real import NoData
from tests.accuracy.tables import figure, page


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--figure", type=Path)
    options.add_argument("--page", type=Path)
    options.add_argument("--only", default=",".join(FAMILIES), help="families, their beginnings, or groups")
    options.add_argument("--tools", help="those of the group, if not given")
    options.add_argument("--seeds", type=int, help="at most so many of each kind")
    options.add_argument("--size", type=int, help="side of the scenes that are made in any size, in pixels")
    return options.parse_args()


def main() -> None:
    """Measure what is asked for, adding to what the JSON file holds."""
    asked = _options()
    rows: list[dict[str, Any]] = json.loads(asked.json.read_text()) if asked.json.exists() else []
    for name in chosen_families(asked.only):
        family = FAMILIES[name]
        tools = tuple(asked.tools.split(",")) if asked.tools is not None else USUAL[family.group]
        for seed in (*family.tuned[: asked.seeds], *family.others[: asked.seeds]) if tools else ():
            try:
                scene = family.scene(seed, asked.size)
            except NoData as reason:
                print(f"{name:20} left out: {reason}", flush=True)
                continue
            here = {"family": name, "seed": seed, "size": scene.image.shape[1]}
            rows = [r for r in rows if r["tool"] not in tools or any(r[k] != v for k, v in here.items())]
            for tool, found, without, seconds in estimates(scene, tools, family.group):
                kind = {"group": family.group, "tuned": seed in family.tuned, "cpu": seconds}
                rows.append({**here, "tool": tool, **kind, **figures(scene, found, without)})
                row = rows[-1]
                std, mean, pull = row["std"] / row["noise"], row["mean"] / row["noise"], row.get("pull")
                pulls = "" if pull is None else f" pull {pull:.2f}"
                kept = f" kept {row['kept_2']:.3f} {row['kept_4']:.3f}" if "kept_2" in row else ""
                print(f"{name:20} {seed:3} {tool:20} std {std:.5f} mean {mean:+.5f}{pulls}{kept}", flush=True)
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            asked.json.write_text(json.dumps(rows, indent=1))
    if asked.figure:
        figure(rows, asked.figure)
    if asked.page:
        page(rows, asked.page)


if __name__ == "__main__":
    main()
