"""Surfaces through a finished mesh, and meshes alone."""

from __future__ import annotations

from typing import Any

from tiledsky.geometry import Region
from tiledsky.operations.filtered_maps import SURFACES, BoxNumbers
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.mesh import Mesh, finished
from tiledsky.operations.surface import Surface
from tiledsky.overlap import Patch
from tiledsky.recipe import InterpolatorParameters


def finish(levels: Any, step: Any, **options: Any) -> Mesh:
    """Finish a mesh from the statistics of its boxes."""
    mesh: Mesh = finished(levels, step, **options).mesh
    return mesh


def surfaces(mesh: Mesh, interpolator: InterpolatorParameters) -> list[Surface]:
    """Surfaces of background, rms and error."""
    chosen = interpolator_of(interpolator)
    shape = mesh.excluded.shape
    whole = Region.whole(shape)
    excluded, lookups = Patch(mesh.excluded, whole, shape), {}
    if chosen.lookup_maps:
        parts = chosen.box_parts(excluded.replaced(mesh.rms), ~mesh.excluded, whole)
        lookups = chosen.lookups(excluded, whole, BoxNumbers(1.0, 1.0, True, {}, chosen.merge_box_parts(iter([parts]))))
    found = []
    for part in SURFACES:
        cells, used = getattr(mesh, part), chosen.of_error if part == "error" else chosen
        values = used.surface_values(excluded.replaced(cells), excluded, whole)
        found.append(Surface(used, mesh.box_size, values, lookups, cells.min(), cells.max(), cells.dtype))
    return found
