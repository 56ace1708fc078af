"""A plan of very many tasks that do nothing: what the driver and the scheduler take for them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

#: Run in a process of its own, so that its memory is that of driver and scheduler alone. Markers are not read: the
#: time and memory are those of submitting tasks and hearing of their ends.
CODE = """
import sys, time
import dask
from tiledsky.engine import executors
from tiledsky.cluster.local import local_client
from tiledsky.cluster.process_memory import task_peak  # getrusage would count the process that started this one
from tiledsky.io.folders import folder_at

if __name__ == "__main__":
    count, out = int(sys.argv[1]), folder_at(sys.argv[2])
    with dask.config.set({"distributed.worker.preload": ["tests.engine.idle"]}), local_client() as client:
        client.wait_for_workers(2)
        first = task_peak() / 1e6
        submit, seconds = executors.DaskExecutor._submit, []

        def timed(self, order, jobs):
            began = time.monotonic()
            futures = submit(self, order, jobs)
            seconds.append(time.monotonic() - began)
            # the scheduler knows the tasks once it answers
            client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
            known.append(time.monotonic() - began)
            return futures

        known, done, began = [], 0, time.monotonic()
        executors.DaskExecutor._submit = timed
        indices = [(k // 300, k % 300) for k in range(count)]
        executor = executors.DaskExecutor(client, out, "0123456789abcdef", "", executors.Options())
        for index, outcome in executor.outcomes("idle", indices):
            assert outcome == {"seconds": 0.0, "cpu_seconds": 0.0}, outcome
            done += 1
        assert done == count
        peak = task_peak() / 1e6
        print(sum(known), sum(seconds), time.monotonic() - began, first, peak)
"""


def measured(count: int, folder: Any) -> tuple[float, float, float]:
    """Submit tasks; print and return what that took.

    Seconds that it took to make all tasks known to the scheduler; MB of driver and scheduler before, and at most.
    """
    (folder / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(count), str(folder)],
        capture_output=True, text=True, timeout=1500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    known, submitted, all_done, first, peak = map(float, done.stdout.split())
    print(
        f"{count} tasks: submitted in {submitted:.1f} s, known to the scheduler {known:.1f} s, done after "
        f"{all_done:.1f} s; driver and scheduler {first:.0f} MB before, {peak:.0f} MB at most"
    )
    return known, first, peak


def test_five_thousand_tasks(tmp_path: Any) -> None:
    """A task takes a few kB of the scheduler; what libraries take is another matter, and differs between machines."""
    _, first, peak = measured(5_000, tmp_path)
    assert peak - first < 5_000 * 0.012


@pytest.mark.faults
def test_sixty_thousand_tasks(tmp_path: Any) -> None:
    seconds, _, peak = measured(60_000, tmp_path)
    assert seconds < 60
    assert peak < 500
