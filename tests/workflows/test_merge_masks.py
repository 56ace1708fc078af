"""One source mask of several runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.wcs import WCS

from tests.engine.scenes import RESULTS, assert_results, write_arrays
from tests.engine.stores import make_run
from tiledsky import Recipe, estimate_background, open_run, run, simulate_scene
from tiledsky.cli import main
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.io.plane_reader import HEADER, MASK_BITS
from tiledsky.workflows.merge_masks import MERGED, TOLERANCE, merge_masks

SHAPE = (150, 170)
PIXEL = 8.333e-6  # degrees


def bits(seed: int) -> np.ndarray:
    """Every value that a mask plane can have."""
    values = np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)
    values[np.random.default_rng(seed + 100).random(SHAPE) < 0.7] = 0
    return values


def header(
    *, shift: float = 0.0, scale: float = 1.0, angle: float = 0.0, ctype: str = "TAN", frame: str = "ICRS"
) -> fits.Header:
    """WCS of an image of `SHAPE`: shifted in pixels, scaled and turned (radians) about its centre."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{ctype}", f"DEC--{ctype}"]
    wcs.wcs.crval, wcs.wcs.radesys = [214.9, 52.8], frame
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2 + shift, (SHAPE[0] + 1) / 2]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = PIXEL * scale * np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn
    return wcs.to_header()


def two(folder: Path, first: fits.Header | None, second: fits.Header | None) -> list[Path]:
    """Two runs that differ in their headers only."""
    pair = (("red", 1, first), ("blue", 2, second))
    return [make_run(folder / f"{name}.zarr", {"mask": bits(seed)}, header=head) for name, seed, head in pair]


@pytest.mark.parametrize("tile", [64, 1920])
def test_union_of_tiers(tmp_path: Path, tile: int) -> None:
    planes = [bits(seed) for seed in (1, 2, 3)]
    runs = [
        make_run(tmp_path / f"{n}.zarr", {"mask": plane}, header=header(), tile=tile) for n, plane in enumerate(planes)
    ]
    rows: list[tuple[int, int]] = []
    merged = merge_masks(runs, tmp_path / "m.zarr", progress=lambda done, total: rows.append((done, total)))
    expected = np.bitwise_or.reduce(planes) & 0b0111_1110
    group = zarr.open_group(str(tmp_path / "m.zarr"), mode="r")
    assert [name for name, _ in group.arrays()] == ["mask"]
    array = group["mask"]
    np.testing.assert_array_equal(array[...], expected)
    assert array.dtype == np.uint8
    source = zarr.open_group(str(runs[0]), mode="r")["mask"]
    assert (array.chunks, array.shards) == (source.chunks, source.shards)
    assert array.attrs[MASK_BITS] == 1
    assert group.attrs[MERGED] == [{"path": str(r), "run_id": open_run(r).run_id, "recipe": "plain"} for r in runs]
    stored = fits.Header.fromstring(str(group.attrs[HEADER]), sep="\n")
    assert stored["CRPIX1"] == header()["CRPIX1"]
    assert merged.shape == SHAPE
    assert merged.masked == np.count_nonzero(expected)
    assert merged.of_runs == tuple(np.count_nonzero(plane & 0b0111_1110) for plane in planes)
    assert rows[-1] == (150, 150)


