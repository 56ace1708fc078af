"""Whole programs on two cores, by wall time: from a file to a file, growth with the image, and start-up.

Every program runs in a process of its own, so that nothing of this one (its memory, its loaded kernels) shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.tables import number, table
from tiledsky.recipe import preset_names

NAMES = (
    "programs: sextractor from FITS to FITS",
    "programs: copy",
    "programs: growth",
    "programs: start-up",
    "programs: memory",
)

_ROOT = Path(__file__).resolve().parents[2]
_SEXTRACTOR = ("source-extractor", "sex")  # the program's name in Debian, and elsewhere
_CHILDREN = "tests.benchmarks.children"
_LAUNCH = Path(__file__).with_name("launch.py")
_GROWTH = 1.10  # CPU seconds a pixel may grow by this much from the smallest to the largest image


@dataclass(frozen=True)
class Measurement:
    """One number of a program, beside its peer or its limit.

    Attributes
    ----------
    name, unit : str
    value : float
    peer : str
        What `peer_value` is of; empty if there is no peer.
    peer_value : float or None
    goal : str
    met : bool or None
        None where nothing is asked for.
    note : str
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the programs."""
    group = parser.add_argument_group("programs (only with --only programs)")
    group.add_argument("--program-size", type=int, default=10000, help="side of the image (default 10000)")
    group.add_argument("--growth-sizes", default="4000,10000,20000", help="sides for growth (default %(default)s)")
    group.add_argument("--memory-sizes", default="5000,10000,20000", help="sides for memory (default %(default)s)")
    group.add_argument("--program-repeat", type=int, default=3, help="runs of each program (default 3)")
    group.add_argument("--workdir", type=Path, help="where images are made (default: the system's temporary folder)")


def measure_programs(names: Sequence[str], options: argparse.Namespace) -> list[Measurement]:
    """Measure the programs named."""
    functions: dict[str, Callable[[Path, argparse.Namespace], list[Measurement]]] = dict(
        zip(NAMES, (_from_fits_to_fits, _copy, _growth, _start_up, _memory), strict=True)
    )
    found = []
    for name in names:
        _say(name)
        with _folder(options.workdir) as folder:
            measured = functions[name](folder, options)
        for one in measured:  # said at once: a program that fails hours later takes nothing with it
            _say(f"  {one.name}: {number(one.value)} {one.unit}; {one.peer} {one.peer_value or ''} {one.note}")
        found += measured
    return found


def program_table(measured: Sequence[Measurement]) -> str:
    """Table of the programs."""
    rows = []
    for one in measured:
        ratio = "" if one.peer_value is None else number(one.value / one.peer_value)
        met = {None: "", True: " +", False: " MISSED"}[one.met]
        peer_value = "" if one.peer_value is None else number(one.peer_value)
        rows.append((one.name, number(one.value), one.unit, one.peer, peer_value, ratio, one.goal + met, one.note))
    return table(("measured", "ours", "unit", "peer", "peer's", "ours / peer's", "goal", "note"), rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tiledsky-bench-", dir=parent) as name:
        yield Path(name)


@dataclass(frozen=True)
class _Took:
    """What a command and all its children took; memory is of the largest single process."""

    wall: float
    cpu: float
    peak: float
    output: str


def _command(*words: str | Path, folder: Path, **environment: str) -> _Took:
    """Run a command to its end; what it says is shown only if it fails."""
    os.sync()  # what the last program left to be written is not to be waited for by this one
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.NamedTemporaryFile("r") as facts:
        done = subprocess.run(
            [sys.executable, "-ISs", _LAUNCH, facts.name, *map(str, words)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        wall, cpu, peak = map(float, facts.read().split())
        return _Took(wall, cpu, peak, done.stdout)


def _tiledsky(*words: str | Path, folder: Path) -> _Took:
    return _command(sys.executable, "-m", "tiledsky", *words, folder=folder)


def _child(*words: str | Path, folder: Path, **environment: str) -> _Took:
    """Run one of the programs of `children`, which print JSON."""
    return _command(sys.executable, "-m", _CHILDREN, *words, folder=folder, **environment)


def _median(runs: Sequence[_Took]) -> _Took:
    """The run of middle wall time."""
    return sorted(runs, key=lambda run: run.wall)[len(runs) // 2]


def _from_fits_to_fits(folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """The recipe `sextractor` against the program: a FITS image in, background and rms as FITS out."""
    size = options.program_size
    for side, name in ((600, "small.fits"), (size, "scene.fits")):
        _tiledsky("simulate", name, "--size", str(side), folder=folder)
    for ours in (_estimated, _run_and_exported):
        ours("small.fits", folder)  # compiles, if nobody has yet
    program = next(filter(None, map(shutil.which, _SEXTRACTOR)), None)
    if program is None:
        _say("NOT COMPARED: neither source-extractor nor sex is installed; on Debian: apt install source-extractor")
    direct, by_run, theirs = [], [], []
    for _ in range(options.program_repeat):
        direct.append(_estimated("scene.fits", folder))
        by_run.append(_run_and_exported("scene.fits", folder))
        if program is not None:
            theirs.append(_sextractor(program, "scene.fits", folder))
    peer = "source-extractor (NOT INSTALLED)" if program is None else Path(program).name
    other = _median(theirs) if theirs else None
    name = f"sextractor, {size} px, FITS to FITS"
    return [
        _against_program(name, _median(direct), peer, other, goal=True),
        _against_program(f"{name}, run and export", _median(by_run), peer, other, goal=False),
    ]


def _against_program(name: str, mine: _Took, peer: str, other: _Took | None, *, goal: bool) -> Measurement:
    note = f"our largest process {mine.peak / 1e6:.0f} MB, CPU {mine.cpu:.1f} s"
    asked = "<= 1" if goal else ""
    if other is None:
        return Measurement(name, mine.wall, "s wall", peer, None, asked, None, note)
    note += f"; theirs {other.peak / 1e6:.0f} MB, CPU {other.cpu:.1f} s"
    met = mine.wall <= other.wall if goal else None
    return Measurement(name, mine.wall, "s wall", peer, other.wall, asked, met, note)


_TWO_PLANES = ("--planes", "background,background_rms", "--overwrite")


def _estimated(image: str, folder: Path) -> _Took:
    took = _tiledsky("estimate", image, "direct.fits", "--recipe", "sextractor", *_TWO_PLANES, folder=folder)
    (folder / "direct.fits").unlink()  # as the program's: to give up the blocks of a file takes time, too
    return took


def _run_and_exported(image: str, folder: Path) -> _Took:
    options = ("--recipe", "sextractor", "--out", "run.zarr", "--workers", "2", "--restart", "--no-report")
    run = _tiledsky("run", image, *options, folder=folder)
    export = _tiledsky("export", "run.zarr", "ours.fits", *_TWO_PLANES, folder=folder)
    return _Took(run.wall + export.wall, run.cpu + export.cpu, max(run.peak, export.peak), "")


def _sextractor(program: str, image: str, folder: Path) -> _Took:
    """Both maps and, as far as the program lets us, nothing else: no filter, a threshold that nothing passes."""
    (folder / "only.param").write_text("NUMBER\n")
    settings = {
        "CATALOG_TYPE": "NONE",
        "PARAMETERS_NAME": "only.param",
        "FILTER": "N",
        "DETECT_THRESH": "1e9",
        "ANALYSIS_THRESH": "1e9",
        "CLEAN": "N",
        "BACK_SIZE": "64",
        "BACK_FILTERSIZE": "3",
        "CHECKIMAGE_TYPE": "BACKGROUND,BACKGROUND_RMS",
        "CHECKIMAGE_NAME": "sky.fits,rms.fits",
        "VERBOSE_TYPE": "QUIET",
    }
    (folder / "peer.sex").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    took = _command(program, image, "-c", "peer.sex", folder=folder)
    for name in ("sky.fits", "rms.fits"):
        if not (folder / name).is_file():
            raise RuntimeError(f"{program} ended without an error but did not write {name}")
        (folder / name).unlink()
    return took


def _copy(folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """A run from Zarr to Zarr against a copy of all planes that it leaves."""
    size = options.program_size
    _tiledsky("simulate", "scene.zarr", "--size", str(size), folder=folder)
    took = _child("copy", "scene.zarr", str(options.program_repeat), folder=folder)
    found = json.loads(took.output)
    run, copy = statistics.median(found["run"]), statistics.median(found["copy"])
    peer = "Dask copy of its planes"
    note = ", ".join(found["planes"])
    name = f"sextractor, {size} px, Zarr to Zarr"
    return [Measurement(name, run, "s wall", peer, copy, "<= 2", run <= 2 * copy, note)]


def _growth(folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """CPU seconds a pixel and peak memory of complex-sky as the image grows."""
    sizes = [int(word) for word in options.growth_sizes.split(",")]
    found = []
    for size in sizes:
        _say(f"  {size} x {size}")
        _tiledsky("simulate", "scene.zarr", "--size", str(size), folder=folder)
        found.append(json.loads(_child("growth", "scene.zarr", folder=folder).output))
        shutil.rmtree(folder / "scene.zarr")
    measured = []
    for size, one in zip(sizes, found, strict=True):
        rate, first = one["cpu_seconds"] / size**2 * 1e6, found[0]["cpu_seconds"] / sizes[0] ** 2 * 1e6
        peak, first_peak = one["peak_worker_memory"] / 1e6, found[0]["peak_worker_memory"] / 1e6
        larger = size != sizes[0]
        peer = f"at {sizes[0]} px" if larger else ""
        measured += [
            Measurement(
                f"complex-sky, {size} px, CPU",
                rate,
                "s/Mpix",
                peer,
                first if larger else None,
                "<= 1.1" if larger else "",
                rate <= _GROWTH * first if larger else None,
                f"{one['tasks']} tasks, wall {one['wall']:.0f} s",
            ),
            Measurement(
                f"complex-sky, {size} px, largest worker",
                peak,
                "MB",
                peer,
                first_peak if larger else None,
                "<= 1.1" if larger else "",
                peak <= _GROWTH * first_peak if larger else None,
            ),
        ]
    return measured


def _memory(folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """Peak of a worker against what the plan says: every preset, then one recipe as the image grows."""
    sizes = [int(word) for word in options.memory_sizes.split(",")]
    measured = []
    flat: list[float] = []
    for size in sizes:
        _tiledsky("simulate", "scene.zarr", "--size", str(size), folder=folder)
        for recipe in preset_names() if size == sizes[0] else ["complex-sky"]:
            found = json.loads(_child("memory", recipe, "scene.zarr", folder=folder).output)
            gathers = {name: one for name, one in found["stages"].items() if name in found["gathers"]}
            tiles = {name: one for name, one in found["stages"].items() if name not in gathers}
            for what, stages in (("tiles", tiles), ("gathers", gathers)):
                measured.append(_memory_row(f"{recipe}, {size} px, {what}", stages))
                _say(f"  {measured[-1].name}: {measured[-1].value:.0f} of {measured[-1].peer_value:.0f} MB")
            if recipe == "complex-sky":
                flat.append(max(one["measured"] for one in tiles.values()) / 1e6)
        shutil.rmtree(folder / "scene.zarr")
    for size, peak in zip(sizes[1:], flat[1:], strict=True):
        met = peak <= _GROWTH * flat[0]
        row = (f"complex-sky, {size} px, tiles alone", peak, "MB", f"at {sizes[0]} px", flat[0], "<= 1.1", met)
        measured.append(Measurement(*row))
    return measured


def _memory_row(name: str, stages: dict[str, dict[str, int]]) -> Measurement:
    """Row of the stage that comes nearest to what was projected."""
    near = max(stages, key=lambda stage: stages[stage]["measured"] / stages[stage]["projected"])
    value, projected = stages[near]["measured"] / 1e6, stages[near]["projected"] / 1e6
    over = [stage for stage, one in stages.items() if one["measured"] > one["projected"]]
    least = min(one["measured"] / one["projected"] for one in stages.values())
    note = f"{near}; least of all stages {least:.2f}" + (f"; OVER: {', '.join(over)}" if over else "")
    return Measurement(name, value, "MB", "projected", projected, "<= 1", not over, note)


def _start_up(folder: Path, options: argparse.Namespace) -> list[Measurement]:
    """Time to the first result of a process, without and with compiled kernels on disk; of a command; of an import."""
    measured = []
    for recipe in ("sextractor", "complex-sky"):
        cache = folder / f"cache-{recipe}"
        cold = _child("first", recipe, folder=folder, NUMBA_CACHE_DIR=str(cache))
        warm = _median(
            [_child("first", recipe, folder=folder, NUMBA_CACHE_DIR=str(cache)) for _ in range(options.program_repeat)]
        )
        note = f"CPU {cold.cpu:.1f} s"
        measured += [
            Measurement(f"{recipe}, first process ever", cold.wall, "s wall", note=note),
            Measurement(f"{recipe}, later process", warm.wall, "s wall", goal="< 2 s", met=warm.wall < 2),
        ]
    _tiledsky("simulate", "small.fits", "--size", "300", folder=folder)
    words = ("estimate", "small.fits", "sky.fits", "--recipe", "sextractor", "--overwrite")
    runs = [_tiledsky(*words, folder=folder) for _ in range(options.program_repeat + 1)]
    wall = _median(runs[1:]).wall  # the first may compile
    measured.append(Measurement("sextractor, 300 px, FITS to FITS", wall, "s wall", goal="< 2 s", met=wall < 2))
    for what, statement in (("python alone", "pass"), ("import tiledsky", "import tiledsky")):
        runs = [_command(sys.executable, "-c", statement, folder=folder) for _ in range(options.program_repeat)]
        measured.append(Measurement(what, _median(runs).wall, "s wall"))
    return measured
