"""Which HDU of a file is meant: by number, by name, or by what the image is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tiledsky.errors import InputError
from tiledsky.io.fits.scan import HduInfo, compression_of, scan_file

Role = Literal["science", "weight", "error", "variance", "dq", "coverage", "mask", "footprints"]
ROLE_NAMES: dict[str, frozenset[str]] = {
    "science": frozenset({"SCI", "SCIENCE", "IMAGE", "IMAGES"}),
    "weight": frozenset({"WHT", "WEIGHT", "WEIGHTS"}),
    "error": frozenset({"ERR", "ERROR", "RMS", "SIGMA"}),
    "variance": frozenset({"VAR", "VARIANCE"}),
    "dq": frozenset({"DQ", "MASK", "FLAGS"}),
    "coverage": frozenset({"COV", "COVERAGE", "CTX", "CON", "EXP", "EXPOSURE", "NEXP"}),
    "mask": frozenset({"DQ", "MASK", "FLAGS"}),
    "footprints": frozenset({"CTX", "CON"}),
}


def choose(hdus: list[HduInfo], wanted: int | str | None, role: Role, label: str) -> HduInfo:
    """Pick the HDU that is wanted, or the one that the role points to; never the first of several."""
    planes = [h for h in hdus if _fits_role(h, role)]
    if wanted is not None:
        return _named(hdus, wanted, role, label)
    if not planes:
        raise InputError(f"{label}: has no 2-D image ({_listed(hdus)}); give a file with one")
    fitting = [h for h in planes if {h.name, h.ext} & ROLE_NAMES[role]] if len(planes) > 1 else planes
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"{label}: {len(fitting) or 'none'} of {len(planes)} images could be the {role} image by name "
        f"({_listed(planes)}); name one: {_named_in(label, fitting or planes, hdus)}"
    )


def _fits_role(info: HduInfo, role: Role) -> bool:
    """Whether an HDU can be such a plane: a 2-D image, or of exposures also several, one bit for each of them."""
    return info.is_plane or (role in ("coverage", "footprints") and info.is_bit_stack)


def planes_beside(path: Path, hdu: int, shape: tuple[int, int]) -> dict[str, str]:
    """Names of the images of a file beside an HDU that say which pixels are valid or how noisy, by their roles.

    Those of ``shape`` alone; none of a file that is compressed as a whole.
    """
    found: dict[str, str] = {}
    if compression_of(path) is not None:
        return found
    roles: tuple[Role, ...] = ("coverage", "weight", "error", "variance")
    for info in scan_file(path):
        for role in roles:
            named = {info.name, info.ext} & ROLE_NAMES[role]
            if named and info.index != hdu and _fits_role(info, role) and info.shape[-2:] == shape:
                found.setdefault(role, named.pop())
    return found


def _named(hdus: list[HduInfo], wanted: int | str, role: Role, label: str) -> HduInfo:
    text = str(wanted).strip().upper()
    if isinstance(wanted, int) or text.isdecimal():
        found = [h for h in hdus if h.index == int(text)]
    else:
        name, _, version = (part.strip() for part in text.partition(","))
        found = [h for h in hdus if name in (h.name, h.ext) or (name == "PRIMARY" and h.index == 0)]
        found = [h for h in found if not version or str(h.version) == version]
        # A table may share the image's name; it is not what was meant.
        found = [h for h in found if _fits_role(h, role)] or found
    if not found:
        raise InputError(f"{label}: has no HDU {wanted!r}; there are {_listed(hdus)}; {_choice(label, hdus)}")
    if len(found) > 1:
        raise InputError(
            f"{label}: HDU {wanted!r} is not unique, it may be {_listed(found)}; write {_named_in(label, found, hdus)}"
        )
    if not _fits_role(found[0], role):
        planes = [h for h in hdus if h.is_plane]
        raise InputError(
            f"{label}: HDU {found[0]} is not a 2-D image; there are {_listed(planes) or 'none'}; {_choice(label, hdus)}"
        )
    return found[0]


def _choice(label: str, hdus: list[HduInfo]) -> str:
    planes = [h for h in hdus if h.is_plane]
    return f"write {_named_in(label, planes, hdus)}" if planes else "give a file with an image"


def _named_in(label: str, chosen: list[HduInfo], hdus: list[HduInfo]) -> str:
    """How to name some HDUs, for the image and for any plane beside it alike: by name if that is theirs alone."""
    planes = [h for h in hdus if h.is_plane]
    words = []
    for h in chosen[:3]:
        name = h.name or h.ext
        same = [other for other in planes if name in (other.name, other.ext)]
        versions = [other for other in same if other.version == h.version]
        plain = re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) and len(versions) == 1
        words.append(f"{label}:{name if len(same) == 1 else f'{name},{h.version}'}" if plain else f"{label}:{h.index}")
    return " or ".join(words)


def _listed(hdus: list[HduInfo]) -> str:
    return "; ".join(map(str, hdus[:20])) + (f"; and {len(hdus) - 20} more" if len(hdus) > 20 else "")
