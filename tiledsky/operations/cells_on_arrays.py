"""Operations on the cells of a mesh on arrays: of dask arrays no task holds more than a tile and its halo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region, TileGrid, mesh_shape
from tiledsky.operations.cells import LARGEST, CellNumbers, CellOperation, CellOutput, MapRead
from tiledsky.overlap import Patch, cut, is_dask_array, is_delayed, lazy_key


@dataclass(frozen=True)
class _Cells:
    """A tile of a mesh; see `tiledsky.operations.cells.Cells`."""

    region: Region
    shape: Pair
    image: Pair
    windows: Mapping[MapRead, Patch]
    numbers: Mapping[str, Any]

    def window(self, read: MapRead) -> Patch:
        return self.windows[read]

    def number(self, operation: str) -> Any:
        return self.numbers[operation]


def do_on_arrays(
    operations: Iterable[CellOperation | CellNumbers],
    maps: dict[str, Any],
    numbers: dict[str, Any],
    *,
    image: Pair,
    dtype: np.dtype[Any],
    shape: Pair | None = None,
    side: int = LARGEST,
) -> None:
    """Do operations on a mesh tile by tile.

    Parameters
    ----------
    operations : iterable
        In order.
    maps : dict of str to array (nby, nbx)
        By path: statistics of the boxes; gets the maps that are made. Lazy if these are dask arrays.
    numbers : dict
        By the name of the operation; gets those of the whole mesh, lazy for dask arrays.
    image : (int, int)
        Shape of the image.
    dtype : dtype
        Of image and sky.
    shape : (int, int), optional
        Of the mesh; None: of each operation's boxes, of the image.
    side : int
        Of the tiles, in cells: a multiple of `tiledsky.operations.cells.UNIT`. Any gives the same bits.
    """
    lazy = any(map(is_dask_array, maps.values()))
    does, summaries = _Lazy if lazy else _Eager, dict[str, Any]()
    for operation in operations:
        if isinstance(operation, CellNumbers):
            parts = summaries.pop(operation.source)
            numbers[operation.name] = does.number(operation, parts)
            continue
        grid = TileGrid(shape or mesh_shape(image, operation.box_size), (side, side))
        done = does(operation, maps, numbers, image=image, grid=grid)
        summaries[operation.name] = done.parts
        for path, given in operation.makes().items():
            maps[path] = done.map(path, dtype if given is None else np.dtype(given))


class _Eager:
    """An operation on numpy arrays."""

    def __init__(
        self,
        operation: CellOperation,
        maps: Mapping[str, Any],
        numbers: Mapping[str, Any],
        *,
        image: Pair,
        grid: TileGrid,
    ) -> None:
        self.grid, self.parts, known = grid, [], {name: numbers[name] for name in _known(operation)}
        self.tiles: dict[str, list[NDArray[Any]]] = {path: [] for path in operation.makes()}
        for region in map(grid.region, grid):
            places = _places(operation, maps, region, grid.shape)
            windows = [maps[read.path][part.slices] for read, part, _ in places]
            made = _work(operation, region, grid.shape, image, places, windows, list(known), list(known.values()))
            self.parts.append(made.parts)
            for path, held in self.tiles.items():
                held.append(made.maps[path])

    @staticmethod
    def number(operation: CellNumbers, parts: list[Sequence[bytes]]) -> Any:
        return _number(operation, parts)

    def map(self, path: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Join the tiles of a map, which are given up."""
        tiles, across = self.tiles.pop(path), self.grid.counts[1]
        return np.block([tiles[k : k + across] for k in range(0, len(tiles), across)])


