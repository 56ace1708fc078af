"""Runs on inputs with all planes: the same bits as whole arrays, and what each plane does to the result."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from astropy.io import fits

from tests.engine.scenes import assert_results
from tiledsky import Recipe, estimate_background, open_run, run, simulate_scene
from tiledsky.engine.runner import prepare
from tiledsky.errors import InputError, ParameterError
from tiledsky.io.plane_reader import HEADER, MASK_BITS
from tiledsky.workflows.export import ingest

pytest.importorskip("regions")

SHAPE = (211, 190)
HEADER_CARDS = {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG"}
PLANES = ("background", "background_rms", "background_error", "mask", "subtracted")
REGIONS = "image\ncircle(60,41,17)\nbox(150,150,31,20,30)\n-circle(55,41,6)\n"


def recipe(**options: Any) -> Recipe:
    """A coarse sky, sources in the evened image, and the sky beside them; a source mask that is kept."""
    tier = {"n_sigma": 2.5, "fwhm": 3.0, "n_pixels": 5, "grow": 2}
    return Recipe.from_dict(
        {
            "name": "planes",
            "dq_flags": ["DO_NOT_USE", "saturated", 1 << 31],
            **options,
            "steps": [
                {"kind": "background", "name": "coarse", "box_size": 40, "keep": True},
                {"kind": "mask", "name": "found", "equalize": True, "tiers": [tier], "keep": True},
                {"kind": "background", "name": "sky", "box_size": [19, 16], "filter_size": 3},
            ],
        }
    )


def drawn() -> np.ndarray[Any, Any]:
    from regions import Regions

    found = Regions.parse(REGIONS, format="ds9")
    masks = [region.to_mask(mode="center").to_image(SHAPE) > 0 for region in found]
    return (masks[0] | masks[1]) & ~masks[2]


@pytest.fixture(scope="module")
def planes() -> dict[str, np.ndarray[Any, Any]]:
    """Science, weight, error, dq and coverage, each with pixels of its own that are bad; the mask that regions draw."""
    rng = np.random.default_rng(17)
    ny, nx = SHAPE
    science = simulate_scene(SHAPE, seed=5).image.copy()
    science[90:95, 30:60] = np.nan
    depth = np.where(np.arange(nx) < 70, 1.0, 4.0)[None, :] * np.ones(SHAPE)
    weight = (depth * rng.uniform(0.8, 1.2, SHAPE)).astype(np.float32)
    weight[3:9, 5:25] = 0
    error = (0.1 / np.sqrt(depth)).astype(np.float32)
    error[20:26, 100:140] = [[0], [-1], [np.nan], [np.inf], [0], [0]]
    dq = np.zeros(SHAPE, np.uint32)
    dq[rng.integers(0, ny, 300), rng.integers(0, nx, 300)] = 1
    dq[rng.integers(0, ny, 300), rng.integers(0, nx, 300)] |= np.uint32(2 + 16)
    dq[rng.integers(0, ny, 3000), rng.integers(0, nx, 3000)] |= np.uint32(4)  # not chosen
    dq[150:160, 20:30] = 1 << 31
    coverage = rng.integers(1, 5, SHAPE).astype(np.int32)
    coverage[:, 170:] = 0
    coverage[180:, :] = 0
    coverage[10:20, 10] = -(1 << 31)  # a bit for each exposure: the highest is the sign
    return {"science": science, "weight": weight, "error": error, "dq": dq, "coverage": coverage,
            "mask": drawn()}  # fmt: skip


NAMES = {"science": "SCI", "weight": "WHT", "error": "ERR", "dq": "DQ", "coverage": "COV"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, planes: dict[str, Any]) -> dict[str, str]:
    """Arguments of a run on one FITS file and a region file."""
    folder = tmp_path_factory.mktemp("planes")
    hdus = [fits.ImageHDU(planes[name], name=hdu) for name, hdu in NAMES.items()]
    primary = fits.PrimaryHDU(header=fits.Header(HEADER_CARDS))
    fits.HDUList([primary, *hdus]).writeto(folder / "all.fits")
    (folder / "mine.reg").write_text(REGIONS)
    given = {name: f"{folder / 'all.fits'}:{hdu}" for name, hdu in NAMES.items()}
    return {"source": given.pop("science"), **given, "mask": str(folder / "mine.reg")}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory, planes: dict[str, Any]) -> dict[str, str]:
    """The same as arrays of a Zarr group that a run reads in place."""
    path = tmp_path_factory.mktemp("arrays") / "all.zarr"
    group = zarr.open_group(str(path), mode="w")
    group.attrs[HEADER] = "\n".join(f"{key:8}= '{value}'" for key, value in HEADER_CARDS.items())
    for name in NAMES:
        group.create_array(name, data=planes[name], chunks=(61, 47))
    (path.parent / "mine.reg").write_text(REGIONS)
    return {"source": str(path), "user_mask": str(path.parent / "mine.reg")}


def whole(planes: dict[str, Any], chosen: Recipe, **others: Any) -> dict[str, Any]:
    given = {name: plane for name, plane in planes.items() if name != "science"}
    sky = estimate_background(planes["science"], chosen, **(given | others), header=HEADER_CARDS)
    return {name: getattr(sky, name) for name in PLANES}


@pytest.fixture(scope="module")
def expected(planes: dict[str, Any]) -> dict[str, Any]:
    return whole(planes, recipe(fill_value=-99.5))


@pytest.mark.parametrize("tile_size", [None, 83])
def test_fits_with_every_plane(
    files: dict[str, str], expected: dict[str, Any], planes: dict[str, Any], tmp_path: Path, tile_size: int | None
) -> None:
    result = run(recipe=recipe(fill_value=-99.5), out=tmp_path / "run.zarr", tile_size=tile_size, **files)
    assert_results(result, expected)
    copies = {"user_mask" if name == "mask" else name: plane for name, plane in planes.items()}
    for name, plane in copies.items():  # regions too
        np.testing.assert_array_equal(result.plane(name)[...], plane)
    assert result.provenance["input"]["user_mask"] == files["mask"]
    assert result.provenance["versions"]["regions"] == version("regions")


def test_arrays_with_every_plane(arrays: dict[str, str], expected: dict[str, Any], tmp_path: Path) -> None:
    result = run(recipe=recipe(fill_value=-99.5), out=tmp_path / "run.zarr", tile_size=64, **arrays)
    assert_results(result, expected)
    assert "user_mask" not in result.planes  # read in place, regions drawn as they are needed


def test_ingested_planes(files: dict[str, str], expected: dict[str, Any], tmp_path: Path) -> None:
    ingest(out=tmp_path / "in.zarr", **files)
    result = run(tmp_path / "in.zarr", recipe(fill_value=-99.5), tmp_path / "run.zarr", tile_size=100)
    assert_results(result, expected)


def test_dask_arrays(planes: dict[str, Any], expected: dict[str, Any]) -> None:
    chunks = (57, 83)
    lazy = {name: da.from_array(plane, chunks=chunks) for name, plane in planes.items()}
    for name, plane in whole(lazy, recipe(fill_value=-99.5)).items():
        np.testing.assert_array_equal(plane.compute(), expected[name], err_msg=name)


def test_regions_on_workers(files: dict[str, str], expected: dict[str, Any], tmp_path: Path, client: Any) -> None:
    """Each worker opens the region file and the FITS file again."""
    result = run(recipe=recipe(fill_value=-99.5), out=tmp_path / "run.zarr", tile_size=100, client=client, **files)
    assert_results(result, expected)


def test_bits_and_fill(planes: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit 0 by the planes' words, and the fill value outside the coverage and nowhere else."""
    bad = ~np.isfinite(planes["science"]) | (planes["weight"] <= 0)
    bad |= ~np.isfinite(planes["error"]) | (planes["error"] <= 0)
    bad |= (planes["dq"] & (1 + 2 + (1 << 31))) != 0
    bad |= planes["coverage"] == 0
    np.testing.assert_array_equal(expected["mask"] & 1, bad)
    np.testing.assert_array_equal(expected["mask"] & 128 != 0, planes["mask"])
    assert (expected["mask"] & 2).any()
    outside = planes["coverage"] == 0
    for name in ("background", "background_rms", "background_error", "subtracted"):
        np.testing.assert_array_equal(expected[name] == -99.5, outside, err_msg=name)
    plain = whole(planes, recipe(fill_value=0.0))
    for name in PLANES:
        np.testing.assert_array_equal(plain[name][~outside], expected[name][~outside])
        assert name == "mask" or not plain[name][outside].any()


