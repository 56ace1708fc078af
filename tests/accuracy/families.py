"""All families of scenes: how each is made, and with which seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.accuracy import kelvin, lsb, notebook, real
from tests.accuracy.scene import Scene


class Family(NamedTuple):
    """Scenes of one kind: seeds that rules were chosen on, and seeds that they were not.

    Those of the notebook have one size; the others are made in any.
    """

    make: Callable[..., Scene]
    tuned: tuple[int, ...]
    others: tuple[int, ...]
    group: str = "notebooks"

    def scene(self, seed: int, size: int | None = None) -> Scene:
        """Make a scene, `size` pixels wide and high where it can be."""
        return self.make(seed) if size is None or self.group == "notebooks" else self.make(seed, size)


def _field(density: str, index: float, inject: str = "", size: int | None = None) -> Callable[..., Scene]:
    def make(seed: int, size: int | None = size) -> Scene:
        return kelvin.field(seed, density, index, size, inject)

    return make


_survey = partial(Family, tuned=(), others=(401, 402, 403), group="survey")
_real = partial(Family, tuned=(), others=(601, 602), group="real")
_kelvin = partial(Family, tuned=(), others=(501, 502), group="kelvin")

FAMILIES: dict[str, Family] = {
    "notebook": Family(notebook.notebook, (4, 5, 6, 7, 8, 9), tuple(range(43, 55))),
    "notebook 2000": Family(notebook.large, (4, 40), (93, 94)),
    "wings": Family(notebook.wings, (60, 61, 62), (81, 82, 83)),
    "correlated noise": Family(notebook.correlated, (63, 64, 65), (84, 85)),
    "depths": Family(notebook.depths, (66, 67), (68, 86)),
    "gaps": Family(notebook.gaps, (69, 70), (71, 87)),
    "galaxy": Family(notebook.galaxy, (4,), (72, 73)),
    "galaxy on blemishes": Family(notebook.galaxy_on_blemishes, (), (72, 73)),
    "nebula": Family(notebook.nebula, (74, 75, 80), (88, 89)),
    "flat": Family(notebook.flat, (31, 32, 76, 77), (90, 91, 92)),
    "deep": _survey(lsb.deep),
    "galaxies": _survey(lsb.galaxies),
    "cluster": _survey(lsb.cluster),
    "stars": _survey(lsb.stars),
    "cirrus": _survey(lsb.cirrus),
    "steps": _survey(lsb.steps),
    "crowded 10%": _survey(lsb.crowded_10),
    "crowded 40%": _survey(lsb.crowded_40),
    "counts 0.5": _survey(lsb.counts_half),
    "counts 4": _survey(lsb.counts_4),
    "skewed": _survey(lsb.skewed),
    "kelvin low n 1": _kelvin(_field("low", 1.0)),
    "kelvin low n 4": _kelvin(_field("low", 4.0)),
    "kelvin high n 1": _kelvin(_field("high", 1.0)),
    "kelvin high n 4": _kelvin(_field("high", 4.0)),
    **{f"kelvin + {name}": _kelvin(_field("low", 1.0, name, 2000)) for name in kelvin.OBJECTS},
    **{f"real {name}": _real(partial(real.galaxy, name)) for name in real.CUTOUTS},
}


def chosen_families(text: str) -> list[str]:
    """Families of a list of names, beginnings of names, and groups, separated by commas."""
    found: list[str] = []
    for part in filter(None, text.split(",")):
        by_group = [name for name, family in FAMILIES.items() if family.group == part]
        by_start = [name for name in FAMILIES if name.startswith(part)]
        names = [part] if part in FAMILIES else by_group or by_start
        if not names:
            raise SystemExit(
                f"no family is called {part!r}, so nothing would be measured; --only takes {list(FAMILIES)}"
            )
        found += names
    return list(dict.fromkeys(found))
