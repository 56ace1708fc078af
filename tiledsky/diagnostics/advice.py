"""Which recipe and which box size do best on samples of an image, by the measures of their backgrounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.patches import Floats, gaussian_deviate, number
from tiledsky.errors import InputError
from tiledsky.plain import counted

#: A recipe is worse than the best where the logarithm of the ratio of their scores is this many errors above 0.
SIGNIFICANCE = 2.0
#: Boxes whose scores are up to this many times that of the best do as well.
_AS_GOOD = 1.1
#: Share of the light of objects from which a recipe takes clearly more than another.
_KINDER = 0.1
#: Side of cells, px; pixels of cores, in units of the noise; how one-sided light is, and by how many standard
#: deviations it is higher under cores. Chosen on scenes of `python -m tests.accuracy.advised`, seeds 41 and 42.
_CELL, _CORE, _ONE_SIDED, _FOLLOWS = 50, 5.0, 5.0, 0.9
#: Scores below this count as this: of an image without noise both may be 0.
_LEAST = 1e-6

DEFINITION = (
    "score: estimated error of the background in units of the noise of a pixel, sqrt(structure^2 + taken^2 + "
    "masked fraction x sources^2 + objects^2), mean over the samples, error by their scatter; structure: excess of the "
    "rms of block means over that of noise, at the width where it is most significant, objects left out, over the "
    "root of the share of pixels that is not masked: under masks there is as much that nobody sees; taken: "
    "standard error of the background by noise, or what the rms of block means lacks of white noise, if that is more; "
    "sources: bias under masks beyond its error; objects: rms of what the light of objects (those found, and those of "
    "the size that is to be kept) changes in the background; lost: share of that light that the background takes; "
    "filled: samples where light falls from bright cores over most of the pixels, so that what a fine background "
    "follows there is no sky: objects is then how far a background lies from the stiffest, and structure 0"
)


@dataclass(frozen=True)
class Trial:
    """What one recipe made of one sample.

    Attributes
    ----------
    found : dict
        Of `tiledsky.diagnostics.measure`; of all recipes with one mask, or the pixels that are compared differ.
    deviation : float
        Standard error of the background by noise, its root mean square, in units of the image.
    objects : float
        Rms of what the light of objects changes in the background, in units of the image.
    lost : float
        Share of that light, or of that of a profile that was tried, which is in the background; NaN: not known.
    filled : bool
        Whether the sample is mostly object, so that what is left of it says nothing of the sky.
    """

    found: Mapping[str, Any]
    deviation: float
    objects: float = 0.0
    lost: float = math.nan
    filled: bool = False


def falls_from_cores(
    image: NDArray[np.floating], fine: NDArray[np.floating], stiff: NDArray[np.floating], noise: float
) -> bool:
    """Whether what a fine background has more than a stiff one is the light of objects, by two signs.

    The difference is one-sided (what stands out above the median of cells of 50 px is many times what stands out below
    it, and more than the noise of a pixel), and it is high where the cells have bright cores. A sky goes up and down,
    and knows nothing of cores.

    Parameters
    ----------
    image, fine, stiff : ndarray, (ny, nx)
        Image (NaN where it is invalid), two backgrounds of it.
    noise : float
        Of a pixel.
    """
    ny, nx = (max(n // _CELL, 1) for n in image.shape)
    stacked = np.stack([image, fine, stiff])
    cells = [np.array_split(row, nx, axis=2) for row in np.array_split(stacked, ny, axis=1)]
    light, more = [], []
    for cell in (part for row in cells for part in row):
        core = cell[0] - cell[1]
        core = core[core > _CORE * noise]
        known = np.isfinite(cell[0])
        if known.any():
            light.append(float(core.sum()) / known.size)
            more.append(float((cell[1] - cell[2])[known].mean()))
    cores, rise = np.array(light), np.array(more)
    if not cores.sum() > 0 or not rise.std() > 0:
        return False
    above, below = rise.max() - np.median(rise), np.median(rise) - rise.min()
    follows = (np.average(rise, weights=cores) - rise.mean()) / rise.std()
    return bool(above > noise and above > _ONE_SIDED * below and follows > _FOLLOWS)


def parts(trial: Trial, noise: float) -> tuple[float, float, float, float, float]:
    """Score of a trial and what it is made of: score, structure, taken, sources, objects; in units of ``noise``.

    NaN where the sample is too small to be measured. Structure and noise that the background took up have opposite
    signs in the rms of block means, and the larger hides the other at a width: so each is looked for at all widths, and
    the noise is also known from the boxes.
    """
    scale = trial.found["measures"]["scale"]
    rows = zip(*(scale[key] for key in ("excess", "ratio", "ratio_error", "white")), strict=True)
    over, under = [], []
    for excess, ratio, ratio_error, white in rows:
        if None not in (excess, ratio, ratio_error, white):
            error = 2 * ratio * ratio_error * (white / noise) ** 2
            over.append((math.copysign(excess**2, excess) / noise**2, error))
            # below white noise: how much more correlated noise has is not known as well as that
            under.append(((1 - ratio**2) * (white / noise) ** 2, error))
    objects = (trial.objects / noise) ** 2
    if trial.filled:
        taken = (trial.deviation / noise) ** 2
        return math.sqrt(taken + objects), 0.0, math.sqrt(taken), 0.0, math.sqrt(objects)
    if not over:
        return (math.nan,) * 5
    most, missing = (max(powers, key=lambda p: p[0] - p[1])[0] for powers in (over, under))
    structure, taken = max(most, 0.0), max((trial.deviation / noise) ** 2, missing)
    group = next((g for g in trial.found["measures"]["masked_bias"]["groups"] if g["name"] == "all"), None)
    sources = 0.0
    if group is not None and group["bias"] is not None and group["error"] is not None:
        sources = max(group["bias"] ** 2 - group["error"] ** 2, 0.0) / noise**2
    masked = float(trial.found["image"]["masked_fraction"] or 0.0)
    structure = min(structure / max(1 - masked, _LEAST), 1 / _LEAST)  # what lies under masks is not seen
    score = structure + taken + masked * sources + objects
    return math.sqrt(score), math.sqrt(structure), math.sqrt(taken), math.sqrt(sources), math.sqrt(objects)


def rank(trials: Mapping[str, Sequence[Trial]]) -> list[dict[str, Any]]:
    """Put recipes (or boxes) in order, the best first.

    Parameters
    ----------
    trials : mapping of str to sequence of Trial
        By name; of each the same samples, in one order.

    Returns
    -------
    list of dict
        ``name``, ``score``, ``error``, ``structure``, ``taken``, ``sources``, ``objects``, ``lost`` (means over the
        samples; ``lost`` None where no light was put in or found),
        ``times`` and ``times_error``: geometric mean of the ratios to the score of the best, sample by sample (much
        surer than the scores themselves, as a difficult sample is so for all), ``behind``: whether that is above 1
        beyond doubt (of one sample: at all), ``samples``: the scores. Errors None for one sample.

    Raises
    ------
    InputError
        Samples in which nothing can be measured.
    """
    noises = [
        min(t.found["image"]["noise"] or math.nan for t in sample) for sample in zip(*trials.values(), strict=True)
    ]
    tables = {name: np.array([parts(t, n) for t, n in zip(of, noises, strict=True)]) for name, of in trials.items()}
    usable = np.all([np.isfinite(table[:, 0]) for table in tables.values()], axis=0)
    if not usable.any():
        raise InputError(
            "no sample has enough unmasked sky for the measures (8 patches of 64 px), so no recipe can be "
            "ranked; use larger samples or a smaller mask"
        )
    tables = {name: table[usable] for name, table in tables.items()}
    best = min(tables.values(), key=lambda table: float(table[:, 0].mean()))[:, 0]
    rows = []
    for name, table in sorted(tables.items(), key=lambda item: float(item[1][:, 0].mean())):
        score, error = _mean(table[:, 0])
        log, log_error = _mean(np.log(np.maximum(table[:, 0], _LEAST) / np.maximum(best, _LEAST)))
        times = math.exp(log)
        names = ("structure", "taken", "sources", "objects")
        means = dict(zip(names, (number(v, 4) for v in table[:, 1:].mean(axis=0)), strict=True))
        lost = [trial.lost for trial in trials[name] if math.isfinite(trial.lost)]
        rows.append(
            {
                "name": name,
                "score": number(score, 4),
                "error": number(error, 4),
                **means,
                "lost": number(float(np.mean(lost)), 3) if lost else None,
                "times": number(times, 4),
                "times_error": number(times * log_error, 4),
                "behind": _is_behind(log, log_error, len(best)),
                "samples": [number(v, 4) for v in table[:, 0].tolist()],
            }
        )
    return rows


def _mean(values: Floats) -> tuple[float, float]:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def _is_behind(log: float, error: float, n: int) -> bool:
    if n < 2 or error == 0:
        return log > 0
    return bool(gaussian_deviate(np.array(log), np.array(error), n) > SIGNIFICANCE)


def box_range(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return which boxes do well.

    Parameters
    ----------
    rows : sequence of dict
        Of `rank`, their names box sizes in pixels.

    Returns
    -------
    dict
        ``best``; ``largest``: the largest box that still follows the sky; ``smallest``: the smallest that takes neither
        noise nor sources for sky; ``open_below``, ``open_above``: whether these are the ends of what was tried. From
        the best box outwards each box counts until one is worse, beyond doubt and by a tenth.
    """
    best = rows[0]
    by_size = sorted(rows, key=lambda row: int(row["name"]))
    start = by_size.index(best)

    def last(steps: Sequence[Mapping[str, Any]]) -> int:
        size = int(best["name"])
        for row in steps:
            if row["behind"] and row["times"] > _AS_GOOD:
                break
            size = int(row["name"])
        return size

    smallest, largest = last(by_size[:start][::-1]), last(by_size[start + 1 :])
    return {
        "best": int(best["name"]),
        "smallest": smallest,
        "largest": largest,
        "open_below": smallest == int(by_size[0]["name"]),
        "open_above": largest == int(by_size[-1]["name"]),
    }


