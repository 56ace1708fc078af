"""What an operation is: one part of a recipe that knows what it reads, writes, holds in memory and does.

`tiledsky.operations.compile` makes a list of operations of a recipe, once (`tiledsky.operations.stages` for runs). Two
executors run the list and know none of its kinds: `tiledsky.arrays.estimate` on numpy and dask arrays,
`tiledsky.engine` on stores, where each operation is one stage of tasks.

Operations pass on *nodes*, each with a name. Planes of pixels: ``science``, ``base`` (bits that are known before any
step), ``weight``, ``error``, ``coverage``, and the outputs of `PixelOperation` (ring ``NAME``, mask ``NAME``,
``NAME/detection``, ``NAME/background`` ...). Values of the whole image, each with the name of the operation that makes
it: ``NAME-statistics``, ``NAME-mesh`` ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.operations.memory import Phase, Sizes
from tiledsky.overlap import Patch, blank, map_patches
from tiledsky.recipe import FOOTPRINTS, AnyStep, Recipe

if TYPE_CHECKING:
    from tiledsky.operations.background import Boxes

NO_HALO: Pair = (0, 0)
#: Planes of the input that operations read by name; what the input has no plane for arrives as None.
INPUTS = ("science", "base", "weight", "error", "coverage", *FOOTPRINTS)


class Read(NamedTuple):
    """A node that an operation reads: planes with ``halo`` pixels about the tile; None: a value of the whole image.

    ``kept``: of what the operation makes, only what a run keeps, whatever became of the rest.
    """

    node: str
    halo: Pair | None = NO_HALO
    kept: bool = False


def summary_file(operation: str, index: Pair) -> str:
    """Path within the run folder of the summary of a task."""
    return f"summaries/{operation}/{index[0]}.{index[1]}.bin"


def bits_of(recipe: Recipe, step: AnyStep) -> str:
    """Node of the bits that a step leaves out: of the mask that it uses, else those known before any step."""
    before = recipe.mask_for(step)
    return "base" if before is None else before.name


def catalogue_of(objects: str) -> str:
    """Name of the operation whose value is the catalogue of the objects of a step."""
    return f"{objects}-catalogue"


def without_light(objects: str) -> str:
    """Node of the image minus the light of the objects of a step."""
    return f"{objects}/science"


def footprint_offsets(step: str) -> str:
    """Node of the constants of footprints at each pixel, of a footprints step."""
    return f"{step}/offsets"


def without_footprints(step: str) -> str:
    """Node of the image minus these constants."""
    return f"{step}/science"


def image_of(recipe: Recipe, step: AnyStep) -> str:
    """Node of the image that a step works on.

    Without the light of objects, where its mask has them; without the constants of footprints that are known before.
    """
    objects, footprints = recipe.objects_for(step), recipe.footprints_for(step)
    if objects is not None:
        return without_light(objects.name)
    return "science" if footprints is None else without_footprints(footprints.name)


@dataclass(frozen=True)
class ArraySpec:
    """One array that an operation writes to a store: tiles of a plane or of a mesh."""

    shape: Pair
    dtype: str
    tile: Pair
    mask_bits: bool = False

    def indices(self) -> Iterator[Pair]:
        """Indices of its objects."""
        ny, nx = (-(-n // t) for n, t in zip(self.shape, self.tile, strict=True))
        return ((iy, ix) for iy in range(ny) for ix in range(nx))


class Image(NamedTuple):
    """What the arrays of a run follow from: shape and dtype of image and sky, dtypes of the planes of the input."""

    shape: Pair
    dtype: str
    planes: dict[str, str]


class Task(Protocol):
    """One task of an operation on a store: what it may read and write. `tiledsky.engine.context` has it."""

    recipe: Recipe
    index: Pair
    #: Of the tile, without its halo.
    region: Region
    #: Shape of the image; dtype of image and sky.
    shape: Pair
    dtype: str

    def has(self, plane: str) -> bool:
        """Whether the input has a plane."""

    def patch(self, node: str, region: Region) -> Patch | None:
        """Pixels of a plane; None of a plane that the input has not."""

    def value(self, node: str) -> Any:
        """A value of the whole image, as the operation that makes it reads it back (`Operation.load`)."""

    def array(self, path: str) -> Any:
        """An array of the store, not read yet."""

    def inputs(self, region: Region) -> Iterator[tuple[str, NDArray[Any]]]:
        """Pixels of the planes of the input as its files have them, one plane after the other."""

    def outside(self, base: Patch) -> NDArray[np.bool_] | None:
        """Where the result has the recipe's fill value; None: nowhere."""

    def to_sky(self) -> Callable[[Any, Any], tuple[Any, Any]] | None:
        """Right ascension and declination of pixels (ICRS, degrees), from x and y, if the image has them."""

    def unit(self) -> str | None:
        """Unit of the image, if its header has one."""

    def tile_of(self, operation: str) -> Pair:
        """Size of the tiles of an operation."""

    def write(self, path: str, region: Region, data: NDArray[Any]) -> str:
        """Write one whole object of an array; return its path."""

    def write_parts(self, parts: Sequence[bytes]) -> list[str]:
        """Write the summary of the task; return its path."""

    def parts(self, operation: str) -> Iterator[list[bytes]]:
        """Summaries of an operation, in row order: of all tiles, maybe merged in blocks."""

    def part(self, operation: str, which: int, region: Region | None = None) -> Iterator[bytes]:
        """One part of the summaries: of the tiles within a region, or of all tiles, maybe merged in blocks."""

    def tiles(self, operation: str) -> Iterator[tuple[Region, list[bytes]]]:
        """Summaries of all tiles of an operation, each with its region."""

    def write_facts(self, name: str, facts: Any) -> list[str]:
        """Write a document of the run; return its path."""

    def tiers(self, step: str) -> list[dict[str, Any]]:
        """Checked document with statistics and thresholds of a step."""

    def range_of(self, step: str, part: str) -> tuple[float, float]:
        """Checked range of the values of a map of a mesh."""

    def objects_of(self, step: str) -> NDArray[np.void]:
        """Checked catalogue of the objects of a step."""

    def footprints_of(self, step: str) -> NDArray[np.void]:
        """Checked constants of the footprints of a step."""


