"""The run store: a Zarr group with the planes of a run, and the commit of what a task wrote.

A task owns whole objects (files) of the store. It writes each object once, whole and synced under a temporary name, and
renames it; reads them again for size and checksum, and writes its marker last, in the same way. Done means: a valid
marker. Nothing is inferred from chunks, since Zarr reads a missing chunk as its fill value without a word.

What was committed is never deleted by a task. An attempt that was held up, and wakes when another one has done its
task, replaces files by files with the same bytes, at any moment whole; and it replaces nothing any more once the call
that it belongs to has ended (`tiledsky.io.files.begun_in`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike
from zarr.abc.buffer import Buffer
from zarr.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from tiledsky.errors import InputError, RunError
from tiledsky.geometry import Pair, Region, inner_chunk
from tiledsky.io.files import writing
from tiledsky.io.folders import Folder
from tiledsky.io.zarr.shards import compressors

#: Subfolder with markers, summaries and plan; everything else is Zarr.
RUN_FOLDER = "run"
SUCCESS = "_SUCCESS"


def create_plane(
    group: zarr.Group, name: str, *, shape: Pair, dtype: DTypeLike, tile: Pair, fill_value: Any = None
) -> zarr.Array[Any]:
    """Create the array of a plane: one shard a tile, inner chunks that keep the reading of a halo cheap.

    Float planes are NaN where nothing was written.
    """
    chunks = (inner_chunk(tile[0]), inner_chunk(tile[1]))
    fill = fill_value if fill_value is not None else (np.nan if np.dtype(dtype).kind == "f" else 0)
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=chunks,
        shards=tile if chunks != tile else None,
        fill_value=fill,
        compressors=compressors(dtype),
        dimension_names=("y", "x"),
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def open_store(root: Folder) -> zarr.Group:
    """Open the Zarr group of a run store for reading; one line of error if there is none.

    What is read of it is not read through links. Format 3 alone: runs write no other.
    """
    if not root.path.is_dir():
        raise InputError(f"{root}: no such Zarr store; give the folder that a run or ingest wrote")
    try:
        return zarr.open_group(root.zarr_store(), mode="r", zarr_format=3, use_consolidated=False)
    except RunError:
        raise
    except Exception as error:  # damaged metadata raise whatever the parser meets first
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{root}: not a Zarr group of format 3 ({said}); give the folder that a run or ingest wrote"
        ) from None


def open_plane(root: Folder, name: str) -> zarr.Array[Any]:
    """Open an array of a store for reading, whatever became of the rest of the store."""
    return zarr.open_array(root.zarr_store(), path=name, mode="r", zarr_format=3)


def writable(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array as tasks must write it: chunks equal to the fill value too (the setting is not stored)."""
    return array.with_config({"write_empty_chunks": True})


def object_path(array: zarr.Array[Any], index: Sequence[int]) -> str:
    """Path within the store of the object (shard or chunk) ``index`` of an array."""
    return f"{array.path}/c/" + "/".join(str(i) for i in index)


def encoded(array: zarr.Array[Any], region: Region, data: Any) -> dict[str, bytes]:
    """Return the objects that writing ``data`` to a region of an array makes, by their paths within the store.

    Whole objects: what is stored of them is not read.
    """
    files: dict[str, Buffer] = dict(array.metadata.to_buffer_dict(default_buffer_prototype()))
    copy = writable(zarr.open_array(MemoryStore(files), mode="r+"))
    copy[region.slices] = data
    return {f"{array.path}/{name}": files[name].to_bytes() for name in sorted(files) if name.startswith("c/")}


def describe_object(root: Folder, path: str) -> dict[str, Any]:
    """Read an object again, and return its path, size and CRC-32."""
    with writing(root / path):
        size, crc = size_and_crc(root, path)
    return {"path": path, "size": size, "crc32": crc}


