"""The report of a run: one page that needs no network, and its figures as files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiledsky.diagnostics.document import Diagnostics
from tiledsky.diagnostics.registry import MEASURES
from tiledsky.engine.result import Run, open_run
from tiledsky.errors import ParameterError
from tiledsky.io.address import Place, located
from tiledsky.io.files import write_bytes
from tiledsky.io.folders import folder_at
from tiledsky.io.store import RUN_FOLDER
from tiledsky.io.targets import check_target_file
from tiledsky.report import facts, figures, interactive, marks, panels

FORMATS = ("png", "pdf")
#: Line of a page that says which run it is of: times of files change with clocks and copies.
_IMPRINT = re.compile(rb'<meta name="tiledsky-run" content="([0-9a-f]{32})">')
#: Who wrote a file, in every one; only such files are replaced unasked.
NAME, MARK = "tiledsky", b"tiledsky"
#: What the page is allowed to do: run its own scripts and show its own pictures; no request at all.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)


@dataclass(frozen=True)
class Picture:
    """A figure as a page shows it."""

    title: str
    caption: str
    alt: str
    source: str
    file: str


def report_path(run_path: str | os.PathLike[str]) -> Place:
    """Where the report of a run is written: beside its store, ``sky.zarr`` to ``sky.report.html``.

    Not in it: what a store holds follows from recipe and input alone, byte for byte, and Zarr takes no other files.
    """
    path = located(run_path)
    return path.with_name(f"{path.stem if path.suffix == '.zarr' else path.name}.report.html")


def write_report(run: Run | str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Place:
    """Write the report of a finished run as one HTML file that opens offline.

    Parameters
    ----------
    run : Run or path
    out : path, optional
        Default: `report_path`.

    Returns
    -------
    Path

    Raises
    ------
    InputError, RunError
        No run store, or an unfinished run; the file cannot be written.

    Notes
    -----
    Planes are read as means of blocks (`tiledsky.report.windows`), so that no plane is ever whole in memory.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    path = report_path(opened.path) if out is None else located(out)
    folder = folder_at(path.parent)
    folder.check_takes(path.name, mark=MARK)
    folder.write(path.name, report_html(opened).encode())
    return path


def imprint(run: Run) -> str:
    """Return what tells the page of a run from that of another, and of the same one before it was repaired."""
    digest = hashlib.blake2b(run.run_id.encode(), digest_size=16)
    for name in ("provenance.json", "diagnostics.json"):
        with suppress(FileNotFoundError):
            digest.update(run.store.root.read(f"{RUN_FOLDER}/{name}"))
    return digest.hexdigest()


def imprint_of(page: Place) -> str | None:
    """Return the `imprint` of a page; None of one that is not there, or that no run wrote."""
    folder = folder_at(page.parent)
    if not folder.is_file(page.name):
        return None
    with folder.open(page.name) as file:
        found = _IMPRINT.search(file.read(1 << 12))
    return found[1].decode() if found else None


def report_html(run: Run) -> str:
    """Return the page of a run."""
    diagnostics = facts.diagnostics_of(run)
    result, sentence, checks = facts.verdict_of(diagnostics, run.recipe.name)
    spots = facts.spots_of(run, diagnostics)
    troubled, others = facts.with_places(checks, spots)
    count, rows = facts.object_rows(run, marks.DRAWN)
    shown = panels.make_panels(run)
    taken = facts.taken_rows(run, diagnostics)
    look = interactive.make(run, shown, spots, rows, taken)
    script, divs = embedded([*look.plots, *look.profiles])
    drawn = figures.figures_of(run, with_maps=False)
    sections = [
        (section, [picture(figure) for figure in drawn if figure.section == section])
        for section in figures.sections_of(drawn)
    ]
    return render(
        "report.html",
        imprint=imprint(run),
        title=f"Sky of {run.path.name}",
        run=run,
        result=result,
        sign=facts.SIGNS.get(result, "–"),
        sentence=sentence,
        kept=facts.kept_text(diagnostics),
        troubled=troubled,
        others=others,
        spots=spots,
        objects=rows,
        objects_count=count,
        taken=taken,
        facts=facts.run_facts(run, diagnostics),
        steps=facts.step_lines(run),
        recipe=run.recipe.to_toml(),
        panels=list(zip(shown, divs, strict=False)),
        profiles=divs[len(shown) :],
        layers=look.layers,
        page=look.page,
        diagnostics=_data(run.diagnostics) if diagnostics.verdict else "",
        script=script,
        sections=sections,
        definitions=_definitions(diagnostics),
        costs=facts.stage_costs(run),
        totals=facts.totals(run),
    )


def _data(document: Any) -> str:
    """JSON text as JSON, which a page holds as it stands."""
    return interactive.json_text(json.dumps(document, indent=1, ensure_ascii=False))


def _definitions(diagnostics: Diagnostics) -> list[tuple[str, str]]:
    found = [(measure.name, diagnostics.of(measure)) for measure in MEASURES]
    return [(name.replace("_", " "), m.definition) for name, m in found if m is not None and m.definition]


def embedded(plots: list[Any]) -> tuple[str, list[str]]:
    """Script and place holders of Bokeh figures that share ranges; the library is in the script."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    library = Resources(mode="inline", components=["bokeh"]).render()
    script, divs = components(tuple(plots))
    return f"{library}\n{script}", list(divs)


def render(template: str, **values: Any) -> str:
    """Fill a template of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tiledsky.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(policy=POLICY, **values)


def picture(drawn: figures.Plot) -> Picture:
    """Turn a figure into an image that is part of the page."""
    import base64

    kind, mime = ("png", "png") if drawn.image else ("svg", "svg+xml")
    data = base64.b64encode(_bytes(drawn, kind)).decode()
    return Picture(drawn.title, drawn.caption, drawn.alt, f"data:image/{mime};base64,{data}", f"{drawn.name}.{kind}")


def _bytes(drawn: figures.Plot, kind: str) -> bytes:
    from matplotlib import rc_context

    file = io.BytesIO()
    made = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": NAME}, "png": {"Software": NAME}}
    with rc_context(figures.STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font does not have
        drawn.figure.savefig(file, format=kind, metadata=made[kind])
    return file.getvalue()


def save_figures(run: Run | str | os.PathLike[str], folder: str | os.PathLike[str], *, kind: str = "png") -> list[Path]:
    """Write the figures of a finished run as files, for papers and slides.

    Parameters
    ----------
    run : Run or path
    folder : path
        Made if it is not there.
    kind : str
        "png" or "pdf".

    Returns
    -------
    list of Path

    Raises
    ------
    ParameterError, InputError, RunError
        Another kind; no run store, or an unfinished run; the folder cannot be written.
    """
    if kind not in FORMATS:
        raise ParameterError(f"{kind!r} is not a format of figures; use one of {', '.join(FORMATS)}")
    opened = run if isinstance(run, Run) else open_run(run)
    paths = []
    for drawn in figures.figures_of(opened):
        path = Path(folder) / f"{drawn.name}.{kind}"
        check_target_file(path, mark=MARK)
        write_bytes(path, _bytes(drawn, kind))
        paths.append(path)
    return paths