class _Lazy:
    """An operation on dask arrays: one layer of a graph with a task a tile, and one for each map."""

    def __init__(
        self,
        operation: CellOperation,
        maps: Mapping[str, Any],
        numbers: Mapping[str, Any],
        *,
        image: Pair,
        grid: TileGrid,
    ) -> None:
        from dask.highlevelgraph import HighLevelGraph
        from dask.tokenize import tokenize

        self.operation, self.grid = operation, grid
        read = {each.path: maps[each.path] for each in operation.map_reads()}
        known = {name: numbers[name] for name in _known(operation)}
        self.name = f"{operation.name}-{tokenize(operation, grid, image, *read.values(), *known.values())}"
        values, layer = [lazy_key(value) for value in known.values()], dict[Any, Any]()
        for index in grid:
            region = grid.region(index)
            places = _places(operation, maps, region, grid.shape)
            windows = [cut(maps[each.path], part) for each, part, _ in places]
            work = operation, region, grid.shape, image, places, windows, list(known), values
            layer[self.name, *index] = (_work, *work)
        lazy = [*read.values(), *filter(is_delayed, known.values())]
        self.graph = HighLevelGraph.from_collections(self.name, layer, dependencies=lazy)

    @property
    def parts(self) -> _Lazy:
        """Itself: summaries are looked up by `number`."""
        return self

    @staticmethod
    def number(operation: CellNumbers, parts: _Lazy) -> Any:
        name = f"{operation.name}-{parts.name}"
        summaries = [(_summary, (parts.name, *index)) for index in parts.grid]
        return _delayed(name, {name: (_number, operation, summaries)}, parts)

    def map(self, path: str, dtype: np.dtype[Any]) -> Any:
        import dask.array as da

        name = f"{path.replace('/', '-')}-{self.name}"
        layer = {(name, *index): (_map_of, (self.name, *index), path) for index in self.grid}
        edges: list[list[int]] = []
        for axis in (0, 1):
            corners = [*range(0, self.grid.shape[axis], self.grid.tile[axis]), self.grid.shape[axis]]
            edges.append([self.operation.on_grid(path, (at, at), self.grid.shape)[axis] for at in corners])
        chunks = tuple(tuple(np.diff(edge).tolist()) for edge in edges)
        return da.Array(_with(self.graph, name, layer, self.name), name, chunks, dtype=dtype)


def _with(graph: Any, name: str, layer: dict[Any, Any], before: str) -> Any:
    """Return a graph with one layer more, which depends on one that is there."""
    from dask.highlevelgraph import HighLevelGraph

    return HighLevelGraph({**graph.layers, name: layer}, {**graph.dependencies, name: {before}})


def _delayed(name: str, layer: dict[Any, Any], done: _Lazy) -> Any:
    from dask.delayed import Delayed

    return Delayed(name, _with(done.graph, name, layer, done.name))


def _known(operation: CellOperation) -> list[str]:
    """Names of the numbers, and of the surfaces, that it needs."""
    return [*operation.numbers(), *([] if operation.above is None else [operation.above.mesh])]


def _places(
    operation: CellOperation, maps: Mapping[str, Any], region: Region, shape: Pair
) -> list[tuple[MapRead, Region, Pair]]:
    """Maps that an operation reads, the parts that it needs for a tile, and their shapes."""
    held = [(read, maps[read.path].shape) for read in operation.map_reads()]
    return [(read, read.region(region, shape, whole[1]), whole) for read, whole in held]


def _work(
    operation: CellOperation,
    region: Region,
    shape: Pair,
    image: Pair,
    places: Sequence[tuple[MapRead, Region, Pair]],
    windows: Sequence[NDArray[Any]],
    names: Sequence[str],
    numbers: Sequence[Any],
) -> CellOutput:
    held = {read: Patch(window, part, whole) for (read, part, whole), window in zip(places, windows, strict=True)}
    return operation.work(_Cells(region, shape, image, held, dict(zip(names, numbers, strict=True))))


def _summary(made: CellOutput) -> Sequence[bytes]:
    return made.parts


def _map_of(made: CellOutput, path: str) -> NDArray[Any]:
    return made.maps[path]


def _number(operation: CellNumbers, parts: list[Sequence[bytes]]) -> Any:
    return operation.number(operation.combine(iter(parts)))
