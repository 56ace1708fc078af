"""Boxes of a mesh that count, with their noise: the first operations on the cells of a mesh."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, mesh_shape
from tiledsky.kernels.boxes.estimators import inefficiency, rms_estimator_of
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh.guards import OUTLYING_HALO, from_levels, outlying_boxes, outlying_distances
from tiledsky.kernels.mesh.rim import FILL_HALO, Rim, rim_of
from tiledsky.kernels.objects.catalogue import inside
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.boxes import box_levels, no_boxes
from tiledsky.operations.cells import CellNumbers, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.filtered_maps import WORKING, BoxNumbers
from tiledsky.operations.interpolators import Interpolator
from tiledsky.operations.memory import Phase, Sizes
from tiledsky.overlap import Patch

#: Cells beside a box whose median it is compared with.
_NEIGHBOURS = (OUTLYING_HALO, OUTLYING_HALO)
#: Bytes for each cell along the edges of a mesh: of the rims of wide holes, which are as long as a few edges.
_RIM = 8 * 50


def _statistics(mesh: MeshSource, parts: Iterable[str], halo: Pair) -> dict[str, list[MapRead]]:
    """Statistics of the boxes, level by level."""
    top, folders = len(mesh.measured) - 1, list(enumerate(mesh.measured))

    def read(part: str, level: int, folder: str) -> MapRead:
        size = 4 if part == "n_good" else 0
        return MapRead(f"{folder}/{part}", mesh.maker, halo, level, align=top, itemsize=size, kept=True)

    return {part: [read(part, level, folder) for level, folder in folders] for part in parts}


class _FromBoxes(CellOperation):
    """An operation that reads the statistics of the boxes."""

    parts: tuple[str, ...]
    halo_cells: Pair

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return [read for reads in self._reads.values() for read in reads]

    @property
    def _reads(self) -> dict[str, list[MapRead]]:
        return _statistics(self.mesh, self.parts, self.halo_cells)

    def _read(self, cells: Cells) -> tuple[Region, NDArray[np.int8], dict[str, NDArray[Any]]]:
        """Window, level of each of its boxes, and statistics from that level."""
        found = {part: [cells.window(read) for read in reads] for part, reads in self._reads.items()}
        window = found["background"][0].region
        held = {part: [patch.data for patch in patches] for part, patches in found.items()}
        level = box_levels(held["background"], held["n_good"], self.mesh.step)
        return window, level, {part: from_levels(values, level) for part, values in held.items()}


def _distances(background: NDArray[Any], level: NDArray[np.int8], inner: Region, window: Region, shape: Pair) -> Any:
    """Distances of boxes that count from those about them; NaN of others."""
    blank = np.where(level < 0, np.asarray(np.nan, background.dtype), background)
    return outlying_distances(blank, inner, window, shape)


class Distances(_FromBoxes):
    """How far boxes are from those about them."""

    kind, summary = "distances", True
    parts, halo_cells = ("background", "n_good"), _NEIGHBOURS

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        window, level, held = self._read(cells)
        distances = _distances(held["background"], level, cells.region, window, cells.shape)
        return CellOutput({}, [CountedValues.of(distances).to_bytes()])


class DistanceScale(CellNumbers):
    """Typical distance of a box from those about it."""

    kind = "distance-scale"

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`."""
        found = CountedValues.merged(CountedValues.from_bytes(own[0]) for own in parts)
        return [np.array(found.median(), "<f8").tobytes()]

    def number(self, parts: Sequence[bytes]) -> float:
        """See `CellNumbers.number`."""
        return float(np.frombuffer(parts[0], "<f8")[0])


