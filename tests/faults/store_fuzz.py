"""Edit the documents of a run store and see what commands make of it; in a process of its own, with a limit of memory.

``python -m tests.faults.store_fuzz FOLDER STORE IMAGE SEED SHARE`` edits, deletes or gives another type to every field
of every JSON document of a copy of STORE (one of SHARE of them), half of the time with all checksums and digests made
anew, and gives commands. It prints one line of JSON: how often what came of it, and what went wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.engine.scenes import KEEPING
from tiledsky import run
from tiledsky.cli import main
from tiledsky.engine.plan import Plan, identity, run_id
from tiledsky.errors import TiledSkyError
from tiledsky.io.store import json_bytes, sealed
from tiledsky.recipe import Recipe

#: Seconds and bytes (beyond what is in use when the edits begin) that one command may take.
LIMIT_SECONDS, LIMIT_MEMORY = 60, 1 << 30
#: Values that are put in place of others.
NASTY: tuple[Any, ...] = (
    None, True, 0, -1, 1, 1.5, 1e308, float("nan"), 10**30, "", "x", "../../victim", "/etc/hostname", "\0", [], [0], {},
    {"x": 1}, [[[]]], "y" * 5000, -(10**18), [1 << 40, 1 << 40],
)  # fmt: skip
#: Exit codes that are documented for a store that is not as it was written.
CODES = (0, 1, 2, 3, 4)


def documents(root: Path) -> list[str]:
    """Documents of a store that are edited: all that describe it, and a marker of each stage."""
    found = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*.json")) if "markers" not in p.parts]
    stages = sorted((root / "run/markers").iterdir())
    # of arrays that are made alike, some
    arrays = [name for name in found if name.endswith("zarr.json") and name.count("/") > 1]
    return [name for name in found if name not in arrays[3:]] + [
        sorted(stage.iterdir())[0].relative_to(root).as_posix() for stage in stages
    ]


def fields(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every field of a document; of long lists to the first and the last item."""
    if above:
        yield above
    if isinstance(data, dict):
        for key in data:
            yield from fields(data[key], (*above, key))
    elif isinstance(data, list):
        for index in sorted({0, len(data) - 1}) if data else ():
            yield from fields(data[index], (*above, index))


