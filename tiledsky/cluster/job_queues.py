"""Workers as jobs of a queue (SLURM, PBS, LSF, SGE), or as steps of the SLURM job that this process runs in.

The scheduler is in this process. All talk TLS with keys made for the run, as on one machine (`tiledsky.cluster.local`).
Jobs and steps that are lost are replaced, as many times as it takes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import psutil

from tiledsky.cluster.configuration import ClusterFile
from tiledsky.cluster.local import local_client, parse_memory, scheduler_client, worker_environment
from tiledsky.cluster.stop import held
from tiledsky.cluster.submissions import check_commands, submissions
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.files import write_bytes, writing
from tiledsky.io.targets import check_target_file
from tiledsky.scratch import drop, scratch_folder

#: Of a scheduler whose workers come and go.
_SETTINGS = {
    "distributed.admin.large-graph-warning-threshold": "1GB",
    "distributed.scheduler.allowed-failures": 1,
    "distributed.admin.low-level-log-length": 1000,
    # a job whose worker is gone that long is replaced; a worker that its nanny starts anew is back before
    "distributed.deploy.lost-worker-timeout": "15s",
}
#: Lines of a job script: a folder for workers that other users of the machine cannot write to.
_OWN_FOLDER = [
    'export DASK_TEMPORARY_DIRECTORY="$(mktemp -d)"',
    """trap 'rm -rf "$DASK_TEMPORARY_DIRECTORY"' EXIT""",
]
#: Seconds between looks for the first worker, and between starts of a step that ends again and again.
_POLL, _AGAIN = 0.2, 5.0


@contextmanager
def cluster_client(config: ClusterFile, *, insecure: bool = False) -> Iterator[Any]:
    """Start the workers of a cluster file, or find them, and connect.

    Parameters
    ----------
    config : ClusterFile
    insecure : bool
        See `tiledsky.cluster.local.scheduler_client`.

    Raises
    ------
    ParameterError
        Values that cannot work here.
    RunError
        No worker comes, a queue does not take the job, a scheduler does not answer.
    """
    if config.kind == "local":
        made = local_client(
            workers=config.workers,
            threads=config.threads,
            memory_limit=config.memory,
            dashboard=config.dashboard,
        )
    elif config.kind == "scheduler":
        made = _scheduler_client(config, insecure=insecure)
    elif config.kind == "allocation":
        made = _allocation_client(config)
    else:
        made = _queue_client(config)
    with made as client:
        yield client


def check_report(file: str | os.PathLike[str] | None) -> None:
    """Refuse the name of a report (see `reported`) before anything is started.

    Raises
    ------
    ParameterError
        Its folder is not there; something else than an earlier report stands there.
    """
    if file is not None and not Path(file).absolute().parent.is_dir():
        raise ParameterError(f"the folder of the performance report {file} does not exist; make it or change the path")
    if file is not None:
        check_target_file(Path(file), mark=b"Dask Performance Report")


@contextmanager
def reported(file: str | os.PathLike[str] | None) -> Iterator[None]:
    """Write Dask's report of what its workers did in this block, a page that needs no network; None: no report."""
    if file is None:
        yield
        return
    from distributed import performance_report

    page, scratch = Path(file), scratch_folder()
    try:
        with ExitStack() as stack:
            stack.enter_context(performance_report(filename=os.fspath(scratch / "report.html"), mode="inline"))
            yield
            with writing(page):
                stack.close()
        # Bokeh asks for a typesetter of formulas, of which there are none, and Dask for its icon
        text = re.sub(r'<script[^>]*src="https?://[^"]*"[^>]*></script>', "", (scratch / "report.html").read_text())
        write_bytes(page, re.sub(r'<link[^>]*href="https?://[^"]*"[^>]*>', "", text).encode())
    finally:
        drop(scratch)


def _given(config: ClusterFile) -> Any:
    """TLS files of the config; None: none given."""
    from distributed.security import Security

    files = config.tls_files()
    return Security(require_encryption=True, **files) if files else None


def _security(config: ClusterFile) -> Any:
    """TLS of the config, or made for the run."""
    from distributed.security import Security

    return _given(config) or Security.temporary()


def loopback() -> str:
    """Name of the loopback interface."""
    names = {name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found)}
    return min(names)


def _interface(config: ClusterFile) -> str:
    known = sorted(psutil.net_if_addrs())
    if config.interface is None:
        return loopback()
    if config.interface not in known:
        raise ParameterError(f"this machine has no interface {config.interface!r}; it has {', '.join(known)}")
    return config.interface


