"""Inputs of runs: FITS files and Zarr stores, looked at before anything is computed."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

from tiledsky.errors import InputError
from tiledsky.geometry import Region
from tiledsky.io.fits.image import FitsImage
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.plane_reader import HEADER, MASK_BITS, ROLES
from tiledsky.io.regions import RegionMask
from tiledsky.io.source import open_source, plane_from_json

SHAPE = (40, 50)


def pixels(dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.arange(2000).reshape(SHAPE).astype(dtype)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """SCI, WHT and DQ in one file."""
    hdus = [fits.ImageHDU(pixels(), name="SCI"), fits.ImageHDU(pixels(), name="WHT"),
            fits.ImageHDU(pixels(np.int16), name="DQ")]  # fmt: skip
    hdus[0].header["OBJECT"] = "M 101"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "image.fits")
    return tmp_path / "image.fits"


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A group as ingest writes it."""
    group = zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    group.attrs[HEADER] = "OBJECT  = 'M 101'"
    for name, dtype in (("science", "f4"), ("weight", "f8"), ("user_mask", "bool"), ("other", "i2")):
        group.create_array(name, data=pixels(dtype), chunks=(17, 19))
    return tmp_path / "group.zarr"


def test_fits_planes(image: Path) -> None:
    source = open_source(f"{image}:SCI", weight=f"{image}:WHT", dq=f"{image}:DQ")
    assert list(source.planes) == ["science", "weight", "dq"]
    assert source.shape == SHAPE
    assert parse_header(source.header)["OBJECT"] == "M 101"
    assert [p.dtype for p in source.planes.values()] == ["float32", "float32", "int16"]
    reader = source.planes["dq"].open()
    assert isinstance(reader, FitsImage)
    np.testing.assert_array_equal(reader.read(Region(3, 9, 40, 50)), pixels()[3:9, 40:50])
    reader.close()


def test_hdu_by_option_and_by_number(image: Path) -> None:
    for hdu in ("SCI", "1", 1):
        assert open_source(image, hdu=hdu).planes["science"].ref.hdu == 1  # type: ignore[union-attr]
    with pytest.raises(InputError, match="names an HDU, and --hdu WHT another; give one of them"):
        open_source(f"{image}:SCI", hdu="WHT")


def test_group(group: Path) -> None:
    source = open_source(group)
    assert list(source.planes) == ["science", "weight", "user_mask"]
    assert parse_header(source.header)["OBJECT"] == "M 101"
    np.testing.assert_array_equal(source.planes["weight"].open().read(Region(5, 7, 1, 3)), pixels()[5:7, 1:3])


def test_named_planes_win_over_those_of_the_group(group: Path, image: Path) -> None:
    source = open_source(group, weight=f"{image}:WHT", mask=group / "other")
    assert source.planes["weight"].kind == "fits"
    assert str(source.planes["user_mask"].array).endswith("other")


def test_array_of_a_group(group: Path) -> None:
    for source in (open_source(group, hdu="other"), open_source(f"{group}:other"), open_source(group / "other")):
        assert list(source.planes) == ["science"]
        assert source.planes["science"].dtype == "int16"
    with pytest.raises(
        InputError, match="no array 'none' in this group; it has other, science, user_mask, weight; name"
    ):
        open_source(group, hdu="none")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, _socket, lambda p: p.symlink_to("/dev/zero"), lambda p: p.write_text("[" * 200_000)],
    ids=["pipe", "socket", "device", "nested"],
)
@pytest.mark.parametrize("file", ["zarr.json", ".zarray", ".zgroup"])
def test_members_of_a_group_that_are_no_arrays(group: Path, make: Any, file: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(group)  # the name of a socket has at most 107 bytes
    shutil.rmtree("weight")
    Path("weight").mkdir()
    make(Path("weight") / file)
    if make is os.mkfifo or file == "zarr.json":
        with pytest.raises(InputError, match=r"weight/.*is not a file|cannot read this Zarr store"):
            open_source(group)
    shutil.move("weight", "unused")  # not asked for: it is not opened, and no array
    assert list(open_source(group).planes) == ["science", "user_mask"]
    with pytest.raises(InputError, match="no array 'none' in this group; it has other, science, user_mask; name one"):
        open_source(group, hdu="none")


def test_zarr_format_2(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "two.zarr"), data=pixels(">f4"), chunks=(7, 9), zarr_format=2)
    plane = open_source(tmp_path / "two.zarr").planes["science"]
    assert plane.dtype == "float32"
    np.testing.assert_array_equal(plane.open().read(Region.whole(plane.shape)), pixels())


def test_planes_as_json(image: Path, group: Path) -> None:
    for source in (open_source(image, hdu="SCI"), open_source(group)):
        for plane in source.planes.values():
            assert plane_from_json(json.loads(json.dumps(plane.to_json()))) == plane


def identity(path: Path) -> str:
    return open_source(path).planes["science"].identity


