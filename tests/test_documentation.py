"""The pages of the documentation: links lead somewhere, every page and command is in it, examples in Python work."""

from __future__ import annotations

import doctest
import re
import runpy
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.main import get_command

import tiledsky
from tiledsky.cli import app

ROOT = Path(__file__).parent.parent
SITE = runpy.run_path(str(ROOT / "docs/conf.py"))
EXAMPLE = re.compile(r"^```python\n(>>> .*?)^```$", re.DOTALL | re.MULTILINE)
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def relative(path: Path) -> str:
    return path.resolve().relative_to(ROOT).as_posix()


def pages(*patterns: str) -> dict[str, str]:
    return {relative(path): path.read_text() for pattern in patterns for path in sorted(ROOT.glob(pattern))}


ON_SITE = pages(*(pattern for pattern in SITE["include_patterns"] if not pattern.endswith(".png")))
PAGES = {**pages("README.md"), **{path: text for path, text in ON_SITE.items() if path.endswith(".md")}}


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^(```+).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Names of the headings of a page, as code hosts and the site make them."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(PAGES[page]))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = unquote(link).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), f"{page}: no file {link}"
        if heading:
            assert heading in anchors(target.read_text()), f"{page}: no heading {link}"
        # the site has what its pages link to, and pages are shown, not downloaded
        if page in ON_SITE and target.suffix in (".md", ".ipynb"):
            assert relative(target) in ON_SITE, f"{page}: {link} is not a page of the site"


def test_every_page_is_in_the_tree_once() -> None:
    listed = [f"{SITE['root_doc']}.md"]
    for page, text in ON_SITE.items():
        for tree in TREE.findall(text) if page.endswith(".md") else ():
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    (found,) = (p for p in ON_SITE if p.rsplit(".", 1)[0] == relative((ROOT / page).parent / line))
                    listed.append(found)
    assert sorted(listed) == sorted(ON_SITE)
    assert not any(fnmatchcase(page, pattern) for page in ON_SITE for pattern in SITE["exclude_patterns"])


def test_every_command_and_exit_code_is_on_its_page() -> None:
    page = PAGES["docs/commands.md"]
    table = page.partition("| command | does |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `tiledsky ([a-z-]+)", table, re.MULTILINE)) == set(get_command(app).commands)
    codes = {error.exit_code for error in vars(tiledsky.errors).values() if hasattr(error, "exit_code")}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d) \|", page, re.MULTILINE)}


def test_every_public_name_is_in_the_reference() -> None:
    listed = set(re.findall(r"auto(?:function|class):: (\w+)", PAGES["docs/api.md"]))
    assert set(tiledsky.__all__) - {"__version__", "diagnostics"} <= listed
    assert set(tiledsky.diagnostics.__all__) <= listed


def test_examples_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader types them; each public name is in one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    text = PAGES["docs/python.md"]
    names: dict[str, object] = {}
    said: list[str] = []
    for block in EXAMPLE.finditer(text):
        line = text[: block.start()].count("\n") + 1
        example = parser.get_doctest(block[1], {}, f"python.md, line {line}", "docs/python.md", line)
        example.globs = names
        runner.run(example, clear_globs=False, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    used = set(re.findall(r"tiledsky\.(\w+)", "".join(EXAMPLE.findall(text))))
    # results of functions are used, not made
    assert set(tiledsky.__all__) - used == {"__version__", "Run", "Scene", "Sky"}
