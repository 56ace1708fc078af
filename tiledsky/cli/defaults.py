"""What a command does of which it is not told: recipe, names of outputs, workers and memory of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiledsky.cli.options import loading, say
from tiledsky.cli.verdict import findings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tiledsky.cluster.configuration import ClusterFile
    from tiledsky.engine.plan import Plan
    from tiledsky.engine.result import Run

MemoryOption = Annotated[
    str | None, typer.Option(help="Memory of each worker (default: 2GB, or what this machine has).")
]


def on_this_machine(config: ClusterFile) -> ClusterFile:
    """Return a cluster of this machine with what fits it, where neither a file nor an option says how many and much."""
    with loading():
        from tiledsky.cluster.local import fitting

    if config.kind != "local":
        return config
    known = config.model_fields_set
    given = config.workers if "workers" in known else None
    limit = config.memory if "memory" in known else None
    workers, memory = fitting(workers=given, threads=config.threads, memory_limit=limit)
    return config.changed(workers=workers, memory=memory)


def no_more_than_tasks(config: ClusterFile, plan: Plan) -> ClusterFile:
    """Return a cluster of this machine without workers that would find no task: each takes seconds to start."""
    if config.kind != "local":
        return config
    most = max(math.prod(plan.grid(stage).counts) for stage in plan.stages)
    return config.changed(workers=min(config.workers, most))


def tell_result(run: Run) -> None:
    """Say what a run has found: the constants of footprints, and how good its sky is."""
    tell_footprints(run.footprints)
    _tell_verdict(run)


def _tell_verdict(run: Run) -> None:
    """Say how good the sky of a run is: in one word, and of what is not good where, and what to try."""
    with loading():
        from tiledsky.diagnostics import remarks

    found: Mapping[str, Any] = run.diagnostics
    verdict = found.get("verdict")
    if not verdict:
        return
    say(f"verdict: {verdict['result']}")
    for line in (*findings(run, verdict), *remarks(found)):
        say(f"  {line}")


def tell_footprints(table: NDArray[np.void] | None) -> None:
    """Say what constants a background has, and which footprints have none; nothing without a table of them."""
    if table is None:
        return
    if not len(table):
        say("footprints: none, no pixel is of any exposure")
        return
    known = table["error"] == table["error"]
    alone = f"; {int((~known).sum())} touch no other outside masks and have none" if not known.all() else ""
    groups = f"; {table['group'].max()} groups, each with a level of its own" if table["group"].max() > 1 else ""
    say(f"footprints: {len(table)}, constants {table['term'].min():.3g} to {table['term'].max():.3g}{alone}{groups}")
