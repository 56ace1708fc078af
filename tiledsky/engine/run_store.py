"""The store of a run: whose it is, one driver at a time, what describes it, and its end."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
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
from tiledsky.engine.leases import DRIVER
from tiledsky.engine.locks import CALLS, Guard, guard_at
from tiledsky.engine.plan import Plan, run_id
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.files import writing
from tiledsky.io.folders import Folder, folder_at
from tiledsky.io.source import Source
from tiledsky.io.store import RUN_FOLDER, SUCCESS, json_bytes, sealed
from tiledsky.recipe import Recipe

#: A file of the run folder from the first thing written until the store is a run.
_PREPARING = "preparing"
#: A file of the run folder once the input changed while it was read.
_MIXED = "mixed"
#: Markers of each stage that are asked whose a store is if its own word is damaged.
_ASKED = 100

Content = TypeVar("Content")


def stored_plan(root: Folder, identity: dict[str, str], recipe: Recipe) -> Plan | None:
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


@dataclass(frozen=True)
class RunStore:
    """A run that was checked and planned, and the folder it is kept in.

    ``inputs``: identities of the planes, and ``dq_bits``; ``identity``: digests of recipe, plan, input and code.
    """

    root: Folder
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
    def guard(self) -> Guard:
        """What keeps others out of the store."""
        return guard_at(self.root)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; what became of it since is not looked at."""
        return self.root.is_file(f"{RUN_FOLDER}/{SUCCESS}")

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

    def check(self, *, restart: bool) -> None:
        """Refuse a folder that is no run store, and the store of another run unless it is to be thrown away.

        Raises
        ------
        ParameterError, InputError, RunError
        """
        root = self.root
        if not root.path.exists():
            folder_at(root.path.parent).check_takes(root.path.name)
            return
        root.check()
        known = root.stands(f"{RUN_FOLDER}/identity.json")
        if not known and not (root.path.is_dir() and (self._is_begun() or self._is_ours())):
            raise RunError(f"{root} exists and is not a run store, so tiledsky does not touch it; change --out")
        for plane in self.source.planes.values():
            if root.holds(plane.path):
                raise ParameterError(f"the input lies in {root}, which would be overwritten; change --out")
        if restart or not known:
            root.check_made_of({path.partition("/")[0] for path in self.layout.zarr_files("")} | {RUN_FOLDER})
        if not restart and known:
            self._check_identity()

    def _check_identity(self) -> None:
        before = read_identity(self.root)
        if before is None:
            if not self._is_ours():
                raise RunError(f"{self.root / RUN_FOLDER / 'identity.json'} is damaged; run again with --restart")
            return
        changed = self._changes(before)
        if changed:
            raise RunError(
                f"{self.root} holds a run with another {' and '.join(changed)}; results must not be mixed: "
                "change --out, or start over with --restart"
            )
        if self.root.stands(f"{RUN_FOLDER}/{_MIXED}"):
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
        if self.root.stands(f"{RUN_FOLDER}/{_PREPARING}"):
            return False
        ids = set()
        tasks = ((stage, index) for stage in self.plan.stages for index in islice(self.plan.grid(stage), _ASKED))
        for stage, index in tasks:
            marker = sealed_content(self.root, f"markers/{stage.name}/{index[0]}.{index[1]}.json")
            ids |= set() if marker is None else {marker.get("run_id")}
        return ids == {self.run_id}

    def _is_begun(self) -> bool:
        """Whether the folder is empty, or a driver was stopped while it prepared it."""
        found = self.root.names()
        if not found or self.root.is_file(f"{RUN_FOLDER}/{_PREPARING}"):
            return True
        return found == {RUN_FOLDER} and self.root.names(f"{RUN_FOLDER}/") <= {CALLS, DRIVER}

    @contextmanager
    def locked(self, *, restart: bool) -> Iterator[str]:
        """Keep other drivers out; what is in the store is checked again, and with ``restart`` thrown away.

        Yields the name of this call, as `tiledsky.engine.locks.FolderLocks.locked` does.
        """
        self.check(restart=restart)
        with self.guard.locked() as call:
            self.check(restart=restart)
            if restart:
                self._clear()
            yield call

    def _clear(self) -> None:
        """Remove everything but the lock; whatever is left when this is stopped is still known as a store begun."""
        self.root.write(f"{RUN_FOLDER}/{_PREPARING}")
        self.root.remove(*(f"{RUN_FOLDER}/{name}" for name in (SUCCESS, "identity.json")))
        for within in ("", f"{RUN_FOLDER}/"):
            for name in self.root.names(within) - {RUN_FOLDER, CALLS, DRIVER, _PREPARING}:
                self.root.remove_tree(f"{within}{name}")

    def create(self) -> None:
        """Write what describes the run and its arrays; of a run that was begun, what is missing or damaged of it."""
        self.root.remove(f"{RUN_FOLDER}/{SUCCESS}")
        if read_identity(self.root) is None and not self._is_ours():
            with writing(self.root.path):
                self._clear()
        self._write_source()  # the scratch copy of a compressed file is another one every time
        for path, _ in self.damaged(scratch=True):
            self.root.write(path, self.files[path])
        self.root.remove(f"{RUN_FOLDER}/{_PREPARING}")

    def damaged(self, *, scratch: bool) -> list[tuple[str, str]]:
        """Return the `files` that are missing or not as they were written, and what is wrong with them.

        ``scratch``: also those of scratch planes, which a finished run does not have.
        """
        crcs = {path: zlib.crc32(data) for path, data in self.files.items()}
        return damaged_files(self.root, crcs, leave_out=None if scratch else self.layout.is_scratch)

    def _write_source(self) -> None:
        planes = {name: p.to_json() for name, p in self.source.planes.items()}
        self.root.write(f"{RUN_FOLDER}/source.json", json_bytes(planes))

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
                self.root.write(f"{RUN_FOLDER}/{_MIXED}", plane.path.encode())
                raise RunError(
                    f"{plane.path} changed while it was read ({plane_change(plane, now)}), so {self.root} may hold "
                    "tiles of two inputs; start over with --restart"
                )

    def finish(self, call: str, provenance: dict[str, Any] | None) -> None:
        """Write provenance, remove scratch planes and what killed writers left, and last say that the run is whole.

        ``call``: it ends first, so that no task that was held up writes anything more. ``provenance`` is None where an
        earlier driver wrote it and was stopped before it had tidied up.
        """
        self.guard.end(call)
        if provenance is not None:
            self.root.write(f"{RUN_FOLDER}/provenance.json", json_bytes(sealed(provenance)))
        for name in (*self.layout.scratch, f"{RUN_FOLDER}/summaries"):
            self.root.remove_tree(name, ignore_errors=True)
        self.root.tidy()
        self.root.write(f"{RUN_FOLDER}/{SUCCESS}", b"")


def damaged_files(
    root: Folder, crcs: dict[str, int], *, leave_out: Callable[[str], bool] | None = None
) -> list[tuple[str, str]]:
    """Return the files, but those to leave out, that are missing or have another CRC-32, and what is wrong."""
    chosen = (path for path in crcs if leave_out is None or not leave_out(path))
    return [(path, what) for path in chosen if (what := files_differ(root, path, crcs[path])) is not None]


def _known(read: Callable[[], Content]) -> Content | None:
    """Return what a document says, for words about it alone; None if it is damaged."""
    try:
        return read()
    except RunError:
        return None
