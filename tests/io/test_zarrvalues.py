"""Packed and missing values, axes and levels of Zarr arrays, with the attributes that xarray 2026.9 leaves."""

from __future__ import annotations

import base64
import json
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import tiledsky
from tiledsky import open_run, run
from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.plane_reader import SourcePlane
from tiledsky.io.source import open_source, plane_from_json

SHAPE = (50, 60)
REGION = Region(0, 50, 0, 60)


def b64(value: float) -> str:
    return base64.standard_b64encode(struct.pack("<d", value)).decode()


def sky(dtype: Any = np.float64) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(1).normal(10, 1, SHAPE)
    values[:9], values[20, 20] = np.nan, np.nan
    return values.astype(dtype)


def packed(dtype: str, scale: float, offset: float, fill: int) -> np.ndarray[Any, Any]:
    values = sky()
    return np.where(np.isnan(values), fill, np.round((np.nan_to_num(values) - offset) / scale)).astype(dtype)


def write(
    path: Path, values: np.ndarray[Any, Any], *, fmt: int = 3, fill: Any = 0, dims: Any = None, **attrs: Any
) -> Path:
    """Write a group with an array "science"."""
    options: dict[str, Any] = {"dimension_names": dims} if fmt == 3 else {}
    chunks = (*(1,) * (values.ndim - 2), 20, 25)
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt)  # type: ignore[arg-type]
    array = group.create_array(
        "science", shape=values.shape, chunks=chunks, dtype=values.dtype, fill_value=fill, **options
    )
    array[...] = values
    array.attrs.update(attrs)
    return path


def planes(path: Path, **inputs: Any) -> dict[str, SourcePlane]:
    return open_source(path, **inputs).planes


def pixels(path: Path, name: str = "science", **inputs: Any) -> np.ndarray[Any, Any]:
    plane = planes(path, **inputs)[name]
    opened = plane_from_json(json.loads(json.dumps(plane.to_json()))).open()
    whole = opened.read(REGION)
    assert (whole.dtype, whole.dtype.isnative, whole.shape) == (plane.dtype, True, SHAPE)
    np.testing.assert_array_equal(opened.read(Region(13, 44, 7, 59)), whole[13:44, 7:59])
    assert plane.again() == plane
    return whole


@pytest.mark.parametrize(
    ("dtype", "scale", "offset", "fill", "output"),
    [
        ("i2", 0.005, 10.0, -32768, "float32"),
        (">i2", 0.005, 0.0, 32767, "float32"),
        ("u1", 0.05, 5.0, 255, "float32"),
        ("i2", 0.005, 1e6, -32768, "float64"),  # of which float32 does not tell the steps apart
        ("i4", 1e-6, 5.0, -(2**31), "float64"),
        ("i8", 1e-9, 0.0, -(2**63), "float64"),
    ],
)
@pytest.mark.parametrize("fmt", [2, 3])
def test_packed_integers(
    tmp_path: Path, dtype: str, scale: float, offset: float, fill: int, output: str, fmt: int
) -> None:
    stored = packed(dtype, scale, offset, fill)
    attrs: dict[str, Any] = {"scale_factor": scale, "add_offset": offset}
    attrs |= {"_FillValue": fill} if fmt == 3 else {"_ARRAY_DIMENSIONS": ["y", "x"]}
    path = write(tmp_path / "a.zarr", stored, fmt=fmt, fill=fill if fmt == 2 else 0, dims=("y", "x"), **attrs)
    found = pixels(path)
    expected = np.where(stored == fill, np.nan, stored.astype(np.float64) * scale + offset).astype(output)
    assert found.dtype == output
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(np.isnan(found), np.isnan(sky()))


