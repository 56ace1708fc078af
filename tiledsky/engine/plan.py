"""What a run will do, before it does it: stages, their tile grids, their tasks. Integers only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import tiledsky
from tiledsky.cluster.versions import libraries
from tiledsky.errors import PlanError
from tiledsky.geometry import Pair, TileGrid, aligned_tile
from tiledsky.operations.boxes import cells_of, largest_box, same_boxes
from tiledsky.operations.thresholds import noise_images
from tiledsky.recipe import BackgroundStep, MaskStep, Recipe, RingStep

#: Tiles of the default plan are near this size: large enough that halos are cheap, small enough for 1 GB a worker.
TILE = 1920
#: Inner chunks are near this size, so tiles are multiples of it where the boxes allow.
_CHUNK = 256
#: Sides in pixels of the blocks whose means a run keeps of its planes, to look at an image larger than `WHOLE` px.
LEVELS = (4, 16)
WHOLE = 2048

#: Statistics of a step come in passes over tiles (histogram, refine, biweight, detections) and gather tasks between.
Statistic = Literal["histogram", "bins", "refine", "centers", "biweight", "detections", "statistics"]
Kind = Literal["ingest", Statistic, "ring", "mask", "boxes", "mesh", "output", "diagnostics"]
#: Kinds of stages that are one task for the whole image.
GATHER = ("bins", "centers", "statistics", "mesh", "diagnostics")


@dataclass(frozen=True)
class Stage:
    """One pass over the tiles (or one gather task) that must end before the next begins.

    Attributes
    ----------
    name : str
    kind : str
        Which function makes a task of it (`tiledsky.engine.tasks`).
    step : str or None
        Step of the recipe that it works for.
    tile : (int, int)
        Size of its tiles; a gather stage has the whole image as its one tile.
    measures : tuple of str
        Background steps whose boxes it measures.
    levels : tuple of int
        Of the output: sides of the blocks whose means it writes beside the planes; its tiles are whole blocks.
    """

    name: str
    kind: Kind
    step: str | None
    tile: Pair
    measures: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The stages of a run on an image of ``shape`` and ``dtype``."""

    shape: Pair
    dtype: str
    tile_size: int
    stages: tuple[Stage, ...]

    def grid(self, stage: Stage) -> TileGrid:
        """Tiles of a stage."""
        return TileGrid(self.shape, stage.tile)

    def stage(self, name: str) -> Stage:
        """Stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def n_tasks(self) -> int:
        """Number of tasks of all stages."""
        return sum(len(self.grid(s)) for s in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Inverse of `to_json`."""
        pairs = ("tile", "measures", "levels")
        stages = (Stage(**{**s, **{name: tuple(s[name]) for name in pairs}}) for s in data["stages"])
        return cls(tuple(data["shape"]), data["dtype"], data["tile_size"], tuple(stages))


