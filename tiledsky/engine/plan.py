"""What a run will do, before it does it: stages, their tile grids, their tasks. Integers only."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import tiledsky
from tiledsky.cluster.versions import libraries
from tiledsky.errors import PlanError
from tiledsky.geometry import Pair, TileGrid, aligned_tile
from tiledsky.operations.base import Operation
from tiledsky.operations.inputs import Ingest
from tiledsky.operations.stages import compiled_run, whole_kinds
from tiledsky.recipe import Recipe

#: Tiles of the default plan are near this size: large enough that halos are cheap, small enough for 1 GB a worker.
TILE = 1920
#: The largest tile that is asked for without an image as large.
LARGEST = 16_384
#: Inner chunks are near this size, so tiles are multiples of it where the boxes allow.
_CHUNK = 256
#: So many summaries are merged by one task at once, else in blocks of at most so many tiles a side: memory is bounded.
_MERGED_AT_ONCE, _LARGEST_BLOCK = 32, 8
#: Name of the operation that copies the input, where it is files.
INGEST = Ingest.name
#: Kinds of stages that are one task for the whole image.
GATHER = whole_kinds()


@dataclass(frozen=True)
class Stage:
    """One pass over the tiles (or one gather task) that must end before the next begins.

    Attributes
    ----------
    name : str
    kind : str
        Of its operation.
    step : str or None
        Step of the recipe that it works for.
    tile : (int, int)
        Size of its tiles; a gather stage has the whole image as its one tile.
    measures : tuple of str
        Background steps whose boxes it measures.
    overviews : tuple of int
        Of the output: sides of the blocks whose means it writes beside the planes; its tiles are whole blocks.
    merges : str or None
        Stage whose summaries it merges; its tiles are blocks of whole tiles of that stage.
    """

    name: str
    kind: str
    step: str | None
    tile: Pair
    measures: tuple[str, ...] = ()
    overviews: tuple[int, ...] = ()
    merges: str | None = None


@dataclass(frozen=True)
class Plan:
    """The stages of a run on an image of ``shape`` and ``dtype``."""

    shape: Pair
    dtype: str
    tile_size: int
    stages: tuple[Stage, ...]

    @cached_property
    def merged(self) -> dict[str, str]:
        """Stages whose summaries are merged in blocks, each with the stage that does it."""
        return {stage.merges: stage.name for stage in self.stages if stage.merges is not None}

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
        data = json.loads(json.dumps(asdict(self)))
        for stage in data["stages"]:
            stage["levels"] = stage.pop("overviews")  # the name in stores
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Inverse of `to_json`."""
        stages = []
        for stage in data["stages"]:
            fields = {**stage, "overviews": stage["levels"]}
            del fields["levels"]
            stages.append(
                Stage(**{**fields, **{name: tuple(fields[name]) for name in ("tile", "measures", "overviews")}})
            )
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
        A tile size below 1, or above both the image and `LARGEST`; a box larger than the image.
    """
    if tile_size is not None and tile_size < 1:
        raise PlanError(f"tile size {tile_size} has no pixel; use --tile-size of at least 1")
    if tile_size is not None and tile_size > (most := max(LARGEST, *shape)):
        raise PlanError(
            f"tile size {tile_size} is larger than an image of {shape[0]} x {shape[1]} px needs, and memory "
            f"is planned for whole tiles; use --tile-size of at most {most}"
        )
    operations = [o for o in compiled_run(recipe).stages if ingest or o.name != INGEST]
    for operation in operations:
        operation.check(shape)
    stages: dict[str, Stage] = {}
    for operation in operations:
        if operation.merges is None:
            stages[operation.name] = _stage(operation, shape, tile_size)
        elif (block := _block(shape, stages[operation.merges].tile)) is not None:
            stages[operation.name] = Stage(
                operation.name, operation.kind, operation.step, block, merges=operation.merges
            )
    return Plan(shape, dtype, tile_size or default_tile_size(shape), tuple(stages.values()))


def _block(shape: Pair, tile: Pair) -> Pair | None:
    """Size of the blocks that the summaries of tiles are merged in, about as many as there are tiles in each.

    None: so few that one task merges them all.
    """
    count = len(TileGrid(shape, tile))
    side = min(round(count**0.25), _LARGEST_BLOCK)
    return (side * tile[0], side * tile[1]) if count >= _MERGED_AT_ONCE else None


def _stage(operation: Operation, shape: Pair, tile_size: int | None) -> Stage:
    """Plan the tiles of an operation."""
    overviews = operation.overviews(shape)
    sizes = [*operation.boxes(), *((size, size) for size in overviews)]
    own = operation.tile(shape, tile_size or default_tile_size(shape))
    if operation.whole:
        tile = shape
    elif own is not None:
        tile = own
    elif tile_size is None:
        tile = _rounded(default_tile_size(shape), sizes)
    else:
        tile = aligned_tile(tile_size, sizes)
    return Stage(operation.name, operation.kind, operation.step, tile, operation.measures, overviews)


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
