"""Means of blocks of a run: those of the pixels, for any tiles; windows of any part of any plane."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.nddata import block_reduce

from tests.engine.scenes import make_planes, stored_bytes, write_arrays
from tiledsky import Recipe, Run, run
from tiledsky.engine.plan import make_plan
from tiledsky.engine.verify import verify
from tiledsky.errors import ParameterError
from tiledsky.geometry import Region
from tiledsky.io.zarr.reader import read_plane
from tiledsky.operations.output import OVERVIEWS
from tiledsky.report import windows
from tiledsky.report.windows import planes_to_look_at, read_window

SHAPE = (150, 2101)
RECIPE = Recipe.from_dict(
    {
        "name": "masked",
        "steps": [
            {"kind": "background", "name": "first", "box_size": 30},
            {"kind": "mask", "name": "sources", "tiers": [{"n_sigma": 3.0, "fwhm": 2.5, "n_pixels": 4, "grow": 2}]},
            {"kind": "background", "name": "sky", "box_size": [12, 15]},
        ],
    }
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_arrays(tmp_path_factory.mktemp("wide"), make_planes(SHAPE))


@pytest.fixture(scope="module")
def wide(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(recipe=RECIPE, out=tmp_path_factory.mktemp("run") / "run.zarr", **inputs)


def pixels_of(found: Run, inputs: dict[str, str], name: str) -> np.ndarray[Any, Any]:
    """A plane in full, as `read_window` defines it, without it."""
    import zarr

    if name == "science":
        pixels = zarr.open_array(inputs["source"], mode="r")[...]
        return np.where(np.isfinite(pixels), pixels, np.nan)
    if name == "mask":
        return (found.plane("mask")[...] != 0).astype(float)
    if name == "residual":
        return np.where(found.plane("mask")[...] == 0, found.plane("subtracted")[...], np.nan)
    return np.where(np.isfinite(found.plane(name)[...]), found.plane(name)[...], np.nan)


def block_nanmean(pixels: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Means by astropy, of an image grown by NaN to whole blocks."""
    grown = np.pad(pixels.astype(float), [(0, -n % size) for n in pixels.shape], constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return block_reduce(grown, size, func=np.nanmean)


def test_levels_are_means_of_the_pixels(wide: Run, inputs: dict[str, str]) -> None:
    for size in OVERVIEWS:
        for name in ("science", "background", "subtracted", "residual", "mask"):
            expected = block_nanmean(pixels_of(wide, inputs, name), size)
            stored = wide.array(f"levels/{size}/{name}")[...]
            np.testing.assert_allclose(stored, expected, rtol=2e-6, atol=2e-7, err_msg=f"{name} {size}")
    assert np.isnan(wide.array("levels/4/residual")[...]).any()


@pytest.mark.parametrize("tile_size", [160, 700])
def test_levels_do_not_depend_on_tiles(wide: Run, inputs: dict[str, str], tmp_path: Path, tile_size: int) -> None:
    other = run(recipe=RECIPE, out=tmp_path / "run.zarr", tile_size=tile_size, **inputs)
    assert all(n % OVERVIEWS[-1] == 0 for n in other.plan.stage("output").tile)
    for size in OVERVIEWS:
        for name in ("science", "background", "subtracted", "residual", "mask"):
            path = f"levels/{size}/{name}"
            np.testing.assert_array_equal(other.array(path)[...], wide.array(path)[...])
    assert verify(other.path) == []


def test_lost_block_means_are_made_anew(wide: Run, inputs: dict[str, str]) -> None:
    before = stored_bytes(wide.path)
    lost = wide.path / "levels" / "4" / "residual" / "c" / "0" / "1"
    lost.unlink()
    assert [fault.path for fault in verify(wide.path)] == ["levels/4/residual/c/0/1"]
    again = run(recipe=RECIPE, out=wide.path, **inputs)
    assert again.provenance["tasks_computed_last"] == 1
    assert stored_bytes(wide.path) == before


@pytest.mark.parametrize("name", ["science", "background", "subtracted", "residual", "mask", "background_rms"])
@pytest.mark.parametrize(
    ("region", "largest", "size"),
    [
        (None, 2200, 1),
        (None, 1024, 3),
        (None, 500, 8),
        (None, 60, 48),
        (Region(33, 90, 1000, 1100), 128, 1),
        (Region(33, 90, 1000, 1101), 50, 3),
        (Region(7, 149, 2000, 2101), 20, 8),
    ],
)
def test_window(wide: Run, inputs: dict[str, str], name: str, region: Region | None, largest: int, size: int) -> None:
    window = read_window(wide, name, region, largest=largest)
    wanted = region or Region.whole(SHAPE)
    assert window.size == size
    assert window.region.contains(wanted)
    assert max(window.cells.shape) <= largest + 1
    assert window.region.y0 == wanted.y0 // size * size
    assert wanted.y1 <= window.region.y1 < wanted.y1 + size or window.region.y1 == SHAPE[0]
    pixels = pixels_of(wide, inputs, name)[window.region.slices]
    expected = block_nanmean(pixels, size)
    if size in (3, 1) or name == "mask":  # means of pixels, or of shares of whole blocks
        whole = expected.shape[0] - 1, expected.shape[1] - 1
        np.testing.assert_allclose(
            window.cells[: whole[0], : whole[1]], expected[: whole[0], : whole[1]], rtol=1e-5, atol=1e-6
        )
    elif name == "background_rms":  # off the mesh
        assert np.nanmax(abs(window.cells - expected)) < 0.5 * np.nanmedian(expected)
    else:  # means of means: of blocks without a pixel left out, and not cut by the border, the same
        whole_blocks = block_nanmean(np.isnan(pixels).astype(float), size) == 0
        whole_blocks[-1], whole_blocks[:, -1] = False, False
        np.testing.assert_allclose(window.cells[whole_blocks], expected[whole_blocks], rtol=1e-4, atol=1e-5)
        assert (np.isnan(window.cells) == np.isnan(expected)).all()


def test_what_can_be_looked_at(wide: Run) -> None:
    assert planes_to_look_at(wide)[:5] == ["science", "background", "subtracted", "residual", "mask"]
    with pytest.raises(ParameterError, match="no plane 'ring'"):
        read_window(wide, "ring")
    with pytest.raises(ParameterError, match="is not inside an image of 150 x 2101 px"):
        read_window(wide, "mask", Region(0, 151, 0, 10))


def test_small_images_have_no_levels() -> None:
    plans = [make_plan(RECIPE, (n, 70), "float32", tile_size=None, ingest=True) for n in (2048, 2049)]
    assert [plan.stage("output").overviews for plan in plans] == [(), OVERVIEWS]


def test_no_more_is_read_than_is_shown(wide: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cells of the whole image come from the coarsest blocks, in bands; nothing else is opened."""
    read: list[tuple[str, tuple[int, ...]]] = []

    def spy(plane: Any, region: Region) -> Any:
        read.append((plane.path, region.shape))
        return read_plane(plane, region)

    expected = read_window(wide, "residual", largest=60)
    monkeypatch.setattr(windows, "read_plane", spy)
    monkeypatch.setattr(windows, "_BAND", 500)
    window = read_window(wide, "residual", largest=60)
    np.testing.assert_array_equal(window.cells, expected.cells)
    assert {path for path, _ in read} == {"levels/16/residual"}
    assert len(read) > 1
    assert all(np.prod(shape) <= 500 for _, shape in read)
