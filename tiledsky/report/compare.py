"""Several runs of one image side by side: verdicts, what is left of the sky, noise against scale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.document import Diagnostics
from tiledsky.diagnostics.registry import MEASURES
from tiledsky.diagnostics.text import measured_text
from tiledsky.engine.result import Run, open_run
from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Pair, Region
from tiledsky.io.address import located
from tiledsky.io.fits.cards import label_value
from tiledsky.io.fits.image import FITS_ENDINGS, split_hdu
from tiledsky.io.folders import LocalFolder
from tiledsky.io.plane_reader import PlaneReader
from tiledsky.io.source import open_source
from tiledsky.io.zarr.check import array_alone_or_named
from tiledsky.io.zarr.reader import ZarrReader
from tiledsky.report import facts, figures, html, panels
from tiledsky.report.colors import ColorRange, spread
from tiledsky.report.windows import Window, read_window

#: Cells along the longer side of the maps.
_CELLS = 160
_SIGNS = "Blue below and orange above 0."


@dataclass(frozen=True)
class Column:
    """One run of a comparison."""

    label: str
    result: str
    sign: str
    path: str
    recipe: str
    checks: dict[str, facts.Check]
    cost: str
    truth: str


@dataclass(frozen=True)
class Maps:
    """Part of the page: maps on one scale."""

    key: str
    title: str
    intro: str
    panels: list[panels.Panel]


def write_comparison(
    runs: Sequence[Run | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a page with several runs side by side; it opens offline.

    Parameters
    ----------
    runs : sequence of Run or path
        Finished runs on images of one shape, two or more.
    out : path
        HTML file.
    truth : path, optional
        The true sky, of the same shape: a FITS image, or a Zarr store (array ``sky``, or an array alone). The maps then
        show each background less that.

    Returns
    -------
    Path

    Raises
    ------
    ParameterError
        Fewer than two runs, or images of different shapes.
    InputError, RunError
        No run store, an unfinished run, no true sky.
    """
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if len(opened) < 2:
        raise ParameterError(f"{len(opened)} run cannot be compared; name two or more")
    shapes = {run.plan.shape for run in opened}
    if len(shapes) > 1:
        told = ", ".join(f"{run.path.name} {run.plan.shape[0]} x {run.plan.shape[1]} px" for run in opened)
        raise ParameterError(f"runs of images of different shapes cannot be compared ({told}); name runs of one image")
    path = Path(out)
    folder = LocalFolder(path.parent)
    folder.check_takes(path.name, mark=html.MARK)
    folder.write(path.name, _page(opened, None if truth is None else _true_sky(truth, opened[0].plan.shape)).encode())
    return path


def _true_sky(path: str | os.PathLike[str], shape: Pair) -> PlaneReader:
    size = f"{shape[0]} x {shape[1]} px"
    if split_hdu(path)[0].lower().endswith(FITS_ENDINGS) and not Path(path).is_dir():
        image = open_source(path).planes["science"]
        if image.shape != shape:
            found = f"{image.shape[0]} x {image.shape[1]} px"
            raise InputError(f"{path} is {found}, the images of the runs {size}; give the true sky of these images")
        return image.open()
    sky = array_alone_or_named(located(path), "sky")
    if sky is None or tuple(sky.shape) != shape:
        raise InputError(f"{path}: no array 'sky' of {size}; give what simulate --truth wrote for this image")
    return ZarrReader(sky)


def _page(runs: list[Run], truth: Any) -> str:
    labels = _labels(runs)
    measured = [facts.diagnostics_of(run) for run in runs]
    shape = runs[0].plan.shape
    left = [_map(run, truth) for run in runs]
    unit = label_value(runs[0].header, "BUNIT")
    maps = [_left(labels, left, unit, truth), *_skies(labels, runs, unit)]
    x_range, y_range = panels.linked_ranges(shape)
    drawn = [panels.draw(panel, x_range, y_range, shape) for part in maps for panel in part.panels]
    script, divs = html.embedded(drawn)
    place = iter(divs)
    found = [check for diagnostics in measured for check in facts.verdict_of(diagnostics)[2]]
    named, troubled = list(dict.fromkeys(c.name for c in found)), {c.name for c in found if c.troubled}
    return html.render(
        "compare.html",
        title=f"{len(runs)} skies of {Path(str(runs[0].provenance.get('input', {}).get('science', 'one image'))).name}",
        shape=shape,
        columns=[
            _column(*parts) for parts in zip(runs, labels, measured, left, [truth is not None] * len(runs), strict=True)
        ],
        troubled=[name for name in named if name in troubled],
        others=[name for name in named if name not in troubled],
        maps=[(m.key, m.title, m.intro, [(panel, next(place)) for panel in m.panels]) for m in maps],
        pictures=[html.picture(drawn) for drawn in _figures(labels, measured)],
        with_truth=truth is not None,
        script=script,
    )