def edited(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    """Return a document with another value of a field; `fields` (the function) as value: without it."""
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in way[:-1]:
        inner = inner[key]
    if value is fields:
        del inner[way[-1]]
    else:
        inner[way[-1]] = value
    return copy


def reseal(root: Path, name: str, data: Any) -> Any:
    """Make checksums and digests anew, so that an edit is told by what it says alone."""
    if isinstance(data, dict) and "crc32" in data:
        return sealed(data)
    known = json.loads((root / "run/identity.json").read_text())
    known["files"][name] = zlib.crc32(json_bytes(data))
    if name in ("run/plan.json", "run/recipe.json"):
        (root / name).write_bytes(json_bytes(data))
        with contextlib.suppress(Exception):  # of what no digest can be made there is none
            recipe = Recipe.from_dict(json.loads((root / "run/recipe.json").read_text()))
            plan = Plan.from_json(json.loads((root / "run/plan.json").read_text()))
            known["identity"] |= identity(recipe, plan, known["input"])
            known["run_id"] = run_id(known["identity"])
            made = root / "run/provenance.json"
            made.write_bytes(json_bytes(sealed({**json.loads(made.read_text()), "run_id": known["run_id"]})))
    (root / "run/identity.json").write_bytes(json_bytes(sealed(known)))
    return data


class Slow(BaseException):
    """A command took too long; no ``except Exception`` may catch it."""


def _alarm(*_: Any) -> None:
    raise Slow


class Fuzz:
    """Edits of one store, and what came of them."""

    def __init__(self, folder: Path, store: Path, image: Path, seed: int) -> None:
        self.folder, self.pristine, self.image = folder, store, image
        self.store, self.out = folder / "store" / "run.zarr", folder / "out"
        self.victim = folder / "victim"
        self.victim.mkdir(parents=True)
        for name in ("thesis.tex", "zarr.json", "0.0.json"):
            (self.victim / name).write_text(f"precious {name}")
        self.rng = np.random.default_rng(seed)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        out, store_ = self.out, str(self.store)
        quick = [["info", store_], ["check", store_], ["verify", store_], ["export", store_, str(out / "o.fits")]]
        slow: list[list[str] | Callable[[], Any]] = [
            ["report", store_, "-o", str(out / "r.html")],
            self._again,
            ["restore", store_, str(out / "s.fits")],
            ["compare", store_, str(store), "-o", str(out / "c.html")],
            ["verify", store_, "--level", "decode", "--dry-run"],
            ["merge-masks", store_, str(store), "--out", str(out / "m.zarr")],
        ]
        self.quick, self.slow = quick, slow

    def _again(self) -> None:
        """Give the command that made the run."""
        with contextlib.suppress(KeyboardInterrupt):
            run(self.image, KEEPING, self.store, tile_size=100)

    def fresh(self) -> None:
        """Put the store back, and nothing where commands write."""
        for path in (self.store, self.out):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.pristine, self.store)
        self.out.mkdir()

    def outside(self) -> dict[str, bytes]:
        """All files but those of the store and those that commands were told to write."""
        places = (self.victim, self.image.parent, self.store.parent)
        files = [p for place in places for p in place.rglob("*") if self.store not in p.parents and p != self.store]
        return {str(p): p.read_bytes() for p in files if p.is_file() and self.pristine not in p.parents}

    def run(self, share: int) -> dict[str, Any]:
        """Try every field of every document, or one of ``share``."""
        began, number, before = time.monotonic(), 0, self.outside()
        for name in documents(self.pristine):
            data = json.loads((self.pristine / name).read_text())
            for way in fields(data):
                number += 1
                if number % share:
                    continue
                choice = int(self.rng.integers(-len(NASTY) // 3, len(NASTY)))
                value = NASTY[choice] if choice >= 0 else fields
                self.attempt(name, edited(data, way, value), f"{name} {way} = {value!r:.60}", number // share)
                if self.outside() != before:
                    self.failures.append(f"{name} {way} {value!r:.60}: changed what is outside")
                    before = self.outside()
        seconds = round(time.monotonic() - began, 1)
        return {
            "edits": number // share,
            "counts": dict(self.counts),
            "failures": self.failures,
            "seconds": seconds,
        }

    def attempt(self, name: str, data: Any, note: str, number: int) -> None:
        """Edit a document and give commands."""
        self.fresh()
        if number % 2:
            data, note = reseal(self.store, name, data), f"{note}, sealed"
        (self.store / name).write_bytes(json_bytes(data))
        (self.folder / "last").write_text(note)
        commands = [self.quick[number % len(self.quick)], self.slow[number // 2 % len(self.slow)]]
        for command in commands:
            self.counts[self.give(command, note)] += 1

    def give(self, command: Any, note: str) -> str:
        """Give one command; return what came of it."""
        said, code = io.StringIO(), 0
        words = "the same command" if callable(command) else " ".join(command[:1])
        signal.alarm(LIMIT_SECONDS)
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                command() if callable(command) else main(list(command))
        except SystemExit as ended:
            code = int(ended.code or 0)
        except TiledSkyError as error:
            code = error.exit_code
            said.write(f"tiledsky: {error}")
        except Slow:
            self.failures.append(f"{words}, {note}: more than {LIMIT_SECONDS} s")
        except BaseException as error:
            self.failures.append(f"{words}, {note}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        finally:
            signal.alarm(0)
        lines = [line for line in said.getvalue().splitlines() if line.startswith("tiledsky:")]
        if code not in CODES or (code in (2, 3, 4) and words != "verify" and len(lines) != 1):
            self.failures.append(f"{words}, {note}: exit code {code} and {len(lines)} lines")
        if code == 2 or any(len(line) > 1500 for line in lines):
            self.failures.append(f"{words}, {note}: exit code {code}, {said.getvalue()[-300:]!r}")
        return f"exit code {code}"


def start() -> None:
    """Look at the whole store once with all commands, so that all is loaded, then edit it."""
    folder, store, image, seed, share = (
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        *map(int, sys.argv[4:]),
    )
    fuzz = Fuzz(folder, store, image, seed)
    signal.signal(signal.SIGALRM, _alarm)
    for command in (*fuzz.quick, *fuzz.slow):
        fuzz.fresh()
        found = fuzz.give(command, "the whole store")
        if found not in ("exit code 0", "exit code 1"):  # 1: the sky of the noise here is not good
            fuzz.failures.append(f"{command}: {found} for the whole store")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LIMIT_MEMORY,) * 2)
    print(json.dumps(fuzz.run(share)), flush=True)


if __name__ == "__main__":
    start()
