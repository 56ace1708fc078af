"""Figures of measures as data and words; `tiledsky.report` draws them. No library of figures is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.fields import Number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Section:
    """Part of a report: its key, its heading, and a sentence below it."""

    key: str
    title: str
    intro: str


SCALE = Section("scale", "Structure by scale", "What is left of the sky, or taken out of the noise, at each scale.")
BIAS = Section("bias", "Bias by sources", "Whether the light of sources went into the sky.")
RESIDUAL = Section("residual", "The residual", "Unmasked pixels of the image less its background.")


@dataclass(frozen=True)
class Points:
    """Measured values with their errors; ``color``: which of the colours and markers in their order."""

    label: str
    x: Floats
    y: Floats
    error: Floats | None = None
    color: int = 0
    joined: bool = True


@dataclass(frozen=True)
class Reference:
    """What the values are compared with, as a dashed line."""

    label: str
    x: Floats
    y: Floats
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What all figures have.

    Attributes
    ----------
    name : str
        Of its file.
    section : Section
    title, x_label : str
    caption : str
        What is drawn, what it should be, what it says here.
    alt : str
        The same for those who do not see it.
    rank : int
        Place in its section: lower ones first, equal ones in the order of the measures.
    """

    name: str
    section: Section
    title: str
    x_label: str
    caption: str
    alt: str
    rank: int = 9


@dataclass(frozen=True, kw_only=True)
class Curve(Figure):
    """Values against something.

    Attributes
    ----------
    points, expected : tuple
    level : float, optional
        Value that is right, a horizontal line.
    edge : float, optional
        Vertical line.
    x_scale, y_scale : str
    ticks : sequence of float
        Of the x axis; default: as it comes.
    robust : bool
        Points far from the others do not set the scale: arrows at the edge of the figure stand for them.
    """

    y_label: str
    points: tuple[Points, ...]
    expected: tuple[Reference, ...] = ()
    level: float | None = None
    edge: float | None = None
    x_scale: Literal["linear", "log", "log2", "symlog"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    ticks: Sequence[float] = ()
    robust: bool = False


@dataclass(frozen=True, kw_only=True)
class Histogram(Figure):
    """Counts between ``edges``, on a logarithmic axis, beside a model."""

    y_label: str
    edges: Floats
    counts: Floats
    expected: Reference | None = None


@dataclass(frozen=True, kw_only=True)
class Rows(Figure):
    """Values with errors, a row each with its label (no value: an empty row), that should be 0.

    ``apart``: each in a colour of its own.
    """

    labels: tuple[str, ...]
    values: Floats
    errors: Floats
    apart: bool = False


def floats(values: Sequence[Number]) -> Floats:
    """Array of numbers; NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values], float)


def errors(values: Sequence[Number]) -> Floats | None:
    """Array of errors; None without any."""
    return floats(values) if values else None
