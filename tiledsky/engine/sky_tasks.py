"""Tasks of ring and mask steps: the statistics of the whole image that they need, then the filter and the search.

Statistics are made in up to three passes over the tiles (`tiledsky.statistics`), each merged by a gather task.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.engine.context import Context, Index
from tiledsky.engine.documents import read_tiers
from tiledsky.engine.mesh_tasks import measure
from tiledsky.engine.names import mask_plane
from tiledsky.engine.plan import Stage
from tiledsky.errors import RunError
from tiledsky.geometry import Region
from tiledsky.io.files import write_inside
from tiledsky.io.inside import open_inside
from tiledsky.io.store import summary_path, write_json
from tiledsky.io.zarr.reader import read_plane
from tiledsky.kernels.statistics.biweight import BiweightSums
from tiledsky.kernels.statistics.histogram import KeyHistogram
from tiledsky.kernels.statistics.refinement import Refinement
from tiledsky.operations import reliability
from tiledsky.operations.filters import ring_halo, ring_step_patch
from tiledsky.operations.masking import detection_image, tiers_halo, tiers_patch
from tiledsky.operations.thresholds import (
    NoiseImage,
    Thresholds,
    clip_of,
    fill_value,
    noise_image,
    noise_images,
    ranks_halo,
    ranks_patch,
    thresholds,
)
from tiledsky.overlap import Patch
from tiledsky.planes import noise_scale
from tiledsky.recipe import MaskStep, RingStep
from tiledsky.statistics import Statistics, bins_to_refine
from tiledsky.statistics import finish as finish_statistics


def _step(ctx: Context, stage: Stage) -> RingStep | MaskStep:
    step = ctx.recipe.step(str(stage.step))
    assert isinstance(step, RingStep | MaskStep)
    return step


def _searched(ctx: Context, step: RingStep | MaskStep, region: Region) -> tuple[Patch, Patch, Patch]:
    """Image, the image that the step works on (of a mask step the detection image), and its bits left out."""
    science = ctx.science(region)
    before = ctx.recipe.mask_for(step)
    if before is None:
        bits = ctx.base(science)
    else:  # its plane holds the base bits too
        bits = science.replaced(read_plane(ctx.array(mask_plane(ctx.recipe, before.name)), region))
    if isinstance(step, RingStep):
        return science, science, bits
    sky = ctx.sky(ctx.recipe.detection_sky(step), region)
    scale = None
    if step.equalize:
        planes = {"error": _rms_map(ctx, step, region)} if step.equalize == "rms" else ctx.noise_planes(region)
        scale = noise_scale(**planes)
    return science, science.replaced(detection_image(science.data, sky, scale)), bits


def _nonzero(bits: Patch) -> Patch:
    return bits.replaced(bits.data != 0)


def _noise_pixels(
    ctx: Context, step: RingStep | MaskStep, tile: Region
) -> list[tuple[NoiseImage, NDArray[Any], NDArray[Any]]]:
    """Pixels and mask of a tile of each image whose statistics the step needs."""
    images = noise_images(step)
    halo = max(i.halo for i in images)
    _, detection, bits = _searched(ctx, step, tile.grown(halo, ctx.plan.shape))
    ignore = _nonzero(bits)
    ignored = np.ascontiguousarray(ignore.crop(tile))
    pixels = [np.ascontiguousarray(i.patch(detection, ignore).crop(tile), np.float32) for i in images]
    return [(image, values, ignored) for image, values in zip(images, pixels, strict=True)]


def histogram_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """First pass: counts and sums of the pixels by the upper half of their keys."""
    pixels = _noise_pixels(ctx, _step(ctx, stage), tile)
    parts = [KeyHistogram.from_values(values, mask=ignored).to_bytes() for _, values, ignored in pixels]
    return write_parts(ctx, stage.name, index, parts)


def bins_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Merge the first pass; choose the bins whose single values can matter."""
    step = _step(ctx, stage)
    parts: list[bytes] = []
    for k, image in enumerate(noise_images(step)):
        merged = KeyHistogram.merged(map(KeyHistogram.from_bytes, _tile_parts(ctx, f"{step.name}-histogram", k)))
        bins = bins_to_refine(merged, clip_of(step)) if image.refine else np.zeros(0, np.uint16)
        parts += [merged.to_bytes(), np.ascontiguousarray(bins, np.uint16).tobytes()]
    return write_parts(ctx, stage.name, index, parts)


