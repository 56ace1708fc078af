"""What a recipe takes from objects: windows of the image estimated without profiles of known light and with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.windows import LARGE_SIDE, ROW, Pixels, Skies, Taken, design, measured
from tiledsky.geometry import Pair, Region
from tiledsky.operations.base import INPUTS, Operation, Read, SummaryOperation, Task, TaskOutput
from tiledsky.operations.footprints import FootprintTerms
from tiledsky.operations.interpolators import interpolator_of
from tiledsky.operations.memory import READ, Phase, Sizes
from tiledsky.operations.nodes import Nodes, most_held
from tiledsky.operations.reductions import StepStatistics
from tiledsky.recipe import BackgroundStep, Recipe

#: Name of the operation.
INJECTION = "injection"
#: Freed arrays leave holes in memory; bytes a pixel of a window beside the steps: skies, a quarter of a profile.
_MORE, _LIGHT = 1.25, 10
#: Why a recipe is not measured.
_OF_THE_WHOLE = "step {} is a polynomial of the whole image, which windows do not show"
LEFT_OUT = "left out by injection = false in the recipe, or by --no-injection"


class Injection(SummaryOperation):
    """Windows of the image, a task a window or half of it; thresholds of mask steps stay those of the image."""

    kind = name = INJECTION

    def __init__(self, recipe: Recipe, before: Iterable[Operation]) -> None:
        self.recipe, steps = recipe, list(before)
        self.known = known_values(steps)
        read = {read.node for operation in steps for read in operation.reads()}
        self.planes = [node for node in INPUTS if node in read or node in ("science", "base")]
        self.reason = unsuited(recipe)

    def tile(self, shape: Pair, tile_size: int) -> Pair:
        """See `Operation.tile`: tasks follow from the image alone, and so do the numbers."""
        return design(shape).tile

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from map(Read, self.planes)
        yield from (Read(node, None, kept=True) for node in self.known)

    def bytes_read(self, sizes: Sizes) -> int:
        """See `Operation.bytes_read`: windows are a small part of a cell."""
        return 0

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`."""
        values = {node: task.value(node) for node in self.known}

        def plane(node: str, region: Region) -> NDArray[Any] | None:
            patch = task.patch(node, region)
            return None if patch is None else patch.data

        rows, reason = windows_of(self.recipe, task.shape, task.index, self.planes, plane, values)
        return TaskOutput(task.write_parts([rows.tobytes(), reason.encode()]))

    def taken(self, task: Task) -> Taken:
        """All tasks together, in their order, read by another."""
        parts = [parts for _, parts in task.tiles(self.name)]
        return Taken.of([(np.frombuffer(rows, ROW), reason.decode()) for rows, reason in parts])

    def phases(self, sizes: Sizes) -> list[Phase]:
        """See `Operation.phases`: the largest window there can be, and all steps on arrays."""
        side = min(LARGE_SIDE, *sizes.shape)
        pixels, held = side**2, sum(plane.itemsize for plane in sizes.planes.values())
        reading = Phase("reading").add("planes while read", (1 + READ) * held, "px of a window", pixels)
        for name, plane in sizes.planes.items():
            reading.add(f"chunks of {name}", 4 * plane.itemsize, "px a chunk", plane.chunk)
        steps = _MORE * most_held(self.recipe, held + sizes.size + 1, size=sizes.size, shape=(side, side))
        working = Phase("windows").add("steps", steps, "px of a window", pixels)
        return [reading, working.add("light and skies", _LIGHT, "px of a window", pixels)]


def known_values(operations: Iterable[Operation]) -> list[str]:
    """Names of the values that windows have of the whole image: of statistics, and the constants of footprints."""
    return [operation.name for operation in operations if isinstance(operation, StepStatistics | FootprintTerms)]


def unsuited(recipe: Recipe) -> str:
    """Why windows do not tell what a recipe takes; "": they do."""
    of_whole = (
        step.name
        for step in recipe.steps
        if isinstance(step, BackgroundStep) and interpolator_of(step.interpolator).of_whole_image
    )
    return next(map(_OF_THE_WHOLE.format, of_whole), "")


def windows_of(
    recipe: Recipe,
    shape: Pair,
    index: Pair,
    names: Iterable[str],
    plane: Callable[[str, Region], NDArray[Any] | None],
    values: Mapping[str, Any],
) -> tuple[NDArray[np.void], str]:
    """Do one task (`tiledsky.diagnostics.windows.measured`).

    Parameters
    ----------
    recipe : Recipe
        Expanded.
    shape : (int, int)
        Of the image.
    index : (int, int)
        Of the task.
    names : iterable of str
        Planes of the input that a window has; "science" and "base" are among them.
    plane : callable
        Of a name and a region: pixels.
    values : mapping of str
        Values of the whole image that windows have, too, by the names of their operations.
    """
    if reason := unsuited(recipe):
        return np.empty(0, ROW), reason

    def valid(region: Region) -> NDArray[np.bool_]:
        return np.asarray(plane("base", region) == 0)

    def pixels(region: Region) -> Pixels:
        given: dict[str, Any] = {name: plane(name, region) for name in names}
        return Pixels(given["science"], given["base"] == 0, partial(_sky, recipe, given, values))

    return measured(design(shape), shape, index, valid, pixels)


def _sky(recipe: Recipe, planes: Mapping[str, Any], values: Mapping[str, Any], image: NDArray[np.floating]) -> Skies:
    nodes = Nodes(recipe, {**planes, "science": image}, values=values)
    for operation in nodes.operations.stages:
        operation.check(image.shape)
    nodes.run()
    surfaces = nodes.values[nodes.result]
    del nodes  # planes that are made on the way are not held while the sky is drawn
    background, rms = (surface.evaluate(Region.whole(image.shape)) for surface in surfaces[:2])
    return Skies(background, rms)
