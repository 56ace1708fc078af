"""Maps of a mesh that are fitted: weights of the boxes, robust rounds, scores of the fits, and the fits themselves.

Each phase is a pass over the tiles of the mesh, with the numbers that the next one needs of all tiles after it; the
kernels are those of `tiledsky.kernels.fit`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, Region
from tiledsky.kernels.fit.averages import BLOCK, COUNTS, count_blocks
from tiledsky.kernels.fit.local_polynomial import COUNT_HALO, SCORE_HALO, FitModel, MeshFit
from tiledsky.kernels.fit.robust import ROUNDS, below, judge_boxes, judge_halo, judge_memory, robust_weights, scale_of
from tiledsky.kernels.fit.sums import BoxSums, ExactSums, FitNumbers, normal_sums, polynomials
from tiledsky.kernels.fit.weights import NOISE_HALO, box_weights
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.objects.catalogue import error_about
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.filtered_maps import limited, ranged, working_reads
from tiledsky.overlap import Patch

#: Bandwidths and degrees that are tried on a mesh of a shape with boxes of a size.
Model = Callable[[Pair, Pair], FitModel]
#: Maps that a fit has.
PARTS = ("background", "error", "bandwidth", "degree")
#: Kernels that the first fit of a process loads, and the blocks that they work on.
_COMPILED = 8_000_000
#: A map of blocks is one of boxes so many times as large, as a power of 2.
_LEVEL = BLOCK.bit_length() - 1


def _window(patch: Patch) -> Window:
    return Window(patch.data, patch.region)


def _blocks(patch: Patch, shape: Pair) -> Window:
    """Numbers of blocks, (rows, columns, numbers), from a map that has those of a block side by side."""
    each = patch.shape[1] // -(-shape[1] // BLOCK)
    (y0, y1, x0, x1), rows = patch.region, patch.data.shape[0]
    return Window(patch.data.reshape(rows, -1, each), Region(y0, y1, x0 // each, x1 // each))


class BoxWeights(CellOperation):
    """Weights of the boxes, before robust rounds."""

    kind, summary = "weights", True
    cell_bytes = 80

    def __init__(self, mesh: MeshSource, noise: str) -> None:
        super().__init__(mesh)
        self.noise = noise

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        halo = NOISE_HALO, NOISE_HALO
        n_good = MapRead(f"{self.mesh.measured[0]}/n_good", self.mesh.maker, itemsize=4, kept=True)
        return [
            *working_reads(self.mesh, ["values"], (0, 0)),
            *working_reads(self.mesh, ["scatter", "own"], halo),
            n_good,
        ]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.noise]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.working("weight"): "float32"}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, scatter, own, n_good = (_window(cells.window(read)) for read in self.map_reads())
        (typical,) = np.frombuffer(cells.number(self.noise).others[0], "<f8").tolist()
        pixels = self.box_size[0] * self.box_size[1]
        weight = box_weights(cells.region, n_good, scatter, own, pixels=pixels, typical=typical)
        return CellOutput({self.mesh.working("weight"): weight}, [BoxSums.of(values.data, weight).to_bytes()])


class WeightNumbers(CellNumbers):
    """What fits have to know of all boxes."""

    kind = "weight-numbers"

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`.

        Raises
        ------
        InputError
            No box has a value of its own.
        """
        sums = BoxSums.merged(BoxSums.from_bytes(own[0]) for own in parts)
        if not sums.number:
            by, bx = self.mesh.step.box_size
            raise InputError(
                f"background {self.mesh.name!r}: all boxes take their values from larger ones, so there is nothing to "
                f"fit at {by} x {bx} px; use larger boxes, or another interpolator"
            )
        return [sums.to_bytes()]

    def number(self, parts: Sequence[bytes]) -> FitNumbers:
        """See `CellNumbers.number`."""
        return BoxSums.from_bytes(parts[0]).numbers()


class RobustRound(CellOperation):
    """How far boxes stand out from a fit with the weights of the round before."""

    kind, summary = "robust", True
    fixed_bytes = _COMPILED

    def __init__(self, mesh: MeshSource, bandwidth: float, numbers: str, before: RobustRound | None) -> None:
        super().__init__(mesh)
        self.bandwidth, self.of_weights, self.before = bandwidth, numbers, before
        self.place: int = 1 if before is None else before.place + 1
        self.name = f"{mesh.name}-robust-{self.place}"
        self.judged = mesh.working(f"judged-{self.place}")

    @property
    def scale(self) -> str:
        """Name of the operation that says how far noise stands out."""
        return f"{self.name}-scale"

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        halo = judge_halo(box_size=self.box_size, bandwidth=self.bandwidth)
        return [*_fit_reads(self.mesh, halo)[:2], *_judged(self.before, halo)]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.of_weights, *([] if self.before is None else [self.before.scale])]

    def work_bytes(self, tile: Pair, shape: Pair, window: int) -> float:
        """See `CellOperation.work_bytes`."""
        return judge_memory(tile, shape=shape, box_size=self.box_size, bandwidth=self.bandwidth)

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.judged: "float32"}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight, *before = (_window(cells.window(read)) for read in self.map_reads())
        judged = judge_boxes(
            cells.region,
            values,
            weight,
            before[0] if before else None,
            0.0 if self.before is None else cells.number(self.before.scale),
            shape=cells.shape,
            box_size=self.box_size,
            bandwidth=self.bandwidth,
            numbers=cells.number(self.of_weights),
        )
        return CellOutput({self.judged: judged}, [below(weight.cut(cells.region), judged).to_bytes()])


