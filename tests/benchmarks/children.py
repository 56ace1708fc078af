"""Programs that `programs` starts in processes of their own; each prints one line of JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Any


def first(recipe: str) -> dict[str, Any]:
    """Import, and estimate the sky of a small image: what a user waits for at first."""
    import numpy as np

    from tiledsky import estimate_background

    image = np.random.default_rng(4).normal(10.0, 0.1, (300, 300)).astype(np.float32)
    image[100:110, 100:110] += 5.0
    sky = estimate_background(image, recipe)
    return {"sky": float(sky.background.mean())}


def warm(recipe: str) -> None:
    """Load all kernels of a run: a small one, in this process."""
    import tempfile

    import zarr

    import tiledsky

    with tempfile.TemporaryDirectory() as folder:
        image = tiledsky.simulate_scene((300, 300), seed=4).image
        zarr.create_array(f"{folder}/image.zarr", data=image)
        tiledsky.run(f"{folder}/image.zarr", recipe, f"{folder}/run.zarr")


def growth(source: str) -> dict[str, Any]:
    """Run complex-sky with two fresh workers that have loaded their kernels; what it took, by its own account."""
    import tiledsky
    from tiledsky.cluster.local import local_client

    try:
        with local_client(workers=2) as client:
            client.run(warm, "complex-sky")  # on each worker
            began = time.perf_counter()
            found = tiledsky.run(source, "complex-sky", "run.zarr", client=client)
            wall = time.perf_counter() - began
        return {key: found.provenance[key] for key in ("cpu_seconds", "peak_worker_memory", "tasks")} | {"wall": wall}
    finally:
        shutil.rmtree("run.zarr", ignore_errors=True)


def memory(recipe: str, source: str) -> dict[str, Any]:
    """Run a recipe with two fresh workers; peak of each stage, projected and measured, and which are of the mesh."""
    import tiledsky
    from tiledsky.cluster.local import local_client
    from tiledsky.engine.plan import GATHER

    try:
        with local_client(workers=2) as client:
            found = tiledsky.run(source, recipe, "run.zarr", client=client, tile_size=1920)
        gathers = [stage.name for stage in found.plan.stages if stage.kind in GATHER]
        return {"stages": found.provenance["memory"], "gathers": gathers}
    finally:
        shutil.rmtree("run.zarr", ignore_errors=True)


def copy(source: str, repeat: str) -> dict[str, Any]:
    """Run sextractor from Zarr and copy its planes, in turn, on the same two workers."""
    import tiledsky
    from tiledsky.cluster.local import local_client

    times: dict[str, list[float]] = {"run": [], "copy": []}
    with local_client(workers=2) as client:
        for turn in range(int(repeat) + 1):  # the first loads kernels and codecs, and does not count
            began = time.perf_counter()
            found = tiledsky.run(source, "sextractor", "run.zarr", client=client, restart=True)
            middle = time.perf_counter()
            _copy_planes(client, "run.zarr", "copy.zarr", found.planes)
            end = time.perf_counter()
            if turn:
                times["run"].append(middle - began)
                times["copy"].append(end - middle)
    return {**times, "planes": found.planes}


def _copy_planes(client: Any, source: str, target: str, names: list[str]) -> None:
    """Copy the arrays of a store, one task for each of their stored objects, with their own codecs."""
    import dask
    import dask.array as da
    import zarr

    shutil.rmtree(target, ignore_errors=True)
    read, write = zarr.open_group(source, mode="r"), zarr.open_group(target, mode="w")
    copies = []
    for name in names:
        plane = read[name]
        made = write.create_array(
            name,
            shape=plane.shape,
            dtype=plane.dtype,
            chunks=plane.chunks,
            shards=plane.shards,
            fill_value=plane.fill_value,
            compressors=plane.compressors,
            config={"write_empty_chunks": True},
        )
        pixels = da.from_zarr(plane, chunks=plane.shards or plane.chunks)
        copies.append(da.store(pixels, made, lock=False, compute=False))
    client.gather(client.compute(list(dask.optimize(*copies))))


if __name__ == "__main__":
    function = {"first": first, "growth": growth, "copy": copy, "memory": memory}[sys.argv[1]]
    result = function(*sys.argv[2:])
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
