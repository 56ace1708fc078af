"""Texts of presets and of recipe files, and what they hold."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from tiledsky.errors import ParameterError
from tiledsky.plain import did_you_mean

#: Largest recipe file; presets have 3 kB.
MAX_BYTES = 1_000_000


def read(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Return what a preset or a recipe file holds, and what to call it in messages."""
    text, source = recipe_text(name_or_path)
    try:
        return tomllib.loads(text), source
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"{source}: not valid TOML: {error}") from None
    except ValueError:  # a number of thousands of digits
        raise ParameterError(f"{source}: not valid TOML: a number is too long to be read; shorten it") from None
    except RecursionError:
        raise ParameterError(f"{source}: brackets are nested too deep to be read; a recipe needs five") from None


def preset_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("tiledsky.recipe") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def recipe_text(name_or_path: str | Path) -> tuple[str, str]:
    """Text of a preset or a recipe file, and what to call it in messages."""
    name = str(name_or_path)
    if name in preset_names():
        return (resources.files("tiledsky.recipe") / "presets" / f"{name}.toml").read_text(), f"recipe {name}"
    path = Path(name)
    if not path.is_file():
        names = preset_names()
        raise ParameterError(
            f"no recipe {name!r}: neither a file nor one of {', '.join(names)}{did_you_mean(name, names)}"
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ParameterError(f"recipe {path} has more than the {MAX_BYTES} bytes of a recipe; give another file")
        return data.decode("utf-8"), f"recipe {path}"
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"recipe {path} cannot be read: {error}") from None
