"""Runs whose store is in a bucket: the bytes of a run on the disk, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.engine.scenes import command
from tests.s3.conftest import URL, Proxy, Server, assert_same_bytes, killed_once, markers, speak_to, wait_for
from tiledsky import Run, open_run, run
from tiledsky.engine import leases
from tiledsky.engine.leases import BucketLease, process_name
from tiledsky.engine.verify import verify
from tiledsky.errors import InputError, RunError
from tiledsky.io.address import Address
from tiledsky.io.buckets import ObjectStore


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    return f"s3://sky/{request.node.name.replace('[', '-').strip(']')}.zarr"


@pytest.fixture(scope="module")
def fetched(server: Server, folder: Path) -> Run:
    """A run on the disk, of the mosaic in the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        speak_to(server, patch)
        return run(URL, "complex-sky", folder.with_name("fetched.zarr"), tile_size=100)


def words(out: str) -> tuple[str, ...]:
    return ("run", URL, "--recipe", "complex-sky", "--out", out, "--tile-size", "100", "--no-report")


def test_from_bucket_to_bucket(fetched: Run, out: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tiledsky", *words(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "planes: background, background_error" in done.stdout
    assert_same_bytes(out, fetched)
    found = open_run(out)
    assert found.complete
    assert found.diagnostics == fetched.diagnostics
    assert {name: state.tolist() for name, state in found.status().items()} == {
        name: state.tolist() for name, state in fetched.status().items()
    }
    assert verify(out, level="decode") == []
    assert not Address(f"{out}/run/lock").exists()


def test_from_disk_to_bucket_in_this_process(local: Run, folder: Path, out: str) -> None:
    run(folder, "complex-sky", out, tile_size=100)
    assert_same_bytes(out, local)


def test_drivers_killed_one_after_the_other(fetched: Run, out: str) -> None:
    """What was committed is not done again; the next driver takes the lease of one that is gone."""
    for goal in (0, 6, 20):
        before = markers(out)
        with command(*words(out)) as driver:
            wait_for(lambda goal=goal: len(markers(out)) > goal or driver.poll() is not None)
            driver.kill()
            driver.communicate(timeout=60)
        assert {name: data for name, data in markers(out).items() if name in before} == before
        with pytest.raises(RunError, match="is not finished"):
            open_run(out)
    before = markers(out)
    with command(*words(out)) as driver:
        _, said = driver.communicate(timeout=300)
        assert driver.returncode == 0, said
    assert {name: data for name, data in markers(out).items() if name in before} == before
    assert open_run(out).provenance["tasks_computed_last"] == open_run(out).provenance["tasks"] - len(before)
    assert_same_bytes(out, fetched)


def test_server_killed_and_started_again(server: Server, fetched: Run, out: str) -> None:
    with killed_once(server, after=9) as kill:
        run(URL, "complex-sky", out, tile_size=100, progress=kill)
    assert_same_bytes(out, fetched)


def test_one_of_sixteen_answers_is_503(proxy: type[Proxy], fetched: Run, out: str) -> None:
    proxy.every = 16
    run(URL, "complex-sky", out, tile_size=100)
    assert {refused.split()[0] for refused in proxy.refused} >= {"GET", "PUT", "HEAD"}
    assert_same_bytes(out, fetched)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_is_named_and_repaired(local: Run, folder: Path, out: str, damage: str) -> None:
    run(folder, "complex-sky", out, tile_size=100)
    before = markers(out)
    file = Address(f"{out}/background/c/1/1")
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-9] if damage == "cut" else bytes([data[0] ^ 4]) + data[1:])
    (fault,) = verify(out)
    assert (fault.stage, fault.index) == ("output", (1, 1))
    with pytest.raises(RunError, match="is not finished"):
        open_run(out)
    run(folder, "complex-sky", out, tile_size=100)
    assert_same_bytes(out, local)
    changed = {name.partition("/markers/")[2] for name, data in markers(out).items() if before[name] != data}
    assert "output/1.1.json" in changed
    assert not any(name.startswith("output/") for name in changed - {"output/1.1.json"})


