"""What a recipe needs of the planes of its input."""

from __future__ import annotations

from tiledsky.dq import dq_bits
from tiledsky.errors import InputError
from tiledsky.io.source import Source, parse_header
from tiledsky.planes import check_noise
from tiledsky.recipe import Recipe


def check_planes(recipe: Recipe, source: Source) -> int | None:
    """Check what a recipe needs of the input's planes; return the dq flags that count (None: all, or no dq plane).

    Raises
    ------
    InputError
        No plane says how the noise varies, where the recipe evens it; a dq plane without flags to choose from.
    """
    check_noise(recipe, source.planes)
    dq = source.planes.get("dq")
    bits = None if dq is None else dq_bits(recipe.dq_flags, header=parse_header(source.header))
    if dq is not None and bits is not None and dq.dtype.startswith("float"):
        raise InputError(f"{dq.path}: {dq.dtype} pixels have no flags to choose from; give integers, or dq_flags 'all'")
    return bits
