"""Mosaics of exposures whose skies do not agree: how far tools are from the truth, and the terms of footprints.

    python -m tests.accuracy.footprints [--skies smooth,blemishes,cirrus] [--numbers 4,40,400] [--seeds 701]

Prints a row a scene and tool as Markdown, errors in units of the noise of one exposure. The truth of a background is
the sky with the mean of the constants of the exposures that a pixel is of.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from tests.accuracy import lsb
from tests.accuracy.measure import object_figures
from tests.accuracy.peers import Failed, masked_sep, noisechisel, source_mask
from tests.accuracy.scene import Image, Scene
from tests.notebook_scene import notebook_scene
from tiledsky import estimate_background

#: Pixels about an edge that are compared apart; on each side of an edge, of the rule of pairs.
NEAR, STRIP = 12, 16
#: Exposures of a plane of bits.
WORD = 32


class Mosaic(NamedTuple):
    """A scene, the same without steps, the exposures of each pixel as planes of bits, their constants."""

    scene: Scene
    level: Scene
    bits: Image
    sets: Image
    terms: Image
    offsets: Image

    def near(self) -> Image:
        """Pixels about the edges between sets of exposures."""
        edge = np.zeros(self.sets.shape, bool)
        for axis in (0, 1):
            step = np.diff(self.sets, axis=axis) != 0
            edge |= np.pad(step, [(0, 1) if k == axis else (0, 0) for k in (0, 1)])
            edge |= np.pad(step, [(1, 0) if k == axis else (0, 0) for k in (0, 1)])
        return ndimage.distance_transform_edt(~edge) <= NEAR


def base_sky(kind: str, rng: Any, seed: int, size: int) -> Image:
    """The sky under the steps: smooth, the notebook's blemishes, cirrus."""
    if kind == "blemishes":
        return notebook_scene(seed, default_size=2 * size).sky / 0.1
    sky = lsb.smooth_sky(rng, (size, size))
    if kind == "cirrus":
        made = lsb.cirrus(seed, size)
        return made.sky
    return sky


