"""The layers of the package: a module imports only from below, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

import tiledsky
from tiledsky.recipe import AnyStep

PACKAGE = Path(__file__).parent.parent / "tiledsky"

# From the bottom up: a module may import from its own layer's list of names below it, never from above.
LAYERS = [
    {"plain"},
    {"errors", "geometry", "scratch"},
    {"recipe"},
    {"kernels"},
    {"overlap"},
    {"containers"},
    {"images", "planes", "nodata", "statistics", "simulate"},
    {"io"},
    {"diagnostics"},
    {"operations"},
    {"arrays"},
    {"cluster"},
    {"engine"},
    {"workflows"},
    {"report"},
    {"cli", "__init__", "__main__", "testing"},
]
#: Layers that lie beside each other: neither imports the other.
APART = [("arrays", "engine"), ("arrays", "cluster"), ("recipe", "kernels"), ("io", "operations")]
# Library to the places that may import it; `lazy` places may do so inside functions only.
HOMES = {
    "dask": {
        "overlap",
        "containers",
        "images",
        "statistics",
        "simulate",
        "operations",
        "arrays",
        "cluster",
        "engine",
        "workflows",
        "testing",
    },
    "distributed": {"cluster", "engine"},
    "zarr": {"io", "engine", "workflows"},
    "astropy.io": {"io"},
    "regions": {"io"},
    "obstore": {"io"},
    "dask_jobqueue": {"cluster"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"arrays", "report"},
    "bokeh": {"report"},
    "jinja2": {"report"},
}
BELOW_KERNELS = {"errors", "geometry", "kernels", "scratch"}
KERNEL_LIBRARIES = {"numpy", "scipy", "numba", "llvmlite", "tiledsky"}

# Parts of libraries that their authors do not promise to keep, although no underscore says so.
INTERNAL = {"zarr.core", "numba.core", "dask.base", "numpy.core", "distributed.comm", "astropy.io.fits.hdu"}

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(p for folder in ("tests", "deploy") for p in (PACKAGE.parent / folder).rglob("*.py"))


def place(path: Path) -> str:
    """Return the top-level name of a module: its folder, or itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert PACKAGE not in path.parents, f"{path}: relative import"
                continue
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(name: str) -> int:
    """Return the height of a top-level name."""
    return next(i for i, names in enumerate(LAYERS) if name in names)