def test_what_is_left_out(tmp_path: Path) -> None:
    """Bits 0 (no valid datum) and 7 (the user's mask) belong to one band, in every combination with tiers."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    none = np.zeros_like(every)
    runs = [make_run(tmp_path / "a.zarr", {"mask": every}), make_run(tmp_path / "b.zarr", {"mask": none})]
    merge_masks(runs, tmp_path / "m.zarr")
    merged = zarr.open_group(str(tmp_path / "m.zarr"), mode="r")["mask"][...]
    np.testing.assert_array_equal(merged, every - every % 2 - every // 128 * 128)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"shift": 0.9 * TOLERANCE},
        {"scale": 1 + 0.9 * TOLERANCE / 113},  # 113 px from the centre to a corner
        {"angle": 0.9 * TOLERANCE / 113},
        {"ctype": "SIN"},  # differs from TAN by the cube of the angle
    ],
    ids=str,
)
def test_grids_that_are_one(tmp_path: Path, change: dict[str, float]) -> None:
    merge_masks(two(tmp_path, header(), header(**change)), tmp_path / "m.zarr")
    assert (tmp_path / "m.zarr").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 1.1 * TOLERANCE}, r"differ by 0\.011 px on the sky at pixel"),
        ({"shift": 1.0}, r"differ by 1 px on the sky"),
        ({"scale": 1 + 1.2 * TOLERANCE / 113}, r"differ by 0\.01\d* px on the sky at pixel \((0|149), (0|169)\)"),
        ({"angle": 1.2 * TOLERANCE / 113}, r"differ by 0\.01\d* px on the sky at pixel \((0|149), (0|169)\)"),
        ({"frame": "FK5"}, r"differ by 0\.\d+ px"),  # some 20 milliarcseconds at a pixel of 30
    ],
    ids=str,
)
def test_grids_that_differ(tmp_path: Path, change: dict[str, float], message: str) -> None:
    runs = two(tmp_path, header(), header(**change))
    with pytest.raises(InputError, match=message) as raised:
        merge_masks(runs, tmp_path / "m.zarr")
    assert all(str(run) in str(raised.value) for run in runs)
    assert sorted(tmp_path.iterdir()) == sorted(runs)


def test_same_sky_by_other_keywords(tmp_path: Path) -> None:
    """What counts is where pixels lie, not how the header says it; and nothing but the header is needed."""
    other = header()
    other["CRPIX1"] += 3.0
    moved = WCS(header()).wcs_pix2world([[other["CRPIX1"] - 1, other["CRPIX2"] - 1]], 0)[0]
    other["CRVAL1"], other["CRVAL2"] = moved
    for key in ("CPDIS1", "CPDIS2"):  # their arrays stayed behind in the input file
        other[key] = "LOOKUP"
    other["CRVAL1A"] = "no number"
    merge_masks(two(tmp_path, header(), other), tmp_path / "m.zarr")


def test_whole_sky(tmp_path: Path) -> None:
    """Corners off the sky have no position in either."""
    sky = header(ctype="AIT")
    sky["PC1_1"], sky["PC2_2"], sky["CRVAL2"] = -2.5, 2.5, 0.0
    runs = two(tmp_path, sky, sky)
    merge_masks(runs, tmp_path / "m.zarr")
    sky = sky.copy()
    sky["CRPIX2"] += 0.5
    with pytest.raises(InputError, match=r"differ by 0\.5 px on the sky at pixel \(74\.5, 84\.5\)"):
        merge_masks(two(tmp_path, runs_header(runs[0]), sky), tmp_path / "n.zarr")
    with pytest.raises(InputError, match="differ by inf px"):
        merge_masks(two(tmp_path, runs_header(runs[0]), header()), tmp_path / "n.zarr")


def runs_header(run: Path) -> fits.Header:
    return fits.Header.fromstring(str(zarr.open_group(str(run), mode="r").attrs[HEADER]), sep="\n")


def test_no_sky_at_all(tmp_path: Path) -> None:
    merge_masks(two(tmp_path, None, fits.Header([("OBJECT", "a wall")])), tmp_path / "m.zarr")
    runs = two(tmp_path, header(), None)
    message = rf"{runs[1]} has no celestial WCS and {runs[0]} has one"
    for order in (runs, runs[::-1]):
        with pytest.raises(InputError, match=re.escape(message)):
            merge_masks(order, tmp_path / "n.zarr")


def test_sky_that_cannot_be_read(tmp_path: Path) -> None:
    broken = header()
    broken["CTYPE2"] = "DEC--SIN"
    with pytest.raises(InputError, match=r"blue\.zarr: its WCS cannot be read \(.*\); correct it"):
        merge_masks(two(tmp_path, header(), broken), tmp_path / "m.zarr")


def test_shapes_that_differ(tmp_path: Path) -> None:
    one = make_run(tmp_path / "a.zarr", {"mask": bits(1)})
    other = make_run(tmp_path / "b.zarr", {"mask": bits(1)[:-1]})
    message = f"{other} is 149 x 170 px, {one} 150 x 170; masks can be merged on one grid only"
    with pytest.raises(InputError, match=re.escape(message)):
        merge_masks([one, other], tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    one, other = two(tmp_path, None, None)
    out = tmp_path / "m.zarr"
    with pytest.raises(ParameterError, match=r"^there is no run to merge; give at least two run stores$"):
        merge_masks([], out)
    with pytest.raises(ParameterError, match=r"^one run leaves nothing to merge; give at least two run stores$"):
        merge_masks([one], out)
    with pytest.raises(ParameterError, match=rf"{one} is given twice; give every run once"):
        merge_masks([one, other, tmp_path / "." / one.name], out)
    with pytest.raises(InputError, match=r"none\.zarr: no such Zarr store"):
        merge_masks([one, tmp_path / "none.zarr"], out)
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(RunError, match=r"group\.zarr is a Zarr store but not a run store"):
        merge_masks([one, tmp_path / "group.zarr"], out)
    unfinished = make_run(tmp_path / "c.zarr", {"mask": bits(3)}, finished=False)
    with pytest.raises(RunError, match=r"c\.zarr is not finished"):
        merge_masks([one, unfinished], out)
    assert not out.exists()
    merge_masks([one, other], out)
    with pytest.raises(ParameterError, match=r"m\.zarr exists and is not overwritten; change the name or remove it"):
        merge_masks([one, other], out)


FIRST_PASS = Recipe.from_dict(
    {
        "name": "first-pass",
        "steps": [
            {"kind": "background", "name": "coarse", "box_size": 32},
            {
                "kind": "mask",
                "name": "sources",
                "tiers": [
                    {"n_sigma": 4.0, "fwhm": 2.0, "n_pixels": 3, "grow": 6},
                    {"n_sigma": 1.5, "fwhm": 4.0, "n_pixels": 9, "grow": 1},
                ],
            },
            {"kind": "background", "name": "sky", "box_size": 10},
        ],
    }
)
SECOND_PASS = Recipe.from_dict(
    {"name": "second-pass", "steps": [{"kind": "background", "name": "sky", "box_size": 10, "estimator": "biweight"}]}
)


def bands() -> dict[str, dict[str, np.ndarray]]:
    """One field in two bands: other sources, other pixels without a datum, other masks of the user."""
    planes = {}
    for number, name in enumerate(("red", "blue")):
        science = simulate_scene(SHAPE, seed=20 + number).image.copy()
        science[40 * number : 40 * number + 9, 5:40] = np.nan
        mask = np.zeros(SHAPE, np.uint8)
        mask[100:120, 60 * number : 60 * number + 30] = 1
        planes[name] = {"science": science, "mask": mask}
    return planes


def test_two_passes(tmp_path: Path) -> None:
    """Each band alone, one mask of both, each band again with it: the whole-array functions give the same bits."""
    masks, runs = {}, []
    for name, planes in bands().items():
        (tmp_path / name).mkdir()
        inputs = write_arrays(tmp_path / name, planes)
        runs.append(run(recipe=FIRST_PASS, out=tmp_path / f"{name}.zarr", tile_size=64, **inputs))
        sky = estimate_background(planes["science"], FIRST_PASS, mask=planes["mask"])
        masks[name] = sky.mask
    merge_masks(runs, tmp_path / "m.zarr")
    tiers = (masks["red"] | masks["blue"]) & 0b0111_1110
    assert set(np.unique(tiers)) == {0, 2, 4, 6}
    np.testing.assert_array_equal(zarr.open_group(str(tmp_path / "m.zarr"), mode="r")["mask"][...], tiers)
    for name, planes in bands().items():
        again = run(
            tmp_path / name / "science.zarr",
            SECOND_PASS,
            tmp_path / f"{name}-2.zarr",
            mask=tmp_path / "m.zarr",
            tile_size=70,
        )
        expected = estimate_background(planes["science"], SECOND_PASS, source_mask=tiers)
        assert_results(again, {plane: getattr(expected, plane) for plane in RESULTS})
        np.testing.assert_array_equal(again.plane("mask")[...], tiers | np.isnan(planes["science"]))
        alone = estimate_background(planes["science"], SECOND_PASS, source_mask=masks[name])
        assert (alone.background != expected.background).any()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two(tmp_path, header(), header())
    out = tmp_path / "m.zarr"
    with pytest.raises(SystemExit) as ended:
        main(["merge-masks", *map(str, runs), "--out", str(out)])
    assert not ended.value.code
    first, *others = capsys.readouterr().out.splitlines()
    masked = np.count_nonzero(zarr.open_group(str(out), mode="r")["mask"][...])
    assert first == f"{out}: 150 x 170 px, sources in {masked} px ({100 * masked / 25500:.3g}%)"
    assert [line.split(": ")[0] for line in others] == list(map(str, runs))
    with pytest.raises(SystemExit) as ended:
        main(["merge-masks", str(runs[0]), "--out", str(out)])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "tiledsky: one run leaves nothing to merge; give at least two run stores\n"
