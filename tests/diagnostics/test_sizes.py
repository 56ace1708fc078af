"""What is held of all tiles has a size that does not grow with the image, and is the same for any tiling."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tiledsky.diagnostics import blocks, measure, negative
from tiledsky.diagnostics.band import Pixels, owned_cells
from tiledsky.diagnostics.blocks import BLOCK, BLOCKS
from tiledsky.diagnostics.negative import APERTURE, APERTURES, APERTURES_FOUND
from tiledsky.diagnostics.object_boxes import BOX, TileBoxes, box_side
from tiledsky.diagnostics.parts import Limit, Places
from tiledsky.diagnostics.patches import PatchSums, patch_size
from tiledsky.diagnostics.protocol import ImageFacts
from tiledsky.diagnostics.seams import SeamTotals, Strips
from tiledsky.diagnostics.summary import Collector, TileSummary, summarise
from tiledsky.geometry import Region, TileGrid
from tiledsky.kernels.residual.cell_sums import CELL, KEPT
from tiledsky.kernels.residual.own_mask import compact_light
from tiledsky.operations.memory import FREED, Plane, Sizes
from tiledsky.operations.quality import Diagnostics
from tiledsky.recipe import Recipe

SOMEWHERE = Region(0, 1, 0, 1)


def blocks_at(count: int, seed: int) -> NDArray[np.void]:
    """Blocks at different places; many deviate by the same."""
    random = np.random.default_rng(seed)
    made = np.zeros(count, BLOCK)
    places = random.choice(200 * 200, count, replace=False)
    made["y"], made["x"] = places // 200, places % 200
    made["n"], made["sum"] = 256.0, np.rint(random.normal(0, 3, count)) * 8 + 4
    return made


def kept(rows: NDArray[np.void], limit: Limit, size: int) -> NDArray[np.void]:
    """Rows that a list keeps which come in parts of some size."""
    places = Places("list", BLOCK, ("y", "x"), lambda band: rows, limit)
    total = places.start()
    for k in range(0, rows.size, size):
        places.add(total, SOMEWHERE, rows[k : k + size])
    return places.finish(total)


@pytest.mark.parametrize("low", [0, 30, 100, 350, 500])
def test_what_a_list_keeps_does_not_depend_on_the_order(low: int) -> None:
    found = blocks_at(600, low)
    found["sum"] = np.abs(found["sum"])
    found["sum"][:low] *= -1
    assert BLOCKS.limit is not None
    limit = replace(BLOCKS.limit, most=200)
    # each sign fills its half, and what the other leaves
    high = 600 - low
    shares = {-1: 200 - min(high, 100), 1: 200 - min(low, 100)}
    expected = []
    for sign, most in shares.items():
        side = [row for row in found.tolist() if np.sign(row[3]) == sign]
        expected += sorted(side, key=lambda row: (-abs(row[3]), row[0], row[1]))[:most]
    assert len(expected) == 200
    for seed, size in enumerate((1, 7, 90, 600)):
        shuffled = found[np.random.default_rng(seed).permutation(600)]
        assert kept(shuffled, limit, size).tolist() == sorted(expected)


def test_a_list_that_is_short_is_kept_whole() -> None:
    found = blocks_at(150, 3)
    assert kept(found, replace(BLOCKS.limit, most=150), 20).tolist() == sorted(found.tolist())  # type: ignore[type-var]


@pytest.mark.parametrize("tile", [(1900, 1900), (500, 700), (64, 1900), (1000, 63), (130, 40)])
def test_patches_are_the_same_for_any_tiling(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1870, 1900)  # in patches of 512 px, of eight cells: sums of so many go by another order than of few
    monkeypatch.setattr("tiledsky.diagnostics.patches._MOST", 20)
    assert patch_size(shape) == 512
    cells = np.random.default_rng(4).lognormal(0, 9, (30, 30, 3))
    sums = PatchSums(shape, 3)
    for region in (owned_cells(r) for r in map(TileGrid(shape, tile).region, TileGrid(shape, tile))):
        sums.add(region, cells[region.slices])
    expected = np.zeros((4, 4, 3))
    for row, values in enumerate(cells):
        expected[row // 8] += np.add.reduceat(values, np.arange(0, 30, 8), axis=0)
    assert np.array_equal(sums.sums, expected)


def image_and_background() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(6)
    image = random.normal(0, 1, (530, 600)).astype(np.float32)
    wrong = ndimage.gaussian_filter(random.normal(0, 1, image.shape), 12) * 12
    return image, wrong.astype(np.float32)


def test_measures_of_cut_lists_do_not_depend_on_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    image, background = image_and_background()
    whole = measure(image, background)["measures"]
    monkeypatch.setattr(blocks, "MOST", 300)
    for places, most in ((BLOCKS, 300), (APERTURES_FOUND, 40)):
        monkeypatch.setattr(places, "limit", replace(places.limit, most=most))
    texts = set()
    for tile in ((530, 600), (64, 128), (97, 203), (200, 90)):
        measures = measure(image, background, tile=tile)["measures"]
        measures.pop("seams")
        texts.add(json.dumps(measures))
    assert len(texts) == 1
    found, all_of_it = measures["negative"], whole["negative"]
    assert found["apertures"]["n"] == 40
    assert found["threshold"] < all_of_it["threshold"] == -3
    assert found["positive"]["threshold"] > 3
    # the strongest blocks are kept, whatever else there is
    assert measures["worst"] == whole["worst"]
    assert {**measures, "negative": 0} == {**{k: v for k, v in whole.items() if k != "seams"}, "negative": 0}


def test_regions_of_a_cut_list_are_those_above_its_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    image, background = image_and_background()
    monkeypatch.setattr(blocks, "MOST", 300)
    monkeypatch.setattr(BLOCKS, "limit", replace(BLOCKS.limit, most=300))
    measures = measure(image, background, rms=np.ones_like(image))["measures"]
    residual, state = image - background, np.zeros(image.shape, np.uint8)
    sky = compact_light(residual, state, origin=(0, 0), cells=(9, 10)) == 0
    parts = (np.where(sky, plane, 0)[: 530 // KEPT * KEPT, : 600 // KEPT * KEPT] for plane in (residual, 1.0))
    total, n = (part.reshape(530 // KEPT, KEPT, -1, KEPT).sum(axis=(1, 3), dtype=np.float64) for part in parts)
    z = (total / np.sqrt(n) / measures["scale"]["expected"][3])[1:-1, 1:-1]  # and the outermost are counted apart
    for found, sign in ((measures["negative"], -1), (measures["negative"]["positive"], 1)):
        beyond = sign * z >= abs(found["threshold"]) * (1 - 1e-5)
        assert found["n_regions"] == ndimage.label(beyond, np.ones((3, 3)))[1] > 1
        assert found["area"] == beyond.sum() * KEPT**2


def strips_of_tiles(shape: tuple[int, int], tile: tuple[int, int]) -> Iterator[tuple[Region, Strips]]:
    background = np.random.default_rng(8).normal(0, 1, shape)
    for region in map(TileGrid(shape, tile).region, TileGrid(shape, tile)):
        yield region, Strips.of(background[region.slices])


def test_seams_of_many_tiles_are_held_in_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, Any]:
        seams = SeamTotals()
        for region, strips in strips_of_tiles((1000, 900), (40, 36)):
            seams.add(region, strips)
        assert max(len(seams.edges.rows), len(seams.fakes.rows)) <= most
        return seams.finalize((40, 36))

    most = 1 << 17
    every = found()
    assert every["n_edges"] == 24 * 25 + 24 * 25
    most = 256
    monkeypatch.setattr("tiledsky.diagnostics.seams.MOST_ROWS", most)
    few = found()
    for kind in ("step", "slope"):
        for prefix in ("", "fake_"):
            assert few[kind][f"{prefix}worst"] == every[kind][f"{prefix}worst"]
            assert few[kind][f"{prefix}rms"] == pytest.approx(every[kind][f"{prefix}rms"], rel=1e-5)
            assert few[kind][f"{prefix}rms_error"] == pytest.approx(every[kind][f"{prefix}rms_error"], rel=0.3)
    assert few["worst_edge"] == every["worst_edge"]


def test_all_tiles_together_take_what_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst there can be: every block of a wide image stands out, a tenth of them is kept."""
    shape, tile, most = (5760, 57600), (1920, 1920), 120_000
    monkeypatch.setattr(blocks, "MOST", most)
    monkeypatch.setattr(negative, "MOST", 20_000)
    for places, rows in ((BLOCKS, most), (APERTURES_FOUND, 20_000)):
        monkeypatch.setattr(places, "limit", replace(places.limit, most=rows))
    planes = {k: np.random.default_rng(9).normal(0, 1, tile).astype(np.float32) for k in ("science", "background")}
    first = Region(0, tile[0], 0, tile[1])
    pixels = Pixels(**planes, rms=np.ones(tile, np.float32), bits=np.zeros(tile, np.uint8), region=first, shape=tile)
    one = summarise(pixels, first, planes["background"])

    def summary(region: Region, seed: int) -> TileSummary:
        cells, random = owned_cells(region), np.random.default_rng(seed)
        side, per = cells.shape[0] * CELL // KEPT, CELL // KEPT
        rows = np.zeros(side * side, BLOCK)
        rows["y"], rows["x"] = np.divmod(np.arange(side * side), side)
        rows["y"] += cells.y0 * per
        rows["x"] += cells.x0 * per
        rows["n"], rows["sum"] = 256, (48 + random.exponential(9, rows.size)) * random.choice([-1, 1], rows.size)
        apertures = np.zeros(APERTURES * cells.shape[0] * cells.shape[1], APERTURE)
        for k, values in zip(("y", "x", "k"), np.indices((*cells.shape, APERTURES)).reshape(3, -1), strict=True):
            apertures[k] = values + {"y": cells.y0, "x": cells.x0, "k": 0}[k]
        side = min(box_side(shape), CELL)
        where = Region(*(edge * CELL // side for edge in cells))
        boxes = TileBoxes(shape, where, np.ones(where.shape, BOX))
        values = (one.values[0], rows, apertures, one.values[3], boxes)
        parts = TileSummary(cells, one.columns, values).to_parts()
        return TileSummary.from_parts([bytes(bytearray(part)) for part in parts])  # as if it were read

    grid = TileGrid(shape, tile)

    def together() -> dict[str, Any]:
        collector = Collector(shape)
        for k, region in enumerate(map(grid.region, grid)):
            collector.add(region, summary(region, k))
        return collector.finalize(ImageFacts(tile))

    together()  # kernels are compiled, which takes memory
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        found = together()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found["measures"]["negative"]["threshold"] < -3
    sizes = Sizes(shape, "float32", tile=shape, halo=(0, 0), planes={"science": Plane(4)}, tiles={"output": tile})
    projected = max(phase.bytes for phase in Diagnostics(Recipe.load("sextractor").expanded()).phases(sizes)) - FREED
    assert 0.4 * projected <= peak <= projected
