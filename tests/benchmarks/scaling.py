"""What one driver can feed: the cost of a task to driver and scheduler, and the formula of docs/scaling.md on trial.

Usage: python -m tests.benchmarks.scaling [--tasks 5000] [--only paper|cost|simulate] [--threads 64] [--seconds 1.0]

``paper``: the table of docs/scaling.md, for COSMOS-Web.
``cost``: empty tasks; CPU and wall seconds of the process that holds driver and scheduler, a task.
``simulate``: tasks that sleep in place of a kernel on many worker threads; the wall time beside the formula, which must
agree within 20% on a quiet machine (else exit code 1): once where the workers are the limit, once where the driver is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dask

from tests.benchmarks.stage_times import Cost, gather_seconds, run_seconds, sent_seconds
from tiledsky.cluster.local import local_client
from tiledsky.engine.executors import DaskExecutor, Options
from tiledsky.engine.plan import make_plan
from tiledsky.io.folders import LocalFolder
from tiledsky.recipe import Recipe

PROCESSES = 2


def measure(count: int, threads: int, seconds: float) -> dict[str, float]:
    """Do ``count`` tasks of ``seconds`` of sleep on ``threads`` threads; CPU and wall seconds of this process."""
    os.environ["TILEDSKY_SLEEP"] = str(seconds)
    settings = {"distributed.worker.preload": ["tests.benchmarks.asleep"]}
    workers = min(PROCESSES, threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(settings),
        local_client(workers=workers, threads=threads // workers) as client,
    ):
        client.wait_for_workers(workers)
        (Path(folder) / "run").mkdir()
        executor = DaskExecutor(client, LocalFolder(Path(folder)), "0123456789abcdef", "", Options())
        list(executor.outcomes("warm", [(k, 0) for k in range(4 * threads)]))
        cpu, began = time.process_time(), time.monotonic()
        done = sum(1 for _ in executor.outcomes("idle", [(k // 300, k % 300) for k in range(count)]))
        assert done == count
        return {"cpu": time.process_time() - cpu, "wall": time.monotonic() - began}


def apart(count: int, threads: int, seconds: float) -> dict[str, float]:
    """Measure in a process of its own."""
    code = "import json, sys; from tests.benchmarks.scaling import measure\n"
    code += "if __name__ == '__main__': print(json.dumps(measure(*json.loads(sys.argv[1]))))"
    words = [sys.executable, "-c", code, json.dumps([count, threads, seconds])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


#: CPU seconds of gather tasks for each summary that they merge, of deep-sky on 40000 x 40000 px.
GATHERED = {
    "diagnostics": 2.64 / 400,
    "bins": 0.16 / 25,
    "centers": (10.09 + 0.21) / 2 / 25,
    "noise": 0.2 / 196,
    "robust-scale": 0.22 / 196,
    "weight-numbers": 0.26 / 196,
}
#: CPU seconds of the tasks of runs on 10000 x 10000 px with two workers, a pixel: of tiles of the image, and of tiles
#: of meshes; of `cost`; of gather tasks, for each summary.
MEASURED = {
    "deep-sky": Cost(74.8 / 1e8, 78.5 / 1e8, 0.002, GATHERED),
    "complex-sky": Cost(50.0 / 1e8, 8.4 / 1e8, 0.002, GATHERED),
}
COSMOS_WEB = (83000, 93200)


def paper() -> None:
    """Print the tables of docs/scaling.md."""
    for name, cost in MEASURED.items():
        recipe = Recipe.load(name).expanded()
        plan = make_plan(recipe, COSMOS_WEB, "float32", tile_size=None, ingest=True)
        alone = run_seconds(recipe, plan, replace(cost, driver_seconds=0.0), threads=1)
        gather = gather_seconds(recipe, plan, cost)
        print(f"{name}: {plan.n_tasks} tasks, {alone / 3600:.1f} CPU hours, {gather:.0f} s of them in gather tasks")
        for threads in (1, 16, 64, 256, 1024):
            seconds = run_seconds(recipe, plan, cost, threads=threads)
            ideal = (alone - gather) / threads + gather
            share = f"{100 * alone / threads / seconds:.0f}% of the threads at work"
            print(f"{threads:5} threads: {seconds / 60:6.1f} min, {share}; {ideal / 60:.1f} min if stages overlapped")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--only", choices=("paper", "cost", "simulate"))
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if given.only == "paper":
        paper()
        return 0
    found = apart(given.tasks, given.threads, 0.0)  # with fewer, tasks wait for the way there and back
    cpu, wall = (found[name] / given.tasks for name in ("cpu", "wall"))
    print(f"{given.tasks} empty tasks: {1e3 * cpu:.2f} ms CPU of driver and scheduler, {1e3 * wall:.2f} ms wall, each")
    if given.only == "cost":
        return 0
    good = True
    cases: list[tuple[str, int, int, float]] = [
        ("workers are the limit", 10 * given.threads, given.threads, given.seconds),
        ("the driver is the limit", given.tasks, given.threads, 0.1 * given.threads * wall),
    ]
    for name, count, threads, seconds in cases:
        options = {"threads": threads, "task_seconds": seconds}
        expected = sent_seconds(count, driver_seconds=wall, **options)
        took = apart(count, threads, seconds)["wall"]
        within = abs(took / expected - 1) <= 0.2
        good &= within
        print(
            f"{name}: {count} tasks of {seconds:.3f} s on {threads} threads: {took:.1f} s, formula {expected:.1f} s "
            f"({100 * (took / expected - 1):+.0f}%){'' if within else ' NOT WITHIN 20%'}"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
