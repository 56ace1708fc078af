"""Commands that plan, make and check runs: plan, run, verify."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiledsky.cli.arrays import do_slice
from tiledsky.cli.console import reporting
from tiledsky.cli.defaults import (
    MemoryOption,
    no_more_than_tasks,
    on_this_machine,
    tell_result,
)
from tiledsky.cli.options import (
    InjectionOption,
    KeepOption,
    RecipeOption,
    RunArgument,
    app,
    injecting,
    kept,
    loading,
    name_beside,
    placed,
    say,
    with_inputs,
)
from tiledsky.cli.reports import write_after
from tiledsky.engine.limits import TASK_TIMEOUT
from tiledsky.errors import ClockError, ParameterError, RunError
from tiledsky.io.options import InputOptions
from tiledsky.plain import counted
from tiledsky.recipe import RECOMMENDED

if TYPE_CHECKING:
    from tiledsky.cluster.configuration import ClusterFile


@app.command("plan")
@with_inputs(checksum=False)
def plan_of(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipe: RecipeOption = RECOMMENDED,
    *,
    inputs: InputOptions,
    keep: KeepOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes on this machine (default: as many as it has cores for).")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    memory_limit: MemoryOption = None,
    tile_size: Annotated[int | None, typer.Option(help="Side of the tiles in pixels.")] = None,
    injection: InjectionOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: integers, sizes in bytes.")] = False,
) -> None:
    """Print the tasks, bytes, worker memory and disk space of a run. Reads headers and a few pixels."""
    with loading():
        from tiledsky.cluster.local import check_sizes, fitting, parse_memory
        from tiledsky.engine.forecast import describe
        from tiledsky.engine.runner import planned

    workers, memory_limit = fitting(workers=workers, threads=threads, memory_limit=memory_limit)
    check_sizes(workers, threads)
    limit = parse_memory(memory_limit)
    chosen = injecting(kept(recipe, keep, inputs), injection)
    made = planned(chosen, source, tile_size=tile_size, memory_limit=limit, threads=threads, **inputs)
    made.check_fits(memory_limit=limit, threads=threads)
    report = describe(made.recipe, made.plan, made.source, workers=workers, memory_limit=limit, threads=threads)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1))
        return
    for line in report.text():
        say(line)


@app.command()
@with_inputs()
def run(
    source: Annotated[str, typer.Argument(metavar="IN", help="FITS file (plain, .gz, .fz) or Zarr store.")],
    recipe: RecipeOption = RECOMMENDED,
    out: Annotated[
        str | None,
        typer.Option(
            parser=placed,
            metavar="RUN.zarr",
            help="Run store (default: IN.sky.zarr in this folder); the same command resumes the run.",
        ),
    ] = None,
    *,
    inputs: InputOptions,
    keep: KeepOption = None,
    cluster: Annotated[
        str, typer.Option(metavar="FILE.toml", help="Cluster of the workers: a file, or local, slurm, scheduler, ...")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Worker processes (default: those of the cluster file, or of this machine).")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker (default: 1).")] = None,
    memory_limit: MemoryOption = None,
    scheduler: Annotated[str | None, typer.Option(help="Use this Dask scheduler (tcp://... or tls://...).")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a tcp:// scheduler on another machine.")] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve Dask's dashboard on this machine, at a secret address.")
    ] = False,
    task_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds after which a task loses its worker; 0: no limit.")
    ] = TASK_TIMEOUT,
    tile_size: Annotated[int | None, typer.Option(help="Side of the tiles in pixels; the result is the same.")] = None,
    verify_done: Annotated[
        str, typer.Option("--verify", help="Depth of the check of finished tasks: markers, sizes, crc or decode.")
    ] = "sizes",
    restart: Annotated[bool, typer.Option("--restart", help="Delete an earlier run in --out.")] = False,
    injection: InjectionOption = True,
    performance_report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write Dask's record of all tasks as a page that opens offline."),
    ] = None,
    worker_slice: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Do only this share of the tiles of --stage, without Dask; see submit."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Stage of --worker-slice; `finish` ends the run.")] = None,
    report_too: Annotated[
        bool,
        typer.Option("--report/--no-report", envvar="TILEDSKY_REPORT", help="Write the report beside RUN.zarr."),
    ] = True,
) -> None:
    """Estimate and subtract the sky by a recipe."""
    with loading():
        from tiledsky.cluster.job_queues import check_report, cluster_client, reported
        from tiledsky.cluster.local import parse_memory
        from tiledsky.engine.result import open_run
        from tiledsky.engine.runner import prepare
        from tiledsky.engine.verify import check_level
        from tiledsky.nodata import number_text
        from tiledsky.workflows.submit import FINISH

    began = time.monotonic()
    chosen = injecting(kept(recipe, keep, inputs), injection)
    check_level(verify_done)
    out = out or placed(name_beside(source, ".zarr"))
    if stage is not None and worker_slice is None:
        raise ParameterError(
            f"--stage {stage} is the stage of a job of an array, and this is none; give --worker-slice"
        )
    if worker_slice is not None:
        inputs["checksum"] = False  # submit looked at it
        do_slice(prepare(chosen, source, out, tile_size=tile_size, **inputs), worker_slice, stage)
        if stage == FINISH:
            write_after(open_run(out), wanted=report_too)
        return
    check_report(performance_report)
    config = _cluster(cluster, scheduler, workers=workers, threads=threads, memory=memory_limit, dashboard=dashboard)
    with reporting(goes_on=True) as report:
        # of another scheduler the workers say themselves what they have
        limit = parse_memory(config.memory) if config.kind != "scheduler" else None
        threads = config.threads
        prepared = prepare(chosen, source, out, tile_size=tile_size, memory_limit=limit, threads=threads, **inputs)
        prepared.check(restart=restart)
        if workers is None:
            config = no_more_than_tasks(config, prepared.plan)
        result = None
        while result is None:
            try:
                with cluster_client(config, insecure=insecure) as client, reported(performance_report):
                    report.line(_connected(config, client))
                    result = prepared.execute(
                        client=client,
                        restart=restart,
                        verify=verify_done,
                        task_timeout=task_timeout or None,
                        patience=config.patience,
                        progress=report.tiles,
                    )
            except ClockError as error:
                if config.kind == "scheduler":
                    raise
                report.line(f"{error}; new workers are started")
                restart = False
    ny, nx = result.plan.shape
    peak = result.provenance["peak_worker_memory"] / 1e6
    say(f"{out}: {ny} x {nx} px, {result.recipe.name}, {time.monotonic() - began:.1f} s, peak {peak:.0f} MB a worker")
    say(f"planes: {', '.join(result.planes)}")
    if (nodata := result.provenance.get("nodata")) is not None:
        say(f"no data: pixels that are {number_text(nodata)}")
    tell_result(result)
    write_after(result, wanted=report_too)
    say(f"FITS: {shlex.join(['tiledsky', 'export', out, name_beside(source, '.fits')])}")


def _connected(config: ClusterFile, client: Any) -> str:
    """Say what a run works on, and who else can get at it."""
    count = len(client.scheduler_info(n_workers=-1)["workers"])
    workers = f"{counted(count, 'worker')} ({config.kind})"
    if config.kind != "scheduler":
        return f"{workers}, dashboard {client.dashboard_link}" if config.dashboard else workers
    open_to = "" if client.scheduler.address.startswith("tls:") else ", not encrypted: whoever can connect runs code"
    return f"{workers} at {client.scheduler.address}{open_to}"


def _cluster(
    cluster: str,
    scheduler: str | None,
    *,
    workers: int | None,
    threads: int | None,
    memory: str | None,
    dashboard: bool,
) -> ClusterFile:
    """Return where the workers come from, by the options of the command line."""
    with loading():
        from tiledsky.cluster.configuration import load_cluster

    config = load_cluster(cluster)
    sized = config.changed(workers=workers, threads=threads, memory=memory, dashboard=dashboard or None)
    if scheduler is None:
        return on_this_machine(sized)
    if config.kind not in ("local", "scheduler"):
        raise ParameterError(f"--scheduler conflicts with a cluster of kind {config.kind}; leave one of them out")
    return config.changed(kind="scheduler", address=scheduler, dashboard=dashboard or None)


@app.command("verify")
def verify_run(
    source: RunArgument,
    level: Annotated[str, typer.Option(help="Depth of the check: markers, sizes, crc or decode.")] = "crc",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> None:
    """List damaged files of a run store and mark them for repair; exit code 4 if there are any."""
    with loading():
        from tiledsky.engine.verify import check_level, verify

    check_level(level)
    faults = verify(source, level=level, discard=not dry_run)
    if as_json:
        typer.echo(json.dumps({"run": source, "level": level, "faults": [f.to_json() for f in faults]}, indent=1))
    else:
        for fault in faults:
            say(str(fault))
        tiles = len({(f.stage, f.index) for f in faults if f.stage is not None})
        files = sum(f.stage is None for f in faults)
        found = f"{tiles} tiles and {files} files of metadata damaged" if faults else "nothing is damaged"
        say(f"{source}: {found} (level {level})")
    if faults:
        say("the command that made the run makes anew just what is damaged", err=True)
        raise typer.Exit(RunError.exit_code)