def size_and_crc(root: Folder, path: str) -> Pair:
    """Read a file of a store; return its size and CRC-32."""
    crc, size = 0, 0
    with root.open(path) as handle:
        while block := handle.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return size, crc


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data with a checksum of its own."""
    body = {key: value for key, value in data.items() if key != "crc32"}
    return {**body, "crc32": zlib.crc32(json.dumps(body, sort_keys=True).encode())}


def is_sealed(data: Any) -> bool:
    """Whether data is what `sealed` made."""
    return isinstance(data, dict) and "crc32" in data and sealed(data) == data


#: What a marker says of a task beside its objects, and of what type; None: not known.
_FACTS: dict[str, tuple[type, ...]] = {
    "cpu_seconds": (int, float),
    "peak_memory": (int,),
    "task_peak": (int, type(None)),
    "status": (str,),
}


def _is_marker(data: Any) -> bool:
    """Whether data is a whole marker: sealed, and each of its values of the type that it has."""
    if not is_sealed(data) or not {"run_id", "stage", "tile", "objects"} <= data.keys():
        return False
    if not all(isinstance(data[key], types) for key, types in _FACTS.items() if key in data):
        return False
    return isinstance(data["objects"], list) and all(
        isinstance(o, dict) and isinstance(o.get("path"), str) and type(o.get("size")) is type(o.get("crc32")) is int
        for o in data["objects"]
    )


class Markers:
    """Done markers of the tasks of a run: one small JSON file each, under the run's id.

    ``owned`` says which objects a task makes (stage, index), by the plan: a marker with others is none.
    """

    def __init__(self, root: Folder, run_id: str, owned: Callable[[str, Pair], Iterable[str]]) -> None:
        self.root, self.run_id, self.owned = root, run_id, owned
        self._readers: dict[str, Callable[[str], bytes]] = {}

    def name(self, stage: str, index: Pair) -> str:
        """Path within the store of the marker of one task."""
        return f"{RUN_FOLDER}/markers/{stage}/{index[0]}.{index[1]}.json"

    def load(self, stage: str, index: Pair) -> dict[str, Any] | None:
        """Return the marker if it is whole and of this task of this run, whatever became of its objects. Else None."""
        try:
            marker = json.loads(self._read(stage, index))
        except (OSError, ValueError, RecursionError):
            return None
        if not _is_marker(marker):
            return None
        mine = (marker["run_id"], marker["stage"], marker["tile"]) == (self.run_id, stage, list(index))
        return marker if mine else None

    def _read(self, stage: str, index: Pair) -> bytes:
        if stage not in self._readers:
            self._readers[stage] = self.root.reader(f"{RUN_FOLDER}/markers/{stage}/")
        return self._readers[stage](f"{index[0]}.{index[1]}.json")

    def read(self, stage: str, index: Pair) -> dict[str, Any] | None:
        """Return the marker if it is valid: of this run, whole, its objects there with their sizes. Else None."""
        marker = self.load(stage, index)
        if marker is None or {o["path"] for o in marker["objects"]} != set(self.owned(stage, index)):
            return None
        try:
            if all(self.root.size(o["path"]) == o["size"] for o in marker["objects"]):
                return marker
        except OSError:
            return None
        return None

    def discard(self, stage: str, index: Pair) -> None:
        """Remove a marker that says what is not so: for the driver, while no task works. It does not come back."""
        self.root.remove(self.name(stage, index), sync=True)

    def write(self, stage: str, index: Pair, *, objects: Sequence[str], **facts: Any) -> dict[str, Any]:
        """Commit: describe the objects, then write the marker."""
        described = [describe_object(self.root, path) for path in objects]
        marker = sealed({"run_id": self.run_id, "stage": stage, "tile": list(index), "objects": described, **facts})
        self.root.write(self.name(stage, index), json.dumps(marker, indent=1).encode())
        return marker


def summary_path(stage: str, index: Pair) -> str:
    """Path within the store of what a tile task hands to the gather task of its stage."""
    return f"{RUN_FOLDER}/summaries/{stage}/{index[0]}.{index[1]}.bin"


def write_json(root: Folder, name: str, data: Any) -> None:
    """Write a JSON file of the run folder."""
    root.write(f"{RUN_FOLDER}/{name}", json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Bytes of a JSON file of the run folder."""
    return json.dumps(data, indent=1, sort_keys=True).encode()


def tile_index(array: zarr.Array[Any], region: Region) -> Pair:
    """Index of the object that holds exactly ``region``."""
    size = array.shards or array.chunks
    return region.y0 // size[0], region.x0 // size[1]


@contextmanager
def zarr_threads(count: int) -> Any:
    """Keep Zarr to ``count`` threads: a worker has as many as the cluster gave it, no more."""
    with zarr.config.set({"threading.max_workers": count, "async.concurrency": max(count, 2)}):
        yield
