"""Whether what a run store says is done is there: by its markers, sizes, checksums, or by decoding every chunk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import tiledsky
from tiledsky.engine.checked_store import checked_array, open_checked_store
from tiledsky.engine.dependencies import TaskState, keeps, needed
from tiledsky.engine.documents import read_identity, read_provenance, read_source
from tiledsky.engine.layout import Layout
from tiledsky.engine.locks import guard_at
from tiledsky.engine.plan import Stage
from tiledsky.engine.run_store import RunStore, damaged_files
from tiledsky.errors import ParameterError, RunError
from tiledsky.geometry import Pair, Region, TileGrid
from tiledsky.io.folders import Folder, folder_at
from tiledsky.io.store import RUN_FOLDER, SUCCESS, Markers, open_store, size_and_crc
from tiledsky.io.zarr.reader import read_plane
from tiledsky.plain import did_you_mean

#: How closely is looked, each level more than the one before: the markers alone; the objects' sizes (and the checksums
#: of the small files that have none of their own); the CRC-32 of every object; the decoding of every chunk.
Level = Literal["markers", "sizes", "crc", "decode"]
LEVELS: tuple[Level, ...] = get_args(Level)

_KEPT, _USABLE = np.uint8(1), np.uint8(2)


@dataclass(frozen=True)
class Fault:
    """Something of a run store that is not as it was written.

    Attributes
    ----------
    stage : str or None
        None: of a file that describes the run or an array; it needs no pixel to be made anew.
    index : (int, int) or None
        Tile of the stage.
    region : Region or None
        Its pixels.
    path : str
        Within the store.
    what : str
    """

    stage: str | None
    index: Pair | None
    region: Region | None
    path: str
    what: str

    def __str__(self) -> str:
        if self.index is None or self.region is None:
            return f"{self.path}: {self.what}"
        y0, y1, x0, x1 = self.region
        return f"{self.stage} tile {self.index} (rows {y0}:{y1}, columns {x0}:{x1}), {self.path}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        """Return the fault as plain data."""
        return asdict(self)


def check_level(level: str) -> None:
    """Refuse what is not one of `LEVELS`.

    Raises
    ------
    ParameterError
    """
    if level not in LEVELS:
        near = did_you_mean(level, LEVELS)
        raise ParameterError(f"{level!r} is not a level of verification; use one of {', '.join(LEVELS)}{near}")


class Checker:
    """What is there of the tasks of a run, as far as ``level`` looks.

    Everything is looked at once, at the first question, by several threads.

    Parameters
    ----------
    root : Folder
    run_id : str
    layout : Layout
        What the store holds, by recipe and plan.
    level : str
        One of `LEVELS`.
    """

    def __init__(self, root: Folder, run_id: str, layout: Layout, *, level: str = "sizes") -> None:
        check_level(level)
        self.root, self.layout, self.level = root, layout, LEVELS.index(level)
        self.recipe, self.plan = layout.recipe, layout.plan
        self.markers = Markers(root, run_id, lambda stage, index: layout.objects(self.plan.stage(stage), index))
        self.finished = root.is_file(f"{RUN_FOLDER}/{SUCCESS}")
        #: All was done once, so that scratch may be gone.
        self.settled = self.finished or root.is_file(f"{RUN_FOLDER}/provenance.json")
        self._faults: list[Fault] = []

    def marker(self, stage: Stage, index: Pair) -> dict[str, Any] | None:
        """Return the marker of a task if it is whole and of this run, whatever became of its objects."""
        return self.markers.load(stage.name, index)

    def done(self, stage: Stage, index: Pair) -> TaskState:
        """Say what is there of a task."""
        bits = self._states[stage.name][index]
        return TaskState(bool(bits & _KEPT), bool(bits & _USABLE))

    def faults(self) -> list[Fault]:
        """Return what is damaged, by stage and tile: of a finished run what it keeps, else of tasks that were done."""
        _ = self._states
        return list(self._faults)

    def discard(self, tasks: Mapping[str, Iterable[Pair]] | None = None) -> None:
        """Remove the markers of damaged tasks, which say what is not so; if ``tasks`` are given, by stage, of these."""
        chosen = None if tasks is None else {stage: set(some) for stage, some in tasks.items()}
        for fault in self.faults():
            stage, index = fault.stage, fault.index
            if stage is not None and index is not None and (chosen is None or index in chosen[stage]):
                self.markers.discard(stage, index)

    @cached_property
    def _states(self) -> dict[str, NDArray[np.uint8]]:
        states = {}
        with ThreadPoolExecutor(max_workers=min(4 * (os.cpu_count() or 1), 16)) as pool:
            for stage in self.plan.stages:
                grid = self.plan.grid(stage)
                states[stage.name] = np.zeros(grid.counts, np.uint8)
                look = self._looker(stage, grid)
                for index, (bits, faults) in zip(grid, pool.map(look, grid), strict=True):
                    states[stage.name][index] = bits
                    self._faults += faults
        return states

    def _looker(self, stage: Stage, grid: TileGrid) -> Callable[[Pair], tuple[np.uint8, list[Fault]]]:
        keeping = keeps(self.recipe, stage)

        def look(index: Pair) -> tuple[np.uint8, list[Fault]]:
            marker = self.marker(stage, index)
            if marker is None:
                kept, wrong = False, self._unmarked(stage, index)
            else:
                wrong = list(self._wrong(stage, index, marker))
                kept = all(self.layout.is_scratch(path) for path, _ in wrong)
            bits = _KEPT * np.uint8(kept) | _USABLE * np.uint8(marker is not None and not wrong)
            if self.settled:
                wrong = [w for w in wrong if keeping and not self.layout.is_scratch(w[0])]
            return bits, [Fault(stage.name, index, grid.region(index), *w) for w in wrong]

        return look

    def _unmarked(self, stage: Stage, index: Pair) -> list[tuple[str, str]]:
        """Say what is wrong with a marker that is not there or not valid; nothing if the task was never done."""
        name = self.markers.name(stage.name, index)
        if self.root.stands(name):
            what = "torn or of another run" if self.root.is_file(name) else "no file"
        elif self.settled:
            what = "missing"
        else:
            return []
        return [(name, what)]

    def _wrong(self, stage: Stage, index: Pair, marker: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Objects of a task that are not as its marker says."""
        described = {o["path"]: o for o in marker["objects"]}
        expected = self.layout.objects(stage, index)
        if described.keys() != set(expected):
            yield self.markers.name(stage.name, index), "names other objects"
            return
        for path in expected if self.level else ():
            what = self._fault_of(described[path])
            if what is None and LEVELS[self.level] == "decode" and not path.startswith(f"{RUN_FOLDER}/"):
                what = self._undecodable(path)
            if what is not None:
                yield path, what

    def _fault_of(self, described: dict[str, Any]) -> str | None:
        path = described["path"]
        try:
            size = self.root.size(path)
            if size != described["size"]:
                return f"{size} bytes instead of {described['size']}"
            unchecked = path.endswith(".json")  # a changed digit in it would be taken as it is
            if (self.level >= LEVELS.index("crc") or unchecked) and size_and_crc(self.root, path)[1] != described[
                "crc32"
            ]:
                return "checksum differs"
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return "no file" if error.errno == errno.EINVAL else f"unreadable ({error.strerror})"
        return None

    def _undecodable(self, path: str) -> str | None:
        name, _, index = path.partition("/c/")
        spec = self.layout.arrays[name]
        region = TileGrid(spec.shape, spec.tile).region(tuple(int(i) for i in index.split("/")))  # type: ignore[arg-type]
        try:
            read_plane(checked_array(self.root, name, spec), region)
        except Exception as error:  # codecs raise several types
            return f"cannot be decoded ({' '.join(str(error).split())[:200]})"
        return None