def test_identity_of_fits_follows_its_bytes_not_its_name(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.fits", tmp_path / "b.fits"
    fits.PrimaryHDU(pixels()).writeto(path)
    shutil.copy2(path, copy)
    before = identity(path)
    assert identity(copy) == before
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity(path) != before


def test_identity_of_arrays_follows_every_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(str(path), data=pixels(), chunks=(10, 10))
    before = identity(path)
    assert identity(path) == before
    array[35, 45] = -1
    written = identity(path)
    assert written != before
    (path / "c/0/0").unlink()
    assert identity(path) not in (before, written)


@pytest.mark.parametrize("name", ["weight", "error", "dq", "coverage", "mask", "user_mask"])
def test_planes_of_another_shape(image: Path, tmp_path: Path, name: str) -> None:
    zarr.create_array(str(tmp_path / "small.zarr"), data=np.ones((40, 49), np.uint8))
    plane = "user_mask" if name == "mask" else name
    with pytest.raises(
        InputError, match=f"{plane} is 40 x 49 px, the science image 40 x 50; all planes must be on one"
    ):
        open_source(image, hdu="SCI", **{name: tmp_path / "small.zarr"})


@pytest.mark.parametrize("data", [np.zeros(5), np.zeros((2, 3, 4)), np.zeros((3, 3), complex)])
def test_arrays_that_are_no_image(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=data)
    with pytest.raises(InputError, match=rf"{data.ndim}-D array of {data.dtype}; an image is 2-D and of numbers"):
        open_source(tmp_path / "a.zarr")


def test_array_without_pixels(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(0, 7), chunks=(1, 7), dtype="f4")
    with pytest.raises(InputError, match="0 x 7 px has no pixel; name another array"):
        open_source(tmp_path / "a.zarr")


def test_folders_that_are_no_zarr(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Zarr array or group .*; give a FITS file or a Zarr store"):
        open_source(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"no Zarr array or group .*; give a FITS file or a Zarr store"):
        open_source(tmp_path)


@pytest.fixture
def every_plane(tmp_path: Path) -> Path:
    """All planes that a FITS file can have, and a weight and an error both."""
    names = {"SCI": "f4", "WHT": "f4", "ERR": "f8", "DQ": "i2", "COV": "i4", "MASK": "u1"}
    hdus = [fits.ImageHDU(pixels(dtype) % 7, name=name) for name, dtype in names.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "every.fits")
    return tmp_path / "every.fits"


def test_every_plane_by_its_role(every_plane: Path) -> None:
    """Without a name of an HDU the role finds it in one file; a mask may stand in the HDU of flags."""
    given = dict.fromkeys(("weight", "error", "coverage"), every_plane)
    source = open_source(every_plane, **given, dq=f"{every_plane}:DQ", mask=f"{every_plane}:MASK")
    assert list(source.planes) == ["science", "weight", "error", "dq", "coverage", "user_mask"]
    assert [p.dtype for p in source.planes.values()] == ["float32", "float32", "float64", "int16", "int32", "uint8"]
    assert [p.ref.hdu for p in source.planes.values()] == [1, 2, 3, 4, 5, 6]
    assert {p.path for p in source.planes.values()} == {str(every_plane)}


def test_every_plane_of_a_group(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "all.zarr"), mode="w")
    for name in ROLES:
        group.create_array(name, data=pixels("u1"), chunks=(17, 19))
    source = open_source(tmp_path / "all.zarr")
    assert list(source.planes) == list(ROLES)
    assert all(p.path == str(tmp_path / "all.zarr" / name) for name, p in source.planes.items())


def mask_array(path: Path, dtype: str = "u1", **attributes: int) -> Path:
    array = zarr.create_array(str(path), data=pixels(dtype), chunks=(17, 19))
    array.attrs.update(attributes)
    return path


def test_mask_bits_are_told_from_masks(image: Path, tmp_path: Path) -> None:
    """By an attribute of the array; --user-mask never reads bits; both kinds may be given."""
    bits = mask_array(tmp_path / "bits.zarr", **{MASK_BITS: 1})
    plain = mask_array(tmp_path / "plain.zarr", **{MASK_BITS: 0})
    science = f"{image}:SCI"
    for options, expected in (
        ({"mask": bits}, ["science", "source_mask"]),
        ({"mask": plain}, ["science", "user_mask"]),
        ({"user_mask": bits}, ["science", "user_mask"]),
        ({"mask": bits, "user_mask": plain}, ["science", "user_mask", "source_mask"]),
        ({"mask": bits, "user_mask": f"{image}:DQ"}, ["science", "user_mask", "source_mask"]),
    ):
        assert list(open_source(science, **options).planes) == expected
    source = open_source(science, mask=bits, user_mask=plain)
    assert source.planes["source_mask"].path == str(bits)
    with pytest.raises(InputError, match=r"plain.zarr and .*image.fits:DQ are two user masks; give one"):
        open_source(science, mask=plain, user_mask=f"{image}:DQ")


def test_mask_bits_are_bytes(image: Path, tmp_path: Path) -> None:
    bits = mask_array(tmp_path / "bits.zarr", "i2", **{MASK_BITS: 1})
    with pytest.raises(InputError, match=r"bits.zarr: int16 pixels have no mask bits; give the uint8 mask of a run"):
        open_source(f"{image}:SCI", mask=bits)


def test_mask_of_a_group(image: Path, group: Path, tmp_path: Path) -> None:
    """A run or merge-masks calls it mask, ingest user_mask or source_mask."""
    for names, expected in (
        (("mask", "user_mask", "source_mask"), "mask"),
        (("user_mask", "source_mask"), "user_mask"),
        (("source_mask",), "source_mask"),
    ):
        path = tmp_path / f"{'-'.join(names)}.zarr"
        made = zarr.open_group(str(path), mode="w")
        for name in names:
            made.create_array(name, data=pixels("u1"), chunks=(17, 19))
        if "mask" in names:
            made["mask"].attrs[MASK_BITS] = 1
        plane = "user_mask" if expected == "user_mask" else "source_mask"
        assert open_source(f"{image}:SCI", mask=path).planes[plane].path == str(path / expected)
    zarr.open_group(str(tmp_path / "no.zarr"), mode="w").create_array("a", data=pixels())
    with pytest.raises(InputError, match=r"no array 'mask' in this group; it has a; name one"):
        open_source(f"{image}:SCI", mask=tmp_path / "no.zarr")
    # the named one wins over the one of the group; bits do not replace it
    assert open_source(group, mask=f"{image}:DQ").planes["user_mask"].path == str(image)
    both = open_source(group, mask=tmp_path / "source_mask.zarr")
    assert both.planes["user_mask"].path == str(group / "user_mask")
    assert both.planes["source_mask"].path == str(tmp_path / "source_mask.zarr" / "source_mask")


def test_run_that_is_not_finished(image: Path, group: Path) -> None:
    """Its mask would have no sources where tiles are missing."""
    (group / "run").mkdir()
    (group / "run" / "identity.json").write_text("{}")
    for path in (group, group / "user_mask"):
        with pytest.raises(InputError, match=r"group.zarr is a run and is not finished; finish it with the command"):
            open_source(f"{image}:SCI", mask=path)
    (group / "run" / "_SUCCESS").touch()
    assert "user_mask" in open_source(f"{image}:SCI", mask=group).planes


def test_region_files(image: Path, group: Path, tmp_path: Path) -> None:
    pytest.importorskip("regions")
    path = tmp_path / "bad.REG"
    path.write_text("image; circle(20,11,5)")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = (y - 10) ** 2 + (x - 19) ** 2 < 25
    for source in (
        open_source(f"{image}:SCI", mask=path),
        open_source(group, user_mask=path),
        open_source(group, user_mask=path, mask=mask_array(tmp_path / "bits.zarr", **{MASK_BITS: 1})),
    ):
        plane = source.planes["user_mask"]
        assert (plane.path, plane.shape, plane.dtype) == (str(path), SHAPE, "uint8")
        again = plane_from_json(json.loads(json.dumps(plane.to_json())))
        assert again == plane
        opened = again.open()
        assert isinstance(opened, RegionMask)
        np.testing.assert_array_equal(opened.read(Region(3, 17, 2, 31)), expected[3:17, 2:31])
    before = plane.identity
    path.write_text("image; circle(20,11,6)")
    assert open_source(f"{image}:SCI", mask=path).planes["user_mask"].identity != before
    with pytest.raises(InputError, match=r"none.reg: cannot be read"):
        open_source(image, hdu="SCI", mask=tmp_path / "none.reg")
    with pytest.raises(InputError, match=r"bad.REG.*(FITS|fits)"):
        open_source(image, hdu="SCI", weight=path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.fits"):
        open_source(tmp_path / "none.fits")


def test_planes_of_any_kind_are_told_and_read_alike(image: Path, group: Path, tmp_path: Path) -> None:
    """FITS, Zarr as it is and packed, regions, variances: the same questions, answered by what the pixels are."""
    pytest.importorskip("regions")
    packed = zarr.create_array(str(tmp_path / "packed.zarr"), data=pixels("i2"), chunks=(9, 50))
    packed.attrs.update(scale_factor=0.5, add_offset=3.0)
    (tmp_path / "m.reg").write_text("image; box(20,11,9,5,0)")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    source = open_source(
        f"{image}:SCI", weight=packed.store_path.store.root, variance=group / "science", mask=tmp_path / "m.reg"
    )
    expected = {
        "science": pixels(),
        "weight": pixels() * 0.5 + 3,
        "error": np.sqrt(pixels()),
        "user_mask": (abs(x - 19) <= 4) & (abs(y - 10) <= 2),
    }
    kinds = {"science": "fits", "weight": "array", "error": "array", "user_mask": "regions"}
    assert {name: plane.kind for name, plane in source.planes.items()} == kinds
    for name, plane in source.planes.items():
        assert plane.again() == plane_from_json(json.loads(json.dumps(plane.to_json()))) == plane
        reader = plane.open()
        assert (reader.shape, reader.dtype) == (plane.shape, plane.dtype)
        for region in (Region.whole(SHAPE), Region(3, 17, 2, 31), Region(8, 9, 0, 1)):
            found = reader.read(region)
            assert found.dtype == reader.dtype
            assert found.flags.writeable
            np.testing.assert_array_equal(found, expected[name][region.slices].astype(plane.dtype))
        reader.close()