def _labels(runs: list[Run]) -> list[str]:
    """Names of the stores; with their folders where these are the same."""
    names = [run.path.stem for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _map(run: Run, truth: Any) -> Window:
    """What is left of the sky, as means of blocks; with the truth, background less that."""
    window = (
        read_window(run, "residual", largest=_CELLS)
        if truth is None
        else read_window(run, "background", largest=_CELLS)
    )
    if truth is None:
        return window
    return Window(window.cells - _block_means(truth, window), window.region, window.size)


def _block_means(sky: PlaneReader, window: Window) -> NDArray[np.float32]:
    from tiledsky.images import as_float
    from tiledsky.kernels.filters.blocks import block_means

    size, (_, ny, _, nx) = window.size, window.region
    rows = [sky.read(Region(y, min(y + size, ny), 0, nx)) for y in range(0, ny, size)]
    return np.concatenate([block_means(as_float(row), size) for row in rows]).astype(np.float32)


def _left(labels: list[str], windows: list[Window], unit: str, truth: Any) -> Maps:
    """What each run leaves of the sky; with the truth, how far each is off."""
    limit = 4 * float(np.median([spread(window.cells) for window in windows]))
    what = "unmasked pixels of image − background" if truth is None else "background − true sky"
    title = "What each leaves of the sky" if truth is None else "How far each is off"
    made = [
        _panel(f"run-{k}", label, window, ColorRange(-limit, limit, "signed"), what, unit)
        for k, (label, window) in enumerate(zip(labels, windows, strict=True))
    ]
    return Maps("planes", title, _SIGNS, made)


def _skies(labels: list[str], runs: list[Run], unit: str) -> list[Maps]:
    """Backgrounds of all runs on one scale, and what each differs by from the first."""
    windows = [read_window(run, "background", largest=_CELLS) for run in runs]
    finite = np.concatenate([w.cells[np.isfinite(w.cells)] for w in windows])
    low, high = map(float, np.percentile(finite, (0.5, 99.5))) if finite.size else (0.0, 1.0)
    even = ColorRange(low, high if high > low else low + (abs(low) or 1.0), "even")
    skies = [
        _panel(f"sky-{k}", label, window, even, "background", unit)
        for k, (label, window) in enumerate(zip(labels, windows, strict=True))
    ]
    first = windows[0]
    others = [Window(w.cells - first.cells, w.region, w.size) for w in windows[1:]]
    sizes = np.concatenate([np.abs(w.cells[np.isfinite(w.cells)]) for w in others])
    limit = float(np.percentile(sizes, 99)) if sizes.size else 0.0
    signed = ColorRange(-(limit or 1.0), limit or 1.0, "signed")
    differences = [
        _panel(f"difference-{k}", f"{label} − {labels[0]}", window, signed, "difference of the backgrounds", unit)
        for k, (label, window) in enumerate(zip(labels[1:], others, strict=True), 1)
    ]
    return [
        Maps("skies", "The backgrounds", "Dark to light.", skies),
        Maps("differences", f"Backgrounds less that of {labels[0]}", _SIGNS, differences),
    ]


def _panel(name: str, label: str, window: Window, shown: ColorRange, what: str, unit: str) -> panels.Panel:
    scatter = measured_text(spread(window.cells))
    caption = f"{what}, means of {window.size} × {window.size} px; they scatter by {scatter}"
    return panels.Panel(name, label, window, shown, caption, f"Map of {label}: {caption}.", unit)


def _column(run: Run, label: str, diagnostics: Diagnostics, window: Window, with_truth: bool) -> Column:
    result, _, checks = facts.verdict_of(diagnostics)
    error = window.cells[np.isfinite(window.cells)].astype(float)
    return Column(
        label=label,
        result=result,
        sign=facts.SIGNS.get(result, "–"),
        path=str(run.path),
        recipe=run.recipe.name,
        checks={check.name: check for check in checks},
        cost=facts.totals(run),
        truth=f"{error.std():.3g} (mean {error.mean():+.2g})" if with_truth and error.size else "",
    )


def _figures(labels: list[str], measured: list[Diagnostics]) -> list[figures.Plot]:
    """Measures of all runs on the same axes."""
    from matplotlib import rc_context

    drawn = []
    with rc_context(figures.STYLE):
        for measure in MEASURES:
            if measure.comparison is not None:
                found = [diagnostics.of(measure) or measure.fields() for diagnostics in measured]
                figure = measure.comparison(list(zip(labels, found, strict=True)))
                if figure is not None:
                    drawn.append(figures.draw(figure, (5.6, 3.6)))
    return drawn
