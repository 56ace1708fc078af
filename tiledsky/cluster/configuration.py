"""Where the workers of a run come from: a TOML file, checked by name, or the name of a kind with its defaults.

Values end up in job scripts, which shells read: what could end a line or a word there is refused.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PrivateAttr, model_validator

from tiledsky.cluster.local import check_sizes, parse_memory
from tiledsky.errors import ParameterError
from tiledsky.plain import did_you_mean
from tiledsky.recipe import validated
from tiledsky.recipe.parameters import Model

Kind = Literal["local", "slurm", "pbs", "lsf", "sge", "allocation", "scheduler"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Kinds whose workers are jobs of their own in a queue.
QUEUES = ("slurm", "pbs", "lsf", "sge")

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:+,=-]*$")]
Directive = Annotated[str, Field(pattern=r"^-[^\n\r\x00]*$")]
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]+$")]
_PLAIN = re.compile(r"[A-Za-z0-9_./@+=-]+")
_WALLTIME = re.compile(r"(?:(\d+)-)?(\d{1,4}):([0-5]\d):([0-5]\d)")
#: Seconds: the shortest walltime in which a worker gets something done, and what it keeps of it to end in order.
_SHORTEST, _LEAST_SPARE, _MOST_SPARE = 120, 60, 600
#: What a job takes beside its workers' limits: the process that watches over them.
_BESIDE = 256_000_000


class ClusterFile(Model):
    """Workers of a run.

    Attributes
    ----------
    kind : str
        "local": processes of this machine; "slurm", "pbs", "lsf", "sge": jobs in a queue, through dask-jobqueue;
        "allocation": steps (``srun``) of the SLURM job that this process runs in; "scheduler": a Dask scheduler that
        somebody else runs.
    workers, threads : int
        Worker processes, and tasks that each does at the same time.
    memory : str
        Limit of each worker, like "2GB".
    workers_per_job : int
        Worker processes of one job.
    cores : int, optional
        That a job asks for; default: one for each thread of its workers.
    walltime : str
        Of a job, "HH:MM:SS" or "D-HH:MM:SS". Workers end in order before it.
    queue, account : str, optional
        Partition or queue; account or project.
    interface : str, optional
        Network interface that scheduler and workers talk over, like "ib0". Default: loopback, this machine alone.
    scratch : str, optional
        Folder of the workers on their machine, absolute or beginning with a variable: "$TMPDIR".
    logs : str
        Folder for output of jobs and for keys, shared by all machines; relative to this file.
    directives : tuple of str
        Further lines for the head of the job script, without the "#SBATCH ": "--qos=long".
    setup : tuple of str
        Shell lines of the job script before the worker starts: "module load python".
    python : str, optional
        Python of the workers; default: the one that runs this.
    address : str, optional
        Of a scheduler; default: the variable DASK_SCHEDULER_ADDRESS.
    ca, certificate, key : str, optional
        TLS files of the client (and of jobs), relative to this file. Jobs have TLS without them too, with keys made
        for the run.
    dashboard : bool
        Serve Dask's dashboard, at a secret address of 127.0.0.1 that is printed. Default: no.
    wait : float
        Seconds to wait for the first worker, and for a worker after all were lost. Of a scheduler that somebody else
        runs: for it to be there too; without this key it has to be there.
    """

    kind: Kind
    workers: int = 2
    threads: int = 1
    memory: str = "2GB"
    workers_per_job: int = Field(1, ge=1)
    cores: int | None = Field(None, ge=1)
    walltime: str = "01:00:00"
    queue: Word | None = None
    account: Word | None = None
    interface: Word | None = None
    scratch: str | None = None
    logs: str = "tiledsky-logs"
    directives: tuple[Directive, ...] = ()
    setup: tuple[Line, ...] = ()
    python: str | None = None
    address: Line | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    dashboard: bool = False
    wait: float = Field(3600.0, gt=0)
    _root: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _consistent(self) -> ClusterFile:
        check_sizes(self.workers, self.threads)
        parse_memory(self.memory)
        if self.seconds < _SHORTEST:
            raise ValueError(f"walltime {self.walltime} is too short for a task; use at least 00:02:00")
        for name, value in (("scratch", self.scratch), ("python", self.python)):
            start = ("/", "$") if name == "scratch" else ("/",)
            if value is None:
                continue
            if not value.startswith(start) or not _PLAIN.fullmatch(value.replace("$", "")) or ".." in value.split("/"):
                raise ValueError(
                    f"a job script cannot contain {name} {value!r}; give an absolute path of letters, digits, _./@+=-"
                )
        if len({self.ca is None, self.certificate is None, self.key is None}) > 1:
            raise ValueError("TLS needs ca, certificate and key; give all three")
        if self.kind != "scheduler" and self.address is not None:
            raise ValueError(f"a cluster of kind {self.kind} has no address; use kind = 'scheduler'")
        if self.kind == "scheduler" and self.dashboard:
            raise ValueError("the owner of an external scheduler decides about its dashboard; leave dashboard out")
        return self

    @property
    def seconds(self) -> int:
        """Walltime in seconds."""
        found = _WALLTIME.fullmatch(self.walltime)
        if found is None:
            raise ValueError(f"walltime {self.walltime!r} is not a time; write it like 04:00:00 or 1-12:00:00")
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def lifetime(self) -> int:
        """Seconds after which a worker ends by itself, so that the walltime never cuts a task off."""
        return self.seconds - max(_LEAST_SPARE, min(_MOST_SPARE, self.seconds // 5))

    @property
    def patience(self) -> float | None:
        """Seconds that a run goes on without any worker; None: the default."""
        waits = self.kind in (*QUEUES, "allocation") or (self.kind == "scheduler" and "wait" in self.model_fields_set)
        return self.wait if waits else None

    @property
    def jobs(self) -> int:
        """Jobs that hold the workers."""
        return -(-self.workers // self.workers_per_job)

    @property
    def job_cores(self) -> int:
        """Cores of a job."""
        return self.cores or self.workers_per_job * self.threads

    @property
    def job_memory(self) -> int:
        """Bytes that a job asks for: its workers' limits and what watches over them."""
        return self.workers_per_job * parse_memory(self.memory) + _BESIDE

    @property
    def log_folder(self) -> Path:
        """Folder for output and keys; not made yet.

        Raises
        ------
        ParameterError
            Its path cannot stand in a job script, or leaves the folder of the file.
        """
        path = self._inside("logs", self.logs)
        if not _PLAIN.fullmatch(str(path)):
            raise ParameterError(f"a job script cannot contain logs {str(path)!r}; use letters, digits and _./@+=-")
        return path

    def _inside(self, name: str, value: str) -> Path:
        """Resolve a path: an absolute one as it is, a relative one within the folder of the file."""
        if Path(value).is_absolute():
            return Path(value)
        path = (self._root / value).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise ParameterError(
                f"{name} {value!r} is outside {self._root.resolve()}; give a path within it, or an absolute one"
            )
        return path

    def tls_files(self) -> dict[str, str]:
        """TLS files by what `distributed.Security` calls them; empty without.

        Raises
        ------
        ParameterError
            A file that is not there, that others can read, or that is none.
        """
        if self.ca is None or self.certificate is None or self.key is None:
            return {}
        files = {name: self._inside(name, str(getattr(self, name))) for name in ("ca", "certificate", "key")}
        for name, file in files.items():
            if not file.is_file():
                raise ParameterError(f"{name} {file} is not a file; correct the path")
        if stat.S_IMODE(files["key"].stat().st_mode) & 0o077:
            raise ParameterError(f"other users can read key {files['key']}, and with it join the cluster; chmod 600 it")
        try:
            context = ssl.create_default_context(cafile=files["ca"])
            context.load_cert_chain(files["certificate"], files["key"])
        except (ssl.SSLError, OSError) as error:
            raise ParameterError(f"ca, certificate and key do not match as PEM files ({error})") from None
        names = {"tls_ca_file": "ca"}
        names |= {f"tls_{role}_cert": "certificate" for role in ("client", "scheduler", "worker")}
        names |= {f"tls_{role}_key": "key" for role in ("client", "scheduler", "worker")}
        return {field: str(files[name]) for field, name in names.items()}

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler."""
        address = self.address or os.environ.get("DASK_SCHEDULER_ADDRESS")
        if not address:
            raise ParameterError(
                "the scheduler has no address; set address in the cluster file, DASK_SCHEDULER_ADDRESS, or --scheduler"
            )
        return address

    def changed(self, **values: Any) -> ClusterFile:
        """Return this with other values, checked; None: as it is."""
        data = self.model_dump(exclude_unset=True) | {
            name: value for name, value in values.items() if value is not None
        }
        made = validated(ClusterFile, data, source="cluster")
        made._root = self._root
        return made


def load_cluster(name_or_path: str | os.PathLike[str]) -> ClusterFile:
    """Load a cluster file by its path, or make one of a kind with the defaults.

    Raises
    ------
    ParameterError
        No such kind or file, no valid TOML, unknown or wrong keys.
    """
    name = os.fspath(name_or_path)
    if name in KINDS:
        return validated(ClusterFile, {"kind": name}, source=f"cluster {name}")
    path = Path(name)
    if not path.is_file():
        near = did_you_mean(name, KINDS)
        raise ParameterError(f"no cluster {name!r}: neither a file nor one of {', '.join(KINDS)}{near}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"cluster {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"cluster {path}: not valid TOML: {error}") from None
    made = validated(ClusterFile, data, source=f"cluster {path}")
    made._root = path.absolute().parent
    made.tls_files()
    return made
