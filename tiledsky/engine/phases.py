"""Phases of a task, each a sum of terms of memory, and the peak of a worker that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tiledsky.cluster.process_memory import KEPT

MEGABYTE = 1_000_000
#: What a worker holds between stages: 345 MB measured at most, and room. A first use of kernels compiles: 430 MB more.
BASE = 370 * MEGABYTE


@dataclass(frozen=True)
class Memory:
    """Projected peak of a worker.

    Attributes
    ----------
    bytes : int
    terms : dict of str to int
        Bytes of each term: of one task, but for "process".
    formula : str
        How they follow from tile, halo and mesh.
    """

    bytes: int
    terms: dict[str, int]
    formula: str


@dataclass
class Phase:
    """Terms that are held at the same time."""

    name: str
    terms: list[tuple[str, float, str, int]] = field(default_factory=lambda: [("freed and kept", 1, "B", KEPT)])

    def add(self, what: str, per: float, unit: str, count: int) -> Phase:
        """Add ``per`` bytes for each of ``count`` units."""
        if per and count:
            self.terms.append((what, per, unit, count))
        return self

    @property
    def bytes(self) -> int:
        """Of all terms."""
        return sum(math.ceil(per * count) for _, per, _, count in self.terms)

    def memory(self, threads: int) -> Memory:
        """Peak of a worker that is in this phase with every thread."""
        terms = {"process": BASE}
        for what, per, _, count in self.terms:
            terms[what] = terms.get(what, 0) + math.ceil(per * count)
        units: dict[tuple[str, int], list[str]] = {}
        for what, per, unit, count in self.terms:
            units.setdefault((unit, count), []).append(f"{per:g} {what}")
        sums = [f"{count} {unit} x ({' + '.join(parts)}) B" for (unit, count), parts in units.items() if unit != "B"]
        fixed = sum(math.ceil(per * count) for _, per, unit, count in self.terms if unit == "B")
        times = f"{threads} threads x " if threads > 1 else ""
        inner = " + ".join([*sums, f"{fixed / MEGABYTE:.0f} MB fixed"])
        formula = f"{BASE // MEGABYTE} MB process + {times}[{self.name}: {inner}]"
        return Memory(BASE + threads * self.bytes, terms, formula)
