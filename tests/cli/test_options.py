"""The options of all commands are what scripts rely on: names, kinds, defaults, texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tiledsky.cli import app
from tiledsky.cli.options import with_inputs, words_of
from tiledsky.io.options import InputOptions

PLANES = ("weight", "error", "variance", "dq", "coverage", "mask", "user_mask", "footprints", "footprint_labels")
#: A line for each option; after a change on purpose: `python -m tests.cli.test_options >tests/cli/options.txt`.
LIST = Path(__file__).with_name("options.txt")


def lines(command: Any, name: str) -> Iterator[str]:
    """Describe the parameters of a command, and of those below it."""
    for parameter in command.params:
        names = "/".join((*parameter.opts, *parameter.secondary_opts))
        facts = [f"default {parameter.default!r}"]
        facts += ["required"] if parameter.required else []
        facts += [str(text) for text in (parameter.metavar, parameter.envvar, getattr(parameter, "help", None)) if text]
        yield f"{name} {names}: {'; '.join(facts)}"
    for below, found in sorted(getattr(command, "commands", {}).items()):
        yield from lines(found, f"{name} {below}")


def options() -> list[str]:
    return list(lines(typer.main.get_command(app), "tiledsky"))


def test_all_options_are_as_they_were() -> None:
    assert options() == LIST.read_text().splitlines()


@pytest.mark.parametrize("checksum", [True, False])
def test_a_command_gets_one_object_with_all_that_is_said_of_an_input(checksum: bool) -> None:
    got: list[InputOptions] = []

    @with_inputs(checksum=checksum)
    def command(source: str, *, inputs: InputOptions, last: int = 3) -> None:
        got.append(inputs)
        assert (source, last) == ("a.fits", 4)

    alone = typer.Typer()
    alone.command()(command)
    words = [f"--{name.replace('_', '-')}={name}.fits" for name in PLANES]
    told = CliRunner().invoke(alone, ["a.fits", "--last=4", "--hdu=2", "--nodata=auto", *words])
    assert told.exit_code == 0, told.output
    expected = {"hdu": "2", "nodata": "auto", **{name: f"{name}.fits" for name in PLANES}, "checksum": checksum}
    assert got == [expected]
    assert set(expected) == set(InputOptions.__annotations__)
    assert words_of(got[0]) == [w for word in ("--hdu=2", "--nodata=auto", *words) for w in word.split("=")]
    told = CliRunner().invoke(alone, ["a.fits", "--no-checksum", "--last=4"])
    assert told.exit_code == (0 if checksum else 2)
    assert got[1:] == ([{**dict.fromkeys(expected), "checksum": False}] if checksum else [])


if __name__ == "__main__":
    print("\n".join(options()))
