"""The store of a run: whose it is, one driver at a time, what describes it, and its end."""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import tiledsky
from tiledsky.cluster.versions import libraries
from tiledsky.engine.changes import input_change, libraries_change, plan_change, plane_change, recipe_change
from tiledsky.engine.documents import (
    files_differ,
    read_identity,
    read_plan,
    read_provenance,
    read_recipe,
    read_source,
    sealed_content,
)
from tiledsky.engine.layout import Layout
from tiledsky.engine.leases import leased
from tiledsky.engine.locks import CALLS, DRIVER, begin, end, end_all, lock, wait_for_tasks
from tiledsky.engine.plan import Plan, run_id
from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.io.address import is_address, is_inside
from tiledsky.io.files import files_below, is_temporary, remove_objects, remove_tree, stands, write_inside, writing
from tiledsky.io.inside import check_inside, inside, is_file_inside, lock_inside
from tiledsky.io.source import Source
from tiledsky.io.store import RUN_FOLDER, SUCCESS, json_bytes, sealed
from tiledsky.recipe import Recipe

#: Seconds that tasks which outlived their driver get to end.
_PATIENCE = 60.0
#: A file of the run folder from the first thing written until the store is a run.
_PREPARING = "preparing"
#: A file of the run folder once the input changed while it was read.
_MIXED = "mixed"
#: Markers of each stage that are asked whose a store is if its own word is damaged.
_ASKED = 100

Content = TypeVar("Content")


def stored_plan(root: Path, identity: dict[str, str], recipe: Recipe) -> Plan | None:
    """Return the plan of the run that a store holds, if recipe, input and code of its ``identity`` are these."""
    known = read_identity(root)
    if known is None or any(known["identity"].get(k) != v for k, v in identity.items() if k != "plan"):
        return None
    if damaged_files(root, {path: known["files"].get(path, -1) for path in (f"{RUN_FOLDER}/plan.json",)}):
        return None
    try:
        return read_plan(root, recipe)
    except RunError:
        return None


