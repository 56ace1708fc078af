"""Plans: integers that say what a run will do."""

from __future__ import annotations

import json
import math

import pytest

from tests.engine.scenes import KEEPING
from tiledsky import Recipe
from tiledsky.engine.plan import GATHER, Plan, Stage, default_tile_size, identity, make_plan, run_id
from tiledsky.errors import InputError, PlanError
from tiledsky.geometry import inner_chunk
from tiledsky.operations.background import measured_by
from tiledsky.operations.cells import LARGEST, UNIT, CellOperation
from tiledsky.operations.injection import Injection
from tiledsky.operations.stages import compiled_run

RECIPES = {"complex-sky": Recipe.load("complex-sky"), "sextractor": Recipe.load("sextractor"), "keeping": KEEPING}


def plan_of(
    recipe: str, shape: tuple[int, int] = (500, 600), *, tile_size: int | None = 100, ingest: bool = True
) -> Plan:
    return make_plan(RECIPES[recipe], shape, "float32", tile_size=tile_size, ingest=ingest)


def test_stages_of_complex_sky() -> None:
    plan = plan_of("complex-sky")
    assert [(s.name, s.kind) for s in plan.stages] == [
        ("ingest", "ingest"),
        ("ring", "ring"),
        ("bright-histogram", "histogram"),
        ("bright-statistics", "statistics"),
        ("bright-mask", "mask"),
        ("bkg3-chosen", "chosen"),
        ("bkg3-noise", "noise"),
        ("bkg3-maps", "maps"),
        ("bkg3-surfaces", "surfaces"),
        ("bkg3-mesh", "mesh"),
        ("bkg4-chosen", "chosen"),
        ("bkg4-noise", "noise"),
        ("bkg4-maps", "maps"),
        ("bkg4-surfaces", "surfaces"),
        ("bkg4-mesh", "mesh"),
        ("tiers-histogram", "histogram"),
        ("tiers-bins", "bins"),
        ("tiers-refine", "refine"),
        ("tiers-statistics", "statistics"),
        ("tiers-mask", "mask"),
        ("bkg5-chosen", "chosen"),
        ("bkg5-noise", "noise"),
        ("bkg5-maps", "maps"),
        ("bkg5-surfaces", "surfaces"),
        ("bkg5-mesh", "mesh"),
        ("output", "output"),
        ("injection", "injection"),
        ("diagnostics", "diagnostics"),
    ]
    measures = {s.name: s.measures for s in plan.stages if s.measures}
    assert measures == {"bright-mask": ("bkg3",), "tiers-mask": ("bkg5",)}  # bkg4 has the boxes of bkg3


def test_stages_of_a_biweight() -> None:
    """Three passes over the pixels, and what comes between them."""
    recipe = Recipe.load("ceers-nircam").expanded()
    plan = make_plan(recipe, (500, 600), "float32", tile_size=100, ingest=False)
    of_ring = [(s.name, s.kind, s.tile) for s in plan.stages if s.step == "ring"]
    assert of_ring == [
        ("ring-histogram", "histogram", (100, 100)),
        ("ring-bins", "bins", (500, 600)),
        ("ring-refine", "refine", (100, 100)),
        ("ring-centers", "centers", (500, 600)),
        ("ring-biweight", "biweight", (100, 100)),
        ("ring-statistics", "statistics", (500, 600)),
        ("ring", "ring", (100, 100)),
    ]
    assert plan.stage("ring-biweight") is plan.stages[[s.name for s in plan.stages].index("ring-biweight")]


def test_stages_of_sextractor() -> None:
    names = [s.name for s in plan_of("sextractor", ingest=False).stages]
    finished = ["mesh64-chosen", "mesh64-noise", "mesh64-maps", "mesh64-surfaces", "mesh64-mesh"]
    assert names == ["mesh64-boxes", *finished, "output", "injection", "diagnostics"]


def test_boxes_without_a_mask_have_a_stage_of_their_own() -> None:
    measures = {s.name: s.measures for s in plan_of("keeping").stages if s.measures}
    assert measures == {"found-mask": ("last",), "bare-boxes": ("bare",)}


def test_same_boxes_under_another_mask_are_measured_again() -> None:
    steps = [{"kind": "background", "name": name, "box_size": 9, "mask": mask} for name, mask in
             (("a", "none"), ("b", "found"), ("c", "none"))]  # fmt: skip
    data = KEEPING.model_dump(mode="json", exclude_none=True)
    recipe = Recipe.from_dict({**data, "steps": [*data["steps"], *steps]})
    a, b, c = (recipe.step(name) for name in "abc")
    assert measured_by(recipe, c) is a  # type: ignore[arg-type]
    assert measured_by(recipe, b) is b  # type: ignore[arg-type]


