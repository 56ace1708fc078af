"""Whether the workers of a cluster can do a run: versions, the shared folder, a tile's worth of work with its bits."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiledsky.arrays.estimate import estimate_background
from tiledsky.cluster.versions import versions
from tiledsky.cluster.workers import SAME, check_versions
from tiledsky.errors import RunError
from tiledsky.simulate import simulate_scene

__all__ = ["SAME", "ClusterReport", "check_cluster", "sample"]

#: Side of the image that each worker estimates, the recipe whose time is taken, and another that fits the mesh.
_SIDE, _RECIPE, _FITTED = 512, "complex-sky", "deep-sky"


@dataclass(frozen=True)
class ClusterReport:
    """Versions, threads and speed of the workers of a cluster.

    Attributes
    ----------
    versions : dict
        Of the driver, and so of every worker.
    workers : int
    threads : int
        Of all workers.
    megapixels : float
        A second, of all threads together; kernels compiled.
    """

    versions: dict[str, str]
    workers: int
    threads: int
    megapixels: float


def sample() -> tuple[str, float]:
    """Estimate a small image twice; return a digest of all that was made and the seconds of the second time."""
    image = simulate_scene((_SIDE, _SIDE), seed=4).image
    seconds = 0.0
    for _ in range(2):  # the first time kernels may be compiled
        began = time.perf_counter()
        sky = estimate_background(image, _RECIPE)
        seconds = time.perf_counter() - began
    fitted = estimate_background(image, _FITTED)
    made = (s.tobytes() for k in (sky, fitted) for s in (k.background, k.background_rms, k.background_error, k.mask))
    return hashlib.blake2b(b"".join(made), digest_size=16).hexdigest(), seconds


def check_cluster(client: Any, *, folder: str | os.PathLike[str] = ".") -> ClusterReport:
    """Check the workers of a client.

    Parameters
    ----------
    client : distributed.Client
    folder : path
        Where runs will be: all workers must see it under this path.

    Raises
    ------
    RunError
        A worker with another version, that does not see the folder, or that gets other bits.
    """
    ours = versions()
    answers = client.run(versions, on_error="return")
    if not answers:
        raise RunError("the cluster has no worker; start some")
    for worker, theirs in answers.items():
        check_versions(f"worker {worker}", ours, theirs)
    _same_folder(client, Path(folder).absolute())
    digest, _ = sample()
    found: dict[str, tuple[str, float]] = client.run(sample)
    for worker, (theirs, _) in found.items():
        if theirs != digest:
            raise RunError(
                f"worker {worker} computes other bits than this process, so tiles would not fit together; use the "
                "same builds of numpy, scipy and numba on all machines"
            )
    threads = {address: w["nthreads"] for address, w in client.scheduler_info(n_workers=-1)["workers"].items()}
    rate = sum(threads.get(worker, 1) * _SIDE**2 / 1e6 / seconds for worker, (_, seconds) in found.items())
    return ClusterReport(ours, len(found), sum(threads.values()), rate)


def _same_folder(client: Any, folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tiledsky-check-") as file:
        blind = [worker for worker, sees in client.run(os.path.exists, file.name).items() if not sees]
    if blind:
        raise RunError(
            f"worker {blind[0]} does not see {folder}, so it cannot write there; use a folder that all machines share"
        )
