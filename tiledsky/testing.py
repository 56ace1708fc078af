"""For tests of code that builds on tiledsky: does a result depend on how the image is cut into chunks?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask import compute, is_dask_collection
from numpy.typing import ArrayLike, NDArray

from tiledsky.errors import ParameterError

#: What `dask.array.from_array` takes for an image: a chunk's size, or the sizes of all chunks, along y and x.
Chunks = tuple[int | tuple[int, ...], int | tuple[int, ...]]


def irregular_chunkings(shape: Sequence[int]) -> list[Chunks]:
    """Eight ways to cut an image that find most errors of tiling.

    Parameters
    ----------
    shape : (ny, nx)
        At least 14 pixels each way.

    Returns
    -------
    list of (int or tuple of int, int or tuple of int)
        One chunk larger than the image; one row and column of pixels as edge chunks; a few chunks of 1 to 3 pixels
        beside large ones; many chunks of 1/7 of the image, smaller than most halos; strips of rows; strips of columns;
        unequal quarters; sizes without a common divisor. The same list for the same shape.

    Raises
    ------
    ParameterError
        An image smaller than 14 pixels.
    """
    ny, nx = int(shape[0]), int(shape[1])
    if min(ny, nx) < 14:
        raise ParameterError(f"an image of {ny} x {nx} px has no irregular chunkings; use one of at least 14 x 14 px")
    return [
        (2 * ny, 3 * nx),
        ((1, ny // 2, ny - ny // 2 - 2, 1), (1, nx // 2, nx - nx // 2 - 2, 1)),
        ((3, 2, ny // 3, ny - ny // 3 - 7, 2), (nx // 2, nx - nx // 2 - 6, 2, 1, 3)),
        (-(-ny // 7), -(-nx // 7)),
        (-(-ny // 6), nx),
        (ny, -(-nx // 5)),
        ((ny // 3, ny - ny // 3), (nx - nx // 4, nx // 4)),
        (min(37, ny // 2), min(53, nx // 2 + 1)),
    ]


def assert_tile_invariant(
    func: Callable[..., Any],
    image: NDArray[Any],
    *,
    chunks: Iterable[Chunks] | None = None,
    **planes: ArrayLike | None,
) -> None:
    """Check that ``func`` gives the same bits for numpy arrays and for dask arrays in any chunks.

    Parameters
    ----------
    func : callable
        ``func(image, **planes)``, e.g. a builder of tiledsky with its parameters bound. May return arrays, numbers,
        dataclasses, mappings or sequences of them, and lazy ones (`dask.delayed.Delayed`) for dask arrays.
    image : ndarray, (ny, nx)
        Any dtype, any unit.
    chunks : iterable, optional
        Ways to cut the image, as `dask.array.from_array` takes them; default `irregular_chunkings`.
    **planes : array_like, (ny, nx), or None
        Further arguments of ``func`` (weight, mask, ...), cut as the image is. None is passed on.

    Raises
    ------
    AssertionError
        Values that differ in a bit (NaN equals NaN), with the first such pixel in row order, how many there are and
        where; another dtype or shape; an array of the image's shape that is not lazy, or not in the image's chunks; an
        input that was changed.
    ParameterError
        A plane of another shape; a masked array or a Quantity; no chunks.

    Notes
    -----
    Memory: the image, its planes and all results twice. Runs on dask's current scheduler.
    """
    for name, plane in {"image": image, **planes}.items():
        if isinstance(plane, np.ma.MaskedArray) or getattr(plane, "unit", None) is not None:
            raise ParameterError(
                f"{name} has a mask or a unit, which is lost when it is cut into chunks; pass plain values, NaN where "
                "they are masked"
            )
    image = np.asarray(image)
    others = {k: None if v is None else np.asarray(v) for k, v in planes.items()}
    given = {"image": image, **others}
    for name, plane in given.items():
        if plane is not None and plane.shape != image.shape:
            raise ParameterError(f"plane {name} {plane.shape} and image {image.shape} differ in shape; give one grid")
    cuts = irregular_chunkings(image.shape) if chunks is None else list(chunks)
    if not cuts:
        raise ParameterError("no chunks to try, so nothing would be tested; give at least one in chunks")
    before = {k: None if v is None else v.copy() for k, v in given.items()}
    whole = dict(_leaves(func(image, **others)))
    if not whole:
        raise AssertionError("func returned nothing to compare; it must return arrays or numbers")
    _check_unchanged(given, before, "numpy arrays")
    for cut in cuts:
        where = f"chunks {cut}"
        cut_image = da.from_array(image, chunks=cut)
        tiled = {k: None if v is None else da.from_array(v, chunks=cut) for k, v in others.items()}
        result = func(cut_image, **tiled)
        _check_lazy(result, whole, image.shape, cut_image.chunks, where)
        (computed,) = compute(result)
        _check_unchanged(given, before, where)
        parts = dict(_leaves(computed))
        if parts.keys() != whole.keys():
            raise AssertionError(f"{where}: func returned {sorted(parts)}, of the whole image {sorted(whole)}")
        for name, value in parts.items():
            difference = _difference(value, whole[name])
            if difference:
                raise AssertionError(f"{where}: {name or 'result'}{difference}")


def _leaves(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays and numbers of a result, each with a name that tells where it was."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from _leaves(getattr(result, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _leaves(value, f"{name}[{key!r}]")
    elif isinstance(result, list | tuple):
        for index, value in enumerate(result):
            yield from _leaves(value, f"{name}[{index}]")
    elif result is not None:
        yield name, result


def _check_lazy(
    result: Any, whole: Mapping[str, Any], shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...], where: str
) -> None:
    """Arrays of the image's shape must be dask arrays in its chunks."""
    for name, value in _leaves(result):
        label = name or "result"
        if isinstance(value, da.Array):
            if value.shape == shape and value.chunks != chunks:
                raise AssertionError(f"{where}: {label} came in chunks {value.chunks}, not in the image's {chunks}")
            if name in whole and value.dtype != whole[name].dtype:
                raise AssertionError(
                    f"{where}: {label} promises {value.dtype}; of the whole image it is {whole[name].dtype}"
                )
        elif not is_dask_collection(value) and np.shape(value) == shape:
            raise AssertionError(f"{where}: {label} was computed at once; for dask arrays func must return dask arrays")