@contextmanager
def locked(root: Path) -> Iterator[str]:
    """Keep other drivers out: a lock on a file of the store, which the system releases however the driver ends.

    Yields
    ------
    str
        Name of this call, as long as which its tasks may write (`tiledsky.engine.locks.working`).

    Raises
    ------
    RunError
        Another process holds it, or it cannot be made.
    """
    if is_address(root):
        with leased(root / RUN_FOLDER / DRIVER) as lease:
            yield lease
        return
    check_inside(root)
    with writing(root / RUN_FOLDER / DRIVER):
        (root / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
    with _held(root, fcntl.LOCK_EX):
        if not wait_for_tasks(root, seconds=_PATIENCE):
            raise RunError(
                f"{root}: tasks of an earlier call still run on workers, and two must not write one tile; wait for "
                "them or stop the workers"
            )
        end_all(root)
        yield begin(root)
        end_all(root)  # of a call that is stopped, tasks may still end


@contextmanager
def shared(root: Path) -> Iterator[str]:
    """Keep drivers out, but not others that do a part of the run each (`tiledsky.engine.slices`).

    Yields
    ------
    str
        Name of this call.

    Raises
    ------
    RunError
        A driver has the store, or there is none.
    """
    with _held(root, fcntl.LOCK_SH):
        call = begin(root)
        try:
            yield call
        finally:
            with suppress(RunError):  # a driver took the store, whose lock this process had lost
                end(root, call)


@contextmanager
def _held(root: Path, kind: int) -> Iterator[None]:
    """Hold the lock of a store, alone or with others (``LOCK_EX``, ``LOCK_SH``); refuse where that cannot be."""
    if is_address(root):
        raise RunError(f"{root}: slices of a job array need a folder that all jobs see; change --out, or use a cluster")
    with writing(root / RUN_FOLDER / DRIVER):
        file = lock_inside(root, f"{RUN_FOLDER}/{DRIVER}")
    with file:
        if not lock(file, kind | fcntl.LOCK_NB, root):
            raise RunError(f"{root} is being run by another process; wait for it or stop it")
        yield


@dataclass(frozen=True)
class RunStore:
    """A run that was checked and planned, and the folder it is kept in.

    ``inputs``: identities of the planes, and ``dq_bits``; ``identity``: digests of recipe, plan, input and code.
    """

    root: Path
    recipe: Recipe
    source: Source
    plan: Plan
    identity: dict[str, str]
    inputs: dict[str, str]

    @property
    def run_id(self) -> str:
        """Digest of the identity."""
        return run_id(self.identity)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; what became of it since is not looked at."""
        return is_file_inside(self.root, f"{RUN_FOLDER}/{SUCCESS}")

    @property
    def has_provenance(self) -> bool:
        """Whether all was done once, and what is kept about that is whole."""
        try:
            read_provenance(self.root, {"run_id": self.run_id})
        except RunError:
            return False
        return True

    @property
    def described(self) -> bool:
        """Whether identity, recipe and plan in the store are whole, so that its tiles can be checked."""
        names = [f"{RUN_FOLDER}/{name}.json" for name in ("recipe", "plan")]
        crcs = {name: zlib.crc32(self.files[name]) for name in names}
        return read_identity(self.root) is not None and not damaged_files(self.root, crcs)

    @cached_property
    def layout(self) -> Layout:
        """Arrays and objects of the store."""
        return Layout(self.recipe, self.plan, {name: p.dtype for name, p in self.source.planes.items()})

    @cached_property
    def files(self) -> dict[str, bytes]:
        """All that describes the run and its arrays, by path; the identity last: it makes the store a run."""
        files = self.layout.zarr_files(self.source.header)
        files[f"{RUN_FOLDER}/recipe.json"] = json_bytes(self.recipe.model_dump(mode="json", exclude_none=False))
        files[f"{RUN_FOLDER}/plan.json"] = json_bytes(self.plan.to_json())
        identity = {
            "identity": self.identity,
            "run_id": self.run_id,
            "code": tiledsky.__version__,
            "libraries": libraries(),
            "input": self.inputs,
            "dtypes": self.layout.dtypes,
            "files": {path: zlib.crc32(data) for path, data in files.items()},
        }
        return {**files, f"{RUN_FOLDER}/identity.json": json_bytes(sealed(identity))}

    def _file(self, name: str) -> Path:
        return self.root / RUN_FOLDER / name

    def check(self, *, restart: bool) -> None:
        """Refuse a folder that is no run store, and the store of another run unless it is to be thrown away.

        Raises
        ------
        ParameterError, InputError, RunError
        """
        root = self.root
        if not root.exists():
            if not is_address(root) and not root.absolute().parent.is_dir():
                raise InputError(f"{root}: the folder {root.absolute().parent} does not exist; make it or change --out")
            return
        check_inside(root)
        known = stands(self._file("identity.json"))
        if not known and not (root.is_dir() and (self._is_begun() or self._is_ours())):
            raise RunError(f"{root} exists and is no run store, so it is not touched; change --out")
        for plane in self.source.planes.values():
            if is_inside(plane.path, root):
                raise ParameterError(f"the input lies in {root}, which would be overwritten; change --out")
        if (restart or not known) and not is_address(root):
            self._check_all_is_made()
        if not restart and known:
            self._check_identity()

    def _check_all_is_made(self) -> None:
        """Refuse to throw away what no run made."""
        known = {path.partition("/")[0] for path in self.layout.zarr_files("")} | {RUN_FOLDER}
        for path in sorted(self.root.iterdir()):
            made = path.name in known or is_temporary(path.name) or (path / "zarr.json").is_file()
            if not made and not (path / "c").is_dir():
                raise RunError(
                    f"{self.root} holds {path.name}, which no run made, and would lose it; move it, or change --out"
                )

    def _check_identity(self) -> None:
        before = read_identity(self.root)
        if before is None:
            if not self._is_ours():
                raise RunError(f"{self._file('identity.json')} is damaged; run again with --restart")
            return
        changed = self._changes(before)
        if changed:
            raise RunError(
                f"{self.root} holds a run with another {' and '.join(changed)}; results must not be mixed: "
                "change --out, or start over with --restart"
            )
        if self._file(_MIXED).exists():
            raise RunError(
                f"{self.root}: the input changed while it was read, so tiles of two inputs are mixed; "
                "start over with --restart"
            )

    def _changes(self, before: dict[str, Any]) -> list[str]:
        """Describe how the run of an identity differs from this one."""
        differ = [name for name in self.identity if before["identity"].get(name) != self.identity[name]]
        recipe_before = _known(lambda: read_recipe(self.root))
        plan_before = None if recipe_before is None else _known(lambda: read_plan(self.root, recipe_before))
        changed = []
        if "recipe" in differ:
            now = self.recipe.model_dump(mode="json", exclude_none=False)
            known = None if recipe_before is None else recipe_before.model_dump(mode="json", exclude_none=False)
            changed.append(recipe_change(known, now))
        if "input" in differ:
            planes = _known(lambda: read_source(self.root)) or {}
            changed.append(input_change(before["input"], self.inputs, planes, self.source.planes))
        if "code" in differ:
            changed.append(f"code version ({before['code']} -> {tiledsky.__version__})")
        if "libraries" in differ:
            changed.append(f"version of {libraries_change(before.get('libraries', {}), libraries())}")
        if "plan" in differ and (not changed or (plan_before and plan_before.tile_size != self.plan.tile_size)):
            changed.append(plan_change(plan_before, self.plan))  # else it follows from the others
        return changed

    def _is_ours(self) -> bool:
        """Whether the markers of the store are of this run, for when its identity is damaged or missing."""
        if self._file(_PREPARING).exists():
            return False
        ids = set()
        tasks = ((stage, index) for stage in self.plan.stages for index in islice(self.plan.grid(stage), _ASKED))
        for stage, index in tasks:
            marker = sealed_content(self.root, f"markers/{stage.name}/{index[0]}.{index[1]}.json")
            ids |= set() if marker is None else {marker.get("run_id")}
        return ids == {self.run_id}

    def _is_begun(self) -> bool:
        """Whether the folder is empty, or a driver was stopped while it prepared it."""
        inside = [path.name for path in self.root.iterdir()]
        if not inside or self._file(_PREPARING).is_file():
            return True
        return inside == [RUN_FOLDER] and {path.name for path in (self.root / RUN_FOLDER).iterdir()} <= {CALLS, DRIVER}

    @contextmanager
    def locked(self, *, restart: bool) -> Iterator[str]:
        """Keep other drivers out; what is in the store is checked again, and with ``restart`` thrown away.

        Yields the name of this call, as `locked` does.
        """
        self.check(restart=restart)
        with locked(self.root) as call:
            self.check(restart=restart)
            if restart:
                self._clear()
            yield call

    def _clear(self) -> None:
        """Remove everything but the lock; whatever is left when this is stopped is still known as a store begun."""
        (self.root / RUN_FOLDER / _PREPARING).touch()
        remove_objects(self.root, [f"{RUN_FOLDER}/{name}" for name in (SUCCESS, "identity.json")])
        for folder in (self.root, self.root / RUN_FOLDER):
            for path in folder.iterdir():
                if path.name in (RUN_FOLDER, CALLS, DRIVER, _PREPARING):
                    continue
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink()

    def create(self) -> None:
        """Write what describes the run and its arrays; of a run that was begun, what is missing or damaged of it."""
        remove_objects(self.root, [f"{RUN_FOLDER}/{SUCCESS}"])
        if read_identity(self.root) is None and not self._is_ours():
            with writing(self.root):
                self._clear()
        self._write_source()  # the scratch copy of a compressed file is another one every time
        for path, _ in self.damaged(scratch=True):
            write_inside(self.root, path, self.files[path])
        remove_objects(self.root, [f"{RUN_FOLDER}/{_PREPARING}"])

    def damaged(self, *, scratch: bool) -> list[tuple[str, str]]:
        """Return the `files` that are missing or not as they were written, and what is wrong with them.

        ``scratch``: also those of scratch planes, which a finished run does not have.
        """
        crcs = {path: zlib.crc32(data) for path, data in self.files.items()}
        return damaged_files(self.root, crcs, leave_out=None if scratch else self.layout.is_scratch)

    def _write_source(self) -> None:
        planes = {name: p.to_json() for name, p in self.source.planes.items()}
        write_inside(self.root, f"{RUN_FOLDER}/source.json", json_bytes(planes))

    def check_input(self) -> None:
        """Check that the input is still what the run began with.

        Raises
        ------
        RunError
            It changed, so that tiles of two inputs may be mixed; this store is refused from now on.
        InputError
            It cannot be read.
        """
        for plane in self.source.planes.values():
            now = plane.again()
            if now.identity != plane.identity:
                write_inside(self.root, f"{RUN_FOLDER}/{_MIXED}", plane.path.encode())
                raise RunError(
                    f"{plane.path} changed while it was read ({plane_change(plane, now)}), so {self.root} may hold "
                    "tiles of two inputs; start over with --restart"
                )

    def finish(self, call: str, provenance: dict[str, Any] | None) -> None:
        """Write provenance, remove scratch planes and what killed writers left, and last say that the run is whole.

        ``call``: it ends first, so that no task that was held up writes anything more. ``provenance`` is None where an
        earlier driver wrote it and was stopped before it had tidied up.
        """
        end(self.root, call)
        if provenance is not None:
            write_inside(self.root, f"{RUN_FOLDER}/provenance.json", json_bytes(sealed(provenance)))
        for name in (*self.layout.scratch, f"{RUN_FOLDER}/summaries"):
            remove_tree(inside(self.root, name), ignore_errors=True)
        for file in files_below(self.root):
            if is_temporary(file.name):
                file.unlink(missing_ok=True)
        write_inside(self.root, f"{RUN_FOLDER}/{SUCCESS}", b"")


def damaged_files(
    root: Path, crcs: dict[str, int], *, leave_out: Callable[[str], bool] | None = None
) -> list[tuple[str, str]]:
    """Return the files, but those to leave out, that are missing or have another CRC-32, and what is wrong."""
    found = []
    for path, crc in crcs.items():
        if leave_out is not None and leave_out(path):
            continue
        if (what := files_differ(root, path, crc)) is not None:
            found.append((path, what))
    return found


def _known(read: Callable[[], Content]) -> Content | None:
    """Return what a document says, for words about it alone; None if it is damaged."""
    try:
        return read()
    except RunError:
        return None
