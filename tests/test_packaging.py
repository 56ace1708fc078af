"""What pyproject.toml, CITATION.cff and the conda recipe say of the package agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import tiledsky

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Packages that have another name at conda-forge: without what tiledsky does not need of them.
CONDA_NAMES = {"dask[array]": "dask-core", "matplotlib": "matplotlib-base"}


def recipe() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "conda/recipe.yaml").read_text()))


def bounds(requirements: list[str]) -> dict[str, str]:
    """Bounds by the conda names of packages."""
    found = (re.fullmatch(r"([\w.\[\]-]+?) ?([<>=].*)?", requirement) for requirement in requirements)
    parts = [match.groups() for match in found if match]
    assert len(parts) == len(requirements)
    return {CONDA_NAMES.get(name, name): limits or "" for name, limits in parts}


def test_conda_takes_the_same_versions() -> None:
    wanted = bounds(PROJECT["dependencies"]) | {"python": PROJECT["requires-python"]}
    assert bounds(recipe()["requirements"]["run"]) == wanted
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    host = bounds(recipe()["requirements"]["host"])
    assert host == bounds(build) | {"python": PROJECT["requires-python"], "pip": ""}


def test_one_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {PROJECT["version"], recipe()["context"]["version"], citation["version"]} == {tiledsky.__version__}
    assert {recipe()["about"]["license"], citation["license"]} == {PROJECT["license"]}
    assert (ROOT / recipe()["about"]["license_file"]).is_file()
    assert f"## {tiledsky.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_citation_names_who_and_what() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    names = [author["name"] for author in citation["authors"]]
    assert names == [author["name"] for author in PROJECT["authors"]]
    page = (ROOT / "docs/cite.md").read_text()
    for work in citation["references"]:
        assert work.get("doi", work.get("url", "")).removeprefix("https://") in page, work["title"]


def test_recipe_has_the_parts_of_its_format() -> None:
    made = recipe()
    assert made["schema_version"] == 1
    assert set(made) <= {"schema_version", "context", "package", "source", "build", "requirements", "tests", "about"}
    assert made["package"] == {"name": PROJECT["name"], "version": "${{ version }}"}
    assert made["build"]["noarch"] == "python"
    entry = [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]
    assert made["build"]["python"]["entry_points"] == entry
    assert (ROOT / "conda" / made["source"]["path"] / "pyproject.toml").is_file()


def test_classifiers_say_the_pythons_that_are_tested() -> None:
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")
