"""Counts faults that tests try and that are survived; a plugin: ``pytest -p tests.faults.ledger --ledger FILE``.

A test belongs to a row of the table by its marker ``row``, or by its name here. It counts as one fault, unless it
counts more with the fixture ``tally``.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.scenes import stored_bytes


@dataclass(frozen=True)
class Row:
    """A row of the table: what is done, and what must happen."""

    key: str
    fault: str
    must: str


ROWS = (
    Row("commit", "The process of every task of a run ends (SIGKILL) before and after every file that it makes, syncs, "
        "renames or removes; the same with what was not synced lost; and (SIGXFSZ) half-way into every file; it is "
        "suspended there (SIGSTOP) until another one has done its task, or until its call has ended",
        "what is left is never taken for done; the next attempt gives the same bytes"),
    Row("worker", "A worker of a cluster ends by SIGKILL, SIGSEGV or in the middle of a write at each step of a "
        "commit, once, three times, and with several tasks at once", "the run finishes by itself, same bytes"),
    Row("poison", "A task kills its worker every time, hangs, or raises every time",
        "set aside with its traceback and numbers, the other tasks of the stage are done, exit code 4, no `_SUCCESS`; "
        "without the fault the same command does only what is left, same bytes"),
    Row("transient", "Errors of files and connections that pass", "tried again, same bytes"),
    Row("driver", "The driver is killed at random moments, one call after the other on one store",
        "no marker that was written is written again, same bytes"),
    Row("scheduler", "The scheduler is killed", "exit code 4 and one line; the same command goes on, same bytes"),
    Row("signal", "SIGINT, SIGTERM and SIGHUP before, while and after the cluster starts",
        "exit code 130, 143, 129, the command that goes on is printed, no process is left; same bytes"),
    Row("disk", "A full disk, a read-only one, no permission, a quota, an error of the device",
        "no marker of what is not there, one line that names the file; same bytes when there is room"),
    Row("damage", "Every object of every stage: a flipped bit, cut off, empty, longer, deleted, something else in its "
        "place", "verify names the tile"),
    Row("repair", "The same, with markers, metadata and the files of the run, alone and many at once",
        "the same command makes anew what is damaged and what that needs, no more; same bytes"),
    Row("torn", "A marker cut off at every byte, and with every single bit flipped", "never taken for a whole one"),
    Row("leftover", "Temporary files of killed writers; a driver killed while it prepares or tidies up",
        "removed; same bytes"),
    Row("empty", "Tiles without a valid pixel, tiles equal to the fill value", "done, not missing"),
    Row("second", "Two drivers on one store, in one process and in two", "the second is refused, exit code 4"),
    Row("changed", "Another recipe, parameter, input, tile size or version of the code or a library on a store; an "
        "input that changes while it is read", "refused, and the change is named; nothing in the store changes"),
    Row("same", "1, 2 and 4 workers, 1 and 3 threads, this process; other tile sizes", "same bytes; same pixels"),
    Row("memory", "Every preset at three tile sizes, one after the other in the same workers",
        "no stage takes more than the plan said"),
    Row("fits", "FITS files with damaged headers, cut off at any byte, with damaged tiles",
        "a typed error that names the file, or the right pixels; in 5 s and 128 MiB"),
    Row("zarr", "Zarr metadata with changed, missing and hostile values",
        "a typed error that names the store, or pixels; in 5 s and 64 MiB"),
    Row("others", "Another user of the machine connects to every port of a run, in the open, with other keys and with "
        "none, looks for its keys, and prepares the folder of its workers",
        "no answer, no code, no key; the folder is not used"),
    Row("edited", "Run stores by somebody else: fields of every document with another value or type, or without them, "
        "half of them with all checksums made anew; links, pipes, `..`, other codecs and chunks",
        "refused in one line with a documented exit code, or read; in 1 GB; nothing outside the store is touched"),
    Row("names", "Addresses with passwords in every argument of every command; pipes, sockets, devices, links and "
        "files of others in the place of every output; names that are markup, formulas or codes of a terminal",
        "refused, and not repeated; stays; shown as it is"),
    Row("many", "A plan of 60,000 tiles that do nothing", "submitted in a minute, a scheduler below 500 MB"),
)  # fmt: skip

#: Faults of one test, where a test that does not count them tries more than one.
COUNTS = {
    "test_zarrcheck.py::test_mutated_metadata": 100,
    "test_driver.py::test_tasks_that_all_kill": 10,
    "test_names.py::test_secrets_in_arguments": 15,
    "test_cluster.py::test_every_port_asks": 15,
    "test_memory.py::test_measured_is_below_projected[usual": 9,
    "test_memory.py::test_measured_is_below_projected[every": 39,
}
#: Tests without a marker, by the end of their path and name.
NAMED = {
    "test_driver.py::test_what_passes[transient": "transient",
    "test_driver.py::test_what_passes": "worker",
    "test_driver.py::test_tasks_that_all_kill_their_worker": "worker",
    "test_driver.py::test_what_does_not_pass": "poison",
    "test_driver.py::test_gather_task_that_kills_its_worker": "poison",
    "test_driver.py::test_hung_task": "poison",
    "test_driver.py::test_disk_full_ends_the_stage": "disk",
    "test_driver.py::test_errors_that_may_pass_here": "transient",
    "test_driver.py::test_attempts_by_error": "poison",
    "test_driver.py::test_tasks_that_outlive_their_driver": "driver",
    "test_many.py::": "many",
    "test_memory.py::test_measured_is_below_projected": "memory",
    "test_stop.py::test_killed_driver": "driver",
    "test_stop.py::test_s": "signal",
    "test_stop.py::test_running_tasks": "signal",
    "test_resume.py::test_interrupted": "signal",
    "test_resume.py::test_failing_tile_leaves_the_others_done": "poison",
    "test_resume.py::test_damaged_task_is_computed_again": "repair",
    "test_resume.py::test_summary_that_is_damaged": "repair",
    "test_resume.py::test_killed_before_the_last_file": "leftover",
    "test_resume.py::test_killed_while_preparing": "leftover",
    "test_resume.py::test_other_runs_are_refused": "changed",
    "test_resume.py::test_other_dq_flags_are_another_run": "changed",
    "test_resume.py::test_chunk_of_the_input_written_anew_is_another_input": "changed",
    "test_resume.py::test_restart_heals_damaged_metadata": "repair",
    "test_resume.py::test_second_driver_is_refused": "second",
    "test_resume.py::test_killed_driver": "driver",
    "test_resume.py::test_killed_worker": "worker",
    "test_run.py::test_constant_image_has_every_object": "empty",
    "test_run.py::test_tile_without_a_valid_pixel": "empty",
    "test_verify.py::test_status_of_masked_tiles": "empty",
    "test_verify.py::test_damaged_object": "repair",
    "test_verify.py::test_flipped_bit": "repair",
    "test_verify.py::test_damaged_marker": "repair",
    "test_verify.py::test_damaged_metadata": "repair",
    "test_verify.py::test_everything_at_once": "repair",
    "test_verify.py::test_markers_all_gone": "repair",
    "test_verify.py::test_file_in_place_of_a_folder": "repair",
    "test_verify.py::test_leftover_temporary_files": "leftover",
    "test_verify.py::test_disk_full": "disk",
    "test_verify.py::test_read_only_store": "disk",
    "test_verify.py::test_write_refused": "disk",
    "test_verify.py::test_input_that_changes_while_it_is_read": "changed",
    "test_verify.py::test_input_that_goes_away": "changed",
    "test_names.py::": "names",
    "test_targets.py::": "names",
    "test_plain.py::": "names",
    "test_injection.py::test_command": "names",
    "test_resume.py::test_restart_throws": "names",
    "test_report.py::test_name_of_a_run": "names",
    "test_cluster.py::test_every_port_asks": "others",
    "test_cluster.py::test_keys_are_seen": "others",
    "test_cluster.py::test_dashboard_at_an_address": "others",
    "test_cluster.py::test_folder_of_workers": "others",
    "test_cluster.py::test_two_workers": "same",
    "test_cluster.py::test_two_threads": "same",
    "test_cli.py::test_killed_scheduler": "scheduler",
    "test_cli.py::test_interrupt": "signal",
    "test_zarrcheck.py::test_mutated_metadata": "zarr",
    "test_checked_store.py::": "edited",
}


class Tally:
    """Faults that a test tries, those that were survived, and the bytes that differ or are missing in the end."""

    def __init__(self) -> None:
        self.tried = self.survived = self.lost = 0

    def add(self, count: int) -> None:
        """Count faults that were tried elsewhere and survived."""
        self.tried += count
        self.survived += count

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Try one fault in this block."""
        self.tried += 1
        yield
        self.survived += 1

    def compare(self, out: Path, whole: dict[str, str]) -> None:
        """Compare a store with the digests of another one."""
        found = stored_bytes(out)
        wrong = [name for name in whole if found.get(name) != whole[name]]
        self.lost += sum((out / name).stat().st_size if name in found else 1 for name in wrong)
        assert not wrong, f"{len(wrong)} files differ or are missing: {wrong[:5]}"
        assert found.keys() == whole.keys()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ledger", type=Path, help="JSON file for the counts of faults")


