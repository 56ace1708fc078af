"""A run as SLURM job arrays without Dask: one array a stage, each after the one before, and a job that ends the run.

A job that is preempted is started again by SLURM; one whose time is nearly over puts itself back into the queue. Both
go on with the tiles that are not done.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tiledsky.cluster.configuration import ClusterFile
from tiledsky.cluster.local import worker_environment
from tiledsky.engine.run_store import RunStore
from tiledsky.errors import ParameterError, RunError
from tiledsky.io.files import write_bytes
from tiledsky.io.targets import check_target_file

#: Stage of the job that ends a run: does what may be left, checks, and says that the run is whole.
FINISH = "finish"
_PLAIN = re.compile(r"[A-Za-z0-9_./@+=-]+")

_SCRIPT = """\
#!/usr/bin/env bash
{header}
# nearly out of time: stop in order, and go on in a new job
again() {{
  kill -TERM "$child"
  wait "$child"
  scontrol requeue "{job}"
  exit 0
}}
trap again USR1
{setup}
{command} &
child=$!
wait "$child"
"""


@dataclass(frozen=True)
class ArrayJob:
    """A script, and how many slices it has (0: no array)."""

    name: str
    slices: int
    script: str


def array_jobs(store: RunStore, words: list[str], count: int, config: ClusterFile, folder: Path) -> list[ArrayJob]:
    """Make the scripts of a run, in the order of their stages.

    Parameters
    ----------
    store : RunStore
    words : list of str
        Arguments of ``tiledsky run`` that make this run, paths absolute.
    count : int
        Slices of a stage, where it has as many tiles.
    config : ClusterFile
        Of kind "slurm": queue, account, memory, walltime, directives, setup, python.
    folder : Path
        Where output goes.

    Raises
    ------
    ParameterError
    """
    if config.kind != "slurm":
        raise ParameterError(
            f"job arrays need SLURM, and the cluster file is of kind {config.kind}; use kind = 'slurm'"
        )
    if not 1 <= count <= 10_000:
        raise ParameterError(f"an array of {count} jobs is empty or too large; use --array from 1 to 10000")
    if not store.guard.takes_slices:
        raise ParameterError(f"{store.root}: jobs of an array share a folder; change --out, or run on a cluster")
    if not _PLAIN.fullmatch(str(folder)):
        raise ParameterError(f"a job script cannot contain {str(folder)!r}; use letters, digits and _./@+=- in --out")
    jobs = []
    for number, stage in enumerate(store.plan.stages):
        slices = min(count, len(store.plan.grid(stage)))
        jobs.append(_job(f"{number:02}-{stage.name}", stage.name, slices, words, config, folder))
    jobs.append(_job(f"{len(jobs):02}-{FINISH}", FINISH, 1, words, config, folder))
    return jobs


def _job(name: str, stage: str, slices: int, words: list[str], config: ClusterFile, folder: Path) -> ArrayJob:
    array = slices > 1
    spare = config.seconds - config.lifetime
    options = [
        f"--job-name=tiledsky-{stage}",
        f"--output={folder}/{name}-%{'A_%a' if array else 'j'}.out",
        "--open-mode=append",
        "--ntasks=1",
        f"--cpus-per-task={config.cores or 1}",
        f"--mem={-(-config.job_memory // 2**20)}M",
        f"--time={config.seconds // 60}",
        f"--signal=B:USR1@{spare}",
        "--requeue",
    ]
    options += [f"--array=1-{slices}"] * array
    options += [f"--partition={config.queue}"] if config.queue else []
    options += [f"--account={config.account}"] if config.account else []
    own = "$SLURM_ARRAY_TASK_ID" if array else "1"
    exports = [f"export {key}={value}" for key, value in worker_environment().items() if not key.startswith("DASK_")]
    start = shlex.join([config.python or sys.executable, "-m", "tiledsky", "run", *words])
    script = _SCRIPT.format(
        header="\n".join(f"#SBATCH {option}" for option in [*options, *config.directives]),
        job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if array else "$SLURM_JOB_ID",
        setup="\n".join([*exports, *config.setup]),
        command=f'{start} --worker-slice "{own}/{slices}" --stage {stage}',
    )
    return ArrayJob(name, slices * array, script)


def write_scripts(jobs: list[ArrayJob], folder: Path) -> list[Path]:
    """Write the scripts of jobs; return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{job.name}.sh" for job in jobs]
    for job, file in zip(jobs, files, strict=True):
        check_target_file(file)
        write_bytes(file, job.script.encode())
    return files


def submit_scripts(files: list[Path]) -> list[str]:
    """Submit scripts, each to begin when the one before ended well; return their job numbers.

    Raises
    ------
    RunError
        The queue does not take one; those before it are cancelled.
    """
    numbers: list[str] = []
    for file in files:
        words = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes"]
        words += [f"--dependency=afterok:{numbers[-1]}"] if numbers else []
        try:
            done = subprocess.run([*words, str(file)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise RunError("this machine has no sbatch; give this command where SLURM is, or --dry-run") from None
        if done.returncode:
            if numbers:
                subprocess.run(["scancel", *numbers], capture_output=True, check=False)
            raise RunError(f"sbatch refused {file} ({done.stderr.strip()}); correct the cluster file")
        numbers.append(done.stdout.strip().partition(";")[0])
    return numbers
