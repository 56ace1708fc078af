"""Write the tables of docs/quality-numbers.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tiledsky import estimate_background
from tiledsky.diagnostics import measure

from .beside import beside, measured
from .scenes import good, planted, unbiased

#: From here on the page is of `make verdicts`.
VERDICTS = "## Verdicts beside the truth"
RECIPES = ("sextractor", "ceers-nircam", "complex-sky")


def calibration(count: int) -> Iterator[str]:
    """Bias of backgrounds that have none."""
    yield "## Bias under masks where there is none\n"
    yield f"{count} scenes of each kind, 400 x 400 px; the background is the true sky (smooth: plus a smooth error of "
    yield "0.1 sigma). z is the bias over its error; the notebook's is of its difference of means.\n"
    yield "| masks | group | scenes | mean z | std of z | abs(z) > 3 | mean bias [sigma] | notebook's abs(z) > 3 |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in ("found", "known", "smooth"):
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(count):
            case = unbiased(seed, kind)
            found = measure(case.image, case.background, case.mask)
            for group in found["measures"]["masked_bias"]["groups"]:
                if group["z"] is not None and not group["name"].startswith("tier"):
                    values = group["z"], group["bias"] / found["image"]["noise"], group["notebook"]["z"]
                    rows.setdefault(group["name"], []).append(values)
        for name, values in rows.items():
            z, bias, other = np.array(values).T
            numbers = f"{z.mean():.2f} | {z.std():.2f} | {np.mean(abs(z) > 3):.3f} | {bias.mean():.4f}"
            yield f"| {kind} | {name} | {len(z)} | {numbers} | {np.mean(abs(other) > 3):.3f} |"


def alarms(count: int) -> Iterator[str]:
    """Verdicts on pure noise."""
    yield "\n## False alarms on pure noise\n"
    yield "Gaussian noise, 320 x 320 px, the recipe run on it.\n"
    yield "| recipe | scenes | pass | warn | fail | checks that did not pass |"
    yield "|---|---|---|---|---|---|"
    for recipe in RECIPES:
        results, names = [], []
        for seed in range(count):
            image = np.random.default_rng(seed).normal(0, 0.1, (320, 320)).astype(np.float32)
            sky = estimate_background(image, recipe)
            found = measure(image, sky.background, sky.mask, rms=sky.background_rms, tile=(160, 160))
            results.append(found["verdict"]["result"])
            names += [c["name"] for c in found["verdict"]["checks"] if c["result"] in ("warn", "fail")]
        counts = " | ".join(str(results.count(result)) for result in ("pass", "warn", "fail"))
        said = ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names))) or "none"
        yield f"| {recipe} | {count} | {counts} | {said} |"


def faults(seeds: tuple[int, ...]) -> Iterator[str]:
    """Verdicts on planted faults, and on what is good."""
    yield "\n## Planted faults\n"
    yield "The notebook's scene at 512 x 512 px. Bold: the check that is made for the fault.\n"
    yield "| seed | fault | verdict | checks that fail | warn |"
    yield "|---|---|---|---|---|"
    for seed in seeds:
        base = good(seed)
        cases = {"none (complex-sky)": (base, ""), **planted(seed, base)}
        for name, (case, wanted) in cases.items():
            verdict = measured(case)["verdict"]
            said = {
                result: ", ".join(
                    f"{'**' * (c['name'] == wanted)}{c['name']} {c['value']:.3g}{'**' * (c['name'] == wanted)}"
                    for c in verdict["checks"]  # type: ignore[index]
                    if c["result"] == result
                )
                for result in ("fail", "warn")
            }
            yield f"| {seed} | {name} | {verdict['result']} | {said['fail']} | {said['warn']} |"  # type: ignore[index]


def truth(seeds: tuple[int, ...]) -> Iterator[str]:
    """Measures beside the truth, a column a scene."""
    yield "\n## Measures beside the truth\n"
    yield "Recipe complex-sky on the notebook's scene at 512 x 512 px, in units of the noise. In brackets the truth:"
    yield "the same of the true sky, or of the true error of the background; of step and region, what was planted.\n"
    yield f"| measure | of what | {' | '.join(f'seed {seed}' for seed in seeds)} |"
    yield "|---|---" + "|---" * len(seeds) + "|"
    columns = [dict(beside(seed)) for seed in seeds]
    for name in columns[0]:
        yield f"| {' | '.join((*name, *(column.get(name, '') for column in columns)))} |"


def main(path: str, count: int) -> None:
    """Write all tables."""
    head = ["# Quality in numbers", "", "Written by `make quality`.", ""]
    body = [*calibration(count), *alarms(count), *faults((4, 5, 6)), *truth((4, 5, 6, 7, 8, 9))]
    _, mark, others = Path(path).read_text().partition(VERDICTS)
    Path(path).write_text("\n".join([*head, *body, ""]) + (f"\n{mark}{others}" if mark else ""))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
