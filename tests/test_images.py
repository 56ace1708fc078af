"""What comes in as an image: masks, units and uncertainties count in every function, or are refused in one line.

The truth for a masked image is the same call on a plain array with NaN where it is masked, and photutils with a mask.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import astropy.units as u
import dask
import dask.array as da
import numpy as np
import pytest
import xarray
import zarr
from astropy.io import fits
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.table import Column, MaskedColumn, Table
from astropy.utils.exceptions import AstropyUserWarning
from astropy.utils.masked import Masked
from astropy.wcs import WCS
from photutils import background as photutils
from scipy import sparse

import tiledsky
from tiledsky.containers import float_dtype
from tiledsky.diagnostics import measure
from tiledsky.errors import InputError, TiledSkyError
from tiledsky.images import as_float, taken_apart
from tiledsky.recipe import Tier
from tiledsky.testing import assert_tile_invariant

SHAPE = (80, 94)
HIDDEN = np.random.default_rng(1).random(SHAPE) < 0.1
HIDDEN[:30, :40] = True
NOISE = np.random.default_rng(2).uniform(0.8, 1.2, SHAPE).astype(np.float32)


def _image(dtype: Any = np.float32) -> Any:
    """Sky of 10 with noise and a source; a defect of 10000 where HIDDEN."""
    image = np.random.default_rng(3).normal(10, 1, SHAPE)
    image[50:54, 60:65] += 100
    return np.where(HIDDEN, 1e4, image).astype(dtype)


DEFECT = _image()
BLANKED = np.where(HIDDEN, np.float32(np.nan), DEFECT)


def _lazy(array: Any, chunks: Any = (37, 41)) -> Any:
    return da.from_array(array, chunks=chunks)


def _of_chunks(array: Any, dtype: Any = np.float32) -> Any:
    """Dask array whose chunks are of another kind than it says: what `dask.delayed` functions return."""
    return da.from_delayed(dask.delayed(lambda: array, pure=False)(), SHAPE, dtype=dtype)


MASKED: dict[str, Callable[[], Any]] = {
    "numpy": lambda: np.ma.array(DEFECT, mask=HIDDEN),
    "numpy-swapped": lambda: np.ma.array(DEFECT.astype(">f4"), mask=HIDDEN),
    "numpy-quantity": lambda: np.ma.array(DEFECT << u.ct, mask=HIDDEN),
    "astropy": lambda: Masked(DEFECT, mask=HIDDEN),
    "astropy-quantity": lambda: Masked(DEFECT << u.ct, mask=HIDDEN),
    "column": lambda: MaskedColumn(DEFECT, mask=HIDDEN, unit="ct"),
    "nddata": lambda: NDData(DEFECT, mask=HIDDEN),
    "nddata-bits": lambda: NDData(DEFECT, mask=HIDDEN * np.int16(4)),
    "nddata-masked": lambda: NDData(np.ma.array(DEFECT, mask=HIDDEN)),
    "ccddata": lambda: CCDData(DEFECT, mask=HIDDEN, unit="adu"),
    "dask": lambda: da.ma.masked_array(_lazy(DEFECT), mask=_lazy(HIDDEN)),
    "dask-where": lambda: da.ma.masked_greater(_lazy(DEFECT), 5e3),
    "dask-of-numpy": lambda: _lazy(np.ma.array(DEFECT, mask=HIDDEN)),
    "dask-empty-chunks": lambda: _lazy(np.ma.array(DEFECT, mask=HIDDEN), ((0, 40, 0, 40), (94, 0))),
    "dask-nddata": lambda: NDData(_lazy(DEFECT), mask=_lazy(HIDDEN, 29)),
    "dask-nddata-numpy": lambda: NDData(_lazy(DEFECT), mask=HIDDEN),
    "numpy-nddata-dask": lambda: NDData(DEFECT, mask=_lazy(HIDDEN)),
    "dask-untold": lambda: _of_chunks(np.ma.array(DEFECT, mask=HIDDEN)),
    "dask-untold-astropy": lambda: _of_chunks(Masked(DEFECT, mask=HIDDEN)),
}
CALLS: dict[str, Callable[[Any], Any]] = {
    "ring": lambda image: tiledsky.ring_median(image, radius_in=4, width=2),
    "ring-fill": lambda image: tiledsky.ring_median(image, radius_in=4, width=2, fill=9.5),
    "smooth": lambda image: tiledsky.smooth(image, sigma=1.5),
    "statistics": lambda image: tiledsky.global_statistics(image),
    "source": lambda image: tiledsky.source_mask(image, threshold=14, n_pixels=3),
    "source-sigma": lambda image: tiledsky.source_mask(image, n_sigma=3, fwhm=2),
    "tiers": lambda image: tiledsky.tier_mask(image, [Tier(n_sigma=3, fwhm=2), Tier(n_sigma=5)], masked="fill"),
    "estimate": lambda image: tiledsky.estimate_background(image, "sextractor"),
    "estimate-fitted": lambda image: tiledsky.estimate_background(image, "deep-sky").background,
    "Background2D": lambda image: _mesh(image, 16),
}


def _mesh(image: Any, box: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # of NaN in the plain image
        made = tiledsky.Background2D(image, box, exclude_percentile=80)
    names = ("background", "background_rms", "background_mesh", "background_median", "n_pixels_mesh")
    return {name: getattr(made, name) for name in names}


def _values(result: Any) -> dict[str, tuple[Any, Any]]:
    """Plain numbers and unit of everything in a result."""
    (result,) = dask.compute(result)
    if dataclasses.is_dataclass(result):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if not isinstance(result, dict):
        result = {"": result}
    found = {}
    for name, value in result.items():
        if name == "meshes":
            for step, mesh in value.items():
                found |= {f"{step}.{k}": v for k, v in _values(dask.compute(mesh)[0]).items() if v[0] is not None}
        else:
            found[name] = (getattr(value, "value", value), getattr(value, "unit", None))
    return found


PLAIN: dict[str, Any] = {}
UNITLESS = {"n", "mask", "n_pixels_mesh", "nodata", "objects"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", MASKED)
def test_masked_pixels_are_as_if_nan(kind: str, call: str) -> None:
    if call not in PLAIN:
        PLAIN[call] = _values(CALLS[call](BLANKED))
    given = MASKED[kind]()
    unit = u.Unit("ct") if "quantity" in kind else getattr(given, "unit", None)
    found = _values(CALLS[call](given))
    assert found.keys() == PLAIN[call].keys()
    for name, (values, its_unit) in found.items():
        expected = np.asarray(PLAIN[call][name][0])
        assert np.asarray(values).dtype == expected.dtype
        np.testing.assert_array_equal(values, expected, err_msg=name)
        of_pixels = name.rpartition(".")[2] in ("background", "rms", "error") if "." in name else name not in UNITLESS
        if unit is not None and values is not None and of_pixels and not call.startswith(("source", "tiers")):
            assert its_unit == unit, name
        else:
            assert its_unit is None, name


@pytest.mark.parametrize("kind", [k for k in MASKED if "quantity" not in k])
def test_the_mesh_of_masked_images_is_that_of_photutils(kind: str) -> None:
    own = tiledsky.Background2D(MASKED[kind](), 16, exclude_percentile=80)
    theirs = photutils.Background2D(DEFECT, 16, mask=HIDDEN, exclude_percentile=80)
    np.testing.assert_array_equal(np.asarray(own.n_pixels_mesh), theirs.n_pixels_mesh)
    mesh = getattr(own.background_mesh, "value", own.background_mesh)
    assert abs(np.asarray(mesh) - theirs.background_mesh).max() < 1e-5


@pytest.mark.parametrize("dtype", ["i2", ">i2", "i4", "u8", "f2", "g"])
def test_masked_images_of_any_number(dtype: str) -> None:
    image = np.ma.array(_image(dtype), mask=HIDDEN)
    plain = np.where(HIDDEN, np.nan, image.data.astype(float_dtype(dtype)))
    sky = tiledsky.estimate_background(plain.astype(float_dtype(dtype)), "sextractor")
    for given in (image, _lazy(image)):
        found = tiledsky.estimate_background(given, "sextractor")
        assert found.background.dtype == float_dtype(dtype)
        np.testing.assert_array_equal(found.background, sky.background)
        np.testing.assert_array_equal(found.subtracted, sky.subtracted)
    boxes = tiledsky.Background2D(image.data, 16, mask=HIDDEN, exclude_percentile=80).background
    np.testing.assert_array_equal(tiledsky.Background2D(_lazy(image), 16, exclude_percentile=80).background, boxes)


def test_nothing_is_computed_before_the_result_is() -> None:
    def never(block: Any) -> Any:
        raise AssertionError("computed")

    chunks = ((40, 0, 40), (50, 44))
    metas = [np.empty((0, 0), "f4"), np.ma.empty((0, 0), "f4"), Masked(np.empty((0, 0), "f4"))]
    for meta in metas:
        image = da.map_blocks(never, chunks=chunks, dtype="f4", meta=meta)
        for value in (image, NDData(image, mask=image != 0, uncertainty=VarianceUncertainty(image))):
            for call in CALLS.values():
                call(value)
        tiledsky.estimate_background(image, "sextractor", weight=image, error=image, dq=image != 0, coverage=image)


def test_chunks_without_pixels_are_left_out() -> None:
    image = _lazy(BLANKED, ((0, 30, 50, 0), (94, 0)))
    mask = _lazy(HIDDEN, ((80,), (0, 94)))
    for given in (image, BLANKED):
        sky = tiledsky.estimate_background(given, "sextractor", mask=mask)
        expected = tiledsky.estimate_background(BLANKED, "sextractor", mask=HIDDEN)
        np.testing.assert_array_equal(sky.background, expected.background)
    assert tiledsky.smooth(image, sigma=1).chunks == ((30, 50), (94,))


def test_planes_may_be_masked() -> None:
    image = np.where(HIDDEN, np.float32(10), DEFECT)
    hole = np.where(HIDDEN, np.nan, NOISE)
    nothing = np.zeros(SHAPE, np.uint8)
    cases = {
        "weight": (hole, NOISE),
        "error": (hole, NOISE),
        "coverage": (hole, (NOISE * 100).astype(np.int16)),
        "dq": (HIDDEN.astype(np.int32), nothing.astype(np.uint16)),
        "mask": (HIDDEN, nothing),
        "source_mask": (HIDDEN * np.uint8(126), nothing),
    }
    for name, (plain, values) in cases.items():
        sky = tiledsky.estimate_background(image, "sextractor", **{name: plain})
        for kind in (np.ma.array, Masked, NDData):
            masked = kind(values, mask=HIDDEN)
            for given in (masked, _lazy(np.ma.array(values, mask=HIDDEN))):
                found = tiledsky.estimate_background(image, "sextractor", **{name: given})
                np.testing.assert_array_equal(found.background, sky.background, err_msg=name)
                np.testing.assert_array_equal(found.mask, sky.mask, err_msg=name)


@pytest.mark.parametrize("kind", ["list", "float", "object", "nan", "nddata", "zarr", "dask", "masked"])
def test_masks_are_what_is_not_zero(kind: str) -> None:
    mask: Any = {
        "list": HIDDEN.tolist(),
        "float": HIDDEN * 0.5,
        "object": HIDDEN.astype(object),
        "nan": np.where(HIDDEN, np.nan, 0),
        "nddata": NDData(HIDDEN),
        "zarr": zarr.array(HIDDEN),
        "dask": _lazy(HIDDEN * 2),
        "masked": np.ma.array(~HIDDEN & False, mask=HIDDEN),
    }[kind]
    expected = tiledsky.ring_median(DEFECT, radius_in=4, width=2, mask=HIDDEN)
    np.testing.assert_array_equal(tiledsky.ring_median(DEFECT, radius_in=4, width=2, mask=mask), expected)
    assert tiledsky.global_statistics(DEFECT, mask=mask) == tiledsky.global_statistics(DEFECT, mask=HIDDEN)
    expected = tiledsky.source_mask(DEFECT, n_sigma=3, mask=HIDDEN)
    np.testing.assert_array_equal(tiledsky.source_mask(_lazy(DEFECT), n_sigma=3, mask=mask), expected)
    expected = tiledsky.estimate_background(DEFECT, "sextractor", mask=HIDDEN).background
    np.testing.assert_array_equal(tiledsky.estimate_background(DEFECT, "sextractor", mask=mask).background, expected)


@pytest.mark.parametrize(
    ("kind", "power"), [(StdDevUncertainty, 1), (VarianceUncertainty, 2), (InverseVariance, -2)], ids=str
)
def test_the_uncertainty_of_nddata_is_the_error(kind: Any, power: int) -> None:
    error = np.where(HIDDEN, np.float32(np.nan), np.float32(2))  # its powers and their roots are exact
    image = np.where(HIDDEN, np.random.default_rng(7).normal(99, 1, HIDDEN.shape).astype("f4"), DEFECT)
    expected = tiledsky.estimate_background(image, "sextractor", error=error)
    judged = measure(image, NOISE, error=error)
    for given, unit in (
        (NDData(image, uncertainty=kind(error**power)), None),
        (CCDData(image, unit="adu", uncertainty=kind(error**power)), u.adu),
    ):
        sky = tiledsky.estimate_background(given, "sextractor")
        assert getattr(sky.background, "unit", None) == unit
        np.testing.assert_array_equal(getattr(sky.background, "value", sky.background), expected.background)
        np.testing.assert_array_equal(sky.mask, expected.mask)
        assert measure(given, NOISE) == judged
    lazy = NDData(_lazy(image), uncertainty=kind(_lazy(error**power, 31)))
    sky = tiledsky.estimate_background(lazy, "sextractor")
    np.testing.assert_array_equal(sky.background, expected.background)
    np.testing.assert_array_equal(sky.mask, expected.mask)
    alone = tiledsky.estimate_background(NDData(image, uncertainty=kind(error**power)), "sextractor", weight=NOISE)
    assert not (alone.mask & 1).any()


def test_numbers_are_in_the_unit_of_the_image() -> None:
    image = BLANKED << u.Jy
    plain = tiledsky.ring_median(BLANKED, radius_in=4, width=2, fill=9.5)
    np.testing.assert_array_equal(tiledsky.ring_median(image, radius_in=4, width=2, fill=9.5 * u.Jy), plain << u.Jy)
    mask = tiledsky.source_mask(BLANKED, threshold=14)
    assert mask.any()
    np.testing.assert_array_equal(tiledsky.source_mask(image, threshold=14 * u.Jy), mask)
    local = [Tier(n_sigma=3, noise="local")]
    tiers = tiledsky.tier_mask(image, local, noise=NOISE << u.Jy)
    np.testing.assert_array_equal(tiers, tiledsky.tier_mask(BLANKED, local, noise=NOISE))
    planes = {"error": NOISE << u.Jy, "weight": NOISE / u.Jy**2, "coverage": NOISE << u.s}
    sky = tiledsky.estimate_background(image, "sextractor", **planes)
    assert sky.background.unit == u.Jy
    sky = tiledsky.estimate_background(image, "sextractor", weight=NOISE << u.one, error=NOISE)
    assert sky.background_error.unit == u.Jy
    options = {"coverage_mask": HIDDEN, "exclude_percentile": 80}
    mesh = tiledsky.Background2D(image, 16, fill_value=3 * u.Jy, filter_threshold=11 * u.Jy, **options)
    assert (mesh.background[HIDDEN] == 3 * u.Jy).all()
    numbers = tiledsky.Background2D(BLANKED, 16, fill_value=3, filter_threshold=11, **options)
    np.testing.assert_array_equal(mesh.background.value, numbers.background)
    assert measure(image, NOISE << u.Jy, rms=NOISE) == measure(BLANKED, NOISE, rms=NOISE)


Q, RING = BLANKED << u.Jy, {"radius_in": 4, "width": 2}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: tiledsky.estimate_background(Q, "sextractor", error=NOISE << u.mJy),
            "error is in mJy .* convert it to Jy",
        ),
        (lambda: tiledsky.estimate_background(Q, "sextractor", weight=NOISE << u.Jy), r"convert it to 1 / Jy2"),
        (lambda: tiledsky.estimate_background(Q, "sextractor", mask=Q), "mask is in Jy"),
        (lambda: tiledsky.estimate_background(BLANKED, "sextractor", error=NOISE << u.Jy), "image has no unit"),
        (
            lambda: tiledsky.estimate_background(NOISE * u.ABmag, "sextractor", weight=NOISE / u.Jy),
            "weight is in 1 / Jy",
        ),
        (lambda: tiledsky.source_mask(Q, threshold=3 * u.mJy), "threshold is in mJy and detection is in Jy"),
        (lambda: tiledsky.source_mask(BLANKED, threshold=3 * u.mJy), "threshold is in mJy and detection has no unit"),
        (lambda: tiledsky.tier_mask(Q, [Tier(n_sigma=3)], noise=NOISE << u.one), "noise is without dimension"),
        (lambda: tiledsky.ring_median(Q, **RING, fill=3 * u.mJy), "fill is in mJy"),
        (lambda: tiledsky.Background2D(Q, 16, fill_value=3 * u.mJy), "fill_value is in mJy and data is in Jy"),
        (lambda: tiledsky.Background2D(Q, 16, filter_threshold=3 * u.mJy), "filter_threshold is in mJy"),
        (lambda: measure(Q, NOISE << u.mJy), "background is in mJy"),
        (lambda: measure(Q, NOISE, rms=NOISE << u.mJy), "rms is in mJy"),
        (lambda: tiledsky.smooth(_lazy(Q), sigma=1), "lazy and in Jy, which dask arrays cannot hold"),
        (lambda: tiledsky.smooth(NDData(_lazy(BLANKED), unit="Jy"), sigma=1), "lazy and in Jy"),
        (lambda: tiledsky.smooth(_of_chunks(Q), sigma=1).compute(), "chunk of image is in Jy"),
        (
            lambda: tiledsky.estimate_background(_nd(StdDevUncertainty(NOISE, unit="mJy")), "sextractor"),
            "uncertainty is in mJy and image is in Jy",
        ),
        (lambda: tiledsky.estimate_background(_nd(UnknownUncertainty(NOISE)), "sextractor"), "make it a StdDev"),
        (
            lambda: tiledsky.estimate_background(_nd(StdDevUncertainty(NOISE[:9])), "sextractor"),
            r"uncertainty \(9, 94\)",
        ),
    ],
)
def test_units_and_errors_that_do_not_fit(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def _nd(uncertainty: Any) -> NDData:
    return NDData(BLANKED, unit="Jy", uncertainty=uncertainty)


def test_columns_have_units() -> None:
    assert tiledsky.smooth(Column(BLANKED, unit="Jy"), sigma=1).unit == u.Jy


UNKNOWN = _lazy(BLANKED)[_lazy(BLANKED[:, -1], 37) > -np.inf]
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "NoneType, not an array"),
    "number": (lambda: 3.0, "float, not an array"),
    "path": (lambda: "image.fits", "str, not an array.* the file to tiledsky.run"),
    "hdu": (lambda: fits.PrimaryHDU(BLANKED), "PrimaryHDU, not an array.*hdu.data"),
    "hdus": (lambda: fits.HDUList([fits.PrimaryHDU(BLANKED)]), r"list of HDUs, not an array.*hdus\[0\].data"),
    "table": (lambda: Table(BLANKED), "Table, not an array"),
    "delayed": (lambda: dask.delayed(BLANKED), "Delayed.*, not an array"),
    "sparse": (lambda: sparse.csr_array(DEFECT), "csr_array, which numpy cannot read"),
    "ragged": (lambda: [[1, 2], [3]], "list that is not an array"),
    "texts": (lambda: [["a"]], "U1|holds no numbers"),
    "masked rows": (lambda: list(np.ma.array(DEFECT, mask=HIDDEN)), "list with a mask, which would be lost"),
    "rows with units": (lambda: list(DEFECT << u.ct), "list with a unit, which would be lost"),
    "one axis": (lambda: BLANKED[0], "1 axes"),
    "three axes": (lambda: np.zeros((2, 3, 4)), "3 axes"),
    "no rows": (lambda: np.zeros((0, 94)), "no pixels|differ in shape"),
    "no lazy columns": (lambda: da.zeros((80, 0)), "no pixels|differ in shape"),
    "complex": (lambda: BLANKED.astype(complex), "complex128"),
    "dates": (lambda: np.zeros(SHAPE, "M8[s]"), "datetime64"),
    "records": (lambda: np.zeros(SHAPE, [("a", "f4")]), "'a'"),
    "lazy texts": (lambda: _lazy(BLANKED).astype("U5"), "U5"),
    "lazy axes": (lambda: da.zeros((3, 4, 5)), "3 axes"),
    "unknown rows": (lambda: UNKNOWN, "unknown size.*compute_chunk_sizes"),
    "unknown columns": (lambda: UNKNOWN.T, "unknown size.*compute_chunk_sizes"),
    "unknown masked": (lambda: da.ma.masked_invalid(UNKNOWN), "unknown size.*compute_chunk_sizes"),
    "mask of another shape": (lambda: NDData(BLANKED, mask=HIDDEN[:9]), "mask of .* differ in shape"),
}
PLANES: dict[str, Callable[[Any], Any]] = {
    "mask": lambda plane: tiledsky.ring_median(DEFECT, **RING, mask=plane),
    "statistics": lambda plane: tiledsky.global_statistics(_lazy(DEFECT), mask=plane),
    "noise": lambda plane: tiledsky.tier_mask(DEFECT, [Tier(n_sigma=3)], noise=plane),
    "weight": lambda plane: tiledsky.estimate_background(DEFECT, "sextractor", weight=plane),
    "dq": lambda plane: tiledsky.estimate_background(_lazy(DEFECT), "sextractor", dq=plane),
    "truth": lambda plane: measure(DEFECT, DEFECT, truth=plane),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_refused_in_one_line(kind: str) -> None:
    make, words = BAD[kind]
    calls = [*CALLS.values(), lambda image: measure(image, DEFECT)]
    planes = [] if kind == "nothing" else list(PLANES.values())
    for call in [*calls, *planes]:
        with pytest.raises(TiledSkyError, match=words) as error:
            call(make())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [object, "U5"])
def test_objects_are_no_pixels(dtype: Any) -> None:
    for image in (BLANKED.astype(dtype), _lazy(BLANKED.astype(dtype))):
        with pytest.raises(TiledSkyError, match="has no sky"):
            tiledsky.smooth(image, sigma=1)


def test_chunks_that_are_masked_and_hold_integers_must_say_so() -> None:
    image = _of_chunks(np.ma.array(_image("i2"), mask=HIDDEN), "i2")
    with pytest.raises(InputError, match="masked array of int16"):
        tiledsky.smooth(image, sigma=1).compute()


@pytest.mark.parametrize(
    "image",
    [
        list(BLANKED),
        zarr.array(BLANKED),
        np.asfortranarray(BLANKED),
        np.repeat(BLANKED, 2, axis=1)[:, ::2],
        BLANKED[::-1, ::-1].copy()[::-1, ::-1],
        BLANKED.astype(">f4"),
        NDData(BLANKED, mask=False),
        np.ma.array(BLANKED),
    ],
    ids=["rows", "zarr", "fortran", "strided", "reversed", "swapped", "unmasked", "mask-free"],
)
def test_layouts_are_all_the_same(image: Any) -> None:
    read_only = taken_apart(image).blanked()
    read_only.flags.writeable = False
    for given in (image, read_only):
        np.testing.assert_array_equal(tiledsky.ring_median(given, **RING), tiledsky.ring_median(BLANKED, **RING))
        sky = tiledsky.estimate_background(given, "sextractor").background
        np.testing.assert_array_equal(sky, tiledsky.estimate_background(BLANKED, "sextractor").background)


def test_lists_of_numbers_are_images() -> None:
    numbers = BLANKED.astype(float)
    np.testing.assert_array_equal(tiledsky.smooth(numbers.tolist(), sigma=1), tiledsky.smooth(numbers, sigma=1))
    assert tiledsky.ring_median([[1, 2], [3, 4]], radius_in=0, width=1).shape == (2, 2)


def test_memory_maps_are_read(tmp_path: Any) -> None:
    np.save(tmp_path / "image.npy", BLANKED)
    image = np.load(tmp_path / "image.npy", mmap_mode="r")
    np.testing.assert_array_equal(tiledsky.smooth(image, sigma=1), tiledsky.smooth(BLANKED, sigma=1))
    assert np.shares_memory(taken_apart(image).pixels, image)


def test_measures_leave_masked_pixels_out() -> None:
    sky, mask = np.full(SHAPE, 10, np.float32), DEFECT > 14
    expected = measure(BLANKED, sky, mask)
    for kind, make in MASKED.items():
        assert measure(make(), sky, mask) == expected, kind
    assert measure(zarr.array(BLANKED), sky, mask.tolist()) == expected
    expected = measure(DEFECT, np.where(HIDDEN, np.nan, sky).astype(np.float32))
    assert measure(DEFECT, np.ma.array(sky, mask=HIDDEN)) == expected
    expected = measure(DEFECT, sky, HIDDEN)
    assert measure(DEFECT, sky, np.ma.array(HIDDEN & False, mask=HIDDEN)) == expected
    assert measure(DEFECT, sky, np.ma.array(np.zeros(SHAPE, np.uint8), mask=HIDDEN)) == measure(
        DEFECT, sky, HIDDEN * np.uint8(2)
    )
    with pytest.raises(InputError, match="mask is of type float32, which has no bits"):
        measure(DEFECT, sky, NOISE)
    with pytest.raises(InputError, match="mask has the value 256, beyond the eight bits"):  # the uint8 of it is 0
        measure(DEFECT, sky, HIDDEN * 256)


def test_inputs_are_not_changed() -> None:
    image, mask = DEFECT.copy(), HIDDEN.copy()
    masked = np.ma.array(image, mask=mask)
    tiledsky.estimate_background(masked, "sextractor", mask=np.ma.array(mask, mask=mask), weight=masked)
    tiledsky.smooth(NDData(image, mask=mask), sigma=1)
    np.testing.assert_array_equal(image, DEFECT)
    np.testing.assert_array_equal(masked.mask, HIDDEN)


@pytest.mark.parametrize("lazy", [False, True])
def test_planes_of_a_dataarray_have_its_coordinates(lazy: bool) -> None:
    coordinates = {
        "y": np.arange(80) * 0.2,
        "x": np.arange(94) * 0.2 + 5,
        "ra": (("y", "x"), np.ones(SHAPE)),
        "band": "r",
    }
    image = xarray.DataArray(
        _lazy(BLANKED) if lazy else BLANKED, coordinates, ("y", "x"), "sci", {"units": "MJy / sr", "origin": "a survey"}
    )
    plain = tiledsky.estimate_background(BLANKED, "sextractor")
    sky = tiledsky.estimate_background(image, "sextractor")
    made = {name: getattr(sky, name) for name in ("background", "background_rms", "background_error", "subtracted")}
    made |= {"smooth": tiledsky.smooth(image, sigma=1), "ring_median": tiledsky.ring_median(image, **RING)}
    expected = {name: getattr(plain, name, None) for name in made}
    expected |= {"smooth": tiledsky.smooth(BLANKED, sigma=1), "ring_median": tiledsky.ring_median(BLANKED, **RING)}
    for name, plane in made.items():
        assert plane.name == name
        assert plane.attrs == {"units": "MJy / sr"}
        assert (plane.chunks is not None) == lazy
        xarray.testing.assert_identical(plane.coords.to_dataset(), image.coords.to_dataset())
        np.testing.assert_array_equal(plane, expected[name])
    masks = {"mask": sky.mask, "source_mask": tiledsky.source_mask(image, threshold=14)}
    masks["tier_mask"] = tiledsky.tier_mask(image, [Tier(n_sigma=3)])
    for name, plane in masks.items():
        assert (plane.name, plane.attrs, plane.dims) == (name, {}, ("y", "x"))
    np.testing.assert_array_equal(sky.mask, plain.mask)
    xarray.testing.assert_allclose(image - sky.background, sky.subtracted)  # alignment by coordinates works


def test_datasets_are_no_arrays() -> None:
    with pytest.raises(InputError, match="Dataset, not an array"):
        tiledsky.smooth(xarray.Dataset({"a": (("y", "x"), BLANKED)}), sigma=1)


def test_planes_of_a_ccddata_have_its_wcs() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    image = CCDData(
        DEFECT, unit="adu", mask=HIDDEN, uncertainty=StdDevUncertainty(NOISE), wcs=wcs, meta={"FILTER": "r"}
    )
    plain = tiledsky.estimate_background(BLANKED, "sextractor", error=NOISE)
    sky = tiledsky.estimate_background(image, "sextractor")
    for name in ("background", "background_rms", "background_error", "subtracted"):
        plane = getattr(sky, name)
        assert (type(plane), plane.unit) == (CCDData, u.adu)
        assert plane.wcs is wcs
        np.testing.assert_array_equal(plane.data, getattr(plain, name))
        assert (plane.mask is not None) == (plane.uncertainty is not None) == (name == "subtracted")
    np.testing.assert_array_equal(sky.subtracted.mask, HIDDEN)
    np.testing.assert_array_equal(sky.subtracted.uncertainty.array, NOISE)
    assert sky.subtracted.meta["FILTER"] == "r"
    by_astropy = image.subtract(sky.background)  # CCDData's own arithmetic takes the sky
    np.testing.assert_array_equal(by_astropy.data[~HIDDEN], sky.subtracted.data[~HIDDEN])
    np.testing.assert_array_equal(sky.mask, plain.mask)
    assert image.uncertainty.parent_nddata is image


def test_frames_are_no_arrays() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match=r"pandas\.DataFrame, not an array"):
        tiledsky.smooth(pandas.DataFrame(BLANKED), sigma=1)


def test_what_is_cut_into_chunks_must_be_plain() -> None:
    for image in (np.ma.array(DEFECT, mask=HIDDEN), DEFECT << u.ct):
        with pytest.raises(TiledSkyError, match="has a mask or a unit"):
            assert_tile_invariant(lambda image: image, image)


def test_an_array_is_no_path() -> None:
    with pytest.raises(InputError, match=r"ndarray is not a path.*estimate_background"):
        tiledsky.run(DEFECT, "sextractor", "sky.zarr")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i2", "f4"), ("u2", "f4"), ("i4", "f8"), ("bool", "f4")],
)
def test_float_types_hold_every_value(dtype: str, expected: str) -> None:
    assert float_dtype(dtype) == np.dtype(expected)
    if np.dtype(dtype).kind in "iu":
        limits = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
        assert np.array_equal(limits.astype(expected).astype(object), limits.astype(object))


def test_as_float_copies_only_what_it_must() -> None:
    image = _image()
    assert np.shares_memory(as_float(image), image)
    swapped = as_float(image.astype(">f4"))
    assert swapped.dtype.isnative
    assert np.array_equal(swapped, image)
