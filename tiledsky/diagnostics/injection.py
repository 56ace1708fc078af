"""Sources of known flux and size put into the image, and what the background takes from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tiledsky.diagnostics.patches import number
from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair, Region

#: Sources end at this many half-light radii (Gaussians hold all but 1e-5 of their flux, Sersic n = 4 all but 8%).
REACH = 5.0
#: Most sources in all; largest half-light radius (px), with which one is drawn in 100 MB; largest flux.
_MOST_SOURCES, _LARGEST, _BRIGHTEST = 100_000, 200.0, 1e12

DEFINITION = (
    "sources of known flux (in units of the noise of a pixel) and half-light radius added to the image and the recipe "
    "run again; change: mean rise of the background within the half-light radius, in the unit of the image; lost: rise "
    "of the background within 3 radii as a share of the flux; errors: standard errors over the sources of a group"
)
SOURCE = np.dtype(
    [("y", "<f8"), ("x", "<f8"), ("flux", "<f8"), ("size", "<f8"), ("ratio", "<f8"), ("theta", "<f8"), ("n", "<f8")]
)


@dataclass(frozen=True)
class Injection:
    """What is put in.

    Attributes
    ----------
    count : int
        Sources of each pair of flux and size.
    fluxes : tuple of float
        Total flux in units of the noise of a pixel.
    sizes : tuple of float
        Half-light radius along the geometric mean of the axes, px.
    sersic : float
        Index: 0.5 is a Gaussian, 1 exponential, 4 de Vaucouleurs.
    seed : int
    """

    count: int = 40
    fluxes: tuple[float, ...] = (100.0, 1000.0)
    sizes: tuple[float, ...] = (2.0, 5.0)
    sersic: float = 0.5
    seed: int = 1

    def __post_init__(self) -> None:
        number = self.count * len(self.fluxes) * len(self.sizes)
        _within("count x fluxes x sizes", number, _MOST_SOURCES, "give fewer sources")
        _within("size", max(self.sizes), _LARGEST, "give smaller half-light radii (px)")
        _within("flux", max(self.fluxes), _BRIGHTEST, "give lower fluxes (noise of a pixel)")


def _within(what: str, value: float, most: float, advice: str) -> None:
    if not value <= most:
        raise ParameterError(f"{what} {value:g} is above {most:g}, the limit for memory and time; {advice}")


def draw(injection: Injection, shape: Pair) -> NDArray[np.void]:
    """Sources at random places away from the edges, with random axis ratios (0.4 to 1) and angles."""
    rng = np.random.default_rng(injection.seed)
    pairs = [(flux, size) for flux in injection.fluxes for size in injection.sizes]
    sources = np.zeros(injection.count * len(pairs), SOURCE)
    sources["flux"], sources["size"] = np.array(pairs * injection.count).T
    edge = [min(3 * max(injection.sizes), n / 4) for n in shape]
    for k, n, e in zip(("y", "x"), shape, edge, strict=True):
        sources[k] = e + (n - 1 - 2 * e) * rng.random(sources.size)
    sources["ratio"], sources["theta"] = 0.4 + 0.6 * rng.random(sources.size), np.pi * rng.random(sources.size)
    sources["n"] = injection.sersic
    return sources


def light(sources: NDArray[np.void], region: Region) -> NDArray[np.float64]:
    """Light of the sources in a region, each sampled at pixel centres and scaled to its flux.

    A source is drawn whole and cut, so that a pixel does not depend on the region.
    """
    out = np.zeros(region.shape)
    for source in sources:
        y0, x0, stamp = _stamp(source)
        top, left = max(y0, region.y0), max(x0, region.x0)
        bottom, right = min(y0 + stamp.shape[0], region.y1), min(x0 + stamp.shape[1], region.x1)
        if top < bottom and left < right:
            part = stamp[top - y0 : bottom - y0, left - x0 : right - x0]
            out[top - region.y0 : bottom - region.y0, left - region.x0 : right - region.x0] += part
    return out


def _stamp(source: np.void) -> tuple[int, int, NDArray[np.float64]]:
    """First row and column of a source, and its pixels."""
    reach = math.ceil(REACH * source["size"] / math.sqrt(source["ratio"]))
    cy, cx = round(float(source["y"])), round(float(source["x"]))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    dy, dx = dy + cy - source["y"], dx + cx - source["x"]
    along = dx * np.cos(source["theta"]) + dy * np.sin(source["theta"])
    across = dy * np.cos(source["theta"]) - dx * np.sin(source["theta"])
    radius = np.sqrt(along**2 * source["ratio"] + across**2 / source["ratio"]) / source["size"]
    profile = sersic(radius, source["n"])
    return cy - reach, cx - reach, source["flux"] * profile / profile.sum()


def sersic(radius: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Surface brightness at radii in half-light radii, 1 at the half-light radius and 0 beyond `REACH`."""
    # half of the light within radius 1 (A. Graham and S. Driver, 2005)
    b = special.gammaincinv(2 * n, 0.5)
    return np.where(radius <= REACH, np.exp(-b * (radius ** (1 / n) - 1)), 0.0)


def changes(sources: NDArray[np.void], before: Any, after: Any) -> NDArray[np.float64]:
    """Mean rise of the background within the half-light radius, and its sum within 3 radii, a row a source.

    ``before``, ``after``: backgrounds, anything that gives numpy arrays when sliced.
    """
    rows = np.full((sources.size, 2), np.nan)
    for k, source in enumerate(sources):
        reach = math.ceil(3 * source["size"])
        cy, cx = round(float(source["y"])), round(float(source["x"]))
        region = Region(cy, cy + 1, cx, cx + 1).grown((reach, reach), before.shape)
        rise = np.asarray(after[region.slices], np.float64) - np.asarray(before[region.slices], np.float64)
        y, x = np.mgrid[region.y0 : region.y1, region.x0 : region.x1]
        distance = np.hypot(y - source["y"], x - source["x"])
        rows[k] = rise[distance <= max(source["size"], 0.75)].mean(), rise[distance <= reach].sum()
    return rows


def finalize(sources: NDArray[np.void], rows: NDArray[np.float64], *, noise: float) -> dict[str, Any]:
    """Return the measure; ``rows`` of `changes`, ``noise`` of a pixel in the unit of the image."""
    groups = []
    for flux, size in sorted(set(zip(sources["flux"].tolist(), sources["size"].tolist(), strict=True))):
        chosen = (sources["flux"] == flux) & (sources["size"] == size) & np.isfinite(rows).all(axis=1)
        n = int(chosen.sum())
        values = rows[chosen] / (1.0, flux)
        mean = values.mean(axis=0) if n else np.full(2, np.nan)
        error = values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.full(2, np.nan)
        groups.append(
            {
                "flux": number(flux / noise),
                "size": size,
                "n": n,
                "change": number(mean[0]),
                "change_error": number(error[0]),
                "lost": number(mean[1]),
                "lost_error": number(error[1]),
            }
        )
    return {"definition": DEFINITION, "unit": "image", "groups": groups}
