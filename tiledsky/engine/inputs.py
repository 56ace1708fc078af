"""The input of a run: opened, with the number that means no data, and what a recipe needs of its planes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, InputWarning, RunError
from tiledsky.geometry import Region
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.fits.select import planes_beside
from tiledsky.io.fits.source import FitsPlane
from tiledsky.io.options import InputOptions
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.source import Source, open_source
from tiledsky.nodata import AUTO, Candidate, look_at, without
from tiledsky.planes import MASK_PLANES, base_mask
from tiledsky.recipe import Recipe, check_footprints, check_noise
from tiledsky.recipe.dq import dq_bits

#: Planes that tell what a number stands for, whatever the recipe: its flags do not.
_OF_NODATA = ("weight", "error", "coverage")


def open_input(
    science: str | os.PathLike[str], *, scratch: Path | None = None, **inputs: Unpack[InputOptions]
) -> Source:
    """Open an input as `tiledsky.io.source.open_source` does, and find the number that ``nodata="auto"`` means.

    A look at the image decides (`tiledsky.nodata`), the same for any tiling: a number in solid patches of 4 x 4 pixels
    at the border, or of 0.5% of the pixels that its weight, error and coverage planes call valid; none if the image has
    no noise to tell it by.
    """
    source = open_source(science, scratch=scratch, **inputs)
    wanted = inputs.get("nodata")
    if not isinstance(wanted, str) or wanted.strip().lower() != AUTO:
        return source
    found = look_at_input(source, _OF_NODATA)
    image = replace(source.planes["science"], nodata=found.nodata)
    return replace(source, planes={**source.planes, "science": image})


def check_planes(recipe: Recipe, source: Source) -> int | None:
    """Check what a recipe needs of the input's planes; return the dq flags that count (None: all, or no dq plane).

    Raises
    ------
    InputError
        No plane says how the noise varies, where the recipe evens it; a dq plane without flags to choose from.
    """
    check_noise(recipe, source.planes)
    check_footprints(recipe, source.planes)
    dq = source.planes.get("dq")
    bits = None if dq is None else dq_bits(recipe.dq_flags, header=parse_header(source.header))
    if dq is not None and bits is not None and dq.dtype.startswith("float"):
        raise InputError(f"{dq.path}: {dq.dtype} pixels have no flags to choose from; give integers, or dq_flags 'all'")
    return bits


def look_at_input(source: Source, names: Sequence[str] | None = None, dq_bits: int | None = None) -> Candidate:
    """Look at the pixels of an image that no plane (of those named) calls invalid or masks."""
    with _opened(source, names) as opened:
        return look_at(_reader(source, opened, dq_bits), source.shape)


def warn_of_constants(source: Source, dq_bits: int | None) -> None:
    """Look at an image, and warn of a number that counts as sky and probably means no data, or of no noise.

    Where pixels cannot be read nothing is said: the tasks meet them, try again, and name the tile.

    Warns
    -----
    InputWarning
        What, where, how much of it, which options tell it from sky.
    """
    try:
        said = look_at_input(source, dq_bits=dq_bits).words(source.planes["science"].path, _beside(source))
    except (InputError, RunError):
        return
    if said is not None:
        warnings.warn(said, InputWarning, stacklevel=2)


@contextmanager
def _opened(source: Source, names: Sequence[str] | None) -> Iterator[dict[str, PlaneReader]]:
    wanted = ("science", *(MASK_PLANES if names is None else names))
    chosen = [n for n in source.planes if n in wanted]
    opened = {name: source.planes[name].open() for name in chosen}
    try:
        yield opened
    finally:
        for plane in opened.values():
            plane.close()


def _reader(source: Source, opened: dict[str, PlaneReader], dq_bits: int | None) -> Callable[[Region], NDArray[Any]]:
    """Return what reads pixels of the image, NaN where a plane has a bit."""
    nodata = source.planes["science"].nodata

    def read(region: Region) -> NDArray[Any]:
        planes = {name: plane.read(region) for name, plane in opened.items()}
        pixels = without(planes.pop("science"), nodata)
        bits = base_mask(pixels, **planes, dq_bits=dq_bits)
        return np.where(bits == 0, pixels, pixels.dtype.type(np.nan))

    return read


def _beside(source: Source) -> list[str]:
    """Options that give the planes which the file of the image holds beside it."""
    image = source.planes["science"]
    if not isinstance(image, FitsPlane):
        return []
    found = planes_beside(Path(image.ref.unpacked or image.ref.path), image.ref.hdu, image.shape)
    known = {role for role in found if role in source.planes or (role == "variance" and "error" in source.planes)}
    return [f"--{role} {image.path}:{name}" for role, name in found.items() if role not in known]