def _logs(config: ClusterFile) -> Path:
    folder = config.log_folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _queue_class(config: ClusterFile) -> Any:
    """Class of dask-jobqueue for a kind of queue."""
    try:
        import dask_jobqueue
    except ImportError:
        raise ParameterError(
            "clusters of jobs need dask-jobqueue, which is not installed; pip install 'tiledsky[jobqueue]'"
        ) from None
    names = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
    return getattr(dask_jobqueue, names[config.kind])


def job_script(config: ClusterFile) -> str:
    """Return the script of one job, as it would go to the queue."""
    made = _queue_class(config).job_cls("tls://SCHEDULER:PORT", "WORKER", protocol="tls://", **_job_options(config))
    return str(made.job_script())


def _job_options(config: ClusterFile) -> dict[str, Any]:
    """Options of a job."""
    prologue = [f"export {name}={shlex.quote(value)}" for name, value in worker_environment().items()]
    lifetime = ["--lifetime", f"{config.lifetime}s", "--lifetime-stagger", f"{config.lifetime // 20}s"]
    prologue += [] if config.scratch else _OWN_FOLDER
    return {
        "queue": config.queue,
        "cores": config.workers_per_job * config.threads,
        "processes": config.workers_per_job,
        "memory": f"{config.workers_per_job * parse_memory(config.memory)}B",
        "interface": _interface(config),
        "log_directory": str(_logs(config)),
        "local_directory": config.scratch,
        "job_name": "tiledsky",
        "job_extra_directives": list(config.directives),
        "job_script_prologue": [*prologue, *config.setup],
        "worker_extra_args": ["--no-dashboard", *lifetime],
        "python": config.python or sys.executable,
        **_queue_options(config),
    }


