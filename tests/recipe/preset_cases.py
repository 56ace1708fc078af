"""Images for the tests of the presets, and what scipy, astropy and photutils make of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from photutils.background import Background2D

from tests import reference_ceers as ceers
from tests import reference_chain as notebook
from tests.notebook_scene import gaussian_sources, notebook_scene

Bools = NDArray[np.bool_]

SECOND_PASS = "ceers-second-pass"
SATURATED = 2  # bit of the flag in the JWST pipeline
JUMP = 4

#: A real image for each preset: file, rows, columns.
REAL = {
    "notebook-bkg1": ("des_241238_01.fits.fz", (700, 1010), (1200, 1540)),
    "notebook-bkg2": ("gama_kidsviking_r_2600.fits", (-310, None), (-330, None)),
    "notebook-bkg3": ("2mass_gc_k.fits", (0, 300), (200, 510)),
    "notebook-bkg4": ("spitzer_glimpse_irac.fits", (0, 300), (0, 320)),
    "notebook-bkg5": ("ztf_000655_zr_c13_q3_sci.fits", (1000, 1300), (1200, 1490)),
    "ceers-nircam": ("des_241238_01.fits.fz", (300, 590), (300, 610)),
    "ceers-nircam-exposure": ("hst_wfpc2_a478_drz.fits", (100, 410), (100, 430)),
    "ceers-hst-f606w": ("gama_kidsviking_r_2600.fits", (10, 300), (10, 320)),
    "ceers-hst-f814w": ("gama_kidsviking_Ks_2600.fits", (10, 300), (10, 320)),
    "ceers-hst-ir": ("des_241238_01.fits.fz", (2300, 2580), (900, 1205)),
    SECOND_PASS: ("gama_kidsviking_Ks_2600.fits", (10, 300), (10, 320)),
}


@dataclass(frozen=True, eq=False)
class Case:
    """An image with its planes."""

    image: NDArray[Any]
    weight: NDArray[Any] | None = None
    error: NDArray[Any] | None = None
    dq: NDArray[Any] | None = None
    source_mask: NDArray[np.uint8] | None = None

    @property
    def planes(self) -> dict[str, NDArray[Any]]:
        """All that is given beside the image, by name."""
        named = {"weight": self.weight, "error": self.error, "dq": self.dq, "source_mask": self.source_mask}
        return {name: plane for name, plane in named.items() if plane is not None}

    def invalid(self, flags: int | None) -> Bools:
        """Pixels that no statistic may use; flags None: any."""
        invalid = ~np.isfinite(self.image)
        if self.weight is not None:
            invalid |= ~(self.weight > 0)
        if self.error is not None:
            invalid |= ~np.isfinite(self.error)
        if self.dq is not None:
            invalid |= (self.dq if flags is None else self.dq & flags) != 0
        return invalid

    def cut(self, rows: slice, columns: slice) -> Case:
        """Part of all planes."""
        planes = {name: plane[rows, columns] for name, plane in self.planes.items()}
        return Case(np.ascontiguousarray(self.image[rows, columns]), **planes)


class Found(NamedTuple):
    """One bit of a mask: its search, the mask after growth, the radius of the growth."""

    search: notebook.Search
    mask: Bools
    reach: int


def flags(preset: str) -> int | None:
    """Flags of the DQ plane that count; None: any."""
    return SATURATED if preset == "ceers-nircam-exposure" else None


@lru_cache
def case(preset: str, kind: str) -> Case:
    """Return the simulated scene or the real image of a preset."""
    if kind == "real":
        planes = Case(_real(*REAL[preset]))
    elif preset.startswith("notebook"):
        planes = _with_holes(notebook_scene(4).scene[500:800, 300:633].astype(np.float32))
    else:
        planes = _with_holes(_field())
    if preset != SECOND_PASS:
        return planes
    bands = ("ceers-nircam", "ceers-hst-f814w") if kind == "scene" else ("ceers-hst-f606w", "ceers-hst-f814w")
    merged = np.zeros(planes.image.shape, np.uint8)
    for band in bands:
        for bit, found in enumerate(ceers_masks(band, kind)[1], 1):
            merged |= np.uint8(1 << bit) * found.mask
    return Case(planes.image, planes.weight, planes.error, planes.dq, merged | np.uint8(1))  # bit 0 must not matter


def _real(name: str, rows: tuple[int, int | None], columns: tuple[int, int | None]) -> NDArray[Any]:
    folder = os.environ.get("TILEDSKY_TEST_DATA")
    if folder is None or not (Path(folder) / name).exists():
        pytest.skip(f"{name} not found: set TILEDSKY_TEST_DATA to the folder with the test images")
    image = fits.getdata(Path(folder) / name, memmap=False)
    return np.ascontiguousarray(image[slice(*rows), slice(*columns)], np.float32)


def _field() -> NDArray[np.float32]:
    """Make a field that is not crowded: small galaxies on an uneven sky, one that is large and bright."""
    rng = np.random.default_rng(20)
    ny, nx = shape = (302, 323)
    y, x = np.mgrid[:ny, :nx]
    sources: Any = [
        {
            "x_mean": rng.uniform(0, nx),
            "y_mean": rng.uniform(0, ny),
            "x_stddev": rng.uniform(1, 2.5),
            "y_stddev": rng.uniform(1, 2.5),
            "theta": rng.uniform(0, np.pi),
            "amplitude": 0.3 / rng.uniform(0.03, 1),
        }
        for _ in range(22)
    ]
    # one that is large and bright
    sources.append({"x_mean": 265, "y_mean": 75, "x_stddev": 14, "y_stddev": 11, "theta": 0.5, "amplitude": 3.0})
    sky = 1 + 0.3 * y / ny + 0.1 * np.sin(x / 50) * np.cos(y / 70)
    image = sky + gaussian_sources(shape, sources) + rng.normal(scale=0.1, size=shape)
    return image.astype(np.float32)


def _with_holes(image: NDArray[np.float32]) -> Case:
    """Add NaN (a band, a block, single pixels), infinity, corners without weight or error, flags."""
    rng = np.random.default_rng(21)
    image = image.copy()
    weight, error = np.ones(image.shape, np.float32), np.full(image.shape, 0.1, np.float32)
    dq = np.zeros(image.shape, np.uint32)
    image[:, :5] = np.nan
    image[150:190, 130:165] = np.nan
    image[rng.random(image.shape) < 0.002] = np.nan
    image[40, 50], image[41, 50] = np.inf, -np.inf
    weight[-45:, -60:] = 0
    weight[30, 30:32] = -1, np.nan
    error[:35, -25:] = np.nan
    dq[220:223, 40:200] = SATURATED | 1
    dq[100:102, 60:140] = JUMP
    return Case(image, weight, error, dq)


@lru_cache
def _ceers_ring(preset: str, kind: str) -> ceers.Masks:
    planes = case(preset, kind)
    return ceers.run_masks(planes.image, planes.invalid(flags(preset)), ceers.NUMBERS[preset])


@lru_cache
def ceers_masks(preset: str, kind: str) -> tuple[ceers.Masks, list[Found]]:
    """All that the CEERS chain finds; on the scene the mosaics' presets have one ring."""
    numbers, planes = ceers.NUMBERS[preset], case(preset, kind)
    shared = "ceers-nircam" if kind == "scene" and numbers.ring == ceers.NUMBERS["ceers-nircam"].ring else preset
    masks = ceers.with_tiers(_ceers_ring(shared, kind), planes.image, planes.invalid(flags(preset)), numbers)
    return masks, [Found(*found) for found in zip(masks.searches, masks.tiers, numbers.grow, strict=True)]


