"""Streams between FITS and Zarr: export of runs, ingest, simulated scenes on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits
from astropy.wcs import WCS

from tests.engine.scenes import make_planes, write_fits
from tiledsky import Run, open_run, run, simulate_scene
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.io.plane_reader import HEADER
from tiledsky.workflows.export import export, ingest, simulate
from tiledsky.workflows.outputs import EXPORTED


def wcs() -> WCS:
    sky = WCS(naxis=2)
    sky.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    sky.wcs.crval = [214.9, 52.8]
    sky.wcs.crpix = [100.5, 80.5]
    sky.wcs.cdelt = [-8.333e-6, 8.333e-6]
    return sky


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("export")
    header = wcs().to_header()
    header["BUNIT"], header["FILTER"] = "MJy/sr", "F200W"
    fits.PrimaryHDU(make_planes((190, 210))["science"], header).writeto(folder / "image.fits")
    return run(folder / "image.fits", "sextractor", folder / "run.zarr", tile_size=64)


def test_planes_header_and_wcs(finished: Run, tmp_path: Path) -> None:
    out, rows = tmp_path / "sky.fits", []
    export(finished.path, out, progress=lambda done, total: rows.append((done, total)))
    with fits.open(out) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus[1:]] == [name.upper() for name in EXPORTED]
        for name, hdu in zip(EXPORTED, hdus[1:], strict=True):
            expected = finished.plane(name)[...]
            np.testing.assert_array_equal(hdu.data, expected)
            assert hdu.data.dtype.newbyteorder("=") == expected.dtype
            assert WCS(hdu.header).wcs_pix2world([[7, 9]], 0) == pytest.approx(wcs().wcs_pix2world([[7, 9]], 0))
            assert hdu.header["FILTER"] == "F200W"
    history = "".join(fits.getheader(out)["HISTORY"])
    assert "recipe sextractor" in history
    assert finished.provenance["run_id"] in history
    assert rows[-1] == (len(EXPORTED) * 190,) * 2


def test_chosen_planes(finished: Run, tmp_path: Path) -> None:
    export(finished, tmp_path / "sky.fits", planes=["science"])
    with fits.open(tmp_path / "sky.fits") as hdus:
        found = [h.data for h in hdus if h.data is not None]
        assert len(found) == 1
        np.testing.assert_array_equal(found[0], finished.plane("science")[...])


def test_wrong_planes(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "sky.fits"
    with pytest.raises(ParameterError, match="no plane 'ring'; it has background, background_error, background_rms,"):
        export(finished, out, planes=["background", "ring"])
    with pytest.raises(ParameterError, match="no plane 'meshes'"):
        export(finished, out, planes=["meshes"])
    with pytest.raises(ParameterError, match="no plane to export; name some of background"):
        export(finished, out, planes=[])
    assert not list(tmp_path.iterdir())


def test_existing_file(finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "sky.fits"
    out.write_text("precious")
    with pytest.raises(ParameterError, match=r"sky.fits"):
        export(finished, out)
    assert out.read_text() == "precious"
    export(finished, out, overwrite=True)
    with fits.open(out) as hdus:
        assert len(hdus) == 1 + len(EXPORTED)


def test_unfinished_run(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "image.zarr"), data=make_planes((130, 140))["science"])

    def stop(state: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "image.zarr", "sextractor", tmp_path / "run.zarr", progress=stop)
    with pytest.raises(RunError, match="is not finished"):
        export(tmp_path / "run.zarr", tmp_path / "sky.fits")
    assert not (tmp_path / "sky.fits").exists()


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such Zarr store"):
        open_run(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not a Zarr group"):
        open_run(tmp_path / "folder")
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(RunError, match="is a Zarr store but not a run store; give the folder named with --out"):
        open_run(tmp_path / "group.zarr")


def test_step_without_a_mesh(finished: Run) -> None:
    with pytest.raises(ParameterError, match="no step 'bkg5' in recipe sextractor"):
        finished.mesh("bkg5")
    assert finished.mesh("mesh64")["background"].shape == (3, 4)


def test_ingest(tmp_path: Path) -> None:
    planes = make_planes((150, 160))
    path = write_fits(tmp_path, planes)
    ingest(path, tmp_path / "copy.zarr", hdu="SCI", weight=f"{path}:WHT", dq=f"{path}:DQ", mask=f"{path}:MASK")
    group = zarr.open_group(str(tmp_path / "copy.zarr"), mode="r")
    for name, plane in planes.items():
        stored = group["user_mask" if name == "mask" else name]
        np.testing.assert_array_equal(stored[...], plane)
        assert stored.dtype.isnative
    assert fits.Header.fromstring(str(group.attrs[HEADER]), sep="\n")["OBJECT"] == "a test of runs"


def test_failed_ingest_leaves_nothing(tmp_path: Path) -> None:
    path = write_fits(tmp_path, {"science": make_planes((150, 160))["science"]})
    before = path.read_bytes()
    path.write_bytes(before[:-2880 * 5])  # fmt: skip
    with pytest.raises(InputError, match=r"planes.fits"):
        ingest(path, tmp_path / "copy.zarr")
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(before)
    with pytest.raises(InputError, match="does not exist; make it or change the name"):
        ingest(path, tmp_path / "none" / "copy.zarr")
    ingest(path, tmp_path / "copy.zarr")
    with pytest.raises(ParameterError, match="exists and is not overwritten; change the name or remove it"):
        ingest(path, tmp_path / "copy.zarr")


@pytest.mark.parametrize("suffix", ["fits", "zarr"])
def test_simulate(tmp_path: Path, suffix: str) -> None:
    out, truth = tmp_path / f"scene.{suffix}", tmp_path / "truth.zarr"
    simulate(out, shape=(300, 320), seed=5, truth=truth)
    scene = simulate_scene((300, 320), seed=5)
    pixels = fits.getdata(out) if suffix == "fits" else zarr.open_group(str(out), mode="r")["science"][...]
    np.testing.assert_array_equal(pixels, scene.image)
    np.testing.assert_array_equal(zarr.open_group(str(truth), mode="r")["sky"][...], scene.sky)
    with pytest.raises(ParameterError, match=f"scene.{suffix}"):
        simulate(out, shape=(300, 320), seed=5)
