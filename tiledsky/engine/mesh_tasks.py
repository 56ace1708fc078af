"""Tasks of background steps: boxes measured tile by tile, and the mesh finished in one task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.context import Context, Index
from tiledsky.engine.names import SURFACES, mask_plane, measured_folder
from tiledsky.engine.plan import Stage, measured_by
from tiledsky.geometry import Region, boxes_of
from tiledsky.io.store import write_json
from tiledsky.io.zarr.reader import read_plane
from tiledsky.operations.boxes import box_statistics, level_box
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.mesh import maps
from tiledsky.operations.surface import ceiling, make_surface
from tiledsky.overlap import Patch
from tiledsky.recipe import BackgroundStep


def boxes_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Measure the boxes of a tile, for steps whose mask is no plane that is made in the same pass."""
    step = ctx.recipe.step(str(stage.step))
    assert isinstance(step, BackgroundStep)
    chosen = ctx.recipe.mask_for(step)
    science = ctx.science(tile)
    if chosen is None:
        bits = ctx.base(science).data
    else:
        bits = read_plane(ctx.array(mask_plane(ctx.recipe, chosen.name)), tile)
    return measure(ctx, stage, science, bits != 0)


def measure(ctx: Context, stage: Stage, science: Patch, ignore: NDArray[np.bool_]) -> list[str]:
    """Measure the boxes of a tile for the background steps of a stage."""
    written = []
    for name in stage.measures:
        step = ctx.recipe.step(name)
        assert isinstance(step, BackgroundStep)
        for level in range(step.grow_boxes + 1):
            cells, folder = boxes_of(science.region, level_box(step, level)), measured_folder(name, level)
            for part, values in box_statistics(science.data, ignore, step, level=level)._asdict().items():
                written.append(ctx.write(f"{folder}/{part}", cells, values))
    return written


def mesh_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Finish the mesh, one map after the other, so that few whole maps are in memory at a time."""
    step = ctx.recipe.step(str(stage.step))
    assert isinstance(step, BackgroundStep)
    source, folder = measured_by(ctx.recipe, step).name, f"meshes/{step.name}"

    def measured(part: str) -> list[NDArray[Any]]:
        levels = range(step.grow_boxes + 1)
        return [ctx.array(f"{measured_folder(source, level)}/{part}")[...] for level in levels]

    written: list[str] = []
    facts: dict[str, Any] = {"range": {}}
    interpolator, excluded = interpolator_of(step.interpolator), np.zeros((0, 0), bool)
    for name, values in maps(measured, step, limit=_limit(ctx, step)):
        if name == "noise_factor":
            facts |= {"noise_factor": values, "noise_length": values**0.5}
            continue
        if name == "n_good" and not step.grow_boxes:
            del values  # it is what was measured; held here it would stay while the next map is made
            continue
        written += ctx.write_whole(f"{folder}/{name}", values)
        if name == "excluded":
            excluded = values
            lookups = interpolator.lookups(values).items()
            written += [path for part, cells in lookups for path in ctx.write_whole(f"{folder}/{part}", cells)]
            del lookups
        elif name in SURFACES:
            used = interpolator.of_error if name == "error" else interpolator
            made = make_surface(values, used, excluded=excluded, box_size=step.box_size, lookups={})
            written += ctx.write_whole(f"{folder}/surface_{name}", made.values)
            facts["range"][name] = (made.vmin, made.vmax)
            del made
        del values
    write_json(ctx.root, f"{folder}.json", facts)
    return [*written, f"run/{folder}.json"]


def _limit(ctx: Context, step: BackgroundStep) -> NDArray[np.float64] | None:
    """Ceiling of the mesh of a step, if it has one."""
    if step.ceiling is None:
        return None
    other = ctx.recipe.step(step.ceiling.above)
    assert isinstance(other, BackgroundStep)
    pair = [ctx.surface(other, which) for which in (0, 1)]
    return ceiling(pair, box_size=step.box_size, sigma=step.ceiling.sigma, shape=ctx.plan.shape)