def notebook_masks(preset: str, planes: Case, sky: NDArray[Any] | None) -> list[Found]:
    """Masks that a notebook's preset uses last; ``sky`` is what its three tiers are searched on."""
    image, invalid = planes.image, planes.invalid(None)
    if preset in ("notebook-bkg1", "notebook-bkg2"):
        masked = notebook.masked_at_three_sigma(image, invalid)
        return [Found(masked.search, masked.sources, 2)]
    if sky is None:
        ring = notebook.ring_median(image, invalid)
        search = notebook.bright_search(notebook.detection_image(image, ring, invalid), invalid)
        return [Found(search, search.found, 0)]
    detection = notebook.detection_image(image, sky, invalid)
    searches = [(notebook.tier_search(detection, invalid, fwhm, maxiters=5), r) for fwhm, r in notebook.TIERS]
    return [Found(search, notebook.grown_tophat(search.found, r), int(r)) for search, r in searches]


def expected_background(preset: str, planes: Case, ignore: Bools) -> Background2D:
    """Return the preset's last mesh, by photutils, outside what is ignored."""
    image = np.where(ignore & ~np.isfinite(planes.image), 0, planes.image).astype(planes.image.dtype)
    if preset == SECOND_PASS:
        return ceers.mesh(image, ignore, box_size=10, filter_size=5)
    if preset in ceers.NUMBERS:
        numbers = ceers.NUMBERS[preset]
        return ceers.mesh(image, ignore, box_size=numbers.box_size, filter_size=numbers.filter_size)
    if preset in ("notebook-bkg1", "notebook-bkg2"):
        return notebook.masked_background(image, ignore, 30 if preset == "notebook-bkg1" else 15)
    options: dict[str, Any] = {
        "notebook-bkg3": {"box_size": 10, "filter_size": 5},
        "notebook-bkg4": {"box_size": 10, "filter_size": 5, "power": 1},
        "notebook-bkg5": {"box_size": 6, "filter_size": 3, "power": 0},
    }[preset]
    return notebook.background(image, ignore, maxiters=5, **options)
