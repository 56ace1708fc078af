"""Loaded by workers whose tasks sleep for TILEDSKY_SLEEP seconds in place of a kernel."""

from __future__ import annotations

import os
import time
from typing import Any

from tiledsky.engine import attempt

SECONDS = float(os.environ["TILEDSKY_SLEEP"])


def execute(*arguments: Any) -> dict[str, Any]:
    time.sleep(SECONDS)
    return {"seconds": SECONDS, "cpu_seconds": 0.0, "objects": []}


attempt.execute = execute  # type: ignore[assignment]
