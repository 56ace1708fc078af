"""Objects that a Zarr array lacks: an error where all were written, else counted and told."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

from tiledsky import run
from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.source import open_source
from tiledsky.workflows.export import ingest
from tiledsky.workflows.export import simulate as simulate_file

PIXELS = np.random.default_rng(3).normal(10, 1, (90, 100)).astype("f4")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, "tiledsky")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on an image half of which is NaN, so that no object of it is left out as empty."""
    folder = tmp_path_factory.mktemp("run")
    image = PIXELS.copy()
    image[:, :64] = np.nan
    fits.writeto(folder / "image.fits", image)
    return run(folder / "image.fits", "sextractor", folder / "run.zarr", tile_size=64).path


def objects(array: Path) -> list[Path]:
    return sorted(path for path in (array / "c").rglob("*") if path.is_file())


def test_what_was_ingested_is_whole(tmp_path: Path, told: Any) -> None:
    """Also where all pixels of a chunk are fill value."""
    image, dq = np.full((2000, 2000), np.nan, np.float32), np.zeros((2000, 2000), np.uint8)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI"), fits.ImageHDU(dq, name="DQ")]).writeto(
        tmp_path / "a.fits"
    )
    ingest(f"{tmp_path / 'a.fits'}:SCI", tmp_path / "a.zarr", dq=f"{tmp_path / 'a.fits'}:DQ")
    assert list(open_source(tmp_path / "a.zarr").planes) == ["science", "dq"]
    for plane in ("science", "dq"):
        names = objects(tmp_path / "a.zarr" / plane)
        assert len(names) == 4
        kept = names[1].read_bytes()
        names[1].unlink()
        message = (
            rf"{plane}: 1 of 4 objects are missing, the first is c/0/1 \(rows 0:1920, columns 1920:2000\), and all"
        )
        with pytest.raises(
            InputError, match=rf"{message} were written, so these pixels are lost; restore them or ingest"
        ):
            open_source(tmp_path / "a.zarr")
        names[1].write_bytes(b"")
        with pytest.raises(InputError, match=rf"{plane}/c/0/1: the object is empty, so Zarr would read it as fill"):
            open_source(tmp_path / "a.zarr")
        names[1].write_bytes(kept)
    (tmp_path / "a.zarr" / "dq").rename(tmp_path / "gone")
    with pytest.raises(
        InputError, match=r"a\.zarr: the plane dq was written and is missing, so the image would be read"
    ):
        open_source(tmp_path / "a.zarr")
    assert told() == []
    zarr.open_group(str(tmp_path / "a.zarr"), mode="r+").attrs["tiledsky_whole"] = ["science"]
    assert list(open_source(tmp_path / "a.zarr").planes) == ["science"]
    objects(tmp_path / "a.zarr" / "science")[3].unlink()
    array = zarr.open_array(str(tmp_path / "a.zarr" / "science"), mode="r+")
    del array.attrs["tiledsky_whole"]  # as the error says, of what was meant to go
    open_source(tmp_path / "a.zarr")
    assert ["1 of 4 objects are missing" in line for line in told()] == [True]


@pytest.mark.parametrize("fmt", [2, 3])
def test_planes_that_a_group_once_had(tmp_path: Path, fmt: Any) -> None:
    """By the copy of the metadata that xarray and others keep in a group."""
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=fmt)
    for name in ("science", "weight", "x"):
        group.create_array(name, data=PIXELS, chunks=(20, 25))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of format 3: no part of the standard yet
        zarr.consolidate_metadata(str(tmp_path / "a.zarr"))
    assert list(open_source(tmp_path / "a.zarr").planes) == ["science", "weight"]
    shutil.rmtree(tmp_path / "a.zarr" / "x")
    assert list(open_source(tmp_path / "a.zarr").planes) == ["science", "weight"]
    shutil.rmtree(tmp_path / "a.zarr" / "weight")
    with pytest.raises(InputError, match=r"a\.zarr: its consolidated metadata name the plane weight, which is missing"):
        open_source(tmp_path / "a.zarr")
    assert list(open_source(tmp_path / "a.zarr", hdu="science").planes) == ["science"]


def test_what_was_simulated_is_whole(tmp_path: Path) -> None:
    simulate_file(tmp_path / "a.zarr", shape=(70, 80), seed=4)
    objects(tmp_path / "a.zarr" / "science")[0].unlink()
    with pytest.raises(InputError, match=r"1 of 1 objects are missing, .* and all were written"):
        open_source(tmp_path / "a.zarr")


def test_a_finished_run_is_whole(tmp_path: Path, finished: Path, told: Any) -> None:
    assert open_source(finished.parent / "image.fits", mask=finished).planes
    shutil.copytree(finished, tmp_path / "run.zarr")
    gone = objects(tmp_path / "run.zarr" / "mask")[0]
    gone.unlink()
    for mask in (tmp_path / "run.zarr", tmp_path / "run.zarr" / "mask"):
        with pytest.raises(
            InputError, match=r"mask: 1 of 4 objects are missing, .* of a finished run, so these pixels"
        ):
            open_source(finished.parent / "image.fits", mask=mask)
    assert told() == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fill_value": 0.0},
        {"shards": (40, 50)},
        {"zarr_format": 2, "fill_value": np.nan},
        {"zarr_format": 2, "fill_value": 0.0, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}, "fill_value": np.nan},
    ],
)
def test_what_others_wrote_is_counted(tmp_path: Path, told: Any, options: dict[str, Any]) -> None:
    """A chunk that is all fill value is left out, and nobody can say whether another one was lost."""
    array = zarr.create_array(str(tmp_path / "a.zarr"), data=PIXELS, chunks=(20, 25), **options)
    assert open_source(tmp_path / "a.zarr").planes
    assert told() == []
    array[40:80, 50:100] = array.fill_value
    array[0, 0] = 1
    size = array.shards or array.chunks
    count, total = (40 // size[0]) * (50 // size[1]), -(-90 // size[0]) * (100 // size[1])
    open_source(tmp_path / "a.zarr")
    (line,) = told()
    assert f"a.zarr: {count} of {total} objects are missing, the first is " in line
    assert f"(rows 40:{40 + size[0]}, columns 50:{50 + size[1]}); they are read as {array.fill_value}, the fill" in line


def test_missing_packed_pixels_are_told_as_they_are_read(tmp_path: Path, told: Any) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(90, 100), chunks=(50, 100), dtype="i2", fill_value=0)
    array[:50] = 7
    array.attrs.update(scale_factor=0.5, add_offset=10.0)
    plane = open_source(tmp_path / "a.zarr").planes["science"]
    assert "1 of 2 objects are missing" in told()[0]
    assert "they are read as 10.0, the fill value" in told()[0]
    assert plane.open().read(Region(60, 61, 0, 1)) == 10.0


def test_folders_that_are_links_are_looked_through(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=PIXELS, chunks=(20, 25))
    (path / "c" / "0").rename(tmp_path / "elsewhere")
    (path / "c" / "0").symlink_to(tmp_path / "elsewhere")
    open_source(path)
    assert told() == []
    (tmp_path / "elsewhere" / "2").unlink()
    open_source(path)
    assert "1 of 20 objects are missing, the first is c/0/2 (rows 0:20, columns 50:75)" in told()[0]
