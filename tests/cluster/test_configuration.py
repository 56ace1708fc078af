"""Cluster files: checked by name, nothing in them that a job script would take for something else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.certificates import write_certificate
from tiledsky.cluster import job_queues
from tiledsky.cluster.configuration import ClusterFile, load_cluster
from tiledsky.cluster.job_queues import cluster_client, job_script, step_command
from tiledsky.errors import ParameterError, RunError
from tiledsky.workflows import check_cluster

DEPLOY = Path(__file__).parents[2] / "deploy"


def loaded(folder: Path, text: str) -> ClusterFile:
    path = folder / "cluster.toml"
    path.write_text(text)
    return load_cluster(path)


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/*.toml")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_files_that_come_along(path: Path) -> None:
    assert load_cluster(path).workers >= 1


def test_names() -> None:
    assert load_cluster("local").kind == "local"
    with pytest.raises(
        ParameterError, match=r"no cluster 'cloud': neither a file nor one of local, slurm, pbs, lsf, sge, alloc"
    ):
        load_cluster("cloud")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = 'slurm'\nmemmory = '1GB'", "unknown key 'memmory'; known are kind, workers, threads, memory"),
        ("workers = 2", "key 'kind' is missing"),
        ("kind = 'cloud'", "kind: Input should be 'local', 'slurm'"),
        ("kind = 'slurm'\nworkers = 0", "0 workers with 1 threads do no work; use at least one of each"),
        ("kind = 'slurm'\nmemory = 'much'", "memory limit 'much' is not a size"),
        ("kind = 'slurm'\nwalltime = '90'", "walltime '90' is not a time; write it like 04:00:00 or 1-12:00:00"),
        ("kind = 'slurm'\nwalltime = '00:01:30'", "is too short for a task; use at least 00:02:00"),
        ("kind = 'slurm'\naddress = 'tls://h:1'", "a cluster of kind slurm has no address"),
        ("kind = 'scheduler'\ndashboard = true", "decides about its dashboard; leave dashboard out"),
        ("kind = 'slurm'\nca = 'ca.pem'", "TLS needs ca, certificate and key; give all three"),
        ("kind = ", "not valid TOML"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        loaded(tmp_path, text)
    assert "cluster.toml" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        r'queue = "debug\n#SBATCH --uid=0"',
        'queue = "debug; rm -rf ~"',
        'account = "$(id)"',
        r'directives = ["--qos=a\nrm -rf ~"]',
        'directives = ["rm -rf ~"]',
        r'setup = ["module load a\nb"]',
        'python = "python; id"',
        'python = "/usr/bin/python && id"',
        'scratch = "/tmp/`id`"',
        'scratch = "/tmp/../etc"',
        'scratch = "$(id)"',
        'interface = "lo --x y"',
    ],
)
def test_what_a_shell_would_run_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ParameterError, match=r"a job script cannot contain|should match pattern"):
        loaded(tmp_path, f"kind = 'slurm'\n{line}")


def test_relative_paths_stay_in_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "out").symlink_to(tmp_path.parent)
    assert loaded(tmp_path, "kind = 'slurm'\nlogs = 'inside/logs'").log_folder == tmp_path / "inside/logs"
    for path in ("../logs", "inside/../../logs", "out/logs"):
        with pytest.raises(ParameterError, match=f"logs '{path}' is outside .*; give a path within it, or an absol"):
            _ = loaded(tmp_path, f"kind = 'slurm'\nlogs = '{path}'").log_folder
    spaced = tmp_path / "a b"
    spaced.mkdir()
    with pytest.raises(ParameterError, match=r"a job script cannot contain logs .*a b/tiledsky-logs'; use letters"):
        _ = loaded(spaced, "kind = 'slurm'").log_folder


def test_tls_files(tmp_path: Path) -> None:
    write_certificate(tmp_path, "a")
    write_certificate(tmp_path, "b")
    text = "kind = 'scheduler'\nca = 'a.pem'\ncertificate = 'a.pem'\nkey = '{}'"
    found = loaded(tmp_path, text.format("a.key")).tls_files()
    assert found["tls_ca_file"] == found["tls_worker_cert"] == str(tmp_path / "a.pem")
    assert found["tls_client_key"] == str(tmp_path / "a.key")
    with pytest.raises(ParameterError, match=r"key .*none\.key is not a file; correct the path"):
        loaded(tmp_path, text.format("none.key"))
    with pytest.raises(ParameterError, match="do not match as PEM files"):
        loaded(tmp_path, text.format("b.key"))
    with pytest.raises(ParameterError, match=r"key '\.\./x\.key' is outside"):
        loaded(tmp_path, text.format("../x.key"))
    (tmp_path / "a.key").chmod(0o640)
    with pytest.raises(ParameterError, match=r"other users can read key .*a\.key, and with it join .*; chmod 600 it"):
        loaded(tmp_path, text.format("a.key"))


def test_time_is_kept_for_an_orderly_end() -> None:
    def seconds(walltime: str) -> tuple[int, int]:
        config = ClusterFile(kind="slurm", walltime=walltime)
        return config.seconds, config.lifetime

    assert seconds("00:02:00") == (120, 60)
    assert seconds("01:00:00") == (3600, 3000)
    assert seconds("2-12:00:00") == (216000, 215400)


FILE = """
kind = "{}"
workers = 8
workers_per_job = 4
threads = 2
memory = "2GB"
cores = 10
walltime = "1-02:30:00"
queue = "long"
account = "sky"
scratch = "$TMPDIR/dask"
directives = ["--extra one"]
setup = ["module load python"]
"""


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "slurm",
            ["-p long", "-A sky", "-n 1", "--cpus-per-task=10", "--mem=7874M", "-t 26:30:00", "--extra one"],
        ),
        ("pbs", ["-q long", "-A sky", "-l select=1:ncpus=10:mem=8256MB", "-l walltime=26:30:00", "--extra one"]),
        ("lsf", ["-q long", '-P "sky"', "-n 10", '-R "span[hosts=1]"', "-W 26:30", "--extra one"]),
        ("sge", ["-q long", "-P sky", "-l h_vmem=8256M", "-l h_rt=26:30:00", "--extra one"]),
    ],
)
def test_job_scripts(tmp_path: Path, kind: str, lines: list[str]) -> None:
    config = loaded(tmp_path, FILE.format(kind))
    script = job_script(config).splitlines()
    sign = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}[kind]
    assert [f"{sign} {line}" for line in lines if f"{sign} {line}" not in script] == []
    assert script[-1].startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://")
    words = script[-1].split()
    options = dict(pairwise(words))
    assert options["--nworkers"] == "4"
    assert options["--nthreads"] == "2"
    assert options["--memory-limit"] == "1.86GiB"  # 2 GB
    assert options["--lifetime"] == "94800s"  # ten minutes less than the walltime
    assert options["--local-directory"] == "$TMPDIR/dask"
    assert options["--protocol"] == "tls://"
    assert {"module load python", "export OMP_NUM_THREADS=1"} <= set(script)
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in script
    assert "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'" in script
    assert "--no-dashboard" in words


def test_scratch_of_a_job_is_its_own(tmp_path: Path) -> None:
    (own,) = [line for line in job_script(ClusterFile(kind="slurm")).splitlines() if "TEMPORARY_DIRECTORY=" in line]
    said = f'{own}; stat -c "%a %n" "$DASK_TEMPORARY_DIRECTORY"'
    done = subprocess.run(["bash", "-c", said], env={"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith(f"700 {tmp_path}/")
    given = job_script(loaded(tmp_path, FILE.format("slurm")))  # scratch = "$TMPDIR/dask"
    assert "TEMPORARY_DIRECTORY" not in given


def test_step_of_an_allocation() -> None:
    config = ClusterFile(kind="allocation", threads=2, memory="1GB", python="/opt/python")
    words = step_command(config, "tls://127.0.0.1:7", {"ca_file": "/k/ca", "cert": "/k/c", "key": "/k/k"})
    assert words[:5] == ["srun", "--ntasks=1", "--nodes=1", "--exact", "--cpus-per-task=2"]
    assert "--mem=1198M" in words
    assert words[words.index("/opt/python") :][:4] == [
        "/opt/python", "-m", "distributed.cli.dask_worker", "tls://127.0.0.1:7",
    ]  # fmt: skip
    assert " ".join(words).endswith("--tls-ca-file /k/ca --tls-cert /k/c --tls-key /k/k")


def test_allocation_outside_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with (
        pytest.raises(ParameterError, match="needs a SLURM job; start this command with sbatch or salloc"),
        cluster_client(ClusterFile(kind="allocation")),
    ):
        pass


def test_interface_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"this machine has no interface 'ib77'; it has .*lo"):
        job_script(loaded(tmp_path, "kind = 'slurm'\ninterface = 'ib77'"))


def test_scheduler_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    with pytest.raises(ParameterError, match="the scheduler has no address; set address in the cluster file"):
        _ = ClusterFile(kind="scheduler").scheduler_address


def test_scheduler_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextmanager
    def scheduler_client(address: str, **options: Any) -> Iterator[str]:
        asked.append(address)
        if len(asked) % 3:
            raise RunError("no Dask scheduler answers")
        yield "client"

    monkeypatch.setattr(job_queues, "scheduler_client", scheduler_client)
    text = "kind = 'scheduler'\naddress = 'tcp://127.0.0.1:7'\n"
    with pytest.raises(RunError, match="no Dask scheduler answers"), cluster_client(loaded(tmp_path, text)):
        pass
    assert len(asked) == 1
    asked.clear()
    with cluster_client(loaded(tmp_path, f"{text}wait = 30").changed(memory="1GB")) as client:
        assert client == "client"
    assert len(asked) == 3


# --- cluster check


def test_check_of_workers(client: Any, tmp_path: Path) -> None:
    found = check_cluster.check_cluster(client, folder=tmp_path)
    assert (found.workers, found.threads) == (2, 2)
    assert found.megapixels > 0


class Workers:
    """Workers that answer what they are told to."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def run(self, function: Any, *arguments: Any, on_error: str = "raise") -> dict[str, Any]:
        return {"tcp://w": self.answers.get(function.__name__, function(*arguments))}

    def scheduler_info(self, **options: Any) -> dict[str, Any]:
        return {"workers": {"tcp://w": {"nthreads": 1}}}


