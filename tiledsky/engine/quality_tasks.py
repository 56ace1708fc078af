"""Tests of the background in a run: what an output task tells of its tile, and the task that puts all together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.arrays import expected_noise
from tiledsky.diagnostics.band import Pixels, needed_region
from tiledsky.diagnostics.protocol import Bandwidths, Known, ToSky
from tiledsky.diagnostics.summary import Collector, TileSummary, summarise
from tiledsky.diagnostics.verdict import judge
from tiledsky.engine.context import Context, Index
from tiledsky.engine.plan import Stage
from tiledsky.engine.sky_tasks import read_parts, write_parts
from tiledsky.geometry import Region, TileGrid
from tiledsky.io.fits.cards import label_value
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.store import write_json
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.overlap import Patch

#: File of the run folder with all measures and the verdict.
DIAGNOSTICS = "diagnostics.json"


def region_of(ctx: Context, tile: Region) -> Region:
    """Pixels that an output task reads: its tile, and what the measures of its cells need."""
    return needed_region(tile, ctx.plan.shape)


def summary_task(
    ctx: Context, index: Index, tile: Region, bits: Patch, planes: dict[str, NDArray[Any]], outside: Any
) -> list[str]:
    """Measure a tile from what its output task has in memory.

    ``bits``: mask plane of the result; ``planes``: science, background and background_rms of the same region;
    ``outside``: pixels of the tile without sky, or None.
    """
    pixels = Pixels(
        science=planes["science"],
        background=planes["background"],
        rms=planes["background_rms"],
        bits=bits.data,
        region=bits.region,
        shape=ctx.plan.shape,
        expected=expected_noise(**ctx.noise_planes(bits.region)),
    )
    written = planes["background"][tile.within(bits.region)]
    if outside is not None:
        written = np.where(outside, np.nan, written)
    return write_parts(ctx, "output", index, summarise(pixels, tile, written).to_parts())


def diagnostics_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Put all tiles together: measures and verdict."""
    collector = Collector(ctx.plan.shape)
    output = ctx.stages["output"]
    for row in _rows(ctx, output):
        collector.add_row(row)
    source = next((name for name in ("error", "weight") if name in ctx.input), None)
    header = parse_header(ctx.store.header)
    known = Known(
        output.tile,
        source=source,
        to_sky=_to_sky(header),
        unit=label_value(header, "BUNIT") or None,
        bandwidths=_bandwidths(ctx),
    )
    found = collector.finalize(known)
    write_json(ctx.root, DIAGNOSTICS, {**found, "verdict": judge(found, ctx.recipe.checks)})
    return [f"run/{DIAGNOSTICS}"]


def _bandwidths(ctx: Context) -> Bandwidths | None:
    """Return those of the result's fit, block by block; None of a mesh of another kind."""
    step = ctx.recipe.result
    interpolator = interpolator_of(step.interpolator)
    if not interpolator.chooses_bandwidths:
        return None
    held = ctx.array(f"meshes/{step.name}/bandwidth")
    narrowest = interpolator.bandwidths(held.shape, step.box_size)[0]
    grid = TileGrid(held.shape, (1024, 1024))
    return Bandwidths((held[grid.region(index).slices] for index in grid), narrowest)


def _rows(ctx: Context, output: Stage) -> Iterator[list[tuple[Region, TileSummary]]]:
    """Tiles of the output stage, row by row."""
    grid = ctx.plan.grid(output)
    for iy in range(grid.counts[0]):
        indices = [(iy, ix) for ix in range(grid.counts[1])]
        yield [(grid.region(i), TileSummary.from_parts(read_parts(ctx, "output", i))) for i in indices]


def _to_sky(header: Any) -> ToSky | None:
    """Sky coordinates of pixels by the WCS of the image; None without one that can be read."""
    if "CTYPE1" not in header:
        return None  # and the library, which takes a third of a second, is not loaded
    import warnings

    from astropy.wcs import WCS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is not standard and understood nevertheless
            wcs = WCS(header).celestial
    except Exception:  # wcslib raises several types; coordinates are left out, positions in pixels remain
        return None
    if wcs.naxis != 2 or not wcs.has_celestial:
        return None

    def to_sky(x: Any, y: Any) -> Any:
        sky = wcs.pixel_to_world(x, y).icrs
        return sky.ra.deg, sky.dec.deg

    return to_sky