@pytest.mark.parametrize("fill", [-999.0, 1e20, -3.4028235e38, "-999", b64(-999.0), b64(9.969209968386869e36)])
@pytest.mark.parametrize("key", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_missing_floats(tmp_path: Path, fill: Any, key: str, dtype: str) -> None:
    number = (
        float(fill) if not isinstance(fill, str) or fill == "-999" else struct.unpack("<d", base64.b64decode(fill))[0]
    )
    stored = np.where(np.isnan(sky()), number, sky()).astype(dtype)
    path = write(tmp_path / "a.zarr", stored, **{key: fill})
    np.testing.assert_array_equal(pixels(path), sky(dtype))


@pytest.mark.parametrize("fill", ["NaN", b64(np.nan), np.nan, "nan"])
def test_nan_needs_no_word(tmp_path: Path, fill: Any) -> None:
    path = write(tmp_path / "a.zarr", sky("f4"), _FillValue=fill)
    assert planes(path)["science"].open().values is None
    np.testing.assert_array_equal(pixels(path), sky("f4"))


def test_several_missing_values(tmp_path: Path) -> None:
    stored = packed("i2", 0.01, 0.0, -1)
    stored[30:32], stored[33] = -2, -3
    path = write(tmp_path / "a.zarr", stored, scale_factor=[0.01], _FillValue=-1, missing_value=[-2, -3.0])
    expected = np.where(stored < 0, np.nan, stored * 0.01).astype("f4")
    np.testing.assert_array_equal(pixels(path), expected)


def test_scaled_floats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", sky("f4"), scale_factor=2.0)
    np.testing.assert_array_equal(pixels(path), sky("f4") * np.float32(2))
    path = write(tmp_path / "b.zarr", sky("f4"), scale_factor=2.0, add_offset=1e6)
    np.testing.assert_array_equal(pixels(path), sky("f4").astype("f8") * 2 + 1e6)


@pytest.mark.parametrize("scale", [1e36, 1e-40, -1e37])
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4"])
def test_scales_beyond_float32(tmp_path: Path, dtype: str, scale: float) -> None:
    """No pixel becomes infinite, so that it would count as no data, nor loses its digits."""
    stored = np.clip(np.nan_to_num(sky() * 12, nan=7), 0, 255).astype(dtype)
    path = write(tmp_path / "a.zarr", stored, scale_factor=scale)
    np.testing.assert_allclose(pixels(path), stored.astype("f8") * scale, rtol=1e-6)


def test_integers_of_the_other_sign(tmp_path: Path) -> None:
    stored = packed("u2", 0.0005, 0.0, 65535)
    path = write(tmp_path / "a.zarr", stored.view("i2"), _Unsigned="true", scale_factor=0.0005, _FillValue=-1)
    np.testing.assert_array_equal(np.isnan(pixels(path)), np.isnan(sky()))
    np.testing.assert_allclose(pixels(path), sky(), atol=0.00026)


def test_fill_values_of_format_2(tmp_path: Path) -> None:
    """Of xarray's arrays they are missing values; of others what was never written, and a number as any."""
    stored = np.where(np.isnan(sky()), 0, sky()).astype("f4")
    np.testing.assert_array_equal(pixels(write(tmp_path / "a.zarr", stored, fmt=2)), stored)
    path = write(tmp_path / "b.zarr", stored, fmt=2, _ARRAY_DIMENSIONS=["y", "x"])
    np.testing.assert_array_equal(pixels(path), sky("f4"))
    np.testing.assert_array_equal(pixels(write(tmp_path / "c.zarr", stored)), stored)


def test_attributes_that_change_nothing(tmp_path: Path) -> None:
    stored = np.nan_to_num(sky()).astype("i2")
    path = write(tmp_path / "a.zarr", stored, scale_factor=1, add_offset=0.0, units="counts", missing_value=np.nan)
    assert planes(path)["science"].open().values is None
    np.testing.assert_array_equal(pixels(path), stored)


@pytest.mark.parametrize(
    ("dtype", "attrs", "message"),
    [
        ("i2", {"scale_factor": 0}, "scale_factor 0 makes every pixel the same; correct it"),
        ("i2", {"scale_factor": "0.1"}, "scale_factor '0.1' is not a number, so its pixels are not known; correct"),
        ("i2", {"add_offset": [1, 2]}, r"add_offset \[1, 2\] is not a number"),
        ("i2", {"add_offset": float("inf")}, "add_offset inf is not a number"),
        ("i2", {"scale_factor": 1e305}, r"scale_factor 1e\+305 and add_offset 0 make pixels that no float"),
        (
            "i2",
            {"_FillValue": -99999},
            "_FillValue -99999 is not one of the numbers of int16, so missing pixels are not",
        ),
        ("i2", {"missing_value": 0.5}, "missing_value 0.5 is not one of the numbers of int16"),
        ("f4", {"_FillValue": "none"}, "_FillValue 'none' is not a number, so missing pixels are not known; correct"),
        ("f4", {"_FillValue": True}, "_FillValue True is not a number"),
        ("i8", {"units": "days since 2020-01-01", "calendar": "standard"}, r"holds times \(days since .*name another"),
        ("i8", {"dtype": "timedelta64[s]", "units": "seconds"}, r"holds times \(timedelta64\[s\]\), not pixels"),
    ],
)
@pytest.mark.parametrize("fmt", [2, 3])
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, dtype: str, attrs: dict[str, Any], message: str, fmt: int
) -> None:
    path = write(tmp_path / "a.zarr", np.nan_to_num(sky()).astype(dtype), fmt=fmt, **attrs)
    with pytest.raises(InputError, match=rf"a\.zarr/science: .*{message}"):
        open_source(path)


