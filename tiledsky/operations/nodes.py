"""A compiled recipe on arrays: planes and values by the names of their nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiledsky.geometry import Pair
from tiledsky.operations.base import INPUTS, PixelOperation
from tiledsky.operations.compile import compiled
from tiledsky.recipe import Recipe


class Nodes:
    """Planes and values of a recipe on arrays (`tiledsky.operations.base.Arrays`).

    Parameters
    ----------
    recipe : Recipe
        Expanded.
    planes : mapping of str to array or None
        Of the input, by the names of their nodes.
    values : mapping of str, optional
        Values of the whole image that are known: the operations that make them are left out.
    """

    def __init__(self, recipe: Recipe, planes: Mapping[str, Any], *, values: Mapping[str, Any] | None = None) -> None:
        self.operations = compiled(recipe)
        self.nodes: dict[str, Any] = dict(planes)
        self._known = {} if values is None else dict(values)
        self.values: dict[str, Any] = dict(self._known)
        self.meshes: dict[str, Any] = {}
        self.result = self.operations.meshes[recipe.result.name].name

    def plane(self, node: str) -> Any:
        """Pixels of a plane, made if nothing has asked for them before; None of a plane that is not given."""
        if node not in self.nodes and node not in INPUTS:
            self.operations.planes[node].on_arrays(self)
        return self.nodes.get(node)

    def checked(self, value: Any, name: str) -> Any:
        """See `tiledsky.operations.base.Arrays.checked`."""
        return value

    def run(self) -> None:
        """Do all operations; planes that a run would not store are kept until the next that it would."""
        for operation in self.operations.stages:
            if operation.name in self._known:
                continue
            operation.on_arrays(self)
            if isinstance(operation, PixelOperation):
                for node, maker in self.operations.planes.items():
                    if not maker.stored:
                        self.nodes.pop(node, None)


def most_held(recipe: Recipe, always: float, *, size: int, shape: Pair) -> float:
    """Return the most bytes a pixel that all operations hold, beside bands; ``always`` of them from the beginning.

    ``size``: bytes of a pixel of image and sky.
    """
    most = 0.0
    for operation in compiled(recipe).stages:
        held = operation.array_bytes(size, shape)
        most, always = max(most, always + held.working), always + held.kept
    return most