def test_another_run_is_refused_and_restarted(local: Run, folder: Path, out: str) -> None:
    run(folder, "sextractor", out, tile_size=100)
    with pytest.raises(RunError, match="with another recipe"):
        run(folder, "complex-sky", out, tile_size=100)
    run(folder, "complex-sky", out, tile_size=100, restart=True)
    assert_same_bytes(out, local)


def test_what_is_no_run_is_not_touched(folder: Path) -> None:
    with pytest.raises(RunError, match="exists and is not a run store"):
        run(folder, "sextractor", URL, tile_size=100)
    with pytest.raises(InputError, match="no such Zarr store"):
        open_run("s3://sky/nothing.zarr")


# --- the lease


@pytest.fixture
def lock(out: str) -> Address:
    return Address(f"{out}/run/lock")


def guard(lock: Address) -> BucketLease:
    return BucketLease(ObjectStore(lock.parent.parent))


def leased(lock: Address) -> AbstractContextManager[str]:
    return guard(lock).locked()


def test_second_driver_is_refused(lock: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW", 0.2)
    with leased(lock), pytest.raises(RunError, match="is being run by another process"), leased(lock):
        raise AssertionError("two have the lease")
    assert not lock.exists()


def test_lease_that_is_not_renewed_is_taken(lock: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "STALE", 3.0)
    lock.write_bytes(json.dumps({"holder": "another.machine:1", "lease": "?", "renewed": 1}).encode())
    began = time.monotonic()
    with leased(lock):
        assert time.monotonic() - began > 3


def test_lease_of_a_process_that_is_gone_is_taken_at_once(lock: Address) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    host = process_name().rpartition(":")[0]
    facts = {"holder": f"{host}:{gone.pid}", "machine": leases.machine(), "lease": "?", "renewed": 1}
    lock.write_bytes(json.dumps(facts).encode())
    began = time.monotonic()
    with leased(lock):
        assert time.monotonic() - began < leases.STALE / 2


def test_driver_whose_lease_was_taken_stops(lock: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW", 0.2)

    def drive() -> None:
        with leased(lock):
            lock.write_bytes(json.dumps({"holder": "another.machine:1", "lease": "?", "renewed": 1}).encode())
            wait_for(lambda: False, seconds=30)

    with pytest.raises(RunError, match="another process now drives the run"):
        drive()
    assert b"another.machine" in lock.read_bytes()


def test_task_of_another_driver_puts_nothing(lock: Address, out: str) -> None:
    file = Address(f"{out}/background/c/0/0")
    lock.write_bytes(json.dumps({"holder": "another.machine:1", "lease": "?", "renewed": 1}).encode())
    for change in (lambda: file.write_bytes(b"pixels"), file.unlink):
        with guard(lock).working("ours"), pytest.raises(RunError, match=r"another call now, of another\.machine:1"):
            change()
    lock.unlink()
    with guard(lock).working("ours"), pytest.raises(RunError, match="has no driver"):
        file.write_bytes(b"pixels")
    assert not file.exists()
    with leased(lock) as call, guard(lock).working(call):
        file.write_bytes(b"pixels")
    assert file.read_bytes() == b"pixels"


def test_command_line_of_a_bucket(fetched: Run, out: str, tmp_path: Path) -> None:
    """The commands take the address of a run where they take its path."""

    def tiledsky(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "tiledsky", *words], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    tiledsky(*words(out))
    tiledsky("report", out)
    assert Address(out.replace(".zarr", ".report.html")).read_bytes().startswith(b"<!doctype html>")
    assert "nothing is damaged" in tiledsky("verify", out)
    assert f"{out}: finished" in tiledsky("info", out)
    assert tiledsky("check", out) == tiledsky("check", str(fetched.path)).replace(str(fetched.path), out)
    tiledsky("export", out, str(tmp_path / "sky.fits"))
    tiledsky("export", str(fetched.path), str(tmp_path / "local.fits"))
    assert os.path.getsize(tmp_path / "sky.fits") == os.path.getsize(tmp_path / "local.fits")
