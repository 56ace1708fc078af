"""Which HDU of a file is meant: by number, by name, or by what the image is for."""

from __future__ import annotations

from typing import Literal

from tiledsky.errors import InputError
from tiledsky.io.fitsscan import HduInfo

Role = Literal["science", "weight", "error", "dq", "coverage", "mask"]
ROLE_NAMES: dict[str, frozenset[str]] = {
    "science": frozenset({"SCI", "SCIENCE", "IMAGE", "IMAGES"}),
    "weight": frozenset({"WHT", "WEIGHT", "WEIGHTS"}),
    "error": frozenset({"ERR", "ERROR", "RMS", "SIGMA"}),
    "dq": frozenset({"DQ", "MASK", "FLAGS"}),
    "coverage": frozenset({"COV", "COVERAGE", "CTX", "CON", "EXP", "EXPOSURE", "NEXP"}),
    "mask": frozenset({"DQ", "MASK", "FLAGS"}),
}


def choose(hdus: list[HduInfo], wanted: int | str | None, role: Role, label: str) -> HduInfo:
    """Pick the HDU that is wanted, or the one that the role points to; never the first of several."""
    planes = [h for h in hdus if h.is_plane]
    if wanted is not None:
        return _named(hdus, wanted, label)
    if not planes:
        raise InputError(f"{label}: holds no 2-D image ({_listed(hdus)}); give a file with one")
    fitting = [h for h in planes if {h.name, h.ext} & ROLE_NAMES[role]] if len(planes) > 1 else planes
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"{label}: {len(fitting) or 'none'} of {len(planes)} images could be the {role} image by name "
        f"({_listed(planes)}); choose one with --hdu"
    )


def _named(hdus: list[HduInfo], wanted: int | str, label: str) -> HduInfo:
    text = str(wanted).strip().upper()
    if isinstance(wanted, int) or text.isdecimal():
        found = [h for h in hdus if h.index == int(text)]
    else:
        name, _, version = (part.strip() for part in text.partition(","))
        found = [h for h in hdus if name in (h.name, h.ext) or (name == "PRIMARY" and h.index == 0)]
        found = [h for h in found if not version or str(h.version) == version]
        # A table may share the image's name; it is not what was meant.
        found = [h for h in found if h.is_plane] or found
    if not found:
        raise InputError(f"{label}: has no HDU {wanted!r}; choose one of {_listed(hdus)} with --hdu")
    if len(found) > 1:
        raise InputError(f"{label}: HDU {wanted!r} is not unique; choose one of {_listed(found)} by number with --hdu")
    if not found[0].is_plane:
        planes = [h for h in hdus if h.is_plane]
        raise InputError(f"{label}: HDU {found[0]} is no 2-D image; choose with --hdu from: {_listed(planes)}")
    return found[0]


def _listed(hdus: list[HduInfo]) -> str:
    return "; ".join(map(str, hdus[:20])) + (f"; and {len(hdus) - 20} more" if len(hdus) > 20 else "")
