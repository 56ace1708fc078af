"""Rounds of the search for large objects on a mesh: a stiff sky, what it leaves, the objects in that.

The first round has no sky, and makes the weights of the boxes, which know of no object. Each of the others has the sky
of the boxes that the objects of the round before do not cover. A sky so stiff needs no boxes as small as those that
objects are looked for in: it is fitted to averages of `COARSE` x `COARSE` of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels.fit.coarse import BLOCK_HALO, at_boxes, averaged
from tiledsky.kernels.fit.sums import BoxSums
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.objects import search
from tiledsky.kernels.objects.catalogue import OBJECT, Objects, inside, no_objects
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.cells import CellNumbers, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.chosen_boxes import ChosenBoxes, Noise
from tiledsky.operations.filtered_maps import working_reads
from tiledsky.operations.fitted_maps import BoxWeights, FittedMaps
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.interpolators.local_polynomial import background_alone
from tiledsky.operations.memory import Phase, Sizes
from tiledsky.recipe import ObjectsStep

#: Share of the blocks of boxes with any weight that objects leave for a sky; sides of these blocks, in boxes.
_LEFT, _BLOCK = 0.03, 8
#: Boxes along each axis of a block that a stiff sky has one value of: 2 to a power, which maps of it have as level.
COARSE = 4
_LEVEL = COARSE.bit_length() - 1


class RoundMesh(MeshSource):
    """The mesh of a round: all of its maps are thrown away when the run ends."""

    def path(self, part: str) -> str:
        """Path of a map of the mesh."""
        return self.working(part)

    def working(self, part: str) -> str:
        """Path of a map that is thrown away when the run ends."""
        return f"meshes/{self.name}/working/{part}"


class StiffMesh(RoundMesh):
    """The mesh of a stiff sky."""

    @property
    def chosen(self) -> str:
        """See `MeshSource.chosen`: it makes their weights, too."""
        return f"{self.name}-{StiffBoxes.kind}"


class BoxMaps(NamedTuple):
    """Statistics of boxes without a mask of sources: their folder, and the operation that writes them."""

    folder: str
    maker: str


class StiffBoxes(CellOperation):
    """Boxes that no object covers, averaged in blocks, with their weights: the boxes of a stiff sky."""

    kind, summary = "weights", True
    cell_bytes = 60

    def __init__(self, mesh: StiffMesh, first: MeshSource, before: str) -> None:
        super().__init__(mesh)
        self.first, self.before, self.box_size = first, before, first.step.box_size

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return [*working_reads(self.first, ["values"], (0, 0)), _weights(self.first, (0, 0))]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.before]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.working("values"): None, self.mesh.working("weight"): "float32"}

    def on_grid(self, path: str, corner: Pair, shape: Pair) -> Pair:
        """See `CellOperation.on_grid`."""
        return mesh_shape(corner, (COARSE, COARSE))

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight = (cells.window(read).data for read in self.map_reads())
        covered = inside(cells.number(self.before), cells.region.y0, cells.region.x0, values.shape, self.box_size)
        weight = np.where(covered, np.float32(0), weight)
        mean, total = averaged(values, weight, COARSE)
        # of all sums the boxes' own are those of their averages: blocks of these are cut by tiles
        sums = replace(BoxSums.of(values, weight), weights=CountedValues.of(total[total > 0.0]))
        return CellOutput({self.mesh.working("values"): mean, self.mesh.working("weight"): total}, [sums.to_bytes()])


class FoundObjects(CellOperation):
    """Objects with their centres in a tile, in what the stiff sky of a round leaves of the boxes, or in these alone.

    Boxes, weights and noise are those of the ``first`` round. The summary of a tile holds the objects of the round
    before, too, and which blocks of boxes have any weight: the numbers that follow need nothing else. Where the round
    before has changed nothing this one would do the same again, and does nothing: its objects are those.
    """

    kind, summary = "found", True
    cell_bytes = 250
    fixed_bytes = 8_000_000

    def __init__(
        self, mesh: MeshSource, first: MeshSource, unmasked: BoxMaps, noise: str, before: Sequence[str]
    ) -> None:
        super().__init__(mesh)
        self.first, self.unmasked, self.noise, self.before = first, unmasked, noise, before
        self.box_size = first.step.box_size

    @property
    def level(self) -> bool:
        """Whether there is no sky yet."""
        return self.mesh is self.first

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        halo, first = (search.REACH, search.REACH), self.first
        fit, more = f"{self.mesh.name}-{FittedMaps.kind}", search.REACH + BLOCK_HALO * COARSE
        sky = MapRead(self.mesh.path("background"), fit, (more, more), _LEVEL, _LEVEL)
        return [
            *working_reads(first, ["values"], halo),
            _weights(first, halo),
            MapRead(f"{first.measured[0]}/n_good", first.maker, halo, itemsize=4, kept=True),
            MapRead(f"{self.unmasked.folder}/background", self.unmasked.maker, halo, kept=True),
            *([] if self.level else [sky]),
        ]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.noise, *self.before]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        known, *earlier = [cells.number(name) for name in self.before] or [no_objects()]
        if any(objects.tobytes() == known.tobytes() for objects in earlier):
            return CellOutput({}, [b"", known.tobytes(), b"", b""])
        window, *others = (cells.window(read) for read in self.map_reads())
        values, weight, n_good, unmasked = (each.data.astype(np.float64) for each in (window, *others[:3]))
        numbers = cells.number(self.noise)
        (typical,) = np.frombuffer(numbers.others[0], "<f8").tolist()
        found = no_objects()
        if typical > 0.0:
            # of the noise of pixels there, which the weight goes by (`tiledsky.kernels.fit.weights.box_weights`)
            share = np.sqrt(n_good * max(numbers.noise_factor, 1.0)) / math.prod(self.box_size)
            noise = np.divide(typical * share, np.sqrt(weight), out=np.zeros(weight.shape), where=weight > 0.0)
            corner = window.region.y0, window.region.x0
            if not self.level:
                coarse = mesh_shape(cells.shape, (COARSE, COARSE))
                sky = at_boxes(Window(others[3].data, others[3].region), window.region, coarse, COARSE)
                values, unmasked = values - sky, unmasked - sky
            boxes = search.Boxes(values, weight, noise, unmasked, corner, self.box_size, typical, level=self.level)
            found = search.find(boxes, known, cells.region)
        some = block_any(weight[cells.region.within(window.region)] > 0.0)
        place = np.array([cells.region.y0 // _BLOCK, cells.region.x0 // _BLOCK, *some.shape, *cells.image], "<i8")
        return CellOutput({}, [found.tobytes(), known.tobytes(), place.tobytes(), np.packbits(some).tobytes()])


def block_any(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Blocks of `_BLOCK` x `_BLOCK` cells any of which is true."""
    rows = np.logical_or.reduceat(cells, np.arange(0, cells.shape[0], _BLOCK), axis=0)
    return np.logical_or.reduceat(rows, np.arange(0, cells.shape[1], _BLOCK), axis=1)


