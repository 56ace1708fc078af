"""Commands about the machines that runs are made on: cluster check, cluster script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiledsky.cli.console import reporting
from tiledsky.cli.options import BATCH, app, loading, say
from tiledsky.errors import ParameterError
from tiledsky.plain import counted

clusters = typer.Typer(no_args_is_help=True, help="Check the workers that a cluster file describes.")
app.add_typer(clusters, name="cluster", rich_help_panel=BATCH)

_File = Annotated[str, typer.Argument(metavar="FILE.toml", help="Cluster file, or local, slurm, pbs, lsf, sge, ...")]


@clusters.command("check")
def check(
    cluster: _File,
    folder: Annotated[Path, typer.Option(help="Folder of the runs; all workers must see it.")] = Path(),
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a tcp:// scheduler on another machine.")] = False,
) -> None:
    """Start the workers, compare their versions, run a tile on each, and stop them."""
    with loading():
        from tiledsky.cluster.configuration import load_cluster
        from tiledsky.cluster.job_queues import cluster_client
        from tiledsky.workflows.check_cluster import SAME, check_cluster

    config = load_cluster(cluster)
    with reporting() as report:
        report.line(f"waiting for the first of {counted(config.workers, 'worker')} ({config.kind})")
        with cluster_client(config, insecure=insecure) as client:
            found = check_cluster(client, folder=folder)
    say(", ".join(f"{name} {found.versions[name]}" for name in SAME))
    workers, threads = counted(found.workers, "worker"), counted(found.threads, "thread")
    say(f"{workers}, {threads}, the same versions and bits as here")
    say(f"{found.megapixels:.2f} Mpix/s with complex-sky, all together")


@clusters.command("script")
def script(cluster: _File) -> None:
    """Print the job script of one job; start nothing."""
    with loading():
        from tiledsky.cluster.configuration import QUEUES, load_cluster
        from tiledsky.cluster.job_queues import job_script

    config = load_cluster(cluster)
    if config.kind not in QUEUES:
        raise ParameterError(f"cluster of kind {config.kind} has no job script; kinds with one: {', '.join(QUEUES)}")
    typer.echo(job_script(config))