@pytest.mark.parametrize("package", check_cluster.SAME)
def test_other_versions_are_refused(package: str) -> None:
    theirs = {**check_cluster.versions(), package: "0.0.1"}
    with pytest.raises(
        RunError, match=rf"worker tcp://w has {package} 0\.0\.1 instead of \S+; install the same versions"
    ):
        check_cluster.check_cluster(Workers(versions=theirs))


def test_worker_that_does_not_see_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"worker tcp://w does not see {tmp_path}, so it cannot write there"):
        check_cluster.check_cluster(Workers(exists=False), folder=tmp_path)


def test_worker_with_other_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def sample() -> tuple[str, float]:
        return "ours", 1.0

    monkeypatch.setattr(check_cluster, "sample", sample)
    with pytest.raises(RunError, match="worker tcp://w computes other bits than this process"):
        check_cluster.check_cluster(Workers(sample=("theirs", 1.0)), folder=tmp_path)
    assert check_cluster.check_cluster(Workers(), folder=tmp_path).megapixels == pytest.approx(512**2 / 1e6)


def test_cluster_that_is_empty() -> None:
    empty = SimpleNamespace(run=lambda *arguments, on_error: {})
    with pytest.raises(RunError, match="the cluster has no worker; start some"):
        check_cluster.check_cluster(empty)
