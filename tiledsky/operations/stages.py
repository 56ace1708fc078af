"""Operations of a run: copies of the input, the steps of its recipe, output and measures."""

from __future__ import annotations

from functools import lru_cache

from tiledsky.operations.base import Operation
from tiledsky.operations.compile import Operations, compiled
from tiledsky.operations.injection import Injection
from tiledsky.operations.inputs import Ingest
from tiledsky.operations.output import Output
from tiledsky.operations.quality import Diagnostics
from tiledsky.recipe import Recipe


@lru_cache(maxsize=32)
def compiled_run(recipe: Recipe) -> Operations:
    """Compile a recipe for runs: copies of the input before its steps; output, injection and measures after them."""
    steps = list(compiled(recipe).all.values())
    injection = [Injection(recipe, steps)] if recipe.injection else []
    return Operations([Ingest(), *steps, Output(recipe, steps), *injection, Diagnostics(recipe, *injection)])


def whole_kinds() -> frozenset[str]:
    """Kinds of operations that are one task for the whole image."""
    waiting, kinds = [Operation], set()
    while waiting:
        found = waiting.pop()
        waiting += found.__subclasses__()
        if found.whole and hasattr(found, "kind"):
            kinds.add(found.kind)
    return frozenset(kinds)
