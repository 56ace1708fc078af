"""Whether a client and its workers can do a run: asked before any task, so that a cause is said, not waited for."""

from __future__ import annotations

import threading
from typing import Any

from tiledsky.cluster.versions import LIBRARIES, versions
from tiledsky.errors import ParameterError, WorkerError

#: Packages of which driver and workers must have the same version: they decide the bits, or talk to each other.
SAME = ("python", "tiledsky", *LIBRARIES, "dask", "distributed")
#: Seconds that scheduler and workers get to answer; one that is busy or asleep is no reason not to begin.
_ANSWER = 20.0
_ADVICE = "install the same versions on all machines, then the same command goes on"


def check_client(client: Any) -> None:
    """Refuse what is no client of Dask, or one that a run cannot wait for.

    Raises
    ------
    ParameterError
        Something else, a closed client, an asynchronous one.
    """
    if client is None:
        return
    from distributed import Client

    if not isinstance(client, Client):
        what = f"of type {type(client).__name__}"
    elif client.asynchronous:
        what = "asynchronous, which this call is not"
    elif client.status != "running":
        what = str(client.status)
    else:
        return
    raise ParameterError(
        f"the client is {what}, so no task would run; give a distributed.Client that is connected and not "
        "asynchronous, or None to run in this process"
    )


def check_workers(client: Any) -> None:
    """Refuse workers, or a scheduler, that have no tiledsky, or another version of what decides the bits.

    Workers of a cluster that this process started are what it is itself, and are not asked.

    Raises
    ------
    WorkerError
    """
    from distributed import LocalCluster

    if client is None or isinstance(client.cluster, LocalCluster):
        return
    ours = versions()
    for who, theirs in _answers(client).items():
        check_versions(who, ours, theirs)


def check_versions(who: str, ours: dict[str, str], theirs: Any) -> None:
    """Refuse a process that answered with an error, or with other `versions`; ``ours``: those that must be the same.

    Raises
    ------
    WorkerError
    """
    if isinstance(theirs, BaseException):
        said = " ".join(str(theirs).split())[:200]
        raise WorkerError(
            f"{who} cannot load tiledsky ({type(theirs).__name__}: {said}), so no task runs there; {_ADVICE}"
        )
    names = (name for name in SAME if name in ours and theirs.get(name) != ours[name])
    differ = [f"{name} {theirs.get(name, 'none')} instead of {ours[name]}" for name in names]
    if differ:
        raise WorkerError(f"{who} has {', '.join(differ)}; {_ADVICE}")


def _answers(client: Any) -> dict[str, Any]:
    """Versions, or an error, of the scheduler and of every worker, as far as they answer."""
    found: dict[str, Any] = {}

    def ask() -> None:
        try:
            found["the scheduler"] = client.run_on_scheduler(versions)
        except Exception as error:  # of whatever kind there
            found["the scheduler"] = error
        try:
            answers = client.run(versions, on_error="return")
        except Exception:  # a worker that came or went just then
            return
        found.update((f"worker {address}", answer) for address, answer in answers.items())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER)
    return dict(found)
