"""The way back from a subtracted image, and how exact it is."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.wcs import WCS

import tiledsky
from tests.engine.scenes import make_planes, write_arrays
from tests.engine.stores import PLAIN, make_run
from tiledsky.cli import main
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.workflows.export import export
from tiledsky.workflows.outputs import FILL
from tiledsky.workflows.restore import add_back, restore

Floats = np.ndarray[Any, Any]
SHAPE = (150, 170)


def subtract(x: Floats, b: Floats) -> Floats:
    """What a run stores."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x - b


def pairs(dtype: type, kind: str, n: int) -> tuple[Floats, Floats]:
    """Pixels and backgrounds of one kind."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    digits = np.finfo(dtype).nmant
    unit = 2.0**-digits
    if kind == "sky":  # a mosaic with its sky taken off before: noise about a small background
        x, b = rng.normal(0.01, 0.1, n), rng.normal(0.01, 0.002, n)
    elif kind == "raw":  # a single exposure: sky far above its noise
        x, b = rng.normal(1000, 30, n), rng.normal(1000, 1, n)
    elif kind == "sources":
        x, b = 10.0 ** rng.uniform(-1, 5, n), rng.normal(0.3, 0.01, n)
    elif kind == "near zero":
        x, b = rng.normal(0, 1e-6, n), rng.normal(1000, 1, n)
    elif kind == "signs":
        x, b = -(10.0 ** rng.uniform(-3, 3, n)), 10.0 ** rng.uniform(-3, 3, n)
    elif kind == "powers":  # powers of two, less or more by the last bits
        x = 2.0 ** rng.integers(-4, 5, n) * (1 + unit * rng.integers(-2, 3, n))
        b = rng.choice([-1, 1], n) * 2.0 ** rng.integers(-digits - 6, 5, n) * (1 + unit * rng.integers(-3, 4, n))
    elif kind == "ties":  # x - b midway between two numbers, or a little beside
        x = 1 + unit * rng.integers(0, 1 << 12, n)
        b = unit * (rng.integers(-8, 9, n) / 2) * (1 + unit * rng.integers(-1, 2, n))
    else:  # every bit pattern that is a finite number
        whole = rng.integers(0, 256, (2, n, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
        x, b = np.where(np.isfinite(whole), whole, 0)
    return np.asarray(x, dtype), np.asarray(b, dtype)


KINDS = ("sky", "raw", "sources", "near zero", "signs", "powers", "ties", "bits")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_that_come_back(kind: str, dtype: type) -> None:
    x, b = pairs(dtype, kind, 100_000)
    s = subtract(x, b)
    keep = np.isfinite(s) & (np.abs(x) < np.finfo(dtype).max / 4) & (np.abs(b) < np.finfo(dtype).max / 4)
    x, b, s = x[keep], b[keep], s[keep]
    r = add_back(s, b)
    exponent = [np.frexp(np.where(v == 0, np.finfo(dtype).tiny, v))[1] for v in (s, x)]
    sterbenz = ((b / 2 <= x) & (x <= 2 * b)) | ((2 * b <= x) & (x <= b / 2)) | (b == 0)
    sterbenz &= np.abs(b) > 4 * np.finfo(dtype).tiny  # b / 2 above is exact
    assert (r == x)[sterbenz].all()
    assert (r == x)[exponent[0] < exponent[1]].all()
    np.testing.assert_array_less(np.abs(r - x), np.nextafter(np.spacing(np.abs(s)), dtype(np.inf)))


def test_numbers_that_are_lost() -> None:
    """One case of each kind, by hand."""
    one, unit = np.float32(1), np.float32(2**-23)

    def back(x: Any, b: Any) -> Any:
        x, b = np.float32(x), np.float32(b)
        return add_back(subtract(np.array([x]), np.array([b])), np.array([b]))[0]

    assert back(one + unit, unit / 2) == one  # midway, and x odd
    assert back(one + 2 * unit, unit / 2) == one + 2 * unit  # midway, and x even
    assert back(one, np.float32(-0.4) * unit) == one - unit / 2  # the next number below 1 is half a unit away
    assert back(one + 2 * unit, np.float32(-0.4) * unit) == one + 2 * unit
    assert back(1e-3, 1e5) == 0  # nothing of x is in s
    assert back(3e38, -3e38) == np.inf


def test_sum_is_rounded_once() -> None:
    """float64 and then float32 gives the float32 nearest to the exact sum."""
    for kind in KINDS:
        s, b = pairs(np.float32, kind, 3000)
        found = add_back(s, b)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found, s + b)  # IEEE: correctly rounded
    for one, two, r in zip(s[:300], b[:300], found[:300], strict=True):
        if np.isfinite(r):
            total = Fraction(float(one)) + Fraction(float(two))
            beside = [np.nextafter(r, np.float32(sign * math.inf)) for sign in (-1, 1)]
            miss = abs(Fraction(float(r)) - total)
            assert all(miss <= abs(Fraction(float(n)) - total) for n in beside if np.isfinite(n))


# --- stores and files


def scene(dtype: type = np.float32) -> dict[str, Floats]:
    """Planes of a run: sky about 0.02, sources, NaN."""
    rng = np.random.default_rng(7)
    science = rng.normal(0.02, 0.1, SHAPE)
    science[rng.random(SHAPE) < 0.05] += 30
    science[20:25, 30:60] = np.nan
    background = rng.normal(0.02, 0.003, SHAPE).astype(dtype)
    science = science.astype(dtype)
    return {"science": science, "background": background, "subtracted": science - background}


def header() -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [214.9, 52.8], [85.5, 75.5], [-8.333e-6, 8.333e-6]
    text = wcs.to_header()
    text["BUNIT"], text["FILTER"] = "MJy/sr", "F200W"
    text["HISTORY"] = "made of eight exposures"
    return text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_run(tmp_path: Path, dtype: type) -> None:
    planes = scene(dtype)
    run = make_run(tmp_path / "sky.zarr", planes, header=header())
    rows: list[tuple[int, int]] = []
    result = restore(run, tmp_path / "image.fits", progress=lambda done, total: rows.append((done, total)))
    expected = add_back(planes["subtracted"], planes["background"])
    with fits.open(tmp_path / "image.fits") as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1
        np.testing.assert_array_equal(hdus[0].data, expected)
        assert hdus[0].data.dtype.newbyteorder("=") == dtype
        assert (hdus[0].header["BUNIT"], hdus[0].header["FILTER"]) == ("MJy/sr", "F200W")
        assert WCS(hdus[0].header).wcs_pix2world([[7, 9]], 0) == pytest.approx(WCS(header()).wcs_pix2world([[7, 9]], 0))
        *before, first, second = hdus[0].header["HISTORY"]
        assert before == ["made of eight exposures"]
        assert first == f"tiledsky {tiledsky.__version__}: sky added back to run {tiledsky.open_run(run).run_id}"
        assert second == f"sum in float64, rounded to {np.dtype(dtype).name}"
    assert (result.shape, result.dtype) == (SHAPE, np.dtype(dtype).name)
    assert (result.uncovered, result.nan, result.restored) == (0, 150, 150 * 170 - 150)
    assert rows[-1] == (150, 150)
    good = np.isfinite(planes["science"])
    x, r = planes["science"][good], expected[good]
    assert result.comparison is not None
    assert result.comparison.differing == np.count_nonzero(x != r) > 0
    assert result.comparison.max_difference == np.abs(x.astype(float) - r.astype(float)).max()


def test_identical(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sky of which every pixel is within a factor 2."""
    rng = np.random.default_rng(3)
    planes = {name: rng.normal(100, 5, SHAPE).astype(np.float32) for name in ("science", "background")}
    planes["subtracted"] = planes["science"] - planes["background"]
    out = tmp_path / "image.fits"
    with pytest.raises(SystemExit) as ended:
        main(["restore", str(make_run(tmp_path / "sky.zarr", planes)), str(out)])
    assert not ended.value.code
    np.testing.assert_array_equal(fits.getdata(out), planes["science"])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{out}: 150 x 170 px, float32", "identical to the input: 25500 px (100%)"]


