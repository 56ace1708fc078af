"""The way back: the image that a run began with, from what it subtracted and what is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiledsky
from tiledsky.engine.result import open_run
from tiledsky.errors import InputError
from tiledsky.geometry import Pair, Region
from tiledsky.images import as_float
from tiledsky.io.address import Place, located
from tiledsky.io.fits.image import FitsImage, Plane, image_hdus, open_image, write_fits
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.zarr.reader import ZarrReader
from tiledsky.workflows.export import RowCount, RowProgress
from tiledsky.workflows.outputs import FILL, fill_of

_NAMES = ("SUBTRACTED", "BACKGROUND")


@dataclass(frozen=True)
class Comparison:
    """Restored pixels against those of the input.

    Attributes
    ----------
    differing : int
        Restored pixels of another value than the input's.
    max_difference : float
        The largest difference in the image's unit.
    """

    differing: int = 0
    max_difference: float = 0.0

    def and_of(self, restored: NDArray[Any], original: NDArray[Any]) -> Comparison:
        """Return the comparison with more pixels."""
        other = restored != original
        if not other.any():
            return self
        found, wanted = restored[other], original[other]
        with np.errstate(over="ignore"):
            difference = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
        return Comparison(
            self.differing + found.size,
            max(self.max_difference, difference),
        )


@dataclass(frozen=True)
class RestoreReport:
    """Size of a restored image, and how it compares with the input.

    Attributes
    ----------
    shape : (int, int)
    dtype : str
    uncovered : int
        Pixels that hold a fill value in place of sky and data, because they lie outside the coverage: not restored.
    nan : int
        Other pixels without a value.
    comparison : Comparison or None
        All other pixels against the input; None if the input is not there, or has changed since the run.
    """

    shape: Pair
    dtype: str
    uncovered: int
    nan: int
    comparison: Comparison | None

    @property
    def restored(self) -> int:
        """Number of pixels that have their sky again."""
        return self.shape[0] * self.shape[1] - self.uncovered - self.nan


def restore(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    checksum: bool = True,
    progress: RowProgress | None = None,
) -> RestoreReport:
    """Add the background back to a subtracted image.

    Parameters
    ----------
    source : path
        Run store, or FITS file with the extensions SUBTRACTED and BACKGROUND as `tiledsky.workflows.export.export`
        writes it.
    out : path
        FITS file with the image in its primary HDU, and header and WCS of the science image.
    overwrite : bool
        Replace ``out``.
    checksum : bool
        Compare a FITS file with the DATASUM and CHECKSUM that it carries.
    progress : callable, optional
        Called with rows done and rows in all.

    Returns
    -------
    RestoreReport

    Raises
    ------
    InputError, RunError
        No run store and no such FITS file; an unfinished run.
    ParameterError
        ``out`` exists.

    Notes
    -----
    Pixels are the sum in float64, rounded to the type of the subtracted image; of float32 planes that is the same as
    the sum rounded once, since 53 bits are more than twice 24. NaN stays NaN. Outside the coverage both planes hold the
    recipe's fill value: it stays there, and these pixels are counted (with a fill value of 0, so are pixels whose
    background and subtracted value both happen to be 0; they are 0 in the result as they were in the input).

    Call x a pixel of the input, b its background, s the stored ``x - b``, rounded. A pixel with ``b / 2 <= x <= 2 b``
    (or the same with both signs changed) comes back to the last bit, since its s has no rounding error (Sterbenz 1974).
    So does a pixel whose s has a smaller exponent than x. Any other pixel differs by at most one unit in the last place
    of s: 1.2e-7 of s for float32. A pixel near 0 under a large background can lose all its digits; where ``x - b``
    overflows, x is lost.

    Memory: a row of the store's inner chunks, four times.
    """
    with _open(located(source), checksum) as parts:
        count = RowCount(parts.shape[0], progress)
        blocks = _Blocks(parts, count)
        plane = Plane("SCI", parts.shape, parts.dtype, blocks.rows, block_rows=parts.block_rows)
        rounding = f"sum in float64, rounded to {parts.dtype}"
        history = [f"tiledsky {tiledsky.__version__}: sky added back to {parts.label}", rounding]
        header = parts.header
        header.remove(FILL, ignore_missing=True)
        write_fits(out, [plane], header=header, history=history, single=True, overwrite=overwrite)
        return RestoreReport(parts.shape, parts.dtype.name, blocks.uncovered, blocks.nan, blocks.comparison)


def add_back(subtracted: NDArray[Any], background: NDArray[Any]) -> NDArray[Any]:
    """Sum in float64, rounded to the type of ``subtracted``; see `restore` for when this is the image again."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = subtracted.astype(np.float64) + background.astype(np.float64)
        return total.astype(subtracted.dtype)