def module(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def runs(path: Path) -> Iterator[ast.AST]:
    """Yield the nodes of a file that run: not those for type checkers alone."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        yield node
        nodes += ast.iter_child_nodes(node)


def modules_used(path: Path, known: set[str]) -> set[str]:
    """Modules of the package that a file imports, inside functions too: the deepest that each import names."""
    used = set()
    for node in runs(path):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            used |= {name if name in known else str(node.module) for name in names}
    return (used & known) - {module(path)}


def test_no_module_needs_itself_by_way_of_others():
    """Modules can be put in an order in which each imports earlier ones alone, wherever in its text it does."""
    known = {module(path) for path in MODULES}
    graph = {module(path): modules_used(path, known) for path in MODULES}
    assert sum(map(len, graph.values())) > len(MODULES)
    list(TopologicalSorter(graph).static_order())  # CycleError names the modules


def test_every_module_has_a_layer():
    assert {place(p) for p in MODULES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    own = layer(place(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "tiledsky" and len(parts) > 1 and (PACKAGE / parts[1]).with_suffix("").name != "__version__":
            target = parts[1]
            if (PACKAGE / target).is_dir() or (PACKAGE / f"{target}.py").is_file():
                assert layer(target) <= own, f"{path.name} imports {name} from above"


@pytest.mark.parametrize(("one", "other"), APART)
def test_neighbours_do_not_know_each_other(one, other):
    for own, foreign in ((one, other), (other, one)):
        for path in MODULES:
            if place(path) == own:
                names = [
                    n for n in imported(path) if n.startswith(f"tiledsky.{foreign}.") or n == f"tiledsky.{foreign}"
                ]
                assert not names, f"{path} imports {names[0]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_places(path):
    for name in imported(path):
        for library, homes in HOMES.items():
            if name == library or name.startswith(f"{library}."):
                assert place(path) in homes, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").rglob("*.py")), ids=lambda p: p.name)
def test_kernels_know_arrays_only(path):
    standard = sys.stdlib_module_names
    foreign = {n for n in imported(path) if n.split(".")[0] not in KERNEL_LIBRARIES | standard}
    assert not foreign
    assert not {n for n in imported(path) if n.startswith("tiledsky.") and n.split(".")[1] not in BELOW_KERNELS}


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_other_libraries_are_used_by_their_public_names(path):
    own = {"tiledsky", "tests", "__future__"}
    for name in imported(path):
        if name.split(".")[0] not in own:
            private = [part for part in name.split(".") if part.startswith("_") and not part.endswith("__")]
            assert not private, f"{path.name} imports {name}, which its library may drop in any version"
            internal = [i for i in INTERNAL if name == i or name.startswith(f"{i}.")]
            assert not internal, f"{path.name} imports {name}: {internal[0]} may change in any version"


def test_only_recipes_and_operations_name_a_step():
    """What else asks for a kind of step has to be changed with every new one: it asks the operation instead."""
    steps = {model.__name__ for model in get_args(AnyStep)}
    for path in MODULES:
        if place(path) not in ("recipe", "operations"):
            names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)} | {
                name.rpartition(".")[2] for name in imported(path)
            }
            assert not names & steps, f"{path} names {names & steps}"


def test_only_two_doors_ask_whether_a_store_is_in_a_bucket():
    """Everything else calls methods that a folder and a bucket both have."""
    kinds = {"Path", "Address", "LocalFolder", "ObjectStore", "FolderLocks", "BucketLease"}
    asked = set()
    for path in MODULES:
        for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
            calls = (n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == "isinstance")
            if any(kinds & {n.id for n in ast.walk(call) if isinstance(n, ast.Name)} for call in calls):
                asked.add(f"{module(path)}.{function.name}")
    doors = {"tiledsky.io.folders.folder_at", "tiledsky.engine.locks.guard_at"}
    assert asked == doors | {"tiledsky.io.address.__eq__"}


def test_only_the_command_line_prints():
    for path in MODULES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        printing = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not printing or place(path) == "cli", f"{path} prints"


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"distributed", "bokeh", "matplotlib", "typer", "photutils", "zarr", "astropy", "numba", "dask", "scipy"}
    code = f"import sys, tiledsky; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_an_array_is_estimated_without_what_others_need():
    """What loads at the first sky of a process, on numpy arrays: neither Dask nor the files, nor trees for no holes."""
    code = (
        "import sys, numpy as np, tiledsky; image = np.arange(90000.0, dtype='f4').reshape(300, 300) % 97; "
        "tiledsky.estimate_background(image, 'sextractor'); "
        "print({'dask', 'distributed', 'zarr', 'astropy', 'photutils', 'scipy.spatial'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_run_is_a_function_whatever_was_imported_before():
    code = "import tiledsky.cluster.local, tiledsky; tiledsky.run('nowhere.fits', 'none', 'nowhere.zarr')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ParameterError: no recipe 'none'" in result.stderr


def test_every_public_name_is_there():
    assert all(getattr(tiledsky, name) is not None for name in tiledsky.__all__)
    with pytest.raises(AttributeError, match="no attribute 'backgroud'"):
        _ = tiledsky.backgroud


def test_modules_and_functions_stay_small():
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, f"{path} is too long; split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert length <= 60, f"{path}: {node.name} has {length} lines"


def test_help_of_a_command_loads_nothing_heavy():
    """Not even of one that reads, computes and draws."""
    heavy = {"numba", "numpy", "dask", "distributed", "zarr", "astropy", "scipy", "matplotlib", "bokeh"}
    code = (
        "import sys; from tiledsky.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print({heavy} & set(sys.modules), file=sys.stderr)"
    )
    for words in (["--help"], ["run", "--help"], ["estimate", "--help"], ["report", "--help"], ["cluster", "--help"]):
        result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert result.stderr.strip() == "set()", words
