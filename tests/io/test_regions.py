"""Region files: what they mask is what the package regions draws on the whole image, in any tiles."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from tiledsky.errors import InputError
from tiledsky.geometry import Region, TileGrid
from tiledsky.io.regions import RegionMask, RegionRef, open_regions

regions = pytest.importorskip("regions")

SHAPE = (83, 101)

DS9 = """# Region file format: DS9 version 4.1
global color=green dashlist=8 3 width=1 select=1 include=1 source=1
image
circle(20.3,31.7,9.4)
box(60,40,31,12,35)
ellipse(80.2,15.1,12,5,20)
polygon(5,70,30.5,80,25,60.2,11,55)
annulus(70,65,6,13)
circle(-3,4,7.5) # beyond the border
circle(500,500,3)
# text(10,10) text={a label}
-circle(24,33,4.2)
-box(66,44,6,6,0)
"""


def header(**extra: Any) -> str:
    """A tangential WCS with 0.2 arcsec a pixel, turned by 25 degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.1, 2.2], [50.5, 40.5]
    turn = np.deg2rad(25)
    wcs.wcs.cd = 0.2 / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    made = wcs.to_header()
    made.update(extra)
    return made.tostring(sep="\n", endcard=False, padding=False)


def written(folder: Path, text: str, name: str = "mask.reg") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mask_of(folder: Path, text: str, head: str = "", name: str = "mask.reg", shape: Any = SHAPE) -> RegionMask:
    return open_regions(written(folder, text, name), shape=shape, header=head).open()


def whole(mask: RegionMask) -> np.ndarray[Any, Any]:
    return mask.read(Region.whole(mask.shape))


def drawn(found: Any, shape: Any = SHAPE) -> np.ndarray[Any, Any]:
    """Mask that the package regions draws region by region on the whole image: its own rule for pixel centres."""
    sums = {True: np.zeros(shape, bool), False: np.zeros(shape, bool)}
    for region in found:
        if not isinstance(region, regions.TextPixelRegion):
            plain = region.copy(meta=regions.RegionMeta())
            image = plain.to_mask(mode="center").to_image(shape)
            if image is not None:
                sums[bool(region.meta.get("include", True))] |= image > 0
    return (sums[True] & ~sums[False]).astype(np.uint8)


def test_every_shape_is_what_the_package_draws(tmp_path: Path) -> None:
    mask = mask_of(tmp_path, DS9)
    assert mask.shape == SHAPE
    found = whole(mask)
    assert found.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(found, drawn(regions.Regions.parse(DS9, format="ds9")))
    assert 500 < found.sum() < 2000


@pytest.mark.parametrize("tile", [(1, 1), (7, 13), (82, 100), (83, 101), (200, 3)])
def test_tiles_equal_the_whole(tmp_path: Path, tile: tuple[int, int]) -> None:
    mask = mask_of(tmp_path, DS9)
    pieces = np.full(SHAPE, 9, np.uint8)
    grid = TileGrid(SHAPE, tile)
    for index in grid:
        pieces[grid.region(index).slices] = mask.read(grid.region(index))
    np.testing.assert_array_equal(pieces, whole(mask))


def test_circles_by_hand(tmp_path: Path) -> None:
    """DS9 counts pixels from 1; a centre on the circle is not in it, and exclusion wins wherever it stands."""
    mask = mask_of(tmp_path, "image; -circle(33,21,2.5)\nimage; circle(31,21,5)\n")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = (y - 20) ** 2 + (x - 30) ** 2 < 25
    hole = (y - 20) ** 2 + (x - 32) ** 2 < 6.25
    np.testing.assert_array_equal(whole(mask), inside & ~hole)
    assert (y - 20)[inside].max() == 4  # row 25 is on the circle


def test_a_tile_draws_only_the_regions_that_meet_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = mask_of(tmp_path, "image\n" + "".join(f"circle({x},10,3)\n" for x in range(10, 100, 10)))
    asked = []
    original = regions.CirclePixelRegion.contains

    def counted(self: Any, points: Any) -> Any:
        asked.append((self.center.x, points.x.shape))
        return original(self, points)

    monkeypatch.setattr(regions.CirclePixelRegion, "contains", counted)
    mask.read(Region(0, 11, 39, 55))
    assert sorted(x for x, _ in asked) == [39, 49]
    assert max(shape[0] * shape[1] for _, shape in asked) <= 7 * 7
    mask.read(Region(40, 80, 0, 101))
    assert len(asked) == 2


