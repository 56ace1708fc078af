"""Maps of a mesh whose boxes are filled from their neighbours and filtered, with the error that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.mesh import error as mesh_error
from tiledsky.kernels.mesh import mesh as kernel
from tiledsky.kernels.mesh.fill import fill_tile
from tiledsky.kernels.mesh.rim import FILL_HALO, Rim
from tiledsky.operations.boxes import MeshParameters
from tiledsky.operations.cells import Above, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.surface import ceiling
from tiledsky.overlap import Patch
from tiledsky.recipe import BackgroundStep

if TYPE_CHECKING:
    from tiledsky.operations.interpolators.base import Interpolator

#: Maps of a mesh that have a surface, in the order of `tiledsky.operations.mesh.FinishedMesh`.
SURFACES = ("background", "rms", "error")
#: Working maps of the boxes that count, and their dtypes: value, rms, variance by white noise, own values or of larger.
WORKING: dict[str, str | None] = {"values": None, "scatter": None, "variance": "float64", "own": "bool"}
#: Those that are filled and filtered.
FILTERED = ("values", "scatter", "variance")


@dataclass(frozen=True)
class BoxNumbers:
    """What the boxes of a whole mesh say together.

    Attributes
    ----------
    noise_factor, shared_noise : float
        See `tiledsky.kernels.mesh.error.noise_factor` and `shared_noise`.
    known : bool
        Whether any box tells its noise.
    rims : dict of str to Rim
        Boxes about wide holes, by map (`Interpolator.filled`).
    others : sequence of bytes
        Of `Interpolator.merge_box_parts`.
    """

    noise_factor: float
    shared_noise: float
    known: bool
    rims: Mapping[str, Rim]
    others: Sequence[bytes] = ()


class FilledRms(CellOperation):
    """Rms of the boxes, filled from their neighbours and filtered."""

    kind, summary = "filled-rms", True
    cell_bytes = 60

    def __init__(self, mesh: MeshSource, *, noise: str) -> None:
        super().__init__(mesh)
        self.noise = noise

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return working_reads(self.mesh, ["scatter"], filling_halo(self.mesh))

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.noise]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.path("rms"): None}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        step, rims = self.mesh.step, cells.number(self.noise).rims
        near = cells.region.grown((step.filter_size[0] // 2, step.filter_size[1] // 2), cells.shape)
        scatter = filled_part(cells.window(self.map_reads()[0]), near, rims["scatter"])
        return ranged(self.mesh, {"rms": filtered(scatter, step, cells.region, None)})


class FilteredMaps(CellOperation):
    """Boxes filled from their neighbours and filtered, and the error by `Interpolator.error_factors`."""

    kind, summary = "maps", True
    cell_bytes = 60

    def __init__(self, mesh: MeshSource, interpolator: Interpolator[Any], *, noise: str, above: Above | None) -> None:
        super().__init__(mesh)
        self.interpolator, self.noise, self.above = interpolator, noise, above
        self.half = mesh.step.filter_size[0] // 2, mesh.step.filter_size[1] // 2

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        return working_reads(self.mesh, FILTERED, filling_halo(self.mesh))

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [self.noise]

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        return {self.mesh.path(part): None for part in SURFACES}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        step, numbers = self.mesh.step, cells.number(self.noise)
        near = cells.region.grown(self.half, cells.shape)
        reads = dict(zip(FILTERED, self.map_reads(), strict=True))
        background = filled_part(cells.window(reads["values"]), near, numbers.rims["values"])
        reference = None if step.filter_threshold is None else background.data
        scatter = filled_part(cells.window(reads["scatter"]), near, numbers.rims["scatter"])
        made = {
            "background": limited(filtered(background, step, cells.region, reference), cells, step, self.above),
            "rms": filtered(scatter, step, cells.region, reference),
            "error": self._error(cells, reads["variance"], near, numbers, background),
        }
        return ranged(self.mesh, made)

    def _error(self, cells: Cells, read: MapRead, near: Region, numbers: BoxNumbers, background: Patch) -> NDArray[Any]:
        """Error of the pixels after filter and interpolation; only cells above the filter's threshold are filtered."""
        step, region, dtype = self.mesh.step, cells.region, background.data.dtype
        if not numbers.known:
            return np.full(region.shape, np.nan, dtype)
        variance = filled_part(cells.window(read), near, numbers.rims["variance"])

        def found(size: Pair) -> NDArray[np.float64]:
            factors = self.interpolator.error_factors(cells.shape, step.box_size, size)
            return mesh_error.filtered_variance(variance.data, factors, size, region, near, cells.shape)

        result = found(step.filter_size)
        if step.filter_threshold is not None:
            result = np.where(background.crop(region) > step.filter_threshold, result, found((1, 1)))
        return np.sqrt(numbers.noise_factor * result).astype(dtype)


def working_reads(mesh: MeshSource, parts: Sequence[str], halo: Pair) -> list[MapRead]:
    """Working maps of the boxes that count."""
    kinds = [(part, WORKING[part]) for part in parts]
    sizes = {part: 0 if kind is None else np.dtype(kind).itemsize for part, kind in kinds}
    return [MapRead(mesh.working(part), mesh.chosen, halo, itemsize=sizes[part]) for part in parts]


def filling_halo(mesh: MeshSource) -> Pair:
    """Cells beside a tile that filling and filtering it need."""
    return FILL_HALO + mesh.step.filter_size[0] // 2, FILL_HALO + mesh.step.filter_size[1] // 2


def filled_part(cells: Patch, region: Region, rim: Rim) -> Patch:
    """Cells of a region of a map, holes filled."""
    return Patch(fill_tile(cells.data, region, cells.region, cells.shape, rim), region, cells.shape)


def filtered(
    cells: Patch, step: BackgroundStep | MeshParameters, region: Region, reference: NDArray[Any] | None
) -> NDArray[Any]:
    """Cells of a region after the median filter; its threshold looks at ``reference``, the filled background."""
    size, threshold = step.filter_size, step.filter_threshold
    made = kernel.median_filter(cells.data, size=size, threshold=threshold, reference=reference)
    return made[region.within(cells.region)]


def limited(
    background: NDArray[Any], cells: Cells, step: BackgroundStep | MeshParameters, above: Above | None
) -> NDArray[Any]:
    """Cut a background off at the ceiling of the step, if it has one."""
    if above is None:
        return background
    assert isinstance(step, BackgroundStep)
    assert step.ceiling is not None
    limit = ceiling(
        cells.number(above.mesh),
        box_size=step.box_size,
        sigma=step.ceiling.sigma,
        shape=cells.image,
        region=cells.region,
    )
    return np.minimum(background, limit.astype(background.dtype))


def ranged(mesh: MeshSource, made: Mapping[str, NDArray[Any]]) -> CellOutput:
    """Maps by their paths, and the ranges of those that have a surface."""
    ranges = [(np.min(values), np.max(values)) for part, values in made.items() if part in SURFACES]
    return CellOutput({mesh.path(part): values for part, values in made.items()}, [np.array(ranges, "<f8").tobytes()])
