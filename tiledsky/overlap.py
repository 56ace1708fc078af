"""How a tile gets its halo: the only module that knows.

Every kernel runs in valid mode: it eats its radius on each side. A `Patch` is a piece of an image that knows where it
lies: a side which is a border of the image is padded by the rule of the kernel, any other side gives pixels of its
halo. A chain of kernels on a patch is therefore the same arithmetic, pixel by pixel, as on the whole image.

Two ways lead to patches: `map_patches` (numpy: the whole image is one patch; dask: `dask.array.overlap`), and a run,
which reads tile and halo from its store and calls the same functions. A test holds both to the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiledsky.errors import PlanError
from tiledsky.geometry import Pair, Region, TileGrid

_PAD_MODES: dict[str, Any] = {
    "reflect": {"mode": "symmetric"},  # the edge pixel is repeated: scipy.ndimage's name for it
    "extend": {"mode": "edge"},
    "fill": {"mode": "constant"},
    "set": {"mode": "constant", "constant_values": 1},  # of masks: beyond the border nothing counts
}


@dataclass(frozen=True)
class Patch:
    """Pixels of ``region`` of an image of ``shape``."""

    data: NDArray[Any]
    region: Region
    shape: Pair

    def __post_init__(self) -> None:
        if self.data.shape != self.region.shape:
            raise PlanError(f"patch of {self.data.shape} pixels was said to cover {self.region}; they must agree")

    def padded(self, radius: Pair, mode: str) -> NDArray[Any]:
        """Pixels with ``radius`` more on the sides that are image borders; modes reflect, extend, fill (0), set (1)."""
        r, s = self.region, self.shape
        widths = (
            (radius[0] * (r.y0 == 0), radius[0] * (r.y1 == s[0])),
            (radius[1] * (r.x0 == 0), radius[1] * (r.x1 == s[1])),
        )
        if not any(map(any, widths)):
            return self.data
        return np.pad(self.data, widths, **_PAD_MODES[mode])

    def apply(self, kernel: Callable[[NDArray[Any]], NDArray[Any]], radius: Pair, mode: str) -> Patch:
        """Run a valid-mode ``kernel`` of ``radius`` on the padded pixels."""
        return self.replaced(kernel(self.padded(radius, mode)), radius)

    def replaced(self, data: NDArray[Any], radius: Pair = (0, 0)) -> Patch:
        """Return a patch with new pixels, made by a kernel of ``radius`` from this one."""
        return Patch(data, self.region.inner(radius, self.shape), self.shape)

    def crop(self, region: Region) -> NDArray[Any]:
        """Pixels of ``region``, which must lie in this patch."""
        if not self.region.contains(region):
            raise PlanError(f"{region} needs more halo than was read ({self.region}); the step's halo is short")
        return self.data[region.within(self.region)]

    def cropped(self, region: Region) -> Patch:
        """Patch of ``region``, which must lie in this one."""
        return Patch(self.crop(region), region, self.shape)


PatchFunction = Callable[..., "Patch | NDArray[Any]"]


def is_dask_array(value: Any) -> bool:
    """Whether a value is a dask array; where there is one dask is loaded, which takes half a second otherwise."""
    return isinstance(value, getattr(sys.modules.get("dask.array"), "Array", ()))


def is_delayed(value: Any) -> bool:
    """Whether a value is a single one that dask makes later."""
    return isinstance(value, getattr(sys.modules.get("dask.delayed"), "Delayed", ()))


def lazy_key(value: Any) -> Any:
    """Return the key of a value that dask makes later, for the layer of a graph; others as they are."""
    return value.key if is_delayed(value) else value


def _is_collection(value: Any) -> bool:
    if "dask" not in sys.modules:
        return False
    from dask import is_dask_collection

    return bool(is_dask_collection(value))


def map_patches(
    func: PatchFunction, *arrays: Any, halo: Pair, dtype: DTypeLike, name: str | None = None, **kwargs: Any
) -> Any:
    """Apply ``func(*patches, **kwargs) -> Patch`` to an image in pieces that overlap by ``halo`` pixels.

    Parameters
    ----------
    func : callable
        Gets one `Patch` an array (`None` where the array is `None`), all of one region: a tile and its halo, cut at the
        image borders. Returns a patch that covers at least the tile.
    *arrays : ndarray or dask.array.Array or None, (ny, nx)
        All of one shape. If any is a dask array the result is one, with the chunks of the first.
    halo : (int, int)
        Sum of the radii of the kernels that ``func`` chains.
    dtype : dtype
        Of the result.
    **kwargs
        Passed on; may hold dask collections (a threshold still to be computed), which arrive as their values.

    Returns
    -------
    ndarray or dask.array.Array, (ny, nx)

    Notes
    -----
    Memory: a task holds one chunk and its halo of every array, and what ``func`` makes of them. Chunks smaller than the
    halo are merged with their neighbours for the work (dask takes a halo from next door only), and cut again after.
    """
    given = [a for a in arrays if a is not None]
    shape = given[0].shape
    if not any(map(is_dask_array, given)) and not any(map(_is_collection, kwargs.values())):
        whole = Region.whole(shape)
        patches = [None if a is None else Patch(np.asarray(a), whole, shape) for a in arrays]
        return _pixels(func(*patches, **kwargs), whole, dtype)
    import dask.array as da
    from dask.tokenize import tokenize

    first = next(filter(is_dask_array, given), None)
    chunks = first.chunks if first is not None else ((shape[0],), (shape[1],))
    work = tuple(_at_least(c, h) for c, h in zip(chunks, halo, strict=True))
    token = tokenize(func, halo, np.dtype(dtype), work, kwargs, *arrays)
    blocks = [da.asarray(a).rechunk(work) for a in given]
    depth = {axis: halo[axis] if len(work[axis]) > 1 else 0 for axis in (0, 1)}
    if any(depth.values()):
        blocks = [da.overlap.overlap(b, depth=depth, boundary="none", allow_rechunk=False) for b in blocks]
    result = da.map_blocks(
        _on_block,
        *blocks,
        dtype=np.dtype(dtype),
        meta=np.empty((0, 0), dtype),
        chunks=work,
        name=f"{name or func.__name__}-{token}",
        function=func,
        present=tuple(a is not None for a in arrays),
        starts=tuple(tuple(np.cumsum((0, *c)).tolist()) for c in work),
        halo=halo,
        kwargs=kwargs,
    )
    return result.rechunk(chunks)


def _on_block(
    *blocks: NDArray[Any],
    function: PatchFunction,
    present: tuple[bool, ...],
    starts: tuple[tuple[int, ...], tuple[int, ...]],
    halo: Pair,
    kwargs: dict[str, Any],
    block_id: Pair,
) -> NDArray[Any]:
    (iy, ix), (ys, xs) = block_id, starts
    shape = (ys[-1], xs[-1])
    tile = Region(ys[iy], ys[iy + 1], xs[ix], xs[ix + 1])
    read = tile.grown(halo, shape)
    pieces = iter(blocks)
    patches = [Patch(next(pieces), read, shape) if p else None for p in present]
    return _pixels(function(*patches, **kwargs), tile, None)


def _pixels(result: Patch | NDArray[Any], region: Region, dtype: DTypeLike | None) -> NDArray[Any]:
    pixels = result.crop(region) if isinstance(result, Patch) else result
    return np.ascontiguousarray(pixels, dtype=dtype)


def _at_least(chunks: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Merge neighbouring chunks until each has ``size`` pixels (or is the whole axis)."""
    merged: list[int] = []
    for c in chunks:
        if merged and (merged[-1] < size):
            merged[-1] += c
        else:
            merged.append(c)
    if len(merged) > 1 and merged[-1] < size:
        last = merged.pop()
        merged[-1] += last
    return tuple(merged)