@dataclass(frozen=True)
class _Parts:
    """Planes to add, ``science`` to compare with, and what stands outside the coverage."""

    label: str
    subtracted: PlaneReader
    background: PlaneReader
    science: PlaneReader | None
    shape: Pair
    dtype: np.dtype[Any]
    fill: float | None
    header: Any
    block_rows: int | None


class _Blocks:
    """Rows of the restored image; counts what passes."""

    def __init__(self, parts: _Parts, count: RowCount) -> None:
        self.parts, self.count = parts, count
        self.uncovered = self.nan = 0
        self.comparison = None if parts.science is None else Comparison()

    def rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows y0 to y1 - 1."""
        parts, region = self.parts, Region(y0, y1, 0, self.parts.shape[1])
        subtracted, background = parts.subtracted.read(region), parts.background.read(region)
        restored = add_back(subtracted, background)
        outside = np.isnan(background)
        if parts.fill is not None:
            fill = parts.dtype.type(parts.fill)
            outside |= (background == fill) & (subtracted == fill)
            restored[outside] = subtracted[outside]
        nan = np.isnan(restored) & ~outside
        self.uncovered += int(np.count_nonzero(outside))
        self.nan += int(np.count_nonzero(nan))
        if self.comparison is not None and parts.science is not None:
            there = ~(outside | nan)
            original = as_float(parts.science.read(region))
            self.comparison = self.comparison.and_of(restored[there], original[there])
        return self.count.after(restored, y1 - y0)


@contextmanager
def _open(source: Place, checksum: bool) -> Iterator[_Parts]:
    if source.is_dir():
        yield _of_run(source)
        return
    with ExitStack() as stack:
        yield _of_file(source, stack, checksum)


def _of_run(path: Place) -> _Parts:
    run = open_run(path)
    subtracted, background = (run.plane(name.lower()) for name in _NAMES)
    return _Parts(
        label=f"run {run.provenance['run_id']}",
        subtracted=ZarrReader(subtracted),
        background=ZarrReader(background),
        science=ZarrReader(run.plane("science")) if "science" in run.planes else run.science_in_place,
        shape=tuple(subtracted.shape),
        dtype=subtracted.dtype,
        fill=fill_of(run.recipe, run.provenance["input"], run.provenance.get("nodata")),
        header=run.header,
        block_rows=subtracted.chunks[0],
    )


def _of_file(path: Place, stack: ExitStack, checksum: bool) -> _Parts:
    images: dict[str, FitsImage] = {}
    for index in image_hdus(path):
        image = stack.enter_context(open_image(path, hdu=index, checksum=checksum))
        images.setdefault(image.name.upper(), image)
    missing = [name for name in _NAMES if name not in images]
    if missing:
        raise InputError(
            f"{path}: no image extension {' and '.join(missing)}; give a run store, or a file that "
            "`tiledsky export --planes subtracted,background` wrote"
        )
    one, two = (images[name] for name in _NAMES)
    if one.shape != two.shape:
        raise InputError(f"{path}: SUBTRACTED {one.shape} and BACKGROUND {two.shape} differ in shape; export again")
    return _Parts(
        label=path.name,
        subtracted=one,
        background=two,
        science=None,
        shape=one.shape,
        dtype=one.dtype,
        fill=one.header.get(FILL),
        header=one.header,
        block_rows=None,
    )