def row_of(item: pytest.Item) -> str | None:
    """Row that a test counts for."""
    marker = item.get_closest_marker("row")
    named = (row for name, row in NAMED.items() if f"/{name}" in f"/{item.nodeid}")
    return str(marker.args[0]) if marker else next(named, None)


class Ledger:
    """What became of every test that belongs to a row."""

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.time()
        self.rows: dict[str, dict[str, Any]] = {
            row.key: {"tried": 0, "survived": 0, "lost": 0, "seconds": 0.0, "skipped": [], "failed": []} for row in ROWS
        }

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the tests that count for nothing."""
        others = [item for item in items if row_of(item) is None]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if row_of(item) is not None]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Put the row and the counts of a test into its report, which may go to another process."""
        outcome: Any = yield
        report = outcome.get_result()
        entry: dict[str, Any] = {"row": row_of(item), "tried": 0, "survived": 0, "lost": 0, "skipped": "", "failed": ""}
        if report.skipped:
            entry["skipped"] = f"{item.name}: {report.longrepr[2] if report.longrepr else ''}"
        elif report.when == "call" or report.failed:
            tally = getattr(item, "funcargs", {}).get("tally") or Tally()
            count = next((n for name, n in COUNTS.items() if name in item.nodeid), 1)
            entry["tried"] = tally.tried or count
            entry["survived"] = tally.survived if tally.tried else count * report.passed
            entry["lost"] = tally.lost
            entry["failed"] = item.nodeid if report.failed else ""
        report.user_properties.append(("faults", entry))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what a test counted; of setup, call and teardown the last property is the own one."""
        found = [entry for name, entry in report.user_properties if name == "faults"]
        if not found:  # a process that ended with its test
            return
        own, row = found[-1], self.rows[found[-1]["row"]]
        row["seconds"] += report.duration
        for key in ("tried", "survived", "lost"):
            row[key] += own[key]
        for key in ("skipped", "failed"):
            row[key] += [own[key]] if own[key] else []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # one of several processes; the first of them writes
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "date": time.strftime("%Y-%m-%d", time.gmtime(self.began)),
            "seconds": round(time.time() - self.began),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_memory()} GB, {platform.system()} "
            f"{platform.release().split('-')[0]}, Python {platform.python_version()}",
            "rows": self.rows,
        }
        self.path.write_text(json.dumps(facts, indent=1))


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--ledger")
    if path is not None:
        config.pluginmanager.register(Ledger(path), "ledger-of-faults")
