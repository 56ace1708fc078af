"""Regions, tile grids, boxes and chunks, against plain index arithmetic on arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledsky.errors import ParameterError
from tiledsky.geometry import Region, TileGrid, aligned_tile, boxes_of, inner_chunk, mesh_shape, row_bands

SHAPE = (11, 17)
INDEX = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE)
sizes = st.integers(1, 40)


@st.composite
def regions(draw):
    y0, x0 = draw(st.integers(0, SHAPE[0] - 1)), draw(st.integers(0, SHAPE[1] - 1))
    return Region(y0, draw(st.integers(y0 + 1, SHAPE[0])), x0, draw(st.integers(x0 + 1, SHAPE[1])))


def test_whole_covers_everything():
    assert Region.whole(SHAPE).shape == SHAPE
    assert np.array_equal(INDEX[Region.whole(SHAPE).slices], INDEX)


@given(region=regions(), halo=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_grown_is_the_pixels_within_the_halo(region, halo):
    grown = region.grown(halo, SHAPE)
    y, x = np.indices(SHAPE)
    near = (
        (y >= region.y0 - halo[0]) & (y < region.y1 + halo[0]) & (x >= region.x0 - halo[1]) & (x < region.x1 + halo[1])
    )
    assert np.array_equal(INDEX[grown.slices].ravel(), INDEX[near])
    assert grown.contains(region)
    assert np.array_equal(INDEX[grown.slices][region.within(grown)], INDEX[region.slices])
    assert grown.inner(halo, SHAPE).contains(region)  # what a kernel of that radius makes of it is enough


@given(region=regions(), radius=st.integers(1, 20))
def test_a_halo_one_pixel_short_is_not_enough_unless_it_reaches_both_borders(region, radius):
    short = region.grown((radius - 1, radius), SHAPE)
    enough = short.y0 == 0 and short.y1 == SHAPE[0]
    assert short.inner((radius, radius), SHAPE).contains(region) == enough
    short = region.grown((radius, radius - 1), SHAPE)
    enough = short.x0 == 0 and short.x1 == SHAPE[1]
    assert short.inner((radius, radius), SHAPE).contains(region) == enough


@given(region=regions(), radius=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_inner_gives_up_pixels_only_inside_the_image(region, radius):
    inner = region.inner(radius, SHAPE)
    assert (inner.y0 - region.y0, region.y1 - inner.y1) == (radius[0] * (region.y0 > 0), radius[0] * (region.y1 < 11))
    assert (inner.x0 - region.x0, region.x1 - inner.x1) == (radius[1] * (region.x0 > 0), radius[1] * (region.x1 < 17))


def test_contains_takes_every_side_into_account():
    outer = Region(2, 6, 3, 9)
    assert outer.contains(outer)
    for k, step in ((0, -1), (1, 1), (2, -1), (3, 1)):
        other = list(outer)
        other[k] += step
        assert not outer.contains(Region(*other))
        assert Region(*other).contains(outer)


@given(shape=st.tuples(sizes, sizes), tile=st.tuples(sizes, sizes))
def test_tiles_cover_each_pixel_once(shape, tile):
    grid = TileGrid(shape, tile)
    count = np.zeros(shape, int)
    for index in grid:
        region = grid.region(index)
        assert min(region.shape) >= 1
        count[region.slices] += 1
    assert (count == 1).all()
    assert len(list(grid)) == len(grid) == grid.counts[0] * grid.counts[1]


@pytest.mark.parametrize(("shape", "tile"), [((0, 5), (2, 2)), ((5, 5), (2, 0))])
def test_empty_images_and_tiles_are_refused(shape, tile):
    with pytest.raises(ParameterError, match="at least 1 pixel"):
        TileGrid(shape, tile)


@given(shape=st.tuples(sizes, sizes), box=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_boxes_cut_by_the_edge_count(shape, box):
    labels = np.add.outer(1000 * (np.arange(shape[0]) // box[0]), np.arange(shape[1]) // box[1])
    ny, nx = mesh_shape(shape, box)
    assert ny * nx == np.unique(labels).size
    assert boxes_of(Region.whole(shape), box) == (0, ny, 0, nx)


def test_boxes_of_tiles_are_the_mesh_without_overlap():
    shape, box, tile = (95, 71), (6, 10), (18, 20)
    count = np.zeros(mesh_shape(shape, box), int)
    grid = TileGrid(shape, tile)
    for index in grid:
        count[boxes_of(grid.region(index), box).slices] += 1
    assert (count == 1).all()


@given(size=st.integers(1, 5000), boxes=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), max_size=3))
def test_aligned_tiles_are_whole_numbers_of_boxes(size, boxes):
    tile = aligned_tile(size, boxes)
    for axis in (0, 1):
        step = int(np.lcm.reduce([b[axis] for b in boxes])) if boxes else 1
        assert tile[axis] % step == 0
        assert tile[axis] == step > size or size - step < tile[axis] <= size


def test_the_tile_of_the_preset():
    assert aligned_tile(1920, [(10, 10), (10, 10), (6, 6)]) == (1920, 1920)
    assert inner_chunk(1920) == 240


@given(tile=st.integers(1, 10000))
def test_inner_chunks_divide_the_tile(tile):
    chunk = inner_chunk(tile)
    assert tile % chunk == 0
    assert chunk <= 512 or not [d for d in range(128, 513) if tile % d == 0]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (100, 3), (3, 1000)])
@pytest.mark.parametrize("cells", [1, 8, 21, 10_000])
def test_row_bands_cover_a_map_once(shape: tuple[int, int], cells: int) -> None:
    bands = list(row_bands(shape, cells=cells))
    assert [y for band in bands for y in range(band.start, band.stop)] == list(range(shape[0]))
    assert all((band.stop - band.start) * shape[1] <= max(cells, shape[1]) for band in bands)