def is_whole(store: RunStore, *, level: str = "sizes") -> bool:
    """Whether a run finished and all that it keeps is there."""
    if not store.finished or not store.has_provenance or store.damaged(scratch=False):
        return False
    if not _is_source(store.root, {"input": store.inputs, "dtypes": store.layout.dtypes}):
        return False
    checker = Checker(store.root, store.run_id, store.layout, level=level)
    return not any(needed(store.recipe, store.plan, checker.done).values())


def verify(path: str | os.PathLike[str], *, level: str = "crc", discard: bool = True) -> list[Fault]:
    """Look for damage in a run store.

    Parameters
    ----------
    path : path
        A run store, finished or not.
    level : str
        One of `LEVELS`.
    discard : bool
        Remove the markers of damaged tasks, which say what is not so; the command that made the run then makes anew
        just what is damaged. Of a finished run with a fault, also the sign that it is finished.

    Returns
    -------
    list of Fault
        Empty: nothing is wrong. Scratch planes of a finished run are not looked for.

    Raises
    ------
    InputError, RunError
        No run store; it is being run.
    """
    root = folder_at(path)
    root.check()
    if not root.stands(f"{RUN_FOLDER}/identity.json") and not (root / RUN_FOLDER / "markers").is_dir():
        open_store(root)
        raise RunError(f"{root} is not a run store; give the folder named with --out")
    checker, faults = _described(root, level)
    found = faults + (checker.faults() if checker is not None else [])
    if found and discard:
        with guard_at(root).locked():
            root.remove(f"{RUN_FOLDER}/{SUCCESS}")
            if checker is not None:
                checker.discard()
    return found


def _described(root: Folder, level: str) -> tuple[Checker | None, list[Fault]]:
    """Check what describes a run; return what checks its tasks, or None if recipe, plan or identity are damaged."""
    known = read_identity(root)
    if known is None:
        what = "missing or damaged, so the tiles cannot be checked"
        return None, [_file_fault(f"{RUN_FOLDER}/identity.json", what)]
    crcs: dict[str, int] = known["files"]
    basic = {path: crcs.get(path, -1) for path in (f"{RUN_FOLDER}/recipe.json", f"{RUN_FOLDER}/plan.json")}
    if damaged := damaged_files(root, basic):
        return None, [_file_fault(path, f"{what}, so the tiles cannot be checked") for path, what in damaged]
    try:
        store = open_checked_store(root)
    except RunError as error:
        raise RunError(f"{error} (it was made by tiledsky {known['code']}; this is {tiledsky.__version__})") from None
    checker = Checker(root, store.run_id, store.layout, level=level)
    faults = [_file_fault(*fault) for fault in damaged_files(root, crcs, leave_out=store.layout.is_scratch)]
    if not _is_source(root, known):
        faults.append(_file_fault(f"{RUN_FOLDER}/source.json", "missing or damaged"))
    if checker.finished:
        try:
            read_provenance(root, known)
        except RunError:
            faults.append(_file_fault(f"{RUN_FOLDER}/provenance.json", "missing or damaged"))
    return checker, faults


def _file_fault(path: str, what: str) -> Fault:
    return Fault(None, None, None, path, what)


def _is_source(root: Folder, known: Mapping[str, Any]) -> bool:
    """Whether the list of the planes of the input is what the run began with."""
    try:
        read_source(root, known)
    except RunError:
        return False
    return True
