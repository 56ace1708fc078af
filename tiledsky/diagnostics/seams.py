"""Step and change of slope of the background across the edges of tiles, beside lines that are no edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
_DEEP = 2
#: Parts that a tile is cut into by the lines that are looked at instead.
_FAKES = 8

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
            fakes += [_sums(lines[k - _DEEP : k + _DEEP]) for k in sorted(middles) if _DEEP <= k <= len(lines) - _DEEP]
        sides = background[:_DEEP], background[-_DEEP:], background[:, :_DEEP].T, background[:, -_DEEP:].T
        top, bottom, left, right = map(np.ascontiguousarray, sides)
        return cls(top, bottom, left, right, np.array(fakes).reshape(-1, 5))

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
        return cls(top, bottom, left, right, values[ends[-1] :].reshape(-1, 5))


def _sums(lines: NDArray[Any]) -> Floats:
    """Sums across the middle of four lines, shape (4, n)."""
    a, b, c, d = lines.astype(np.float64)
    step, slope = (c - b) - ((b - a) + (d - c)) / 2, (d - c) - (b - a)
    known = np.isfinite(step)
    step, slope = step[known], slope[known]
    return np.array([step.size, step.sum(), (step * step).sum(), slope.sum(), (slope * slope).sum()])


@dataclass
class SeamTotals:
    """All edges of a run, tile row by tile row."""

    edges: list[Floats] = field(default_factory=list)
    fakes: list[Floats] = field(default_factory=list)
    places: list[tuple[str, int, int, int]] = field(default_factory=list)
    _above: list[Strips] = field(default_factory=list)

    def add_row(self, row: Sequence[tuple[Region, Strips]]) -> None:
        """Add the tiles of the next row."""
        for k, (tile, strips) in enumerate(row):
            self.fakes += list(strips.fakes)
            if k and len(strips.left) == _DEEP == len(row[k - 1][1].right):
                self.edges.append(_sums(np.concatenate([row[k - 1][1].right, strips.left])))
                self.places.append(("x", tile.x0, tile.y0, tile.y1))
            if self._above and len(strips.top) == _DEEP == len(self._above[k].bottom):
                self.edges.append(_sums(np.concatenate([self._above[k].bottom, strips.top])))
                self.places.append(("y", tile.y0, tile.x0, tile.x1))
        self._above = [strips for _, strips in row]

    def finalize(self, tile: Pair) -> dict[str, Any]:
        """Return the measure."""
        real, fake = (np.array(rows).reshape(-1, 5) for rows in (self.edges, self.fakes))
        found: dict[str, Any] = {
            "unit": "image",
            "tile": list(tile),
            "n_edges": len(real),
            "n_fake": len(fake),
        }
        for name, k in (("step", 1), ("slope", 3)):
            found[name] = {**_rms(real, k, ""), **_rms(fake, k, "fake_")}
        means = np.abs(ratio(real[:, 1], real[:, 0]))
        if np.isfinite(means).any():
            worst = int(np.nanargmax(means))
            axis, position, start, stop = self.places[worst]
            step = number(float(real[worst, 1] / real[worst, 0]))
            where = {"axis": axis, "position": position, "start": start, "stop": stop}
            found["worst_edge"] = {**where, "step": step}
        return found


def _rms(rows: Floats, column: int, prefix: str) -> dict[str, Any]:
    """Rms of all pixels with its error, and the largest mean of one edge."""
    if not len(rows):
        return {f"{prefix}{key}": None for key in ("rms", "rms_error", "worst")}

    def rms(sums: Floats) -> Floats:
        return np.sqrt(ratio(sums[..., column + 1], sums[..., 0]))[..., None]

    found = jackknife(rows, rms)
    means = np.abs(ratio(rows[:, column], rows[:, 0]))
    worst = float(np.nanmax(means)) if np.isfinite(means).any() else float("nan")
    return {
        f"{prefix}rms": number(found.value[0]),
        f"{prefix}rms_error": number(found.error[0]),
        f"{prefix}worst": number(worst),
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

    def add_row(self, total: SeamTotals, row: Sequence[tuple[Region, Strips]]) -> SeamTotals:
        """Add the edges of a row of tiles."""
        total.add_row(row)
        return total

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
    checks=(Check("seam", "sigma", _seam),),
)