def refine_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Second pass: the values in these bins."""
    step = _step(ctx, stage)
    bins = [np.frombuffer(b, np.uint16) for b in read_parts(ctx, f"{step.name}-bins", (0, 0))[1::2]]
    pixels = zip(_noise_pixels(ctx, step, tile), bins, strict=True)
    parts = [Refinement.from_values(values, wanted, mask=ignored).to_bytes() for (_, values, ignored), wanted in pixels]
    return write_parts(ctx, stage.name, index, parts)


def centers_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Merge the first two passes: the statistics of each image that the third pass needs."""
    found = [astuple(s) for s in _merged_statistics(ctx, _step(ctx, stage), last=False)]
    return write_parts(ctx, stage.name, index, [np.array(values, "<f8").tobytes() for values in found])


def _centers(ctx: Context, step: RingStep | MaskStep) -> dict[NoiseImage, Statistics]:
    """What `centers_task` wrote, of each image."""
    parts = (np.frombuffer(part, "<f8").tolist() for part in read_parts(ctx, f"{step.name}-centers", (0, 0)))
    found = [Statistics(int(n), *others) for n, *others in parts]
    return dict(zip(noise_images(step), found, strict=True))


def biweight_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Third pass: the sums of the biweights."""
    step = _step(ctx, stage)
    centers = _centers(ctx, step)
    parts = []
    for image, values, ignored in _noise_pixels(ctx, step, tile):
        of = centers[image]
        sums = BiweightSums.from_values(values, median=of.median, mad=of.mad, mask=ignored) if image.biweight else None
        parts.append(b"" if sums is None else sums.to_bytes())
    return write_parts(ctx, stage.name, index, parts)


def detections_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Third pass of tiers with a reliability: what searches of the image and of its negative find."""
    step = _step(ctx, stage)
    assert isinstance(step, MaskStep)
    _, detection, bits = _searched(ctx, step, tile.grown(ranks_halo(step.tiers), ctx.plan.shape))
    ignore, centers = _nonzero(bits), _centers(ctx, step)
    parts = []
    for tier in step.tiers:
        if tier.reliability is None:
            parts.append(b"")
            continue
        found = ranks_patch(detection, ignore, tier=tier, statistics=centers[noise_image(tier)])
        parts.append(reliability.to_bytes(reliability.counts(found.crop(tile))))
    return write_parts(ctx, stage.name, index, parts)


def _detections(ctx: Context, step: MaskStep) -> list[reliability.Counts | None]:
    """Counts of each tier, of the whole image; None of tiers without a reliability."""
    return [
        None
        if tier.reliability is None
        else reliability.merged(map(reliability.from_bytes, _tile_parts(ctx, f"{step.name}-detections", k)))
        for k, tier in enumerate(step.tiers)
    ]


def statistics_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Merge the last pass: thresholds of the tiers, value of masked pixels."""
    step = _step(ctx, stage)
    of_images = dict(zip(noise_images(step), _merged_statistics(ctx, step, last=True), strict=True))
    facts: list[dict[str, Any]]
    if isinstance(step, RingStep):
        (only,) = of_images.values()
        facts = [{**_known(only), "fill": fill_value(only)}]
    else:
        fill = step.masked == "fill"
        statistics = [of_images[noise_image(t, fill=fill)] for t in step.tiers]
        found = _detections(ctx, step)
        limits = thresholds(step.tiers, statistics, found, fill=fill)
        facts = [
            # a tier that finds nothing has no threshold
            {**_known(s), "threshold": x if math.isfinite(x) else None, "fill": limits.fill, **reliability.known(n)}
            for s, x, n in zip(statistics, limits.values, found, strict=True)
        ]
    write_json(ctx.root, f"thresholds/{step.name}.json", facts)
    return [f"run/thresholds/{step.name}.json"]


def _known(statistics: Statistics) -> dict[str, float | None]:
    return {name: value for name, value in vars(statistics).items() if value == value}


def _merged_statistics(ctx: Context, step: RingStep | MaskStep, *, last: bool) -> list[Statistics]:
    """Statistics of the images of a step, from its passes; ``last``: with the third, if there is one."""
    found = []
    for k, image in enumerate(noise_images(step)):
        refinement = sums = None
        if f"{step.name}-bins" in ctx.stages:
            histogram = KeyHistogram.from_bytes(read_parts(ctx, f"{step.name}-bins", (0, 0))[2 * k])
        else:
            histogram = KeyHistogram.merged(map(KeyHistogram.from_bytes, _tile_parts(ctx, f"{step.name}-histogram", k)))
        if image.refine:
            refinement = Refinement.merged(map(Refinement.from_bytes, _tile_parts(ctx, f"{step.name}-refine", k)))
        if image.biweight and last:
            sums = BiweightSums.merged(map(BiweightSums.from_bytes, _tile_parts(ctx, f"{step.name}-biweight", k)))
        found.append(finish_statistics(histogram, refinement, clip_of(step), sums))
    return found


def _facts(ctx: Context, step: RingStep | MaskStep) -> list[dict[str, Any]]:
    return read_tiers(ctx.root, step.name)


def ring_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Ring median of a tile."""
    step = _step(ctx, stage)
    assert isinstance(step, RingStep)
    science, _, bits = _searched(ctx, step, tile.grown(ring_halo(step), ctx.plan.shape))
    fill = _facts(ctx, step)[0]["fill"] if step.masked == "fill" else None
    ring = ring_step_patch(science, _nonzero(bits), step=step, fill=fill)
    return [ctx.write(step.name, tile, ring.crop(tile))]