class AcceptedObjects(CellNumbers):
    """Objects of a round, from those of its tiles."""

    kind = "accepted"

    def __init__(self, mesh: MeshSource, source: str, step: ObjectsStep) -> None:
        super().__init__(mesh, source)
        assert not isinstance(step.keep, str)  # in pixels, once the image is known
        self.keep, self.box_size = step.keep, step.sky.box_size

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`: objects that leave nothing for a sky are left out, the faintest first."""
        rows, blocks, known, image = [], [], no_objects(), (0, 0)
        for found, before, place, packed in parts:
            if not place:  # the round did nothing
                return [before]
            rows.append(np.frombuffer(found, OBJECT))
            known = np.frombuffer(before, OBJECT)
            y0, x0, ny, nx, *of_image = np.frombuffer(place, "<i8").tolist()
            image = of_image[0], of_image[1]
            blocks.append((y0, x0, np.unpackbits(np.frombuffer(packed, np.uint8), count=ny * nx).reshape(ny, nx) != 0))
        side = self.box_size[0] * _BLOCK, self.box_size[1] * _BLOCK
        chosen = search.accepted(rows, known, image=image, keep=self.keep)
        least = max(_LEFT * sum(int(some.sum()) for *_, some in blocks), 1.0)
        kept = no_objects()
        for k in range(len(chosen)):
            more = np.append(kept, chosen[k : k + 1])
            left = (some & ~inside(more, y0, x0, some.shape, side) for y0, x0, some in blocks)
            if sum(int(rest.sum()) for rest in left) >= least:
                kept = more
        return [kept.tobytes()]

    def number(self, parts: Sequence[bytes]) -> Objects:
        """See `CellNumbers.number`."""
        return np.frombuffer(parts[0], OBJECT)

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        cells = mesh_shape(sizes.shape, self.box_size)
        blocks = math.prod(mesh_shape(cells, (_BLOCK, _BLOCK)))
        return [super().phases(sizes)[0].add("blocks of boxes", 4, "blocks", blocks)]


class Rounds(NamedTuple):
    """Operations of the rounds, in order, and the last one's name: its number is the catalogue."""

    all: list[CellOperation | CellNumbers]
    last: str


def _weights(mesh: MeshSource, halo: Pair) -> MapRead:
    return MapRead(mesh.working("weight"), f"{mesh.name}-{BoxWeights.kind}", halo, itemsize=4)


def round_operations(step: ObjectsStep, measured: BoxMaps, unmasked: BoxMaps) -> Rounds:
    """Operations that find objects, from the statistics of boxes under the mask and without one."""
    sky = step.sky
    first = RoundMesh(sky.model_copy(update={"name": f"{step.name}-0"}), (measured.folder,), measured.maker)
    interpolator = interpolator_of(sky.interpolator)
    chosen = ChosenBoxes(first, interpolator, None)
    noise = Noise(first, interpolator, chosen.name)
    found: list[CellOperation | CellNumbers] = [chosen, noise, BoxWeights(first, noise.name)]

    lists: list[str] = []

    def searched(mesh: RoundMesh, before: Sequence[str]) -> None:
        objects = FoundObjects(mesh, first, unmasked, noise.name, before)
        accepted = AcceptedObjects(mesh, objects.name, step)
        found.extend((objects, accepted))
        lists.append(accepted.name)

    searched(first, [])
    for k in range(1, search.ROUNDS + 1):
        stiff = step.sky_without(outliers=k == 1)
        coarse: Pair = (stiff.box_size[0] * COARSE, stiff.box_size[1] * COARSE)
        mesh = StiffMesh(stiff.model_copy(update={"name": f"{step.name}-{k}", "box_size": coarse}), (), "")
        weights = StiffBoxes(mesh, first, lists[-1])
        found += background_alone(interpolator_of(stiff.interpolator), mesh, noise=noise.name, weights=weights)
        # the last list, and that which the last sky of the same kind knew: the first has weights of its own
        searched(mesh, lists[-1:] if k <= 2 else lists[:-3:-1])
    for operation in found:
        operation.step = step.name
    return Rounds(found, lists[-1])
