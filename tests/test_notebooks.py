"""Notebooks run from beginning to end, and are stored without output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

import tiledsky

#: Verdicts that each prints: of bkg3 and bkg5 on the notebook's scene; of a ring and small boxes on a real image, or on
#: the simulated one with more structure than these follow; of boxes of 64 px on such a scene.
VERDICTS = {"01": ["warn", "pass"], "02 real": ["pass"], "02 simulated": ["fail"], "03": ["fail"]}
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_without_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_imports_public_names_alone(path: Path) -> None:
    code = "".join(c.source + "\n" for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
    assert set(re.findall(r"^ *(?:from|import) (tiledsky[\w.]*)", code, re.MULTILINE)) <= {
        "tiledsky",
        "tiledsky.diagnostics",
    }
    assert set(re.findall(r"\btiledsky\.(\w+)", code)) <= set(tiledsky.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a quarter of the pixels; a cell that raises fails the test with its traceback."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in {"TILEDSKY_SHRINK": "4", "TMPDIR": str(tmp_path), "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    root = str(NOTEBOOKS[0].parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    said = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert list(tmp_path.rglob("*.report.html"))
    case = path.name[:2]
    if case == "02":
        case += " real" if said.startswith("real: ") else " simulated"
        assert said.startswith(("real: ", "simulated stand-in: "))
    assert re.findall(r"^(?:.*verdict: )?(pass|warn|fail)$", said, re.MULTILINE) == VERDICTS[case]
    errors = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not errors, errors[0]["text"]
