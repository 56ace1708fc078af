"""Memory of a worker, as a sum of terms that is known before the run: the most that its process holds at once.

A stage goes through phases (planes are read, a sky is subtracted, a tier is searched, a plane is written); each holds
arrays of so many bytes a pixel, of the tile with its halo or without, or a cell of the mesh. The peak is what a process
takes anyway and the largest phase, once for each thread. The terms follow the code; a test compares them with what the
system measures, for every preset. Where data decide how much there is (runs of pixels in a detection, values in the
bins that a median falls in), a term is the most that there can be, or the most that is likely, as said there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tiledsky.engine.dependencies import halo_of
from tiledsky.engine.phases import MEGABYTE, Memory, Phase
from tiledsky.engine.plan import Plan, Stage
from tiledsky.engine.quality_memory import measuring, merging
from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels.mesh.fill import fill_bytes
from tiledsky.operations.boxes import level_box
from tiledsky.operations.filters import ring_halo, taps_of
from tiledsky.operations.interpolators import Term, a_cell, interpolator_of
from tiledsky.operations.masking import growth_radius
from tiledsky.operations.thresholds import noise_images
from tiledsky.recipe import BackgroundStep, MaskStep, Recipe, RingStep, Tier

#: Beside what Zarr reads: the compressed bytes of the chunks (noise hardly shrinks), and each shard's part unpacked.
_READ = 2
#: Beside what is written: compressed chunks; what Zarr writes itself is joined in a shard, too.
_WRITE = 2
#: FITS pixels are converted a block at a time; those of a tile-compressed image are unpacked, too.
_FITS, _FITS_TILES = 12 * MEGABYTE, 50 * MEGABYTE
#: Counters of the upper halves of all keys.
_HISTOGRAM = 12 * MEGABYTE
#: Counters of single values in a few bins (16 MiB), or a sort of a million values; distinct values of a tile.
_REFINE = 60 * MEGABYTE
#: Distinct values in the bins that a median or a clip can fall in, of the whole image and of a tile: the most that is
#: likely; a bin holds 65536, and few bins hold more than a handful of values.
_DISTINCT, _DISTINCT_TILE = 1 << 20, 1 << 18
#: Merged at once beside them (`tiledsky.kernels.statistics.refinement`), and bytes a value while they are sorted and
#: added up.
_MERGED, _MERGING = 1 << 20, 52
#: Merged histograms, and the exact sums of their bins as Python integers.
_HISTOGRAMS = 45 * MEGABYTE
#: Cells that are filled, and rows that are worked on, at a time.
_MESH_BLOCKS = 45 * MEGABYTE
#: Cells whose differences tell the noise factor, at most, and bytes of each.
_SAMPLED, _DIFFERENCES = 1 << 22, 34


@dataclass(frozen=True)
class Plane:
    """What it takes to read a plane of the input.

    Attributes
    ----------
    itemsize : int
        Bytes a pixel.
    chunk : int
        Pixels of a chunk, which is unpacked whole, of an array of the input; 0 for files.
    tiled : bool
        A tile-compressed FITS image.
    """

    itemsize: int
    chunk: int = 0
    tiled: bool = False


Planes = Mapping[str, Plane]


def peak(recipe: Recipe, plan: Plan, stage: Stage, planes: Planes, *, threads: int = 1) -> Memory:
    """Projected peak of a worker that does a task of a stage.

    Parameters
    ----------
    recipe : Recipe
        Expanded, as the plan's.
    plan : Plan
    stage : Stage
    planes : mapping of str to Plane
        Of the input.
    threads : int
        Tasks that a worker does at the same time.

    Returns
    -------
    Memory
        Of a tile stage: the same for any size of the image, once that is larger than a tile and its halos.
    """
    forecast = _Forecast(recipe, plan, stage, planes)
    passes = {"bins": "gather", "centers": "gather", "statistics": "gather", "diagnostics": "gather"}
    passes |= {"histogram": "summary", "refine": "summary", "biweight": "summary"}
    phases: list[Phase] = getattr(forecast, passes.get(stage.kind, stage.kind))()
    return max(phases, key=lambda phase: phase.bytes).memory(threads)


class _Forecast:
    """Phases of the tasks of one stage."""

    def __init__(self, recipe: Recipe, plan: Plan, stage: Stage, planes: Planes) -> None:
        self.recipe, self.plan, self.stage, self.planes = recipe, plan, stage, planes
        if stage.kind != "ingest" and any(s.kind == "ingest" for s in plan.stages):
            # the run's own copies are read
            self.planes = {name: Plane(plane.itemsize) for name, plane in planes.items()}
        self.size = np.dtype(plan.dtype).itemsize
        self.halo = halo_of(recipe, stage)
        shape = tuple(min(t, n) for t, n in zip(stage.tile, plan.shape, strict=True))
        read = tuple(min(t + 2 * h, n) for t, h, n in zip(shape, self.halo, plan.shape, strict=True))
        # a kernel's input is padded at the borders of the image, to the size that it has elsewhere
        self.tile, self.read = math.prod(shape), math.prod(read)
        self.padded = math.prod(t + 2 * h for t, h in zip(shape, self.halo, strict=True))
        self.read_shape: Pair = (read[0], read[1])

    def _reading(self, phase: Phase, what: str, itemsize: int, *, chunk: int = 0) -> Phase:
        """Add what reading a plane takes while it is read."""
        phase.add(f"{what} while read", (1 + _READ) * itemsize, "px read", self.read)
        return phase.add(f"chunks of {what}", 2 * 2 * itemsize, "px a chunk", chunk)

    def _input(self) -> list[Phase]:
        """Read the image and the planes beside it, and make the bits that are known before any step."""
        science = self.planes["science"]
        first = self._reading(Phase("reading the image"), "science", science.itemsize, chunk=science.chunk)
        if science.itemsize != self.size:
            first.add("science as float", self.size, "px read", self.read)
        others = {name: plane for name, plane in self.planes.items() if name != "science"}
        bits = Phase("reading the planes").add("science", self.size, "px read", self.read)
        for name, plane in others.items():
            bits.add(name, plane.itemsize, "px read", self.read)
        if others:
            largest = max(others.values(), key=lambda p: p.itemsize)
            bits.add("the last while read", _READ * largest.itemsize, "px read", self.read)
            bits.add("chunks", 4 * largest.itemsize, "px a chunk", max(p.chunk for p in others.values()))
        widest = max((plane.itemsize for plane in others.values()), default=0)
        return [first, bits.add("bits and comparisons", 4 + widest, "px read", self.read)]

    def _surface(self, phase: Phase, step: BackgroundStep) -> Phase:
        """Add what it takes to evaluate a mesh on the tile, beside the pixels."""
        shape = mesh_shape(self.plan.shape, step.box_size)
        terms = interpolator_of(step.interpolator).evaluate_memory(
            self.read_shape, box_size=step.box_size, mesh=shape, reading=_READ
        )
        for term in terms:
            phase.add(*term)
        return phase

    def _searched(self) -> list[Phase]:
        """Image and bits, and of a mask step the detection image."""
        step = self.recipe.step(str(self.stage.step))
        phases = self._input()
        if not isinstance(step, MaskStep):
            return phases
        sky = self.recipe.detection_sky(step)
        made = Phase("sky").add("science", self.size, "px read", self.read).add("bits", 1, "px read", self.read)
        if isinstance(sky, RingStep):
            self._reading(made, "sky", self.size)
        else:
            self._surface(made.add("sky", self.size, "px read", self.read), sky)
        detection = Phase("detection image")
        detection.add("science, sky, difference", 3 * self.size, "px read", self.read)
        detection.add("bits", 1, "px read", self.read)
        detection.add("rounded", 4 if self.size == 8 else 0, "px read", self.read)
        if step.equalize == "rms":
            rms = detection.add("rms, scale and its making", 4 * self.size, "px read", self.read)
            self._surface(rms, self.recipe.noise_source(step))
        elif step.equalize:
            noise = [self.planes[n].itemsize for n in ("weight", "error") if n in self.planes]
            detection.add("noise planes", sum(noise), "px read", self.read)
            detection.add("scale and its making", 3 * max([4, *noise]), "px read", self.read)
            detection.add("noise plane while read", _READ * max(noise, default=0), "px read", self.read)
        return [*phases, made, detection]

    def summary(self) -> list[Phase]:
        """Statistics of the images that a step needs, a tile at a time."""
        step = self.recipe.step(str(self.stage.step))
        assert isinstance(step, RingStep | MaskStep)
        images = noise_images(step)
        smoothed = max(images, key=lambda i: i.halo)
        found = Phase(self.stage.kind).add("image", self.size, "px read", self.read)
        found.add("detection", 4 * isinstance(step, MaskStep), "px read", self.read)
        found.add("bits, ignored", 2, "px read", self.read)
        found.add("ignored", 1, "px", self.tile).add("pixels", 4 * len(images), "px", self.tile)
        if any(smoothed.halo):
            found.add("padded image and mask", 5, "px padded", self.padded).add("smoothed", 4, "px", self.tile)
            found.add("smoothing", 1, "B", 16 * 256 * (2 * max(smoothed.halo) + 64))
        fixed = {"histogram": _HISTOGRAM, "refine": _REFINE}.get(self.stage.kind, 0)
        counted = Phase(self.stage.kind).add("pixels and ignored", 4 * len(images) + 1, "px", self.tile)
        counted.add("image if not smoothed", self.size + 4, "px read", self.read)
        counted.add("counters", 1, "B", fixed)
        return [*self._searched(), found, counted]

    def gather(self) -> list[Phase]:
        """Summaries merged into statistics, or into measures of the background."""
        if self.stage.kind == "diagnostics":
            return [merging(Phase("merging"), self.plan).add("histograms", 1, "B", 2 * _HISTOGRAM)]
        merged = Phase("merging").add("histograms", 1, "B", _HISTOGRAMS)
        if self.stage.kind != "bins":
            step = self.recipe.step(str(self.stage.step))
            assert isinstance(step, RingStep | MaskStep)
            if any(i.refine for i in noise_images(step)):
                tiles = len(self.plan.grid(self.plan.stage(f"{step.name}-refine")))
                values = min(tiles * _DISTINCT_TILE, _MERGED + 2 * _DISTINCT + _DISTINCT_TILE)
                merged.add("values", _MERGING, "values", values).add("sample", 24, "values", _DISTINCT)
        return [merged]

    def ingest(self) -> list[Phase]:
        """Copies of the planes, one after the other."""
        phases = []
        for name, plane in self.planes.items():
            copied = Phase("copying").add(name, plane.itemsize, "px", self.tile)
            block = Phase("reading").add(name, plane.itemsize, "px", self.tile)
            block.add("block of the file", 1, "B", 0 if plane.chunk else _FITS_TILES if plane.tiled else _FITS)
            block.add("chunks", _READ * plane.itemsize, "px", self.tile if plane.chunk else 0)
            block.add("chunks unpacked", 4 * plane.itemsize, "px a chunk", plane.chunk)
            phases += [block, copied.add("shard written", _WRITE * plane.itemsize, "px", self.tile)]
        return phases

    def ring(self) -> list[Phase]:
        """Ring median of a tile."""
        step = self.recipe.step(str(self.stage.step))
        assert isinstance(step, RingStep)
        radius = ring_halo(step)[0]
        block = math.prod(min(160, n) + 2 * radius for n in self.stage.tile)
        fill = step.masked == "fill"
        ring = Phase("filter").add("image", self.size, "px read", self.read)
        ring.add("bits, ignored", 2, "px read", self.read)
        ring.add("filled, missing", (self.size + 2) * fill, "px read", self.read)
        ring.add("padded image", self.size, "px padded", self.padded)
        ring.add("padded mask", 0 if fill else 1, "px padded", self.padded).add("ring", self.size, "px", self.tile)
        ring.add("codes", 32 if self.size == 4 else 44, "px of a block", block)
        written = Phase("writing").add("image, bits", self.size + 1, "px read", self.read)
        written.add("ring", self.size, "px", self.tile).add("shard", _WRITE * self.size, "px", self.tile)
        return [*self._searched(), ring, written]

    def mask(self) -> list[Phase]:
        """Search of every tier, then the boxes."""
        step = self.recipe.step(str(self.stage.step))
        assert isinstance(step, MaskStep)
        held = (("image, detection", self.size + 4), ("bits", 1))
        phases = [*self._searched(), *(self._tier(step, tier, held) for tier in step.tiers)]
        measured = Phase("boxes")
        for what, per in held:
            measured.add(what, per, "px read", self.read)
        measured.add("mask, found, ignored", 3, "px", self.tile)
        # the plane is written with the same arrays, and less beside them
        return [*phases, self._measuring(measured).add("shard", _WRITE, "px", self.tile)]

    def detections(self) -> list[Phase]:
        """Search of the image and of its negative with several thresholds."""
        step = self.recipe.step(str(self.stage.step))
        assert isinstance(step, MaskStep)
        held = (("image, detection", self.size + 4), ("bits", 1), ("negative, ranks", 5))
        return [*self._searched(), *(self._tier(step, t, held) for t in step.tiers if t.reliability is not None)]

    def _tier(self, step: MaskStep, tier: Tier, held: Iterable[tuple[str, int]]) -> Phase:
        """Search of one tier."""
        taps = taps_of(fwhm=tier.fwhm, sigma=tier.sigma, kernel_radius=tier.kernel_radius)
        search = Phase("search")
        for what, per in held:
            search.add(what, per, "px read", self.read)
        search.add("ignored, found", 2, "px read", self.read).add("mask", 3, "px", self.tile)
        search.add("filled", 4 * (step.masked == "fill"), "px read", self.read)
        if tier.noise == "local":
            noise = search.add("noise, limit", 3 * self.size, "px read", self.read)
            self._surface(noise, self.recipe.noise_source(step))
        if taps is not None:
            search.add("padded image and mask", 5, "px padded", self.padded).add("smoothed", 4, "px read", self.read)
            search.add("smoothing", 1, "B", 16 * 256 * (taps.size + 63))
        # runs of pixels along a row: at most every second pixel begins one
        search.add("runs", 8 * (tier.n_pixels > 1), "px read", self.read)
        grow = growth_radius(tier)
        rows = self.read_shape[0]
        wide = 2 * (1024 + 2 * grow) if tier.grow_shape == "tophat" else 1024
        return search.add("strip", wide * bool(grow), "rows", rows)

    def _measuring(self, phase: Phase) -> Phase:
        """Add what the boxes of a tile take; the image is copied where it has a halo."""
        phase.add("image of the tile", self.size * (self.read != self.tile), "px", self.tile)
        cells = 0
        for name in self.stage.measures:
            step = self.recipe.step(name)
            assert isinstance(step, BackgroundStep)
            cells = max(cells, math.prod(-(-t // b) for t, b in zip(self.stage.tile, step.box_size, strict=True)))
        return phase.add("boxes", 2 * (2 * self.size + 8) + 16, "cells", cells)

    def boxes(self) -> list[Phase]:
        """Boxes of a tile, for steps whose mask is made in no pass of its own."""
        measured = Phase("boxes").add("image, bits, ignored", self.size + 2, "px", self.tile)
        return [*self._input(), self._measuring(measured)]

    def output(self) -> list[Phase]:
        """Surfaces evaluated, written, measured."""
        held = Phase("").add("planes, bits", 3 * self.size + 1, "px read", self.read)
        held.add("outside, pixels", 1 + self.size + 2 * bool(self.stage.levels), "px", self.tile)
        evaluating, writing, measured = (Phase(n, [*held.terms]) for n in ("evaluating", "writing", "measuring"))
        steps = (s for s in self.recipe.steps if isinstance(s, BackgroundStep) and (s.keep or s is self.recipe.result))
        evaluated = [self._surface(Phase("evaluating", [*evaluating.terms]), step) for step in steps]
        measuring(measured, self.stage.tile, self.read_shape, self.planes, self.size).add("counts", 1, "B", _HISTOGRAM)
        return [*self._input(), *evaluated, writing.add("shard", _WRITE * self.size, "px", self.tile), measured]

    def mesh(self) -> list[Phase]:
        """Maps of the whole mesh, one after the other."""
        step = self.recipe.step(str(self.stage.step))
        assert isinstance(step, BackgroundStep)
        shape = mesh_shape(self.plan.shape, step.box_size)
        cells = math.prod(shape)
        more = sum(math.prod(mesh_shape(self.plan.shape, level_box(step, k))) for k in range(1, step.grow_boxes + 1))
        size, limit = self.size, 8 * (step.ceiling is not None)
        copies = 1 + (step.grow_boxes > 0)

        def phase(name: str, others: Iterable[Term] = (), **terms: float) -> Phase:
            made = Phase(name).add("limit", limit, "cells", cells)
            for term in (*a_cell(shape, **terms), *others):
                made.add(*term)
            made.add("larger boxes", 2 * size + 4, "cells", more)
            return made.add("blocks", 1, "B", min(_MESH_BLOCKS, 200 * cells))

        phases = [
            phase("levels", background=size, n_good=4, left_out=2),
            phase("variance", excluded=2, rms=copies * size, n_good=copies * 4, variance=8, unknown=2),
            phase("filling the variance", excluded=2, variance=8, holes=2, neighbours=fill_bytes(cells)),
            phase("noise", excluded=4, background=copies * size, variance=8).add(
                "differences", _DIFFERENCES, "cells", min(cells, _SAMPLED)
            ),
        ]
        interpolator, threshold = interpolator_of(step.interpolator), step.filter_threshold is not None
        making = interpolator.maps_memory(shape, itemsize=size, threshold=threshold)
        phases += [phase(name, terms) for name, terms in making]
        if step.reject_sigma is not None:
            phases.append(phase("outlying boxes", excluded=3, distances=6 * size))
        if step.ceiling is not None:
            other = self.recipe.step(step.ceiling.above)
            assert isinstance(other, BackgroundStep)
            coarse = 12 * (1 + _READ), "cells of the other", math.prod(mesh_shape(self.plan.shape, other.box_size))
            phases.append(phase("ceiling").add("surface", *coarse))
        return phases