def _check_unchanged(given: Mapping[str, Any], before: Mapping[str, Any], where: str) -> None:
    for name, plane in given.items():
        if plane is not None and _different(plane, before[name]).any():
            raise AssertionError(f"{where}: func changed its input {name}")


def _difference(value: Any, expected: Any) -> str:
    """What differs between two leaves, or nothing."""
    if isinstance(value, str | np.dtype | type) or isinstance(expected, str | np.dtype | type):
        return "" if value == expected else f" is {value!r}; of the whole image it is {expected!r}"
    a, b = np.asarray(value), np.asarray(expected)
    if a.shape != b.shape:
        return f" has shape {a.shape}; of the whole image it is {b.shape}"
    if a.dtype != b.dtype:
        return f" is {a.dtype}; of the whole image it is {b.dtype}"
    wrong = _different(a, b)
    if not wrong.any():
        return ""
    if not a.ndim:
        return f" = {a[()]!r}; of the whole image it is {b[()]!r}"
    places = np.argwhere(wrong)
    first = tuple(places[0].tolist())
    low, high = places.min(axis=0).tolist(), places.max(axis=0).tolist()
    spans = ", ".join(f"{lo}..{hi}" for lo, hi in zip(low, high, strict=True))
    return (
        f" at pixel {first} = {a[first]!r}; of the whole image it is {b[first]!r}; "
        f"{len(places)} of {a.size} pixels differ, all in [{spans}]"
    )


def _different(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one dtype differ in a bit; all NaN are one."""
    if a.dtype.kind == "O":
        return np.asarray(a != b, dtype=bool)
    size = a.dtype.itemsize
    bits = [np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(*x.shape, size) for x in (a, b)]
    different = np.asarray((bits[0] != bits[1]).any(axis=-1))
    if a.dtype.kind in "fc":
        different &= ~(np.isnan(a) & np.isnan(b))
    return different
