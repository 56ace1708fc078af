"""Configuration of the documentation site; `make docs` builds it, without network.

The sources are the repository itself, so that a relative link of a Markdown page means the same here and where the
code is hosted: docs/, notebooks/, and the pages of other folders that docs/README.md lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import tiledsky  # noqa: E402  (the one beside this file)

project = "tiledsky"
author = "the tiledsky developers"
copyright = f"2026, {author}"
version = release = tiledsky.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc"]

root_doc = "docs/README"
include_patterns = [
    *("docs/*.md", "docs/figures/*.png", "notebooks/*.ipynb", "deploy/*/README.md", "tests/benchmarks/README.md"),
    *("CONTRIBUTING.md", "CHANGELOG.md"),
]
exclude_patterns = [".*", "build", "dist", "demo", "tiledsky", "**/__pycache__"]

# Markdown. Links to headings are made of their words, as code hosts make them.
myst_enable_extensions = ["colon_fence", "smartquotes"]
myst_heading_anchors = 4

# Notebooks run once for each change of theirs, on a quarter of the pixels.
os.environ.setdefault("TILEDSKY_SHRINK", "4")
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build/docs-notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

# Docstrings.
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# The page. No file comes from elsewhere: it reads the same without network.
html_theme = "pydata_sphinx_theme"
html_title = f"tiledsky {release}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "navbar_end": ["theme-switcher"],
    "show_nav_level": 1,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def write_commands(*_: object) -> None:
    """Write what Typer says of each command, for docs/commands.md to include."""
    page = ROOT / "build/commands.md"
    page.parent.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "typer", str(ROOT / "docs/_commands.py"), "utils", "docs", "--name", "tiledsky"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    # each command is a section of the page; the title is the page's own
    page.write_text(done.stdout.partition("\n")[2])


def write_first_page(app: object, exception: Exception | None) -> None:
    """Let the address of the site itself lead to its first page."""
    if exception is None:
        to = (
            f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>tiledsky</title>'
        )
        Path(app.outdir, "index.html").write_text(f"<!doctype html>{to}")  # type: ignore[attr-defined]


def setup(app: object) -> None:
    """Take part in the build."""
    app.connect("builder-inited", write_commands)  # type: ignore[attr-defined]
    app.connect("build-finished", write_first_page)  # type: ignore[attr-defined]