def test_near_zero_under_a_large_sky(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planes = {"science": np.full(SHAPE, 1, np.float32), "background": np.full(SHAPE, 1, np.float32)}
    planes["science"][:3] = 1e-9
    planes["subtracted"] = planes["science"] - planes["background"]
    run = make_run(tmp_path / "sky.zarr", planes)
    result = restore(run, tmp_path / "image.fits")
    assert result.comparison is not None
    assert result.comparison.differing == 3 * 170
    assert result.comparison.max_difference == np.float32(1e-9)
    with pytest.raises(SystemExit):
        main(["restore", str(run), str(tmp_path / "image.fits"), "--overwrite"])
    assert capsys.readouterr().out.splitlines()[1:] == ["other than the input: 510 px (2%), by at most 1e-09"]


@pytest.mark.parametrize("fill", [0.0, -7.25, "nan"])
@pytest.mark.parametrize("where", ["coverage", "invalid"])
def test_outside_the_coverage(
    tmp_path: Path, fill: float | str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planes = scene()
    outside = np.zeros(SHAPE, bool)
    outside[:40, 100:] = outside[-1] = True
    if where == "invalid":
        outside |= np.isnan(planes["science"])
    for name in ("background", "subtracted"):
        planes[name][outside] = np.nan if fill == "nan" else fill
    recipe = {**PLAIN, "fill_value": fill, "uncovered": where}
    inputs = ("science", "coverage") if where == "coverage" else ("science",)
    run = make_run(tmp_path / "sky.zarr", planes, header=header(), recipe=recipe, inputs=inputs)
    result = restore(run, tmp_path / "image.fits")
    expected = add_back(planes["subtracted"], planes["background"])
    expected[outside] = planes["subtracted"][outside]
    np.testing.assert_array_equal(fits.getdata(tmp_path / "image.fits"), expected)
    assert result.uncovered == np.count_nonzero(outside)
    assert result.nan == (0 if where == "invalid" else 150)
    good = ~outside & np.isfinite(planes["science"])
    assert result.restored == np.count_nonzero(good)
    assert result.comparison is not None
    assert result.comparison.differing == np.count_nonzero(expected[good] != planes["science"][good])
    # the same by way of an exported file, which keeps the fill value in its header
    export(run, tmp_path / "sub.fits", planes=["subtracted", "background"])
    again = restore(tmp_path / "sub.fits", tmp_path / "again.fits")
    np.testing.assert_array_equal(fits.getdata(tmp_path / "again.fits"), expected)
    assert (again.uncovered, again.nan, again.comparison) == (result.uncovered, result.nan, None)
    assert fits.getheader(tmp_path / "sub.fits", "BACKGROUND").get(FILL) == (None if fill == "nan" else fill)
    assert FILL not in fits.getheader(tmp_path / "again.fits")
    with pytest.raises(SystemExit):
        main(["restore", str(tmp_path / "sub.fits"), str(tmp_path / "more.fits")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith(f"outside the coverage, not restored: {result.uncovered} px (")
    assert printed[-1] == "not compared with the input, which is not there as it was"


def test_fill_value_of_a_run_without_coverage(tmp_path: Path) -> None:
    """Zeros that are no fill values: the run had no coverage plane, so all is covered."""
    planes = scene()
    planes["science"][:10] = planes["background"][:10] = planes["subtracted"][:10] = 0
    run = make_run(tmp_path / "sky.zarr", planes)
    assert restore(run, tmp_path / "image.fits").uncovered == 0
    export(run, tmp_path / "sub.fits", planes=["subtracted", "background"])
    assert FILL not in fits.getheader(tmp_path / "sub.fits")
    assert restore(tmp_path / "sub.fits", tmp_path / "again.fits").uncovered == 0


def test_stale_fill_value(tmp_path: Path) -> None:
    """An input that is itself an export keeps the card of that run from being taken for one of this."""
    run = make_run(tmp_path / "sky.zarr", scene(), header=fits.Header([(FILL, 3.0), ("OBJECT", "field")]))
    export(run, tmp_path / "sub.fits", planes=["subtracted", "background"])
    restore(run, tmp_path / "image.fits")
    for name in ("sub", "image"):
        written = fits.getheader(tmp_path / f"{name}.fits")
        assert FILL not in written
        assert written["OBJECT"] == "field"


def test_exported_file(tmp_path: Path) -> None:
    others = dict.fromkeys(("background_rms", "background_error"), scene()["background"])
    planes = {**scene(), **others, "mask": np.ones(SHAPE, np.uint8)}
    run = make_run(tmp_path / "sky.zarr", planes, header=header())
    export(run, tmp_path / "sub.fits")
    result = restore(tmp_path / "sub.fits", tmp_path / "image.fits")
    restore(run, tmp_path / "same.fits")
    with fits.open(tmp_path / "image.fits") as one, fits.open(tmp_path / "same.fits") as two:
        np.testing.assert_array_equal(one[0].data, two[0].data)
        assert len(one) == 1
        for key in ("CRVAL1", "CRPIX2", "CDELT1", "CTYPE1", "BUNIT", "FILTER"):
            assert one[0].header[key] == two[0].header[key]
        history = str(one[0].header["HISTORY"])
        assert "made of eight exposures" in history
        assert "sky added back to sub.fits" in history
        assert "BSCALE" not in one[0].header
    assert result.comparison is None
    assert (result.nan, result.uncovered) == (150, 0)


def test_input_read_in_place(tmp_path: Path) -> None:
    planes = scene()
    science = planes.pop("science")
    stored = zarr.create_array(str(tmp_path / "image.zarr"), data=science, chunks=(71, 53))
    run = make_run(tmp_path / "sky.zarr", planes, science=tmp_path / "image.zarr")
    result = restore(run, tmp_path / "image.fits")
    good = np.isfinite(science)
    expected = fits.getdata(tmp_path / "image.fits")[good] != science[good]
    assert result.comparison is not None
    assert result.comparison.differing == np.count_nonzero(expected) > 0
    stored[:71] = 5  # another image than the run had
    assert restore(run, tmp_path / "image.fits", overwrite=True).comparison is None
    (tmp_path / "image.zarr").rename(tmp_path / "elsewhere.zarr")
    assert restore(run, tmp_path / "image.fits", overwrite=True).comparison is None


def test_integer_input(tmp_path: Path) -> None:
    """Counts read in place, whose run is in float32."""
    counts = np.random.default_rng(1).poisson(400, SHAPE).astype(np.uint16)
    zarr.create_array(str(tmp_path / "image.zarr"), data=counts, chunks=(71, 53))
    background = np.random.default_rng(2).normal(400, 3, SHAPE).astype(np.float32)
    planes = {"background": background, "subtracted": counts.astype(np.float32) - background}
    run = make_run(tmp_path / "sky.zarr", planes, science=tmp_path / "image.zarr")
    result = restore(run, tmp_path / "image.fits")
    assert result.comparison is not None
    assert result.comparison.differing == 0
    np.testing.assert_array_equal(fits.getdata(tmp_path / "image.fits"), counts)


@pytest.mark.parametrize("kept", ["fits", "zarr"])
def test_after_a_run(tmp_path: Path, kept: str) -> None:
    """A run stores the difference rounded once, and `restore` the sum rounded once."""
    science = make_planes(SHAPE)["science"]
    if kept == "fits":
        fits.PrimaryHDU(science, header()).writeto(tmp_path / "image.fits")
    else:
        zarr.create_array(str(tmp_path / "image.zarr"), data=science, chunks=(71, 53))
    found = tiledsky.run(tmp_path / f"image.{kept}", "sextractor", tmp_path / "sky.zarr", tile_size=64)
    background, subtracted = (found.plane(name)[...] for name in ("background", "subtracted"))
    good = np.isfinite(science)
    np.testing.assert_array_equal(subtracted[good], subtract(science, background)[good])
    result = restore(found.path, tmp_path / "out.fits")
    back = subtracted[good] + background[good]  # IEEE: the sum rounded once
    assert result.comparison is not None
    assert result.comparison.differing == np.count_nonzero(back != science[good]) > 0
    assert result.comparison.max_difference <= 2.0**-23 * np.nanmax(np.abs(subtracted[good]))
    restored = fits.getdata(tmp_path / "out.fits")
    np.testing.assert_array_equal(restored[good], back)
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(science))
    assert (result.nan, result.uncovered) == (np.count_nonzero(np.isnan(science)), 0)


@pytest.mark.parametrize("fill", [0.0, -7.25, "nan"])
@pytest.mark.parametrize("where", ["coverage", "invalid"])
def test_after_a_run_with_coverage(tmp_path: Path, fill: float | str, where: str) -> None:
    science, coverage = scene()["science"], np.ones(SHAPE, np.float32)
    coverage[:40, 100:], coverage[50, 50] = 0, np.nan
    planes = write_arrays(tmp_path, {"science": science, "coverage": coverage})
    recipe = tiledsky.Recipe.from_dict({**PLAIN, "fill_value": fill, "uncovered": where})
    found = tiledsky.run(recipe=recipe, out=tmp_path / "sky.zarr", tile_size=64, **planes)
    result = restore(found.path, tmp_path / "out.fits")
    outside = ~(coverage > 0)
    if where == "invalid":
        outside |= np.isnan(science)
    assert result.uncovered == np.count_nonzero(outside)
    assert result.nan == np.count_nonzero(np.isnan(science) & ~outside)
    restored = fits.getdata(tmp_path / "out.fits")
    np.testing.assert_array_equal(restored[outside], np.float32(fill))
    assert result.comparison is not None
    good = ~outside & np.isfinite(science)
    assert result.comparison.differing == np.count_nonzero(restored[good] != science[good])
    np.testing.assert_allclose(restored[good], science[good], rtol=0, atol=1e-5)


def test_what_cannot_be_restored(tmp_path: Path) -> None:
    out = tmp_path / "out.fits"
    with pytest.raises(InputError, match=r"none\.fits"):
        restore(tmp_path / "none.fits", out)
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(RunError, match="is a Zarr store but not a run store"):
        restore(tmp_path / "group.zarr", out)
    run = make_run(tmp_path / "sky.zarr", scene(), finished=False)
    with pytest.raises(RunError, match="is not finished"):
        restore(run, out)
    run = make_run(tmp_path / "sky.zarr", scene())
    export(run, tmp_path / "sub.fits", planes=["subtracted", "science"])
    with pytest.raises(InputError, match=r"sub\.fits: no image extension BACKGROUND; give a run store, or a file that"):
        restore(tmp_path / "sub.fits", out)
    planes = scene()
    hdus = [fits.ImageHDU(planes["subtracted"], name="SUBTRACTED"), fits.ImageHDU(planes["background"][1:])]
    hdus[1].name = "BACKGROUND"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "odd.fits")
    with pytest.raises(InputError, match=r"odd\.fits: SUBTRACTED \(150, 170\) and BACKGROUND \(149, 170\) differ in s"):
        restore(tmp_path / "odd.fits", out)
    assert not out.exists()
    out.write_text("precious")
    with pytest.raises(ParameterError, match=r"out\.fits: exists and would be lost"):
        restore(run, out)
    assert out.read_text() == "precious"


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "sky.zarr", scene(), finished=False)
    for source, code in ((tmp_path / "none.fits", 3), (tmp_path / "none.zarr", 3), (run, 4)):
        with pytest.raises(SystemExit) as ended:
            main(["restore", str(source), str(tmp_path / "out.fits")])
        assert ended.value.code == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("tiledsky: ")
        assert captured.err.count("\n") == 1
