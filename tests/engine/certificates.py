"""Certificates for tests, signed by themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path


def write_certificate(folder: Path, name: str, *extensions: str) -> None:
    """Write ``name``.pem and ``name``.key."""
    more = [word for extension in extensions for word in ("-addext", extension)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", *more,
         "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.key").chmod(0o600)