@pytest.mark.parametrize("height", [127, 128, 129, 300])
def test_tall_regions(tmp_path: Path, height: int) -> None:
    found = whole(mask_of(tmp_path, f"image; box(3,{height / 2 + 0.5},3,{height + 10},0)", shape=(height, 5)))
    assert found.tolist() == [[0, 1, 1, 1, 0]] * height


def test_a_region_larger_than_memory(tmp_path: Path) -> None:
    """Only the part in the tile is drawn, however large region and image are."""
    mask = mask_of(tmp_path, "image; circle(200001,200001,150000)", shape=(400_001, 400_001))
    tile = Region(200_000 - 150_000 - 2, 200_000 - 150_000 + 3, 199_999, 200_002)
    assert mask.read(tile).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]


SKY = """fk5
circle(150.1,2.2,2.1")
box(150.1015,2.1985,4",2",10)
-ellipse(150.1,2.2,1",0.5",0)
galactic; circle({l},{b},1.5")
icrs; circle(330.1,-2.2,3")
"""


def test_sky_regions_need_the_wcs_and_use_it(tmp_path: Path) -> None:
    centre = SkyCoord(150.099, 2.2012, unit="deg").galactic
    text = SKY.format(l=centre.l.deg, b=centre.b.deg)
    wcs = WCS(fits.Header.fromstring(header(), sep="\n"))
    sky = regions.Regions.parse(text, format="ds9")[:-1]  # the last one is on the other side of the sky
    found = whole(mask_of(tmp_path, text, header()))
    np.testing.assert_array_equal(found, drawn([region.to_pixel(wcs) for region in sky]))
    assert found.sum() > 300


def test_sky_circle_by_its_separation(tmp_path: Path) -> None:
    """On the sky: pixels within 2.1 arcsec of its centre, up to the distortion of the projection."""
    wcs = WCS(fits.Header.fromstring(header(), sep="\n"))
    found = whole(mask_of(tmp_path, 'fk5; circle(150.1,2.2,2.1")', header())) != 0
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    away = wcs.pixel_to_world(x, y).separation(SkyCoord(150.1, 2.2, unit="deg", frame="fk5")).arcsec
    assert away[found].max() < 2.1 + 1e-4
    assert away[~found].min() > 2.1 - 1e-4


@pytest.mark.parametrize(
    "head", ["", "NAXIS   =                    2\nCTYPE1  = 'LINEAR'\nCTYPE2  = 'LINEAR'", "OBJECT  = 'M 101'"]
)
def test_sky_regions_without_a_wcs(tmp_path: Path, head: str) -> None:
    with pytest.raises(InputError, match=r"mask.reg: .*sky coordinates and the image has no celestial WCS"):
        mask_of(tmp_path, "fk5; circle(150,2,3)", head)


def test_a_wcs_that_makes_no_sense(tmp_path: Path) -> None:
    head = header(CTYPE1="RA---TAN", CTYPE2="DEC--SIN")
    with pytest.raises(InputError, match=r"a sky region cannot be placed .*; use image coordinates"):
        mask_of(tmp_path, "fk5; circle(150,2,3)", head)


def test_crtf(tmp_path: Path) -> None:
    text = """#CRTFv0
circle[[20pix,31pix],9pix]
-circle[[22pix,31pix],3pix]
ann circle[[70pix,60pix],9pix]
rotbox[[60pix,40pix],[30pix,10pix],35deg]
"""
    found = whole(mask_of(tmp_path, text, name="mask.crtf"))
    parsed = regions.Regions.parse(text, format="crtf")
    np.testing.assert_array_equal(found, drawn([r for r in parsed if r.meta["type"] != "ann"]))
    assert found[60, 70] == 0 == found[31, 22]
    assert found[31, 12] == 1


def test_what_a_file_begins_with_decides(tmp_path: Path) -> None:
    same = whole(mask_of(tmp_path, "#CRTF\ncircle[[20pix,31pix],9pix]\n", name="mask.reg"))
    np.testing.assert_array_equal(same, whole(mask_of(tmp_path, "image; circle(21,32,9)", name="mask.crtf")))


