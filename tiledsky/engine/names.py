"""Names of the arrays of a run within its store, by what makes them: by recipe and plan alone."""

from __future__ import annotations

from tiledsky.engine.plan import Stage
from tiledsky.kernels.boxes.boxes import BoxStatistics
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.recipe import BackgroundStep, Recipe

#: Maps of a mesh that have a surface, in the order of `tiledsky.operations.mesh.surfaces`.
SURFACES = ("background", "rms", "error")
#: Stands beside these for the bandwidth of a fit, which has none: each pixel has that of its cell.
BANDWIDTH = 3
#: Folder of the means of blocks of the planes, and of which planes there are any.
OVERVIEW_FOLDER = "levels"
OVERVIEW_PLANES = ("science", "background", "subtracted", "residual", "mask")


def planes_of(recipe: Recipe, stage: Stage) -> list[str]:
    """Paths of the arrays that a stage writes (ingest: see the source)."""
    measured = [path for name in stage.measures for path in measured_arrays(recipe, name)]
    if stage.kind == "ring":
        return [str(stage.step)]
    if stage.kind in ("mask", "boxes"):
        return measured if stage.kind == "boxes" else [mask_plane(recipe, str(stage.step)), *measured]
    if stage.kind == "mesh":
        step = recipe.step(str(stage.step))
        assert isinstance(step, BackgroundStep)
        names = ["excluded", *SURFACES, *(f"surface_{part}" for part in SURFACES)]
        interpolator = interpolator_of(step.interpolator)
        names += [*interpolator.fit_maps, *interpolator.lookup_maps, *["n_good"] * (step.grow_boxes > 0)]
        return [f"meshes/{stage.step}/{name}" for name in names]
    if stage.kind == "output":
        return [
            *output_planes(recipe),
            *(overview_path(size, name) for size in stage.levels for name in OVERVIEW_PLANES),
        ]
    return []


def overview_path(size: int, plane: str) -> str:
    """Path of the array of the means of blocks of a plane."""
    return f"{OVERVIEW_FOLDER}/{size}/{plane}"


def measured_folder(step: str, level: int) -> str:
    """Folder of the statistics of the boxes of a step; of those 2**level times as large."""
    return f"meshes/{step}/measured" + (f"-{1 << level}" if level else "")


def measured_arrays(recipe: Recipe, name: str) -> dict[str, int]:
    """Arrays of the statistics of the boxes of a step, with the level that they are of."""
    step = recipe.step(name)
    assert isinstance(step, BackgroundStep)
    levels = range(step.grow_boxes + 1)
    return {f"{measured_folder(name, level)}/{part}": level for level in levels for part in BoxStatistics._fields}


def mask_plane(recipe: Recipe, step: str) -> str:
    """Name of the plane of a mask step: that of the result is ``mask``."""
    chosen = recipe.result_mask
    return "mask" if chosen is not None and chosen.name == step else step


def output_planes(recipe: Recipe) -> dict[str, tuple[str, int] | None]:
    """Planes of the last pass: name to (background step, which of `SURFACES` or `BANDWIDTH`); None: made of others."""
    planes: dict[str, tuple[str, int] | None] = {
        "background": (recipe.result.name, 0),
        "background_rms": (recipe.result.name, 1),
        "background_error": (recipe.result.name, 2),
        "subtracted": None,
    }
    if recipe.bandwidth_plane:
        planes["bandwidth"] = (recipe.result.name, BANDWIDTH)
    if recipe.result_mask is None:
        planes["mask"] = None
    for step in recipe.steps:
        if isinstance(step, BackgroundStep) and step.keep and step is not recipe.result:
            planes |= {f"{step.name}{ending}": (step.name, k) for k, ending in enumerate(("", "_rms", "_error"))}
    return planes