@pytest.mark.parametrize(("where", "value"), [("coverage", "nan"), ("invalid", "nan"), ("invalid", 3.0)])
def test_where_there_is_no_sky(
    files: dict[str, str], planes: dict[str, Any], expected: dict[str, Any], tmp_path: Path, where: str, value: Any
) -> None:
    chosen = recipe(fill_value=value, uncovered=where)
    wanted = whole(planes, chosen)
    assert_results(run(recipe=chosen, out=tmp_path / "run.zarr", tile_size=100, **files), wanted)
    outside = planes["coverage"] == 0 if where == "coverage" else expected["mask"] % 2 == 1
    for name in ("background", "background_rms", "background_error", "subtracted"):
        filled = np.isnan(wanted[name]) if value == "nan" else wanted[name] == value
        if name == "subtracted" and value == "nan":
            filled &= ~np.isnan(planes["science"]) | outside  # NaN stays NaN in any case
        np.testing.assert_array_equal(filled, outside, err_msg=name)


def test_fill_without_a_coverage_plane(planes: dict[str, Any], tmp_path: Path) -> None:
    """Invalid pixels have a sky, estimated from those around them, unless the recipe says otherwise."""
    given = {"science": planes["science"], "weight": planes["weight"]}
    for name, plane in given.items():
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=plane, chunks=(50, 50))
    for where, filled in (("coverage", 0), ("invalid", np.count_nonzero(whole(given, recipe())["mask"] & 1))):
        chosen = recipe(fill_value=-7.0, uncovered=where)
        wanted = whole(given, chosen)
        arguments = {"weight": tmp_path / "weight.zarr", "out": tmp_path / f"{where}.zarr", "tile_size": 90}
        assert_results(run(tmp_path / "science.zarr", chosen, **arguments), wanted)
        assert np.count_nonzero(wanted["background"] == -7.0) == filled