def test_physical_coordinates_are_those_of_the_image_unless_the_header_moves_them(tmp_path: Path) -> None:
    text = "physical\ncircle(21,32,9) # text={physical}\n"
    np.testing.assert_array_equal(
        whole(mask_of(tmp_path, text, header())), whole(mask_of(tmp_path, "image\ncircle(21,32,9)\n"))
    )
    for key in ("LTV1", "LTM1_1"):
        with pytest.raises(InputError, match=r'"physical" frame .* not supported .*; save the file in image or fk5'):
            mask_of(tmp_path, text, header(**{key: 2.0}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image; circle(10,10)", "cannot read this region file .*radius.*; repair that line"),
        ("image; blob(10,10,4)", "a region would be lost: .*blob.*; save the file in image or fk5 coordinates"),
        ("circle(10,10,4)", "a region would be lost: A coordinate frame was not found"),
        ("detector; circle(10,10,4)", "a region would be lost: .*detector.*not supported"),
        ("#CRTF\ncircle[[20,31],9]\n", "cannot read this region file"),
        ("image; point(10,10)", "a point has no area, so it masks no pixel; draw a circle or a box, or remove it"),
        ("image; circle(5,5,3); line(1,1,20,20)", "a line has no area"),
        ("image; -circle(5,5,3)", "no region includes pixels, so the file masks nothing; add a region"),
        ("", "no region includes pixels"),
        ("image; text(5,5) # text={a}", "no region includes pixels"),
    ],
)
def test_files_that_cannot_be_drawn(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"mask.reg: .*{message}"):
        mask_of(tmp_path, text)


def test_regions_beyond_the_projection(tmp_path: Path) -> None:
    text = "fk5\ncircle(150.1,2.2,0.001)\npolygon(150.1,2.2,150.2,2.2,330,-2,330,2)\n"
    with pytest.raises(InputError, match="a region extends beyond the range of the image's WCS; make it smaller"):
        mask_of(tmp_path, text, header())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.reg: cannot be read .*; give an existing region file"):
        open_regions(tmp_path / "none.reg", shape=SHAPE, header="")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, DS9)
    monkeypatch.setitem(__import__("sys").modules, "regions", None)
    with pytest.raises(InputError, match=r"need the package regions; install tiledsky\[regions\]"):
        open_regions(path, shape=SHAPE, header="")


def test_token(tmp_path: Path) -> None:
    path = written(tmp_path, DS9)
    ref = open_regions(path, shape=SHAPE, header=header())
    data = json.loads(json.dumps(asdict(ref)))
    again = RegionRef(**{**data, "shape": tuple(data["shape"])})
    assert again == ref
    np.testing.assert_array_equal(whole(again.open()), whole(ref.open()))
    before = ref.identity
    assert open_regions(path, shape=SHAPE, header=header()).identity == before
    assert open_regions(path, shape=SHAPE, header=header(CRVAL1=151.0)).identity != before
    path.write_text(DS9.replace("9.4", "9.5"))
    assert open_regions(path, shape=SHAPE, header=header()).identity != before
    with pytest.raises(InputError, match=r"mask.reg: the file has changed since it was first opened; start again"):
        ref.open()


@pytest.mark.parametrize("seed", range(4))
def test_random_circles_and_boxes(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = ["image", "circle(50,40,20)"]
    for _ in range(40):
        x, y, a, b, angle = (*rng.uniform(-5, 106, 2), *rng.uniform(0.4, 25, 2), rng.uniform(0, 180))
        sign = "-" if rng.random() < 0.3 else ""
        shape = [f"circle({x},{y},{a})", f"box({x},{y},{a},{b},{angle})", f"ellipse({x},{y},{a},{b},{angle})"]
        lines.append(sign + shape[rng.integers(3)])
    text = "\n".join(lines)
    mask = mask_of(tmp_path, text)
    expected = drawn(regions.Regions.parse(text, format="ds9"))
    assert 0 < expected.mean() < 1
    for index in (grid := TileGrid(SHAPE, (int(rng.integers(1, 60)), int(rng.integers(1, 60))))):
        tile = grid.region(index)
        np.testing.assert_array_equal(mask.read(tile), expected[tile.slices])
