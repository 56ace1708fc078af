"""The maps of a mesh that one polynomial is fitted to: the boxes of tiles, the fit to all, its values on tiles."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, mesh_shape
from tiledsky.kernels.fit.whole import WholeFit, fit_whole, group_side, group_sums
from tiledsky.operations.cells import Above, CellNumbers, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.filtered_maps import limited, ranged, working_reads
from tiledsky.operations.fitted_maps import BoxWeights, WeightNumbers
from tiledsky.operations.memory import Phase, Sizes

#: Bytes a group of boxes while all are fitted.
_GROUP = 300


class GroupedBoxes(CellOperation):
    """Boxes of a tile, on large meshes joined to groups."""

    kind, summary = "groups", True
    cell_bytes = 40

    def __init__(self, mesh: MeshSource, numbers: str, noise: str) -> None:
        super().__init__(mesh)
        self.of_weights, self.noise = numbers, noise

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        weight = MapRead(self.mesh.working("weight"), f"{self.mesh.name}-{BoxWeights.kind}", itemsize=4)
        n_good = MapRead(f"{self.mesh.measured[0]}/n_good", self.mesh.maker, itemsize=4, kept=True)
        return [*working_reads(self.mesh, ["values"], (0, 0)), weight, n_good]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.of_weights, self.noise]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        values, weight, n_good = (cells.window(read).data for read in self.map_reads())
        known, noise, side = cells.number(self.of_weights), cells.number(self.noise), group_side(cells.shape)
        (typical,) = np.frombuffer(noise.others[0], "<f8").tolist()
        # of a whole box; where no box tells its noise, the scatter of the boxes does
        box = typical * (noise.noise_factor / math.prod(self.box_size)) ** 0.5 if typical > 0.0 else 0.0
        facts: dict[str, Any] = {
            "shape": cells.shape,
            "center": known.center.hex(),
            "noise": box.hex(),
            "shared": noise.shared_noise.hex(),
            "constant": known.constant,
            "alone": known.alone,
        }
        masked = 1.0 - n_good / _pixels(cells, self.box_size)
        sums = group_sums(values, weight, masked, side=side, center=known.center)
        facts["place"] = [cells.region.y0 // side, cells.region.x0 // side, *sums.shape[1:]]
        return CellOutput({}, [json.dumps(facts).encode(), sums.astype("<f8").tobytes()])


class FitOfAll(CellNumbers):
    """The polynomial through all boxes."""

    kind = "whole-fit"

    def __init__(self, mesh: MeshSource, source: str, order: int) -> None:
        super().__init__(mesh, source)
        self.order = order

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`."""
        shape = mesh_shape(sizes.shape, self.mesh.step.box_size)
        groups = math.prod(-(-n // group_side(shape)) for n in shape)
        return [super().phases(sizes)[0].add("boxes", _GROUP, "groups", groups)]

    def combine(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """See `CellNumbers.combine`."""
        sums, facts = np.zeros((3, 0, 0)), dict[str, Any]()
        for head, data in parts:
            facts = json.loads(head)
            shape, (y, x, rows, columns) = (facts["shape"][0], facts["shape"][1]), facts["place"]
            if not sums.size:
                sums = np.zeros((3, *(-(-n // group_side(shape)) for n in shape)))
            sums[:, y : y + rows, x : x + columns] = np.frombuffer(data, "<f8").reshape(3, rows, columns)
        center, noise, shared = (float.fromhex(facts[name]) for name in ("center", "noise", "shared"))
        fit = fit_whole(sums, shape, degree=self.order, center=center, noise=noise, shared=shared)
        if facts["constant"] or facts["alone"]:
            unknown = 0.0 if facts["constant"] else np.nan
            fit = replace(fit, covariance=np.full_like(fit.covariance, unknown), moved=0.0 * fit.moved, apart=0.0)
        return [fit.to_bytes()]

    def number(self, parts: Sequence[bytes]) -> WholeFit:
        """See `CellNumbers.number`."""
        return WholeFit.from_bytes(parts[0])


class WholeMaps(CellOperation):
    """Values of the polynomial on a tile, with their error."""

    kind, summary = "fit", True
    cell_bytes = 250

    def __init__(self, mesh: MeshSource, fit: str, above: Above | None) -> None:
        super().__init__(mesh)
        self.fit, self.above = fit, above

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return working_reads(self.mesh, ["values"], (0, 0))

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.fit]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.path(part): None for part in ("background", "error", "degree")}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        fit: WholeFit = cells.number(self.fit)
        dtype = cells.window(self.map_reads()[0]).data.dtype
        background, error = (found.astype(dtype) for found in fit.at(cells.region, cells.shape))
        made = {"background": limited(background, cells, self.mesh.step, self.above), "error": error}
        return ranged(self.mesh, {**made, "degree": np.full(cells.region.shape, fit.degree, dtype)})


def _pixels(cells: Cells, box_size: Pair) -> NDArray[np.int64]:
    """Pixels of the boxes of a tile: the last ones are cut at the edge of the image."""
    y0, y1, x0, x1 = cells.region
    ends = zip((y0, x0), (y1, x1), box_size, cells.image, strict=True)
    rows, columns = (np.minimum((np.arange(a, b) + 1) * box, n) - np.arange(a, b) * box for a, b, box, n in ends)
    return np.multiply.outer(rows, columns)


def whole_operations(
    mesh: MeshSource, order: int, *, noise: str, above: Above | None
) -> Iterator[CellOperation | CellNumbers]:
    """Operations that fit one polynomial to a mesh."""
    weights = BoxWeights(mesh, noise)
    numbers = WeightNumbers(mesh, weights.name)
    boxes = GroupedBoxes(mesh, numbers.name, noise)
    fit = FitOfAll(mesh, boxes.name, order)
    yield from (weights, numbers, boxes, fit, WholeMaps(mesh, fit.name, above))