class RobustScale(CellNumbers):
    """How far noise stands out in a robust round."""

    kind = "robust-scale"

    def __init__(self, mesh: MeshSource, source: RobustRound) -> None:
        super().__init__(mesh, source.name)
        self.name = source.scale

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`."""
        scale = scale_of(CountedValues.merged(CountedValues.from_bytes(own[0]) for own in parts))
        return [np.array(scale, "<f8").tobytes()]

    def number(self, parts: Sequence[bytes]) -> float:
        """See `CellNumbers.number`."""
        return float(np.frombuffer(parts[0], "<f8")[0])


class FittedWeights(CellOperation):
    """Weights that fits are made with, sums for polynomials of the whole mesh, and counts of boxes."""

    kind, summary = "fitted-weights", True
    cell_bytes = 60

    def __init__(self, mesh: MeshSource, numbers: str, last: RobustRound | None) -> None:
        super().__init__(mesh)
        self.of_weights, self.last = numbers, last

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return [*_fit_reads(self.mesh, (0, 0))[:2], *_judged(self.last, (0, 0))]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.of_weights, *([] if self.last is None else [self.last.scale])]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.working("fitted"): "float32", self.mesh.working("counts"): "float64"}

    def on_grid(self, path: str, corner: Pair, shape: Pair) -> Pair:
        """See `CellOperation.on_grid`: some numbers a block."""
        return _on_blocks(corner, COUNTS) if path == self.mesh.working("counts") else corner

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight, *judged = (_window(cells.window(read)) for read in self.map_reads())
        fitted = weight.data
        if self.last is not None:
            fitted = robust_weights(weight.data, judged[0].data, cells.number(self.last.scale))
        center = cells.number(self.of_weights).center
        sums = normal_sums(cells.region, values, Window(fitted, cells.region), shape=cells.shape, center=center)
        counts = count_blocks(weight.data)
        made = {self.mesh.working("fitted"): fitted, self.mesh.working("counts"): counts.reshape(len(counts), -1)}
        return CellOutput(made, [json.dumps(sums.to_list()).encode()])


class NormalEquations(CellNumbers):
    """Normal equations of polynomials of the whole mesh."""

    kind = "normal-equations"

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`."""
        merged = ExactSums.merged(ExactSums.from_list(json.loads(own[0])) for own in parts)
        return [json.dumps(merged.to_list()).encode()]

    def number(self, parts: Sequence[bytes]) -> ExactSums:
        """See `CellNumbers.number`."""
        return ExactSums.from_list(json.loads(parts[0]))


class _Fits(CellOperation):
    """A pass that makes all fits."""

    fixed_bytes = _COMPILED
    phase: ClassVar[int]

    def work_bytes(self, tile: Pair, shape: Pair, window: int) -> float:
        """See `CellOperation.work_bytes`."""
        return self.planned(shape).memory(tile)[self.phase]

    def planned(self, shape: Pair) -> MeshFit:
        """Fits of a mesh of this shape, before anything is known of its boxes."""
        return MeshFit(shape, self.box_size, self.model(shape, self.box_size), _NO_NUMBERS)

    def __init__(self, mesh: MeshSource, model: Model, numbers: Mapping[str, str]) -> None:
        super().__init__(mesh)
        self.model, self.names = model, numbers

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return list(self.names.values())

    @property
    def halo_cells(self) -> Pair:
        """Halo of the widest fit that is tried on the largest mesh."""
        return self.planned((1 << 30, 1 << 30)).halo

    def fit(self, cells: Cells) -> MeshFit:
        """Fits of the mesh."""
        model = self.model(cells.shape, self.box_size)
        sums = polynomials(cells.number(self.names["normal"]), whole=model.whole or 0)
        shared = cells.number(self.names["noise"]).shared_noise
        return MeshFit(cells.shape, self.box_size, model, cells.number(self.names["weights"]), sums, shared)

    def counts_read(self, halo: int) -> MapRead:
        """Counts of blocks, with so many more on each side."""
        path, maker = self.mesh.working("counts"), f"{self.mesh.name}-{FittedWeights.kind}"
        return MapRead(path, maker, (halo * BLOCK, halo * BLOCK), _LEVEL, _LEVEL, itemsize=8 * COUNTS)


class Scores(_Fits):
    """How well each fit predicts the boxes of a tile."""

    kind = "scores"
    phase = 0

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return [*_fit_reads(self.mesh, self.halo_cells), self.counts_read(COUNT_HALO)]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.working("scores"): "float64"}

    def on_grid(self, path: str, corner: Pair, shape: Pair) -> Pair:
        """See `CellOperation.on_grid`."""
        return _on_blocks(corner, self.planned(shape).score_parts)

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight, fitted, counts = [cells.window(read) for read in self.map_reads()]
        boxes = _window(values), _window(weight), _window(fitted)
        found = self.fit(cells).scores(cells.region, *boxes, _blocks(counts, cells.shape))
        return CellOutput({self.mesh.working("scores"): found.reshape(len(found), -1)})


class FittedMaps(_Fits):
    """The fit of a tile: its background, and whichever of error, bandwidth and degree are asked for."""

    kind, summary = "fit", True
    phase = 1

    def __init__(
        self,
        mesh: MeshSource,
        model: Model,
        numbers: Mapping[str, str],
        above: Above | None,
        parts: Sequence[str] = PARTS,
    ) -> None:
        super().__init__(mesh, model, numbers)
        self.above, self.parts = above, parts

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [*super().numbers(), *([] if self.mesh.objects is None else [self.mesh.objects])]

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        halo = SCORE_HALO * BLOCK, SCORE_HALO * BLOCK
        scores = MapRead(
            self.mesh.working("scores"), f"{self.mesh.name}-{Scores.kind}", halo, _LEVEL, _LEVEL, itemsize=400
        )
        return [*_fit_reads(self.mesh, self.halo_cells), self.counts_read(COUNT_HALO), scores]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.path(part): None for part in self.parts}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight, fitted, counts, scores = [cells.window(read) for read in self.map_reads()]
        boxes = _window(values), _window(weight), _window(fitted)
        found = self.fit(cells).fit(cells.region, *boxes, _blocks(counts, cells.shape), _blocks(scores, cells.shape))
        dtype = values.data.dtype
        made = {part: getattr(found, part).astype(dtype) for part in self.parts}
        if self.mesh.objects is not None and "error" in made:
            objects, corner = cells.number(self.mesh.objects), (cells.region.y0, cells.region.x0)
            made["error"] = error_about(objects, found.error, *corner, self.box_size).astype(dtype)
        made["background"] = limited(made["background"], cells, self.mesh.step, self.above)
        return ranged(self.mesh, made)


_NO_NUMBERS = FitNumbers(0.0, 1.0, 0.0, False, False)


def _on_blocks(corner: Pair, each: int) -> Pair:
    return -(-corner[0] // BLOCK), -(-corner[1] // BLOCK) * each


def _judged(robust: RobustRound | None, halo: Pair) -> list[MapRead]:
    return [] if robust is None else [MapRead(robust.judged, robust.name, halo, itemsize=4)]


def _fit_reads(mesh: MeshSource, halo: Pair) -> list[MapRead]:
    """Values of the boxes, their weights, and the weights that fits are made with."""
    weight = MapRead(mesh.working("weight"), f"{mesh.name}-{BoxWeights.kind}", halo, itemsize=4)
    fitted = MapRead(mesh.working("fitted"), f"{mesh.name}-{FittedWeights.kind}", halo, itemsize=4)
    return [*working_reads(mesh, ["values"], halo), weight, fitted]


def fit_operations(
    mesh: MeshSource,
    model: Model,
    *,
    robust: float | None,
    noise: str,
    above: Above | None,
    weights: CellOperation | None = None,
    parts: Sequence[str] = PARTS,
) -> Iterator[CellOperation | CellNumbers]:
    """Operations that fit a mesh.

    ``robust``: bandwidth of the fits that boxes are compared with, or None. ``weights``: what makes the weights of the
    boxes and sums them up, if not `BoxWeights`. ``parts``: maps that are made.
    """
    weights = weights or BoxWeights(mesh, noise)
    numbers = WeightNumbers(mesh, weights.name)
    yield weights
    yield numbers
    last: RobustRound | None = None
    for _ in range(ROUNDS if robust else 0):
        last = RobustRound(mesh, robust or 0.0, numbers.name, last)
        yield last
        yield RobustScale(mesh, last)
    fitted = FittedWeights(mesh, numbers.name, last)
    normal = NormalEquations(mesh, fitted.name)
    yield fitted
    yield normal
    names = {"weights": numbers.name, "normal": normal.name, "noise": noise}
    yield Scores(mesh, model, names)
    yield FittedMaps(mesh, model, names, above, parts)
