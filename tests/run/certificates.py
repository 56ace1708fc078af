"""Certificates for tests, signed by themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path


def write_certificate(folder: Path, name: str) -> None:
    """Write ``name``.pem and ``name``.key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.key").chmod(0o600)
