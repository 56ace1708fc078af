"""Objects of planes made at once, against those that Zarr makes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tiledsky.errors import InputError
from tiledsky.geometry import Region, TileGrid
from tiledsky.io import store
from tiledsky.io.zarr import shards
from tiledsky.io.zarr.reader import read_plane

SHAPE = (700, 560)


def pixels(dtype: str, shape: tuple[int, int] = SHAPE) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    made = (rng.normal(size=shape) * 9).astype(dtype)
    if made.dtype.kind == "f":
        made[rng.random(shape) < 0.1] = np.nan
    return made


def plane(root: Path, name: str, dtype: str, tile: tuple[int, int]) -> Any:
    group = zarr.open_group(str(root), mode="a")
    return store.writable(store.create_plane(group, name, shape=SHAPE, dtype=dtype, tile=tile))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool", "int32"])
@pytest.mark.parametrize("tile", [(600, 540), (300, 512), (900, 64), (700, 560)])
def test_the_bytes_are_those_of_zarr(tmp_path: Path, dtype: str, tile: tuple[int, int]) -> None:
    ours, theirs = (plane(tmp_path, name, dtype, tile) for name in ("ours", "theirs"))
    data, grid = pixels(dtype), TileGrid(SHAPE, tile)
    assert shards.is_plain(ours)
    for index in grid:
        region = grid.region(index)
        shards.write_object(ours, region, data[region.slices])
        theirs[region.slices] = data[region.slices]
    names = [store.object_path(theirs, index).removeprefix("theirs/") for index in grid]
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    files = {p.relative_to(tmp_path / "ours").as_posix() for p in (tmp_path / "ours/c").rglob("*") if p.is_file()}
    assert files == set(names)


@pytest.mark.parametrize("tile", [(600, 540), (300, 512)])
def test_regions_are_those_of_zarr(tmp_path: Path, tile: tuple[int, int]) -> None:
    array, data = plane(tmp_path, "p", "float32", tile), pixels("float32")
    array[tile[0] :, :] = data[tile[0] :, :]  # the upper objects are missing
    data[: tile[0], :] = np.nan
    cuts = itertools.product([(0, 700), (123, 124), (290, 650)], [(0, 560), (1, 300), (555, 560)])
    for (y0, y1), (x0, x1) in cuts:
        region = Region(y0, y1, x0, x1)
        found = shards.read_region(array, region)
        assert found.dtype == data.dtype
        np.testing.assert_array_equal(found, data[region.slices])
        np.testing.assert_array_equal(found, array[region.slices])


@pytest.mark.parametrize(
    ("tile", "damage"),
    [*itertools.product([(600, 540), (300, 512)], ["chunk", "end", "cut", "empty"]), ((300, 512), "length")],
)
def test_damage_is_an_error(tmp_path: Path, tile: tuple[int, int], damage: str) -> None:
    array = plane(tmp_path, "p", "float32", tile)
    region = TileGrid(SHAPE, tile).region((0, 0))
    shards.write_object(array, region, pixels("float32")[region.slices])
    file = tmp_path / "p/c/0/0"
    data = bytearray(file.read_bytes())
    if damage == "chunk":
        data[len(data) // 3] ^= 4
    elif damage == "end":
        data[-9] ^= 1
    elif damage == "length":  # what a chunk says of its size, its checksum put right
        assert array.shards is None
        data[4] ^= 1
        data[-4:] = shards._sealed(bytes(data[:-4]), [])[1]
    else:
        del data[len(data) // 2 if damage == "cut" else 0 :]
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"rows 0 to .* cannot be read \(ValueError: .*bytes.*the array is damaged"):
        read_plane(array, region)


def test_what_is_left_to_zarr(tmp_path: Path) -> None:
    group = zarr.open_group(MemoryStore(), mode="w")
    kept = store.create_plane(group, "p", shape=SHAPE, dtype="float32", tile=(300, 300))
    others = [
        zarr.create_array(str(tmp_path / "a"), shape=SHAPE, dtype="f4", chunks=(100, 100)),
        zarr.create_array(str(tmp_path / "b"), shape=SHAPE, dtype="f4", chunks=(100, 100), zarr_format=2),
        zarr.create_array(str(tmp_path / "c"), shape=SHAPE, dtype=">f4", compressors=shards.compressors("f4")),
    ]
    assert not any(map(shards.is_plain, (kept, *others, np.zeros(SHAPE))))
    for array in (kept, *others):
        array[...] = data = pixels("float32")
        np.testing.assert_array_equal(read_plane(array, Region(5, 90, 6, 480)), data[5:90, 6:480])


def test_pixels_of_another_place_are_refused(tmp_path: Path) -> None:
    array = plane(tmp_path, "p", "float32", (300, 512))
    with pytest.raises(ValueError, match="not those of one object"):
        shards.write_object(array, Region(0, 299, 0, 512), np.zeros((300, 512), np.float32))
    with pytest.raises(ValueError, match="not those of one object"):
        shards.write_object(array, Region(1, 301, 0, 512), np.zeros((300, 512), np.float32))