def _queue_options(config: ClusterFile) -> dict[str, Any]:
    """Options that the queues call differently."""
    hours, rest = divmod(config.seconds, 3600)
    walltime = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    megabytes = -(-config.job_memory // 10**6)
    if config.kind == "slurm":
        return {
            "account": config.account,
            "walltime": walltime,
            "job_cpu": config.job_cores,
            "job_mem": f"{-(-config.job_memory // 2**20)}M",
        }
    if config.kind == "pbs":
        spec = f"select=1:ncpus={config.job_cores}:mem={megabytes}MB"
        return {"account": config.account, "walltime": walltime, "resource_spec": spec}
    if config.kind == "lsf":
        short = f"{hours:02}:{rest // 60:02}"
        cores = {"ncpus": config.job_cores, "mem": config.job_memory}
        return {"project": config.account, "walltime": short, **cores}
    return {"project": config.account, "walltime": walltime, "resource_spec": f"h_vmem={megabytes}M"}


@contextmanager
def _scheduler_client(config: ClusterFile, *, insecure: bool) -> Iterator[Any]:
    """Connect to a scheduler; where the file has ``wait``, wait until it is there and has workers."""
    address, security = config.scheduler_address, _given(config)
    end = time.monotonic() + (config.patience or 0.0)
    with ExitStack() as stack:
        while True:
            try:
                client = stack.enter_context(scheduler_client(address, insecure=insecure, security=security))
                break
            except RunError:
                if time.monotonic() > end:
                    raise
                time.sleep(_POLL)
        yield client


@contextmanager
def _queue_client(config: ClusterFile) -> Iterator[Any]:
    from distributed import Client

    from tiledsky.cluster.closed import NO_DASHBOARD, NO_PAGES, pages_closed

    queue = _queue_class(config)
    check_commands(queue, config.kind)
    with dask.config.set({**_SETTINGS, **NO_PAGES}), ExitStack() as stack:
        with held():
            seen = stack.enter_context(submissions())
            cluster = queue(
                scheduler_options=NO_DASHBOARD,
                security=_security(config),
                shared_temp_directory=str(_logs(config)),
                silence_logs="error",
                **_job_options(config),
            )
            stack.enter_context(cluster)
            stack.enter_context(pages_closed(cluster, dashboard=config.dashboard))
            client = stack.enter_context(Client(cluster))

        def refused() -> str | None:
            taken = any(job.job_id for job in cluster.workers.values())
            return None if taken else seen.last

        try:
            # scale() would never replace a job that is lost
            cluster.adapt(minimum_jobs=config.jobs, maximum_jobs=config.jobs, interval="2s")
            _wait_for_worker(client, config, f"the output of the jobs is in {config.log_folder}", refused)
            yield client
        finally:
            with held():
                _leave_out_refused(cluster)
                stack.close()


def _leave_out_refused(cluster: Any) -> None:
    """Mark jobs that the queue did not take as failed: they are not closed, which Dask asserts of all that it knows.

    A function of its own, so that no variable keeps a job: Dask forgets closed ones when nothing else refers to them.
    """
    from distributed.core import Status

    for job in cluster.workers.values():
        if job.job_id is None:
            job.status = Status.failed


def _wait_for_worker(
    client: Any, config: ClusterFile, where: str, refused: Callable[[], str | None] | None = None
) -> None:
    """Wait for the first worker; ``refused``: says why none will come where the queue took no job."""
    end = time.monotonic() + config.wait
    while not client.scheduler_info()["workers"]:
        if refused is not None and (said := refused()) is not None:
            raise RunError(f"the queue takes no job ({said}); correct the cluster file, or ask who runs the queue")
        if time.monotonic() > end:
            hint = "" if config.interface else "; workers on other machines need interface in the cluster file"
            raise RunError(f"no worker started within {config.wait:g} s; {where}{hint}")
        time.sleep(_POLL)


@contextmanager
def _allocation_client(config: ClusterFile) -> Iterator[Any]:
    """Start a scheduler in this process and each worker as a step of the SLURM job."""
    if "SLURM_JOB_ID" not in os.environ:
        raise ParameterError("kind allocation needs a SLURM job; start this command with sbatch or salloc")
    from distributed import Client, Scheduler, SpecCluster

    from tiledsky.cluster.closed import NO_DASHBOARD, NO_PAGES, pages_closed

    security = _security(config)
    options = {
        "interface": _interface(config),
        "protocol": "tls://",
        "security": security,
        **NO_DASHBOARD,
    }
    with dask.config.set({**_SETTINGS, **NO_PAGES}), ExitStack() as stack:
        with held():
            cluster = SpecCluster(
                workers={}, scheduler={"cls": Scheduler, "options": options}, security=security, silence_logs=50
            )
            stack.enter_context(cluster)
            stack.enter_context(pages_closed(cluster, dashboard=config.dashboard))
            client = stack.enter_context(Client(cluster))
            command = step_command(config, cluster.scheduler_address, _key_files(config, security, stack))
            stack.enter_context(_Steps(command, config))
        try:
            _wait_for_worker(client, config, f"the output of the steps is in {config.log_folder}")
            yield client
        finally:
            with held():
                stack.close()


def _key_files(config: ClusterFile, security: Any, stack: ExitStack) -> dict[str, str]:
    """Files of the TLS of a worker; keys that are in memory alone are written for the time of the run."""
    files = {}
    for name, value in security.get_tls_config_for_role("worker").items():
        if name == "ciphers" or value is None:
            continue
        path = Path(value) if "\n" not in value else _logs(config) / f".{os.environ['SLURM_JOB_ID']}-{name}.pem"
        if "\n" in value:
            with suppress(FileNotFoundError):  # of this job before it was requeued
                path.unlink()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(value)
            stack.callback(path.unlink, missing_ok=True)
        files[name] = str(path)
    return files


def step_command(config: ClusterFile, address: str, files: dict[str, str]) -> list[str]:
    """Return the command of a step that is one worker."""
    words = ["srun", "--ntasks=1", "--nodes=1", "--exact", f"--cpus-per-task={config.cores or config.threads}"]
    words += [f"--mem={-(-config.changed(workers_per_job=1).job_memory // 2**20)}M", "--job-name=tiledsky-worker"]
    words += [config.python or sys.executable, "-m", "distributed.cli.dask_worker", address, "--nanny"]
    words += ["--nthreads", str(config.threads), "--memory-limit", config.memory, "--death-timeout", "60"]
    words += ["--interface", _interface(config), "--protocol", "tls://", "--no-dashboard"]
    for name, file in files.items():
        words += [f"--tls-{name.replace('_', '-')}", file]
    return words + (["--local-directory", os.path.expandvars(config.scratch)] if config.scratch else [])


class _Steps:
    """Steps of a job, each started again when it ends."""

    def __init__(self, command: list[str], config: ClusterFile) -> None:
        self.command, self.count, self.folder = command, config.workers, _logs(config)
        self.ended = threading.Event()
        self.steps: dict[int, subprocess.Popen[bytes]] = {}
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        for step in self.steps.values():
            step.terminate()
        for step in self.steps.values():
            try:
                step.wait(20)
            except subprocess.TimeoutExpired:
                step.kill()

    def _keep(self) -> None:
        began = dict.fromkeys(range(self.count), float("-inf"))
        while not self.ended.is_set():
            for k in range(self.count):
                running = k in self.steps and self.steps[k].poll() is None
                if not running and time.monotonic() - began[k] > _AGAIN:
                    began[k] = time.monotonic()
                    self.steps[k] = self._start(k)
            self.ended.wait(0.5)

    def _start(self, k: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **worker_environment()}
        with (self.folder / f"step-{os.environ['SLURM_JOB_ID']}-{k}.out").open("ab") as log:
            return subprocess.Popen(
                self.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