def mask_task(ctx: Context, stage: Stage, index: Index, tile: Region) -> list[str]:
    """Search of a tile, and the boxes of the backgrounds that use this mask."""
    step = _step(ctx, stage)
    assert isinstance(step, MaskStep)
    facts = _facts(ctx, step)
    values = tuple(math.inf if fact["threshold"] is None else fact["threshold"] for fact in facts)
    limits = Thresholds(values, facts[0]["fill"])
    region = tile.grown(tiers_halo(step.tiers), ctx.plan.shape)
    science, detection, bits = _searched(ctx, step, region)
    found = tiers_patch(
        detection,
        _nonzero(bits),
        _local_noise(ctx, step, region),
        tiers=step.tiers,
        thresholds=limits,
        first_bit=ctx.recipe.first_bit(step),
    )
    plane = bits.crop(tile) | found.crop(tile)
    written = [ctx.write(mask_plane(ctx.recipe, step.name), tile, plane)]
    return written + measure(ctx, stage, science.cropped(tile), plane != 0)


def _local_noise(ctx: Context, step: MaskStep, region: Region) -> Patch | None:
    """Map of the local noise, if a tier needs it."""
    if all(t.noise != "local" for t in step.tiers):
        return None
    return ctx.patch(_rms_map(ctx, step, region), region)


def _rms_map(ctx: Context, step: MaskStep, region: Region) -> NDArray[Any]:
    """Pixels of the rms map that a mask step names."""
    return ctx.surface(ctx.recipe.noise_source(step), 1).evaluate(region)


def write_parts(ctx: Context, stage: str, index: Index, parts: list[bytes]) -> list[str]:
    """Write what a task hands to the gather task of its stage; return its path."""
    path = summary_path(stage, index)
    lengths = struct.pack(f"<{len(parts) + 1}Q", len(parts), *map(len, parts))
    data = lengths + b"".join(parts)
    write_inside(ctx.root, path, data + struct.pack("<I", zlib.crc32(data)))
    return [path]


def read_parts(ctx: Context, stage: str, index: Index) -> list[bytes]:
    """Read what `write_parts` wrote."""
    path = summary_path(stage, index)
    file = ctx.root / path
    with open_inside(ctx.root, path) as opened:
        data = opened.read()
    if len(data) < 12 or struct.pack("<I", zlib.crc32(data[:-4])) != data[-4:]:
        raise RunError(f"{file} is damaged; `tiledsky verify {ctx.root}`, then the same command makes it anew")
    (count,) = struct.unpack_from("<Q", data)
    lengths = struct.unpack_from(f"<{count}Q", data, 8)
    starts = np.cumsum((8 * (count + 1), *lengths)).tolist()
    return [data[a : a + n] for a, n in zip(starts, lengths, strict=False)]


def _tile_parts(ctx: Context, stage: str, k: int) -> Iterator[bytes]:
    """Part ``k`` of the summaries of all tiles of a stage."""
    return (read_parts(ctx, stage, index)[k] for index in ctx.plan.grid(ctx.stages[stage]))
