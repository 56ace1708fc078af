"""Each measure beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage

from tiledsky.diagnostics import measure
from tiledsky.diagnostics.injection import Injection, changes, draw, finalize, light
from tiledsky.geometry import Region

from .scenes import SIZE, TILE, Case, altered, good, scene, solved

#: Measure and what of it; its value, its error and the truth in words.
Row = tuple[tuple[str, str], str]


def measured(case: Case, **options: Any) -> dict[str, Any]:
    """Measure a case with its truth."""
    return measure(case.image, case.background, case.mask, rms=case.rms, truth=case.truth, tile=TILE, **options)


def row(measure_: str, what: str, value: float | None, error: float | None, true: float | None) -> Row:
    """Return a row; what cannot be told is empty."""
    if value is None:
        return (measure_, what), ""
    deviation = "" if error is None else f" +- {error:.2g}"
    return (measure_, what), f"{value:.3g}{deviation}" + ("" if true is None else f" ({true:.3g})")


def beside(seed: int) -> Iterator[Row]:
    """All measures of a scene."""
    case, simulated = good(seed), scene(seed)
    table = simulated.sources
    catalogue = np.column_stack([table["y_mean"], table["x_mean"], table["flux"], table["re"]])
    found = measured(case, catalogue=catalogue)
    measures, noise = found["measures"], found["image"]["noise"]
    perfect = measured(case.changed(background=case.truth))["measures"]
    error = (case.background - case.truth) / noise
    # light that masks miss belongs to the residual
    residual = simulated.source_image / noise - error
    yield from _scale(measures["scale"], perfect["scale"])
    yield from _masked(case, measures, error, noise)
    check = next(c for c in found["verdict"]["checks"] if c["name"] == "edge_light")
    yield _edges(check, case.mask > 0, residual)
    yield from _positions(measures["positions"]["groups"], catalogue, case.mask > 0, error, noise)
    yield from _residual(measures["residual"], perfect["residual"], residual[case.mask == 0].mean(), noise)
    yield _worst(measures["worst"]["positions"], case.mask == 0, residual, noise)
    yield from _planted(altered(case), noise)
    yield from _injected(case, noise)


def _scale(scale: dict[str, Any], perfect: dict[str, Any]) -> Iterator[Row]:
    for k in (1, 4):
        what = f"rms of means of {scale['widths'][k]} px over white noise"
        yield row("scale", what, scale["ratio"][k], scale["ratio_error"][k], perfect["ratio"][k])


def _masked(case: Case, measures: dict[str, Any], error: Any, noise: float) -> Iterator[Row]:
    masked = case.mask > 0
    bright = masked & (case.image - case.background > 3 * noise)
    groups = {g["name"]: g for g in measures["masked_bias"]["groups"]}
    for name, where in (("all", masked), ("bright", bright), ("faint", masked & ~bright)):
        true = error[where].mean() - error[~masked].mean()
        yield row("masked_bias", name, groups[name]["bias"] / noise, groups[name]["error"] / noise, true)


def _edges(check: dict[str, Any], masked: Any, residual: Any) -> Row:
    distance = ndimage.distance_transform_edt(~masked) - 1
    near, far = ((distance >= low) & (distance < high) & ~masked for low, high in ((0, 4), (16, 64)))
    true = residual[near].mean() - residual[far].mean()
    return row("edges", "residual within 4 px of masks above that from 16 px", check["value"], check["error"], true)


def _positions(groups: list[dict[str, Any]], catalogue: Any, masked: Any, error: Any, noise: float) -> Iterator[Row]:
    y, x = np.clip(catalogue[:, :2].round().astype(int), 0, SIZE - 1).T
    boxes = ndimage.uniform_filter(error, 3)[y, x]
    by_name = {g["name"]: g for g in groups}
    for name in ("masked", "unmasked"):
        chosen = masked[y, x] == (name == "masked")
        group = by_name.get(name)
        if group is not None and group["bias"] is not None:
            true = boxes[chosen].mean() - error[~masked].mean()
            what = f"bias in 3 x 3 px at {name} sources of the catalogue"
            yield row("positions", what, group["bias"] / noise, group["error"] / noise, true)


def _residual(rest: dict[str, Any], perfect: dict[str, Any], mean: float, noise: float) -> Iterator[Row]:
    yield row("residual", "mean", rest["mean"] / noise, rest["mean_error"] / noise, mean)
    yield row("residual", "skewness", rest["skewness"], rest["skewness_error"], perfect["skewness"])
    next_, true = rest["correlation"]["x"][1], perfect["correlation"]["x"][1]
    yield row("residual", "correlation with the next pixel", next_, rest["correlation"]["error"][1], true)
    width = rest["power"]["width"]
    k = int(np.argmin(np.abs(np.array(width) - 16)))
    value, error, true = rest["power"]["variance"][k], rest["power"]["error"][k], perfect["power"]["variance"][k]
    what = f"variance on scales from {width[k]} px, of a pixel's"
    yield row("residual", what, value / noise**2, error and error / noise**2, true / noise**2)


def _worst(places: list[dict[str, Any]], free: Any, residual: Any, noise: float) -> Row:
    """Of the listed blocks, of which noise chose some: the mean towards the side to which each deviates."""
    true = []
    for place in places:
        half = (place["size"] - 1) / 2
        block = tuple(slice(int(place[k] - half), int(place[k] + half) + 1) for k in ("y", "x"))
        true.append(np.sign(place["mean"]) * residual[block][free[block]].mean())
    value = np.mean([abs(p["mean"]) for p in places]) / noise if places else None
    return row("worst", "mean deviation of the blocks listed", value, None, np.mean(true) if true else None)


def _planted(cases: dict[str, tuple[Case, str]], noise: float) -> Iterator[Row]:
    seams = measured(cases["a step at a tile edge"][0])["measures"]["seams"]
    yield row("seams", "largest step across a tile edge", seams["step"]["worst"] / noise, None, 0.05 / noise)
    negative = measured(cases["a constant offset in one region"][0])["measures"]["negative"]
    yield row("negative", "area of the largest region, px", negative["largest"]["area"], None, 100 * 150)


def _injected(case: Case, noise: float) -> Iterator[Row]:
    sources = draw(Injection(count=20), (SIZE, SIZE))
    sources["flux"] *= noise
    image = (case.image + light(sources, Region(0, SIZE, 0, SIZE))).astype(np.float32)
    after = solved(image, case.truth, "complex-sky").background
    groups, true = (
        finalize(sources, changes(sources, before, after), noise=noise)["groups"]
        for before in (case.background, case.truth)
    )
    for k in (1, 3):
        what = f"rise of the sky at sources of {groups[k]['flux']:.0f} sigma in {groups[k]['size']:.0f} px"
        value, error = groups[k]["change"] / noise, groups[k]["change_error"] / noise
        yield row("injection", what, value, error, true[k]["change"] / noise)