def _has_own_tiles(recipe: str, stage: Stage) -> bool:
    """Whether a stage is one task, or works on tiles of a mesh, on blocks of tiles or on cells with windows."""
    return (
        stage.kind in GATHER
        or stage.merges is not None
        or isinstance(compiled_run(RECIPES[recipe])[stage.name], CellOperation | Injection)
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("side", [900, 5000, 100_000, 316_000])
@pytest.mark.parametrize("tile_size", [None, 37, 2000])
def test_tiles_of_meshes_are_whole_blocks_of_cells(recipe: str, side: int, tile_size: int | None) -> None:
    """Sums over blocks are the same for any tiles; no tile has more cells than memory is planned for."""
    plan = plan_of(recipe, (side, side - 100), tile_size=tile_size)
    for stage in plan.stages:
        operation = compiled_run(RECIPES[recipe])[stage.name]
        if isinstance(operation, CellOperation):
            for n, box in zip(stage.tile, operation.box_size, strict=True):
                assert n % (UNIT * box) == 0
                assert UNIT <= n // box <= LARGEST


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tile_size", [None, 1, 37, 100, 601, 5000])
def test_tiles_are_whole_boxes(recipe: str, tile_size: int | None) -> None:
    plan = plan_of(recipe, tile_size=tile_size)
    for stage in plan.stages:
        assert all(type(n) is int and n >= 1 for n in stage.tile)
        boxes = [RECIPES[recipe].step(name).box_size for name in stage.measures]  # type: ignore[union-attr]
        for axis in (0, 1):
            common = math.lcm(*(box[axis] for box in boxes))
            assert stage.tile[axis] % common == 0
            if tile_size is not None and not _has_own_tiles(recipe, stage):
                assert stage.tile[axis] == max(tile_size // common, 1) * common
    grids = [plan.grid(s) for s in plan.stages]
    assert plan.n_tasks == sum(grid.counts[0] * grid.counts[1] for grid in grids)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("side", [5000, 19200, 46200, 100_000])
def test_default_tiles_of_mosaics_have_inner_chunks(recipe: str, side: int) -> None:
    for stage in plan_of(recipe, (side, side // 2), tile_size=None).stages:
        if stage.kind in GATHER:
            assert stage.tile == (side, side // 2)
            continue
        if _has_own_tiles(recipe, stage):
            continue
        for n in stage.tile:
            assert n <= 2 * 1920
            chunk = inner_chunk(n)
            assert n % chunk == 0
            assert 128 <= chunk <= 512, f"{stage.name}: tile {n}, chunk {chunk}"


@pytest.mark.parametrize("count", [5, 6, 20, 46, 165])
def test_summaries_of_many_tiles_are_merged_in_blocks(count: int) -> None:
    plan = plan_of("complex-sky", (1920 * count, 1920 * count), tile_size=1920)
    merged = {plan.stage(source): plan.stage(name) for source, name in plan.merged.items()}
    assert ("tiers-refine" in plan.merged) == (count * count >= 32)
    for source, block in merged.items():
        tiles, blocks = plan.grid(source), plan.grid(block)
        most = max(len(list(tiles.within(blocks.region(index)))) for index in blocks)
        assert sorted(i for index in blocks for i in tiles.within(blocks.region(index))) == sorted(tiles)
        assert most <= 64
        assert len(blocks) <= max(2 * len(tiles) ** 0.5, len(tiles) / 64 + 30)


def test_default_tile_size() -> None:
    assert default_tile_size((100, 200)) == 200
    assert default_tile_size((513, 10)) == 257
    assert default_tile_size((1920, 1921)) == 961
    assert default_tile_size((100_000, 100_000)) == -(-100_000 // 53)


def test_inner_chunks() -> None:
    assert [inner_chunk(n) for n in (1, 512, 1920, 1021)] == [1, 512, 240, 1021]  # 1021 is prime: one chunk


def test_box_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"'mesh64': a box of 64 x 64 px is larger than the 500 x 63 px image"):
        plan_of("sextractor", (500, 63))
    assert plan_of("sextractor", (64, 64)).n_tasks == 10


@pytest.mark.parametrize("tile_size", [0, -5])
def test_tiles_without_pixels_are_refused(tile_size: int) -> None:
    with pytest.raises(PlanError, match=f"tile size {tile_size} has no pixel; use --tile-size of at least 1"):
        plan_of("sextractor", tile_size=tile_size)


def test_json_and_back() -> None:
    plan = plan_of("complex-sky", tile_size=37)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_identity_tells_what_changed() -> None:
    recipe, plan = RECIPES["sextractor"], plan_of("sextractor")
    parts = identity(recipe, plan, {"science": "1"})
    assert identity(recipe, plan, {"science": "1"}) == parts
    others = {
        "recipe": identity(RECIPES["keeping"], plan, {"science": "1"}),
        "plan": identity(recipe, plan_of("sextractor", tile_size=200), {"science": "1"}),
        "input": identity(recipe, plan, {"science": "2"}),
    }
    for name, other in others.items():
        assert [k for k in parts if parts[k] != other[k]] == [name]
        assert run_id(other) != run_id(parts)