def test_a_kept_background_is_filled_too(files: dict[str, str], planes: dict[str, Any], tmp_path: Path) -> None:
    result = run(recipe=recipe(fill_value=-99.5), out=tmp_path / "run.zarr", **files)
    for name in ("coarse", "coarse_rms", "coarse_error"):
        np.testing.assert_array_equal(result.plane(name)[...] == -99.5, planes["coverage"] == 0)


def test_equalize_by_weight_or_error(planes: dict[str, Any], tmp_path: Path) -> None:
    """Each alone finds sources; both: the weight is used; none: refused before anything is written."""
    science, masks = planes["science"], {}
    for name in ("weight", "error"):
        clean = np.where(np.isfinite(planes[name]) & (planes[name] > 0), planes[name], np.float32(1))
        for plane, pixels in (("science", science), (name, clean)):
            zarr.create_array(str(tmp_path / f"{plane}.zarr"), data=pixels, chunks=(50, 50), overwrite=True)
        out = tmp_path / f"by-{name}.zarr"
        result = run(tmp_path / "science.zarr", recipe(), out, tile_size=90, **{name: tmp_path / f"{name}.zarr"})
        sky = estimate_background(science, recipe(), **{name: clean})
        np.testing.assert_array_equal(result.plane("mask")[...], sky.mask)
        masks[name] = sky.mask
    assert (masks["weight"] != masks["error"]).any()
    both = {name: zarr.open_array(str(tmp_path / f"{name}.zarr"))[...] for name in ("weight", "error")}
    np.testing.assert_array_equal(estimate_background(science, recipe(), **both).mask, masks["weight"])
    for call in (
        lambda: run(tmp_path / "science.zarr", recipe(), tmp_path / "none.zarr"),
        lambda: estimate_background(science, recipe()),
    ):
        with pytest.raises(InputError, match="mask step 'found' equalizes the noise and no plane gives it"):
            call()
    assert not (tmp_path / "none.zarr").exists()