def align(array: Any, box: Pair) -> Any:
    """Give a dask array chunks that are whole numbers of ``box``; other arrays as they are.

    So no box straddles two chunks. Chunk sizes stay near those that came; only the statistics of boxes see them.
    """
    if not is_dask_array(array):
        return array
    return array.rechunk(tuple(_aligned(c, b) for c, b in zip(array.chunks, box, strict=True)))


def _aligned(chunks: tuple[int, ...], box: int) -> tuple[int, ...]:
    if not any(size % box for size in chunks[:-1]):
        return chunks
    size = TileGrid((sum(chunks), 1), (max(max(chunks) // box, 1) * box, 1))
    return tuple(size.region((i, 0)).shape[0] for i in range(size.counts[0]))


def blank(image: Any) -> Any:
    """Return an array of bool with the shape and chunks of ``image`` that takes no memory: where its pixels lie."""
    if not is_dask_array(image):
        return np.broadcast_to(np.False_, image.shape)
    import dask.array as da

    return da.zeros(image.shape, chunks=image.chunks, dtype=bool)


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call ``func`` now, or lazily (`dask.delayed`) where an argument is or holds a dask collection."""
    if "dask" not in sys.modules:
        return func(*args, **kwargs)
    # of an array itself `delayed` makes all tasks anew, under other names, so that they are done twice
    args = tuple(_joined(arg) if is_dask_array(arg) else arg for arg in args)
    if _holds_collection((args, kwargs)):
        from dask.delayed import delayed

        return delayed(func, pure=True)(*args, **kwargs)
    return func(*args, **kwargs)


def _holds_collection(value: Any) -> bool:
    """Whether a value is a dask collection, or one lies in its items or fields, however deep."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_collection, value))
    if isinstance(value, dict):
        return any(map(_holds_collection, value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return any(_holds_collection(getattr(value, field.name)) for field in fields(value))
    return _is_collection(value)


def _joined(array: Any) -> Any:
    """Return a dask array as one object that is computed later."""
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    name = f"joined-{array.name}"
    layer: dict[Any, Any] = {name: (np.block, array.__dask_keys__())}
    return Delayed(name, HighLevelGraph.from_collections(name, layer, dependencies=[array]))


def cut(array: Any, region: Region) -> Any:
    """Task that makes a part of a dask array from the chunks that hold it, for the layer of a graph.

    Slices of a dask array would be layers of their own, and arguments of `call` are optimised each time.
    """
    starts = [np.cumsum((0, *sizes)).tolist() for sizes in array.chunks]
    spans = []
    for edges, (start, stop) in zip(starts, ((region.y0, region.y1), (region.x0, region.x1)), strict=True):
        spans.append((int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))))
    (top, bottom), (left, right) = spans
    keys = [[(array.name, iy, ix) for ix in range(left, right)] for iy in range(top, bottom)]
    held = Region(starts[0][top], starts[0][bottom], starts[1][left], starts[1][right])
    return (_part, keys, region.within(held))


def _part(chunks: list[list[NDArray[Any]]], inner: tuple[slice, slice]) -> NDArray[Any]:
    part: NDArray[Any] = (chunks[0][0] if len(chunks) == len(chunks[0]) == 1 else np.block(chunks))[inner]
    return part