@pytest.mark.parametrize("fmt", [2, 3])
@pytest.mark.parametrize("names", [("x", "y"), ("RA", "Dec"), ("band", "lon", "lat")])
def test_images_that_lie_on_their_side(tmp_path: Path, fmt: int, names: tuple[str, ...]) -> None:
    values = sky("f4").reshape((1,) * (len(names) - 2) + SHAPE)
    attrs = {"_ARRAY_DIMENSIONS": list(names)} if fmt == 2 else {}
    path = write(tmp_path / "a.zarr", values, fmt=fmt, fill=np.nan, dims=names, **attrs)
    with pytest.raises(InputError, match=r"science: its axes are .* and those of an image \(y, x\); transpose"):
        open_source(path)


@pytest.mark.parametrize("leading", [(1,), (1, 1, 1)])
def test_axes_of_length_1_are_dropped(tmp_path: Path, leading: tuple[int, ...]) -> None:
    path = write(tmp_path / "a.zarr", sky("f4").reshape(leading + SHAPE))
    assert planes(path)["science"].shape == SHAPE
    np.testing.assert_array_equal(pixels(path), sky("f4"))
    with pytest.raises(InputError, match="3-D array of float32; an image is 2-D and of numbers"):
        open_source(write(tmp_path / "b.zarr", np.stack([sky("f4")] * 2)))


# ---------------------------------------------------------------- planes beside the image


def test_missing_flags_are_all_flags(tmp_path: Path) -> None:
    """Of a pixel whose flags are missing none is known to be clear; without a coverage it is not covered."""
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("science", data=np.nan_to_num(sky("f4")), chunks=(20, 25))
    flags = np.random.default_rng(2).integers(0, 4, SHAPE)
    for name, dtype, fill in (("dq", "i4", 2), ("user_mask", "u1", 3), ("coverage", "i2", 1)):
        group.create_array(name, data=flags.astype(dtype), chunks=(20, 25)).attrs["_FillValue"] = fill
    path = tmp_path / "a.zarr"
    np.testing.assert_array_equal(pixels(path, "dq"), np.where(flags == 2, -1, flags))
    np.testing.assert_array_equal(pixels(path, "user_mask"), np.where(flags == 3, 255, flags))
    np.testing.assert_array_equal(pixels(path, "coverage"), np.where(flags == 1, np.nan, flags).astype("f4"))
    for name in ("dq", "user_mask"):  # 0 is no flag, and no mask, whatever else it is called
        group[name].attrs["_FillValue"] = 0
        np.testing.assert_array_equal(pixels(path, name), flags)