def exposures(rng: Any, number: int, size: int) -> Iterator[Image]:
    """Footprints, (size, size) each: tilted squares, a grid of pointings with dithers, of which some leave gaps."""
    across = max(round(np.sqrt(number / 2)), 1)
    side = size / across * (1.0 if number > 4 else 0.75)
    y, x = np.mgrid[:size, :size]
    for k in range(number):
        cell = np.array(divmod(k // 2 if number > 4 else k, max(across, 2)))
        middle = (cell + 0.5) * (size / max(across, 2)) + rng.uniform(-0.12, 0.12, 2) * side
        angle = np.radians(rng.normal(0.0, 2.0))
        u = np.cos(angle) * (x - middle[1]) + np.sin(angle) * (y - middle[0])
        v = np.cos(angle) * (y - middle[0]) - np.sin(angle) * (x - middle[1])
        yield (np.abs(u) < 0.55 * side) & (np.abs(v) < 0.55 * side)


def mosaic(
    kind: str, number: int, seed: int, size: int, *, step: float = 0.5, blur: float = 0.0, galaxy: bool = False
) -> Mosaic:
    """Exposures of noise 1 with normal constants of deviation `step`, averaged; no data where there is none."""
    rng = np.random.default_rng([330, number, seed])
    sky, light = base_sky(kind, rng, seed, size), lsb.field_light(rng, (size, size))
    terms = rng.normal(0.0, step, number)
    count, offsets, sets = np.zeros(sky.shape), np.zeros(sky.shape), np.zeros(sky.shape, np.uint64)
    bits = np.zeros((-(-number // WORD), *sky.shape), np.uint32)
    for k, inside in enumerate(exposures(rng, number, size)):
        count += inside
        offsets += terms[k] * inside
        sets += rng.integers(1, 2**50, dtype=np.uint64) * inside.astype(np.uint64)
        bits[k // WORD] |= inside.astype(np.uint32) << np.uint32(k % WORD)
    offsets /= np.maximum(count, 1)
    noise = rng.normal(size=sky.shape)
    if blur:
        noise = ndimage.gaussian_filter(noise, blur, mode="wrap")
        noise /= noise.std()
    noise *= np.sqrt((1.0 + light / lsb.LEVEL) / np.maximum(count, 1))
    objects: tuple[Any, ...] = ()
    if galaxy:
        where = np.argwhere(np.diff(count, axis=1) != 0)
        middle = np.hypot(*(where - size / 2).T).argmin()
        objects = (lsb.large_galaxy(sky.shape, "n 1", where[middle].astype(float), 1.0, 60.0, 0.03, rng),)
        light = light + objects[0].light

    def scene(true: Image) -> Scene:
        image = np.where(count > 0, true + light + noise, np.nan).astype(np.float32)
        return Scene(image, true, noise=1.0, light=light, objects=objects)

    return Mosaic(scene(sky + offsets), scene(sky), bits, sets, terms, offsets)


def pair_rule(made: Mosaic, mask: Image) -> Image:
    """Offsets as skymatch's rule has them: a constant an exposure by least squares of the pairs' differences.

    A mosaic has no overlaps left: what is compared are the medians within STRIP px of both sides of an edge between two
    sets of exposures, free of sources.
    """
    _, first, sets = np.unique(made.sets, return_index=True, return_inverse=True)
    sets = sets.reshape(made.sets.shape)
    words = made.bits.reshape(len(made.bits), -1)[:, first]
    members = np.array([words[k // WORD] >> np.uint32(k % WORD) & 1 for k in range(len(made.terms))]).T.astype(float)
    members /= np.maximum(members.sum(axis=1, keepdims=True), 1)
    rows, values, weights = [], [], []
    pairs: dict[tuple[int, int], list[list[Image]]] = {}
    for image, free, of in ((made.scene.image, ~mask, sets), (made.scene.image.T, ~mask.T, sets.T)):
        for y, x in np.argwhere(
            (of[1:] != of[:-1]) & (members.sum(axis=1) > 0)[of[1:]] & (members.sum(axis=1) > 0)[of[:-1]]
        ):
            a, b = of[y, x], of[y + 1, x]
            low, high = slice(max(y - STRIP + 1, 0), y + 1), slice(y + 1, y + 1 + STRIP)
            before = image[low, x][free[low, x] & (of[low, x] == a)]
            after = image[high, x][free[high, x] & (of[high, x] == b)]
            sides = pairs.setdefault((min(a, b), max(a, b)), [[], []])
            sides[int(a > b)].append(before)
            sides[int(a < b)].append(after)
    for (a, b), (low, high) in pairs.items():
        one, other = np.concatenate(low), np.concatenate(high)
        if min(one.size, other.size) >= STRIP:
            rows.append(members[b] - members[a])
            values.append(np.median(other) - np.median(one))
            weights.append(np.sqrt(min(one.size, other.size)))
    weight = np.array(weights)
    terms = np.linalg.lstsq(np.array(rows) * weight[:, None], np.array(values) * weight, rcond=None)[0]
    return (members @ terms)[sets]


def _deep_sky(made: Mosaic) -> tuple[Image, Any]:
    return estimate_background(made.scene.image, "deep-sky").background, None


def _footprints(made: Mosaic) -> tuple[Image, Any]:
    found = estimate_background(made.scene.image, "mosaic-steps", footprints=made.bits)
    return found.background, found.footprints


def _pairs(made: Mosaic) -> tuple[Image, Any]:
    offsets = pair_rule(made, source_mask(made.scene))
    image = (made.scene.image - offsets).astype(np.float32)
    return estimate_background(image, "deep-sky").background + offsets, None


TOOLS: dict[str, Callable[[Mosaic], tuple[Image, Any]]] = {
    "deep-sky": _deep_sky,
    "mosaic-steps": _footprints,
    "rule of pairs + deep-sky": _pairs,
    "sep 64 + mask": lambda made: (masked_sep(made.scene, 64), None),
    "NoiseChisel": lambda made: (noisechisel(made.scene), None),
    "deep-sky without steps": lambda made: (
        estimate_background(made.level.image, "deep-sky").background + made.offsets,
        None,
    ),
}


def figures(made: Mosaic, background: Image, table: Any) -> dict[str, Any]:
    """Rms error near edges and everywhere, about its mean; of the terms the rms error and pull; light kept."""
    good = np.isfinite(made.scene.image) & np.isfinite(background)
    error = background - made.scene.sky
    error -= error[good].mean()
    row: dict[str, Any] = {"near": float(error[good & made.near()].std()), "all": float(error[good].std())}
    if table is not None:
        off = table["term"] - made.terms[table["number"] - 1]
        known = np.isfinite(table["error"])
        off = off[known] - off[known].mean()
        row |= {"terms": float(off.std()), "pull": float((off / table["error"][known]).std())}
    for large in made.scene.objects:
        row["kept"] = object_figures(large, error, 1.0)["kept_2"]
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("skies", "smooth,blemishes,cirrus"), ("numbers", "4,40,400"), ("seeds", "701"), ("tools", "")):
        parser.add_argument(f"--{name}", default=value)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--step", type=float, default=0.5, help="deviation of the constants")
    parser.add_argument("--blur", type=float, default=0.0, help="Gaussian that the noise is smoothed by, px")
    parser.add_argument("--galaxy", action="store_true", help="with a large galaxy across an edge")
    parser.add_argument("--json", type=Path)
    asked, rows = parser.parse_args(), []
    print("| sky | footprints | seed | tool | rms near edges | rms | terms | pull | kept | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind in asked.skies.split(","):
        for number in map(int, asked.numbers.split(",")):
            for seed in map(int, asked.seeds.split(",")):
                made = mosaic(kind, number, seed, asked.size, step=asked.step, blur=asked.blur, galaxy=asked.galaxy)
                for tool in asked.tools.split(",") if asked.tools else TOOLS:
                    start = sum(os.times()[:4])
                    try:
                        background, table = TOOLS[tool](made)
                    except Failed as reason:
                        print(f"| {kind} | {number} | {seed} | {tool} | {reason} |", flush=True)
                        continue
                    seconds = sum(os.times()[:4]) - start
                    row = figures(made, background, table)
                    rows.append({"sky": kind, "number": number, "seed": seed, "tool": tool, "cpu": seconds, **row})
                    cells = [
                        f"{row[key]:.3f}" if key in row else "-" for key in ("near", "all", "terms", "pull", "kept")
                    ]
                    print(f"| {kind} | {number} | {seed} | {tool} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
