"""Dask clusters: an embedded one on this machine, or one that somebody else runs.

A Dask scheduler runs any client's code, and a port of loopback is open to everyone who is logged in: the embedded one
talks TLS with keys made for the run, which are in memory and in pipes between its processes alone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_bytes

from tiledsky.cluster.stop import held
from tiledsky.errors import ParameterError, RunError
from tiledsky.operations.memory import FREED

#: Most workers of a run, which one scheduler serves, and most threads of a worker.
WORKERS, THREADS = 10_000, 1_000
#: Worker processes do not spill: a task's memory is bounded, and what it holds is not worth a disk.
_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.admin.large-graph-warning-threshold": "1GB",
    # two workers may die of a task before it is tried alone
    "distributed.scheduler.allowed-failures": 1,
    # a nanny starts its worker again; the cluster must not dismiss it because the worker is dead once more just then
    "distributed.deploy.lost-worker-timeout": "1000 days",
    # no record of every transition: it takes more room than the tasks
    "distributed.admin.low-level-log-length": 1000,
    # web servers of workers that a script starts
    "distributed.worker.http.routes": [],
}
#: Settings of Dask that a client needs for TLS, and the fields of its ``Security`` that they end up in.
_TLS = {"ca-file": "tls_ca_file", "client.cert": "tls_client_cert", "client.key": "tls_client_key"}
#: Libraries under the kernels must not start threads of their own. Arrays of a tile come from memory that the process
#: keeps: with Dask's setting each is mapped anew, and clearing its pages took a third of the CPU time of a plain mesh.
#: It keeps as much for every thread that reads, unless they share one arena: 300 MB at 40000 x 40000 px.
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"), "1"),
    **dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(FREED)),
    "MALLOC_ARENA_MAX": "1",
}
#: What Python and the libraries take, rounded up: below it workers are killed and started again for ever.
_SMALLEST = 256_000_000
#: Memory of a worker that is not told: with less no more workers are started, and more is not needed.
_ROOMY, _ENOUGH = 1_000_000_000, 2_000_000_000
#: Files and connections that this process may have open at once: 28, and 11 for each worker, were measured.
_FILES, _FILES_OF_WORKER = 40, 12
#: Seconds in which a scheduler answers who it is.
_PATIENCE = 10.0
#: Bytes of addresses (not of memory) that a process needs: with 0.7 GB workers could not load their libraries.
_ADDRESSES = 1_000_000_000


def parse_memory(text: str) -> int:
    """Return bytes for "2GB" or "1.5GiB"."""
    try:
        size = int(parse_bytes(text)) if text[:1].isdigit() else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise ParameterError(f"memory limit {text!r} is not a size; write it like 2GB or 512MiB")
    if size < _SMALLEST:
        raise ParameterError(
            f"memory limit {text!r} is less than the {_SMALLEST // 10**6} MB a worker takes before its first task; "
            "write it like 2GB or 512MiB"
        )
    return size


def worker_environment() -> dict[str, str]:
    """Return the variables that workers started by a script need: threads of libraries, memory, no pages."""
    settings = {name: value for name, value in _CONFIG.items() if name.startswith("distributed.worker.")}
    names = {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": value for name, value in settings.items()}
    return {**_ENVIRONMENT, **{name: str(value) for name, value in names.items()}}


def worker_limits(client: Any) -> tuple[int | None, int]:
    """Return the smallest memory limit (bytes; None: none) and the most threads of the workers of a client, if any."""
    workers = {} if client is None else client.scheduler_info(n_workers=-1)["workers"]
    limits = [worker["memory_limit"] for worker in workers.values() if worker["memory_limit"]]
    return min(limits, default=None), max((worker["nthreads"] for worker in workers.values()), default=1)


def check_sizes(workers: int, threads: int) -> None:
    """Refuse numbers of workers, and of threads of each, that do no work or that no machine has.

    Raises
    ------
    ParameterError
    """
    if workers < 1 or threads < 1:
        raise ParameterError(f"{workers} workers with {threads} threads do no work; use at least one of each")
    for count, most, what in ((workers, WORKERS, "workers"), (threads, THREADS, "threads")):
        if count > most:
            raise ParameterError(f"{count} {what} are more than the {most} that can work on one run; use fewer {what}")


def fitting(*, workers: int | None, threads: int, memory_limit: str | None) -> tuple[int, str]:
    """Return workers and their memory limit as given; where None, what this machine has (cores, memory, cgroups).

    One worker for each core, as many as have a gigabyte each; up to 2 GB for each. A fifth of the memory is left for
    the process that drives them, and for the system's cache of files.
    """
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    room = MEMORY_LIMIT * 4 // 5
    if workers is None:
        each = _ROOMY if memory_limit is None else parse_memory(memory_limit)
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        files = WORKERS if allowed == resource.RLIM_INFINITY else (allowed - _FILES) // _FILES_OF_WORKER
        workers = max(1, min(CPU_COUNT // max(threads, 1), room // each, files, WORKERS))
    if memory_limit is None:
        memory_limit = f"{max(_SMALLEST, min(_ENOUGH, room // max(workers, 1))) // 10**6}MB"
    return workers, memory_limit


@contextmanager
def local_client(
    *, workers: int = 2, threads: int = 1, memory_limit: str = "2GB", dashboard: bool = False
) -> Iterator[Any]:
    """Start a cluster of ``workers`` processes with ``threads`` threads each on this machine, and connect to it.

    No other user of the machine can connect. With ``dashboard``, that of Dask is at a secret address of 127.0.0.1, the
    client's ``dashboard_link``.
    """
    check_sizes(workers, threads)
    from distributed import Client, LocalCluster
    from distributed.security import Security

    from tiledsky.cluster.closed import NO_DASHBOARD, NO_PAGES, ClosedNanny, pages_closed, private_folder

    memory = parse_memory(memory_limit)
    _check_limits(workers)
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in _ENVIRONMENT.items()}
    with dask.config.set({**_CONFIG, **NO_PAGES, **environment}), ExitStack() as stack:
        with held():
            cluster = _started(
                LocalCluster,
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=memory,
                host="127.0.0.1",
                security=Security.temporary(),
                worker_class=ClosedNanny,
                local_directory=str(private_folder()),
                scheduler_kwargs=NO_DASHBOARD,
                silence_logs=50,
            )
            stack.enter_context(cluster)
            stack.enter_context(pages_closed(cluster, dashboard=dashboard))
            try:
                client = stack.enter_context(Client(cluster))
            except (OSError, TimeoutError) as error:
                raise _not_started(error) from error
        try:
            yield client
        finally:
            with held():
                stack.close()


def _check_limits(workers: int) -> None:
    """Refuse limits of the system under which the run would wait for workers or connections that cannot come."""
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    if addresses != resource.RLIM_INFINITY and addresses < _ADDRESSES:
        raise RunError(
            f"the system limits a process to {addresses / 1e6:.0f} MB of addresses, too few for a worker; "
            f"raise the limit (ulimit -v {_ADDRESSES // 1000}), then the same command goes on"
        )
    allowed, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], _FILES + _FILES_OF_WORKER * workers
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise RunError(
            f"a run with {workers} workers takes up to {needed} open files, and the system allows {allowed}; raise the "
            f"limit (ulimit -n {needed}) or use fewer workers, then the same command goes on"
        )


def _start_tracker() -> None:
    """Start the process that tidies up for the processes of this one, without its word on what it had to tidy up."""
    name, quiet = "PYTHONWARNINGS", "ignore:resource_tracker"
    before = os.environ.get(name)
    os.environ[name] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _started(make: Any, **options: Any) -> Any:
    """Start a cluster whose processes do not get the signals that a terminal sends to all of its processes.

    Signal masks are inherited by threads and processes.
    """
    _start_tracker()  # by itself it would start in a thread of the cluster, and unblock the signals there
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        return make(**options)
    except Exception as error:  # of whatever kind: a worker that ended at once, no room, no files, no memory for it
        raise _not_started(error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _not_started(error: BaseException) -> RunError:
    """Error of a cluster of this machine that did not come up, with what was at the root of it."""
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    said = " ".join(str(first).split())[:200] or type(first).__name__
    return RunError(
        f"the workers on this machine did not start ({said}); check memory, limits (ulimit -a) and room for temporary "
        "files, then the same command goes on"
    )


@contextmanager
def scheduler_client(address: str, *, insecure: bool = False, security: Any = None) -> Iterator[Any]:
    """Connect to a scheduler that is already running, with workers that see the same file system.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` of this machine, or ``tls://HOST:PORT`` with the files of Dask's ``distributed.comm.tls``.
    insecure : bool
        Also ``tcp://`` of another machine, where anyone on the way can read along and run code on the workers.
    security : distributed.Security, optional
        TLS files other than those of Dask's settings.

    Raises
    ------
    ParameterError
        An address that is none or not safe, a TLS file that is not there.
    RunError
        No scheduler answers, or it has no workers.
    """
    check_address(address, insecure=insecure, security=security)
    address = address if "://" in address else f"tcp://{address}"
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    with silence_logging_cmgr(50):  # a lost scheduler is an error of the run, not a traceback in the log
        try:
            _check_answers(address, security)
            client = Client(address, timeout=10, security=security)
        except (OSError, ValueError, TimeoutError) as error:
            raise _no_answer(address, error) from None
        with client:
            if not client.scheduler_info()["workers"]:
                raise RunError(f"the scheduler at {address} has no workers, so nothing would run; start workers first")
            yield client


def _check_answers(address: str, security: Any) -> None:
    """Ask who is there: a client would wait for ever for an answer to its greeting, and believe any that comes.

    Raises
    ------
    OSError, TimeoutError
        No answer.
    RunError
        One that no scheduler gives.
    """
    from distributed.core import rpc
    from distributed.security import Security

    options = (security or Security()).get_connection_args("client")

    async def identity() -> Any:
        async with rpc(address, connection_args=options) as there:
            return await there.identity()

    async def asked() -> Any:
        return await asyncio.wait_for(identity(), _PATIENCE)

    with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
        try:
            found = thread.submit(asyncio.run, asked()).result()
        except TimeoutError:
            raise TimeoutError(f"no answer within {_PATIENCE:g} s") from None
        except OSError:
            raise
        except Exception:  # whatever comes of an answer that means something else
            found = {}
    if not isinstance(found, dict) or found.get("type") != "Scheduler":
        raise RunError(f"what answers at {address} is no Dask scheduler; correct the address")


def _no_answer(address: str, error: Exception) -> RunError:
    return RunError(f"no Dask scheduler answers at {address} ({error}); start it, or leave out --scheduler")


def check_address(address: str, *, insecure: bool = False, security: Any = None) -> None:
    """Refuse the address of a scheduler that is none, or that is reached in the open; see `scheduler_client`."""
    scheme, separator, location = address.rpartition("://")
    scheme = scheme if separator else "tcp"
    if scheme not in ("tcp", "tls"):
        raise ParameterError(f"scheduler {address!r}: no {scheme}://; give tcp://HOST:PORT or tls://HOST:PORT")
    if scheme == "tls":
        _check_tls(address, security)
        return
    host, colon, port = location.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ParameterError(f"scheduler {address!r} is not an address; give tcp://HOST:PORT or tls://HOST:PORT")
    if insecure:
        return
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)}
    except (OSError, OverflowError, UnicodeError) as error:
        raise _no_answer(address, error) from None
    if not all(ipaddress.ip_address(ip.partition("%")[0]).is_loopback for ip in found):
        raise ParameterError(
            f"scheduler {address!r} is on another machine and not encrypted: anyone who can connect can run "
            "code on its workers; use tls://, or --insecure on a network that you trust"
        )


def _check_tls(address: str, security: Any) -> None:
    """Check that the files that Dask's settings name for TLS are there."""
    from distributed.security import Security

    security = security or Security()
    for setting, field in _TLS.items():
        value = getattr(security, field)
        if not value:
            raise ParameterError(
                f"scheduler {address!r} needs the setting distributed.comm.tls.{setting} of Dask; put the path of the "
                "file there"
            )
        if "\n" not in value and not Path(value).is_file():  # the setting can be the text of the file
            raise ParameterError(
                f"{value}, Dask's setting distributed.comm.tls.{setting}, is not a file; correct the path"
            )
