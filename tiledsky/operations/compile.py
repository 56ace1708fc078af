"""A recipe as a list of operations, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from tiledsky.geometry import Pair
from tiledsky.operations.background import MeshOperation, background_operations
from tiledsky.operations.base import INPUTS, Operation, PixelOperation, Read
from tiledsky.operations.footprints import FootprintTerms, footprints_operations
from tiledsky.operations.inputs import Ingest
from tiledsky.operations.mask import mask_operations
from tiledsky.operations.objects import Catalogue, objects_operations
from tiledsky.operations.ring import ring_operations
from tiledsky.recipe import BackgroundStep, FootprintsStep, MaskStep, ObjectsStep, Recipe, RingStep


class Operations:
    """Operations of a recipe, by name and by what they make."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        #: All, in the order in which they are done.
        self.all: Mapping[str, Operation] = MappingProxyType({o.name: o for o in operations})
        pixels = [o for o in self.all.values() if isinstance(o, PixelOperation)]
        #: Pixel operations by the node that they make.
        self.planes: Mapping[str, PixelOperation] = MappingProxyType({o.output: o for o in pixels})

    def __getitem__(self, name: str) -> Operation:
        return self.all[name]

    @property
    def meshes(self) -> dict[str, MeshOperation]:
        """Operations that make a mesh, by step."""
        return {str(o.step): o for o in self.all.values() if isinstance(o, MeshOperation)}

    @property
    def objects(self) -> Catalogue | None:
        """Operation that makes the catalogue of large objects, if one does."""
        return next((o for o in self.all.values() if isinstance(o, Catalogue)), None)

    @property
    def footprints(self) -> FootprintTerms | None:
        """Operation that makes the constants of footprints that the result has, if one does."""
        found = [o for o in self.all.values() if isinstance(o, FootprintTerms)]
        return found[-1] if found else None

    @property
    def stages(self) -> list[Operation]:
        """Operations that a run does tasks of: all but planes that are made where they are read."""
        return [o for o in self.all.values() if not isinstance(o, PixelOperation) or o.stored]

    def stored_reads(self, operation: Operation) -> list[Read]:
        """What the tasks of an operation read of others in a store, each once: the nodes are names of operations."""
        found: dict[tuple[str, bool], Read] = {}
        waiting = list(operation.reads())
        while waiting:
            read = waiting.pop(0)
            maker = self.planes.get(read.node)
            if maker is not None and not maker.stored:
                waiting[:0] = [_grown(inner, read.halo) for inner in maker.reads()]
                continue
            name = Ingest.name if read.node in INPUTS else read.node if maker is None else maker.name
            key = name, read.kept
            halo = read.halo if key not in found else _larger(found[key].halo, read.halo)
            found[key] = Read(name, halo, read.kept)
        return list(found.values())

    def pixel_nodes(self, operation: Operation) -> list[str]:
        """Planes that the tasks of an operation read, of the input or of others in a store, each once."""
        return [node for node in self._reached(operation) if node in INPUTS or self.planes[node].stored]

    def map_reads(self, operation: Operation) -> list[str]:
        """Paths of the maps of meshes that the tasks of an operation read."""
        made = [self.planes[node] for node in self._reached(operation) if node not in INPUTS]
        return [path for o in (operation, *(m for m in made if not m.stored)) for path in o.map_arrays()]

    def _reached(self, operation: Operation) -> list[str]:
        """Planes that an operation reads, and those that are made of others where it reads them."""
        found: dict[str, None] = {}
        waiting = [read.node for read in operation.reads()]
        while waiting:
            node = waiting.pop(0)
            if node in found or (node not in INPUTS and node not in self.planes):
                continue
            found[node] = None
            if node not in INPUTS and not self.planes[node].stored:
                waiting += [read.node for read in self.planes[node].reads()]
        return list(found)


def _grown(read: Read, halo: Pair | None) -> Read:
    """Return what is read for a region and its halo."""
    if read.halo is None or halo is None:
        return read
    return Read(read.node, (read.halo[0] + halo[0], read.halo[1] + halo[1]), read.kept)


def _larger(one: Pair | None, other: Pair | None) -> Pair | None:
    """Return the larger of two halos; None is the whole image."""
    return None if one is None or other is None else (max(one[0], other[0]), max(one[1], other[1]))


@lru_cache(maxsize=32)
def compiled(recipe: Recipe) -> Operations:
    """Compile a recipe, whose cumulative masks are expanded (`tiledsky.recipe.recipe.Recipe.expanded`)."""
    operations: list[Operation] = []
    for step in recipe.steps:
        operations += STEPS[type(step)](recipe, step, tuple(operations))
    return Operations(operations)


#: Operations of a step, by its class: a function of the recipe, the step, and the operations of the steps before it.
STEPS: dict[type[Any], Callable[[Recipe, Any, Sequence[Operation]], Iterable[Operation]]] = {
    RingStep: ring_operations,
    MaskStep: mask_operations,
    BackgroundStep: background_operations,
    ObjectsStep: objects_operations,
    FootprintsStep: footprints_operations,
}