def test_flags_are_not_scaled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", sky("f4"))
    flags = write(tmp_path / "b.zarr", np.ones(SHAPE, "u1"), scale_factor=2.0)
    for option in ("dq", "mask", "user_mask"):
        with pytest.raises(InputError, match="numbers with scale_factor and add_offset are not flags; store"):
            open_source(path, **{option: flags / "science"})
    assert pixels(path, "weight", weight=flags / "science").max() == 2


# ---------------------------------------------------------------- OME-Zarr


def ome(path: Path, *, fmt: int, images: int = 1) -> Path:
    """Two levels of one image, five axes, as version 0.4 (format 2) or 0.5 (format 3) has them."""
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt)  # type: ignore[arg-type]
    for name, values in (("s0", sky("f4")), ("s1", sky("f4")[::2, ::2])):
        group.create_array(name, data=values[None, None, None], chunks=(1, 1, 1, 20, 25))
    axes = [{"name": name} for name in "tczyx"]
    levels = [{"axes": axes, "datasets": [{"path": "s0"}, {"path": "s1"}]}] * images
    group.attrs.update({"multiscales": levels} if fmt == 2 else {"ome": {"version": "0.5", "multiscales": levels}})
    return path


@pytest.mark.parametrize("fmt", [2, 3])
def test_levels(tmp_path: Path, fmt: int, caplog: pytest.LogCaptureFixture) -> None:
    path = ome(tmp_path / "a.zarr", fmt=fmt)
    with caplog.at_level(logging.WARNING, "tiledsky"):
        np.testing.assert_array_equal(pixels(path), sky("f4"))
    assert "a.zarr: an OME-Zarr image of 2 levels; the first, 's0', is read" in caplog.text
    assert planes(path, hdu="s1")["science"].shape == (25, 30)
    weights = ome(tmp_path / "w.zarr", fmt=fmt)
    assert planes(path, weight=weights)["weight"].path == str(weights / "s0")


def test_levels_that_are_not_clear(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 OME-Zarr images, and tiledsky reads one; name one of its arrays"):
        open_source(ome(tmp_path / "a.zarr", fmt=3, images=2))
    path = ome(tmp_path / "b.zarr", fmt=2)
    group = zarr.open_group(str(path), mode="r+")
    for levels, message in (
        ([{"datasets": [{"path": "s7"}]}], "its multiscales name an array 's7', which does not exist; restore it"),
        ([{"datasets": [{}]}], "its multiscales are damaged; name one of its arrays"),
        ([{"datasets": [{"path": "../../etc"}]}], "is not a name of an array in this group"),
    ):
        group.attrs["multiscales"] = levels
        with pytest.raises(InputError, match=message):
            open_source(path)


# ---------------------------------------------------------------- whole runs


def test_a_run_reads_packed_pixels_in_place(tmp_path: Path) -> None:
    stored = np.tile(packed("i2", 0.005, 10.0, -32768), (4, 4))
    path = write(tmp_path / "a.zarr", stored, scale_factor=0.005, add_offset=10.0, _FillValue=-32768)
    image = np.where(stored == -32768, np.nan, stored * 0.005 + 10.0).astype("f4")
    expected = tiledsky.estimate_background(image, "sextractor")
    result = run(path, "sextractor", tmp_path / "run.zarr", tile_size=128)
    np.testing.assert_array_equal(result.plane("background")[...], expected.background)
    np.testing.assert_array_equal(result.plane("subtracted")[...], expected.subtracted)
    again = open_run(tmp_path / "run.zarr").science_in_place
    np.testing.assert_array_equal(again.read(Region(0, 200, 0, 240)), image)