class ChosenBoxes(_FromBoxes):
    """Boxes that count, with their values, scatter and variance by white noise; NaN where a box does not count.

    ``objects``: the operation whose catalogue has objects that cover boxes, which do not count.
    """

    kind, summary = "chosen", True
    parts = ("background", "rms", "n_good")
    cell_bytes = 45

    def __init__(
        self, mesh: MeshSource, interpolator: Interpolator[Any], scale: str | None, objects: str | None = None
    ) -> None:
        super().__init__(mesh)
        self.interpolator, self.scale, self.objects = interpolator, scale, objects
        least = max(mesh_error.NOISE_HALO, FILL_HALO if interpolator.filled else 0)
        more = 0 if scale is None else OUTLYING_HALO
        self.near: Pair = max(least, interpolator.box_halo[0]), max(least, interpolator.box_halo[1])
        self.halo_cells = self.near[0] + more, self.near[1] + more

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [name for name in (self.scale, self.objects) if name is not None]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        mesh, working = self.mesh, self.mesh.working
        made: dict[str, str | None] = {mesh.path("excluded"): "bool"}
        made |= {working(name): WORKING[name] for name in self.interpolator.working}
        return made | ({mesh.path("n_good"): "int32"} if mesh.step.grow_boxes else {})

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        step = self.mesh.step
        window, level, held = self._read(cells)
        if self.objects is not None:
            covered = inside(cells.number(self.objects), window.y0, window.x0, window.shape, step.box_size)
            level = np.where(covered, np.int8(-1), level)
        if self.scale is not None:
            assert step.reject_sigma is not None
            near = cells.region.grown(self.near, cells.shape)
            distances = _distances(held["background"], level, near, window, cells.shape)
            outlying = outlying_boxes(distances, sigma=step.reject_sigma, middle=cells.number(self.scale))
            inner = near.within(window)
            level, held, window = level[inner], {part: values[inner] for part, values in held.items()}, near
            excluded = (level < 0) | outlying
        else:
            excluded = level < 0
        variance = mesh_error.box_variance(
            held["rms"],
            held["n_good"],
            estimator=step.estimator,
            population=rms_estimator_of(step.rms_estimator).population,
        )
        own = ~excluded & (level == 0)
        samples = mesh_error.noise_samples(held["background"], variance, own, cells.region, window, cells.shape)
        variance[excluded | ~np.isfinite(variance)] = np.nan
        maps: dict[str, NDArray[Any]] = {"variance": variance}
        for part, statistic in (("values", "background"), ("scatter", "rms")):
            maps[part] = np.where(excluded, np.asarray(np.nan, held[statistic].dtype), held[statistic])
        inner, shape = cells.region.within(window), cells.shape
        parts = [_counts(held["n_good"][inner][~excluded[inner]]), samples.astype("<f8").tobytes()]
        parts.append(np.array([np.isfinite(variance[inner]).any(), level[inner].size], "<i8").tobytes())
        parts += [rim_of(maps[name], cells.region, window, shape).to_bytes() for name in self.interpolator.filled]
        parts += self.interpolator.box_parts(Patch(maps["scatter"], window, shape), own, cells.region)
        maps["own"] = own
        made = {self.mesh.working(name): maps[name][inner] for name in self.interpolator.working}
        made[self.mesh.path("excluded")] = excluded[inner]
        if step.grow_boxes:
            made[self.mesh.path("n_good")] = held["n_good"][inner]
        return CellOutput(made, parts)


def _counts(n_good: NDArray[Any]) -> bytes:
    """Numbers of good pixels that boxes have, and how many boxes have each."""
    return np.stack(np.unique(n_good, return_counts=True)).astype("<i8").tobytes()


class Noise(CellNumbers):
    """What boxes say of their noise, all together, and the rims of wide holes."""

    kind = "noise"

    def __init__(self, mesh: MeshSource, interpolator: Interpolator[Any], source: str) -> None:
        super().__init__(mesh, source)
        self.interpolator = interpolator

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: differences, their copy, and that which is sorted; rims of wide holes."""
        shape = mesh_shape(sizes.shape, self.mesh.step.box_size)
        cells, edges = math.prod(shape), 2 * sum(shape)
        phase = super().phases(sizes)[0].add("differences", 24, "samples", min(2 * cells, 2 * mesh_error.SAMPLED_CELLS))
        return [phase.add("rims", _RIM, "cells of an edge", edges * len(self.interpolator.filled))]

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`.

        Raises
        ------
        InputError
            No box counts.
        """
        counts: dict[int, int] = {}
        samples, known, cells, names = [], False, 0, self.interpolator.filled
        rims: list[list[Rim]] = [[] for _ in names]
        others = []
        for own in parts:
            for n, times in np.frombuffer(own[0], "<i8").reshape(2, -1).T.tolist():
                counts[n] = counts.get(n, 0) + times
            samples.append(np.frombuffer(own[1], "<f8"))
            some, size = np.frombuffer(own[2], "<i8").tolist()
            known, cells = known or bool(some), cells + size
            for held, data in zip(rims, own[3:], strict=False):
                held.append(Rim.from_bytes(data))
            others.append(own[3 + len(names) :])
        step = self.mesh.step
        if not counts:
            raise no_boxes(step, cells)
        excess = _median_inefficiency(step.estimator, counts)
        factor = mesh_error.noise_factor(np.concatenate(samples), box_size=step.box_size, excess=excess)
        shared = mesh_error.shared_noise(factor, step.box_size, excess=excess)
        merged = [Rim.merged(held).to_bytes() for held in rims]
        numbers = np.array([factor, shared, known], "<f8").tobytes()
        return [numbers, *merged, *self.interpolator.merge_box_parts(iter(others))]

    def number(self, parts: Sequence[bytes]) -> BoxNumbers:
        """See `CellNumbers.number`."""
        factor, shared, known = np.frombuffer(parts[0], "<f8").tolist()
        names = self.interpolator.filled
        rims = {name: Rim.from_bytes(data) for name, data in zip(names, parts[1:], strict=False)}
        return BoxNumbers(factor, shared, bool(known), rims, parts[1 + len(names) :])


def _median_inefficiency(estimator: Any, counts: Mapping[int, int]) -> float:
    """Median of the estimator's inefficiency in the boxes."""
    found = np.asarray(inefficiency(estimator, np.array(list(counts))), np.float64)
    order = np.argsort(found, kind="stable")
    reached = np.cumsum(np.array(list(counts.values()))[order])
    n = int(reached[-1])
    middle = [found[order[np.searchsorted(reached, rank, side="right")]] for rank in ((n - 1) // 2, n // 2)]
    return float((middle[0] + middle[1]) / 2.0)
