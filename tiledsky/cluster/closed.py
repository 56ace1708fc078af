"""What other users of a machine cannot get at: a Dask cluster without pages, or with pages at a secret address.

A port of loopback is open to everyone who is logged in. What scheduler and workers say to each other is behind TLS;
their web servers ask nobody who they are, and are closed.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Nanny, Worker

#: Settings of Dask that leave its web servers nothing to tell, until they are closed.
NO_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
#: Options of a scheduler, likewise: without an address it would try the port that everyone knows, on all networks.
NO_DASHBOARD: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
#: What the dashboard shows beside its plots.
_PAGES = ["distributed.http.scheduler.info", "distributed.http.scheduler.json", "distributed.http.statics"]


class ClosedWorker(Worker):
    """A worker whose web server does not listen."""

    def start_http_server(self, *args: Any, **options: Any) -> None:
        """Close the port before anyone is answered."""
        super().start_http_server(*args, **options)
        self.http_server.stop()
        self.services.pop("dashboard", None)


class ClosedNanny(Nanny):
    """A process that watches over a `ClosedWorker`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "worker_class": ClosedWorker})


@contextmanager
def pages_closed(cluster: Any, *, dashboard: bool) -> Iterator[None]:
    """Close the web server of a scheduler in this process; with ``dashboard``, serve its plots at a secret address.

    Clients have that address as their ``dashboard_link``, which is empty without a dashboard.

    Parameters
    ----------
    cluster : distributed.SpecCluster
        Made with the settings of `NO_PAGES`.
    dashboard : bool
    """
    served: list[Any] = []

    async def close() -> str:
        scheduler = cluster.scheduler
        scheduler.http_server.stop()
        scheduler.services.pop("dashboard", None)
        if not dashboard:
            return ""
        server, address = _served(scheduler)
        served.append(server)
        return address

    async def stop() -> None:
        for server in served:
            server.stop()

    link = str(cluster.sync(close))
    try:
        with dask.config.set({"distributed.dashboard.link": link}):
            yield
    finally:
        cluster.sync(stop)


def _served(scheduler: Any) -> tuple[Any, str]:
    """Serve plots below a path that nobody can guess, and nothing at any other, which could tell of it."""
    from distributed.dashboard.scheduler import connect
    from distributed.http.utils import get_handlers
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.routing import Router

    secret, pages = secrets.token_urlsafe(24), scheduler.http_application
    pages.add_handlers(".*", get_handlers(server=scheduler, modules=_PAGES, prefix=secret))
    connect(pages, scheduler.http_server, scheduler, prefix=secret)

    class Guard(Router):
        def find_handler(self, request: Any, **options: Any) -> Any:
            first = request.path.split("/")[1:2] or [""]
            known = secrets.compare_digest(first[0].encode(), secret.encode())
            return pages.find_handler(request, **options) if known else None

    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Guard())
    server.add_sockets(sockets)
    return server, f"http://127.0.0.1:{sockets[0].getsockname()[1]}/{secret}/status"


def private_folder() -> Path:
    """Folder that this user alone can write to, for the files of workers on this machine.

    Whoever owns a folder can put links in the place of what is written there, so one that others made is not used.
    """
    base = Path(dask.config.get("temporary-directory", None) or tempfile.gettempdir())
    path = base / f".tiledsky-{os.getuid()}"
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix=".tiledsky-", dir=base))
    return path
