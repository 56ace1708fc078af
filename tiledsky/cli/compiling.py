"""Says that kernels are compiled: the first command on a machine takes a minute of which nothing else can be seen.

numba tells nobody when it compiles. What it keeps are files, an index for each function, written when the function is
ready, by whichever process compiled it: these are counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import tiledsky

#: Variable with the folder of compiled kernels, and the end of the name of an index of this Python.
_VARIABLE, _INDEX = "NUMBA_CACHE_DIR", f"*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
_PACKAGE = Path(tiledsky.__file__).parent
#: A function that is compiled, in the source.
_KERNEL = re.compile(r"^@(?:numba\.)?njit\(.*cache=True", re.MULTILINE)
#: Seconds between counts.
_EVERY = 1.0
_NONE = subprocess.DEVNULL


def folders() -> list[Path]:
    """Folders that compiled kernels may be in: that of the variable, else the package or the cache of the user."""
    if chosen := os.environ.get(_VARIABLE):
        return [Path(chosen)]
    if os.access(_PACKAGE, os.W_OK):
        return [_PACKAGE]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    return [_PACKAGE, user]


def compiled() -> dict[Path, int]:
    """Indices of compiled kernels, and when each was written (ns)."""
    found = {}
    for folder in folders():
        for place, _, names in os.walk(folder):  # unlike rglob it passes over folders that are removed
            for path in (Path(place, name) for name in names if fnmatchcase(name, _INDEX)):
                try:
                    found[path] = path.stat().st_mtime_ns
                except OSError:  # removed while looked at
                    continue
    return found


def kernels() -> int:
    """How many functions of the package are compiled if all are used."""
    return sum(len(_KERNEL.findall(path.read_text())) for path in _PACKAGE.rglob("*.py"))


@contextmanager
def told(say: Callable[[int, int], None], *, recipe: str | None = None) -> Iterator[None]:
    """Call ``say`` while kernels are compiled, by whatever process: how many in this block, of how many at most.

    ``recipe``: one whose kernels this process compiles; a second process then begins at the other end.
    """
    before, ended = compiled(), threading.Event()
    helper: subprocess.Popen[bytes] | None = None

    def count() -> int:
        return sum(before.get(path) != written for path, written in compiled().items())

    def watch() -> None:
        nonlocal helper
        last, most = 0, None
        while not ended.wait(_EVERY):
            if (done := count()) > last:
                helper = helper or _begun_at_the_end(recipe)
                last, most = done, max(kernels() - len(before), 0) if most is None else most
                say(done, max(done, most))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if helper is not None:
            helper.terminate()
            helper.wait()


def _begun_at_the_end(recipe: str | None) -> subprocess.Popen[bytes] | None:
    """Start a process that compiles the last kernels of a recipe first; None where there is no core for it."""
    if recipe is None:
        return None
    from tiledsky.workflows.estimate_file import usable_cores  # its process has it: it takes long to load

    if usable_cores() < 2:
        return None
    words = [sys.executable, "-m", "tiledsky", "warm-up", "--beside", "--recipe", recipe]
    return subprocess.Popen(words, stdin=_NONE, stdout=_NONE, stderr=_NONE)