def preferred(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put that first, of recipes that do equally well, which clearly takes less of the light of objects."""
    best = rows[0]
    equal = [row for row in rows if not row["behind"] and row["times"] <= _AS_GOOD and row["lost"] is not None]
    if best["lost"] is None or not equal:
        return rows
    kinder = min(equal, key=lambda row: abs(row["lost"]))
    if abs(best["lost"]) - abs(kinder["lost"]) < _KINDER:
        return rows
    return [kinder, *(row for row in rows if row is not kinder)]


def advice(rows: Sequence[Mapping[str, Any]], *, filled: int = 0, samples: int = 1) -> str:
    """One line: which recipe is advised and why; ``filled``: samples, of all, that are mostly object."""
    best, others = rows[0], rows[1:]
    said = f"advised: {best['name']}, whose background is wrong by {_figure(best['score'], best['error'])} of the noise"
    if filled:
        said += (
            f" (of {counted(samples, 'sample')} {filled} {'are' if filled > 1 else 'is'} mostly object: no "
            "sky can be told from its light at this scale, so recipes that follow nothing come first)"
        )
    if not others:
        return f"{said}; there is nothing to compare it with"
    equal = [row["name"] for row in others if not row["behind"]]
    if equal:
        kinder = any((row["score"] or 0) < (best["score"] or 0) for row in others)
        least = "and takes less of objects than others that do as well" if kinder else "the least"
        return f"{said}, {least}; these samples do not tell it from {', '.join(equal)}"
    second = others[0]
    return f"{said}, the least; the next, {second['name']}, by {_figure(second['score'], second['error'])}"


def box_advice(found: Mapping[str, Any], step: str) -> str:
    """One line: which box sizes are advised for a step."""
    low, high = found["smallest"], found["largest"]
    said = f"box_size of step {step}: best {found['best']}"
    said += f", {low} to {high} px do as well" if low < high else ""
    below = "smaller ones were not tried" if found["open_below"] else "smaller ones take noise or sources for sky"
    above = "larger ones were not tried" if found["open_above"] else "larger ones do not follow the sky"
    return f"{said}; {below}, {above}"


def _figure(value: float, error: float | None) -> str:
    return f"{value:.3g}" + ("" if error is None else f" +- {error:.1g}")