class Arrays(Protocol):
    """Nodes of a recipe on arrays: numpy, or lazy ones of dask. `tiledsky.arrays.estimate` has it."""

    nodes: dict[str, Any]
    values: dict[str, Any]
    meshes: dict[str, Any]

    def plane(self, node: str) -> Any:
        """Pixels of a plane, made if nothing has asked for them before; None of a plane that is not given."""

    def checked(self, value: Any, name: str) -> Any:
        """A value of an operation, with a warning when it is made if a lazy image holds numbers that mean no data."""


class PixelBytes(NamedTuple):
    """Bytes a pixel of the whole image: while an operation works, and what is kept of it after."""

    working: float
    kept: float


@dataclass(frozen=True)
class TaskOutput:
    """Objects that a task wrote, and whether it left no pixel for the sky."""

    paths: list[str]
    all_masked: bool = False


class Operation(ABC):
    """A part of a recipe.

    Attributes
    ----------
    kind : str
        Of its stage, in plans and messages.
    whole : bool
        One task for the whole image.
    name : str
        Of its stage, and of the value that it makes.
    step : str or None
        Step of the recipe that it works for.
    """

    kind: ClassVar[str]
    whole: ClassVar[bool] = False
    name: str
    step: str | None = None
    #: Whether tasks of one process share its value, which is small or left in the store.
    shared: ClassVar[bool] = False
    #: Boxes that are measured in the same pass.
    measured: tuple[Boxes, ...] = ()

    @property
    def merges(self) -> str | None:
        """Operation whose summaries it merges block by block, where the image has many tiles; None: of none."""
        return None

    def boxes(self) -> list[Pair]:
        """Sizes that a tile has to hold a whole number of."""
        return []

    def tile(self, shape: Pair, tile_size: int) -> Pair | None:
        """Size of its tiles for an image of ``shape`` whose tiles are near ``tile_size``; None: as its boxes want."""
        return None

    def check(self, shape: Pair) -> None:  # noqa: B027 (most can work on any)
        """Refuse an image of ``shape`` that it cannot work on, with an InputError."""

    def overviews(self, shape: Pair) -> tuple[int, ...]:
        """Sides of the blocks whose means it writes beside the planes of an image of ``shape``."""
        return ()

    @property
    def halo(self) -> Pair:
        """Pixels around its tile that a task reads: the most of all that it reads."""
        halos = [read.halo for read in self.reads() if read.halo is not None]
        return max((h[0] for h in halos), default=0), max((h[1] for h in halos), default=0)

    @abstractmethod
    def reads(self) -> Iterator[Read]:
        """Nodes that a task reads."""

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """Arrays of the store that its tasks write, by path."""
        return {}

    def files(self, index: Pair) -> list[str]:
        """Paths within the run folder of what a task writes beside arrays."""
        return []

    @property
    def kept(self) -> bool:
        """Whether a run keeps what it writes; else it is thrown away when the run ends."""
        return True

    @property
    def scratch(self) -> tuple[str, ...]:
        """Paths of arrays that are thrown away when the run ends."""
        return ()

    def bytes_read(self, sizes: Sizes) -> int | None:
        """Bytes a pixel of the planes that a task reads; None: those of its nodes, each once."""
        return None

    def map_arrays(self) -> list[str]:
        """Paths of the maps of meshes that its tasks read; twice if they are read twice."""
        return []

    def box_sizes(self) -> dict[str, Pair]:
        """Sizes of the boxes that it works on, by step, to be shown."""
        return {boxes.parameters.name: boxes.parameters.box_size for boxes in self.measured}

    @property
    def measures(self) -> tuple[str, ...]:
        """Steps whose boxes are measured in the same pass."""
        return tuple(boxes.parameters.name for boxes in self.measured)

    @abstractmethod
    def phases(self, sizes: Sizes) -> list[Phase]:
        """Phases of a task, each with its memory."""

    def array_bytes(self, size: int, shape: Pair) -> PixelBytes:
        """Memory on arrays, beside the bands that are worked on; ``size``: bytes of a pixel of image and sky."""
        return PixelBytes(0, 0)

    @abstractmethod
    def run(self, task: Task) -> TaskOutput:
        """Do one task on a store."""

    def load(self, task: Task) -> Any:
        """Read back the value that it made in a store."""
        raise NotImplementedError(f"{self.name} makes no value")

    def on_arrays(self, arrays: Arrays) -> None:  # noqa: B027
        """Do all of it on arrays; nothing for what another operation does there at once."""


