"""The formula of how long stages take, against an event-by-event count of the same rules."""

from __future__ import annotations

import heapq

import pytest

from tests.benchmarks.stage_times import Cost, run_seconds, threads_fed
from tiledsky import Recipe
from tiledsky.engine.pace import grouped_seconds, stage_seconds, tasks_together
from tiledsky.engine.plan import make_plan


def counted(count: int, threads: int, task: float, driver: float) -> float:
    """Hand out tasks one every ``driver`` seconds, each to the thread that is free first; return when all are done."""
    free, now = [0.0] * threads, 0.0
    for _ in range(count):
        now += driver
        heapq.heapreplace(free, max(free[0], now) + task)
    return max(free)


@pytest.mark.parametrize("count", [1, 7, 64, 1000, 1886])
@pytest.mark.parametrize("threads", [1, 16, 256, 4096])
@pytest.mark.parametrize(("task", "driver"), [(2.0, 0.002), (0.5, 0.01), (0.01, 0.01), (0.001, 0.005)])
def test_formula(count: int, threads: int, task: float, driver: float) -> None:
    paper = stage_seconds(count, threads=threads, task_seconds=task, driver_seconds=driver)
    assert paper == pytest.approx(counted(count, threads, task, driver), rel=0.2)


def test_threads_that_one_driver_feeds() -> None:
    fed = threads_fed(0.47, 0.0025)
    assert fed == pytest.approx(188, abs=1)  # rounded down
    few, many = (stage_seconds(10**5, threads=n, task_seconds=0.47, driver_seconds=0.0025) for n in (fed, 10 * fed))
    assert many == pytest.approx(few, rel=0.01)  # more are of no use
    assert stage_seconds(10**5, threads=fed // 2, task_seconds=0.47, driver_seconds=0.0025) > 1.9 * few


@pytest.mark.parametrize("threads", [1, 2, 64, 256, 4096])
@pytest.mark.parametrize("count", [1, 36, 810, 2107])
@pytest.mark.parametrize("seconds", [0.001, 0.06, 0.17, 3.0])
def test_short_tasks_go_in_groups(threads: int, count: int, seconds: float) -> None:
    """Never much slower than one by one, in groups that some threads still share; more threads do no harm."""
    options = {"threads": threads, "task_seconds": seconds, "driver_seconds": 0.002}
    together = tasks_together(count, **options)
    took, alone = grouped_seconds(count, together, **options), stage_seconds(count, **options)
    assert took <= 1.05 * alone
    assert (together == 1) if seconds >= 0.002 * min(threads, count) else (took < alone or together == 1)
    more = {**options, "threads": 4 * threads}
    assert grouped_seconds(count, tasks_together(count, **more), **more) <= 1.05 * took


def test_run_is_its_stages() -> None:
    recipe = Recipe.load("complex-sky").expanded()
    plan = make_plan(recipe, (20000, 20000), "float32", tile_size=None, ingest=True)
    tiles, cost = len(plan.grid(plan.stage("output"))), Cost(8e-7, 1e-7, 0.0, {"diagnostics": 0.01, "bins": 0.02})
    blocks = len(plan.grid(plan.stage("tiers-histogram-merge")))
    assert blocks < tiles / 4
    alone = 0.01 * tiles + 0.02 * blocks
    assert run_seconds(recipe, plan, cost, threads=1) == pytest.approx(4e8 * 9e-7 + alone)
    # what is done in one task is not shared
    assert run_seconds(recipe, plan, cost, threads=10**6) > alone