def default_tile_size(shape: Pair) -> int:
    """Tile size when none is asked for: the image in tiles of at most `TILE`, of about one size, at least four.

    Larger tiles would save less than a tenth of the work on halos, and cost memory in proportion. Where workers have
    less memory than these tiles take, `tiledsky.engine.forecast.fitted_plan` makes them smaller.
    """
    longest = max(shape)
    count = max(-(-longest // TILE), 2 if longest > 2 * _CHUNK else 1)
    return -(-longest // count)


def _rounded(tile_size: int, boxes: Iterable[Pair]) -> Pair:
    """Return the default tile for these boxes: a multiple of them and, where possible, of a good inner chunk."""
    sizes = list(boxes)
    step = [math.lcm(*(b[axis] for b in sizes)) if sizes else _CHUNK for axis in (0, 1)]
    unit = [s * max(round(_CHUNK / s), 1) for s in step]
    return -(-tile_size // unit[0]) * unit[0], -(-tile_size // unit[1]) * unit[1]


def make_plan(recipe: Recipe, shape: Pair, dtype: str, *, tile_size: int | None, ingest: bool) -> Plan:
    """Plan a run.

    Parameters
    ----------
    recipe : Recipe
    shape : (int, int)
        Of the image.
    dtype : str
        float32 or float64, of science and background planes.
    tile_size : int, optional
        Side of the tiles in pixels; a stage that measures boxes uses the largest multiple of them that is not larger.
        Default: near `TILE`.
    ingest : bool
        Whether the input is copied into the store first.

    Raises
    ------
    PlanError, InputError
        A tile size below 1, a box larger than the image.
    """
    if tile_size is not None and tile_size < 1:
        raise PlanError(f"tile size {tile_size} holds no pixel; use --tile-size of at least 1")
    for step in recipe.steps:
        if isinstance(step, BackgroundStep):
            cells_of(shape, step)
    builder = _PlanBuilder(recipe, shape, tile_size)
    if ingest:
        builder.tiles("ingest", "ingest", None)
    for step in recipe.steps:
        builder.add(step)
    builder.output()
    builder.gather("diagnostics", "diagnostics", None)
    return Plan(shape, dtype, tile_size or default_tile_size(shape), tuple(builder.stages))


class _PlanBuilder:
    def __init__(self, recipe: Recipe, shape: Pair, tile_size: int | None) -> None:
        self.recipe, self.shape, self.tile_size = recipe, shape, tile_size
        self.stages: list[Stage] = []
        self.measured: set[str] = set()

    def tiles(self, name: str, kind: Kind, step: str | None, measures: tuple[BackgroundStep, ...] = ()) -> None:
        tile = self._tile([largest_box(b) for b in measures])
        self.stages.append(Stage(name, kind, step, tile, tuple(b.name for b in measures)))

    def output(self) -> None:
        levels = LEVELS if max(self.shape) > WHOLE else ()
        tile = self._tile([(size, size) for size in levels])
        self.stages.append(Stage("output", "output", None, tile, levels=levels))

    def _tile(self, boxes: list[Pair]) -> Pair:
        if self.tile_size is None:
            return _rounded(default_tile_size(self.shape), boxes)
        return aligned_tile(self.tile_size, boxes)

    def gather(self, name: str, kind: Kind, step: str | None) -> None:
        self.stages.append(Stage(name, kind, step, self.shape))

    def add(self, step: RingStep | MaskStep | BackgroundStep) -> None:
        if isinstance(step, RingStep):
            self._statistics(step)
            self.tiles(step.name, "ring", step.name)
        elif isinstance(step, MaskStep):
            self._statistics(step)
            self.tiles(f"{step.name}-mask", "mask", step.name, self._following(step))
        else:
            if step.name not in self.measured:
                self.tiles(f"{step.name}-boxes", "boxes", step.name, self._distinct([step]))
            self.gather(f"{step.name}-mesh", "mesh", step.name)

    def _statistics(self, step: RingStep | MaskStep) -> None:
        """Passes for the statistics of the whole image that a step needs."""
        images = noise_images(step)
        if not images:
            return
        self.tiles(f"{step.name}-histogram", "histogram", step.name)
        if any(i.refine for i in images):
            self.gather(f"{step.name}-bins", "bins", step.name)
            self.tiles(f"{step.name}-refine", "refine", step.name)
        biweight = any(i.biweight for i in images)
        detections = isinstance(step, MaskStep) and any(t.reliability is not None for t in step.tiers)
        if biweight or detections:
            self.gather(f"{step.name}-centers", "centers", step.name)
        if biweight:
            self.tiles(f"{step.name}-biweight", "biweight", step.name)
        if detections:
            self.tiles(f"{step.name}-detections", "detections", step.name)
        self.gather(f"{step.name}-statistics", "statistics", step.name)

    def _following(self, mask: MaskStep) -> tuple[BackgroundStep, ...]:
        """Backgrounds that can be measured in the pass that makes this mask: those that use it."""
        steps = self.recipe.steps[self.recipe.steps.index(mask) + 1 :]
        users = [s for s in steps if isinstance(s, BackgroundStep) and self.recipe.mask_for(s) is mask]
        return self._distinct(users)

    def _distinct(self, users: list[BackgroundStep]) -> tuple[BackgroundStep, ...]:
        chosen: list[BackgroundStep] = []
        for step in users:
            self.measured.add(step.name)
            if measured_by(self.recipe, step) is step:
                chosen.append(step)
        return tuple(chosen)


def measured_by(recipe: Recipe, step: BackgroundStep) -> BackgroundStep:
    """Return the first step that measures the same boxes under the same mask: its numbers serve both."""
    return next(
        s
        for s in recipe.steps
        if isinstance(s, BackgroundStep) and recipe.mask_for(s) is recipe.mask_for(step) and same_boxes(s, step)
    )


def identity(recipe: Recipe, plan: Plan, planes: dict[str, str]) -> dict[str, str]:
    """What makes two runs the same run: digests of recipe, plan, input, code and libraries, each by its name."""
    parts = {
        "recipe": recipe.to_toml(),
        "plan": json.dumps(plan.to_json(), sort_keys=True),
        "input": json.dumps(planes, sort_keys=True),
        "code": f"tiledsky {tiledsky.__version__}",
        "libraries": json.dumps(libraries(), sort_keys=True),
    }
    return {k: hashlib.blake2b(v.encode(), digest_size=8).hexdigest() for k, v in parts.items()}


def run_id(parts: dict[str, str]) -> str:
    """Digest of an identity."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
