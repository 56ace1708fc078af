"""Kernels that are compiled on first use, and ahead of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from astropy.io import fits

import tiledsky
from tests.engine.scenes import make_planes
from tiledsky.cli import compiling

END = f"py{sys.version_info.major}{sys.version_info.minor}"


def test_what_is_compiled_meanwhile_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "_EVERY", 0.01)
    (tmp_path / "a").mkdir()
    for name in (f"old-1.{END}.nbi", f"stale-1.{END}.nbi"):
        (tmp_path / "a" / name).write_text("index")
    os.utime(tmp_path / "a" / f"stale-1.{END}.nbi", ns=(1, 1))
    seen: list[tuple[int, int]] = []
    said = threading.Event()

    def say(done: int, most: int) -> None:
        seen.append((done, most))
        if done == 2:
            said.set()

    with compiling.told(say):
        (tmp_path / "a" / f"stale-1.{END}.nbi").write_text("compiled anew")
        (tmp_path / "a" / f"new-1.{END}.nbi").write_text("index")
        (tmp_path / "a" / "other-1.py20.nbi").write_text("of another Python")
        assert said.wait(60)
    assert seen[-1] == (2, compiling.kernels() - 2)


def test_all_kernels_are_counted() -> None:
    """Those of the syntax trees, whatever the decorator is called."""
    trees = [ast.parse(path.read_text()) for path in Path(tiledsky.__file__).parent.rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    kept = [f for f in functions if any(re.search(r"\bnjit\(.*cache=True", ast.unparse(d)) for d in f.decorator_list)]
    assert compiling.kernels() == len(kept) > 100


def test_warm_up_compiles_what_a_command_then_finds(tmp_path: Path) -> None:
    """In processes of their own, with an empty cache: the first says what it does, the second has nothing to do."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> tuple[str, str]:
        line = [sys.executable, "-m", "tiledsky", *words]
        done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    fits.PrimaryHDU(make_planes((200, 210))["science"]).writeto(tmp_path / "scene.fits")
    out, err = command("warm-up", "--recipe", "sextractor")
    assert re.search(r"^compiling kernels \(once on this machine\) [1-9]\d*/[1-9]\d*$", err, re.MULTILINE), err
    assert re.fullmatch(rf"\d+ compiled kernels in {re.escape(str(tmp_path / 'cache'))}, \d+ s\n", out)
    before = sorted((tmp_path / "cache").rglob("*.nbc"))
    assert before
    _, err = command("estimate", "scene.fits", "--recipe", "sextractor")
    assert "compiling" not in err
    assert sorted((tmp_path / "cache").rglob("*.nbc")) == before


def test_a_second_process_compiles_what_the_first_would(tmp_path: Path) -> None:
    """Background steps alone compile some of the kernels that the recipe needs, and no others."""
    fits.PrimaryHDU(make_planes((300, 310))["science"]).writeto(tmp_path / "scene.fits")
    made = []
    for words in ("warm-up", "--beside"), ("estimate", "scene.fits"):
        cache = tmp_path / words[0]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
        line = [sys.executable, "-m", "tiledsky", *words, "--recipe", "sextractor"]
        subprocess.run(line, env=environment, cwd=tmp_path, check=True)
        made.append({re.sub(r"-\d+\..*", "", path.name) for path in cache.rglob("*.nbi")})
    assert len(made[0]) > 10
    assert made[0] <= made[1]


@pytest.mark.parametrize(("cores", "recipe", "begun"), [(2, "sextractor", 1), (1, "sextractor", 0), (2, None, 0)])
def test_a_second_process_is_begun_once_where_there_is_a_core_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, recipe: str | None, begun: int
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "_EVERY", 0.01)
    monkeypatch.setattr("tiledsky.workflows.estimate_file.usable_cores", lambda: cores)
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def begin(words: list[str], **streams: int) -> subprocess.Popen[bytes]:
        assert words[-2:] == ["--recipe", recipe]
        processes.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **streams))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", begin)
    seen = threading.Semaphore(0)
    with compiling.told(lambda done, most: seen.release(), recipe=recipe):
        for number in range(3):
            (tmp_path / f"new{number}-1.{END}.nbi").write_text("index")
            assert seen.acquire(timeout=60)
    assert len(processes) == begun
    assert all(process.returncode for process in processes)  # ended with the block
