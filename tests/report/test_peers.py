"""The page of a view is shown to the user whose it is, found by the sockets of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.scenes import command
from tiledsky.report.peers import user_of

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system has no table of connections")

#: Ask for a page as another user, or this one, under a name; print the first line of the answer.
_ASK = """
import os, socket, sys
port, user, host = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
"x".encode("idna")  # another user may not be allowed to import it
if user != os.getuid():
    os.setgroups([]); os.setgid(user); os.setuid(user)
with socket.create_connection(("127.0.0.1", port), timeout=300) as asked:
    asked.sendall(f"GET {sys.argv[4]} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    print(asked.makefile("rb").readline().decode().strip())
"""


@pytest.fixture(scope="module")
def port(store: Path) -> Iterator[int]:
    process = command("view", str(store), "--no-browser")
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.communicate()


def asked(port: int, user: int, host: str, path: str = "/static/js/bokeh.min.js") -> str:
    words = [sys.executable, "-c", _ASK, str(port), str(user), host, path]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=600).stdout.strip()


def test_this_user(port: int) -> None:
    assert asked(port, os.getuid(), f"127.0.0.1:{port}") == "HTTP/1.1 200 OK"
    assert asked(port, os.getuid(), f"127.0.0.1:{port}", "/") == "HTTP/1.1 200 OK"


def test_names_of_other_machines(port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
        assert asked(port, os.getuid(), host) == "HTTP/1.1 404 Not Found"


@pytest.mark.skipif(os.getuid() != 0, reason="root alone can be another user")
def test_other_users(port: int) -> None:
    for path in ("/", "/ws", "/static/js/bokeh.min.js", "/autoload.js?bokeh-autoload-element=x", "/metadata"):
        assert asked(port, 65534, f"127.0.0.1:{port}", path) == "HTTP/1.1 404 Not Found"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_user_of_a_connection(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = server.getsockname()
        with socket.socket(family, socket.SOCK_STREAM) as client:
            try:
                client.connect(("::ffff:127.0.0.1" if family is socket.AF_INET6 else "127.0.0.1", own[1]))
            except OSError as error:
                pytest.skip(f"no such address here: {error}")
            accepted, peer = server.accept()
            with accepted:
                assert user_of(peer, own) == os.getuid()
                assert user_of(("127.0.0.1", 1), own) is None
