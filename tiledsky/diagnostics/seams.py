"""Step and change of slope of the background across the edges of tiles, beside lines that are no edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.fields import Fields, Number
from tiledsky.diagnostics.parts import Part
from tiledsky.diagnostics.patches import Floats, jackknife, number, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure
from tiledsky.geometry import Pair, Region

#: Pixels kept of each side of a tile.
DEEP = 2
#: Parts that a tile is cut into by the lines that are looked at instead; so many of these it has at most.
_FAKES = 8
LINES = 2 * (_FAKES - 1)
#: Sums of a line; rows of them that are kept at most, of edges and of the lines instead.
LINE, MOST_ROWS = 5, 1 << 17

DEFINITION = (
    "across each edge between two tiles, pixel by pixel along it: difference of the two pixels at the edge minus the "
    "mean of the differences beside it (step), and difference of these two (slope), of the background as written; "
    "fake: the same across lines at eighths of each tile. Worst: largest mean step of one side of a tile"
)


class Step(Fields):
    """Steps at seams."""

    worst: Number = None
    fake_worst: Number = None


class Seams(Fields):
    """What is seen of the tiles."""

    step: Step | None = None


@dataclass(frozen=True)
class Strips:
    """What one tile tells of its background.

    Attributes
    ----------
    top, bottom, left, right : ndarray
        Its outermost two rows, shape (2, width), and columns, shape (2, height); NaN where there is no background.
    fakes : ndarray of float64, shape (k, 5)
        Sums across lines inside: pixels, step, step^2, slope, slope^2.
    """

    top: NDArray[Any]
    bottom: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    fakes: Floats

    @classmethod
    def of(cls, background: NDArray[Any]) -> Strips:
        """Strips of a tile as it is written."""
        fakes = []
        for lines in (background, background.T):
            middles = {len(lines) * k // _FAKES for k in range(1, _FAKES)}
            fakes += [_sums(lines[k - DEEP : k + DEEP]) for k in sorted(middles) if DEEP <= k <= len(lines) - DEEP]
        sides = background[:DEEP], background[-DEEP:], background[:, :DEEP].T, background[:, -DEEP:].T
        top, bottom, left, right = map(np.ascontiguousarray, sides)
        return cls(top, bottom, left, right, np.array(fakes).reshape(-1, LINE))

    def to_bytes(self) -> bytes:
        """Bytes of the strips."""
        sides = (self.top, self.bottom, self.left, self.right)
        shape = np.array([self.top.shape[1], self.left.shape[1], self.top.shape[0], self.left.shape[0]], np.int64)
        parts = [shape.tobytes(), *(side.astype(np.float64).tobytes() for side in sides), self.fakes.tobytes()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Strips:
        """Inverse of `to_bytes`."""
        width, height, rows, columns = np.frombuffer(data, np.int64, 4).tolist()
        values = np.frombuffer(data, np.float64, offset=32)
        sizes = [rows * width] * 2 + [columns * height] * 2
        ends = np.cumsum(sizes)
        sides = np.split(values, ends)[:4]
        shapes = [(rows, width)] * 2 + [(columns, height)] * 2
        top, bottom, left, right = (side.reshape(shape) for side, shape in zip(sides, shapes, strict=True))
        return cls(top, bottom, left, right, values[ends[-1] :].reshape(-1, LINE))


def _sums(lines: NDArray[Any]) -> Floats:
    """Sums across the middle of four lines, shape (4, n)."""
    a, b, c, d = lines.astype(np.float64)
    step, slope = (c - b) - ((b - a) + (d - c)) / 2, (d - c) - (b - a)
    known = np.isfinite(step)
    step, slope = step[known], slope[known]
    return np.array([step.size, step.sum(), (step * step).sum(), slope.sum(), (slope * slope).sum()])


class Lines:
    """Sums across lines, a row each, and the largest mean of one line.

    Rows of lines that follow each other are added up when there are too many, the more the more lines there are.

    Attributes
    ----------
    count : int
        Lines so far.
    worst : ndarray of float64, shape (2,)
        Largest mean step and slope of one line, in magnitude; NaN without pixels.
    """

    def __init__(self) -> None:
        self.count, self.worst = 0, np.full(2, np.nan)
        self._held, self._each = np.zeros((MOST_ROWS, LINE)), 1

    def add(self, sums: Floats) -> bool:
        """Add a line; return whether its mean step is the largest so far."""
        self._held[self.count // self._each] += sums
        self.count += 1
        if self.count == MOST_ROWS * self._each:
            pairs = self._held.reshape(-1, 2, LINE).sum(axis=1)
            self._held[: len(pairs)], self._held[len(pairs) :] = pairs, 0
            self._each *= 2
        means = np.abs(ratio(sums[1::2], sums[0]))
        larger = (means > self.worst) | (np.isfinite(means) & np.isnan(self.worst))
        self.worst = np.where(larger, means, self.worst)
        return bool(larger[0])

    @property
    def rows(self) -> Floats:
        """Sums, shape (k, 5): of single lines up to `MOST_ROWS`, else of as many lines each as make them fewer."""
        return self._held[: -(-self.count // self._each)]


class SeamTotals:
    """All edges of a run, tile by tile."""

    def __init__(self) -> None:
        self.edges, self.fakes = Lines(), Lines()
        self.worst_edge: dict[str, Any] | None = None
        #: Bottoms of the tiles of the row above, of this row; right side of the last tile.
        self._above: list[NDArray[Any]] = []
        self._below: list[NDArray[Any]] = []
        self._right: NDArray[Any] | None = None

    def add(self, tile: Region, strips: Strips) -> None:
        """Add the next tile, tiles in row order."""
        if not tile.x0:
            self._above, self._below, self._right = self._below, [], None
        for sums in strips.fakes:
            self.fakes.add(sums)
        if self._right is not None and len(strips.left) == DEEP == len(self._right):
            where = {"axis": "x", "position": tile.x0, "start": tile.y0, "stop": tile.y1}
            self._add_edge(np.concatenate([self._right, strips.left]), where)
        if self._above and len(strips.top) == DEEP == len(above := self._above[len(self._below)]):
            where = {"axis": "y", "position": tile.y0, "start": tile.x0, "stop": tile.x1}
            self._add_edge(np.concatenate([above, strips.top]), where)
        self._below.append(strips.bottom.copy())  # without the other sides of its tile
        self._right = strips.right

    def _add_edge(self, lines: NDArray[Any], where: dict[str, Any]) -> None:
        sums = _sums(lines)
        if self.edges.add(sums):
            self.worst_edge = {**where, "step": number(float(sums[1] / sums[0]))}

    def finalize(self, tile: Pair) -> dict[str, Any]:
        """Return the measure."""
        found: dict[str, Any] = {
            "unit": "image",
            "tile": list(tile),
            "n_edges": self.edges.count,
            "n_fake": self.fakes.count,
        }
        for k, name in enumerate(("step", "slope")):
            found[name] = {**_rms(self.edges, k, ""), **_rms(self.fakes, k, "fake_")}
        if self.worst_edge is not None:
            found["worst_edge"] = self.worst_edge
        return found


def _rms(lines: Lines, which: int, prefix: str) -> dict[str, Any]:
    """Rms of all pixels with its error, and the largest mean of one edge."""
    if not lines.count:
        return {f"{prefix}{key}": None for key in ("rms", "rms_error", "worst")}

    def rms(sums: Floats) -> Floats:
        return np.sqrt(ratio(sums[..., 2 * which + 2], sums[..., 0]))[..., None]

    found = jackknife(lines.rows, rms)
    return {
        f"{prefix}rms": number(found.value[0]),
        f"{prefix}rms_error": number(found.error[0]),
        f"{prefix}worst": number(float(lines.worst[which])),
    }


class _Sides(Part[Strips, SeamTotals]):
    """The sides of each tile, as it is written."""

    def add_band(self, tally: list[None], band: Band) -> None:
        """Do nothing: cells are not what this is about."""

    def end(self, tally: list[None], written: NDArray[Any]) -> Strips:
        """Strips of the tile."""
        return Strips.of(written)

    def to_bytes(self, value: Strips) -> bytes:
        """Bytes of the strips."""
        return value.to_bytes()

    def from_bytes(self, data: bytes) -> Strips:
        """Inverse of `to_bytes`."""
        return Strips.from_bytes(data)

    def start(self) -> SeamTotals:
        """Return an image without edges."""
        return SeamTotals()

    def add(self, total: SeamTotals, tile: Region, value: Strips) -> None:
        """Add the edges of a tile."""
        total.add(tile, value)

    def finish(self, total: SeamTotals) -> SeamTotals:
        """All edges."""
        return total


SIDES = _Sides("sides")


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    return image.total(SIDES).finalize(image.facts.tile)


def _seam(found: Seams, noise: float) -> CheckValue:
    step = found.step
    if step is None or step.worst is None or step.fake_worst is None or not noise:
        return None
    return max(step.worst - 1.5 * step.fake_worst, 0.0) / noise, 0.0


MEASURE = Measure(
    name="seams",
    definition=DEFINITION,
    fields=Seams,
    finalize=finalize,
    parts=(SIDES,),
    checks=(
        Check(
            "seam",
            "sigma",
            _seam,
            next_step="run `tiledsky verify`; if nothing is damaged, use another interpolator, and report the fault",
        ),
    ),
)
