"""Whether `tiledsky advise` chooses the best of its recipes, on scenes whose sky is known.

    python -m tests.accuracy.advised [--seeds 501,502] [--sizes 800,1000,1200] [--only galaxies,cluster]

Prints a row a scene as Markdown: what is advised, its error, the best recipe and its error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

from tests.accuracy import lsb
from tests.accuracy.families import FAMILIES
from tests.accuracy.scene import Scene
from tiledsky import estimate_background
from tiledsky.errors import TiledSkyError
from tiledsky.workflows.advise import advise

#: As good as the best: within so many times its error.
AS_GOOD = 1.3


def gradient(seed: int, size: int) -> Scene:
    """A deep field whose sky rises by tens of the noise of a pixel."""
    rng, shape = np.random.default_rng([320, seed]), (size, size)
    return lsb.observed(rng, lsb.smooth_sky(rng, shape, slope=30.0), lsb.field_light(rng, shape))


SCENES: dict[str, Callable[..., Scene]] = {
    **{name: FAMILIES[name].make for name in ("galaxies", "cluster", "stars", "deep", "skewed", "cirrus")},
    "gradient": gradient,
}


def true_error(scene: Scene, recipe: str) -> float:
    """Root mean square error of a recipe's sky, in the noise of a pixel; infinite where it cannot work."""
    try:
        found = estimate_background(scene.image, recipe).background
    except TiledSkyError:
        return float("inf")
    return float(np.sqrt(np.mean((found - scene.sky) ** 2)) / scene.noise)


def main() -> None:
    """Print the table, and how often the advice is as good as the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="501,502")
    parser.add_argument("--sizes", default="800,1000,1200")
    parser.add_argument("--only", default=",".join(SCENES))
    parser.add_argument("--details", action="store_true", help="a line of JSON a recipe on the standard error")
    options = parser.parse_args()
    print("| scene | seed | px | advised | its error | best | its error | ratio |\n|---|---|---|---|---|---|---|---|")
    ratios = []
    for size in map(int, options.sizes.split(",")):
        for name in options.only.split(","):
            for seed in map(int, options.seeds.split(",")):
                scene = SCENES[name](seed, size)
                with tempfile.TemporaryDirectory() as folder:
                    fits.writeto(path := Path(folder, "image.fits"), scene.image)
                    found = advise(path, boxes=(6,))
                truth = {row["name"]: true_error(scene, row["name"]) for row in found["recipes"]}
                advised, best = found["recipes"][0]["name"], min(truth, key=lambda recipe: truth[recipe])
                ratios.append(truth[advised] / truth[best])
                figures = f"{advised} | {truth[advised]:.4f} | {best} | {truth[best]:.4f} | {ratios[-1]:.2f}"
                print(f"| {name} | {seed} | {size} | {figures} |", flush=True)
                if options.details:
                    for row in found["recipes"]:
                        print(json.dumps({**row, "truth": truth[row["name"]]}), file=sys.stderr, flush=True)
    good = sum(ratio <= AS_GOOD for ratio in ratios)
    print(f"\nBest or within {AS_GOOD} times the best: {good} of {len(ratios)}.")


if __name__ == "__main__":
    main()
