"""Object stores and the web: s3://, gs://, az://, https://.

Credentials come from the environment that the stores' own tools use (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...). What is not answered (503, a server that restarts) is
asked again for minutes; in the end it is an error, never a chunk of fill value.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from tiledsky.errors import InputError, RunError

#: How addresses begin.
SCHEMES = ("s3", "gs", "az", "https", "http")
#: How anything begins that is meant as an address: with any scheme; with one slash, which is what a path makes of two.
_START = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9+.-]*)://|(s3|gs|az|https?|ftp):[/\\])", re.IGNORECASE)
#: Hosts that may be talked to without encryption.
_HERE = ("127.0.0.1", "localhost", "::1")
#: Requests that fail in a way that may pass are repeated for this long. A wait is drawn from between the first and
#: ``base`` times the last: with a base below e the waits shrink, and all tries are over in seconds.
_RETRIES = {
    "max_retries": 100,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 4},
}
#: Of one request.
_TIMEOUT = timedelta(seconds=60)


def is_url(where: str | os.PathLike[str]) -> bool:
    """Whether this is an address, be it one that is not served or broken, not a path."""
    return _START.match(os.fspath(where)) is not None


def keeps_no_secret(text: str) -> None:
    """Refuse a word with an address that may hold a password, whole or broken, without saying more of it.

    Raises
    ------
    InputError
    """
    start = _START.search(text)
    if start is None:
        return
    rest = text[start.end() :]
    host, _, path = rest.partition("/")
    _, colon, port = host.partition(":")
    broken = bool(colon) and not port.isdecimal() and not host.startswith("[")
    if "@" in host or broken or (colon and "@" in path) or set("?#\\") & set(rest):
        raise InputError(
            f"{start[1] or start[2]}://...: an address must not contain a password, '?' or '#', because "
            "tiledsky writes addresses to files that others can read; put keys in the environment"
        )


def checked(url: str) -> str:
    """Return an address without the slash at its end, if it is one that may be read.

    Raises
    ------
    InputError
        Passwords in it, another scheme, ``..``, no host, or not encrypted and of another machine.
    """
    keeps_no_secret(url)
    scheme = url.partition(":")[0].strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # which says all of it
        raise InputError(f"{scheme}://... is not an address; give one like s3://bucket/mosaic.zarr") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES[:-1])
        raise InputError(f"{url} is neither a path nor a known address; give one of {known}")
    if not host:
        raise InputError(f"{url} names no bucket or host; give one like s3://bucket/mosaic.zarr")
    if ".." in parts.path.split("/"):
        raise InputError(f"{url} has '..' in it; give the address itself")
    if parts.scheme == "http" and host not in _HERE:
        raise InputError(f"{url} is not encrypted, so anyone on the way can change the pixels; use https://")
    return url.rstrip("/")


def library(url: str) -> Any:
    """Return the module obstore, which is there if it was asked for."""
    try:
        import obstore.store
    except ImportError:
        raise InputError(f"{url} needs obstore, which is not installed; pip install 'tiledsky[remote]'") from None
    return obstore


@lru_cache(maxsize=64)
def bucket(url: str) -> Any:
    """Store of obstore at an address."""
    from_url = library(url).store.from_url
    plain = urlsplit(os.environ.get("AWS_ENDPOINT_URL", url))
    unencrypted = plain.scheme == "http" and plain.hostname in _HERE
    client = {"timeout": _TIMEOUT, **({"allow_http": True} if unencrypted else {})}
    account = _azure_account() if url.startswith("az://") else {}
    try:
        return from_url(url, client_options=client, retry_config=_RETRIES, **account)
    except Exception as error:  # obstore has its own for each store
        raise InputError(f"{url} cannot be opened ({_line(error)}); check address and environment") from None


def _azure_account() -> dict[str, str]:
    """Name of the account, as the environment gives it.

    obstore reads it there by itself, but then panics when Zarr asks for the name of the store (``repr`` of an
    ``AzureStore`` in 0.12; this goes when that answers).
    """
    emulated = "devstoreaccount1" if "AZURE_STORAGE_USE_EMULATOR" in os.environ else ""
    name = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", emulated)
    return {"account_name": name} if name else {}


def is_outage(error: BaseException) -> bool:
    """Whether an error says that a store did not answer, rather than that something is not there or damaged."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.startswith("obstore") and not isinstance(seen, FileNotFoundError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def unreachable(url: str, error: BaseException) -> RunError:
    """Error of a store that does not answer; raise it from `as_system`, so that the task is tried again."""
    return RunError(f"{url} does not answer ({_line(error)}); check network and credentials, the same command goes on")


def as_system(error: BaseException) -> OSError:
    """Return an error of a store as one of the system, which it is elsewhere."""
    return ConnectionError(_line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
