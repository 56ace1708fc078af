"""Regions where the residual is too low, and the medians and scatter of apertures on empty sky."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.blocks import (
    BLOCKS,
    LOOKED_AT,
    THRESHOLD,
    area,
    away_from_edges,
    centre,
    least,
    not_of_objects,
    significance,
    stretch,
)
from tiledsky.diagnostics.fields import Fields, Number, Place, Position
from tiledsky.diagnostics.next_steps import BESIDE, LOOK
from tiledsky.diagnostics.parts import Limit, Places
from tiledsky.diagnostics.patches import Floats, number
from tiledsky.diagnostics.places import random_positions, random_words
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure, exact
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.apertures import aperture_sums
from tiledsky.kernels.residual.cell_sums import KEPT
from tiledsky.kernels.residual.connected import connected

#: Radius of the apertures, px; random places a cell.
RADIUS, APERTURES = 4, 2
#: Apertures that are kept, by chance: all there are in 20000 x 20000 px.
MOST = 200_000
#: Share by which numbers that differ may be written alike: they have five digits.
_WRITTEN = 2e-4
#: Regions that are listed; what there is to say of none.
_LISTED = 20
_NONE: dict[str, Any] = {"area": 0, "significance": 0.0, "y": None, "x": None}
#: An aperture: cell and number in it (its order), sum of the residual, variance that the noise of its pixels gives.
APERTURE = np.dtype([("y", "<i4"), ("x", "<i4"), ("k", "<i4"), ("sum", "<f8"), ("variance", "<f8")])

DEFINITION = (
    "connected regions of 16 x 16 px blocks (a quarter of the pixels unmasked) whose mean residual is below -3 of its "
    "errors, for noise with the measured short-range correlation; significance of all pixels of the region together; "
    "blocks in the outermost 16 px of the image are counted apart. Without compact light, and without what is too high "
    "within the extent of the objects of objects_taken"
)


class Extreme(Place):
    """The largest or strongest of some regions; without numbers where there is none."""

    area: Number = None
    significance: Number = None


class Regions(Fields):
    """The strongest of some regions."""

    strongest: Extreme | None = None


class NegativeRegions(Regions):
    """Regions that are too low, and in short those that are too high."""

    regions: list[Position] = []
    largest: Extreme | None = None
    positive: Regions | None = None


def update_apertures(band: Band) -> NDArray[np.void]:
    """Sums of the apertures of a band that hold no masked pixel."""
    y, x = random_positions(band, APERTURES, 2)
    inside, total, variance = aperture_sums(band.residual, band.rms, band.good ^ np.uint8(1), y, x, radius=RADIUS)
    rows, columns = np.mgrid[band.where.y0 : band.where.y1, band.where.x0 : band.where.x1].reshape(2, -1)
    cell, k = np.nonzero(inside)
    found = np.empty(cell.size, APERTURE)
    found["y"], found["x"], found["k"] = rows[cell], columns[cell], k
    found["sum"], found["variance"] = total[inside], variance[inside]
    return found


def _chance(apertures: NDArray[np.void]) -> NDArray[np.uint64]:
    """Random number of each, by its place alone."""
    rows = apertures["y"].astype(np.int64) * APERTURES + apertures["k"]
    return random_words(rows, apertures["x"].astype(np.int64), 3)


APERTURES_FOUND = Places("apertures", APERTURE, ("y", "x", "k"), update_apertures, Limit(MOST, _chance))


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    blocks, shape, scale = image.total(BLOCKS), image.shape, stretch(image)
    blocks = blocks[not_of_objects(blocks, image)]
    n_blocks = int(image.sums(LOOKED_AT).sums.sum())
    below, found, at_edges = _side(blocks, shape, scale, sign=-1)
    above, high, _ = _side(blocks, shape, scale, sign=1)
    largest = found.first(_LISTED, "area", sign=1)
    return {
        "unit": "sigma",
        "block": KEPT,
        "threshold": number(-below, 5),
        "n_blocks": n_blocks,
        "expected_blocks": number(n_blocks * float(special.ndtr(-below)), 4),
        "n_regions": found.count,
        "area": int(found.area.sum()),
        "largest": largest[0] if largest else _NONE,
        "strongest": found.strongest(sign=-1),
        "regions": largest,
        "positive": {
            **({"threshold": number(above, 5)} if above > THRESHOLD else {}),
            "n_regions": high.count,
            "area": int(high.area.sum()),
            "strongest": high.strongest(sign=1),
        },
        "at_edges": {"blocks": at_edges, "width": KEPT},
        "apertures": _apertures(image.total(APERTURES_FOUND)),
    }


@dataclass(frozen=True)
class _RegionTable:
    """Connected regions: pixels, significance, middle."""

    area: Floats
    significance: Floats
    y: Floats
    x: Floats

    @property
    def count(self) -> int:
        return self.area.size

    def first(self, count: int, by: Literal["area", "significance"], *, sign: int) -> list[dict[str, Any]]:
        """Return the regions with the highest numbers (``sign`` -1: the lowest), of equal ones the first."""
        values = -sign * getattr(self, by)
        if values.size > count:  # those that may be among them as they are written
            last = float(np.partition(values, count - 1)[count - 1])
            chosen = np.flatnonzero(values <= last + _WRITTEN * abs(last))
        else:
            chosen = np.arange(values.size)
        rows = (
            {"area": int(a), "significance": number(s, 5), "y": round(float(y), 1), "x": round(float(x), 1)}
            for a, s, y, x in zip(*(k[chosen] for k in (self.area, self.significance, self.y, self.x)), strict=True)
        )
        return heapq.nsmallest(count, rows, key=lambda r: (-sign * r[by], r["y"], r["x"]))

    def strongest(self, *, sign: int) -> dict[str, Any]:
        """Return the first by significance; no numbers without any."""
        return next(iter(self.first(1, "significance", sign=sign)), _NONE)


def _side(blocks: NDArray[np.void], shape: Pair, scale: float, *, sign: int) -> tuple[float, _RegionTable, int]:
    """Of blocks of one sign: the deviation from which all are listed, regions, blocks at the edges of the image."""
    side = blocks[np.sign(blocks["sum"]) == sign]
    threshold = least(side, scale, listed=blocks.size)
    side = side[np.abs(significance(side, scale)) >= THRESHOLD]
    inner = away_from_edges(side, shape)
    return threshold, _regions(side[inner], shape, scale), int(np.count_nonzero(~inner))


def _regions(blocks: NDArray[np.void], shape: Pair, scale: float) -> _RegionTable:
    labels = connected(blocks["y"], blocks["x"])
    n = int(labels.max(initial=-1)) + 1
    pixels, total = np.bincount(labels, blocks["n"], n), np.bincount(labels, blocks["sum"], n)
    strength = total / np.sqrt(pixels) / scale
    del pixels, total
    sizes = np.asarray(np.bincount(labels, area(blocks, shape).astype(np.float64), n), np.float64)
    number_of = np.bincount(labels, minlength=n)
    y, x = (np.bincount(labels, centre(blocks[k], s), n) / number_of for k, s in zip(("y", "x"), shape, strict=True))
    return _RegionTable(sizes, strength, y, x)


def _apertures(apertures: NDArray[np.void]) -> dict[str, Any]:
    """Median and scatter of the sums, by order statistics, and the scatter that uncorrelated noise would give."""
    given: dict[str, Any] = {"radius": RADIUS, "n": int(apertures.size), "unit": "image (sum in the aperture)"}
    sums: Floats = apertures["sum"]
    if sums.size < 2:
        return given | dict.fromkeys(("median", "median_error", "scatter", "expected_scatter"))
    median = float(np.median(sums))
    scatter = 1.482602218505602 * float(np.median(np.abs(sums - median)))
    return given | {
        "median": number(median),
        "median_error": number(1.2533 * scatter / np.sqrt(sums.size)),
        "scatter": number(scatter),
        "expected_scatter": number(float(np.sqrt(np.median(apertures["variance"])))),
    }


def _strength(found: Regions | None) -> CheckValue:
    return None if found is None or found.strongest is None else exact(found.strongest.significance)


MEASURE = Measure(
    name="negative",
    definition=DEFINITION,
    fields=NegativeRegions,
    finalize=finalize,
    parts=(BLOCKS, LOOKED_AT, APERTURES_FOUND),
    checks=(
        Check(
            "negative_area",
            "px",
            lambda found, _: exact(found.largest.area if found.largest else None),
            place=lambda found: found.largest,
            next_step=BESIDE,
        ),
        Check(
            "negative_significance",
            "sigma",
            lambda found, _: _strength(found),
            place=lambda found: found.strongest,
            next_step=BESIDE,
        ),
        Check(
            "positive_significance",
            "sigma",
            lambda found, _: _strength(found.positive),
            place=lambda found: found.positive.strongest if found.positive else None,
            next_step=f"{LOOK}; light that is no sky: mask it with --user-mask; sky: a smaller box_size or deep-sky",
        ),
    ),
)
