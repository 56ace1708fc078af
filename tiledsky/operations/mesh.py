"""The mesh of a background step, from the statistics of its boxes to maps that a surface goes through.

Operations of tiles of the mesh (`tiledsky.operations.cells`), with the numbers of the whole mesh between them:
`ChosenBoxes` says which boxes count and how noisy they are, the operations of the interpolator make the maps
(`tiledsky.operations.interpolators`), `SurfaceValues` turns these into what a surface is evaluated from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair
from tiledsky.kernels.boxes import boxes
from tiledsky.operations.boxes import MeshParameters
from tiledsky.operations.cells import LARGEST, Above, CellNumbers, CellOperation, CellOutput, Cells, MapRead, MeshSource
from tiledsky.operations.cells_on_arrays import do_on_arrays
from tiledsky.operations.chosen_boxes import ChosenBoxes, Distances, DistanceScale, Noise
from tiledsky.operations.filtered_maps import SURFACES, BoxNumbers
from tiledsky.operations.interpolators import Interpolator, interpolator_of
from tiledsky.operations.surface import Surface
from tiledsky.overlap import call
from tiledsky.recipe import BackgroundStep


@dataclass(frozen=True)
class Mesh:
    """The low-resolution maps of a background step.

    Attributes
    ----------
    background, rms : ndarray (nby, nbx)
        Filled and filtered; the background fitted, where the interpolator is a local polynomial.
    error : ndarray (nby, nbx)
        Standard error of the background at the pixels of each cell, by noise alone (`tiledsky.kernels.mesh.error`);
        NaN everywhere if no box tells its noise, as boxes of one pixel.
    n_good : ndarray of integers (nby, nbx)
        Pixels a box that were left after masks and clipping; of the larger box where it took the place of a box.
    excluded : ndarray of bool (nby, nbx)
        Boxes with too few of them, or that stand out: their values come from their neighbours.
    noise_factor : float
        How many times more boxes vary than for independent pixels (`tiledsky.kernels.mesh.error.noise_factor`); its
        root is the length, in pixels, over which noise is shared.
    box_size : (int, int)
    fit : dict of str to ndarray (nby, nbx)
        The `tiledsky.operations.interpolators.Interpolator.fit_maps` of a mesh that is fitted.
    """

    background: NDArray[Any]
    rms: NDArray[Any]
    error: NDArray[Any]
    n_good: NDArray[Any]
    excluded: NDArray[np.bool_]
    noise_factor: float
    box_size: Pair
    fit: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def bandwidth(self) -> NDArray[Any] | None:
        """Mean bandwidth of a fit in pixels, see `tiledsky.kernels.fit.local_polynomial.LocalFit`; None without one."""
        return self.fit.get("bandwidth")

    @property
    def degree(self) -> NDArray[Any] | None:
        """Mean degree of the polynomials of a fit; None without one."""
        return self.fit.get("degree")


class SurfaceValues(CellOperation):
    """What the surfaces of background, rms and error are evaluated from."""

    kind = "surfaces"
    cell_bytes = 40

    def __init__(self, mesh: MeshSource, interpolator: Interpolator[Any], makers: Mapping[str, str]) -> None:
        super().__init__(mesh)
        self.interpolator, self.makers = interpolator, makers

    def map_reads(self) -> list[MapRead]:
        """See `CellOperation.map_reads`."""
        halo, chosen = self.interpolator.surface_halo, f"{self.mesh.name}-{ChosenBoxes.kind}"
        excluded = MapRead(self.mesh.path("excluded"), chosen, self.interpolator.lookup_halo, itemsize=1, kept=True)
        return [*(MapRead(self.mesh.path(part), self.makers[part], halo, kept=True) for part in SURFACES), excluded]

    def numbers(self) -> list[str]:
        """See `CellOperation.numbers`."""
        return [f"{self.mesh.name}-{Noise.kind}"] if self.interpolator.lookup_maps else []

    def makes(self) -> Mapping[str, str | None]:
        """See `CellOperation.makes`."""
        made = {f"surface_{part}": self.interpolator.surface_dtype for part in SURFACES}
        return {self.mesh.path(part): dtype for part, dtype in (made | dict(self.interpolator.lookup_maps)).items()}

    def work(self, cells: Cells) -> CellOutput:
        """See `CellOperation.work`."""
        *maps, excluded = [cells.window(read) for read in self.map_reads()]
        made = {}
        for part, held in zip(SURFACES, maps, strict=True):
            made[f"surface_{part}"] = self.interpolator.of_map(part).surface_values(held, excluded, cells.region)
        if self.interpolator.lookup_maps:
            made |= self.interpolator.lookups(excluded, cells.region, cells.number(self.numbers()[0]))
        return CellOutput({self.mesh.path(part): values for part, values in made.items()})


@dataclass(frozen=True)
class MeshOperations:
    """What finishes a mesh: the operations in order, and which of them makes which map, the noise, the surfaces."""

    all: list[CellOperation | CellNumbers]
    makers: dict[str, str]
    noise: str
    surfaces: str


def mesh_operations(mesh: MeshSource, *, above: Above | None = None) -> MeshOperations:
    """Operations that finish a mesh; ``above``: the mesh of the step that limits it, if one does."""
    step, interpolator = mesh.step, interpolator_of(mesh.step.interpolator)
    found: list[CellOperation | CellNumbers] = []
    if step.reject_sigma is not None:
        found += [Distances(mesh), DistanceScale(mesh, f"{mesh.name}-{Distances.kind}")]
    found.append(ChosenBoxes(mesh, interpolator, found[-1].name if found else None))
    found.append(Noise(mesh, interpolator, found[-1].name))
    noise = found[-1].name
    makers: dict[str, str] = {}
    for operation in interpolator.operations(mesh, noise=noise, above=above):
        found.append(operation)
        if isinstance(operation, CellOperation):
            makers |= dict.fromkeys((path.rpartition("/")[2] for path in operation.makes()), operation.name)
    surfaces = SurfaceValues(mesh, interpolator, makers)
    return MeshOperations([*found, surfaces], makers, noise, surfaces.name)


@dataclass(frozen=True)
class FinishedMesh:
    """A mesh on arrays, and the surfaces through its background, rms and error.

    ``mesh`` is a `Mesh`, for dask arrays lazy (`dask.delayed.Delayed`).
    """

    mesh: Any
    surfaces: tuple[Surface, Surface, Surface]


def finished(
    measured: Sequence[boxes.BoxStatistics],
    step: BackgroundStep | MeshParameters,
    *,
    image: Pair = (0, 0),
    above: Any = None,
    objects: Any = None,
    side: int = LARGEST,
) -> FinishedMesh:
    """Finish a mesh on arrays.

    Parameters
    ----------
    measured : sequence of BoxStatistics
        Statistics of the boxes, level by level (`tiledsky.operations.boxes.array_box_statistics`): numpy or dask.
    step : BackgroundStep or MeshParameters
    image : (int, int)
        Shape of the image, for a step with a ceiling.
    above : sequence of Surface, optional
        Surfaces of the step that limits it, lazy for dask arrays.
    objects : ndarray of `tiledsky.kernels.objects.catalogue.OBJECT`, optional
        Whose light was taken off the image, lazy for dask arrays.
    side : int
        Of the tiles, in cells. Any gives the same bits.

    Raises
    ------
    InputError
        No box with enough pixels; for dask arrays when they are computed.
    """
    known = None if objects is None else "objects"
    mesh = MeshSource(step, tuple(f"level {k}" for k in range(len(measured))), "boxes", known)
    maps = {f"level {k}/{name}": part for k, found in enumerate(measured) for name, part in found._asdict().items()}
    shape, dtype = measured[0].background.shape, measured[0].background.dtype
    operations = mesh_operations(mesh, above=None if above is None else Above("above", ""))
    numbers: dict[str, Any] = {"above": above, "objects": objects}
    do_on_arrays(operations.all, maps, numbers, shape=shape, image=image, dtype=dtype, side=side)
    chosen = interpolator_of(step.interpolator)
    lookups = {name: maps[mesh.path(name)] for name in chosen.lookup_maps}

    def surface(part: str) -> Surface:
        used, held = chosen.of_map(part), maps[mesh.path(part)]
        limits = call(_item, held.min()), call(_item, held.max())
        return Surface(used, step.box_size, maps[mesh.path(f"surface_{part}")], lookups, *limits, dtype)

    parts = {name: maps[mesh.path(name)] for name in (*SURFACES, "excluded")}
    parts["n_good"] = maps[mesh.path("n_good") if step.grow_boxes else "level 0/n_good"]
    fit = {name: maps[mesh.path(name)] for name in chosen.fit_maps}
    made = call(_mesh, parts, fit, numbers[operations.noise], step.box_size)
    background, rms, error = map(surface, SURFACES)
    return FinishedMesh(made, (background, rms, error))


def _mesh(parts: Mapping[str, NDArray[Any]], fit: dict[str, NDArray[Any]], numbers: BoxNumbers, box_size: Pair) -> Mesh:
    return Mesh(**parts, noise_factor=numbers.noise_factor, box_size=box_size, fit=fit)


def _item(value: Any) -> float:
    return float(np.asarray(value).item())
