"""Regions where the residual is too low, and the medians and scatter of apertures on empty sky."""

from __future__ import annotations

from typing import Any

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
    regions,
    significance,
    stretch,
)
from tiledsky.diagnostics.fields import Fields, Number, Position
from tiledsky.diagnostics.parts import Places
from tiledsky.diagnostics.patches import Floats, number
from tiledsky.diagnostics.places import random_positions
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure, exact
from tiledsky.geometry import Pair
from tiledsky.kernels.residual.apertures import aperture_sums
from tiledsky.kernels.residual.cell_sums import KEPT

#: Radius of the apertures, px; random places a cell.
RADIUS, APERTURES = 4, 2
#: Regions that are listed.
_LISTED = 20
#: An aperture: cell and number in it (its order), sum of the residual, variance that the noise of its pixels gives.
APERTURE = np.dtype([("y", "<i4"), ("x", "<i4"), ("k", "<i4"), ("sum", "<f8"), ("variance", "<f8")])

DEFINITION = (
    "connected regions of 16 x 16 px blocks (a quarter of the pixels unmasked) whose mean residual is below -3 of its "
    "errors, for noise with the measured short-range correlation; significance of all pixels of the region together; "
    "blocks in the outermost 16 px of the image are counted apart"
)


class Extreme(Fields):
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
    inside, total, variance = aperture_sums(band.residual, band.rms, band.state, y, x, radius=RADIUS)
    rows, columns = np.mgrid[band.where.y0 : band.where.y1, band.where.x0 : band.where.x1].reshape(2, -1)
    cell, k = np.nonzero(inside)
    found = np.empty(cell.size, APERTURE)
    found["y"], found["x"], found["k"] = rows[cell], columns[cell], k
    found["sum"], found["variance"] = total[inside], variance[inside]
    return found


APERTURES_FOUND = Places("apertures", APERTURE, ("y", "x", "k"), update_apertures)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    blocks, shape, scale = image.total(BLOCKS), image.shape, stretch(image)
    n_blocks = int(image.sums(LOOKED_AT).sums.sum())
    columns = -(-shape[1] // KEPT)
    inner = away_from_edges(blocks, shape)
    edge, blocks = blocks[~inner], blocks[inner]
    z = significance(blocks, scale)
    low, high = blocks[z <= -THRESHOLD], blocks[z >= THRESHOLD]
    found = sorted(_regions(low, columns, shape, scale), key=lambda r: (-r["area"], r["y"], r["x"]))
    above = _regions(high, columns, shape, scale)
    strongest = sorted(found, key=lambda r: (r["significance"], r["y"], r["x"]))
    highest = sorted(above, key=lambda r: (-r["significance"], r["y"], r["x"]))
    none = {"area": 0, "significance": 0.0, "y": None, "x": None}
    return {
        "unit": "sigma",
        "block": KEPT,
        "threshold": -THRESHOLD,
        "n_blocks": n_blocks,
        "expected_blocks": number(n_blocks * float(special.ndtr(-THRESHOLD)), 4),
        "n_regions": len(found),
        "area": sum(r["area"] for r in found),
        "largest": found[0] if found else none,
        "strongest": strongest[0] if strongest else none,
        "regions": found[:_LISTED],
        "positive": {
            "n_regions": len(above),
            "area": sum(r["area"] for r in above),
            "strongest": highest[0] if highest else none,
        },
        "at_edges": {"blocks": int((significance(edge, scale) <= -THRESHOLD).sum()), "width": KEPT},
        "apertures": _apertures(image.total(APERTURES_FOUND)),
    }


def _regions(blocks: NDArray[np.void], columns: int, shape: Pair, scale: float) -> list[dict[str, Any]]:
    labels = regions(blocks, columns)
    if not labels.size:
        return []
    n = int(labels.max()) + 1
    pixels, total = np.bincount(labels, blocks["n"], n), np.bincount(labels, blocks["sum"], n)
    sizes = np.bincount(labels, area(blocks, shape).astype(np.float64), n)
    number_of = np.bincount(labels, minlength=n)
    places = [np.bincount(labels, centre(blocks[k], s), n) / number_of for k, s in zip(("y", "x"), shape, strict=True)]
    strength = total / np.sqrt(pixels) / scale
    return [
        {"area": int(a), "significance": number(s, 5), "y": round(float(y), 1), "x": round(float(x), 1)}
        for a, s, y, x in zip(sizes, strength, *places, strict=True)
    ]


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
        Check("negative_area", "px", lambda found, _: exact(found.largest.area if found.largest else None)),
        Check("negative_significance", "sigma", lambda found, _: _strength(found)),
        Check("positive_significance", "sigma", lambda found, _: _strength(found.positive)),
    ),
)