def test_masks_of_runs_carry_their_bits_to_the_next(
    files: dict[str, str], planes: dict[str, Any], tmp_path: Path
) -> None:
    """Sources of one run (and only they) are left out of another, beside the user's own mask."""
    first = run(recipe=recipe(), out=tmp_path / "first.zarr", **files)
    assert [name for name in first.planes if first.plane(name).attrs.get(MASK_BITS) == 1] == ["mask"]
    tiers = first.plane("mask")[...]
    plain = Recipe.from_dict(
        {"name": "plain", "dq_flags": [], "steps": [{"kind": "background", "name": "sky", "box_size": 19}]}
    )
    arguments = {name: files[name] for name in ("source", "dq")}
    result = run(recipe=plain, out=tmp_path / "second.zarr", mask=first.path, user_mask=files["mask"], tile_size=70,
                 **arguments)  # fmt: skip
    given = {"science": planes["science"], "dq": planes["dq"], "mask": planes["mask"]}
    wanted = whole(given, plain, source_mask=tiers)
    assert_results(result, wanted)
    np.testing.assert_array_equal(wanted["mask"] & 126, tiers & 126)
    np.testing.assert_array_equal(wanted["mask"] & 1, ~np.isfinite(planes["science"]))  # no dq flag counts
    assert result.plane("source_mask").attrs[MASK_BITS] == 1
    assert result.plane("mask").attrs[MASK_BITS] == 1
    again = run(recipe=plain, out=tmp_path / "third.zarr", mask=result.path, tile_size=70, **arguments)
    np.testing.assert_array_equal(again.plane("mask")[...] & 126, tiers & 126)


def test_kept_masks_carry_the_attribute(arrays: dict[str, str], tmp_path: Path) -> None:
    data = recipe().model_dump(mode="json", exclude_none=True)
    data["steps"][-1]["mask"] = "none"
    result = run(recipe=Recipe.from_dict(data), out=tmp_path / "run.zarr", **arrays)
    marked = [name for name in result.planes if result.plane(name).attrs.get(MASK_BITS) == 1]
    assert marked == ["found", "mask"]


def test_flags_are_looked_up_before_anything_is_written(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    with pytest.raises(ParameterError, match="JWST has no dq flag 'SATURATION'; similar names: SATURATED"):
        run(recipe=recipe(dq_flags=["SATURATION"]), out=out, **files)
    plain = tmp_path / "plain.fits"
    noise = np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise, name="SCI")]).writeto(plain)
    with pytest.raises(ParameterError, match="'DO_NOT_USE' has a name and the header names no instrument"):
        run(plain, recipe(), out, weight=files["weight"], dq=files["dq"])
    assert not out.exists()
    prepare(recipe(), plain, out, weight=files["weight"])  # without a dq plane the names do not matter


def test_flags_of_a_plane_without_bits(planes: dict[str, Any], tmp_path: Path) -> None:
    for name, pixels in (("science", planes["science"]), ("dq", planes["error"])):
        zarr.create_array(str(tmp_path / f"{name}.zarr"), data=pixels, chunks=(50, 50))
    arguments = {"dq": tmp_path / "dq.zarr", "error": tmp_path / "dq.zarr"}
    with pytest.raises(InputError, match=r"dq.zarr: float32 pixels have no flags to choose from; give integers"):
        prepare(recipe(dq_flags=[1]), tmp_path / "science.zarr", tmp_path / "run.zarr", **arguments)
    prepare(recipe(dq_flags="all"), tmp_path / "science.zarr", tmp_path / "run.zarr", **arguments)


def test_another_region_file_is_another_input(files: dict[str, str], tmp_path: Path) -> None:
    """Results of two masks are never mixed; and neither are those of two choices of flags by one header."""
    mine = tmp_path / "mine.reg"
    mine.write_text(REGIONS)
    arguments = {**files, "mask": str(mine)}
    before = prepare(recipe(), out=tmp_path / "run.zarr", **arguments).identity
    assert prepare(recipe(), out=tmp_path / "run.zarr", **arguments).identity == before
    mine.write_text(REGIONS.replace("17", "18"))
    after = prepare(recipe(), out=tmp_path / "run.zarr", **arguments).identity
    assert [name for name in before if after[name] != before[name]] == ["input"]


def test_planes_of_other_shapes(planes: dict[str, Any]) -> None:
    small = np.ones((SHAPE[0], SHAPE[1] - 1), np.uint8)
    for name in ("weight", "error", "dq", "coverage", "mask", "source_mask"):
        with pytest.raises(InputError, match=rf"{name} \(211, 189\) and image \(211, 190\) differ in shape"):
            estimate_background(planes["science"], "sextractor", **{name: small})


def test_run_store_is_what_open_run_finds(files: dict[str, str], tmp_path: Path) -> None:
    run(recipe=recipe(), out=tmp_path / "run.zarr", **files)
    found = open_run(tmp_path / "run.zarr")
    assert {"weight", "error", "dq", "coverage", "user_mask"} <= set(found.planes)
    assert found.header["INSTRUME"] == "NIRCAM"