class SummaryOperation(Operation):
    """Each task writes its summary and nothing else, which is thrown away when the run ends."""

    def files(self, index: Pair) -> list[str]:
        """See `Operation.files`."""
        return [summary_file(self.name, index)]

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return False


class PixelOperation(Operation):
    """Patches in, one patch out, on the grid of the image.

    ``stored``: its plane is written to a store; else it is made anew where it is read.
    """

    output: str
    stored: ClassVar[bool] = True
    #: Path of its plane in a store, whether a run keeps it, and whether it is bits of a mask.
    plane: str = ""
    keep: bool = False
    is_mask: ClassVar[bool] = False

    @abstractmethod
    def inputs(self) -> list[Read]:
        """Planes that `apply` gets, in its order."""

    def values(self) -> dict[str, str]:
        """Values that `apply` gets: names of its keyword arguments, and of the nodes."""
        return {}

    def reads(self) -> Iterator[Read]:
        """See `Operation.reads`."""
        yield from self.inputs()
        yield from (Read(node, None) for node in self.values().values())

    @abstractmethod
    def apply(self) -> Callable[..., Patch]:
        """Return the function of patches (and values) that makes the output; it has no state, so that dask names it."""

    @abstractmethod
    def dtype(self, image: np.dtype[Any]) -> np.dtype[Any]:
        """Of the output."""

    def arrays(self, image: Image, tile: Pair) -> dict[str, ArraySpec]:
        """See `Operation.arrays`: the plane."""
        dtype = self.dtype(np.dtype(image.dtype)).name
        return {self.plane: ArraySpec(image.shape, dtype, tile, self.is_mask)} if self.stored else {}

    @property
    def kept(self) -> bool:
        """See `Operation.kept`."""
        return self.keep

    @property
    def scratch(self) -> tuple[str, ...]:
        """See `Operation.scratch`."""
        return () if self.keep or not self.stored else (self.plane,)

    def run(self, task: Task) -> TaskOutput:
        """See `Operation.run`: write the plane."""
        return TaskOutput([task.write(self.plane, task.region, self.patch(task, task.region).crop(task.region))])

    def patch(self, task: Task, region: Region) -> Patch:
        """Make the output for a region of a store."""
        patches = [task.patch(read.node, region.grown(read.halo or NO_HALO, task.shape)) for read in self.inputs()]
        if not patches:
            patches = [Patch(np.broadcast_to(np.False_, region.shape), region, task.shape)]
        return self.apply()(*patches, **{name: task.value(node) for name, node in self.values().items()})

    def on_arrays(self, arrays: Arrays) -> None:
        """Map `apply` over the pixels."""
        image = arrays.nodes["science"]
        planes = [arrays.plane(read.node) for read in self.inputs()] or [blank(image)]
        values = {name: arrays.values[node] for name, node in self.values().items()}
        kind = self.output.rpartition("/")[2]
        arrays.nodes[self.output] = map_patches(
            self.apply(), *planes, halo=self.halo, dtype=self.dtype(image.dtype), name=kind, **values
        )
