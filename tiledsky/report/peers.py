"""Who is at the other end of a connection on this machine: a port of loopback is open to all who are logged in."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

#: Tables of the connections of this machine, which Linux has.
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def _place(address: tuple[str, int]) -> str:
    """Return an IPv4 address and port as the tables write it."""
    return f"{int.from_bytes(socket.inet_aton(address[0]), sys.byteorder):08X}:{address[1]:04X}"


def user_of(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the number of the user whose socket ``peer`` is connected to ``own``; None if no table says so."""
    ends = _place(peer), _place(own)
    for table in _TABLES:
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, remote, _, _, _, _, user, *_ = row.split()
            if (local[-13:], remote[-13:]) == ends:  # of IPv6, the IPv4 address in it
                return int(user)
    return None


def guarded(pages: Any, host: str) -> Any:
    """Router of Tornado that shows pages to this user and root alone, and under the name ``host`` alone.

    On systems without a table of connections everyone on the machine is shown them.
    """
    from tornado.routing import Router

    class Guard(Router):
        def find_handler(self, request: Any, **options: Any) -> Any:
            ends = request.connection.stream.socket
            known = not _TABLES[0].exists() or user_of(ends.getpeername(), ends.getsockname()) in (0, os.getuid())
            return pages.find_handler(request, **options) if known and request.host == host else None

    return Guard()
